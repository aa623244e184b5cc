package endpoint

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Options are what a [Pool] needs besides the address. The zero value is not
// ready: Connections must be valid.
type Options struct {
	Connections Connections
	// ContinueWait is how long a body waits for a 100 (Continue) that the request
	// expects before it is sent all the same. At least 0.
	ContinueWait time.Duration
	// DialContext makes the connections; nil means a net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Pool is an http.RoundTripper over the connections to one upstream.
type Pool struct{ transport *http.Transport }

// New makes a pool for the scheme, host and port of target.
func New(_ *url.URL, o Options) *Pool {
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return &Pool{transport: &http.Transport{
		DialContext:           o.DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   o.Connections.MaxIdle,
		IdleConnTimeout:       o.Connections.IdleTimeout,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: o.ContinueWait,
	}}
}

// RoundTrip sends a request once.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	return p.transport.RoundTrip(req)
}

// RoundTripFresh sends a request once, on a new connection.
func (p *Pool) RoundTripFresh(req *http.Request) (*http.Response, error) {
	return p.transport.RoundTrip(req)
}

// CloseIdleConnections closes the connections that no call uses.
func (p *Pool) CloseIdleConnections() { p.transport.CloseIdleConnections() }

// Close closes the connections that no call uses, and the others when their calls
// end. Calls that come later get a connection each.
func (p *Pool) Close() { p.transport.CloseIdleConnections() }
