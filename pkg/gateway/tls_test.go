package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// secureUpstream is a server that asks for client certificates. Both can change.
type secureUpstream struct {
	*httptest.Server
	cert    atomic.Pointer[tls.Certificate]
	clients atomic.Pointer[x509.CertPool]
	last    atomic.Value // common name of the last caller
}

func newSecureUpstream(t *testing.T, a *pki.Authority, name string) *secureUpstream {
	t.Helper()
	u := &secureUpstream{}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.last.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		w.Header().Set("Connection", "close") // so that each call makes a handshake
	}))
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.use(a, name)
	u.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*u.cert.Load()},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: u.clients.Load(),
		}, nil
	}}
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}

// use makes the server show a certificate of a, and accept only clients of a.
func (u *secureUpstream) use(a *pki.Authority, name string) {
	u.clients.Store(pki.Pool(a))
	u.cert.Store(a.Pair(name))
}

// A rotated CA and client certificate are taken without a restart and without a lost call. A wrong
// file keeps the old one, and says so once.
func TestRotatedCertificates(t *testing.T) {
	first, second := pki.New(t, "first"), pki.New(t, "second")
	up := newSecureUpstream(t, first, "orders.example")
	files := pki.NewSecret(t)
	write := func(ca []byte, a *pki.Authority, name string) {
		cert, key := a.Issue(name)
		files.Write(map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key})
	}
	write(first.PEM(), first, "before.example")
	c := over()
	entry := c.Upstreams["orders"]
	entry.URL = "https://orders.example"
	entry.Endpoints.Addresses = []string{up.Listener.Addr().String()}
	entry.TLS = gateway.TLS{CAFile: files.Path("ca.crt"), CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key")}
	c.Upstreams["orders"] = entry
	var lines output.Buffer
	g, front := gatewayOver(t, c, gateway.Options{Logger: slog.New(slog.NewTextHandler(&lines, nil)), Observers: []observe.Observer{observe.Funcs{Attempt: func(_ context.Context, a *resilience.AttemptReport) {
		if a.Err != nil {
			t.Log(a.Err)
		}
	}}}})
	call := func() {
		t.Helper()
		if resp, body := get(t, front.URL); resp.StatusCode != http.StatusOK {
			t.Fatalf("got status %d, body %s, want 200", resp.StatusCode, body)
		}
	}
	call()
	// The gateway reads all its files together. So it also has the new CA.
	callsUntil := func(name string) {
		t.Helper()
		wait.Until(t, 20*time.Second, "the client certificate "+name, func() bool { call(); return up.last.Load() == name })
	}

	// The usual order: trust both, then change the client's certificate and the server's.
	write(append(first.PEM(), second.PEM()...), first, "both.example")
	callsUntil("both.example")
	up.cert.Store(second.Pair("orders.example"))
	up.clients.Store(pki.Pool(first, second))
	call()
	write(second.PEM(), second, "after.example")
	callsUntil("after.example")

	files.Write(map[string][]byte{"ca.crt": []byte("no certificate"), "tls.crt": nil, "tls.key": nil})
	wait.Until(t, 20*time.Second, "the wrong file is reported", func() bool {
		call()
		return strings.Contains(lines.String(), "file refused")
	})
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		call()
	}
	if n := strings.Count(lines.String(), "file refused"); n != 1 || !strings.Contains(lines.String(), files.Path("ca.crt")) {
		t.Errorf("got %d lines about the wrong file, want one that names it:\n%s", n, lines.String())
	}
	if refused := g.FilesRefused(); len(refused) != 1 || !refused["https://orders.example"] {
		t.Errorf("got %v refused, want https://orders.example", refused)
	}
	if err := g.Reload(func() (gateway.Config, error) {
		changed := c
		changed.Upstreams = map[string]gateway.Upstream{}
		entry.TLS.ServerName = "orders.example"
		changed.Upstreams["orders"] = entry
		return changed, nil
	}); err == nil || !strings.Contains(err.Error(), "upstreams.orders.tls: the CA file "+files.Path("ca.crt")) {
		t.Errorf("a reload with the wrong file: got error %v, want one that names the key and the file", err)
	}
	write(second.PEM(), second, "after.example")
	wait.Until(t, 20*time.Second, "the files are right again", func() bool { call(); return !g.FilesRefused()["https://orders.example"] })
}

