package connpool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

func TestConnectionsAreKept(t *testing.T) {
	for name, newServer := range map[string]func(*testing.T, http.HandlerFunc) *upstream{"HTTP/1": newUpstream, "HTTP/2": newHTTP2} {
		t.Run(name, func(t *testing.T) {
			u := newServer(t, ok)
			p := newPool(t, u.URL, u.steady())
			for range 20 {
				want(t, p, u.URL)
			}
			if n := u.Opened(); n != 1 {
				t.Errorf("20 requests one after the other took %d connections, want 1", n)
			}
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					for range 20 {
						want(t, p, u.URL)
					}
				})
			}
			all.Wait()
			// A dial may end after another connection was free already.
			if n := u.Open(); n > 20 {
				t.Errorf("10 at a time left %d connections, want about 10", n)
			}
			p.Close()
			u.WantOpen(t, 0)
		})
	}
}

// A retry uses a new connection, which replaces the one that failed.
func TestFreshReplacesTheOneThatFailed(t *testing.T) {
	for name, newServer := range map[string]func(*testing.T, http.HandlerFunc) *upstream{"HTTP/1": newUpstream, "HTTP/2": newHTTP2} {
		for body, answer := range map[string]string{"with a body": "sorry", "without": ""} {
			t.Run(name+" "+body, func(t *testing.T) {
				var sick sync.Map // by connection
				u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
					if _, known := sick.LoadOrStore(r.RemoteAddr, r.URL.Path == "/sick"); known || r.URL.Path != "/sick" {
						ok(w, r)
						return
					}
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = io.WriteString(w, answer)
				})
				p := newPool(t, u.URL, u.steady())
				for i := range int64(3) {
					resp, err := p.RoundTripFresh(request(t.Context(), t, http.MethodGet, u.URL+"/sick", nil))
					if err != nil {
						t.Fatal(err)
					}
					if resp.StatusCode != http.StatusServiceUnavailable {
						t.Fatalf("round %d: a fresh connection got status %d, want 503", i, resp.StatusCode)
					}
					retire(t, resp)
					if _, body, err := read(resp, nil); err != nil || body != answer {
						t.Fatalf("got body %q, error %v, want %q", body, err, answer)
					}
					time.Sleep(110 * time.Millisecond) // the shortest time between HTTP/2 dials
				}
				if status, _, err := read(p.RoundTripFresh(request(t.Context(), t, http.MethodGet, u.URL, nil))); err != nil || status != http.StatusOK {
					t.Fatalf("got status %d, error %v, want 200", status, err)
				}
				if n := u.Opened(); n != 4 {
					t.Errorf("%d connections were opened, want 4", n)
				}
				u.WantOpen(t, 1)
				want(t, p, u.URL)
				if n := u.Opened(); n != 4 {
					t.Errorf("the fresh one was not kept: %d connections, want 4", n)
				}
			})
		}
	}
}

// Other requests on a retired HTTP/2 connection continue.
func TestRetiredHTTP2ConnectionEndsWithItsLastRequest(t *testing.T) {
	hold := make(chan struct{})
	u := newHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-hold
			_, _ = io.WriteString(w, "end")
			return
		}
		w.WriteHeader(map[string]int{"/sick": http.StatusServiceUnavailable}[r.URL.Path] + map[bool]int{true: 200}[r.URL.Path != "/sick"])
	})
	p := newPool(t, u.URL, u.steady())
	longer, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL+"/long", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL+"/sick", nil))
	if err != nil {
		t.Fatal(err)
	}
	retire(t, resp)
	_ = resp.Body.Close()
	time.Sleep(110 * time.Millisecond)
	if status, _, err := read(p.RoundTripFresh(request(t.Context(), t, http.MethodGet, u.URL, nil))); err != nil || status != http.StatusOK {
		t.Fatalf("got status %d, error %v, want 200", status, err)
	}
	if n := u.Open(); n != 2 {
		t.Errorf("%d connections are open while the long answer goes on, want 2", n)
	}
	close(hold)
	if _, body, err := read(longer, nil); err != nil || body != "end" {
		t.Errorf("the long answer: got %q, error %v, want %q", body, err, "end")
	}
	u.WantOpen(t, 1)
}

