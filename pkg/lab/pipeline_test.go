package lab_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Three attempts succeed in 97.3 % of calls. One seed's thirty thousand calls show that to within
// 0.3 %, and the budget and the circuit may cost as much again. Five seeds together show how much
// they really cost.
func TestErrorRateUnderTheDefaultPolicy(t *testing.T) {
	statistics(t)
	t.Parallel()
	var mu sync.Mutex
	var calls, ok uint64
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(5) {
			t.Run(fmt.Sprint(seed+1), func(t *testing.T) {
				t.Parallel()
				s := builtin(t, "error-rate-30", 2*time.Second)
				s.Length = s.Disturbance.End() + time.Second
				r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: load(500, seed+1)})
				mu.Lock()
				defer mu.Unlock()
				calls += r.During.Calls
				ok += r.During.OK
			})
		}
	})
	if success := float64(ok) / float64(calls); success < 0.97 {
		t.Errorf("%.2f %% of %d calls end well, want at least 97", 100*success, calls)
	}
}

// With nothing else in the way, three attempts fail as often as probability says.
func TestErrorRateAgreesWithTheClosedForm(t *testing.T) {
	statistics(t)
	t.Parallel()
	for name, errorRate := range map[string]float64{"error-rate-10": 0.1, "error-rate-30": 0.3, "error-rate-60": 0.6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := builtin(t, name, 2*time.Second)
			s.Disturbance.For, s.Upstream.Phases[0].For = 30*time.Second, 30*time.Second
			s.Length = 33 * time.Second
			r := simulate(t, lab.Experiment{Policy: rungOf(t, "full jitter"), Scenario: s, Load: load(500, 1)})
			want := 1 - errorRate*errorRate*errorRate
			// 99.9 % of all seeds are within this interval.
			interval := 3.29 * math.Sqrt(want*(1-want)/float64(r.During.Calls))
			// for retries that cross the edges of the disturbance
			if diff := math.Abs(r.During.Success - want); diff > interval+1e-3 {
				t.Errorf("success %.4f, want %.4f ± %.4f", r.During.Success, want, interval)
			}
			var attempts uint64
			for _, n := range r.Attempts {
				attempts += n
			}
			calls := r.Before.Calls + r.During.Calls + r.After.Calls
			if r.Retries != attempts-calls {
				t.Errorf("%d retries, want %d: what attempts there are more than calls", r.Retries, attempts-calls)
			}
			// The second attempt saves 1−e of the calls that reach it, and so does the third.
			saved := float64(r.During.Calls) * (1 - errorRate) * (errorRate + errorRate*errorRate)
			if diff := math.Abs(float64(r.OKAfterRetry) - saved); diff > 4*math.Sqrt(saved)+20 {
				t.Errorf("%d calls ended well after a retry, want about %.0f", r.OKAfterRetry, saved)
			}
			if got, want := r.During.Success, 1-errorRate; got < want {
				t.Errorf("success %.4f, want more than %.4f of a single attempt", got, want)
			}
		})
	}
}

// The budget limits the attempts that retries add, whatever fails.
func TestBudgetBoundsAmplification(t *testing.T) {
	statistics(t)
	t.Parallel()
	policy := rungOf(t, "+ budget")
	policy.Retry.Budget = resilience.BudgetPolicy{Ratio: 0.2, Burst: 5, FloorPerSecond: 1}
	for name, c := range map[string]struct {
		policy      transport.Policy
		least, most float64
	}{
		"without":   {rungOf(t, "full jitter"), 1.90, 2.02}, // 1 + 0.6 + 0.36
		"ratio 0.2": {policy, 1.05, 1.2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := builtin(t, "error-rate-60", time.Second)
			s.Disturbance.For, s.Upstream.Phases[0].For, s.Length = 20*time.Second, 20*time.Second, 21*time.Second
			r := simulate(t, lab.Experiment{Policy: c.policy, Scenario: s, Load: load(500, 1)})
			if r.Amplification < c.least || r.Amplification > c.most {
				t.Errorf("%.3f attempts per call, want from %v to %v", r.Amplification, c.least, c.most)
			}
		})
	}
}

