package foreign

import (
	"cmp"
	"time"
)

// envoyGateway reads BackendTrafficPolicies. A route in the same file takes what the policy says
// that targets it.
type envoyGateway struct {
	gatewayAPI
	traffic []envoyTraffic
}

type envoyTraffic struct {
	policy  Policy
	targets []envoyTarget
	retry   bool // the policy has a retry of its own
	used    bool
}

// envoyTarget is what a policy is for: a route or a Gateway, by its key or by labels.
type envoyTarget struct {
	kind, namespace, name string
	section               string // a rule of a route, or a listener of a Gateway
	labels                map[string]string
}

func readEnvoyGateway(r *reader, roots []*node) []Policy {
	g := envoyGateway{gatewayAPI: gatewayAPI{duration: gatewayDuration}}
	r.kubernetes(roots, map[string]action{
		"gateway.envoyproxy.io/BackendTrafficPolicy": g.read,
		"gateway.networking.k8s.io/HTTPRoute":        g.route,
		"gateway.networking.k8s.io/GRPCRoute":        g.route,
	})
	var all []Policy
	for _, rule := range g.rules {
		t := g.closest(rule)
		if t == nil {
			t = &envoyTraffic{policy: envoyGatewayDefaults()}
			r.absent(rule.route, "no BackendTrafficPolicy in the file is for it: "+envoyGatewayTimeouts)
		}
		t.used = true
		p := rule.policy
		t.apply(&p)
		all = append(all, p)
	}
	for _, t := range g.traffic {
		if !t.used {
			all = append(all, t.policy)
		}
	}
	return all
}

// closest returns the policy for a rule, or nil. One for the rule wins over one for the route, for
// the listener, and for the Gateway; of two, the first in the file.
func (g *envoyGateway) closest(rule gatewayRule) *envoyTraffic {
	var best *envoyTraffic
	most := 0
	for i := range g.traffic {
		for _, target := range g.traffic[i].targets {
			if c := target.closeness(rule); c > most {
				best, most = &g.traffic[i], c
			}
		}
	}
	return best
}

// closeness returns how closely a target names a rule; 0 if it does not.
func (t envoyTarget) closeness(rule gatewayRule) int {
	route := rule.route
	if t.kind == "Gateway" {
		for _, parent := range route.at("spec", "parentRefs").all() {
			kind, section := cmp.Or(parent.get("kind").value(), "Gateway"), parent.get("sectionName").value()
			switch {
			case kind != "Gateway", objectKey(parent, namespaceOf(route)) != t.namespace+"/"+t.name:
			case t.section == "":
				return 1
			case section == "" || section == t.section:
				return 2
			}
		}
		return 0
	}
	if t.kind != route.get("kind").value() || t.namespace != namespaceOf(route) {
		return 0
	}
	for key, value := range t.labels {
		if route.at("metadata", "labels", key).value() != value {
			return 0
		}
	}
	switch {
	case t.labels == nil && t.name != route.at("metadata", "name").value():
		return 0
	case t.section == "":
		return 3
	case t.section == rule.node.get("name").value():
		return 4
	}
	return 0
}

// envoyGatewayTimeouts describes the timeouts of envoyGatewayDefaults.
const envoyGatewayTimeouts = "timeout: 15s for a request, 10s to connect"

func envoyGatewayDefaults() Policy {
	return Policy{
		Timeout: envoyRouteTimeout, ConnectTimeout: 10 * time.Second, Retry: Retry{MaxAttempts: 1},
		Concurrency: Concurrency{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 1024},
	}
}

