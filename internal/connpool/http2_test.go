package connpool_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/testkit/balancer"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newHTTP1OverTLS(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ConnState = u.See
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}

// Simultaneous requests share a few HTTP/2 connections.
func TestHTTP2RequestsShareConnections(t *testing.T) {
	u := newHTTP2(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(10 * time.Millisecond); ok(w, r) })
	p := newPool(t, u.URL, u.options())
	for round, most := range []int64{50, 3, 3} {
		before, start := u.Opened(), time.Now()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { want(t, p, u.URL) })
		}
		all.Wait()
		// Requests that wait for long dial again.
		took := time.Since(start)
		if n := u.Opened() - before; n > most+int64(took/(100*time.Millisecond)) {
			t.Errorf("round %d: 50 requests took %d connections in %v, want at most %d and one for each 100 ms", round, n, took, most)
		}
		time.Sleep(50 * time.Millisecond) // until the last dial has ended
		wait.Until(t, 20*time.Second, "at most 3 connections are kept", func() bool { return u.Open() <= 3 })
		wait.Until(t, 20*time.Second, "all connections are closed", func() bool {
			p.CloseIdleConnections() // again, as a dial may end late
			return u.Open() == 0
		})
	}
}

// Many requests come at once, and each dials. Two connections serve all of them before the other
// dials end. Those connections get no request, and most of them are closed.
func TestHTTP2DialsThatEndTooLate(t *testing.T) {
	const requests = 50
	u := newHTTP2(t, ok)
	o := u.options()
	var dials atomic.Int64
	allDial, served := make(chan struct{}), make(chan struct{})
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		n := dials.Add(1)
		if n == requests {
			close(allDial)
		}
		<-allDial
		if n > 2 {
			<-served
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	p := newPool(t, u.URL, o)
	var all sync.WaitGroup
	for range requests {
		all.Go(func() { want(t, p, u.URL) })
	}
	all.Wait()
	close(served)
	wait.Until(t, 20*time.Second, "all dials end", func() bool { return u.Opened() == requests })
	wait.Until(t, 20*time.Second, "at most 3 connections are kept", func() bool { return u.Open() <= 3 })
}

// Requests beyond the stream limit of a connection get another connection.
func TestHTTP2ConnectionThatIsFull(t *testing.T) {
	u := &upstream{}
	release := make(chan struct{})
	var inside atomic.Int64
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			inside.Add(1)
			<-release
		}
		ok(w, r)
	}))
	u.Config.ConnState = u.See
	u.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 5}
	u.EnableHTTP2 = true
	u.StartTLS()
	t.Cleanup(u.Close)
	p := newPool(t, u.URL, u.options())
	want(t, p, u.URL)
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() { want(t, p, u.URL+"/wait") })
		time.Sleep(5 * time.Millisecond)
	}
	for end := time.Now().Add(20 * time.Second); inside.Load() < 12; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d requests arrived, want 12", inside.Load())
			break
		}
	}
	close(release)
	all.Wait()
	if n := u.Opened(); n < 3 || n > 6 {
		t.Errorf("12 requests at a time took %d connections for 5 each, want 3 to 6", n)
	}
}

// A server that shuts down reports with GOAWAY which requests it did not process. They are sent
// again elsewhere, and no request is executed twice.
func TestHTTP2ServerThatShutsDown(t *testing.T) {
	handler := func(executed *sync.Map, leaving *atomic.Bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if leaving.Load() {
				// GOAWAY. http.Server's Shutdown closes idle connections without one.
				w.Header().Set("Connection", "close")
			}
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			n, _ := executed.LoadOrStore(string(b), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			ok(w, r)
		}
	}
	var executed sync.Map
	var leaving atomic.Bool
	one, two := newHTTP2(t, handler(&executed, &leaving)), newHTTP2(t, handler(&executed, new(atomic.Bool)))
	b := balancer.New(t, strings.TrimPrefix(one.URL, "https://"))
	target := "https://" + b.Address()
	p := newPool(t, target, one.options())
	var failed, next atomic.Int64
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 10 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := time.Duration(next.Add(1)).String()
				status, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodPost, target, strings.NewReader(id))))
				if n, done := executed.Load(id); err != nil || status != http.StatusOK || !done || n.(*atomic.Int64).Load() != 1 {
					failed.Add(1)
					t.Logf("%d, %v", status, err)
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	b.SetBackends(strings.TrimPrefix(two.URL, "https://"))
	leaving.Store(true)
	for deadline := time.Now().Add(10 * time.Second); two.Opened() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	close(stop)
	all.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed or were executed twice, want none", failed.Load(), next.Load())
	}
	if two.Opened() == 0 {
		t.Error("the second server got no connection, want one")
	}
}

