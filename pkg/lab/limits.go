package lab

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// Limits are the limits that a policy must keep. A limit that is left out does not apply.
type Limits struct {
	// Load is the load of the runs.
	Load LimitsLoad `yaml:"load"`
	// Amplification is the largest number of attempts per call in any second of the scenarios
	// outage and outage-hanging. At least 1.
	Amplification *float64 `yaml:"amplification"`
	// RecoverWithin is the longest time to recover after the disturbance, in the same two
	// scenarios. Above 0.
	RecoverWithin *time.Duration `yaml:"recoverWithin"`
	// SuccessDuringErrorRate10 is the lowest share of calls that end well during the disturbance of
	// the scenario error-rate-10; the others likewise. 0 to 1.
	SuccessDuringErrorRate10 *float64 `yaml:"successDuringErrorRate10"`
	SuccessDuringErrorRate30 *float64 `yaml:"successDuringErrorRate30"`
	SuccessDuringErrorRate60 *float64 `yaml:"successDuringErrorRate60"`
	// Scenarios are limits for other scenarios.
	Scenarios []ScenarioLimits `yaml:"scenarios"`

	dir string // of the file, where the paths in it begin
}

// LimitsLoad is the load of the runs. Keys that are left out are as in [DefaultLoad].
type LimitsLoad struct {
	Rate     float64 `yaml:"rate"`     // calls a second, all clients together; above 0
	Clients  int     `yaml:"clients"`  // at least 1
	Capacity float64 `yaml:"capacity"` // calls a second that the upstream serves; above 0
	Seed     uint64  `yaml:"seed"`     // the first seed
	// Seeds is the number of seeds of each scenario; the worst figure counts. 1 to 100.
	Seeds int `yaml:"seeds"`
}

// ScenarioLimits are the limits for one scenario.
type ScenarioLimits struct {
	// Scenario is a built-in one, or the path of a file that ends in .yaml. A relative path begins
	// at the directory of the file with the limits.
	Scenario string `yaml:"scenario"`
	// Amplification is the largest number of attempts per call in any second. At least 1.
	Amplification *float64 `yaml:"amplification"`
	// RecoverWithin is the longest time to recover after the disturbance. Above 0.
	RecoverWithin *time.Duration `yaml:"recoverWithin"`
	// SuccessDuring and SuccessAfter are the lowest shares of calls, begun during and after the
	// disturbance, that end well. 0 to 1.
	SuccessDuring *float64 `yaml:"successDuring"`
	SuccessAfter  *float64 `yaml:"successAfter"`
	// Wasted is the largest share of the upstream's work for callers that have left. 0 to 1.
	Wasted *float64 `yaml:"wasted"`
}

// SetDefaults sets l to the defaults. Loaders call it before they decode a file into l.
func (l *Limits) SetDefaults() {
	d := DefaultLoad()
	*l = Limits{Load: LimitsLoad{Rate: d.Rate, Clients: d.Clients, Capacity: d.Capacity, Seed: d.Seed, Seeds: 3}}
}

// LoadLimits reads limits from the file at path.
func LoadLimits(path string) (Limits, error) {
	var l Limits
	l.SetDefaults()
	l.dir = filepath.Dir(path)
	err := config.Load(path, &l)
	return l, err
}

// Validate returns all invalid values at once, each with the path of its key.
func (l Limits) Validate() error {
	var found mistake.List
	check := found.Check
	check(l.Load.Rate > 0, "load.rate", "must be above 0 calls a second, got %v", l.Load.Rate)
	check(l.Load.Clients >= 1, "load.clients", "must be at least 1, got %d", l.Load.Clients)
	check(l.Load.Capacity > 0, "load.capacity", "must be above 0 calls a second, got %v", l.Load.Capacity)
	check(l.Load.Seeds >= 1 && l.Load.Seeds <= 100, "load.seeds", "must be from 1 to 100, got %d", l.Load.Seeds)
	all := l.all()
	check(len(all) > 0, "", "must have at least one limit, such as amplification: 1.2")
	for i, s := range all {
		// The limits of the short keys come first; their keys are at the top level.
		at := func(key string) string {
			if n := i - (len(all) - len(l.Scenarios)); n >= 0 {
				return config.Join(config.Index("scenarios", n), key)
			}
			return s.short(key)
		}
		share := func(key string, v *float64) {
			check(v == nil || *v >= 0 && *v <= 1, at(key), "must be from 0 to 1, got %v", deref(v))
		}
		check(s.Amplification == nil || *s.Amplification >= 1, at("amplification"), "must be at least 1, got %v", deref(s.Amplification))
		check(s.RecoverWithin == nil || *s.RecoverWithin > 0, at("recoverWithin"), "must be above 0s, got %v", value(s.RecoverWithin))
		share("successDuring", s.SuccessDuring)
		share("successAfter", s.SuccessAfter)
		share("wasted", s.Wasted)
		if _, err := l.scenario(s.Scenario); err != nil {
			found.Add(at("scenario"), "%w", err)
		}
		check(s != ScenarioLimits{Scenario: s.Scenario}, at("scenario"), "must come with a limit, such as recoverWithin: 5s")
	}
	return found.Err()
}

