package backend_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
)

// Functions run at once, also those that functions start, and Wait waits for all of them. A
// goroutine serves again, so there are never more than functions ran at the same time.
func TestPool(t *testing.T) { //nolint:paralleltest // it counts the goroutines of the process
	synctest.Test(t, func(t *testing.T) {
		var p backend.Pool
		var done atomic.Int64
		before := runtime.NumGoroutine()
		for round := range 3 {
			start := time.Now()
			for range 20 {
				p.Go(func() {
					time.Sleep(time.Second)
					p.Go(func() {
						time.Sleep(2 * time.Second)
						done.Add(1)
					})
					done.Add(1)
				})
			}
			for range 10 {
				time.Sleep(4 * time.Second) // all are idle
				p.Go(func() { time.Sleep(time.Second); done.Add(1) })
			}
			synctest.Wait()
			if got := runtime.NumGoroutine() - before; got > 2*20 {
				t.Errorf("round %d: %d goroutines, want at most 40, as many as functions ran together", round, got)
			}
			p.Wait()
			if want := int64(50 * (round + 1)); done.Load() != want || time.Since(start) != 41*time.Second {
				t.Errorf("round %d: %d functions ended after %v, want %d after 41s", round, done.Load(), time.Since(start), want)
			}
		}
	}) // which fails if a goroutine is left
}