// An error rate of 30 % must not cause 300 TLS handshakes a second.
func TestHTTP2DoesNotDialForEveryError(t *testing.T) {
	var n atomic.Int64
	u := newHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(7)%10 < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := newPool(t, u.URL, u.options())
	start := time.Now()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 100 {
				resp, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL, nil))
				if err == nil && resp.StatusCode != http.StatusOK {
					retire(t, resp)
					_ = resp.Body.Close()
					resp, err = p.RoundTripFresh(request(t.Context(), t, http.MethodGet, u.URL, nil))
				}
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
			}
		})
	}
	all.Wait()
	if limit := 11 + int64(time.Since(start)/(100*time.Millisecond)); u.Opened() > limit {
		t.Errorf("1,000 requests, 300 of which failed, took %d connections in %v, want at most %d", u.Opened(), time.Since(start), limit)
	}
}

func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(time.Second); ok(w, r) })
		c := defaults()
		c.IdleTimeout, c.MaxIdle = 10*time.Second, 3
		p := v.pool(c)
		defer v.end(p)
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { want(t, p, "http://upstream") })
		}
		all.Wait()
		synctest.Wait()
		if n := v.Open(); n != 3 {
			t.Errorf("%d connections are kept after 5, want 3", n)
		}
		time.Sleep(9 * time.Second)
		want(t, p, "http://upstream")
		synctest.Wait()
		if n := v.Open(); n != 1 {
			t.Errorf("%d connections are open after the idle time, want only the one that was used", n)
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if n := v.Open(); n != 1 {
			t.Errorf("%d connections, want 1: its idle time began anew", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := v.Open(); n != 0 {
			t.Errorf("%d connections are open after the idle time, want none", n)
		}
	})
}

func TestConnectionsHaveAMaximumAge(t *testing.T) {
	for name, age := range map[string]time.Duration{"with one": 10 * time.Second, "without": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, ok)
				c := defaults()
				c.MaxAge = age
				p := v.pool(c)
				defer v.end(p)
				begun := time.Now()
				for time.Since(begun) < 9*time.Second {
					want(t, p, "http://upstream")
					time.Sleep(200 * time.Millisecond)
				}
				synctest.Wait()
				young := v.dials.Load()
				if age == 0 && young != 1 {
					t.Errorf("%d dials, want 1: nothing is replaced", young)
				}
				if age > 0 && (young < 20 || young > 37) {
					t.Errorf("%d dials in 9 s of traffic over one connection, want two to four a second", young)
				}
				time.Sleep(20 * time.Second) // less than the idle time
				want(t, p, "http://upstream")
				if n := v.dials.Load() - young; age > 0 && n != 1 || age == 0 && n != 0 {
					t.Errorf("%d dials after 20 s without traffic, with an age of %v, want one only with an age", n, age)
				}
			})
		})
	}
}

// Connections are replaced in the background at a limited rate. A failed replacement changes
// nothing.
func TestReplacementIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, func(w http.ResponseWriter, r *http.Request) { time.Sleep(10 * time.Millisecond); ok(w, r) })
		p := v.pool(defaults())
		defer v.end(p)
		traffic := func(length time.Duration) {
			var all sync.WaitGroup
			begun := time.Now()
			for range 50 {
				all.Go(func() {
					for time.Since(begun) < length {
						want(t, p, "http://upstream")
						time.Sleep(10 * time.Millisecond)
					}
				})
			}
			all.Wait()
		}
		traffic(time.Second)
		first := v.dials.Load()
		traffic(10 * time.Second)
		if n := v.dials.Load() - first; n < 35 || n > 41 {
			t.Errorf("%d connections were replaced in 10 s, want 4 a second", n)
		}
		if n := v.Open(); n > 51 {
			t.Errorf("%d connections are open for 50 at a time, want at most 51", n)
		}
		v.refuse.Store(true)
		traffic(10 * time.Second)
		v.refuse.Store(false)
		traffic(time.Second)
		if n := v.Open(); n < 25 || n > 51 {
			t.Errorf("%d connections are open after dials in the background failed, want 25 to 51", n)
		}
		idle := v.dials.Load()
		time.Sleep(20 * time.Second)
		if n := v.dials.Load(); n != idle {
			t.Errorf("%d dials without traffic, want 0", n-idle)
		}
	})
}

