//go:build unix

package connpool

import (
	"io"
	"net"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
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
