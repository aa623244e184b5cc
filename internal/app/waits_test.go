package app_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Each source of a wait has the same name and the same length in span, metric and log line.
func TestEveryWaitIsNamedAlikeEverywhere(t *testing.T) {
	fails := func(retryAfter string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(transport.HeaderAttemptCount) == "1" {
				w.Header().Set("Retry-After", retryAfter)
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	}
	for source, tc := range map[resilience.WaitSource]struct {
		handler http.HandlerFunc
		first   string // the endpoint of the first attempt; nobody listens at down:80
		reason  resilience.Reason
		wait    time.Duration
	}{
		resilience.WaitJitter:       {fails(""), "up:80", "status_503", 300 * time.Millisecond},
		resilience.WaitRetryAfter:   {fails("2"), "up:80", "status_503", 2 * time.Second},
		resilience.WaitNextEndpoint: {func(http.ResponseWriter, *http.Request) {}, "down:80", resilience.ReasonDialError, 0},
	} {
		t.Run(string(source), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := pipenet.New()
				network.Serve(t, "up:80", tc.handler)
				c := gateway.ForUpstream("orders")
				policy := c.Policies[c.Routes[0].Policy]
				policy.Retry.Backoff = resilience.Backoff{Base: 300 * time.Millisecond, Max: 300 * time.Millisecond, Factor: 1, Jitter: resilience.JitterNone}
				c.Policies[c.Routes[0].Policy] = policy
				entry := gateway.DefaultUpstream("http://orders")
				entry.Endpoints.Resolve, entry.Endpoints.Addresses = endpoint.ResolveStatic, []string{tc.first, "up:80"}
				if tc.first == "up:80" {
					entry.Endpoints.Addresses = entry.Endpoints.Addresses[:1]
				}
				c.Upstreams = map[string]gateway.Upstream{"orders": entry}

				provider, recorded := spans.Record()
				metrics, err := telemetry.NewMetrics()
				if err != nil {
					t.Fatal(err)
				}
				var lines output.Buffer
				logger := slog.New(slog.NewJSONHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
				g, err := gateway.New(c, gateway.Options{
					DialContext: network.Dial, Random: func() float64 { return 0 }, TracerProvider: provider, Propagator: propagation.TraceContext{},
					Observers: []observe.Observer{metrics, gateway.LogObserver(logger)}, Logger: logger,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer g.Close()
				answer := httptest.NewRecorder()
				g.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://front/", nil))
				if answer.Code != http.StatusOK {
					t.Fatalf("got status %d, body %s, want 200", answer.Code, answer.Body)
				}

				var waits []string
				for _, s := range recorded.GetSpans() {
					if s.Name == "backoff" {
						set := attribute.NewSet(s.Attributes...)
						waits = append(waits, fmt.Sprint(set.Encoded(attribute.DefaultEncoder()), " ", s.EndTime.Sub(s.StartTime)))
					}
				}
				want := fmt.Sprintf("[rebound.backoff.planned_ms=%d,rebound.backoff.source=%s,rebound.reason=%s %v]", tc.wait.Milliseconds(), source, tc.reason, tc.wait)
				if got := fmt.Sprint(waits); got != want {
					t.Errorf("got spans of waits %s, want %s", got, want)
				}

				shown := httptest.NewRecorder()
				metrics.Handler().ServeHTTP(shown, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
				var series []string
				for line := range strings.Lines(shown.Body.String()) {
					if strings.HasPrefix(line, "rebound_wait_duration_seconds_sum") || strings.HasPrefix(line, "rebound_wait_duration_seconds_count") {
						series = append(series, strings.TrimSpace(line))
					}
				}
				labels := fmt.Sprintf(`{source=%q,upstream="http://orders"}`, source)
				want = fmt.Sprintf("[rebound_wait_duration_seconds_sum%s %v rebound_wait_duration_seconds_count%s 1]", labels, tc.wait.Seconds(), labels)
				if got := fmt.Sprint(series); got != want {
					t.Errorf("got metrics %s, want %s", got, want)
				}

				type line struct {
					Msg, Verdict, Endpoint string
					Reason                 resilience.Reason
					Wait, Waited           time.Duration
				}
				var attempts []line
				var call line
				for text := range strings.Lines(lines.String()) {
					var l line
					if err := json.Unmarshal([]byte(text), &l); err != nil {
						t.Fatal(err)
					}
					switch l.Msg {
					case "attempt":
						attempts = append(attempts, l)
					case "call":
						call = l
					}
				}
				first := line{"attempt", "retry", tc.first, tc.reason, tc.wait, 0}
				if len(attempts) != 2 || attempts[0] != first || call.Waited != tc.wait {
					t.Errorf("got the lines %+v and %+v, want two attempts, first %+v, and a call that waited %v", attempts, call, first, tc.wait)
				}
			})
		})
	}
}
