package lab_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The disturbance of the scenarios here: from 4 s to 24 s. The time that the clients need to find
// out is not counted.
const (
	badAt  = 4 * time.Second
	badFor = 20 * time.Second
)

// threeEndpoints returns a scenario of three known endpoints. phases disturb them from badAt on,
// and the disturbance is counted from later on.
func threeEndpoints(later time.Duration, phases ...lab.Phase) lab.Scenario {
	return steady(func(s *lab.Scenario) {
		s.Length = badAt + badFor
		s.Disturbance = lab.Span{At: badAt + later, For: badFor - later}
		s.Upstream.Instances = 3
		s.Upstream.Endpoints.Resolve = endpoint.ResolveDNS
		s.Upstream.Faults.Latency = faults.Latency{Distribution: faults.DistributionLognormal, Median: 10 * time.Millisecond, P99: 50 * time.Millisecond}
		s.Upstream.Phases = phases
	})
}

// bad returns a phase of one instance.
func bad(instance int, change func(*lab.Phase)) lab.Phase {
	p := phase(badAt, badFor, change)
	p.Instance = instance
	return p
}

// kinds are the ways in which an endpoint is bad.
func kinds() map[string]func(*lab.Phase) {
	one := 1.0
	return map[string]func(*lab.Phase){
		"503":       func(p *lab.Phase) { p.ErrorRate = &one },
		"hangs":     func(p *lab.Phase) { p.HangRate = &one },
		"slow":      func(p *lab.Phase) { p.Slower = new(100.0) },
		"refuses":   func(p *lab.Phase) { p.Refuse = true },
		"resets":    func(p *lab.Phase) { p.ResetRate = &one },
		"truncates": func(p *lab.Phase) { p.TruncateRate = &one },
	}
}

func perSecond(rate float64, clients int, seed uint64) lab.Load {
	return lab.Load{Rate: rate, Clients: clients, Capacity: 2 * rate, Seed: seed}
}

// shares returns each instance's share of the attempts, and the number of attempts per call.
func shares(p lab.Part) (shares []float64, amplification float64) {
	var all uint64
	for _, n := range p.AttemptsByInstance {
		all += n
	}
	for _, n := range p.AttemptsByInstance {
		shares = append(shares, float64(n)/float64(all))
	}
	return shares, float64(all) / float64(p.Calls)
}

// seeds returns the seeds to try: fewer under the race detector, which is ten times slower.
func seeds() uint64 {
	if testing.Short() {
		return 1
	}
	return 10
}

// healthyP99 returns the p99 of three endpoints that are not disturbed, in milliseconds.
func healthyP99(t *testing.T, l lab.Load) float64 {
	t.Helper()
	return simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: threeEndpoints(0), Load: l}).During.P99
}

// checkSpared checks that the calls notice next to nothing of a bad instance, counted from 0.
func checkSpared(t *testing.T, r *lab.Result, instance int, healthy float64) {
	t.Helper()
	share, amplification := shares(r.During)
	if d := r.During; d.Success < 0.999 || amplification > 1.02 || share[instance] > 0.01 || d.P99 > 1.5*healthy || r.Opened > 0 {
		t.Errorf("seed %d: success %.4f, amplification %.3f, the bad one's share %.4f, p99 %.0f ms, %d circuits opened, want at least 0.999, at most 1.02, 0.01, 1.5 times %.0f ms, and none",
			r.Load.Seed, d.Success, amplification, share[instance], d.P99, r.Opened, healthy)
	}
}

// One bad endpoint of three costs next to nothing, however it is bad.
func TestOneBadEndpoint(t *testing.T) {
	healthy := healthyP99(t, perSecond(500, 1, 1))
	for name, change := range kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			later := 2 * time.Second
			if name == "slow" || name == "hangs" { // it takes a while to notice
				later = 3 * time.Second
			}
			n := seeds()
			if name == "resets" { // much like 503
				n = 1
			}
			for seed := range n {
				r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: threeEndpoints(later, bad(2, change)), Load: perSecond(500, 1, seed+1)})
				checkSpared(t, r, 1, healthy)
			}
		})
	}
}

// Many clients find out one by one. Retries still hide it from the callers.
func TestOneBadEndpointOfManyClients(t *testing.T) {
	statistics(t)
	load := perSecond(500, 10, 1)
	healthy := healthyP99(t, load)
	for name, change := range kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: threeEndpoints(3*time.Second, bad(2, change)), Load: load})
			checkSpared(t, r, 1, healthy)
		})
	}
}

