package gateway_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// secureConfig returns a configuration with a data port that speaks TLS.
func secureConfig(upstream string, files *pki.Secret) gateway.Config {
	c := gateway.ForUpstream(upstream)
	c.Listener.TLS = gateway.ListenerTLS{CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key")}
	return c
}

// A rotated certificate is shown without a restart, and a wrong one never. A reload can name other
// files, but cannot switch TLS off.
func TestDataPortTLS(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", r.Header.Get("X-Forwarded-Proto"))
	})
	first, second := pki.New(t, "first"), pki.New(t, "second")
	files := pki.NewSecret(t)
	write := func(a *pki.Authority) {
		cert, key := a.Issue("shop.example")
		files.Write(map[string][]byte{"tls.crt": cert, "tls.key": key})
	}
	write(first)
	c := secureConfig(up.URL, files)
	g, err := gateway.New(c, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	front := httptest.NewUnstartedServer(g)
	front.TLS, front.EnableHTTP2 = g.TLS(), true
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	t.Cleanup(front.Close)
	call := func(trusted *pki.Authority) (*http.Response, error) {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pki.Pool(trusted), MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, front.Listener.Addr().String())
			},
		}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Do(request(t, http.MethodGet, "https://shop.example/", nil))
		if err == nil {
			_ = resp.Body.Close()
		}
		return resp, err
	}
	resp, err := call(first)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Proto + " " + resp.Header.Get("X-Got"); got != "HTTP/2.0 https" {
		t.Errorf("got %s, want HTTP/2.0 https", got)
	}
	write(second)
	wait.Until(t, 20*time.Second, "the new certificate is shown", func() bool { _, err := call(second); return err == nil })
	files.Write(map[string][]byte{"tls.crt": nil, "tls.key": nil})
	wait.Until(t, 20*time.Second, "the wrong files are refused", func() bool {
		if _, err := call(second); err != nil {
			t.Fatal(err)
		}
		return g.FilesRefused()[""]
	})
	for name, tc := range map[string]struct {
		tls  gateway.ListenerTLS
		want string
	}{
		"off":     {gateway.ListenerTLS{}, "listener.tls: cannot be switched on or off by a reload; restart the program"},
		"no file": {gateway.ListenerTLS{CertFile: "/nonexistent", KeyFile: "/nonexistent"}, "listener.tls: the certificate file: open /nonexistent"},
		"no key":  {gateway.ListenerTLS{CertFile: "/nonexistent"}, "listener.tls.keyFile: must come with certFile"},
		"no cert": {gateway.ListenerTLS{KeyFile: "/nonexistent"}, "listener.tls.certFile: must come with keyFile"},
	} {
		t.Run(name, func(t *testing.T) {
			err := g.Reload(func() (gateway.Config, error) { other := c; other.Listener.TLS = tc.tls; return other, nil })
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %s", err, tc.want)
			}
		})
	}
	others := pki.NewSecret(t)
	cert, key := first.Issue("shop.example")
	others.Write(map[string][]byte{"tls.crt": cert, "tls.key": key})
	if err := g.Reload(func() (gateway.Config, error) { return secureConfig(up.URL, others), nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := call(first); err != nil {
		t.Errorf("after a reload with other files: %v", err)
	}
	if refused := g.FilesRefused(); len(refused) != 1 || refused[""] {
		t.Errorf("after a reload with other files: got %v refused, want only the data port, false", refused)
	}
	plain, err := gateway.New(gateway.ForUpstream(up.URL), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	if plain.TLS() != nil {
		t.Error("got a TLS configuration without listener.tls, want none")
	}
	if err := plain.Reload(func() (gateway.Config, error) { return secureConfig(up.URL, others), nil }); err == nil {
		t.Error("got no error for TLS switched on by a reload")
	}
}

// With disclose: false, callers learn nothing about attempts and upstreams.
func TestDisclose(t *testing.T) {
	hidden := func(h http.Header) string { return h.Get("X-Attempt-Count") + h.Get("Server-Timing") }
	failing := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Attempt-Count", "7") // as a gateway behind this one
		w.Header().Set("Server-Timing", "db;dur=5")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	garbled := rawUpstream(t, "SECRET garbage\r\n\r\n")
	hanging := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	early := rawUpstream(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: secret\r\n\r\n")
	for name, tc := range map[string]struct {
		upstream string
		status   int
		reason   resilience.Reason
		timing   string
	}{
		"passes an answer":  {failing.URL, http.StatusServiceUnavailable, "", "db;dur=5"},
		"refused":           {refusing(t), http.StatusBadGateway, resilience.ReasonMaxAttempts, ""},
		"not HTTP":          {"http://" + garbled, http.StatusBadGateway, resilience.ReasonNotHTTP, ""},
		"hangs":             {hanging.URL, http.StatusGatewayTimeout, resilience.ReasonMaxAttempts, ""},
		"switches protocol": {"http://" + early, http.StatusBadGateway, resilience.ReasonUpgrade, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.ForUpstream(tc.upstream)
			p := calm()
			p.Timeout, p.AttemptTimeout = 20*time.Second, 10*time.Second
			if name == "hangs" {
				p.AttemptTimeout = 100 * time.Millisecond
			}
			c.Policies[gateway.DefaultPolicyName] = p
			for _, disclose := range []bool{true, false} {
				c.Listener.Disclose = disclose
				resp, body := get(t, start(t, c).URL)
				if resp.StatusCode != tc.status {
					t.Fatalf("got status %d, body %s, want %d", resp.StatusCode, body, tc.status)
				}
				if shown := hidden(resp.Header) != tc.timing; shown != disclose {
					t.Errorf("disclose %v: got headers %v", disclose, resp.Header)
				}
				if tc.reason == "" {
					continue
				}
				p := problemOf(t, resp, body)
				if p["detail"] == nil || p["route"] != "upstream" || p["reason"] == nil {
					t.Errorf("disclose %v: got %s, want a detail, a reason and the route", disclose, body)
				}
				leak := strings.Contains(body, "127.0.0.1") || strings.Contains(body, "attempts\":") || strings.Contains(body, "last ended") || strings.Contains(body, "SECRET")
				if leak != disclose {
					t.Errorf("disclose %v: got %s", disclose, body)
				}
			}
		})
	}
}

// With disclose: false, an upstream's own count of attempts, such as that of a gateway behind this
// one, passes neither in trailers nor in informational answers.
func TestDiscloseInTrailersAndInformationalAnswers(t *testing.T) {
	const answer = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Attempt-Count: 7\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Attempt-Count, X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Attempt-Count: 7\r\nX-Sum: 1\r\n"
	for name, upstream := range map[string]string{
		"announced":   answer + "\r\n",
		"unannounced": strings.Replace(answer, "Trailer: X-Attempt-Count, X-Sum", "Trailer: X-Sum", 1) + "\r\n",
	} {
		for _, disclose := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, disclose %v", name, disclose), func(t *testing.T) {
				c := gateway.ForUpstream("http://" + rawUpstream(t, upstream))
				c.Listener.Disclose = disclose
				hints := http.Header{}
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
					hints = http.Header(h).Clone()
					return nil
				}})
				resp, body := do(t, request(t, http.MethodGet, start(t, c).URL, nil).WithContext(ctx))
				if body != "ok" || hints.Get("Link") == "" || resp.Trailer.Get("X-Sum") != "1" {
					t.Fatalf("got body %s, hints %v, trailer %v, want all of the answer", body, hints, resp.Trailer)
				}
				_, inHints := hints["X-Attempt-Count"]
				_, inTrailer := resp.Trailer["X-Attempt-Count"]
				if inHints != disclose || inTrailer != disclose {
					t.Errorf("got hints %v, trailer %v, want X-Attempt-Count in both: %v", hints, resp.Trailer, disclose)
				}
			})
		}
	}
}

// A request without a route is not told about attempts either.
func TestDiscloseWithoutARoute(t *testing.T) {
	for _, disclose := range []bool{true, false} {
		c := gateway.ForUpstream("http://127.0.0.1:1")
		c.Routes[0].Match, c.Listener.Disclose = "GET /known", disclose
		front := start(t, c).URL
		for name, r := range map[string]*http.Request{
			"no route":     request(t, http.MethodGet, front+"/other", nil),
			"wrong method": request(t, http.MethodPost, front+"/known", nil),
		} {
			resp, body := do(t, r)
			problemOf(t, resp, body)
			_, header := resp.Header[transport.HeaderAttemptCount]
			if document := strings.Contains(body, "attempts"); header != disclose || document != disclose {
				t.Errorf("%s, disclose %v: got headers %v, %s", name, disclose, resp.Header, body)
			}
		}
	}
}

// rawUpstream returns the address of a server that answers each connection with text.
func rawUpstream(t *testing.T, text string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}
