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

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func scrape(t *testing.T, m *telemetry.Metrics, accept string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("got status %d, body %s, want 200", w.Code, w.Body)
	}
	return w.Body.String()
}

func metrics(t *testing.T, upstreams func() []observe.Upstream) *telemetry.Metrics {
	t.Helper()
	m, err := telemetry.NewMetrics()
	if err == nil {
		err = m.Attach(telemetry.Sources{
			Upstreams: upstreams, ReplayMemory: func() int64 { return 4096 }, Active: func() int64 { return 7 }, DroppedLines: func() uint64 { return 3 },
			FilesRefused: func() map[string]bool { return map[string]bool{"": false, "http://up:5000": true} },
		})
	}
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

// aCall returns a call that failed once, waited and then succeeded.
func aCall() observe.Call {
	return observe.Call{
		Route: "process", Policy: "default", Pattern: "/process/{id}", Upstream: "http://up:5000", Scheme: "http", Method: http.MethodGet,
		Status: 200, Duration: 130 * time.Millisecond,
		Report: &resilience.Report{Reason: resilience.ReasonOK, Attempts: []resilience.AttemptReport{
			{Number: 1, Duration: 10 * time.Millisecond, Reason: "status_503", Status: 503, Verdict: resilience.VerdictRetry, Wait: resilience.Wait{Source: resilience.WaitJitter, Actual: 100 * time.Millisecond}},
			{Number: 2, Duration: 20 * time.Millisecond, Reason: resilience.ReasonOK, Status: 200, Verdict: resilience.VerdictReturn},
		}},
	}
}

func TestMetricsOfACall(t *testing.T) {
	state := resilience.Closed
	m := metrics(t, func() []observe.Upstream {
		return []observe.Upstream{{Upstream: "http://up:5000", Policy: "default", Breaker: resilience.BreakerSnapshot{State: state}, BudgetTokens: 9.5,
			Concurrency: resilience.ConcurrencySnapshot{InFlight: 18, Queued: 4, Limit: 20},
			Endpoints: []endpoint.State{
				{InFlight: 2}, {InFlight: 3}, {Ejected: true, Circuit: resilience.Open, InFlight: 1},
				{Circuit: resilience.Open}, {Circuit: resilience.Open}, {Circuit: resilience.HalfOpen},
			}}}
	})
	m.ObserveCall(t.Context(), aCall())
	m.ObserveEndpoint(observe.EndpointEvent{Upstream: "http://up:5000", Event: endpoint.Event{Kind: endpoint.EventEjected, Address: "10.0.0.1:80"}})
	m.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: "http://up:5000", From: resilience.Closed, To: resilience.Open}})
	m.Fault(t.Context(), "error")
	m.Reload(false)
	state = resilience.Open
	text := scrape(t, m, "text/plain")
	for _, want := range []string{
		`rebound_calls_total{reason="ok",route="process"} 1`,
		`rebound_attempts_total{policy="default",reason="status_503",upstream="http://up:5000",verdict="retry"} 1`,
		`rebound_attempts_total{policy="default",reason="ok",upstream="http://up:5000",verdict="return"} 1`,
		`rebound_wait_duration_seconds_count{source="jitter",upstream="http://up:5000"} 1`,
		`rebound_wait_duration_seconds_sum{source="jitter",upstream="http://up:5000"} 0.1`,
		`http_server_request_duration_seconds_sum{http_request_method="GET",http_response_status_code="200",http_route="/process/{id}",url_scheme="http"} 0.13`,
		`http_client_request_duration_seconds_count{error_type="503",http_request_method="GET",http_response_status_code="503",server_address="up",server_port="5000"} 1`,
		`http_client_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",server_address="up",server_port="5000"} 1`,
		`rebound_breaker_state{policy="default",state="open",upstream="http://up:5000"} 1`,
		`rebound_breaker_state{policy="default",state="closed",upstream="http://up:5000"} 0`,
		`rebound_breaker_transitions_total{from="closed",policy="default",to="open",upstream="http://up:5000"} 1`,
		`rebound_budget_tokens{policy="default",upstream="http://up:5000"} 9.5`,
		`rebound_attempts_active{policy="default",upstream="http://up:5000"} 18`,
		`rebound_attempts_waiting{policy="default",upstream="http://up:5000"} 4`,
		`rebound_concurrency_limit{policy="default",upstream="http://up:5000"} 20`,
		`rebound_faults_total{fault="error"} 1`,
		`rebound_upstream_endpoints{endpoint_state="in_use",upstream="http://up:5000"} 2`,
		`rebound_upstream_endpoints{endpoint_state="ejected",upstream="http://up:5000"} 1`,
		`rebound_upstream_endpoints{endpoint_state="failing",upstream="http://up:5000"} 3`,
		`rebound_upstream_active_requests{upstream="http://up:5000"} 6`,
		`rebound_endpoint_changes_total{change="ejected",upstream="http://up:5000"} 1`,
		`rebound_replay_memory_bytes 4096`,
		`rebound_calls_active 7`,
		`rebound_log_lines_dropped_total 3`,
		`rebound_config_refused 1`,
		`rebound_files_refused{upstream="http://up:5000"} 1`,
		`rebound_files_refused{upstream=""} 0`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want+"\n") && !(strings.HasSuffix(want, " ") && strings.Contains(text, want)) {
			t.Errorf("want %s, got\n%s", want, ours(text))
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Errorf("Prometheus' parser: got error %v, want none", err)
	}
}