// An endpoint that is bad for three seconds and good for three, in turns.
func TestFlappingEndpoint(t *testing.T) {
	var phases []lab.Phase
	for at := badAt; at < badAt+badFor; at += 6 * time.Second {
		p := bad(2, kinds()["503"])
		p.At, p.For = at, 3*time.Second
		phases = append(phases, p)
	}
	for seed := range seeds() {
		t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
			t.Parallel()
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: threeEndpoints(0, phases...), Load: perSecond(500, 1, seed+1)})
			_, amplification := shares(r.During)
			var whileBad uint32
			for i, s := range r.Series {
				if at := time.Duration(i) * time.Second; at >= badAt && (at-badAt)%(6*time.Second) < 3*time.Second {
					whileBad += s.Attempts
				}
			}
			share := float64(r.Attempts["status_503"]) / float64(whileBad)
			if d := r.During; d.Success < 0.999 || amplification > 1.02 || share > 0.01 || d.P99 > 1.5*r.Before.P99 || r.Opened > 0 {
				t.Errorf("success %.4f, amplification %.3f, the bad one's share while it is bad %.4f, p99 %.0f ms, %d circuits opened, want at least 0.999, at most 1.02, 0.01, 1.5 times %.0f ms, and none",
					d.Success, amplification, share, d.P99, r.Opened, r.Before.P99)
			}
		})
	}
}

// With two of three endpoints bad, the third serves what it can.
func TestTwoBadEndpoints(t *testing.T) {
	for _, name := range []string{"503", "hangs", "refuses"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := threeEndpoints(4*time.Second, bad(2, kinds()[name]), bad(3, kinds()[name]))
			for seed := range seeds() {
				load := perSecond(100, 1, seed+1)
				load.Capacity = 600 // so that one endpoint has room for all
				r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: load})
				share := first(shares(r.During))
				if r.During.Success < 0.999 || share[0] < 0.95 || r.Opened > 0 {
					t.Errorf("seed %d: success %.4f, the good one's share %.4f, %d circuits opened, want at least 0.999, 0.95, and none",
						seed+1, r.During.Success, share[0], r.Opened)
				}
			}
		})
	}
}

// If the calls are more than the good endpoint can serve, it still serves what it can, and the
// upstream's circuit does not take it away.
func TestTwoBadEndpointsAndTooManyCalls(t *testing.T) {
	statistics(t)
	for name, change := range kinds() {
		for _, clients := range []int{1, 20} {
			t.Run(fmt.Sprintf("%s, %d clients", name, clients), func(t *testing.T) {
				t.Parallel()
				s := threeEndpoints(4*time.Second, bad(2, change), bad(3, change))
				r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(500, clients, 1)})
				if capacity := 1000.0 / 3; r.During.Goodput < 0.95*capacity {
					t.Errorf("goodput %.0f/s, want nearly %.0f/s", r.During.Goodput, capacity)
				}
			})
		}
	}
}

// At 90 % load two of three endpoints cannot serve all calls. Many clients find that out each by
// itself, before all calls time out in the queues of the two.
func TestOverloadedEndpointsAreRelieved(t *testing.T) {
	statistics(t)
	t.Parallel()
	s := builtin(t, "bad-endpoint", 5*time.Second)
	l := lab.Load{Rate: 900, Clients: 250, Capacity: 1000, Seed: 1}
	r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: l})
	// Possible are two thirds of the capacity, 74 % of the calls. Without relief it was half.
	if got := float64(r.During.OK) / float64(r.During.Calls); got < 0.6 {
		t.Errorf("%.1f %% of the calls succeed while one endpoint fails, want at least 60 %%", 100*got)
	}
}

// With all endpoints bad, the upstream's circuit opens, and it closes again afterwards.
func TestAllEndpointsBad(t *testing.T) {
	for name, change := range kinds() {
		if name == "slow" || name == "truncates" {
			continue // slow answers are answers; a broken body is no attempt to retry
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := threeEndpoints(0, phase(badAt, 10*time.Second, change))
			s.Disturbance.For, s.Length = 10*time.Second, 30*time.Second
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(500, 1, 1)})
			_, amplification := shares(r.During)
			// The last open period is that of the third failed probe, 4 s ± 20 %. How much of it is
			// left when the endpoints are well again is chance.
			if r.Opened == 0 || amplification > 0.2 || r.RecoveryS == nil || *r.RecoveryS > 4.8 {
				t.Errorf("%d circuits opened, %.3f attempts for a call, recovery %v s, want some, at most 0.2, and at most 4.8 s", r.Opened, amplification, seconds(r.RecoveryS))
			}
		})
	}
}

func seconds(s *float64) string {
	if s == nil {
		return "never"
	}
	return fmt.Sprintf("%.1f", *s)
}

