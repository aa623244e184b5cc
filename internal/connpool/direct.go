package connpool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"
)

// direct is an HTTP/1 connection without TLS. A request without a body is written, and its response
// read, by the goroutine that makes it. net/http's connection has two goroutines of its own, and
// hands each request and each response over to them: five switches of goroutines, each of which may
// have to wake a thread.
//
// A request that direct is not made for turns it into net/http's connection, for good. The pool
// makes up for that when it renews connections.
type direct struct {
	by      *http.Transport
	address string
	wire    *wire
	looker  looker // of wire; for whoever has d, and guarded by the pool's mutex while d is idle
	one     [1]byte
	cut     func() // d.close, without an allocation for each request

	handed atomic.Pointer[http.ClientConn] // what it was turned into, or nil
	busy   atomic.Bool                     // a request is under way
	lost   atomic.Bool                     // the upstream has closed it, or has said something unasked
	closed atomic.Bool
}

// client is what the pool needs of a connection: that of an [http.ClientConn].
type client interface {
	RoundTrip(req *http.Request) (*http.Response, error)
	Err() error
	Available() int
	Reserve() error
	Release()
	Close() error
}

var (
	errDirectClosed = errors.New("the connection is closed")
	errBodyClosed   = errors.New("http: read on closed response body")
)

// newDirect connects to the pool's address. The connection is net/http's at once if the system
// cannot tell whether an idle connection still works. So it is if it is not TCP itself: a wrapper
// may do more in Read than look does.
func (p *Pool) newDirect(ctx context.Context, d *dial) (client, error) {
	conn, err := d.by.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	c := &direct{by: d.by, address: p.address, wire: d.wire}
	c.cut = c.close
	if tcp, ok := d.wire.Conn.(*net.TCPConn); ok && canLook {
		if raw, err := tcp.SyscallConn(); err == nil {
			c.looker.use(raw)
			return c, nil
		}
	}
	handed, err := c.handOver()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return handed, nil
}

// handOver turns d into net/http's connection.
func (d *direct) handOver() (*http.ClientConn, error) {
	ctx := context.WithValue(context.Background(), dialKey{}, &dial{wire: d.wire})
	c, err := d.by.NewClientConn(ctx, "http", d.address)
	if err != nil {
		return nil, err
	}
	d.handed.Store(c)
	return c, nil
}

// simple reports whether direct is made for req.
func simple(req *http.Request) bool {
	if req.Body != nil && req.Body != http.NoBody || req.URL == nil || req.URL.Host == "" || req.Cancel != nil || //nolint:staticcheck // net/http still watches it
		len(req.Trailer) > 0 || len(req.TransferEncoding) > 0 || req.Method == http.MethodConnect || !validMethod(req.Method) ||
		len(req.Header["Expect"]) > 0 || len(req.Header["Upgrade"]) > 0 || req.Header == nil {
		return false
	}
	size := len(req.URL.Path) + len(req.URL.RawQuery)
	for name, values := range req.Header { // net/http says what is wrong with it
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
			size += len(name) + len(v)
		}
	}
	return size <= maxSimple
}

// maxSimple is about how many bytes a header may have that is written before the answer is read.
// More might not fit into the buffers of both sockets, and the upstream may answer instead of
// reading the rest.
const maxSimple = 32 << 10

func validMethod(method string) bool { return method == "" || httpguts.ValidHeaderFieldName(method) }

// Err returns an error if the connection cannot be used any more. It looks whether the upstream has
// closed an idle one, and closes nothing itself: the pool may hold its mutex.
func (d *direct) Err() error {
	if c := d.handed.Load(); c != nil {
		return c.Err()
	}
	if !d.unusable() && !d.busy.Load() {
		if _, err := d.looker.look(d.one[:]); err != errNothing { //nolint:errorlint // as it is returned
			d.lost.Store(true)
		}
	}
	if d.unusable() {
		return errDirectClosed
	}
	return nil
}

func (d *direct) unusable() bool { return d.lost.Load() || d.closed.Load() }

