package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/certs"
	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Upstream is a destination of requests.
type Upstream struct {
	// URL is the address, over http, https or h2c (HTTP/2 without TLS), such as
	// "http://orders:8080/v1". Its path is put before the request's.
	URL string `yaml:"url"`
	// Host selects which host the requests name: that of the URL or the caller's.
	Host Host `yaml:"host"`
	// Headers are set in every request, in place of the caller's. TRACE requests do not get them.
	Headers     map[string]Header    `yaml:"headers"`
	Endpoints   endpoint.Policy      `yaml:"endpoints"`
	Connections endpoint.Connections `yaml:"connections"`
	TLS         TLS                  `yaml:"tls"`
}

// TLS sets how an https upstream is verified, and how the gateway identifies itself. The files are
// read again when they change.
type TLS struct {
	// CAFile has the certificates to trust, in PEM. Empty means the system's.
	CAFile string `yaml:"caFile"`
	// CertFile has the certificate that the gateway shows, with its chain, in PEM. Empty means
	// none.
	CertFile string `yaml:"certFile"`
	// KeyFile has the key of CertFile, in PEM. It must come with CertFile.
	KeyFile string `yaml:"keyFile"`
	// ServerName is the name in the upstream's certificate. Empty means the URL's host.
	ServerName string `yaml:"serverName"`
	// InsecureSkipVerify accepts any certificate. For tests only.
	InsecureSkipVerify bool `yaml:"insecureSkipVerify"`
}

// mistakes returns the mistakes in t, with paths relative to it. It reads no file.
func (t TLS) mistakes(scheme string) (m mistake.List) {
	m.Check(t == TLS{} || scheme == "https", "", "must be left out: the upstream's URL is not https")
	m = append(m, keyPairMistakes(t.CertFile, t.KeyFile)...)
	m.Check(t.CAFile == "" || !t.InsecureSkipVerify, "insecureSkipVerify", "must be left out with caFile, which it would make useless")
	return m
}

// config returns the TLS configuration for t, over base, for a URL with the given host, and the
// files that it uses, or nil. failed is called when a changed file cannot be used.
func (t TLS) config(base *tls.Config, host string, failed func(error)) (*tls.Config, *certs.Store, error) {
	if t == (TLS{}) {
		return base, nil, nil
	}
	store, err := certs.Load(certs.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}, failed)
	if err != nil {
		return nil, nil, err
	}
	c := connpool.TLSConfig(base)
	c.ServerName = cmp.Or(t.ServerName, host)
	c.InsecureSkipVerify = t.InsecureSkipVerify
	store.SetUp(c)
	return c, store, nil
}

// Host selects the host that an upstream's requests name.
type Host string

// The values of Host.
const (
	HostUpstream Host = "upstream" // the host of the upstream's URL
	HostCaller   Host = "caller"   // the host that the caller asked for
)

// UnmarshalText accepts only the known values.
func (h *Host) UnmarshalText(text []byte) error {
	if !Host(text).valid() {
		return fmt.Errorf("expected one of %s, %s, got %q", HostUpstream, HostCaller, text)
	}
	*h = Host(text)
	return nil
}

func (h Host) valid() bool { return h == HostUpstream || h == HostCaller }

// DefaultUpstream returns the default settings for the upstream at url.
func DefaultUpstream(url string) Upstream {
	return Upstream{URL: url, Host: HostUpstream, Headers: map[string]Header{}, Endpoints: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections()}
}

// SetDefaults is called by the loader before it decodes an upstream.
func (u *Upstream) SetDefaults() { *u = DefaultUpstream("") }

// Validate returns every mistake at once, each with the path of its key.
func (u Upstream) Validate() error {
	var m mistake.List
	parsed, err := parseUpstream(u.URL)
	if err != nil {
		m.Add("url", "%v", err)
	} else {
		m.Merge("tls", u.TLS.mistakes(parsed.Scheme).Err())
	}
	m.Check(u.Host.valid(), "host", "expected one of %s, %s, got %q", HostUpstream, HostCaller, string(u.Host))
	m.Merge("headers", headerMistakes(u.Headers).Err())
	m.Merge("endpoints", u.Endpoints.Validate())
	m.Merge("connections", u.Connections.Validate())
	return m.Err()
}

// destination is the resolved upstream of a route.
type destination struct {
	Upstream
	name   string // key in Config.Upstreams; empty if the route has a URL
	url    *url.URL
	origin string // scheme, host and port
	h2c    bool   // HTTP/2 without TLS; the scheme of url is http
}

// upstreamKey identifies an upstream. Routes whose URLs have the same origin share one. Each entry
// of Config.Upstreams has its own.
type upstreamKey struct{ name, origin string }

func (d destination) key() upstreamKey { return upstreamKey{d.name, d.origin} }

// destination resolves a route's upstream.
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
	if d.h2c = d.url.Scheme == schemeH2C; d.h2c {
		d.url.Scheme = "http"
	}
	return d, nil
}

// names returns the upstreams' names for reports, metrics and /breakers. A name is the upstream's
// origin. If several upstreams share it, # and the entry's key follow.
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

// maxContinueWait is the longest wait for 100 (Continue) before a request's body is sent. curl uses
// the same.
const maxContinueWait = time.Second

