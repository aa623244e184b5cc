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
	// 2022). An attempt that times out costs a token. 0 to 100.
	Ratio float64 `yaml:"ratio"`
	// Burst is the largest number of tokens, and the number at the start. 0 to 1000000. -1 adapts
	// it to the client. It means 20, but a client with steady traffic saves less: for the attempts
	// of a quarter of a second, at least one, and at least four if over 10 % fail by chance. Its
	// retries are at most 20 % of its attempts, which is 1.25 attempts a call, or a third while
	// from 10 to 37 % fail by chance.
	Burst float64 `yaml:"burst"`
	// FloorPerSecond is the number of retries a second that need no token, so that a caller with
	// little traffic can retry too. At most one second's worth of unused ones is kept, but at least
	// one. 0 to 1000000.
	FloorPerSecond float64 `yaml:"floorPerSecond"`
}

// Most returns the largest number of tokens.
func (b BudgetPolicy) Most() float64 {
	if b.Burst == AdaptiveBurst {
		return mostSaved
	}
	return b.Burst
}

func (b BudgetPolicy) mistakes() (m mistake.List) {
	m.Check(b.Ratio >= 0 && b.Ratio <= 100, "ratio", "must be from 0 to 100, got %v", b.Ratio)
	m.Check(b.Burst == AdaptiveBurst || b.Burst >= 0 && b.Burst <= 1e6, "burst", "must be from 0 to 1000000, or -1 (adaptive), got %v", b.Burst)
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
	earned, burst int64 // per success, and at most; in 1/microTokens
	adaptive      bool
	interval      time.Duration // between two floor tokens; 0 = no floor

	tokens   atomic.Int64 // in 1/microTokens
	timeouts atomic.Int64 // attempts that timed out since the last success
	// floor is the virtual time of the next floor token, in ns since epoch. This is the generic
	// cell rate algorithm of ITU-T I.371 with a tolerance of one second.
	floor atomic.Int64
	epoch time.Time
}

func newBudget(p BudgetPolicy) *budget {
	b := &budget{
		adaptive: p.Burst == AdaptiveBurst,
		earned:   int64(p.Ratio * microTokens),
		burst:    int64(p.Most() * microTokens),
		epoch:    time.Now(),
	}
	if p.FloorPerSecond > 0 {
		b.interval = time.Duration(min(float64(time.Second)/p.FloorPerSecond, float64(maxFloorInterval)))
	}
	b.tokens.Store(b.burst)
	b.floor.Store(math.MinInt64 / 2)
	return b
}

// earn credits one successful call.
func (b *budget) earn() {
	if b.timeouts.Load() != 0 {
		b.timeouts.Store(0)
	}
	b.credit(b.earned)
}

// spend takes a token, if there is one, for an attempt that timed out. It has cost the upstream
// as much as a retry.
func (b *budget) spend() {
	b.timeouts.Add(1)
	b.credit(-microTokens)
}

// credit adds amount to the balance, which stays from 0 to burst. It may be negative.
func (b *budget) credit(amount int64) {
	for {
		have := b.tokens.Load()
		next := max(0, min(b.burst, have+amount))
		// In the usual case the bucket is full. Then nothing is written, and no other core is
		// slowed down.
		if next == have || b.tokens.CompareAndSwap(have, next) {
			return
		}
	}
}

// token is what a retry has taken from the budget. The zero value is no token.
type token struct {
	kind  tokenKind
	place place // in the pace, for an earned token
}

type tokenKind uint8

const (
	noToken tokenKind = iota
	earnedToken
	floorToken
)

// AdaptiveBurst is the [BudgetPolicy] Burst that adapts to the client.
const AdaptiveBurst = -1

// The tokens that a client may save with AdaptiveBurst.
const (
	mostSaved   = 20
	savedTime   = 0.25 // s, for whose attempts a client with steady traffic may save tokens
	leastSaved  = 1
	leastPartly = 4 // if a part of its attempts usually fails
	// hanging is the number of timeouts without a success after which nothing is spent. Retries
	// would fill the queue of an upstream that hangs, and it would have to serve them first.
	hanging = 3
)

// reserve takes a token, whose kind is noToken if there is none.
func (b *budget) reserve(seen traffic) token {
	most := b.burst
	switch {
	case !b.adaptive:
		seen.pace = nil // only the tokens are limited
	case b.timeouts.Load() >= hanging:
		most = 0
	default:
		most = min(most, seen.saves())
	}
	if place, ok := seen.pace.take(seen); ok {
		if b.take(most) {
			return token{earnedToken, place}
		}
		place.giveBack()
	}
	return b.reserveFloor()
}

// saves returns the tokens that a client may save with AdaptiveBurst.
//
// When an upstream fails, each client spends what it has saved. With many small clients that is a
// burst of retries, so a client with little but steady traffic saves little.
func (t traffic) saves() int64 {
	if t.rate == 0 {
		return mostSaved * microTokens
	}
	least := float64(leastSaved)
	if t.partly() {
		least = leastPartly
	}
	return int64(max(least, t.rate*savedTime) * microTokens)
}

// take takes an earned token, of which most count, and reports whether there was one.
func (b *budget) take(most int64) bool {
	for {
		have := b.tokens.Load()
		left := min(have, most) - microTokens
		if left < 0 {
			return false
		}
		if b.tokens.CompareAndSwap(have, left) {
			return true
		}
	}
}

// reserveFloor takes a token of the floor.
func (b *budget) reserveFloor() token {
	if b.interval == 0 {
		return token{}
	}
	now := int64(time.Since(b.epoch))
	for {
		due := b.floor.Load()
		// Up to one second's tokens accumulate, and at least one token.
		tolerance := max(int64(time.Second-b.interval), 0)
		if due > now+tolerance {
			return token{}
		}
		if b.floor.CompareAndSwap(due, max(due, now)+int64(b.interval)) {
			return token{kind: floorToken}
		}
	}
}

// refund returns a token whose retry did not happen.
func (b *budget) refund(t token) {
	switch t.kind {
	case earnedToken:
		b.credit(microTokens)
		t.place.giveBack()
	case floorToken:
		b.floor.Add(-int64(b.interval))
	case noToken:
	}
}

// balance returns the number of earned tokens left, without the floor.
func (b *budget) balance() float64 { return float64(b.tokens.Load()) / microTokens }
