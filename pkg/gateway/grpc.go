package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// RouteGRPC says how a route's gRPC calls are treated. Other calls are not concerned.
type RouteGRPC struct {
	// Idempotent allows a retry when the upstream answers UNAVAILABLE before any message, although
	// it may have processed the call. Set it where a call may take effect twice without harm.
	Idempotent bool `yaml:"idempotent"`
}

// isGRPC reports whether a request is a gRPC call. Its status must reach the caller in trailers,
// and not every caller of HTTP/1 reads them.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor > 1 && r.Method == http.MethodPost && grpcwire.Is(r.Header)
}

// within returns the context of a gRPC call, which ends when the caller's time is up, even in the
// middle of its messages.
func (c *call) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.route.GRPC.Idempotent {
		ctx = transport.WithIdempotent(ctx)
	}
	if limit, ok := grpcwire.Timeout(c.in.Header); ok {
		return context.WithTimeout(ctx, limit)
	}
	return ctx, func() {}
}

// rpcStatus is the status that the caller of a gRPC call got.
type rpcStatus struct{ name, message string }

// setStatus remembers the status that the caller gets, in a header or in trailers.
func (c *call) setStatus(h http.Header) {
	if code, ok := grpcwire.Status(h); ok {
		c.rpc.name = code.String()
		if code != grpcwire.OK {
			c.rpc.message = grpcwire.Message(h)
		}
	}
}

// finalStatus returns the status of a finished gRPC call. Without one in the response, it is what
// the caller's library makes of the response.
func (c *call) finalStatus() rpcStatus {
	if c.grpc && c.rpc.name == "" {
		code, _ := c.report.Reason.GRPC()
		if c.report.Reason == resilience.ReasonOK {
			code = int(grpcwire.Unknown)
		}
		c.rpc.name = grpcwire.Code(code).String()
	}
	return c.rpc
}

// endRPC ends a gRPC response that broke off after its headers. A reset of the stream would say
// nothing to the caller.
func (c *call) endRPC(err error) {
	code, reason := grpcwire.Unavailable, resilience.ReasonBodyFailed
	if errors.Is(err, context.DeadlineExceeded) {
		code, reason = grpcwire.DeadlineExceeded, resilience.ReasonDeadlineExceeded
	}
	c.report.Reason = reason
	h := c.out.Header()
	c.rpc = rpcStatus{code.String(), string(reason) + ": the response of " + c.upstreamForCaller() + " broke off"}
	h[http.TrailerPrefix+grpcwire.HeaderStatus] = []string{strconv.Itoa(int(code))}
	h[http.TrailerPrefix+grpcwire.HeaderMessage] = []string{grpcwire.EncodeMessage(c.rpc.message)}
}
