package rival_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// folk is the setting of a mesh that most examples show.
const folk = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - route: [{destination: {host: ratings}}]
      timeout: 10s
      retries: {attempts: 3, perTryTimeout: 2s, retryOn: "5xx,reset,connect-failure,refused-stream"}
`

// The upstream hangs for ten seconds at a load of a quarter of its capacity. The retries of the
// usual mesh setting keep it down for ever. Those of Rebound's default policy do not.
func TestFolkMeshNeverRecovers(t *testing.T) {
	if testing.Short() {
		t.Skip("makes very many calls")
	}
	t.Parallel()
	imported, err := foreign.Import("", "folk.yaml", []byte(folk))
	if err != nil {
		t.Fatal(err)
	}
	mesh := rival.New(imported.Policies[0])
	for _, c := range []struct {
		name     string
		client   func(lab.ClientOptions) (lab.Client, error)
		rate     float64
		from, to float64 // the recovery in seconds; -1 = never
	}{
		{"mesh", mesh, 225, 30, 45},
		{"mesh", mesh, 250, -1, -1},
		{"Rebound's default", nil, 250, 0, 4},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s, %v calls a second, seed %d", c.name, c.rate, seed+1), func(t *testing.T) {
				t.Parallel()
				load := lab.DefaultLoad()
				load.Rate, load.Seed, load.Length = c.rate, seed+1, 95*time.Second
				r := simulate(t, lab.Experiment{
					Policy: transport.DefaultPolicy(), Client: c.client, Scenario: scenario(t, "outage-hanging"), Load: load,
				})
				recovery := -1.0
				if r.RecoveryS != nil {
					recovery = *r.RecoveryS
				}
				if recovery < c.from || recovery > c.to {
					t.Errorf("recovery after %v s, want %v to %v (-1: never)", recovery, c.from, c.to)
				}
			})
		}
	}
}

// The same seed gives the same figures, on any number of processors. So no test runs beside it.
func TestSameSeedSameFigures(t *testing.T) {
	waits := foreign.Policy{
		Name: "waits", Timeout: 3 * time.Second, TryTimeout: 500 * time.Millisecond,
		Retry: foreign.Retry{
			MaxAttempts: 4, OtherEndpoint: true,
			Backoff: foreign.Backoff{Kind: foreign.BackoffFixed, Base: 50 * time.Millisecond, Jitter: foreign.JitterEqual},
			On:      foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 500, High: 599}}, Connect: true, Timeout: true, Limited: true, BreakerOpen: true},
			Budget:  foreign.Budget{Kind: foreign.BudgetInFlight, Percent: 50, Min: 3},
		},
		Breakers: []foreign.Breaker{{
			Scope: foreign.ScopeEndpoint, ConsecutiveFailures: 5, OpenFor: 2 * time.Second, MaxEjected: 0.7, OpenJitter: 0.2,
			Counts: foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 500, High: 599}}, Timeout: true},
		}},
		Concurrency: foreign.Concurrency{MaxRequests: 8, MaxPending: 4},
		RateLimit:   foreign.RateLimit{Calls: 30, Per: time.Second, MaxWait: 200 * time.Millisecond},
	}
	hedges := foreign.Policy{
		Name: "hedges", Timeout: 2 * time.Second,
		Retry: foreign.Retry{
			MaxAttempts: 1, On: foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 500, High: 599}}, Connect: true},
			Budget: foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 20, Cost: 1, Refill: 0.2},
		},
		Hedge: foreign.Hedge{MaxAttempts: 3, Delay: 50 * time.Millisecond},
		Breakers: []foreign.Breaker{{
			Scope: foreign.ScopeEndpoint, FailureRatio: 0.5, MinCalls: 5, Window: 2 * time.Second, FixedWindow: true, CheckEvery: 2 * time.Second,
			OpenFor: 3 * time.Second, Growth: foreign.GrowthLinear, MaxEjected: 0.5, PanicBelow: 0.5,
			Counts: foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 500, High: 599}}},
		}},
		RateLimit: foreign.RateLimit{Calls: 30, Per: time.Second, Burst: 5, MaxWait: 100 * time.Millisecond, PerCall: true},
	}
	for i, name := range []string{"bad-instance", "outage-hanging", "overload", "bad-instance", "overload"} {
		p := waits
		if i > 2 {
			p = hedges
		}
		var first string
		for _, processors := range []int{1, 2, 4} {
			old := runtime.GOMAXPROCS(processors)
			load := lab.Load{Rate: 200, Clients: 8, Capacity: 300, Seed: 5, Length: 70 * time.Second}
			r := simulate(t, lab.Experiment{Client: rival.New(p), Scenario: scenario(t, name), Load: load})
			runtime.GOMAXPROCS(old)
			figures := fmt.Sprintf("%+v %+v %v %v %v", r.Before, r.After, r.Calls, r.Attempts, r.Series)
			if first == "" {
				first = figures
			}
			if figures != first {
				t.Fatalf("policy %s, scenario %s: the run on %d processors has other figures than that on 1", p.Name, name, processors)
			}
		}
	}
}
