package transport_test

import (
	"maps"
	"net/http"
	"testing"

	"github.com/rebound-dev/rebound/pkg/transport"
)

// With WithOwnHeaders the first attempt uses the request's header, and others one of their own, as
// the first may still be read. Without it each attempt has a copy.
func TestWithOwnHeaders(t *testing.T) {
	for name, tc := range map[string]struct {
		options []transport.Option
		content string
		shared  bool
	}{
		"with":           {options: []transport.Option{transport.WithOwnHeaders()}, shared: true},
		"with, for gRPC": {options: []transport.Option{transport.WithOwnHeaders()}, content: "application/grpc"},
		"without":        {},
	} {
		t.Run(name, func(t *testing.T) {
			const mark = "X-Mark"
			req := request(t, http.MethodPost, "http://up", nil)
			req.Header.Set("Content-Type", tc.content)
			req.Header.Set("Grpc-Timeout", "1000S")
			req.Header.Set(transport.HeaderIdempotencyKey, "a")
			before := maps.Clone(req.Header)
			var counts []string
			var first http.Header
			rt := newTransport(t, roundTripFunc(func(r *http.Request) (*http.Response, error) {
				counts = append(counts, r.Header.Get(transport.HeaderAttemptCount))
				status := http.StatusOK
				if len(counts) == 1 {
					first, status = r.Header, http.StatusServiceUnavailable
					r.Header.Set(mark, "x")
				}
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
			}), quick(), tc.options...)
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := req.Header.Get(mark) != ""; got != tc.shared {
				t.Errorf("the first attempt has the request's own header: %v, want %v", got, tc.shared)
			}
			if !tc.shared && !maps.EqualFunc(req.Header, before, func(a, b []string) bool { return a[0] == b[0] }) {
				t.Errorf("the request's header is %v, want it unchanged: %v", req.Header, before)
			}
			if len(counts) != 2 || counts[0] != "1" || counts[1] != "2" || first.Get(transport.HeaderAttemptCount) != "1" {
				t.Errorf("got attempts %q, and %q in the header of the first, want 1 and 2, and 1", counts, first.Get(transport.HeaderAttemptCount))
			}
		})
	}
}
