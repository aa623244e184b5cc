package transport_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"golang.org/x/net/http2"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// If an HTTP/2 upstream reports a malformed request (RFC 9113, 8.1.1), the caller is to blame. Any
// other reset of the stream blames the upstream.
func TestA3RequestThatThePeerCallsMalformed(t *testing.T) {
	for name, tc := range map[string]struct {
		code   http2.ErrCode
		health resilience.Health
		reason resilience.Reason
	}{
		"malformed":      {http2.ErrCodeProtocol, resilience.Neutral, resilience.ReasonInvalidRequest},
		"internal error": {http2.ErrCodeInternal, resilience.Unhealthy, resilience.ReasonResetBeforeHeaders},
	} {
		t.Run(name, func(t *testing.T) {
			// net/http's own pool would send it again and again, without a trace.
			target, trusted := resetting(t, tc.code)
			pool := endpoint.New(target, endpoint.Options{Connections: endpoint.DefaultConnections(), TLS: trusted})
			defer pool.Close()
			p := patient()
			p.Retry.MaxAttempts = 1
			r := get(t, newTransport(t, pool, p), target.String())
			if a := r.judged(t); a.Health != tc.health || a.Reason != tc.reason || errors.Is(r.err, transport.ErrInvalidRequest) != (tc.health == resilience.Neutral) {
				t.Errorf("%s, health %v, %v; want %s", a.Reason, a.Health, r.err, tc.reason)
			}
		})
	}
}

// resetting returns an upstream that resets every HTTP/2 stream with code.
func resetting(t *testing.T, code http2.ErrCode) (*url.URL, *tls.Config) {
	t.Helper()
	certified := httptest.NewTLSServer(nil) // to take its certificate
	certified.Close()
	l := tls.NewListener(rawhttp.Listen(t), &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	rawhttp.Serve(t, l, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(conn, conn)
		_ = framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if headers, ok := frame.(*http2.HeadersFrame); ok {
				_ = framer.WriteRSTStream(headers.StreamID, code)
			}
		}
	})
	return &url.URL{Scheme: "https", Host: l.Addr().String()}, certified.Client().Transport.(*http.Transport).TLSClientConfig
}
