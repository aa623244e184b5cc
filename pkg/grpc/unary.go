package reboundgrpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Unary makes a unary call. It is a grpc.UnaryClientInterceptor. The caller gets the server's last
// status if there was one. Otherwise the error is one of Rebound's own: a status error whose
// message begins with the reason, which also wraps a [*resilience.Error].
func (i *Interceptors) Unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	u := &unary{invoker: invoker, req: req, reply: reply}
	if err := i.prepare(ctx, &u.call, method, cc, opts); err != nil {
		return err
	}
	u.seen.peer = i.newPeer()
	u.withSeen = u.seen.options(u.storage[:0], opts, u.seen.end)
	defer u.trace.abandon() // the invoker may panic
	result, report, err := u.upstream.pipeline.Do(u.ctx, u)
	u.upstream.used(report.Start)
	u.trace.end(&report, err)
	if err != nil {
		return u.failure(err, &report)
	}
	return result.err
}

// unary is a unary call. It is the operation that the pipeline runs.
type unary struct {
	call
	invoker    grpc.UnaryInvoker
	req, reply any
	seen       seen // of the last attempt
	withSeen   []grpc.CallOption
	storage    [6]grpc.CallOption // for withSeen: generated code passes one option
	last       error              // of the last attempt, as the invoker returned it
}

// Attempt makes the call once.
func (u *unary) Attempt(ctx context.Context, a *resilience.Attempt) (answer, error) {
	u.seen.reset(u.interceptors.unfilled)
	ctx = u.begin(ctx, a)
	u.last = u.invoker(ctx, u.method, u.req, u.reply, u.cc, u.withSeen...)
	return u.seen.answer(ctx, u.last)
}

// Classify returns the outcome of an attempt.
func (u *unary) Classify(r answer, err error) resilience.Outcome { return u.classify(&u.seen, r, err) }

// Decided adds the verdict on an attempt to its trace.
func (u *unary) Decided(r *resilience.AttemptReport) {
	u.describe(r, &u.seen)
	u.trace.verdict(r, u.last)
}

// Discard has nothing to free: a unary call is over when it returns.
func (u *unary) Discard(answer, *resilience.Attempt) {}

// classify returns the outcome of an attempt.
func (c *call) classify(s *seen, r answer, err error) resilience.Outcome {
	if err == nil {
		return c.outcome(s, r.err)
	}
	if missing := new(noAnswer); errors.As(err, &missing) {
		return c.outcome(s, missing.error)
	}
	return c.timedOut(s)
}
