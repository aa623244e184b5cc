package gateway

import (
	"net"
	"net/http"
	"time"
)

// idleConnections to one upstream are kept at most: enough for the bursts of a
// gateway, where net/http's default of 2 would dial for nearly every call.
const idleConnections = 512

// NewUpstreamTransport is the http.Transport that a gateway sends attempts
// with. It asks for HTTP/2 over TLS, leaves compression to caller and upstream,
// and takes no proxy from the environment: a gateway's upstream is what its
// configuration names. Its timeouts only bound what goes on in the background;
// the policy's are in the request's context.
func NewUpstreamTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   idleConnections,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}
