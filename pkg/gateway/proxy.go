package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// forwardTo makes the call and passes the answer to the caller.
func (c *call) forwardTo(ctx context.Context, header http.Header) {
	if c.grpc {
		limited, cancel := c.within(ctx)
		defer cancel()
		ctx = limited
	}
	c.informer.call = c
	c.trace.Got1xxResponse = c.informer.inform
	ctx = httptrace.WithClientTrace(transport.WithReport(ctx, &c.report), &c.trace)
	resp, err := c.route.transport.RoundTrip(c.outgoing(ctx, header))
	c.informer.stop()
	switch {
	case err != nil:
		c.fail(err)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		c.upgrade(resp)
	case resp.StatusCode < 200:
		_ = resp.Body.Close()
		c.report.Reason = resilience.StatusReason(resp.StatusCode)
		c.fail(fmt.Errorf("%s answered with status %d, which is not a final status", c.upstreamForCaller(), resp.StatusCode))
	default:
		c.answer(resp)
	}
}

// outgoing returns the upstream's request.
func (c *call) outgoing(ctx context.Context, header http.Header) *http.Request {
	out := c.in.WithContext(ctx)
	c.url = c.route.of(c.in.URL)
	out.URL = &c.url
	out.RequestURI = ""
	out.Header = header
	out.Close = false
	if !c.route.keepHost {
		out.Host = ""
	}
	out.Body, out.GetBody = nil, nil
	if c.body != nil {
		out.Body = c.body
	}
	out.Trailer = c.body.announceTrailers()
	return out
}

// answer passes the upstream's response to the caller.
func (c *call) answer(resp *http.Response) {
	c.status = resp.StatusCode
	h := c.out.Header()
	c.copyHeader(h, resp)
	c.describe(h)
	c.route.gateway.via.add(h, resp.ProtoMajor, resp.ProtoMinor)
	if !c.body.atEnd() {
		c.body.streamOn(h)
	}
	c.conceal(resp.Trailer)
	announced := announcedTrailers(resp.Trailer)
	if len(announced) > 0 {
		h[headerTrailer] = []string{strings.Join(announced, ", ")}
	}
	if c.grpc && len(h[headerContentLength]) == 0 {
		h[headerContentLength] = nil // otherwise net/http may set it
	}
	c.out.WriteHeader(resp.StatusCode)
	if c.grpc && grpcwire.IsAnswer(resp) {
		c.body.beginAnswer()
	}
	err := c.copyBody(resp)
	c.body.endAnswer()
	if err != nil {
		c.callersDoing = errors.Is(err, transport.ErrReaderPaused)
		if c.in.Context().Err() != nil || errors.Is(err, errCaller) {
			c.report.Reason = resilience.ReasonCallerCanceled
		} else if c.grpc && grpcwire.IsAnswer(resp) {
			_ = resp.Body.Close()
			c.endRPC(err)
			return
		}
		_ = resp.Body.Close()
		c.hangUp(errors.Is(err, errCaller))
	}
	_ = resp.Body.Close()
	if c.grpc && grpcwire.IsAnswer(resp) {
		c.setStatus(resp.Header)
		c.setStatus(resp.Trailer)
	}
	if c.conceal(resp.Trailer); len(resp.Trailer) > 0 { // now with the unannounced ones
		c.sendTrailers(h, resp.Trailer, announced)
	}
}

// copyHeader copies the headers that are for the caller to h.
func (c *call) copyHeader(h http.Header, resp *http.Response) {
	if len(resp.Header[headerConnection]) > 0 {
		dropNamed(resp.Header, resp.Header)
	}
	for name, values := range resp.Header {
		if hopByHop(name) {
			continue
		}
		if before := h[name]; len(before) > 0 {
			values = append(slices.Clip(before), values...)
		}
		h[name] = values
	}
	if _, ok := h[headerContentType]; !ok {
		h[headerContentType] = nil // otherwise net/http would guess a type
	}
	var host string
	if c.route.keepHost {
		host = c.in.Host
	}
	for _, name := range [...]string{headerLocation, headerContentLocation} {
		if at := h[name]; len(at) == 1 {
			if own := c.route.ownView(at[0], host); own != at[0] {
				h[name] = []string{own}
			}
		}
	}
}

func announcedTrailers(trailer http.Header) []string {
	if len(trailer) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(trailer)), func(name string) bool { return !httpguts.ValidTrailerHeader(name) })
}

// sendTrailers passes the trailers on, including unannounced ones.
func (c *call) sendTrailers(h, trailer http.Header, announced []string) {
	if !c.grpc {
		_ = c.flush() // otherwise net/http may set a Content-Length, and then there are no trailers
	}
	for name, values := range trailer {
		switch {
		case !httpguts.ValidTrailerHeader(name):
		case slices.Contains(announced, name):
			h[name] = values
		default:
			h[http.TrailerPrefix+name] = values
		}
	}
}

// keptBack is how many bytes of an answer of known length net/http buffers until the answer is
// complete. Writing no more than that never blocks.
const keptBack = 2 << 10

