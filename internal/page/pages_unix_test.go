//go:build unix

package page_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// BenchmarkPages measures the processor time of 2,000 recorded calls a second, alternately with
// fifty open pages and without any. An iteration is a second of each. It reports the medians, in
// milliseconds of processor time for a second. They include the readers of the pages, which are in
// this process, but no calls: only their recording.
func BenchmarkPages(b *testing.B) {
	const perSecond, pages = 2000, 50
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
	fine, again := call(resilience.ReasonOK), call(resilience.StatusReason(503), resilience.ReasonOK)
	second := func() float64 {
		used := processorTime(b)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for range 100 {
			<-ticker.C
			for i := range perSecond / 100 {
				if i%10 == 0 {
					l.ObserveCall(ctx, *again)
				} else {
					l.ObserveCall(ctx, *fine)
				}
			}
		}
		return float64(processorTime(b)-used) / float64(time.Millisecond)
	}
	withPages := func() float64 {
		open, leave := context.WithCancel(ctx)
		var reading sync.WaitGroup
		defer reading.Wait()
		defer leave()
		for range pages {
			r, _ := http.NewRequestWithContext(open, http.MethodGet, server.URL+"/api/live", nil)
			resp, err := (&http.Transport{}).RoundTrip(r)
			if err != nil {
				b.Fatal(err)
			}
			lines := bufio.NewReader(resp.Body)
			for line := ""; line != "\n"; { // the page has its first event then
				if line, err = lines.ReadString('\n'); err != nil {
					b.Fatal(err)
				}
			}
			reading.Go(func() {
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, lines)
			})
		}
		return second()
	}
	var with, without []float64
	for b.Loop() {
		without = append(without, second())
		with = append(with, withPages())
	}
	median := func(all []float64) float64 { slices.Sort(all); return all[len(all)/2] }
	b.ReportMetric(median(without), "processor-ms/s")
	b.ReportMetric(median(with), "processor-ms/s-50-pages")
}

// processorTime returns the processor time that this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
