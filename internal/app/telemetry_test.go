package app_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

func silentProgram(name string) cli.Program {
	return cli.Program{Name: name, LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
}

// ask sends a GET for host to a handler.
func ask(t *testing.T, h http.Handler, host, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// With two policies for one upstream, the log, the metrics and the live page all name the policy
// whose circuit opened.
func TestD3TransitionsNameThePolicy(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer up.Close()
	cfg := gateway.DefaultConfig()
	for name, failures := range map[string]int{"strict": 1, "patient": 50} {
		policy := cfg.Policies[gateway.DefaultPolicyName]
		policy.Retry.MaxAttempts = 1
		policy.Breaker.FailureRatio, policy.Breaker.ConsecutiveFailures = 0, failures
		policy.Breaker.OpenFor, policy.Breaker.MaxOpenFor = time.Hour, time.Hour // no further transition
		cfg.Policies[name] = policy
		cfg.Routes = append(cfg.Routes, gateway.Route{Name: name, Match: "/" + name, Upstream: up.URL, Policy: name})
	}
	var log output.Buffer
	client, err := app.NewClient(t.Context(), silentProgram("client"), cfg, serve.NewReadiness(), slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})), app.LivePage{})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/strict", "/patient"} {
		ask(t, client.Data, "localhost", path)
	}
	metrics := ask(t, client.Admin, "localhost", "/metrics").Body.String()
	if want := `rebound_breaker_transitions_total{from="closed",policy="strict",to="open",upstream="` + up.URL + `"} 1`; !strings.Contains(metrics, want) || strings.Count(metrics, "\nrebound_breaker_transitions_total{") != 1 {
		t.Errorf("got /metrics\n%s\nwant %s once", metrics, want)
	}
	if err := client.Flush(t.Context()); err != nil { // nothing writes to the log after this
		t.Error(err)
	}
	if want := `msg="circuit changed" upstream=` + up.URL + ` policy=strict from=closed to=open`; strings.Count(log.String(), "circuit changed") != 1 || !strings.Contains(log.String(), want) {
		t.Errorf("got log\n%s\nwant %s once", log.String(), want)
	}
}

// An upstream cannot create metric series with its statuses: only registered statuses and one per
// class are labels.
func TestC13StatusesDoNotMakeSeries(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
	}))
	defer up.Close()
	cfg := gateway.ForUpstream(up.URL)
	policy := cfg.Policies[gateway.DefaultPolicyName]
	policy.Timeout, policy.AttemptTimeout = time.Minute, time.Minute // on a busy machine a call is long
	policy.Retry.MaxAttempts, policy.Retry.Statuses = 1, nil
	policy.Breaker.FailureRatio, policy.Breaker.ConsecutiveFailures = 0, 0
	cfg.Policies[gateway.DefaultPolicyName] = policy
	client, err := app.NewClient(t.Context(), silentProgram("client"), cfg, serve.NewReadiness(), slog.New(slog.DiscardHandler), app.LivePage{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Flush(t.Context()) }()
	series := func() int {
		n := 0
		for line := range strings.Lines(ask(t, client.Admin, "localhost", "/metrics").Body.String()) {
			if strings.HasPrefix(line, "rebound_") || strings.HasPrefix(line, "http_") {
				n++
			}
		}
		return n
	}
	call := func(status int) {
		if w := ask(t, client.Data, "localhost", "/"+strconv.Itoa(status)); w.Code != status {
			t.Fatalf("got status %d, want %d", w.Code, status)
		}
	}
	for status := 200; status < 600; status++ {
		if http.StatusText(status) != "" && status != http.StatusSwitchingProtocols {
			call(status)
		}
	}
	for _, unknown := range []int{299, 399, 498, 599, 999} {
		call(unknown)
	}
	before := series()
	for status := 200; status < 1000; status++ {
		if status != 499 { // 499 is a status that the gateway registers
			call(status)
		}
	}
	if after := series(); after != before {
		t.Errorf("got %d series, want %d as before", after, before)
	}
	metrics := ask(t, client.Admin, "localhost", "/metrics").Body.String()
	for _, want := range []string{
		`error_type="5xx"`, `http_response_status_code="5xx"`, `http_response_status_code="2xx"`, `http_response_status_code="404"`,
		`error_type="_OTHER"`, `http_response_status_code="_OTHER"`, `reason="status_5xx"`, `reason="status_other"`, `reason="status_503"`, `reason="status_not_retryable"`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("got no %s on /metrics, want it", want)
		}
	}
	for _, not := range []string{`"599"`, "status_520", `"999"`} {
		if strings.Contains(metrics, not) {
			t.Errorf("got %s on /metrics, want none", not)
		}
	}
}

func TestD7ForeignHostOnFlakyServersAdminPort(t *testing.T) {
	injector, err := faults.New(faults.Spec{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	server, err := flakyapp.New(t.Context(), silentProgram("flaky-server"), injector, "x", serve.NewReadiness(), slog.New(slog.DiscardHandler), "mine.com")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Flush(t.Context()) }()
	for path, open := range map[string]bool{"/livez": true, "/readyz": true, "/metrics": true, "/faults": false, "/ledger": false, "/": false, "/nowhere": false} {
		for host, owned := range map[string]bool{"evil.com": false, "localhost:5001": true, "mine.com": true} {
			if w := ask(t, server.Admin, host, path); (w.Code == http.StatusForbidden) == (open || owned) {
				t.Errorf("%s for host %s: got %d %s, want 403 only for a foreign host and a guarded path", path, host, w.Code, w.Body)
			}
		}
	}
}

// The client's admin port, as the command assembles it.
func TestD7ForeignHostOnTheClientsAdminPort(t *testing.T) {
	client, err := app.NewClient(t.Context(), silentProgram("client"), gateway.ForUpstream("http://127.0.0.1:1"), serve.NewReadiness(), slog.New(slog.DiscardHandler), app.LivePage{Hosts: []string{"mine.com"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Flush(t.Context()) }()
	for path, open := range map[string]bool{"/livez": true, "/readyz": true, "/metrics": true, "/config": false, "/breakers": false, "/debug/pprof/": false, "/api/state": false, "/": false} {
		for host, owned := range map[string]bool{"evil.com": false, "localhost:8081": true, "mine.com": true} {
			if w := ask(t, client.Admin, host, path); (w.Code == http.StatusForbidden) == (open || owned) {
				t.Errorf("%s for host %s: got %d %s, want 403 only for a foreign host and a guarded path", path, host, w.Code, w.Body)
			}
		}
	}
}

func TestA13TimeoutsOfThePoliciesInUse(t *testing.T) {
	cfg := gateway.DefaultConfig()
	slow := cfg.Policies[gateway.DefaultPolicyName]
	slow.Timeout, slow.AttemptTimeout = 30e9, 10e9
	cfg.Policies["slow"], cfg.Policies["unused"] = slow, slow
	for _, policy := range []string{"slow", "default", "slow"} {
		cfg.Routes = append(cfg.Routes, gateway.Route{Policy: policy})
	}
	want := "timeouts  5s a call, 1.5s an attempt (policy default)\ntimeouts  30s a call, 10s an attempt (policy slow)\n"
	if got := app.Timeouts(cfg); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