// No connection is replaced while the upstream fails, because retries do that.
func TestNoReplacementDuringFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Bool
		v := newVirtual(t, func(w http.ResponseWriter, r *http.Request) {
			if sick.Load() && r.URL.Path == "/sick" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		p := v.pool(defaults())
		defer v.end(p)
		want(t, p, "http://upstream")
		time.Sleep(5 * time.Second)
		sick.Store(true)
		resp, err := p.RoundTripFresh(request(t.Context(), t, http.MethodGet, "http://upstream/sick", nil))
		if err != nil {
			t.Fatal(err)
		}
		retire(t, resp)
		_ = resp.Body.Close()
		before := v.dials.Load()
		for range 9 {
			want(t, p, "http://upstream")
			time.Sleep(100 * time.Millisecond)
		}
		if n := v.dials.Load() - before; n != 0 {
			t.Errorf("%d dials within a second after a failure, want none", n)
		}
		time.Sleep(200 * time.Millisecond)
		want(t, p, "http://upstream")
		synctest.Wait()
		if n := v.dials.Load() - before; n != 1 {
			t.Errorf("%d dials after that, want 1", n)
		}
	})
}

const plainOK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Which requests may be sent again when a kept connection dies before it answers.
func TestKeptConnectionThatDies(t *testing.T) {
	key := func(r *http.Request) { r.Header.Set("Idempotency-Key", "k") }
	oneWay := func(r *http.Request) { r.GetBody = nil }
	for name, tc := range map[string]struct {
		method string
		body   string
		change func(*http.Request)
		bytes  string // what the dying connection sends
		again  bool
	}{
		"GET":                       {method: "GET", again: true},
		"HEAD":                      {method: "HEAD", again: true},
		"GET with a body":           {method: "GET", body: "b", again: true},
		"GET with a one-way body":   {method: "GET", body: "b", change: oneWay},
		"GET, half an answer":       {method: "GET", bytes: "HTTP/1.1 2"},
		"POST":                      {method: "POST", body: "b"},
		"POST without a body":       {method: "POST"},
		"PUT":                       {method: "PUT", body: "b"},
		"DELETE":                    {method: "DELETE"},
		"POST with a key":           {method: "POST", body: "b", change: key, again: true},
		"POST, key, one-way":        {method: "POST", body: "b", change: func(r *http.Request) { key(r); oneWay(r) }},
		"POST, key, without a body": {method: "POST", change: key, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			target := rawhttp.Requests(t, func(c net.Conn, r *http.Request, connection, request int) bool {
				if r.Header.Get("X-Second") != "" {
					seen.Add(1)
				}
				if connection == 1 && request == 2 {
					_, _ = io.WriteString(c, tc.bytes)
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				answer := plainOK
				if r.Method == http.MethodHead {
					answer = strings.TrimSuffix(answer, "ok")
				}
				_, _ = io.WriteString(c, answer)
				return true
			})
			limits := defaults()
			limits.MaxAge = 0 // no background dials
			p := newPool(t, target, connpool.Options{Limits: limits})
			want(t, p, target)
			var body io.Reader
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			var got []bool // for each connection: was it used before?
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { got = append(got, i.Reused) }})
			r := request(ctx, t, tc.method, target, body)
			r.Header.Set("X-Second", "1")
			if tc.change != nil {
				tc.change(r)
			}
			status, _, err := read(p.RoundTrip(r))
			if tc.again {
				if err != nil || status != http.StatusOK || seen.Load() != 2 || fmt.Sprint(got) != "[true false]" {
					t.Errorf("%d, %v, sent %d times on %v: want 200 from a second connection", status, err, seen.Load(), got)
				}
			} else if err == nil || seen.Load() != 1 || fmt.Sprint(got) != "[true]" {
				t.Errorf("%d, %v, sent %d times on %v: want an error after the first", status, err, seen.Load(), got)
			}
		})
	}
}

