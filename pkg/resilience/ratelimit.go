package resilience

import (
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// RateLimitPolicy limits the calls that begin, as a token bucket. Retries are part of their call.
type RateLimitPolicy struct {
	// PerSecond is the number of calls a second. 0 = no limit. 0 to 1000000.
	PerSecond float64 `yaml:"perSecond"`
	// Burst is the number of calls that may begin at once after a pause. At least 1 with perSecond,
	// 0 without. At most 1000000.
	Burst int `yaml:"burst"`
}

func (p RateLimitPolicy) mistakes() (m mistake.List) {
	m.Check(p.PerSecond >= 0 && p.PerSecond <= 1e6, "perSecond", "must be from 0 (no limit) to 1000000, got %v", p.PerSecond)
	m.Check(p.PerSecond == 0 || p.Burst >= 1 && p.Burst <= 1e6, "burst", "must be from 1 to 1000000 with perSecond, got %d", p.Burst)
	m.Check(p.PerSecond > 0 || p.Burst == 0, "burst", "must be left out without perSecond, got %d", p.Burst)
	return m
}

var errRateLimited = errors.New("the rate limit is reached")

// rateLimit is a token bucket that tells the callers it refuses when to come back.
type rateLimit struct {
	tokens *rate.Limiter
	each   time.Duration // the time until the next token
	mu     sync.Mutex
	turn   time.Time // that the last refused caller was told
}

// mostTurns is the most refused callers that are told different times. So callers that do not wait,
// and make calls that are refused again and again, do not make others wait longer and longer.
const mostTurns = 32

// newRateLimit returns nil for no limit.
func newRateLimit(p RateLimitPolicy) *rateLimit {
	if p.PerSecond == 0 {
		return nil
	}
	return &rateLimit{tokens: rate.NewLimiter(rate.Limit(p.PerSecond), p.Burst), each: seconds(1 / p.PerSecond)}
}

// seconds returns a duration of at least s seconds, or the longest one.
func seconds(s float64) time.Duration {
	if s *= float64(time.Second); s < math.MaxInt64 {
		return time.Duration(math.Ceil(s))
	}
	return math.MaxInt64
}

// take takes a token, or returns how long the call has to wait for one. Callers that are refused at
// the same moment are told one token's time apart. A caller that comes back at its turn finds a
// token, unless others that were told no turn have taken it: a turn reserves none, since nobody
// knows who will come back.
func (l *rateLimit) take(now time.Time) (wait time.Duration) {
	if l == nil || l.tokens.AllowN(now, 1) {
		return 0
	}
	// Not a reservation: canceling one does not return its token if others were made meanwhile.
	wait = max(1, seconds((1-l.tokens.TokensAt(now))/float64(l.tokens.Limit())))
	if wait > math.MaxInt64/2 || l.each > math.MaxInt64/2/mostTurns {
		return wait // years
	}
	first := now.Add(wait)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch next, last := l.turn.Add(l.each), first.Add((mostTurns-1)*l.each); {
	case next.Before(first):
		l.turn = first
	case next.After(last):
		l.turn = last
	default:
		l.turn = next
	}
	return l.turn.Sub(now)
}
