package connpool

import "time"

// Limits limits the age and the number of kept connections.
type Limits struct {
	// IdleTimeout closes a connection that has been idle for this long. Above 0.
	IdleTimeout time.Duration
	// MaxAge replaces a connection at this age, ±10 %. At least 0. 0 = never; it also stops the
	// replacement of HTTP/1 connections under traffic. For requests without a body, one may still
	// be opened beside those that have carried bodies.
	MaxAge time.Duration
	// MaxIdle is the largest number of idle HTTP/1 connections. At least 0; 0 keeps none.
	MaxIdle int
	// HTTP2Ping pings an HTTP/2 connection that has been silent for this long, and closes it when
	// the reply takes as long again. At least 0. 0 = never.
	HTTP2Ping time.Duration
}
