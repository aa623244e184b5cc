package reboundgrpc

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The keys of the metadata that the interceptors read and write.
const (
	keyAttempts       = "grpc-previous-rpc-attempts"
	keyPushback       = "grpc-retry-pushback-ms"
	keyIdempotencyKey = "idempotency-key"
)

// call is the part of a call that unary calls and streams share.
type call struct {
	interceptors *Interceptors
	upstream     *upstream
	ctx          context.Context // the caller's, with the call's span
	method       string
	cc           *grpc.ClientConn
	opts         []grpc.CallOption // the caller's
	trace        *callTrace        // nil without tracing and metrics
	inbound      string            // keyAttempts with which the call that this process serves is a retry

	start time.Time     // of the last attempt
	limit time.Duration // of the last attempt
}

// prepare fills c for a call.
func (i *Interceptors) prepare(ctx context.Context, c *call, method string, cc *grpc.ClientConn, opts []grpc.CallOption) (err error) {
	c.interceptors, c.ctx, c.method, c.cc, c.opts = i, ctx, method, cc, opts
	if in := metadata.ValueFromIncomingContext(ctx, keyAttempts); retried(in) {
		c.inbound = in[0]
	}
	if c.upstream, err = i.upstream(cc); err == nil {
		c.trace = i.tracer.start(c)
	}
	return err
}

// begin returns the context of an attempt: with its metadata, and its span.
func (c *call) begin(ctx context.Context, a *resilience.Attempt) context.Context {
	c.start, c.limit = a.Start(), a.Limit()
	switch {
	case c.inbound != "": // the layers below see that this is a repetition
		ctx = withAttempts(ctx, c.inbound)
	case a.Number() > 1: // then no layer above retries
		ctx = withAttempts(ctx, strconv.Itoa(a.Number()-1))
	}
	return c.trace.begin(ctx, a)
}

// withAttempts sets keyAttempts. A method that passes its own metadata on has set it already.
func withAttempts(ctx context.Context, n string) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		md = metadata.MD{}
	}
	md[keyAttempts] = []string{n}
	return metadata.NewOutgoingContext(ctx, md)
}

// retried reports whether values of keyAttempts say that a call is a retry.
func retried(values []string) bool {
	if len(values) == 0 {
		return false
	}
	n, err := strconv.ParseUint(values[0], 10, 31)
	return err == nil && n > 0
}

// retriedAbove returns the value of keyAttempts with which the call's caller retries it, or "".
func (c *call) retriedAbove() string {
	if c.inbound != "" {
		return c.inbound
	}
	if out, _ := metadata.FromOutgoingContext(c.ctx); retried(out[keyAttempts]) {
		return out[keyAttempts][0]
	}
	return ""
}

// idempotent reports whether the call may take effect twice, and why.
func (c *call) idempotent() (ok bool, why string) {
	if c.interceptors.methods.has(c.method) {
		return true, c.method + ", marked as idempotent"
	}
	out, _ := metadata.FromOutgoingContext(c.ctx)
	if slices.ContainsFunc(out[keyIdempotencyKey], func(v string) bool { return strings.TrimSpace(v) != "" }) {
		return true, c.method + " with an " + keyIdempotencyKey
	}
	return false, c.method + ", not marked as idempotent"
}

// ours reports whether our own limit for the attempt has passed.
func (c *call) ours() bool {
	limit := c.interceptors.policy.AttemptTimeout
	return c.limit >= limit && time.Since(c.start) >= limit
}

// outcome returns the outcome of an attempt that ended with err.
func (c *call) outcome(s *seen, err error) resilience.Outcome {
	if err == nil { // the usual case does not read the clock
		return resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy}
	}
	j := s.judge(err, c.ours())
	o := resilience.Outcome{Reason: j.reason, Health: j.health}
	wait, given, ok := grpcwire.ParsePushback(s.trailer[keyPushback])
	switch {
	case j.repeat == never, !ok, j.repeat == byPushback && !given:
		if s.answered() {
			o.Final = resilience.ReasonStatusNotRetryable
		}
	default:
		o.Retry, o.RetryAfter = true, wait
		o.Gates = c.gates(j.repeat)
	}
	return o
}

// timedOut returns whether a retry may help after an attempt timed out. The pipeline sets the rest.
func (c *call) timedOut(s *seen) resilience.Outcome {
	if s.header != nil {
		return resilience.Outcome{}
	}
	r := byMethod
	if s.unsent() {
		r = everything
	}
	return resilience.Outcome{Retry: true, Gates: c.gates(r)}
}

