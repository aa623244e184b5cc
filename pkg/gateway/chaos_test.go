package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// chaosFlags defines the flags of the chaos tests. Each run logs its seed. A long run is
//
//	go test ./pkg/gateway -run Chaos -chaos 60s
func chaosFlags() (length *time.Duration, seed *uint64) {
	return flag.Duration("chaos", 3*time.Second, "how long TestChaosCallersOpenNothing runs"),
		flag.Uint64("chaos-seed", 0, "seed of the chaos tests; 0 picks a new one")
}

var chaosLength, chaosSeed = chaosFlags() //nolint:gochecknoglobals // flags must be defined before the tests run

// chaosUpstream is healthy: it answers below 500 or with 501, well within the attempt timeout.
func chaosUpstream(w http.ResponseWriter, r *http.Request) {
	rng := rand.New(rand.NewPCG(uint64(len(r.URL.Path)), uint64(time.Now().UnixNano())))
	switch {
	case r.Header.Get("Upgrade") != "":
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.CopyN(conn, buf, 4)
	case strings.Contains(r.URL.Path, "slow"):
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	case strings.Contains(r.URL.Path, "early"): // answers before it reads the upload, and closes the connection
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case strings.Contains(r.URL.Path, "big"):
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second)) // it gives up on slow readers
		for range 64 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	case strings.Contains(r.URL.Path, "events"):
		w.Header().Set("Content-Type", "text/event-stream")
		for range rng.IntN(5) {
			_, _ = io.WriteString(w, "data: x\n\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	case strings.Contains(r.URL.Path, "status"):
		w.WriteHeader([]int{200, 204, 301, 304, 400, 401, 403, 404, 409, 410, 418, 422, 429, 451, 501}[rng.IntN(15)])
	case strings.Contains(r.URL.Path, "ignore"): // it ignores the request body
		_, _ = io.WriteString(w, "ok")
	default:
		w.Header().Set("Trailer", "X-Sum")
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Sum", strconv.FormatInt(n, 10))
		_, _ = io.WriteString(w, "ok")
	}
}

// pick returns a random element of list.
func pick[T any](rng *rand.Rand, list ...T) T { return list[rng.IntN(len(list))] }

