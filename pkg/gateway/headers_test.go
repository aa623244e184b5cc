package gateway_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// headersOver starts a gateway whose upstream tells which headers it got.
func headersOver(t *testing.T, headers map[string]gateway.Header, o gateway.Options) (g *gateway.Gateway, c gateway.Config, front string, got func() http.Header) {
	t.Helper()
	var last atomic.Pointer[http.Header]
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { last.Store(&r.Header) })
	c = gateway.ForUpstream("orders")
	entry := gateway.DefaultUpstream(up.URL)
	entry.Headers = headers
	c.Upstreams = map[string]gateway.Upstream{"orders": entry}
	g, s := gatewayOver(t, c, o)
	return g, c, s.URL, func() http.Header { return *last.Load() }
}

func TestUpstreamHeaders(t *testing.T) {
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"token": []byte("Bearer one\n")})
	_, _, front, got := headersOver(t, map[string]gateway.Header{
		"X-Tenant": {Value: "blue"}, "authorization": {File: files.Path("token")},
	}, gateway.Options{})
	for name, tc := range map[string]struct {
		method string
		want   string
	}{
		"a GET":                   {http.MethodGet, "blue, Bearer one"},
		"a POST":                  {http.MethodPost, "blue, Bearer one"},
		"a TRACE repeats headers": {http.MethodTrace, "the caller's, "},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, tc.method, front, nil)
			r.Header.Set("X-Tenant", "the caller's")
			do(t, r)
			h := got()
			if seen := strings.Join(h["X-Tenant"], "+") + ", " + strings.Join(h["Authorization"], "+"); seen != tc.want {
				t.Errorf("got %q at the upstream, want %q", seen, tc.want)
			}
		})
	}
}

// A caller cannot add to an upstream's headers by a name that CGI and WSGI servers take for the
// same.
func TestUpstreamHeadersHaveNoLookAlike(t *testing.T) {
	_, _, front, got := headersOver(t, map[string]gateway.Header{
		"X-Tenant": {Value: "blue"}, "Remote_User": {Value: "gateway"}, "X_Both-Ways": {Value: "ours"},
	}, gateway.Options{})
	r := request(t, http.MethodGet, front, nil)
	for _, name := range []string{"X_Tenant", "x_tenant", "Remote-User", "remote_user", "X-Both_Ways", "X_Other"} {
		r.Header[name] = []string{"the caller's"}
	}
	do(t, r)
	for name, values := range got() {
		if strings.Contains(values[0], "the caller's") && name != "X_other" {
			t.Errorf("got %s: %s at the upstream, want it dropped", name, values)
		}
	}
	if h := got(); h.Get("X-Tenant") != "blue" || h.Get("Remote_User") != "gateway" || h.Get("X_other") == "" {
		t.Errorf("got %v, want the configured headers, and the caller's other one", h)
	}
}

// Over HTTP/2, too, the space around a secret is not part of it.
func TestSpaceAroundAHeaderFile(t *testing.T) {
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"token": []byte("\t two words \r\n"), "blank": []byte(" \n")})
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+strconv.Quote(r.Header.Get("X-Token")))
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	c := gateway.ForUpstream("orders")
	entry := gateway.DefaultUpstream("h2c://" + strings.TrimPrefix(up.URL, "http://"))
	entry.Headers = map[string]gateway.Header{"X-Token": {File: files.Path("token")}}
	c.Upstreams = map[string]gateway.Upstream{"orders": entry}
	if _, body := get(t, start(t, c).URL); body != `HTTP/2.0 "two words"` {
		t.Errorf("got %s at the upstream, want two words over HTTP/2", body)
	}
	entry.Headers["X-Token"] = gateway.Header{File: files.Path("blank")}
	if _, err := gateway.New(c, gateway.Options{}); err == nil || !strings.Contains(err.Error(), "blank: expected a value, got a file without one") {
		t.Errorf("got error %v for a file of spaces, want one", err)
	}
}

