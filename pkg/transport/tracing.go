package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Attribute keys of a call's span. docs/observability.md is generated from these comments.
const (
	keyRoute        attribute.Key = "rebound.route"         // the name of the gateway's route; absent without one
	keyPolicy       attribute.Key = "rebound.policy"        // the name of the policy
	keyUpstream     attribute.Key = "rebound.upstream"      // scheme, host and port
	keyAttempts     attribute.Key = "rebound.attempts"      // the number of attempts
	keyBudgetTokens attribute.Key = "rebound.budget.tokens" // the balance of the retry budget when the call ended
)

// keyReason is on every span and event of a call.
const keyReason attribute.Key = "rebound.reason" // the [resilience.Reason]

// Attribute keys of an attempt's span. The rest are those of OpenTelemetry's semantic conventions
// for HTTP clients.
const (
	// the number of the attempt, from 1
	keyAttempt attribute.Key = "rebound.attempt"
	keyVerdict attribute.Key = "rebound.verdict" // the [resilience.Verdict]
	// the [resilience.State] of the circuit when the attempt passed it
	keyBreakerState attribute.Key = "rebound.breaker.state"
	// why the endpoint got the attempt, an [endpoint.LeaseState]; absent without known endpoints
	keyEndpointState attribute.Key = "rebound.endpoint.state"
	// the time left for the whole call when the attempt began
	keyDeadlineRemaining attribute.Key = "rebound.deadline.remaining_ms"
	// whether the connection of the second send had been used before
	keyReused attribute.Key = "rebound.connection.reused"
)

// Attribute keys of the span of a wait.
const (
	// the planned wait; the span's duration is the actual one
	keyBackoffPlanned attribute.Key = "rebound.backoff.planned_ms"
	keyBackoffSource  attribute.Key = "rebound.backoff.source" // the [resilience.WaitSource]
)

// The names of spans and events that do not follow from the request.
const (
	spanResilience = "resilience"
	spanBackoff    = "backoff"
	eventRefused   = "attempt refused"  // on the resilience span: a further attempt was refused
	eventResend    = "transport.resend" // on an attempt: net/http sent it again on another connection
)

// tracer makes the spans of calls. It uses OpenTelemetry's API only.
type tracer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	policy     string
	silent     *callTrace // of all calls that are not recorded
}

// scope is the instrumentation scope's name.
const scope = "github.com/rebound-dev/rebound/pkg/transport"

// WithTracing makes a span for every call, with spans for its attempts and waits. policy is the
// policy's name in them. The propagator writes the context of each attempt into the request to the
// upstream. If the provider's sampler leaves a call out, it is not asked about the call's attempts
// and waits: they have no spans, and the upstream gets the context of the call. With the provider
// of trace/noop, WithTracing does nothing and costs nothing: trace headers of the request reach
// the upstream unchanged.
func WithTracing(provider trace.TracerProvider, propagator propagation.TextMapPropagator, policy string) Option {
	return func(t *Transport) {
		if _, off := provider.(noop.TracerProvider); off {
			return
		}
		t.tracer = &tracer{tracer: provider.Tracer(scope), propagator: propagator, policy: policy}
		t.tracer.silent = &callTrace{tracer: t.tracer, silent: true, call: noop.Span{}, attempt: noop.Span{}}
	}
}

type routeKey struct{}

// WithRoute sets the route's name for the trace of a call.
func WithRoute(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, routeKey{}, name)
}

// callTrace is the trace of one call. A transport without tracing uses nil, which does nothing.
type callTrace struct {
	*tracer
	silent   bool            // not recorded: it only injects, and never changes
	ctx      context.Context // with the call's span
	call     trace.Span
	attempt  trace.Span
	backoff  trace.Span
	decided  bool
	bodyOpen atomic.Bool // the attempt's span ends with its body
	over     bool        // the call's span ends with the span of its last attempt

	grpc      bool
	method    string        // of a gRPC call, such as orders.Orders/Create; empty if it has none
	code      grpcwire.Code // of the last attempt
	codeKnown bool
}

