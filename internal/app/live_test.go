package app_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// The empty page shows an example call that works: it has the listening port and the path of a
// route that any GET matches.
func TestExampleOfACall(t *testing.T) {
	for name, tc := range map[string]struct{ listen, match, want string }{
		"every path":            {":8080", "/", "http://localhost:8080/"},
		"one path":              {"127.0.0.1:9000", "GET /process", "http://localhost:9000/process"},
		"an address of its own": {"192.0.2.1:80", "/process", "http://192.0.2.1:80/process"},
		"IPv6":                  {"[::]:8080", "/process", "http://localhost:8080/process"},
		"no GET":                {":8080", "POST /orders", ""},
		"a part to fill in":     {":8080", "/orders/{id}", ""},
		"of one host":           {":8080", "example.com/", ""},
		"any free port":         {":0", "/", ""},
		"nowhere":               {"", "/", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := gateway.ForUpstream("http://127.0.0.1:1")
			cfg.Routes[0].Match = tc.match
			p := cli.Program{Name: "client", LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
			client, err := app.NewClient(t.Context(), p, cfg, serve.NewReadiness(), slog.New(slog.DiscardHandler), app.LivePage{Listen: tc.listen})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Flush(t.Context()) }()
			var state struct{ Settings struct{ Example string } }
			recorder := httptest.NewRecorder()
			client.Admin.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/state", nil))
			if err := json.Unmarshal(recorder.Body.Bytes(), &state); err != nil || state.Settings.Example != tc.want {
				t.Errorf("got example %q (error %v), want %q", state.Settings.Example, err, tc.want)
			}
		})
	}
}

// After a thousand calls, the live page's API, /metrics and flaky-server's ledger have the same
// counts for each reason.
func TestLivePageAgrees(t *testing.T) {
	p := cli.Program{Name: "client", LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
	logger := slog.New(slog.DiscardHandler)
	injector, err := faults.New(faults.Spec{ErrorRate: 0.3}, 1)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := flakyapp.New(t.Context(), p, injector, "test", serve.NewReadiness(), logger)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = upstream.Flush(t.Context()) }()
	server := httptest.NewServer(upstream.Data)
	defer server.Close()
	cfg := gateway.ForUpstream(server.URL)
	policy := cfg.Policies[gateway.DefaultPolicyName]
	policy.Timeout, policy.AttemptTimeout = time.Minute, time.Minute // on a busy machine a call is long
	policy.Retry.Backoff.Base, policy.Retry.Backoff.Max = time.Millisecond, 2*time.Millisecond
	cfg.Policies[gateway.DefaultPolicyName] = policy
	client, err := app.NewClient(t.Context(), p, cfg, serve.NewReadiness(), logger, app.LivePage{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Flush(t.Context()) }()

	const calls, clients = 1000, 8
	var callers sync.WaitGroup
	for range clients {
		callers.Go(func() {
			for range calls / clients {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/process", nil)
				client.Data.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
	callers.Wait()

	admin := func(h http.Handler, path string) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Body.String()
	}
	type totals struct {
		Offered, Good, Attempts, AttemptsGood int
		Reasons                               map[string]int
	}
	var state struct {
		Calls  int
		Series []struct{ Totals totals }
	}
	for state.Calls < calls { // the page gathers calls five times a second
		if err := json.Unmarshal([]byte(admin(client.Admin, "/api/state")), &state); err != nil {
			t.Fatal(err)
		}
	}
	metrics := admin(client.Admin, "/metrics")
	sum := func(metric, labels string) (n int) {
		for _, m := range regexp.MustCompile(`(?m)^`+metric+`{([^}]*)} (\d+)`).FindAllStringSubmatch(metrics, -1) {
			if strings.Contains(m[1], labels) {
				one, _ := strconv.Atoi(m[2])
				n += one
			}
		}
		return n
	}
	var ledger flaky.Ledger
	if err := json.Unmarshal([]byte(admin(upstream.Admin, "/ledger")), &ledger); err != nil {
		t.Fatal(err)
	}
	got := state.Series[0].Totals
	for what, c := range map[string][2]int{
		"calls":                            {got.Offered, sum("rebound_calls_total", "")},
		"calls, as made":                   {got.Offered, calls},
		"good calls":                       {got.Good, sum("rebound_calls_total", `reason="ok"`)},
		"attempts":                         {got.Attempts, sum("rebound_attempts_total", "")},
		"attempts, as flaky-server counts": {got.Attempts, int(ledger.Received)},
		"good attempts":                    {got.AttemptsGood, sum("rebound_attempts_total", `reason="ok"`)},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %d on the page, want %d", what, c[0], c[1])
		}
	}
	all := 0
	for reason, n := range got.Reasons {
		all += n
		if want := sum("rebound_calls_total", `reason="`+reason+`"`); n != want {
			t.Errorf("calls with reason %s: got %d on the page, want %d as on /metrics", reason, n, want)
		}
	}
	if all != calls || got.AttemptsGood == got.Attempts {
		t.Errorf("got %d calls over all reasons, want %d with some failed attempts: %v", all, calls, got)
	}
}

// Generated calls take the chosen path, and their results are counted per path.
func TestTraffic(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	count := func(name string, status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen[name]++
			w.WriteHeader(status)
		})
	}
	with, without := httptest.NewServer(count("with", 200)), httptest.NewServer(count("without", 503))
	defer with.Close()
	defer without.Close()
	traffic, err := page.NewGenerator(200, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	running.Go(func() { traffic.Run(ctx, with.URL, without.URL) })
	wait.Until(t, 20*time.Second, "10 answers each way", func() bool {
		s := traffic.State()
		if s.With.Good != s.With.Ended || s.Without.Good != 0 {
			t.Fatalf("got %+v, want only good calls with the client and none without", s)
		}
		return s.With.Ended >= 10 && s.Without.Ended >= 10
	})
	for _, path := range []page.Path{page.PathWith, page.PathWithout} {
		if err := traffic.Set(page.TrafficSettings{PerSecond: 200, Path: path}); err != nil {
			t.Fatal(err)
		}
		other := map[page.Path]string{page.PathWith: "without", page.PathWithout: "with"}[path]
		look := func() (chosen, rest int) {
			mu.Lock()
			defer mu.Unlock()
			return seen[string(path)], seen[other]
		}
		// At first, calls in flight may still arrive on the other path.
		wait.Until(t, 20*time.Second, "calls on path "+string(path)+" only", func() bool {
			before, rest := look()
			for chosen := before; chosen < before+5; chosen, _ = look() {
				time.Sleep(time.Millisecond)
			}
			_, now := look()
			return now == rest
		})
	}
	for name, s := range map[string]page.TrafficSettings{
		"too fast":     {PerSecond: 201, Path: page.PathBoth},
		"negative":     {PerSecond: -1, Path: page.PathBoth},
		"another path": {PerSecond: 1, Path: "around"},
		"no path":      {PerSecond: 1},
	} {
		if err := traffic.Set(s); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	if s := traffic.State(); s.PerSecond != 200 || s.Path != page.PathWithout {
		t.Errorf("got settings %+v after rejected ones, want 200 a second without the client", s)
	}
}
