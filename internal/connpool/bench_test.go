package connpool_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rebound-dev/rebound/internal/connpool"
)

// The cost of a request with the pool, and with net/http's own pool.
func BenchmarkRoundTrip(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(ok))
	defer s.Close()
	u := mustURL(b, s.URL)
	p := connpool.New(u, connpool.Options{Limits: defaults()})
	defer p.Close()
	plain := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 512}
	defer plain.CloseIdleConnections()
	for name, rt := range map[string]http.RoundTripper{"pool": p, "net/http": plain} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, s.URL, nil)
				if err != nil {
					b.Fatal(err)
				}
				resp, err := rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
}