// The pipeline does not wait for an attempt that cannot end in time.
func TestDeadlineTooClose(t *testing.T) {
	t.Parallel()
	p := rungOf(t, "full jitter")
	p.Timeout, p.AttemptTimeout = 2*time.Second, time.Second
	s := steady(func(s *lab.Scenario) {
		s.Upstream.Phases = []lab.Phase{phase(time.Second, time.Second, func(p *lab.Phase) {
			p.ErrorRate, p.RetryAfter = new(1.0), new("3s")
		})}
	})
	r := simulate(t, lab.Experiment{Policy: p, Scenario: s, Load: load(200, 1)})
	if n := r.Calls[resilience.ReasonDeadlineTooClose]; n != r.During.Calls {
		t.Errorf("%d calls ended by %s, want all %d", n, resilience.ReasonDeadlineTooClose, r.During.Calls)
	}
	if r.During.FailedP99 > 50 {
		t.Errorf("p99 of the failed calls %.0f ms, want that of one attempt", r.During.FailedP99)
	}
}

// A thousand callers wait for a circuit to close. The upstream sees only the probes.
func TestProbesOfAThousandCallers(t *testing.T) {
	statistics(t)
	t.Parallel()
	for _, probes := range []int{1, 3} {
		t.Run(fmt.Sprint(probes), func(t *testing.T) {
			t.Parallel()
			p := transport.DefaultPolicy()
			p.Breaker.Probes = probes
			p.Concurrency.Max = -1 // an adaptive limit lets fewer through to an upstream that hangs
			s := steady(func(s *lab.Scenario) {
				// at a rate of 10,000, that makes a thousand callers
				s.Load.Think = 100 * time.Millisecond
				s.Disturbance.For = 8 * time.Second
				s.Upstream.Phases = []lab.Phase{phase(time.Second, 8*time.Second, func(p *lab.Phase) { p.Working = new(0.0) })}
			})
			var circuits changes
			r := simulate(t, lab.Experiment{
				Policy: p, Scenario: s, Load: lab.Load{Rate: 10_000, Clients: 1, Capacity: 20_000, Seed: 1}, Transition: circuits.add,
			})
			if r.Probes != probes {
				t.Errorf("%d probes at once, want %d", r.Probes, probes)
			}
			// A hanging probe releases its slot at its attempt timeout.
			var halfOpen time.Time
			tried := 0
			for _, c := range circuits.of(0) {
				switch {
				case c.To == resilience.HalfOpen:
					halfOpen = c.At
				case c.From == resilience.HalfOpen && c.To == resilience.Open:
					tried++
					if took := c.At.Sub(halfOpen); took > p.AttemptTimeout+10*time.Millisecond {
						t.Errorf("probes had their slots for %v, want at most %v", took, p.AttemptTimeout)
					}
				}
			}
			if tried < 2 {
				t.Errorf("the circuit tried %d times in vain, want at least twice", tried)
			}
		})
	}
}

// Circuits that open together do not probe together.
func TestClientsDoNotProbeInLockstep(t *testing.T) {
	t.Parallel()
	s := steady(func(s *lab.Scenario) {
		s.Length = 4 * time.Second
		s.Upstream.Phases = []lab.Phase{phase(time.Second, 3*time.Second, func(p *lab.Phase) { p.Refuse = true })}
	})
	const clients = 20
	var circuits changes
	p := transport.DefaultPolicy()
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Second, 2*time.Second
	simulate(t, lab.Experiment{
		Policy: p, Scenario: s,
		Load: lab.Load{Rate: 8000, Clients: clients, Capacity: 20_000, Seed: 1}, Transition: circuits.add,
	})
	spread := func(to resilience.State) time.Duration {
		var first []time.Time
		for client := range clients {
			of := circuits.of(client)
			if i := slices.IndexFunc(of, func(c change) bool { return c.To == to }); i >= 0 {
				first = append(first, of[i].At)
			}
		}
		if len(first) != clients {
			t.Fatalf("%d circuits became %s, want %d", len(first), to, clients)
		}
		return slices.MaxFunc(first, time.Time.Compare).Sub(slices.MinFunc(first, time.Time.Compare))
	}
	if opened := spread(resilience.Open); opened > 100*time.Millisecond {
		t.Fatalf("the circuits opened within %v, too far apart for this test", opened)
	}
	if tried := spread(resilience.HalfOpen); tried < 250*time.Millisecond {
		t.Errorf("the circuits tried again within %v, want them apart", tried)
	}
}

