package resilience_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestExplainReadsEveryGate(t *testing.T) {
	o := resilience.Outcome{Reason: "status_503", Retry: true, Gates: slices.Values([]resilience.Gate{
		{Name: "method", Shut: true, Reason: resilience.ReasonMethodNotIdempotent},
	})}
	s := resilience.Situation{
		Attempt: 3, Remaining: time.Second, Random: half,
		CircuitOpen: func() bool { return false },
		TakeToken:   func() bool { return false },
	}
	d, gates := resilience.DefaultPolicy().Explain(o, s)
	if d.Verdict != resilience.VerdictGiveUp || d.Reason != resilience.ReasonMethodNotIdempotent {
		t.Errorf("decision = %+v, want give_up with method_not_idempotent", d)
	}
	var names, shut []string
	for _, g := range gates {
		names = append(names, g.Name)
		if g.Shut {
			shut = append(shut, g.Name)
		}
	}
	if want := []string{"time left", "method", "attempts", "Retry-After", "circuit", "concurrency", "deadline", "budget"}; !slices.Equal(names, want) {
		t.Errorf("gates = %q, want %q", names, want)
	}
	if want := []string{"method", "attempts", "budget"}; !slices.Equal(shut, want) {
		t.Errorf("shut gates = %q, want %q", shut, want)
	}
}

func TestPipelineReadsTheGatesUpToTheFirstShutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var read []string
		o := answers("busy")
		o.classify = func(string, error) resilience.Outcome {
			return resilience.Outcome{Reason: "status_503", Retry: true, Gates: func(yield func(resilience.Gate) bool) {
				for _, g := range []resilience.Gate{
					{Name: "open"}, {Name: "shut", Shut: true, Reason: resilience.ReasonUpgrade}, {Name: "behind it"},
				} {
					read = append(read, g.Name)
					if !yield(g) {
						return
					}
				}
			}}
		}
		p := steady()
		p.Retry.Budget = resilience.BudgetPolicy{Burst: 1}
		pl := pipeline(t, p, resilience.Options{})
		_, report, _ := pl.Do(t.Context(), o)
		if want := []string{"open", "shut"}; !slices.Equal(read, want) || report.Reason != resilience.ReasonUpgrade {
			t.Errorf("read %q, reason %s; want %q, upgrade", read, report.Reason, want)
		}
		if got := pl.BudgetTokens(); got != 1 {
			t.Errorf("%v tokens, want 1: the budget's gate is behind the shut one", got)
		}
	})
}

// A shut gate without a reason used to count as open, and the retry behind it took no token.
func TestShutGateWithoutAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outcome := resilience.Outcome{Reason: "status_503", Retry: true, Gates: slices.Values([]resilience.Gate{{Name: "shut", Shut: true}})}
		o := answers("busy")
		o.classify = func(string, error) resilience.Outcome { return outcome }
		_, report, _ := pipeline(t, steady(), resilience.Options{}).Do(t.Context(), o)
		if len(report.Attempts) != 1 || report.Reason != outcome.Reason {
			t.Errorf("%d attempts, reason %q; want 1, %s", len(report.Attempts), report.Reason, outcome.Reason)
		}
	})
}
