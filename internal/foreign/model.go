package foreign

import (
	"net/http"
	"time"
)

// Policy is what another system does with the calls to one upstream. It is a plain value, with the
// other system's semantics: a simulated client can execute it as it is. An attempt is one request
// to the upstream; a call has one or more.
type Policy struct {
	// Name is unique in a file, such as "reviews/v1".
	Name string
	// GRPC means that the calls are gRPC: an answer counts by its gRPC status, and not by that of
	// HTTP. An answer without one has the one that stands for its HTTP status (503 is UNAVAILABLE).
	GRPC bool
	// Timeout cuts the whole call, with all attempts and waits. 0 = never.
	Timeout time.Duration
	// TryTimeout cuts one attempt, which most systems call a try. 0 = never.
	TryTimeout time.Duration
	// ConnectTimeout cuts an attempt that has no connection yet. 0 = never.
	ConnectTimeout time.Duration
	Retry          Retry
	Hedge          Hedge
	// Breakers all apply, each on its own. Empty = none.
	Breakers    []Breaker
	Concurrency Concurrency
	RateLimit   RateLimit
	// RoundRobin means that attempts go to the endpoints in turn. Else to any, at random.
	RoundRobin bool
	// From says where each value comes from. Defaults of the other system have no entry.
	From Sources
}

// Retry says which failed attempts are repeated, and how.
type Retry struct {
	// MaxAttempts is the most attempts of a call, including the first. 1 = no retry, 0 = no limit.
	MaxAttempts int
	// OncePerEndpoint limits the attempts also to the number of endpoints.
	OncePerEndpoint bool
	// StopAfter is the time since the call began after which a failure is not repeated. Unlike
	// Timeout it cuts nothing that runs, nor the wait for an attempt. 0 = no limit.
	StopAfter time.Duration
	Backoff   Backoff
	On        Conditions
	// Methods are the HTTP methods that are retried. Nil = every method.
	Methods []string
	// UnsentAnyMethod means that a request which never reached the upstream (no connection, refused
	// stream) is retried whatever its method.
	UnsentAnyMethod bool
	// OtherEndpoint means that a retry goes to an endpoint that the call has not tried, if there is
	// one.
	OtherEndpoint bool
	// SameEndpoint means that every retry goes to the endpoint of the first attempt.
	SameEndpoint bool
	// Resend means that a GET is sent again at once if a connection that was used before dies
	// without an answer. The rest of the policy does not notice: it is Go's net/http that does so.
	Resend     bool
	RetryAfter RetryAfter
	Budget     Budget
}

// BackoffKind is how the wait grows from one retry to the next.
type BackoffKind string

// The waits before retry n, counted from 1, before the jitter and Backoff.Max.
const (
	BackoffNone        BackoffKind = ""            // 0
	BackoffFixed       BackoffKind = "fixed"       // Base
	BackoffLinear      BackoffKind = "linear"      // Base·n
	BackoffExponential BackoffKind = "exponential" // Base·Factorⁿ⁻¹
	BackoffEnvoy       BackoffKind = "envoy"       // Base·(2ⁿ-1)
	BackoffList        BackoffKind = "list"        // Waits[n-1]; the last one repeats
)

// Jitter is how a wait w is made random. U(a, b) is uniform.
type Jitter string

// The jitters.
const (
	JitterNone         Jitter = ""             // w
	JitterFull         Jitter = "full"         // U(0, w)
	JitterEqual        Jitter = "equal"        // w/2 + U(0, w/2)
	JitterPercent      Jitter = "percent"      // w·U(1-Percent/100, 1+Percent/100)
	JitterUpward       Jitter = "upward"       // w·U(1, 1+Percent/100)
	JitterDecorrelated Jitter = "decorrelated" // U(Base, 3·previous wait), at most Max
	JitterPolly        Jitter = "polly"        // the smooth curve of Polly v8, median Base·2ⁿ⁻¹
)

// Backoff is the wait between two attempts.
type Backoff struct {
	Kind BackoffKind
	// Base is the wait before the first retry. At least 0.
	Base time.Duration
	// Max is the longest wait. 0 = no limit.
	Max time.Duration
	// Factor is the growth of an exponential backoff. At least 1; 0 for the other kinds.
	Factor float64
	// Waits are the waits of the kind list.
	Waits  []time.Duration
	Jitter Jitter
	// Percent is the width of the jitters percent and upward, 0 to 100.
	Percent float64
	// JitterAboveMax means that the jitter comes after Max, so that a wait can be longer.
	JitterAboveMax bool
	// ThrottledBase is the base after an answer that asks to slow down (429, 503). 0 = Base.
	ThrottledBase time.Duration
}

