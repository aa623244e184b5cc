package rules_test

import (
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// rules returns the alert rules by name.
func rules(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	byName := map[string]rulefmt.Rule{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			byName[r.Alert+r.Record] = r
		}
	}
	return byName
}

// counter is a series that grows by an amount each minute.
type counter struct {
	set  labels.Labels
	each float64
}

// of returns a counter of a client's calls.
func of(namespace, route, reason string, each float64) counter {
	return counter{labels.FromStrings(model.MetricNameLabel, "rebound_calls_total", "job", "client", "namespace", namespace, "route", route, "reason", reason), each}
}

// hour is a storage with an hour of counters, one sample a minute.
func hour(counters []counter) storage.Queryable {
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			var found []storage.Series
			for _, c := range counters {
				if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(c.set.Get(m.Name)) }) {
					continue
				}
				var points []chunks.Sample
				for minute := range 60 {
					points = append(points, point{int64(minute) * 60_000, float64(minute) * c.each})
				}
				found = append(found, storage.NewListSeries(c.set, points))
			}
			return &seriesSet{rest: found}
		},
	}}
}

// point is a sample of a counter.
type point struct {
	at    int64 // ms
	value float64
}

func (p point) T() int64                    { return p.at }
func (point) ST() int64                     { return 0 }
func (p point) F() float64                  { return p.value }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }

// seriesSet is a set of series for a query.
type seriesSet struct {
	current storage.Series
	rest    []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.current, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *seriesSet) At() storage.Series              { return s.current }
func (*seriesSet) Err() error                        { return nil }
func (*seriesSet) Warnings() annotations.Annotations { return nil }

// The alerts of the limits come with a share of refused calls, for each route by itself.
func TestAlertsOfTheLimits(t *testing.T) {
	for alert, reason := range map[string]string{
		"ReboundConcurrencyLimited": "concurrency_limit",
		"ReboundRateLimited":        "rate_limited",
	} {
		t.Run(alert, func(t *testing.T) {
			rule, ok := rules(t)[alert]
			if !ok {
				t.Fatalf("there is no alert %s, want one", alert)
			}
			calls := hour([]counter{
				of("a", "busy", "ok", 600), of("a", "busy", reason, 60), // 9 % are refused
				of("a", "well", "ok", 60000), of("a", "well", reason, 6), // a ten thousandth
				of("b", "busy", "ok", 600),
			})
			found := evaluate(t, calls, rule.Expr)
			if len(found) != 1 || found[0].Metric.Get("route") != "busy" || found[0].Metric.Get("namespace") != "a" {
				t.Errorf("got %v, want the route busy of namespace a only", found)
			}
		})
	}
}

