package serve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

// A configuration error closes the listeners that Open opened.
func TestRefusedConfigurationClosesWhatIsOpen(t *testing.T) {
	l, addr, err := serve.Open(t.Context(), serve.Listener{Name: "a", Addr: rawhttp.FreeAddress(t), Handler: http.NotFoundHandler()})
	if err != nil {
		t.Fatal(err)
	}
	if serve.Run(t.Context(), serve.Config{Data: []serve.Listener{l}}, nil, nil) == nil {
		t.Fatal("Run without a drain timeout: got no error, want one")
	}
	again, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// If one address is in use, Run closes the other listeners too.
func TestAddressInUse(t *testing.T) {
	taken := rawhttp.Listen(t)
	defer taken.Close()
	var first net.Listener
	err := serve.Run(t.Context(), serve.Config{
		Data:         []serve.Listener{{Name: "data", Addr: "127.0.0.1:0", Handler: text("ok")}},
		Admin:        []serve.Listener{{Name: "admin", Addr: taken.Addr().String(), Handler: text("ok")}},
		DrainTimeout: within(time.Second),
		Listen: func(ctx context.Context, network, addr string) (net.Listener, error) {
			l, err := new(net.ListenConfig).Listen(ctx, network, addr)
			if err == nil {
				first = l
			}
			return l, err
		},
	}, serve.NewReadiness(), func(map[string]net.Addr) { t.Error("onListen was called, want no listener") })
	want := "listen on " + taken.Addr().String() + " (admin): address already in use"
	if err == nil || err.Error() != want || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := first.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing the first listener again: got %v, want it already closed", err)
	}
}

// TestCallInFlightOverSockets drains real connections, with each protocol that is served.
func TestCallInFlightOverSockets(t *testing.T) {
	for name, set := range map[string]func(*http.Protocols){
		"http1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"h2c":   func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			entered, finish := make(chan string), make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
				if conn := serve.Conn(r.Context()); conn == nil || conn.RemoteAddr().String() != r.RemoteAddr {
					t.Errorf("got connection %v, want that of the request", conn)
				}
				entered <- r.Proto
				<-finish
				_, _ = io.WriteString(w, "whole")
			})
			ready := serve.NewReadiness()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			addrs, ended := make(chan map[string]net.Addr, 1), make(chan error, 1)
			flushing, flushed := make(chan struct{}), make(chan struct{})
			go func() {
				ended <- serve.Run(ctx, serve.Config{
					Data:         []serve.Listener{{Name: "data", Addr: rawhttp.FreeAddress(t), Handler: mux}},
					Admin:        []serve.Listener{{Name: "admin", Addr: rawhttp.FreeAddress(t), Handler: ready.Readyz()}},
					DrainTimeout: within(time.Minute),
					Flush:        func(ctx context.Context) error { close(flushing); <-flushed; return ctx.Err() },
					FlushTimeout: time.Minute,
				}, ready, func(m map[string]net.Addr) { addrs <- m })
			}()
			at := <-addrs
			if len(at) != 2 {
				t.Fatalf("got addresses %v, want data and admin", at)
			}
			protocols := new(http.Protocols)
			set(protocols)
			transport := &http.Transport{Protocols: protocols}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			plain := &http.Transport{DisableKeepAlives: true}

			slow := make(chan answer, 1)
			go func() { slow <- get(t.Context(), client, "http://"+at["data"].String()+"/slow") }()
			select {
			case proto := <-entered:
				if want := map[string]string{"http1": "HTTP/1.1", "h2c": "HTTP/2.0"}[name]; proto != want {
					t.Errorf("got a call over %s, want %s", proto, want)
				}
			case got := <-slow:
				stop()
				close(flushed)
				t.Fatalf("the call did not reach the handler: got %+v, Run returned %v", got, <-ended)
			}
			stop()
			// The listener closes at some point; readiness has failed by then.
			for {
				conn, err := net.Dial("tcp", at["data"].String())
				if err != nil {
					break
				}
				conn.Close()
			}
			if got := get(t.Context(), &http.Client{Transport: plain}, "http://"+at["admin"].String()); got.status != 503 || !strings.Contains(got.body, "draining") {
				t.Errorf("got readiness %+v while draining, want 503", got)
			}
			select {
			case <-flushing:
				t.Error("Flush was called with a call in flight, want it after the call")
			default:
			}
			close(finish)
			if got := <-slow; got.err != nil || got.status != 200 || got.body != "whole" {
				t.Errorf("the call in flight got %+v, want 200 whole", got)
			}
			<-flushing
			if _, err := net.Dial("tcp", at["admin"].String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dialling the admin listener while flushing: got %v, want connection refused", err)
			}
			close(flushed)
			if err := <-ended; err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		})
	}
}

// Writes to a steady but slow reader must show its progress, even with megabytes in flight.
func TestB5ASlowReaderShowsInTheWrites(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can limit the unsent data of a connection")
	}
	const rate = 400 << 10 // bytes per second
	var slowest atomic.Int64
	l, addr, err := serve.Open(t.Context(), serve.Listener{Name: "data", Addr: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 32<<10); ; {
			begun := time.Now()
			if _, err := w.Write(block); err != nil {
				return
			}
			slowest.Store(max(slowest.Load(), int64(time.Since(begun))))
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, serve.Config{Data: []serve.Listener{l}, DrainTimeout: within(time.Second)}, nil, nil)
	}()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	const pause = 50 * time.Millisecond
	var late time.Duration // how much longer than pause this caller once read nothing
	for begun, last := time.Now(), time.Now(); time.Since(begun) < 6*time.Second; time.Sleep(pause) {
		late = max(late, time.Since(last)-pause)
		if _, err := io.CopyN(io.Discard, conn, rate/20); err != nil {
			t.Fatal(err)
		}
		last = time.Now()
	}
	_ = conn.Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if s := time.Duration(slowest.Load()); s > 1500*time.Millisecond+late {
		t.Errorf("a write to a caller who reads %d bytes a second took %v, want at most 1.5s and the %v that the caller was late", rate, s, late)
	}
}
