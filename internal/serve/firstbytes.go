package serve

import (
	"errors"
	"io"
	"net"
	"time"
)

// firstBytes wraps the connections of a listener without TLS.
//
// net/http limits the time from the connection to the end of the first request's headers. To detect
// HTTP/2 it reads a few bytes first. If the time is up between them and the rest, it takes what it
// has for the whole request line and answers 400. A caller may well send the first request over a
// connection that it opened long before. So the limit starts anew at the first bytes, and until
// then a connection is idle, as one between two requests.
type firstBytes struct{ net.Listener }

func (l firstBytes) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &firstBytesConn{Conn: c}, nil
}

// firstBytesConn has the optional methods that net/http and handlers ask a *net.TCPConn for.
type firstBytesConn struct {
	net.Conn
	begun bool // only the server's first Read sets it, before any handler runs
}

func (c *firstBytesConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.begun {
		c.begun = true
		_ = c.SetReadDeadline(time.Now().Add(readHeaderTimeout)) // it fails only on a closed connection
	}
	return n, err
}

// SetReadDeadline is called by the server before the first Read, with readHeaderTimeout.
func (c *firstBytesConn) SetReadDeadline(t time.Time) error {
	if !c.begun && !t.IsZero() {
		t = t.Add(idleTimeout - readHeaderTimeout)
	}
	return c.Conn.SetReadDeadline(t)
}

// NetConn returns the wrapped connection, as that of a *tls.Conn does.
func (c *firstBytesConn) NetConn() net.Conn { return c.Conn }

// ReadFrom lets net/http send files and spliced data without a copy.
func (c *firstBytesConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite half-closes the connection.
func (c *firstBytesConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
