package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/pkg/problem"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	headerRequestID    = "X-Request-Id"
	headerServerTiming = "Server-Timing"
)

// route is one route's handler.
type route struct {
	Route
	gateway *Gateway
	target  *url.URL
	host    Host   // which one the upstream is sent
	origin  string // the upstream's name: mostly its scheme, host and port
	path    string // of the pattern, without its method
	proxy   *httputil.ReverseProxy
}

func (g *Gateway) newRoute(r Route, to destination, upstream string) *route {
	rt := &route{Route: r, gateway: g, target: to.url, host: to.Host, origin: upstream, path: r.Match}
	if _, path, ok := strings.Cut(r.Match, " "); ok {
		rt.path = path
	}
	rt.proxy = &httputil.ReverseProxy{
		BufferPool:     &g.buffers,
		ErrorLog:       slog.NewLogLogger(g.options.Logger.With(logRoute, r.Name).Handler(), slog.LevelWarn),
		Rewrite:        func(p *httputil.ProxyRequest) { callOf(p.Out.Context()).rewrite(p) },
		ModifyResponse: func(resp *http.Response) error { callOf(resp.Request.Context()).answer(resp); return nil },
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { callOf(r.Context()).fail(w, r, err) },
	}
	return rt
}

// call is one call through the gateway.
type call struct {
	route     *route
	in        *http.Request
	out       http.ResponseWriter
	body      *inboundBody // nil when the request has none
	requestID string
	report    resilience.Report
	resp      *http.Response // the upstream's, once there is one
	status    int            // what the caller gets
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{route: rt, in: r, out: w, requestID: requestID(r)}
	if r.Body != nil && r.Body != http.NoBody {
		c.body = &inboundBody{ReadCloser: r.Body, call: c}
	}
	if strings.EqualFold(r.Header.Get("Upgrade"), "h2c") {
		r.Header.Del("Upgrade") // its settings header is hop-by-hop and gone, so it could not work
	}
	ctx := context.WithValue(r.Context(), callKey{}, c)
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetName(r.Method + " " + rt.path)
		span.SetAttributes(semconv.HTTPRoute(rt.path))
		ctx = transport.WithRoute(ctx, rt.Name)
	}
	start := time.Now()
	defer func() { c.over(ctx, start) }() // also when a dead body aborts the call
	r = r.WithContext(transport.WithReport(ctx, &c.report))
	if c.body != nil {
		r.Body = c.body
	}
	rt.proxy.ServeHTTP(w, r)
}

// over tells of the call that has ended.
func (c *call) over(ctx context.Context, start time.Time) {
	if c.report.Reason == "" { // what sends the attempts panicked, and net/http hangs up
		c.report.Reason = resilience.ReasonResetBeforeHeaders
	}
	c.route.gateway.tell(ctx, Call{
		Route: c.route.Name, Policy: c.route.Policy, Pattern: c.route.path, Upstream: c.route.origin, Scheme: scheme(c.in), Host: c.in.Host, Path: c.in.URL.EscapedPath(), Method: c.in.Method,
		Status: c.status, RequestID: c.requestID, Start: start, Duration: time.Since(start), Report: &c.report,
	})
}

// rewrite makes the upstream's request. Hop-by-hop headers are gone already.
func (c *call) rewrite(p *httputil.ProxyRequest) {
	query := p.In.URL.RawQuery
	p.SetURL(c.route.target)
	p.Out.URL.RawQuery = query // as it came, also where it is not well-formed
	p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
	p.SetXForwarded()
	if p.In.Host == "" { // HTTP/1.0 may leave it out, and an empty one would end up in links
		p.Out.Header.Del("X-Forwarded-Host")
	}
	p.Out.Header.Set(headerRequestID, c.requestID)
	// The same map, not a copy: a request's trailers arrive with the end of its body.
	p.Out.Trailer = p.In.Trailer
}

// answer adds what the pipeline did to an upstream's response.
func (c *call) answer(resp *http.Response) {
	c.resp, c.status = resp, resp.StatusCode
	c.describe(resp.Header)
	if !c.body.atEnd() {
		c.body.streamOn(resp.Header)
	}
	if resp.ContentLength > 0 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &promptBody{ReadCloser: resp.Body, out: c.out}
	}
}

// describe sets the headers that tell the caller what the pipeline did.
func (c *call) describe(h http.Header) {
	h.Set(headerRequestID, c.requestID)
	h.Set(transport.HeaderAttemptCount, strconv.Itoa(len(c.report.Attempts)))
	if timing := serverTiming(&c.report); timing != "" {
		h.Add(headerServerTiming, timing)
	}
}

