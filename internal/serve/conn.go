package serve

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// accepting wraps the connections of a listener without TLS.
type accepting struct {
	net.Listener
	lot *parkingLot
}

func (l accepting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, lot: l.lot}, nil
}

const (
	// serverBuffer is the size of the server's buffer for what it reads.
	serverBuffer = 4 << 10
	// serverPeeks is how many bytes of a request end the server's wait for it.
	serverPeeks = 4
)

// conn does two things that net/http does not. It has the optional methods that net/http and
// handlers ask a *net.TCPConn for.
//
// It gives the first request time. net/http limits the time from the connection to the end of the
// first request's headers. To detect HTTP/2 it reads a few bytes first. If the time is up between
// them and the rest, it takes what it has for the whole request line and answers 400. A caller may
// well send the first request over a connection that it opened long before. So the limit starts
// anew at the first bytes, and until then a connection is idle, as one between two requests.
//
// And it leaves the server while it waits for a request: see [parkingLot].
type conn struct {
	net.Conn
	lot   *parkingLot
	state atomic.Int32

	// net/http reads with one goroutine at a time. No handler runs when these change.
	first []byte    // a byte that was read while the connection was parked
	begun bool      // the first Read has ended
	until time.Time // when the server's wait for a request ends
}

// The states of a conn. An HTTP/2 connection does not wait, as the server sets no deadline for it.
const (
	idle    = iota // the server will set the deadline of its wait for a request
	waiting        // the deadline is when to park
	active         // a request has begun
	parked         // the socket is not the conn's any more
)

func (c *conn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = nil
		return n, nil
	}
	switch c.state.Load() {
	case waiting:
		return c.wait(b)
	case parked: // net/http reads again after an error of the first Read
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// wait reads the first bytes of a request, or parks the connection. It fails to set a deadline only
// on a closed connection.
func (c *conn) wait(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// If the first bytes have come with the request before, they are in the server's buffer.
		if empty := !c.begun || len(b) == serverBuffer; empty && c.lot.park(c) {
			return 0, io.EOF // the server ends its work for c
		}
		_ = c.Conn.SetReadDeadline(c.until)
		n, err = c.Conn.Read(b)
	}
	if n == 0 {
		return n, err
	}
	c.state.Store(active)
	if !c.begun || n < serverPeeks {
		_ = c.Conn.SetReadDeadline(time.Now().Add(readHeaderTimeout))
	}
	c.begun = true
	return n, err
}

// SetReadDeadline is called by the server before the first Read, with readHeaderTimeout, after each
// response, with idleTimeout, and when the next request has begun.
func (c *conn) SetReadDeadline(t time.Time) error {
	switch c.state.Load() {
	case idle:
		if !c.begun {
			t = t.Add(idleTimeout - readHeaderTimeout)
		}
		c.until = t
		c.state.Store(waiting)
		t = t.Add(parkAfter - idleTimeout)
	case waiting: // the next request was in the server's buffer
		c.state.Store(active)
	case parked:
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// Close closes the connection, unless it is parked.
func (c *conn) Close() error {
	if c.state.Load() == parked {
		return nil
	}
	return c.Conn.Close()
}

// NetConn returns the wrapped connection, as that of a *tls.Conn does.
func (c *conn) NetConn() net.Conn { return c.Conn }

// ReadFrom lets net/http send files and spliced data without a copy.
func (c *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite half-closes the connection.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
