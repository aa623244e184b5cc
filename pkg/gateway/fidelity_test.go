package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The tests in this file check that requests and answers pass the gateway unchanged. They cover
// every version of HTTP and bodies that break off.

// peer returns the URL of a raw TCP server. It passes each connection and the head of its first
// request, as it was sent, to serve.
func peer(t *testing.T, serve func(net.Conn, string)) string {
	t.Helper()
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(c net.Conn) {
		var head strings.Builder
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadString('\n')
			head.WriteString(line)
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
		}
		serve(c, head.String())
	})
	return "http://" + l.Addr().String()
}

// answering returns the URL of a peer that sends the same bytes for every request.
func answering(t *testing.T, answer string) string {
	return peer(t, func(c net.Conn, _ string) { _, _ = io.WriteString(c, answer) })
}

// wire sends text as a request and returns everything that comes back. The error is nil if the
// connection was closed in order.
func wire(t *testing.T, s *httptest.Server, text string) (string, error) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// overH2C returns a client that speaks HTTP/2 without TLS.
func overH2C(t *testing.T) *http.Transport {
	t.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// speakBoth makes s speak HTTP/1 and HTTP/2 without TLS.
func speakBoth(s *httptest.Server) {
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
}

// gatewayWith serves a gateway on loopback that speaks HTTP/1 and HTTP/2 without TLS. change may
// alter its configuration.
func gatewayWith(t *testing.T, o gateway.Options, change func(*gateway.Config), routes ...gateway.Route) *httptest.Server {
	t.Helper()
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = calm()
	for i := range routes {
		routes[i].SetDefaults()
	}
	c.Routes = routes
	if change != nil {
		change(&c)
	}
	g, err := gateway.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(g)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	speakBoth(s)
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(g.Close)
	return s
}

// An HTTP/1.0 caller recognizes the end of a body of unknown length only by the end of the
// connection. Half a body used to look whole.
func TestTruncatedBodiesNeverLookWhole(t *testing.T) {
	broken := map[string]func(net.Conn){
		"chunked, reset": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
			resetOnClose(c)
		},
		"chunked, closed": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		},
		"chunked, closed within a chunk": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf")
		},
		"chunked, closed within the trailers": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nhalf\r\n0\r\nX-Su")
		},
		"chunked, nonsense": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n")
		},
		"length known, closed": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
		},
		"length known and large, closed": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"+strings.Repeat("half", 25000))
		},
		"until the end of the connection, reset": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nhalf")
			resetOnClose(c)
		},
	}
	for name, serve := range broken {
		t.Run(name, func(t *testing.T) {
			g := gatewayWith(t, gateway.Options{}, nil, all(peer(t, func(c net.Conn, _ string) { serve(c) })))
			for _, head := range []string{"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"} {
				if got, err := wire(t, g, head); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q: got %d bytes and error %v, want a reset", head, len(got), err)
				}
			}
			for _, head := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"} {
				text, _ := wire(t, g, head)
				if text == "" {
					continue // an empty answer cannot look whole
				}
				resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
				if err != nil {
					continue
				}
				if b, err := io.ReadAll(resp.Body); err == nil {
					t.Errorf("%q: got %q without an error, want one at the end", head, b)
				}
			}
			resp, err := overH2C(t).RoundTrip(request(t, http.MethodGet, g.URL, nil))
			if err != nil {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("HTTP/2: got %q without an error, want one at the end", b)
			}
		})
	}
	t.Run("a stream of HTTP/2, reset", func(t *testing.T) {
		up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		speakBoth(up)
		up.Start()
		t.Cleanup(up.Close)
		g := gatewayWith(t, gateway.Options{Next: overH2C(t)}, nil, all(up.URL))
		if got, err := wire(t, g, "GET / HTTP/1.0\r\n\r\n"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q and error %v, want a reset", got, err)
		}
	})
}

// resetOnClose makes the close of a connection a reset. It first gives the peer time to read.
func resetOnClose(c net.Conn) {
	<-time.After(50 * time.Millisecond)
	_ = c.(*net.TCPConn).SetLinger(0)
}

