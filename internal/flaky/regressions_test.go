package flaky_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Two experiments with DELETE /ledger between them. An order of the first is still queued at that
// time. It must not appear in the ledger of the second, nor give its answer to an order with the
// same key.
func TestDeletedLedgerIsNotWrittenToByWorkFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, busyFor(time.Second, 9))
		var wg sync.WaitGroup
		wg.Go(func() {
			a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"old"}`, "Idempotency-Key: k", "X-Request-Id: r-1")
			if got, want := decode[ordered](t, a), (ordered{"old", "r-1", "k", false}); got != want {
				t.Errorf("the order from before got %+v, want %+v", got, want)
			}
		})
		synctest.Wait()
		w.must(t, http.MethodDelete, w.admin+"/ledger", "")
		a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"new"}`, "Idempotency-Key: k", "X-Request-Id: r-2")
		if got, want := decode[ordered](t, a), (ordered{"new", "r-2", "k", false}); got != want {
			t.Errorf("the new order got %+v, want %+v", got, want)
		}
		wg.Wait()
		want := []flaky.Effect{{Order: "new", RequestID: "r-2", IdempotencyKey: "k", Applied: 1, Attempts: 1}}
		if got := w.ledger(t).Effects; !equal(got, want) {
			t.Errorf("effects %+v, want %+v", got, want)
		}
	})
}

// The same with a caller that gave up. Its work is done after the DELETE, and must not be recorded.
func TestDeletedLedgerStaysEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, busyFor(time.Second, 9))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := w.do(ctx, http.MethodPost, w.data+"/orders", `{"order":"old"}`); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want no answer", err)
		}
		w.must(t, http.MethodDelete, w.admin+"/ledger", "")
		time.Sleep(2 * time.Second)
		if got := w.ledger(t); len(got.Effects) != 0 || got.Work != (faults.Stats{Served: 1, Wasted: 1}) {
			t.Errorf("ledger %+v, want no effects of the work that was done", got)
		}
	})
}

// stuck is a caller that does not read the response.
type stuck struct {
	*httptest.ResponseRecorder

	writing chan<- struct{}
	release <-chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	select {
	case s.writing <- struct{}{}:
		<-s.release
	case <-s.release:
	}
	return s.ResponseRecorder.Write(b)
}

// A caller that changes the faults and does not read the response must not block other changes.
func TestCallerWhoDoesNotReadBlocksNobody(t *testing.T) {
	for _, method := range []string{http.MethodPut, http.MethodPatch} {
		t.Run(method, func(t *testing.T) {
			admin := newServer(t, faults.Spec{}).Admin()
			writing, release := make(chan struct{}), make(chan struct{})
			first := stuck{httptest.NewRecorder(), writing, release}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(release)
			wg.Go(func() {
				admin.ServeHTTP(first, httptest.NewRequest(method, "/faults", strings.NewReader("errorRate: 1")))
			})
			<-writing

			second, done := httptest.NewRecorder(), make(chan struct{})
			wg.Go(func() {
				defer close(done)
				admin.ServeHTTP(second, httptest.NewRequest(method, "/faults", strings.NewReader("errorRate: 0.5")))
			})
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("the second change waits for the first caller to read")
			}
			if second.Code != http.StatusOK || !strings.HasPrefix(second.Body.String(), "errorRate: 0.5\n") {
				t.Errorf("got %d %s, want 200", second.Code, second.Body)
			}
		})
	}
}

// A caller that left the queue gets no answer, however short the latency is, because its work is
// still to be done. This was a race between the clock and the caller's departure. Many callers make
// it likely to show.
func TestWhoLeftTheQueueIsNotAnswered(t *testing.T) {
	spec := busyFor(time.Hour, 10_000)
	spec.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: 1}
	data := newServer(t, spec).Data()
	left, leave := context.WithCancel(t.Context())
	leave()
	answered := 0
	for range 5_000 {
		answer := httptest.NewRecorder()
		func() {
			defer func() {
				got := recover()
				if err, ok := got.(error); got != nil && !(ok && errors.Is(err, http.ErrAbortHandler)) {
					panic(got)
				}
			}()
			data.ServeHTTP(answer, httptest.NewRequestWithContext(left, http.MethodPost, "/orders", strings.NewReader(`{"order":"o"}`)))
		}()
		if answer.Body.Len() > 0 {
			answered++
		}
	}
	if answered > 0 {
		t.Errorf("%d orders were answered before they were served, want none", answered)
	}
}

