package connpool

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// conn is one connection. The pool's mutex guards the fields that change.
type conn struct {
	client client
	wire   *wire
	shared bool      // HTTP/2: carries several requests at a time
	born   time.Time // when its dial began
	expiry time.Time // zero: never
	by     *http.Transport

	uses      int       // how many requests it was ever given
	plain     bool      // HTTP/1 only: a direct connection is made for the last one
	idleSince time.Time // HTTP/1 only
	retired   bool      // gets no more requests

	lastGood time.Time // when a request on it last succeeded

	// HTTP/2 only.
	streams int // requests that have not ended
	strikes int // failures since the last success
}

// roundTrip makes a request. plain reports whether a direct connection is made for it.
func (c *conn) roundTrip(req *http.Request, plain bool) (*http.Response, error) {
	if d, ok := c.client.(*direct); ok {
		return d.roundTrip(req, plain)
	}
	return c.client.RoundTrip(req)
}

// isDirect reports whether c is still a direct connection.
func (c *conn) isDirect() bool {
	d, ok := c.client.(*direct)
	return ok && d.handed.Load() == nil
}

// isWrong reports whether c was a direct connection, but no longer when it got its last request,
// which a direct one is made for.
func (c *conn) isWrong() bool {
	d, ok := c.client.(*direct)
	return ok && c.plain && d.handed.Load() != nil
}

// use counts a request that c gets. plain reports whether a direct connection is made for it.
func (c *conn) use(plain bool) {
	c.uses++
	c.plain = plain
}

func (c *conn) expired(now time.Time) bool { return !c.expiry.IsZero() && now.After(c.expiry) }

// fresh reports whether c succeeded within freshFor, or is that new. A new HTTP/1 connection must
// also be unused.
func (c *conn) fresh(now time.Time) bool {
	return now.Sub(c.lastGood) < freshFor || now.Sub(c.born) < freshFor && (c.shared || c.uses == 0)
}

// wire counts the bytes on a network connection, and hides a failed write. An upstream that answers
// before it has read the whole request closes its side, and its answer can still be read. If there
// is no answer, the read fails too.
type wire struct {
	net.Conn
	written, read atomic.Int64
	closing       atomic.Bool // only TLS's close_notify is written from now on
	writeFailed   atomic.Bool // a write has failed
	handedOver    atomic.Bool // the connection belongs to the caller, after an upgrade

	asked     atomic.Int64    // the value of read when the last request began
	beginning [maxQuoted]byte // the first bytes read since then, for an error to quote
}

// maxQuoted is how many bytes of a response that is not HTTP an error quotes.
const maxQuoted = 64

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.count(b[:n])
	return n, err
}

// count counts bytes that were read.
func (w *wire) count(b []byte) {
	read := w.read.Add(int64(len(b)))
	if at := read - int64(len(b)) - w.asked.Load(); at >= 0 && at < maxQuoted {
		copy(w.beginning[at:], b)
	}
}

// readError returns the error of a look as [net.Conn.Read] returns it.
func (w *wire) readError(err error) error {
	if err == nil || err == errNothing || err == io.EOF { //nolint:errorlint // as they are returned
		return err
	}
	if raw := (*net.OpError)(nil); errors.As(err, &raw) {
		err = raw.Err
	} else {
		err = os.NewSyscallError("read", err)
	}
	return &net.OpError{Op: "read", Net: w.RemoteAddr().Network(), Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
}

// answer returns the first bytes read since the last request began. Call it only after a read has
// failed.
func (w *wire) answer() []byte {
	return w.beginning[:max(0, min(w.read.Load()-w.asked.Load(), maxQuoted))]
}

func (w *wire) Write(b []byte) (int, error) {
	if w.writeFailed.Load() && !w.handedOver.Load() {
		return len(b), nil
	}
	n, err := w.Conn.Write(b)
	if n > 0 && !w.closing.Load() {
		w.written.Add(int64(n))
	}
	if err != nil && peerClosed(err) && !w.handedOver.Load() {
		w.writeFailed.Store(true)
		return len(b), nil
	}
	return n, err
}

// SetWriteDeadline marks w as closing. Only crypto/tls calls it here, before it writes
// close_notify.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.closing.Store(true)
	return w.Conn.SetWriteDeadline(t)
}

// CloseWrite half-closes the connection. Proxies call it after an upgrade.
func (w *wire) CloseWrite() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func peerClosed(err error) bool {
	return hungUp(err) || errors.Is(err, io.ErrClosedPipe)
}