// evaluate returns what a query gives half an hour into a storage.
func evaluate(t *testing.T, from storage.Queryable, expr string) promql.Vector {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 100000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	defer func() { _ = engine.Close() }()
	query, err := engine.NewInstantQuery(t.Context(), from, nil, expr, time.Unix(0, 0).Add(30*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	found, err := query.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The share of errors, which the alerts of the error budget compare, keeps releases apart, and
// counts the calls that the gateway or an upstream failed, over HTTP and over gRPC. The labels are
// those that Rebound exports for such calls.
func TestErrorRatio(t *testing.T) {
	plain := func(status int, reason resilience.Reason) observe.Call {
		return observe.Call{Method: http.MethodGet, Status: status, Report: &resilience.Report{Reason: reason}}
	}
	grpc := func(code string) observe.Call {
		return observe.Call{Method: http.MethodPost, Path: "/a.B/C", Status: 200, GRPCStatus: code, Report: &resilience.Report{Reason: resilience.ReasonStatusNotRetryable}}
	}
	callers := func(c observe.Call) observe.Call {
		c.CallersDoing = true
		return c
	}
	well := plain(200, resilience.ReasonOK)
	for name, tc := range map[string]struct {
		calls []observe.Call // each as often as the others
		want  float64
	}{
		"none":                                  {[]observe.Call{well}, 0},
		"5xx":                                   {[]observe.Call{well, plain(404, resilience.ReasonStatusNotRetryable), plain(503, resilience.ReasonMaxAttempts), plain(599, resilience.ReasonMaxAttempts)}, 0.5},
		"a caller who left":                     {[]observe.Call{well, plain(499, resilience.ReasonCallerCanceled)}, 0},
		"a response that broke off":             {[]observe.Call{well, plain(200, resilience.ReasonBodyFailed)}, 0.5},
		"a response whose caller paused":        {[]observe.Call{well, callers(plain(200, resilience.ReasonBodyFailed))}, 0},
		"gRPC, over the caller's time":          {[]observe.Call{grpc("OK"), callers(grpc("DEADLINE_EXCEEDED"))}, 0},
		"gRPC, which is 200 over HTTP":          {[]observe.Call{grpc("UNAVAILABLE")}, 1},
		"gRPC, what the server is to blame for": {[]observe.Call{grpc("OK"), grpc("UNKNOWN"), grpc("DEADLINE_EXCEEDED"), grpc("INTERNAL"), grpc("UNAVAILABLE"), grpc("DATA_LOSS")}, 5. / 6},
		"gRPC, what the caller is to blame for": {[]observe.Call{grpc("CANCELLED"), grpc("INVALID_ARGUMENT"), grpc("NOT_FOUND"), grpc("ALREADY_EXISTS"), grpc("PERMISSION_DENIED"),
			grpc("RESOURCE_EXHAUSTED"), grpc("FAILED_PRECONDITION"), grpc("ABORTED"), grpc("OUT_OF_RANGE"), grpc("UNIMPLEMENTED"), grpc("UNAUTHENTICATED")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			counters := append(exported(t, "a", tc.calls), exported(t, "b", []observe.Call{plain(502, resilience.ReasonMaxAttempts)})...)
			// Programs of other teams, one in a job of its own and one beside the client.
			counters = append(counters, foreign("java", "c", "10.0.0.9:8080"), foreign("client", "a", "10.0.0.1:9090"))
			for _, window := range []string{"5m", "30m", "1h", "6h"} {
				record := "rebound:errors:ratio_rate" + window
				rule, ok := rules(t)[record]
				if !ok {
					t.Fatalf("there is no rule %s, want one", record)
				}
				got := map[string]float64{"a": 0} // without an error there is no series
				for _, s := range evaluate(t, hour(counters), rule.Expr) {
					got[s.Metric.Get("namespace")] = math.Round(s.F*1e6) / 1e6
				}
				if want := map[string]float64{"a": math.Round(tc.want*1e6) / 1e6, "b": 1}; !maps.Equal(got, want) {
					t.Errorf("%s: got %v, want %v", record, got, want)
				}
			}
		})
	}
}

// foreign returns the counter of a program that has OpenTelemetry's metric too, and fails every
// call.
func foreign(job, namespace, instance string) counter {
	return counter{labels.FromStrings(model.MetricNameLabel, "http_server_request_duration_seconds_count", "job", job, "namespace", namespace, "instance", instance,
		"error_type", "500", "http_response_status_code", "500", "http_route", "/java"), 1000}
}

// The dashboard's durations are those of Rebound's calls, not of all programs.
func TestDashboardShowsOwnDurations(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/grafana/rebound.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	series := func(name, instance, route string) counter {
		return counter{labels.FromStrings(model.MetricNameLabel, name, "job", "client", "namespace", "a", "instance", instance, "http_route", route, "le", "+Inf"), 60}
	}
	stored := hour([]counter{
		series("http_server_request_duration_seconds_bucket", "10.0.0.1:8081", "/ours"), series("rebound_calls_active", "10.0.0.1:8081", ""),
		series("http_server_request_duration_seconds_bucket", "10.0.0.9:8080", "/java"),
	})
	seen := 0
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			_, inner, ok := strings.Cut(strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"), ", ")
			if !ok || !strings.Contains(target.Expr, "http_server_request_duration_seconds_bucket") {
				continue
			}
			seen++
			var routes []string
			for _, s := range evaluate(t, stored, strings.TrimSuffix(inner, ")")) {
				routes = append(routes, s.Metric.Get("http_route"))
			}
			if want := []string{"/ours"}; !slices.Equal(routes, want) {
				t.Errorf("%s: got series of %q, want %q", target.Expr, routes, want)
			}
		}
	}
	if seen == 0 {
		t.Error("no panel has durations of calls, want one")
	}
}

// exported returns the counters that a client in a namespace exports of its calls, which come again
// each minute, with the gauge that only it has.
func exported(t *testing.T, namespace string, calls []observe.Call) []counter {
	t.Helper()
	m, err := telemetry.NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		m.ObserveCall(t.Context(), c)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	var found []counter
	for _, metric := range families["http_server_request_duration_seconds"].GetMetric() {
		set := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, "http_server_request_duration_seconds_count", "job", "client", "namespace", namespace, "instance", "10.0.0.1:8081"))
		for _, l := range metric.GetLabel() {
			set.Set(l.GetName(), l.GetValue())
		}
		found = append(found, counter{set.Labels(), float64(metric.GetHistogram().GetSampleCount())})
	}
	return append(found, counter{labels.FromStrings(model.MetricNameLabel, "rebound_calls_active", "job", "client", "namespace", namespace, "instance", "10.0.0.1:8081"), 0})
}

// The dashboard shows refusals by reason, and the limit, what is in flight and what waits in one
// panel.
func TestDashboardShowsTheLimits(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/grafana/rebound.json")
	if err != nil {
		t.Fatal(err)
	}
	type panel struct {
		Title   string
		Targets []struct{ Expr string }
	}
	var d struct{ Panels []panel }
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for name, wanted := range map[string][]string{
		"refusals": {`sum by (reason) (rate(rebound_calls_total{reason=~"concurrency_limit|rate_limited|breaker_.*"`},
		"limit":    {"rebound_concurrency_limit", "rebound_attempts_active", "rebound_attempts_waiting"},
	} {
		if !slices.ContainsFunc(d.Panels, func(p panel) bool {
			for _, want := range wanted {
				if !slices.ContainsFunc(p.Targets, func(t struct{ Expr string }) bool { return strings.Contains(t.Expr, want) }) {
					return false
				}
			}
			return true
		}) {
			t.Errorf("%s: no panel has %q, want one", name, wanted)
		}
	}
}
