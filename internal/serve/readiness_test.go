package serve_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/rebound-dev/rebound/internal/serve"
)

func TestReadiness(t *testing.T) {
	for name, tc := range map[string]struct {
		set    []serve.State
		status int
		body   string
	}{
		"new":                     {nil, 503, "not ready: starting\n"},
		"ready":                   {[]serve.State{serve.Ready}, 200, "ok\n"},
		"draining":                {[]serve.State{serve.Ready, serve.Draining}, 503, "not ready: draining\n"},
		"stopped_before_it_began": {[]serve.State{serve.Draining}, 503, "not ready: draining\n"},
		"ready_too_late":          {[]serve.State{serve.Draining, serve.Ready}, 503, "not ready: draining\n"},
		"never_back":              {[]serve.State{serve.Ready, serve.Starting}, 200, "ok\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve.NewReadiness()
			for _, s := range tc.set {
				r.Set(s)
			}
			got := httptest.NewRecorder()
			r.Readyz().ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			if got.Code != tc.status || got.Body.String() != tc.body {
				t.Errorf("readiness: got %d %q, want %d %q", got.Code, got.Body, tc.status, tc.body)
			}
			if c := got.Header().Get("Cache-Control"); c != "no-store" {
				t.Errorf("Cache-Control: got %q, want no-store", c)
			}
			got = httptest.NewRecorder()
			r.Livez().ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/livez", nil))
			if got.Code != 200 || got.Body.String() != "ok\n" {
				t.Errorf("liveness: got %d %q, want 200 ok", got.Code, got.Body)
			}
		})
	}
}

// A watcher hears of each state once, and of the current one at first.
func TestReadinessWatch(t *testing.T) {
	r := serve.NewReadiness()
	var got []serve.State
	r.Watch(func(s serve.State) { got = append(got, s) })
	for _, s := range []serve.State{serve.Ready, serve.Ready, serve.Draining, serve.Ready} {
		r.Set(s)
	}
	if want := []serve.State{serve.Starting, serve.Ready, serve.Draining}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
