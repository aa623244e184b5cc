package backend

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Random draws a client's uniform random numbers. Each number depends only on the time, so that
// calls and circuits of the same nanosecond do not change each other's numbers.
type Random struct {
	Seed, Stream uint64
	Start        time.Time
}

// Float64 returns the number of this nanosecond.
func (r Random) Float64() float64 { return r.at(time.Since(r.Start)).Float64() }

func (r Random) at(elapsed time.Duration) *rand.Rand {
	return rand.New(rand.NewPCG(r.Seed^r.Stream<<32, uint64(elapsed)))
}

// Sequence is a Random that draws different numbers at the same time. A set of endpoints draws
// again if it does not like what it has drawn.
type Sequence struct {
	Random Random

	mu   sync.Mutex
	at   time.Duration
	next *rand.Rand
}

// Float64 returns the next number of this nanosecond.
func (s *Sequence) Float64() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := time.Since(s.Random.Start); s.next == nil || at != s.at {
		s.at, s.next = at, s.Random.at(at)
	}
	return s.next.Float64()
}
