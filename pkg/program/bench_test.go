package program_test

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
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/program"
	"github.com/rebound-dev/rebound/pkg/serve"
)

// BenchmarkOpenPages makes 2,000 calls a second, in turn with no live page open
// and with fifty that read, and reports the median of a call's time for both and
// their ratio. One iteration is a second of each. The pages' readers run in the
// same process, so that the ratio has their cost too.
func BenchmarkOpenPages(b *testing.B) {
	const perSecond, pages = 2000, 50
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer upstream.Close()
	p := program.Program{Name: "client", LookupEnv: func(string) (string, bool) { return "", false }, Stdout: io.Discard, Stderr: io.Discard}
	client, err := p.NewClient(b.Context(), gateway.ForUpstream(upstream.URL), serve.NewReadiness(), slog.New(slog.DiscardHandler), program.LivePage{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Flush(context.WithoutCancel(b.Context())) }()
	data, admin := httptest.NewServer(client.Data), httptest.NewServer(client.Admin)
	defer data.Close()
	defer admin.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	defer transport.CloseIdleConnections()

	second := func() time.Duration {
		took := make([]time.Duration, perSecond)
		var calls sync.WaitGroup
		began := time.Now()
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
		slices.Sort(took)
		return took[perSecond/2]
	}
	withPages := func() time.Duration {
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
			reading.Go(func() {
				defer resp.Body.Close()
				for lines := bufio.NewReader(resp.Body); ; {
					if _, err := lines.ReadSlice('\n'); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
						return
					}
				}
			})
		}
		time.Sleep(300 * time.Millisecond) // each has had its first event
		return second()
	}
	second() // connections are made
	var without, with, ratio []float64
	for b.Loop() {
		a, c := second(), withPages()
		without, with = append(without, float64(a)), append(with, float64(c))
		ratio = append(ratio, float64(c)/float64(a))
	}
	median := func(all []float64) float64 { slices.Sort(all); return all[len(all)/2] }
	b.ReportMetric(median(without), "ns/call")
	b.ReportMetric(median(with), "ns/call-50-pages")
	b.ReportMetric(median(ratio), "ratio")
}