// The connection of an HTTP/1.0 caller closes in order after a whole answer.
func TestWholeBodiesEndInOrder(t *testing.T) {
	g := gatewayWith(t, gateway.Options{}, nil, all(answering(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n")))
	got, err := wire(t, g, "GET / HTTP/1.0\r\n\r\n")
	if err != nil || !strings.HasSuffix(got, "\r\n\r\nwhole") {
		t.Errorf("got %q, error %v, want a body that ends with whole", got, err)
	}
}

// net/http's server guesses a missing Content-Type, and browsers trust it. The gateway must not
// guess.
func TestNoContentTypeIsInvented(t *testing.T) {
	const html = "<html><script>alert(1)</script>"
	for name, tc := range map[string]struct{ method, answer, want string }{
		"length known":      {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n%s", len(html), html), html},
		"chunked":           {"GET", fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(html), html), html},
		"until the end":     {"GET", "HTTP/1.0 200 OK\r\n\r\n" + html, html},
		"an error":          {"GET", fmt.Sprintf("HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s", len(html), html), html},
		"HEAD":              {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n", ""},
		"no content":        {"GET", "HTTP/1.1 204 No Content\r\n\r\n", ""},
		"not modified":      {"GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n", ""},
		"an empty body":     {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		"an empty type":     {"GET", "HTTP/1.1 200 OK\r\nContent-Type:\r\nContent-Length: 31\r\n\r\n" + html, html},
		"reset and empty":   {"GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", ""},
		"its own is kept":   {"GET", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 31\r\n\r\n" + html, html},
		"an encoded body":   {"GET", "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 31\r\n\r\n" + html, html},
		"a range":           {"GET", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-30/99\r\nContent-Length: 31\r\n\r\n" + html, html},
		"an unusual status": {"GET", "HTTP/1.1 299 Fine\r\nContent-Length: 31\r\n\r\n" + html, html},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewayWith(t, gateway.Options{}, nil, all(answering(t, tc.answer)))
			for version, tr := range map[string]http.RoundTripper{"HTTP/1.1": &http.Transport{DisableKeepAlives: true}, "HTTP/2": overH2C(t)} {
				resp, err := tr.RoundTrip(request(t, tc.method, g.URL, nil))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(b) != tc.want {
					t.Errorf("%s: got %q, error %v, want %q", version, b, err, tc.want)
				}
				want := ""
				if name == "its own is kept" {
					want = "text/plain"
				}
				if got := resp.Header.Get("Content-Type"); got != want {
					t.Errorf("%s: got Content-Type %q, want %q", version, got, want)
				}
				if got := resp.Header.Get("Content-Length"); tc.method == "HEAD" && got != "31" {
					t.Errorf("%s: got Content-Length %q, want 31", version, got)
				}
			}
		})
	}
}

func TestPathsArriveUnchanged(t *testing.T) {
	lines := make(chan string, 1)
	up := peer(t, func(c net.Conn, head string) {
		lines <- strings.SplitN(head, "\r\n", 2)[0]
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	var other string
	up2 := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { other = r.RequestURI }))
	speakBoth(up2)
	up2.Start()
	t.Cleanup(up2.Close)
	for name, tc := range map[string]struct{ sent, want string }{
		"plain":                             {"/files/a", ""},
		"an escaped slash":                  {"/files/a%2Fb", ""},
		"a bar beside an escaped slash":     {"/files/a%2Fb|c", ""},
		"braces":                            {"/files/a%2Fb{c}", ""},
		"other bytes not valid in a URL":    {"/files/%2F\"<>^`\\", ""},
		"raw UTF-8 beside an escaped slash": {"/files/a%2Fb/caf\xc3\xa9", ""},
		"bytes that are not UTF-8":          {"/files/%2F\xff\xfe", ""},
		"escapes that are not needed":       {"/%66iles/%7e%7E", ""},
		"small letters in escapes":          {"/files/%2f%c3%a9", ""},
		"slashes and dots":                  {"/files//a/./b/../c", ""},
		"two slashes at the beginning":      {"//files/a", ""},
		"two slashes and an escaped one":    {"//files/a%2Fb", ""},
		"two slashes and an invalid byte":   {"//files/a%2Fb|c", "//files/a%2Fb%7Cc"},
		"a hash":                            {"/files/a%2Fb#c", "/files/a%2Fb%23c"},
		"an escaped question mark":          {"/files/a%3Fb", ""},
		"a query":                           {"/files/a%2F|?x=1;y=%zz&|\"{}", ""},
		"an empty query":                    {"/files/a%2F|?", ""},
		"a semicolon":                       {"/files;v=1/a", ""},
		"brackets":                          {"/files/[a]%2F", ""},
		"an absolute URL":                   {"http://x/files/a%2Fb|c?d", "/files/a%2Fb|c?d"},
		"an absolute URL without a path":    {"http://x?a=b", "/?a=b"},
		"an asterisk":                       {"*", ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := tc.sent
			if tc.want != "" {
				want = tc.want
			}
			for _, prefix := range []string{"", "/base", "/b%2Fase/"} {
				front := strings.TrimSuffix(prefix, "/")
				switch {
				case want == "*":
					front = ""
				case strings.HasPrefix(want, "//") && front != "" && tc.want != "":
					want = tc.sent // after a prefix, // cannot begin a host
				}
				g := gatewayWith(t, gateway.Options{}, nil, all(up+prefix))
				_, _ = wire(t, g, "GET "+tc.sent+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				if got := <-lines; got != "GET "+front+want+" HTTP/1.1" {
					t.Errorf("prefix %q: the upstream got %q, want %q", prefix, got, front+want)
				}
				g = gatewayWith(t, gateway.Options{Next: overH2C(t)}, nil, all(up2.URL+prefix))
				_, _ = wire(t, g, "GET "+tc.sent+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				if other != front+want {
					t.Errorf("prefix %q over HTTP/2: the upstream got %q, want %q", prefix, other, front+want)
				}
			}
		})
	}
}

// The gateway passes the path on as it came. Many servers unescape a path before they resolve "..":
// nginx reads /api/..%2fsecret as /secret. Such a path would leave the route that it matched.
func TestNoPathLeavesItsRoute(t *testing.T) {
	var asked atomic.Int64
	up := server(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	plain, behind := gatewayTo(t, calm(), all(up.URL)), gatewayTo(t, calm(), all(up.URL+"/base"))
	for target, tc := range map[string]struct{ plain, behind int }{
		"/api/..%2fsecret":          {400, 400},
		"/api/%2e%2E%2Fsecret":      {400, 400},
		"/api/x%2f..%2f..%2fsecret": {400, 400},
		"/api/..%5csecret":          {400, 400},
		"/api/..\\secret":           {400, 400},
		"/api/..;/secret":           {400, 400},
		"/api/..;x=1/secret":        {400, 400},
		"/api/..%3b/secret":         {400, 400},
		"/../secret":                {200, 400},
		"/%2e%2E/secret":            {200, 400},
		"/a/../../base/x":           {200, 400},
		"/a//../../x":               {200, 400},
		"/a/./../../x":              {200, 400},
		"/a/../b":                   {200, 200},
		"/a/b/../../c":              {200, 200},
		"/..a/b..%2Fc/...;x/a..b":   {200, 200},
		"/a;v=../b?x=..%2f..%2f":    {200, 200},
	} {
		for g, want := range map[*httptest.Server]int{plain: tc.plain, behind: tc.behind} {
			asked.Store(0)
			got, _ := wire(t, g, "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", want)) || (asked.Load() == 1) != (want == 200) {
				t.Errorf("%s, upstream with a prefix %t: got %d requests upstream and answer %s, want status %d", target, g == behind, asked.Load(), got, want)
			}
		}
	}
}

// HTTP/2 allows a space in a path. In a request line of HTTP/1 it would end the path.
func TestSpaceInHTTP2PathIsEscaped(t *testing.T) {
	lines := make(chan string, 1)
	up := peer(t, func(c net.Conn, head string) {
		lines <- strings.SplitN(head, "\r\n", 2)[0]
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	g := gatewayWith(t, gateway.Options{}, nil, all(up))
	r := request(t, http.MethodGet, g.URL, nil)
	r.URL.Opaque = "/a%2Fb c|?d e HTTP/1.1"
	resp, err := overH2C(t).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got, want := <-lines, "GET /a%2Fb%20c|?d%20e%20HTTP/1.1 HTTP/1.1"; got != want {
		t.Errorf("the upstream got %q, want %q", got, want)
	}
}

// Observers and spans get the path as the upstream gets it, with its escapes.
func TestObserversAndSpansKeepEscapes(t *testing.T) {
	g, calls := observedGateway(t, calm(), gateway.Options{}, all(server(t, func(http.ResponseWriter, *http.Request) {}).URL))
	finalStatus(t, g, "GET /files/a%2Fb|c?d HTTP/1.1\r\nHost: x\r\n\r\n")
	if c := <-calls; c.Path != "/files/a%2Fb%7Cc" {
		t.Errorf("observer got path %q, want %q", c.Path, "/files/a%2Fb%7Cc")
	}
	provider, recorded := spans.Record()
	up := server(t, func(http.ResponseWriter, *http.Request) {}).URL
	g = gatewayWith(t, gateway.Options{TracerProvider: provider, Propagator: propagation.TraceContext{}}, nil, all(up))
	finalStatus(t, g, "GET /files/a%2Fb|c?d HTTP/1.1\r\nHost: x\r\n\r\n")
	found := false
	for _, span := range recorded.GetSpans() {
		attributes := attribute.NewSet(span.Attributes...)
		if got, ok := attributes.Value(semconv.URLFullKey); ok {
			found = true
			if got.AsString() != up+"/files/a%2Fb|c?d" {
				t.Errorf("the span's URL is %q, want %q", got.AsString(), up+"/files/a%2Fb|c?d")
			}
		}
	}
	if !found {
		t.Error("got no span with the attempt's URL, want one")
	}
}

// Any token can be a method. Unusual methods must not become part of span names, whose number must
// stay small.
func TestUnusualMethodIsNotInSpanNames(t *testing.T) {
	provider, recorded := spans.Record()
	g, err := gateway.New(gateway.ForUpstream(server(t, func(http.ResponseWriter, *http.Request) {}).URL), gateway.Options{TracerProvider: provider, Propagator: propagation.TraceContext{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		ctx, span := provider.Tracer("server").Start(r.Context(), "x")
		defer span.End()
		g.ServeHTTP(w, r.WithContext(ctx))
	})
	finalStatus(t, s, "STRANGE-1 / HTTP/1.1\r\nHost: x\r\n\r\n")
	for n := 0; len(recorded.GetSpans()) < 3; n++ { // the server's, the call's and the attempt's
		if n == 5000 {
			t.Fatalf("got %d spans, want 3", len(recorded.GetSpans()))
		}
		time.Sleep(time.Millisecond)
	}
	for _, span := range recorded.GetSpans() {
		if strings.Contains(span.Name, "STRANGE") {
			t.Errorf("got span name %q, want one without the method", span.Name)
		}
	}
}

func TestForwardingHeadersOfTrustedProxyAreKept(t *testing.T) {
	seen := make(chan http.Header, 1)
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	given := map[string]string{
		"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443",
		"X-Forwarded-Prefix": "/shop", "Forwarded": "for=203.0.113.9;proto=https", "X-Attempt-Count": "2", "X-Envoy-Expected-Rq-Timeout-Ms": "700",
	}
	kept := map[string]string{
		"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "443",
		"X-Forwarded-Prefix": "/shop", "Forwarded": "for=203.0.113.9;proto=https", "X-Attempt-Count": "2", "X-Envoy-Expected-Rq-Timeout-Ms": "700",
	}
	replaced := map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "inner.example", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "",
		"X-Forwarded-Prefix": "", "Forwarded": "", "X-Attempt-Count": "1", "X-Envoy-Expected-Rq-Timeout-Ms": "20000",
	}
	for name, tc := range map[string]struct {
		trust []string
		want  map[string]string
	}{
		"by default the loopback": {gateway.DefaultListener().Trust, kept},
		"everybody":               {[]string{"*"}, kept},
		"the caller's network":    {[]string{"127.0.0.0/30"}, kept},
		"another network":         {[]string{"10.0.0.0/8", "::1/128"}, replaced},
		"nobody":                  {[]string{}, replaced},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Listener.Trust = tc.trust }, all(up.URL))
			for version, tr := range map[string]http.RoundTripper{"HTTP/1.1": &http.Transport{DisableKeepAlives: true}, "HTTP/2": overH2C(t)} {
				r := request(t, http.MethodGet, g.URL, nil)
				r.Host = "inner.example"
				for k, v := range given {
					r.Header.Set(k, v)
				}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				got := <-seen
				for k, want := range tc.want {
					if got.Get(k) != want || len(got[k]) > 1 {
						t.Errorf("%s: %s: the upstream got %q, want %q", version, k, got[k], want)
					}
				}
			}
		})
	}
}

// A proxy in front may pass on its caller's Connection header. That header must not remove the
// headers in which the proxy describes the caller.
func TestConnectionCannotRemoveForwardingHeaders(t *testing.T) {
	seen := make(chan http.Header, 1)
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	g := gatewayTo(t, calm(), all(up.URL))
	_, _ = wire(t, g, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, x-forwarded-for, X-Forwarded-Proto ,Forwarded,Via,X-Attempt-Count,X-Own\r\n"+
		"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=203.0.113.9\r\nVia: 1.1 front\r\nX-Attempt-Count: 2\r\nX-Own: a\r\n\r\n")
	got := <-seen
	for k, want := range map[string]string{
		"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.9", "X-Attempt-Count": "2", "X-Own": "",
	} {
		if got.Get(k) != want {
			t.Errorf("%s: the upstream got %q, want %q", k, got[k], want)
		}
	}
	if via := got.Get("Via"); !strings.HasPrefix(via, "1.1 front, ") {
		t.Errorf("the upstream got Via %q, want one that begins 1.1 front", via)
	}
}

// Servers that turn headers into variables do not distinguish _ from -. Headers about the caller
// that are spelled with _ must not reach them.
func TestForwardingHeadersWithUnderscoresAreDropped(t *testing.T) {
	seen := make(chan http.Header, 1)
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() })
	for _, trust := range [][]string{{"*"}, {}} {
		g := gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Listener.Trust = trust }, all(up.URL))
		r := request(t, http.MethodGet, g.URL, nil)
		for _, name := range []string{"X_Forwarded_For", "x-forwarded_for", "X_FORWARDED-PROTO", "X_Attempt_Count", "X_Own"} {
			r.Header[name] = []string{"1"}
		}
		do(t, r)
		var got []string
		for name := range <-seen {
			if strings.Contains(name, "_") {
				got = append(got, name)
			}
		}
		if len(got) != 1 || !strings.EqualFold(got[0], "X_Own") {
			t.Errorf("trust %q: the upstream got headers with underscores %v, want only X_Own", trust, got)
		}
	}
}

