package lab

import (
	"fmt"
	"slices"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Cell is one point of the do-no-harm grid: a scenario under a load.
type Cell struct {
	Scenario Scenario
	Load     Load
	// Partial reports whether a part of the attempts fails whatever the load.
	Partial bool
}

// The limits of the do-no-harm gate.
const (
	// HarmGoodput is the least goodput with the policy, as a share of that of one attempt without
	// any policy. It counts the calls that begin from the disturbance on. If every instance hangs
	// in the disturbance, it counts only those that begin after it: without a policy the last calls
	// of the hang wait until the upstream goes on, and a policy that refuses them cannot know that
	// it will.
	HarmGoodput = 0.95
	// HarmAmplification is the most attempts per call in any second.
	HarmAmplification = 1.3
	// HarmPartial is the same while a part of the attempts fails whatever the load. A policy that
	// saves 97 % of the calls when 30 % of the attempts fail makes 1.39 attempts per call.
	HarmPartial = 1.5
	// harmIdle is the number of attempts a second, as a share of the capacity, that no upstream
	// minds, however many of them are retries.
	harmIdle = 0.35
)

// Harm compares a policy with one attempt without any policy in one cell.
type Harm struct {
	Scenario string  `json:"scenario"`
	OfLoad   float64 `json:"ofCapacity"` // the rate of calls as a share of the capacity
	Clients  int     `json:"clients"`
	// With and Without are the shares of calls that end well from the disturbance on, or after it
	// if every instance hangs in it.
	With    float64 `json:"with"`
	Without float64 `json:"without"`
	// Peak is the largest amplification in any second, and Allowed what the gate allows. Seconds
	// in which an upstream has little to do do not count.
	Peak    float64 `json:"peakAmplification"`
	Allowed float64 `json:"allowedAmplification"`
}

// Kept returns the goodput with the policy as a share of that without one; 1 if both are 0.
func (h Harm) Kept() float64 {
	if h.Without == 0 {
		return 1
	}
	return h.With / h.Without
}

// Broken reports whether the policy does harm.
func (h Harm) Broken() bool { return h.Kept() < HarmGoodput || h.Peak > h.Allowed }

// Badness orders results from the worst to the best: it is 1 at the gate's limits.
func (h Harm) Badness() float64 {
	return max(HarmGoodput/max(h.Kept(), 1e-9), h.Peak/h.Allowed)
}

// NoPolicy returns the policy to compare with: one attempt, with p's timeouts.
func NoPolicy(p transport.Policy) transport.Policy {
	p.Retry.MaxAttempts = 1
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0 // disables the circuit
	p.Concurrency, p.RateLimit = resilience.ConcurrencyPolicy{Max: -1}, resilience.RateLimitPolicy{}
	return p
}

// harmCapacity is the capacity of the modelled upstream, in calls per second.
const harmCapacity = 1000

// HarmGrid returns the cells of the gate. With every above 1, it is only every so many-th one.
func HarmGrid(every int) ([]Cell, error) {
	scenarios, err := harmScenarios()
	if err != nil {
		return nil, err
	}
	loads, clientCounts := []float64{0.1, 0.5, 0.9, 1.2, 1.5}, []int{1, 20, 250}
	var all []Cell
	for _, s := range scenarios {
		for _, ofCapacity := range loads {
			if s.Load.Surge != nil && ofCapacity > 0.9 {
				continue // the surge sets the load
			}
			for _, clients := range clientCounts {
				all = append(all, Cell{s, Load{Rate: ofCapacity * harmCapacity, Clients: clients, Capacity: harmCapacity, Seed: 1}, partial(s)})
			}
		}
	}
	if every <= 1 {
		return all, nil
	}
	var some []Cell
	for i := 0; i < len(all); i += every {
		some = append(some, all[i])
	}
	return some, nil
}

func harmScenarios() ([]Scenario, error) {
	var all []Scenario
	for _, name := range Names() {
		s, err := LoadScenario(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	latency := faults.Latency{Distribution: faults.DistributionLognormal, Median: 10 * time.Millisecond, P99: 50 * time.Millisecond}
	disturbed := func(name string, change func(*Scenario)) {
		var s Scenario
		s.SetDefaults()
		s.Name, s.Disturbance, s.Length = name, Span{30 * time.Second, 30 * time.Second}, 2*time.Minute
		s.Upstream.Faults.Latency = latency
		change(&s)
		all = append(all, s)
	}
	phase := func(w faults.Window) Phase {
		w.At, w.For = 30*time.Second, 30*time.Second
		return Phase{Window: w}
	}
	for percent := 0; percent <= 70; percent += 10 {
		disturbed(fmt.Sprintf("errors-%d", percent), func(s *Scenario) {
			s.Upstream.Phases = []Phase{phase(faults.Window{ErrorRate: new(float64(percent) / 100)})}
		})
	}
	for _, queue := range []time.Duration{0, 500 * time.Millisecond} {
		for _, load := range []float64{1.2, 2, 2.5} {
			disturbed(fmt.Sprintf("shedding-%d-queue-%v", int(load*100), queue), func(s *Scenario) {
				s.Upstream.Queue = queue
				s.Load.Surge = &Surge{Span: s.Disturbance, OfCapacity: load}
			})
		}
	}
	for _, resolve := range []endpoint.Resolve{endpoint.ResolveNone, endpoint.ResolveDNS} {
		for sick := 1; sick <= 2; sick++ {
			for _, fault := range []string{"error", "hang"} {
				disturbed(fmt.Sprintf("%d-of-3-%s-%s", sick, fault, resolve), func(s *Scenario) {
					s.Upstream.Instances, s.Upstream.Endpoints.Resolve = 3, resolve
					for i := range sick {
						p := phase(faults.Window{ErrorRate: new(1.0)})
						if fault == "hang" {
							p = phase(faults.Window{HangRate: new(1.0)})
						}
						p.Instance = i + 1
						s.Upstream.Phases = append(s.Upstream.Phases, p)
					}
				})
			}
		}
	}
	for i := range all {
		all[i] = all[i].sooner(harmTail)
	}
	return all, nil
}

// harmTail is how long the harm of a disturbance counts after its end.
const harmTail = 14 * time.Second

// sooner returns s with less time before its disturbance, and at most tail after it, to save time.
func (s Scenario) sooner(tail time.Duration) Scenario {
	const lead = 11 * time.Second
	by := s.Disturbance.At - lead
	if by <= 0 {
		return s
	}
	s.Disturbance.At -= by
	s.Upstream.Phases = slices.Clone(s.Upstream.Phases)
	for i := range s.Upstream.Phases {
		p := &s.Upstream.Phases[i]
		if p.At -= by; p.At < 0 { // it begins before the part that is left
			p.At, p.For = 0, p.For+p.At
		}
	}
	if s.Load.Surge != nil {
		surge := *s.Load.Surge
		surge.At -= by
		s.Load.Surge = &surge
	}
	if s.Load.Herd != nil {
		herd := *s.Load.Herd
		herd.At -= by
		s.Load.Herd = &herd
	}
	s.Length = min(s.Length-by, s.Disturbance.End()+tail)
	return s
}

// Compare returns the harm that a policy did in the cell. with is the policy's result, and without
// that of [NoPolicy].
func (c Cell) Compare(with, without *Result) Harm {
	share := func(r *Result) float64 {
		if hangs(c.Scenario) {
			return float64(r.After.OK) / float64(max(1, r.After.Calls))
		}
		return float64(r.During.OK+r.After.OK) / float64(max(1, r.During.Calls+r.After.Calls))
	}
	h := Harm{
		Scenario: c.Scenario.Name, OfLoad: c.Load.Rate / c.Load.Capacity, Clients: c.Load.Clients,
		With: share(with), Without: share(without), Allowed: HarmAmplification,
	}
	if c.Partial {
		h.Allowed = HarmPartial
	}
	for _, s := range with.Series {
		if float64(s.Attempts) <= harmIdle*c.Load.Capacity || s.Offered == 0 {
			continue
		}
		h.Peak = max(h.Peak, float64(s.Attempts)/float64(s.Offered))
	}
	return h
}

// hangs reports whether all instances hang during the whole disturbance.
func hangs(s Scenario) bool {
	for _, p := range s.Upstream.Phases {
		if p.Instance == 0 && p.At == s.Disturbance.At && p.For == s.Disturbance.For &&
			(p.HangRate != nil && *p.HangRate == 1 || p.Working != nil && *p.Working == 0 && p.WorkingAtEnd == nil) {
			return true
		}
	}
	return false
}

// partial reports whether a part of the attempts fails whatever the load: errors by chance, some of
// several instances, or an upstream without a queue.
func partial(s Scenario) bool {
	if s.Upstream.Queue == 0 {
		return true
	}
	for _, p := range s.Upstream.Phases {
		if p.Instance > 0 || p.ErrorRate != nil && *p.ErrorRate > 0 && *p.ErrorRate < 1 {
			return true
		}
	}
	return false
}
