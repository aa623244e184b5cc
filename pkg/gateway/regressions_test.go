package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The tests in this file guard against bugs that were fixed or only just avoided.

// finalStatus sends text as a request and returns the status of the final answer.
func finalStatus(t *testing.T, s *httptest.Server, text string) string {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, text)
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return "no answer: " + err.Error()
		}
		if resp.StatusCode >= 200 {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return resp.Status
		}
	}
}

// observedGateway serves a gateway on loopback and returns a channel with its finished calls.
func observedGateway(t *testing.T, p transport.Policy, o gateway.Options, routes ...gateway.Route) (*httptest.Server, <-chan observe.Call) {
	t.Helper()
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = p
	for i := range routes {
		routes[i].SetDefaults()
	}
	c.Routes = routes
	calls := make(chan observe.Call, 100)
	o.Observers = []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) { calls <- c }}}
	g, err := gateway.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return server(t, g.ServeHTTP), calls
}

// unfinished returns headers that announce a body. The tests never send that body in full.
func unfinished() []string {
	return []string{
		"Content-Length: 10\r\n", "Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n",
		"Expect: 100-continue\r\nContent-Length: 10\r\n",
	}
}

func TestUnfinishedUploadsAreAnswered(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		timeout time.Duration
		want    string
	}{
		"the upstream waits for it": {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, 100 * time.Millisecond, "504"},
		"the upstream has answered": {func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusServiceUnavailable)
			_ = http.NewResponseController(w).Flush()
		}, 10 * time.Second, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			p := calm()
			p.Timeout, p.AttemptTimeout = 3*tc.timeout, tc.timeout
			g := gatewayTo(t, p, all(server(t, tc.handler).URL))
			for _, method := range []string{"POST", "PUT"} {
				for _, head := range unfinished() {
					if got := finalStatus(t, g, method+" / HTTP/1.1\r\nHost: x\r\n"+head+"\r\n"); !strings.HasPrefix(got, tc.want) {
						t.Errorf("%s %q: got status %s, want %s", method, head, got, tc.want)
					}
				}
			}
		})
	}
	t.Run("the circuit is open", func(t *testing.T) {
		p := calm()
		p.Breaker.ConsecutiveFailures = 1
		p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Minute, time.Minute
		g := gatewayTo(t, p, all(server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }).URL))
		get(t, g.URL)
		for _, head := range unfinished() {
			if got := finalStatus(t, g, "POST / HTTP/1.1\r\nHost: x\r\n"+head+"\r\n"); !strings.HasPrefix(got, "503") {
				t.Errorf("%q: got status %s, want 503", head, got)
			}
		}
	})
}

// With full duplex enabled, an unread request body made net/http's server panic at the connection's
// next request.
func TestUnreadBodiesDoNotBreakTheCallersConnection(t *testing.T) {
	open := calm()
	open.Breaker.ConsecutiveFailures = 1
	open.Breaker.OpenFor, open.Breaker.MaxOpenFor = time.Minute, time.Minute
	bad := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for name, tc := range map[string]struct {
		g      *httptest.Server
		status int
	}{
		"the circuit is open":        {gatewayTo(t, open, all(bad.URL)), http.StatusServiceUnavailable},
		"the connection is refused":  {gatewayTo(t, calm(), all(refusing(t))), http.StatusBadGateway},
		"the upstream does not read": {gatewayTo(t, calm(), all(bad.URL)), http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			get(t, tc.g.URL)
			// The gateway waits only 50 ms for the rest of a body, and then closes the connection.
			// On a busy machine, the rest may not be sent by then.
			wait.OneOf(t, 3, func() string { return postUnread(t, tc.g.URL, tc.status) })
		})
	}
}