// apply adds what the policy says to a rule of a route. The rule's own timeouts and retry win.
func (t *envoyTraffic) apply(p *Policy) {
	from := &t.policy
	if p.From["Timeout"] == nil { // a route's timeout of 0s is none
		p.Timeout = from.Timeout
		p.setFrom(from, "Timeout")
	}
	if p.Retry.MaxAttempts == 1 && t.retry {
		budget := p.Retry.Budget
		p.Retry = from.Retry
		p.Retry.Budget = budget
		p.setFrom(from, "Retry")
		if p.From["TryTimeout"] == nil {
			p.TryTimeout = from.TryTimeout
			p.setFrom(from, "TryTimeout")
		}
	}
	p.Retry.Budget = from.Retry.Budget
	p.setFrom(from, "Retry.Budget")
	p.ConnectTimeout, p.Breakers, p.Concurrency, p.RateLimit = from.ConnectTimeout, from.Breakers, from.Concurrency, from.RateLimit
	for _, field := range []string{"ConnectTimeout", "Breakers", "Concurrency", "RateLimit"} {
		p.setFrom(from, field)
	}
}

func (g *envoyGateway) read(r *reader, n *node) {
	t := envoyTraffic{policy: envoyGatewayDefaults()}
	p := &t.policy
	p.Name = r.objectName(n)
	namespace := namespaceOf(n)
	target := func(r *reader, n *node) {
		t.targets = append(t.targets, envoyTarget{
			kind: n.get("kind").value(), namespace: namespace, name: n.get("name").value(), section: n.get("sectionName").value(),
		})
		r.object(n, fields{}.ignoring("group", "kind", "name", "sectionName"))
	}
	panicBelow := 0.5
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"targetRef":  target,
			"targetRefs": func(r *reader, n *node) { r.list(n, target) },
			"targetSelectors": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) { t.selector(r, n, namespace) })
			},
			"mergeType":      drop("the settings of the Gateway's policy are not merged into this one"),
			"retry":          func(r *reader, n *node) { t.retry = true; envoyGatewayRetry(r, n, p) },
			"timeout":        func(r *reader, n *node) { envoyGatewayTimeout(r, n, p) },
			"circuitBreaker": func(r *reader, n *node) { envoyGatewayLimits(r, n, p) },
			"healthCheck": func(r *reader, n *node) {
				r.object(n, fields{
					"active":         drop(noActiveChecks),
					"passive":        func(r *reader, n *node) { envoyGatewayPassive(r, n, p) },
					"panicThreshold": set(p, "Breakers.PanicBelow", &panicBelow, share),
				})
			},
			"rateLimit":        func(r *reader, n *node) { envoyGatewayRate(r, n, p) },
			"faultInjection":   drop("faults are made on purpose: use the faults of flaky-server"),
			"admissionControl": drop("there is no limit by success rate before the upstream"),
		}.ignoring("loadBalancer", "proxyProtocol", "tcpKeepalive", "connection", "dns", "http2",
			"bandwidthLimit", "useClientProtocol", "compression", "compressor", "responseOverride",
			"httpUpgrade", "requestBuffer", "telemetry", "routingType"))
		r.byDefault(spec, missing(spec, envoyGatewayTimeouts, "retry: none", "circuitBreaker: 1024 of each"))
	}))
	for i := range p.Breakers {
		p.Breakers[i].PanicBelow = panicBelow
	}
	g.traffic = append(g.traffic, t)
}

// selector reads what chooses routes by their labels. Gateways are not in the file, or not read.
func (t *envoyTraffic) selector(r *reader, n *node, namespace string) {
	target := envoyTarget{kind: n.get("kind").value(), namespace: namespace, labels: map[string]string{}}
	if target.kind == "Gateway" || n.get("matchExpressions") != nil {
		r.mark(n, Dropped, "only routes are chosen by labels, and only by matchLabels: name them in targetRefs")
		return
	}
	for _, label := range n.get("matchLabels").all() {
		target.labels[label.key] = label.value()
	}
	t.targets = append(t.targets, target)
	r.object(n, fields{}.ignoring("group", "kind", "matchLabels"))
}

const noActiveChecks = "endpoints are judged by their calls only, not by health checks"

