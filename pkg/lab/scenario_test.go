package lab_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Every built-in scenario affects the calls or the upstream, and ends when it says.
func TestBuiltinScenarios(t *testing.T) {
	statistics(t)
	t.Parallel()
	names := lab.Names()
	for _, want := range []string{
		"bad-endpoint", "bad-instance", "brownout", "error-rate-10", "error-rate-30", "error-rate-60", "flapping", "hanging-endpoint", "herd", "outage",
		"outage-hanging", "overload", "retry-after-storm", "rolling-restart", "scale-out", "slow-endpoint", "slow-start",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("there is no scenario %s", want)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := lab.LoadScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			text, err := lab.Source(name)
			if err != nil || !strings.HasPrefix(string(text), "# ") {
				t.Errorf("its file begins with %.20q, want a comment that says what it is; error %v", text, err)
			}
			if s.Name != name || s.Description == "" {
				t.Errorf("got name %q and description %q, want the file's name and a description", s.Name, s.Description)
			}
			// A copy can be run by its path.
			if s, err = lab.LoadScenario(files.Temp(t, "copy.yaml", string(text))); err != nil {
				t.Fatal(err)
			}
			r := simulate(t, lab.Experiment{Policy: rungOf(t, "no retry"), Scenario: s, Load: lab.Load{Rate: 210, Clients: 4, Capacity: 300, Seed: 1}})
			if r.Before.Success < 0.98 || r.Before.Calls == 0 {
				t.Errorf("success %.3f before, want nearly all", r.Before.Success)
			}
			if r.During.Success > 0.95 && r.During.P99 < 2*r.Before.P99 && !endpointsChange(s, r) {
				t.Errorf("success %.3f and p99 %.0f ms during it, before %.0f: nothing happens", r.During.Success, r.During.P99, r.Before.P99)
			}
			d := lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{Rate: 150, Clients: 4, Capacity: 300, Seed: 1}}
			if r := simulate(t, d); r.RecoveryS == nil {
				t.Error("the default policy never recovers, want it to")
			}
		})
	}
}

// endpointsChange reports whether the clients found that endpoints fail, come or go. Their calls
// may notice nothing.
func endpointsChange(s lab.Scenario, r *lab.Result) bool {
	if s.Upstream.Endpoints.Resolve == endpoint.ResolveNone {
		return false
	}
	earlier, _ := shares(r.Before)
	meanwhile, _ := shares(r.During)
	for i := range earlier {
		if math.Abs(earlier[i]-meanwhile[i]) > 0.1 {
			return true
		}
	}
	return r.Attempts[resilience.ReasonDialError] > 0
}

func TestWrongScenarios(t *testing.T) {
	t.Parallel()
	const rest = "\nname: x\ndisturbance: {at: 1s, for: 1s}\n"
	const upstream = "upstream: {faults: {latency: {distribution: fixed, value: 10ms}}"
	for name, c := range map[string]struct{ text, want string }{
		"no latency":                 {rest, "upstream.faults.latency: must have a mean above 0s"},
		"heavy tail":                 {rest + "upstream: {faults: {latency: {distribution: pareto, min: 1ms, alpha: 1}}}", "upstream.faults.latency: must have a mean"},
		"capacity":                   {rest + "upstream: {faults: {latency: {distribution: fixed, value: 10ms}, capacity: {workers: 3}}}", "s.yaml:3:76: upstream.faults.capacity: must be left out"},
		"schedule":                   {rest + "upstream: {faults: {latency: {distribution: fixed, value: 10ms}, schedule: [{at: 1s, for: 1s}]}}", "upstream.faults.schedule: must be left out: upstream.phases"},
		"unknown key":                {rest + upstream + ", phases: [{at: 1s, for: 1s, refused: true}]}", "upstream.phases[0].refused: unknown key"},
		"empty phase":                {rest + upstream + ", phases: [{at: 1s}]}", "upstream.phases[0].for: expected more than 0s"},
		"share":                      {rest + upstream + ", phases: [{at: 1s, for: 1s, working: 2}]}", "upstream.phases[0].working: must be from 0 to 1, got 2"},
		"end alone":                  {rest + upstream + ", phases: [{at: 1s, for: 1s, workingAtEnd: 1}]}", "upstream.phases[0].workingAtEnd: must come with working"},
		"grpc":                       {rest + "upstream: {faults: {latency: {distribution: fixed, value: 10ms}, grpc: {after: headers}}}", "upstream.faults.grpc: must be left out"},
		"phase's capacity":           {rest + upstream + ", phases: [{at: 1s, for: 1s, capacity: {workers: 1}}]}", "upstream.phases[0].capacity: must be left out: working"},
		"instance":                   {rest + upstream + ", instances: 3, phases: [{at: 1s, for: 1s, instance: 4}]}", "upstream.phases[0].instance: must be from 1 to 3, or 0 for all, got 4"},
		"addresses":                  {rest + upstream + ", endpoints: {resolve: static, addresses: [\"a:1\"]}}", "upstream.endpoints.addresses: must be left out: the instances are"},
		"endpoints":                  {rest + upstream + ", endpoints: {resolve: dns, refresh: 0s}}", "upstream.endpoints.refresh: must be from 100ms"},
		"slower":                     {rest + upstream + ", phases: [{at: 1s, for: 1s, slower: 0}]}", "upstream.phases[0].slower: must be above 0 and at most 1000000, got 0"},
		"rate":                       {rest + upstream + ", phases: [{at: 1s, for: 1s, errorRate: 3}]}", "upstream.phases[0].errorRate: expected a rate from 0 to 1, got 3"},
		"wrong fault":                {rest + "upstream: {faults: {errorRate: 7, latency: {distribution: fixed, value: 10ms}}}", "upstream.faults.errorRate: expected a rate from 0 to 1, got 7"},
		"name":                       {"disturbance: {at: 1s, for: 1s}\nname: a/b\n" + upstream + "}", "name: must be letters"},
		"never disturbed":            {"name: x\n" + upstream + "}", "disturbance.for: must be above 0s"},
		"disturbance that overflows": {"name: x\ndisturbance: {at: 2500000h, for: 2500000h}\n" + upstream + "}", "disturbance.at: must be from 0s to 24h0m0s, got 2500000h0m0s"},
		"surge that overflows":       {rest + upstream + "}\nload: {surge: {at: 2500000h, for: 2500000h, ofCapacity: 2}}", "load.surge.for: must be above 0s and at most 24h0m0s, got 2500000h0m0s"},
		"think":                      {rest + upstream + "}\nload: {think: 25h}", "load.think: must be from 0s (calls do not wait for each other) to 24h0m0s, got 25h0m0s"},
		"surge of waiters":           {rest + upstream + "}\nload: {think: 1s, surge: {at: 1s, for: 1s, ofCapacity: 2}}", "load.surge: must be left out with load.think"},
		"method":                     {rest + upstream + "}\nload: {method: post}", "load.method: must be a method in capital letters such as GET, got \"post\""},
		"herd":                       {rest + upstream + "}\nload: {herd: {at: 1s}}", "load.herd.calls: must be from 1 to 100000, got 0"},
	} {
		t.Run(name, func(t *testing.T) {
			path := files.Temp(t, "s.yaml", strings.TrimPrefix(c.text, "\n"))
			if _, err := lab.LoadScenario(path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if _, err := lab.LoadScenario("outrage"); err == nil || !strings.Contains(err.Error(), `no scenario "outrage"; the built-in scenarios are bad-endpoint, bad-instance, brownout`) {
		t.Errorf("an unknown name: got %v, want an error with the built-in names", err)
	}
}
