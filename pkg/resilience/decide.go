package resilience

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"
)

// Situation is the state of a call after an attempt. Together with the policy and the attempt's
// outcome it determines the decision.
type Situation struct {
	// Attempt is the number of attempts so far, at least 1.
	Attempt int
	// Ended is the reason if the call is already over, otherwise empty.
	Ended Reason
	// Remaining is the time until the call's deadline.
	Remaining time.Duration
	// Previous is the backoff before this attempt, 0 before the first.
	Previous time.Duration
	// Traffic is the number of attempts a second of this client over a whole window of the breaker.
	// 0 if it is less than 1, or unknown.
	Traffic float64
	// Partly reports whether a part of the client's attempts usually fails.
	Partly bool
	// Random returns uniform numbers in [0, 1).
	Random func() float64
	// CircuitOpen reports whether the circuit is open.
	CircuitOpen func() bool
	// OverRate reports whether the rate limit has no token for a call that begins. Nil means no. A
	// retry needs none.
	OverRate func() bool
	// Crowded reports whether the concurrency limit leaves no place for a retry, or for the first
	// attempt, not even in its queue. Nil means no.
	Crowded func() bool
	// TakeToken takes a token from the retry budget and reports whether there was one.
	TakeToken func() bool
}

// Gate is one condition for another attempt.
type Gate struct {
	Name   string
	Shut   bool          // it forbids the attempt
	Reason Reason        // why the call ends if the gate is shut; empty means Outcome.Reason
	Found  func() string // describes what the gate found, for explanations
}

// Decision is the verdict on an attempt.
type Decision struct {
	Verdict Verdict
	Reason  Reason // why the call ends, empty when it goes on
	// Wait is the wait before the next attempt. It is also set when a gate forbids that attempt.
	Wait   time.Duration
	Source WaitSource
}

// Explain returns the decision that a [Pipeline] makes in the situation s, and every gate that it
// depends on, in order. It reads the gates behind a shut one too, so it always takes a token. There
// are no gates if o asks for no retry.
func (p Policy) Explain(o Outcome, s Situation) (Decision, []Gate) {
	d := p.plan(&o, &s)
	if d.Verdict == VerdictReturn {
		return d, nil
	}
	gates := slices.Collect(p.gates(&o, &s, d.Wait))
	return d.after(o.Reason, slices.Values(gates)), gates
}

// ExplainFirst returns the gates before the first attempt of a call, in order. If the situation s
// refuses the call, it also returns the error that a [Pipeline] would return, otherwise nil.
// RetryIn is for a limit that has just been reached. For a circuit it is OpenFor, without jitter.
// Of s only OverRate, CircuitOpen and Crowded count.
func (p Policy) ExplainFirst(s Situation) (*Error, []Gate) {
	gates := []Gate{p.rateGate(&s), circuitGate(&s), firstGate(&s)}
	for i, refuse := range []func() (time.Duration, error){
		func() (time.Duration, error) {
			limit, now := newRateLimit(p.RateLimit), time.Now()
			if limit != nil {
				limit.tokens.AllowN(now, p.RateLimit.Burst)
			}
			return limit.take(now), errRateLimited
		},
		func() (time.Duration, error) { return p.Breaker.OpenFor, errRefusedOpen },
		func() (time.Duration, error) {
			l := newLimiter(p.Concurrency, p.AttemptTimeout)
			return l.advice(l.epoch), errNoPlace
		},
	} {
		if gates[i].Shut {
			retryIn, err := refuse()
			return &Error{Reason: gates[i].Reason, Refused: true, RetryIn: retryIn, Err: err}, gates
		}
	}
	return nil, gates
}

// decide returns the verdict on an attempt. It reads the gates up to the first shut one. s may be
// nil if o asks for no retry.
func (p *Policy) decide(o *Outcome, s *Situation) Decision {
	d := p.plan(o, s)
	if d.Verdict == VerdictReturn {
		return d
	}
	return d.after(o.Reason, p.gates(o, s, d.Wait))
}

// plan returns the decision before the gates are read.
func (p *Policy) plan(o *Outcome, s *Situation) Decision {
	if !o.Retry {
		return Decision{Verdict: VerdictReturn, Reason: cmp.Or(o.Final, o.Reason)}
	}
	d := Decision{Verdict: VerdictRetry}
	if o.AtOnce {
		d.Source = WaitNextEndpoint
		return d
	}
	d.Wait, d.Source = p.Retry.wait(o.RetryAfter, s)
	return d
}

// after returns the decision after the gates are read, up to the first shut one. reason is why the
// call ends if that gate has no reason of its own.
func (d Decision) after(reason Reason, gates iter.Seq[Gate]) Decision {
	for g := range gates {
		if g.Shut {
			d.Verdict, d.Reason = VerdictGiveUp, cmp.Or(g.Reason, reason)
			break
		}
	}
	return d
}

// When an upstream fails, each client retries its first failed calls, whatever its budget. With
// many small clients that is a burst of as many retries as there are clients. So with an adaptive
// budget each spreads them over the time of some of its attempts. With the time of two, 250 clients
// of two calls a second make 1.35 attempts a call in the worst second; with that of four, 1.25.
// Where some attempts usually fail, callers should not wait so long.
const (
	spreadOver   = 4.0
	partlySpread = 2.0
)

