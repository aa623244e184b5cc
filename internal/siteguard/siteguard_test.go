package siteguard_test

import (
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/siteguard"
)

// A request for a name that a site could resolve to this server is rejected.
func TestNamesThatMayBeAnotherSites(t *testing.T) {
	for name, allowed := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:8081": true, "10.1.2.3:8081": true, "[::1]:8081": true, "[::1]": true, "[fe80::1%25eth0]:8081": true,
		"localhost": true, "LocalHost:8081": true, "localhost.": true, "my.localhost:80": true,
		"client:8081": true, "client.default.svc:8081": true, "client.default.svc.cluster.local": true, "laptop.local": true,
		"host.docker.internal:8081": true, "example.com": true, "": true,
		"evil.com": false, "evil.com:8081": false, "localhost.evil.com": false, "127.0.0.1.evil.com:8081": false, "evil.com.": false,
		"evilexample.com": false, "client.dev:8081": false, "notlocal.evillocal.co": false, "client.default:8081": true, "flaky-server.my-namespace:5001": true, "live:80": true, "1.2.3.4.evil.org": false, "me.github.io": false,
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPut} {
				status := ask(t, method, name, nil)
				if want := map[bool]int{true: http.StatusOK, false: http.StatusForbidden}[allowed]; status != want {
					t.Errorf("%s: got status %d, want %d", method, status, want)
				}
			}
		})
	}
}

func TestNamesThatAreAllowed(t *testing.T) {
	for name, tc := range map[string]struct {
		flag string
		want int
	}{
		"of the list": {"rebound.acme.io,other.acme.io", 200}, "any case": {"REBOUND.acme.io", 200}, "every name": {"*", 200}, "another": {"acme.io", 403},
	} {
		t.Run(name, func(t *testing.T) {
			var hosts siteguard.Hosts
			if err := hosts.Set(tc.flag); err != nil || hosts.String() != tc.flag {
				t.Fatalf("got hosts %q (error %v), want %q", hosts, err, tc.flag)
			}
			if status := ask(t, http.MethodPut, "rebound.acme.io:443", hosts); status != tc.want {
				t.Errorf("got status %d, want %d", status, tc.want)
			}
		})
	}
	fs := flag.NewFlagSet("client", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(new(siteguard.Hosts), "hosts", "")
	for _, wrong := range []string{"", "a,,b", "http://a.io", "a.io:80", "*.io", "a b"} {
		if err := fs.Parse([]string{"--hosts", wrong}); err == nil || !strings.Contains(err.Error(), "must be comma-separated names") {
			t.Errorf("--hosts %q: got error %v, want one about the names", wrong, err)
		}
	}
}

func TestOtherOrigins(t *testing.T) {
	for name, tc := range map[string]struct {
		method string
		header []string
		want   int
	}{
		"curl reads":                      {"GET", nil, 200},
		"curl changes":                    {"PUT", nil, 200},
		"the page reads":                  {"GET", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		"the page changes":                {"PUT", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://localhost:8081"}, 200},
		"typed":                           {"GET", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		"a link on another site":          {"GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		"a frame on another site":         {"GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		"another site reads":              {"GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		"another port of this host reads": {"GET", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
		"another site changes":            {"PUT", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"an old browser changes":          {"POST", []string{"Origin", "http://evil.com"}, 403},
		"a file changes":                  {"POST", []string{"Origin", "null"}, 403},
		"a form of another site":          {"POST", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			if status := ask(t, tc.method, "localhost:8081", nil, tc.header...); status != tc.want {
				t.Errorf("got status %d, want %d", status, tc.want)
			}
		})
	}
}

func ask(t *testing.T, method, host string, hosts []string, header ...string) int {
	t.Helper()
	served := false
	guarded := siteguard.Guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }), func(w http.ResponseWriter, detail string) { http.Error(w, detail, http.StatusForbidden) }, hosts...)
	r := httptest.NewRequestWithContext(t.Context(), method, "/api/faults", nil)
	r.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	guarded.ServeHTTP(w, r)
	if refused := w.Code == http.StatusForbidden; served == refused || refused && len(w.Body.String()) < 20 {
		t.Errorf("next called: %v; got %d %q, want a call or a 403 with a reason", served, w.Code, w.Body)
	}
	return w.Code
}
