package callgraph_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The famous product: three tiers that make three attempts each cause 27 attempts at the bottom for
// one call. Tiers that pass on no deadline go on for callers that have left.
func TestThreeTiersOfThreeAttempts(t *testing.T) {
	statistics(t)
	t.Parallel()
	g := tiers(t, 100, 1000, 3000, 250)
	g.Length = 40 * time.Second
	g.PassOn = callgraph.PassOn{}
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed+1), func(t *testing.T) {
			t.Parallel()
			e := under(g, naive(time.Second))
			e.Seed = seed + 1
			threeTiersOfThreeAttempts(t, run(t, e))
		})
	}
}

func threeTiersOfThreeAttempts(t *testing.T, r *callgraph.Result) {
	t.Helper()
	if got := r.Front().Before.Success; got < 0.95 {
		t.Errorf("got %.3f success before the outage, want almost 1", got)
	}
	for i, want := range []float64{3, 9, 27} {
		if got := r.Services[i].PerEntry.Peak; got < 25.0/27*want || got > want {
			t.Errorf("%s: got %.2f attempts per call of the entry in the worst second, want from %.1f to %v", r.Services[i].Name, got, 25.0/27*want, want)
		}
		if got := r.Services[i].PerCall.Peak; got < 2.4 || got > 3 {
			t.Errorf("%s: got %.2f attempts per call in the worst second, want almost 3", r.Services[i].Name, got)
		}
	}
	// The same load in attempts that arrive, in the last seconds of the outage.
	front, bottom := r.Front(), r.Worst()
	var calls, attempts uint32
	for i := 26; i < 30; i++ {
		calls, attempts = calls+front.Series[i].Calls, attempts+bottom.Series[i].Attempts
	}
	if got := float64(attempts) / float64(calls); bottom.Name != "database" || got < 25 {
		t.Errorf("%s: got %.2f attempts per call of the entry at the end of the outage, want the database, and almost 27", bottom.Name, got)
	}
	if r.Front().RecoveryS != nil {
		t.Errorf("the entry recovers after %v s, want never", *r.Front().RecoveryS)
	}
}

// With Rebound's default on every call there is no storm, and service is good again soon: also if
// every tier has 85 % load.
func TestThreeTiersUnderTheDefaultPolicy(t *testing.T) {
	statistics(t)
	t.Parallel()
	for name, c := range map[string]struct {
		passOn   callgraph.PassOn
		capacity float64 // of the tiers above the bottom
	}{
		"the bottom is busy":                    {callgraph.PassOn{Deadline: true}, 4000},
		"all tiers are busy":                    {callgraph.PassOn{Deadline: true}, 500},
		"all tiers are busy, nothing passed on": {callgraph.PassOn{}, 500},
		"all tiers are busy, all passed on":     {callgraph.PassOn{Deadline: true, Attempts: true}, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := tiers(t, 425, c.capacity, c.capacity, 500)
			g.Length, g.PassOn = 45*time.Second, c.passOn
			r := run(t, callgraph.Experiment{Graph: g, Seed: 1})
			for _, s := range r.Services {
				if s.PerEntry.Peak > 1.3 || s.PerCall.Peak > 1.3 {
					t.Errorf("%s: got %.2f attempts per call of the entry and %.2f per call in the worst second, want at most 1.3", s.Name, s.PerEntry.Peak, s.PerCall.Peak)
				}
				for i, second := range s.Series {
					if got := float64(second.Attempts) / float64(r.Front().Series[i].Calls); got > 1.3 {
						t.Errorf("%s: got %.2f attempts per call of the entry in second %d, want at most 1.3", s.Name, got, i)
					}
				}
			}
			if front := r.Front(); front.RecoveryS == nil || *front.RecoveryS > 3 || front.During.Success > 0.2 {
				t.Errorf("got recovery %v s and %.1f %% success in the outage, want at most 3 s and almost none", front.RecoveryS, 100*front.During.Success)
			}
		})
	}
}

