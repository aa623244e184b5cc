package gateway_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// calm returns a policy with short waits, more time than a busy machine needs, no breaker, and a
// budget that never runs out.
func calm() transport.Policy {
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = time.Minute, 20*time.Second
	p.Retry.Backoff = resilience.Backoff{Base: time.Millisecond, Max: time.Millisecond, Factor: 1, Jitter: resilience.JitterNone}
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 1e6}
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	return p
}

// patient gives the calls of c's default policy more time than a busy machine needs.
func patient(c gateway.Config) gateway.Config {
	p := c.Policies[gateway.DefaultPolicyName]
	p.Timeout, p.AttemptTimeout = time.Minute, 30*time.Second
	c.Policies[gateway.DefaultPolicyName] = p
	return c
}

// server starts an upstream on loopback.
func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// gatewayTo serves a gateway on loopback. All routes use the policy p.
func gatewayTo(t *testing.T, p transport.Policy, routes ...gateway.Route) *httptest.Server {
	t.Helper()
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = p
	for i := range routes {
		routes[i].SetDefaults()
	}
	c.Routes = routes
	return start(t, c)
}

func start(t *testing.T, c gateway.Config) *httptest.Server {
	t.Helper()
	_, s := gatewayOver(t, c, gateway.Options{})
	return s
}

// gatewayOver serves a gateway on loopback, and returns it too.
func gatewayOver(t *testing.T, c gateway.Config, o gateway.Options) (*gateway.Gateway, *httptest.Server) {
	t.Helper()
	g, err := gateway.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	s := server(t, g.ServeHTTP)
	t.Cleanup(g.Close)
	return g, s
}

func all(upstream string) gateway.Route {
	return gateway.Route{Name: "all", Match: "/", Upstream: upstream}
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	return fetch.Request(t, method, url, body)
}

// newClient returns a client that follows no redirects. Its idle connections are closed at the end
// of the test.
func newClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, body, err := fetch.Read(newClient(t).Do(r))
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	return fetch.Get(t, url)
}

// problemOf decodes the problem document in body and checks its type and status.
func problemOf(t *testing.T, resp *http.Response, body string) map[string]any {
	t.Helper()
	if got := resp.Header.Get("Content-Type"); got != problem.ContentType {
		t.Fatalf("got status %d, Content-Type %q, body %s, want a problem document", resp.StatusCode, got, body)
	}
	var p map[string]any
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	if p["status"] != float64(resp.StatusCode) {
		t.Errorf("got status %v in the document, want %d as in the response", p["status"], resp.StatusCode)
	}
	return p
}

// refusing returns a URL that refuses connections: no server listens on its port.
func refusing(t *testing.T) string {
	t.Helper()
	return "http://" + rawhttp.FreeAddress(t)
}
