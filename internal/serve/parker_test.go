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

const plainRequest = "GET / HTTP/1.1\r\nHost: data\r\n\r\n"

// caller is a caller's connection.
type caller struct {
	net.Conn
	answers *bufio.Reader
}

func (p *program) caller(t *testing.T) *caller {
	t.Helper()
	c, err := p.Dial(t.Context(), "tcp", "data:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &caller{c, bufio.NewReader(c)}
}

func (c *caller) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// answer reads one.
func (c *caller) answer(t *testing.T) answer {
	t.Helper()
	response, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(body), response.Close, err}
}

// end waits for the end of the connection and returns how long that took.
func (c *caller) end() time.Duration {
	start := time.Now()
	_, _ = io.Copy(io.Discard, c.answers)
	return time.Since(start)
}

// However a connection's requests come, each is answered: none is lost between the server and the
// place where the connection waits.
func TestRequestsOnAConnectionThatWaits(t *testing.T) {
	type sent struct {
		after time.Duration
		text  string
	}
	bytewise := []sent{{0, plainRequest}}
	for i := range plainRequest {
		bytewise = append(bytewise, sent{200 * time.Millisecond, plainRequest[i : i+1]})
	}
	for name, all := range map[string][]sent{
		"soon":                     {{0, plainRequest}, {500 * time.Millisecond, plainRequest}},
		"at the limit":             {{0, plainRequest}, {3 * time.Second, plainRequest}, {3 * time.Second, plainRequest}},
		"later":                    {{0, plainRequest}, {4 * time.Second, plainRequest}, {time.Minute, plainRequest}, {119 * time.Second, plainRequest}},
		"the first one late":       {{time.Minute, plainRequest}},
		"byte by byte":             bytewise,
		"pipelined":                {{0, plainRequest}, {time.Minute, plainRequest + plainRequest}, {time.Minute, plainRequest + plainRequest}},
		"first bytes before":       {{0, plainRequest + "G"}, {8 * time.Second, "ET" + plainRequest[3:]}},
		"more first bytes before":  {{0, plainRequest + "GET"}, {8 * time.Second, plainRequest[3:]}},
		"four bytes before":        {{0, plainRequest + "GET "}, {8 * time.Second, plainRequest[4:]}},
		"first bytes late":         {{0, plainRequest}, {4 * time.Second, "G"}, {8 * time.Second, plainRequest[1:]}},
		"first bytes soon":         {{0, plainRequest}, {500 * time.Millisecond, "GE"}, {8 * time.Second, plainRequest[2:]}},
		"four bytes soon":          {{0, plainRequest}, {500 * time.Millisecond, "GET "}, {8 * time.Second, plainRequest[4:]}},
		"first bytes at the limit": {{0, plainRequest}, {2999 * time.Millisecond, "GE"}, {time.Second, plainRequest[2:]}},
		"first bytes during the call": {
			{0, strings.Replace(plainRequest, "/", "/slow", 1)}, {time.Second, "G"}, {8 * time.Second, plainRequest[1:]},
		},
		"after a body": {{0, "POST / HTTP/1.1\r\nHost: data\r\nContent-Length: 2\r\n\r\nab"}, {time.Minute, plainRequest}},
		"pipelined, the end of a body late": {
			{0, plainRequest + "POST / HTTP/1.1\r\nHost: data\r\nContent-Length: 2\r\n\r\na"}, {8 * time.Second, "b"}, {time.Minute, plainRequest},
		},
		"after a body with an empty line": {{0, "POST / HTTP/1.1\r\nHost: data\r\nContent-Length: 2\r\n\r\nab\r\n"}, {time.Minute, plainRequest}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if r.URL.Path == "/slow" {
						time.Sleep(2 * time.Second)
					}
				}), nil)
				c := p.caller(t)
				everything := ""
				for _, s := range all {
					everything += s.text
				}
				go func() {
					for _, s := range all {
						time.Sleep(s.after)
						c.send(t, s.text)
					}
				}()
				for n := strings.Count(everything, "HTTP/1.1"); n > 0; n-- {
					if got, want := c.answer(t), (answer{status: 200}); got != want {
						t.Errorf("got %+v, want %+v; %d to come", got, want, n-1)
					}
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

func TestLimitsOfAConnectionThatWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		after time.Duration // from an answer
		sends string
		end   time.Duration // from then on
	}{
		"idle":                       {0, "", 120 * time.Second},
		"the headers, soon":          {500 * time.Millisecond, plainRequest[:20], 10 * time.Second},
		"the headers, later":         {time.Minute, plainRequest[:20], 10 * time.Second},
		"their first byte, soon":     {500 * time.Millisecond, plainRequest[:1], 10 * time.Second},
		"some of them come together": {0, plainRequest + plainRequest[:20], 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := run(t, text("ok"), nil)
				c := p.caller(t)
				for range 2 { // parked in between
					time.Sleep(time.Minute)
					c.send(t, plainRequest)
					c.answer(t)
				}
				time.Sleep(tc.after)
				c.send(t, tc.sends)
				if got := c.end(); got != tc.end {
					t.Errorf("the connection ended after %s, want %s", got, tc.end)
				}
				p.stop()
				if err := <-p.ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What is no HTTP/1 connection between two requests stays where it is.
func TestOnlyIdleHTTP1IsParked(t *testing.T) {
	pause := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // which takes its time
		time.Sleep(30 * time.Second)
		_, _ = io.WriteString(w, r.Proto)
	}
	t.Run("HTTP/2", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := run(t, http.HandlerFunc(pause), nil)
			dialled := 0
			transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled++
				return p.Dial(ctx, network, addr)
			}}
			transport.Protocols.SetUnencryptedHTTP2(true)
			for range 3 {
				if got, want := get(t.Context(), &http.Client{Transport: transport}, "http://data:1/"), (answer{status: 200, body: "HTTP/2.0"}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
				time.Sleep(50 * time.Second)
			}
			if dialled != 1 {
				t.Errorf("got %d connections, want one for all calls", dialled)
			}
			transport.CloseIdleConnections()
			p.stop()
			if err := <-p.ended; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a body that pauses", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := run(t, http.HandlerFunc(pause), nil)
			c := p.caller(t)
			for range 2 {
				c.send(t, "POST / HTTP/1.1\r\nHost: data\r\nContent-Length: 2\r\n\r\na")
				time.Sleep(time.Minute)
				c.send(t, "b")
				if got, want := c.answer(t), (answer{status: 200, body: "HTTP/1.1"}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
			_ = c.Close()
			p.stop()
			if err := <-p.ended; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a hijacked connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := run(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") == "" {
					return
				}
				conn := hijack(t, w)
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}), nil)
			c := p.caller(t)
			c.send(t, plainRequest)
			c.answer(t)
			time.Sleep(time.Minute)
			c.send(t, "GET / HTTP/1.1\r\nHost: data\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			if line, err := c.answers.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 200") {
				t.Fatal(line, err)
			}
			_, _ = c.answers.ReadString('\n')
			for range 3 {
				time.Sleep(5 * time.Minute)
				c.send(t, "x\n")
				if got, err := c.answers.ReadString('\n'); got != "x\n" {
					t.Errorf("got %q and %v, want an echo", got, err)
				}
			}
			_ = c.Close()
			p.stop()
			if err := <-p.ended; err != nil {
				t.Error(err)
			}
		})
	})
}