// Available returns how many requests d has room for.
func (d *direct) Available() int {
	switch c := d.handed.Load(); {
	case c != nil:
		return c.Available()
	case d.unusable(), d.busy.Load():
		return 0
	}
	return 1
}

// Reserve and Release are for HTTP/2 only.
func (d *direct) Reserve() error { return errors.ErrUnsupported }
func (d *direct) Release()       {}

func (d *direct) Close() error {
	if c := d.handed.Load(); c != nil {
		return c.Close()
	}
	d.close()
	return nil
}

func (d *direct) close() {
	if !d.closed.Swap(true) {
		_ = d.wire.Close()
	}
}

// RoundTrip makes one request.
func (d *direct) RoundTrip(req *http.Request) (*http.Response, error) {
	return d.roundTrip(req, simple(req))
}

// roundTrip makes one request. d is made for it if it is plain. The errors are those of net/http.
func (d *direct) roundTrip(req *http.Request, plain bool) (*http.Response, error) {
	if c := d.handed.Load(); c != nil {
		return c.RoundTrip(req)
	}
	if !plain {
		c, err := d.handOver()
		if err != nil {
			return nil, err
		}
		return c.RoundTrip(req)
	}
	d.busy.Store(true)
	x, _ := exchanges.Get().(*exchange)
	x.conn, x.ctx, x.left, x.sawEnd = d, req.Context(), maxResponseHeader, false
	x.r.Reset(x)
	x.stop = context.AfterFunc(x.ctx, d.cut)
	err := x.send(req)
	var resp *http.Response
	if err == nil {
		resp, err = x.receive(req)
	}
	if err != nil {
		if !x.stop() || x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		d.close()
		x.free()
		return nil, err
	}
	last := resp.Close || req.Close || resp.StatusCode < http.StatusOK
	if req.Method == http.MethodHead || resp.ContentLength == 0 || resp.StatusCode == http.StatusSwitchingProtocols {
		x.end(last) // plain requests ask for no upgrade, so nobody gets the connection after a 101
		x.free()
		return resp, nil
	}
	resp.Body = &directBody{ReadCloser: resp.Body, exchange: x, fills: resp.ContentLength > 0, last: last}
	return resp, nil
}

// maxResponseHeader is the most bytes of the header of a response, as net/http has it by default.
const maxResponseHeader = 10 << 20

// exchange is a request on a direct connection, until the response has ended.
type exchange struct {
	conn   *direct
	ctx    context.Context
	stop   func() bool // stops watching ctx
	r      *bufio.Reader
	left   int64 // bytes of the header that may still be read
	sawEnd bool  // the upstream has closed the connection
	noWait bool  // read only what has arrived
}

// exchanges and writers are kept here and not in each connection: an idle one needs no memory.
var (
	exchanges = sync.Pool{New: func() any { return &exchange{r: bufio.NewReaderSize(nil, bufferSize)} }} //nolint:gochecknoglobals // a pool
	writers   = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}               //nolint:gochecknoglobals // a pool
)

const bufferSize = 4 << 10

// free lets another request use x. Nothing may read from x any more.
func (x *exchange) free() {
	x.r.Reset(nil)
	x.conn, x.ctx, x.stop = nil, nil, nil
	exchanges.Put(x)
}

// Read reads from the connection.
func (x *exchange) Read(p []byte) (int, error) {
	if x.left <= 0 {
		return 0, errHeaderTooLong
	}
	if int64(len(p)) > x.left {
		p = p[:x.left]
	}
	var n int
	var err error
	if x.noWait {
		n, err = x.conn.looker.look(p)
		x.conn.wire.count(p[:n])
		err = x.conn.wire.readError(err)
	} else {
		n, err = x.conn.wire.Read(p)
	}
	x.left -= int64(n)
	if err == io.EOF { //nolint:errorlint // io.Reader: only io.EOF itself is the end
		x.sawEnd = true
	}
	return n, err
}

