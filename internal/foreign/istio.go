package foreign

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// istio collects the objects of a file. A route of a VirtualService is one policy for each of its
// destinations; the DestinationRule of the destination adds what it says.
type istio struct {
	routes []istioRoute
	roots  []istioRoute // that leave the rest to another VirtualService
	rules  []istioRule
	mesh   *istioMesh // nil if the file does not have it
}

// istioMesh is what the mesh's configuration says about routes without retries.
type istioMesh struct {
	node   *node
	policy Policy
	used   bool
}

type istioRoute struct {
	node         *node
	service      string // the key of the VirtualService
	delegate     string // the key of another one, or ""
	retries      *node  // its own, or those of a route that delegates to it
	policy       Policy
	destinations []istioDestination
	names        []string // of the destinations, as the file gives them
}

// istioDestination is a host with its namespace, so that all spellings of one host are equal.
type istioDestination struct{ host, subset, port string }

// istioDomain ends the full name of a host in the mesh.
const istioDomain = ".svc.cluster.local"

// istioHost returns the full name of a host that an object names. A short name is in the namespace
// of the object.
func istioHost(object *node, host string) string {
	switch service, ok := strings.CutSuffix(host, ".svc"); {
	case host == "" || strings.HasPrefix(host, "*"):
		return host
	case ok:
		return service + istioDomain
	case !strings.Contains(host, "."):
		return host + "." + namespaceOf(object) + istioDomain
	case strings.Count(host, ".") == 1:
		return host + istioDomain
	}
	return host
}

// istioRule is what a DestinationRule says about a host or one of its subsets.
type istioRule struct {
	istioDestination
	name   string // of the policy, if no route uses the rule
	policy Policy
	istioTraffic
	own  istioTraffic // without what a subset inherits
	used bool
}

// istioTraffic has the parts of a traffic policy. A subset replaces whole parts of its host.
type istioTraffic struct{ pool, outlier, budget bool }

func readIstio(r *reader, roots []*node) []Policy {
	var i istio
	r.kubernetes(roots, map[string]action{
		"networking.istio.io/VirtualService":  i.virtualService,
		"networking.istio.io/DestinationRule": i.destinationRule,
		"install.istio.io/IstioOperator":      i.meshAt("spec", "meshConfig", "defaultHttpRetryPolicy"),
		"sailoperator.io/Istio":               i.meshAt("spec", "values", "meshConfig", "defaultHttpRetryPolicy"),
		"/ConfigMap": func(r *reader, n *node) {
			if mesh := n.at("data", "mesh"); strings.Contains(mesh.value(), "defaultHttpRetryPolicy") {
				r.mark(mesh, Dropped, "the mesh's configuration in a ConfigMap is a text, which is not read: routes without retries have Istio's own default")
			}
			ignore(r, n)
		},
	})
	i.delegate(r)
	i.meshRetries(r)
	all := i.policies(r)
	if i.mesh != nil && !i.mesh.used {
		r.unused(i.mesh.node, "every route has retries of its own")
	}
	return all
}

// meshAt reads the retries for the whole mesh at a path of an object, which says nothing else.
func (i *istio) meshAt(path ...string) action {
	return func(r *reader, n *node) {
		if set := n.at(path...); set != nil && !set.null {
			i.mesh = &istioMesh{node: set, policy: Policy{Retry: envoyDefaultRetry()}}
			istioRetries(r, set, &i.mesh.policy)
			i.mesh.policy.TryTimeout = 0
			i.mesh.policy.From = without(i.mesh.policy.From, "TryTimeout")
			if try := set.get("perTryTimeout"); try != nil {
				r.change(try, Dropped, "Istio's manual excepts perTryTimeout from what can be set for the mesh")
			}
		}
		ignore(r, n)
	}
}

// take gives the mesh's retries to p.
func (m *istioMesh) take(p *Policy) {
	m.used = true
	p.Retry, p.TryTimeout = m.policy.Retry, m.policy.TryTimeout
	p.setFrom(&m.policy, "Retry")
	p.setFrom(&m.policy, "TryTimeout")
}

