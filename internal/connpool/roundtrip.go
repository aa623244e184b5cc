package connpool

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

	"github.com/rebound-dev/rebound/internal/nethttp"
)

// How often a request is sent again if the upstream has not processed it. A refused stream may mean
// that the upstream is overloaded, so it counts for little. A GOAWAY closes one connection only,
// and each of the shared ones may get it. Soon after the first requests there are more than spread.
const (
	maxRefusals = 1
	maxGoAways  = 4 * spread
)

// RoundTrip sends a request on the kept connection that was used last, or on a new one.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) { return p.roundTrip(req, false) }

// RoundTripFresh sends a request on a connection that is new, or on which the upstream has answered
// well within the last second. Retries and probes use it.
func (p *Pool) RoundTripFresh(req *http.Request) (*http.Response, error) {
	return p.roundTrip(req, true)
}

func (p *Pool) roundTrip(req *http.Request, fresh bool) (*http.Response, error) {
	if u := p.upgrades.Load(); u != nil && nethttp.IsUpgrade(req.Header) {
		// HTTP/2 has no upgrades, so the request goes over an HTTP/1 connection of its own.
		return u.RoundTrip(req)
	}
	ctx := req.Context()
	out, sent := watchBody(req)
	if ctx.Err() != nil {
		_ = sent.Close()
		return nil, context.Cause(ctx)
	}
	trace := httptrace.ContextClientTrace(ctx)
	plain := p.direct && simple(req)
	for again := 0; ; again++ {
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(p.address)
		}
		c, reused, err := p.get(ctx, plain, fresh, again > 0)
		for err == nil && len(req.Header["Expect"]) > 0 && p.outdated(c) {
			p.release(c)
			c, reused, err = p.get(ctx, plain, true, again > 0)
		}
		if err != nil {
			_ = sent.Close()
			return nil, err
		}
		if trace != nil && trace.GotConn != nil {
			trace.GotConn(httptrace.GotConnInfo{Conn: c.wire, Reused: reused, WasIdle: reused && !c.shared})
		}
		written, read := c.wire.written.Load(), c.wire.read.Load()
		c.wire.asked.Store(read)
		resp, err := c.roundTrip(out, plain)
		if err == nil {
			resp.Request = req
			p.hold(ctx, resp, c)
			return resp, nil
		}
		lost := c.client.Err() != nil
		p.failed(ctx, c, err, lost, sent.broken())
		unsent := !c.shared && lost && c.wire.written.Load() == written
		unanswered := !c.shared && lost && c.wire.read.Load()-read <= p.maxAlert()
		switch {
		case ctx.Err() != nil, sent.broken():
		case c.shared && again < maxResends(err),
			reused && unsent,
			reused && unanswered && repeatable(req):
			if next, body, ok := sent.rewind(req, out); ok {
				out, sent, fresh = next, body, true
				continue
			}
		}
		_ = sent.Close()
		if sent.broken() {
			return nil, unwrapConnError(err) // the error of the caller's body, unchanged
		}
		return nil, p.quoteResponse(c, unwrapConnError(err))
	}
}

// quoteResponse adds the beginning of a response that is not HTTP to net/http's error. net/http
// quotes only the part it could not parse, which may be in the middle.
func (p *Pool) quoteResponse(c *conn, err error) error {
	if p.scheme != "http" || c.shared || !strings.Contains(err.Error(), "malformed ") {
		return err
	}
	return fmt.Errorf("%w: malformed HTTP response %q", err, c.wire.answer())
}

// maxAlert is how many bytes an upstream may send when it closes a connection without a response.
// Over TLS that is an alert: the longest one has this size, much less than a response.
func (p *Pool) maxAlert() int64 {
	if p.scheme == "https" {
		return 64
	}
	return 0
}

// repeatable reports whether net/http would send req again after a kept connection failed.
func repeatable(req *http.Request) bool {
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	return nethttp.Repeats(req)
}

