package serve_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/serve"
)

const (
	delay   = 5 * time.Second
	timeout = 20 * time.Second
)

// program is a Run inside a synctest bubble.
type program struct {
	*network
	log   logs
	start time.Time
	ready *serve.Readiness
	stop  context.CancelFunc
	ended chan error
}

// run starts a program with one data listener, "data:1", and one admin listener, "admin:1".
func run(t *testing.T, handler http.Handler, change func(*serve.Config)) *program {
	t.Helper()
	p := &program{network: newNetwork(), start: time.Now(), ready: serve.NewReadiness(), ended: make(chan error, 1)}
	admin := http.NewServeMux()
	admin.Handle("GET /livez", p.ready.Livez())
	admin.Handle("GET /readyz", p.ready.Readyz())
	c := serve.Config{
		Data:         []serve.Listener{{Name: "data", Addr: "data:1", Handler: handler}},
		Admin:        []serve.Listener{{Name: "admin", Addr: "admin:1", Handler: admin}},
		DrainDelay:   delay,
		DrainTimeout: within(timeout),
		Logger:       p.log.logger(p.start),
		Listen:       p.Listen,
	}
	if change != nil {
		change(&c)
	}
	ctx, stop := context.WithCancel(t.Context())
	p.stop = stop
	listening := make(chan struct{})
	go func() { p.ended <- serve.Run(ctx, c, p.ready, func(map[string]net.Addr) { close(listening) }) }()
	select {
	case <-listening:
	case err := <-p.ended:
		t.Fatalf("Run returned %v before it listened", err)
	}
	return p
}

// wait waits for Run to return, and checks when it did and that the error is nil.
func (p *program) wait(t *testing.T, at time.Duration) {
	t.Helper()
	err := <-p.ended
	if took := time.Since(p.start); err != nil || took != at {
		t.Errorf("Run returned %v after %s, want nil after %s; its log:\n%s", err, took, at, &p.log)
	}
}

// until sleeps until the given time since the start.
func (p *program) until(at time.Duration) { time.Sleep(at - time.Since(p.start)) }

// TestStopOrder checks the whole order: stop at 0s, drain delay until 5s, the call in flight until
// 12s, flush until 13s.
func TestStopOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mux := http.NewServeMux()
		mux.Handle("/quick", text("quick"))
		mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(12 * time.Second):
				_, _ = io.WriteString(w, "whole")
			case <-r.Context().Done():
			}
		})
		flushed := time.Duration(0)
		start := time.Now()
		p := run(t, mux, func(c *serve.Config) {
			c.FlushTimeout = 3 * time.Second
			c.Flush = func(ctx context.Context) error {
				flushed = time.Since(start)
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 3*time.Second {
					t.Errorf("got deadline %v for Flush (set: %t), want 3s from now", deadline, ok)
				}
				time.Sleep(time.Second)
				return ctx.Err()
			}
		})
		client, probe := p.client(t), p.client(t)
		expect := func(what string, got, want answer) {
			t.Helper()
			if got.err != nil && errors.Is(got.err, want.err) {
				got.err, want.err = nil, nil
			}
			if got != want {
				t.Errorf("%s after %s: got %+v, want %+v", what, time.Since(p.start), got, want)
			}
		}

		slow := make(chan answer, 1)
		go func() { slow <- get(t.Context(), client, "http://data:1/slow") }()
		synctest.Wait()
		expect("readiness", get(t.Context(), probe, "http://admin:1/readyz"), answer{200, "ok\n", false, nil})
		expect("a call", get(t.Context(), client, "http://data:1/quick"), answer{200, "quick", false, nil})

		p.stop()
		synctest.Wait()
		expect("readiness", get(t.Context(), probe, "http://admin:1/readyz"), answer{503, "not ready: draining\n", false, nil})
		p.until(4 * time.Second)
		expect("a call in the drain delay", get(t.Context(), client, "http://data:1/quick"), answer{200, "quick", true, nil})
		p.until(6 * time.Second)
		expect("a call after it", get(t.Context(), client, "http://data:1/quick"), answer{err: syscall.ECONNREFUSED})
		expect("readiness", get(t.Context(), probe, "http://admin:1/readyz"), answer{503, "not ready: draining\n", false, nil})
		expect("liveness", get(t.Context(), probe, "http://admin:1/livez"), answer{200, "ok\n", false, nil})
		expect("the call in flight", <-slow, answer{200, "whole", true, nil})
		if at := time.Since(p.start); at != 12*time.Second {
			t.Errorf("the call in flight took %s, want 12s", at)
		}

		err := <-p.ended
		took := time.Since(p.start)
		// net/http checks for idle connections at intervals of up to half a second.
		if err != nil || flushed < 12*time.Second || flushed > 13*time.Second || took != flushed+time.Second {
			t.Errorf("Run returned %v after %s, Flush was called at %s; want nil, one second after Flush, which follows the call at 12s", err, took, flushed)
		}
		var steps []string
		for line := range strings.Lines(p.log.String()) {
			_, line, _ = strings.Cut(line, "msg=")
			line, _, _ = strings.Cut(line, " after=")
			steps = append(steps, strings.TrimSpace(line))
		}
		want := []string{
			`listening listener=data addr=data:1`,
			`listening listener=admin addr=admin:1`,
			`"not ready any more" drain_delay=5s`,
			`draining drain_timeout=20s`,
			`drained listener=data`,
			`closed listener=admin`,
			`"telemetry flushed"`,
		}
		if got := strings.Join(steps, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("got log\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	})
}

// A connection in a client's pool must survive the drain delay, or the next request on it is lost.
func TestPooledConnectionOutlivesDrainDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), nil)
		conn, err := p.Dial(t.Context(), "tcp", "data:1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		call := func(headers string) *http.Response {
			t.Helper()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n"); err != nil {
				t.Fatalf("after %s: %v", time.Since(p.start), err)
			}
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatalf("after %s: %v", time.Since(p.start), err)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			return response
		}
		if call("").Close {
			t.Error("got Connection: close before the stop, want none")
		}
		p.stop()
		p.until(4 * time.Second)
		if call("Connection: Upgrade\r\nUpgrade: websocket\r\n").Close {
			t.Error("got Connection: close for an upgrade, want none: the upgrade cannot succeed with it")
		}
		if !call("").Close {
			t.Error("got no Connection: close in the drain delay, want one")
		}
		p.wait(t, delay)
	})
}

