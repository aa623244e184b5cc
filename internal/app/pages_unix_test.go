//go:build unix

package app_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// BenchmarkOpenPages makes 2,000 calls a second, alternately with no open live page and with fifty.
// One iteration is a second with pages and then one without. The second with pages is compared with
// the mean of the seconds without pages before and after it, to cancel drift of the machine. The
// benchmark reports medians over the iterations: of a call's median time, of the ratio with/without
// pages for the median, the 99th percentile and the processor time, and of the processor time that
// the pages add in a second. The ratio of the two seconds without pages shows the noise. The calls'
// makers, their upstream and the pages' readers run in the same process, so the processor time
// includes theirs.
func BenchmarkOpenPages(b *testing.B) {
	const perSecond, pages = 2000, 50
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer upstream.Close()
	p := cli.Program{Name: "client", LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
	client, err := app.NewClient(b.Context(), p, gateway.ForUpstream(upstream.URL), serve.NewReadiness(), slog.New(slog.DiscardHandler), app.LivePage{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Flush(context.WithoutCancel(b.Context())) }()
	data, admin := httptest.NewServer(client.Data), httptest.NewServer(client.Admin)
	defer data.Close()
	defer admin.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	defer transport.CloseIdleConnections()

	type figures struct{ median, p99, processor float64 }
	second := func() figures {
		took := make([]time.Duration, perSecond)
		var calls sync.WaitGroup
		began, used := time.Now(), processorTime(b)
		for i := range took {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / perSecond)))
			calls.Go(func() {
				r, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, data.URL, nil)
				start := time.Now()
				resp, err := transport.RoundTrip(r)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				took[i] = time.Since(start)
			})
		}
		calls.Wait()
		used = processorTime(b) - used
		slices.Sort(took)
		return figures{float64(took[perSecond/2]), float64(took[perSecond*99/100]), float64(used)}
	}
	withPages := func() figures {
		ctx, cancel := context.WithCancel(b.Context())
		var reading sync.WaitGroup
		defer reading.Wait()
		defer cancel()
		for range pages {
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, admin.URL+"/api/live", nil)
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
				for {
					if _, err := lines.ReadSlice('\n'); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
						return
					}
				}
			})
		}
		return second()
	}
	second() // open the connections
	var without, with, ratio, p99, processor, added, noise []float64
	for before := second(); b.Loop(); {
		open := withPages()
		after := second()
		over := func(of func(figures) float64) float64 { return 2 * of(open) / (of(before) + of(after)) }
		without, with = append(without, after.median), append(with, open.median)
		ratio = append(ratio, over(func(f figures) float64 { return f.median }))
		p99 = append(p99, over(func(f figures) float64 { return f.p99 }))
		processor = append(processor, over(func(f figures) float64 { return f.processor }))
		added = append(added, open.processor-(before.processor+after.processor)/2)
		noise = append(noise, after.median/before.median)
		before = after
	}
	median := func(all []float64) float64 { slices.Sort(all); return all[len(all)/2] }
	b.ReportMetric(median(without), "ns/call")
	b.ReportMetric(median(with), "ns/call-50-pages")
	b.ReportMetric(median(ratio), "ratio")
	b.ReportMetric(median(p99), "ratio-p99")
	b.ReportMetric(median(processor), "ratio-processor")
	b.ReportMetric(median(added)/1e6, "processor-ms/s")
	b.ReportMetric(median(noise), "ratio-without")
}

// processorTime returns the processor time that this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
