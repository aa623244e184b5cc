package app_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Callers cannot create metric series: ten thousand different paths, methods, queries and hosts
// leave as many series on /metrics as the first hundred.
func TestCallersDoNotMakeSeries(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "7") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer upstream.Close()
	cfg := gateway.DefaultConfig()
	policy := cfg.Policies[gateway.DefaultPolicyName]
	policy.Timeout, policy.AttemptTimeout = time.Minute, time.Minute // on a busy machine a call is long
	policy.Retry.Backoff = resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}
	policy.Retry.Budget.Burst = 1e6 // enough for retries from the first hundred calls to the last
	policy.Breaker.FailureRatio, policy.Breaker.ConsecutiveFailures = 0, 0
	cfg.Policies[gateway.DefaultPolicyName] = policy
	for name, match := range map[string]string{"tree": "/tree/{rest...}", "item": "/item/{id}", "read": "GET /read/{id}"} {
		cfg.Routes = append(cfg.Routes, gateway.Route{Name: name, Match: match, Upstream: upstream.URL, Policy: gateway.DefaultPolicyName})
	}
	p := cli.Program{Name: "client", LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
	client, err := app.NewClient(t.Context(), p, cfg, serve.NewReadiness(), slog.New(slog.DiscardHandler), app.LivePage{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Flush(t.Context()) }()

	call := func(i int) {
		paths := []string{"/tree/%d/%[1]d", "/item/%d", "/read/%d", "/nowhere/%d"}
		methods := []string{http.MethodGet, http.MethodPut, http.MethodPost, fmt.Sprintf("INVENTED-%d", i), fmt.Sprintf("get%d", i)}
		r := httptest.NewRequestWithContext(t.Context(), methods[i%len(methods)], fmt.Sprintf(paths[i%len(paths)], i)+fmt.Sprintf("?q=%d", i), nil)
		r.Host = fmt.Sprintf("host-%d.example", i)
		client.Data.ServeHTTP(httptest.NewRecorder(), r)
	}
	series := func() (all []string) {
		w := httptest.NewRecorder()
		client.Admin.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		for line := range strings.Lines(w.Body.String()) {
			if strings.HasPrefix(line, "rebound_") || strings.HasPrefix(line, "http_") {
				all = append(all, line)
			}
		}
		return all
	}
	for i := range 100 {
		call(i)
	}
	before := series()
	for i := 100; i < 10_000; i++ {
		call(i)
	}
	if after := series(); len(after) != len(before) || len(before) < 100 {
		t.Errorf("got %d series after %d, want no more and at least 100; the last of them\n%s", len(after), len(before), strings.Join(after[max(0, len(after)-20):], ""))
	}
	if all := strings.Join(before, ""); !strings.Contains(all, `http_route="/tree/{rest...}"`) || !strings.Contains(all, `reason="no_route"`) {
		t.Errorf("got series\n%s\nwant some with a route and some without", all)
	}
}
