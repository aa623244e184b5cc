package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	headerRequestID    = "X-Request-Id"
	headerServerTiming = "Server-Timing"
)

// maxHeaderBytes limits the size of a request's target and header. Real requests are far smaller.
const maxHeaderBytes = 64 << 10

// route is one route's handler.
type route struct {
	Route
	upstreamURL
	pattern      pattern
	gateway      *Gateway
	listener     *listener
	transport    http.RoundTripper
	upstreamName string // as in observe.Call.Upstream
	path         string // of the pattern, without its method
	keepHost     bool   // the upstream gets the caller's Host
	headers      *addedHeaders
	looped       atomic.Bool
}

func (g *Gateway) newRoute(r Route, to destination, upstream string, l *listener, added *addedHeaders) (*route, error) {
	p, err := parsePattern(r.Match)
	if err != nil {
		return nil, err
	}
	return &route{
		Route: r, upstreamURL: newUpstreamURL(to.url), pattern: p, gateway: g, listener: l,
		upstreamName: upstream, path: p.host + p.path, keepHost: to.Host == HostCaller, headers: added,
	}, nil
}

// call is one call through the gateway.
type call struct {
	route  *route
	in     *http.Request
	out    http.ResponseWriter
	path   string       // as [escapedPath] returns it
	body   *inboundBody // nil when the request has none
	report resilience.Report
	status int // of the caller's response
	grpc   bool
	rpc    rpcStatus
	// deadline is when the time is up that the caller of a gRPC call gave it; zero without one.
	deadline     time.Time
	callersDoing bool // as in observe.Call
	// retryIn is how long a refused caller is told to wait.
	retryIn time.Duration

	requestIDs []string // exactly one, as a header value
	sending    sendWatch
	informer   informer

	trace  httptrace.ClientTrace
	url    url.URL   // of the upstream's request
	values [9]string // backing array of the slices that [call.value] returns
	used   int
}

// value returns s as a header value. It avoids an allocation by using c.values while it has room.
func (c *call) value(s string) []string {
	if c.used == len(c.values) {
		return []string{s}
	}
	c.values[c.used] = s
	c.used++
	return c.values[c.used-1 : c.used : c.used]
}

func (rt *route) serve(w http.ResponseWriter, r *http.Request, path string) {
	c := &call{route: rt, in: r, out: w, path: path, grpc: isGRPC(r)}
	c.requestIDs = c.value(requestID(r))
	c.sending = sendWatch{out: w, limit: rt.listener.sendTimeout}
	if hasBody(r) {
		c.body = &inboundBody{original: r.Body, call: c}
		defer func() { _ = c.body.Close() }() // stops reads by a leftover attempt
	}
	ctx := r.Context()
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetName(transport.SpanMethod(r.Method) + " " + rt.path)
		span.SetAttributes(semconv.HTTPRoute(rt.path))
		ctx = transport.WithRoute(ctx, rt.Name)
	}
	if rt.gateway.options.Logger.Enabled(ctx, slog.LevelDebug) {
		ctx = context.WithValue(ctx, callKey{}, c)
	}
	start := time.Now()
	defer func() { c.finish(ctx, start) }() // deferred, as a broken response body panics
	header, size := c.outgoingHeader(rt.listener.trusts(r.RemoteAddr))
	if c.endsHere(header, size) {
		return
	}
	c.forwardTo(ctx, header)
}

// endsHere answers requests that must not go upstream, and reports whether it did.
func (c *call) endsHere(header http.Header, size int) bool {
	r, rt := c.in, c.route
	if size += len(r.RequestURI); size > maxHeaderBytes {
		c.refuse(http.StatusRequestHeaderFieldsTooLarge, resilience.ReasonInvalidRequest,
			fmt.Sprintf("the request's header has %d bytes, more than %d", size, maxHeaderBytes))
		return true
	}
	if escapes(c.path, rt.prefix != "") {
		c.refuse(http.StatusBadRequest, resilience.ReasonInvalidRequest, "the request's path has a .. that could lead out of the route")
		return true
	}
	if rt.gateway.via.seen(r.Header) {
		if rt.looped.CompareAndSwap(false, true) {
			rt.gateway.options.Logger.WarnContext(r.Context(), lineLoop,
				slog.String(logRoute, rt.Name), slog.String(logUpstream, rt.upstreamName), slog.String(logVia, clipped(r.Header.Get(headerVia), maxPath)))
		}
		c.refuse(http.StatusLoopDetected, resilience.ReasonLoopDetected, c.upstreamForCaller()+" sent this request back to this gateway, which had already passed it on")
		return true
	}
	if protocol := upgradeTo(r.Header); !printable(protocol) {
		c.refuse(http.StatusBadRequest, resilience.ReasonUpgrade, fmt.Sprintf("the request asks for an upgrade to %q, which is not a valid protocol name", protocol))
		return true
	}
	return c.lastForward(header)
}

