package flaky_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestNewNeedsFaults(t *testing.T) {
	if s, err := flaky.New(flaky.Options{}); err == nil {
		t.Errorf("got %v without an injector, want an error", s)
	}
}

func TestProcess(t *testing.T) {
	w := start(t, faults.Spec{}, func(o *flaky.Options) { o.Instance = "pod-1" })
	get := func(headers ...string) string {
		t.Helper()
		a := w.must(t, http.MethodGet, w.data+"/process", "", headers...)
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %s, want 200 with JSON", a.status, a.header.Get("Content-Type"))
		}
		return a.body
	}
	for n, want := range []string{
		`{"status":"ok","requestId":"a","attempt":1,"instance":"pod-1"}`,
		`{"status":"ok","requestId":"a","attempt":2,"instance":"pod-1"}`,
	} {
		if got := get("X-Request-Id: a"); got != want+"\n" {
			t.Errorf("attempt %d: %s, want %s", n+1, got, want)
		}
	}
	want := `{"status":"ok","requestId":"b","attempt":1,"attemptHeader":"7","instance":"pod-1"}` + "\n"
	if got := get("X-Request-Id: b", "X-Attempt-Count: 7"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	first, second := w.must(t, http.MethodGet, w.data+"/process", ""), w.must(t, http.MethodGet, w.data+"/process", "")
	id := decode[struct{ RequestID string }](t, first).RequestID
	if id == "" || first.header.Get("X-Request-Id") != id || id == decode[struct{ RequestID string }](t, second).RequestID {
		t.Errorf("%s with header %q, then %s: want ids of their own", first.body, first.header.Get("X-Request-Id"), second.body)
	}
	if got := w.ledger(t); got.Received != 5 || got.Work.Served != 5 {
		t.Errorf("ledger %+v, want 5 received and served", got)
	}
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 257)
	tests := map[string]struct {
		method, path, body string
		headers            []string
		status             int
		detail             string
	}{
		"unknown path":       {"GET", "/nope", "", nil, 404, "GET /process and POST /orders"},
		"post to process":    {"POST", "/process", "", nil, 405, "expected GET, HEAD for /process, got POST"},
		"get of orders":      {"GET", "/orders", "", nil, 405, "expected POST for /orders, got GET"},
		"long request id":    {"GET", "/process", "", []string{"X-Request-Id: " + long}, 400, "X-Request-Id of at most 256 bytes"},
		"large body":         {"GET", "/process", strings.Repeat(" ", 64<<10+1), nil, 413, "at most 65536 bytes"},
		"large order":        {"POST", "/orders", strings.Repeat(" ", 64<<10+1), nil, 413, "at most 65536 bytes"},
		"empty order":        {"POST", "/orders", "", nil, 400, `expected a JSON object such as {"order": "o-1"`},
		"order that is null": {"POST", "/orders", "null", nil, 400, "expected a JSON object"},
		"order that is cut":  {"POST", "/orders", `{"order": "o-1"`, nil, 400, "unexpected end of JSON input"},
		"order of a number":  {"POST", "/orders", `{"order": 1}`, nil, 400, "cannot unmarshal number"},
		"long order":         {"POST", "/orders", `{"order": "` + long + `"}`, nil, 400, "at most 256 bytes, got 257"},
		"long key":           {"POST", "/orders", `{}`, []string{"Idempotency-Key: " + long}, 400, "Idempotency-Key of at most 256 bytes"},
	}
	// A bad request is the caller's fault, and its answer says so, whatever faults are in force.
	w := start(t, faults.Spec{HangRate: 1})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := w.must(t, tt.method, w.data+tt.path, tt.body, tt.headers...)
			if got := wantProblem(t, a, tt.status); !strings.Contains(got, tt.detail) {
				t.Errorf("detail %q, want it to say %q", got, tt.detail)
			}
			if tt.status == 405 && a.header.Get("Allow") == "" {
				t.Error("got 405 without an Allow header, want one")
			}
		})
	}
	if effects := w.ledger(t).Effects; len(effects) != 0 {
		t.Errorf("got effects %+v of bad requests, want none", effects)
	}
}

type ordered struct {
	Order, RequestID, IdempotencyKey string
	Replayed                         bool
}

