package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// How often a request is sent again that the upstream has not looked at. A refused
// stream may mean an upstream with too much to do. A GOAWAY closes one connection, and
// each of the shared ones may get it.
const (
	maxRefusals = 1
	maxGoAways  = spread + 1
)

// RoundTrip sends a request on the kept connection that was used last, or on a new one.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) { return p.roundTrip(req, false) }

// RoundTripFresh sends a request on a connection that is new, or over which the
// upstream has answered well within the last second: for what repeats or probes.
func (p *Pool) RoundTripFresh(req *http.Request) (*http.Response, error) {
	return p.roundTrip(req, true)
}

func (p *Pool) roundTrip(req *http.Request, fresh bool) (*http.Response, error) {
	if p.upgrades != nil && isUpgrade(req.Header) {
		return p.upgrades.RoundTrip(req)
	}
	ctx := req.Context()
	out, sent := watchBody(req)
	if ctx.Err() != nil {
		_ = sent.Close()
		return nil, context.Cause(ctx)
	}
	trace := httptrace.ContextClientTrace(ctx)
	for again := 0; ; again++ {
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(p.address)
		}
		c, reused, err := p.get(ctx, fresh, again > 0)
		if err != nil {
			_ = sent.Close()
			return nil, err
		}
		if trace != nil && trace.GotConn != nil {
			trace.GotConn(httptrace.GotConnInfo{Conn: c.wire, Reused: reused, WasIdle: reused && !c.shared})
		}
		written, read := c.wire.written.Load(), c.wire.read.Load()
		c.wire.asked.Store(read)
		resp, err := c.client.RoundTrip(out)
		if err == nil {
			resp.Request = req
			p.hold(ctx, resp, c)
			return resp, nil
		}
		lost := c.client.Err() != nil
		p.failed(ctx, c, err, lost, sent.broken())
		unsent := !c.shared && lost && c.wire.written.Load() == written
		unanswered := !c.shared && lost && c.wire.read.Load()-read <= p.farewell()
		switch {
		case ctx.Err() != nil, sent.broken():
		case c.shared && again < unseen(err),
			reused && unsent,
			reused && unanswered && repeatable(req):
			if next, body, ok := sent.rewind(req, out); ok {
				out, sent, fresh = next, body, true
				continue
			}
		}
		_ = sent.Close()
		if sent.broken() {
			return nil, bare(err) // in the words of the caller's body, not of an answer
		}
		return nil, p.quoting(c, bare(err))
	}
}

// isUpgrade reports whether a request asks for another protocol, which HTTP/2 has no
// way to do: it goes over a connection of HTTP/1 that no other request uses. h2c is
// for cleartext only.
func isUpgrade(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && !strings.EqualFold(h["Upgrade"][0], "h2c") &&
		httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
}

// quoting adds to net/http's complaint about an answer that is not HTTP what it began
// with: net/http quotes the part that it could not read, which may be the middle.
func (p *Pool) quoting(c *conn, err error) error {
	if p.scheme != "http" || c.shared || !strings.Contains(err.Error(), "malformed ") {
		return err
	}
	return fmt.Errorf("%w: malformed HTTP response %q", err, c.wire.answer())
}

// farewell is how many bytes may come from an upstream that closes a connection
// without answering: over TLS it may say so in an alert, of which this is the
// longest there is, and much less than an answer.
func (p *Pool) farewell() int64 {
	if p.scheme == "https" {
		return 64
	}
	return 0
}