// No caller returns before the time that the upstream asked for, and not all return at once.
func TestRetryAfterStorm(t *testing.T) {
	t.Parallel()
	s := steady(func(s *lab.Scenario) {
		s.Upstream.Phases = []lab.Phase{phase(time.Second, time.Second, func(p *lab.Phase) {
			p.ErrorRate, p.RetryAfter, p.Statuses = new(1.0), new("2s"), []int{http.StatusTooManyRequests}
		})}
	})
	p := rungOf(t, "full jitter")
	r := simulate(t, lab.Experiment{Policy: p, Scenario: s, Load: load(400, 1)})
	attempts := func(second int) float64 {
		return float64(r.Series[second].Attempts) / float64(r.Series[second].Offered)
	}
	if attempts(1) > 1.02 || attempts(2) > 1.02 {
		t.Errorf("%.2f and %.2f attempts per call in the two seconds after, want no retry", attempts(1), attempts(2))
	}
	// The wait is two seconds and up to a quarter more, so retries come from 3.0 to 4.5.
	if attempts(3) < 1.5 || attempts(4) < 1.1 {
		t.Errorf("%.2f and %.2f attempts per call two seconds later, want the retries spread over both", attempts(3), attempts(4))
	}
	if r.During.Success != 1 {
		t.Errorf("success %.3f, want all", r.During.Success)
	}
}

