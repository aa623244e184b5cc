package foreign

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
)

// parseDotNet reads JSON as .NET's configuration does: comments and trailing commas are allowed.
func parseDotNet(name string, data []byte) ([]*node, error) {
	roots, err := parseYAML(name, withoutComments(data))
	for _, root := range roots {
		split(root, ":") // .NET reads the key A:B as B below A
	}
	return roots, err
}

// withoutComments replaces comments in JSON with spaces, so that every place stays what it is.
func withoutComments(data []byte) []byte {
	out := bytes.Clone(data)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' && out[i] != '\r' {
				out[i] = ' '
			}
		}
	}
	for i := 0; i < len(out); i++ {
		switch rest := out[i:]; {
		case rest[0] == '"':
			for i++; i < len(out) && out[i] != '"' && out[i] != '\n'; i++ {
				if out[i] == '\\' {
					i++
				}
			}
		case bytes.HasPrefix(rest, []byte("//")):
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			blank(i, i+end)
		case bytes.HasPrefix(rest, []byte("/*")):
			end := bytes.Index(rest, []byte("*/"))
			if end < 0 {
				return out // the parser reports it
			}
			blank(i, i+end+2)
		}
	}
	return out
}

// dotnet finds the sections that configure the standard resilience handler, wherever they are: the
// code names their path.
type dotnet struct{ all []Policy }

func readDotNet(r *reader, roots []*node) []Policy {
	var d dotnet
	for _, root := range roots {
		d.within(r, root)
	}
	return d.all
}

func dotnetParts() []string {
	return []string{"AttemptTimeout", "TotalRequestTimeout", "CircuitBreaker", "Retry", "RateLimiter", "Hedging", "Endpoint"}
}

func (d *dotnet) within(r *reader, n *node) {
	known := 0
	for _, item := range n.items {
		is := func(part string) bool { return strings.EqualFold(item.key, part) }
		if item.shape == mapping && slices.ContainsFunc(dotnetParts(), is) {
			known++
		}
	}
	if n.shape == mapping && known > 0 && dotnetTells(n) {
		if own := dotnetOwn(n); own != nil {
			r.failAt(own.keyLine, own.keyColumn, own.path, "expected a section for the standard resilience handler, got an option of the application's own")
			return
		}
		d.section(r, n)
		return
	}
	if d.strategy(r, n) {
		return
	}
	if n.shape == scalar || len(n.items) == 0 {
		ignore(r, n)
	}
	for _, item := range n.items {
		d.within(r, item)
	}
}

// dotnetTells reports whether a section has a setting of the resilience handler, and not only a
// name that other libraries use too.
func dotnetTells(n *node) bool {
	settings := []string{"Timeout", "MaxRetryAttempts", "BackoffType", "UseJitter", "Delay", "MaxDelay", "ShouldRetryAfterHeader",
		"FailureRatio", "MinimumThroughput", "SamplingDuration", "BreakDuration", "DefaultRateLimiterOptions", "MaxHedgedAttempts"}
	for _, item := range n.items {
		for _, setting := range item.items {
			if slices.ContainsFunc(settings, func(s string) bool { return strings.EqualFold(s, setting.key) }) {
				return true
			}
		}
	}
	return false
}

// dotnetOwn returns an option in a section for the handler, or in one of its parts, that .NET does
// not have and that is no misspelling of one. Applications have option classes of their own that
// look much like those of .NET. It returns nil if there is none.
func dotnetOwn(n *node) *node {
	known := map[string][]string{
		"":               dotnetParts(),
		"retry":          slices.Sorted(maps.Keys(dotnetRetryFields(&Policy{}, new(int), new(string), new(bool)))),
		"circuitbreaker": slices.Sorted(maps.Keys(dotnetCircuitFields(&Policy{Breakers: []Breaker{{}}}))),
	}
	stranger := func(n *node, known []string) *node {
		for _, item := range n.items {
			has := slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, item.key) })
			if near := config.Nearest(item.key, known); !has && (near == "" || config.Distance(strings.ToLower(item.key), strings.ToLower(near)) > 2) {
				return item
			}
		}
		return nil
	}
	own := stranger(n, known[""])
	for _, part := range n.items {
		if names := known[strings.ToLower(part.key)]; own == nil && names != nil {
			own = stranger(part, names)
		}
		if isTimeout := strings.EqualFold(part.key, "AttemptTimeout") || strings.EqualFold(part.key, "TotalRequestTimeout"); own == nil && isTimeout && part.shape == scalar && !part.null {
			own = part
		}
	}
	return own
}