// busy is a graph with everything in it.
func busy(t *testing.T) callgraph.Experiment {
	t.Helper()
	g := tiers(t, 40, 400, 400, 250)
	side := service("side", 1000)
	side.Faults.ErrorRate = 0.1
	side.Faults.Latency = faults.Latency{Distribution: faults.DistributionLognormal, Median: 8 * time.Millisecond, P99: 40 * time.Millisecond}
	g.Services = append(g.Services, side)
	front := &g.Services[0]
	front.Calls = append(front.Calls,
		callgraph.Call{To: "side", Times: 2, Parallel: true, Probability: 0.5, Optional: true, Policy: "istio"},
		callgraph.Call{To: "side", Times: 1, Probability: 1, Pause: time.Millisecond})
	// Calls of one client that begin at once compete for its rate limit.
	limited := naive(500 * time.Millisecond).Own
	limited.RateLimit = resilience.RateLimitPolicy{PerSecond: 20, Burst: 2}
	front.Calls = append(front.Calls, callgraph.Call{To: "side", Times: 4, Parallel: true, Probability: 1, Optional: true, Policy: "limited"})
	front.PassOn = &callgraph.PassOn{Deadline: true}
	front.Autoscaler = &callgraph.Autoscaler{Target: 0.1, Min: 5, Max: 14, Period: 3 * time.Second, Delay: time.Second}
	g.Services[2].Liveness = &callgraph.Liveness{Period: 2 * time.Second, Timeout: time.Second, Failures: 3, Restart: time.Second}
	g.Services[2].Readiness = &callgraph.Readiness{Period: time.Second, Timeout: 500 * time.Millisecond, Failures: 2, Successes: 2}
	for i := range g.Services[1:] {
		g.Services[i+1].Endpoints.Resolve, g.Services[i+1].Endpoints.Refresh = endpoint.ResolveDNS, time.Second
	}
	g.Services[1].Phases = []lab.Phase{{Window: faults.Window{At: 10 * time.Second, For: 5 * time.Second}, Instance: 2, Gone: true}}
	g.Services[3].Phases = []lab.Phase{{Window: faults.Window{At: 15 * time.Second, For: 10 * time.Second, ErrorRate: new(1.0)}, Instance: 4}}
	g.Length = 38 * time.Second
	e := under(g, naive(500*time.Millisecond))
	e.Graph.PassOn = callgraph.PassOn{Attempts: true}
	e.Graph.Policies["limited"] = callgraph.Source{Inline: &limited}
	e.Graph.Policies["istio"] = callgraph.Source{File: "istio.yaml"}
	e.Policies["istio"] = callgraph.Policy{Client: rival.New(foreign.Policy{
		Name: "istio", Timeout: time.Second, TryTimeout: 300 * time.Millisecond,
		Retry: foreign.Retry{
			MaxAttempts: 3, On: foreign.Conditions{Timeout: true, Reset: true, Connect: true, Statuses: []foreign.StatusRange{{Low: 500, High: 599}}},
			Backoff: foreign.Backoff{Kind: foreign.BackoffEnvoy, Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Jitter: foreign.JitterFull},
		},
	})}
	return e
}

// The same seed gives the same figures, on any number of processors.
func TestSameSeedSameFigures(t *testing.T) {
	e := busy(t)
	figures := map[int]string{}
	for _, processors := range []int{1, 2, 2} {
		old := runtime.GOMAXPROCS(processors)
		text, err := json.Marshal(run(t, e))
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		figures[processors] = string(text)
		if figures[1] != figures[processors] {
			t.Errorf("the figures of %d processors differ from those of 1:\n%s", processors, firstDifference(figures[1], figures[processors]))
		}
	}
	e.Seed++
	if text, err := json.Marshal(run(t, e)); err != nil || figures[1] == string(text) {
		t.Errorf("another seed gives the same figures (error %v), want others", err)
	}
}

func firstDifference(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-100)
	return a[from:min(len(a), i+100)] + "\n" + b[from:min(len(b), i+100)]
}

