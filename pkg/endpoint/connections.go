package endpoint

import (
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// Connections limits the age and the number of kept connections.
type Connections struct {
	// IdleTimeout closes a connection that has been idle for this long. Set it below the upstream's
	// own idle timeout. Above 0.
	IdleTimeout time.Duration `yaml:"idleTimeout"`
	// MaxAge replaces a connection at this age, ±10 %, so that new machines behind a name get their
	// share of the load. At least 0. 0 = never; it also stops the replacement of HTTP/1 connections
	// under traffic. For requests without a body, one may still be opened beside those that have
	// carried bodies.
	MaxAge time.Duration `yaml:"maxAge"`
	// MaxIdle is the largest number of idle HTTP/1 connections. At least 0; 0 keeps none.
	MaxIdle int `yaml:"maxIdle"`
	// HTTP2Ping pings an HTTP/2 connection that has been silent for this long, and closes it when
	// the reply takes as long again. 0 = never, or at least 100ms.
	HTTP2Ping time.Duration `yaml:"http2Ping"`
}

// minHTTP2Ping keeps a typing error from flooding an upstream with pings.
const minHTTP2Ping = 100 * time.Millisecond

// DefaultConnections returns the defaults.
func DefaultConnections() Connections {
	return Connections{IdleTimeout: 30 * time.Second, MaxAge: 5 * time.Minute, MaxIdle: 512, HTTP2Ping: 2 * time.Second}
}

// SetDefaults sets c to [DefaultConnections]. Loaders call it before they decode a file into c.
func (c *Connections) SetDefaults() { *c = DefaultConnections() }

// Validate returns all mistakes in c at once, each with the path of its key, or nil.
func (c Connections) Validate() error {
	var m mistake.List
	m.Check(c.IdleTimeout > 0, "idleTimeout", "must be above 0, got %v", c.IdleTimeout)
	m.Check(c.MaxAge >= 0, "maxAge", "must be at least 0 (never), got %v", c.MaxAge)
	m.Check(c.MaxIdle >= 0, "maxIdle", "must be at least 0 (none), got %d", c.MaxIdle)
	m.Check(c.HTTP2Ping == 0 || c.HTTP2Ping >= minHTTP2Ping, "http2Ping", "must be 0 (never) or at least %v, got %v", minHTTP2Ping, c.HTTP2Ping)
	return m.Err()
}
