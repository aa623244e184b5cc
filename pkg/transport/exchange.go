package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Headers that Rebound reads and writes.
const (
	// HeaderAttemptCount carries the number of the attempt to the upstream, and the number of
	// attempts made back to the caller.
	HeaderAttemptCount = "X-Attempt-Count"
	// HeaderExpectedTimeout carries the time left for the request, in milliseconds. The name is
	// Envoy's.
	HeaderExpectedTimeout = "X-Envoy-Expected-Rq-Timeout-Ms"
	// HeaderIdempotencyKey marks a request as safe to send again, whatever its method.
	HeaderIdempotencyKey = "Idempotency-Key"
)

// exchange is the HTTP side of one call. It is the operation that the pipeline runs.
type exchange struct {
	transport *Transport
	req       *http.Request
	source    *replaySource
	tls       *handshakes // of the last attempt; nil over plain TCP
	upstream  string
	report    *resilience.Report // where the caller wants its report, or nil

	repeatable   bool // the method or an Idempotency-Key allows another attempt
	retriedAbove bool
	passThrough  bool        // an upgrade or an event stream
	grpc         bool        // its status is in the header or the trailers
	failed       bool        // the last attempt counted against the upstream
	held         bool        // the last attempt ends with its response body
	unsent       bool        // the last attempt had no connection
	explains     bool        // for [Transport.Explain]: no call is made
	heldBack     atomic.Bool // net/http holds, or held, the body back for a 100 (Continue)
	begun        time.Time   // when a gRPC call began
	badTrailer   error       // why the request's trailer cannot be sent

	tried      endpoint.Call
	lease      *endpoint.Lease // of the last attempt; nil if it has no endpoint
	firstLease *endpoint.Lease // for the first attempt, usually the only one; nil without endpoints
	retryAfter time.Duration   // what the last response asked for
	message    string          // of the last attempt's gRPC status

	start time.Time     // of the last attempt
	limit time.Duration // of the last attempt; 0 before the first

	sent  http.Request // for the first attempt, usually the only one
	body  responseBody // likewise
	trace *callTrace   // nil without tracing
}

// leased is an exchange and its first lease in one allocation.
type leased struct {
	exchange
	lease endpoint.Lease
}

// exchanges keeps exchanges for other calls. It is safe for concurrent use.
type exchanges struct {
	pool sync.Pool
	some atomic.Bool // otherwise no call has to look through the pool
}

func (e *exchanges) take(endpoints bool) *exchange {
	if e.some.Load() {
		if c, ok := e.pool.Get().(*exchange); ok {
			return c
		}
		e.some.Store(false)
	}
	if endpoints {
		l := new(leased)
		l.firstLease = &l.lease
		return &l.exchange
	}
	return new(exchange)
}

// put keeps c, which made no attempt, and which nothing else may know any more.
func (e *exchanges) put(c *exchange) {
	*c = exchange{firstLease: c.firstLease}
	e.pool.Put(c)
	if !e.some.Load() {
		e.some.Store(true)
	}
}

func (t *Transport) newExchange(req *http.Request, upstream string) *exchange {
	c := t.refused.take(t.endpoints != nil)
	c.transport, c.req, c.upstream, c.report = t, req, upstream, reportOf(req.Context())
	c.source = newReplaySource(req, int64(t.policy.Retry.ReplayBuffer), t.memory)
	method := methodOf(req)
	c.repeatable = t.repeats(method) || hasKey(req.Header) || isIdempotent(req.Context())
	c.badTrailer = checkTrailer(req.Trailer)
	if c.grpc = method == http.MethodPost && grpcwire.Is(req.Header); c.grpc {
		c.begun = time.Now()
	}
	c.retriedAbove = inboundAttempt(req.Header) > 1 || c.grpc && retriedByGRPC(req.Header)
	c.passThrough = nethttp.IsUpgrade(req.Header) || acceptsEvents(req.Header)
	return c
}