// Calls arrive as often as the graph says.
func TestVisits(t *testing.T) {
	t.Parallel()
	g := graph(100, service("a", 0), service("b", 0, "d"), service("c", 0), service("d", 0))
	g.Services[0].Calls = []callgraph.Call{
		{To: "b", Times: 3, Probability: 1}, {To: "c", Times: 2, Probability: 0.25, Parallel: true}, {Pause: 20 * time.Millisecond, Times: 1, Probability: 1},
	}
	r := run(t, callgraph.Experiment{Graph: g, Seed: 1})
	calls := func(i int) float64 {
		return float64(r.Services[i].Before.Calls + r.Services[i].During.Calls + r.Services[i].After.Calls)
	}
	for i, want := range []float64{1, 3, 0.5, 3} {
		if got := calls(i) / calls(0); got < 0.9*want || got > 1.1*want || r.Services[i].Visits != want {
			t.Errorf("%s: got %.3f calls per call of the entry, and %v announced, want %v", r.Services[i].Name, got, r.Services[i].Visits, want)
		}
		if s := r.Services[i]; s.After.Success != 1 || s.PerCall.Peak != 1 {
			t.Errorf("%s: got %v success and %v attempts, want 1 and 1", s.Name, s.After.Success, s.PerCall.Peak)
		}
	}
	// a works for 40 ms, then calls b three times, which calls d, then pauses.
	if p50 := r.Front().After.P50; p50 < 300 || p50 > 312 {
		t.Errorf("p50 is %v ms, want 40 + 3·(40+40) + 20 ms and the way", p50)
	}
}

// A service whose calls fail answers with an error, unless they are optional.
func TestFailuresSpread(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*callgraph.Graph)
		want   float64 // success of the entry
	}{
		"required":        {func(*callgraph.Graph) {}, 0.5},
		"optional":        {func(g *callgraph.Graph) { g.Services[0].Calls[0].Optional = true }, 1},
		"two in sequence": {func(g *callgraph.Graph) { g.Services[0].Calls[0].Times = 2 }, 0.25},
		"two in parallel": {func(g *callgraph.Graph) { g.Services[0].Calls[0].Times, g.Services[0].Calls[0].Parallel = 2, true }, 0.25},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := graph(50, service("a", 0, "b"), service("b", 0))
			g.Services[1].Faults.ErrorRate = 0.5
			g.Policy = callgraph.PolicyNone
			c.change(&g)
			if got := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Front().After.Success; got < c.want-0.05 || got > c.want+0.05 {
				t.Errorf("got %.3f success, want %v", got, c.want)
			}
		})
	}
}

// A passed deadline ends work for callers that have left.
func TestDeadlineIsPassedOn(t *testing.T) {
	t.Parallel()
	calls := func(passOn callgraph.PassOn) (bottom, wasted uint64) {
		g := graph(50, service("a", 0, "b"), service("b", 0, "c"), service("c", 0))
		g.PassOn = passOn
		g.Services[1].Faults.Latency.Value = 2 * time.Second
		e := under(g, naive(time.Second))
		r := run(t, e)
		return r.Services[2].After.Calls, r.Services[1].Wasted
	}
	if bottom, _ := calls(callgraph.PassOn{Deadline: true}); bottom != 0 {
		t.Errorf("got %d calls of c for callers that had left, want none", bottom)
	}
	if bottom, wasted := calls(callgraph.PassOn{}); bottom == 0 || wasted == 0 {
		t.Errorf("got %d calls of c, and %d calls of b for nothing, want some without a deadline", bottom, wasted)
	}
}

// Passed attempts keep Rebound's pipeline from retrying a retry.
func TestAttemptsArePassedOn(t *testing.T) {
	t.Parallel()
	peak := func(passOn callgraph.PassOn) float64 {
		g := tiers(t, 20, 0, 0, 250)
		g.Length = 35 * time.Second
		g.PassOn = passOn
		return run(t, under(g, naive(time.Second))).Services[2].PerEntry.Peak
	}
	// The first attempt of the first attempt makes three, the other two of both tiers one each.
	if got := peak(callgraph.PassOn{Attempts: true}); got > 7 || got < 4 {
		t.Errorf("got %.1f attempts, want 3 + 2 + 2", got)
	}
	if got := peak(callgraph.PassOn{}); got < 22 {
		t.Errorf("got %.1f attempts, want almost 27", got)
	}
}