// Equal endpoints get equal shares. Errors that all have in common change nothing about it, because
// then none is ejected.
func TestEndpointsShareTheLoad(t *testing.T) {
	statistics(t)
	for name, phases := range map[string][]lab.Phase{
		"healthy":    nil,
		"bad deploy": {phase(badAt, badFor, func(p *lab.Phase) { rate := 0.7; p.ErrorRate, p.Statuses = &rate, []int{500} })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy := transport.DefaultPolicy()
			policy.Breaker.ConsecutiveFailures, policy.Breaker.FailureRatio = 0, 0 // all attempts count here
			n, most := seeds(), 0.03
			if phases != nil {
				n, most = 3, 0.1 // the last failures differ
			}
			for seed := range n {
				r := simulate(t, lab.Experiment{Policy: policy, Scenario: threeEndpoints(0, phases...), Load: perSecond(500, 1, seed+1)})
				for i, share := range first(shares(r.During)) {
					if share < 1.0/3-most || share > 1.0/3+most {
						t.Errorf("seed %d: endpoint %d gets a share of %.3f, want 0.33 ± %.2f", seed+1, i+1, share, most)
					}
				}
			}
		})
	}
}

func first(shares []float64, _ float64) []float64 { return shares }

// After a deploy one path in three answers 500, from all endpoints. No more of them are out than
// the cap allows, none of the others gets all the load, and the upstream's circuit stays closed.
func TestDeployWithOneBadPath(t *testing.T) {
	statistics(t)
	for seed := range min(seeds(), 3) {
		t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
			t.Parallel()
			s := threeEndpoints(0, phase(badAt, badFor, func(p *lab.Phase) { p.ErrorRate, p.Statuses = new(1.0/3), []int{500} }))
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(500, 1, seed+1)})
			if d := r.During; math.Abs(d.Success-2.0/3) > 0.02 || d.P99 > 5*r.Before.P99 || r.Opened > 0 {
				t.Errorf("success %.4f, p99 %.0f ms, %d circuits opened, want 0.67 ± 0.02, at most 5 times %.0f ms, and none", d.Success, d.P99, r.Opened, r.Before.P99)
			}
			for i, second := range r.Series {
				if second.Ejected > 1 {
					t.Errorf("second %d: %d of three endpoints are out, want at most one", i, second.Ejected)
				}
			}
		})
	}
}

// With the defaults of the program the clients are many, and make few calls each.
func TestBadEndpointScenarios(t *testing.T) {
	statistics(t)
	healthy := healthyP99(t, load(500, 1))
	for _, name := range []string{"bad-endpoint", "hanging-endpoint", "slow-endpoint"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := builtin(t, name, badAt)
			const later = 3 * time.Second
			s.Disturbance.At, s.Disturbance.For = s.Disturbance.At+later, s.Disturbance.For-later
			checkSpared(t, simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: load(500, 1)}), 0, healthy)
		})
	}
}

// An endpoint with half the capacity gets no more than it can serve.
func TestWeakEndpoint(t *testing.T) {
	statistics(t)
	half := 0.5
	load := perSecond(600, 1, 1)
	load.Capacity = 900 // 300 each, 150 for the weak one
	r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: threeEndpoints(0, bad(2, func(p *lab.Phase) { p.Working = &half })), Load: load})
	share := first(shares(r.During))
	if rate := share[1] * 600; rate > 150 || r.During.Success < 0.999 || r.During.P99 > 5*r.Before.P99 {
		t.Errorf("the weak endpoint gets %.0f of 600 calls a second, success %.4f, p99 %.0f ms (before %.0f), want at most 150, at least 0.999, at most 5 times", rate, r.During.Success, r.During.P99, r.Before.P99)
	}
}

// The slowest calls are much faster than with endpoints taken at random, which is no worse than
// round robin: either sends a third of the calls to the slow one.
func TestSlowEndpointAgainstRandom(t *testing.T) {
	statistics(t)
	s := threeEndpoints(3*time.Second, bad(2, kinds()["slow"]))
	known := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(500, 1, 1)})
	s.Upstream.Endpoints.Resolve = endpoint.ResolveNone
	random := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(500, 1, 1)})
	if known.During.P999*5 > random.During.P999 {
		t.Errorf("p999 is %.0f ms, and %.0f ms at random, want at most a fifth", known.During.P999, random.During.P999)
	}
}

// Endpoints that come and go cost no call.
func TestEndpointsComeAndGo(t *testing.T) {
	for _, name := range []string{"rolling-restart", "scale-out"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := lab.LoadScenario(name)
			if err != nil {
				t.Fatal(err)
			}
			s.Length = 70 * time.Second
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: perSecond(200, 1, 1)})
			if r.During.Success < 1 || r.After.Success < 1 || r.Opened > 0 {
				t.Errorf("success %.5f during and %.5f after, %d circuits opened, want 1, 1, and none", r.During.Success, r.After.Success, r.Opened)
			}
			if share := first(shares(r.During)); name == "scale-out" && (share[2] < 0.15 || share[3] < 0.15) {
				t.Errorf("the new endpoints get %.2f and %.2f of the calls, want at least 0.15", share[2], share[3])
			}
		})
	}
}