// hasKey reports whether h has a key that marks its request as safe to send again. It does not use
// Header.Get, which would convert the name first.
func hasKey(h http.Header) bool {
	key := h[HeaderIdempotencyKey]
	return len(key) > 0 && strings.TrimSpace(key[0]) != ""
}

// Attempt sends the request once.
func (c *exchange) Attempt(ctx context.Context, a *resilience.Attempt) (*http.Response, error) {
	c.start, c.limit = a.Start(), a.Limit()
	c.lease, c.retryAfter, c.held, c.unsent, c.message = nil, 0, false, false, ""
	ctx = c.trace.begin(ctx, c.req, a)
	if c.req.URL.Scheme == "https" {
		c.tls = &handshakes{}
		ctx = c.tls.trace(ctx)
	}
	if len(c.req.Header["Expect"]) > 0 {
		ctx = c.traceExpect(ctx)
	}
	req := &c.sent
	if a.Number() > 1 {
		req = new(http.Request)
	}
	*req = *c.req.WithContext(ctx)
	// A RoundTripper must not change the caller's request. Sharing the values is safe: header
	// values are replaced, never changed in place. Another attempt needs a header of its own, as
	// this one may still be read then, and for gRPC the caller's timeout.
	if req.Header = c.req.Header; !c.transport.owns || a.Number() > 1 || c.grpc {
		req.Header = maps.Clone(c.req.Header)
	}
	if req.Header == nil {
		req.Header = make(http.Header, 2)
	}
	if !c.retriedAbove {
		req.Header[HeaderAttemptCount] = c.transport.attemptValue(a.Number())
	} // otherwise the layers below see that this is a repetition
	req.Header[HeaderExpectedTimeout] = c.expectedTimeout(a)
	if c.grpc {
		c.describeAttempt(req.Header, a)
	}
	c.trace.inject(ctx, req.Header)
	if c.source != nil {
		body, err := c.source.open(ctx, a.Number() == 1)
		if err != nil {
			return nil, err
		}
		req.Body = body
		req.GetBody = nil
		if !nethttp.Repeats(req) {
			// net/http then calls GetBody only for requests that it never sent, or that the
			// upstream refused unread.
			req.GetBody = func() (io.ReadCloser, error) { return c.source.open(ctx, false) }
		}
	}
	if !c.repeatable {
		// an empty key, which net/http would take for a real one
		delete(req.Header, HeaderIdempotencyKey)
	}
	if err := checkURL(req.URL); err != nil {
		if c.source != nil {
			_ = req.Body.Close() // the RoundTripper below, which would close it, does not get it
		}
		return nil, err
	}
	resp, err := c.send(req, a)
	switch {
	case err != nil:
		c.unsent = isDialError(err)
		return nil, c.explainError(err)
	case resp == nil:
		return nil, errNoResponse
	case resp.StatusCode < 100: // no server can pass such a status on
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
		return nil, fmt.Errorf("%w: it has status %d", errNotHTTP, resp.StatusCode)
	}
	// Some RoundTrippers break the rules of http.Response.
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	// http.RoundTripper wants the caller's own request here. The attempt's request has a context
	// that ends with the attempt, and headers that the caller did not set.
	resp.Request = c.req
	if resp, err = c.readAhead(ctx, resp, a); err != nil {
		return nil, err
	}
	c.hold(resp, a)
	return resp, nil
}

// send makes one attempt. With endpoints, a retry goes to one that the call has not tried. A probe,
// and a retry that goes to the same endpoint, gets a new connection: one host name often stands for
// several pods, and a kept connection would lead to the pod that has just failed.
func (c *exchange) send(req *http.Request, a *resilience.Attempt) (*http.Response, error) {
	set := c.transport.endpoints
	if set == nil {
		return c.transport.next.RoundTrip(req)
	}
	l := c.firstLease
	if a.Number() > 1 {
		l = new(endpoint.Lease)
	}
	c.tried.Repeatable = c.repeatable && !c.passThrough && !c.retriedAbove
	if err := set.Begin(req.Context(), l, &c.tried, a.Limit()); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	c.lease = l
	c.trace.endpoint(l)
	return l.RoundTrip(req, a.Breaker() == resilience.HalfOpen || c.failed && l.Again())
}

