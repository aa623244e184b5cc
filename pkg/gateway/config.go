package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"maps"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Config is the configuration of a gateway.
type Config struct {
	// Routes send requests to upstreams. At least one.
	Routes []Route `yaml:"routes"`
	// Policies are the policies that routes name. "default" always exists.
	Policies map[string]transport.Policy `yaml:"policies"`
	// Upstreams are the upstreams that routes name instead of a URL.
	Upstreams map[string]Upstream `yaml:"upstreams,omitempty"`
	// Listener sets which callers the data port trusts, and how long it waits for them.
	Listener Listener `yaml:"listener"`
}

// Route sends the requests that match a pattern to an upstream.
type Route struct {
	// Name identifies the route in logs, metrics and problem documents. 1 to 63 letters, digits,
	// dots, dashes and underscores; unique.
	Name string `yaml:"name"`
	// Match is a pattern as in net/http's ServeMux, such as "/process", "GET /orders/{id}",
	// "/api/{rest...}" or "shop.example.com/". The case and the port of a host do not matter.
	Match string `yaml:"match"`
	// Upstream is the destination: a key of Config.Upstreams, or an http, https or h2c URL, whose
	// path is put before the request's.
	Upstream string `yaml:"upstream"`
	// Policy is a key of Config.Policies.
	Policy string `yaml:"policy"`
	// GRPC concerns the route's gRPC calls.
	GRPC RouteGRPC `yaml:"grpc,omitempty"`
}

// DefaultPolicyName is the policy of routes that name none. It always exists.
const DefaultPolicyName = "default"

// DefaultConfig returns a configuration with the default policy and no route. A file is decoded
// over it.
func DefaultConfig() Config {
	return Config{Listener: DefaultListener(), Policies: map[string]transport.Policy{DefaultPolicyName: transport.DefaultPolicy()}}
}

// ForUpstream returns a configuration that sends every path to one upstream under the default
// policy.
func ForUpstream(upstream string) Config {
	c := DefaultConfig()
	c.Routes = []Route{{Name: "upstream", Match: "/", Upstream: upstream, Policy: DefaultPolicyName}}
	return c
}

// SetDefaults is called by the loader before it decodes a route.
func (r *Route) SetDefaults() { r.Policy = DefaultPolicyName }

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

const nameExpected = "must be 1 to 63 letters, digits, dots, dashes or underscores and begin with a letter or digit, got %q"

// Validate reports every mistake at once, each with the path of its key.
func (c Config) Validate() error {
	var found mistake.List
	report := found.Add
	if len(c.Routes) == 0 {
		report("routes", "must have at least one route, such as {name: process, match: /process, upstream: \"http://flaky-server:5000\"}")
	}
	found.Merge("listener", c.Listener.validate())
	mux := http.NewServeMux()
	for i, r := range c.Routes {
		at := func(key string) string { return config.Join(config.Index("routes", i), key) }
		if !nameRule.MatchString(r.Name) {
			report(at("name"), nameExpected, r.Name)
		} else if j := slices.IndexFunc(c.Routes[:i], func(o Route) bool { return o.Name == r.Name }); j >= 0 {
			report(at("name"), "%q is the name of routes[%d] already", r.Name, j)
		}
		if p, err := parsePattern(r.Match); err != nil {
			report(at("match"), "%v", err)
		} else if err := register(mux, p); err != nil {
			report(at("match"), "%s", c.explainPattern(i, p, err))
		}
		if _, ok := c.Upstreams[r.Upstream]; ok {
			// Mistakes in the entry are reported below.
		} else if _, err := c.destination(r.Upstream); err != nil {
			report(at("upstream"), "%v", err)
		}
		if _, ok := c.Policies[r.Policy]; !ok {
			report(at("policy"), "must be one of the policies (%s), got %q", strings.Join(c.policyNames(), ", "), r.Policy)
		}
	}
	for _, name := range c.policyNames() {
		path := config.Join("policies", name)
		if !nameRule.MatchString(name) {
			report(path, "a policy's name "+nameExpected, name)
		}
		found.Merge(path, c.Policies[name].Validate())
	}
	for _, name := range c.upstreamNames() {
		path := config.Join("upstreams", name)
		if !nameRule.MatchString(name) {
			report(path, "an upstream's name "+nameExpected, name)
		}
		found.Merge(path, c.Upstreams[name].Validate())
	}
	return found.Err()
}

func (c Config) policyNames() []string { return slices.Sorted(maps.Keys(c.Policies)) }

// register adds a pattern to mux. It turns ServeMux's panic about a malformed or conflicting
// pattern into an error.
func register(mux *http.ServeMux, p pattern) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	mux.Handle(p.String(), http.NotFoundHandler())
	return nil
}

// explainPattern describes the mistake in route i's pattern in terms of the configuration.
// net/http's messages name lines of Go source.
func (c Config) explainPattern(i int, p pattern, err error) string {
	pattern := c.Routes[i].Match
	for j, o := range c.Routes[:i] {
		other, otherErr := parsePattern(o.Match)
		pair := http.NewServeMux()
		if otherErr != nil || register(pair, other) != nil {
			continue
		}
		if register(pair, p) == nil {
			continue
		}
		if register(http.NewServeMux(), p) != nil {
			break // it is malformed by itself
		}
		if other == p {
			return fmt.Sprintf("%q is the pattern of routes[%d] already", pattern, j)
		}
		return fmt.Sprintf("%q conflicts with %q of routes[%d]: both match some request and neither is more specific", pattern, o.Match, j)
	}
	return patternExpected + ": " + err.Error()
}

// schemeH2C is HTTP/2 without TLS, with prior knowledge (RFC 9113, 3.3).
const schemeH2C = "h2c"

func parseUpstream(s string) (*url.URL, error) {
	const expected = "must be a URL such as http://flaky-server:5000, got %q"
	shown := s
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		shown = "…" + s[at:] // what comes before may be a password
	}
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("must be a URL such as http://flaky-server:5000, got nothing")
	case err != nil && shown != s:
		return nil, fmt.Errorf(expected, shown) // the cause may have a part of it
	case err != nil:
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf(expected+": %w", s, err)
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != schemeH2C:
		return nil, fmt.Errorf(expected+": the scheme must be http, https or h2c", shown)
	case u.User != nil:
		return nil, fmt.Errorf("must be a URL without user and password, got one for %s", u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf(expected+": it must end with the path", shown)
	}
	if err := nethttp.CheckHost(u); err != nil {
		return nil, fmt.Errorf(expected+": %w", shown, err)
	}
	return u, nil
}