// Several callers over kept connections, without retries, see nothing of a rotation.
func TestRotationLosesNoCall(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := pki.New(t, "first"), pki.New(t, "second")
			up := &secureUpstream{}
			var other atomic.Int64 // calls over another version of HTTP
			var seen sync.Map      // names in the gateway's certificates
			up.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				seen.Store(r.TLS.PeerCertificates[0].Subject.CommonName, true)
				if (r.ProtoMajor == 2) != h2 {
					other.Add(1)
				}
			}))
			up.Config.ErrorLog, up.EnableHTTP2 = log.New(io.Discard, "", 0), h2
			up.use(first, "orders.example")
			protocols := []string{"http/1.1"}
			if h2 {
				protocols = []string{"h2"}
			}
			up.TLS = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return &tls.Config{
					MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*up.cert.Load()},
					ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: up.clients.Load(),
				}, nil
			}}
			up.StartTLS()
			t.Cleanup(up.Close)
			files := pki.NewSecret(t)
			write := func(ca []byte, a *pki.Authority, name string) {
				cert, key := a.Issue(name)
				files.Write(map[string][]byte{"ca.crt": ca, "tls.crt": cert, "tls.key": key})
			}
			write(first.PEM(), first, "before.example")
			c := over()
			p := transport.DefaultPolicy()
			p.Retry.MaxAttempts = 1
			p.Timeout, p.AttemptTimeout = time.Minute, 30*time.Second // a busy machine may stop for a moment
			c.Policies[gateway.DefaultPolicyName] = p
			entry := c.Upstreams["orders"]
			entry.URL, entry.Endpoints.Addresses = "https://orders.example", []string{up.Listener.Addr().String()}
			entry.Connections.MaxAge = 500 * time.Millisecond // otherwise kept connections see nothing of it
			entry.TLS = gateway.TLS{CAFile: files.Path("ca.crt"), CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key")}
			c.Upstreams["orders"] = entry
			_, front := gatewayOver(t, c, gateway.Options{})
			calls := func(length time.Duration) {
				t.Helper()
				if got := hammer(t, front.URL, length); len(got) != 1 || got[http.StatusOK] == 0 {
					t.Errorf("got %v calls by status, want 200 only", got)
				}
			}
			// The gateway reads all its files together. So it also has the new CA.
			callsUntil := func(name string) {
				t.Helper()
				wait.Until(t, 15*time.Second, "the client certificate "+name, func() bool {
					calls(100 * time.Millisecond)
					_, ok := seen.Load(name)
					return ok
				})
			}
			const renewed = 700 * time.Millisecond // in this time each connection is replaced
			callsUntil("before.example")
			write(append(first.PEM(), second.PEM()...), first, "both.example")
			callsUntil("both.example")
			up.cert.Store(second.Pair("orders.example"))
			up.clients.Store(pki.Pool(first, second))
			calls(renewed)
			write(second.PEM(), second, "after.example")
			callsUntil("after.example")
			calls(renewed)
			up.clients.Store(pki.Pool(second))
			calls(renewed)
			if n := other.Load(); n > 0 {
				t.Errorf("%d calls had another version of HTTP", n)
			}
		})
	}
}

// An address that moves to another service in the middle of a run shows another certificate. The
// call moves on, as after a refused connection, and the address is ejected.
func TestAddressMovesToAnotherService(t *testing.T) {
	a := pki.New(t, "first")
	pods := []*secureUpstream{newSecureUpstream(t, a, "orders.example"), newSecureUpstream(t, a, "orders.example")}
	cert, key := a.Issue("gateway")
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"ca.crt": a.PEM(), "tls.crt": cert, "tls.key": key})
	c := over()
	entry := c.Upstreams["orders"]
	entry.URL, entry.Endpoints.Addresses = "https://orders.example", nil
	for _, p := range pods {
		entry.Endpoints.Addresses = append(entry.Endpoints.Addresses, p.Listener.Addr().String())
	}
	entry.TLS = gateway.TLS{CAFile: files.Path("ca.crt"), CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key")}
	c.Upstreams["orders"] = entry
	var mu sync.Mutex
	reasons := map[resilience.Reason]int{}
	g, front := gatewayOver(t, c, gateway.Options{Observers: []observe.Observer{observe.Funcs{Attempt: func(_ context.Context, a *resilience.AttemptReport) {
		mu.Lock()
		defer mu.Unlock()
		reasons[a.Reason]++
	}}}})
	post := func() {
		t.Helper()
		resp, body := do(t, request(t, http.MethodPost, front.URL, strings.NewReader("once")))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("got status %d, body %s, want 200", resp.StatusCode, body)
		}
	}
	for range 10 {
		post()
	}
	pods[0].cert.Store(a.Pair("stock.example"))
	// After a slow answer, an endpoint may get no call for ten seconds.
	wait.Until(t, 15*time.Second, "the ejection of the other service's address", func() bool {
		post()
		return g.Upstreams()[0].Endpoints[0].Ejected
	})
	mu.Lock()
	defer mu.Unlock()
	if n := reasons[resilience.ReasonTLSError]; n != 2 || len(reasons) != 2 {
		t.Errorf("got attempts %v, want ok, and 2 times tls_error until the ejection", reasons)
	}
	if s := g.Upstreams()[0]; s.Breaker.State.String() != "closed" {
		t.Errorf("the circuit is %s, want it closed", s.Breaker.State)
	}
}