// If nothing was written on a kept connection that is closed, any request may be sent on another
// one.
func TestKeptConnectionThatIsClosed(t *testing.T) {
	for name, direct := range map[string]bool{"direct": true, "net/http's": false} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{}, 1) // by the upstream, or as the client sees it
			var posts atomic.Int64
			target := rawhttp.Requests(t, func(c net.Conn, r *http.Request, _, _ int) bool {
				if r.Method == http.MethodPost {
					posts.Add(1)
					_, _ = io.Copy(io.Discard, r.Body)
				}
				_, _ = io.WriteString(c, plainOK)
				if direct {
					_ = c.Close()
					closed <- struct{}{}
				}
				return false
			})
			o := connpool.Options{Limits: defaults()}
			if !direct {
				o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, address)
					if err != nil {
						return nil, err
					}
					return &ending{Conn: c, ended: sync.OnceFunc(func() { closed <- struct{}{} })}, nil
				}
			}
			p := newPool(t, target, o)
			rounds, moment := int64(50), 20*time.Millisecond
			if !direct {
				rounds, moment = 10, 200*time.Millisecond // the pool sees it through other goroutines
			}
			for i := range rounds {
				want(t, p, target)
				<-closed
				time.Sleep(moment) // the pool can notice it
				r := request(t.Context(), t, http.MethodPost, target, strings.NewReader("b"))
				r.GetBody = nil
				if status, _, err := read(p.RoundTrip(r)); err != nil || status != http.StatusOK || posts.Load() != i+1 {
					t.Fatalf("round %d: got status %d, error %v, %d posts, want 200 and %d posts", i, status, err, posts.Load(), i+1)
				}
				<-closed
			}
		})
	}
}

// An ending calls ended when its reader sees the end.
type ending struct {
	net.Conn
	ended func()
}

func (c *ending) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.ended()
	}
	return n, err
}

// The upstream closes connections after a while, even between two requests. A POST without a key is
// never executed twice, and never lost behind a 2xx.
func TestB4PostsOverConnectionsThatAreClosed(t *testing.T) {
	posts := 20_000
	if testing.Short() {
		posts = 2_000
	}
	var executed sync.Map
	u := newClosing(t, 3*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		n, _ := executed.LoadOrStore(string(b), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		w.WriteHeader(http.StatusCreated)
	})
	p := newPool(t, u.URL, u.options())
	var next, lost, failed, twice atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for n := next.Add(1); n <= int64(posts); n = next.Add(1) {
				id := fmt.Sprint(n)
				status, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodPost, u.URL, strings.NewReader(id))))
				times := int64(0)
				if n, ok := executed.Load(id); ok {
					times = n.(*atomic.Int64).Load()
				}
				switch {
				case times > 1:
					twice.Add(1)
				case err != nil:
					failed.Add(1)
				case status != http.StatusCreated || times != 1:
					lost.Add(1)
				}
				if n%7 == 0 {
					time.Sleep(time.Duration(n%5) * time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	if twice.Load() > 0 || lost.Load() > 0 || failed.Load() > int64(posts)/4 {
		t.Errorf("of %d: %d executed twice, %d lost behind a 2xx, %d failed, want none twice or lost and at most a quarter failed", posts, twice.Load(), lost.Load(), failed.Load())
	}
	t.Logf("%d connections, %d of %d failed", u.Opened(), failed.Load(), posts)
}

// The upstream answers before it has read the body, and closes. The response arrives.
func TestA12EarlyAnswerToAnUpload(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			h := func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Connection", "close")
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				_, _ = io.WriteString(w, "too large")
			}
			u := newUpstream(t, h)
			o := u.options()
			if secure {
				u.Close()
				u = newHTTP1OverTLS(t, h)
				o = u.options()
			}
			p := newPool(t, u.URL, o)
			var all sync.WaitGroup
			for range 40 {
				all.Go(func() {
					status, body, err := read(p.RoundTrip(request(t.Context(), t, http.MethodPost, u.URL, long(8<<20))))
					if err != nil || status != http.StatusRequestEntityTooLarge || body != "too large" {
						t.Errorf("got status %d, body %q, error %v, want 413 and too large", status, body, err)
					}
				})
			}
			all.Wait()
			u.WantOpen(t, 0)
		})
	}
}

