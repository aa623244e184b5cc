package page_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// BenchmarkRecord measures what recording adds to a call, from one goroutine and from many, without
// pages and with fifty open ones.
func BenchmarkRecord(b *testing.B) {
	for name, reasons := range map[string][]resilience.Reason{
		"one attempt":    {resilience.ReasonOK},
		"three attempts": {resilience.StatusReason(503), resilience.StatusReason(503), resilience.ReasonOK},
	} {
		for _, pages := range []int{0, 50} {
			run := func(b *testing.B, loop func(b *testing.B, record func())) {
				l := live.New()
				p, err := page.New(l, page.Options{})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				var running sync.WaitGroup
				defer running.Wait()
				defer cancel()
				running.Go(func() { p.Run(ctx) })
				server := httptest.NewServer(p.Handler())
				defer server.Close()
				defer cancel() // the streams end before the server does
				for range pages {
					r, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/live", nil)
					resp, err := http.DefaultClient.Do(r)
					if err != nil {
						b.Fatal(err)
					}
					running.Go(func() {
						defer resp.Body.Close()
						for lines := bufio.NewReader(resp.Body); ; {
							if _, err := lines.ReadSlice('\n'); err != nil && err != bufio.ErrBufferFull { //nolint:errorlint // it is not wrapped
								return
							}
						}
					})
				}
				c := call(reasons...)
				b.ReportAllocs()
				b.ResetTimer()
				loop(b, func() { l.ObserveCall(context.Background(), *c) })
				b.StopTimer()
			}
			suffix := map[int]string{0: "", 50: ", 50 pages"}[pages]
			b.Run(name+suffix, func(b *testing.B) {
				run(b, func(b *testing.B, record func()) {
					for range b.N {
						record()
					}
				})
			})
			b.Run(name+suffix+", parallel", func(b *testing.B) {
				run(b, func(b *testing.B, record func()) {
					b.RunParallel(func(p *testing.PB) {
						for p.Next() {
							record()
						}
					})
				})
			})
		}
	}
}