// CountsAs reports the attempt's health to its endpoint, and returns what the upstream's circuit
// counts: nothing, if other endpoints serve the upstream's calls well.
func (c *exchange) CountsAs(h resilience.Health) resilience.Health {
	switch {
	case !c.held:
		c.lease.Report(h, c.retryAfter)
		c.lease.End(h)
	case h != resilience.Healthy: // otherwise the body decides
		c.lease.Report(h, c.retryAfter)
	}
	return spare(h, c.lease)
}

// spare returns Neutral instead of a failure for which only the endpoint is to blame.
func spare(h resilience.Health, l *endpoint.Lease) resilience.Health {
	if h == resilience.Unhealthy && l.OthersServe() {
		return resilience.Neutral
	}
	return h
}

// CallerBusy reports whether the attempt waits for the caller's request body or is still sending
// it. An upstream that accepts no bytes for half of the attempt timeout is to blame itself.
//
// A body held back for a 100 (Continue) counts as the caller's time too: most upstreams never send
// one, and net/http waits for it anyway.
func (c *exchange) CallerBusy() bool {
	return c.source.callerBusy(c.transport.policy.AttemptTimeout/2, c.heldBack.Load())
}

// CallerWaits reports whether the caller may be waiting for an answer, although its request has not
// ended: the caller of a gRPC stream that has sent something, and then nothing for half of the
// attempt timeout.
func (c *exchange) CallerWaits() bool {
	return c.grpc && c.source.idle(c.transport.policy.AttemptTimeout/2)
}

// CallerSends reports whether the request has a body, which its caller may send slowly.
func (c *exchange) CallerSends() bool { return c.req.Body != nil && c.req.Body != http.NoBody }

// Priority returns the class that the call's header asks for.
func (c *exchange) Priority() resilience.Priority {
	name := c.transport.policy.Priority.Header
	if name == "" {
		return resilience.PriorityNormal
	}
	p, _ := resilience.ParsePriority(c.req.Header.Get(name))
	return p
}

// traceExpect records whether net/http holds the request body back.
func (c *exchange) traceExpect(ctx context.Context) context.Context {
	c.heldBack.Store(false)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Wait100Continue: func() { c.heldBack.Store(true) },
	})
}

// Decided adds the verdict on an attempt to its trace.
func (c *exchange) Decided(r *resilience.AttemptReport) {
	r.Endpoint, r.Message = c.lease.Address(), c.message
	c.trace.verdict(r)
}

var errNoResponse = errors.New("the RoundTripper returned neither a response nor an error")

// expectedTimeout returns the attempt's limit in milliseconds, as a header value.
func (c *exchange) expectedTimeout(a *resilience.Attempt) []string {
	if a.Limit() == c.transport.policy.AttemptTimeout {
		return c.transport.attemptTimeout
	}
	return []string{milliseconds(a.Limit())}
}

// milliseconds rounds up. With a limit rounded down, an upstream that respects it would answer 504
// before the attempt ends, and be blamed. The result is at least 1, because 0 would mean no limit.
func milliseconds(d time.Duration) string {
	ms := d.Milliseconds()
	if d%time.Millisecond > 0 { // to add before the division would overflow for the longest limits
		ms++
	}
	return strconv.FormatInt(max(1, ms), 10)
}