// The ping detects a connection that died silently, and its streams end.
func TestHTTP2PingNoticesADeadConnection(t *testing.T) {
	t.Parallel()
	u := newHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	// On a busy machine a late answer to a ping is a dead connection too.
	wait.OneOf(t, 2, func() (missed string) {
		b := balancer.New(t, strings.TrimPrefix(u.URL, "https://"))
		o := u.options()
		o.Limits.HTTP2Ping = time.Second
		p := newPool(t, "https://"+b.Address(), o)
		resp, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, "https://"+b.Address(), nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		time.Sleep(2500 * time.Millisecond) // a quiet stream is not a dead one
		if n := b.Open(); n != 1 {
			return fmt.Sprintf("%d connections, want 1", n)
		}
		b.Silence()
		begun := time.Now()
		if _, _, err := read(resp, nil); err == nil || time.Since(begun) > 15*time.Second {
			return fmt.Sprintf("the stream ended with error %v after %v, want an error within 15 s", err, time.Since(begun))
		}
		return ""
	})
}

// A caller that leaves does not cost other callers their connection. A caller whose time is up may
// have found a hanging server.
func TestHTTP2RequestsThatAreGivenUp(t *testing.T) {
	for name, tc := range map[string]struct {
		giveUp func(context.Context) (context.Context, context.CancelFunc)
		opened int64
	}{
		"cancelled": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(150*time.Millisecond, cancel)
			return ctx, cancel
		}, 1},
		"timed out": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 150*time.Millisecond)
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			u := newHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hang" {
					<-r.Context().Done()
					return
				}
				ok(w, r)
			})
			// The connection is fresh for a second, in which a busy machine may do nothing.
			wait.OneOf(t, 3, func() (missed string) {
				before := u.Opened()
				p := newPool(t, u.URL, u.steady())
				want(t, p, u.URL)
				ctx, cancel := tc.giveUp(t.Context())
				defer cancel()
				if _, err := p.RoundTrip(request(ctx, t, http.MethodGet, u.URL+"/hang", nil)); err == nil {
					t.Fatal("the request got an answer, want an error")
				}
				if status, _, err := read(p.RoundTripFresh(request(t.Context(), t, http.MethodGet, u.URL, nil))); err != nil || status != http.StatusOK {
					t.Fatalf("got status %d, error %v, want 200", status, err)
				}
				n := u.Opened() - before
				u.WantOpen(t, 1)
				p.Close()
				u.WantOpen(t, 0)
				if n != tc.opened {
					return fmt.Sprintf("%d connections were opened, want %d", n, tc.opened)
				}
				return ""
			})
		})
	}
}

// All requests that wait for a dial see the error of its TLS handshake, whichever request started
// it.
func TestHandshakeErrorsAreTold(t *testing.T) {
	u := newHTTP2(t, ok)
	o := u.options()
	p := newPool(t, u.URL, o)
	want(t, p, u.URL) // the pool now knows that it speaks HTTP/2, so requests share a dial
	b := balancer.New(t, strings.TrimPrefix(u.URL, "https://"))
	strict := u.options()
	strict.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	for name, p := range map[string]*connpool.Pool{"unknown root": newPool(t, "https://"+b.Address(), strict)} {
		t.Run(name, func(t *testing.T) {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					var told error
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) { told = err }})
					_, err := p.RoundTrip(request(ctx, t, http.MethodGet, u.URL, nil))
					if err == nil || told == nil || !errors.Is(err, told) {
						t.Errorf("RoundTrip returned %v and the hook got %v, want the same error", err, told)
					}
				})
			}
			all.Wait()
		})
	}
}

// New connections resume the TLS session of earlier ones.
func TestHandshakesResume(t *testing.T) {
	var resumed atomic.Int64
	u := newHTTP1OverTLS(t, func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		}
		ok(w, r)
	})
	p := newPool(t, u.URL, u.options())
	want(t, p, u.URL)
	p.CloseIdleConnections()
	want(t, p, u.URL)
	if resumed.Load() != 1 {
		t.Errorf("%d handshakes were resumed, want 1", resumed.Load())
	}
}

