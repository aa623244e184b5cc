package serve

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// parkAfter is how long a connection waits for its next request in net/http's server. A call
	// on a connection that was parked takes a fifth more processor time, so one that is in use
	// should not be.
	parkAfter = 3 * time.Second
	// serverBuffer is the size of the buffer that the server reads requests into.
	serverBuffer = 4 << 10
	// serverPeeks is how many bytes of the next request the server wants before it sets the time
	// for the headers.
	serverPeeks = 4
)

// conn is a connection without TLS that net/http's server serves. The first byte of a request has
// come before, while the connection was parked. When it waits for its next request, it is parked
// again: this conn then ends for the server, and the caller does not notice.
//
// It has the optional methods that net/http and handlers ask a *net.TCPConn for.
type conn struct {
	net.Conn
	parker *parker
	state  atomic.Int32
	first  [1]byte
	read   bool      // the server has read first
	until  time.Time // the end of the wait for a request
}

// The states of a conn. HTTP/2 gets no further than idle: the server sets no limit for its reads.
const (
	active  = iota // some of a request has come, or the connection is hijacked
	idle           // an answer has been sent
	waiting        // the server has set the limit for the wait
	parked         // the parker has the connection
)

func (c *conn) Read(b []byte) (int, error) {
	if !c.read {
		c.read = true
		return copy(b, c.first[:]), nil
	}
	switch c.state.Load() {
	case waiting:
		return c.wait(b)
	case parked:
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// wait reads the first bytes of a request, or parks the connection.
func (c *conn) wait(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		// The first bytes may have come with the request before. Then the server's buffer has less
		// room.
		if len(b) == serverBuffer && c.parker.park(c) {
			return 0, io.EOF
		}
		_ = c.Conn.SetReadDeadline(c.until) // fails only on a closed connection, as Read does then
		n, err = c.Conn.Read(b)
	}
	if n > 0 {
		c.state.Store(active)
		if n < serverPeeks { // the server reads on before it sets the limit
			_ = c.Conn.SetReadDeadline(time.Now().Add(readHeaderTimeout))
		}
	}
	return n, err
}

// SetReadDeadline implements net.Conn. On an idle connection it is the server that sets the limit
// for the wait, and then that for the headers.
func (c *conn) SetReadDeadline(t time.Time) error {
	switch c.state.Load() {
	case idle:
		if !t.IsZero() {
			c.until = t
			c.state.Store(waiting)
			t = t.Add(parkAfter - idleTimeout)
		}
	case waiting: // without a read: the request came with the one before
		c.state.Store(active)
	case parked:
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
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