// If a trusted caller sends no forwarding headers, the gateway adds them as for any other caller.
func TestMissingForwardingHeadersAreAdded(t *testing.T) {
	var seen http.Header
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() })
	g := gatewayTo(t, calm(), all(up.URL))
	r := request(t, http.MethodGet, g.URL, nil)
	r.Host = "shop.example"
	do(t, r)
	for k, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "http", "Forwarded": "", "X-Forwarded-Port": ""} {
		if seen.Get(k) != want {
			t.Errorf("%s: the upstream got %q, want %q", k, seen[k], want)
		}
	}
}

// By default the gateway trusts private, link-local and loopback addresses in every notation.
func TestTrustedByDefault(t *testing.T) {
	for remote, want := range map[string]bool{
		"10.1.2.3:4": true, "172.16.0.1:4": true, "172.32.0.1:4": false, "192.168.1.1:4": true, "127.9.9.9:4": true, "169.254.1.1:4": true,
		"[::1]:4": true, "[fd00::1]:4": true, "[fe80::1%eth0]:4": true, "[::ffff:10.0.0.1]:4": true, "[::ffff:8.8.8.8]:4": false,
		"8.8.8.8:4": false, "[2001:db8::1]:4": false, "100.64.0.1:4": false, "pipe": false, "": false,
	} {
		var seen http.Header
		g, err := gateway.New(gateway.ForUpstream("http://up"), gateway.Options{Next: upstreamFunc(func(r *http.Request) int { seen = r.Header; return 200 })})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Forwarded-Proto", "https")
		g.ServeHTTP(httptest.NewRecorder(), r)
		if got := seen.Get("X-Forwarded-Proto") == "https"; got != want {
			t.Errorf("%q: trusted = %v, want %v", remote, got, want)
		}
	}
}