// gates yields the conditions that gRPC adds for a retry, in order.
func (c *call) gates(r repeat) iter.Seq[resilience.Gate] {
	return func(yield func(resilience.Gate) bool) {
		above := c.retriedAbove()
		if !yield(resilience.Gate{
			Name: "layer above", Shut: above != "", Reason: resilience.ReasonRetriedUpstreamLayer,
			Found: func() string {
				if above != "" {
					return fmt.Sprintf("retries this call already: %s %s", keyAttempts, above)
				}
				return "does not retry this call"
			},
		}) {
			return
		}
		ok, why := true, c.method+", not sent"
		switch r {
		case byMethod:
			ok, why = c.idempotent()
		case byPushback:
			why = c.method + ", asked for"
		case never, everything:
		}
		yield(resilience.Gate{
			Name: "method", Shut: !ok, Reason: resilience.ReasonMethodNotIdempotent,
			Found: func() string { return why },
		})
	}
}

// Priority returns the call's class under a concurrency limit.
func (c *call) Priority() resilience.Priority {
	if c.interceptors.priority == nil {
		return resilience.PriorityNormal
	}
	return c.interceptors.priority(c.ctx, c.method)
}

// codeOf returns the code of an error. Other interceptors may return a context's error.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// seen is what grpc-go tells about one attempt, through call options.
type seen struct {
	header, trailer metadata.MD
	peer            *peer.Peer // nil if nobody watches
	// over reports that grpc-go got the options, and has ended the attempt. Without this, nothing
	// in seen proves anything: an interceptor may have dropped the options.
	over atomic.Bool
}

// keyUnfilled is in a trailer that grpc-go has not written to. No header has this name.
const keyUnfilled = ""

// reset prepares s for an attempt. unfilled is an own trailer, which has keyUnfilled only.
func (s *seen) reset(unfilled metadata.MD) {
	s.header, s.trailer = nil, unfilled
	if s.peer != nil {
		s.peer.Addr = nil
	}
	s.over.Store(false)
}

// end notes that grpc-go has ended the attempt, and has filled s before.
func (s *seen) end(error) { s.over.Store(true) }

// describe adds the address that an attempt was sent to to its report and its trace.
func (c *call) describe(r *resilience.AttemptReport, s *seen) {
	if s.over.Load() && s.peer != nil && s.peer.Addr != nil {
		r.Endpoint = s.peer.Addr.String()
		c.trace.peer(r.Endpoint)
	}
}

// options returns the caller's options, and those that fill s, in storage if that is large enough.
// ended is called at the end of the attempt, once s is filled. The result has no room for more:
// interceptors below may append to it several times, and at the same time.
func (s *seen) options(storage, opts []grpc.CallOption, ended func(error)) []grpc.CallOption {
	if len(opts)+4 > cap(storage) {
		storage = make([]grpc.CallOption, 0, len(opts)+4)
	}
	all := append(storage[:0], opts...)
	all = append(all, grpc.Header(&s.header), grpc.Trailer(&s.trailer), grpc.OnFinish(ended))
	if s.peer != nil {
		all = append(all, grpc.Peer(s.peer))
	}
	return slices.Clip(all)
}

// answered reports whether the server has answered with a status and no message (Trailers-Only).
// The trailers are then its headers, which have a content type.
func (s *seen) answered() bool { return s.header == nil && len(s.trailer["content-type"]) > 0 }

// unsent reports whether the attempt certainly did not reach the server: there was no connection
// that it could have been sent on, and so no trailer for grpc-go to write.
func (s *seen) unsent() bool {
	_, unfilled := s.trailer[keyUnfilled]
	return unfilled && s.over.Load()
}

// answer returns err as an attempt's result if it is an answer, and as its error otherwise: if
// there was no connection or it broke before the answer, and if the attempt's time was up.
func (s *seen) answer(ctx context.Context, err error) (answer, error) {
	if err == nil { // the usual case asks for no time
		return answer{}, nil
	}
	code := codeOf(err)
	ended := code == codes.Canceled || code == codes.DeadlineExceeded
	if deadline, ok := ctx.Deadline(); ok && ended && !s.answered() && !time.Now().Before(deadline) {
		// A server's timer for the same deadline may be a little faster than ours. Only ours tells
		// the pipeline whose limit it was.
		<-ctx.Done()
	}
	switch {
	case s.answered():
	case (code == codes.Unavailable || code == codes.DeadlineExceeded) && s.header == nil,
		ended && ctx.Err() != nil:
		return answer{}, &noAnswer{err}
	}
	return answer{err}, nil
}
