package telemetry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/telemetry"
)

func scrape(t *testing.T, m *telemetry.Metrics, accept string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func metrics(t *testing.T, upstreams func() []telemetry.Upstream) *telemetry.Metrics {
	t.Helper()
	m, err := telemetry.NewMetrics(telemetry.Sources{Upstreams: upstreams, ReplayMemory: func() int64 { return 4096 }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// aCall failed once, waited and succeeded.
func aCall() telemetry.Call {
	return telemetry.Call{
		Route: "process", Policy: "default", Upstream: "http://up:5000", Method: http.MethodGet, Status: 200, Duration: 130 * time.Millisecond,
		Report: &resilience.Report{Reason: resilience.ReasonOK, Attempts: []resilience.AttemptReport{
			{Number: 1, Duration: 10 * time.Millisecond, Reason: "status_503", Verdict: resilience.VerdictRetry, Wait: resilience.Wait{Source: resilience.WaitJitter, Actual: 100 * time.Millisecond}},
			{Number: 2, Duration: 20 * time.Millisecond, Reason: resilience.ReasonOK, Verdict: resilience.VerdictReturn},
		}},
	}
}

func TestMetricsOfACall(t *testing.T) {
	state := resilience.Closed
	m := metrics(t, func() []telemetry.Upstream {
		return []telemetry.Upstream{{Name: "http://up:5000", Policy: "default", State: state, BudgetTokens: 9.5}}
	})
	m.Call(t.Context(), aCall())
	m.Transition(resilience.Transition{Upstream: "http://up:5000", From: resilience.Closed, To: resilience.Open})
	m.Fault(t.Context(), "error")
	state = resilience.Open
	text := scrape(t, m, "text/plain")
	for _, want := range []string{
		`rebound_calls_total{reason="ok",route="process"} 1`,
		`rebound_attempts_total{policy="default",reason="status_503",upstream="http://up:5000",verdict="retry"} 1`,
		`rebound_attempts_total{policy="default",reason="ok",upstream="http://up:5000",verdict="return"} 1`,
		`rebound_wait_duration_seconds_count{source="jitter",upstream="http://up:5000"} 1`,
		`rebound_wait_duration_seconds_sum{source="jitter",upstream="http://up:5000"} 0.1`,
		`http_server_request_duration_seconds_sum{http_request_method="GET",http_response_status_code="200",http_route="process"} 0.13`,
		`http_client_request_duration_seconds_count{http_request_method="GET",reason="status_503",upstream="http://up:5000"} 1`,
		`rebound_breaker_state{policy="default",state="open",upstream="http://up:5000"} 1`,
		`rebound_breaker_state{policy="default",state="closed",upstream="http://up:5000"} 0`,
		`rebound_breaker_transitions_total{from="closed",to="open",upstream="http://up:5000"} 1`,
		`rebound_budget_tokens{policy="default",upstream="http://up:5000"} 9.5`,
		`rebound_faults_total{fault="error"} 1`,
		`rebound_replay_memory_bytes 4096`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want+"\n") && !(strings.HasSuffix(want, " ") && strings.Contains(text, want)) {
			t.Errorf("%s is missing in:\n%s", want, ours(text))
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Errorf("Prometheus cannot read it: %v", err)
	}
}

// ours is what is not of the Go runtime or the process.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "rebound") || strings.HasPrefix(line, "http") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestExemplarsCarryTheTrace(t *testing.T) {
	m := metrics(t, nil)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}, TraceFlags: trace.FlagsSampled,
	}))
	m.Call(ctx, aCall())
	if text := scrape(t, m, "application/openmetrics-text"); !strings.Contains(text, `trace_id="ab000000000000000000000000000000"`) {
		t.Errorf("no exemplar in:\n%s", ours(text))
	}
}

// No caller can make new series.
func TestCallersDoNotMakeSeries(t *testing.T) {
	m := metrics(t, nil)
	count := func() int { return strings.Count(ours(scrape(t, m, "text/plain")), "\n") }
	c := aCall()
	c.Method = "INVENTED-0"
	m.Call(t.Context(), c)
	before := count()
	for i := range 10_000 {
		c.Method = fmt.Sprintf("INVENTED-%d", i)
		m.Call(t.Context(), c)
	}
	if after := count(); after != before {
		t.Errorf("%d series became %d", before, after)
	}
}

func BenchmarkMetricsCall(b *testing.B) {
	m, err := telemetry.NewMetrics(telemetry.Sources{})
	if err != nil {
		b.Fatal(err)
	}
	c := aCall()
	b.ReportAllocs()
	for b.Loop() {
		m.Call(b.Context(), c)
	}
}
