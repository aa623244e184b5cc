package gateway_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// echoesHost answers every attempt with the upstream's host, which routed sets to the route's name.
type echoesHost struct{}

func (echoesHost) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Hostname()
	return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(name)), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(name)), Request: r}, nil
}

// routed returns a gateway with one route per pattern. The routes are named r0, r1 and so on.
func routed(t *testing.T, patterns ...string) (*gateway.Gateway, error) {
	t.Helper()
	c := gateway.DefaultConfig()
	for i, p := range patterns {
		name := fmt.Sprintf("r%d", i)
		c.Routes = append(c.Routes, gateway.Route{Name: name, Match: p, Upstream: "http://" + name, Policy: gateway.DefaultPolicyName})
	}
	return gateway.New(c, gateway.Options{Next: echoesHost{}})
}

// ask returns the name of the route that serves a request, or the error's status and Allow header.
func ask(t *testing.T, g http.Handler, method, host, target string) string {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: method, URL: u, RequestURI: target, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, RemoteAddr: "127.0.0.1:1"}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r.WithContext(t.Context()))
	if w.Code == http.StatusOK {
		return w.Body.String()
	}
	if got := w.Header().Get("Content-Type"); got != problem.ContentType {
		t.Errorf("%s %s%s: got status %d with Content-Type %q, want a problem document", method, host, target, w.Code, got)
	}
	answer := fmt.Sprint(w.Code)
	if allow := w.Header().Get("Allow"); allow != "" {
		answer += " " + allow
	}
	return answer
}

func TestNoRedirectIsInvented(t *testing.T) {
	for name, tc := range map[string]struct {
		patterns []string
		method   string
		target   string
		want     string
	}{
		"a tree without its slash, with a catch-all":  {[]string{"/api/", "/"}, "GET", "/api", "r1"},
		"a tree without its slash":                    {[]string{"/api/"}, "GET", "/api", "404"},
		"a tree without its slash, another method":    {[]string{"GET /api/"}, "POST", "/api", "404"},
		"a wildcard tree without its slash":           {[]string{"/t/{id}/"}, "GET", "/t/%2f%2fx", "404"},
		"the same with a catch-all":                   {[]string{"/t/{id}/", "/"}, "GET", "/t/%2f%2fx", "r1"},
		"an escaped slash is part of a name":          {[]string{"/t/{id}"}, "GET", "/t/%2f%2fx", "r0"},
		"an asterisk with a catch-all":                {[]string{"/", "/{x}"}, "GET", "*", "r0"},
		"an asterisk without":                         {[]string{"/{x}"}, "GET", "*", "404"},
		"an asterisk and the root alone":              {[]string{"/{$}"}, "OPTIONS", "*", "404"},
		"an empty path":                               {[]string{"/"}, "GET", "http://x", "r0"},
		"an empty path with a query":                  {[]string{"/{$}"}, "GET", "http://x?a=b", "r0"},
		"an empty path without a catch-all":           {[]string{"/api"}, "GET", "http://x", "404"},
		"two slashes":                                 {[]string{"/api/x", "/"}, "GET", "/api//x", "r0"},
		"dots":                                        {[]string{"/api/x", "/"}, "GET", "/api/./y/../x", "r0"},
		"dots above the root":                         {[]string{"/x", "/"}, "GET", "/../../x", "r0"},
		"a URL that is no path":                       {[]string{"/"}, "GET", "urn:x", "404"},
		"the root of a tree, exactly":                 {[]string{"/api/{$}", "/"}, "GET", "/api", "r1"},
		"the root of a tree, exactly, with its slash": {[]string{"/api/{$}", "/"}, "GET", "/api/", "r0"},
		"another method":                              {[]string{"GET /a", "POST /a"}, "PUT", "/a", "405 GET, HEAD, POST"},
		"another method, and a catch-all for any":     {[]string{"GET /a", "/"}, "PUT", "/a", "r1"},
		"an unusual method":                           {[]string{"M-SEARCH /a"}, "M-SEARCH", "/a", "r0"},
		"an unusual method for another":               {[]string{"M-SEARCH /a"}, "GET", "/a", "405 M-SEARCH"},
		"bytes that no URL may have beside an escape": {[]string{"/f/{name}"}, "GET", "/f/a%2Fb|c", "r0"},
		"the same in two segments":                    {[]string{"/f/{x}/{y}"}, "GET", "/f/a%2Fb|c", "404"},
		"a literal that needs an escape":              {[]string{"/a%20b"}, "GET", "/a%20b", "r0"},
		"a literal with an escape that is not needed": {[]string{"/%61"}, "GET", "/a", "r0"},
		"backtracking from a literal to a wildcard":   {[]string{"/a/b/c", "/a/{x}/d"}, "GET", "/a/b/d", "r1"},
		"backtracking over a method":                  {[]string{"GET /a/b", "/a/{x}"}, "PUT", "/a/b", "r1"},
		"backtracking to a tree":                      {[]string{"/a/{x}/c", "/a/"}, "GET", "/a/b/d", "r1"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := routed(t, tc.patterns...)
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, g, tc.method, "x", tc.target); got != tc.want {
				t.Errorf("%s %s of %q: got %s, want %s", tc.method, tc.target, tc.patterns, got, tc.want)
			}
		})
	}
}