// postUnread makes calls one after another whose bodies the gateway does not read. It returns what
// a delay of the machine can cause: too many connections, and an error of a call whose body comes
// in several pieces. When the gateway closes the connection before the last of them has come, the
// caller may get a reset and not the answer.
func postUnread(t *testing.T, url string, status int) string {
	t.Helper()
	connections := 0
	var dialer net.Dialer
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		connections++
		return dialer.DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	for i := range 50 {
		for _, size := range []int{1, 1000, 100_000} {
			r := request(t, http.MethodPost, url, strings.NewReader(strings.Repeat("x", size)))
			r.GetBody = nil // so that the transport does not hide a broken connection by retrying
			resp, err := tr.RoundTrip(r)
			if err != nil && size <= 1000 { // sent in one piece with the header
				t.Fatalf("call %d with %d bytes: got error %v, want none", i, size, err)
			}
			if err != nil {
				return fmt.Sprintf("call %d with %d bytes: got error %v, want none", i, size, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != status {
				t.Errorf("got status %s, want %d", resp.Status, status)
			}
		}
	}
	if connections > 5 {
		return fmt.Sprintf("got %d connections for 150 sequential calls, want at most 5", connections)
	}
	return ""
}

// Slow callers used to open the circuit of a healthy upstream.
func TestSlowUploadersDoNotOpenTheCircuit(t *testing.T) {
	t.Parallel()
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	c := gateway.ForUpstream(up.URL)
	p := calm()
	p.Timeout, p.AttemptTimeout, p.Breaker.ConsecutiveFailures = 1200*time.Millisecond, time.Second, 3
	c.Policies[gateway.DefaultPolicyName] = p
	g, err := gateway.New(c, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := server(t, g.ServeHTTP)
	for range 4 {
		if got := finalStatus(t, s, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na"); !strings.HasPrefix(got, "504") {
			t.Errorf("got status %s, want 504", got)
		}
	}
	if b := g.Upstreams()[0].Breaker; b.State != resilience.Closed || b.Consecutive != 0 {
		t.Errorf("got circuit %+v, want it closed without failures", b)
	}
}

func TestCallerWhoLeavesDuringAnUploadIsNeutral(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, r.Body)
	})
	g, err := gateway.New(gateway.ForUpstream(up.URL), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := httptest.NewServer(g)
	for range 12 {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		_, _ = bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
	}
	s.Close() // waits for the calls to end
	if b := g.Upstreams()[0].Breaker; b.State != resilience.Closed || b.Consecutive > 0 {
		t.Errorf("got circuit %+v, want it closed without failures", b)
	}
}

// Some clients send Upgrade: h2c with every request. The gateway used not to retry such requests.
func TestUpgradeToH2CIsNoUpgrade(t *testing.T) {
	attempts := 0
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			t.Errorf("the upstream got Upgrade: %s, want it removed", r.Header.Get("Upgrade"))
		}
		if attempts++; attempts == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	g := gatewayTo(t, calm(), all(up.URL))
	if got := finalStatus(t, g, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"); !strings.HasPrefix(got, "200") {
		t.Errorf("got status %s after %d attempts, want 200", got, attempts)
	}
}

// If an upstream switches protocols without being asked, its connection must be closed. It used to
// stay open.
func TestUnrequestedSwitchIsABadGatewayAndItsConnectionCloses(t *testing.T) {
	l := rawhttp.Listen(t)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
		_, _ = c.Read(make([]byte, 1))
	}()
	defer func() { _ = l.Close(); <-gone }()
	resp, body := get(t, gatewayTo(t, calm(), all("http://"+l.Addr().String())).URL)
	if p := problemOf(t, resp, body); resp.StatusCode != http.StatusBadGateway || p["reason"] != "upgrade" {
		t.Errorf("got status %d, body %s, want 502 and upgrade", resp.StatusCode, body)
	}
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("the connection to the upstream is still open, want it closed")
	}
}