// StatusRange is a range of HTTP statuses. Both ends belong to it.
type StatusRange struct{ Low, High int }

// Conditions describe ways in which an attempt can end. The zero value describes none.
type Conditions struct {
	// Statuses are HTTP statuses.
	Statuses []StatusRange
	// GRPC are gRPC statuses by their names, such as UNAVAILABLE. They mean nothing for calls that
	// are not gRPC.
	GRPC []string
	// Connect: no connection, also within ConnectTimeout.
	Connect bool
	// Refused: the upstream refused the stream and did nothing (REFUSED_STREAM).
	Refused bool
	// Reset: the connection died before the answer began.
	Reset bool
	// Timeout: TryTimeout cut the attempt.
	Timeout bool
	// BreakerOpen: our own breaker refused the attempt.
	BreakerOpen bool
	// Limited: our own concurrency or rate limit refused the attempt.
	Limited bool
}

// Status reports whether the conditions hold for an answer with an HTTP status.
func (c Conditions) Status(code int) bool {
	for _, r := range c.Statuses {
		if r.Low <= code && code <= r.High {
			return true
		}
	}
	return false
}

// RetryAfter says whether the answer decides how long the client waits.
type RetryAfter struct {
	Obey bool
	// Max is the longest wait that is obeyed; the backoff replaces a longer one. 0 = no limit.
	Max time.Duration
}

// BudgetKind is what a budget for retries counts.
type BudgetKind string

// The budgets.
const (
	// BudgetNone limits nothing.
	BudgetNone BudgetKind = ""
	// BudgetInFlight allows a retry while the retries in flight, without it, are below
	// max(Min, Percent/100·calls in flight).
	BudgetInFlight BudgetKind = "in-flight"
	// BudgetWindow allows a retry while the retries of the last Window, without it, are below
	// MinPerSecond·Window + Percent/100·(first attempts in Window).
	BudgetWindow BudgetKind = "window"
	// BudgetTokens allows a retry while there are more than Threshold tokens, and enough for it.
	BudgetTokens BudgetKind = "tokens"
)

// Budget limits the retries of all calls of one client to the upstream together.
type Budget struct {
	Kind BudgetKind
	// Percent is the share of retries, 0 to 100 or more.
	Percent float64
	// Min is the number of retries in flight that is always allowed.
	Min int
	// Window is the time that a window budget looks back.
	Window time.Duration
	// MinPerSecond is the number of retries a second that a window budget always allows.
	MinPerSecond float64
	// WindowMin is the number of retries in a window that are always allowed, whatever
	// MinPerSecond: the budget is the larger of WindowMin and the sum. 0 = none.
	WindowMin int
	// Tokens is the most tokens, and the number at the start.
	Tokens float64
	// Threshold forbids retries at this many tokens or fewer. 0 = no threshold beyond the cost.
	Threshold float64
	// Cost is the price of a retry. With ChargeFailures, of a failed attempt, and a retry is free.
	Cost float64
	// TimeoutCost is the price after a timeout, ThrottledCost after an answer that asks to slow
	// down. 0 = Cost.
	TimeoutCost, ThrottledCost float64
	ChargeFailures             bool
	// Refund gives the price of the last retry back when it succeeds, instead of Refill.
	Refund bool
	// Refill is the number of tokens that a call earns which succeeds.
	Refill float64
}

// Hedge sends further attempts while the first one is still without an answer.
type Hedge struct {
	// MaxAttempts is the most attempts of a call, including the first. 0 = no hedging.
	MaxAttempts int
	// Delay is the time between two of them.
	Delay time.Duration
	// OnTryTimeout sends the next attempt at TryTimeout and keeps the one before, instead of Delay.
	OnTryTimeout bool
}

// Scope is what a breaker guards.
type Scope string

// The scopes.
const (
	ScopeUpstream Scope = "upstream" // all endpoints of the upstream together
	ScopeEndpoint Scope = "endpoint" // each endpoint on its own
)

// Growth is how the open time grows when a breaker opens again.
type Growth string

// The growths. n counts the openings, from 1.
const (
	GrowthNone        Growth = ""            // OpenFor
	GrowthLinear      Growth = "linear"      // OpenFor·n
	GrowthExponential Growth = "exponential" // OpenFor·2ⁿ⁻¹
)