// An untrusted caller can neither set its call's deadline nor limit it to one attempt.
func TestAttemptsAndDeadlinesOfUntrustedCallersAreIgnored(t *testing.T) {
	var attempts atomic.Int64
	up := server(t, func(w http.ResponseWriter, _ *http.Request) {
		attempts.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	g := gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Listener.Trust = []string{} }, all(up.URL))
	r := request(t, http.MethodGet, g.URL, nil)
	r.Header.Set(transport.HeaderAttemptCount, "5")
	r.Header.Set(transport.HeaderExpectedTimeout, "1")
	if resp, body := do(t, r); resp.StatusCode != 503 || attempts.Load() != 3 {
		t.Errorf("got status %d, body %s after %d attempts, want 503 after 3", resp.StatusCode, body, attempts.Load())
	}
}

func TestLoopEndsAtSecondPass(t *testing.T) {
	var passes atomic.Int64
	var log bytes.Buffer
	var mu sync.Mutex
	var g *gateway.Gateway
	front := server(t, func(w http.ResponseWriter, r *http.Request) { passes.Add(1); g.ServeHTTP(w, r) })
	c := gateway.ForUpstream(front.URL)
	c.Policies[gateway.DefaultPolicyName] = calm()
	calls := make(chan observe.Call, 100)
	var err error
	if g, err = gateway.New(c, gateway.Options{
		Logger:    slog.New(slog.NewTextHandler(&syncWriter{mu: &mu, w: &log}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) { calls <- c }}},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	for range 3 {
		passes.Store(0)
		resp, body := get(t, front.URL+"/x")
		if p := problemOf(t, resp, body); resp.StatusCode != http.StatusLoopDetected || p["reason"] != "loop_detected" || passes.Load() != 2 {
			t.Errorf("got status %d, body %s after %d passes, want 508, loop_detected after 2", resp.StatusCode, body, passes.Load())
		}
		if inner := <-calls; inner.Status != 508 || inner.Report.Reason != resilience.ReasonLoopDetected {
			t.Errorf("observer of the second pass got %+v, want status 508 and loop_detected", inner)
		}
		if outer := <-calls; outer.Status != 508 || len(outer.Report.Attempts) != 1 {
			t.Errorf("observer of the first pass got %+v, want status 508 and 1 attempt", outer)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "msg=loop"); n != 1 {
		t.Errorf("got %d warnings, want 1:\n%s", n, &log)
	}
}

// syncWriter is a writer that is safe for concurrent use.
type syncWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *syncWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func TestViaIsAppendedBothWays(t *testing.T) {
	seen := make(chan []string, 1)
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header["Via"]
		w.Header().Set("Via", "1.1 cache")
	})
	g := gatewayWith(t, gateway.Options{}, nil, all(up.URL))
	own := ""
	for _, tc := range []struct{ head, before, version string }{
		{"GET / HTTP/1.1\r\nHost: x\r\n", "", "1.1"}, {"GET / HTTP/1.0\r\n", "", "1.0"},
		{"GET / HTTP/1.1\r\nHost: x\r\nVia: 1.0 fred\r\nVia: 1.1 p.example.net (comment)\r\n", "1.0 fred, 1.1 p.example.net (comment), ", "1.1"},
	} {
		answer, _ := wire(t, g, tc.head+"Connection: close\r\n\r\n")
		got := strings.Join(<-seen, "|")
		name, ok := strings.CutPrefix(got, tc.before+tc.version+" rebound-")
		if own == "" {
			own = name
		}
		if !ok || name != own || len(name) != 8 {
			t.Errorf("%q: the upstream got Via %q, want the gateway's name %q", tc.head, got, own)
		}
		if !strings.Contains(answer, "\r\nVia: 1.1 cache, 1.1 rebound-"+own+"\r\n") {
			t.Errorf("%q: got answer %q, want Via: 1.1 cache, 1.1 rebound-%s", tc.head, answer, own)
		}
	}
}

