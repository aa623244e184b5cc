package callgraph_test

import (
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // collects about as seldom as the program lab
	leaks.Main(m)
}

// statistics skips tests that make very many calls under the race detector. It is ten times slower,
// and other tests run the same code with fewer calls.
func statistics(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("makes very many calls")
	}
}

// run runs an experiment on a virtual clock.
func run(t *testing.T, e callgraph.Experiment) *callgraph.Result {
	t.Helper()
	var result *callgraph.Result
	synctest.Test(t, func(t *testing.T) {
		var err error
		if result, err = e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	return result
}

// service returns a service of ten instances. Its workers need 40 ms for a call.
func service(name string, capacity float64, calls ...string) callgraph.Service {
	var s callgraph.Service
	s.SetDefaults()
	s.Name, s.Instances, s.Capacity = name, 10, capacity
	s.Faults.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: 40 * time.Millisecond}
	for _, to := range calls {
		var c callgraph.Call
		c.SetDefaults()
		c.To = to
		s.Calls = append(s.Calls, c)
	}
	return s
}

// graph returns a graph with a disturbance from 20 s to 30 s. The first service is the entry.
func graph(rate float64, services ...callgraph.Service) callgraph.Graph {
	var g callgraph.Graph
	g.SetDefaults()
	g.Name, g.Disturbance, g.Services = "test", lab.Span{At: 20 * time.Second, For: 10 * time.Second}, services
	g.Length = 60 * time.Second
	g.Load.Entry, g.Load.Rate = services[0].Name, rate
	return g
}

// tiers returns three tiers of which the bottom one hangs in the disturbance.
func tiers(t *testing.T, rate, top, middle, bottom float64) callgraph.Graph {
	t.Helper()
	g := graph(rate, service("front", top, "middle"), service("middle", middle, "database"), service("database", bottom))
	if err := g.Hang("database"); err != nil {
		t.Fatal(err)
	}
	return g
}

// naive is three attempts at once, and nothing else.
func naive(timeout time.Duration) callgraph.Policy {
	p := lab.NoPolicy(transport.DefaultPolicy())
	p.Timeout, p.AttemptTimeout = time.Minute, timeout
	p.Retry.MaxAttempts = 3
	p.Retry.Budget = resilience.BudgetPolicy{Ratio: 100, Burst: 1e6, FloorPerSecond: 1e6}
	p.Retry.Backoff = resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}
	return callgraph.Policy{Own: p}
}

// under returns an experiment with a policy on every call.
func under(g callgraph.Graph, p callgraph.Policy) callgraph.Experiment {
	g.Policy = "chosen"
	g.Policies = map[string]callgraph.Source{"chosen": {File: "chosen.yaml"}}
	return callgraph.Experiment{Graph: g, Policies: map[string]callgraph.Policy{"chosen": p}, Seed: 1}
}
