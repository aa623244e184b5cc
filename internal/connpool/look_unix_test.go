//go:build unix

package connpool

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// tcp returns both ends of a TCP connection.
func tcp(t *testing.T) (ours *net.TCPConn, theirs net.Conn) {
	t.Helper()
	l := rawhttp.Listen(t)
	defer func() { _ = l.Close() }()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if theirs, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	return c.(*net.TCPConn), theirs
}

// A look at a closed connection used to return the number of bytes of the look before. Whoever had
// a shorter buffer panicked then, and others got bytes that never arrived.
func TestLookAtAClosedConnection(t *testing.T) {
	ours, theirs := tcp(t)
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var l looker
	l.use(raw)
	if _, err := io.WriteString(theirs, "some"); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 8)
	n, err := l.look(buffer)
	for err == errNothing { //nolint:errorlint // as it is returned
		n, err = l.look(buffer)
	}
	if n != 4 || err != nil {
		t.Fatalf("got %d bytes, error %v, want 4", n, err)
	}
	_ = ours.Close()
	if n, err := l.look(buffer[:2]); n != 0 || err == nil {
		t.Errorf("got %d bytes, error %v, want none and an error", n, err)
	}
}

// Err closed the socket itself, while the pool's mutex was held.
func TestErrLeavesTheSocketToClose(t *testing.T) {
	ours, theirs := tcp(t)
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	d := &direct{wire: &wire{Conn: ours}}
	d.looker.use(raw)
	if err := d.Err(); err != nil || d.Available() != 1 {
		t.Fatalf("got error %v, room for %d, want a connection that works", err, d.Available())
	}
	_ = theirs.Close()
	wait.Until(t, 20*time.Second, "Err sees that the connection is closed", func() bool { return d.Err() != nil })
	if d.Available() != 0 || d.Err() == nil {
		t.Errorf("room for %d, error %v, want a connection that gets no more requests", d.Available(), d.Err())
	}
	if err := ours.SetDeadline(time.Time{}); err != nil {
		t.Errorf("the socket: %v, want it open until Close", err)
	}
	_ = d.Close()
	if err := ours.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket: %v, want %v", err, net.ErrClosed)
	}
}