func TestLocationsAreRewritten(t *testing.T) {
	answers := make(chan string, 1)
	up := server(t, func(w http.ResponseWriter, _ *http.Request) {
		at := <-answers
		w.Header().Set("Location", at)
		w.Header().Set("Content-Location", at)
		w.WriteHeader(http.StatusFound)
	})
	port := strings.TrimPrefix(up.URL, "http://127.0.0.1")
	plain, behind := gatewayTo(t, calm(), all(up.URL)), gatewayTo(t, calm(), all(up.URL+"/base/"))
	for name, tc := range map[string]struct{ sent, plain, behind string }{
		"absolute":                    {up.URL + "/x/y?a=b#c", "/x/y?a=b#c", ""},
		"absolute, within the prefix": {up.URL + "/base/x?a", "/base/x?a", "/x?a"},
		"exactly the prefix":          {up.URL + "/base", "/base", "/"},
		"the prefix and a query":      {up.URL + "/base?a", "/base?a", "/?a"},
		"the prefix of another name":  {up.URL + "/based", "/based", ""},
		"no path":                     {up.URL, "/", ""},
		"no path, a query":            {up.URL + "?a", "/?a", ""},
		"another case":                {"HTTP://127.0.0.1" + port + "/x", "/x", ""},
		"without a scheme":            {"//127.0.0.1" + port + "/x", "/x", ""},
		"relative to the host":        {"/base/x", "", "/x"},
		"relative to the path":        {"x/y", "", ""},
		"another scheme":              {"https://127.0.0.1" + port + "/x", "", ""},
		"another host":                {"http://shop.example/x", "", ""},
		"another port":                {"http://127.0.0.1/x", "", ""},
		"with a user":                 {"http://u@127.0.0.1" + port + "/x", "", ""},
		"a URL in a query":            {"/login?to=" + up.URL + "/x", "", ""},
		"a host behind the host":      {up.URL + "//evil.example/x", "/.//evil.example/x", ""},
		"a host behind the prefix":    {up.URL + "/base//evil.example/x", "/base//evil.example/x", "/.//evil.example/x"},
		"a host of a lax browser":     {up.URL + `/\evil.example/x`, `/./\evil.example/x`, ""},
		"no host at all":              {`http:///x`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for g, want := range map[*httptest.Server]string{plain: tc.plain, behind: tc.behind} {
				if want == "" {
					want = tc.sent
				}
				answers <- tc.sent
				resp, _ := get(t, g.URL)
				for _, header := range []string{"Location", "Content-Location"} {
					if got := resp.Header.Get(header); got != want {
						t.Errorf("%s %q: got %q, want %q", header, tc.sent, got, want)
					}
				}
			}
		})
	}
}

