package reboundgrpc

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/rpcconv"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The names of spans, events and attributes are those of package transport. docs/observability.md
// describes them.
const (
	spanResilience = "resilience"
	spanBackoff    = "backoff"
	eventRefused   = "attempt refused"

	keyPolicy            attribute.Key = "rebound.policy"
	keyUpstream          attribute.Key = "rebound.upstream"
	keyAttemptCount      attribute.Key = "rebound.attempts"
	keyBudgetTokens      attribute.Key = "rebound.budget.tokens"
	keyReason            attribute.Key = "rebound.reason"
	keyAttempt           attribute.Key = "rebound.attempt"
	keyVerdict           attribute.Key = "rebound.verdict"
	keyBreakerState      attribute.Key = "rebound.breaker.state"
	keyDeadlineRemaining attribute.Key = "rebound.deadline.remaining_ms"
	keyBackoffPlanned    attribute.Key = "rebound.backoff.planned_ms"
	keyBackoffSource     attribute.Key = "rebound.backoff.source"
)

// scope is the instrumentation scope's name.
const scope = "github.com/rebound-dev/rebound/pkg/grpc"

// otherMethod stands for a method that generated code does not know, as the semantic conventions
// require.
const otherMethod = "_OTHER"

// tracer makes the spans and the measurements of calls. It uses OpenTelemetry's API only.
type tracer struct {
	tracer     trace.Tracer // nil for none
	propagator propagation.TextMapPropagator
	policy     string
	duration   *rpcconv.ClientCallDuration // nil for none
}

func (t *tracer) useTracer(provider trace.TracerProvider, propagator propagation.TextMapPropagator, policy string) {
	if _, off := provider.(noop.TracerProvider); !off {
		t.tracer, t.propagator, t.policy = provider.Tracer(scope), propagator, policy
	}
}

func (t *tracer) useMeter(provider metric.MeterProvider) error {
	d, err := rpcconv.NewClientCallDuration(provider.Meter(scope))
	t.duration = &d
	return err
}

func (t *tracer) enabled() bool { return t != nil && (t.tracer != nil || t.duration != nil) }

// hostOf returns the host and the port of a target, or nothing if it has no host.
func hostOf(target string) (host string, port int) {
	u, err := url.Parse(target)
	if err != nil {
		return "", 0
	}
	endpoint := strings.TrimPrefix(u.Path, "/")
	host, number, err := net.SplitHostPort(endpoint)
	if err != nil {
		return endpoint, 0
	}
	port, _ = strconv.Atoi(number)
	return host, port
}

// callTrace is the trace of one call. Interceptors without tracing and metrics use nil, which does
// nothing. The end of a stream may come on another goroutine, so mu guards all but the call's span.
type callTrace struct {
	*tracer
	upstream *upstream
	method   string // without the slash at its beginning; empty if it is not known in advance
	original string // if method is empty
	ctx      context.Context
	call     trace.Span

	mu      sync.Mutex
	attempt trace.Span
	backoff trace.Span
	start   time.Time         // of the attempt
	code    codes.Code        // with which it ended
	failed  string            // what kind of failure it is, empty for a success
	open    bool              // its stream has not ended
	broken  resilience.Reason // why its stream failed after the headers
	decided bool
	over    bool // the call's span ends with its stream
}

// start begins the trace of a call, and replaces c's context by one with its span.
func (t *tracer) start(c *call) *callTrace {
	if t == nil {
		return nil
	}
	ct := &callTrace{tracer: t, upstream: c.upstream, call: noop.Span{}, attempt: noop.Span{}, backoff: noop.Span{}}
	name := strings.TrimPrefix(c.method, "/")
	for _, o := range c.opts {
		if _, static := o.(grpc.StaticMethodCallOption); static {
			ct.method = name
		}
	}
	if ct.method == "" {
		ct.original = name
	}
	if t.tracer != nil {
		c.ctx, ct.call = t.tracer.Start(c.ctx, spanResilience)
		if ct.call.IsRecording() {
			ct.call.SetAttributes(keyPolicy.String(t.policy), keyUpstream.String(c.upstream.name))
		}
	}
	ct.ctx = c.ctx
	return ct
}