// meshRetries gives the mesh's retries to the routes that have none.
func (i *istio) meshRetries(r *reader) {
	for k := range i.routes {
		if route := &i.routes[k]; i.mesh != nil && route.retries == nil && len(route.destinations) > 0 {
			i.mesh.take(&route.policy)
			r.noDefault(route.node, istioDefaultRetries)
		}
	}
}

// The defaults of a route.
const (
	istioNoTimeout      = "timeout: none"
	istioDefaultRetries = "retries: 2 on connect-failure,refused-stream,unavailable,cancelled, backoff 25ms to 250ms with full jitter"
)

// delegate gives the timeout and the retries of a route to the routes of the VirtualService that it
// delegates to, if those have none of their own.
func (i *istio) delegate(r *reader) {
	roots := map[string][]istioRoute{}
	for _, root := range i.roots {
		roots[root.delegate] = append(roots[root.delegate], root)
	}
	taken := map[*node]bool{}
	found := map[string]bool{}
	var all []istioRoute
	for _, route := range i.routes {
		of := roots[route.service]
		if len(route.destinations) == 0 || len(of) == 0 {
			all = append(all, route)
			continue
		}
		found[route.service] = true
		timeouts, retried := 0, 0
		for _, root := range of {
			merged := route
			if len(of) > 1 {
				merged.policy.Name = root.policy.Name + "/" + route.policy.Name
			}
			if timeout := root.node.given("timeout"); timeout != nil && route.node.given("timeout") == nil {
				taken[timeout] = true
				timeouts++
				merged.policy.Timeout = root.policy.Timeout
				merged.policy.setFrom(&root.policy, "Timeout")
			}
			if retries := root.node.given("retries"); retries != nil && route.retries == nil {
				taken[retries] = true
				retried++
				merged.retries = retries
				merged.policy.Retry, merged.policy.TryTimeout = root.policy.Retry, root.policy.TryTimeout
				merged.policy.setFrom(&root.policy, "Retry")
				merged.policy.setFrom(&root.policy, "TryTimeout")
			}
			all = append(all, merged)
		}
		if timeouts == len(of) {
			r.noDefault(route.node, istioNoTimeout)
		}
		if retried == len(of) {
			r.noDefault(route.node, istioDefaultRetries)
		}
	}
	i.routes = all
	for _, root := range i.roots {
		sentence := "the VirtualService that it delegates to is not in the file"
		if found[root.delegate] {
			sentence = "the routes that it delegates to have their own"
		}
		for _, key := range []string{"timeout", "retries"} {
			if set := root.node.given(key); set != nil && !taken[set] {
				r.unused(set, sentence)
			}
		}
	}
}

// noDefault takes back a default that byDefault has noted.
func (r *reader) noDefault(n *node, sentence string) {
	r.defaults = slices.DeleteFunc(r.defaults, func(e Entry) bool { return e.Place == r.place(n) && e.Sentence == sentence })
}

func (i *istio) policies(r *reader) []Policy {
	var all []Policy
	for _, route := range i.routes {
		several := len(route.destinations) > 1
		for k, d := range route.destinations {
			p := route.policy
			if several {
				p.Name += "/" + route.names[k]
			}
			if rule := i.rule(d); rule != nil {
				rule.apply(&p)
			} else if d.host != "" {
				host := strings.TrimSuffix(d.host, istioDomain)
				r.absent(route.node, "no DestinationRule in the file is for "+clip(host)+", so there is no breaker and no limit")
			}
			all = append(all, p)
		}
	}
	for _, rule := range i.rules {
		if rule.used || rule.own == (istioTraffic{}) {
			continue
		}
		p := Policy{Name: rule.name, Retry: envoyDefaultRetry(), ConnectTimeout: istioConnectTimeout}
		if i.mesh != nil {
			i.mesh.take(&p)
		}
		rule.apply(&p)
		all = append(all, p)
	}
	return all
}

// rule returns the rule for a destination: that of its port, of its subset, or of its host.
func (i *istio) rule(d istioDestination) *istioRule {
	d.host = i.ruledHost(d.host)
	host := istioDestination{host: d.host}
	for _, want := range []istioDestination{d, {d.host, d.subset, ""}, {d.host, "", d.port}, host} {
		if n := slices.IndexFunc(i.rules, func(rule istioRule) bool { return rule.istioDestination == want }); n >= 0 {
			for k := range i.rules { // a host's own rule is used where its subsets are
				i.rules[k].used = i.rules[k].used || i.rules[k].istioDestination == want || i.rules[k].istioDestination == host
			}
			return &i.rules[n]
		}
	}
	return nil
}

