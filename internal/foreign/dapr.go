package foreign

import (
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dapr reads a Resiliency: named timeouts, retries and breakers, and the targets that use them. A
// target is one policy.
type dapr struct {
	timeouts, retries, breakers map[string]daprPart
	all                         []Policy
}

// daprPart is a named timeout, retry or breaker, and what it changes in a policy.
type daprPart struct {
	node  *node
	apply func(p *Policy)
	used  bool
}

func readDapr(r *reader, roots []*node) []Policy {
	var d dapr
	r.kubernetes(roots, map[string]action{"dapr.io/Resiliency": d.read})
	return d.all
}

func (d *dapr) read(r *reader, n *node) {
	d.timeouts, d.retries, d.breakers = map[string]daprPart{}, map[string]daprPart{}, map[string]daprPart{}
	var targets *node
	f := kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"policies": func(r *reader, n *node) {
				r.object(n, fields{
					"timeouts":        func(r *reader, n *node) { r.byName(n, d.timeout) },
					"retries":         func(r *reader, n *node) { r.byName(n, d.retry) },
					"circuitBreakers": func(r *reader, n *node) { r.byName(n, d.breaker) },
				})
			},
			"targets": func(_ *reader, n *node) { targets = n },
		})
	})
	r.object(n, f.ignoring("scopes"))
	if targets != nil {
		d.targets(r, targets)
	}
	d.others(r, n)
	for _, parts := range []map[string]daprPart{d.timeouts, d.retries, d.breakers} {
		for _, part := range parts {
			if part.used {
				continue
			}
			switch name := part.node.key; {
			case strings.HasPrefix(name, "DaprBuiltIn"):
				r.unused(part.node, "the retries that Dapr has of its own, for calls that found no connection, are left out")
			case strings.HasPrefix(name, "Default") && strings.HasSuffix(name, "Policy"):
				r.unused(part.node, "a default for calls into the application, or for one type of component")
			default:
				r.unused(part.node, "no target uses it")
			}
		}
	}
}

// others adds a policy for the targets that the file does not name, if it has defaults for them:
// one for each kind of targets with defaults of its own, and one for the rest.
func (d *dapr) others(r *reader, n *node) {
	for _, kind := range []string{"app", "actor", "component"} {
		for suffix, parts := range d.parts() {
			own := daprDefaults(kind, suffix)
			own = own[:len(own)-1]
			if slices.ContainsFunc(own, func(name string) bool { return parts[name].node != nil }) {
				d.byDefault(r, n, kind)
				break
			}
		}
	}
	if d.timeouts["DefaultTimeoutPolicy"].node != nil || d.retries["DefaultRetryPolicy"].node != nil || d.breakers["DefaultCircuitBreakerPolicy"].node != nil {
		d.byDefault(r, n, "all")
	}
}

// unused turns the entries at and below n into dropped ones. Their defaults do not matter.
func (r *reader) unused(n *node, sentence string) {
	r.defaults = slices.DeleteFunc(r.defaults, func(e Entry) bool {
		return e.Path == n.path && e.Line == n.keyLine || e.Path == n.path && e.Line == n.line
	})
	below := map[Place]bool{} // another document of the file may have the same path
	var add func(n *node)
	add = func(n *node) {
		below[r.place(n)] = true
		for _, item := range n.items {
			add(item)
		}
	}
	add(n)
	for i := range r.report {
		if e := &r.report[i]; below[e.Place] && (e.Kind == Carried || e.Kind == Approximated) {
			e.Kind, e.Sentence = Dropped, sentence
		}
	}
}

func (d *dapr) targets(r *reader, n *node) {
	direct := func(kind string) action {
		return func(r *reader, n *node) {
			r.byName(n, func(r *reader, n *node) { r.object(n, d.names(r, n, kind+"/"+n.key)) })
		}
	}
	r.object(n, fields{
		"apps":   direct("app"),
		"actors": direct("actor"),
		"components": func(r *reader, n *node) {
			r.byName(n, func(r *reader, n *node) {
				component := n.key
				r.object(n, fields{
					"outbound": func(r *reader, n *node) { r.object(n, d.names(r, n, "component/"+component)) },
					"inbound":  drop("calls into the application, not to an upstream"),
				})
			})
		},
	})
}

// parts are the named parts by the ends of the names of defaults.
func (d *dapr) parts() map[string]map[string]daprPart {
	return map[string]map[string]daprPart{"TimeoutPolicy": d.timeouts, "RetryPolicy": d.retries, "CircuitBreakerPolicy": d.breakers}
}

// use adds a part to p and reports whether there is one of this name.
func use(parts map[string]daprPart, name string, p *Policy) bool {
	part, ok := parts[name]
	if ok {
		part.used = true
		parts[name] = part
		part.apply(p)
	}
	return ok
}

