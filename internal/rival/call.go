package rival

import (
	"context"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// call is one call of a client.
type call struct {
	client   *Client
	ctx      context.Context // ends when the caller leaves
	request  *http.Request
	start    time.Time
	deadline time.Time
	report   *resilience.Report
	waits    waits
	made     int     // attempts, also those that were refused
	tried    []int   // endpoints, under the client's lock
	retried  bool    // some attempt was a retry
	again    bool    // the next attempt is one
	price    float64 // of the last retry
}

// refusalTime is how long a refused attempt takes at least before its repetition, so that a call
// that is repeated without a wait ends some day.
const refusalTime = time.Millisecond

// enter passes the limits that are for whole calls, and makes the call.
func (k *call) enter() resilience.Reason {
	c := k.client
	if c.policy.RateLimit.PerCall {
		if o := k.admit(k.ctx); o != nil {
			return o.reason()
		}
	}
	if o := c.take(k.ctx, c.calls, k.deadline); o != nil {
		return o.reason()
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls.release()
	}()
	return k.run()
}

// run makes attempts until one is final.
func (k *call) run() resilience.Reason {
	for {
		again, wait, reason := k.decide(k.round())
		if !again {
			return reason
		}
		if n := len(k.report.Attempts); n > 0 {
			a := &k.report.Attempts[n-1]
			a.Verdict, a.Wait = resilience.VerdictRetry, resilience.Wait{Source: resilience.WaitJitter, Reason: a.Reason, Planned: wait, Actual: wait}
		}
		if !k.sleep(k.ctx, wait) {
			k.client.endRetry()
			return resilience.ReasonDeadlineExceeded
		}
	}
}

// sleep waits, and reports whether the call has time left and its attempt is still wanted.
func (k *call) sleep(ctx context.Context, d time.Duration) bool {
	left := time.Until(k.deadline)
	return faults.Pause(ctx, min(d, left)) && d < left
}

// decide returns whether the call is repeated after an outcome, and when, or why it ends.
func (k *call) decide(o *outcome) (again bool, wait time.Duration, reason resilience.Reason) {
	c := k.client
	p := c.policy.Retry
	if o.kind == tooLate || o.kind == waiting {
		return false, 0, o.reason()
	}
	if !o.in(p.On) {
		return false, 0, o.final()
	}
	c.mu.Lock()
	c.budget.failed(o)
	c.mu.Unlock()
	if !k.methodAllows(o) {
		return false, 0, k.ends(o, resilience.ReasonMethodNotIdempotent)
	}
	if k.made >= k.most() {
		return false, 0, k.ends(o, resilience.ReasonMaxAttempts)
	}
	wait = k.waits.next(c.options.Random(), o.throttled())
	// gRPC's own way to ask for a wait is not in an answer of HTTP.
	if after := o.after; after > 0 && !o.grpc && p.RetryAfter.Obey && (p.RetryAfter.Max == 0 || after <= p.RetryAfter.Max) {
		wait = after
	}
	if o.refused() {
		wait = max(wait, refusalTime)
	}
	now := time.Now()
	if !k.inTime(now) {
		return false, 0, k.ends(o, resilience.ReasonDeadlineTooClose)
	}
	if !k.takeRetry(now, o) {
		return false, 0, k.ends(o, resilience.ReasonBudgetExhausted)
	}
	return true, wait, ""
}

// methodAllows reports whether requests of the call's method are repeated after an outcome.
func (k *call) methodAllows(o *outcome) bool {
	p := k.client.policy.Retry
	return p.Methods == nil || slices.Contains(p.Methods, k.request.Method) || !o.sent() && p.UnsentAnyMethod
}

// inTime reports whether a failure at a time may be repeated.
func (k *call) inTime(at time.Time) bool {
	most := k.client.policy.Retry.StopAfter
	return most == 0 || at.Sub(k.start) < most
}

// repeated reports whether an answer is one after which the call is repeated, as far as the call
// alone decides.
func (k *call) repeated(o *outcome, now time.Time) bool {
	return o.in(k.client.policy.Retry.On) && k.methodAllows(o) && k.made < k.most() && k.inTime(now)
}

// ends returns why a call ends whose last attempt could have been repeated.
func (k *call) ends(o *outcome, why resilience.Reason) resilience.Reason {
	if o.ok() {
		return resilience.ReasonOK
	}
	return why
}

// most returns the most attempts of the call.
func (k *call) most() int {
	p := k.client.policy.Retry
	most := p.MaxAttempts
	if most == 0 {
		most = math.MaxInt
	}
	if p.OncePerEndpoint {
		most = min(most, max(1, len(k.client.options.Instances())))
	}
	return most
}

// takeRetry takes a retry from the budget.
func (k *call) takeRetry(now time.Time, o *outcome) bool {
	c := k.client
	c.mu.Lock()
	defer c.mu.Unlock()
	price, ok := c.budget.retry(now, o)
	if ok {
		k.retried, k.again, k.price = true, true, price
	}
	return ok
}

func (c *Client) endRetry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.retried()
}

