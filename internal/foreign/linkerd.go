package foreign

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// linkerd reads annotations of Services and routes, rules of Linkerd's HTTPRoutes, and
// ServiceProfiles.
type linkerd struct{ all []Policy }

func readLinkerd(r *reader, roots []*node) []Policy {
	var l linkerd
	g := gatewayAPI{duration: gatewayDuration}
	route := func(r *reader, n *node) {
		before := len(g.rules)
		var from Policy
		linkerdAnnotations(r, n, &from)
		g.retried = from.Retry.MaxAttempts != 1
		g.route(r, n)
		for i := before; i < len(g.rules); i++ {
			p := &g.rules[i].policy
			merge := from
			merge.Name, merge.GRPC = p.Name, p.GRPC
			if p.From["Timeout"] != nil { // 0s is none
				merge.Timeout = p.Timeout
				merge.setFrom(p, "Timeout")
			}
			if merge.Retry.MaxAttempts == 1 && p.Retry.MaxAttempts != 1 {
				merge.Retry = p.Retry
				merge.setFrom(p, "Retry")
			}
			merge.TryTimeout = cmp.Or(merge.TryTimeout, p.TryTimeout)
			*p = merge
		}
	}
	r.kubernetes(roots, map[string]action{
		"/Service":                            l.service,
		"gateway.networking.k8s.io/HTTPRoute": route,
		"gateway.networking.k8s.io/GRPCRoute": route,
		"policy.linkerd.io/HTTPRoute":         route,
		"linkerd.io/ServiceProfile":           l.profile,
		"policy.linkerd.io/HTTPLocalRateLimitPolicy": func(r *reader, n *node) {
			r.object(n, kubernetesObject(drop("a rate limit for callers, in front of the server")))
		},
	})
	all := g.policies()
	return append(all, l.all...)
}

func (l *linkerd) service(r *reader, n *node) {
	p := Policy{Name: r.objectName(n)}
	found := linkerdAnnotations(r, n, &p)
	ignore(r, n)
	if found {
		l.all = append(l.all, p)
	}
}

// linkerdAnnotations reads the annotations of an object and reports whether it has any.
func linkerdAnnotations(r *reader, n *node, p *Policy) bool {
	p.Retry.MaxAttempts = 1
	annotations := n.at("metadata", "annotations")
	if annotations == nil || annotations.shape != mapping {
		return false
	}
	var (
		on      Conditions
		retries = 1
		accrual = ""
		b       = Breaker{
			Scope: ScopeEndpoint, ConsecutiveFailures: 7, OpenFor: time.Second, MaxOpenFor: time.Minute,
			Growth: GrowthExponential, OpenJitter: 0.5, HalfOpenCalls: 1, MaxEjected: 1,
			Counts: Conditions{Statuses: []StatusRange{{500, 599}}, Connect: true, Reset: true, Timeout: true},
		}
		successRate, minCalls, window = 0.8, 5, 10 * time.Second
	)
	const prefix = "balancer.linkerd.io/failure-accrual"
	const alpha = "balancer.alpha.linkerd.io/"
	known := fields{
		"retry.linkerd.io/http":                             linkerdStatuses(p, &on),
		"retry.linkerd.io/grpc":                             linkerdGRPC(p, &on),
		"retry.linkerd.io/limit":                            set(p, "Retry.MaxAttempts", &retries, whole(0, math.MaxUint16)),
		"retry.linkerd.io/timeout":                          set(p, "TryTimeout", &p.TryTimeout, linkerdDuration),
		"timeout.linkerd.io/request":                        set(p, "Timeout", &p.Timeout, linkerdDuration),
		"timeout.linkerd.io/response":                       drop("a limit for the time from the request's end to the answer's end"),
		"config.linkerd.io/proxy-outbound-connect-timeout":  set(p, "ConnectTimeout", &p.ConnectTimeout, duration),
		"timeout.linkerd.io/idle":                           drop("a stall in the middle of an answer is not simulated"),
		prefix:                                              set(p, "Breakers.Scope", &accrual, oneOf("consecutive", "unified")),
		prefix + "-consecutive-max-failures":                set(p, "Breakers.ConsecutiveFailures", &b.ConsecutiveFailures, whole(0, maxWhole)),
		prefix + "-consecutive-min-penalty":                 set(p, "Breakers.OpenFor", &b.OpenFor, linkerdDuration),
		prefix + "-consecutive-max-penalty":                 set(p, "Breakers.MaxOpenFor", &b.MaxOpenFor, linkerdDuration),
		prefix + "-consecutive-jitter-ratio":                set(p, "Breakers.OpenJitter", &b.OpenJitter, number(0, 100)),
		alpha + "failure-accrual-success-rate-threshold":    set(p, "Breakers.FailureRatio", &successRate, number(0, 1)),
		alpha + "failure-accrual-success-rate-window":       set(p, "Breakers.Window", &window, linkerdDuration),
		alpha + "failure-accrual-success-rate-min-requests": set(p, "Breakers.MinCalls", &minCalls, whole(0, maxWhole)),
	}.dropping("a preference of the load balancer", alpha+"penalize-failures", alpha+"load-biaser-penalty", alpha+"load-biaser-max-retry-after")
	found := false
	for _, item := range annotations.items {
		do := known[item.key]
		group, _, _ := strings.Cut(item.key, "/")
		switch {
		case do != nil:
			found = true
			do(r, item)
		case group == "retry.linkerd.io", group == "timeout.linkerd.io", group == "balancer.linkerd.io":
			r.unknown(item, known)
		default:
			ignore(r, item)
		}
	}
	if found {
		p.linkerdRetry(r, annotations, on, retries)
	}
	linkerdIdle(r, annotations, accrual, prefix+"-consecutive-", alpha+"failure-accrual-success-rate-")
	if accrual != "" {
		if accrual == "unified" && successRate > 0 { // 0 switches it off
			b.FailureRatio, b.MinCalls, b.Window = max(1-successRate, anyFailure), minCalls, window
		}
		linkerdPenalties(r, annotations, accrual, b)
		if b.ConsecutiveFailures > 0 || b.FailureRatio > 0 {
			p.Breakers = []Breaker{b}
		}
		r.byDefault(annotations, missing(annotations, prefix+"-consecutive-max-failures: 7", prefix+"-consecutive-min-penalty: 1s", prefix+"-consecutive-max-penalty: 1m"))
	}
	return found
}