// Browsers drop tabs in a URL: two slashes with a tab between them begin a host.
func TestTabInLocationMakesNoHost(t *testing.T) {
	for location, want := range map[string]string{"/\t/evil.example": "/./\t/evil.example", "/\t\\evil.example": "/./\t\\evil.example", "/a\t/b": "/a\t/b"} {
		var at string
		up := peer(t, func(c net.Conn, _ string) {
			_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: "+at+location+"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		})
		at = up
		g := gatewayTo(t, calm(), all(up))
		if got, _ := wire(t, g, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "\r\nLocation: "+want+"\r\n") {
			t.Errorf("Location %q: got answer %q, want Location %q", location, got, want)
		}
	}
}

// With host: caller the upstream gets the caller's Host. Redirects to that host are rewritten too.
func TestCallersHostIsKept(t *testing.T) {
	hosts := make(chan string, 1)
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		w.Header().Set("Location", "http://"+r.Host+"/base/x")
		w.WriteHeader(http.StatusFound)
	})
	for _, host := range []gateway.Host{gateway.HostCaller, gateway.HostUpstream} {
		entry := gateway.DefaultUpstream(up.URL + "/base")
		entry.Host = host
		g := gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Upstreams = map[string]gateway.Upstream{"shop": entry} }, all("shop"))
		want := map[gateway.Host]string{gateway.HostCaller: "shop.example:8080", gateway.HostUpstream: strings.TrimPrefix(up.URL, "http://")}[host]
		for version, tr := range map[string]http.RoundTripper{"HTTP/1.1": &http.Transport{DisableKeepAlives: true}, "HTTP/2": overH2C(t)} {
			r := request(t, http.MethodGet, g.URL, nil)
			r.Host = "shop.example:8080"
			resp, err := tr.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := <-hosts; got != want || resp.Header.Get("Location") != "/x" {
				t.Errorf("host: %s, %s: the upstream got Host %q, want %q; got Location %q, want /x", host, version, got, want, resp.Header.Get("Location"))
			}
		}
		_, _ = wire(t, g, "GET / HTTP/1.0\r\n\r\n") // a request without a host gets the upstream's
		if got := <-hosts; got != strings.TrimPrefix(up.URL, "http://") {
			t.Errorf("host: %s, no Host in the request: the upstream got Host %q, want %q", host, got, strings.TrimPrefix(up.URL, "http://"))
		}
	}
}