// strategy reads a section for a retry or a breaker alone, which code adds to a pipeline. It
// reports whether n is one.
func (d *dotnet) strategy(r *reader, n *node) bool {
	p := Policy{Name: dotnetName(n), Retry: Retry{MaxAttempts: 1}}
	isOnly := func(sign string, known fields) bool {
		return field(n, sign) != nil && !slices.ContainsFunc(n.items, func(item *node) bool { _, ok := r.find(known, item.key); return !ok })
	}
	switch {
	case isOnly("MaxRetryAttempts", dotnetRetryFields(&p, new(int), new(string), new(bool))):
		p.Retry = Retry{On: dotnetTransient(), Backoff: Backoff{Base: 2 * time.Second}, RetryAfter: RetryAfter{Obey: true}}
		dotnetRetry(r, n, &p)
	case isOnly("MinimumThroughput", dotnetCircuitFields(&Policy{Breakers: []Breaker{{}}})):
		p.Breakers = []Breaker{dotnetBreaker()}
		dotnetCircuit(r, n, &p)
	default:
		return false
	}
	d.all = append(d.all, p)
	return true
}

// dotnetName returns the name of the policy for a section: its path as .NET's code names it.
func dotnetName(n *node) string {
	return strings.ReplaceAll(strings.Trim(strings.ReplaceAll(n.path, `"`, ""), "[]"), "].", ".")
}

func (d *dotnet) section(r *reader, n *node) {
	p := Policy{
		Name: dotnetName(n), Timeout: 30 * time.Second, TryTimeout: 10 * time.Second,
		Retry: Retry{
			MaxAttempts: 4, On: dotnetTransient(),
			Backoff:    Backoff{Kind: BackoffExponential, Base: 2 * time.Second, Factor: 2, Jitter: JitterPolly},
			RetryAfter: RetryAfter{Obey: true},
		},
		Breakers:    []Breaker{dotnetBreaker()},
		Concurrency: Concurrency{MaxRequests: 1000, PerCall: true},
	}
	hedging := slices.ContainsFunc(n.items, func(item *node) bool {
		return strings.EqualFold(item.key, "Hedging") || strings.EqualFold(item.key, "Endpoint")
	})
	if hedging {
		p.Retry = Retry{MaxAttempts: 1, On: dotnetTransient()}
		p.Hedge = Hedge{MaxAttempts: 2, Delay: 2 * time.Second}
	}
	timeout := func(name string, dst *time.Duration) action {
		return func(r *reader, n *node) {
			r.object(n, fields{
				"Timeout":          set(&p, name, dst, pollyTimeout),
				"TimeoutGenerator": drop(dotnetCode),
			}.ignoring("Name"))
		}
	}
	parts := fields{
		"RateLimiter":    func(r *reader, n *node) { dotnetLimit(r, n, &p) },
		"CircuitBreaker": func(r *reader, n *node) { dotnetCircuit(r, n, &p) },
	}
	if hedging {
		p.Breakers[0].Scope, p.Concurrency.PerEndpoint, p.Concurrency.PerCall = ScopeEndpoint, true, false
		parts["Timeout"] = timeout("TryTimeout", &p.TryTimeout)
		r.object(n, fields{
			"TotalRequestTimeout": timeout("Timeout", &p.Timeout),
			"Hedging":             func(r *reader, n *node) { dotnetHedging(r, n, &p) },
			"Endpoint":            func(r *reader, n *node) { r.object(n, parts) },
		})
		r.byDefault(n, missingLine(n, "TotalRequestTimeout: 30s", "Hedging: 1 more attempt after 2s", "Endpoint: attempts of 10s, a breaker at 10 % of 100 in 30s for 5s"))
	} else {
		parts["TotalRequestTimeout"] = timeout("Timeout", &p.Timeout)
		parts["AttemptTimeout"] = timeout("TryTimeout", &p.TryTimeout)
		parts["Retry"] = func(r *reader, n *node) { dotnetRetry(r, n, &p) }
		r.object(n, parts)
		r.byDefault(n, missingLine(n, "TotalRequestTimeout: 30s", "AttemptTimeout: 10s", "Retry: 3 after 2s, doubled, with jitter",
			"CircuitBreaker: 10 % of at least 100 in 30s, open for 5s", "RateLimiter: 1000 calls at a time"))
	}
	dotnetFits(r, n, p)
	d.all = append(d.all, p)
}

