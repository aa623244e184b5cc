// Package translate turns the policies of other systems into Rebound's own, as far as they can be
// expressed, and says what is different.
package translate

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Result is a policy in Rebound's terms.
type Result struct {
	Policy transport.Policy
	// Eject is for the upstream's endpoints. Nil if the other system ejects none.
	Eject *endpoint.Eject
	Notes []Note
}

// Note says what is different from a field of the other system's policy.
type Note struct {
	// Field is a field of [foreign.Policy], such as Retry.Backoff.
	Field string
	Kind  foreign.Kind // Approximated or Dropped
	// Sentence says what is different.
	Sentence string
}

// longest stands for no limit of a time.
const longest = time.Hour

// Policy translates p. The policy of the result is valid.
func Policy(p foreign.Policy) Result {
	t := &translation{from: p}
	t.Policy = transport.DefaultPolicy()
	t.times()
	t.attempts()
	t.breakers()
	t.concurrency()
	t.rate()
	return t.Result
}

type translation struct {
	Result
	from foreign.Policy
}

func (t *translation) approximate(field, format string, args ...any) {
	t.Notes = append(t.Notes, Note{field, foreign.Approximated, fmt.Sprintf(format, args...)})
}

func (t *translation) drop(field, format string, args ...any) {
	t.Notes = append(t.Notes, Note{field, foreign.Dropped, fmt.Sprintf(format, args...)})
}

// set reports whether the file sets a field, and not a default of the other system.
func (t *translation) set(field string) bool { return len(places(t.from.From, field)) > 0 }

func (t *translation) times() {
	p := t.from
	to := &t.Policy
	to.Timeout = p.Timeout
	switch {
	case p.Timeout > 0 && p.Retry.StopAfter > 0:
		t.drop("Retry.StopAfter", "the timeout of the call ends its retries")
	case p.Timeout > 0:
	case p.Retry.StopAfter > 0:
		to.Timeout = p.Retry.StopAfter + cmp.Or(p.TryTimeout, p.Retry.StopAfter)
		t.approximate("Retry.StopAfter", "attempts begin until timeout, which is this plus the time of one attempt")
	default:
		to.Timeout = longest
		t.approximate("Timeout", "no limit for the call becomes a timeout of %v", longest)
	}
	to.Timeout = min(to.Timeout, math.MaxInt64/4)
	to.AttemptTimeout = min(cmp.Or(p.TryTimeout, to.Timeout), to.Timeout)
	if p.ConnectTimeout > 0 && t.set("ConnectTimeout") {
		t.drop("ConnectTimeout", "connecting is part of an attempt and ends with attemptTimeout")
	}
	if p.Hedge != (foreign.Hedge{}) {
		t.drop("Hedge", "Rebound does not hedge")
	}
}

// mostAttempts is the largest maxAttempts of Rebound.
const mostAttempts = 100

func (t *translation) attempts() {
	from, to := t.from.Retry, &t.Policy.Retry
	to.MaxAttempts = from.MaxAttempts
	switch {
	case from.OncePerEndpoint && from.MaxAttempts == 0:
		to.MaxAttempts = transport.DefaultPolicy().Retry.MaxAttempts
		t.approximate("Retry.MaxAttempts", "one attempt for each endpoint becomes %d attempts", to.MaxAttempts)
	case from.MaxAttempts == 0 || from.MaxAttempts > mostAttempts:
		to.MaxAttempts = mostAttempts
		t.approximate("Retry.MaxAttempts", "becomes %d attempts, the most that Rebound makes", mostAttempts)
	}
	if to.MaxAttempts == 1 {
		return // nothing else about retries matters
	}
	t.backoff()
	t.conditions()
	t.methods()
	t.budget()
	switch {
	case !from.RetryAfter.Obey:
		t.approximate("Retry.RetryAfter", "Rebound waits as Retry-After says, up to maxRetryAfter, and gives up if it says more")
	case from.RetryAfter.Max > 0:
		to.MaxRetryAfter = from.RetryAfter.Max
		t.approximate("Retry.RetryAfter", "a longer Retry-After ends the call; the other system would use its backoff")
	default:
		to.MaxRetryAfter = longest
	}
}