// maxResends returns how often a request may be sent again after err. It is 0, unless an HTTP/2
// upstream has reported that it did not process the request, or has closed the connection before
// the request was sent. The errors of the second kind have no type.
func maxResends(err error) (times int) {
	if nethttp.RefusedStream(err) {
		return maxRefusals
	}
	switch err.Error() {
	case "http2: Transport received Server's graceful shutdown GOAWAY", "http2: client conn not usable":
		return maxGoAways
	}
	return 0
}

// unwrapConnError returns err as http.Transport would return it: the error of the connection
// itself.
func unwrapConnError(err error) error {
	if strings.HasPrefix(err.Error(), "net/http: Transport failed to read from server: ") {
		if inner := errors.Unwrap(err); inner != nil {
			return inner
		}
	}
	return err
}

// failed records that a request on c got no response. lost is true if c is closed, callers if the
// caller's body failed.
func (p *Pool) failed(ctx context.Context, c *conn, err error, lost, callers bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.unlock()
	if !c.shared {
		if lost || c.client.Available() == 0 {
			p.lastFailure = now
			p.toClose = append(p.toClose, c)
		} else { // net/http has refused to send the request
			c.uses--
			p.giveBack(c, now)
		}
		return
	}
	p.stopPings(err)
	if !callers && countsAgainst(ctx, err, lost) {
		c.strikes++
		p.lastFailure = now
	}
	p.streamEnded(c, false, now)
}

// countsAgainst reports whether an error on an HTTP/2 connection counts against the connection. A
// caller that left does not count; a deadline that passed does.
func countsAgainst(ctx context.Context, err error, lost bool) bool {
	if ctx.Err() != nil {
		return errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	}
	var stream nethttp.StreamError
	return lost || errors.As(err, &stream)
}

// hold keeps the connection in use until the response body has been read.
func (p *Pool) hold(ctx context.Context, resp *http.Response, c *conn) {
	if resp.StatusCode == http.StatusSwitchingProtocols && !c.shared {
		c.wire.handedOver.Store(true) // it does not return to the pool
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

// body is the Body of every response, even of one without content.
type body struct {
	io.ReadCloser
	pool   *Pool
	conn   *conn
	ctx    context.Context
	failed atomic.Bool // set by Retire
	over   atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// Close frees the connection. An HTTP/1 connection is lost if the body was not read to its end.
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	if b.conn.shared {
		b.pool.streamFreed()
	}
	return err
}

// Retire reports that the response was a failure of the upstream. The connection gets no more
// requests. An HTTP/2 connection stays in use while there is no other, because one failure among
// many requests proves little.
func (b *body) Retire() {
	now := time.Now()
	if b.failed.Swap(true) {
		return
	}
	b.pool.mu.Lock()
	defer b.pool.unlock()
	b.pool.lastFailure = now
	if b.conn.shared {
		b.conn.strikes++
	} else {
		b.pool.retire(b.conn)
	}
}

// end frees the connection. err is io.EOF after the whole body, and nil if the body was closed
// early.
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
			c.lastGood = now // otherwise it is being closed
		}
		p.giveBack(c, now)
		return
	}
	broken := err != nil && err != io.EOF //nolint:errorlint // io.Reader: only io.EOF itself is the end
	if broken {
		p.stopPings(err)
	}
	if broken && countsAgainst(b.ctx, err, c.client.Err() != nil) {
		c.strikes++
		p.lastFailure = now
	}
	p.streamEnded(c, !broken && !b.failed.Load(), now)
}

// sentBody is a request body that records whether it was read.
type sentBody struct {
	io.ReadCloser
	read, closed, bad atomic.Bool
}

// watchBody returns req with its body wrapped in a sentBody, which is nil if there is no body.
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

// Close closes the body once. A nil sentBody has nothing to close.
func (b *sentBody) Close() error {
	if b == nil || b.closed.Swap(true) {
		return nil
	}
	return b.ReadCloser.Close()
}

// broken reports whether reading the caller's body failed.
func (b *sentBody) broken() bool { return b != nil && b.bad.Load() }

// rewind returns out with its body from the beginning, if that is possible.
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