// errCaller ends a call whose caller did not read its answer in time.
var errCaller = errors.New("the caller does not read the response")

// copyBody copies a response's body to the caller. It flushes before each read that may block, so
// that a slow body is not held back.
func (c *call) copyBody(resp *http.Response) error {
	if resp.Body == http.NoBody {
		return nil
	}
	g := c.route.gateway
	if resp.ContentLength > copyBufferSize {
		large := g.large.get()
		defer g.large.put(large)
		return c.copyThrough(large[:], resp)
	}
	b := g.buffers.get()
	defer g.buffers.put(b)
	return c.copyThrough(b[:], resp)
}

func (c *call) copyThrough(buffer []byte, resp *http.Response) error {
	left := resp.ContentLength
	prompt := left < 0 // unknown length, such as text/event-stream
	watched := prompt || left > keptBack
	var first *firstFlush // of gRPC
	switch {
	case prompt && c.grpc:
		first = c.flushSoon()
		defer first.stop()
	case prompt && c.in.Method != http.MethodHead:
		if err := c.flush(); err != nil {
			return err
		}
	}
	for pending := false; ; {
		if pending && left != 0 && first.done() {
			if err := c.flush(); err != nil {
				return err
			}
		}
		n, readErr := resp.Body.Read(buffer)
		if n > 0 {
			first.lock()
			err := c.send(buffer[:n], watched)
			first.unlock()
			if err != nil {
				return err
			}
			pending = true
			left -= int64(n)
			if prompt {
				left = -1
			}
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

func (c *call) send(b []byte, watched bool) error {
	if watched {
		c.sending.start()
	}
	n, err := c.out.Write(b)
	if watched && !c.sending.stop() || err != nil || n < len(b) {
		return errCaller
	}
	return nil
}

func (c *call) flush() error {
	c.sending.start()
	_ = http.NewResponseController(c.out).Flush() // the next write reports a broken connection
	if !c.sending.stop() {
		return errCaller
	}
	return nil
}

// sendWatch limits how long a caller may read nothing of its answer. A caller that resumes after a
// pause is slow and gets a longer limit: TCP reports its reads in large steps.
type sendWatch struct {
	out   http.ResponseWriter
	limit time.Duration // 0 for no limit
	timer *time.Timer
	begun time.Time // when the current write began
	slow  bool
}

const (
	slowPause  = time.Second // a write that blocks for so long is a pause
	slowFactor = 4           // multiplies the limit of a slow caller
)

// start is called before an operation that may block on the caller. stop is called after it.
func (s *sendWatch) start() {
	if s.limit == 0 {
		return
	}
	s.begun = time.Now()
	if s.timer == nil {
		s.timer = time.AfterFunc(s.limit, s.cut)
	} else {
		s.timer.Reset(s.limit)
	}
}

// stop reports whether the operation ended in time.
func (s *sendWatch) stop() bool {
	if s.timer == nil {
		return true
	}
	inTime := s.timer.Stop()
	if inTime && !s.slow && time.Since(s.begun) >= slowPause {
		s.slow, s.limit = true, slowFactor*s.limit
	}
	return inTime
}

func (s *sendWatch) cut() { _ = http.NewResponseController(s.out).SetWriteDeadline(time.Unix(1, 0)) }

// hangUpTime limits how long closing a connection may block on the caller.
const hangUpTime = time.Second

// hangUp ends the caller's connection, or its HTTP/2 stream, in the middle of an answer. It does
// not return. An HTTP/1.0 caller takes the end of the connection for the end of the body, so it
// gets a reset. A stalled caller also gets one, so that the kernel drops the data that the caller
// does not read.
func (c *call) hangUp(stalled bool) {
	if c.in.ProtoMajor == 1 && (c.in.ProtoMinor == 0 || stalled) {
		control := http.NewResponseController(c.out)
		_ = control.SetWriteDeadline(time.Now().Add(hangUpTime)) // for Hijack, which flushes
		if conn, _, err := control.Hijack(); err == nil {
			reset(conn)
		}
	}
	panic(http.ErrAbortHandler)
}

// reset closes a connection with a TCP reset.
func reset(conn net.Conn) {
	inner := conn
	for {
		wrapper, ok := inner.(interface{ NetConn() net.Conn }) // closing a TLS connection would send close_notify first
		if !ok {
			break
		}
		inner = wrapper.NetConn()
	}
	if tcp, ok := inner.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = inner.Close()
	_ = conn.Close()
}

// informer passes informational answers to the caller during the call. It is called from other
// goroutines, even after the attempt has ended.
type informer struct {
	call    *call
	mu      sync.Mutex
	stopped bool
	passed  int // about how many bytes the caller was sent
}

// maxInformed is how many bytes of informational answers a caller gets. So many fit into the
// buffers of a caller that does not read. More would hold up the attempt, and over HTTP/2 all
// answers on the upstream's connection.
const maxInformed = 32 << 10

func (i *informer) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = true
}

func (i *informer) inform(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.call
	// HTTP/1.0 has no informational answers. A caller that waits for 100 (Continue) gets it from
	// net/http's server at the first read of the body, which the upstream's 100 triggers.
	if i.stopped || !c.in.ProtoAtLeast(1, 1) || code == http.StatusContinue && c.in.Header.Get("Expect") != "" {
		return nil
	}
	size := informalSize(header)
	if i.passed+size > maxInformed {
		return nil
	}
	i.passed += size
	h := c.out.Header()
	before := maps.Clone(h)
	clear(h)
	for name, values := range header {
		if !hopByHop(name) {
			h[name] = values
		}
	}
	dropNamed(h, http.Header(header))
	c.conceal(h)
	c.sending.start()
	c.out.WriteHeader(code)
	c.sending.stop()
	clear(h)
	maps.Copy(h, before)
	return nil
}

// informalSize returns about how many bytes an informational answer has.
func informalSize(header textproto.MIMEHeader) int {
	const perLine = len(": \r\n")
	size := len("HTTP/1.1 103 Early Hints\r\n\r\n")
	for name, values := range header {
		for _, v := range values {
			size += len(name) + len(v) + perLine
		}
	}
	return size
}

// upgrade joins the two connections after 101 Switching Protocols.
func (c *call) upgrade(resp *http.Response) {
	asked, given := upgradeTo(c.in.Header), upgradeType(resp.Header)
	upstream, ok := resp.Body.(io.ReadWriteCloser)
	switch {
	case !printable(given) || !strings.EqualFold(asked, given):
		c.notSwitched(resp, fmt.Errorf("%s switched to protocol %q, but the request asks for %q", c.upstreamForCaller(), given, asked))
		return
	case !ok:
		c.notSwitched(resp, fmt.Errorf("%s switched to %q, but its connection cannot be written to", c.upstreamForCaller(), given))
		return
	}
	if !c.body.atEnd() { // the body is still being read from this connection
		c.notSwitched(resp, fmt.Errorf("%s switched to %q before the request's body had ended", c.upstreamForCaller(), given))
		return
	}
	h := c.out.Header()
	c.copyHeader(h, resp)
	c.describe(h)
	h[headerConnection], h[headerUpgrade] = []string{headerUpgrade}, []string{given}
	conn, buffered, err := http.NewResponseController(c.out).Hijack()
	if err != nil {
		delete(h, headerConnection)
		delete(h, headerUpgrade)
		c.notSwitched(resp, fmt.Errorf("the caller's connection cannot switch protocols: %w", err))
		return
	}
	c.status = resp.StatusCode
	// Do not read through buffered.Reader: at its end it would cancel the request's context.
	before, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	t := tunnel{
		upstream: upstream, caller: conn, fromCaller: io.MultiReader(bytes.NewReader(before), conn),
		limit: c.route.listener.sendTimeout, buffers: &c.route.gateway.buffers,
	}
	t.run(c.in.Context(), h)
}

// notSwitched answers a failed upgrade with an error.
func (c *call) notSwitched(resp *http.Response, err error) {
	_ = resp.Body.Close() // not drained: the connection may never end
	c.report.Reason = resilience.ReasonUpgrade
	c.fail(err)
}

// tunnel copies between the two connections of an upgrade until both directions have ended.
type tunnel struct {
	upstream   io.ReadWriteCloser
	caller     net.Conn
	fromCaller io.Reader     // begins with bytes that were read before the switch
	limit      time.Duration // for each write to the caller; 0 for no limit
	buffers    *bufferPool[[copyBufferSize]byte]
}

func (t *tunnel) run(ctx context.Context, h http.Header) {
	defer t.close()
	stop := context.AfterFunc(ctx, t.close)
	defer stop()
	head := bufio.NewWriter(t.toCaller())
	_, _ = head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(head)
	_, _ = head.WriteString("\r\n")
	if head.Flush() != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.copy(t.upstream, t.fromCaller, t.upstream)
	}()
	t.copy(t.toCaller(), t.upstream, t.caller)
	<-ended
}

func (t *tunnel) close() {
	_ = t.upstream.Close()
	_ = t.caller.Close()
}

// copy copies one direction and passes its end on with CloseWrite. If copying or CloseWrite fails,
// it closes both connections.
func (t *tunnel) copy(to io.Writer, from io.Reader, end any) {
	buffer := t.buffers.get()
	defer t.buffers.put(buffer)
	for {
		n, readErr := from.Read(buffer[:])
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if readErr == nil {
			continue
		}
		half, ok := end.(interface{ CloseWrite() error })
		if errors.Is(readErr, io.EOF) && ok && half.CloseWrite() == nil {
			return
		}
		break
	}
	t.close()
}

func (t *tunnel) toCaller() io.Writer { return writer(t.writeToCaller) }

func (t *tunnel) writeToCaller(b []byte) (int, error) {
	if t.limit > 0 {
		_ = t.caller.SetWriteDeadline(time.Now().Add(t.limit))
	}
	return t.caller.Write(b)
}

// writer is a function as an io.Writer.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