// A body waits for 100 (Continue) for ContinueWait at most.
func TestA9WaitForContinueIsBounded(t *testing.T) {
	// as if it did not know Expect
	target := rawhttp.Requests(t, func(c net.Conn, r *http.Request, _, _ int) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(c, plainOK)
		return true
	})
	p := newPool(t, target, connpool.Options{Limits: defaults(), ContinueWait: 50 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r := request(ctx, t, http.MethodPost, target, strings.NewReader("body"))
	r.Header.Set("Expect", "100-continue")
	if status, _, err := read(p.RoundTrip(r)); err != nil || status != http.StatusOK {
		t.Errorf("got status %d, error %v, want 200", status, err)
	}
}

// CloseIdleConnections closes only connections that no request uses.
func TestCloseIdleConnections(t *testing.T) {
	for name, newServer := range map[string]func(*testing.T, http.HandlerFunc) *upstream{"HTTP/1": newUpstream, "HTTP/2": newHTTP2} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			u := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/long" {
					w.WriteHeader(http.StatusOK)
					_ = http.NewResponseController(w).Flush()
					<-hold
				}
				ok(w, r)
			})
			p := newPool(t, u.URL, u.steady())
			longer, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL+"/long", nil))
			if err != nil {
				t.Fatal(err)
			}
			want(t, p, u.URL)
			p.CloseIdleConnections()
			u.WantOpen(t, 1)
			before := u.Opened()
			want(t, p, u.URL)
			if n := u.Opened() - before; n != 1 {
				t.Errorf("%d new connections, want 1", n)
			}
			p.Close()
			close(hold)
			if _, body, err := read(longer, nil); err != nil || body != "ok" {
				t.Errorf("the one in flight: got %q, error %v, want ok", body, err)
			}
			u.WantOpen(t, 0)
			want(t, p, u.URL) // after Close: still served
			u.WantOpen(t, 0)
		})
	}
}

// A waiting request takes the first free connection, and a late dial serves the next request.
func TestSlowDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				time.Sleep(2 * time.Second)
			}
			ok(w, r)
		})
		var slow atomic.Int64
		c := defaults()
		c.MaxAge = 0 // no background dials
		p := connpool.New(mustURL(t, "http://upstream"), connpool.Options{
			Limits: c,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				v.dials.Add(1)
				select {
				case <-time.After(time.Duration(slow.Load())):
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
				return v.net.Dial(ctx, network, address)
			},
		})
		defer v.end(p)
		first := make(chan struct{})
		go func() { defer close(first); want(t, p, "http://upstream/slow") }()
		synctest.Wait()
		slow.Store(int64(5 * time.Second))
		begun := time.Now()
		want(t, p, "http://upstream") // gets the first request's connection
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("it took %v, want the 2 s until a connection was free", took)
		}
		<-first
		p.CloseIdleConnections()
		time.Sleep(4 * time.Second) // until its own dial has ended
		dials := v.dials.Load()
		want(t, p, "http://upstream")
		if n := v.dials.Load() - dials; n != 0 {
			t.Errorf("%d dials, want none: there was a spare connection", n)
		}

		// The caller's time is up before the dial ends.
		p.CloseIdleConnections()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errTooLong)
		defer cancel()
		if _, err := p.RoundTrip(request(ctx, t, http.MethodGet, "http://upstream", nil)); !errors.Is(err, errTooLong) {
			t.Errorf("got %v, want the cause of the context's end", err)
		}
		time.Sleep(5 * time.Second)
		dials = v.dials.Load()
		want(t, p, "http://upstream")
		if n := v.dials.Load() - dials; n != 0 {
			t.Errorf("%d dials, want none: the one that was given up came in", n)
		}

		// A dial does not outlive the pool.
		p.CloseIdleConnections()
		slow.Store(int64(time.Hour))
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.RoundTrip(request(ctx, t, http.MethodGet, "http://upstream", nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want context.DeadlineExceeded", err)
		}
		p.Close()
		synctest.Wait()
	})
}

// Servers limit the time from a connection to its first request, so one that was never used must be
// young.
func TestUnusedConnectionIsNotKeptForLong(t *testing.T) {
	for name, tc := range map[string]struct {
		unused time.Duration
		dials  int64
	}{
		"1 s": {time.Second, 0},
		"2 s": {2 * time.Second, 1},
		"9 s": {9 * time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVirtual(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						time.Sleep(50 * time.Millisecond)
					}
					ok(w, r)
				})
				c := defaults()
				c.MaxAge = 0 // no background dials
				p := connpool.New(mustURL(t, "http://upstream"), connpool.Options{
					Limits: c,
					DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
						if v.dials.Add(1) > 1 {
							time.Sleep(time.Second)
						}
						return v.net.Dial(ctx, network, address)
					},
				})
				defer v.end(p)
				spare := func() {
					var all sync.WaitGroup
					all.Go(func() { want(t, p, "http://upstream/slow") })
					synctest.Wait()
					want(t, p, "http://upstream") // dials, but the first one's connection is free earlier
					all.Wait()
				}
				spare()
				time.Sleep(time.Second + tc.unused)
				before := v.dials.Load()
				spare() // the second request takes the spare connection if it may
				if n := v.dials.Load() - before; n != tc.dials {
					t.Errorf("%d dials after the spare connection was unused for %v, want %d", n, tc.unused, tc.dials)
				}
				time.Sleep(time.Second) // for its dial
			})
		})
	}
}