// One worker has an hour of queued work. A second worker, added by a change or by a window of the
// schedule, must take a queued job at once, although no job arrives or ends at that moment.
func TestNewWorkersHelpThoseWhoWait(t *testing.T) {
	const long = `capacity: {workers: 1, serviceTime: 1h, queue: 9}`
	tests := map[string]struct {
		before         string
		method, change string // after 5s
		want           time.Duration
	}{
		"no change":        {before: long, want: 2 * time.Hour},
		"PUT of no limit":  {before: long, method: "PUT", change: "{}", want: time.Hour + 5*time.Second},
		"PATCH of workers": {before: long, method: "PATCH", change: "capacity: {workers: 2}", want: time.Hour + 5*time.Second},
		"window that ends": {
			before: `schedule: [{at: 0s, for: 1m, ` + long + `}]`, want: time.Hour + time.Minute,
		},
		"window that begins": {
			before: long + "\n" + `schedule: [{at: 10m, for: 1m}, {at: 20m, for: 1m, capacity: {workers: 0}}]`,
			want:   time.Hour + 20*time.Minute,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startPiped(t, faults.Spec{})
				if a := w.must(t, http.MethodPut, w.admin+"/faults", tt.before); a.status != http.StatusOK {
					t.Fatal(a.body)
				}
				begun := time.Now()
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() { w.must(t, http.MethodGet, w.data+"/process", "") })
				}
				time.Sleep(5 * time.Second)
				if tt.method != "" {
					w.must(t, tt.method, w.admin+"/faults", tt.change)
				}
				wg.Wait()
				if took := time.Since(begun); took != tt.want {
					t.Errorf("both were served after %v, want %v", took, tt.want)
				}
			})
		})
	}
}

// The windows of the schedule that the server starts with count too.
func TestScheduleOfTheStartHelpsThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := busyFor(time.Hour, 9)
		spec.Schedule = []faults.Window{{At: time.Minute, For: time.Minute, Capacity: &faults.CapacityChange{Workers: new(0)}}}
		w := startPiped(t, spec)
		begun := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { w.must(t, http.MethodGet, w.data+"/process", "") })
		}
		wg.Wait()
		if took := time.Since(begun); took != time.Hour+time.Minute {
			t.Errorf("both were served after %v, want 1h1m", took)
		}
	})
}