// Observers get requests without a route too, including those that ServeMux would redirect.
func TestRequestsWithoutRouteAreObserved(t *testing.T) {
	g, calls := observedGateway(t, calm(), gateway.Options{}, gateway.Route{Name: "api", Match: "/api/", Upstream: refusing(t)})
	for _, head := range []string{"GET /api HTTP/1.1\r\n", "GET * HTTP/1.1\r\n", "GET http://x HTTP/1.1\r\n", "CONNECT x:1 HTTP/1.1\r\n"} {
		if got := finalStatus(t, g, head+"Host: x\r\n\r\n"); !strings.HasPrefix(got, "404") {
			t.Errorf("%q: got status %s, want 404", head, got)
		}
		if c := <-calls; c.Status != 404 || c.Report.Reason != "no_route" || !strings.HasPrefix(c.Caller, "127.0.0.1:") {
			t.Errorf("%q: observer got %+v, want status 404, no_route and a caller on 127.0.0.1", head, c)
		}
	}
}

func TestHostsAreComparedWithoutCasePortAndDot(t *testing.T) {
	g, err := routed(t, "Upper.example.com/", "admin.example.com./x", "[::1]/", "/", "GET lower.example.com/only")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"upper.example.com": "r0", "UPPER.example.com:8080": "r0", "Upper.Example.Com.": "r0", "upper.example.com.:80": "r0",
		"[::1]": "r2", "[::1]:8080": "r2", "[0:0::1]": "r2", "other.example.com": "r3", "": "r3", "example.com": "r3",
	} {
		if got := ask(t, g, "GET", host, "/any"); got != want {
			t.Errorf("%q: got %s, want %s", host, got, want)
		}
	}
	for _, host := range []string{"ADMIN.example.com", "admin.example.com.", "admin.example.com:443"} {
		if got := ask(t, g, "GET", host, "/x"); got != "r1" {
			t.Errorf("%q: got %s, want r1", host, got)
		}
	}
	if got := ask(t, g, "PUT", "lower.example.com", "/only"); got != "r3" {
		t.Errorf("a method that the host's pattern does not match: got %s, want r3", got)
	}
}

func TestPatternsThatMatchNothingAreRejected(t *testing.T) {
	for pattern, want := range map[string]string{
		"host:8080/":           "without a port",
		"*.wild.com/":          "must name a whole host",
		"bücher.example/":      "xn--",
		"a..b/":                "must name a host",
		"a@b/":                 "must name a host",
		"[::g]/":               "must name a host",
		"./":                   "must name a host",
		"/a//b":                "/a/b and not /a//b",
		"/a/../b":              "/b and not /a/../b",
		"/a/..%2fb":            "beside an escaped slash",
		"/a/%2e%2E/b":          "/b and not /a/%2e%2E/b",
		"/a/.":                 "/a and not /a/.",
		"/search?q={q}":        "without a query",
		"/a#b":                 "without a query",
		"/a%zz":                "two hexadecimal digits",
		"get /a":               "capital letters",
		"GE(T /a":              "capital letters",
		"/{a}/{a}":             "duplicate wildcard name",
		"{a}/b":                "host contains '{'",
		"a.example/{x":         "bad wildcard segment",
		"process":              "host/path missing /",
		"GET example.com/{$}x": "bad wildcard segment",
	} {
		_, err := routed(t, pattern)
		if err == nil || !strings.Contains(err.Error(), "routes[0].match") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %q", pattern, err, want)
		}
	}
	for _, pattern := range []string{"M-SEARCH /a", "Custom /a", "a_b.example/", "localhost/", "10.0.0.1/", "/.well-known/x", "/a/..b", "/%3F", "/a%2F%2Fb"} {
		if _, err := routed(t, pattern); err != nil {
			t.Errorf("%q: got error %v, want none", pattern, err)
		}
	}
	if _, err := routed(t, "Same.example/", "same.example./"); err == nil || !strings.Contains(err.Error(), "routes[0]") {
		t.Errorf("the same host twice: got error %v, want one that names routes[0]", err)
	}
}

