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
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Headers that Rebound reads and writes.
const (
	// HeaderAttemptCount tells the upstream which attempt of a call a request is,
	// and the caller how many there were.
	HeaderAttemptCount = "X-Attempt-Count"
	// HeaderExpectedTimeout is the time left for the request in milliseconds, as
	// Envoy spells it.
	HeaderExpectedTimeout = "X-Envoy-Expected-Rq-Timeout-Ms"
	// HeaderIdempotencyKey makes a request of any method safe to repeat.
	HeaderIdempotencyKey = "Idempotency-Key"
)

// exchange is one call: the operation that the pipeline runs.
type exchange struct {
	transport *Transport
	req       *http.Request
	source    *replaySource
	tls       *handshakes // of the last attempt, nil over plain TCP
	upstream  string
	report    *resilience.Report // the caller's, nil when none is wanted

	repeatable   bool // by method or Idempotency-Key
	retriedAbove bool
	passThrough  bool        // an upgrade or an event stream
	failed       bool        // the last attempt counted against the upstream
	badTrailer   error       // why the request's trailer cannot be sent
	heldBack     atomic.Bool // the body waits, or waited, for a 100 (Continue)

	start time.Time     // of the last attempt
	limit time.Duration // of the last attempt, 0 before the first

	body     responseBody // of the first attempt, which is mostly the only one
	trace    *callTrace   // nil without tracing
	explains bool         // for [Transport.Explain]: no call is made
}

func (t *Transport) newExchange(req *http.Request, upstream string) *exchange {
	c := &exchange{transport: t, req: req, upstream: upstream, report: reportOf(req.Context())}
	c.source = newReplaySource(req, int64(t.policy.Retry.ReplayBuffer), t.memory)
	c.repeatable = t.methods[methodOf(req)] || strings.TrimSpace(req.Header.Get(HeaderIdempotencyKey)) != ""
	c.badTrailer = checkTrailer(req.Trailer)
	c.retriedAbove = inboundAttempt(req.Header) > 1
	c.passThrough = isUpgrade(req.Header) || acceptsEvents(req.Header)
	return c
}

// Attempt sends the request once.
func (c *exchange) Attempt(ctx context.Context, a *resilience.Attempt) (*http.Response, error) {
	c.start, c.limit = a.Start(), a.Limit()
	ctx = c.trace.begin(ctx, c.req, a)
	if c.req.URL.Scheme == "https" {
		c.tls = &handshakes{}
		ctx = c.tls.trace(ctx)
	}
	if len(c.req.Header["Expect"]) > 0 {
		ctx = c.traceExpect(ctx)
	}
	req := c.req.WithContext(ctx)
	// A RoundTripper must leave the caller's request as it is. The values are
	// shared, which is safe: a header's values are replaced, never written into.
	if req.Header = maps.Clone(c.req.Header); req.Header == nil {
		req.Header = make(http.Header, 2)
	}
	if !c.retriedAbove {
		req.Header[HeaderAttemptCount] = c.transport.attemptValue(a.Number())
	} // or else the layers below learn that this is a repetition
	req.Header[HeaderExpectedTimeout] = c.expectedTimeout(a)
	c.trace.inject(ctx, req.Header)
	if c.source != nil {
		body, err := c.source.open(ctx, a.Number() == 1)
		if err != nil {
			return nil, err
		}
		req.Body = body
		req.GetBody = nil
		if !repeatedByNetHTTP(req) {
			// It then serves only to send again what never left, or was refused unseen.
			req.GetBody = func() (io.ReadCloser, error) { return c.source.open(ctx, false) }
		}
	}
	if !c.repeatable {
		delete(req.Header, HeaderIdempotencyKey) // empty, which net/http takes for one
	}
	if err := checkURL(req.URL); err != nil {
		if c.source != nil {
			_ = req.Body.Close() // the RoundTripper below, who would, does not get it
		}
		return nil, err
	}
	resp, err := c.send(req, a)
	switch {
	case err != nil:
		return nil, c.explainError(err)
	case resp == nil:
		return nil, errNoResponse
	case resp.StatusCode < 100: // which no server can pass on
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
		return nil, fmt.Errorf("%w: its status is %d", errNotHTTP, resp.StatusCode)
	}
	// Not every RoundTripper keeps the rules of http.Response.
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	// The caller's own request, as http.RoundTripper has it: the attempt's has a
	// context that ends with it, and headers that are not the caller's.
	resp.Request = c.req
	c.hold(resp, a)
	return resp, nil
}

// send makes one attempt, on a connection of its own where the pool below can do
// that and it may help: behind one name are several pods, and a kept connection
// would lead a probe or a retry to the one that has just failed.
func (c *exchange) send(req *http.Request, a *resilience.Attempt) (*http.Response, error) {
	if pool := c.transport.pool; pool != nil && (c.failed || a.Breaker() == resilience.HalfOpen) {
		return pool.RoundTripFresh(req)
	}
	return c.transport.next.RoundTrip(req)
}

// CallerBusy reports whether the attempt waits for the caller's request body, or
// sends it on. An upstream that takes none of it for half of the attempt's time
// is to blame itself.
//
// A body that is held back for a 100 (Continue) counts as the caller's time too:
// most upstreams never send one, and net/http waits for it all the same.
func (c *exchange) CallerBusy() bool {
	return c.source.callerBusy(c.transport.policy.AttemptTimeout/2, c.heldBack.Load())
}

