package rules_test

import (
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

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
	namespace, route, reason string
	each                     float64
	status                   string // of an HTTP response, or none
}

// hour is a storage with an hour of counters, one sample a minute.
func hour(metric string, counters []counter) storage.Queryable {
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			var found []storage.Series
			for _, c := range counters {
				set := labels.FromStrings(labels.MetricName, metric, "job", "client", "namespace", c.namespace, "route", c.route, "reason", c.reason, "http_response_status_code", c.status)
				if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(set.Get(m.Name)) }) {
					continue
				}
				var points []chunks.Sample
				for minute := range 60 {
					points = append(points, point{int64(minute) * 60_000, float64(minute) * c.each})
				}
				found = append(found, storage.NewListSeries(set, points))
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
			calls := hour("rebound_calls_total", []counter{
				{"a", "busy", "ok", 600, ""}, {"a", "busy", reason, 60, ""}, // 9 % are refused
				{"a", "well", "ok", 60000, ""}, {"a", "well", reason, 6, ""}, // a ten thousandth
				{"b", "busy", "ok", 600, ""},
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
// counts answers of 5xx only.
func TestErrorRatio(t *testing.T) {
	answers := hour("http_server_request_duration_seconds_count", []counter{
		{"a", "x", "", 300, "200"}, {"a", "y", "", 60, "404"}, {"a", "x", "", 30, "503"}, {"a", "y", "", 10, "5xx"},
		{"b", "x", "", 300, "200"}, {"b", "x", "", 300, "502"},
	})
	for _, window := range []string{"5m", "30m", "1h", "6h"} {
		name := "rebound:errors:ratio_rate" + window
		rule, ok := rules(t)[name]
		if !ok {
			t.Fatalf("there is no rule %s, want one", name)
		}
		got := map[string]float64{}
		for _, s := range evaluate(t, answers, rule.Expr) {
			got[s.Metric.Get("namespace")] = math.Round(s.F*1e6) / 1e6
		}
		if want := map[string]float64{"a": 0.1, "b": 0.5}; !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
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