// Connections that wait hold no stop, but a request on one of them is served until the listener
// closes.
func TestStopWithConnectionsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				time.Sleep(8 * time.Second)
			}
		}), nil)
		var idle []*caller
		for range 100 {
			c := p.caller(t)
			c.send(t, plainRequest)
			c.answer(t)
			idle = append(idle, c)
		}
		unused := p.caller(t)
		time.Sleep(4 * time.Second)
		begun := time.Now()
		p.stop()
		time.Sleep(delay / 2)
		idle[0].send(t, plainRequest)
		if got, want := idle[0].answer(t), (answer{status: 200, close: true}); got != want {
			t.Errorf("in the drain delay: got %+v, want %+v", got, want)
		}
		time.Sleep(delay/2 - time.Nanosecond)
		idle[1].send(t, strings.Replace(plainRequest, "/", "/slow", 1))
		idle[2].end()
		unused.end()
		if took := time.Since(begun); took != delay {
			t.Errorf("the others ended after %v, want the drain delay of %v", took, delay)
		}
		if got, want := idle[1].answer(t), (answer{status: 200, close: true}); got != want {
			t.Errorf("just before the listener closes: got %+v, want %+v", got, want)
		}
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // without the call
		p := run(t, text("ok"), nil)
		c := p.caller(t)
		c.send(t, plainRequest)
		c.answer(t)
		time.Sleep(time.Minute)
		p.stop()
		p.wait(t, time.Minute+delay)
		c.end()
	})
}

// The wait in net/http's server may be over at the moment at which the listener closes.
func TestNoConnectionParksInAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), nil)
		p.stop()
		time.Sleep(delay - 3*time.Second)
		var all []*caller
		for range 200 {
			c := p.caller(t)
			c.send(t, "GET / HTTP/1.0\r\nHost: data\r\nConnection: keep-alive\r\nUpgrade: x\r\n\r\n")
			c.answer(t)
			all = append(all, c)
		}
		for _, c := range all {
			if c.end(); time.Since(p.start) > delay {
				t.Fatalf("a connection ended after %v, want all to end at %v", time.Since(p.start), delay)
			}
		}
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
	})
}

// A failed listener takes no new connections, and the program stops. Those that wait are served
// until then.
func TestFailedListenerWithAConnectionThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := run(t, text("ok"), nil)
		c := p.caller(t)
		c.send(t, plainRequest)
		c.answer(t)
		time.Sleep(time.Minute)
		p.listeners["data:1"].Close()
		time.Sleep(delay / 2)
		c.send(t, plainRequest)
		if got, want := c.answer(t), (answer{200, "ok", true, nil}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := <-p.ended; !errors.Is(err, net.ErrClosed) || strings.Count(err.Error(), "serving") != 1 {
			t.Errorf("Run returned %v, want one net.ErrClosed", err)
		}
	})
}

// Parked connections hold little memory, and all of them answer again.
func TestParkedConnectionsAreSmall(t *testing.T) {
	const connections = 1000
	const most = 12 << 10 // with both ends and race detection; in the server it is 19 KB
	opened, addr, err := serve.Open(t.Context(), serve.Listener{Name: "data", Addr: "127.0.0.1:0", Handler: text("ok")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, serve.Config{Data: []serve.Listener{opened}, DrainTimeout: within(timeout)}, nil, nil)
	}()
	before := inUse()
	var callers []*caller
	for range connections {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		callers = append(callers, &caller{c, bufio.NewReaderSize(c, 16)})
	}
	all := func() {
		for _, c := range callers {
			c.send(t, plainRequest)
			if got, want := c.answer(t), (answer{status: 200, body: "ok"}); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
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