// fail answers a call without a response.
func (c *call) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problem.Problem{
		Status: http.StatusBadGateway, Reason: string(c.report.Reason), Route: c.route.Name, Upstream: c.route.origin,
		Attempts: len(c.report.Attempts), TraceID: traceID(r),
	}
	var e *resilience.Error
	switch {
	case !errors.As(err, &e):
		// httputil refuses an upgrade that the caller or the upstream got wrong.
		if c.resp != nil {
			_ = c.resp.Body.Close()
		}
		c.report.Reason = resilience.ReasonUpgrade // the pipeline has not seen one that the caller got wrong
		p.Reason, p.Detail = string(c.report.Reason), err.Error()
		if len(c.report.Attempts) == 0 {
			p.Status = http.StatusBadRequest
		}
	case e.Refused:
		p.Status = http.StatusServiceUnavailable
		seconds := max(1, int64(math.Ceil(e.RetryIn.Seconds())))
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
		p.Detail = fmt.Sprintf("%s is failing and is left alone for now; try again in %d s", c.route.origin, seconds)
	case errors.Is(e, resilience.ErrTimeout):
		p.Status = http.StatusGatewayTimeout
		p.Detail = c.tell("did not answer in time", e)
		if !c.body.atEnd() {
			p.Detail = c.tell("was still being sent the request's body when the time was up", e)
		}
	case e.Reason == resilience.ReasonCallerCanceled:
		p.Status = statusCallerGone
		p.Detail = "the caller went away"
	case e.Last == resilience.ReasonBodyFailed:
		p.Status = http.StatusBadRequest
		p.Detail = "the request body could not be read to its end"
	case errors.Is(e, transport.ErrHeaderTooLarge):
		p.Status = http.StatusRequestHeaderFieldsTooLarge
		p.Detail = "the request's header is larger than " + c.route.origin + " allows"
	case e.Last == resilience.ReasonInvalidRequest:
		p.Status = http.StatusBadRequest
		p.Detail = e.Err.Error()
	case e.Last == resilience.ReasonBodyNotReplayable:
		p.Status = http.StatusBadRequest
		p.Detail = "the request body cannot be had again"
	case e.Last == resilience.ReasonNotHTTP:
		p.Detail = c.tell("did not answer in HTTP", e) + ": " + e.Err.Error()
	case e.Last == resilience.ReasonDialError:
		p.Detail = c.tell("could not be reached", e)
	case e.Last == resilience.ReasonTLSError:
		p.Detail = c.tell("could not be reached securely", e)
	default:
		p.Detail = c.tell("closed the connection before it answered", e)
	}
	c.status = p.Status
	c.describe(w.Header())
	unread := !c.body.drain()
	if unread {
		w.Header().Set("Connection", "close")
	}
	problem.Write(w, p)
	if unread {
		c.body.abandon()
	}
}

// statusCallerGone is what nginx calls a caller who hung up; nobody reads it,
// but logs and metrics do.
const statusCallerGone = 499

func (c *call) tell(what string, e *resilience.Error) string {
	attempts := "1 attempt"
	if e.Attempts != 1 {
		attempts = fmt.Sprintf("%d attempts", e.Attempts)
	}
	return fmt.Sprintf("%s %s (%s in %v; the last ended with %s)",
		c.route.origin, what, attempts, c.report.Duration.Round(time.Millisecond), e.Last)
}

// promptBody hands on what it has before it waits for more. The server keeps up
// to 4 KiB of a response of known length to itself until it is complete, which
// would hide the beginning of a slow one.
type promptBody struct {
	io.ReadCloser
	out     http.ResponseWriter
	pending bool
}

func (b *promptBody) Read(p []byte) (int, error) {
	if b.pending {
		_ = http.NewResponseController(b.out).Flush()
	}
	n, err := b.ReadCloser.Read(p)
	b.pending = n > 0
	return n, err
}

// serverTiming writes a report as Server-Timing (W3C), which browsers draw as a
// waterfall: one entry for each attempt and each wait, in milliseconds.
func serverTiming(r *resilience.Report) string {
	if len(r.Attempts) == 0 {
		return ""
	}
	b := make([]byte, 0, 64*len(r.Attempts))
	entry := func(name string, n int, d time.Duration, description string) {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, name...)
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, ";dur="...)
		b = strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'f', 1, 64)
		b = append(b, `;desc="`...)
		b = append(b, description...)
		b = append(b, '"')
	}
	for i := range r.Attempts {
		a := &r.Attempts[i]
		entry("attempt", a.Number, a.Duration, string(a.Reason))
		if a.Verdict == resilience.VerdictRetry {
			entry("wait", a.Number, a.Wait.Actual, string(a.Wait.Source))
		}
	}
	return string(b)
}

// requestID is the caller's, if it is one that can stand in a log and a header,
// and a new one otherwise. All attempts of a call carry the same.
func requestID(r *http.Request) string {
	if id := r.Header.Get(headerRequestID); id != "" && len(id) <= 128 && strings.IndexFunc(id, unsafeInID) < 0 {
		return id
	}
	return rand.Text()
}

// scheme is what the caller's connection speaks. X-Forwarded-Proto could say
// anything.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

func unsafeInID(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:/+=@", c)
}

// traceID is that of the request's span, or else of its W3C traceparent header;
// "" if there is none.
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