func daprPolicy(name string) Policy { return Policy{Name: name, Retry: Retry{MaxAttempts: 1}} }

// byDefault adds the policy for the targets of a kind that the file does not name.
func (d *dapr) byDefault(r *reader, n *node, kind string) {
	p := daprPolicy(kind + "/*")
	for suffix, parts := range d.parts() {
		for _, name := range daprDefaults(kind, suffix) {
			if use(parts, name, &p) {
				break
			}
		}
	}
	if kind != "component" && kind != "actor" { // requestWithRetry in Dapr's direct_messaging.go: not for apps that have a target
		r.byDefault(n, "retry: Dapr's own 3 retries after 1s, for calls into apps that found no connection, are left out")
	}
	d.all = append(d.all, p)
}

// names returns the fields of a target, which name its parts, and adds the target's policy. What a
// target does not name it does not have, whatever the defaults: EndpointPolicy in Dapr's
// resiliency.go takes them for other targets only.
func (d *dapr) names(r *reader, n *node, name string) fields {
	p := daprPolicy(name)
	part := func(parts map[string]daprPart) action {
		return func(r *reader, n *node) {
			if !use(parts, n.value(), &p) {
				r.badWord(n, "policy", n.value(), slices.Sorted(maps.Keys(parts)))
			}
			r.mark(n, Carried, "")
		}
	}
	f := fields{
		"timeout": part(d.timeouts), "retry": part(d.retries), "circuitBreaker": part(d.breakers),
		"circuitBreakerScope": drop("a breaker guards one upstream, not each actor"),
	}.ignoring("circuitBreakerCacheSize")
	for _, key := range []string{"timeout", "retry", "circuitBreaker"} {
		if item := n.given(key); item != nil {
			f[key](r, item)
			f[key] = ignore // it is read
		}
	}
	d.all = append(d.all, p)
	return f
}

// daprDefaults are the names of policies that apply to targets which name none, the strongest
// first.
func daprDefaults(kind, suffix string) []string {
	names := map[string][]string{"app": {"App", ""}, "actor": {"Actor", ""}, "component": {"ComponentOutbound", "Component", ""}, "all": {""}}[kind]
	for i := range names {
		names[i] = "Default" + names[i] + suffix
	}
	return names
}

// daprDuration accepts durations as Go writes them, and numbers of milliseconds.
func daprDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 250ms, or a number of milliseconds", func(s string) (time.Duration, bool) {
		if v, err := strconv.ParseInt(s, 10, 64); err == nil {
			return time.Duration(v) * time.Millisecond, v >= 0 && v <= math.MaxInt64/int64(time.Millisecond)
		}
		return goDuration(s)
	})(r, n)
}

func (d *dapr) timeout(r *reader, n *node) {
	var from Policy
	first := len(r.report)
	set(&from, "TryTimeout", &from.TryTimeout, daprDuration)(r, n)
	r.approximate(first, "Dapr's timeout cuts each attempt, not the call: it becomes the timeout of an attempt")
	d.timeouts[n.key] = daprPart{node: n, apply: func(p *Policy) {
		p.TryTimeout = from.TryTimeout
		p.setFrom(&from, "TryTimeout")
	}}
}

func (d *dapr) retry(r *reader, n *node) {
	var from Policy
	retry := &from.Retry
	kind, retries := "constant", -1
	wait, most := 5*time.Second, 60*time.Second
	var statuses []StatusRange
	var codes []string
	r.object(n, fields{
		"policy":      set(&from, "Retry.Backoff", &kind, oneOf("constant", "exponential")),
		"duration":    set(&from, "Retry.Backoff.Base", &wait, daprDuration),
		"maxInterval": set(&from, "Retry.Backoff.Max", &most, daprDuration),
		"maxRetries":  set(&from, "Retry.MaxAttempts", &retries, whole(-1, 1_000_000)),
		"matching": func(r *reader, n *node) {
			r.object(n, fields{
				"httpStatusCodes": daprAny(daprStatuses(&from, &statuses)),
				"gRPCStatusCodes": daprAny(daprCodes(&from, &codes)),
			})
		},
	})
	retry.MaxAttempts = retries + 1 // -1 is no limit
	retry.Backoff = Backoff{Kind: BackoffFixed, Base: wait}
	if kind == "exponential" {
		retry.Backoff = Backoff{Kind: BackoffExponential, Base: 500 * time.Millisecond, Max: most, Factor: 1.5, Jitter: JitterPercent, Percent: 50, JitterAboveMax: true}
		retry.StopAfter = 15 * time.Minute // DefaultConfig in Dapr's kit/retry
		r.byDefault(n, "the exponential backoff begins at 500ms and grows by 1.5, ±50 %, and ends after 15m")
	}
	retry.On = Conditions{Statuses: statuses, GRPC: codes, Connect: true, Refused: true, Reset: true, Timeout: true}
	if statuses == nil {
		retry.On.Statuses = []StatusRange{{400, 599}}
		r.byDefault(n, "every error is retried, also 4xx")
	}
	other, wait5 := "maxInterval", "duration: 5s"
	if kind == "exponential" {
		other, wait5 = "duration", "maxInterval: 60s"
	}
	if ignored := n.get(other); ignored != nil {
		r.change(ignored, Dropped, "is not for the policy "+kind)
	}
	r.byDefault(n, missing(n, "policy: constant", wait5, "maxRetries: -1, no limit"))
	d.retries[n.key] = daprPart{node: n, apply: func(p *Policy) {
		p.Retry = from.Retry
		p.setFrom(&from, "Retry")
	}}
}

