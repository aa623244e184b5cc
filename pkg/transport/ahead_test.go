package transport_test

import (
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/endpoint"
)

// The trailer of a body that is read ahead appears when the caller has read the body, as always. It
// used to appear while the caller looked at the response: a data race.
func TestTrailerOfABodyReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections(), DialContext: network.Dial, PriorKnowledge: true}
		o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{"10.0.0.1:80", "10.0.0.2:80"}
		var doubted atomic.Int64
		for _, address := range o.Policy.Addresses {
			var failed atomic.Bool
			network.Serve(t, address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if failed.CompareAndSwap(false, true) {
					doubted.Add(1)
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				w.Header().Set("Content-Length", "4")
				w.Header().Set("Trailer", "X-Sum")
				_, _ = io.WriteString(w, "body")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second) // longer than a body is read ahead
				w.Header().Set("X-Sum", "7")
			}), func(s *http.Server) {
				s.Protocols = new(http.Protocols)
				s.Protocols.SetUnencryptedHTTP2(true)
			})
		}
		set := endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)
		t.Cleanup(set.Close)
		p := quick()
		p.Retry.MaxAttempts = 1
		rt := newTransport(t, set, p)
		for doubted.Load() < 2 {
			get(t, rt, "http://orders/")
		}
		resp, err := rt.RoundTrip(request(t, http.MethodGet, "http://orders/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		time.Sleep(2 * time.Second)
		if got := resp.Trailer; len(got) != 1 || got.Get("X-Sum") != "" {
			t.Errorf("before the body was read: trailer %v, want X-Sum without a value", got)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "body" || err != nil || resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("got %q, error %v and trailer %v, want the body and X-Sum: 7", body, err, resp.Trailer)
		}
	})
}
