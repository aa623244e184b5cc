package docs_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/telemetry"
)

// Whatever a golden trace or /metrics shows is explained, and nothing else is.
func TestWhatCanBeSeenIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	seen := map[string]bool{string(telemetry.KeyFault): true}
	traces, err := filepath.Glob(filepath.Join(root, "pkg", "transport", "testdata", "traces", "*.txt"))
	if err != nil || len(traces) == 0 {
		t.Fatalf("%d golden traces, %v", len(traces), err)
	}
	for _, f := range traces {
		golden, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`- (rebound[a-z_.]+)=`).FindAllStringSubmatch(string(golden), -1) {
			seen[m[1]] = true
		}
	}
	metrics, err := telemetry.NewMetrics(telemetry.Sources{
		Upstreams:    func() []telemetry.Upstream { return []telemetry.Upstream{{}} },
		ReplayMemory: func() int64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics.Call(t.Context(), telemetry.Call{Method: http.MethodGet, Status: 200, Duration: time.Second, Report: &resilience.Report{
		Attempts: []resilience.AttemptReport{{Verdict: resilience.VerdictRetry}},
	}})
	metrics.Transition(resilience.Transition{})
	metrics.Fault(t.Context(), "none")
	w := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for _, m := range regexp.MustCompile(`(?m)^# TYPE ((?:rebound|http)_[a-z_]+) `).FindAllStringSubmatch(w.Body.String(), -1) {
		seen[m[1]] = true
	}
	for name := range seen {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/observability.md does not explain %s", name)
		}
	}
	for _, m := range regexp.MustCompile("`(rebound[a-z_.]+|https?_[a-z_]+_seconds)`").FindAllStringSubmatch(page, -1) {
		if !seen[m[1]] {
			t.Errorf("docs/observability.md explains %s, which there is not", m[1])
		}
	}
}