// ruledHost returns the host of the rules for a host: itself, or the longest wildcard that fits.
func (i *istio) ruledHost(host string) string {
	best := ""
	for _, rule := range i.rules {
		wild, ok := strings.CutPrefix(rule.host, "*")
		if rule.host == host {
			return host
		}
		if ok && strings.HasSuffix(host, wild) && len(rule.host) > len(best) {
			best = rule.host
		}
	}
	return cmp.Or(best, host)
}

// istioConnectTimeout is connectTimeout in Istio's mesh configuration.
const istioConnectTimeout = 10 * time.Second

func (i *istio) virtualService(r *reader, n *node) {
	object := n
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"http": func(r *reader, n *node) {
				k := 0
				r.list(n, func(r *reader, n *node) {
					i.route(r, n, object, k)
					k++
				})
			},
		}.ignoring("hosts", "gateways", "tls", "tcp", "exportTo"))
	}))
}

func (i *istio) route(r *reader, n, object *node, k int) {
	name := r.objectName(object)
	route := istioRoute{node: n, retries: n.given("retries"), service: objectKey(object.get("metadata"), "default"), policy: Policy{
		Name: name + "/" + strconv.Itoa(k), Retry: envoyDefaultRetry(), ConnectTimeout: istioConnectTimeout,
	}}
	if own := n.get("name").value(); own != "" {
		route.policy.Name = name + "/" + own
	}
	p := &route.policy
	r.object(n, fields{
		"timeout": set(p, "Timeout", &p.Timeout, duration),
		"retries": func(r *reader, n *node) { istioRetries(r, n, p) },
		"fault":   drop("the fault is made on purpose: use the faults of flaky-server"),
		"route": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				to := n.get("destination")
				d := istioDestination{to.get("host").value(), to.get("subset").value(), to.at("port", "number").value()}
				route.names = append(route.names, strings.Join(slices.DeleteFunc([]string{d.host, d.subset, d.port}, func(s string) bool { return s == "" }), "/"))
				d.host = istioHost(object, d.host)
				route.destinations = append(route.destinations, d)
				r.object(n, fields{}.ignoring("destination", "weight", "headers"))
			})
		},
	}.ignoring("name", "match", "redirect", "directResponse", "delegate", "rewrite", "mirror", "mirrors",
		"mirrorPercentage", "mirrorPercent", "corsPolicy", "headers", "websocketUpgrade"))
	if n.given("timeout") == nil && len(route.destinations) > 0 {
		r.byDefault(n, istioNoTimeout)
	}
	if route.retries == nil && len(route.destinations) > 0 {
		r.byDefault(n, istioDefaultRetries)
	}
	if to := n.get("delegate"); to != nil {
		route.delegate = objectKey(to, namespaceOf(object))
		i.roots = append(i.roots, route)
	}
	i.routes = append(i.routes, route)
}

func istioRetries(r *reader, n *node, p *Policy) {
	attempts := 0
	var none []StatusRange
	r.object(n, fields{
		"attempts":                 set(p, "Retry.MaxAttempts", &attempts, whole(0, 1000)),
		"perTryTimeout":            set(p, "TryTimeout", &p.TryTimeout, duration),
		"retryOn":                  envoyRetryOn(p, &none, true),
		"retryRemoteLocalities":    drop("endpoints have no localities here"),
		"retryIgnorePreviousHosts": set(p, "Retry.OtherEndpoint", &p.Retry.OtherEndpoint, boolean),
		"backoff":                  set(p, "Retry.Backoff", &p.Retry.Backoff.Base, duration),
	})
	p.Retry.MaxAttempts = attempts + 1
	p.Retry.Backoff.Max = 10 * p.Retry.Backoff.Base
	if n.given("attempts") == nil {
		r.byDefault(n, "attempts: 0, so nothing is retried")
	}
	if attempts == 0 {
		istioNoRetries(r, n, p)
		return
	}
	if n.given("retryOn") == nil {
		r.byDefault(n, "retryOn: connect-failure,refused-stream,unavailable,cancelled")
	}
	if n.given("perTryTimeout") == nil {
		r.byDefault(n, "perTryTimeout: none, so an attempt may last as long as the route's timeout")
	}
	if n.given("backoff") == nil {
		r.byDefault(n, "backoff: 25ms to 250ms with full jitter")
	}
}