// begin starts the span of an attempt and ends the wait before it.
func (c *callTrace) begin(ctx context.Context, a *resilience.Attempt) context.Context {
	if c == nil {
		return ctx
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backoff.End()
	c.start, c.code, c.failed, c.decided = a.Start(), codes.OK, "", false
	if c.tracer.tracer == nil {
		return ctx
	}
	name := c.method
	if name == "" {
		name = semconv.RPCSystemNameGRPC.Value.AsString()
	}
	ctx, c.attempt = c.tracer.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
	if c.attempt.IsRecording() {
		c.attempt.SetAttributes(c.attributes()...)
		if c.method == "" {
			c.attempt.SetAttributes(semconv.RPCMethodOriginal(c.original))
		}
		c.attempt.SetAttributes(
			keyAttempt.Int(a.Number()),
			keyBreakerState.String(a.Breaker().String()),
			keyDeadlineRemaining.Int64(a.CallDeadline().Sub(a.Start()).Milliseconds()),
		)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	if md == nil {
		md = metadata.MD{}
	}
	c.propagator.Inject(ctx, carrier(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// carrier lets a propagator write into metadata.
type carrier metadata.MD

// Get returns the first value of a key.
func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set replaces the values of a key.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys returns all keys.
func (c carrier) Keys() []string {
	var keys []string
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// attributes returns what spans and measurements of all attempts of the call have in common.
func (c *callTrace) attributes() []attribute.KeyValue {
	method := c.method
	if method == "" {
		method = otherMethod
	}
	all := make([]attribute.KeyValue, 0, 6)
	all = append(all, semconv.RPCSystemNameGRPC, semconv.RPCMethod(method))
	if c.upstream.host != "" {
		all = append(all, semconv.ServerAddress(c.upstream.host))
	}
	if c.upstream.port > 0 {
		all = append(all, semconv.ServerPort(c.upstream.port))
	}
	return all
}

// peer adds the address that the attempt was sent to.
func (c *callTrace) peer(address string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.attempt.IsRecording() {
		return
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return
	}
	c.attempt.SetAttributes(semconv.NetworkPeerAddress(host))
	if n, err := strconv.Atoi(port); err == nil {
		c.attempt.SetAttributes(semconv.NetworkPeerPort(n))
	}
}

// hold keeps the attempt's span open until [callTrace.streamEnded].
func (c *callTrace) hold() {
	if c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open = true
	}
}

// verdict completes the attempt's span, and ends it unless its stream is open. It starts the span
// of a wait if another attempt follows.
func (c *callTrace) verdict(r *resilience.AttemptReport, err error) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.code = codeOf(err); c.code != codes.OK {
		c.failed = nameOf(c.code)
	}
	if r.Err != nil {
		c.code, c.failed = codeOfReason(r.Reason, c.code), string(r.Reason)
	}
	if c.attempt.IsRecording() {
		c.attempt.SetAttributes(keyVerdict.String(string(r.Verdict)), keyReason.String(string(cmp.Or(c.broken, r.Reason))))
		if r.Err != nil {
			c.attempt.SetStatus(otelcodes.Error, r.Err.Error())
		}
	}
	c.decided = true
	if !c.open {
		c.endAttempt()
	}
	if r.Verdict == resilience.VerdictRetry && c.tracer.tracer != nil {
		_, c.backoff = c.tracer.tracer.Start(c.ctx, spanBackoff, trace.WithAttributes(
			keyBackoffPlanned.Int64(r.Wait.Planned.Milliseconds()),
			keyBackoffSource.String(string(r.Wait.Source)),
			keyReason.String(string(r.Wait.Reason)),
		))
	}
}

// codeOfReason returns the code for an attempt without an answer. When its time was up, grpc-go
// only knows that it was canceled.
func codeOfReason(r resilience.Reason, code codes.Code) codes.Code {
	switch r {
	case resilience.ReasonAttemptTimeout, resilience.ReasonDeadlineExceeded:
		return codes.DeadlineExceeded
	case resilience.ReasonCallerCanceled:
		return codes.Canceled
	}
	return code
}

// endAttempt ends the attempt's span and records its duration. It is called under mu.
func (c *callTrace) endAttempt() {
	if c.attempt.IsRecording() {
		c.attempt.SetAttributes(semconv.RPCResponseStatusCode(nameOf(c.code)))
		if c.failed != "" {
			c.attempt.SetAttributes(semconv.ErrorTypeKey.String(c.failed))
		}
		if c.code != codes.OK {
			c.attempt.SetStatus(otelcodes.Error, "") // keeps an earlier description
		}
	}
	c.attempt.End()
	if c.duration != nil {
		all := append(c.attributes(), semconv.RPCResponseStatusCode(nameOf(c.code)))
		if c.failed != "" {
			all = append(all, semconv.ErrorTypeKey.String(c.failed))
		}
		c.duration.RecordSet(c.ctx, time.Since(c.start).Seconds(), attribute.NewSet(all...))
	}
}

// streamEnded ends the span of a held attempt. reason is empty for a success.
func (c *callTrace) streamEnded(code codes.Code, reason resilience.Reason) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return
	}
	c.open = false
	if code != codes.OK {
		c.code, c.failed, c.broken = code, nameOf(code), reason
		for _, span := range []trace.Span{c.attempt, c.call} {
			span.SetAttributes(keyReason.String(string(reason)))
			span.SetStatus(otelcodes.Error, "")
		}
	}
	if c.decided {
		c.endAttempt()
	}
	if c.over {
		c.call.End()
	}
}

// end completes the call's span, and ends it unless its stream is open.
func (c *callTrace) end(r *resilience.Report, err error) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backoff.End()
	if c.call.IsRecording() {
		c.call.SetAttributes(
			keyAttemptCount.Int(len(r.Attempts)), keyReason.String(string(cmp.Or(c.broken, r.Reason))), keyBudgetTokens.Float64(r.BudgetTokens))
		if refusal(r.Reason) {
			c.call.AddEvent(eventRefused, trace.WithAttributes(keyReason.String(string(r.Reason))))
		}
		switch {
		case err != nil:
			c.call.SetStatus(otelcodes.Error, err.Error())
		case c.code != codes.OK:
			c.call.SetStatus(otelcodes.Error, "")
		}
	}
	c.over = true
	if !c.open {
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
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	for _, span := range []trace.Span{c.backoff, c.attempt, c.call} {
		span.SetStatus(otelcodes.Error, "panic")
		span.End()
	}
}
