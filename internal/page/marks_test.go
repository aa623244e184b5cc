package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
)

// A page that is opened in the middle of an outage used to know nothing of the faults before. Its
// first event has when which faults were in force, and whether they began then.
func TestMarksOfFaults(t *testing.T) {
	url, document := admin(t)
	w := newWorld(t, page.Options{Faults: url, Traffic: &traffic{}})
	do := func(method, path, body string) { send(t, w.page, method, path, body, nil) }
	marks := func() (all []string) {
		e := w.open(t, "").mustNext(t)
		last := 0.0
		for _, m := range e.FaultMarks {
			text := string(m.Faults)
			if m.Sick > 0 {
				text += " sick"
			}
			if m.Seen {
				text += " seen"
			}
			if m.At < last || m.At > e.Now {
				t.Errorf("a mark is at %v ms, want the marks in order and before %v", m.At, e.Now)
			}
			last = m.At
			all = append(all, text)
		}
		return all
	}
	var want []string
	for _, step := range []struct {
		name string
		do   func()
		want string // a further mark
	}{
		{"nobody has asked", func() {}, ""},
		{"found", func() { do(http.MethodGet, "/api/faults", "") }, `{"errorRate":0.3}`},
		{"asked again", func() { do(http.MethodGet, "/api/faults", "") }, ""},
		{"set", func() { do(http.MethodPut, "/api/faults", `{"errorRate":1}`) }, `{"errorRate":1} seen`},
		{"refused", func() { do(http.MethodPut, "/api/faults", `bad`) }, ""},
		{"a sick endpoint", func() { do(http.MethodPut, "/api/traffic", `{"sick":1}`) }, `{"errorRate":1} sick seen`},
		{"another rate", func() { do(http.MethodPut, "/api/traffic", `{"perSecond":5}`) }, ""},
		{"set elsewhere", func() { *document = `{"errorRate":0}`; do(http.MethodGet, "/api/faults", "") }, `{"errorRate":0} sick seen`},
		{"too long to keep", func() { do(http.MethodPut, "/api/faults", `{"note":"`+strings.Repeat("x", 9<<10)+`"}`) }, `null sick`},
		{"not JSON", func() { do(http.MethodPut, "/api/faults", `{`) }, ""},
		{"reset", func() { do(http.MethodPost, "/api/faults/reset", "") }, `{"errorRate":0.3} sick seen`},
	} {
		step.do()
		if step.want != "" {
			want = append(want, step.want)
		}
		if got := marks(); !slices.Equal(got, want) {
			t.Errorf("%s: marks = %q, want %q", step.name, got, want)
		}
	}
	for i := range 100 {
		do(http.MethodPut, "/api/faults", `{"failFirst":`+strings.Repeat("1", i%3+1)+`}`)
	}
	if got := marks(); len(got) != 64 {
		t.Errorf("%d marks are kept, want 64", len(got))
	}
}

// What was in force before flaky-server was away is not known to have begun when it is back.
func TestMarksOfFaultsAcrossAGap(t *testing.T) {
	var away atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"errorRate":1}`))
	}))
	t.Cleanup(s.Close)
	w := newWorld(t, page.Options{Faults: s.URL})
	for _, gone := range []bool{false, true, false} {
		away.Store(gone)
		send(t, w.page, http.MethodGet, "/api/faults", "", nil)
	}
	var got []string
	for _, m := range w.open(t, "").mustNext(t).FaultMarks {
		got = append(got, string(m.Faults))
		if m.Seen {
			t.Errorf("a mark of %s is seen to begin, want none", m.Faults)
		}
	}
	if want := []string{`{"errorRate":1}`, "null", `{"errorRate":1}`}; !slices.Equal(got, want) {
		t.Errorf("marks = %q, want %q", got, want)
	}
}

// outageThen returns a page that knows of an outage. From then on, answer answers for the faults.
func outageThen(t *testing.T, answer http.HandlerFunc) *world {
	t.Helper()
	var known atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if known.Load() {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"errorRate":1}`))
	}))
	t.Cleanup(s.Close)
	w := newWorld(t, page.Options{Faults: s.URL})
	send(t, w.page, http.MethodGet, "/api/faults", "", nil)
	known.Store(true)
	return w
}