// dotnetFits reports times that do not fit together: HttpStandardResilienceOptionsCustomValidator
// and its like in .NET's Microsoft.Extensions.Http.Resilience. A time that this file does not have
// may be in another, or in code: then it is no mistake.
func dotnetFits(r *reader, n *node, p Policy) {
	refuse := func(other, format string, args ...any) {
		if p.From["TryTimeout"] != nil && p.From[other] != nil {
			r.fail(n, format+": .NET refuses it", args...)
			return
		}
		r.byDefault(n, fmt.Sprintf(format, args...)+": .NET refuses it if no other file or code sets one of them")
	}
	if p.TryTimeout > p.Timeout {
		refuse("Timeout", "the timeout of an attempt, %v, must be at most TotalRequestTimeout, %v", p.TryTimeout, p.Timeout)
	}
	if window := p.Breakers[0].Window; window < 2*p.TryTimeout {
		refuse("Breakers.Window", "SamplingDuration, %v, must be at least twice the timeout of an attempt, %v", window, p.TryTimeout)
	}
}

// missingLine is missingIn as one line.
func missingLine(n *node, defaults ...string) string {
	return strings.Join(missingIn(n, defaults), ", ")
}

const dotnetCode = "code of the application decides"

// dotnetTransient is what the handlers take for a failure.
func dotnetTransient() Conditions {
	return Conditions{Statuses: []StatusRange{{408, 408}, {429, 429}, {500, 599}}, Connect: true, Refused: true, Reset: true, Timeout: true}
}

func dotnetBreaker() Breaker {
	return Breaker{
		Scope: ScopeUpstream, FailureRatio: 0.1, MinCalls: 100, Window: 30 * time.Second, OpenFor: 5 * time.Second,
		HalfOpenCalls: 1, Counts: dotnetTransient(),
	}
}

// The ranges of Polly's options: the attributes of RetryStrategyOptions, TimeoutStrategyOptions and
// CircuitBreakerStrategyOptions.

func pollyDelay(r *reader, n *node) (time.Duration, bool) {
	return within(0, 24*time.Hour, timeSpanValue)(r, n)
}

func pollyTimeout(r *reader, n *node) (time.Duration, bool) {
	return within(10*time.Millisecond, 24*time.Hour, timeSpanValue)(r, n)
}

func pollyBreak(r *reader, n *node) (time.Duration, bool) {
	return within(500*time.Millisecond, 24*time.Hour, timeSpanValue)(r, n)
}

// timeSpanValue accepts .NET's time spans, such as 00:00:10 and 1.02:03:04. A whole number is days,
// and so is an hour above 23, which is refused.
func timeSpanValue(r *reader, n *node) (time.Duration, bool) {
	return spans("a time span such as 00:00:10 or 1.12:00:00", func(s string) (time.Duration, bool) {
		if m := timeSpan.FindStringSubmatch(strings.TrimSpace(s)); m != nil {
			return sum(m[1:], 24*time.Hour, time.Hour, time.Minute, time.Second)
		}
		return amount(s, 24*time.Hour, nil)
	})(r, n)
}

// backoffType accepts the name of a backoff in any case, or its number.
func backoffType(r *reader, n *node) (string, bool) {
	names := []string{"Constant", "Linear", "Exponential"}
	for i, name := range names {
		if n.shape == scalar && (strings.EqualFold(n.text, name) || n.text == strconv.Itoa(i)) {
			return name, true
		}
	}
	return oneOf(names...)(r, n)
}