func TestUpstreamTLS(t *testing.T) {
	ca := pki.New(t, "ca")
	up := newSecureUpstream(t, ca, "orders.example")
	files := pki.NewSecret(t)
	cert, key := ca.Issue("gateway")
	files.Write(map[string][]byte{"ca.crt": ca.PEM(), "other.crt": pki.New(t, "other").PEM(), "tls.crt": cert, "tls.key": key})
	ok := gateway.TLS{CAFile: files.Path("ca.crt"), CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key"), ServerName: "orders.example"}
	for name, tc := range map[string]struct {
		change func(*gateway.TLS)
		want   string // in the problem document; empty for success
	}{
		"right":               {func(*gateway.TLS) {}, ""},
		"another CA":          {func(c *gateway.TLS) { c.CAFile = files.Path("other.crt") }, "tls_error"},
		"the system's CAs":    {func(c *gateway.TLS) { c.CAFile = "" }, "tls_error"},
		"another name":        {func(c *gateway.TLS) { c.ServerName = "pay.example" }, "tls_error"},
		"no check":            {func(c *gateway.TLS) { c.CAFile, c.ServerName, c.InsecureSkipVerify = "", "pay.example", true }, ""},
		"the name of the URL": {func(c *gateway.TLS) { c.ServerName = "" }, "tls_error"},
		"no own certificate":  {func(c *gateway.TLS) { c.CertFile, c.KeyFile = "", "" }, "reason"},
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.ForUpstream("orders")
			entry := gateway.DefaultUpstream("https://" + up.Listener.Addr().String())
			entry.TLS = ok
			tc.change(&entry.TLS)
			c.Upstreams = map[string]gateway.Upstream{"orders": entry}
			_, front := gatewayOver(t, c, gateway.Options{})
			resp, body := get(t, front.URL)
			if (resp.StatusCode == http.StatusOK) != (tc.want == "") || !strings.Contains(body, tc.want) {
				t.Errorf("got status %d, body %s, want %q", resp.StatusCode, body, tc.want)
			}
		})
	}
}

func TestUpstreamTLSMistakes(t *testing.T) {
	for want, tc := range map[string]gateway.TLS{
		"upstreams.orders.tls.keyFile: must come with certFile":                                              {CertFile: "a"},
		"upstreams.orders.tls.insecureSkipVerify: must be left out with caFile, which it would make useless": {CAFile: "a", InsecureSkipVerify: true},
		"upstreams.orders.tls: the CA file: open /nonexistent: no such file or directory":                    {CAFile: "/nonexistent"},
	} {
		t.Run(want, func(t *testing.T) {
			c := gateway.ForUpstream("orders")
			entry := gateway.DefaultUpstream("https://orders")
			entry.TLS = tc
			c.Upstreams = map[string]gateway.Upstream{"orders": entry}
			if _, err := gateway.New(c, gateway.Options{}); err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}
	entry := gateway.DefaultUpstream("http://orders")
	entry.TLS.ServerName = "orders"
	if err := entry.Validate(); err == nil || err.Error() != "tls: must be left out: the upstream's URL is not https" {
		t.Errorf("got error %v, want one about http", err)
	}
}

// h2c:// is HTTP/2 without TLS.
func TestH2C(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Proto+" "+r.Host+" "+r.URL.Path+" "+string(b))
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	address := up.Listener.Addr().String()
	g, front := gatewayOver(t, gateway.ForUpstream("h2c://"+address), gateway.Options{})
	for range 3 {
		resp, body := do(t, request(t, http.MethodPost, front.URL+"/x", bytes.NewReader([]byte("hello"))))
		if want := "HTTP/2.0 " + address + " /x hello"; resp.StatusCode != http.StatusOK || body != want {
			t.Errorf("got status %d, body %s, want 200, %s", resp.StatusCode, body, want)
		}
	}
	if got := g.Upstreams()[0].Upstream; got != "h2c://"+address {
		t.Errorf("got the name %s, want h2c://%s", got, address)
	}
}

// An upgrade to an h2c upstream goes over HTTP/1, which is the only version that has upgrades.
func TestUpgradeOverH2C(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetHTTP1(true)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	_, front := gatewayOver(t, gateway.ForUpstream("h2c://"+up.Listener.Addr().String()), gateway.Options{})
	r := request(t, http.MethodGet, front.URL, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err := newClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	conn, ok := resp.Body.(io.ReadWriter)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("got status %d, want 101", resp.StatusCode)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, 5)
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "hello" {
		t.Errorf("got %q, error %v, want hello", echo, err)
	}
}