// admit passes the rate limit.
func (k *call) admit(ctx context.Context) *outcome {
	c := k.client
	c.mu.Lock()
	wait, ok := c.rate.reserve(time.Now())
	c.mu.Unlock()
	switch {
	case !ok:
		return &outcome{kind: rateLimited}
	case wait > 0 && !k.sleep(ctx, wait+c.wakeUp()):
		return &outcome{kind: waiting}
	}
	return nil
}

// choose returns the endpoint of the next attempt, with the permissions of the breakers, or the
// refusal. placed means that the attempt already has its place.
func (k *call) choose(now time.Time) (endpoint int, tickets []ticket, placed bool, refusal *outcome) {
	c := k.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.guards.advance(now)
	if !c.guards.upstream(now) {
		return 0, nil, false, &outcome{kind: breakerOpen}
	}
	endpoint = everyone
	if c.knows {
		known := c.options.Instances()
		if len(known) == 0 {
			return 0, nil, false, &outcome{kind: noConnect}
		}
		usable := c.guards.usable(known, now)
		if len(usable) == 0 {
			return 0, nil, false, &outcome{kind: ejected}
		}
		if usable = k.wanted(usable); len(usable) == 0 {
			return 0, nil, false, &outcome{kind: ejected}
		}
		if c.policy.Concurrency.SkipFull {
			if free := slices.DeleteFunc(slices.Clone(usable), func(n int) bool { return c.placesOf(n).full() }); len(free) > 0 {
				usable, placed = free, true
			}
		}
		endpoint = c.oneOf(usable)
		k.tried = append(k.tried, endpoint)
		if placed { // before another call takes it
			c.placesOf(endpoint).used++
		}
	}
	return endpoint, c.guards.begin(endpoint, now), placed, nil
}

// wanted returns those of the endpoints that the call may go to next. Its caller holds the lock.
func (k *call) wanted(usable []int) []int {
	p := k.client.policy.Retry
	if p.SameEndpoint && len(k.tried) > 0 && slices.Contains(usable, k.tried[0]) {
		return k.tried[:1]
	}
	if p.OtherEndpoint {
		// nginx never tries an endpoint twice; the others do if there is no other.
		if fresh := without(usable, k.tried); len(fresh) > 0 || p.OncePerEndpoint {
			return fresh
		}
	}
	return usable
}

// without returns the endpoints that are not among the others.
func without(endpoints, others []int) []int {
	return slices.DeleteFunc(slices.Clone(endpoints), func(n int) bool { return slices.Contains(others, n) })
}

// oneOf returns one of the endpoints, which are in order. Its caller holds the lock.
func (c *Client) oneOf(endpoints []int) int {
	if !c.policy.RoundRobin || c.turn < 0 { // clients do not all begin at the same endpoint
		c.turn = endpoints[int(c.options.Choose()*float64(len(endpoints)))]
		return c.turn
	}
	next := slices.IndexFunc(endpoints, func(n int) bool { return n > c.turn })
	c.turn = endpoints[max(0, next)]
	return c.turn
}
