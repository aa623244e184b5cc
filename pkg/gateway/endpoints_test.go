package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// replica is a pod that fails while bad is set.
type replica struct {
	*pod
	bad atomic.Bool
}

func newReplica(t *testing.T, bad http.HandlerFunc) *replica {
	t.Helper()
	r := &replica{}
	r.pod = newPod(t, func(w http.ResponseWriter, req *http.Request) {
		if r.bad.Load() {
			bad(w, req)
			return
		}
		_, _ = io.WriteString(w, "ok")
	})
	return r
}

// over returns a configuration with one upstream, orders, over the pods.
func over(pods ...*replica) gateway.Config {
	entry := gateway.DefaultUpstream("http://orders")
	entry.Endpoints.Resolve = endpoint.ResolveStatic
	entry.Endpoints.Eject.ConsecutiveFailures = 2 // the tests are short
	for _, p := range pods {
		entry.Endpoints.Addresses = append(entry.Endpoints.Addresses, p.address())
	}
	c := gateway.DefaultConfig()
	c.Upstreams = map[string]gateway.Upstream{"orders": entry}
	route := all("orders")
	route.SetDefaults()
	c.Routes = []gateway.Route{route}
	return c
}

// hammer makes calls from four callers for a time, and returns how many there were by status.
func hammer(t *testing.T, url string, length time.Duration) map[int]int {
	t.Helper()
	client := newClient(t)
	var mu sync.Mutex
	statuses := map[int]int{}
	var callers sync.WaitGroup
	end := time.Now().Add(length)
	for range 4 {
		callers.Go(func() {
			for time.Now().Before(end) {
				resp, _, err := fetch.Read(client.Do(request(t, http.MethodGet, url, nil)))
				status := 0
				if err == nil {
					status = resp.StatusCode
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	callers.Wait()
	return statuses
}

// One sick pod of three, real servers and connections: the callers do not notice.
func TestOneBadEndpointOfThree(t *testing.T) {
	for name, bad := range map[string]http.HandlerFunc{
		"503":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"hangs":  func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"resets": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"truncates": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "20")
			_, _ = io.WriteString(w, "0123456789")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var pods []*replica
			var front *httptest.Server
			wait.OneOf(t, 2, func() string { // a busy machine makes the healthy pods fail too
				pods = []*replica{newReplica(t, bad), newReplica(t, bad), newReplica(t, bad)}
				var g *gateway.Gateway
				g, front = gatewayOver(t, over(pods...), gateway.Options{})
				hammer(t, front.URL, 300*time.Millisecond)
				pods[1].bad.Store(true)
				healthy := pods[1].served.Load()
				got, lost := hammer(t, front.URL, 3*time.Second), 0
				if name == "truncates" {
					lost = 4 // one of each caller, until the endpoint is known to be bad
				}
				if got[http.StatusOK] == 0 || len(got) > 2 || len(got) == 2 && (got[0] == 0 || got[0] > lost) {
					return fmt.Sprintf("got %v calls by status, want 200 only, and at most %d without an answer", got, lost)
				}
				state := g.Upstreams()[0]
				if n := pods[1].served.Load() - healthy; state.Breaker.State.String() != "closed" || len(state.Endpoints) != 3 || n > 60 {
					return fmt.Sprintf("the bad endpoint got %d calls, want at most 60; got %+v, want a closed circuit and three endpoints", n, state)
				}
				return ""
			})
			pods[1].bad.Store(false)
			before := pods[1].served.Load()
			for end := time.Now().Add(20 * time.Second); pods[1].served.Load() < before+20; {
				hammer(t, front.URL, 200*time.Millisecond)
				if time.Now().After(end) {
					t.Fatal("the pod got no calls 20 s after it recovered")
				}
			}
		})
	}
}

// The body of an endpoint that failed before is read ahead, but not for long: one that comes slowly
// reaches the caller as it comes.
func TestSlowBodyOfADoubtedEndpoint(t *testing.T) {
	const half = "0123456789"
	goOn, failed := make(chan struct{}), atomic.Bool{}
	slow := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		if failed.CompareAndSwap(false, true) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(2*len(half)))
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-goOn:
			_, _ = io.WriteString(w, half)
		case <-r.Context().Done():
		}
	})
	slow.bad.Store(true)
	_, front := gatewayOver(t, over(slow, newReplica(t, nil)), gateway.Options{})
	client, end := newClient(t), time.Now().Add(20*time.Second)
	var resp *http.Response
	for resp == nil || resp.ContentLength < int64(len(half)) { // the other endpoint answers in short
		if resp != nil {
			_ = resp.Body.Close()
			time.Sleep(10 * time.Millisecond)
		}
		var err error
		if resp, err = client.Do(request(t, http.MethodGet, front.URL, nil)); err != nil || time.Now().After(end) {
			t.Fatalf("got error %v and no answer of the slow endpoint", err)
		}
	}
	defer func() { _ = resp.Body.Close() }()
	first := make([]byte, len(half))
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	rest, err := io.ReadAll(resp.Body)
	if got := string(first) + string(rest); err != nil || got != half+half {
		t.Errorf("got %q and error %v, want both halves", got, err)
	}
}