var errHeaderTooLong = fmt.Errorf("net/http: server response headers exceeded %d bytes; aborted", maxResponseHeader)

func (x *exchange) send(req *http.Request) error {
	before := x.conn.wire.written.Load()
	w, _ := writers.Get().(*bufio.Writer)
	w.Reset(x.conn.wire)
	err := req.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	writers.Put(w)
	if err != nil && x.conn.wire.written.Load() != before {
		err = broken(err)
	}
	return err
}

func broken(err error) error {
	return fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", err)
}

// receive reads the header of the response, and those of informational ones before it.
func (x *exchange) receive(req *http.Request) (*http.Response, error) {
	if _, err := x.r.Peek(1); err != nil {
		return nil, err
	}
	trace := httptrace.ContextClientTrace(x.ctx)
	if trace != nil && trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	for {
		resp, err := http.ReadResponse(x.r, req)
		if err != nil {
			if x.left <= 0 {
				err = errHeaderTooLong
			}
			return nil, broken(err)
		}
		if resp.StatusCode >= 200 || resp.StatusCode < 100 || resp.StatusCode == http.StatusSwitchingProtocols {
			x.left = 1<<63 - 1
			return resp, nil
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := x.inform(trace, resp); err != nil {
				return nil, broken(err)
			}
			x.left = maxResponseHeader // as in net/http, whoever sees them limits their number
		}
	}
}

// inform passes on an informational response. Whoever gets it may block, as a proxy whose caller
// does not read, but not for longer than the request may take. It may go on after that, as in
// net/http.
func (x *exchange) inform(trace *httptrace.ClientTrace, resp *http.Response) error {
	ended := make(chan error, 1)
	go func() { ended <- trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)) }()
	select {
	case err := <-ended:
		return err
	case <-x.ctx.Done():
		return context.Cause(x.ctx)
	}
}

// end makes the connection ready for the next request, or closes it.
func (x *exchange) end(last bool) {
	stopped := x.stop()
	if !stopped || last || x.sawEnd || x.r.Buffered() > 0 {
		x.conn.close()
	}
	x.conn.busy.Store(false)
}

// directBody is the body of a response on a direct connection.
type directBody struct {
	io.ReadCloser
	exchange *exchange
	fills    bool  // its length is known, so that a Read can go on after errNothing
	last     bool  // the connection gets no more requests
	later    error // for the next Read
	err      error // of the last Read
	over     atomic.Bool
}

func (b *directBody) Read(p []byte) (int, error) {
	if b.over.Load() {
		if b.err != nil {
			return 0, b.err
		}
		return 0, errBodyClosed
	}
	x := b.exchange
	n, err := 0, b.later
	if err == nil {
		n, err = b.ReadCloser.Read(p)
	}
	for err == nil && b.fills && len(p)-n >= bufferSize {
		// Whoever passes the body on must not hold back what has arrived when it waits for more.
		// So it writes it out before each Read, and fewer of them are cheaper.
		var more int
		x.noWait = true
		more, err = b.ReadCloser.Read(p[n:])
		x.noWait = false
		n += more
		if err != nil && err != io.EOF { //nolint:errorlint // io.Reader: only io.EOF itself is the end
			if err != errNothing { //nolint:errorlint // as it is returned
				b.later = err // whoever gets it with data may not pass the data on
			}
			return n, nil
		}
	}
	if err == nil {
		return n, nil
	}
	if err != io.EOF && x.ctx.Err() != nil { //nolint:errorlint // io.Reader: only io.EOF itself is the end
		err = context.Cause(x.ctx)
	}
	b.err = err
	if b.over.Swap(true) {
		return n, err // it was closed meanwhile
	}
	x.end(b.last || err != io.EOF) //nolint:errorlint // as above
	x.free()
	return n, err
}

// Close closes the connection if the body was not read to its end. A Read may be running.
func (b *directBody) Close() error {
	if !b.over.Swap(true) {
		b.exchange.stop()
		b.exchange.conn.close()
	}
	return nil
}