func TestOrders(t *testing.T) {
	w := start(t, faults.Spec{})
	order := func(body string, headers ...string) ordered {
		t.Helper()
		a := w.must(t, http.MethodPost, w.data+"/orders", body, headers...)
		if a.status != http.StatusCreated {
			t.Fatalf("%d %s, want 201", a.status, a.body)
		}
		return decode[ordered](t, a)
	}

	// Without a key, every attempt takes effect.
	for _, id := range []string{"r-1", "r-2"} {
		if got, want := order(`{"order":"o-1","item":"tea"}`, "X-Request-Id: "+id), (ordered{"o-1", id, "", false}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	// With a key, only the first attempt takes effect, and its answer is repeated. Spaces do not
	// make another order.
	for n, body := range []string{`{"order":"o-2","item":"tea"}`, `{"order": "o-2", "item": "tea"}`} {
		got := order(body, "X-Request-Id: r-"+fmt.Sprint(n+3), "Idempotency-Key: k-1")
		if want := (ordered{"o-2", "r-3", "k-1", n > 0}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"o-2","item":"coffee"}`, "Idempotency-Key: k-1")
	wantProblem(t, a, http.StatusUnprocessableEntity)
	// Without an order name the server makes one, the same for the same key.
	made, again := order(`{}`, "Idempotency-Key: k-2"), order(`{}`, "Idempotency-Key: k-2")
	if made.Order == "" || again.Order != made.Order || !again.Replayed {
		t.Errorf("got %+v, then %+v, want the same order replayed", made, again)
	}
	if other := order(`{}`); other.Order == "" || other.Order == made.Order {
		t.Errorf("got %+v, want an order other than %+v", other, made)
	}

	got := w.ledger(t)
	want := []flaky.Effect{
		{Order: "o-1", RequestID: "r-1", Applied: 2, Attempts: 2},
		{Order: "o-2", RequestID: "r-3", IdempotencyKey: "k-1", Applied: 1, Attempts: 2},
		{Order: made.Order, RequestID: made.RequestID, IdempotencyKey: "k-2", Applied: 1, Attempts: 2},
	}
	if got.Received != 8 || got.Truncated || !equal(got.Effects[:3], want) {
		t.Errorf("ledger %+v, want effects %+v and 8 received", got, want)
	}

	if a := w.must(t, http.MethodDelete, w.admin+"/ledger", ""); a.status != http.StatusNoContent {
		t.Errorf("DELETE /ledger: got %d %s, want 204", a.status, a.body)
	}
	if a := w.must(t, http.MethodGet, w.admin+"/ledger", ""); !strings.HasPrefix(a.body, `{"effects":[],"received":0,"truncated":false,`) {
		t.Errorf("got ledger %s after DELETE, want an empty one", a.body)
	}
	if again := order(`{"order":"o-2","item":"coffee"}`, "Idempotency-Key: k-1"); again.Replayed {
		t.Errorf("got %+v after DELETE, want a new order", again)
	}
}

// equal compares the exported fields, as JSON shows them.
func equal(got, want []flaky.Effect) bool { return slices.Equal(got, want) }

// The reason for the ledger: the answer is lost, the caller retries, and the order is executed
// twice. A key prevents that, and so does a server that has no effect when its answer is lost.
func TestDoubleEffect(t *testing.T) {
	lost := map[string]faults.Spec{
		"error": {ErrorRate: 1}, "reset": {ResetRate: 1}, "truncate": {TruncateRate: 1},
	}
	for fault, spec := range lost {
		for _, tt := range []struct {
			effect  faults.Effect
			headers []string
			applied int // after two lost answers and one that arrives
		}{
			{faults.EffectBefore, nil, 3},
			{faults.EffectBefore, []string{"Idempotency-Key: k"}, 1},
			{faults.EffectAfter, nil, 1},
			{faults.EffectAfter, []string{"Idempotency-Key: k"}, 1},
		} {
			t.Run(fmt.Sprint(fault, " ", tt.effect, " ", tt.headers), func(t *testing.T) {
				spec.Effect = tt.effect
				w := start(t, spec)
				for range 2 {
					a, err := w.do(t.Context(), http.MethodPost, w.data+"/orders", `{"order":"o"}`, tt.headers...)
					if err == nil && a.status < 500 {
						t.Fatalf("got answer %+v, want it lost", a)
					}
				}
				if a := w.must(t, http.MethodPut, w.admin+"/faults", "{}"); a.status != http.StatusOK {
					t.Fatal(a.body)
				}
				a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"o"}`, tt.headers...)
				replayed := tt.effect == faults.EffectBefore && tt.headers != nil
				if got := decode[ordered](t, a); a.status != http.StatusCreated || got.Replayed != replayed {
					t.Errorf("%d %+v, want 201 with replayed %v", a.status, got, replayed)
				}
				got := w.ledger(t).Effects
				if len(got) != 1 || got[0].Applied != tt.applied || got[0].Attempts != 3 {
					t.Errorf("effects %+v, want %d of 3 attempts applied", got, tt.applied)
				}
			})
		}
	}
}

