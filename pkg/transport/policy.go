package transport

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Policy holds the settings of the pipeline for HTTP calls.
//
// It is a plain value. Start from [DefaultPolicy].
type Policy struct {
	// Timeout limits the whole call, with all attempts and waits, until the response headers. Above
	// 0. It includes the upload of the request body, so allow for large bodies over slow links.
	Timeout time.Duration `yaml:"timeout"`
	// AttemptTimeout limits one attempt, including its upload, until its response headers. Above 0,
	// at most Timeout.
	AttemptTimeout time.Duration `yaml:"attemptTimeout"`
	// BodyIdleTimeout cuts a response body that stalls for longer. At least 0; 0 = never.
	BodyIdleTimeout time.Duration `yaml:"bodyIdleTimeout"`
	Retry           Retry         `yaml:"retry"`
	// Breaker guards an upstream's origin (scheme, host and port).
	Breaker resilience.BreakerPolicy `yaml:"breaker"`
	// Concurrency limits the attempts in flight to an upstream's origin.
	Concurrency resilience.ConcurrencyPolicy `yaml:"concurrency"`
	// RateLimit limits the calls to an upstream's origin.
	RateLimit resilience.RateLimitPolicy `yaml:"rateLimit"`
	Priority  Priority                   `yaml:"priority"`
}

// Priority selects who gets a place first under a concurrency limit.
type Priority struct {
	// Header is the request header whose value is critical, normal or sheddable. Sheddable calls
	// are refused from 70 % of the limit, normal ones from 90 %. Any other value means normal.
	// Empty = all calls are normal. Every caller may set it.
	Header string `yaml:"header"`
}

// Retry selects the failures that are retried, and how.
type Retry struct {
	resilience.Retry `yaml:",inline"`
	// Statuses are the statuses that are retried. 400 to 599, each once.
	Statuses []int `yaml:"statuses"`
	// Methods are the methods that may be retried. Any other method is retried only with an
	// Idempotency-Key header, or when nothing was sent. Any method is possible, such as GET or
	// M-SEARCH; case matters; each once.
	Methods []string `yaml:"methods"`
	// ReplayBuffer is the largest request body that is kept for a retry. A call with a larger body
	// gets one attempt. 0 to 64MiB.
	ReplayBuffer Size `yaml:"replayBuffer"`
}

// DefaultPolicy is the policy with the defaults.
func DefaultPolicy() Policy {
	core := resilience.DefaultPolicy()
	return Policy{
		Timeout:        core.Timeout,
		AttemptTimeout: core.AttemptTimeout,
		Retry: Retry{
			Retry: core.Retry,
			Statuses: []int{
				http.StatusTooManyRequests, http.StatusBadGateway,
				http.StatusServiceUnavailable, http.StatusGatewayTimeout,
			},
			Methods: []string{
				http.MethodGet, http.MethodHead, http.MethodOptions,
				http.MethodTrace, http.MethodPut, http.MethodDelete,
			},
			ReplayBuffer: 64 << 10,
		},
		Breaker:     core.Breaker,
		Concurrency: core.Concurrency,
		RateLimit:   core.RateLimit,
	}
}

// SetDefaults sets p to the default policy. Loaders call it before they decode a file into p.
func (p *Policy) SetDefaults() { *p = DefaultPolicy() }

// maxReplayBuffer is the most that one call may keep in memory, in bytes.
const maxReplayBuffer = 64 << 20

// Validate returns all mistakes in p at once, each with the path of its key, or nil.
func (p Policy) Validate() error {
	var m mistake.List
	m.Merge("", p.core().Validate())
	m.Check(p.BodyIdleTimeout >= 0, "bodyIdleTimeout", "must be at least 0 (never), got %v", p.BodyIdleTimeout)
	for i, s := range p.Retry.Statuses {
		path := fmt.Sprintf("retry.statuses[%d]", i)
		m.Check(s >= 400 && s <= 599, path, "must be an error status from 400 to 599, got %d", s)
		m.Check(!slices.Contains(p.Retry.Statuses[:i], s), path, "%d is listed twice", s)
	}
	for i, method := range p.Retry.Methods {
		path := fmt.Sprintf("retry.methods[%d]", i)
		m.Check(validMethod(method), path, "must be a method in capital letters such as GET, got %q", method)
		m.Check(!slices.Contains(p.Retry.Methods[:i], method), path, "%s is listed twice", method)
	}
	m.Check(p.Retry.ReplayBuffer >= 0 && p.Retry.ReplayBuffer <= maxReplayBuffer, "retry.replayBuffer",
		"must be from 0 to %s, got %s", Size(maxReplayBuffer), p.Retry.ReplayBuffer)
	m.Check(p.Priority.Header == "" || httpguts.ValidHeaderFieldName(p.Priority.Header), "priority.header",
		"must be the name of a header, got %q", p.Priority.Header)
	return m.Err()
}

func (p Policy) core() resilience.Policy {
	return resilience.Policy{Timeout: p.Timeout, AttemptTimeout: p.AttemptTimeout, Retry: p.Retry.Retry, Breaker: p.Breaker, Concurrency: p.Concurrency, RateLimit: p.RateLimit}
}

// validMethod reports whether m is a token (RFC 9110, 9.1), and not a standard method in lower
// case, which would never match.
func validMethod(m string) bool {
	if !httpguts.ValidHeaderFieldName(m) {
		return false
	}
	capitals := strings.ToUpper(m)
	return m == capitals || !slices.Contains([]string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace,
	}, capitals)
}

// Size is a number of bytes, written as 512B, 64KiB or 10MiB.
type Size int64

// UnmarshalText parses a whole number with the unit B, KiB, MiB or GiB, or a plain 0.
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	digits := strings.TrimRight(t, "BKMGi")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift, known := map[string]uint{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[t[len(digits):]]
	if err != nil || n < 0 || !known && t != "0" || n > math.MaxInt64>>shift {
		return fmt.Errorf("expected a size such as 64KiB or 1MiB, got %q", t)
	}
	*s = Size(n << shift)
	return nil
}

// String formats s with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		name  string
		shift uint
	}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if s != 0 && s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(s>>u.shift), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText is [Size.String].
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