// A 101 that names no protocol, to a request that asks for none, used to join the two connections.
func TestBare101JoinsNoConnections(t *testing.T) {
	for name, method := range map[string]string{"without a body": http.MethodGet, "with one": http.MethodPost} {
		t.Run(name, func(t *testing.T) {
			up := peer(t, func(c net.Conn, _ string) {
				_, _ = io.WriteString(c, "HTTP/1.1 101 X\r\n\r\n")
				_, _ = io.Copy(io.Discard, c)
			})
			text := method + " / HTTP/1.1\r\nHost: x\r\n"
			if method == http.MethodPost {
				text += "Content-Length: 1\r\n\r\nb"
			} else {
				text += "\r\n"
			}
			g, calls := observedGateway(t, calm(), gateway.Options{}, all(up))
			if got := finalStatus(t, g, text); !strings.HasPrefix(got, "502") {
				t.Errorf("got %s, want 502", got)
			}
			if c := <-calls; c.Status != http.StatusBadGateway || c.Report.Reason != resilience.ReasonUpgrade {
				t.Errorf("the call ended with status %d, reason %q, want 502 and %q", c.Status, c.Report.Reason, resilience.ReasonUpgrade)
			}
		})
	}
}

func TestResponsesWithoutABodyAndEarlyHints(t *testing.T) {
	attempts := 0
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		if attempts++; attempts%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "5")
			if r.Method != http.MethodHead {
				_, _ = io.WriteString(w, "hello")
			}
		}
	})
	g := gatewayTo(t, calm(), all(up.URL))
	for _, tc := range []struct {
		method, path string
		status       int
		body, length string
	}{
		{"HEAD", "/", 200, "", "5"}, {"GET", "/204", 204, "", ""}, {"GET", "/304", 304, "", ""}, {"GET", "/", 200, "hello", "5"},
	} {
		resp, body := do(t, request(t, tc.method, g.URL+tc.path, nil))
		if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Content-Length") != tc.length || resp.Header.Get("X-Attempt-Count") != "2" {
			t.Errorf("%s %s: got status %d, body %q, header %v, want %d, %q, Content-Length %q, 2 attempts", tc.method, tc.path, resp.StatusCode, body, resp.Header, tc.status, tc.body, tc.length)
		}
	}
}

// Observers used to get the decoded path. Escaped question marks and line breaks were lost, so that
// the live page repeated a different call than the caller's.
func TestPathIsReportedWithItsEscapes(t *testing.T) {
	for name, tc := range map[string]struct{ written, want string }{
		"nothing to escape":      {"/a:b,c/d", "/a:b,c/d"},
		"an escaped query":       {"/process%3Fx=1%2Fy", "/process%3Fx=1%2Fy"},
		"a line break":           {"/process%0d%0aX:%20y", "/process%0d%0aX:%20y"},
		"escaped without need":   {"/%70rocess", "/%70rocess"},
		"invalid bytes":          {"/caf\xc3\xa9\"", "/caf%C3%A9%22"},
		"escaped and real query": {"/process%3Fa?b", "/process%3Fa"},
	} {
		t.Run(name, func(t *testing.T) {
			provider, recorded := spans.Record()
			g, calls := observedGateway(t, calm(), gateway.Options{}, gateway.Route{Name: "routed", Match: "/routed/", Upstream: server(t, func(http.ResponseWriter, *http.Request) {}).URL})
			traced := httptest.NewServer(otelhttp.NewHandler(g.Config.Handler, "", otelhttp.WithTracerProvider(provider)))
			for _, route := range []string{"/routed", "/elsewhere"} {
				finalStatus(t, traced, "GET "+route+tc.written+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if c := <-calls; c.Path != route+tc.want {
					t.Errorf("%q: observer got path %q, want %q", route+tc.written, c.Path, route+tc.want)
				}
			}
			traced.Close() // waits for the spans to end
			var paths []string
			for _, s := range recorded.GetSpans() { // not always in the order of the calls
				attributes := attribute.NewSet(s.Attributes...)
				path, _ := attributes.Value(semconv.URLPathKey)
				paths = append(paths, path.AsString())
			}
			slices.Sort(paths)
			if want := []string{"/elsewhere" + tc.want, "/routed" + tc.want}; !slices.Equal(paths, want) {
				t.Errorf("%q: the spans' paths are %q, want %q", tc.written, paths, want)
			}
			resp, body := get(t, g.URL+"/elsewhere"+tc.want)
			if detail := problemOf(t, resp, body)["detail"]; detail != "no route matches GET /elsewhere"+tc.want {
				t.Errorf("got detail %q, want %q", detail, "no route matches GET /elsewhere"+tc.want)
			}
		})
	}
}

// An HTTP/1.0 request may have no host. Observers then get an empty host, and the upstream gets no
// X-Forwarded-Host.
func TestNoHost(t *testing.T) {
	var seen *http.Request
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen = r })
	g, calls := observedGateway(t, calm(), gateway.Options{}, all(up.URL), gateway.Route{Name: "host", Match: "shop.example/", Upstream: up.URL})
	for _, head := range []string{"GET /process HTTP/1.0\r\n", "GET /process HTTP/1.1\r\nHost:\r\n"} {
		if got := finalStatus(t, g, head+"\r\n"); !strings.HasPrefix(got, "200") {
			t.Fatalf("%q: got status %s, want 200", head, got)
		}
		if c := <-calls; c.Route != "all" || c.Host != "" || c.Path != "/process" || c.Scheme != "http" {
			t.Errorf("%q: observer got %+v, want route all, path /process, scheme http and no host", head, c)
		}
		if want := strings.TrimPrefix(up.URL, "http://"); seen.Host != want {
			t.Errorf("%q: the upstream got Host %q, want %q", head, seen.Host, want)
		}
		if host, made := seen.Header["X-Forwarded-Host"]; made {
			t.Errorf("%q: the upstream got X-Forwarded-Host %q, want none", head, host)
		}
	}
}