var errTooLong = errors.New("too long")

// A request that net/http refuses to send does not cost the connection.
func TestRequestsThatCannotBeSent(t *testing.T) {
	for name, newServer := range map[string]func(*testing.T, http.HandlerFunc) *upstream{"HTTP/1": newUpstream, "HTTP/2": newHTTP2} {
		t.Run(name, func(t *testing.T) {
			u := newServer(t, ok)
			p := newPool(t, u.URL, u.steady())
			want(t, p, u.URL)
			for range 20 {
				body := &closeCounter{Reader: strings.NewReader("b")}
				r := request(t.Context(), t, http.MethodPost, u.URL, body)
				r.Header["Bad Name"] = []string{"x"}
				if _, err := p.RoundTrip(r); err == nil {
					t.Error("the request was sent, want an error")
				}
				if body.closed.Load() != 1 {
					t.Errorf("its body was closed %d times, want once", body.closed.Load())
				}
			}
			want(t, p, u.URL)
			if n := u.Opened(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

type closeCounter struct {
	io.Reader
	closed atomic.Int64
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }

// When the caller's body fails, nothing is sent again.
func TestBrokenRequestBody(t *testing.T) {
	u := newUpstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); ok(w, r) })
	p := newPool(t, u.URL, u.options())
	want(t, p, u.URL)
	broken := errors.New("the caller is gone")
	r := request(t.Context(), t, http.MethodPost, u.URL, io.MultiReader(strings.NewReader("b"), errorReader{broken}))
	r.Header.Set("Idempotency-Key", "k")
	r.GetBody = func() (io.ReadCloser, error) { t.Error("GetBody was called, want the body unread"); return nil, broken }
	if _, err := p.RoundTrip(r); !errors.Is(err, broken) {
		t.Errorf("got %v, want the body's own error", err)
	}
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// An upgraded connection belongs to the caller, and reports its errors.
func TestUpgrade(t *testing.T) {
	target := rawhttp.Requests(t, func(c net.Conn, r *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		b := make([]byte, 4)
		if n, _ := io.ReadFull(c, b); n == 4 {
			_, _ = c.Write(b)
		}
		return false
	})
	p := newPool(t, target, connpool.Options{Limits: defaults()})
	r := request(t.Context(), t, http.MethodGet, target, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body is a %T, want an io.ReadWriteCloser", resp.Body)
	}
	defer func() { _ = c.Close() }()
	p.CloseIdleConnections()
	b := make([]byte, 4)
	if _, err := io.WriteString(c, "ping"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		t.Fatalf("got %q, error %v, want the echo of ping", b, err)
	}
	_, _ = c.Read(b) // the end of the stream
	for range 100 {
		if _, err = io.WriteString(c, "ping"); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("100 writes to a connection that is gone succeeded, want an error")
}

func TestDialErrors(t *testing.T) {
	target := "http://" + rawhttp.FreeAddress(t)
	p := newPool(t, target, connpool.Options{Limits: defaults()})
	var told atomic.Int64
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectDone: func(_, _ string, err error) {
		if err != nil {
			told.Add(1)
		}
	}})
	body := &closeCounter{Reader: strings.NewReader("b")}
	_, err := p.RoundTrip(request(ctx, t, http.MethodPost, target, body))
	if op := new(net.OpError); !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("got %v, want a dial error", err)
	}
	if told.Load() != 1 || body.closed.Load() != 1 {
		t.Errorf("the hook was called %d times and the body closed %d times, want once each", told.Load(), body.closed.Load())
	}
}

// An upgrade uses HTTP/1 even if the upstream prefers HTTP/2.
func TestUpgradeBesideHTTP2(t *testing.T) {
	u := newHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.CopyN(c, buf, 4)
	})
	p := newPool(t, u.URL, u.options())
	if status, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodGet, u.URL, nil))); err != nil || status != http.StatusTeapot {
		t.Fatalf("%d, %v: want HTTP/2", status, err)
	}
	for name, send := range map[string]func(*http.Request) (*http.Response, error){"kept": p.RoundTrip, "fresh": p.RoundTripFresh} {
		t.Run(name, func(t *testing.T) {
			req := request(t.Context(), t, http.MethodGet, u.URL, nil)
			req.Header.Set("Connection", "keep-alive, Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp, err := send(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			wire, ok := resp.Body.(io.ReadWriter)
			if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
				t.Fatalf("got status %d with a %T, want 101 with an io.ReadWriteCloser", resp.StatusCode, resp.Body)
			}
			got := make([]byte, 4)
			if _, err := io.WriteString(wire, "ping"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(wire, got); err != nil || string(got) != "ping" {
				t.Errorf("got %q, error %v, want the echo of ping", got, err)
			}
		})
	}
	p.Close()
	u.WantOpen(t, 0)
}