// chaosHead returns a random request line and header. length is the body's length in bytes, -1 for
// a chunked body, -2 for no body.
func chaosHead(rng *rand.Rand, length int) string {
	var b strings.Builder
	method := pick(rng, "GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "M-SEARCH", "get", "A|B", "TRACE")
	if length != -2 {
		method = pick(rng, "POST", "PUT", "PUT", "PATCH", "GET", "DELETE")
	}
	fmt.Fprintf(&b, "%s /%s%s HTTP/1.%d\r\n", method,
		pick(rng, "", "slow", "early", "big", "events", "status", "ignore", "a%2Fb|c", "%7e/{x}", "..%2e/x", "x?y=%zz&q={}"),
		pick(rng, "", "", "?q=1"), pick(rng, 1, 1, 1, 1, 0))
	fmt.Fprintf(&b, "Host: %s\r\n", pick(rng, "example.com", "UPPER:80", "x.", "[::1]:5", "a_b"))
	for range rng.IntN(4) {
		b.WriteString(pick(rng,
			"X-Envoy-Expected-Rq-Timeout-Ms: "+strconv.Itoa(rng.IntN(1500))+"\r\n",
			"X-Attempt-Count: "+pick(rng, "1", "2", "-1", "x", "99999999999999999999")+"\r\n",
			"Trailer: "+pick(rng, "X-Sum", "Bad Name", "Content-Length", "", "X,,Y")+"\r\n",
			"TE: trailers\r\n", "Connection: "+pick(rng, "close", "keep-alive", "x-thing, upgrade", "te")+"\r\n",
			"Expect: 100-continue\r\n", "Idempotency-Key: k\r\n", "Cookie: "+strings.Repeat("c", rng.IntN(6000))+"\r\n",
			"X-Odd: \t caf\xe9 \r\n", "Accept: text/event-stream\r\n", "Range: bytes=0-1\r\n", "Transfer-Encoding: identity\r\n",
			"Content-Type: application/grpc\r\n", "Max-Forwards: 0\r\n", "Via: 1.1 somewhere\r\n", "Forwarded: for=x\r\n",
		))
	}
	if rng.IntN(20) == 0 {
		b.WriteString("Connection: Upgrade\r\nUpgrade: " + pick(rng, "websocket", "other", "h2c") + "\r\n")
	}
	switch length {
	case -2:
	case -1:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	return b.String() + "\r\n"
}

// chaosBody sends the body that chaosHead announced. Some bodies are cut short or malformed.
func chaosBody(rng *rand.Rand, conn io.Writer, length int) error {
	switch length {
	case -2:
		return nil
	case -1:
		for range rng.IntN(6) {
			if err := chaosPause(rng, conn); err != nil {
				return err
			}
			size := 1 + rng.IntN(20<<10)
			if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", size, strings.Repeat("b", size)); err != nil {
				return err
			}
		}
		end := pick(rng, "0\r\n\r\n", "0\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "0\r\nBad Name: 1\r\n\r\n", "zz\r\n", "")
		_, err := io.WriteString(conn, end)
		return err
	}
	sent := length
	if rng.IntN(4) == 0 {
		sent = rng.IntN(length + 1)
	}
	for sent > 0 {
		if err := chaosPause(rng, conn); err != nil {
			return err
		}
		n := min(sent, 1+rng.IntN(100<<10))
		if _, err := conn.Write(make([]byte, n)); err != nil {
			return err
		}
		sent -= n
	}
	return nil
}

func chaosPause(rng *rand.Rand, _ io.Writer) error {
	if rng.IntN(8) == 0 {
		time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond)
	}
	return nil
}

// chaosRaw sends one random request over HTTP/1. It reads the answer to its end, after a pause, or
// not at all.
func chaosRaw(ctx context.Context, rng *rand.Rand, addr string) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(8 * time.Second)) // a call takes 5 s at most
	if rng.IntN(6) == 0 {                                 // hang up, with or without a reset
		if tcp, ok := conn.(*net.TCPConn); ok && rng.IntN(2) == 0 {
			_ = tcp.SetLinger(0)
		}
		defer time.AfterFunc(time.Duration(rng.IntN(1400))*time.Millisecond, func() { _ = conn.Close() }).Stop()
	}
	length := pick(rng, -2, -2, -2, -1, 0, 1+rng.IntN(100), rng.IntN(2<<20))
	if _, err := io.WriteString(conn, chaosHead(rng, length)); err != nil {
		return
	}
	uploaded := make(chan struct{})
	uploads := rand.New(rand.NewPCG(rng.Uint64(), 1)) // rand.Rand is not safe for concurrent use
	go func() {
		defer close(uploaded)
		_ = chaosBody(uploads, conn, length)
		if tcp, ok := conn.(*net.TCPConn); ok && length == -1 {
			_ = tcp.CloseWrite()
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		switch rng.IntN(6) {
		case 0: // pause before reading
			time.Sleep(1500 * time.Millisecond)
			fallthrough
		default:
			_, _ = io.Copy(io.Discard, resp.Body)
		case 1: // leave without reading
		}
		_ = resp.Body.Close()
	}
	_ = conn.Close()
	<-uploaded
}

// chaosH2 sends one random request over HTTP/2.
func chaosH2(ctx context.Context, rng *rand.Rand, client *http.Client, base string) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(50+rng.IntN(6000))*time.Millisecond)
	defer cancel()
	var body io.Reader
	if rng.IntN(2) == 0 {
		body = io.MultiReader(strings.NewReader(strings.Repeat("b", rng.IntN(100<<10))), chaosReader{rng.IntN(3) == 0})
	}
	r, err := http.NewRequestWithContext(ctx, pick(rng, "GET", "PUT", "POST", "DELETE", "HEAD"), base+"/"+pick(rng, "", "slow", "early", "big", "events", "status", "ignore"), body)
	if err != nil {
		return
	}
	if rng.IntN(3) == 0 {
		r.Header.Set("X-Envoy-Expected-Rq-Timeout-Ms", strconv.Itoa(rng.IntN(1500)))
	}
	resp, err := client.Do(r)
	if err != nil {
		return
	}
	if rng.IntN(4) > 0 {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	_ = resp.Body.Close()
}

