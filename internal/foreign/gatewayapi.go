package foreign

import (
	"cmp"
	"strconv"
	"time"
)

// gatewayAPI collects the routes of a file, one policy for each rule, and the retry budgets for the
// Services behind them.
type gatewayAPI struct {
	rules    []gatewayRule
	budgets  []gatewayBudget
	duration parser[time.Duration]
	retried  bool // an annotation of the route says how
}

type gatewayRule struct {
	policy   Policy
	route    *node    // the object
	node     *node    // the rule
	backends []string // the keys of Services
}

type gatewayBudget struct {
	policy  Policy
	name    string
	targets []string // the keys of Services
	used    bool
}

func readGatewayAPI(r *reader, roots []*node) []Policy {
	g := gatewayAPI{duration: gatewayDuration}
	r.kubernetes(roots, map[string]action{
		"gateway.networking.k8s.io/HTTPRoute":               g.route,
		"gateway.networking.k8s.io/GRPCRoute":               g.route,
		"gateway.networking.x-k8s.io/XBackendTrafficPolicy": g.budget,
	})
	return g.policies()
}

func (g *gatewayAPI) policies() []Policy {
	var all []Policy
	for _, rule := range g.rules {
		p := rule.policy
		for i := range g.budgets {
			b := &g.budgets[i]
			if overlap(b.targets, rule.backends) {
				p.Retry.Budget, b.used = b.policy.Retry.Budget, true
				p.setFrom(&b.policy, "Retry.Budget")
			}
		}
		all = append(all, p)
	}
	for _, b := range g.budgets {
		if !b.used {
			b.policy.Name = b.name
			b.policy.Retry.MaxAttempts = 1
			all = append(all, b.policy)
		}
	}
	return all
}

func overlap(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return true
			}
		}
	}
	return false
}

// route reads an HTTPRoute or a GRPCRoute.
func (g *gatewayAPI) route(r *reader, n *node) {
	isGRPC := n.get("kind").value() == "GRPCRoute"
	object := n
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"rules": func(r *reader, n *node) {
				k := 0
				r.list(n, func(r *reader, n *node) {
					g.rule(r, n, object, k)
					g.rules[len(g.rules)-1].policy.GRPC = isGRPC
					k++
				})
			},
		}.ignoring("parentRefs", "hostnames", "useDefaultGateways"))
	}))
}

func (g *gatewayAPI) rule(r *reader, n, object *node, k int) {
	own := cmp.Or(n.get("name").value(), strconv.Itoa(k))
	rule := gatewayRule{policy: Policy{Name: r.objectName(object) + "/" + own}, route: object, node: n}
	p := &rule.policy
	p.Retry.MaxAttempts = 1
	r.object(n, fields{
		"timeouts": func(r *reader, n *node) {
			r.object(n, fields{
				"request":        set(p, "Timeout", &p.Timeout, g.duration),
				"backendRequest": set(p, "TryTimeout", &p.TryTimeout, g.duration),
			})
			if p.Timeout > 0 && p.TryTimeout > p.Timeout {
				r.fail(n.get("backendRequest"), "must be at most request, %v, got %v", p.Timeout, p.TryTimeout)
			}
		},
		"retry": func(r *reader, n *node) { g.retry(r, n, p) },
		"backendRefs": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				rule.backends = append(rule.backends, objectKey(n, namespaceOf(object)))
				r.object(n, fields{}.ignoring("name", "namespace", "kind", "group", "port", "weight", "filters"))
			})
		},
	}.ignoring("name", "matches", "filters", "sessionPersistence"))
	if n.get("retry") == nil && !g.retried {
		r.byDefault(n, "retry: none")
	}
	g.rules = append(g.rules, rule)
}

func (g *gatewayAPI) retry(r *reader, n *node, p *Policy) {
	retries := 1
	var codes []StatusRange
	p.Retry.Backoff = Backoff{Kind: BackoffEnvoy, Base: 25 * time.Millisecond, Jitter: JitterFull}
	r.object(n, fields{
		"attempts": set(p, "Retry.MaxAttempts", &retries, whole(0, 1000)),
		"codes": func(r *reader, n *node) {
			statusList(400, &codes)(r, n)
			p.setBy(r, "Retry.On", n)
		},
		"backoff": approx(set(p, "Retry.Backoff", &p.Retry.Backoff.Base, g.duration),
			"the specification leaves growth and jitter open; taken as Envoy does it: full jitter up to 10 times this"),
	})
	p.Retry.MaxAttempts = retries + 1
	p.Retry.Backoff.Max = 10 * p.Retry.Backoff.Base
	p.Retry.On = Conditions{Statuses: codes, Connect: true, Refused: true, Reset: true, Timeout: true}
	if retries == 0 {
		return // the rest has no effect
	}
	r.byDefault(n, missing(n, "attempts: 1", "codes: none", "backoff: 25ms to 250ms with full jitter, as in Envoy"))
	r.byDefault(n, "connections that fail or break off, and attempts over backendRequest, are retried too, as the specification"+
		" says; Istio and Envoy Gateway do not retry the latter")
}

// budget reads an XBackendTrafficPolicy.
func (g *gatewayAPI) budget(r *reader, n *node) {
	b := gatewayBudget{name: r.objectName(n)}
	namespace := namespaceOf(n)
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"targetRefs": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) {
					b.targets = append(b.targets, namespace+"/"+n.get("name").value())
					r.object(n, fields{}.ignoring("group", "kind", "name"))
				})
			},
			"retryConstraint": func(r *reader, n *node) { gatewayConstraint(r, n, &b.policy) },
		}.ignoring("sessionPersistence"))
	}))
	if b.policy.Retry.Budget.Kind != BudgetNone {
		g.budgets = append(g.budgets, b)
	}
}

func gatewayConstraint(r *reader, n *node, p *Policy) {
	b := &p.Retry.Budget
	*b = Budget{Kind: BudgetWindow, Percent: 20, Window: 10 * time.Second}
	p.setBy(r, "Retry.Budget", n)
	count, interval := 10, time.Second
	r.object(n, fields{
		"budget": func(r *reader, n *node) {
			r.object(n, fields{
				"percent":  set(p, "Retry.Budget.Percent", &b.Percent, number(0, 100)),
				"interval": set(p, "Retry.Budget.Window", &b.Window, gatewayDuration),
			})
		},
		"minRetryRate": func(r *reader, n *node) {
			r.object(n, fields{
				"count":    set(p, "Retry.Budget.MinPerSecond", &count, whole(1, 1_000_000)),
				"interval": set(p, "Retry.Budget.MinPerSecond", &interval, gatewayDuration),
			})
		},
	})
	if interval <= 0 {
		interval = time.Second
	}
	b.MinPerSecond = float64(count) / interval.Seconds()
	r.byDefault(n, missing(n, "budget: 20 % of 10s", "minRetryRate: 10 a second"))
}
