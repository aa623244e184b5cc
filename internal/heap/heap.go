// Package heap collects garbage less often while the heap is small.
package heap

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// spare is how many bytes of garbage a small heap may gather. By default Go collects a heap of
	// 2 MiB after every 2 MiB, which under load is many times a second.
	spare = 24 << 20
	// In percent of the rest: of a large one, as by default, and of a small one.
	usual, most = 100, 400
)

// Relax lets the garbage collector work less often while the heap is small. Garbage of up to four
// times the rest, which is the heap, the stacks and the globals, may gather, but no more than about
// 24 MiB. Beyond that, Go's default of as much garbage as there is of the rest applies. A memory
// limit (GOMEMLIMIT) stays in force. Relax does nothing if GOGC is set. stop brings the default
// back.
func Relax(lookupEnv func(string) (string, bool)) (stop func()) {
	if value, ok := lookupEnv("GOGC"); ok && value != "" {
		return func() {}
	}
	r := &relaxed{}
	r.adjust()
	r.next()
	return r.stop
}

type relaxed struct {
	mu      sync.Mutex
	percent int
	stopped bool
}

// next adjusts after the next collection, which runs the cleanup of an object that nobody uses.
func (r *relaxed) next() {
	runtime.AddCleanup(new([16]byte), func(r *relaxed) {
		if r.adjust() {
			r.next()
		}
	}, r)
}

func (r *relaxed) adjust() (goesOn bool) {
	// The percentage is of all that a collection looks at, says go.dev/doc/gc-guide.
	roots := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(roots)
	size := uint64(0)
	for _, s := range roots {
		size += s.Value.Uint64()
	}
	percent := int(min(max(spare*100/max(size, 1), usual), most))
	r.mu.Lock()
	defer r.mu.Unlock()
	// Each change stops the program for a moment, so a small step up is not made.
	if change := percent - r.percent; !r.stopped && (change < 0 || change > r.percent/8) {
		r.percent = percent
		debug.SetGCPercent(percent)
	}
	return !r.stopped
}

func (r *relaxed) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	debug.SetGCPercent(usual)
}
