// Package gateway proxies HTTP routes to upstreams over package transport, so
// that every call survives what its policy lets it survive. It finds the route and
// passes the request and the answer on as they came. It adds headers that say what the
// pipeline did. Its own errors are problem documents.
package gateway