// start starts the span of a call. It returns the context with that span.
func (t *tracer) start(ctx context.Context, x *exchange) (context.Context, *callTrace) {
	if t == nil {
		return ctx, nil
	}
	route, _ := ctx.Value(routeKey{}).(string)
	name := spanResilience
	if route != "" {
		name += " " + route
	}
	ctx, call := t.tracer.Start(ctx, name)
	if !call.IsRecording() {
		call.End()
		return ctx, t.silent
	}
	c := &callTrace{tracer: t, ctx: ctx, call: call, grpc: x.grpc}
	if c.grpc {
		c.method = rpcMethod(x.req)
	}
	call.SetAttributes(keyPolicy.String(t.policy), keyUpstream.String(x.upstream))
	call.SetAttributes(c.rpcAttributes()...)
	if route != "" {
		call.SetAttributes(keyRoute.String(route))
	}
	return ctx, c
}

// off reports whether the call has no spans.
func (c *callTrace) off() bool { return c == nil || c.silent }

// begin starts the span of an attempt and ends the wait before it.
func (c *callTrace) begin(ctx context.Context, req *http.Request, a *resilience.Attempt) context.Context {
	if c.off() {
		return ctx
	}
	c.endBackoff()
	c.decided, c.codeKnown = false, false
	ctx, c.attempt = c.tracer.tracer.Start(ctx, SpanMethod(methodOf(req)), trace.WithSpanKind(trace.SpanKindClient))
	if !c.attempt.IsRecording() {
		return ctx
	}
	if c.method != "" {
		c.attempt.SetName(c.method)
	}
	c.attempt.SetAttributes(c.rpcAttributes()...)
	c.attempt.SetAttributes(
		semconv.HTTPRequestMethodKey.String(methodOf(req)),
		semconv.URLFull(withoutUser(req.URL)),
		semconv.ServerAddress(req.URL.Hostname()),
		keyAttempt.Int(a.Number()),
		keyBreakerState.String(a.Breaker().String()),
		keyDeadlineRemaining.Int64(a.CallDeadline().Sub(a.Start()).Milliseconds()),
	)
	if port := portOf(req.URL); port > 0 {
		c.attempt.SetAttributes(semconv.ServerPort(port))
	}
	if a.Number() > 1 {
		c.attempt.SetAttributes(semconv.HTTPRequestResendCount(a.Number() - 1))
	}
	return c.watchResends(ctx)
}

// unknownMethod is the convention's name of a method that the server does not have.
const unknownMethod = "_OTHER"

// rpcAttributes returns the attributes of a gRPC call that are known at its beginning.
func (c *callTrace) rpcAttributes() []attribute.KeyValue {
	switch {
	case !c.grpc:
		return nil
	case c.method == "":
		return []attribute.KeyValue{semconv.RPCSystemNameGRPC, semconv.RPCMethod(unknownMethod)}
	}
	return []attribute.KeyValue{semconv.RPCSystemNameGRPC, semconv.RPCMethod(c.method)}
}

// rpcStatus adds the status that the upstream has sent to the attempt's span. For a client every
// status but OK is an error, says the semantic convention. A method that the upstream does not have
// is no name for a span: any caller could make up new ones.
func (c *callTrace) rpcStatus(code grpcwire.Code) {
	if c.off() || !c.attempt.IsRecording() {
		return
	}
	c.setCode(c.attempt, code)
	if code == grpcwire.Unimplemented {
		c.attempt.SetName(semconv.RPCSystemNameGRPC.Value.AsString())
	}
}

// setCode adds a gRPC status to a span, and remembers it for the call's span.
func (c *callTrace) setCode(span trace.Span, code grpcwire.Code) {
	c.code, c.codeKnown = code, true
	span.SetAttributes(semconv.RPCResponseStatusCode(code.String()))
	if code != grpcwire.OK {
		span.SetAttributes(semconv.ErrorTypeKey.String(code.String()))
		span.SetStatus(codes.Error, "")
	}
	if code == grpcwire.Unimplemented && c.method != "" {
		span.SetAttributes(semconv.RPCMethod(unknownMethod), semconv.RPCMethodOriginal(c.method))
	}
}

