package balancer_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/balancer"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// naming starts a backend that sends its name on every connection, and then echoes.
func naming(t *testing.T, name string) (address string) {
	t.Helper()
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(c net.Conn) {
		_, _ = io.WriteString(c, name)
		_, _ = io.Copy(c, c)
	})
	return l.Addr().String()
}

func dial(t *testing.T, b *balancer.Balancer) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// How long hear waits: for something that must come, and for silence.
const (
	long  = 20 * time.Second
	short = 200 * time.Millisecond
)

// hear reads n bytes, or what arrives within the limit.
func hear(t *testing.T, c net.Conn, n int, limit time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	got, err := io.ReadFull(c, b)
	return string(b[:got]), err
}

func TestRoundRobinAndChangedBackends(t *testing.T) {
	one, two, three := naming(t, "1"), naming(t, "2"), naming(t, "3")
	b := balancer.New(t, one, two)
	order := ""
	for range 4 {
		s, err := hear(t, dial(t, b), 1, long)
		if err != nil {
			t.Fatal(err)
		}
		order += s
	}
	b.SetBackends(three)
	kept := dial(t, b)
	s, err := hear(t, kept, 1, long)
	if order += s; order != "12123" || err != nil {
		t.Errorf("%q, %v: want 1 and 2 in turn, then 3", order, err)
	}
	if _, err := io.WriteString(kept, "echo"); err != nil {
		t.Fatal(err)
	}
	if s, err := hear(t, kept, 4, long); s != "echo" || err != nil {
		t.Errorf("got %q, error %v, want echo", s, err)
	}
	if err := kept.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := hear(t, kept, 1, long); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after the end, want the backend's end", err)
	}
	if n := b.Opened(one); n != 2 {
		t.Errorf("%d connections to the first backend, want 2", n)
	}
}

func TestFailures(t *testing.T) {
	b := balancer.New(t, naming(t, "1"))
	old := dial(t, b)
	if s, err := hear(t, old, 1, long); s != "1" || err != nil {
		t.Fatal(s, err)
	}
	if n := b.Silence(); n != 1 {
		t.Errorf("%d connections were there, want 1", n)
	}
	for range 3 { // it is accepted, and goes nowhere
		if _, err := io.WriteString(old, "echo"); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := hear(t, old, 1, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, error %v on a dead connection, want silence", s, err)
	}
	if s, err := hear(t, dial(t, b), 1, long); s != "1" || err != nil {
		t.Errorf("got %q, error %v on a new connection, want 1", s, err)
	}

	b.Hang(true)
	if s, err := hear(t, dial(t, b), 1, short); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v while it hangs, want silence", s, err)
	}
	b.Hang(false)

	b.SetBackends(rawhttp.FreeAddress(t))
	// The reset may arrive before the dial returns, and then the dial reports it.
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.Address())
	if err == nil {
		defer func() { _ = c.Close() }()
		_, err = hear(t, c, 1, long)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v before a backend that refuses, want a reset", err)
	}
}