// The autoscaler adds instances for a higher load, and they serve after the delay. It takes
// instances away only after the stabilization.
func TestAutoscaler(t *testing.T) {
	t.Parallel()
	g := graph(180, service("a", 100))
	g.Services[0].Instances = 5
	g.Services[0].Autoscaler = &callgraph.Autoscaler{Target: 0.6, Min: 2, Max: 40, Period: 5 * time.Second, Delay: 10 * time.Second, Stabilization: time.Minute}
	g.Length = 2 * time.Minute
	r := run(t, callgraph.Experiment{Graph: g, Seed: 1})
	a := r.Services[0]
	if got := a.Series[13].Instances; got != 5 {
		t.Errorf("got %d instances before the first new one serves, want 5", got)
	}
	// 180 calls/s of 20 calls/s each, at 60 %
	if got := a.Series[119].Instances; got < 14 || got > 18 || a.Series[119].Goodput < 150 {
		t.Errorf("got %d instances and %d calls that end well at the end, want 15, a few more or less, and all", got, a.Series[119].Goodput)
	}
	g.Load.Rate = 10
	r = run(t, callgraph.Experiment{Graph: g, Seed: 1})
	series := r.Services[0].Series
	if series[55].Instances != 5 || series[119].Instances != 2 {
		t.Errorf("got %d instances within the stabilization and %d after it, want 5 and 2", series[55].Instances, series[119].Instances)
	}
}

// An overload makes instances fail their readiness probes. Their workers are busy, so the
// autoscaler adds instances all the same, and the load is served in the end.
func TestAutoscalerUnderOverload(t *testing.T) {
	t.Parallel()
	g := graph(400, service("a", 200))
	g.Services[0].Autoscaler = &callgraph.Autoscaler{Target: 0.6, Min: 2, Max: 40, Period: 5 * time.Second, Delay: 10 * time.Second, Stabilization: time.Minute}
	g.Services[0].Readiness = &callgraph.Readiness{Period: 2 * time.Second, Timeout: time.Second, Failures: 2, Successes: 1}
	g.Policy = callgraph.PolicyNone
	a := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	if end := a.Series[55]; end.Instances < 30 || end.Goodput < 330 {
		t.Errorf("got %d instances and %d calls that end well, want those for 400 calls/s of 20 each at 60 %%, and all", end.Instances, end.Goodput)
	}
}

// An instance that hangs is restarted, and the restart cures it.
func TestLiveness(t *testing.T) {
	t.Parallel()
	g := graph(100, service("a", 200))
	none := 0.0
	g.Services[0].Phases = []lab.Phase{{Window: faults.Window{At: 20 * time.Second, For: 40 * time.Second}, Instance: 3, Working: &none}}
	g.Disturbance.For = 25 * time.Second
	g.Policy = callgraph.PolicyNone
	ill := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	g.Services[0].Liveness = &callgraph.Liveness{Period: 5 * time.Second, Timeout: time.Second, Failures: 3, Restart: 2 * time.Second}
	cured := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	if ill.Restarts != 0 || cured.Restarts != 1 {
		t.Errorf("got %d restarts without liveness and %d with it, want 0 and 1", ill.Restarts, cured.Restarts)
	}
	if ill.After.Success > 0.95 || cured.After.Success != 1 {
		t.Errorf("got %.3f success in the end without liveness and %.3f with it, want 0.9 and 1", ill.After.Success, cured.After.Success)
	}
	down := 0
	for _, s := range cured.Series {
		if s.Instances == 9 {
			down++
		}
	}
	if down < 1 || down > 3 {
		t.Errorf("got %d seconds with 9 instances, want 2", down)
	}
}

// hanging is a graph of one service, of which one instance of ten hangs from 20 s to 60 s.
func hanging() callgraph.Graph {
	g := graph(100, service("a", 200))
	g.Services[0].Phases = []lab.Phase{{Window: faults.Window{At: 20 * time.Second, For: 40 * time.Second}, Instance: 3, Working: new(float64)}}
	g.Disturbance.For, g.Length = 40*time.Second, 75*time.Second
	g.Policy = callgraph.PolicyNone
	return g
}

