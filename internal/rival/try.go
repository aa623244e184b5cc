package rival

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// end is the end of an attempt.
type end struct {
	*outcome
	report *resilience.AttemptReport // nil if the client refused the attempt
}

// record adds an attempt to the report.
func (k *call) record(e end) {
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
	endpoint, tickets, refusal := k.choose(time.Now())
	if refusal != nil {
		refusal.grpc = c.policy.GRPC
		return end{refusal, nil}
	}
	refuse := func(o *outcome) end {
		if o.kind == waiting && ctx.Err() != nil {
			o.kind = replaced
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.guards.end(tickets, o, 0, time.Now())
		return end{o, nil}
	}
	if !c.policy.RateLimit.PerCall {
		if o := k.admit(ctx); o != nil {
			return refuse(o)
		}
	}
	c.mu.Lock()
	p := c.placesOf(endpoint)
	c.mu.Unlock()
	if o := c.take(ctx, p, k.deadline); o != nil {
		return refuse(o)
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.release()
	}()
	return k.send(ctx, number, endpoint, tickets)
}

// send sends the request and waits for the answer.
func (k *call) send(ctx context.Context, number, endpoint int, tickets []ticket) end {
	c := k.client
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
	c.mu.Lock()
	c.guards.advance(now)
	c.guards.end(tickets, o, now.Sub(began), now)
	c.mu.Unlock()
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
	}
	return end{o, report}
}
