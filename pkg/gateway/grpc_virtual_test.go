package gateway_test

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/rebound-dev/rebound/pkg/gateway"
)

// A caller that only names its limit, and does not keep it itself, has its answer in time from the
// gateway, even if the upstream ignores the limit. A shorter limit of ours wins until the headers.
// The upstream sees what is left of the caller's. The clock is virtual, so a busy machine does not
// matter.
func TestGRPCDeadlineIsTheGateways(t *testing.T) {
	for name, c := range map[string]struct {
		ours          time.Duration
		delay         time.Duration // before the headers
		headers       bool          // with a message, before the upstream falls silent
		first         string        // status of the first attempt, if it has one
		least, within time.Duration
	}{
		"no answer":                      {5 * time.Second, 0, false, "", 100 * time.Millisecond, 130 * time.Millisecond},
		"after a message":                {5 * time.Second, 0, true, "", 100 * time.Millisecond, 130 * time.Millisecond},
		"after a late message":           {5 * time.Second, 90 * time.Millisecond, true, "", 100 * time.Millisecond, 130 * time.Millisecond},
		"no answer to the second of two": {5 * time.Second, 40 * time.Millisecond, false, "14", 100 * time.Millisecond, 130 * time.Millisecond},
		"ours":                           {50 * time.Millisecond, 0, false, "", 50 * time.Millisecond, 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var start time.Time
				attempts := 0
				upstream := listenInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					attempts++
					left, err := time.ParseDuration(strings.NewReplacer("m", "ms", "u", "us", "n", "ns", "S", "s").Replace(r.Header.Get("grpc-timeout")))
					if want := 100*time.Millisecond - time.Since(start); err != nil || left > want || left < want-10*time.Millisecond {
						t.Errorf("attempt %d: the upstream sees %q, want about %v", attempts, r.Header.Get("grpc-timeout"), want)
					}
					time.Sleep(c.delay)
					w.Header().Set("content-type", "application/grpc")
					if c.first != "" && attempts == 1 {
						w.Header().Set("grpc-status", c.first)
						return
					}
					if c.headers {
						_, _ = w.Write([]byte{0, 0, 0, 0, 1, 'x'})
						_ = http.NewResponseController(w).Flush()
					}
					<-r.Context().Done()
				}))
				p := counting()
				p.Timeout, p.AttemptTimeout = c.ours, c.ours
				config := gateway.DefaultConfig()
				config.Policies[gateway.DefaultPolicyName] = p
				config.Routes = []gateway.Route{{
					Name: "all", Match: "/", Upstream: "h2c://127.0.0.1:1", Policy: gateway.DefaultPolicyName, GRPC: gateway.RouteGRPC{Idempotent: true},
				}}
				g, err := gateway.New(config, gateway.Options{DialContext: upstream})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(g.Close)
				caller := &http.Transport{DialContext: listenInMemory(t, g), Protocols: new(http.Protocols)}
				caller.Protocols.SetUnencryptedHTTP2(true)
				t.Cleanup(caller.CloseIdleConnections)
				q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway/test.Test/Call", strings.NewReader("\x00\x00\x00\x00\x01x"))
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("content-type", "application/grpc")
				q.Header.Set("te", "trailers")
				q.Header.Set("grpc-timeout", "100m")
				start = time.Now()
				resp, err := caller.RoundTrip(q)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				_, err = io.Copy(io.Discard, resp.Body)
				took := time.Since(start)
				if got := cmp.Or(resp.Header.Get("grpc-status"), resp.Trailer.Get("grpc-status")); err != nil || got != "4" {
					t.Errorf("the caller got status %q and error %v, want 4 and none", got, err)
				}
				if took < c.least || took > c.within {
					t.Errorf("the call took %v, want %v to %v", took, c.least, c.within)
				}
			})
		})
	}
}

// listenInMemory serves h over HTTP/2 without TLS, and returns what connects to it.
func listenInMemory(t *testing.T, h http.Handler) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)} //nolint:gosec // no one is slow here
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) }
}
