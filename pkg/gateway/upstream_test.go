package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
)

func TestUpstreamsConfiguration(t *testing.T) {
	const route = "routes: [{name: a, match: /a, upstream: %}]\n"
	for name, tc := range map[string]struct {
		yaml string
		want string // part of the only mistake; empty if the configuration is valid
	}{
		"an entry":            {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders:8080\"}}", ""},
		"an unused entry":     {strings.Replace(route, "%", "\"http://a\"", 1) + "upstreams: {orders: {url: \"http://orders:8080\"}}", ""},
		"no such entry":       {strings.Replace(route, "%", "order", 1) + "upstreams: {orders: {url: \"http://orders:8080\"}}", `routes[0].upstream: must be a URL such as http://flaky-server:5000 or one of the upstreams (orders), got "order"`},
		"no entries":          {strings.Replace(route, "%", "orders", 1), `routes[0].upstream: must be a URL`},
		"a bad name":          {strings.Replace(route, "%", "\"http://a\"", 1) + "upstreams: {\"or ders\": {url: \"http://orders:8080\"}}", `an upstream's name must be 1 to 63 letters`},
		"no url":              {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {}}", `upstreams.orders.url: must be a URL such as http://flaky-server:5000, got nothing`},
		"another scheme":      {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"ftp://orders\"}}", `the scheme must be http, https or h2c`},
		"an unknown host":     {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", host: mine}}", `upstreams.orders.host: expected one of upstream, caller, got "mine"`},
		"no idle time":        {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", connections: {idleTimeout: 0s}}}", `upstreams.orders.connections.idleTimeout: must be above 0, got 0s`},
		"a negative age":      {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", connections: {maxAge: -1s}}}", `connections.maxAge: must be at least 0 (never), got -1s`},
		"negative idle":       {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", connections: {maxIdle: -1}}}", `connections.maxIdle: must be at least 0 (none), got -1`},
		"a flood of pings":    {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", connections: {http2Ping: 1ms}}}", `connections.http2Ping: must be 0 (never) or at least 100ms, got 1ms`},
		"an unknown key":      {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"http://orders\", idleTimeout: 1s}}", `idleTimeout`},
		"everything switched": {strings.Replace(route, "%", "orders", 1) + "upstreams: {orders: {url: \"https://orders/v1\", host: caller, connections: {maxAge: 0s, maxIdle: 0, http2Ping: 0s, idleTimeout: 1s}}}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.DefaultConfig()
			err := config.Decode("", []byte(tc.yaml), &c)
			if tc.want != "" {
				if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got error %v, want %q and no other", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// The printed configuration is valid, and printing it again gives the same text.
			first, err := config.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			again := gateway.DefaultConfig()
			if err := config.Decode("", first, &again); err != nil {
				t.Fatalf("got error %v, want none for\n%s", err, first)
			}
			if second, err := config.Marshal(again); err != nil || !bytes.Equal(first, second) {
				t.Errorf("got error %v and\n%s\nwant no error and\n%s", err, second, first)
			}
		})
	}
}

// Mistakes are in logs, and in what the check before an installation prints.
func TestNoPasswordInMistakes(t *testing.T) {
	for name, upstream := range map[string]string{
		"a URL": "http://me:secret@a", "another scheme": "ftp://me:secret@a", "no scheme": "me:secret@a:80", "a slash": "http://me:sec/ret@a",
		"an escape": "http://me:secret%zz@a", "a query": "http://me:secret@a?b=c", "no host": "http://me:secret@", "a blank": "http://me:secret x@a",
	} {
		t.Run(name, func(t *testing.T) {
			c := gateway.DefaultConfig()
			err := config.Decode("", []byte("routes: [{name: a, match: /a, upstream: \""+upstream+"\"}]\n"), &c)
			if err == nil || strings.Contains(err.Error(), "sec") || !strings.Contains(err.Error(), "must be a URL") {
				t.Errorf("got %v, want a mistake without the password", err)
			}
		})
	}
}

// A file holds only settings that differ from the defaults.
func TestUpstreamsDefaults(t *testing.T) {
	c := gateway.DefaultConfig()
	if err := config.Decode("", []byte("routes: [{name: a, match: /a, upstream: orders}]\nupstreams: {orders: {url: \"http://orders\", connections: {maxIdle: 7}}}"), &c); err != nil {
		t.Fatal(err)
	}
	want := gateway.DefaultUpstream("http://orders")
	want.Connections.MaxIdle = 7
	if !reflect.DeepEqual(c.Upstreams["orders"], want) {
		t.Errorf("got %+v, want %+v", c.Upstreams["orders"], want)
	}
}