func TestDrainTimeoutCuts(t *testing.T) {
	stream := func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
	}
	release := func(t *testing.T) chan struct{} {
		c := make(chan struct{})
		t.Cleanup(func() { close(c) })
		return c
	}
	for name, tc := range map[string]struct {
		handler func(*testing.T) http.HandlerFunc
		end     time.Duration
		log     string
	}{
		"stream_that_watches_its_context": {
			handler: func(*testing.T) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) { stream(w); <-r.Context().Done() }
			},
			end: delay + timeout,
			log: `level=WARN msg="calls cut at the drain timeout" listener=data calls=1 after=25s`,
		},
		"handler_that_ignores_its_context": {
			handler: func(t *testing.T) http.HandlerFunc {
				never := release(t)
				return func(w http.ResponseWriter, _ *http.Request) { stream(w); <-never }
			},
			end: delay + timeout + time.Second, // the grace period for handlers
			log: `level=WARN msg="calls cut at the drain timeout" listener=data calls=1 after=26s`,
		},
		"hijacked_that_watches_its_context": {
			handler: func(t *testing.T) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					conn := hijack(t, w)
					<-r.Context().Done()
					conn.Close()
				}
			},
			end: delay + timeout,
			log: `level=WARN msg="calls cut at the drain timeout" listener=data calls=1 after=25s`,
		},
		"hijacked_that_ends_by_itself": {
			handler: func(t *testing.T) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) {
					conn := hijack(t, w)
					time.Sleep(8 * time.Second)
					conn.Close()
				}
			},
			end: 8 * time.Second,
			log: `level=INFO msg=drained listener=data after=8s`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, tc.handler(t), nil)
				conn, err := p.Dial(t.Context(), "tcp", "data:1")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				received := make(chan string, 1)
				go func() {
					all, _ := io.ReadAll(conn)
					if at := time.Since(p.start); at != tc.end {
						t.Errorf("the connection ended after %s, want %s", at, tc.end)
					}
					received <- string(all)
				}()
				synctest.Wait()
				p.stop()
				p.wait(t, tc.end)
				if got := <-received; !strings.HasPrefix(got, "HTTP/1.1 200 OK") {
					t.Errorf("received %q, want a 200 response", got)
				}
				if !strings.Contains(p.log.String(), tc.log) {
					t.Errorf("got log\n%s\nwant it to contain %s", &p.log, tc.log)
				}
			})
		})
	}
}

func hijack(t *testing.T, w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return nil
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	return conn
}

// An open page on the admin port must not delay the end.
func TestAdminStreamEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), func(c *serve.Config) {
			c.Admin[0].Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})
		})
		page := make(chan answer, 1)
		go func() { page <- get(t.Context(), p.client(t), "http://admin:1/") }()
		synctest.Wait()
		p.stop()
		if got := <-page; got.status != 200 || time.Since(p.start) != delay {
			t.Errorf("got %+v after %s, want the page to end after %s", got, time.Since(p.start), delay)
		}
		if err := <-p.ended; err != nil || time.Since(p.start) > delay+time.Second {
			t.Errorf("Run returned %v after %s, want nil after at most %s", err, time.Since(p.start), delay+time.Second)
		}
	})
}