// anyFailure is a share of failures that one failure exceeds.
const anyFailure = 1e-9

// linkerdIdle drops the settings of the breaker that its mode does not use: parse_accrual_config in
// Linkerd's policy controller.
func linkerdIdle(r *reader, annotations *node, accrual, consecutive, rate string) {
	for _, item := range annotations.items {
		switch {
		case accrual == "" && strings.HasPrefix(item.key, consecutive):
			r.change(item, Dropped, "has no effect without balancer.linkerd.io/failure-accrual")
		case accrual != "unified" && strings.HasPrefix(item.key, rate):
			r.change(item, Dropped, "has no effect without balancer.linkerd.io/failure-accrual: unified")
		}
	}
}

// linkerdPenalties reports what Linkerd refuses of a breaker.
func linkerdPenalties(r *reader, annotations *node, accrual string, b Breaker) {
	switch {
	case b.MaxOpenFor == 0:
		r.fail(annotations, "the longest penalty of failure-accrual must be above 0")
	case b.OpenFor > b.MaxOpenFor:
		r.fail(annotations, "the least penalty of failure-accrual, %v, must be at most the longest, %v", b.OpenFor, b.MaxOpenFor)
	case b.ConsecutiveFailures == 0 && accrual == "consecutive":
		r.fail(annotations, "failure-accrual: consecutive needs a number of failures above 0")
	case b.FailureRatio > 0 && b.Window < 10*time.Millisecond:
		r.fail(annotations, "the window of failure-accrual must be at least 10ms, got %v", b.Window)
	case b.FailureRatio > 0 && b.MinCalls > 1_000_000:
		r.fail(annotations, "the least requests of failure-accrual must be at most 1000000, got %d", b.MinCalls)
	}
}

// linkerdDuration accepts one number with a unit, as parse_duration in Linkerd's policy controller
// does. 0 needs none.
func linkerdDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a number with a unit, such as 250ms", func(s string) (time.Duration, bool) {
		if strings.TrimSpace(s) == "0" {
			return 0, true
		}
		return amount(s, 0, map[string]time.Duration{
			"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
		})
	})(r, n)
}

func (p *Policy) linkerdRetry(r *reader, annotations *node, on Conditions, retries int) {
	if len(on.Statuses) == 0 && len(on.GRPC) == 0 {
		r.byDefault(annotations, "retry: none")
		return
	}
	on.Connect, on.Refused, on.Timeout = true, true, true
	p.GRPC = len(on.Statuses) == 0
	p.Retry.On, p.Retry.MaxAttempts = on, retries+1
	r.byDefault(annotations, "no backoff and no budget; requests of up to 64 KiB are retried, also after a failed connection")
	if annotations.get("retry.linkerd.io/limit") == nil {
		r.byDefault(annotations, "retry.linkerd.io/limit: 1")
	}
}

// linkerdStatuses reads statuses such as 5xx, gateway-error, 429 and 500-504, with commas.
func linkerdStatuses(p *Policy, on *Conditions) action {
	return conditions(p, "a list of statuses such as 5xx or 500-504", func(r *reader, n *node, word string) bool {
		s, ok := statusWord(strings.TrimSpace(word))
		if !ok {
			r.fail(n, "expected a status, a range such as 500-504, 5xx or gateway-error, got %q", clip(word))
			return false
		}
		on.Statuses = append(on.Statuses, s)
		return true
	})
}

