package lab_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// simulate runs an experiment on a virtual clock.
func simulate(t *testing.T, e lab.Experiment) *lab.Result {
	t.Helper()
	var result *lab.Result
	synctest.Test(t, func(t *testing.T) {
		var err error
		if result, err = e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return result
}

// builtin returns a scenario whose disturbance is moved to start at at, so that tests take less
// time.
func builtin(t *testing.T, name string, at time.Duration) lab.Scenario {
	t.Helper()
	s, err := lab.LoadScenario(name)
	if err != nil {
		t.Fatal(err)
	}
	earlier := s.Disturbance.At - at
	s.Disturbance.At -= earlier
	for i := range s.Upstream.Phases {
		s.Upstream.Phases[i].At -= earlier
	}
	if s.Load.Surge != nil {
		s.Load.Surge.At -= earlier
	}
	if s.Load.Herd != nil {
		s.Load.Herd.At -= earlier
	}
	s.Length = s.Disturbance.End() + 12*time.Second
	return s
}

// steady returns a scenario without faults, changed by change. Its disturbance is from 1 s to 2 s.
func steady(change func(*lab.Scenario)) lab.Scenario {
	var s lab.Scenario
	s.SetDefaults()
	s.Name, s.Length, s.Disturbance = "steady", 10*time.Second, lab.Span{At: time.Second, For: time.Second}
	s.Upstream.Faults.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: 10 * time.Millisecond}
	change(&s)
	return s
}

// phase returns a phase of all instances.
func phase(at, length time.Duration, change func(*lab.Phase)) lab.Phase {
	p := lab.Phase{Window: faults.Window{At: at, For: length}}
	change(&p)
	return p
}

// statistics skips tests that need very many calls for meaningful figures under the race detector.
// It is ten times slower, and other tests run the same code with fewer calls.
func statistics(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("makes very many calls")
	}
}

func load(rate float64, seed uint64) lab.Load {
	l := lab.DefaultLoad()
	l.Rate, l.Seed = rate, seed
	return l
}

// rungOf returns a policy of the ladder for the default policy.
func rungOf(t *testing.T, name string) transport.Policy {
	t.Helper()
	for _, r := range lab.Ladder(transport.DefaultPolicy()) {
		if r.Name == name {
			return r.Policy
		}
	}
	t.Fatalf("no rung %q", name)
	return transport.Policy{}
}

// changes records the transitions of circuits.
type changes struct {
	mu  sync.Mutex
	all []change
}

type change struct {
	client int
	resilience.Transition
}

func (c *changes) add(client int, t resilience.Transition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, change{client, t})
}

// of returns the transitions of one client's circuit.
func (c *changes) of(client int) []change {
	return slices.DeleteFunc(slices.Clone(c.all), func(x change) bool { return x.client != client })
}

// simulateAt is simulate for clients that record when calls begin.
func simulateAt(t *testing.T, w *waits, e lab.Experiment) *lab.Result {
	t.Helper()
	var result *lab.Result
	synctest.Test(t, func(t *testing.T) {
		w.start = time.Now()
		var err error
		if result, err = e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return result
}
