package gateway_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// trusting returns credentials of a caller that trusts ca and speaks HTTP/2, as gRPC requires.
func trusting(ca *pki.Authority) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{RootCAs: pki.Pool(ca), MinVersion: tls.VersionTLS12})
}

// With TLS on either side of the gateway, or on both, calls pass as without: messages in both
// directions, statuses after a message, and retries.
func TestGRPCOverTLS(t *testing.T) {
	ca := pki.New(t, "ca")
	files := pki.NewSecret(t)
	cert, key := ca.Issue("127.0.0.1")
	files.Write(map[string][]byte{"ca.crt": ca.PEM(), "tls.crt": cert, "tls.key": key})
	for _, front := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("from callers %v, to the upstream %v", front, back), func(t *testing.T) {
				var attempts atomic.Int64
				handle := func(s grpc.ServerStream) error {
					attempts.Add(1)
					if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("down")) > 0 {
						return status.Error(codes.Unavailable, "down")
					}
					return grpctest.Echo(func(string) {})(s)
				}
				c := gateway.ForUpstream("server")
				c.Policies[gateway.DefaultPolicyName] = counting()
				c.Routes[0].GRPC.Idempotent = true
				var entry gateway.Upstream
				if back {
					pair := credentials.NewServerTLSFromCert(ca.Pair("127.0.0.1"))
					entry = gateway.DefaultUpstream("https://" + grpctest.Serve(t, handle, grpc.Creds(pair)))
					entry.TLS.CAFile = files.Path("ca.crt")
				} else {
					entry = gateway.DefaultUpstream(grpcServer(t, handle))
				}
				c.Upstreams = map[string]gateway.Upstream{"server": entry}
				with := insecure.NewCredentials()
				if front {
					c.Listener.TLS = gateway.ListenerTLS{CertFile: files.Path("tls.crt"), KeyFile: files.Path("tls.key")}
					with = trusting(ca)
				}
				_, client := grpcGatewayOf(t, c, with)
				if err := grpctest.Exchange(t.Context(), client, 1, 20, -1); err != nil {
					t.Errorf("a stream of 20 messages: %v", err)
				}
				if err := grpctest.Exchange(metadata.AppendToOutgoingContext(t.Context(), "fails", "3"), client, 2, 20, 3); err != nil {
					t.Errorf("a stream that fails after 3 messages: %v", err)
				}
				attempts.Store(0)
				err := grpctest.RoundTrip(metadata.AppendToOutgoingContext(t.Context(), "down", "yes"), client, false)
				if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != "down" || attempts.Load() != 3 {
					t.Errorf("a call that is always refused: got %v after %d attempts, want the server's UNAVAILABLE after 3", err, attempts.Load())
				}
			})
		}
	}
}

// A certificate that the gateway does not trust, and a server that speaks HTTP/1 only, give the
// caller an error that it can read.
func TestGRPCOverTLSFails(t *testing.T) {
	ca := pki.New(t, "ca")
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"ca.crt": ca.PEM(), "other.crt": pki.New(t, "other").PEM()})
	secure := grpctest.Serve(t, grpctest.Echo(func(string) {}), grpc.Creds(credentials.NewServerTLSFromCert(ca.Pair("127.0.0.1"))))
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNotFound)
	}))
	old.TLS = &tls.Config{Certificates: []tls.Certificate{*ca.Pair("127.0.0.1")}, MinVersion: tls.VersionTLS12}
	old.StartTLS()
	t.Cleanup(old.Close)
	for name, c := range map[string]struct {
		url, ca string
		code    codes.Code
		message string // a part of it
	}{
		"another CA":  {"https://" + secure, "other.crt", codes.Unavailable, "could not be reached securely"},
		"TLS to h2c":  {"https://" + strings.TrimPrefix(grpcServer(t, grpctest.Echo(func(string) {})), "h2c://"), "ca.crt", codes.Unavailable, "could not be reached securely"},
		"h2c to TLS":  {"h2c://" + secure, "ca.crt", codes.Unavailable, "closed the connection before it answered"},
		"only HTTP/1": {old.URL, "ca.crt", codes.Unimplemented, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			config := gateway.ForUpstream("server")
			config.Policies[gateway.DefaultPolicyName] = counting()
			entry := gateway.DefaultUpstream(c.url)
			if strings.HasPrefix(c.url, "https") {
				entry.TLS.CAFile = files.Path(c.ca)
			}
			config.Upstreams = map[string]gateway.Upstream{"server": entry}
			_, client := grpcGatewayOf(t, config, insecure.NewCredentials())
			if err := grpctest.RoundTrip(t.Context(), client, false); status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.message) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.message)
			}
		})
	}
}