// A refused connection moves on to another endpoint at once, even for a POST, without a wait.
func TestRefusedConnectionMovesOn(t *testing.T) {
	good := newReplica(t, nil)
	c := over(good)
	entry := c.Upstreams["orders"]
	entry.Endpoints.Addresses = append(entry.Endpoints.Addresses, rawhttp.FreeAddress(t))
	c.Upstreams["orders"] = entry
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = 2*time.Minute, 30*time.Second              // a POST that times out is not repeated
	p.Retry.Backoff.Base, p.Retry.Backoff.Max = 5*time.Minute, 5*time.Minute // longer than a call may take
	c.Policies[gateway.DefaultPolicyName] = p
	_, front := gatewayOver(t, c, gateway.Options{})
	for range 20 {
		resp, _ := do(t, request(t, http.MethodPost, front.URL, strings.NewReader("order")))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("got status %d, want 200", resp.StatusCode)
		}
	}
	if n := good.served.Load(); n != 20 {
		t.Errorf("the good endpoint got %d requests, want 20", n)
	}
}

// A deploy that breaks one path on every pod ejects nobody: the other path is served by all.
func TestBrokenPathEjectsNobody(t *testing.T) {
	broken := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}
	pods := []*replica{newReplica(t, broken), newReplica(t, broken), newReplica(t, broken)}
	c := over(pods...)
	p := transport.DefaultPolicy()
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	c.Policies[gateway.DefaultPolicyName] = p
	g, front := gatewayOver(t, c, gateway.Options{})
	for _, pod := range pods {
		pod.bad.Store(true)
	}
	for range 300 {
		get(t, front.URL+"/broken")
	}
	for _, e := range g.Upstreams()[0].Endpoints {
		if e.Ejected {
			t.Errorf("%s is ejected, want none", e.Address)
		}
	}
	if resp, _ := get(t, front.URL+"/fine"); resp.StatusCode != http.StatusOK {
		t.Errorf("the other path: got status %d, want 200", resp.StatusCode)
	}
}

// When all endpoints fail, the upstream's circuit opens.
func TestAllEndpointsFail(t *testing.T) {
	bad := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	pods := []*replica{newReplica(t, bad), newReplica(t, bad)}
	g, front := gatewayOver(t, over(pods...), gateway.Options{})
	for _, pod := range pods {
		pod.bad.Store(true)
	}
	wait.Until(t, 20*time.Second, "an open circuit", func() bool {
		hammer(t, front.URL, 200*time.Millisecond)
		return g.Upstreams()[0].Breaker.State.String() != "closed"
	})
}

// Host, server name and certificate are the upstream's, not the endpoint's. An endpoint with
// another certificate is passed over.
func TestEndpointsKeepTheUpstreamsName(t *testing.T) {
	var names sync.Map
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { names.Store(r.Host+" "+r.TLS.ServerName, true) })
	secure := httptest.NewUnstartedServer(h)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS() // its certificate is for example.com
	t.Cleanup(secure.Close)
	other := httptest.NewUnstartedServer(h)
	other.Config.ErrorLog = log.New(io.Discard, "", 0)
	other.TLS = &tls.Config{Certificates: []tls.Certificate{*pki.New(t, "other").Pair("other.example")}}
	other.StartTLS()
	t.Cleanup(other.Close)

	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	c := over()
	entry := c.Upstreams["orders"]
	entry.URL = "https://example.com"
	entry.Endpoints.Addresses = []string{secure.Listener.Addr().String(), other.Listener.Addr().String()}
	c.Upstreams["orders"] = entry
	_, front := gatewayOver(t, c, gateway.Options{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	for range 20 {
		if resp, body := get(t, front.URL); resp.StatusCode != http.StatusOK {
			t.Fatalf("got status %d, body %s, want 200", resp.StatusCode, body)
		}
	}
	names.Range(func(name, _ any) bool {
		if name != "example.com example.com" {
			t.Errorf("got Host and server name %q, want example.com twice", name)
		}
		return true
	})
}

// A reload that changes something else keeps the endpoints and their state. A change of the
// endpoints' own settings makes new ones, below the same circuit.
func TestReloadKeepsEndpoints(t *testing.T) {
	bad := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	pods := []*replica{newReplica(t, bad), newReplica(t, bad)}
	c := over(pods...)
	var mu sync.Mutex
	var events []string
	g, front := gatewayOver(t, c, gateway.Options{Observers: []observe.Observer{observe.Funcs{Endpoint: func(e observe.EndpointEvent) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.Upstream+" "+string(e.Kind)+" "+e.Address)
	}}}})
	pods[0].bad.Store(true)
	hammer(t, front.URL, time.Second)
	mu.Lock()
	if want := "http://orders ejected " + pods[0].address(); len(events) == 0 || events[0] != want {
		t.Errorf("got events %q, want %q first", events, want)
	}
	mu.Unlock()

	changed := over(pods...)
	changed.Routes = append(changed.Routes, gateway.Route{Name: "more", Match: "/more", Upstream: "orders", Policy: gateway.DefaultPolicyName})
	if err := g.Reload(func() (gateway.Config, error) { return changed, nil }); err != nil {
		t.Fatal(err)
	}
	if s := g.Upstreams()[0]; !s.Endpoints[0].Ejected || s.Ejections == 0 {
		t.Errorf("after the reload: got %+v, want the endpoint still ejected", s)
	}
	other := over(pods[1])
	if err := g.Reload(func() (gateway.Config, error) { return other, nil }); err != nil {
		t.Fatal(err)
	}
	if got := hammer(t, front.URL, 200*time.Millisecond); len(got) != 1 || got[http.StatusOK] == 0 {
		t.Errorf("over the other pod only: got %v calls by status, want 200 only", got)
	}
	if s := g.Upstreams()[0]; len(s.Endpoints) != 1 {
		t.Errorf("got %+v, want one endpoint", s)
	}
}