// hold keeps the attempt open until the response body has been read.
func (c *exchange) hold(resp *http.Response, a *resilience.Attempt) {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		a.Hold()
		a.Settle(resilience.Healthy)
		c.lease.Report(resilience.Healthy, 0)
		if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
			c.trace.held()
			c.held = true
			resp.Body = &upgradedBody{ReadWriteCloser: conn, attempt: a, exchange: c, lease: c.lease}
			return
		}
	} else if resp.Body == http.NoBody {
		return
	}
	a.Hold()
	c.trace.held()
	c.held = true
	body := &c.body
	if a.Number() > 1 {
		body = new(responseBody)
	}
	*body = responseBody{
		ReadCloser: resp.Body, attempt: a, exchange: c, lease: c.lease,
	}
	if c.grpc && grpcwire.IsAnswer(resp) {
		body.grpc = &grpcBody{resp: resp, source: c.source}
	}
	resp.Body = body
	if resp.StatusCode < 400 && isEventStream(resp.Header) {
		a.Settle(resilience.Healthy) // the stream may last for hours
		c.lease.Report(resilience.Healthy, 0)
	}
}

// bodyFailed returns the error for a body that failed after its headers, and updates the call's
// report.
func (c *exchange) bodyFailed(a *resilience.Attempt, err error) error {
	if c.report != nil {
		c.report.Reason = resilience.ReasonBodyFailed
	}
	return &resilience.Error{
		Upstream: c.upstream, Reason: resilience.ReasonBodyFailed, Last: resilience.ReasonBodyFailed,
		Attempts: a.Number(), Err: err,
	}
}

// Classify returns the outcome of an attempt.
func (c *exchange) Classify(resp *http.Response, err error) resilience.Outcome {
	o := c.classify(resp, err)
	c.failed = o.Health == resilience.Unhealthy
	if err != nil {
		return o
	}
	if c.failed {
		c.retire(resp)
	}
	if resp.StatusCode >= 400 {
		c.retryAfter = retryafter.Of(resp, time.Now())
	} else if c.grpc {
		c.retryAfter, _, _ = grpcwire.Pushback(resp.Header)
	}
	// One endpoint that asks for time does not hold up a retry at another one.
	if o.Retry && (!c.failed || !c.lease.OthersServe()) {
		o.RetryAfter = c.retryAfter
	}
	return o
}

// retire keeps the connection of a failed response from being reused, if the pool below supports
// it. The next call would reach the same pod on it.
func (c *exchange) retire(resp *http.Response) {
	body := resp.Body
	if held, ok := body.(*responseBody); ok {
		body = held.ReadCloser
	}
	if r, ok := body.(interface{ Retire() }); ok {
		r.Retire()
	}
}

// Discard releases a response that is followed by another attempt.
func (c *exchange) Discard(resp *http.Response, a *resilience.Attempt) { discard(resp, a) }

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// inboundAttempt returns the attempt number that the layer before sent, or 0 if there is no
// readable one.
func inboundAttempt(h http.Header) int64 {
	if len(h[HeaderAttemptCount]) == 0 {
		return 0
	}
	n, _ := retryafter.Seconds(strings.TrimSpace(h.Get(HeaderAttemptCount)))
	return n
}

// inboundLimit returns the time limit that the layer before sent, or 0 if there is none.
func inboundLimit(h http.Header) time.Duration {
	if len(h[HeaderExpectedTimeout]) == 0 {
		return 0
	}
	ms, _ := retryafter.Seconds(strings.TrimSpace(h.Get(HeaderExpectedTimeout)))
	return time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond
}

const eventStream = "text/event-stream"

// acceptsEvents reports whether the caller asks for an event stream and nothing else, as a
// browser's EventSource does. EventSource reconnects by itself. Clients that list the type among
// others get their retries.
func acceptsEvents(h http.Header) bool {
	accept := h["Accept"]
	return len(accept) == 1 && isMediaType(accept[0], eventStream)
}

func isMediaType(v, want string) bool {
	if len(v) < len(want) || !strings.EqualFold(v[:len(want)], want) {
		return false
	}
	media, _, err := mime.ParseMediaType(v)
	return err == nil && media == want
}

func isEventStream(h http.Header) bool {
	v := h["Content-Type"]
	return len(v) > 0 && isMediaType(v[0], eventStream)
}
