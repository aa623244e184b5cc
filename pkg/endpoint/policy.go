package endpoint

import (
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Policy says how the endpoints of an upstream are found, and when one of them is ejected.
type Policy struct {
	// Resolve selects where the addresses come from.
	Resolve Resolve `yaml:"resolve"`
	// Addresses are the endpoints with resolve: static, each a host:port. At least one, each once.
	Addresses []string `yaml:"addresses,omitempty"`
	// Refresh is how often the name is looked up with resolve: dns. An address that comes or goes
	// is noticed up to Refresh later, and the time that a DNS cache keeps its answers. After a
	// failed dial the name is also looked up at once, but not twice within a second. 100ms to 1h.
	Refresh time.Duration `yaml:"refresh"`
	// Eject leaves out endpoints that fail.
	Eject Eject `yaml:"eject"`
}

// Resolve selects where the addresses of an upstream's endpoints come from.
type Resolve string

// The values of Resolve.
const (
	// ResolveNone does not look for endpoints: a new connection reaches whatever is behind the
	// upstream's name.
	ResolveNone Resolve = "none"
	// ResolveDNS makes an endpoint of every address that DNS has for the upstream's name.
	ResolveDNS Resolve = "dns"
	// ResolveStatic uses a list of addresses.
	ResolveStatic Resolve = "static"
)

// UnmarshalText accepts only the known values.
func (r *Resolve) UnmarshalText(text []byte) error {
	if !Resolve(text).valid() {
		return fmt.Errorf(resolveExpected, text)
	}
	*r = Resolve(text)
	return nil
}

func (r Resolve) valid() bool { return r == ResolveNone || r == ResolveDNS || r == ResolveStatic }

const resolveExpected = "expected one of none, dns, static, got %q"

// Eject says when an endpoint is left out, and for how long. A probe, one ordinary request, brings
// it back. An upstream's only endpoint is never ejected.
type Eject struct {
	// ConsecutiveFailures is the number of failures in a row that eject an endpoint. 0 = never.
	ConsecutiveFailures int `yaml:"consecutiveFailures"`
	// FailureRatio is the share of failures within Window that ejects an endpoint. 0 to 1; 0 =
	// never.
	FailureRatio float64 `yaml:"failureRatio"`
	// MinRequests is the number of requests that must have ended within Window before FailureRatio
	// counts. At least 1.
	MinRequests int `yaml:"minRequests"`
	// Window is the time that FailureRatio covers. It rolls in ten steps. 10ms to 24h.
	Window time.Duration `yaml:"window"`
	// EjectFor is the first period. It is jittered by ±20 % and doubles with each failed probe.
	// Above 0.
	EjectFor time.Duration `yaml:"ejectFor"`
	// MaxEjectFor is the longest period. At least EjectFor.
	MaxEjectFor time.Duration `yaml:"maxEjectFor"`
	// MaxEjected is the largest share of the endpoints that may be out at once, rounded down. If
	// more would have to go, none is ejected: then the failures are likely not theirs. 0 to 1; 0
	// ejects none.
	MaxEjected float64 `yaml:"maxEjected"`
}

// DefaultPolicy returns the defaults.
func DefaultPolicy() Policy {
	return Policy{
		Resolve: ResolveNone,
		Refresh: 5 * time.Second,
		Eject: Eject{
			ConsecutiveFailures: 5, FailureRatio: 0.5, MinRequests: 20, Window: 10 * time.Second,
			EjectFor: time.Second, MaxEjectFor: 30 * time.Second, MaxEjected: 0.5,
		},
	}
}

// SetDefaults sets p to [DefaultPolicy]. Loaders call it before they decode a file into p.
func (p *Policy) SetDefaults() { *p = DefaultPolicy() }

const (
	minRefresh = 100 * time.Millisecond
	maxRefresh = time.Hour
	maxCount   = 1 << 30
	maxWindow  = 24 * time.Hour
)

// Validate returns all mistakes in p at once, each with the path of its key, or nil.
func (p Policy) Validate() error {
	var m mistake.List
	m.Check(p.Resolve.valid(), "resolve", resolveExpected, string(p.Resolve))
	if p.Resolve == ResolveStatic {
		m.Check(len(p.Addresses) > 0, "addresses", "must have at least one host:port with resolve: static")
	} else {
		m.Check(len(p.Addresses) == 0, "addresses", "must be left out with resolve: %s; they belong to resolve: static", p.Resolve)
	}
	seen := map[string]bool{}
	for i, a := range p.Addresses {
		path := fmt.Sprintf("addresses[%d]", i)
		m.Check(validAddress(a), path, "must be a host:port such as 10.0.0.7:8080, got %q", a)
		m.Check(!seen[a], path, "%s is listed twice", a)
		seen[a] = true
	}
	m.Check(p.Refresh >= minRefresh && p.Refresh <= maxRefresh, "refresh", "must be from %v to %v, got %v", minRefresh, maxRefresh, p.Refresh)
	m.Merge("eject", p.Eject.mistakes().Err())
	return m.Err()
}

// validAddress reports whether s is a host and a port, in the only way to write the port.
func validAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	return err == nil && port != "" && port[0] != '0' && nethttp.CheckHost(&url.URL{Host: s}) == nil
}

// mistakes returns the mistakes in e, with paths relative to it.
func (e Eject) mistakes() (m mistake.List) {
	m.Check(e.ConsecutiveFailures >= 0 && e.ConsecutiveFailures <= maxCount, "consecutiveFailures", "must be from 0 (never) to %d, got %d", maxCount, e.ConsecutiveFailures)
	m.Check(e.FailureRatio >= 0 && e.FailureRatio <= 1, "failureRatio", "must be from 0 (never) to 1, got %v", e.FailureRatio)
	m.Check(e.MinRequests >= 1 && e.MinRequests <= maxCount, "minRequests", "must be from 1 to %d, got %d", maxCount, e.MinRequests)
	m.Check(e.Window >= 10*time.Millisecond && e.Window <= maxWindow, "window", "must be from 10ms to %v, got %v", maxWindow, e.Window)
	m.Check(e.EjectFor > 0, "ejectFor", "must be above 0, got %v", e.EjectFor)
	if e.EjectFor > 0 {
		m.Check(e.MaxEjectFor >= e.EjectFor, "maxEjectFor", "must be at least ejectFor (%v), got %v", e.EjectFor, e.MaxEjectFor)
	}
	m.Check(e.MaxEjected >= 0 && e.MaxEjected <= 1, "maxEjected", "must be from 0 (none) to 1, got %v", e.MaxEjected)
	return m
}

// off reports whether e never ejects an endpoint.
func (e Eject) off() bool {
	return e.MaxEjected == 0 || e.ConsecutiveFailures == 0 && e.FailureRatio == 0
}

// circuit returns the policy of one endpoint's circuit.
func (e Eject) circuit() resilience.BreakerPolicy {
	return resilience.BreakerPolicy{
		Window: e.Window, MinRequests: e.MinRequests, FailureRatio: e.FailureRatio,
		ConsecutiveFailures: e.ConsecutiveFailures, OpenFor: e.EjectFor, MaxOpenFor: e.MaxEjectFor, Probes: 1,
	}
}