// lastForward applies Max-Forwards to TRACE and OPTIONS (RFC 9110, 7.6.2). It answers a request
// with Max-Forwards: 0 and returns true. Otherwise it decrements the header.
func (c *call) lastForward(header http.Header) bool {
	if c.in.Method != http.MethodTrace && c.in.Method != http.MethodOptions || len(header[headerMaxForwards]) != 1 {
		return false
	}
	left, err := strconv.ParseUint(strings.TrimSpace(header.Get(headerMaxForwards)), 10, 31)
	if err != nil {
		return false
	}
	if left > 0 {
		header[headerMaxForwards] = c.value(strconv.FormatUint(left-1, 10))
		return false
	}
	c.status, c.report.Reason = http.StatusOK, resilience.ReasonOK
	h := c.out.Header()
	c.describe(h)
	var seen strings.Builder
	if c.in.Method == http.MethodTrace {
		// Other headers are left out: they may hold secrets, such as those of a proxy in front.
		fmt.Fprintf(&seen, "TRACE %s %s\r\nHost: %s\r\n", c.in.RequestURI, c.in.Proto, c.in.Host)
		for _, name := range []string{headerVia, headerMaxForwards} {
			for _, v := range c.in.Header[name] {
				fmt.Fprintf(&seen, "%s: %s\r\n", name, v)
			}
		}
		h.Set(headerContentType, "message/http")
	} else if allow := c.route.gateway.current.Load().router.methods(c.in.Host, c.path); len(allow) > 0 {
		h.Set("Allow", strings.Join(allow, ", "))
	}
	h.Set("Content-Length", strconv.Itoa(seen.Len()))
	c.out.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(c.out, seen.String())
	return true
}

// printable reports whether s consists of printable ASCII characters.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// finish reports the finished call to the observers.
func (c *call) finish(ctx context.Context, start time.Time) {
	if c.report.Reason == "" { // the RoundTripper panicked, and net/http closes the connection
		c.report.Reason = resilience.ReasonResetBeforeHeaders
	}
	rpc := c.finalStatus()
	c.route.gateway.finished(ctx, observe.Call{
		Route: c.route.Name, Policy: c.route.Policy, Pattern: c.route.path, Upstream: c.route.upstreamName, Scheme: scheme(c.in), Host: c.in.Host, Path: c.path, Method: c.in.Method,
		Caller: c.in.RemoteAddr, Status: c.status, GRPCStatus: rpc.name, GRPCMessage: rpc.message, CallersDoing: c.callersDoing || c.tookTooLong(rpc), RequestID: c.requestIDs[0], Start: start, Duration: time.Since(start), Report: &c.report,
	})
}

// describe sets the request id and the headers about attempts and waits.
func (c *call) describe(h http.Header) {
	h[headerRequestID] = c.requestIDs
	if c.conceal(h); !c.route.listener.discloses {
		return
	}
	h[transport.HeaderAttemptCount] = c.value(strconv.Itoa(len(c.report.Attempts)))
	if timing := serverTiming(&c.report); timing != "" {
		if before := h[headerServerTiming]; len(before) > 0 {
			h[headerServerTiming] = append(slices.Clip(before), timing)
		} else {
			h[headerServerTiming] = c.value(timing)
		}
	}
}

// conceal removes from h, of the upstream, the count of attempts of a gateway behind this one if
// callers must not know it.
func (c *call) conceal(h http.Header) {
	if !c.route.listener.discloses {
		delete(h, transport.HeaderAttemptCount)
	}
}

// upstreamForCaller returns the upstream's name for callers.
func (c *call) upstreamForCaller() string {
	if c.route.listener.discloses {
		return c.route.upstreamName
	}
	return "the upstream"
}

// refuse answers a call that makes no attempt.
func (c *call) refuse(status int, reason resilience.Reason, detail string) {
	c.report.Reason = reason
	c.write(problem.Problem{Status: status, Detail: detail})
}