func dotnetRetryFields(p *Policy, retries *int, kind *string, jitter *bool) fields {
	b := &p.Retry.Backoff
	return fields{
		"MaxRetryAttempts":       set(p, "Retry.MaxAttempts", retries, whole(1, maxWhole)),
		"BackoffType":            set(p, "Retry.Backoff", kind, backoffType),
		"UseJitter":              set(p, "Retry.Backoff.Jitter", jitter, boolean),
		"Delay":                  set(p, "Retry.Backoff.Base", &b.Base, pollyDelay),
		"MaxDelay":               set(p, "Retry.Backoff.Max", &b.Max, pollyDelay),
		"ShouldRetryAfterHeader": set(p, "Retry.RetryAfter", &p.Retry.RetryAfter.Obey, boolean),
		"ShouldHandle":           drop(dotnetCode),
		"DelayGenerator":         drop(dotnetCode),
	}.ignoring("Name")
}

func dotnetRetry(r *reader, n *node, p *Policy) {
	b := &p.Retry.Backoff
	retries, kind, jitter := 3, "Exponential", true
	r.object(n, dotnetRetryFields(p, &retries, &kind, &jitter))
	p.Retry.MaxAttempts = retries + 1
	b.Kind, b.Factor = map[string]BackoffKind{"Constant": BackoffFixed, "Linear": BackoffLinear, "Exponential": BackoffExponential}[kind], 0
	if b.Kind == BackoffExponential {
		b.Factor = 2
	}
	switch {
	case !jitter:
		b.Jitter = JitterNone
	case b.Kind == BackoffExponential:
		b.Jitter = JitterPolly
	default:
		b.Jitter, b.Percent = JitterPercent, 25
	}
	r.byDefault(n, missingLine(n, "MaxRetryAttempts: 3", "Delay: 2s", "BackoffType: Exponential", "UseJitter: true", "ShouldRetryAfterHeader: true"))
}

func dotnetCircuitFields(p *Policy) fields {
	b := &p.Breakers[0]
	return fields{
		"FailureRatio":           set(p, "Breakers.FailureRatio", &b.FailureRatio, number(0, 1)),
		"MinimumThroughput":      set(p, "Breakers.MinCalls", &b.MinCalls, whole(2, maxWhole)),
		"SamplingDuration":       set(p, "Breakers.Window", &b.Window, pollyBreak),
		"BreakDuration":          set(p, "Breakers.OpenFor", &b.OpenFor, pollyBreak),
		"ShouldHandle":           drop(dotnetCode),
		"BreakDurationGenerator": drop(dotnetCode),
	}.ignoring("Name")
}

func dotnetCircuit(r *reader, n *node, p *Policy) {
	r.object(n, dotnetCircuitFields(p))
	if b := &p.Breakers[0]; b.FailureRatio == 0 {
		b.FailureRatio = anyFailure // any failure is a share of more than 0
	}
	r.byDefault(n, missingLine(n, "FailureRatio: 0.1", "MinimumThroughput: 100", "SamplingDuration: 30s", "BreakDuration: 5s"))
}

func dotnetLimit(r *reader, n *node, p *Policy) {
	c := &p.Concurrency
	r.object(n, fields{
		"DefaultRateLimiterOptions": func(r *reader, n *node) {
			r.object(n, fields{
				"PermitLimit":          set(p, "Concurrency.MaxRequests", &c.MaxRequests, whole(1, maxWhole)),
				"QueueLimit":           set(p, "Concurrency.MaxPending", &c.MaxPending, whole(0, maxWhole)),
				"QueueProcessingOrder": approx(unread, "the queue is served from its oldest entry"),
			})
			r.byDefault(n, missingLine(n, "PermitLimit: 1000", "QueueLimit: 0"))
		},
		"RateLimiter": drop(dotnetCode),
	}.ignoring("Name"))
}

func dotnetHedging(r *reader, n *node, p *Policy) {
	more := 1
	r.object(n, fields{
		"MaxHedgedAttempts": set(p, "Hedge.MaxAttempts", &more, whole(1, 10)),
		"Delay":             set(p, "Hedge.Delay", &p.Hedge.Delay, timeSpanValue),
		"ShouldHandle":      drop(dotnetCode),
		"DelayGenerator":    drop(dotnetCode),
		"ActionGenerator":   drop(dotnetCode),
	}.ignoring("Name"))
	p.Hedge.MaxAttempts = more + 1
	r.byDefault(n, missingLine(n, "MaxHedgedAttempts: 1", "Delay: 2s"))
}