// The model itself, without a policy to help it.
func TestUpstream(t *testing.T) {
	t.Parallel()
	alone := rungOf(t, "no retry")
	for name, c := range map[string]struct {
		change func(*lab.Scenario)
		load   lab.Load
		check  func(*testing.T, *lab.Result)
	}{
		"healthy": {
			func(*lab.Scenario) {}, load(500, 1),
			func(t *testing.T, r *lab.Result) {
				if r.After.Success != 1 || r.Amplification != 1 {
					t.Errorf("success %v, amplification %v, want 1", r.After.Success, r.Amplification)
				}
				// The service time, and half a millisecond for the network.
				if math.Abs(r.After.P50-10.5) > 1 {
					t.Errorf("p50 %.1f ms, want about 10.5", r.After.P50)
				}
			},
		},
		"no more than its capacity": {
			func(s *lab.Scenario) {
				s.Upstream.Queue = 100 * time.Millisecond
				s.Load.Surge = &lab.Surge{Span: lab.Span{At: 2 * time.Second, For: 8 * time.Second}, OfCapacity: 2}
				s.Disturbance = lab.Span{At: 2 * time.Second, For: 8 * time.Second}
			},
			load(500, 1),
			func(t *testing.T, r *lab.Result) {
				if math.Abs(r.During.Goodput-1000) > 30 || r.Work.Refused == 0 {
					t.Errorf("goodput %.0f and %d refused, want a capacity of 1000 and the rest", r.During.Goodput, r.Work.Refused)
				}
				if rate := float64(r.During.Calls) / 8; math.Abs(rate-2000) > 60 {
					t.Errorf("%.0f calls a second, want 2000", rate)
				}
				if math.Abs(r.During.P50-110) > 12 {
					t.Errorf("p50 %.0f ms, want a full line of 100 and the service time", r.During.P50)
				}
			},
		},
		"half of the workers": {
			func(s *lab.Scenario) {
				s.Upstream.Queue = 50 * time.Millisecond
				s.Disturbance = lab.Span{At: 2 * time.Second, For: 5 * time.Second}
				s.Upstream.Phases = []lab.Phase{phase(2*time.Second, 5*time.Second, func(p *lab.Phase) { p.Working = new(0.5) })}
			},
			load(900, 1),
			func(t *testing.T, r *lab.Result) {
				if math.Abs(r.During.Goodput-500) > 30 || r.After.Success < 0.98 {
					t.Errorf("goodput %.0f and %.3f after, want 500 and all", r.During.Goodput, r.After.Success)
				}
			},
		},
		"workers come back one by one": {
			func(s *lab.Scenario) {
				s.Upstream.Queue = 20 * time.Millisecond
				s.Disturbance = lab.Span{At: 2 * time.Second, For: 5 * time.Second}
				s.Upstream.Phases = []lab.Phase{phase(2*time.Second, 5*time.Second, func(p *lab.Phase) {
					p.Working, p.WorkingAtEnd = new(0.0), new(1.0)
				})}
			},
			load(950, 1),
			func(t *testing.T, r *lab.Result) {
				for i, want := range []float64{100, 300, 500, 700} {
					if got := float64(r.Series[2+i].Goodput); math.Abs(got-want) > 90 {
						t.Errorf("second %d: goodput %.0f, want about %.0f", 2+i, got, want)
					}
				}
			},
		},
		"one instance of four is gone": {
			func(s *lab.Scenario) {
				s.Upstream.Instances = 4
				s.Disturbance = lab.Span{At: 2 * time.Second, For: 6 * time.Second}
				s.Upstream.Phases = []lab.Phase{phase(2*time.Second, 6*time.Second, func(p *lab.Phase) { p.Instance, p.Refuse = 2, true })}
			},
			load(400, 1),
			func(t *testing.T, r *lab.Result) {
				if math.Abs(r.During.Success-0.75) > 0.03 || r.Before.Success != 1 {
					t.Errorf("success %.3f, before %.3f, want 0.75 and 1", r.During.Success, r.Before.Success)
				}
			},
		},
		"callers who wait": {
			func(s *lab.Scenario) { s.Load.Think = 90 * time.Millisecond },
			load(1000, 1), // 90 callers, each with 10 ms of service and 90 ms of thinking
			func(t *testing.T, r *lab.Result) {
				if rate := float64(r.After.Calls) / 8; math.Abs(rate-890) > 30 {
					t.Errorf("%.0f calls a second, want about 890", rate)
				}
			},
		},
		"a herd alone": {
			func(s *lab.Scenario) {
				s.Upstream.Queue = 0
				s.Load.Herd = &lab.Herd{At: time.Second, Calls: 1000}
			},
			load(0, 1),
			func(t *testing.T, r *lab.Result) {
				if r.During.Calls != 1000 || r.During.OK != 10 {
					t.Errorf("%d calls and %d good ones, want 1000 and one for each of the 10 workers", r.During.Calls, r.During.OK)
				}
			},
		},
		"slow for a while": {
			func(s *lab.Scenario) {
				s.Disturbance = lab.Span{At: 2 * time.Second, For: 4 * time.Second}
				s.Upstream.Phases = []lab.Phase{phase(2*time.Second, 4*time.Second, func(p *lab.Phase) {
					p.Latency = &faults.Latency{Distribution: faults.DistributionFixed, Value: 40 * time.Millisecond}
				})}
			},
			load(100, 1),
			func(t *testing.T, r *lab.Result) {
				if math.Abs(r.During.P50-40.5) > 2 || math.Abs(r.After.P50-10.5) > 1 {
					t.Errorf("p50 %.1f and then %.1f ms, want 40.5 and 10.5", r.During.P50, r.After.P50)
				}
			},
		},
		"good again, but not for long": {
			func(s *lab.Scenario) {
				s.Upstream.Phases = []lab.Phase{phase(3*time.Second, time.Second, func(p *lab.Phase) { p.Refuse = true })}
			},
			load(200, 1),
			func(t *testing.T, r *lab.Result) {
				if r.RecoveryS == nil || *r.RecoveryS != 2 {
					t.Errorf("recovery %s, want after 2 s, when it is good for five seconds", shown(r.RecoveryS))
				}
			},
		},
		"no limit of capacity": {
			func(*lab.Scenario) {}, lab.Load{Rate: 2000, Clients: 5, Seed: 1},
			func(t *testing.T, r *lab.Result) {
				if r.After.Success != 1 || r.After.P99 > 12 {
					t.Errorf("success %.3f and p99 %.1f ms, want all at once", r.After.Success, r.After.P99)
				}
			},
		},
		"every fault": {
			func(s *lab.Scenario) {
				s.Upstream.Faults.ResetRate, s.Upstream.Faults.TruncateRate = 0.2, 0.2
				s.Upstream.Faults.HangRate, s.Upstream.Faults.SlowBodyRate = 0.2, 0.2
			},
			load(500, 1),
			func(t *testing.T, r *lab.Result) {
				total := float64(r.Before.Calls + r.During.Calls + r.After.Calls)
				for reason, want := range map[resilience.Reason]float64{
					resilience.ReasonResetBeforeHeaders: 0.2, resilience.ReasonBodyFailed: 0.2,
					resilience.ReasonOK: 0.4, resilience.ReasonMaxAttempts: 0,
				} {
					// With one attempt, every failed call ends as max_attempts.
					if reason == resilience.ReasonResetBeforeHeaders {
						if got := float64(r.Attempts[reason]) / total; math.Abs(got-want) > 0.03 {
							t.Errorf("%s: %.3f of the attempts, want %.1f", reason, got, want)
						}
					} else if got := float64(r.Calls[reason]) / total; reason != resilience.ReasonMaxAttempts && math.Abs(got-want) > 0.03 {
						t.Errorf("%s: %.3f of the calls, want %.1f", reason, got, want)
					}
				}
				if got := float64(r.Attempts[resilience.ReasonAttemptTimeout]) / total; math.Abs(got-0.2) > 0.03 {
					t.Errorf("%.3f of the attempts hang, want 0.2", got)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, simulate(t, lab.Experiment{Policy: alone, Scenario: steady(c.change), Load: c.load}))
		})
	}
}
