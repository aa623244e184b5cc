package foreign

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What Istio, Envoy Gateway and Envoy itself have in common: they all end in Envoy.

// envoyWord adds what one word of Envoy's retry_on means. codes are those of
// retriable-status-codes. The note says what is different; known is false for a word that Envoy
// does not have.
func (c *Conditions) envoyWord(word string, codes []StatusRange) (note string, known bool) {
	noAnswer := func() { c.Connect, c.Refused, c.Reset, c.Timeout = true, true, true, true }
	switch word {
	case "5xx":
		c.Statuses = append(c.Statuses, StatusRange{500, 599})
		noAnswer()
	case "gateway-error":
		c.Statuses = append(c.Statuses, StatusRange{502, 504})
		noAnswer()
	case "reset":
		noAnswer()
	case "connect-failure":
		c.Connect = true
	case "reset-before-request":
		c.Connect = true
		return "reset-before-request is taken for connect-failure", true
	case "refused-stream":
		c.Refused = true
	case "retriable-4xx":
		c.Statuses = append(c.Statuses, StatusRange{409, 409})
	case "retriable-status-codes":
		c.Statuses = append(c.Statuses, codes...)
	case "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure":
		return word + " depends on headers or HTTP/3 and is left out", true
	case "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
		c.GRPC = append(c.GRPC, strings.ToUpper(strings.ReplaceAll(word, "-", "_")))
	default:
		return "", false
	}
	return "", true
}

// envoyWords are the words of retry_on.
func envoyWords() []string {
	return []string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
		"retriable-4xx", "retriable-status-codes", "retriable-headers", "envoy-ratelimited",
		"http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal",
		"resource-exhausted", "unavailable",
	}
}

// envoyRetryOn reads a retry_on text such as "5xx,reset". With numbers, a status that has a name is
// a word too, as in Istio.
func envoyRetryOn(p *Policy, codes *[]StatusRange, numbers bool) action {
	return func(r *reader, n *node) {
		if !r.scalar(n, "a list of conditions such as 5xx,reset") {
			return
		}
		var on Conditions
		var notes []string
		for word := range strings.SplitSeq(n.text, ",") {
			word = strings.TrimSpace(word)
			if code, err := strconv.Atoi(word); numbers && err == nil && 100 <= code && code <= 599 && http.StatusText(code) != "" {
				on.Statuses = append(on.Statuses, StatusRange{code, code})
				continue
			}
			note, known := on.envoyWord(word, *codes)
			if !known && word != "" {
				r.badWord(n, "condition", word, envoyWords())
			}
			if note != "" {
				notes = append(notes, note)
			}
		}
		p.Retry.On = on
		p.setBy(r, "Retry.On", n)
		kind := Carried
		if len(notes) > 0 {
			kind = Approximated
		}
		r.mark(n, kind, strings.Join(notes, "; "))
	}
}

// badWord reports a word that is not one of the known ones. what names such words.
func (r *reader) badWord(n *node, what, word string, known []string) {
	if near := meant(word, known); near != "" {
		r.fail(n, "unknown %s %q, did you mean %q?", what, clip(word), near)
		return
	}
	r.fail(n, "unknown %s %q; known: %s", what, clip(word), strings.Join(known, ", "))
}

// envoyDefaultRetry is what Istio and Envoy Gateway retry if a file does not say it.
func envoyDefaultRetry() Retry {
	return Retry{
		MaxAttempts: 3, OtherEndpoint: true,
		Backoff: Backoff{Kind: BackoffEnvoy, Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Jitter: JitterFull},
		On:      Conditions{Connect: true, Refused: true, GRPC: []string{"UNAVAILABLE", "CANCELLED"}},
	}
}

// statusList reads a list of HTTP statuses from low on.
func statusList(low int, dst *[]StatusRange) action {
	return func(r *reader, n *node) {
		r.list(n, func(r *reader, item *node) {
			if code, ok := whole(low, 599)(r, item); ok {
				*dst = append(*dst, StatusRange{code, code})
				r.mark(item, Carried, "")
			}
		})
	}
}

// outlier are the settings of Envoy's outlier detection.
type outlier struct {
	consecutive5xx, gateway, local int
	enforce5xx, enforceGateway     int // percent
	split                          bool
	interval, base, maxTime        time.Duration
	maxEjected                     float64
	alwaysOne                      bool
	panicBelow                     float64
	successRate                    bool
	successHosts, successVolume    int
	stdev                          int // thousandths
	failurePercent                 int // 0 = off
	failureHosts, failureVolume    int
	codes                          []StatusRange
}

func envoyOutlier() outlier {
	return outlier{
		consecutive5xx: 5, gateway: 5, local: 5, enforce5xx: 100,
		interval: 10 * time.Second, base: 30 * time.Second, maxTime: 300 * time.Second, maxEjected: 0.1,
		panicBelow: 0.5, successRate: true, successHosts: 5, successVolume: 100, stdev: 1900,
		failureHosts: 5, failureVolume: 50,
	}
}

