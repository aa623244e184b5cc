package rival_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

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

func scenario(t *testing.T, name string) lab.Scenario {
	t.Helper()
	s, err := lab.LoadScenario(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// neutral returns the model of a policy of the ladder without budget and breaker.
func neutral(p transport.Policy) foreign.Policy {
	var statuses []foreign.StatusRange
	for _, code := range p.Retry.Statuses {
		statuses = append(statuses, foreign.StatusRange{Low: code, High: code})
	}
	b := p.Retry.Backoff
	jitter := foreign.Jitter(b.Jitter)
	if b.Jitter == resilience.JitterNone {
		jitter = foreign.JitterNone
	}
	return foreign.Policy{
		Name: "neutral", Timeout: p.Timeout, TryTimeout: p.AttemptTimeout,
		Retry: foreign.Retry{
			MaxAttempts: p.Retry.MaxAttempts,
			Backoff:     foreign.Backoff{Kind: foreign.BackoffExponential, Base: b.Base, Max: b.Max, Factor: b.Factor, Jitter: jitter},
			On:          foreign.Conditions{Statuses: statuses, Connect: true, Reset: true, Timeout: true},
			RetryAfter:  foreign.RetryAfter{Obey: true},
		},
	}
}

// The model of Rebound's plain retry has the figures of the real transport. Scenarios with
// Retry-After are left out: Rebound adds a random time to it, which no other system does.
func TestNeutralModelOfPlainRetry(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"outage", "outage-hanging", "error-rate-30"} {
		for _, rung := range lab.Ladder(transport.DefaultPolicy()) {
			switch rung.Name {
			case "no retry", "immediate retry", "fixed wait", "full jitter":
			default:
				continue
			}
			t.Run(name+"/"+rung.Name, func(t *testing.T) {
				t.Parallel()
				load := lab.Load{Rate: 100, Clients: 10, Capacity: 400, Seed: 3, Length: 100 * time.Second}
				e := lab.Experiment{Policy: rung.Policy, Scenario: scenario(t, name), Load: load}
				want := simulate(t, e)
				e.Client = rival.New(neutral(rung.Policy))
				got := simulate(t, e)
				for what, pair := range map[string][2]float64{
					"attempts a call": {want.Amplification, got.Amplification}, "goodput before": {want.Before.Goodput, got.Before.Goodput},
					"goodput during": {want.During.Goodput, got.During.Goodput}, "goodput after": {want.After.Goodput, got.After.Goodput},
				} {
					if math.Abs(pair[0]-pair[1]) > 0.001*pair[0] {
						t.Errorf("%s: the transport has %v, the model %v, want at most 0.5 %% between them", what, pair[0], pair[1])
					}
				}
			})
		}
	}
}