// Calls whose time is up make room in a full queue, and get their answer at once.
func TestPassedDeadlinesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := busyFor(10*time.Second, 1)
		spec.HonourDeadline = true
		w := startPiped(t, spec)
		begun := time.Now()
		order := func(name string, status int, after time.Duration, headers ...string) {
			a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"`+name+`"}`, headers...)
			if took := time.Since(begun); a.status != status || took != after {
				t.Errorf("%s: %d after %v, want %d after %v", name, a.status, took, status, after)
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { order("at work", 201, 10*time.Second) })
		synctest.Wait()
		wg.Go(func() { order("too late", 504, time.Second, "X-Envoy-Expected-Rq-Timeout-Ms: 100") })
		synctest.Wait()
		time.Sleep(time.Second)
		wg.Go(func() { order("patient", 201, 20*time.Second) })
		wg.Wait()
		if got, want := w.ledger(t).Work, (faults.Stats{Served: 2, Dropped: 1}); got != want {
			t.Errorf("work %+v, want %+v", got, want)
		}
	})
}

// An outage is scheduled for 30s from now. A PATCH of another field at 25s must not delay it.
func TestPatchRestartsOnlyWhatItNames(t *testing.T) {
	tests := map[string]struct {
		method, change string
		outage         bool // 35s after the first PUT
		arrival        int  // of the first call after the change; one call came before
		third          int  // the status of the third attempt of an id
	}{
		"PATCH of the latency":      {"PATCH", "latency: {distribution: fixed, value: 1ms}", true, 4, 200},
		"PATCH of nothing":          {"PATCH", "{}", true, 4, 200},
		"PATCH of the schedule":     {"PATCH", `{"schedule": [{"at": "30s", "for": "20s", "retryAfter": "later"}]}`, false, 4, 200},
		"PATCH that merges":         {"PATCH", "<<: {schedule: [{at: 30s, for: 20s, retryAfter: later}]}", false, 4, 200},
		"PATCH of failFirst":        {"PATCH", "failFirst: 2", true, 4, 503},
		"PUT of the whole document": {"PUT", "failFirst: 2\nschedule: [{at: 30s, for: 20s, retryAfter: later}]", false, 1, 503},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var last faults.Fate
				w := startPiped(t, faults.Spec{}, func(o *flaky.Options) {
					o.Observe = func(_ context.Context, f faults.Fate) {
						mu.Lock()
						defer mu.Unlock()
						last = f
					}
				})
				get := func(id string) answer { return w.must(t, http.MethodGet, w.data+"/process", "", "X-Request-Id: "+id) }
				w.must(t, http.MethodPut, w.admin+"/faults", "failFirst: 2\nschedule: [{at: 30s, for: 20s, retryAfter: later}]")
				for attempt, want := range []int{503, 503, 200} {
					if a := get("a"); a.status != want {
						t.Errorf("attempt %d: %d, want %d", attempt+1, a.status, want)
					}
				}
				time.Sleep(25 * time.Second)
				if a := w.must(t, tt.method, w.admin+"/faults", tt.change); a.status != http.StatusOK {
					t.Fatal(a.body)
				}
				if a := get("a"); a.status != tt.third {
					t.Errorf("after the change: %d, want %d", a.status, tt.third)
				}
				mu.Lock()
				if last.Arrival != uint64(tt.arrival) {
					t.Errorf("after the change: arrival %d, want %d", last.Arrival, tt.arrival)
				}
				mu.Unlock()
				time.Sleep(10 * time.Second)
				if got := get("new").header.Get("Retry-After") == "later"; got != tt.outage {
					t.Errorf("35s after the first PUT: in the window %v, want %v", got, tt.outage)
				}
			})
		})
	}
}

// An order that never took effect must be in the ledger, because it shows a lost order.
func TestLostOrderIsInTheLedger(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 1, Effect: faults.EffectAfter})
	for n := range 2 {
		w.must(t, http.MethodPost, w.data+"/orders", `{"order":"lost"}`, "Idempotency-Key: k", fmt.Sprint("X-Request-Id: r-", n+1))
	}
	w.must(t, http.MethodPut, w.admin+"/faults", "{}")
	w.must(t, http.MethodPost, w.data+"/orders", `{"order":"done"}`, "X-Request-Id: r-3")
	want := []flaky.Effect{
		{Order: "lost", RequestID: "r-1", IdempotencyKey: "k", Applied: 0, Attempts: 2},
		{Order: "done", RequestID: "r-3", Applied: 1, Attempts: 1},
	}
	if got := w.ledger(t).Effects; !equal(got, want) {
		t.Errorf("effects %+v, want %+v", got, want)
	}
	// Once it takes effect, the ledger names the attempt, and the order keeps its place.
	w.must(t, http.MethodPost, w.data+"/orders", `{"order":"lost"}`, "Idempotency-Key: k", "X-Request-Id: r-4")
	want[0] = flaky.Effect{Order: "lost", RequestID: "r-4", IdempotencyKey: "k", Applied: 1, Attempts: 3}
	if got := w.ledger(t).Effects; !equal(got, want) {
		t.Errorf("effects %+v, want %+v", got, want)
	}
}

func TestAcceptIsReadAsMediaTypes(t *testing.T) {
	const json, yaml = "application/json", "application/yaml"
	tests := map[string]struct{ accept, want string }{
		"in capitals":           {"Application/JSON", json},
		"with parameters":       {"application/json; charset=utf-8; q=0.5", json},
		"among others":          {"text/html, application/yaml;q=0.9,application/json;q=0.1", json},
		"refused":               {"application/yaml, application/json;q=0", yaml},
		"refused with zeros":    {"application/json; q=0.000", yaml},
		"with a broken weight":  {"application/json;q=much", yaml},
		"problems are no JSON":  {"application/yaml, application/problem+json", yaml},
		"JSON in another's end": {"text/notjson", yaml},
		"a browser":             {"text/html,*/*;q=0.8", yaml},
		"broken before it":      {";;, application/json", json},
	}
	w := start(t, faults.Spec{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := w.must(t, http.MethodGet, w.admin+"/faults", "", "Accept: "+tt.accept)
			if got := a.header.Get("Content-Type"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// Windows editors save JSON with a byte order mark. It is JSON anyway.
func TestFaultsWithAByteOrderMark(t *testing.T) {
	w := start(t, faults.Spec{})
	a := w.must(t, http.MethodPut, w.admin+"/faults", "\ufeff"+`{"retryAfter": "a\/b"}`, "Content-Type: application/json")
	if a.status != http.StatusOK || !strings.Contains(a.body, `"retryAfter":"a/b"`) {
		t.Errorf("got %d %s, want 200", a.status, a.body)
	}
}

// A time in the past is used to test clients, and must be sent as written.
func TestNegativeRetryAfterIsSentAsItIs(t *testing.T) {
	for text, want := range map[string]string{"-500ms": "-500ms", "-5s": "-5s", "-5": "-5", "0s": "0"} {
		w := start(t, faults.Spec{ErrorRate: 1, RetryAfter: text})
		if got := w.must(t, http.MethodGet, w.data+"/process", "").header.Get("Retry-After"); got != want {
			t.Errorf("%s is sent as %q, want %q", text, got, want)
		}
	}
}