// A page that closed while it asked used to mark the faults as unknown for all pages after it.
func TestMarksSurviveAReload(t *testing.T) {
	asked := make(chan struct{})
	w := outageThen(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	ctx, reload := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	asking.Go(func() {
		w.page.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/faults", nil))
	})
	<-asked
	reload()
	asking.Wait()
	if got, want := markedFaults(t, w), []string{`{"errorRate":1}`}; !slices.Equal(got, want) {
		t.Errorf("marks = %q, want %q", got, want)
	}
}

// An answer without the faults used to leave no mark, although the page says that it does not know
// them. A refused change leaves what was known.
func TestMarksOfWrongAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		method, kind string
		status       int
		want         []string // further marks
	}{
		"an error":                  {http.MethodGet, "application/problem+json", 500, []string{"null"}},
		"an error of a change":      {http.MethodPut, "application/problem+json", 503, []string{"null"}},
		"not JSON":                  {http.MethodGet, "text/html", 200, []string{"null"}},
		"an address without faults": {http.MethodGet, "application/problem+json", 404, []string{"null"}},
		"a redirect":                {http.MethodGet, "application/json", 302, []string{"null"}},
		"a change that was refused": {http.MethodPut, "application/problem+json", 400, nil},

		"only its header": {http.MethodHead, "application/json", 200, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := outageThen(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.status)
			})
			w.page.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), tc.method, "/api/faults", nil))
			if got, want := markedFaults(t, w), append([]string{`{"errorRate":1}`}, tc.want...); !slices.Equal(got, want) {
				t.Errorf("marks = %q, want %q", got, want)
			}
		})
	}
}

// Faults that were set elsewhere while no page was open used to be marked as those of before.
func TestMarksWhileNobodyAsks(t *testing.T) {
	url, document := admin(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{Faults: url, Traffic: &traffic{}})
		marks := func(want ...string) {
			t.Helper()
			e := w.open(t, "").mustNext(t)
			var got []string
			for _, m := range e.FaultMarks {
				got = append(got, fmt.Sprintf("%s, %d sick, %v ago, %v", m.Faults, m.Sick, time.Duration((e.Now-m.At)*1e6).Round(time.Second), m.Seen))
			}
			if !slices.Equal(got, want) {
				t.Errorf("marks = %q, want %q", got, want)
			}
		}
		send(t, w.page, http.MethodPut, "/api/faults", `{"errorRate":0}`, nil)
		time.Sleep(5 * time.Second) // shorter than a page's pauses may be
		send(t, w.page, http.MethodGet, "/api/faults", "", nil)
		*document = `{"errorRate":1}`
		time.Sleep(time.Minute)
		send(t, w.page, http.MethodPut, "/api/traffic", `{"sick":1}`, nil)
		time.Sleep(3 * time.Minute)
		before := []string{`{"errorRate":0}, 0 sick, 4m5s ago, true`, "null, 0 sick, 4m0s ago, false", "null, 1 sick, 3m0s ago, false"}
		marks(before...) // a page that has just opened
		send(t, w.page, http.MethodGet, "/api/faults", "", nil)
		marks(append(before, `{"errorRate":1}, 1 sick, 0s ago, false`)...)
	})
}

// Of two changes at once, the sick endpoints of the first one could be marked last.
func TestMarksOfSickEndpointsInOrder(t *testing.T) {
	url, _ := admin(t)
	g := &overtaken{}
	w := newWorld(t, page.Options{Faults: url, Traffic: g})
	g.then = func() { send(t, w.page, http.MethodPut, "/api/traffic", `{"sick":2}`, nil) }
	send(t, w.page, http.MethodGet, "/api/faults", "", nil)
	send(t, w.page, http.MethodPut, "/api/traffic", `{"sick":1}`, nil)
	marks := w.open(t, "").mustNext(t).FaultMarks
	if last := marks[len(marks)-1]; last.Sick != 2 {
		t.Errorf("%d endpoints are sick by the last mark, want 2", last.Sick)
	}
}

// overtaken is a generator that is set again before the first Set returns.
type overtaken struct {
	traffic
	then func()
}

func (o *overtaken) Set(s page.TrafficSettings) error {
	err := o.traffic.Set(s)
	if then := o.then; then != nil {
		o.then = nil
		then()
	}
	return err
}

// markedFaults returns the faults of the marks that a page gets.
func markedFaults(t *testing.T, w *world) (all []string) {
	t.Helper()
	for _, m := range w.open(t, "").mustNext(t).FaultMarks {
		all = append(all, string(m.Faults))
	}
	return all
}