// The router's patterns and their precedence are those of ServeMux. For random patterns that
// ServeMux accepts and random requests, both choose the same route unless ServeMux redirects.
func TestRouterAgreesWithServeMux(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	path := func(segments ...string) string {
		var b strings.Builder
		for range random.IntN(4) {
			b.WriteString("/" + pick(segments...))
		}
		return b.String()
	}
	compared := 0
	for range 300 {
		mux := http.NewServeMux()
		var patterns []string
		for range 1 + random.IntN(6) {
			p := pick("", "", "h.example") + path("a", "b", "{x}", "{y}", "%61", "a%2Fb") + pick("", "/", "/{$}", "/{rest...}")
			if method := pick("", "", "GET", "POST", "HEAD"); method != "" {
				p = method + " " + p
			}
			if !strings.Contains(p, "/") {
				continue
			}
			if taken := func() (ok bool) {
				defer func() { ok = recover() == nil }()
				name := fmt.Sprintf("r%d", len(patterns))
				mux.HandleFunc(p, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
				return true
			}(); taken {
				patterns = append(patterns, p)
			}
		}
		if len(patterns) == 0 {
			continue
		}
		g, err := routed(t, patterns...)
		if err != nil {
			t.Fatalf("%q: got error %v, want none", patterns, err)
		}
		for range 40 {
			method, host := pick("GET", "POST", "HEAD", "PUT"), pick("h.example", "h.example:80", "other")
			target := path("a", "b", "c", "%61", "a%2Fb") + pick("", "/")
			if target == "" {
				target = "/"
			}
			r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
			r.Host = host
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			want := w.Body.String()
			switch w.Code {
			case http.StatusOK:
			case http.StatusMethodNotAllowed:
				// ServeMux also counts patterns that only match after a redirect.
				if got := ask(t, g, method, host, target); got != "404" && !strings.HasPrefix(got, "405") {
					t.Errorf("%q: %s %s%s: got %s, want 404 or 405 as ServeMux says 405", patterns, method, host, target, got)
				}
				continue
			case http.StatusNotFound:
				want = "404"
			default:
				if got := ask(t, g, method, host, target); strings.HasPrefix(got, "3") {
					t.Errorf("%q: %s %s%s: got %s, want no redirect", patterns, method, host, target, got)
				}
				continue
			}
			compared++
			if got := ask(t, g, method, host, target); got != want {
				t.Errorf("%q: %s %s%s: got %s, want %s as ServeMux says", patterns, method, host, target, got, want)
			}
		}
	}
	if compared < 2000 {
		t.Errorf("compared %d requests, want at least 2000", compared)
	}
}

func TestListenerMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		trust []string
		want  []string
	}{
		"nobody":          {[]string{}, nil},
		"everybody":       {[]string{"*"}, nil},
		"networks":        {[]string{"10.0.0.0/8", "fd00::/8"}, nil},
		"an address":      {[]string{"10.0.0.1"}, []string{`listener.trust[0]: must be a network such as 10.0.0.0/8 or fd00::/8, or * for everybody, got "10.0.0.1"`}},
		"bits behind":     {[]string{"10.0.0.1/8"}, []string{"listener.trust[0]: must be a network without bits behind its mask: 10.0.0.0/8 and not 10.0.0.1/8"}},
		"twice":           {[]string{"10.0.0.0/8", "10.0.0.0/8"}, []string{"listener.trust[1]: 10.0.0.0/8 is there already"}},
		"more than all":   {[]string{"*", "10.0.0.0/8"}, []string{`listener.trust[0]: "*" trusts everybody and must stand alone`}},
		"IPv4 as IPv6":    {[]string{"::ffff:10.0.0.0/104"}, []string{"listener.trust[0]: must be written as the IPv4 network"}},
		"several at once": {[]string{"x", "y"}, []string{"listener.trust[0]", "listener.trust[1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.ForUpstream("http://up")
			c.Listener.Trust = tc.trust
			err := c.Validate()
			if (err == nil) != (tc.want == nil) {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want %q", err, want)
				}
			}
		})
	}
	c := gateway.ForUpstream("http://up")
	c.Listener.SendTimeout = -1
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "listener.sendTimeout: must be at least 0 (never), got -1ns") {
		t.Errorf("got error %v, want one about listener.sendTimeout", err)
	}
	if !slices.Contains(gateway.DefaultConfig().Listener.Trust, "127.0.0.0/8") {
		t.Errorf("the default listener trusts %q, want 127.0.0.0/8 among them", gateway.DefaultConfig().Listener.Trust)
	}
}