// A slow body is an answer, so the order must have taken effect.
func TestSlowBodyTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{SlowBodyRate: 1, Effect: faults.EffectAfter})
		if a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"o"}`); a.status != http.StatusCreated {
			t.Fatalf("%+v, want 201", a)
		}
		if got := w.ledger(t).Effects; len(got) != 1 || got[0].Applied != 1 {
			t.Errorf("effects %+v, want one", got)
		}
	})
}

func TestConcurrentDuplicatesApplyOnce(t *testing.T) {
	w := start(t, faults.Spec{})
	var mu sync.Mutex
	replayed := 0
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			a, err := w.do(t.Context(), http.MethodPost, w.data+"/orders", `{"order":"o"}`, "Idempotency-Key: k")
			if err != nil || a.status != http.StatusCreated {
				t.Errorf("got %+v, error %v, want status 201", a, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(a.body, `"replayed":true`) {
				replayed++
			}
		})
	}
	wg.Wait()
	if got := w.ledger(t).Effects; replayed != 29 || len(got) != 1 || got[0].Applied != 1 || got[0].Attempts != 30 {
		t.Errorf("%d replayed, effects %+v; want 29, and one applied of 30", replayed, got)
	}
}

func TestLedgerForgetsTheOldestAndSaysSo(t *testing.T) {
	w := start(t, faults.Spec{}, func(o *flaky.Options) { o.Remember = 2 })
	for n := range 3 {
		if w.ledger(t).Truncated {
			t.Errorf("the ledger is truncated after %d orders, want it complete up to 2", n)
		}
		w.must(t, http.MethodPost, w.data+"/orders", fmt.Sprintf(`{"order":"o-%d"}`, n))
	}
	got := w.ledger(t)
	var names []string
	for _, e := range got.Effects {
		names = append(names, e.Order)
	}
	if !got.Truncated || !slices.Equal(names, []string{"o-1", "o-2"}) {
		t.Errorf("ledger %+v, want o-1 and o-2 and truncated", got)
	}
}

func busyFor(d time.Duration, queue int) faults.Spec {
	return faults.Spec{Capacity: faults.Capacity{Workers: 1, ServiceTime: d, Queue: queue}}
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := busyFor(time.Second, 0)
		spec.RetryAfter = "2s"
		var mu sync.Mutex
		var fates []faults.Fault
		w := startPiped(t, spec, func(o *flaky.Options) {
			o.Observe = func(_ context.Context, f faults.Fate) {
				mu.Lock()
				defer mu.Unlock()
				fates = append(fates, f.Fault)
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			if a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"served"}`); a.status != http.StatusCreated {
				t.Errorf("the first got %+v, want 201", a)
			}
		})
		synctest.Wait()
		begun := time.Now()
		a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"refused"}`)
		wantProblem(t, a, http.StatusServiceUnavailable)
		if took := time.Since(begun); took != 0 || a.header.Get("Retry-After") != "2" {
			t.Errorf("refused after %v with Retry-After %q, want at once with 2", took, a.header.Get("Retry-After"))
		}
		wg.Wait()
		if !slices.Equal(fates, []faults.Fault{faults.FaultOverload, faults.FaultNone}) {
			t.Errorf("got faults %v, want overload and none", fates)
		}
		got := w.ledger(t)
		want := []flaky.Effect{
			{Order: "served", RequestID: got.Effects[0].RequestID, Applied: 1, Attempts: 1},
			{Order: "refused", RequestID: a.header.Get("X-Request-Id"), Attempts: 1},
		}
		if !equal(got.Effects, want) || got.Work != (faults.Stats{Served: 1, Refused: 1}) {
			t.Errorf("ledger %+v, want one served and applied, one refused", got)
		}
	})
}

// The work of a caller that gives up is done anyway, and a retry does it again.
func TestAbandonedOrderTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, busyFor(10*time.Second, 5))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a, err := w.do(ctx, http.MethodPost, w.data+"/orders", `{"order":"o"}`); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%+v, %v; want no answer", a, err)
		}
		begun := time.Now()
		if a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"o"}`); a.status != http.StatusCreated {
			t.Errorf("%+v, want 201", a)
		}
		if took := time.Since(begun); took != 19*time.Second {
			t.Errorf("the second attempt took %v, want the 9s left of the first and its own 10s", took)
		}
		got := w.ledger(t)
		if len(got.Effects) != 1 || got.Effects[0].Applied != 2 || got.Work != (faults.Stats{Served: 2, Wasted: 1}) {
			t.Errorf("ledger %+v, want the order applied twice, once for nobody", got)
		}
	})
}