// A reload that changes something else for an upstream keeps its endpoints, with their state and
// connections: those with the same address, whatever their order, and also if the time to wait for
// a 100 (Continue) changes with an attempt timeout.
func TestReloadKeepsStateAndConnections(t *testing.T) {
	var mu sync.Mutex
	callers := map[string]bool{} // by address, so connections
	answer := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		callers[r.RemoteAddr] = true
		_, _ = io.WriteString(w, "ok")
	}
	bad := newReplica(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	good, more := newReplica(t, answer), newReplica(t, answer)
	bad.bad.Store(true)
	good.bad.Store(true) // its answer is the one that counts the connections
	with := func(pods ...*replica) gateway.Config {
		c := over(pods...)
		entry := c.Upstreams["orders"]
		entry.Endpoints.Eject.EjectFor, entry.Endpoints.Eject.MaxEjectFor = time.Minute, time.Minute
		entry.Connections.MaxAge = 0 // otherwise traffic replaces connections
		c.Upstreams["orders"] = entry
		return patient(c)
	}
	g, front := gatewayOver(t, with(bad, good), gateway.Options{})
	ejected := func() bool {
		for _, e := range g.Upstreams()[0].Endpoints {
			if e.Address == bad.address() {
				return e.Ejected
			}
		}
		return false
	}
	client := newClient(t)
	call := func() {
		t.Helper()
		if resp, _, err := fetch.Read(client.Do(request(t, http.MethodGet, front.URL, nil))); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("got %v, error %v, want status 200", resp, err)
		}
	}
	// After a slow answer, an endpoint may get no call for ten seconds.
	wait.Until(t, 30*time.Second, "the ejection of the bad endpoint", func() bool { call(); return ejected() })
	for _, step := range []struct {
		name   string
		change func() gateway.Config
	}{
		{"a longer attempt timeout", func() gateway.Config {
			c := with(bad, good)
			p := c.Policies[gateway.DefaultPolicyName]
			p.AttemptTimeout = 40 * time.Second
			c.Policies[gateway.DefaultPolicyName] = p
			return c
		}},
		{"a route with a shorter one", func() gateway.Config {
			c := with(bad, good)
			p := transport.DefaultPolicy()
			p.AttemptTimeout = 400 * time.Millisecond
			c.Policies["short"] = p
			c.Routes = append(c.Routes, gateway.Route{Name: "short", Match: "/short", Upstream: "orders", Policy: "short"})
			return c
		}},
		{"another order", func() gateway.Config { return with(good, bad) }},
		{"one more address", func() gateway.Config { return with(more, good, bad) }},
		{"one address less", func() gateway.Config { return with(good, bad) }},
	} {
		c := step.change()
		if err := g.Reload(func() (gateway.Config, error) { return c, nil }); err != nil {
			t.Fatal(err)
		}
		if !ejected() {
			t.Errorf("%s: the endpoint is no longer ejected", step.name)
		}
		for range 5 {
			call()
		}
		if n := len(g.Upstreams()[0].Endpoints); n != len(c.Upstreams["orders"].Endpoints.Addresses) {
			t.Errorf("%s: got %d endpoints, want those of the file", step.name, n)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(callers) != 1 {
		t.Errorf("the good pod saw %d connections, want 1", len(callers))
	}
}

// shaky is a resolver that knows one address until it is broken. Then each lookup fails after ten
// seconds.
type shaky struct {
	broken  atomic.Bool
	lookups atomic.Int64
}

func (f *shaky) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	f.lookups.Add(1)
	if !f.broken.Load() {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
	}
	return nil, &net.DNSError{Err: "server misbehaving", Name: host}
}

