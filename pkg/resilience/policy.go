package resilience

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// Policy holds the limits of a call and the settings of the circuit breaker. A Policy is a plain
// value: read it, copy it, compare it. Start from [DefaultPolicy]; the zero value is not valid.
type Policy struct {
	// Timeout limits the whole call, with all attempts and waits. Above 0.
	Timeout time.Duration `yaml:"timeout"`
	// AttemptTimeout limits one attempt. Above 0 and at most Timeout.
	AttemptTimeout time.Duration `yaml:"attemptTimeout"`
	Retry          Retry         `yaml:"retry"`
	Breaker        BreakerPolicy `yaml:"breaker"`
	// Concurrency limits the attempts in flight.
	Concurrency ConcurrencyPolicy `yaml:"concurrency"`
	// RateLimit limits the calls that begin.
	RateLimit RateLimitPolicy `yaml:"rateLimit"`
}

// Retry sets when and how often a failed attempt is retried.
type Retry struct {
	// MaxAttempts is the number of attempts, including the first: 1 means never retry. 1 to 100.
	MaxAttempts int     `yaml:"maxAttempts"`
	Backoff     Backoff `yaml:"backoff"`
	// MaxRetryAfter is the longest wait that an upstream may ask for with Retry-After. A response
	// that asks for more ends the call and goes to the caller. At least 0.
	MaxRetryAfter time.Duration `yaml:"maxRetryAfter"`
	Budget        BudgetPolicy  `yaml:"budget"`
}

// DefaultPolicy returns the policy with the defaults.
func DefaultPolicy() Policy {
	return Policy{
		Timeout:        5 * time.Second,
		AttemptTimeout: 1500 * time.Millisecond,
		Retry: Retry{
			MaxAttempts:   3,
			Backoff:       Backoff{Base: 100 * time.Millisecond, Max: 2 * time.Second, Factor: 2, Jitter: JitterFull},
			MaxRetryAfter: 5 * time.Second,
			Budget:        BudgetPolicy{Ratio: 1, Burst: AdaptiveBurst},
		},
		Breaker: BreakerPolicy{
			Window:              10 * time.Second,
			MinRequests:         50,
			FailureRatio:        0.9,
			ConsecutiveFailures: 12,
			OpenFor:             250 * time.Millisecond,
			MaxOpenFor:          500 * time.Millisecond,
			Probes:              3,
		},
	}
}

// Validate returns all mistakes in p as one error, or nil.
func (p Policy) Validate() error {
	var m mistake.List
	m.Merge("", p.times().Err())
	m.Merge("retry", p.Retry.mistakes().Err())
	m.Merge("breaker", p.Breaker.mistakes().Err())
	m.Merge("concurrency", p.Concurrency.mistakes().Err())
	m.Merge("rateLimit", p.RateLimit.mistakes().Err())
	return m.Err()
}

// times returns the mistakes in the two timeouts.
func (p Policy) times() (m mistake.List) {
	m.Check(p.Timeout > 0, "timeout", "must be above 0, got %v", p.Timeout)
	m.Check(p.AttemptTimeout > 0, "attemptTimeout", "must be above 0, got %v", p.AttemptTimeout)
	if p.Timeout > 0 {
		m.Check(p.AttemptTimeout <= p.Timeout, "attemptTimeout",
			"must be at most timeout (%v), got %s", p.Timeout, named(p.AttemptTimeout, DefaultPolicy().AttemptTimeout))
	}
	return m
}

// maxAttemptsLimit keeps a typo from causing a retry storm.
const maxAttemptsLimit = 100

// mistakes returns the mistakes in r, with paths relative to it.
func (r Retry) mistakes() (m mistake.List) {
	m.Check(r.MaxAttempts >= 1 && r.MaxAttempts <= maxAttemptsLimit, "maxAttempts",
		"must be from 1 (never retry) to %d, got %d", maxAttemptsLimit, r.MaxAttempts)
	m.Merge("backoff", r.Backoff.mistakes().Err())
	m.Check(r.MaxRetryAfter >= 0, "maxRetryAfter", "must be at least 0, got %v", r.MaxRetryAfter)
	m.Merge("budget", r.Budget.mistakes().Err())
	return m
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// named formats d and marks a default, so that users do not search their file for it.
func named(d, byDefault time.Duration) string {
	if d == byDefault {
		return d.String() + ", its default"
	}
	return d.String()
}
