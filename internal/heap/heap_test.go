package heap_test

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/heap"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// percent returns the setting of the garbage collector. It changes nothing, as debug.SetGCPercent
// would: Relax may set another one at any time.
func percent() uint64 {
	setting := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(setting)
	return setting[0].Value.Uint64()
}

func unset(string) (string, bool) { return "", false }

func TestRelax(t *testing.T) {
	stop := heap.Relax(unset)
	wait.Until(t, 10*time.Second, "400 % for a small heap", func() bool { runtime.GC(); return percent() == 400 })
	large := make([][]byte, 100) // 100 MiB, in pieces, as a real heap
	for i := range large {
		large[i] = make([]byte, 1<<20)
	}
	wait.Until(t, 10*time.Second, "the usual 100 % for a large heap", func() bool { runtime.GC(); return percent() == 100 })
	runtime.KeepAlive(large)
	large = nil
	wait.Until(t, 10*time.Second, "400 % for a heap that is small again", func() bool { runtime.GC(); return percent() == 400 })
	stop()
	if got := percent(); got != 100 {
		t.Errorf("got %d %% after the end, want 100", got)
	}
}

// The percentage is of the stacks too: those of many calls that hang are larger than the heap.
func TestRelaxCountsStacks(t *testing.T) {
	defer heap.Relax(unset)()
	end := make(chan struct{})
	var parked sync.WaitGroup
	for range 3000 {
		parked.Go(func() { deep(200, end) })
	}
	wait.Until(t, 10*time.Second, "the usual 100 % beside large stacks", func() bool { runtime.GC(); return percent() == 100 })
	close(end)
	parked.Wait()
}

// deep waits for end with a stack of n frames.
func deep(n int, end chan struct{}) int {
	if n == 0 {
		<-end
		return 0
	}
	var frame [16]int
	frame[n%16] = deep(n-1, end)
	return frame[n%16] + 1
}

func TestRelaxLeavesGOGC(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(77))
	heap.Relax(func(name string) (string, bool) { return "77", name == "GOGC" })()
	if got := percent(); got != 77 {
		t.Errorf("got %d %%, want the 77 of GOGC", got)
	}
}