// istioNoRetries takes back what retries without attempts say: Istio then gives Envoy no retry
// policy, and so no timeout for a try either.
func istioNoRetries(r *reader, n *node, p *Policy) {
	attempts := p.From["Retry.MaxAttempts"]
	p.Retry, p.TryTimeout = Retry{MaxAttempts: 1}, 0
	p.From = without(p.From, "Retry", "TryTimeout")
	if attempts != nil {
		p.From["Retry.MaxAttempts"] = attempts
	}
	for _, key := range []string{"perTryTimeout", "retryOn", "backoff", "retryIgnorePreviousHosts"} {
		if set := n.get(key); set != nil {
			r.change(set, Dropped, "without attempts, Istio makes no retry policy, so this has no effect")
		}
	}
}

func (i *istio) destinationRule(r *reader, n *node) {
	host := istioHost(n, n.at("spec", "host").value())
	own := istioRule{istioDestination: istioDestination{host: host}, name: r.objectName(n)}
	var more []istioRule
	r.object(n, kubernetesObject(func(r *reader, spec *node) {
		r.object(spec, fields{
			"trafficPolicy": func(r *reader, n *node) { own.read(r, n, &more) },
			"subsets": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) {
					subset := n.get("name").value()
					rule := istioRule{istioDestination: istioDestination{host: host, subset: subset}, name: own.name + "/" + subset}
					r.object(n, fields{
						"trafficPolicy": func(r *reader, n *node) { rule.read(r, n, &more) },
					}.ignoring("name", "labels"))
					more = append(more, rule)
				})
			},
		}.ignoring("host", "exportTo", "workloadSelector"))
	}))
	own.own = own.istioTraffic
	i.rules = append(i.rules, own)
	for _, rule := range more {
		rule.own = rule.istioTraffic
		if rule.port == "" { // the settings of a port inherit nothing
			rule.inherit(&own)
		}
		i.rules = append(i.rules, rule)
	}
}

// read reads a traffic policy. Settings for a port become a rule of their own in more.
func (rule *istioRule) read(r *reader, n *node, more *[]istioRule) {
	f := rule.fields()
	f["portLevelSettings"] = func(r *reader, n *node) {
		r.list(n, func(r *reader, n *node) {
			port := n.at("port", "number").value()
			of := istioRule{istioDestination: istioDestination{rule.host, rule.subset, port}, name: rule.name + "/" + port}
			r.object(n, of.fields().ignoring("port"))
			*more = append(*more, of)
		})
	}
	r.object(n, f)
}

func (rule *istioRule) fields() fields {
	p := &rule.policy
	return fields{
		"connectionPool":   func(r *reader, n *node) { rule.pool = true; istioPool(r, n, p) },
		"outlierDetection": func(r *reader, n *node) { rule.outlier = true; istioOutlier(r, n, p) },
		"retryBudget":      func(r *reader, n *node) { rule.budget = true; envoyBudget(r, n, p, istioBudgetNames()) },
		"loadBalancer": func(r *reader, n *node) {
			r.object(n, fields{
				"localityLbSetting":  drop("endpoints have no localities here"),
				"zoneAwareLbSetting": drop("endpoints have no zones here"),
			}.ignoring("simple", "consistentHash", "backendUtilization", "warmupDurationSecs", "warmup"))
		},
	}.ignoring("tls", "tunnel", "proxyProtocol")
}

// inherit takes the parts that rule does not have from its host.
func (rule *istioRule) inherit(host *istioRule) {
	own := *rule
	rule.policy, rule.istioTraffic = Policy{}, istioTraffic{}
	host.apply(&rule.policy)
	own.apply(&rule.policy)
	rule.istioTraffic = istioTraffic{own.pool || host.pool, own.outlier || host.outlier, own.budget || host.budget}
}