func TestServerTimingStaysShort(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for attempts, whole := range map[int]bool{1: true, 5: true, 20: false, 100: false} {
		p := calm()
		p.Timeout, p.Retry.MaxAttempts = time.Minute, attempts
		p.Retry.Backoff.Base, p.Retry.Backoff.Max = time.Microsecond, time.Microsecond
		resp, _ := get(t, gatewayTo(t, p, all(up.URL)).URL)
		timing := resp.Header.Get("Server-Timing")
		entries := strings.Split(timing, ", ")
		last := fmt.Sprintf("attempt%d;", attempts)
		if len(timing) > 1<<10 || !strings.HasPrefix(timing, "attempt1;") || !strings.HasPrefix(entries[len(entries)-1], last) {
			t.Errorf("%d attempts: got %d bytes, want at most 1 KiB with the first and the last attempt: %s", attempts, len(timing), timing)
		}
		shown := strings.Count(timing, "attempt") - strings.Count(timing, "attempts")
		if left := strings.Contains(timing, fmt.Sprintf(`left-out;desc="%d more attempts"`, attempts-shown)); left == whole || whole && shown != attempts {
			t.Errorf("%d attempts: got %d entries and timing %s, want all entries or the number of those left out", attempts, shown, timing)
		}
	}
}

func TestLargeHeadersGet431(t *testing.T) {
	up := server(t, func(http.ResponseWriter, *http.Request) {})
	g, calls := observedGateway(t, calm(), gateway.Options{}, all(up.URL))
	for size, want := range map[int]int{60 << 10: 200, 70 << 10: 431} {
		r := request(t, http.MethodGet, g.URL, nil)
		r.Header.Set("X-Large", strings.Repeat("x", size))
		resp, body := do(t, r)
		if resp.StatusCode != want {
			t.Errorf("%d bytes: got status %d, want %d", size, resp.StatusCode, want)
		}
		c := <-calls
		if c.Status != want {
			t.Errorf("%d bytes: observer got %+v, want status %d", size, c, want)
		}
		if want == 431 {
			if p := problemOf(t, resp, body); p["reason"] != "invalid_request" || c.Report.Reason != resilience.ReasonInvalidRequest {
				t.Errorf("got problem %s, reason %s, want invalid_request", body, c.Report.Reason)
			}
		}
	}
}

func TestMaxForwards(t *testing.T) {
	seen := make(chan string, 1)
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Max-Forwards") })
	g := gatewayTo(t, calm(), all(up.URL), gateway.Route{Name: "get", Match: "GET /get", Upstream: up.URL}, gateway.Route{Name: "options", Match: "OPTIONS /get", Upstream: up.URL})
	for name, tc := range map[string]struct{ method, given, want string }{
		"counted down":       {"OPTIONS", "5", "4"},
		"the last":           {"TRACE", "1", "0"},
		"another method":     {"GET", "5", "5"},
		"another method, 0":  {"GET", "0", "0"},
		"unreadable":         {"OPTIONS", "x", "x"},
		"too large a number": {"TRACE", "99999999999999999999", "99999999999999999999"},
	} {
		r := request(t, tc.method, g.URL, nil)
		r.Header.Set("Max-Forwards", tc.given)
		do(t, r)
		if got := <-seen; got != tc.want {
			t.Errorf("%s: the upstream got Max-Forwards %q, want %q", name, got, tc.want)
		}
	}
	answer, _ := wire(t, g, "OPTIONS /get HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || !strings.Contains(answer, "\r\nAllow: GET, HEAD, OPTIONS\r\n") || !strings.Contains(answer, "\r\nContent-Length: 0\r\n") {
		t.Errorf("OPTIONS: got %q, want 200, Allow: GET, HEAD, OPTIONS and no body", answer)
	}
	answer, _ = wire(t, g, "TRACE /a?b HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nVia: 1.1 a\r\nAuthorization: secret\r\nCookie: secret\r\nX-Api-Key: secret\r\nConnection: close\r\n\r\n")
	if !strings.Contains(answer, "\r\nContent-Type: message/http\r\n") || !strings.HasSuffix(answer, "\r\n\r\nTRACE /a?b HTTP/1.1\r\nHost: x\r\nVia: 1.1 a\r\nMax-Forwards: 0\r\n") || strings.Contains(answer, "secret") {
		t.Errorf("TRACE: got %q, want the request without its secrets", answer)
	}
	select {
	case got := <-seen:
		t.Errorf("the upstream got Max-Forwards %q, want no request", got)
	default:
	}
}

