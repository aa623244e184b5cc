package gateway_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
)

// lines is a log in JSON. It is safe for concurrent use.
type lines struct{ output.Buffer }

// withMessage returns the lines whose msg is message.
func (l *lines) withMessage(t *testing.T, message string) (found []map[string]any) {
	t.Helper()
	for text := range strings.Lines(l.String()) {
		line := map[string]any{}
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("got log line %s, error %v, want JSON", text, err)
		}
		if line["msg"] == message {
			found = append(found, line)
		}
	}
	return found
}

// logged serves a gateway that logs at the debug level, in the same way as cmd/client.
func logged(t *testing.T, c gateway.Config) (url string, log *lines) {
	t.Helper()
	log = &lines{}
	logger := slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g, err := gateway.New(c, gateway.Options{Logger: logger, Observers: []observe.Observer{gateway.LogObserver(logger)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return server(t, g.ServeHTTP).URL, log
}

// Two policies share an upstream. The log line names the policy whose circuit opened.
func TestTransitionNamesThePolicy(t *testing.T) {
	up := refusing(t)
	c := gateway.DefaultConfig()
	for policy, failures := range map[string]int{"strict": 1, "patient": 5} {
		p := calm()
		p.Retry.MaxAttempts, p.Breaker.ConsecutiveFailures = 1, failures
		p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Hour, time.Hour // half-open would be a second line
		c.Policies[policy] = p
		c.Routes = append(c.Routes, gateway.Route{Name: policy, Match: "/" + policy, Upstream: up, Policy: policy})
	}
	base, log := logged(t, c)
	get(t, base+"/strict")
	get(t, base+"/patient")
	got := log.withMessage(t, "circuit changed")
	if len(got) != 1 || got[0]["policy"] != "strict" || got[0]["upstream"] != up || got[0]["to"] != "open" {
		t.Errorf("got %v, want one line: policy strict, upstream %s, to open", got, up)
	}
}

func TestCallLogLine(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/bad") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	c := gateway.ForUpstream(up.URL + "/base")
	c.Policies[gateway.DefaultPolicyName] = calm()
	c.Routes[0].Match = "/in/"
	base, log := logged(t, c)
	long := strings.Repeat("x", 600)
	for name, tc := range map[string]struct{ method, path, wantMethod, wantPath, wantUpstream string }{
		"a path":             {"GET", "/in/a?secret=1", "GET", "/in/a", up.URL},
		"an escaped one":     {"GET", "/in/a%2Fb%20c%0Ad", "GET", "/in/a%2Fb%20c%0Ad", up.URL},
		"a query only":       {"GET", "/in/?secret=/x", "GET", "/in/", up.URL},
		"one that fails":     {"GET", "/in/bad", "GET", "/in/bad", up.URL},
		"no route":           {"GET", "/out?secret=1", "GET", "/out", ""},
		"a long one":         {"GET", "/in/" + long + "?secret=1", "GET", ("/in/" + long)[:512] + "…", up.URL},
		"a long one, no way": {"GET", "/" + long, "GET", ("/" + long)[:512] + "…", ""},
		"a long method":      {strings.Repeat("M", 100), "/in/", strings.Repeat("M", 32) + "…", "/in/", up.URL},
		"beyond ASCII":       {"GET", "/in/é", "GET", "/in/%C3%A9", up.URL},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(log.withMessage(t, "call"))
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			r := request(t, tc.method, base+tc.path, nil)
			r.Header.Set("X-Request-Id", "id-"+url.PathEscape(strings.ReplaceAll(name, " ", "-")))
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			calls := log.withMessage(t, "call")
			if len(calls) != before+1 {
				t.Fatalf("got %d lines for one call, want 1", len(calls)-before)
			}
			got := calls[before]
			peer, _ := got["caller"].(string)
			if got["method"] != tc.wantMethod || got["path"] != tc.wantPath || got["upstream"] != tc.wantUpstream || !strings.HasPrefix(peer, "127.0.0.1:") {
				t.Errorf("got %v, want method %v, path %v, upstream %v and a caller on 127.0.0.1", got, tc.wantMethod, tc.wantPath, tc.wantUpstream)
			}
			text := fmt.Sprint(got)
			if strings.Contains(text, "secret") || !utf8.ValidString(text) || len(text) > 2000 {
				t.Errorf("got line %s, want at most 2000 bytes of UTF-8 without the secret", text)
			}
		})
	}
	// An attempt's line has the upstream and the request id.
	attempts := 0
	for _, a := range log.withMessage(t, "attempt") {
		if a["request_id"] == "id-one-that-fails" {
			attempts++
		}
		if a["upstream"] != up.URL || a["request_id"] == "" {
			t.Errorf("got attempt line %v, want upstream %s and a request id", a, up.URL)
		}
	}
	if attempts != 3 {
		t.Errorf("got %d attempt lines for the call that fails, want 3", attempts)
	}
}

// A request under a foreign Host may come from another site's script (DNS rebinding). Only the open
// paths answer it.
func TestForeignHostOnTheAdminPort(t *testing.T) {
	g, err := gateway.New(gateway.ForUpstream("http://127.0.0.1:1"), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	paths := map[string]bool{ // whether the path is open under every Host
		"/livez": true, "/readyz": true, "/metrics": true,
		"/": false, "/config": false, "/breakers": false, "/api/state": false, "/assets/x.js": false, "/nowhere": false,
		"/debug/pprof/": false, "/debug/pprof/cmdline": false, "/debug/pprof/heap": false, "/debug/pprof/symbol": false,
	}
	for pages, page := range map[string]http.Handler{"with the page": ok, "without": nil} {
		admin := g.Admin(ok, ok, ok, page, "rebound.example.net.evil.com")
		for path, open := range paths {
			for host, owned := range map[string]bool{"evil.com": false, "evil.com:8081": false, "localhost:8081": true, "10.0.0.1": true, "client.ns.svc": true, "rebound.example.net.evil.com": true} {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
				r.Host = host
				w := httptest.NewRecorder()
				admin.ServeHTTP(w, r)
				if refused := w.Code == http.StatusForbidden; refused == (open || owned) {
					t.Errorf("%s: %s of %s: got status %d, body %s, want 403 %v", pages, path, host, w.Code, w.Body, !open && !owned)
				} else if refused && w.Header().Get("Content-Type") != problem.ContentType {
					t.Errorf("%s: %s of %s: got %s, want a problem document", pages, path, host, w.Body)
				}
			}
			// Another site's script runs in a browser on this machine.
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.Host = "localhost:8081"
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Mode", "no-cors")
			w := httptest.NewRecorder()
			admin.ServeHTTP(w, r)
			if (w.Code == http.StatusForbidden) == open {
				t.Errorf("%s: %s for another site's script: got status %d, want 403 %v", pages, path, w.Code, !open)
			}
		}
	}
}

func TestInvalidUpstreams(t *testing.T) {
	for upstream, want := range map[string]string{
		"http://$(HOST):5000":        "the host must be a name",
		"http://a,b:5000":            "the host must be a name",
		"http://unix:/run/x.sock":    "there is no port after the colon",
		"http://*:5000":              "the host must be a name",
		"http://a..b":                "the host must be a name",
		"http://-a":                  "the host must be a name",
		"http://300.1.1.1":           "the host must be a name",
		"http://<host>":              "the host must be a name",
		"http://":                    "there is no host",
		"http://a:0":                 "the port must be from 1 to 65535",
		"http://flaky_server-1:5000": "",
		"http://10.0.0.1:5000/base":  "",
		"http://[::1]:5000":          "",
		"https://API.example.com.":   "",
	} {
		err := gateway.ForUpstream(upstream).Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "routes[0].upstream: must be a URL such as http://flaky-server:5000, got ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got error %v, want %q", upstream, err, want)
		}
	}
}