// complete adds to p what else the caller may know of the call.
func (c *call) complete(p *problem.Problem) {
	p.Reason, p.Route, p.TraceID = string(c.report.Reason), c.route.Name, traceID(c.in)
	p.Attempts = -1
	if c.route.listener.discloses {
		p.Upstream, p.Attempts = c.route.upstreamName, len(c.report.Attempts)
	}
}

// write answers with a problem document.
func (c *call) write(p problem.Problem) {
	c.complete(&p)
	c.status = p.Status
	h := c.out.Header()
	c.describe(h)
	if c.grpc {
		c.status = http.StatusOK
		code, message := problem.WriteGRPC(c.out, p, c.retryIn)
		c.rpc = rpcStatus{code.String(), message}
		return
	}
	unread := !c.body.drain()
	if unread {
		h.Set(headerConnection, "close")
	}
	problem.Write(c.out, p)
	if unread {
		c.body.abandon()
	}
}

// fail answers a call that got no usable response from the upstream.
func (c *call) fail(err error) {
	p := problem.Problem{Status: http.StatusBadGateway}
	var e *resilience.Error
	switch {
	case !errors.As(err, &e):
		p.Detail = err.Error()
		c.report.Reason = cmp.Or(c.report.Reason, resilience.ReasonResetBeforeHeaders)
	case e.Refused:
		c.refused(e, &p)
	case errors.Is(e, resilience.ErrTimeout) && e.Attempts == 0:
		p.Status = http.StatusGatewayTimeout
		p.Detail = "the time was up before " + c.upstreamForCaller() + " was called"
	case errors.Is(e, resilience.ErrTimeout):
		p.Status = http.StatusGatewayTimeout
		p.Detail = c.detail("did not answer in time", e)
		if !c.body.atEnd() {
			p.Detail = c.detail("was still being sent the request's body when the time was up", e)
		}
	case e.Reason == resilience.ReasonCallerCanceled:
		p.Status = problem.StatusCallerGone
		p.Detail = "the caller hung up"
	case e.Last == resilience.ReasonBodyFailed:
		p.Status = http.StatusBadRequest
		p.Detail = "the request body could not be read to its end"
	case errors.Is(e, transport.ErrHeaderTooLarge):
		p.Status = http.StatusRequestHeaderFieldsTooLarge
		p.Detail = "the request's header is larger than " + c.upstreamForCaller() + " allows"
	case e.Last == resilience.ReasonInvalidRequest:
		p.Status = http.StatusBadRequest
		p.Detail = e.Err.Error()
	case e.Last == resilience.ReasonBodyNotReplayable:
		p.Status = http.StatusBadRequest
		p.Detail = "the request body cannot be sent again"
	case e.Last == resilience.ReasonNotHTTP:
		p.Detail = c.detail("did not answer in HTTP", e)
		if c.route.listener.discloses {
			p.Detail += ": " + e.Err.Error()
		}
		if c.grpc {
			p.Detail += "; an upstream for gRPC without TLS has a URL that begins with h2c://"
		}
	case e.Last == resilience.ReasonNoEndpoint:
		p.Detail = c.detail("has no known address", e)
	case e.Last == resilience.ReasonEndpointEjected:
		p.Status = http.StatusServiceUnavailable
		p.Detail = c.detail("has no endpoint that works", e)
	case e.Last == resilience.ReasonDialError:
		p.Detail = c.detail("could not be reached", e)
	case e.Last == resilience.ReasonTLSError:
		p.Detail = c.detail("could not be reached securely", e)
	default:
		p.Detail = c.detail("closed the connection before it answered", e)
	}
	c.write(p)
}

// RefusalStatus returns the status of the answer to a call that the circuit or a limit refused, and
// its Retry-After in seconds.
func RefusalStatus(e *resilience.Error) (status int, retryAfter int64) {
	status = http.StatusServiceUnavailable
	if e.Reason == resilience.ReasonRateLimited {
		status = http.StatusTooManyRequests
	}
	return status, max(1, int64(math.Ceil(e.RetryIn.Seconds())))
}

// refused describes a call to which the policy gave no further attempt.
func (c *call) refused(e *resilience.Error, p *problem.Problem) {
	var seconds int64
	p.Status, seconds = RefusalStatus(e)
	c.retryIn = time.Duration(seconds) * time.Second
	c.out.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	what := c.upstreamForCaller() + " is failing and is left alone for now"
	switch e.Reason {
	case resilience.ReasonRateLimited:
		what = "there are more calls to " + c.upstreamForCaller() + " than the policy allows"
	case resilience.ReasonConcurrencyLimit:
		what = "too many calls to " + c.upstreamForCaller() + " are in progress"
	}
	p.Detail = fmt.Sprintf("%s; try again in %d s", what, seconds)
}