// panicking is a RoundTripper with a bug.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("oh") }

// Every call ends with a reason. An upgrade that was rejected at once used to have none.
func TestNoCallEndsWithoutAReason(t *testing.T) {
	switchTo := func(protocol string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
			_, _ = c.Read(make([]byte, 1))
		}
	}
	fail := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	read := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	upgrade := "\r\nConnection: Upgrade\r\nUpgrade: "
	for name, tc := range map[string]struct {
		request string // request line and headers
		body    string
		leave   bool // the caller hangs up before the answer
		handler http.HandlerFunc
		next    http.RoundTripper
		status  int
		reason  resilience.Reason
	}{
		"no route":                   {request: "GET /nowhere HTTP/1.1", status: 404, reason: resilience.ReasonNoRoute},
		"a proxy's method":           {request: "CONNECT shop.example:443 HTTP/1.1", status: 404, reason: resilience.ReasonNoRoute},
		"another method":             {request: "DELETE /read HTTP/1.1", status: 405, reason: resilience.ReasonMethodNotAllowed},
		"an upgrade to no protocol":  {request: "GET /all HTTP/1.1" + upgrade + "caf\xc3\xa9", status: 400, reason: resilience.ReasonUpgrade},
		"the same, and gone":         {request: "POST /all HTTP/1.1" + upgrade + "caf\xc3\xa9\r\nContent-Length: 9", leave: true, status: 400, reason: resilience.ReasonUpgrade},
		"a switch to something else": {request: "GET /all HTTP/1.1" + upgrade + "a", handler: switchTo("b"), status: 502, reason: resilience.ReasonUpgrade},
		"a switch to no protocol":    {request: "GET /all HTTP/1.1" + upgrade + "a", handler: switchTo("caf\xc3\xa9"), status: 502, reason: resilience.ReasonUpgrade},
		"an unrequested switch":      {request: "GET /all HTTP/1.1", handler: switchTo("b"), status: 502, reason: resilience.ReasonUpgrade},
		"a malformed body":           {request: "POST /all HTTP/1.1\r\nTransfer-Encoding: chunked", body: "nonsense\r\n", handler: read, status: 400, reason: resilience.ReasonBodyFailed},
		"a body that breaks off":     {request: "POST /all HTTP/1.1\r\nContent-Length: 9", body: "1234", leave: true, handler: read, status: 499, reason: resilience.ReasonCallerCanceled},
		"a body too large to keep":   {request: "PUT /all HTTP/1.1\r\nContent-Length: 9", body: "too large", handler: fail, status: 503, reason: resilience.ReasonBodyNotReplayable},
		"no time":                    {request: "GET /all HTTP/1.1\r\nX-Envoy-Expected-Rq-Timeout-Ms: 1", handler: hang, status: 504, reason: resilience.ReasonDeadlineExceeded},
		"gone":                       {request: "GET /all HTTP/1.1", leave: true, handler: hang, status: 499, reason: resilience.ReasonCallerCanceled},
		"a bug below":                {request: "GET /all HTTP/1.1", next: panicking{}, reason: resilience.ReasonResetBeforeHeaders},
	} {
		t.Run(name, func(t *testing.T) {
			p := calm()
			p.Retry.ReplayBuffer = 8
			upstream := server(t, tc.handler).URL
			g, calls := observedGateway(t, p, gateway.Options{Next: tc.next},
				gateway.Route{Name: "all", Match: "/all", Upstream: upstream}, gateway.Route{Name: "read", Match: "GET /read", Upstream: upstream})
			text := tc.request + "\r\nHost: x\r\n\r\n" + tc.body
			if tc.leave {
				c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, text)
				_ = c.Close()
			} else {
				finalStatus(t, g, text)
			}
			select {
			case c := <-calls:
				if c.Report.Reason != tc.reason || c.Status != tc.status {
					t.Errorf("got status %d and reason %q, want %d and %q", c.Status, c.Report.Reason, tc.status, tc.reason)
				}
			case <-time.After(10 * time.Second):
				t.Error("observer got nothing in 10 s, want the call")
			}
		})
	}
}

