package callgraph

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Requests that arrive at an instance in the same nanosecond go on one after the other, in the
// order of their numbers.
func TestArrivalsHaveAnOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		in := &instance{}
		var mu sync.Mutex
		went := map[uint64]time.Duration{}
		var all sync.WaitGroup
		for _, id := range []uint64{7, 3, 9, 1, 4} {
			all.Go(func() {
				time.Sleep(time.Microsecond + 1)
				in.arrive(id)
				mu.Lock()
				defer mu.Unlock()
				went[id] = time.Since(start) - time.Microsecond
			})
		}
		all.Wait()
		for i, id := range []uint64{1, 3, 4, 7, 9} {
			if want := time.Duration(2 + 2*i); went[id] != want {
				t.Errorf("request %d went on after %v, want %v", id, went[id], want)
			}
		}
	})
}

// Requests that a restart loses end at different times.
func TestRestartEndsRequestsInOrder(t *testing.T) {
	t.Parallel()
	var ranks []int
	for rank := range 3 {
		synctest.Test(t, func(*testing.T) {
			start := time.Now()
			if landing(errRestarted{rank}) != nil {
				ranks = append(ranks, int(time.Since(start)))
			}
		})
	}
	if !slices.Equal(ranks, []int{0, 2, 4}) {
		t.Errorf("got requests that end after %v ns, want 0, 2 and 4", ranks)
	}
}
