package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Upstream is a destination of requests.
type Upstream struct {
	// URL is the address, over http or https, such as "http://orders:8080/v1". Its path is put
	// before the request's.
	URL string `yaml:"url"`
	// Host selects the host that the requests name.
	Host        Host                 `yaml:"host"`
	Connections endpoint.Connections `yaml:"connections"`
}

// Host selects the host that an upstream's requests name.
type Host string

// The values of Host.
const (
	HostUpstream Host = "upstream" // the host of the upstream's URL
	HostCaller   Host = "caller"   // the host that the caller asked for
)

// UnmarshalText accepts the known values only.
func (h *Host) UnmarshalText(text []byte) error {
	if !Host(text).valid() {
		return fmt.Errorf("expected one of %s, %s, got %q", HostUpstream, HostCaller, text)
	}
	*h = Host(text)
	return nil
}

func (h Host) valid() bool { return h == HostUpstream || h == HostCaller }

// DefaultUpstream is what a route whose upstream is a URL has.
func DefaultUpstream(url string) Upstream {
	return Upstream{URL: url, Host: HostUpstream, Connections: endpoint.DefaultConnections()}
}

// SetDefaults is called by the loader before it decodes an upstream.
func (u *Upstream) SetDefaults() { *u = DefaultUpstream("") }

// Validate returns every mistake at once, each with the path of its key.
func (u Upstream) Validate() error {
	var m mistake.List
	if _, err := parseUpstream(u.URL); err != nil {
		m.Add("url", "%v", err)
	}
	m.Check(u.Host.valid(), "host", "expected one of %s, %s, got %q", HostUpstream, HostCaller, string(u.Host))
	m.Merge("connections", u.Connections.Validate())
	return m.Err()
}

// destination is the upstream that a route names.
type destination struct {
	Upstream
	name   string // of the entry; empty when the route has a URL
	url    *url.URL
	origin string // scheme, host and port
}

// upstreamKey tells the upstreams of a gateway apart: routes that name the same
// origin by URL share one, and each entry is one of its own.
type upstreamKey struct{ name, origin string }

func (d destination) key() upstreamKey { return upstreamKey{d.name, d.origin} }

// destination finds what a route's upstream stands for.
func (c Config) destination(upstream string) (d destination, err error) {
	d.Upstream = DefaultUpstream(upstream)
	switch entry, ok := c.Upstreams[upstream]; {
	case ok:
		d.name, d.Upstream = upstream, entry
	case nameRule.MatchString(upstream) && len(c.Upstreams) > 0:
		return d, fmt.Errorf("must be a URL such as http://flaky-server:5000 or one of the upstreams (%s), got %q", strings.Join(c.upstreamNames(), ", "), upstream)
	}
	if d.url, err = parseUpstream(d.URL); err != nil {
		return d, err
	}
	d.origin = transport.UpstreamOf(d.url)
	return d, nil
}

// names are what the upstreams are called in reports, metrics and /breakers: by
// their origin, and an entry that shares its origin also by its own name.
func (c Config) names() map[upstreamKey]string {
	names := map[upstreamKey]string{}
	sharing := map[string]int{}
	for _, r := range c.Routes {
		d, err := c.destination(r.Upstream)
		if _, ok := names[d.key()]; err == nil && !ok {
			names[d.key()] = d.origin
			sharing[d.origin]++
		}
	}
	for key := range names {
		if key.name != "" && sharing[key.origin] > 1 {
			names[key] += "#" + key.name
		}
	}
	return names
}

func (c Config) upstreamNames() []string { return slices.Sorted(maps.Keys(c.Upstreams)) }

// maxContinueWait is how long a request's body waits for the upstream's 100
// (Continue) at most, as curl has it.
const maxContinueWait = time.Second

// continueWait is how long a body waits for a 100 (Continue) that may never
// come: a part of the shortest attempt that may be made, so that an upstream
// which does not know of it still has the time to answer.
func (c Config) continueWait(key upstreamKey) time.Duration {
	wait := maxContinueWait
	for _, r := range c.Routes {
		if d, err := c.destination(r.Upstream); err == nil && d.key() == key {
			wait = min(wait, c.Policies[r.Policy].AttemptTimeout/4)
		}
	}
	return wait
}

// connections are what an upstream's attempts are sent over, whatever its
// settings are: a Reload that changes those puts another pool below the same
// circuits.
type connections struct{ pool atomic.Pointer[endpoint.Pool] }

func (c *connections) RoundTrip(req *http.Request) (*http.Response, error) {
	return c.pool.Load().RoundTrip(req)
}

// RoundTripFresh sends a request on a new connection.
func (c *connections) RoundTripFresh(req *http.Request) (*http.Response, error) {
	return c.pool.Load().RoundTripFresh(req)
}

// CloseIdleConnections closes the connections that no call uses.
func (c *connections) CloseIdleConnections() { c.pool.Load().CloseIdleConnections() }

// upstream is an upstream in use under one configuration.
type upstream struct {
	options     endpoint.Options
	pool        *endpoint.Pool // what connections are to use; nil with Options.Next
	connections *connections
}

// newUpstream makes what d needs, or takes it over from old where that is the same.
func (g *Gateway) newUpstream(d destination, wait time.Duration, old *generation) *upstream {
	if g.options.Next != nil {
		return &upstream{}
	}
	u := &upstream{options: endpoint.Options{Connections: d.Connections, ContinueWait: wait, DialContext: g.options.DialContext, TLS: g.options.TLS}}
	var before *upstream
	if old != nil {
		before = old.upstreams[d.key()]
	}
	switch {
	case before == nil:
		u.pool, u.connections = endpoint.New(d.url, u.options), new(connections)
		u.connections.pool.Store(u.pool) // nobody else has it yet
	case before.options.Connections == u.options.Connections && before.options.ContinueWait == wait:
		return before
	default:
		u.pool, u.connections = endpoint.New(d.url, u.options), before.connections
	}
	return u
}

// next is what sends the attempts.
func (g *Gateway) next(u *upstream) http.RoundTripper {
	if g.options.Next != nil {
		return g.options.Next
	}
	return u.connections
}

// takeOver has n's calls use n's connections, and closes those of old that n does
// not use.
func (n *generation) takeOver(old *generation) {
	for key, u := range n.upstreams {
		if u.pool != nil {
			u.connections.pool.Store(u.pool)
		}
		if before := old.upstreams[key]; before != nil && before.pool != u.pool {
			before.pool.Close()
		}
	}
	for key, before := range old.upstreams {
		if n.upstreams[key] == nil && before.pool != nil {
			before.pool.Close()
		}
	}
}
