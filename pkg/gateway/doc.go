// Package gateway proxies HTTP routes to upstreams over package transport, so
// that every call survives what its policy lets it survive. Proxying itself is
// net/http/httputil's; this package adds the routes, the headers that tell what
// the pipeline did, and problem documents for the errors that it makes.
package gateway
