package endpoint

import (
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Connections says how long connections to an upstream are kept, and how many.
type Connections struct {
	// IdleTimeout closes a connection that no call has used for so long. It should
	// be shorter than the time after which the upstream closes it. Above 0.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// MaxAge replaces a connection when it is so old, more or less a tenth, so that
	// what is behind one name shares the load again after it changed. At least 0;
	// 0 = never, and HTTP/1 connections are not replaced one by one under traffic
	// either.
	MaxAge time.Duration `yaml:"maxAge"`
	// MaxIdle is how many HTTP/1 connections are kept while no call uses them. At
	// least 0; 0 = none.
	MaxIdle int `yaml:"maxIdle"`
	// HTTP2Ping asks an HTTP/2 connection for a sign of life when it was silent for
	// so long, and closes it after as long without one. 0 = never, or at least 100ms.
	HTTP2Ping time.Duration `yaml:"http2Ping"`
}

// minHTTP2Ping keeps a typing error from flooding an upstream with pings.
const minHTTP2Ping = 100 * time.Millisecond

// DefaultConnections has the defaults.
func DefaultConnections() Connections {
	return Connections{IdleTimeout: 30 * time.Second, MaxAge: 5 * time.Minute, MaxIdle: 512, HTTP2Ping: 2 * time.Second}
}

// SetDefaults makes c [DefaultConnections]; loaders call it before they decode over it.
func (c *Connections) SetDefaults() { *c = DefaultConnections() }

// Mistakes lists what is wrong, in the order of the fields.
func (c Connections) Mistakes() (m resilience.Mistakes) {
	m.Check(c.IdleTimeout > 0, "idleTimeout", "must be above 0, got %v", c.IdleTimeout)
	m.Check(c.MaxAge >= 0, "maxAge", "must be at least 0 (never), got %v", c.MaxAge)
	m.Check(c.MaxIdle >= 0, "maxIdle", "must be at least 0 (none), got %d", c.MaxIdle)
	m.Check(c.HTTP2Ping == 0 || c.HTTP2Ping >= minHTTP2Ping, "http2Ping", "must be 0 (never) or at least %v, got %v", minHTTP2Ping, c.HTTP2Ping)
	return m
}

// Validate reports every mistake at once, as [resilience.Mistakes].
func (c Connections) Validate() error { return c.Mistakes().Err() }