// Each attempt of a gRPC call is one call of the semantic conventions. A method is named only once
// an upstream has answered it with OK, so that no caller can add series without end.
func TestRPCMetrics(t *testing.T) {
	m := metrics(t, nil)
	start := time.Now()
	rpc := func(path, status string, reason resilience.Reason, attempts ...resilience.Reason) {
		c := observe.Call{Upstream: "h2c://orders:50051", Method: http.MethodPost, Path: path, Status: 200, GRPCStatus: status, Start: start, Duration: 2 * time.Second, Report: &resilience.Report{Reason: reason}}
		for i, r := range attempts {
			a := resilience.AttemptReport{Number: i + 1, Start: start.Add(time.Second), Duration: 30 * time.Millisecond, Reason: r, Status: 200, Verdict: resilience.VerdictReturn}
			c.Report.Attempts = append(c.Report.Attempts, a)
		}
		m.ObserveCall(t.Context(), c)
	}
	rpc("/orders.Orders/Create", "OK", "ok", "ok") // until its messages ended: 1 s
	rpc("/orders.Orders/Create", "UNAVAILABLE", "max_attempts", "grpc_unavailable", "attempt_timeout", "status_503")
	rpc("/orders.Orders/Create", "INTERNAL", "grpc_internal", "ok")
	rpc("/orders.Orders/Create", "UNAVAILABLE", "breaker_open")
	for n := range 1000 {
		rpc(fmt.Sprintf("/made.up/M%d", n), "UNIMPLEMENTED", "status_not_retryable", "grpc_unimplemented")
		rpc(fmt.Sprintf("/orders.Orders/M%d", n), "OK", "ok", "ok")
	}
	rpc("/"+strings.Repeat("x", 300)+"/M", "OK", "ok", "ok")
	rpc("/no-method", "OK", "ok", "ok")
	text := scrape(t, m, "text/plain")
	const create, origin = `rpc_method="orders.Orders/Create",rpc_response_status_code=`, `rpc_system_name="grpc",server_address="orders",server_port="50051"} `
	for _, want := range []string{
		`_sum{rpc_method="orders.Orders/Create",rpc_response_status_code="OK",` + origin + "1",
		`_sum{error_type="UNAVAILABLE",` + create + `"UNAVAILABLE",` + origin + "0.03",
		`_count{error_type="status_503",` + create + `"UNAVAILABLE",` + origin + "1",
		`_count{error_type="attempt_timeout",` + create + `"DEADLINE_EXCEEDED",` + origin + "1",
		`_count{error_type="INTERNAL",` + create + `"INTERNAL",` + origin + "1",
		`_count{error_type="UNIMPLEMENTED",rpc_method="_OTHER",rpc_response_status_code="UNIMPLEMENTED",` + origin + "1000",
		`_count{rpc_method="_OTHER",rpc_response_status_code="OK",` + origin + "747", // 1000 and 2, less 255
	} {
		if !strings.Contains(text, "rpc_client_call_duration_seconds"+want+"\n") {
			t.Errorf("want %s, got other lines, such as\n%.2000s", want, text[strings.Index(text, "rpc_client"):])
		}
	}
	if n := strings.Count(text, "rpc_client_call_duration_seconds_count"); n != 262 {
		t.Errorf("got %d series, want 256 of methods that work and 6 others", n)
	}
}