// daprAny is do for a list that may be empty: then every error is retried, as without the list.
func daprAny(do action) action {
	return func(r *reader, n *node) {
		if n.shape == scalar && n.text == "" {
			r.mark(n, Carried, "")
			return
		}
		do(r, n)
	}
}

// daprStatuses reads statuses and ranges with commas.
func daprStatuses(p *Policy, dst *[]StatusRange) action {
	return conditions(p, "a list of statuses such as 429,500-599", func(r *reader, n *node, word string) bool {
		s, ok := statusRange(strings.TrimSpace(word))
		if !ok {
			r.fail(n, "expected statuses such as 429,500-599, got %q", clip(word))
			return false
		}
		*dst = append(*dst, s)
		return true
	})
}

// daprCodes reads numbers of gRPC statuses and ranges with commas.
func daprCodes(p *Policy, dst *[]string) action {
	return conditions(p, "a list of gRPC statuses such as 4,8-14", func(r *reader, n *node, word string) bool {
		first, last, isRange := strings.Cut(strings.TrimSpace(word), "-")
		if !isRange {
			last = first
		}
		low, err1 := strconv.Atoi(first)
		high, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || low < 0 || high < low || high >= len(grpcNames()) {
			r.fail(n, "expected gRPC statuses such as 4,8-14, got %q", clip(word))
			return false
		}
		*dst = append(*dst, grpcNames()[low:high+1]...)
		return true
	})
}

// tripForm is a limit in the expression language of Dapr's trip.
var tripForm = regexp.MustCompile(`^\s*(consecutiveFailures|totalFailures)\s*(>=|>)\s*(\d{1,9})\s*$`)

func (d *dapr) breaker(r *reader, n *node) {
	var from Policy
	b := Breaker{
		Scope: ScopeUpstream, ConsecutiveFailures: 6, OpenFor: 60 * time.Second, HalfOpenCalls: 1, FixedWindow: true,
		Counts: Conditions{Statuses: []StatusRange{{400, 599}}, Connect: true, Refused: true, Reset: true, Timeout: true},
	}
	r.object(n, fields{
		"maxRequests": func(r *reader, n *node) {
			set(&from, "Breakers.HalfOpenCalls", &b.HalfOpenCalls, whole(0, maxWhole))(r, n)
			if b.HalfOpenCalls == 0 { // as gobreaker takes it
				b.HalfOpenCalls = 1
				r.change(n, Approximated, "0 means 1")
			}
		},
		"interval": set(&from, "Breakers.Window", &b.Window, daprDuration),
		"timeout": func(r *reader, n *node) {
			set(&from, "Breakers.OpenFor", &b.OpenFor, daprDuration)(r, n)
			if b.OpenFor == 0 { // as gobreaker takes it
				b.OpenFor = 60 * time.Second
				r.change(n, Approximated, "0 means 60s")
			}
		},
		"trip": func(r *reader, n *node) {
			m := tripForm.FindStringSubmatch(n.value())
			b.ConsecutiveFailures = 0
			if m == nil {
				r.mark(n, Dropped, "only a limit on consecutiveFailures or totalFailures can be carried over: the breaker never opens")
				return
			}
			most, _ := strconv.Atoi(m[3]) // the form is checked
			if m[2] == ">" {
				most++
			}
			most = max(1, most) // it is asked after a failure
			if m[1] == "consecutiveFailures" {
				b.ConsecutiveFailures = most
			} else {
				b.Failures = most
			}
			from.setBy(r, "Breakers.trip", n)
			r.mark(n, Carried, "")
		},
	})
	r.byDefault(n, "every error counts as a failure, also 4xx")
	r.byDefault(n, missing(n, "maxRequests: 1", "interval: 0s, so counts are never cleared", "timeout: 60s", "trip: consecutiveFailures > 5"))
	from.Breakers = []Breaker{b}
	d.breakers[n.key] = daprPart{node: n, apply: func(p *Policy) {
		p.Breakers = from.Breakers
		p.setFrom(&from, "Breakers")
	}}
}