// A changed secret is taken without a restart. A wrong file keeps the old value, and says so once.
// Nothing prints a secret.
func TestRotatedHeader(t *testing.T) {
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"token": []byte("secret-one")})
	var lines output.Buffer
	logger := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g, c, front, got := headersOver(t, map[string]gateway.Header{"X-Token": {File: files.Path("token")}},
		gateway.Options{Logger: logger})
	token := func() string { get(t, front); return got().Get("X-Token") }
	if seen := token(); seen != "secret-one" {
		t.Errorf("got %q, want secret-one", seen)
	}
	files.Write(map[string][]byte{"token": []byte("secret-two\r\n")})
	wait.Until(t, 20*time.Second, "the new value is used", func() bool { return token() == "secret-two" })

	for _, wrong := range []string{"", "secret-\ninjected: 1"} {
		files.Write(map[string][]byte{"token": []byte(wrong)})
		before := len(lines.String())
		since := func() string { return lines.String()[before:] }
		wait.Until(t, 20*time.Second, "the wrong file is reported", func() bool {
			if seen := token(); seen != "secret-two" {
				t.Fatalf("got %q, want secret-two", seen)
			}
			return strings.Contains(since(), "file refused")
		})
		for end := time.Now().Add(1100 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			token()
		}
		if n := strings.Count(since(), "file refused"); n != 1 || !strings.Contains(since(), files.Path("token")) {
			t.Errorf("%.20q: got %d lines, want one that names the file:\n%s", wrong, n, since())
		}
		if !g.FilesRefused()[g.Upstreams()[0].Upstream] {
			t.Errorf("got %v refused, want the upstream with the header", g.FilesRefused())
		}
		if strings.Contains(since(), "secret-") {
			t.Errorf("got a log with the secret:\n%s", since())
		}
		if err := g.Reload(func() (gateway.Config, error) { return c, nil }); err != nil {
			t.Errorf("a reload of something else with the wrong file: got error %v, want none", err)
		}
		if seen := token(); seen != "secret-two" {
			t.Errorf("after the reload: got %q, want secret-two", seen)
		}
		changed, entry := c, c.Upstreams["orders"]
		entry.Headers = map[string]gateway.Header{"X-Token": entry.Headers["X-Token"], "X-Tenant": {Value: "blue"}}
		changed.Upstreams = map[string]gateway.Upstream{"orders": entry}
		err := g.Reload(func() (gateway.Config, error) { return changed, nil })
		if err == nil || !strings.HasPrefix(err.Error(), "upstreams.orders.headers: X-Token: ") || strings.Contains(err.Error(), "secret-") {
			t.Errorf("a reload with the wrong file: got error %v, want one with the key and without the secret", err)
		}
	}
	printed, err := config.Marshal(g.Config())
	if want := "headers:\n      X-Token:\n        file: " + files.Path("token"); err != nil || !strings.Contains(string(printed), want) {
		t.Errorf("got error %v, configuration\n%s\nwant %s", err, printed, want)
	}
}