// ours returns the lines of text that are not about the Go runtime or the process.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "rebound") || strings.HasPrefix(line, "http") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// The labels for the outcome of a call or an attempt follow OpenTelemetry's semantic conventions.
func TestLabelsOfTheOutcome(t *testing.T) {
	attempt := func(reason resilience.Reason, status int) []resilience.AttemptReport {
		return []resilience.AttemptReport{{Reason: reason, Status: status, Verdict: resilience.VerdictReturn}}
	}
	const get, origin, route = `http_request_method="GET"`, `server_address="up",server_port="80"`, `http_route="/process",url_scheme="http"`
	for name, c := range map[string]struct {
		call           observe.Call
		server, client string // the labels; "" if there must be no such series
	}{
		"well": {
			observe.Call{Status: 204, Report: &resilience.Report{Reason: resilience.ReasonOK, Attempts: attempt(resilience.ReasonOK, 204)}},
			get + `,http_response_status_code="204",` + route, get + `,http_response_status_code="204",` + origin,
		},
		"a mistake of the caller": {
			observe.Call{Status: 404, Report: &resilience.Report{Reason: resilience.ReasonStatusNotRetryable, Attempts: attempt("status_404", 404)}},
			get + `,http_response_status_code="404",` + route, `error_type="404",` + get + `,http_response_status_code="404",` + origin,
		},
		"a failure of the upstream": {
			observe.Call{Status: 503, Report: &resilience.Report{Reason: resilience.ReasonMaxAttempts, Attempts: attempt("status_503", 503)}},
			`error_type="503",` + get + `,http_response_status_code="503",` + route, `error_type="503",` + get + `,http_response_status_code="503",` + origin,
		},
		"no answer": {
			observe.Call{Status: 504, Report: &resilience.Report{Reason: resilience.ReasonMaxAttempts, Attempts: attempt(resilience.ReasonAttemptTimeout, 0)}},
			`error_type="504",` + get + `,http_response_status_code="504",` + route, `error_type="attempt_timeout",` + get + `,` + origin,
		},
		"a caller who hung up": {
			observe.Call{Status: 499, Report: &resilience.Report{Reason: resilience.ReasonCallerCanceled, Attempts: attempt(resilience.ReasonCallerCanceled, 0)}},
			get + `,http_response_status_code="499",` + route, `error_type="caller_canceled",` + get + `,` + origin,
		},
		"a body that died": {
			observe.Call{Status: 200, Report: &resilience.Report{Reason: resilience.ReasonBodyFailed, Attempts: attempt(resilience.ReasonOK, 200)}},
			`error_type="body_failed",` + get + `,http_response_status_code="200",` + route, `error_type="body_failed",` + get + `,http_response_status_code="200",` + origin,
		},
		"a gRPC failure": {
			observe.Call{Status: 200, GRPCStatus: "UNAVAILABLE", Report: &resilience.Report{Reason: resilience.ReasonMaxAttempts, Attempts: attempt("grpc_unavailable", 200)}},
			`error_type="UNAVAILABLE",` + get + `,http_response_status_code="200",` + route, get + `,http_response_status_code="200",` + origin,
		},
		"a gRPC mistake of the caller": {
			observe.Call{Status: 200, GRPCStatus: "NOT_FOUND", Report: &resilience.Report{Reason: resilience.ReasonStatusNotRetryable, Attempts: attempt("grpc_not_found", 200)}},
			get + `,http_response_status_code="200",` + route, get + `,http_response_status_code="200",` + origin,
		},
		"a gRPC call over its caller's time": {
			observe.Call{Status: 200, GRPCStatus: "DEADLINE_EXCEEDED", CallersDoing: true, Report: &resilience.Report{Reason: resilience.ReasonDeadlineExceeded, Attempts: attempt(resilience.ReasonOK, 200)}},
			get + `,http_response_status_code="200",` + route, get + `,http_response_status_code="200",` + origin,
		},
		"a gRPC call over our time": {
			observe.Call{Status: 200, GRPCStatus: "DEADLINE_EXCEEDED", Report: &resilience.Report{Reason: resilience.ReasonDeadlineExceeded, Attempts: attempt(resilience.ReasonAttemptTimeout, 0)}},
			`error_type="DEADLINE_EXCEEDED",` + get + `,http_response_status_code="200",` + route, `error_type="attempt_timeout",` + get + `,` + origin,
		},
		"a gRPC call that gets a plain 404": {
			observe.Call{Status: 404, GRPCStatus: "UNIMPLEMENTED", Report: &resilience.Report{Reason: resilience.ReasonStatusNotRetryable, Attempts: attempt("status_404", 404)}},
			get + `,http_response_status_code="404",` + route, `error_type="404",` + get + `,http_response_status_code="404",` + origin,
		},
		"a gRPC call that gets a plain 400": {
			observe.Call{Status: 400, GRPCStatus: "INTERNAL", Report: &resilience.Report{Reason: resilience.ReasonStatusNotRetryable, Attempts: attempt("status_400", 400)}},
			get + `,http_response_status_code="400",` + route, `error_type="400",` + get + `,http_response_status_code="400",` + origin,
		},
		"a gRPC call that gets a plain 503": {
			observe.Call{Status: 503, GRPCStatus: "UNAVAILABLE", Report: &resilience.Report{Reason: resilience.ReasonMaxAttempts, Attempts: attempt("status_503", 503)}},
			`error_type="503",` + get + `,http_response_status_code="503",` + route, `error_type="503",` + get + `,http_response_status_code="503",` + origin,
		},
		"a body whose reader paused": {
			observe.Call{Status: 200, CallersDoing: true, Report: &resilience.Report{Reason: resilience.ReasonBodyFailed, Attempts: attempt(resilience.ReasonOK, 200)}},
			get + `,http_response_status_code="200",` + route, `error_type="body_failed",` + get + `,http_response_status_code="200",` + origin,
		},
		"a panic": {
			observe.Call{Report: &resilience.Report{}},
			`error_type="_OTHER",` + get + `,` + route, "",
		},
		"an open circuit": {
			observe.Call{Status: 503, Report: &resilience.Report{Reason: resilience.ReasonBreakerOpen}},
			`error_type="503",` + get + `,http_response_status_code="503",` + route, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := metrics(t, nil)
			c.call.Pattern, c.call.Scheme, c.call.Upstream, c.call.Method = "/process", "http", "http://up", http.MethodGet
			m.ObserveCall(t.Context(), c.call)
			text := scrape(t, m, "text/plain")
			for metric, want := range map[string]string{"server": c.server, "client": c.client} {
				line := fmt.Sprintf("http_%s_request_duration_seconds_count{%s} 1\n", metric, want)
				if has := strings.Contains(text, "http_"+metric+"_request_duration_seconds_count{"); has != (want != "") || has && !strings.Contains(text, line) {
					t.Errorf("want %s, got\n%s", line, ours(text))
				}
			}
		})
	}
}