// scenario loads a scenario that the limits name.
func (l Limits) scenario(name string) (Scenario, error) {
	if isPath(name) && !filepath.IsAbs(name) {
		name = filepath.Join(l.dir, name)
	}
	return LoadScenario(name)
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// all returns the limits of every scenario. Those of the short keys come first.
func (l Limits) all() []ScenarioLimits {
	var all []ScenarioLimits
	if l.Amplification != nil || l.RecoverWithin != nil {
		for _, name := range []string{"outage", "outage-hanging"} {
			all = append(all, ScenarioLimits{Scenario: name, Amplification: l.Amplification, RecoverWithin: l.RecoverWithin})
		}
	}
	for _, e := range []struct {
		name    string
		success *float64
	}{
		{"error-rate-10", l.SuccessDuringErrorRate10},
		{"error-rate-30", l.SuccessDuringErrorRate30},
		{"error-rate-60", l.SuccessDuringErrorRate60},
	} {
		if e.success != nil {
			all = append(all, ScenarioLimits{Scenario: e.name, SuccessDuring: e.success})
		}
	}
	return append(all, l.Scenarios...)
}

// short returns the top-level key for a limit.
func (s ScenarioLimits) short(key string) string {
	if key == "successDuring" {
		return map[string]string{
			"error-rate-10": "successDuringErrorRate10",
			"error-rate-30": "successDuringErrorRate30",
			"error-rate-60": "successDuringErrorRate60",
		}[s.Scenario]
	}
	return key
}

// Trial is one scenario to run with every seed, and its limits.
type Trial struct {
	Limits   ScenarioLimits
	Scenario Scenario
	Loads    []Load
}

// Trials returns the experiments that are needed to check l.
func (l Limits) Trials() ([]Trial, error) {
	var trials []Trial
	for _, s := range l.all() {
		scenario, err := l.scenario(s.Scenario)
		if err != nil {
			return nil, err
		}
		t := Trial{Limits: s, Scenario: scenario}
		for i := range l.Load.Seeds {
			t.Loads = append(t.Loads, Load{
				Rate: l.Load.Rate, Clients: l.Load.Clients, Capacity: l.Load.Capacity, Seed: l.Load.Seed + uint64(i),
			})
		}
		trials = append(trials, t)
	}
	return trials, nil
}

// Finding is the result of checking one limit.
type Finding struct {
	Scenario string `json:"scenario"`
	Limit    string `json:"limit"` // in words, with its value
	Found    string `json:"found"` // the worst figure of all seeds
	Seed     uint64 `json:"seed"`  // the seed with that figure
	Broken   bool   `json:"broken"`
}

// Judge checks the limits of t against the results of its loads, which are in the same order.
func (t Trial) Judge(results []*Result) []Finding {
	var found []Finding
	judge := func(limit string, bound, sign float64, figure func(*Result) float64, show func(float64) string) {
		f := Finding{Scenario: t.Scenario.Name, Limit: limit}
		worst := 0.0
		for i, r := range results {
			if r.During.Calls < minCalls || r.After.Calls < minCalls {
				f.Found = fmt.Sprintf("only %d calls during and %d after the disturbance: too few to judge, raise load.rate", r.During.Calls, r.After.Calls)
				f.Seed, f.Broken = r.Load.Seed, true
				found = append(found, f)
				return
			}
			if v := figure(r); i == 0 || sign*v > sign*worst {
				worst, f.Seed = v, r.Load.Seed
			}
		}
		f.Found, f.Broken = show(worst), sign*worst > sign*bound
		found = append(found, f)
	}
	const atMost, atLeast = 1, -1
	l := t.Limits
	if v := l.Amplification; v != nil {
		judge(fmt.Sprintf("amplification at most %g in any second", *v), *v, atMost,
			func(r *Result) float64 { return r.PeakAmplification }, func(v float64) string { return fmt.Sprintf("%.2f", v) })
	}
	if v := l.RecoverWithin; v != nil {
		const never = float64(maxLength)
		judge(fmt.Sprintf("recovery within %v", *v), v.Seconds(), atMost, func(r *Result) float64 {
			if r.RecoveryS == nil {
				return never
			}
			return *r.RecoveryS
		}, func(v float64) string {
			if v == never {
				return "not within the run"
			}
			return fmt.Sprintf("%.1fs", v)
		})
	}
	percent := func(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }
	if v := l.SuccessDuring; v != nil {
		judge("success during the disturbance at least "+percent(*v), *v, atLeast, func(r *Result) float64 { return r.During.Success }, percent)
	}
	if v := l.SuccessAfter; v != nil {
		judge("success after the disturbance at least "+percent(*v), *v, atLeast, func(r *Result) float64 { return r.After.Success }, percent)
	}
	if v := l.Wasted; v != nil {
		judge("wasted work at most "+percent(*v), *v, atMost, func(r *Result) float64 { return r.Work.WastedShare() }, percent)
	}
	return found
}