// statusWord reads a status, a range, 5xx, or gateway-error.
func statusWord(s string) (StatusRange, bool) {
	switch s {
	case "gateway-error":
		return StatusRange{502, 504}, true
	case "5xx":
		return StatusRange{500, 599}, true
	}
	return statusRange(s)
}

// statusClass reads a class of statuses, such as 5xx.
func statusClass(s string) (StatusRange, bool) {
	if len(s) != 3 || s[0] < '1' || s[0] > '5' || s[1:] != "xx" {
		return StatusRange{}, false
	}
	low := int(s[0]-'0') * 100
	return StatusRange{low, low + 99}, true
}

// statusRange reads a status, or two with a hyphen.
func statusRange(s string) (StatusRange, bool) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.Atoi(first)
	high, err2 := strconv.Atoi(last)
	return StatusRange{low, high}, err1 == nil && err2 == nil && 100 <= low && low <= high && high <= 599
}

func linkerdGRPC(p *Policy, on *Conditions) action {
	return conditions(p, "a list of gRPC statuses such as unavailable", func(r *reader, n *node, word string) bool {
		name, ok := grpcStatus(strings.TrimSpace(word))
		if !ok {
			r.badWord(n, "status", word, grpcWords())
			return false
		}
		on.GRPC = append(on.GRPC, name)
		return true
	})
}

// profile reads a ServiceProfile: one policy for each route, and one for the rest.
func (l *linkerd) profile(r *reader, n *node) {
	name := r.objectName(n)
	budget := Policy{}
	var routes []Policy
	var budgetRead *node
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"routes": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) { routes = append(routes, linkerdRoute(r, n, name)) })
			},
			"retryBudget": func(r *reader, n *node) {
				budgetRead = n
				linkerdBudget(r, n, &budget)
			},
		}.ignoring("dstOverrides", "opaquePorts"))
		if budgetRead == nil {
			budget.Retry.Budget = linkerdDefaultBudget()
			r.byDefault(spec, "retryBudget: 20 % and 10 a second of the last 10s")
		}
	}))
	if budgetRead != nil && !slices.ContainsFunc(routes, func(p Policy) bool { return p.Retry.MaxAttempts != 1 }) {
		r.unused(budgetRead, "no route is retried")
	}
	for _, p := range routes {
		if p.Retry.MaxAttempts != 1 {
			p.Retry.Budget = budget.Retry.Budget
			p.setFrom(&budget, "Retry.Budget")
		}
		l.all = append(l.all, p)
	}
}

func linkerdRoute(r *reader, n *node, profile string) Policy {
	p := Policy{Name: profile + "/" + n.get("name").value(), Timeout: 10 * time.Second, Retry: Retry{MaxAttempts: 1}}
	retryable := false
	r.object(n, fields{
		"isRetryable":     set(&p, "Retry.MaxAttempts", &retryable, boolean),
		"timeout":         set(&p, "Timeout", &p.Timeout, duration),
		"responseClasses": linkerdClasses,
	}.ignoring("name", "condition"))
	if retryable {
		p.Retry.MaxAttempts = 0 // only the budget limits them
		p.Retry.On = Conditions{Statuses: []StatusRange{{500, 599}}}
		r.byDefault(n, "retries: 5xx, without backoff, as often as the budget and the timeout allow")
	}
	if n.get("timeout") == nil {
		r.byDefault(n, "timeout: 10s")
	}
	return p
}

// linkerdClasses reads the classes of answers. One that says what is so anyway is carried over.
func linkerdClasses(r *reader, n *node) {
	kind, sentence := Dropped, "failures are 5xx; other classes of answers cannot be carried over"
	if len(n.items) == 1 {
		class := n.items[0]
		status := class.at("condition", "status")
		if status.get("min").value() == "500" && status.get("max").value() == "599" && class.get("isFailure").value() == "true" {
			kind, sentence = Carried, ""
		}
	}
	r.mark(n, kind, sentence)
}

func linkerdDefaultBudget() Budget {
	return Budget{Kind: BudgetWindow, Percent: 20, MinPerSecond: 10, Window: 10 * time.Second}
}

func linkerdBudget(r *reader, n *node, p *Policy) {
	b := linkerdDefaultBudget()
	ratio := 0.2
	r.object(n, fields{
		"retryRatio":          set(p, "Retry.Budget.Percent", &ratio, number(0, 1000)),
		"minRetriesPerSecond": set(p, "Retry.Budget.MinPerSecond", &b.MinPerSecond, number(0, maxWhole)),
		"ttl":                 set(p, "Retry.Budget.Window", &b.Window, duration),
	})
	b.Percent = 100 * ratio
	p.Retry.Budget = b
}
