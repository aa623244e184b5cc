package pipenet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNetworkConnectsByAddressAndRefusesLikeTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New()
		if _, err := n.Dial(t.Context(), "", "up:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		l, err := n.Listen(t.Context(), "", "up:80")
		if err != nil || l.Addr().String() != "up:80" {
			t.Fatal(l, err)
		}
		if _, err := n.Listen(t.Context(), "", "up:80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second listener: %v", err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		c, err := n.Dial(t.Context(), "", "up:80")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		_ = c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dial(ctx, "", "up:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody accepts: %v", err)
		}
		_ = l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		var op *net.OpError
		if _, err := n.Dial(t.Context(), "", "up:80"); !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("dial after close: %v", err)
		}
		again, err := n.Listen(t.Context(), "", "up:80")
		if err != nil {
			t.Fatalf("the address is not free again: %v", err)
		}
		_ = again.Close()
	})
}
