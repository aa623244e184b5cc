package endpoint

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is one connection. What is not constant is guarded by its pool's mutex.
type conn struct {
	client *http.ClientConn
	wire   *wire
	shared bool      // HTTP/2: many requests at a time
	born   time.Time // when its dial began
	expiry time.Time // zero for never

	uses      int       // requests that were ever given to it
	idleSince time.Time // HTTP/1
	retired   bool      // gets no request any more

	lastGood time.Time // when a request on it ended well

	// Of HTTP/2.
	streams int // requests that have not ended
	strikes int // failures since the last success
}

func (c *conn) expired(now time.Time) bool { return !c.expiry.IsZero() && now.After(c.expiry) }

// fresh reports whether c is new, or was good a moment ago.
func (c *conn) fresh(now time.Time) bool {
	return now.Sub(c.lastGood) < freshFor || now.Sub(c.born) < freshFor && (c.shared || c.uses == 0)
}

// wire counts what went over a network connection, and keeps a failed write to
// itself: a peer that answers before it has read everything closes its side, and
// the answer is still there to be read. If it is not, reading fails too.
type wire struct {
	net.Conn
	written, read atomic.Int64
	closing       atomic.Bool // what is written from now on is TLS's farewell
	deaf          atomic.Bool // a write failed
	handedOver    atomic.Bool // it is the caller's, after an upgrade

	asked     atomic.Int64    // what read was when the last request began
	beginning [maxQuoted]byte // of what came since, for an error that quotes it
}

// maxQuoted is how much of an answer that is not HTTP an error quotes, in bytes.
const maxQuoted = 64

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	read := w.read.Add(int64(n))
	if at := read - int64(n) - w.asked.Load(); at >= 0 && at < maxQuoted {
		copy(w.beginning[at:], b[:n])
	}
	return n, err
}

// answer is the beginning of what came since the last request. It must only be
// called after an error of reading.
func (w *wire) answer() []byte {
	return w.beginning[:max(0, min(w.read.Load()-w.asked.Load(), maxQuoted))]
}

func (w *wire) Write(b []byte) (int, error) {
	if w.deaf.Load() && !w.handedOver.Load() {
		return len(b), nil
	}
	n, err := w.Conn.Write(b)
	if n > 0 && !w.closing.Load() {
		w.written.Add(int64(n))
	}
	if err != nil && peerClosed(err) && !w.handedOver.Load() {
		w.deaf.Store(true)
		return len(b), nil
	}
	return n, err
}

// SetWriteDeadline is called by crypto/tls before it writes that it closes, and by
// nobody else here.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.closing.Store(true)
	return w.Conn.SetWriteDeadline(t)
}

// CloseWrite passes a half-close on, which proxies ask for after an upgrade.
func (w *wire) CloseWrite() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func peerClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}