func TestCallersThatStopReadingAreCutOff(t *testing.T) {
	const size = 64 << 20
	for name, head := range map[string]string{"length known": fmt.Sprintf("Content-Length: %d\r\n", size), "chunked": "Transfer-Encoding: chunked\r\n"} {
		t.Run(name, func(t *testing.T) {
			var held atomic.Int64
			up := peer(t, func(c net.Conn, _ string) {
				held.Add(1)
				defer held.Add(-1)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n")
				chunk := []byte(strings.Repeat("x", 64<<10))
				for range size / len(chunk) {
					if strings.HasPrefix(head, "T") {
						_, _ = fmt.Fprintf(c, "%x\r\n", len(chunk))
					}
					if _, err := c.Write(chunk); err != nil {
						return
					}
					if strings.HasPrefix(head, "T") {
						_, _ = io.WriteString(c, "\r\n")
					}
				}
			})
			calls := make(chan observe.Call, 10)
			g := gatewayWith(t, gateway.Options{Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) { calls <- c }}}}, func(c *gateway.Config) { c.Listener.SendTimeout = 300 * time.Millisecond }, all(up))
			for range 3 {
				c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			}
			resp, err := overH2C(t).RoundTrip(request(t, http.MethodGet, g.URL, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			for range 4 {
				select {
				case c := <-calls:
					if c.Report.Reason != resilience.ReasonCallerCanceled {
						t.Errorf("got reason %s, want %s", c.Report.Reason, resilience.ReasonCallerCanceled)
					}
				case <-time.After(20 * time.Second):
					t.Fatal("the call is still running after 20 s, want it ended")
				}
			}
			// The upstream notices with a delay.
			wait.Until(t, 20*time.Second, "the end of every connection to the upstream", func() bool { return held.Load() == 0 })
		})
	}
}

// The send timeout ends neither a call whose caller reads slowly nor a stream that pauses.
func TestSlowReadersAndQuietStreamsContinue(t *testing.T) {
	t.Parallel()
	const size, steps = 64 << 20, 16 // more than the buffers on the way hold
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/events" {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 3 {
				_, _ = io.WriteString(w, "data: x\n\n")
				_ = http.NewResponseController(w).Flush()
				<-time.After(1500 * time.Millisecond)
			}
			return
		}
		_, _ = w.Write(make([]byte, size))
	})
	with := func(limit time.Duration) string {
		return gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Listener.SendTimeout = limit }, all(up.URL)).URL
	}
	if resp, body := get(t, with(time.Second)+"/events"); resp.StatusCode != 200 || strings.Count(body, "data") != 3 {
		t.Errorf("got status %d, body %q, want 200 and three events", resp.StatusCode, body)
	}
	// A busy machine may make a pause longer by seconds. The whole takes longer than the limit.
	resp, err := newClient(t).Do(request(t, http.MethodGet, with(5*time.Second), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	n := 0
	for buffer := make([]byte, size/steps); ; {
		read, err := io.ReadFull(resp.Body, buffer)
		n += read
		if err != nil {
			break
		}
		<-time.After(400 * time.Millisecond)
	}
	if n != size {
		t.Errorf("got %d bytes, want %d", n, size)
	}
}

// Without a send timeout the caller gets the whole body.
func TestNoSendTimeout(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	g := gatewayWith(t, gateway.Options{}, func(c *gateway.Config) { c.Listener.SendTimeout = 0 }, all(up.URL))
	if _, body := get(t, g.URL); len(body) != 1<<20 {
		t.Errorf("got %d bytes, want %d", len(body), 1<<20)
	}
}

// An HTTP/2 request whose header ends its stream has no body for the upstream either. A body that
// the gateway reads first costs a frame and a buffer for each call.
func TestHTTP2RequestWithoutABody(t *testing.T) {
	lengths := make(chan int64, 1)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		lengths <- r.ContentLength + 100*int64(len(body))
	}))
	speakBoth(up)
	up.Start()
	t.Cleanup(up.Close)
	g := gatewayWith(t, gateway.Options{}, nil, all(strings.Replace(up.URL, "http://", "h2c://", 1)))
	for name, tc := range map[string]struct {
		method string
		body   io.Reader
		want   int64 // the length that the upstream knows, and a hundred for each byte
	}{
		"GET": {http.MethodGet, nil, 0}, "POST": {http.MethodPost, nil, 0}, "DELETE": {http.MethodDelete, nil, 0},
		"a body": {http.MethodPost, strings.NewReader("abc"), 303}, "of unknown length": {http.MethodPost, io.MultiReader(strings.NewReader("abc")), 299},
		"an empty one of unknown length": {http.MethodPost, io.MultiReader(strings.NewReader("")), -1},
	} {
		t.Run(name, func(t *testing.T) {
			resp, _, err := fetch.Read(overH2C(t).RoundTrip(request(t, tc.method, g.URL, tc.body)))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("got %v, error %v, want 200", resp, err)
			}
			if got := <-lengths; got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