// chaosReader ends a request body: with io.EOF, or with an error if broken.
type chaosReader struct{ broken bool }

func (c chaosReader) Read([]byte) (int, error) {
	if c.broken {
		return 0, io.ErrClosedPipe
	}
	return 0, io.EOF
}

// chaosGateway serves a gateway on loopback that speaks HTTP/1 and h2c. It counts the calls that
// are in flight and those that have ended.
func chaosGateway(t *testing.T, upstream string, next http.RoundTripper, observer observe.Observer) (g *gateway.Gateway, addr string, inFlight *atomic.Int64, ended *atomic.Int64) {
	t.Helper()
	inFlight, ended = new(atomic.Int64), new(atomic.Int64)
	g, err := gateway.New(gateway.ForUpstream(upstream), gateway.Options{
		Next:      next,
		Observers: []observe.Observer{observer, observe.Funcs{Call: func(context.Context, observe.Call) { ended.Add(1) }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := rawhttp.Listen(t)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inFlight.Add(1)
			defer inFlight.Add(-1)
			g.ServeHTTP(w, r)
		}),
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		serving.Wait()
		g.Close()
	})
	return g, l.Addr().String(), inFlight, ended
}

func h2c(t *testing.T) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// pickSeed returns and logs the seed for random callers.
func pickSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-chaos-seed %d", seed)
	return seed
}

// chaos starts n callers that make random calls until ctx ends. wait blocks until all have
// returned.
func chaos(ctx context.Context, t *testing.T, seed uint64, n int, addr string) (wait func()) {
	t.Helper()
	client := h2c(t)
	var callers sync.WaitGroup
	for i := range n {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		callers.Go(func() {
			for ctx.Err() == nil {
				if rng.IntN(4) == 0 {
					chaosH2(ctx, rng, client, "http://"+addr)
				} else {
					chaosRaw(ctx, rng, addr)
				}
			}
		})
	}
	return callers.Wait
}

// No caller can open the circuit of a healthy upstream. Every call ends, and no connection and no
// goroutine is left (TestMain checks for goroutines).
func TestChaosCallersOpenNothing(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			seed := pickSeed(t)
			// A busy machine makes the upstream fail too. The second try has the same callers.
			wait.OneOf(t, 2, func() string { return chaosOpens(t, seed, secure) })
		})
	}
}

