package connpool_test

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

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// upstream is a server that counts its connections.
type upstream struct {
	*httptest.Server
	conncount.Counter
}

func newUpstream(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	return newClosing(t, 0, h)
}

// newClosing returns an upstream that closes idle connections after a while.
func newClosing(t *testing.T, after time.Duration, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = u.See
	u.Config.IdleTimeout = after
	u.Start()
	t.Cleanup(u.Close)
	return u
}

// newHTTP2 returns an upstream that speaks HTTP/2 over TLS.
func newHTTP2(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{Server: httptest.NewUnstartedServer(h)}
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Config.ConnState = u.See
	u.EnableHTTP2 = true
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) options() connpool.Options {
	o := connpool.Options{Limits: defaults(), ContinueWait: time.Second}
	if tr, ok := u.Client().Transport.(*http.Transport); ok && tr.TLSClientConfig != nil {
		o.TLS = tr.TLSClientConfig
	}
	return o
}

// steady returns options without dials in the background, so that a count of connections does not
// depend on the machine.
func (u *upstream) steady() connpool.Options {
	o := u.options()
	o.Limits.MaxAge = 0
	return o
}

// newPool returns a pool that is closed with the test.
func newPool(t *testing.T, target string, o connpool.Options) *connpool.Pool {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := connpool.New(u, o)
	t.Cleanup(p.Close)
	return p
}

func request(ctx context.Context, t *testing.T, method, target string, body io.Reader) *http.Request {
	t.Helper()
	return fetch.Request(t, method, target, body).WithContext(ctx)
}

// read returns the status and the body of a response.
func read(resp *http.Response, err error) (int, string, error) {
	resp, body, err := fetch.Read(resp, err)
	if resp == nil {
		return 0, "", err
	}
	return resp.StatusCode, body, err
}

// want sends a GET and expects a 200.
func want(t *testing.T, p *connpool.Pool, target string) {
	t.Helper()
	if status, body, err := read(p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))); err != nil || status != http.StatusOK {
		t.Fatalf("got status %d, body %q, error %v, want 200", status, body, err)
	}
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// virtual is an upstream on the virtual clock of a synctest bubble.
type virtual struct {
	conncount.Counter
	net    *pipenet.Network
	stop   func()
	dials  atomic.Int64
	refuse atomic.Bool
}

func newVirtual(t *testing.T, h http.HandlerFunc) *virtual {
	t.Helper()
	v := &virtual{net: pipenet.New()}
	v.stop = v.net.Serve(t, "upstream:80", h, func(s *http.Server) { s.ConnState = v.See })
	return v
}

func (v *virtual) pool(c connpool.Limits) *connpool.Pool {
	return connpool.New(&url.URL{Scheme: "http", Host: "upstream"}, connpool.Options{
		Limits: c, ContinueWait: time.Second, Random: func() float64 { return 0.5 },
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			v.dials.Add(1)
			if v.refuse.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("refused")}
			}
			return v.net.Dial(ctx, network, address)
		},
	})
}

func (v *virtual) end(p *connpool.Pool) {
	p.Close()
	v.stop()
}

// retire reports the response as a failure, as package transport does.
func retire(t *testing.T, resp *http.Response) {
	t.Helper()
	r, ok := resp.Body.(interface{ Retire() })
	if !ok {
		t.Fatalf("the body is a %T, want one with Retire", resp.Body)
	}
	r.Retire()
}

func long(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) }

// defaults returns the limits that a gateway has by default.
func defaults() connpool.Limits {
	return connpool.Limits{IdleTimeout: 30 * time.Second, MaxAge: 5 * time.Minute, MaxIdle: 512, HTTP2Ping: 2 * time.Second}
}