func envoyGatewayRetry(r *reader, n *node, p *Policy) {
	budget := p.Retry.Budget // of circuitBreaker, which may stand before
	p.Retry = envoyDefaultRetry()
	p.Retry.Budget, p.Retry.OtherEndpoint = budget, true
	p.Retry.On.Statuses = []StatusRange{{503, 503}}
	retries := 2
	backoff := &p.Retry.Backoff
	var most time.Duration
	r.object(n, fields{
		"numRetries":             set(p, "Retry.MaxAttempts", &retries, whole(0, 1000)),
		"numAttemptsPerPriority": drop("endpoints have no priorities here"),
		"retryOn":                func(r *reader, n *node) { envoyGatewayRetryOn(r, n, p) },
		"perRetry": func(r *reader, n *node) {
			r.object(n, fields{
				"timeout": set(p, "TryTimeout", &p.TryTimeout, gatewayDuration),
				"backOff": func(r *reader, n *node) {
					r.object(n, fields{
						"baseInterval": set(p, "Retry.Backoff.Base", &backoff.Base, positive(gatewayDuration)),
						"maxInterval":  set(p, "Retry.Backoff.Max", &most, positive(gatewayDuration)),
					})
					if n.given("baseInterval") != nil { // buildRetry in Envoy Gateway compares them only then
						r.longEnough(n.get("maxInterval"), most, backoff.Base)
					}
				},
			})
		},
	})
	p.Retry.MaxAttempts = retries + 1
	if backoff.Max = most; most == 0 {
		backoff.Max = 10 * backoff.Base
	}
	r.byDefault(n, missing(n, "numRetries: 2", "retryOn: connect-failure,refused-stream,unavailable,cancelled and 503",
		"perRetry: no timeout, backoff 25ms to 250ms with full jitter"))
}

func envoyGatewayRetryOn(r *reader, n *node, p *Policy) {
	var codes []StatusRange
	var words []*node
	r.object(n, fields{
		"triggers": func(r *reader, n *node) {
			r.list(n, func(_ *reader, n *node) { words = append(words, n) })
		},
		"httpStatusCodes": statusList(100, &codes),
	})
	p.Retry.On = Conditions{}
	p.setBy(r, "Retry.On", n)
	listed := false
	for _, w := range words {
		note, known := p.Retry.On.envoyWord(w.value(), codes)
		if !known {
			r.badWord(w, "condition", w.value(), envoyWords())
			continue
		}
		listed = listed || w.text == "retriable-status-codes"
		kind := Carried
		if note != "" {
			kind = Approximated
		}
		r.mark(w, kind, note)
	}
	if set := n.get("httpStatusCodes"); set != nil && !listed {
		r.unused(set, "has no effect without the trigger retriable-status-codes")
	}
}

func envoyGatewayTimeout(r *reader, n *node, p *Policy) {
	r.object(n, fields{
		"tcp": func(r *reader, n *node) {
			r.object(n, fields{"connectTimeout": set(p, "ConnectTimeout", &p.ConnectTimeout, gatewayDuration)})
		},
		"http": func(r *reader, n *node) {
			r.object(n, fields{
				"requestTimeout":    set(p, "Timeout", &p.Timeout, gatewayDuration),
				"maxStreamDuration": drop("limits streams, which are not simulated"),
			}.ignoring("connectionIdleTimeout", "maxConnectionDuration", "streamIdleTimeout"))
		},
	})
	if n.at("http", "requestTimeout") == nil {
		r.byDefault(n, "http.requestTimeout: 15s")
	}
}

func envoyGatewayLimits(r *reader, n *node, p *Policy) {
	c := &p.Concurrency
	r.object(n, fields{
		"maxConnections":      set(p, "Concurrency.MaxConnections", &c.MaxConnections, limit),
		"maxPendingRequests":  set(p, "Concurrency.MaxPending", &c.MaxPending, limit),
		"maxParallelRequests": set(p, "Concurrency.MaxRequests", &c.MaxRequests, limit),
		"maxParallelRetries":  set(p, "Concurrency.MaxRetries", &c.MaxRetries, limit),
		"perEndpoint":         drop("there is no limit of connections per endpoint"),
		"retryBudget": func(r *reader, n *node) {
			b := Budget{Kind: BudgetInFlight, Percent: 20, Min: 3}
			numerator, denominator := 20.0, 100.0
			r.object(n, fields{
				"percent": func(r *reader, n *node) {
					r.object(n, fields{
						"numerator":   set(p, "Retry.Budget.Percent", &numerator, number(0, maxWhole)),
						"denominator": set(p, "Retry.Budget.Percent", &denominator, number(1, maxWhole)),
					})
				},
				"minRetryConcurrency": set(p, "Retry.Budget.Min", &b.Min, whole(0, maxWhole)),
			})
			b.Percent = 100 * numerator / denominator
			p.Retry.Budget = b
			p.setBy(r, "Retry.Budget", n)
		},
	}.ignoring("maxRequestsPerConnection"))
	r.budgetWins(n.get("retryBudget"), n.get("maxParallelRetries"), c)
	r.byDefault(n, missing(n, "maxConnections: 1024", "maxPendingRequests: 1024", "maxParallelRequests: 1024", "maxParallelRetries: 1024"))
}