// repeatable reports whether net/http would send req again that a kept connection
// died over.
func repeatable(req *http.Request) bool {
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// unseen is how often a request may be sent again after err: not at all unless an
// HTTP/2 upstream has said that it did not look at it, or closed the connection
// before it was sent. The errors of the second kind have no type.
func unseen(err error) (times int) {
	var stream streamError
	if errors.As(err, &stream) && stream.Code == refusedStream {
		return maxRefusals
	}
	switch err.Error() {
	case "http2: Transport received Server's graceful shutdown GOAWAY", "http2: client conn not usable":
		return maxGoAways
	}
	return 0
}

// streamError has the shape of the HTTP/2 stream error inside net/http, whose As
// method fills any such struct.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "stream error" }

// refusedStream is REFUSED_STREAM (RFC 9113, 8.7): not processed in any way.
const refusedStream = 0x7

// bare is err as http.Transport returns it: that of the connection itself.
func bare(err error) error {
	if strings.HasPrefix(err.Error(), "net/http: Transport failed to read from server: ") {
		if inner := errors.Unwrap(err); inner != nil {
			return inner
		}
	}
	return err
}

// failed is told of a connection on which a request got no answer.
func (p *Pool) failed(ctx context.Context, c *conn, err error, lost, callers bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.unlock()
	if !c.shared {
		if lost || c.client.Available() == 0 {
			p.failedAt = now
			p.doomed = append(p.doomed, c)
		} else { // net/http did not like the request, and has not sent it
			c.uses--
			p.giveBack(c, now)
		}
		return
	}
	p.mindPings(err)
	if !callers && blames(ctx, err, lost) {
		c.strikes++
		p.failedAt = now
	}
	p.streamEnded(c, false, now)
}

// blames reports whether an error on an HTTP/2 connection speaks against it. That
// the caller went away does not; that his time, or the attempt's, was up may.
func blames(ctx context.Context, err error, lost bool) bool {
	if ctx.Err() != nil {
		return errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	}
	var stream streamError
	return lost || errors.As(err, &stream)
}

// hold ties a response to its connection until the body has been read.
func (p *Pool) hold(ctx context.Context, resp *http.Response, c *conn) {
	if resp.StatusCode == http.StatusSwitchingProtocols && !c.shared {
		c.wire.handedOver.Store(true) // and it never comes back
		return
	}
	if c.shared && resp.StatusCode < http.StatusInternalServerError {
		now := time.Now()
		p.mu.Lock()
		p.streamAnswered(c, now)
		p.unlock()
	}
	resp.Body = &body{ReadCloser: resp.Body, pool: p, conn: c, ctx: ctx}
}

// body is the Body of every response, also of those without one.
type body struct {
	io.ReadCloser
	pool   *Pool
	conn   *conn
	ctx    context.Context
	failed atomic.Bool // by Retire
	over   atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// Close frees the connection. One of HTTP/1 is lost when the body was not read to its end.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	if b.conn.shared {
		b.pool.streamFreed()
	}
	return err
}

// Retire says that the answer was a failure of the upstream: no request uses the
// connection again. One of HTTP/2 goes on being used while there is no other, since
// one failure among many requests does not tell much.
func (b *body) Retire() {
	now := time.Now()
	if b.failed.Swap(true) {
		return
	}
	b.pool.mu.Lock()
	defer b.pool.unlock()
	b.pool.failedAt = now
	if b.conn.shared {
		b.conn.strikes++
	} else {
		b.pool.retire(b.conn)
	}
}

// end frees the connection: err is io.EOF after the whole body, nil when it was closed early.
func (b *body) end(err error) {
	if b.over.Swap(true) {
		return
	}
	now := time.Now()
	c, p := b.conn, b.pool
	p.mu.Lock()
	defer p.unlock()
	if !c.shared {
		if !b.failed.Load() {
			c.lastGood = now // or else it is closed now
		}
		p.giveBack(c, now)
		return
	}
	broken := err != nil && err != io.EOF //nolint:errorlint // io.Reader: only io.EOF itself is the end
	if broken {
		p.mindPings(err)
	}
	if broken && blames(b.ctx, err, c.client.Err() != nil) {
		c.strikes++
		p.failedAt = now
	}
	p.streamEnded(c, !broken && !b.failed.Load(), now)
}

// sentBody is a request's body, which knows whether it can be sent again.
type sentBody struct {
	io.ReadCloser
	read, closed, bad atomic.Bool
}

// watchBody is req with a body that is watched, nil when there is none.
func watchBody(req *http.Request) (*http.Request, *sentBody) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	out := *req
	sent := &sentBody{ReadCloser: req.Body}
	out.Body = sent
	return &out, sent
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.bad.Store(true)
	}
	return n, err
}

// Close closes the body once; a nil one has nothing to close.
func (b *sentBody) Close() error {
	if b == nil || b.closed.Swap(true) {
		return nil
	}
	return b.ReadCloser.Close()
}

// broken reports whether the caller's body failed.
func (b *sentBody) broken() bool { return b != nil && b.bad.Load() }

// rewind is out with its body from the beginning, if it can be had.
func (b *sentBody) rewind(req, out *http.Request) (*http.Request, *sentBody, bool) {
	if b == nil || !b.read.Load() && !b.closed.Load() {
		return out, b, true
	}
	_ = b.Close()
	if req.GetBody == nil {
		return nil, nil, false
	}
	again, err := req.GetBody()
	if err != nil {
		return nil, nil, false
	}
	next := *out
	sent := &sentBody{ReadCloser: again}
	next.Body = sent
	return &next, sent, true
}
