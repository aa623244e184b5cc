// Package rules_test checks the alert rules and the dashboard with Prometheus' own parsers, and
// their metrics against those that Rebound really exports.
package rules_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// shown returns the name and the labels of every series that a program exports after using every
// instrument.
func shown(t *testing.T) map[string]map[string]bool {
	t.Helper()
	m, err := telemetry.NewMetrics()
	if err == nil {
		err = m.Attach(telemetry.Sources{
			Upstreams: func() []observe.Upstream {
				return []observe.Upstream{{Upstream: "u", Policy: "p", Endpoints: []endpoint.State{{Address: "a:1"}}}}
			},
			FilesRefused: func() map[string]bool { return map[string]bool{"u": true} },
			ReplayMemory: func() int64 { return 0 }, Active: func() int64 { return 0 },
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	m.ObserveCall(t.Context(), observe.Call{
		Route: "r", Policy: "p", Pattern: "/", Upstream: "http://u", Scheme: "http", Method: http.MethodGet, Status: 503, Duration: time.Second,
		Report: &resilience.Report{
			Reason:   resilience.ReasonMaxAttempts,
			Attempts: []resilience.AttemptReport{{Status: 503, Verdict: resilience.VerdictRetry, Wait: resilience.Wait{Source: resilience.WaitJitter}}},
		},
	})
	m.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{}})
	m.Fault(t.Context(), "none")
	m.Reload(true)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	series := map[string]map[string]bool{}
	for line := range strings.Lines(w.Body.String()) {
		match := regexp.MustCompile(`^([a-z_]+)(\{.*\})? `).FindStringSubmatch(line)
		if match == nil {
			continue
		}
		if series[match[1]] == nil {
			series[match[1]] = map[string]bool{"job": true, "instance": true, "namespace": true} // the scrape adds them
		}
		for _, label := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(match[2], -1) {
			series[match[1]][label[1]] = true
		}
	}
	return series
}

// check parses a query and checks that its metrics and labels exist.
func check(t *testing.T, series map[string]map[string]bool, query string) {
	t.Helper()
	query = strings.NewReplacer("$__rate_interval", "1m", "$route", ".*").Replace(query)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return
	}
	parser.Inspect(expr, func(n parser.Node, above []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		known, ok := series[v.Name]
		if !ok {
			t.Errorf("%s: got metric %s, want one that Rebound exports", query, v.Name)
		}
		for _, m := range v.LabelMatchers {
			if m.Name != model.MetricNameLabel && !known[m.Name] {
				t.Errorf("%s: %s has no label %s, want it", query, v.Name, m.Name)
			}
		}
		path := append(slices.Clone(above), n)
		for i, a := range slices.Backward(above) {
			if and, ok := a.(*parser.BinaryExpr); ok && and.Op == parser.LAND && and.RHS == path[i+1] {
				if on := and.VectorMatching; slices.ContainsFunc(on.MatchingLabels, func(l string) bool { return !known[l] }) {
					t.Errorf("%s: %s lacks one of the labels %s, want all", query, v.Name, on.MatchingLabels)
				}
				break // none of its labels gets further
			}
			if by, ok := a.(*parser.AggregateExpr); ok && slices.ContainsFunc(by.Grouping, func(l string) bool { return !known[l] }) {
				t.Errorf("%s: %s lacks one of the labels %s, want all", query, v.Name, by.Grouping)
			}
		}
		return nil
	})
}

// checkAlert checks that an alert works with real scrapes. A rate needs several of them, which may
// be a minute apart, and two namespaces may have the same job.
func checkAlert(t *testing.T, alert, query string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return // is reported already
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.MatrixSelector:
			if n.Range < 4*time.Minute {
				t.Errorf("%s looks at %v, want at least 4 min, which has two scrapes", alert, n.Range)
			}
		case *parser.AggregateExpr:
			if n.Without || !slices.Contains(n.Grouping, "job") || !slices.Contains(n.Grouping, "namespace") {
				t.Errorf("%s: got %s, want it by job and namespace, so that releases stay apart", alert, n)
			}
		}
		return nil
	})
}

func TestAlertRules(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	series := shown(t)
	rules := 0
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			rules++
			check(t, series, r.Expr)
			checkAlert(t, r.Alert+r.Record, r.Expr)
			if r.Record != "" { // an alert may use it
				series[r.Record] = map[string]bool{"job": true, "namespace": true}
				continue
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s lacks a summary, a description or a severity, want all three", r.Alert)
			}
		}
	}
	if rules < 3 {
		t.Errorf("got %d rules, want at least 3", rules)
	}
}

// The queries in the documentation are valid.
func TestQueriesOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	queries := regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllSubmatch(page, -1)
	if len(queries) < 2 {
		t.Errorf("got %d queries, want at least 2", len(queries))
	}
	series := shown(t)
	for _, q := range queries {
		check(t, series, string(q[1]))
	}
}

func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/grafana/rebound.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title       string
		Annotations struct{ List []struct{ Expr string } }
		Panels      []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	series := shown(t)
	var queries []string
	for _, p := range d.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q lacks a title or a query, want both", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		queries = append(queries, a.Expr)
	}
	for _, q := range queries {
		check(t, series, q)
		// Grafana knows the interval between scrapes.
		if strings.Count(q, "[") != strings.Count(q, "[$__rate_interval]") {
			t.Errorf("%s has a fixed range, want $__rate_interval", q)
		}
	}
	if len(d.Panels) < 6 {
		t.Errorf("got %d panels, want at least 6", len(d.Panels))
	}
}
