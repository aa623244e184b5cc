package rival

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// end is the end of an attempt.
type end struct {
	*outcome
	report *resilience.AttemptReport // nil if the client refused the attempt
	resent []resilience.AttemptReport
}

// record adds an attempt to the report.
func (k *call) record(e end) {
	k.report.Attempts = append(k.report.Attempts, e.resent...)
	if e.report != nil {
		k.report.Attempts = append(k.report.Attempts, *e.report)
	}
}

// try makes one try, or has it refused. It may run beside other tries of its call.
func (k *call) try(ctx context.Context, number int, retry bool) end {
	c := k.client
	if retry {
		defer c.endRetry()
	}
	endpoint, tickets, placed, refusal := k.choose(time.Now())
	if refusal != nil {
		refusal.grpc = c.policy.GRPC
		return end{outcome: refusal}
	}
	c.mu.Lock()
	p := c.placesOf(endpoint)
	c.mu.Unlock()
	refuse := func(o *outcome) end {
		if o.kind == waiting && ctx.Err() != nil {
			o.kind = replaced
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if placed {
			p.release()
		}
		c.guards.end(tickets, o, 0, time.Now(), false)
		return end{outcome: o}
	}
	if !c.policy.RateLimit.PerCall {
		if o := k.admit(ctx); o != nil {
			return refuse(o)
		}
	}
	if !placed {
		if o := c.take(ctx, p, k.deadline); o != nil {
			return refuse(o)
		}
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.release()
	}()
	return k.send(ctx, number, endpoint, tickets)
}

// send sends the request and waits for the answer. It sends it several times if the policy says
// so with [foreign.Retry] Resend.
func (k *call) send(ctx context.Context, number, endpoint int, tickets []ticket) end {
	var resent []resilience.AttemptReport
	for {
		e, again := k.sendOnce(ctx, number, endpoint, tickets)
		if !again {
			e.resent = resent
			return e
		}
		resent = append(resent, *e.report)
	}
}

// connect takes an idle connection to an endpoint, and reports whether there was one. It matters
// only to what is sent again.
func (c *Client) connect(endpoint int) bool {
	if !c.policy.Retry.Resend {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle[endpoint] == 0 {
		return false
	}
	c.idle[endpoint]--
	return true
}

// sendOnce sends the request and waits for the answer. again means that the request is sent again
// as if nothing had happened.
func (k *call) sendOnce(ctx context.Context, number, endpoint int, tickets []ticket) (e end, again bool) {
	c := k.client
	reused := c.connect(endpoint)
	began := time.Now()
	limit, cut := k.deadline.Sub(began), tooLate
	if p := c.policy; p.TryTimeout > 0 && p.TryTimeout < limit && !p.Hedge.OnTryTimeout {
		limit, cut = p.TryTimeout, timedOut
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var late atomic.Bool
	clock := func(d time.Duration) *time.Timer {
		return time.AfterFunc(d, func() { late.Store(true); cancel() })
	}
	timer := clock(limit)
	resp, err := c.options.Send(k.request.WithContext(ctx), endpoint)
	timer.Stop()
	now := time.Now()
	var o *outcome
	switch {
	case err == nil:
		o = &outcome{kind: answered, status: resp.StatusCode, after: retryAfter(resp.Header, now)}
	case late.Load():
		o = &outcome{kind: cut}
	case ctx.Err() != nil:
		o = &outcome{kind: replaced}
	default:
		o = failure(err)
	}
	o.grpc = c.policy.GRPC
	again = o.kind == reset && reused && c.options.Request.Method == http.MethodGet
	if !again {
		c.mu.Lock()
		c.guards.advance(now)
		c.guards.end(tickets, o, now.Sub(began), now, k.repeated(o, now))
		c.mu.Unlock()
	}
	report := &resilience.AttemptReport{
		Number: number, Start: began, Duration: now.Sub(began), Limit: limit,
		Reason: o.reason(), Verdict: resilience.VerdictReturn, Status: o.status, Err: err,
	}
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		if !o.in(c.policy.Retry.On) {
			timer = clock(k.deadline.Sub(now))
			defer timer.Stop()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				if o.kind = bodyFailed; late.Load() {
					o.kind = tooLate
				}
			}
		}
		if o.kind == answered && c.policy.Retry.Resend {
			c.mu.Lock()
			c.idle[endpoint]++
			c.mu.Unlock()
		}
	}
	return end{outcome: o, report: report}, again
}