func (t *translation) backoff() {
	from, to := t.from.Retry.Backoff, &t.Policy.Retry.Backoff
	most := cmp.Or(from.Max, t.Policy.Timeout)
	*to = resilience.Backoff{Base: from.Base, Max: max(from.Base, most), Factor: 1, Jitter: resilience.JitterNone}
	switch from.Kind {
	case foreign.BackoffNone:
		to.Base, to.Max = 0, 0
	case foreign.BackoffFixed:
		to.Max = from.Base
	case foreign.BackoffLinear:
		to.Factor = 1.5
		t.approximate("Retry.Backoff", "waits of 1, 2, 3 times the base become 1, 1.5, 2.25 times")
	case foreign.BackoffExponential:
		to.Factor = max(1, from.Factor)
		if from.Factor < 1 {
			t.approximate("Retry.Backoff.Factor", "waits do not shrink")
		}
	case foreign.BackoffEnvoy:
		// Up to ten times the base, a factor of 3 gives 1, 3, 9 where Envoy has 1, 3, 7.
		if to.Factor = 2; to.Max <= 10*to.Base {
			to.Factor = 3
		}
		t.approximate("Retry.Backoff", "Envoy's waits of up to 1, 3, 7 times the base become a factor of %v", to.Factor)
	case foreign.BackoffList:
		if n := len(from.Waits); n > 0 {
			to.Base, to.Max, to.Factor = from.Waits[0], max(from.Waits[0], slices.Max(from.Waits)), 2
		}
		t.approximate("Retry.Backoff", "a list of waits becomes its first and its longest, with a factor of 2")
	}
	t.jitter()
	if from.ThrottledBase > 0 {
		t.drop("Retry.Backoff.ThrottledBase", "the first wait after throttling, %v, is the same as after other failures", from.ThrottledBase)
	}
}

func (t *translation) jitter() {
	from, to := t.from.Retry.Backoff, &t.Policy.Retry.Backoff
	if to.Max == 0 {
		return
	}
	const field = "Retry.Backoff.Jitter"
	switch from.Jitter {
	case foreign.JitterNone:
	case foreign.JitterFull:
		to.Jitter = resilience.JitterFull
	case foreign.JitterEqual:
		to.Jitter = resilience.JitterEqual
	case foreign.JitterDecorrelated:
		to.Jitter = resilience.JitterDecorrelated
	case foreign.JitterPolly:
		to.Jitter = resilience.JitterEqual
		t.approximate(field, "Polly's jitter becomes equal jitter: half of each wait is random")
	case foreign.JitterPercent, foreign.JitterUpward:
		if from.Percent >= 25 {
			to.Jitter = resilience.JitterEqual
			t.approximate(field, "a jitter of %v %% becomes equal jitter: half of each wait is random", from.Percent)
		} else {
			t.drop(field, "a jitter of %v %% is left out", from.Percent)
		}
	}
}

// conditions translates what is retried. Rebound always retries connections that fail, and for the
// methods that may be retried also those that break off, and attempts that time out.
func (t *translation) conditions() {
	on, to := t.from.Retry.On, &t.Policy.Retry
	const field = "Retry.On"
	to.Statuses = []int{}
	for _, s := range on.Statuses {
		wide := s.High-s.Low > 20 // nobody lists 100 statuses
		for code := max(400, s.Low); code <= min(s.High, 599); code++ {
			if !wide || http.StatusText(code) != "" {
				to.Statuses = append(to.Statuses, code)
			}
		}
		if wide {
			t.approximate(field, "of the statuses from %d to %d, those with a meaning", s.Low, s.High)
		}
	}
	slices.Sort(to.Statuses)
	to.Statuses = slices.Compact(to.Statuses)
	if on.Status(399) || on.Status(100) {
		t.drop(field, "statuses below 400 are never retried")
	}
	if len(on.GRPC) > 0 {
		t.grpc(on, field)
	}
	if !on.Reset || !on.Timeout {
		t.approximate(field, "Rebound also retries connections that break off and attempts that time out, for the methods in retry.methods")
	}
	if !on.Connect && !on.Refused {
		t.approximate(field, "Rebound also retries requests that were never sent")
	}
	if on.BreakerOpen || on.Limited {
		t.drop(field, "a refusal by the breaker or by a limit ends the call")
	}
}

// grpc translates gRPC statuses. Rebound sees HTTP statuses.
func (t *translation) grpc(on foreign.Conditions, field string) {
	if !t.from.GRPC {
		t.drop(field, "gRPC statuses are not retried")
		return
	}
	to := &t.Policy.Retry
	for status, codes := range map[string][]int{
		"UNAVAILABLE": {502, 503, 504}, "RESOURCE_EXHAUSTED": {429}, "UNKNOWN": {500}, "INTERNAL": {500}, "DEADLINE_EXCEEDED": {504},
	} {
		if slices.Contains(on.GRPC, status) {
			to.Statuses = append(to.Statuses, codes...)
		}
	}
	slices.Sort(to.Statuses)
	to.Statuses = slices.Compact(to.Statuses)
	t.approximate(field, "gRPC statuses become the HTTP statuses that stand for them; one in an answer with status 200 is not retried")
}

func (t *translation) methods() {
	from, to := t.from.Retry, &t.Policy.Retry
	const field = "Retry.Methods"
	if from.Methods == nil {
		to.Methods = append(foreign.IdempotentMethods(), http.MethodPost, http.MethodPatch)
		t.approximate(field, "every method is retried, also POST and PATCH: take them out of retry.methods if a second effect does harm")
		return
	}
	to.Methods = []string{}
	for _, m := range from.Methods {
		if !slices.Contains(to.Methods, m) {
			to.Methods = append(to.Methods, m)
		}
	}
	check := transport.DefaultPolicy()
	check.Retry.Methods = to.Methods
	if check.Validate() != nil {
		to.Methods = foreign.IdempotentMethods()
		t.approximate(field, "methods that HTTP does not know become the idempotent ones")
	}
	if !from.UnsentAnyMethod {
		t.approximate(field, "Rebound retries a request that was never sent whatever its method")
	}
}