// detail describes a failed call: what happened, the number of attempts, the time and the last
// reason.
func (c *call) detail(what string, e *resilience.Error) string {
	if !c.route.listener.discloses {
		return c.upstreamForCaller() + " " + what
	}
	attempts := "1 attempt"
	if e.Attempts != 1 {
		attempts = fmt.Sprintf("%d attempts", e.Attempts)
	}
	return fmt.Sprintf("%s %s (%s in %v; the last ended with %s)",
		c.route.upstreamName, what, attempts, c.report.Duration.Round(time.Millisecond), e.Last)
}

// maxServerTiming limits the bytes of Server-Timing. Proxies in front often limit the whole header
// to 4 or 8 KiB.
const maxServerTiming = 1 << 10

// serverTiming formats a report as Server-Timing (W3C), which browsers draw as a waterfall. It has
// one entry per attempt and per wait, in milliseconds. If there are too many, it leaves out
// attempts before the last one.
func serverTiming(r *resilience.Report) string {
	if len(r.Attempts) == 0 {
		return ""
	}
	last := len(r.Attempts) - 1
	b := make([]byte, 0, min(64*len(r.Attempts), maxServerTiming))
	for i := range r.Attempts[:last] {
		before := len(b)
		b = appendTiming(b, &r.Attempts[i])
		// The entries for the attempts left out and for the last attempt must still fit. They take
		// 192 bytes at most.
		if len(b) > maxServerTiming-192 {
			b = append(b[:before], `left-out;desc="`...)
			b = strconv.AppendInt(b, int64(last-i), 10)
			b = append(b, ` more attempts", `...)
			break
		}
	}
	b = appendTiming(b, &r.Attempts[last])
	return string(b[:len(b)-len(timingSeparator)])
}

const timingSeparator = ", "

func appendTiming(b []byte, a *resilience.AttemptReport) []byte {
	b = appendEntry(b, "attempt", a.Number, a.Duration, string(a.Reason))
	if a.Verdict == resilience.VerdictRetry {
		b = appendEntry(b, "wait", a.Number, a.Wait.Actual, string(a.Wait.Source))
	}
	return b
}

func appendEntry(b []byte, name string, n int, d time.Duration, description string) []byte {
	b = append(b, name...)
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, ";dur="...)
	b = strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'f', 1, 64)
	b = append(b, `;desc="`...)
	b = append(b, description...)
	return append(append(b, '"'), timingSeparator...)
}

// requestID returns the caller's request id if it is safe in logs and headers, and a new one
// otherwise. All attempts of a call have the same id.
func requestID(r *http.Request) string {
	if id := r.Header.Get(headerRequestID); id != "" && len(id) <= 128 && strings.IndexFunc(id, unsafeInID) < 0 {
		return id
	}
	return newID()
}

// idSource makes ids like rand.Text, but asks the system for random bytes once for many.
type idSource struct {
	random [20 * idLength]byte
	used   int
}

const (
	idLength   = 26
	idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // base32, five bits a letter
)

var idSources = sync.Pool{New: func() any { return &idSource{used: len(idSource{}.random)} }} //nolint:gochecknoglobals // a pool

func newID() string {
	s, _ := idSources.Get().(*idSource)
	defer idSources.Put(s)
	if s.used == len(s.random) {
		_, _ = rand.Read(s.random[:]) // never fails
		s.used = 0
	}
	id := s.random[s.used : s.used+idLength]
	s.used += idLength
	for i, b := range id {
		id[i] = idAlphabet[b%32]
	}
	return string(id)
}

// scheme returns the scheme of the caller's connection. It ignores X-Forwarded-Proto, which a
// caller can forge.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

func unsafeInID(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:/+=@", c)
}

// traceID returns the trace id of the request's span, or else of its traceparent header (W3C). It
// returns "" if there is neither.
func traceID(r *http.Request) string {
	if span := trace.SpanContextFromContext(r.Context()); span.HasTraceID() {
		return span.TraceID().String()
	}
	parts := strings.Split(r.Header.Get("Traceparent"), "-")
	if len(parts) < 4 || len(parts[1]) != 32 || strings.Trim(parts[1], "0123456789abcdef") != "" || strings.Trim(parts[1], "0") == "" {
		return ""
	}
	return parts[1]
}