// apply adds what the rule says to p.
func (rule *istioRule) apply(p *Policy) {
	from := &rule.policy
	if rule.pool {
		p.Concurrency = from.Concurrency
		p.setFrom(from, "Concurrency")
		if from.ConnectTimeout > 0 {
			p.ConnectTimeout = from.ConnectTimeout
			p.setFrom(from, "ConnectTimeout")
		}
	}
	if rule.outlier {
		p.Breakers = from.Breakers
		p.setFrom(from, "Breakers")
	}
	if rule.budget {
		p.Retry.Budget = from.Retry.Budget
		p.Concurrency.MaxRetries = 0 // the budget replaces it
		p.setFrom(from, "Retry.Budget")
	}
}

func istioPool(r *reader, n *node, p *Policy) {
	c := &p.Concurrency
	c.MaxPending = -1
	r.object(n, fields{
		"tcp": func(r *reader, n *node) {
			r.object(n, fields{
				"maxConnections": set(p, "Concurrency.MaxConnections", &c.MaxConnections, limit),
				"connectTimeout": set(p, "ConnectTimeout", &p.ConnectTimeout, duration),
			}.ignoring("tcpKeepalive", "maxConnectionDuration", "idleTimeout"))
		},
		"http": func(r *reader, n *node) {
			pending := 0
			r.object(n, fields{
				"http1MaxPendingRequests": set(p, "Concurrency.MaxPending", &pending, limit),
				"http2MaxRequests":        set(p, "Concurrency.MaxRequests", &c.MaxRequests, limit),
				"maxRetries":              set(p, "Concurrency.MaxRetries", &c.MaxRetries, limit),
			}.ignoring("maxRequestsPerConnection", "idleTimeout", "h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams", "http2KeepAlive"))
			if pending > 0 {
				c.MaxPending = pending
			}
		},
	})
}

func istioOutlier(r *reader, n *node, p *Policy) {
	o := envoyOutlier()
	o.successRate, o.panicBelow = false, 0 // as Istio sets them
	gateway, local := 0, 0
	r.object(n, fields{
		"consecutiveErrors":              approx(set(p, "Breakers.ConsecutiveFailures", &gateway, whole(0, maxWhole)), "the old name of consecutiveGatewayErrors"),
		"consecutiveGatewayErrors":       set(p, "Breakers.ConsecutiveFailures", &gateway, whole(0, maxWhole)),
		"consecutive5xxErrors":           set(p, "Breakers.ConsecutiveFailures", &o.consecutive5xx, whole(0, maxWhole)),
		"splitExternalLocalOriginErrors": set(p, "Breakers.Counts", &o.split, boolean),
		"consecutiveLocalOriginFailures": set(p, "Breakers.ConsecutiveFailures", &local, whole(0, maxWhole)),
		"interval":                       set(p, "Breakers.CheckEvery", &o.interval, duration),
		"baseEjectionTime":               set(p, "Breakers.OpenFor", &o.base, duration),
		"maxEjectionPercent":             set(p, "Breakers.MaxEjected", &o.maxEjected, share),
		"minHealthPercent":               set(p, "Breakers.PanicBelow", &o.panicBelow, share),
		"outlierDetectionHttpErrorCodes": statusList(100, &o.codes),
		"failurePercentageThreshold":     set(p, "Breakers.FailureRatio", &o.failurePercent, whole(0, 100)),
	})
	if gateway > 0 {
		o.gateway, o.enforceGateway = gateway, 100
	}
	if alone := n.get("consecutiveLocalOriginFailures"); alone != nil {
		switch {
		case !o.split:
			r.change(alone, Dropped, "counts only with splitExternalLocalOriginErrors: true")
		case local == 0:
			r.change(alone, Approximated, "0 means the default of 5")
		default:
			o.local = local
		}
	}
	o.percentAboveZero(r, n)
	p.Breakers = o.breakers()
	r.byDefault(n, missing(n, "consecutive5xxErrors: 5", "interval: 10s", "baseEjectionTime: 30s", "maxEjectionPercent: 10"))
}

func istioBudgetNames() budgetNames {
	return budgetNames{"percent", "minRetryConcurrency", "budgetInterval", duration}
}