func TestHonourDeadline(t *testing.T) {
	tests := map[string]struct {
		honour   bool
		header   string
		status   int
		expected faults.Stats
	}{
		"passed":         {true, "9999", 504, faults.Stats{Served: 1, Dropped: 1}},
		"not passed":     {true, "10001", 201, faults.Stats{Served: 2}},
		"not honoured":   {false, "1", 201, faults.Stats{Served: 2}},
		"zero":           {true, "0", 201, faults.Stats{Served: 2}},
		"unreadable":     {true, "soon", 201, faults.Stats{Served: 2}},
		"beyond all age": {true, "9223372036854775807", 201, faults.Stats{Served: 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spec := busyFor(10*time.Second, 5)
				spec.HonourDeadline = tt.honour
				w := startPiped(t, spec)
				var wg sync.WaitGroup
				wg.Go(func() { w.must(t, http.MethodGet, w.data+"/process", "") })
				synctest.Wait()
				a := w.must(t, http.MethodPost, w.data+"/orders", `{"order":"o"}`, "X-Envoy-Expected-Rq-Timeout-Ms: "+tt.header)
				wg.Wait()
				got := w.ledger(t)
				applied := map[int]int{201: 1}[tt.status]
				if a.status != tt.status || got.Work != tt.expected || len(got.Effects) != 1 || got.Effects[0].Applied != applied {
					t.Errorf("%d, ledger %+v; want %d and %+v", a.status, got, tt.status, tt.expected)
				}
			})
		})
	}
}

func TestFailFirst(t *testing.T) {
	w := start(t, faults.Spec{FailFirst: 2})
	for _, id := range []string{"a", "b"} {
		for attempt, want := range []int{503, 503, 200} {
			if a := w.must(t, http.MethodGet, w.data+"/process", "", "X-Request-Id: "+id); a.status != want {
				t.Errorf("%s, attempt %d: %d, want %d", id, attempt+1, a.status, want)
			}
		}
	}
}

func TestSameSeedSameAnswers(t *testing.T) {
	statuses := func() (got []int) {
		w := start(t, faults.Spec{ErrorRate: 0.5, Statuses: []int{500, 502, 503}})
		for range 50 {
			got = append(got, w.must(t, http.MethodGet, w.data+"/process", "").status)
		}
		return got
	}
	first, second := statuses(), statuses()
	if !slices.Equal(first, second) {
		t.Errorf("got statuses %v\nthen %v, want equal ones", first, second)
	}
	for _, want := range []int{200, 500, 502, 503} {
		if !slices.Contains(first, want) {
			t.Errorf("no %d among %v", want, first)
		}
	}
}

// A sick endpoint answers 503 at once, whatever the faults are. The ledger counts its requests, and
// the other endpoints work.
func TestSickEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		injector, err := faults.New(faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: time.Second}}, 1)
		if err != nil {
			t.Fatal(err)
		}
		s, err := flaky.New(flaky.Options{Faults: injector})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		sick := false
		changing, well := s.Endpoint(func() bool { return sick }), s.Endpoint(func() bool { return false })
		ask := func(endpoint http.Handler, method, path, body string) (int, time.Duration) {
			begin, w := time.Now(), httptest.NewRecorder()
			endpoint.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
			return w.Code, time.Since(begin)
		}
		for _, state := range []bool{false, true, false} {
			sick = state
			wanted, took := map[string]int{"/process": http.StatusOK, "/orders": http.StatusCreated}, time.Second
			if sick {
				wanted, took = map[string]int{"/process": http.StatusServiceUnavailable, "/orders": http.StatusServiceUnavailable}, 0
			}
			for path, want := range wanted {
				method := map[string]string{"/process": http.MethodGet, "/orders": http.MethodPost}[path]
				if got, after := ask(changing, method, path, `{"order": "o"}`); got != want || after != took {
					t.Errorf("sick %v: %s = %d after %v, want %d after %v", sick, path, got, after, want, took)
				}
			}
			if got, _ := ask(well, http.MethodGet, "/process", ""); got != http.StatusOK {
				t.Errorf("the other endpoint answers %d, want 200", got)
			}
		}
		w := httptest.NewRecorder()
		s.Admin().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/ledger", nil))
		if !strings.Contains(w.Body.String(), `"received":9`) {
			t.Errorf("ledger = %s, want 9 received", w.Body)
		}
	})
}