// traceExpect notes when net/http holds the request's body back.
func (c *exchange) traceExpect(ctx context.Context) context.Context {
	c.heldBack.Store(false)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Wait100Continue: func() { c.heldBack.Store(true) },
	})
}

// Decided puts the verdict on an attempt into its trace.
func (c *exchange) Decided(r *resilience.AttemptReport) { c.trace.verdict(r) }

// repeatedByNetHTTP tells whether net/http would send req again by itself, unseen
// and beyond every budget, when a kept connection dies after it may have
// arrived. For a request with a body it needs a GetBody for that.
func repeatedByNetHTTP(req *http.Request) bool {
	switch methodOf(req) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header[HeaderIdempotencyKey]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

var errNoResponse = errors.New("the RoundTripper gave neither a response nor an error")

// expectedTimeout is the attempt's time in whole milliseconds.
func (c *exchange) expectedTimeout(a *resilience.Attempt) []string {
	if a.Limit() == c.transport.policy.AttemptTimeout {
		return c.transport.attemptTimeout
	}
	return []string{milliseconds(a.Limit())}
}

// milliseconds is rounded up: an upstream that keeps to a shorter limit than the
// attempt has would answer 504 before the attempt ends, and be blamed for it. It is at
// least 1: 0 would mean no limit.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, (d+time.Millisecond-1).Milliseconds()), 10)
}

// hold ties a response to its attempt until the body has been read.
func (c *exchange) hold(resp *http.Response, a *resilience.Attempt) {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		a.Hold()
		a.Settle(resilience.Healthy)
		if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
			c.trace.held()
			resp.Body = &upgradedBody{ReadWriteCloser: conn, attempt: a, exchange: c}
			return
		}
	} else if resp.Body == http.NoBody {
		return
	}
	a.Hold()
	c.trace.held()
	body := &c.body
	if a.Number() > 1 {
		body = new(responseBody)
	}
	*body = responseBody{
		ReadCloser: resp.Body, attempt: a, exchange: c, stall: c.transport.policy.BodyIdleTimeout,
	}
	resp.Body = body
	if resp.StatusCode < 400 && isEventStream(resp.Header) {
		a.Settle(resilience.Healthy) // it may go on for hours
	}
}

// bodyFailed is the error of a body that died after its headers. The call's
// reason changes with it.
func (c *exchange) bodyFailed(a *resilience.Attempt, err error) error {
	if c.report != nil {
		c.report.Reason = resilience.ReasonBodyFailed
	}
	return &resilience.Error{
		Upstream: c.upstream, Reason: resilience.ReasonBodyFailed, Last: resilience.ReasonBodyFailed,
		Attempts: a.Number(), Err: err,
	}
}

// Classify says what came of an attempt.
func (c *exchange) Classify(resp *http.Response, err error) resilience.Outcome {
	o := c.classify(resp, err)
	c.failed = o.Health == resilience.Unhealthy
	if err != nil {
		return o
	}
	if c.failed {
		c.retire(resp)
	}
	if o.Retry {
		o.RetryAfter = retryAfter(resp, time.Now())
	}
	return o
}

// retire keeps the connection of a failing answer from being used again, where the
// pool below can do that: the next call would meet the same pod on it.
func (c *exchange) retire(resp *http.Response) {
	body := resp.Body
	if held, ok := body.(*responseBody); ok {
		body = held.ReadCloser
	}
	if r, ok := body.(interface{ Retire() }); ok {
		r.Retire()
	}
}

// Discard frees the response of an attempt that another one follows.
func (c *exchange) Discard(resp *http.Response, a *resilience.Attempt) { discard(resp, a) }

func methodOf(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// inboundAttempt is the attempt of the layer before, 0 when it says nothing
// readable.
func inboundAttempt(h http.Header) int64 {
	if len(h[HeaderAttemptCount]) == 0 {
		return 0
	}
	n, _ := parseSeconds(strings.TrimSpace(h.Get(HeaderAttemptCount)))
	return n
}

// inboundLimit is the time that the layer before gives, 0 when it gives none.
func inboundLimit(h http.Header) time.Duration {
	if len(h[HeaderExpectedTimeout]) == 0 {
		return 0
	}
	ms, _ := parseSeconds(strings.TrimSpace(h.Get(HeaderExpectedTimeout)))
	return time.Duration(min(ms, int64(24*time.Hour/time.Millisecond))) * time.Millisecond
}

// isUpgrade tells whether the caller asks for another protocol. Upgrade: h2c,
// which some clients send with every request, does not count: RFC 9113 has
// retired it, and an answer to it is an ordinary one.
func isUpgrade(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && !strings.EqualFold(h.Get("Upgrade"), "h2c") && slices.ContainsFunc(h["Connection"], func(v string) bool {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(token), "upgrade") {
				return true
			}
		}
		return false
	})
}

const eventStream = "text/event-stream"

// acceptsEvents tells whether the caller asks for an event stream and nothing
// else, as a browser's EventSource does; it reconnects by itself. Clients that
// list it among other types get their retries.
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