// rpcReason marks the call and its attempt as failed by the status after its messages.
func (c *callTrace) rpcReason(r resilience.Reason) {
	if c.off() {
		return
	}
	for _, span := range []trace.Span{c.attempt, c.call} {
		span.SetAttributes(keyReason.String(string(r)))
	}
}

// endRPC adds a status to an attempt whose response ended without one, and to the call.
func (c *callTrace) endRPC(e ending, err error) {
	if !c.grpc {
		return
	}
	if !c.codeKnown {
		code := grpcwire.Unknown
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(c.ctx.Err(), context.DeadlineExceeded):
			code = grpcwire.DeadlineExceeded
		case err != nil:
			code = grpcwire.Unavailable
		case e == bodyAbandoned, e == bodyClosed:
			code = grpcwire.Canceled
		}
		c.setCode(c.attempt, code)
	}
	c.setCode(c.call, c.code)
}

// endpoint adds the endpoint to the attempt's span.
func (c *callTrace) endpoint(l *endpoint.Lease) {
	if c.off() || !c.attempt.IsRecording() {
		return
	}
	host, port, err := net.SplitHostPort(l.Address())
	if err != nil { // the set does not know it
		return
	}
	c.attempt.SetAttributes(semconv.NetworkPeerAddress(host), keyEndpointState.String(string(l.State())))
	if n, err := strconv.Atoi(port); err == nil {
		c.attempt.SetAttributes(semconv.NetworkPeerPort(n))
	}
}

// watchResends records requests that net/http sends again by itself. They show as a second
// connection for one request.
func (c *callTrace) watchResends(ctx context.Context) context.Context {
	span := c.attempt
	var connections atomic.Int32
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if connections.Add(1) > 1 {
			span.AddEvent(eventResend, trace.WithAttributes(keyReused.Bool(info.Reused)))
		}
	}})
}

// inject writes the attempt's trace context into the request to the upstream.
func (c *callTrace) inject(ctx context.Context, h http.Header) {
	if c != nil {
		c.propagator.Inject(ctx, carrier{propagation.HeaderCarrier(h)})
	}
}

// carrier is a HeaderCarrier that knows the usual headers. It would convert their names each time,
// with an allocation.
type carrier struct{ propagation.HeaderCarrier }

// Set replaces the values of a key.
func (c carrier) Set(key, value string) {
	switch key {
	case "traceparent":
		key = "Traceparent"
	case "tracestate":
		key = "Tracestate"
	default:
		c.HeaderCarrier.Set(key, value)
		return
	}
	c.HeaderCarrier[key] = []string{value}
}

// held marks the attempt's body as not yet read.
func (c *callTrace) held() {
	if !c.off() {
		c.bodyOpen.Store(true)
	}
}

// verdict completes the attempt's span, and ends it unless a body is still open. It starts the span
// of a wait if another attempt follows.
func (c *callTrace) verdict(r *resilience.AttemptReport) {
	if c.off() {
		return
	}
	if c.attempt.IsRecording() {
		c.attempt.SetAttributes(keyVerdict.String(string(r.Verdict)), keyReason.String(string(r.Reason)))
		if r.Status > 0 {
			c.attempt.SetAttributes(semconv.HTTPResponseStatusCode(r.Status))
		}
		if code, sent := r.Reason.GRPC(); c.grpc && !sent {
			c.setCode(c.attempt, grpcwire.Code(code))
		}
		switch {
		case r.Err != nil:
			c.attempt.SetAttributes(semconv.ErrorTypeKey.String(string(r.Reason)))
			c.attempt.SetStatus(codes.Error, r.Err.Error())
		case r.Status >= 400:
			c.attempt.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(r.Status)))
			c.attempt.SetStatus(codes.Error, "")
		}
	}
	c.decided = true
	if !c.bodyOpen.Load() {
		c.attempt.End()
	}
	if r.Verdict == resilience.VerdictRetry {
		_, c.backoff = c.tracer.tracer.Start(c.ctx, spanBackoff, trace.WithAttributes(
			keyBackoffPlanned.Int64(r.Wait.Planned.Milliseconds()),
			keyBackoffSource.String(string(r.Wait.Source)),
			keyReason.String(string(r.Wait.Reason)),
		))
	}
}