// If one process has a gateway and its upstream, the upstream stops last: calls in flight still
// need it.
func TestDataListenersDrainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *program
		p = run(t, nil, func(c *serve.Config) {
			front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				_, _ = io.WriteString(w, "via "+get(r.Context(), p.client(t), "http://back:1/").body)
			})
			c.Data = []serve.Listener{
				{Name: "front", Addr: "front:1", Handler: front},
				{Name: "back", Addr: "back:1", Handler: text("back")},
			}
		})
		got := make(chan answer, 1)
		go func() { got <- get(t.Context(), p.client(t), "http://front:1/") }()
		synctest.Wait()
		p.stop()
		if a := <-got; a.body != "via back" {
			t.Errorf("got %+v, want body \"via back\"", a)
		}
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	})
}

// A client may dial a connection for a call and then use another one. The server waits for a
// request on the unused connection, which delayed the end of the next listener by five seconds.
func TestSpareConnectionsDoNotHoldUpTheNextListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *program
		var spare net.Conn
		p = run(t, nil, func(c *serve.Config) {
			front := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				var err error
				if spare, err = p.Dial(r.Context(), "tcp", "back:1"); err != nil {
					t.Error(err)
				}
			})
			c.Data = []serve.Listener{
				{Name: "front", Addr: "front:1", Handler: front, Drained: func() {
					if got := get(t.Context(), p.client(t), "http://front:1/"); !errors.Is(got.err, syscall.ECONNREFUSED) {
						t.Errorf("the drained listener: got %+v, want connection refused", got)
					}
					if got := get(t.Context(), p.client(t), "http://back:1/"); got.body != "back" {
						t.Errorf("the next listener: got %+v, want body back", got)
					}
					_ = spare.Close()
				}},
				{Name: "back", Addr: "back:1", Handler: text("back")},
			}
		})
		go get(t.Context(), p.client(t), "http://front:1/")
		synctest.Wait()
		p.stop()
		// net/http checks for idle connections at intervals of up to half a second.
		if err := <-p.ended; err != nil || time.Since(p.start) > 11*time.Second {
			t.Errorf("Run returned %v after %s, want nil right after the call, which takes 10s", err, time.Since(p.start))
		}
	})
}

func TestFlush(t *testing.T) {
	for name, tc := range map[string]struct {
		flush func(ctx context.Context, never chan struct{}) error
		end   time.Duration
		log   string
	}{
		"fails": {
			flush: func(context.Context, chan struct{}) error { return errors.New("collector is away") },
			end:   delay,
			log:   `level=WARN msg="telemetry was not flushed" error="collector is away" after=5s`,
		},
		"takes_too_long": {
			flush: func(ctx context.Context, _ chan struct{}) error { <-ctx.Done(); return ctx.Err() },
			end:   delay + 3*time.Second,
			log:   `level=WARN msg="telemetry was not flushed"`,
		},
		"ignores_its_context": {
			flush: func(_ context.Context, never chan struct{}) error { <-never; return nil },
			end:   delay + 3*time.Second,
			log:   `level=WARN msg="telemetry was not flushed" error="not done within 3s: context deadline exceeded" after=8s`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				never := make(chan struct{})
				defer close(never)
				p := run(t, text("ok"), func(c *serve.Config) {
					c.FlushTimeout = 3 * time.Second
					c.Flush = func(ctx context.Context) error { return tc.flush(ctx, never) }
				})
				p.stop()
				p.wait(t, tc.end)
				if !strings.Contains(p.log.String(), tc.log) {
					t.Errorf("got log\n%s\nwant it to contain %s", &p.log, tc.log)
				}
			})
		})
	}
}

func TestFailedServerStopsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), nil)
		p.listeners["data:1"].Close()
		synctest.Wait()
		if got := get(t.Context(), p.client(t), "http://admin:1/readyz"); got.status != 503 {
			t.Errorf("got readiness %+v after the data listener failed, want 503", got)
		}
		err := <-p.ended
		if !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "serving data:1 (data): ") {
			t.Errorf("Run returned %v, want net.ErrClosed with the listener's name", err)
		}
		if got := get(t.Context(), p.client(t), "http://admin:1/readyz"); !errors.Is(got.err, syscall.ECONNREFUSED) {
			t.Errorf("the admin listener after the end: got %+v, want connection refused", got)
		}
	})
}

// A stop requested before the start is not an error.
func TestEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		flushed := false
		err := serve.Run(ctx, serve.Config{
			Data:         []serve.Listener{{Name: "data", Addr: "127.0.0.1:0", Handler: text("ok")}},
			DrainTimeout: within(timeout),
			Flush:        func(ctx context.Context) error { flushed = true; return ctx.Err() },
			FlushTimeout: time.Second,
		}, nil, nil)
		if err != nil || !flushed {
			t.Errorf("got error %v, flushed %t; want nil, true", err, flushed)
		}
	})
}

