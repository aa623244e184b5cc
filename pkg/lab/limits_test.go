package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func limits(t *testing.T, text string) (lab.Limits, error) {
	t.Helper()
	return lab.LoadLimits(files.Temp(t, "limits.yaml", text))
}

func TestWrongLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"none":             {"load: {rate: 3}", "must have at least one limit"},
		"amplification":    {"amplification: 0.5", "limits.yaml:1:16: amplification: must be at least 1, got 0.5"},
		"recovery":         {"recoverWithin: 0s", "limits.yaml:1:16: recoverWithin: must be above 0s, got 0s"},
		"success":          {"successDuringErrorRate30: 97", "successDuringErrorRate30: must be from 0 to 1, got 97"},
		"unknown rate":     {"successDuringErrorRate40: 1", "unknown key"},
		"unknown scenario": {"amplification: 2\nscenarios: [{scenario: outrage, wasted: 0.1}]", `limits.yaml:2:24: scenarios[0].scenario: no scenario "outrage"`},
		"nothing asked":    {"scenarios: [{scenario: herd}]", "scenarios[0].scenario: must come with a limit"},
		"wasted":           {"scenarios: [{scenario: herd, wasted: 10}]", "scenarios[0].wasted: must be from 0 to 1, got 10"},
		"load":             {"amplification: 2\nload: {rate: 0, clients: 0, capacity: 0, seeds: 0}", "load.seeds: must be from 1 to 100, got 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := limits(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	l, err := limits(t, `
amplification: 1.2
recoverWithin: 5s
successDuringErrorRate30: 0.97
scenarios:
  - {scenario: herd, successAfter: 0.9, wasted: 0.1}
load: {rate: 10, seed: 7, seeds: 2}
`)
	if err != nil {
		t.Fatal(err)
	}
	trials, err := l.Trials()
	if err != nil {
		t.Fatal(err)
	}
	result := func(load lab.Load, peak float64, recovery *float64, success float64) *lab.Result {
		return &lab.Result{Load: load,
			PeakAmplification: peak, RecoveryS: recovery,
			During: lab.Part{Calls: 100, Success: success}, After: lab.Part{Calls: 100, Success: success}, Work: lab.Work{Served: 100, Wasted: 10},
		}
	}
	var lines []string
	for _, trial := range trials {
		if len(trial.Loads) != 2 || trial.Loads[0] != (lab.Load{Rate: 10, Clients: 20, Capacity: 1000, Seed: 7}) || trial.Loads[1].Seed != 8 {
			t.Errorf("got loads %+v, want 2 of 10 calls a second with the seeds 7 and 8", trial.Loads)
		}
		for _, f := range trial.Judge([]*lab.Result{
			result(trial.Loads[0], 1.2, new(5.0), 0.97), result(trial.Loads[1], 1.3, nil, 0.98),
		}) {
			verdict := "ok"
			if f.Broken {
				verdict = "broken"
			}
			lines = append(lines, strings.Join([]string{verdict, f.Scenario, f.Limit, f.Found}, " | "))
			if want := map[bool]uint64{true: 8, false: 7}[f.Broken]; f.Seed != want {
				t.Errorf("%s: seed %d, want %d, which is the worst", f.Limit, f.Seed, want)
			}
		}
	}
	want := []string{
		"broken | outage | amplification at most 1.2 in any second | 1.30",
		"broken | outage | recovery within 5s | not within the run",
		"broken | outage-hanging | amplification at most 1.2 in any second | 1.30",
		"broken | outage-hanging | recovery within 5s | not within the run",
		"ok | error-rate-30 | success during the disturbance at least 97.00 % | 97.00 %",
		"ok | herd | success after the disturbance at least 90.00 % | 97.00 %",
		"ok | herd | wasted work at most 10.00 % | 10.00 %",
	}
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// A check with too few calls must not pass.
func TestTooFewCallsAreNoVerdict(t *testing.T) {
	five := lab.Limits{Amplification: new(1.2), Load: lab.LimitsLoad{Rate: 0.1, Clients: 1, Capacity: 1000, Seed: 1, Seeds: 1}}
	trials, err := five.Trials()
	if err != nil {
		t.Fatal(err)
	}
	for _, trial := range trials {
		var r *lab.Result
		synctest.Test(t, func(t *testing.T) {
			var err error
			if r, err = (lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: trial.Scenario, Load: trial.Loads[0]}).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		for _, f := range trial.Judge([]*lab.Result{r}) {
			if !f.Broken || !strings.Contains(f.Found, "too few to judge") {
				t.Errorf("%+v, want no verdict on %d calls", f, r.During.Calls)
			}
		}
	}
}

// At ten calls per second, no second has enough calls by itself. The retries of a policy without
// limits must show anyway.
func TestAmplificationOfFewCalls(t *testing.T) {
	p := transport.DefaultPolicy()
	p.Retry.MaxAttempts, p.Retry.Budget.Burst = 5, 1e6
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	s := builtin(t, "outage", 10*time.Second)
	synctest.Test(t, func(t *testing.T) {
		r, err := (lab.Experiment{Policy: p, Scenario: s, Load: lab.Load{Rate: 10, Clients: 2, Capacity: 1000, Seed: 1}}).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r.PeakAmplification < 3 {
			t.Errorf("%.2f attempts per call in the worst second, want nearly 5", r.PeakAmplification)
		}
	})
}

// A scenario's path in the limits counts from the file of the limits, whatever the working
// directory.
func TestScenarioPathsBeginAtTheLimits(t *testing.T) {
	t.Parallel()
	source, err := lab.Source("herd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"mine.yaml":   strings.Replace(string(source), "name: herd", "name: mine", 1),
		"limits.yaml": "scenarios: [{scenario: mine.yaml, wasted: 0.1}]",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := lab.LoadLimits(filepath.Join(dir, "limits.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	trials, err := l.Trials()
	if err != nil || len(trials) != 1 || trials[0].Scenario.Name != "mine" {
		t.Errorf("got %v, error %v, want the scenario mine beside the limits", trials, err)
	}
}