// percentAboveZero takes a maxEjectionPercent of 0 for the default, as Istio and Envoy Gateway do:
// they pass only larger ones to Envoy.
func (o *outlier) percentAboveZero(r *reader, n *node) {
	if o.maxEjected == 0 {
		o.maxEjected = envoyOutlier().maxEjected
		r.change(n.get("maxEjectionPercent"), Approximated, "0 means the default of 10")
	}
}

// longEnough reports a longest wait that is shorter than the first one, as Envoy does.
func (r *reader) longEnough(n *node, longest, first time.Duration) {
	if n != nil && 0 < longest && longest < first {
		r.fail(n, "must be at least the base interval of %v, got %v", first, longest)
	}
}

// breakers returns a breaker for each detector that is on. They share MaxEjected.
func (o outlier) breakers() []Breaker {
	base := Breaker{
		Scope: ScopeEndpoint, OpenFor: o.base, MaxOpenFor: max(o.maxTime, o.base), Growth: GrowthLinear,
		MaxEjected: o.maxEjected, AtLeastOne: o.alwaysOne, PanicBelow: o.panicBelow, CheckEvery: o.interval,
	}
	noAnswer := !o.split // the failures of the client itself count as 5xx
	any5xx := Conditions{Statuses: []StatusRange{{500, 599}}, Connect: noAnswer, Refused: noAnswer, Reset: noAnswer, Timeout: noAnswer}
	if len(o.codes) > 0 {
		any5xx.Statuses = slices.Clone(o.codes)
	}
	var all []Breaker
	add := func(change func(*Breaker)) {
		b := base
		change(&b)
		all = append(all, b)
	}
	if o.consecutive5xx > 0 && o.enforce5xx > 0 {
		add(func(b *Breaker) { b.ConsecutiveFailures, b.Counts = o.consecutive5xx, any5xx })
	}
	if o.gateway > 0 && o.enforceGateway > 0 {
		add(func(b *Breaker) {
			b.ConsecutiveFailures = o.gateway
			b.Counts = Conditions{Statuses: []StatusRange{{502, 504}}, Connect: noAnswer, Refused: noAnswer, Reset: noAnswer, Timeout: noAnswer}
		})
	}
	if o.split && o.local > 0 {
		add(func(b *Breaker) {
			b.ConsecutiveFailures = o.local
			b.Counts = Conditions{Connect: true, Refused: true, Reset: true, Timeout: true}
		})
	}
	if o.successRate {
		add(func(b *Breaker) {
			b.BelowMean, b.MinEndpoints, b.MinCalls = float64(o.stdev)/1000, o.successHosts, o.successVolume
			b.Window, b.FixedWindow, b.Counts = o.interval, true, any5xx
		})
	}
	if o.failurePercent > 0 {
		add(func(b *Breaker) {
			b.FailureRatio, b.MinEndpoints, b.MinCalls = float64(o.failurePercent)/100, o.failureHosts, o.failureVolume
			b.Window, b.FixedWindow, b.Counts = o.interval, true, any5xx
		})
	}
	return all
}

// budgetNames are the keys of a retry budget.
type budgetNames struct {
	percent, least, interval string
	duration                 parser[time.Duration]
}

// envoyBudget reads a retry budget of Envoy.
func envoyBudget(r *reader, n *node, p *Policy, names budgetNames) {
	b := Budget{Kind: BudgetInFlight, Percent: 20, Min: 3}
	r.object(n, fields{
		names.percent:  set(p, "Retry.Budget.Percent", &b.Percent, envoyPercent),
		names.least:    set(p, "Retry.Budget.Min", &b.Min, whole(0, maxWhole)),
		names.interval: set(p, "Retry.Budget.Window", &b.Window, names.duration),
	})
	if b.Window > 0 {
		b.Kind, b.WindowMin, b.Min = BudgetWindow, b.Min, 0
	}
	r.byDefault(n, missing(n, names.percent+": 20", names.least+": 3"))
	p.Retry.Budget = b
	p.setBy(r, "Retry.Budget", n)
}

// envoyPercent reads a percentage, written as a number or as {value: 20}.
func envoyPercent(r *reader, n *node) (float64, bool) {
	if n.shape != mapping {
		return number(0, 100)(r, n)
	}
	var v float64
	before := len(r.errs)
	r.object(n, fields{"value": keep(&v, number(0, 100))})
	return v, len(r.errs) == before
}

// budgetWins notes that a retry budget replaces the limit for retries in flight.
func (r *reader) budgetWins(budget, retries *node, c *Concurrency) {
	if budget == nil {
		return
	}
	c.MaxRetries = 0
	if retries != nil {
		r.change(retries, Dropped, "the retry budget replaces it")
	}
}
