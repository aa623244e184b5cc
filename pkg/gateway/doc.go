// Package gateway is an HTTP proxy that protects calls with package transport. It finds the route
// of a request, sends the request to the route's upstream under the route's policy, and passes the
// answer back. Requests and answers pass unchanged except for headers. The gateway adds headers
// about attempts and waits. Its own errors are problem documents (RFC 9457).
package gateway