// The router used to decode a path before it cleaned it, which led to the wrong route. For ServeMux
// and for upstreams an escaped slash is part of a segment.
func TestRoutesAreFoundByTheEscapedPath(t *testing.T) {
	var routes []gateway.Route
	for name, match := range map[string]string{"order": "/orders/{id}", "public": "/public/{name...}", "private": "/private"} {
		up := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, name+" gets "+r.RequestURI) })
		routes = append(routes, gateway.Route{Name: name, Match: match, Upstream: up.URL})
	}
	g := gatewayTo(t, calm(), routes...)
	for path, route := range map[string]string{
		"/orders/a%2F%2Fb":            "order",
		"/orders/..%2F.":              "order",
		"/orders/%2E%2E%2Fprivate":    "order",
		"/public/..%2Fprivate":        "public",
		"/public/%2e%2e%2fprivate":    "public",
		"/public/..%2Fprivate//x":     "public",
		"/public//100%25/":            "public",
		"/public/./100%25%2F/../x":    "public",
		"/public/../private":          "private",
		"/public/a%2F../../private":   "public",
		"/public/%2e%2E/private":      "private",
		"/.//private":                 "private",
		"/public/../orders/a%2Fb%20c": "order",
	} {
		r := request(t, http.MethodGet, g.URL, nil)
		r.URL.Opaque = path // send the path as it is written
		resp, body := do(t, r)
		if resp.StatusCode == http.StatusBadRequest { // see TestNoPathLeavesItsRoute
			if p := problemOf(t, resp, body); p["route"] != route || p["reason"] != string(resilience.ReasonInvalidRequest) {
				t.Errorf("%s: got status %s, body %s, want route %s", path, resp.Status, body, route)
			}
		} else if body != route+" gets "+path {
			t.Errorf("%s: got status %s, body %s, want route %s", path, resp.Status, body, route)
		}
	}
}
