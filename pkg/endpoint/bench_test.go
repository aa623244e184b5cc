package endpoint_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func benchSet(b *testing.B, n int) *endpoint.Set {
	b.Helper()
	o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections()}
	o.Policy.Resolve = endpoint.ResolveStatic
	for i := range n {
		o.Policy.Addresses = append(o.Policy.Addresses, fmt.Sprintf("10.0.%d.%d:80", i>>8, i&255))
	}
	set := endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)
	b.Cleanup(set.Close)
	return set
}

// BenchmarkBegin measures the choice of an endpoint, with the counts of requests in flight.
func BenchmarkBegin(b *testing.B) {
	for _, n := range []int{1, 3, 1000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			set := benchSet(b, n)
			l := make([]endpoint.Lease, 1000)
			ctx, i := b.Context(), 0
			b.ReportAllocs()
			for b.Loop() {
				if i == len(l) {
					clear(l)
					i = 0
				}
				var c endpoint.Call
				if err := set.Begin(ctx, &l[i], &c, time.Second); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

// BenchmarkAttempt measures a whole successful attempt, with the endpoint's circuit.
func BenchmarkAttempt(b *testing.B) {
	set := benchSet(b, 3)
	b.ReportAllocs()
	for b.Loop() {
		var l endpoint.Lease
		var c endpoint.Call
		if err := set.Begin(b.Context(), &l, &c, time.Second); err != nil {
			b.Fatal(err)
		}
		l.End(resilience.Healthy)
	}
}

// BenchmarkMemory reports the memory of an endpoint that had requests, beside its connections.
func BenchmarkMemory(b *testing.B) {
	const n = 1000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		set := benchSet(b, n)
		for range 20 * n {
			l, c := new(endpoint.Lease), new(endpoint.Call)
			if err := set.Begin(b.Context(), l, c, time.Second); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := contextThatEnded()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders/", nil)
			_, _ = l.RoundTrip(req, false)
			cancel()
			l.End(resilience.Healthy)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/endpoint")
		runtime.KeepAlive(set)
	}
}

func contextThatEnded() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}