func envoyGatewayPassive(r *reader, n *node, p *Policy) {
	// The success rate is on: buildXdsOutlierDetection in Envoy Gateway leaves out
	// enforcing_success_rate, which is 100 in Envoy.
	o := envoyOutlier()
	o.interval = 3 * time.Second
	r.object(n, fields{
		"splitExternalLocalOriginErrors": set(p, "Breakers.Counts", &o.split, boolean),
		"interval":                       set(p, "Breakers.CheckEvery", &o.interval, gatewayDuration),
		"consecutiveLocalOriginFailures": set(p, "Breakers.ConsecutiveFailures", &o.local, whole(0, maxWhole)),
		"consecutiveGatewayErrors":       set(p, "Breakers.ConsecutiveFailures", &o.gateway, whole(0, maxWhole)),
		"consecutive5XxErrors":           set(p, "Breakers.ConsecutiveFailures", &o.consecutive5xx, whole(0, maxWhole)),
		"baseEjectionTime":               set(p, "Breakers.OpenFor", &o.base, gatewayDuration),
		"maxEjectionPercent":             set(p, "Breakers.MaxEjected", &o.maxEjected, share),
		"failurePercentageThreshold":     set(p, "Breakers.FailureRatio", &o.failurePercent, whole(0, 100)),
		"alwaysEjectOneEndpoint":         set(p, "Breakers.AtLeastOne", &o.alwaysOne, boolean),
	})
	if n.get("consecutiveGatewayErrors") != nil {
		o.enforceGateway = 100
	}
	o.percentAboveZero(r, n)
	p.Breakers = o.breakers()
	r.byDefault(n, missing(n, "consecutive5XxErrors: 5", "interval: 3s", "baseEjectionTime: 30s", "maxEjectionPercent: 10"))
	r.byDefault(n, "endpoints 1.9 deviations below the mean success rate are ejected too: Envoy's default, which Envoy Gateway leaves on")
}

// envoyGatewayRate reads a local rate limit. Rules for some clients only cannot be carried over.
func envoyGatewayRate(r *reader, n *node, p *Policy) {
	r.object(n, fields{
		"type":   ignore,
		"global": drop("a rate limit that all gateways share needs their rate limit service"),
		"local": func(r *reader, n *node) {
			r.object(n, fields{"rules": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) {
					if selectors := n.get("clientSelectors"); selectors != nil && len(selectors.items) > 0 {
						r.mark(n, Dropped, "a rate limit for some clients only")
						return
					}
					if p.RateLimit.Calls > 0 {
						r.fail(n, "expected clientSelectors: Envoy Gateway refuses a second rule without them")
					}
					r.object(n, fields{"limit": func(r *reader, n *node) {
						var calls float64
						unit := "Second"
						r.object(n, fields{
							"requests": set(p, "RateLimit", &calls, number(1, maxWhole)),
							"unit":     set(p, "RateLimit", &unit, oneOf("Second", "Minute", "Hour", "Day")),
						})
						per := map[string]time.Duration{"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour, "Day": 24 * time.Hour}[unit]
						p.RateLimit = RateLimit{Calls: calls, Per: per, Burst: calls, PerCall: true}
					}}.ignoring("clientSelectors")) // none
				})
			}})
		},
	})
}