// Breaker stops attempts to an upstream, or to one of its endpoints, while too many fail. Each rule
// whose limit is not 0 opens it.
type Breaker struct {
	Scope Scope
	// Window is the time that the ratios and Failures cover. 0 with CountWindow, or for a count
	// that is never cleared while the breaker is closed.
	Window time.Duration
	// FixedWindow means that the counts begin again at 0 after each Window. Else it rolls.
	FixedWindow bool
	// CountWindow is the number of last attempts that the ratios and Failures cover, instead of a
	// time.
	CountWindow int
	// MinCalls is the number of attempts in the window before a ratio counts. 0 or 1 = at once.
	MinCalls int
	// FailureRatio is the share of failures, above 0 to 1, at which the breaker opens. 0 = never.
	FailureRatio float64
	// ConsecutiveFailures is the number of failures in a row at which it opens. 0 = never.
	ConsecutiveFailures int
	// Failures is the number of failures in the window at which it opens. 0 = never.
	Failures int
	// FromLastFailure means that a fixed window begins with the last failure, and that only a
	// success after it clears the counts.
	FromLastFailure bool
	// WhileCounted means that the breaker is open just while there are Failures in its rolling
	// window, instead of OpenFor.
	WhileCounted bool
	// IfRepeated means that an answer is a failure only if the call is repeated after it.
	IfRepeated bool
	// SlowCall is the time from which an attempt is slow, SlowRatio the share of slow ones at which
	// the breaker opens, above 0 to 1. SlowRatio 0 = never.
	SlowCall  time.Duration
	SlowRatio float64
	// BelowMean ejects endpoints whose share of successes is this many standard deviations below
	// the mean of all endpoints, of which at least MinEndpoints must have MinCalls. 0 = never.
	BelowMean    float64
	MinEndpoints int
	// CheckEvery is how often the ratios are checked, and whether an open time is over. 0 = at
	// once. ConsecutiveFailures is always checked at once.
	CheckEvery time.Duration
	// OpenFor is the first open time, MaxOpenFor the longest. MaxOpenFor 0 = no limit.
	OpenFor, MaxOpenFor time.Duration
	Growth              Growth
	// OpenJitter lengthens each open time by up to this share, at random. 0 = none.
	OpenJitter float64
	// HalfOpenCalls is the number of attempts that pass after the open time. When all have ended,
	// the breaker closes or opens by FailureRatio, or, without a ratio, by the first failure. 0 =
	// it just closes.
	HalfOpenCalls int
	// MaxEjected is the largest share of endpoints, 0 to 1, that may be open at a time, in scope
	// endpoint, counted over all breakers of the policy. At least one may if AtLeastOne.
	MaxEjected float64
	AtLeastOne bool
	// PanicBelow is the share of usable endpoints, 0 to 1, below which all are used, in scope
	// endpoint. 0 = never.
	PanicBelow float64
	// Counts says which attempts are failures. Others are successes.
	Counts Conditions
}

// Concurrency limits what is in flight at a time.
type Concurrency struct {
	// MaxRequests is the most attempts in flight, or calls with PerCall. 0 = no limit.
	MaxRequests int
	// MaxPending is the most that wait for a place or a connection. 0 = none may wait if there is
	// another limit; -1 = no limit.
	MaxPending int
	// MaxWait is the longest wait for a place. 0 = no limit.
	MaxWait time.Duration
	// MaxRetries is the most retries in flight. 0 = no limit.
	MaxRetries int
	// MaxConnections is the most connections. With HTTP/1 each carries one attempt. 0 = no limit.
	MaxConnections int
	// PerEndpoint means that the limits are per endpoint.
	PerEndpoint bool
	// SkipFull means that attempts go to an endpoint with a free place if there is one.
	SkipFull bool
	// PerCall means that a call holds one place with all its attempts and waits.
	PerCall bool
}

// RateLimit limits what begins in a time.
type RateLimit struct {
	// Calls is the number of attempts per Per, or calls with PerCall. 0 = no limit.
	Calls float64
	Per   time.Duration
	// Burst is the size of the token bucket. 0 = a fixed window: Calls at the start of each Per.
	Burst float64
	// MaxWait is the longest wait for the next token or window. 0 = refuse at once.
	MaxWait time.Duration
	PerCall bool
}

// IdempotentMethods are the methods that RFC 9110 calls idempotent.
func IdempotentMethods() []string {
	return []string{
		http.MethodGet, http.MethodHead, http.MethodOptions,
		http.MethodTrace, http.MethodPut, http.MethodDelete,
	}
}

// Place is a place in a file.
type Place struct {
	File         string
	Line, Column int    // from 1; the column in characters
	Path         string // the field, such as spec.http[0].retries.attempts
}

// Sources maps the names of a policy's fields, such as Retry.Backoff.Base, to the places that set
// them. The fields of all breakers have the names of those of one, such as Breakers.OpenFor.
type Sources map[string][]Place