// What a connection has sent decides how long it may be silent.
func TestSilentConnectionsEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		sends string
		after time.Duration
	}{
		"in the headers": {"GET / HTTP/1.1\r\nHost", 10 * time.Second},
		"before them":    {"", 120 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, text("ok"), nil)
				conn, err := p.Dial(t.Context(), "tcp", "data:1")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, tc.sends); err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, conn)
				if at := time.Since(p.start); at != tc.after {
					t.Errorf("the connection ended after %s, want %s", at, tc.after)
				}
				p.stop()
				if err := <-p.ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLargeHeadersAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), nil)
		for size, want := range map[int]int{120 << 10: 200, 150 << 10: 431} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://data:1/", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-Large", strings.Repeat("x", size))
			response, err := p.client(t).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%d bytes of headers: got %d, want %d", size, response.StatusCode, want)
			}
		}
		p.stop()
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	})
}

func TestPanicOfAHandlerIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }), nil)
		if got := get(t.Context(), p.client(t), "http://data:1/"); got.err == nil {
			t.Errorf("got %+v, want an error", got)
		}
		p.stop()
		p.wait(t, delay) // a call that panicked no longer counts as in flight
		if log := p.log.String(); !strings.Contains(log, "level=WARN") || !strings.Contains(log, "panic serving") || !strings.Contains(log, "listener=data") {
			t.Errorf("got log\n%s\nwant a warning with the panic", log)
		}
	})
}

func TestBadConfig(t *testing.T) {
	one := []serve.Listener{{Name: "data", Addr: "127.0.0.1:0", Handler: text("ok")}}
	flush := func(context.Context) error { return nil }
	for name, tc := range map[string]struct {
		config serve.Config
		want   string
	}{
		"no_listener":      {serve.Config{DrainTimeout: within(1)}, "serving: expected at least one listener"},
		"no_name":          {serve.Config{Data: []serve.Listener{{Addr: ":1", Handler: text("")}}, DrainTimeout: within(1)}, "serving :1: expected a name for the listener"},
		"no_handler":       {serve.Config{Data: []serve.Listener{{Name: "data", Addr: ":1"}}, DrainTimeout: within(1)}, "serving :1 (data): expected a handler, got none"},
		"same_name":        {serve.Config{Data: one, Admin: one, DrainTimeout: within(1)}, "serving: expected one listener named data, got two"},
		"negative_delay":   {serve.Config{Data: one, DrainDelay: -1, DrainTimeout: within(1)}, "serving: expected a drain delay of 0s or more, got -1ns"},
		"no_drain_timeout": {serve.Config{Data: one}, "serving: expected a drain timeout, got none"},
		"no_flush_timeout": {serve.Config{Data: one, DrainTimeout: within(1), Flush: flush}, "serving: expected a flush timeout above 0s, got 0s"},
		"bad_address": {
			serve.Config{Data: []serve.Listener{{Name: "data", Addr: "nonsense", Handler: text("")}}, DrainTimeout: within(1)},
			"listen on nonsense (data): address nonsense: missing port in address",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ready := serve.NewReadiness()
			err := serve.Run(t.Context(), tc.config, ready, func(map[string]net.Addr) { t.Error("onListen was called, want an error first") })
			if err == nil || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			if ready.State() != serve.Starting {
				t.Errorf("got readiness %s, want starting", ready.State())
			}
		})
	}
}

// net/http answers 400 if the header timeout of a new connection passes within the first bytes of a
// request, and closes the connection if it passes before. The caller has done nothing wrong: it
// opened the connection in advance, and may expect to use it as long as one that it has used.
func TestFirstRequestOnAnOldConnection(t *testing.T) {
	for name, tc := range map[string]struct{ beforeFirst, beforeRest time.Duration }{
		"at once": {9900 * time.Millisecond, 0}, "at the timeout": {9900 * time.Millisecond, 200 * time.Millisecond},
		"later": {9900 * time.Millisecond, 9 * time.Second}, "after the timeout": {30 * time.Second, 0},
		"before the idle timeout": {119 * time.Second, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, text("ok"), nil)
				c, err := p.Dial(t.Context(), "tcp", "data:1")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				time.Sleep(tc.beforeFirst)
				for _, part := range []string{"GET / HTTP/1.1", "\r\nHost: data\r\n\r\n"} {
					if _, err := io.WriteString(c, part); err != nil {
						t.Fatal(err)
					}
					time.Sleep(tc.beforeRest)
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("got status %d, want 200", resp.StatusCode)
				}
				_ = c.Close()
				p.stop()
				if err := <-p.ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
