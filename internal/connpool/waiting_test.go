package connpool_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The pool keeps nothing of a call after it ends.
func TestNothingOfACallIsKept(t *testing.T) {
	u := newUpstream(t, func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) })
	p := newPool(t, u.URL, u.options())
	type key struct{}
	var left atomic.Int64
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			v := new([64]byte)
			left.Add(1)
			runtime.AddCleanup(v, func(struct{}) { left.Add(-1) }, struct{}{})
			_, _, err := read(p.RoundTrip(request(context.WithValue(t.Context(), key{}, v), t, http.MethodGet, u.URL, nil)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	want(t, p, u.URL)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		p.CloseIdleConnections() // net/http's connections may refer to the last request
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
		if left.Load() <= 2 {
			return
		}
	}
	// A leak keeps nearly all. One or two may still be on the stack of a goroutine that sleeps.
	if n := left.Load(); n > 2 {
		t.Errorf("%d of 50 contexts are kept, want at most 2", n)
	}
}

// Without kept connections, none is dialled in the background.
func TestNoReplacementWithoutKeptConnections(t *testing.T) {
	u := newUpstream(t, func(http.ResponseWriter, *http.Request) { time.Sleep(1100 * time.Millisecond) })
	o := u.options()
	o.Limits.MaxIdle = 0
	p := newPool(t, u.URL, o)
	want(t, p, u.URL)
	time.Sleep(50 * time.Millisecond)
	if n := u.Opened(); n != 1 {
		t.Errorf("%d connections for one request, want 1", n)
	}
}

// When a kept connection dies, a request is sent again once, not on every kept connection in turn.
func TestRepetitionNeedsANewConnection(t *testing.T) {
	var sent atomic.Int64
	var bad atomic.Bool
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		if bad.Load() {
			sent.Add(1)
			c, _, _ := http.NewResponseController(w).Hijack()
			_ = c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	})
	p := newPool(t, u.URL, u.options())
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() { want(t, p, u.URL) })
	}
	calls.Wait()
	bad.Store(true)
	_, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL, nil)))
	if n := sent.Load(); n > 2 {
		t.Errorf("one GET was sent %d times, error %v, want at most 2 times", n, err)
	}
}

// A request that waits for a hanging dial gets the next free stream.
func TestHTTP2FreeStreamServesTheWaiting(t *testing.T) {
	free := make(chan struct{})
	u := newHTTP2One(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			_ = http.NewResponseController(w).Flush()
			<-free
		}
		_, _ = io.WriteString(w, "ok")
	})
	o := u.options()
	var dials atomic.Int64
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) > 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	p := newPool(t, u.URL, o)
	want(t, p, u.URL)
	var calls sync.WaitGroup
	calls.Go(func() {
		if s, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL+"/wait", nil))); err != nil || s != 200 {
			t.Errorf("got status %d, error %v, want 200", s, err)
		}
	})
	time.Sleep(300 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error)
	go func() {
		_, _, err := read(p.RoundTrip(request(ctx, t, http.MethodGet, u.URL, nil)))
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	close(free)
	if err := <-done; err != nil {
		t.Errorf("got error %v after %d dials, want none", err, dials.Load())
	}
	cancel()
	calls.Wait()
}

// newHTTP2One returns an upstream that allows one stream per connection.
func newHTTP2One(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = u.See
	u.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
	u.EnableHTTP2 = true
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}