// Without a route there is no http_route label.
func TestNoRouteHasNoPattern(t *testing.T) {
	m := metrics(t, nil)
	m.ObserveCall(t.Context(), observe.Call{Scheme: "https", Method: http.MethodGet, Status: 404, Report: &resilience.Report{Reason: resilience.ReasonNoRoute}})
	want := `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",url_scheme="https"} 1` + "\n"
	if text := scrape(t, m, "text/plain"); !strings.Contains(text, want) {
		t.Errorf("want %s, got\n%s", want, ours(text))
	}
}

func TestExemplarsCarryTheTrace(t *testing.T) {
	for _, tc := range []struct {
		filter  string
		sampled bool
		want    bool
	}{
		{"", true, true},
		{"", false, false},
		{"trace_based", true, true},
		{"trace_based", false, false},
		{"always_on", false, true},
		{"always_off", true, false},
	} {
		t.Run(fmt.Sprintf("%q, sampled: %v", tc.filter, tc.sampled), func(t *testing.T) {
			t.Setenv("OTEL_METRICS_EXEMPLAR_FILTER", tc.filter)
			m := metrics(t, nil)
			ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}, TraceFlags: trace.TraceFlags(0).WithSampled(tc.sampled),
			}))
			m.ObserveCall(ctx, aCall())
			text := scrape(t, m, "application/openmetrics-text")
			for _, of := range []string{"http_server_request_duration_seconds_bucket", "rebound_calls_total"} {
				got := false
				for line := range strings.Lines(text) {
					got = got || strings.HasPrefix(line, of) && strings.Contains(line, `trace_id="ab000000000000000000000000000000"`)
				}
				if got != tc.want {
					t.Errorf("%s has an exemplar: %v, want %v, in\n%s", of, got, tc.want, ours(text))
				}
			}
		})
	}
}