// freeBudget limits nothing.
func freeBudget() resilience.BudgetPolicy {
	return resilience.BudgetPolicy{Ratio: 100, Burst: 1e6, FloorPerSecond: 1e6}
}

func (t *translation) budget() {
	from, to := t.from.Retry.Budget, &t.Policy.Retry.Budget
	const field = "Retry.Budget"
	ratio := clamp(from.Percent/100, 0, 100)
	switch from.Kind {
	case foreign.BudgetInFlight:
		*to = resilience.BudgetPolicy{Ratio: ratio, Burst: clamp(float64(from.Min), 1, 1e6)}
		t.approximate(field, "a share of the calls in flight becomes a share of the calls that succeed, and an outage earns none")
	case foreign.BudgetWindow:
		floor := from.MinPerSecond
		if from.Window > 0 {
			floor = max(floor, float64(from.WindowMin)/from.Window.Seconds())
		}
		*to = resilience.BudgetPolicy{Ratio: ratio, Burst: 10, FloorPerSecond: clamp(floor, 0, 1e6)}
		t.approximate(field, "a share of the last %v becomes a share of the calls that succeed, of which 10 retries are saved", from.Window)
	case foreign.BudgetTokens:
		cost := cmp.Or(from.Cost, 1)
		*to = resilience.BudgetPolicy{Ratio: clamp(from.Refill/cost, 0, 100), Burst: clamp((from.Tokens-from.Threshold)/cost, 0, 1e6)}
		t.approximate(field, "tokens are counted in retries: one costs 1, whatever the failure, and is not given back")
	case foreign.BudgetNone:
		*to = freeBudget()
		if t.from.Concurrency.MaxRetries > 0 {
			t.drop("Concurrency.MaxRetries", "at most %d retries in flight: no limit for retries is left; leave retry.budget out for Rebound's own", t.from.Concurrency.MaxRetries)
			return
		}
		t.approximate(field, "nothing limits retries; leave retry.budget out for Rebound's own")
	}
}

func clamp(v, low, high float64) float64 { return min(max(v, low), high) }

func (t *translation) concurrency() {
	from, to := t.from.Concurrency, &t.Policy.Concurrency
	const most = 1_000_000
	*to = resilience.ConcurrencyPolicy{Max: -1}
	limit, field := from.MaxRequests, "Concurrency.MaxRequests"
	if limit == 0 && from.MaxConnections > 0 {
		limit, field = from.MaxConnections, "Concurrency.MaxConnections"
		t.approximate(field, "a limit of connections becomes one of attempts in flight, as with HTTP/1")
	} else if from.MaxConnections > 0 && t.set("Concurrency.MaxConnections") {
		t.drop("Concurrency.MaxConnections", "connections are not limited")
	}
	if limit == 0 {
		if from.MaxPending > 0 && t.set("Concurrency.MaxPending") {
			t.drop("Concurrency.MaxPending", "without a limit there is nothing to wait for")
		}
		return
	}
	to.Max = min(withShares(limit), most)
	t.approximate(field, "max is %d: normal calls get %d places of it, as there, and retries at most 80 %% of it", to.Max, min(limit, most))
	if from.MaxPending != 0 {
		to.Queue, to.MaxWait = min(from.MaxPending, most), cmp.Or(from.MaxWait, t.Policy.Timeout)
		if from.MaxPending < 0 {
			to.Queue = most
		}
	}
	if from.PerEndpoint {
		t.approximate(field, "a limit for each endpoint becomes one for the upstream: multiply it by the number of endpoints")
	}
	if from.PerCall {
		t.approximate(field, "a limit for calls becomes one for attempts in flight")
	}
}

// withShares returns the limit of which normal calls get n places. They get 90 % of a limit,
// rounded down, so that critical calls find a place.
func withShares(n int) int { return (10*n + 8) / 9 }

func (t *translation) rate() {
	from, to := t.from.RateLimit, &t.Policy.RateLimit
	if from.Calls <= 0 || from.Per <= 0 {
		return
	}
	to.PerSecond = clamp(from.Calls/from.Per.Seconds(), math.SmallestNonzeroFloat64, 1e6)
	to.Burst = int(clamp(cmp.Or(from.Burst, from.Calls), 1, 1e6))
	if from.Burst == 0 {
		t.approximate("RateLimit", "a number in each period becomes a rate with a burst")
	}
	if from.MaxWait > 0 {
		t.drop("RateLimit.MaxWait", "calls over the limit are refused at once")
	}
	if !from.PerCall {
		t.approximate("RateLimit", "retries are part of their call and need no place of their own")
	}
}