// backoff returns the backoff in a situation.
func (r *Retry) backoff(s *Situation) Backoff {
	b := r.Backoff
	if r.Budget.Burst == AdaptiveBurst && s.Traffic > 0 && b.Base > 0 && b.Jitter != JitterNone {
		over := spreadOver
		if s.Partly {
			over = partlySpread
		}
		b.Base = min(b.Max, max(b.Base, time.Duration(over/s.Traffic*float64(time.Second))))
	}
	return b
}

// wait returns the wait before the next attempt: the backoff, or the time that the upstream asked
// for if that is longer.
func (r *Retry) wait(after time.Duration, s *Situation) (time.Duration, WaitSource) {
	backoff := r.backoff(s).Delay(s.Attempt, s.Previous, s.Random())
	if after <= 0 || after > r.MaxRetryAfter {
		return backoff, WaitJitter
	}
	// The jitter only adds: no retry comes before the time that the upstream asked for.
	after += min(time.Duration(float64(after)*0.25*s.Random()), math.MaxInt64-after)
	if after < backoff {
		return backoff, WaitJitter
	}
	return after, WaitRetryAfter
}

// gates yields the conditions for another attempt, in order. Each is evaluated when it is read. The
// budget comes last, so that no retry takes a token which another gate forbids.
func (p *Policy) gates(o *Outcome, s *Situation, wait time.Duration) iter.Seq[Gate] {
	return func(yield func(Gate) bool) {
		_ = yield(p.timeGate(s)) &&
			yieldAll(o.Gates, yield) &&
			yield(p.attemptsGate(s)) &&
			yield(p.retryAfterGate(o)) &&
			yield(circuitGate(s)) &&
			yield(concurrencyGate(s)) &&
			yield(deadlineGate(s, wait)) &&
			yield(budgetGate(s))
	}
}

// yieldAll yields all of seq, which may be nil, and reports whether yield wants more.
func yieldAll(seq iter.Seq[Gate], yield func(Gate) bool) bool {
	if seq == nil {
		return true
	}
	for g := range seq {
		if !yield(g) {
			return false
		}
	}
	return true
}

func (p *Policy) timeGate(s *Situation) Gate {
	return Gate{
		Name: "time left", Shut: s.Ended != "" || s.Remaining <= 0,
		Reason: cmp.Or(s.Ended, ReasonDeadlineExceeded),
		Found:  func() string { return fmt.Sprintf("%v of %v", max(0, s.Remaining), p.Timeout) },
	}
}

func (p *Policy) attemptsGate(s *Situation) Gate {
	return Gate{
		Name: "attempts", Shut: s.Attempt >= p.Retry.MaxAttempts, Reason: ReasonMaxAttempts,
		Found: func() string { return fmt.Sprintf("%d of %d", s.Attempt, p.Retry.MaxAttempts) },
	}
}

func (p *Policy) retryAfterGate(o *Outcome) Gate {
	return Gate{
		Name: "Retry-After", Shut: o.RetryAfter > p.Retry.MaxRetryAfter, Reason: ReasonRetryAfterTooLong,
		Found: func() string {
			if o.RetryAfter <= 0 {
				return "not asked for"
			}
			return fmt.Sprintf("%v, at most %v", o.RetryAfter, p.Retry.MaxRetryAfter)
		},
	}
}

func circuitGate(s *Situation) Gate {
	if s.CircuitOpen() {
		return Gate{Name: "circuit", Shut: true, Reason: ReasonBreakerOpen, Found: func() string { return "open" }}
	}
	return Gate{Name: "circuit", Reason: ReasonBreakerOpen, Found: func() string { return "not open" }}
}

func concurrencyGate(s *Situation) Gate { return placeGate(s, "no place for a retry") }

func firstGate(s *Situation) Gate { return placeGate(s, "no place") }

func placeGate(s *Situation, none string) Gate {
	if s.Crowded != nil && s.Crowded() {
		return Gate{Name: "concurrency", Shut: true, Reason: ReasonConcurrencyLimit, Found: func() string { return none }}
	}
	return Gate{Name: "concurrency", Reason: ReasonConcurrencyLimit, Found: func() string { return "not limited" }}
}

func (p *Policy) rateGate(s *Situation) Gate {
	return Gate{
		Name: "rate limit", Shut: s.OverRate != nil && s.OverRate(), Reason: ReasonRateLimited,
		Found: func() string {
			if p.RateLimit.PerSecond == 0 {
				return "not limited"
			}
			return fmt.Sprintf("%v a second, bursts of %d", p.RateLimit.PerSecond, p.RateLimit.Burst)
		},
	}
}

func deadlineGate(s *Situation, wait time.Duration) Gate {
	return Gate{
		Name: "deadline", Shut: wait >= s.Remaining, Reason: ReasonDeadlineTooClose,
		Found: func() string {
			return fmt.Sprintf("wait of %v, %v left", wait.Round(time.Microsecond), max(0, s.Remaining))
		},
	}
}

func budgetGate(s *Situation) Gate {
	if s.TakeToken() {
		return Gate{Name: "budget", Reason: ReasonBudgetExhausted, Found: func() string { return "a token is left" }}
	}
	return Gate{Name: "budget", Shut: true, Reason: ReasonBudgetExhausted, Found: func() string { return "no token is left" }}
}