// Without a trace, every measurement may still be an exemplar.
func TestExemplarsWithoutATrace(t *testing.T) {
	t.Setenv("OTEL_METRICS_EXEMPLAR_FILTER", "always_on")
	m := metrics(t, nil)
	m.ObserveCall(t.Context(), aCall())
	if text := scrape(t, m, "application/openmetrics-text"); !strings.Contains(text, "rebound_calls_total") {
		t.Errorf("got no metrics:\n%s", text)
	}
}

// Unusual methods do not create new series.
func TestCallersDoNotMakeSeries(t *testing.T) {
	m := metrics(t, nil)
	count := func() int { return strings.Count(ours(scrape(t, m, "text/plain")), "\n") }
	c := aCall()
	c.Method = "INVENTED-0"
	m.ObserveCall(t.Context(), c)
	before := count()
	for i := range 10_000 {
		c.Method = fmt.Sprintf("INVENTED-%d", i)
		m.ObserveCall(t.Context(), c)
	}
	if after := count(); after != before {
		t.Errorf("got %d series, want %d as before", after, before)
	}
}

func BenchmarkMetricsCall(b *testing.B) {
	m, err := telemetry.NewMetrics()
	if err != nil {
		b.Fatal(err)
	}
	c := aCall()
	b.ReportAllocs()
	for b.Loop() {
		m.ObserveCall(b.Context(), c)
	}
}

// The SDK's default limit of 2,000 series per instrument would merge the rest into one series.
func TestManyRoutesAreAllCounted(t *testing.T) {
	m, err := telemetry.NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	const routes = 2500
	for i := range routes {
		m.ObserveCall(t.Context(), observe.Call{Route: fmt.Sprint("route-", i), Method: http.MethodGet, Status: 200, Report: &resilience.Report{}})
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if got := strings.Count(w.Body.String(), "\nrebound_calls_total{"); got != routes || strings.Contains(w.Body.String(), "overflow") {
		t.Errorf("got %d series, want %d", got, routes)
	}
}