// A changed wait for a 100 (Continue) counts at once, also though connections are kept. Only a
// request that waits makes another connection.
func TestSetContinueWait(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := pipenet.New()
				var opened conncount.Counter
				stop := network.Serve(t, "upstream:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(2 * time.Second) // longer than the waits, without a 100
					_, _ = io.Copy(io.Discard, r.Body)
					ok(w, r)
				}), func(s *http.Server) {
					s.ConnState = opened.See
					if h2 {
						s.Protocols = new(http.Protocols)
						s.Protocols.SetUnencryptedHTTP2(true)
					}
				})
				limits := defaults()
				limits.MaxAge, limits.HTTP2Ping = 0, 0
				p := connpool.New(&url.URL{Scheme: "http", Host: "upstream"}, connpool.Options{
					Limits: limits, ContinueWait: time.Second, DialContext: network.Dial, PriorKnowledge: h2,
				})
				for _, step := range []struct {
					wait   time.Duration
					opened int64 // connections so far
				}{{time.Second, 1}, {100 * time.Millisecond, 2}, {100 * time.Millisecond, 2}, {500 * time.Millisecond, 3}} {
					p.SetContinueWait(step.wait)
					before := opened.Opened()
					if want(t, p, "http://upstream/"); opened.Opened() > max(1, before) {
						t.Errorf("wait %v: an ordinary request opened a connection", step.wait)
					}
					if got := held(t, p, http.Header{}); got != step.wait || opened.Opened() != step.opened {
						t.Errorf("the body was held for %v, %d connections so far, want %v, %d", got, opened.Opened(), step.wait, step.opened)
					}
				}
				synctest.Wait()
				opened.WantOpen(t, 1)
				p.Close()
				stop()
			})
		})
	}
}

// held sends a request that waits for a 100 (Continue), and returns how long its body was held.
func held(t *testing.T, p *connpool.Pool, header http.Header) time.Duration {
	t.Helper()
	start, began := time.Now(), time.Duration(0)
	r := request(t.Context(), t, http.MethodPost, "http://upstream/", readerFunc(func([]byte) (int, error) {
		began = time.Since(start)
		return 0, io.EOF
	}))
	r.Header = header
	r.Header.Set("Expect", "100-continue")
	if status, _, err := read(p.RoundTrip(r)); err != nil || status != http.StatusOK {
		t.Errorf("got status %d, error %v, want 200", status, err)
	}
	return began
}

// An upgrade beside HTTP/2 used to keep the wait that the pool began with.
func TestSetContinueWaitOfUpgrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		stop := network.Serve(t, "upstream:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(2 * time.Second)
			_, _ = io.Copy(io.Discard, r.Body)
			ok(w, r)
		}))
		p := connpool.New(&url.URL{Scheme: "http", Host: "upstream"}, connpool.Options{
			Limits: defaults(), ContinueWait: time.Second, DialContext: network.Dial, PriorKnowledge: true,
		})
		for _, wait := range []time.Duration{time.Second, 100 * time.Millisecond, 500 * time.Millisecond} {
			p.SetContinueWait(wait)
			if got := held(t, p, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"echo"}}); got != wait {
				t.Errorf("the body was held for %v, want %v", got, wait)
			}
		}
		p.Close()
		stop()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
