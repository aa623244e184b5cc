package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// longer is more than a connection waits in the server.
const longer = 5 * time.Second

const request = "POST /%d HTTP/1.1\r\nHost: data\r\nContent-Length: 4\r\n\r\nbody"

// echo answers with the path and the body.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	_, _ = fmt.Fprint(w, r.URL.Path, " ", string(body))
}

// talk is a connection of a caller.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, p *program) talk {
	t.Helper()
	c, err := p.Dial(t.Context(), "tcp", "data:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return talk{c, bufio.NewReader(c)}
}

// answer reads the answer of echo to request n.
func (c talk) answer(t *testing.T, n int) {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("request %d: %v", n, err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if want := fmt.Sprintf("/%d body", n); resp.StatusCode != http.StatusOK || string(body) != want || err != nil {
		t.Fatalf("got %d %q and error %v, want 200 %q", resp.StatusCode, body, err, want)
	}
}

// A connection that waits for a request leaves the server, and nobody notices.
func TestParkedConnection(t *testing.T) {
	for name, tc := range map[string]struct {
		pause time.Duration // between the bytes of a request
		send  func(n int) []string
		waits func(n int) time.Duration // before request n; nil means that it is parked
	}{
		"whole requests":    {send: func(n int) []string { return []string{fmt.Sprintf(request, n)} }},
		"byte by byte":      {send: func(n int) []string { return strings.Split(fmt.Sprintf(request, n), "") }},
		"slowly":            {pause: 50 * time.Millisecond, send: func(n int) []string { return strings.Split(fmt.Sprintf(request, n), "") }},
		"after the first":   {pause: 4 * time.Second, send: func(n int) []string { s := fmt.Sprintf(request, n); return []string{s[:1], s[1:]} }},
		"after the third":   {pause: 4 * time.Second, send: func(n int) []string { s := fmt.Sprintf(request, n); return []string{s[:3], s[3:]} }},
		"within the header": {pause: 4 * time.Second, send: func(n int) []string { s := fmt.Sprintf(request, n); return []string{s[:30], s[30:]} }},
		"body late": {pause: 30 * time.Second, send: func(n int) []string {
			s := fmt.Sprintf(request, n)
			return []string{s[:len(s)-4], s[len(s)-4:]}
		}},
		"after the third, not parked": {
			pause: 4 * time.Second,
			send:  func(n int) []string { s := fmt.Sprintf(request, n); return []string{s[:3], s[3:]} },
			waits: func(int) time.Duration { return 100 * time.Millisecond },
		},
		"now and then in use": {
			send:  func(n int) []string { return []string{fmt.Sprintf(request, n)} },
			waits: func(n int) time.Duration { return time.Duration(n%3) * 2 * time.Second },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, http.HandlerFunc(echo), nil)
				c := dial(t, p)
				for n := range 8 {
					if tc.waits == nil {
						time.Sleep(longer)
					} else {
						time.Sleep(tc.waits(n))
					}
					for _, part := range tc.send(n) {
						if _, err := io.WriteString(c, part); err != nil {
							t.Fatalf("request %d: %v", n, err)
						}
						time.Sleep(tc.pause)
					}
					c.answer(t, n)
				}
				p.start = time.Now()
				p.stop()
				p.wait(t, delay)
			})
		})
	}
}

// The server may have read the next request, or its first bytes, when it waits for it. Nothing of
// it may look like the wait of an idle connection, or be lost.
func TestPipelinedRequestsAreNotParked(t *testing.T) {
	whole := 2 * len(fmt.Sprintf(request, 1))
	for name, first := range map[string]int{
		"whole": whole, "the end of the second body comes late": whole - 2,
		"one byte of the second comes early": whole/2 + 1, "three bytes of it": whole/2 + 3, "its first line": whole/2 + 20,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(longer)
					echo(w, r)
				}), nil)
				c := dial(t, p)
				for round := range 3 {
					both := fmt.Sprintf(request, 2*round) + fmt.Sprintf(request, 2*round+1)
					go func() {
						for _, part := range []string{both[:first], both[first:]} {
							if _, err := io.WriteString(c, part); err != nil {
								t.Error(err)
							}
							if len(part) == first && first < whole {
								time.Sleep(longer + 4*time.Second)
							}
						}
					}()
					for n := range 2 {
						c.answer(t, 2*round+n)
					}
					time.Sleep(longer)
				}
				p.start = time.Now()
				p.stop()
				p.wait(t, delay)
			})
		})
	}
}

func TestParkedConnectionEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		do func(p *program, c talk)
		at time.Duration // from the answer to the end
	}{
		"at the idle timeout": {func(*program, talk) { time.Sleep(2 * time.Minute) }, 2 * time.Minute},
		"when the server stops": {func(p *program, _ talk) {
			time.Sleep(longer)
			p.stop()
		}, longer + delay},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, http.HandlerFunc(echo), nil)
				c := dial(t, p)
				if _, err := fmt.Fprintf(c, request, 1); err != nil {
					t.Fatal(err)
				}
				c.answer(t, 1)
				start := time.Now()
				go tc.do(p, c)
				if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) || time.Since(start) != tc.at {
					t.Errorf("got error %v after %v, want %v after %v", err, time.Since(start), io.EOF, tc.at)
				}
				p.stop()
				if err := <-p.ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// During the drain delay a parked connection is served as any other, and asked to close.
func TestParkedConnectionIsServedInTheDrainDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, http.HandlerFunc(echo), nil)
		c := dial(t, p)
		if _, err := fmt.Fprintf(c, request, 1); err != nil {
			t.Fatal(err)
		}
		c.answer(t, 1)
		time.Sleep(longer)
		p.start = time.Now()
		p.stop()
		p.until(4 * time.Second)
		if _, err := fmt.Fprintf(c, request, 2); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if !resp.Close {
			t.Error("got no Connection: close in the drain delay, want one")
		}
		p.wait(t, delay)
	})
}

// The frames of HTTP/2 need no request, and another request may be in flight.
func TestHTTP2ConnectionIsNotParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, http.HandlerFunc(echo), nil)
		var dials int
		transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			c, err := p.Dial(ctx, network, addr)
			time.Sleep(longer) // until its first byte, nobody knows that it is HTTP/2
			return c, err
		}}
		transport.Protocols.SetUnencryptedHTTP2(true)
		for range 3 {
			if got := get(t.Context(), &http.Client{Transport: transport}, "http://data:1/7"); got.body != "/7 " {
				t.Errorf("got %+v, want /7", got)
			}
			time.Sleep(longer)
		}
		if dials != 1 {
			t.Errorf("%d connections, want 1", dials)
		}
		transport.CloseIdleConnections()
		p.stop()
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	})
}

// Parked connections hold little memory, and all of them answer again.
func TestParkedConnectionsAreSmall(t *testing.T) {
	const connections, most = 1000, 8 << 10
	opened, addr, err := serve.Open(t.Context(), serve.Listener{Name: "data", Addr: "127.0.0.1:0", Handler: http.HandlerFunc(echo)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, serve.Config{Data: []serve.Listener{opened}, DrainTimeout: within(timeout)}, nil, nil)
	}()
	before := inUse()
	var callers []talk
	for range connections {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		callers = append(callers, talk{c, bufio.NewReaderSize(c, 16)})
	}
	all := func() {
		for n, c := range callers {
			if _, err := fmt.Fprintf(c, request, n); err != nil {
				t.Fatal(err)
			}
			c.answer(t, n)
		}
	}
	all()
	wait.UntilSeen(t, 20*time.Second, "parked connections in little memory", func() (bool, string) {
		each := (inUse() - before) / connections
		return each <= most, fmt.Sprintf("%d bytes for each, want at most %d", each, most)
	})
	all()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// inUse returns the bytes of the heap and the stacks in use.
func inUse() int {
	runtime.GC()
	runtime.GC() // empties the pools of buffers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}
