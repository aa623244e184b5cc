package page_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

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