func (c *callTrace) endBackoff() {
	if c.backoff != nil {
		c.backoff.End()
		c.backoff = nil
	}
}

// bodyEnded ends the span of an attempt when its body ends. err is nil if the body is complete.
func (c *callTrace) bodyEnded(e ending, err error) {
	if c.off() || !c.bodyOpen.CompareAndSwap(true, false) || !c.decided {
		return
	}
	if c.over { // otherwise another attempt follows
		c.endRPC(e, err)
	}
	if err != nil {
		for _, span := range []trace.Span{c.attempt, c.call} {
			span.SetAttributes(keyReason.String(string(resilience.ReasonBodyFailed)), semconv.ErrorTypeKey.String(string(resilience.ReasonBodyFailed)))
			span.SetStatus(codes.Error, err.Error())
		}
	}
	c.attempt.End()
	if c.over {
		c.call.End()
	}
}

// end completes the call's span, and ends it unless a body is still open.
func (c *callTrace) end(r *resilience.Report, err error) {
	if c.off() {
		return
	}
	c.endBackoff()
	if c.call.IsRecording() {
		c.call.SetAttributes(
			keyAttempts.Int(len(r.Attempts)), keyReason.String(string(r.Reason)), keyBudgetTokens.Float64(r.BudgetTokens))
		if refusal(r.Reason) {
			c.call.AddEvent(eventRefused, trace.WithAttributes(keyReason.String(string(r.Reason))))
		}
		if c.grpc && (err != nil || c.codeKnown) {
			code := c.code
			if err != nil {
				n, _ := r.Reason.GRPC()
				code = grpcwire.Code(n)
				if errors.Is(err, resilience.ErrTimeout) {
					code = grpcwire.DeadlineExceeded
				}
			}
			c.setCode(c.call, code)
		}
		if err != nil {
			c.call.SetStatus(codes.Error, err.Error())
		}
	}
	c.over = true
	if !c.bodyOpen.Load() {
		c.call.End()
	}
}

// refusal reports whether r is the reason of an attempt that was wanted but not started.
func refusal(r resilience.Reason) bool {
	switch r {
	case resilience.ReasonBreakerOpen, resilience.ReasonBreakerHalfOpen, resilience.ReasonBudgetExhausted,
		resilience.ReasonDeadlineTooClose, resilience.ReasonRetryAfterTooLong:
		return true
	}
	return false
}

// abandon ends the spans that a panic left open.
func (c *callTrace) abandon() {
	if c.off() || c.over {
		return
	}
	c.endBackoff()
	if c.attempt != nil {
		c.attempt.SetStatus(codes.Error, "panic")
		c.attempt.End()
	}
	c.call.SetStatus(codes.Error, "panic")
	c.call.End()
}

// withoutUser returns u without user and password, which must not appear in a trace.
func withoutUser(u *url.URL) string {
	if u.User == nil && u.Opaque == "" {
		return u.String()
	}
	bare := *u
	bare.User = nil
	if strings.HasPrefix(u.Opaque, "/") { // a path that net/url would write differently
		bare.Opaque = "//" + u.Host + u.Opaque
	}
	return bare.String()
}

func portOf(u *url.URL) int {
	if p := u.Port(); p != "" {
		n, _ := strconv.Atoi(p)
		return n
	}
	switch u.Scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// SpanMethod returns the name of a method for a span: HTTP for an unknown method, as the semantic
// conventions require. Otherwise every request could add a new span name.
func SpanMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "HTTP"
}