// A refused stream is sent again once. Then its error is returned.
func TestHTTP2RefusedStreams(t *testing.T) {
	for name, tc := range map[string]struct {
		refusals, arrive int64
		good             bool
	}{"once": {1, 2, true}, "always": {1 << 30, 2, false}} {
		t.Run(name, func(t *testing.T) {
			var arrived atomic.Int64
			target, config := framedServer(t, func(f *http2.Framer, frame http2.Frame) bool {
				if h, ok := frame.(*http2.HeadersFrame); ok {
					if arrived.Add(1) <= tc.refusals {
						return f.WriteRSTStream(h.StreamID, http2.ErrCodeRefusedStream) == nil
					}
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: h.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true}) == nil
				}
				return true
			})
			p := newPool(t, target, connpool.Options{Limits: defaults(), TLS: config})
			status, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodPost, target, strings.NewReader("b"))))
			if arrived.Load() != tc.arrive || (err == nil && status == http.StatusOK) != tc.good {
				t.Errorf("%d, %v after %d arrivals, want %d", status, err, arrived.Load(), tc.arrive)
			}
			if !tc.good && !strings.Contains(err.Error(), "REFUSED_STREAM") {
				t.Errorf("got %v, want REFUSED_STREAM", err)
			}
		})
	}
}

// framedServer speaks HTTP/2 over TLS frame by frame.
func framedServer(t *testing.T, answer func(*http2.Framer, http2.Frame) (goOn bool)) (target string, config *tls.Config) {
	t.Helper()
	u := httptest.NewUnstartedServer(nil)
	u.TLS = &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	u.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) {
		if _, err := io.CopyN(io.Discard, c, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				_ = f.WriteSettingsAck()
			}
			if !answer(f, frame) {
				return
			}
		}
	}}
	u.StartTLS()
	t.Cleanup(u.Close)
	return u.URL, u.Client().Transport.(*http.Transport).TLSClientConfig
}

// Headers are sent in full each time: a table of earlier ones costs more than it saves when a value
// is new in each request.
func TestHTTP2HeadersNeedNoTable(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var sizes []int
	target, config := framedServer(t, func(f *http2.Framer, frame http2.Frame) bool {
		if frame, ok := frame.(*http2.HeadersFrame); ok {
			mu.Lock()
			sizes = append(sizes, len(frame.HeaderBlockFragment()))
			mu.Unlock()
			// :status 200
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
		}
		return true
	})
	p := newPool(t, target, connpool.Options{Limits: defaults(), TLS: config})
	for range 3 {
		req := request(t.Context(), t, http.MethodGet, target, nil)
		req.Header.Set("X-Request-Id", "the same each time")
		resp, err := p.RoundTrip(req)
		if _, _, err := read(resp, err); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	// Only the first request on a connection says what the size of the table is.
	if len(sizes) != 3 || sizes[1] != sizes[2] || sizes[0]-sizes[1] > 8 {
		t.Errorf("got headers of %v bytes, want three of the same size", sizes)
	}
}

// gRPC servers close connections because of pings on a quiet stream. The pool then stops its pings.
func TestHTTP2PingsThatAreNotWanted(t *testing.T) {
	t.Parallel()
	// On a busy machine a late answer to a ping is a dead connection.
	wait.OneOf(t, 2, func() (missed string) {
		var settings, pings atomic.Int64
		target, config := framedServer(t, func(f *http2.Framer, frame http2.Frame) bool {
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					settings.Add(1)
				}
			case *http2.HeadersFrame:
				// :status 200
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true})
			case *http2.PingFrame:
				pings.Add(1)
				_ = f.WritePing(true, frame.Data)
				if settings.Load() == 1 { // only the first connection is to get pings
					_ = f.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
					return false
				}
			}
			return true
		})
		o := connpool.Options{Limits: defaults(), TLS: config}
		o.Limits.HTTP2Ping = time.Second
		p := newPool(t, target, o)
		first, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := read(first, nil); err == nil || !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") {
			return fmt.Sprintf("the first quiet stream ended with error %v, want ENHANCE_YOUR_CALM", err)
		}
		before := pings.Load()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		second, err := p.RoundTripFresh(request(ctx, t, http.MethodGet, target, nil))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2500*time.Millisecond, cancel)
		if _, _, err := read(second, nil); !errors.Is(err, context.Canceled) {
			return fmt.Sprintf("the second one ended with %v, want it to be quiet until its caller leaves", err)
		}
		// One ping comes with the end of the stream.
		if n := pings.Load() - before; n > 1 || settings.Load() != 2 {
			return fmt.Sprintf("after the upstream had enough: got %d pings on %d connections, want at most 1 on 2", n, settings.Load())
		}
		return ""
	})
}