// An instance that hangs gets no calls once it fails its readiness probes, and gets them again when
// it passes one. If no instance is ready, connections are refused.
func TestReadiness(t *testing.T) {
	t.Parallel()
	g := hanging()
	without := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	g.Services[0].Readiness = &callgraph.Readiness{Period: 2 * time.Second, Timeout: time.Second, Failures: 2, Successes: 1}
	with := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	if without.During.Success > 0.92 || with.During.Success < 0.97 {
		t.Errorf("got %.3f success in the hang without readiness and %.3f with it, want 0.9 and almost 1", without.During.Success, with.During.Success)
	}
	for second, want := range map[int]int{19: 10, 28: 9, 59: 9, 64: 10} {
		if got := with.Series[second].Instances; got != want {
			t.Errorf("got %d instances in second %d, want %d", got, second, want)
		}
	}

	g.Services[0].Phases[0].Instance = 0
	none := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	if s := none.Series[50]; s.Instances != 0 || s.Goodput != 0 {
		t.Errorf("got %d instances and %d calls that end well in second 50, want none", s.Instances, s.Goodput)
	}
	if s := none.Series[74]; s.Instances != 10 || s.Goodput < 50 {
		t.Errorf("got %d instances and %d calls that end well at the end, want all", s.Instances, s.Goodput)
	}
}

// Clients that know the endpoints leave out one that hangs: they prefer those that answer, and
// eject it when it fails all the same.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	for name, resolve := range map[string]endpoint.Resolve{"DNS": endpoint.ResolveDNS, "a list": endpoint.ResolveStatic} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := hanging()
			g.Services[0].Endpoints.Resolve = resolve
			r := run(t, callgraph.Experiment{Graph: g, Seed: 1})
			if got := r.Services[0].During.Success; got < 0.97 || r.Edges[0].Ejections < 1 {
				t.Errorf("got %.3f success in the hang and %d ejections, want almost 1 and some", got, r.Edges[0].Ejections)
			}
		})
	}
}

// An instance that is gone comes back under another address, which clients find in DNS. They keep
// to an old address no longer than until the next lookup.
func TestGoneInstance(t *testing.T) {
	t.Parallel()
	g := graph(100, service("a", 200))
	g.Services[0].Endpoints.Resolve = endpoint.ResolveDNS
	g.Services[0].Phases = []lab.Phase{{Window: faults.Window{At: 20 * time.Second, For: 10 * time.Second}, Instance: 3, Gone: true}}
	a := run(t, callgraph.Experiment{Graph: g, Seed: 1}).Services[0]
	if a.During.Success != 1 || a.After.Success != 1 {
		t.Errorf("got %.3f success while an instance is gone and %.3f after it, want 1: refused connections are tried elsewhere", a.During.Success, a.After.Success)
	}
	for second := 35; second < 60; second++ {
		if s := a.Series[second]; s.Attempts > s.OfCalls+5 || s.Calls > 0 && s.P99 > 1000 {
			t.Errorf("second %d: got %+v, want one attempt a call", second, s)
		}
	}
}

// Clients learn of an instance that restarts or is scaled away from DNS, and from connections that
// it refuses.
func TestEndpointsThatRestart(t *testing.T) {
	t.Parallel()
	g := hanging()
	g.Services[0].Endpoints.Resolve = endpoint.ResolveDNS
	g.Services[0].Liveness = &callgraph.Liveness{Period: 5 * time.Second, Timeout: time.Second, Failures: 3, Restart: 5 * time.Second}
	r := run(t, callgraph.Experiment{Graph: g, Seed: 1})
	if a := r.Services[0]; a.Restarts != 1 || a.After.Success != 1 || a.Series[59].Instances != 10 {
		t.Errorf("got %d restarts, %.3f success after the hang and %d instances, want 1, 1 and 10", a.Restarts, a.After.Success, a.Series[59].Instances)
	}
}

// A run stops within a second when its context ends.
func TestRunStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	synctest.Test(t, func(t *testing.T) {
		e := callgraph.Experiment{Graph: graph(100, service("a", 200)), Seed: 1, Progress: func(passed time.Duration) {
			if passed == 3*time.Second {
				cancel(reason)
			}
		}}
		began := time.Now()
		if _, err := e.Run(ctx); !errors.Is(err, reason) || time.Since(began) > 5*time.Second {
			t.Errorf("got error %v after %v, want %v at once", err, time.Since(began), reason)
		}
	})
}

// The clients of another system must take requests.
func TestForeignClientsTakeRequests(t *testing.T) {
	t.Parallel()
	e := under(graph(100, service("a", 200)), callgraph.Policy{Client: func(lab.ClientOptions) (lab.Client, error) { return nil, nil }})
	synctest.Test(t, func(t *testing.T) {
		if _, err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "policy chosen: its clients, <nil>, take no request") {
			t.Errorf("got error %v, want that the clients take no request", err)
		}
	})
}