// chaosOpens makes random calls to a healthy upstream. It returns what its circuit did, which is
// nothing if all is well.
func chaosOpens(t *testing.T, seed uint64, secure bool) string {
	t.Helper()
	var connections conncount.Counter
	up := httptest.NewUnstartedServer(http.HandlerFunc(chaosUpstream))
	up.Config.ErrorLog = log.New(io.Discard, "", 0)
	up.Config.IdleTimeout = 50 * time.Millisecond // so that kept connections die often
	up.Config.ConnState = connections.See
	var next http.RoundTripper
	if secure {
		up.EnableHTTP2 = true
		up.Config.MaxHeaderBytes = 4 << 10
		up.StartTLS()
		next = trustingPool(t, up)
	} else {
		up.Start()
	}
	t.Cleanup(up.Close)
	var transitions atomic.Int64
	g, addr, inFlight, ended := chaosGateway(t, up.URL, next, observe.Funcs{
		Transition: func(tr observe.Transition) {
			transitions.Add(1)
			t.Logf("got transition %+v, want the circuit to stay closed", tr)
		},
		Attempt: func(_ context.Context, a *resilience.AttemptReport) {
			if a.Health == resilience.Unhealthy {
				t.Logf("attempt failed: %s, %v", a.Reason, a.Err)
			}
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), *chaosLength)
	defer cancel()
	chaos(ctx, t, seed, 24, addr)()
	wait.Until(t, 20*time.Second, "every call to end", func() bool { return inFlight.Load() == 0 })
	g.Close()
	wait.Until(t, 20*time.Second, "every connection to be closed", func() bool { return connections.Open() == 0 })
	if ended.Load() == 0 {
		t.Error("got 0 calls, want at least 1")
	}
	s := g.Upstreams()[0].Breaker
	t.Logf("%d calls; the last window has %d successes and %d failures", ended.Load(), s.Successes, s.Failures)
	if n := transitions.Load(); n > 0 {
		return fmt.Sprintf("got %d transitions with -chaos-seed %d, want the circuit to stay closed", n, seed)
	}
	return ""
}

// trustingPool returns a pool with the gateway's settings that also trusts up's test certificate.
func trustingPool(t *testing.T, up *httptest.Server) *endpoint.Set {
	t.Helper()
	target, err := url.Parse(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(up.Certificate())
	pool := endpoint.New(target, endpoint.Options{
		Connections: endpoint.DefaultConnections(), ContinueWait: 375 * time.Millisecond,
		TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	})
	t.Cleanup(pool.Close)
	return pool
}

// The reverse of TestChaosCallersOpenNothing: the circuit of a bad upstream opens within 50 calls
// or 8 s, despite random callers.
func TestChaosBadUpstreamIsNoticed(t *testing.T) {
	reset := func(conn net.Conn) {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
	for name, serve := range map[string]func(conn net.Conn, r *bufio.Reader){
		"hangs": func(conn net.Conn, _ *bufio.Reader) { _, _ = io.Copy(io.Discard, conn) },
		"hangs without reading": func(conn net.Conn, _ *bufio.Reader) {
			time.Sleep(4 * time.Second)
		},
		"resets": func(conn net.Conn, _ *bufio.Reader) { reset(conn) },
		"closes": func(net.Conn, *bufio.Reader) {},
		"truncates": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		},
		"truncates chunks": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf")
		},
		"answers 500": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		},
		"answers 503": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 503 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		},
		"is not HTTP": func(conn net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, "-ERR what?\r\n") },
		"has a status below 100": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantCircuitOpens(t, listening(t, serve))
		})
	}
	t.Run("refuses connections", func(t *testing.T) {
		t.Parallel()
		wantCircuitOpens(t, refusing(t))
	})
}

// listening returns the URL of a server that reads a request's head from each connection and then
// calls serve. It answers no HEAD: a response to it cannot be truncated, and would be good.
func listening(t *testing.T, serve func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil || strings.HasPrefix(line, "HEAD ") {
				return
			}
			if strings.TrimSpace(line) == "" {
				break
			}
		}
		serve(conn, r)
	})
	return "http://" + l.Addr().String()
}

// wantCircuitOpens checks that the circuit of an upstream opens in time.
func wantCircuitOpens(t *testing.T, upstream string) {
	t.Helper()
	wait.OneOf(t, 2, func() string { return circuitOpens(t, upstream) }) // a busy machine may be late
}

// circuitOpens makes random calls to upstream through a new gateway. It returns what was wrong if
// the circuit did not open in time.
func circuitOpens(t *testing.T, upstream string) string {
	t.Helper()
	opened := make(chan struct{})
	var once sync.Once
	var calls atomic.Int64
	_, addr, inFlight, ended := chaosGateway(t, upstream, nil, observe.Funcs{Transition: func(tr observe.Transition) {
		if tr.To == resilience.Open {
			once.Do(func() { close(opened) })
		}
	}})
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	callersLeave := chaos(ctx, t, pickSeed(t), 24, addr)
	select {
	case <-opened:
	case <-ctx.Done():
	}
	took := time.Since(begin)
	calls.Store(ended.Load())
	cancel()
	callersLeave()
	wait.Until(t, 20*time.Second, "every call to end", func() bool { return inFlight.Load() == 0 })
	if took > 8*time.Second && calls.Load() > 50 {
		return fmt.Sprintf("the circuit opened after %d calls and %v, want at most 50 calls or 8 s", calls.Load(), took)
	}
	return ""
}
