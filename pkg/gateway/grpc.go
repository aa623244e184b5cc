package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/problem"
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
		ctx, cancel := context.WithTimeout(ctx, limit)
		c.deadline, _ = ctx.Deadline()
		return ctx, cancel
	}
	return ctx, func() {}
}

// tookTooLong reports whether a call that ended with s took longer than its caller allows. The
// upstream may have seen that before we did. Otherwise DEADLINE_EXCEEDED tells of another limit.
func (c *call) tookTooLong(s rpcStatus) bool {
	return s.name == grpcwire.DeadlineExceeded.String() && !c.deadline.IsZero() && !time.Now().Before(c.deadline)
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
		reason := c.report.Reason
		if c.status != 0 && c.status != http.StatusOK {
			reason = resilience.StatusReason(c.status)
		}
		code, _ := reason.GRPC()
		if reason == resilience.ReasonOK {
			code = int(grpcwire.Unknown)
		}
		c.rpc.name = grpcwire.Code(code).String()
	}
	return c.rpc
}

// firstFlushAfter is how long the headers of a gRPC response, and its first message, wait for what
// follows. A unary call's response is complete before that, and then is sent at once, in one piece.
const firstFlushAfter = 500 * time.Microsecond

// firstFlush flushes the beginning of a response a moment later. A nil firstFlush has done so.
type firstFlush struct {
	mu    sync.Mutex // for all that writes to the caller until over
	call  *call
	timer *time.Timer
	over  bool
}

func (c *call) flushSoon() *firstFlush {
	f := &firstFlush{call: c}
	f.timer = time.AfterFunc(firstFlushAfter, f.fire)
	return f
}

func (f *firstFlush) fire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.over {
		f.over = true
		_ = f.call.flush() // the next write reports a caller who does not read
	}
}

// done reports whether the beginning was flushed.
func (f *firstFlush) done() bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

func (f *firstFlush) lock() {
	if f != nil {
		f.mu.Lock()
	}
}

func (f *firstFlush) unlock() {
	if f != nil {
		f.mu.Unlock()
	}
}

// stop ends f. A flush that runs ends first.
func (f *firstFlush) stop() {
	f.timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
}

// endRPC ends a gRPC response that broke off after its headers. A reset of the stream would say
// nothing to the caller.
func (c *call) endRPC(err error) {
	p := problem.Problem{Status: http.StatusBadGateway, Detail: "the response of " + c.upstreamForCaller() + " broke off"}
	c.report.Reason = resilience.ReasonBodyFailed
	if errors.Is(err, context.DeadlineExceeded) {
		p.Status, c.report.Reason = http.StatusGatewayTimeout, resilience.ReasonDeadlineExceeded
	}
	c.complete(&p)
	code, message := problem.EndGRPC(c.out, p)
	c.rpc = rpcStatus{code.String(), message}
}
