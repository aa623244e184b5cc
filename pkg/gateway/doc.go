// Package gateway proxies HTTP routes to upstreams over package transport, so
// that every call survives what its policy lets it survive. It finds the route, passes
// the request on as it came and the answer back, adds the headers that tell what the
// pipeline did, and makes problem documents of the errors that are its own.
package gateway
