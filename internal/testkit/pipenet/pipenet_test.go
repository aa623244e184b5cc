package pipenet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
)

func TestMain(m *testing.M) { leaks.Main(m) }

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
			t.Errorf("got %q, error %v, want hello", b, err)
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

func TestServeOnAVirtualClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New()
		ended := false
		var server *http.Server
		stop := n.Serve(t, "up:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "hello")
			if r.URL.Path == "/hang" {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				time.Sleep(time.Minute)
				ended = true
			}
		}), func(s *http.Server) { server = s })
		client := &http.Client{Transport: n.Transport(t)}
		get := func(path string) *http.Response {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://up"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		resp := get("/")
		if b, err := io.ReadAll(resp.Body); string(b) != "hello" || err != nil || server == nil {
			t.Errorf("got %q, %v, server %v, want %q of a configured server", b, err, server, "hello")
		}
		_ = resp.Body.Close()
		resp = get("/hang")
		began := time.Now()
		stop()
		if took := time.Since(began); !ended || took != time.Minute {
			t.Errorf("stop returned after %v, handler ended: %v; want it to wait for the handler's minute", took, ended)
		}
		_ = resp.Body.Close()
		if _, err := n.Dial(t.Context(), "", "up:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after stop: got %v, want %v", err, syscall.ECONNREFUSED)
		}
	})
}