// continueWait returns how long a body waits for 100 (Continue). It is at most a quarter of the
// shortest attempt timeout for this upstream, so that an upstream which ignores Expect still has
// time to answer.
func (c Config) continueWait(key upstreamKey) time.Duration {
	wait := maxContinueWait
	for _, r := range c.Routes {
		if d, err := c.destination(r.Upstream); err == nil && d.key() == key {
			wait = min(wait, c.Policies[r.Policy].AttemptTimeout/4)
		}
	}
	return wait
}

// endpoints sends an upstream's attempts to its current endpoints. A Reload can replace the set
// below the same circuits.
type endpoints struct{ set atomic.Pointer[endpoint.Set] }

func (e *endpoints) RoundTrip(req *http.Request) (*http.Response, error) {
	return e.set.Load().RoundTrip(req)
}

// Begin chooses an endpoint for an attempt. A reload may end the lookup that it waits for: then it
// asks the new set.
func (e *endpoints) Begin(ctx context.Context, l *endpoint.Lease, c *endpoint.Call, limit time.Duration) error {
	for {
		set := e.set.Load()
		err := set.Begin(ctx, l, c, limit)
		if !errors.Is(err, endpoint.ErrNoEndpoint) || e.set.Load() == set {
			return err
		}
	}
}

// CloseIdleConnections closes the connections that no call uses.
func (e *endpoints) CloseIdleConnections() { e.set.Load().CloseIdleConnections() }

// upstream is an upstream in use under one configuration.
type upstream struct {
	settings  Upstream
	options   endpoint.Options
	files     *certs.Store // of the settings' tls; nil without them
	headers   *addedHeaders
	set       *endpoint.Set // nil with Options.Next
	endpoints *endpoints
}

// newUpstream returns the upstream for d. It reuses what it can of old, which may be nil: a running
// set also if its addresses or the wait differ, which takeOver changes.
func (g *Gateway) newUpstream(d destination, wait time.Duration, old *generation) (u *upstream, err error) {
	u = &upstream{settings: d.Upstream}
	var before *upstream
	if old != nil {
		before = old.upstreams[d.key()]
	}
	if before != nil && maps.Equal(before.settings.Headers, d.Headers) {
		u.headers = before.headers
	} else if u.headers, err = loadHeaders(d.Headers, g.fileRefused(d.key())); err != nil {
		return nil, fmt.Errorf("upstreams.%s.headers: %w", d.name, err)
	}
	if g.options.Next != nil {
		return u, nil
	}
	u.options = endpoint.Options{
		Connections: d.Connections, Policy: d.Endpoints, ContinueWait: wait, DialContext: g.options.DialContext,
		PriorKnowledge: d.h2c, Random: g.options.Random, Resolver: g.options.Resolver, Notify: g.notify(d.key()),
	}
	if before != nil && before.settings.TLS == d.TLS {
		u.options.TLS, u.files = before.options.TLS, before.files
	} else if u.options.TLS, u.files, err = d.TLS.config(g.options.TLS, connpool.ServerName(d.url), g.fileRefused(d.key())); err != nil {
		return nil, fmt.Errorf("upstreams.%s.tls: %w", d.name, err)
	}
	switch {
	case before == nil:
		u.set, u.endpoints = endpoint.New(d.url, u.options), new(endpoints)
		u.endpoints.set.Store(u.set) // no call uses it yet
	case before.sameEndpoints(u):
		u.set, u.endpoints = before.set, before.endpoints
	default:
		u.set, u.endpoints = before.set.Renew(u.options), before.endpoints
	}
	return u, nil
}

// fileRefused logs that a changed file of an upstream, or of the data port, cannot be used. The key
// of the data port is empty.
func (g *Gateway) fileRefused(key upstreamKey) func(error) {
	return func(err error) {
		name := cmp.Or(g.current.Load().names[key], key.origin)
		g.options.Logger.Error(lineFileRefused, slog.String(logUpstream, name), slog.Any(logError, err))
	}
}

// sameEndpoints reports whether u and o connect in the same way to endpoints that are found in the
// same way, as far as a configuration can change that.
func (u *upstream) sameEndpoints(o *upstream) bool {
	a, b := u.settings, o.settings
	a.Endpoints.Addresses, b.Endpoints.Addresses = nil, nil
	return a.TLS == b.TLS && a.Connections == b.Connections && reflect.DeepEqual(a.Endpoints, b.Endpoints)
}

// next returns the RoundTripper that sends the attempts.
func (g *Gateway) next(u *upstream) http.RoundTripper {
	if g.options.Next != nil {
		return g.options.Next
	}
	return u.endpoints
}

// takeOver makes all calls use n's endpoints and closes those of old that n does not use.
func (n *generation) takeOver(old *generation) {
	for key, u := range n.upstreams {
		if u.set != nil {
			u.set.SetContinueWait(u.options.ContinueWait)
			u.set.SetAddresses(u.options.Policy.Addresses)
			u.endpoints.set.Store(u.set)
		}
		if before := old.upstreams[key]; before != nil && before.set != u.set {
			before.set.Close()
		}
	}
	for key, before := range old.upstreams {
		if n.upstreams[key] == nil && before.set != nil {
			before.set.Close()
		}
	}
}
