package transport

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

type idempotentKey struct{}

// WithIdempotent marks a call as safe to make again, whatever its method, as an Idempotency-Key
// does. It is meant for gRPC, where every call is a POST.
func WithIdempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}

func isIdempotent(ctx context.Context) bool { return ctx.Value(idempotentKey{}) != nil }

// describeAttempt adds the headers about an attempt of a gRPC call. The server gets what is left of
// the caller's time. Limits of ours end with the response's headers, and a server that knew of them
// would end long streams.
func (c *exchange) describeAttempt(h http.Header, a *resilience.Attempt) {
	if limit, ok := grpcwire.Timeout(h); ok {
		left := limit - a.Start().Sub(c.begun)
		if deadline, ok := c.req.Context().Deadline(); ok {
			left = min(left, deadline.Sub(a.Start()))
		}
		h[grpcwire.HeaderTimeout] = []string{grpcwire.FormatTimeout(left)}
	}
	if a.Number() > 1 && !c.retriedAbove {
		h[grpcwire.HeaderAttempts] = []string{strconv.Itoa(a.Number() - 1)}
	}
}

// timeIsUp reports whether ctx's deadline has passed, even if its timer has not fired. A gRPC
// upstream knows the caller's deadline and resets the stream then, perhaps a moment before we do.
func timeIsUp(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// retriedByGRPC reports whether the caller's gRPC library says that this call is a retry.
func retriedByGRPC(h http.Header) bool {
	n, ok := retryafter.Seconds(h.Get(grpcwire.HeaderAttempts))
	return ok && n > 0
}

// grpcAnswer returns the status of a gRPC response without messages (Trailers-Only). Any other
// response commits the call: its status is in the trailers, after the last message.
func grpcAnswer(resp *http.Response) (code grpcwire.Code, only bool) {
	if !grpcwire.IsAnswer(resp) {
		return grpcwire.OK, false
	}
	return grpcwire.Status(resp.Header)
}

// grpcEnding returns the ending that a gRPC status stands for. ours reports whether our own time
// limit for the attempt had passed.
func grpcEnding(code grpcwire.Code, ours bool) ending {
	switch {
	case code == grpcwire.OK:
		return answered
	case code == grpcwire.Unavailable:
		return rpcUnavailable
	case code.Fails():
		return rpcFailed
	case code == grpcwire.ResourceExhausted:
		return rpcExhausted
	case code == grpcwire.DeadlineExceeded && ours:
		return rpcTimedOut
	case code == grpcwire.DeadlineExceeded:
		return rpcDeadlinePassed
	}
	return rpcRejected
}

// grpcOutcome returns the outcome of an attempt that got a status without messages.
func (c *exchange) grpcOutcome(resp *http.Response, code grpcwire.Code) resilience.Outcome {
	limit := c.transport.policy.AttemptTimeout
	j := grpcEnding(code, c.limit >= limit && time.Since(c.start) >= limit).blame()
	o := resilience.Outcome{Reason: grpcReason(code), Health: j.health, Status: resp.StatusCode}
	if code == grpcwire.OK {
		return o
	}
	if g := c.grpcGate(resp, code, j.repeat); g.Shut {
		o.Final = g.Reason
		return o
	}
	o.Retry = true
	o.Gates = c.gates(j.repeat)
	return o
}

func grpcReason(code grpcwire.Code) resilience.Reason {
	if code == grpcwire.OK {
		return resilience.ReasonOK
	}
	return resilience.GRPCReason(int(code))
}

// grpcGate comes before all other gates, as statusGate does for HTTP.
func (c *exchange) grpcGate(resp *http.Response, code grpcwire.Code, r repeat) resilience.Gate {
	_, given, ok := grpcwire.Pushback(resp.Header)
	return resilience.Gate{
		Name: "gRPC status", Shut: r == never || !ok || r == byPushback && !given, Reason: resilience.ReasonStatusNotRetryable,
		Found: func() string {
			switch {
			case !ok:
				return code.String() + ", and the upstream asks for no further attempt"
			case r == byPushback && !given:
				return code.String() + ", and the upstream does not ask for another attempt"
			case r == byPushback:
				return code.String() + ", and the upstream asks for another attempt"
			case r == never:
				return code.String() + ", which is not retried"
			}
			return code.String() + ", without a message"
		},
	}
}

// grpcBody judges the end of a gRPC response by the status in its trailers.
type grpcBody struct {
	resp   *http.Response
	source *replaySource
}

// idles reports whether the caller may still send messages. Until it has, the upstream may have
// nothing to say.
func (b *grpcBody) idles() bool { return b != nil && b.source.unfinished() }

// ending returns the ending of a response that was read to its end. A response without a status is
// broken, but for one over HTTP/1, where proxies lose trailers.
func (b *grpcBody) ending(c *exchange) ending {
	code, ok := grpcwire.Status(b.resp.Trailer)
	if !ok {
		if _, only := grpcAnswer(b.resp); only || b.resp.ProtoMajor < 2 {
			return bodyComplete
		}
		code = grpcwire.Unknown
	}
	c.trace.rpcStatus(code)
	if code == grpcwire.OK {
		return bodyComplete
	}
	c.trace.rpcReason(grpcReason(code))
	if c.report != nil {
		c.report.Reason = grpcReason(code)
	}
	return grpcEnding(code, false)
}

// rpcMethod returns the name of the method that a gRPC request calls, such as orders.Orders/Create,
// or an empty string. It is the name of a span, so it must be of reasonable length.
func rpcMethod(req *http.Request) string {
	const longest = 200
	name := strings.TrimPrefix(req.URL.Path, "/")
	if strings.Count(name, "/") != 1 || len(name) > longest {
		return ""
	}
	return name
}