// The line about a refused file names the upstream as the metrics do, also where several share an
// origin.
func TestRefusedFileNamesItsUpstream(t *testing.T) {
	up := server(t, func(http.ResponseWriter, *http.Request) {})
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"token": []byte("a")})
	c := gateway.ForUpstream("orders")
	c.Routes = append(c.Routes, gateway.Route{Name: "other", Match: "/other", Upstream: "other", Policy: gateway.DefaultPolicyName})
	entry := gateway.DefaultUpstream(up.URL)
	c.Upstreams = map[string]gateway.Upstream{"other": entry}
	entry.Headers = map[string]gateway.Header{"X-Token": {File: files.Path("token")}}
	c.Upstreams["orders"] = entry
	var lines output.Buffer
	g, s := gatewayOver(t, c, gateway.Options{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	files.Write(map[string][]byte{"token": nil})
	name := up.URL + "#orders"
	wait.Until(t, 20*time.Second, "the file is refused", func() bool { get(t, s.URL); return g.FilesRefused()[name] })
	if !strings.Contains(lines.String(), "upstream="+name) {
		t.Errorf("got %s, want a line with %s", lines.String(), name)
	}
}

func TestUpstreamHeaderMistakes(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"none":             {"X-A:", `6:11: upstreams.o.headers.X-A: expected a string or a mapping, got nothing`},
		"a number":         {"X-A: 3", `6:12: upstreams.o.headers.X-A: expected a string, got 3; write "3" if the text is meant`},
		"empty":            {`X-A: ""`, `6:12: upstreams.o.headers.X-A: must have a value or a file with the value, and not both`},
		"both":             {"X-A: {value: a, file: b}", `6:12: upstreams.o.headers.X-A: must have a value or a file with the value, and not both`},
		"another key":      {"X-A: {files: b}", `6:13: upstreams.o.headers.X-A.files: unknown key, did you mean "file"? allowed: value, file`},
		"a line break":     {`X-A: "a\nb"`, `6:12: upstreams.o.headers.X-A: must be printable and on one line`},
		"spaces around it": {`X-A: " a"`, `6:12: upstreams.o.headers.X-A: must not begin or end with a space or a tab`},
		"not a name":       {`"X A": a`, `6:14: upstreams.o.headers["X A"]: must be the name of a header, got "X A"`},
		"the host":         {"host: a", `6:13: upstreams.o.headers.host: must be left out: set the upstream's host instead`},
		"a length":         {"content-length: a", `6:23: upstreams.o.headers.content-length: must be left out: it describes the message, the caller or the attempt, so the gateway sets it`},
		"the caller":       {"X-Forwarded-For: a", `6:24: upstreams.o.headers.X-Forwarded-For: must be left out: it describes the message, the caller or the attempt, so the gateway sets it`},
		"like the caller":  {"X_Forwarded_For: a", `6:24: upstreams.o.headers.X_Forwarded_For: must be left out: it describes the message, the caller or the attempt, so the gateway sets it`},
		"one key for all":  {"idempotency-key: a", `6:24: upstreams.o.headers.idempotency-key: must be left out: one key for all requests would make the upstream ignore all but one`},
		"twice":            {"{X-A: a, x-a: b}", `upstreams.o.headers.x-a: is the same header as X-A`},
		"a list":           {"X-A: [a]", `6:12: upstreams.o.headers.X-A: expected a string or a mapping, got a list`},
		"without the file": {"X-A: {}", `6:12: upstreams.o.headers.X-A: must have a value or a file with the value, and not both`},
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.DefaultConfig()
			text := "routes: [{name: o, match: /, upstream: o}]\nupstreams:\n  o:\n    url: http://o\n    headers:\n      " + tc.yaml + "\n"
			if err := config.Decode("f", []byte(text), &c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %s", err, tc.want)
			}
		})
	}
}

// Other headers are no reason to connect again.
func TestReloadOfHeadersKeepsConnections(t *testing.T) {
	var addresses []string
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		addresses = append(addresses, r.RemoteAddr)
		_, _ = io.WriteString(w, r.Header.Get("X-Tenant"))
	})
	with := func(tenant string) gateway.Config {
		c := gateway.ForUpstream("orders")
		entry := gateway.DefaultUpstream(up.URL)
		entry.Headers = map[string]gateway.Header{"X-Tenant": {Value: tenant}}
		c.Upstreams = map[string]gateway.Upstream{"orders": entry}
		return patient(c)
	}
	g, front := gatewayOver(t, with("blue"), gateway.Options{})
	for _, tenant := range []string{"blue", "green"} {
		if err := g.Reload(func() (gateway.Config, error) { return with(tenant), nil }); err != nil {
			t.Fatal(err)
		}
		if _, body := get(t, front.URL); body != tenant {
			t.Errorf("got %q, want %s", body, tenant)
		}
	}
	if addresses[0] != addresses[1] {
		t.Errorf("got the connections %v, want one", addresses)
	}
}
