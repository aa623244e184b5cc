package rival

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// budget limits the retries of a client. Its caller holds the client's lock.
type budget struct {
	policy     foreign.Budget
	maxRetries int // in flight; 0 = no limit

	calls, retries int         // in flight
	tokens         float64     // of a token budget
	firsts, again  []time.Time // first attempts and retries in the window
}

func newBudget(p foreign.Policy) budget {
	return budget{policy: p.Retry.Budget, maxRetries: p.Concurrency.MaxRetries, tokens: p.Retry.Budget.Tokens}
}

// begin counts a call.
func (b *budget) begin(now time.Time) {
	b.calls++
	if b.policy.Kind == foreign.BudgetWindow {
		b.firsts = append(within(b.firsts, now, b.policy.Window), now)
	}
}

// failed counts an attempt whose failure may be retried.
func (b *budget) failed(o *outcome) {
	if b.policy.Kind == foreign.BudgetTokens && b.policy.ChargeFailures {
		b.tokens = math.Max(0, b.tokens-b.price(o))
	}
}

// retry takes a retry from the budget and returns its price, or false if the budget forbids it. A
// retry is in flight from this decision on, as in Envoy (RetryStateImpl::shouldRetry).
func (b *budget) retry(now time.Time, o *outcome) (price float64, ok bool) {
	if b.maxRetries > 0 && b.retries >= b.maxRetries {
		return 0, false
	}
	switch p := b.policy; p.Kind {
	case foreign.BudgetNone:
	case foreign.BudgetInFlight:
		if float64(b.retries) >= math.Max(float64(p.Min), p.Percent/100*float64(b.calls)) {
			return 0, false
		}
	case foreign.BudgetWindow:
		b.firsts, b.again = within(b.firsts, now, p.Window), within(b.again, now, p.Window)
		most := p.MinPerSecond*p.Window.Seconds() + p.Percent/100*float64(len(b.firsts))
		if float64(len(b.again)) >= math.Max(float64(p.WindowMin), most) {
			return 0, false
		}
		b.again = append(b.again, now)
	case foreign.BudgetTokens:
		if !p.ChargeFailures {
			price = b.price(o)
		}
		if b.tokens < price || b.tokens <= p.Threshold && p.Threshold > 0 {
			return 0, false
		}
		b.tokens -= price
	}
	b.retries++
	return price, true
}

// retried counts the end of a retry.
func (b *budget) retried() { b.retries-- }

// end counts the end of a call. price is that of its last retry.
func (b *budget) end(ok bool, retried bool, price float64) {
	b.calls--
	if b.policy.Kind != foreign.BudgetTokens || !ok {
		return
	}
	earned := b.policy.Refill
	if retried && b.policy.Refund {
		earned = price
	}
	b.tokens = math.Min(b.policy.Tokens, b.tokens+earned)
}

func (b *budget) price(o *outcome) float64 {
	switch {
	case o.kind == timedOut && b.policy.TimeoutCost > 0:
		return b.policy.TimeoutCost
	case o.throttled() && b.policy.ThrottledCost > 0:
		return b.policy.ThrottledCost
	}
	return b.policy.Cost
}

// within drops the times that are not in the window before now.
func within(times []time.Time, now time.Time, window time.Duration) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) >= window {
		times = times[1:]
	}
	return times
}
