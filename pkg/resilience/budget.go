package resilience

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// BudgetPolicy limits the retries of all calls to one upstream together. A retry costs one token.
// All zeros are valid and forbid retries.
type BudgetPolicy struct {
	// Ratio is the number of tokens that a successful call earns. An outage earns none, which keeps
	// amplification near 1 (Marc Brooker, "Fixing retries with token buckets and circuit breakers",
	// 2022). 0 to 100.
	Ratio float64 `yaml:"ratio"`
	// Burst is the largest number of tokens, and the number at the start. 0 to 1000000.
	Burst float64 `yaml:"burst"`
	// FloorPerSecond is the number of retries a second that need no token, so that a caller with
	// little traffic can retry too. At most one second's worth of unused ones is kept, but at least
	// one. 0 to 1000000.
	FloorPerSecond float64 `yaml:"floorPerSecond"`
}

func (b BudgetPolicy) mistakes() (m mistake.List) {
	m.Check(b.Ratio >= 0 && b.Ratio <= 100, "ratio", "must be from 0 to 100, got %v", b.Ratio)
	m.Check(b.Burst >= 0 && b.Burst <= 1e6, "burst", "must be from 0 to 1000000, got %v", b.Burst)
	m.Check(b.FloorPerSecond >= 0 && b.FloorPerSecond <= 1e6, "floorPerSecond",
		"must be from 0 to 1000000, got %v", b.FloorPerSecond)
	return m
}

// maxFloorInterval keeps the interval of a tiny floor from overflowing, which would remove the
// limit.
const maxFloorInterval = 365 * 24 * time.Hour

// microTokens is the number of balance units in a token. The balance is an integer, so that one
// atomic word holds it: every successful call updates it.
const microTokens = 1e6

// budget is a token bucket. It is safe for concurrent use and takes no lock.
type budget struct {
	earned, burst int64         // per success, and at most; in 1/microTokens
	interval      time.Duration // between two floor tokens; 0 = no floor

	tokens atomic.Int64 // in 1/microTokens
	// floor is the virtual time of the next floor token, in ns since epoch. This is the generic
	// cell rate algorithm of ITU-T I.371 with a tolerance of one second.
	floor atomic.Int64
	epoch time.Time
}

func newBudget(p BudgetPolicy) *budget {
	b := &budget{
		earned: int64(p.Ratio * microTokens),
		burst:  int64(p.Burst * microTokens),
		epoch:  time.Now(),
	}
	if p.FloorPerSecond > 0 {
		b.interval = time.Duration(min(float64(time.Second)/p.FloorPerSecond, float64(maxFloorInterval)))
	}
	b.tokens.Store(b.burst)
	b.floor.Store(math.MinInt64 / 2)
	return b
}

// earn credits one successful call.
func (b *budget) earn() { b.credit(b.earned) }

func (b *budget) credit(amount int64) {
	for {
		have := b.tokens.Load()
		next := min(b.burst, have+amount)
		// In the usual case the bucket is full. Then nothing is written, and no other core is
		// slowed down.
		if next == have || b.tokens.CompareAndSwap(have, next) {
			return
		}
	}
}

// token is the kind of token that a retry has taken.
type token uint8

const (
	noToken token = iota
	earnedToken
	floorToken
)

// reserve takes a token. It returns noToken if there is none.
func (b *budget) reserve() token {
	for {
		have := b.tokens.Load()
		if have < microTokens {
			break
		}
		if b.tokens.CompareAndSwap(have, have-microTokens) {
			return earnedToken
		}
	}
	if b.interval == 0 {
		return noToken
	}
	now := int64(time.Since(b.epoch))
	for {
		due := b.floor.Load()
		// Up to one second's tokens accumulate, and at least one token.
		tolerance := max(int64(time.Second-b.interval), 0)
		if due > now+tolerance {
			return noToken
		}
		if b.floor.CompareAndSwap(due, max(due, now)+int64(b.interval)) {
			return floorToken
		}
	}
}

// refund returns a token whose retry did not happen.
func (b *budget) refund(t token) {
	switch t {
	case earnedToken:
		b.credit(microTokens)
	case floorToken:
		b.floor.Add(-int64(b.interval))
	case noToken:
	}
}

// balance returns the number of earned tokens left, without the floor.
func (b *budget) balance() float64 { return float64(b.tokens.Load()) / microTokens }