// Routes whose URLs have the same scheme and host share a circuit. Each entry of upstreams has its
// own. If two circuits have the same scheme and host, the entry's name is part of the upstream's
// name.
func TestUpstreamsHaveTheirOwnCircuits(t *testing.T) {
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = tripping()
	c.Upstreams = map[string]gateway.Upstream{
		"orders": gateway.DefaultUpstream("http://shared.test/orders"), "stock": gateway.DefaultUpstream("http://shared.test:80/stock"),
		"alone": gateway.DefaultUpstream("http://alone.test"), "unused": gateway.DefaultUpstream("http://shared.test"),
	}
	for _, r := range []gateway.Route{
		{Name: "a", Match: "/a", Upstream: "http://shared.test/a"}, {Name: "b", Match: "/b", Upstream: "http://SHARED.test:80/b"},
		{Name: "c", Match: "/c", Upstream: "orders"}, {Name: "d", Match: "/d", Upstream: "stock"}, {Name: "e", Match: "/e", Upstream: "alone"},
	} {
		r.Policy = gateway.DefaultPolicyName
		c.Routes = append(c.Routes, r)
	}
	var calls []observe.Call
	g, err := gateway.New(c, gateway.Options{Next: upstreamFunc(func(r *http.Request) int {
		if strings.HasPrefix(r.URL.Path, "/orders/") {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	}), Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, call observe.Call) { calls = append(calls, call) }}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/a", "/b", "/c", "/d", "/e"} {
		g.ServeHTTP(httptest.NewRecorder(), request(t, http.MethodGet, "http://gateway.test"+path, nil))
	}
	type circuit struct{ Upstream, Name, State string }
	var got []circuit
	for _, b := range g.Upstreams() {
		got = append(got, circuit{b.Upstream, b.Name, b.Breaker.State.String()})
	}
	want := []circuit{
		{"http://alone.test", "alone", "closed"}, {"http://shared.test", "", "closed"},
		{"http://shared.test#orders", "orders", "open"}, {"http://shared.test#stock", "stock", "closed"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got circuits %v, want %v", got, want)
	}
	var names []string
	for _, call := range calls {
		names = append(names, call.Upstream)
	}
	if want := []string{"http://shared.test", "http://shared.test", "http://shared.test#orders", "http://shared.test#stock", "http://alone.test"}; !slices.Equal(names, want) {
		t.Errorf("the observer got upstreams %q, want %q", names, want)
	}
	if shown, err := json.Marshal(g.Upstreams()[2]); err != nil || !strings.Contains(string(shown), `"name":"orders"`) {
		t.Errorf(`got %s, error %v, want "name":"orders"`, shown, err)
	}
}

// A change of the connection settings keeps the circuit and opens new connections. Any other change
// keeps both.
func TestReloadOfConnections(t *testing.T) {
	var opened conncount.Counter
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	up.Config.ConnState = opened.See
	up.Start()
	t.Cleanup(up.Close)
	base := func() gateway.Config {
		c := gateway.DefaultConfig()
		c.Upstreams = map[string]gateway.Upstream{"a": gateway.DefaultUpstream(up.URL)}
		c.Routes = []gateway.Route{{Name: "a", Match: "/", Upstream: "a", Policy: gateway.DefaultPolicyName}}
		return patient(c)
	}
	g, err := gateway.New(base(), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	front := server(t, g.ServeHTTP)
	for _, step := range []struct {
		name   string
		change func(*gateway.Config)
		opened int64 // connections opened so far
	}{
		{"at first", func(*gateway.Config) {}, 1},
		{"nothing", func(*gateway.Config) {}, 1},
		{"a route", func(c *gateway.Config) { c.Routes[0].Name = "b" }, 1},
		{"the path", func(c *gateway.Config) { c.Upstreams["a"] = gateway.DefaultUpstream(up.URL + "/v2") }, 1},
		{"a policy", func(c *gateway.Config) {
			p := c.Policies[gateway.DefaultPolicyName]
			p.Retry.MaxAttempts = 1
			c.Policies[gateway.DefaultPolicyName] = p
		}, 1},
		{"the connections", func(c *gateway.Config) {
			u := gateway.DefaultUpstream(up.URL)
			u.Connections.IdleTimeout = time.Minute
			c.Upstreams["a"] = u
		}, 2},
		{"back", func(*gateway.Config) {}, 3},
	} {
		c := base()
		step.change(&c)
		if err := g.Reload(func() (gateway.Config, error) { return c, nil }); err != nil {
			t.Fatal(err)
		}
		if resp, body := get(t, front.URL+"/"); resp.StatusCode != http.StatusOK {
			t.Fatalf("after step %q: got status %d, body %s, want 200", step.name, resp.StatusCode, body)
		}
		if got := opened.Opened(); got != step.opened {
			t.Errorf("after step %q: %d connections were opened, want %d", step.name, got, step.opened)
		}
		if b := g.Upstreams(); len(b) != 1 || b[0].Name != "a" {
			t.Errorf("after step %q: got circuits %+v, want only that of a", step.name, b)
		}
	}
	opened.WantOpen(t, 1)
	g.Close()
	opened.WantOpen(t, 0)
}