// named returns a configuration with one upstream, which is found by its name. Another idle makes
// new endpoints.
func named(p *replica, idle time.Duration) gateway.Config {
	_, port, _ := net.SplitHostPort(p.address())
	c := over()
	entry := c.Upstreams["orders"]
	entry.URL, entry.Endpoints.Resolve, entry.Connections.IdleTimeout = "http://orders:"+port, endpoint.ResolveDNS, idle
	entry.Endpoints.Refresh = time.Hour
	c.Upstreams["orders"] = entry
	return patient(c)
}

// A reload that makes new endpoints keeps the addresses of the name while DNS fails.
func TestReloadKeepsAddressesWhileDNSFails(t *testing.T) {
	up := newReplica(t, nil)
	with := func(idle time.Duration) gateway.Config { return named(up, idle) }
	dns := &shaky{}
	var events []string
	var mu sync.Mutex
	g, front := gatewayOver(t, with(time.Minute), gateway.Options{Resolver: dns, Observers: []observe.Observer{observe.Funcs{Endpoint: func(e observe.EndpointEvent) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, string(e.Kind))
	}}}})
	get(t, front.URL)
	dns.broken.Store(true)
	for i := range 3 {
		if err := g.Reload(func() (gateway.Config, error) { return with(time.Duration(i+1) * time.Second), nil }); err != nil {
			t.Fatal(err)
		}
		if resp, body := get(t, front.URL); resp.StatusCode != http.StatusOK {
			t.Errorf("after a reload while DNS fails: got status %d, body %s, want 200", resp.StatusCode, body)
		}
	}
	// A set begins its lookup on a goroutine of its own.
	wait.Until(t, 20*time.Second, "the lookup of each of four sets", func() bool { return dns.lookups.Load() >= 4 })
	if n := dns.lookups.Load(); n != 4 {
		t.Errorf("%d lookups, want one for each set", n)
	}
	g.Close()
	mu.Lock()
	defer mu.Unlock()
	if len(events) > 0 {
		t.Errorf("got events %q, want none: the lookups did not fail, they were ended", events)
	}
}

// stuck is a resolver whose first lookup takes until it is given up.
type stuck struct{ lookups atomic.Int32 }

func (s *stuck) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if s.lookups.Add(1) == 1 {
		<-ctx.Done()
		return nil, &net.DNSError{Err: "given up", Name: host}
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// A reload ends the lookup that calls wait for. They wait for that of the new endpoints instead.
func TestReloadDuringTheFirstLookup(t *testing.T) {
	up := newReplica(t, nil)
	with := func(idle time.Duration) gateway.Config {
		c := named(up, idle)
		p := c.Policies[gateway.DefaultPolicyName]
		p.Retry.MaxAttempts = 1
		c.Policies[gateway.DefaultPolicyName] = p
		return c
	}
	dns := &stuck{}
	g, front := gatewayOver(t, with(time.Minute), gateway.Options{Resolver: dns})
	client := newClient(t)
	status := make(chan string, 3)
	for range cap(status) {
		go func() {
			resp, err := client.Do(request(t, http.MethodGet, front.URL, nil))
			if err != nil {
				status <- err.Error()
				return
			}
			_ = resp.Body.Close()
			status <- resp.Status
		}()
	}
	wait.Until(t, 20*time.Second, "all calls and the lookup", func() bool {
		return g.Active() == int64(cap(status)) && dns.lookups.Load() == 1
	})
	if err := g.Reload(func() (gateway.Config, error) { return with(2 * time.Minute), nil }); err != nil {
		t.Fatal(err)
	}
	for range cap(status) {
		if got := <-status; got != "200 OK" {
			t.Errorf("got %s for a call during the reload, want 200 OK", got)
		}
	}
}

// /breakers lists the endpoints.
func TestBreakersListEndpoints(t *testing.T) {
	pods := []*replica{newReplica(t, nil), newReplica(t, nil)}
	g, front := gatewayOver(t, over(pods...), gateway.Options{})
	get(t, front.URL)
	w := httptest.NewRecorder()
	g.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/breakers", nil))
	var got struct {
		Breakers []struct {
			Endpoints []struct {
				Address string
				Circuit string
				Ejected bool
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Breakers) != 1 || len(got.Breakers[0].Endpoints) != 2 || got.Breakers[0].Endpoints[0].Address != pods[0].address() || got.Breakers[0].Endpoints[0].Circuit != "closed" {
		t.Errorf("got %s, want both endpoints, closed", w.Body)
	}
}
