package page_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
)

// Every change of the rate used to restart the interval: dragging the page's slider for 5 s stopped
// the traffic for 5 s.
func TestGeneratorKeepsItsPaceWhileItIsSet(t *testing.T) {
	type step struct {
		at        time.Duration
		perSecond int
	}
	often := func(until time.Duration, rates ...int) (steps []step) {
		for at := time.Duration(0); at < until; at += 40 * time.Millisecond {
			steps = append(steps, step{at, rates[len(steps)%len(rates)]})
		}
		return steps
	}
	for name, tc := range map[string]struct {
		steps []step
		after time.Duration
		want  int // calls by then
	}{
		"left alone":                      {[]step{{0, 20}}, 5 * time.Second, 101},
		"the same again and again":        {often(5*time.Second, 20), 5 * time.Second, 101},
		"to and fro":                      {often(5*time.Second, 20, 5), 5 * time.Second, 63},
		"and off in between":              {often(5*time.Second, 20, 0), 5 * time.Second, 63},
		"slow again and again":            {often(5*time.Second, 1), 5 * time.Second, 6},
		"at once after none":              {[]step{{0, 0}, {3 * time.Second, 1}}, 3 * time.Second, 1},
		"at once after a while of few":    {[]step{{0, 1}, {900 * time.Millisecond, 10}}, 900 * time.Millisecond, 2},
		"nothing is made up for":          {[]step{{0, 1}, {900 * time.Millisecond, 200}}, 909 * time.Millisecond, 3},
		"not sooner because it was asked": {[]step{{0, 10}, {10 * time.Millisecond, 0}, {20 * time.Millisecond, 10}}, 99 * time.Millisecond, 1},
		"slower from the last one on":     {[]step{{0, 10}, {50 * time.Millisecond, 2}}, 499 * time.Millisecond, 1},
		"and not later":                   {[]step{{0, 10}, {50 * time.Millisecond, 2}}, 500 * time.Millisecond, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				traffic, err := page.NewGenerator(0, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				// A bubble has no network: the calls fail at once, and count.
				go traffic.Run(ctx, "nowhere://client", "nowhere://upstream")
				begin := time.Now()
				for _, s := range tc.steps {
					time.Sleep(s.at - time.Since(begin))
					if err := traffic.Set(page.TrafficSettings{PerSecond: s.perSecond, Path: page.PathWith}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(tc.after - time.Since(begin))
				synctest.Wait()
				if got := traffic.State().With.Ended; got != tc.want {
					t.Errorf("%d calls, want %d", got, tc.want)
				}
			})
		})
	}
}
