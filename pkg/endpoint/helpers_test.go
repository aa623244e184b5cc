package endpoint_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/endpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream is a server that counts its connections.
type upstream struct {
	*httptest.Server
	opened, closed atomic.Int64
}

func (u *upstream) open() int64 { return u.opened.Load() - u.closed.Load() }

// wantOpen waits until so many connections are open.
func (u *upstream) wantOpen(t *testing.T, n int64) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); u.open() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are open, want %d", u.open(), n)
		}
	}
}

func (u *upstream) see(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		u.opened.Add(1)
	case http.StateClosed, http.StateHijacked:
		u.closed.Add(1)
	}
}

func newUpstream(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	return newClosing(t, 0, h)
}

// newClosing is one that closes kept connections after a while.
func newClosing(t *testing.T, after time.Duration, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = u.see
	u.Config.IdleTimeout = after
	u.Start()
	t.Cleanup(u.Close)
	return u
}

// newHTTP2 is one that speaks HTTP/2 over TLS.
func newHTTP2(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = u.see
	u.EnableHTTP2 = true
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) options() endpoint.Options {
	o := endpoint.Options{Connections: endpoint.DefaultConnections(), ContinueWait: time.Second}
	if tr, ok := u.Client().Transport.(*http.Transport); ok && tr.TLSClientConfig != nil {
		o.TLS = tr.TLSClientConfig
	}
	return o
}

// newPool is a pool that is closed with the test.
func newPool(t *testing.T, target string, o endpoint.Options) *endpoint.Pool {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := endpoint.New(u, o)
	t.Cleanup(p.Close)
	return p
}

func request(ctx context.Context, t *testing.T, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// read is the status and the body of an answer.
func read(resp *http.Response, err error) (int, string, error) {
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// want sends a GET and wants the answer 200.
func want(t *testing.T, p *endpoint.Pool, target string) {
	t.Helper()
	if status, body, err := read(p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))); err != nil || status != http.StatusOK {
		t.Fatalf("%d %q, %v", status, body, err)
	}
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// virtual is an upstream on the virtual clock of a synctest bubble.
type virtual struct {
	net            *pipenet.Network
	server         *http.Server
	dials          atomic.Int64
	refuse         atomic.Bool
	opened, closed atomic.Int64
	done           chan struct{}
}

func newVirtual(t *testing.T, h http.HandlerFunc) *virtual {
	t.Helper()
	v := &virtual{net: pipenet.New(), done: make(chan struct{})}
	l, err := v.net.Listen(t.Context(), "tcp", "upstream:80")
	if err != nil {
		t.Fatal(err)
	}
	v.server = &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			v.opened.Add(1)
		case http.StateClosed:
			v.closed.Add(1)
		}
	}}
	go func() {
		defer close(v.done)
		_ = v.server.Serve(l)
	}()
	return v
}

func (v *virtual) pool(c endpoint.Connections) *endpoint.Pool {
	return endpoint.New(&url.URL{Scheme: "http", Host: "upstream"}, endpoint.Options{
		Connections: c, ContinueWait: time.Second, Random: func() float64 { return 0.5 },
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			v.dials.Add(1)
			if v.refuse.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("refused")}
			}
			return v.net.Dial(ctx, network, address)
		},
	})
}

func (v *virtual) open() int64 { return v.opened.Load() - v.closed.Load() }

func (v *virtual) end(p *endpoint.Pool) {
	p.Close()
	_ = v.server.Close()
	<-v.done
}

// retire says that the answer was a failure, as package transport does.
func retire(t *testing.T, resp *http.Response) {
	t.Helper()
	r, ok := resp.Body.(interface{ Retire() })
	if !ok {
		t.Fatalf("the body is a %T without Retire", resp.Body)
	}
	r.Retire()
}

func long(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) }
