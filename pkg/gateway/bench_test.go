package gateway_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

type answers500 struct{}

func (answers500) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusInternalServerError, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// BenchmarkRefusal measures a call that an open circuit rejects.
func BenchmarkRefusal(b *testing.B) {
	c := gateway.ForUpstream("http://up")
	p := c.Policies[gateway.DefaultPolicyName]
	p.Breaker.ConsecutiveFailures = 1
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Hour, time.Hour
	c.Policies[gateway.DefaultPolicyName] = p
	g, err := gateway.New(c, gateway.Options{Next: answers500{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/process", nil)
	g.ServeHTTP(httptest.NewRecorder(), r)
	if g.Upstreams()[0].Breaker.State != resilience.Open {
		b.Fatalf("the circuit is %v, want open", g.Upstreams()[0].Breaker.State)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable {
			b.Fatalf("got status %d, want 503", w.Code)
		}
	}
}

type answers200 struct{}

func (answers200) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ContentLength: 5, Request: r, Body: io.NopCloser(strings.NewReader("hello")),
		Header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"5"}, "Date": {"Sat, 28 Nov 2026 12:00:00 GMT"}},
	}, nil
}

// BenchmarkSuccess measures gateway and pipeline for a call that is answered at once, without a
// network.
func BenchmarkSuccess(b *testing.B) {
	g, err := gateway.New(gateway.ForUpstream("http://up"), gateway.Options{Next: answers200{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/process", nil)
	r.RemoteAddr = "127.0.0.1:40000"
	for k, v := range map[string]string{"User-Agent": "bench", "Accept": "*/*", "Accept-Encoding": "gzip", "Accept-Language": "en"} {
		r.Header.Set(k, v)
	}
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatalf("got status %d, want 200", w.Code)
		}
	}
}
