package foreign

import (
	"cmp"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parseTraefik reads dynamic configuration: YAML, TOML, or Kubernetes objects.
func parseTraefik(name string, data []byte) ([]*node, error) {
	if tomlForm.Match(data) {
		return parseTOML(name, data)
	}
	return parseYAML(name, data)
}

var tomlForm = regexp.MustCompile(`(?m)^\s*\[\[?[A-Za-z0-9_.'" -]+\]\]?\s*(#.*)?$`)

// traefik collects middlewares, services and transports. A router is one policy of what it uses;
// what no router uses is a policy of its own.
type traefik struct {
	middlewares map[string]*traefikPart // objects of Kubernetes by NAMESPACE/NAME, others by name
	services    map[string]*traefikPart
	transports  map[string]*traefikPart
	routers     []traefikRouter
	order       []*traefikPart
	// namespace and key are of the object of Kubernetes that is read.
	namespace, key string
}

type traefikRouter struct {
	node          *node
	name, service string
	transport     traefikName // if the router names it itself
	upstream      traefikPart // what an IngressRoute says about its service
	middlewares   []traefikName
	// What only the services name that get fewer requests.
	dropped, droppedTransports []traefikName
}

// traefikName is the name of a part, with the namespace of the object that refers to it.
type traefikName struct{ namespace, name string }

// traefikPart is a middleware, a service or a transport.
type traefikPart struct {
	name      string
	node      *node // of a service
	says      bool  // something about failures
	used      bool
	apply     []func(p *Policy)
	chain     []traefikName // middlewares of a chain or a service
	transport string        // of a service
	main      string        // the first service of a failover
}

// readTraefik reads all documents.
func readTraefik(r *reader, roots []*node) []Policy {
	r.fold = strings.ToLower // Traefik takes the keys of its files in any case, and its manual does so too
	x := traefik{middlewares: map[string]*traefikPart{}, services: map[string]*traefikPart{}, transports: map[string]*traefikPart{}}
	old := func(r *reader, n *node) {
		r.failAt(n.keyLine, n.keyColumn, n.path, "is of Traefik 1: expected http, with routers and services")
	}
	below := func(r *reader, n *node) {
		r.failAt(n.keyLine, n.keyColumn, n.path, "belongs below http")
	}
	for _, root := range roots {
		if root.get("apiVersion") != nil && root.get("kind") != nil {
			fold := r.fold
			r.fold = nil
			x.objects(r, root)
			r.fold = fold
			continue
		}
		r.object(root, fields{
			"http": func(r *reader, n *node) {
				r.object(n, fields{
					"routers":           func(r *reader, n *node) { r.byName(n, x.router) },
					"services":          func(r *reader, n *node) { r.byName(n, x.service) },
					"middlewares":       func(r *reader, n *node) { r.byName(n, x.middleware) },
					"serversTransports": func(r *reader, n *node) { r.byName(n, x.serversTransport) },
				}.ignoring("models"))
			},
			"frontends": old, "backends": old,
			"routers": below, "services": below, "middlewares": below, "serversTransports": below,
		}.ignoring("tcp", "udp", "tls"))
	}
	known := func(n *node, names []traefikName) {
		for _, name := range names {
			if name.in(x.middlewares) == nil {
				r.absent(n, "the middleware "+clip(name.name)+" is not in the file")
			}
		}
	}
	for _, router := range x.routers {
		known(router.node, router.middlewares)
	}
	for _, part := range x.order {
		if part.node != nil {
			known(part.node, part.chain)
		}
	}
	return x.policies()
}

// objects reads Traefik's objects in Kubernetes.
func (x *traefik) objects(r *reader, root *node) {
	spec := func(do func(r *reader, n *node)) action {
		return func(r *reader, n *node) {
			name := r.objectName(n)
			x.namespace, x.key = namespaceOf(n), objectKey(n.get("metadata"), "default")
			r.object(n, kubernetesObject(func(r *reader, n *node) {
				named := *n
				named.key = name
				do(r, &named)
			}))
			x.namespace, x.key = "", ""
		}
	}
	r.kubernetes([]*node{root}, map[string]action{
		"traefik.io/IngressRoute":              spec(x.ingress),
		"traefik.containo.us/IngressRoute":     spec(x.ingress),
		"traefik.io/Middleware":                spec(x.middleware),
		"traefik.io/ServersTransport":          spec(x.serversTransport),
		"traefik.containo.us/Middleware":       spec(x.middleware),
		"traefik.containo.us/ServersTransport": spec(x.serversTransport),
	})
}

func traefikPolicy(name string) Policy {
	return Policy{Name: name, ConnectTimeout: 30 * time.Second, Retry: Retry{MaxAttempts: 1, Resend: true}, RoundRobin: true}
}

func (x *traefik) policies() []Policy {
	var all []Policy
	for _, router := range x.routers {
		p := traefikPolicy(router.name)
		for _, name := range router.middlewares {
			x.use(&p, name, map[*traefikPart]bool{})
		}
		router.upstream.applyTo(&p)
		seen := map[*traefikPart]bool{}
		for s := x.services[bare(router.service)]; s != nil && !seen[s]; s = x.services[bare(s.main)] {
			seen[s] = true
			s.applyTo(&p)
			for _, name := range s.chain {
				x.use(&p, name, seen)
			}
			router.transport = traefikName{name: s.transport}
		}
		if t := router.transport.in(x.transports); t != nil {
			t.applyTo(&p)
		}
		all = append(all, p)
		// The report has said that these are dropped, so they are no policies of their own.
		var none Policy
		for _, name := range router.dropped {
			x.use(&none, name, map[*traefikPart]bool{})
		}
		for _, name := range router.droppedTransports {
			if t := name.in(x.transports); t != nil {
				t.applyTo(&none)
			}
		}
	}
	for _, part := range x.order {
		if part.says && !part.used {
			p := traefikPolicy(part.name)
			part.applyTo(&p)
			all = append(all, p)
		}
	}
	return all
}

// bare returns a name without its provider, such as @file.
func bare(name string) string {
	name, _, _ = strings.Cut(name, "@")
	return name
}

// in returns the part of a name, which may have a provider: retry@file is not of Kubernetes, and
// shop-retry@kubernetescrd is retry in the namespace shop.
func (n traefikName) in(parts map[string]*traefikPart) *traefikPart {
	name, provider, _ := strings.Cut(n.name, "@")
	switch {
	case provider == "kubernetescrd":
		for _, key := range slices.Sorted(maps.Keys(parts)) {
			if strings.Replace(key, "/", "-", 1) == name {
				return parts[key]
			}
		}
		return nil
	case provider == "" && n.namespace != "":
		return parts[n.namespace+"/"+name]
	}
	return parts[name]
}

// reference returns the name that an object gives a middleware, with or without a namespace.
func (x *traefik) reference(n *node) traefikName {
	return traefikName{cmp.Or(n.get("namespace").value(), x.namespace), n.get("name").value()}
}

func (part *traefikPart) applyTo(p *Policy) {
	part.used = true
	for _, apply := range part.apply {
		apply(p)
	}
}

// use adds a middleware and those of its chain. A chain may contain itself.
func (x *traefik) use(p *Policy, name traefikName, seen map[*traefikPart]bool) {
	m := name.in(x.middlewares)
	if m == nil || seen[m] {
		return
	}
	seen[m] = true
	m.applyTo(p)
	for _, next := range m.chain {
		x.use(p, next, seen)
	}
}

func (x *traefik) part(parts map[string]*traefikPart, name string) *traefikPart {
	part := &traefikPart{name: name}
	parts[cmp.Or(x.key, name)] = part
	x.order = append(x.order, part)
	return part
}

func (x *traefik) router(r *reader, n *node) {
	router := traefikRouter{node: n, name: n.key, service: anyCase(n, "service").value()}
	for _, item := range anyCase(n, "middlewares").all() {
		router.middlewares = append(router.middlewares, traefikName{name: item.value()})
	}
	r.object(n, fields{}.ignoring("entryPoints", "middlewares", "service", "rule", "parentRefs", "ruleSyntax", "priority", "tls", "observability"))
	x.routers = append(x.routers, router)
}

// ingress reads the routes of an IngressRoute. Each is a router.
func (x *traefik) ingress(r *reader, n *node) {
	name, routes := n.key, n.get("routes").all()
	r.object(n, fields{
		"routes": func(r *reader, n *node) {
			k := 0
			r.list(n, func(r *reader, route *node) {
				router := traefikRouter{node: route, name: name}
				if len(routes) > 1 {
					router.name += "/" + strconv.Itoa(k)
				}
				k++
				for _, m := range route.get("middlewares").all() {
					router.middlewares = append(router.middlewares, x.reference(m))
				}
				r.object(route, fields{
					"services": func(r *reader, n *node) {
						most := heaviest(n)
						r.list(n, func(r *reader, n *node) {
							if n != most {
								for _, m := range n.get("middlewares").all() {
									router.dropped = append(router.dropped, x.reference(m))
								}
								if t := n.get("serversTransport"); t.value() != "" {
									router.droppedTransports = append(router.droppedTransports, traefikName{cmp.Or(n.get("namespace").value(), x.namespace), t.value()})
								}
								r.object(n, fields{}.dropping("a route becomes one policy, that of the service with the largest weight", "passiveHealthCheck", "strategy", "healthCheck", "serversTransport", "middlewares").
									ignoring(traefikServiceKeys()...))
								return
							}
							router.transport = traefikName{cmp.Or(n.get("namespace").value(), x.namespace), n.get("serversTransport").value()}
							for _, m := range n.get("middlewares").all() {
								router.middlewares = append(router.middlewares, x.reference(m))
							}
							r.object(n, fields{
								"healthCheck":        drop(noActiveChecks),
								"passiveHealthCheck": func(r *reader, n *node) { traefikPassive(r, n, &router.upstream) },
								"strategy":           func(r *reader, n *node) { traefikStrategy(r, n, &router.upstream) },
							}.ignoring(append(traefikServiceKeys(), "serversTransport", "middlewares")...))
						})
					},
				}.ignoring("match", "kind", "priority", "syntax", "middlewares", "observability"))
				x.routers = append(x.routers, router)
			})
		},
	}.ignoring("entryPoints", "tls", "parentRefs"))
}

// traefikServiceKeys are the keys of an IngressRoute's service that say nothing about failures.
func traefikServiceKeys() []string {
	return []string{"name", "namespace", "port", "weight", "kind", "scheme", "sticky", "passHostHeader", "responseForwarding", "nativeLB", "nodePortLB"}
}

// heaviest returns the service of a list that gets most of the requests, and of equal ones the
// first. A weight that is left out is 1.
func heaviest(services *node) (most *node) {
	best := math.MinInt
	for _, s := range services.all() {
		weight, err := strconv.Atoi(s.get("weight").value())
		if err != nil {
			weight = 1
		}
		if weight > best {
			most, best = s, weight
		}
	}
	return most
}

func (x *traefik) service(r *reader, n *node) {
	part := x.part(x.services, n.key)
	part.node = n
	for _, item := range anyCase(n, "middlewares").all() {
		part.chain = append(part.chain, traefikName{name: item.value()})
	}
	r.object(n, fields{
		"loadBalancer": func(r *reader, n *node) {
			part.transport = anyCase(n, "serversTransport").value()
			r.object(n, fields{
				"healthCheck":        drop(noActiveChecks),
				"passiveHealthCheck": func(r *reader, n *node) { traefikPassive(r, n, part) },
				"strategy":           func(r *reader, n *node) { traefikStrategy(r, n, part) },
			}.ignoring("sticky", "servers", "passHostHeader", "responseForwarding", "serversTransport"))
		},
		"failover": func(r *reader, n *node) {
			part.main = anyCase(n, "service").value()
			drop("there is no second service to fall back on")(r, n)
		},
	}.ignoring("middlewares", "weighted", "mirroring", "highestRandomWeight"))
}

func (x *traefik) serversTransport(r *reader, n *node) {
	part := x.part(x.transports, n.key)
	var from Policy
	connect := 30 * time.Second
	r.object(n, fields{
		"forwardingTimeouts": func(r *reader, n *node) {
			part.says = true
			r.object(n, fields{
				"dialTimeout":           set(&from, "ConnectTimeout", &connect, traefikDuration),
				"responseHeaderTimeout": set(&from, "TryTimeout", &from.TryTimeout, traefikDuration),
			}.ignoring("idleConnTimeout", "readIdleTimeout", "pingTimeout"))
			r.byDefault(n, missing(n, "dialTimeout: 30s", "responseHeaderTimeout: none"))
		},
	}.ignoring("serverName", "insecureSkipVerify", "rootCAs", "rootCAsSecrets", "certificates", "certificatesSecrets", "cipherSuites",
		"minVersion", "maxVersion", "maxIdleConnsPerHost", "disableHTTP2", "peerCertURI", "spiffe"))
	part.apply = append(part.apply, func(p *Policy) {
		p.ConnectTimeout, p.TryTimeout = connect, from.TryTimeout
		p.setFrom(&from, "ConnectTimeout")
		p.setFrom(&from, "TryTimeout")
	})
}

func (x *traefik) middleware(r *reader, n *node) {
	part := x.part(x.middlewares, n.key)
	kinds := slices.DeleteFunc(slices.Clone(n.items), func(item *node) bool { return item.null })
	if n.shape == mapping && len(kinds) > 1 {
		r.fail(kinds[1], "expected one kind of middleware, got another beside %s: Traefik refuses it", clip(kinds[0].key))
	}
	r.object(n, fields{
		"retry":          func(r *reader, n *node) { traefikRetry(r, n, part) },
		"circuitBreaker": func(r *reader, n *node) { traefikBreaker(r, n, part) },
		"rateLimit":      func(r *reader, n *node) { traefikRate(r, n, part) },
		"inFlightReq":    func(r *reader, n *node) { traefikInFlight(r, n, part) },
		"chain": func(r *reader, n *node) {
			for _, item := range anyCase(n, "middlewares").all() {
				name := traefikName{name: item.value()}
				if item.shape == mapping {
					name = x.reference(item)
				}
				part.chain = append(part.chain, name)
			}
			ignore(r, n)
		},
		"buffering": func(r *reader, n *node) {
			r.object(n, fields{"retryExpression": drop("the expression of buffering decides about retries: use the middleware retry")}.
				ignoring("maxRequestBodyBytes", "memRequestBodyBytes", "maxResponseBodyBytes", "memResponseBodyBytes",
					"disableRequestBuffer", "disableResponseBuffer"))
		},
		"errors": drop("another service's page for errors"),
	}.ignoring("addPrefix", "stripPrefix", "stripPrefixRegex", "replacePath", "replacePathRegex", "ipWhiteList", "ipAllowList",
		"headers", "encodedCharacters", "redirectRegex", "redirectScheme", "basicAuth", "digestAuth", "forwardAuth", "compress",
		"passTLSClientCert", "contentType", "grpcWeb", "plugin", "requestHeaderModifier", "responseHeaderModifier",
		"requestRedirect", "URLRewrite"))
}

// anyCase returns the first value of a key of n in any case, or nil.
func anyCase(n *node, key string) *node {
	if n == nil || n.shape != mapping {
		return nil
	}
	for _, item := range n.items {
		if strings.EqualFold(item.key, key) {
			return item
		}
	}
	return nil
}

// all returns the values below n, which may be nil.
func (n *node) all() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// traefikDuration accepts 100ms, and numbers of seconds.
func traefikDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 100ms", func(s string) (time.Duration, bool) {
		if v, err := strconv.ParseInt(s, 10, 32); err == nil {
			return time.Duration(v) * time.Second, true
		}
		return goDuration(s)
	})(r, n)
}

func traefikRetry(r *reader, n *node, part *traefikPart) {
	part.says = true
	var from Policy
	retry := &from.Retry
	retry.MaxAttempts, retry.Resend = 1, true
	retry.Methods, retry.UnsentAnyMethod = IdempotentMethods(), true
	off, anyMethod := false, false
	var base time.Duration
	mistakes := len(r.errs)
	r.object(n, fields{
		"attempts":        set(&from, "Retry.MaxAttempts", &retry.MaxAttempts, whole(1, maxWhole)),
		"initialInterval": set(&from, "Retry.Backoff", &base, traefikDuration),
		"timeout":         set(&from, "Retry.StopAfter", &retry.StopAfter, traefikDuration),
		"status": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				s, ok := statusRange(n.value())
				if !ok {
					r.fail(n, "expected a status such as 503 or 500-504, got %s", n.describe())
					return
				}
				retry.On.Statuses = append(retry.On.Statuses, s)
				r.mark(n, Carried, "")
			})
			from.setBy(r, "Retry.On", n)
		},
		"disableRetryOnNetworkError": set(&from, "Retry.On", &off, boolean),
		"retryNonIdempotentMethod":   set(&from, "Retry.Methods", &anyMethod, boolean),
		"maxRequestBodyBytes":        drop("bodies have no size in a simulation"),
	})
	if anyCase(n, "attempts") == nil && len(r.errs) == mistakes {
		r.fail(n, "attempts is missing: Traefik refuses a retry without it")
	}
	retry.On.Connect = !off
	if anyMethod {
		retry.Methods = nil
	}
	if base > 0 && retry.MaxAttempts > 1 {
		retry.Backoff = Backoff{
			Kind: BackoffExponential, Base: base, Max: 60 * time.Second, Factor: math.Pow(2, 1/float64(retry.MaxAttempts-1)),
			Jitter: JitterPercent, Percent: 50, JitterAboveMax: true,
		}
		r.byDefault(n, "the wait grows to at most twice initialInterval, ±50 %")
	}
	r.byDefault(n, missing(n, "initialInterval: 0, so retries come at once", "status: none, so only requests that were not sent are retried"))
	part.apply = append(part.apply, func(p *Policy) {
		p.Retry = from.Retry
		p.setFrom(&from, "Retry")
	})
}

var (
	networkRatio  = regexp.MustCompile(`^NetworkErrorRatio\(\)\s*(>=|>)\s*([0-9.]+)$`)
	responseRatio = regexp.MustCompile(`^ResponseCodeRatio\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)\s*(>=|>)\s*([0-9.]+)$`)
	latencyAbove  = regexp.MustCompile(`^LatencyAtQuantileMS\(\s*([0-9.]+)\s*\)\s*(>=|>)\s*([0-9.]+)$`)
)

func traefikBreaker(r *reader, n *node, part *traefikPart) {
	part.says = true
	var from Policy
	base := Breaker{Scope: ScopeUpstream, Window: 10 * time.Second, OpenFor: 10 * time.Second, CheckEvery: 100 * time.Millisecond}
	var expression *node
	mistakes := len(r.errs)
	r.object(n, fields{
		"expression":       func(_ *reader, n *node) { expression = n },
		"checkPeriod":      set(&from, "Breakers.CheckEvery", &base.CheckEvery, traefikDuration),
		"fallbackDuration": set(&from, "Breakers.OpenFor", &base.OpenFor, traefikDuration),
		"recoveryDuration": drop("a circuit that closes lets all calls through; Traefik lets more and more through in this time"),
		"responseCode":     drop("callers that are refused get 503"),
	})
	if expression == nil {
		if len(r.errs) == mistakes {
			r.fail(n, "expression is missing")
		}
		return
	}
	// Traefik passes only times above 0 to its breaker: pkg/middlewares/circuitbreaker.
	base.CheckEvery = cmp.Or(base.CheckEvery, 100*time.Millisecond)
	base.OpenFor = cmp.Or(base.OpenFor, 10*time.Second)
	breakers, note := traefikExpression(expression.value(), base)
	switch {
	case len(breakers) == 0:
		r.mark(expression, Dropped, note+": the breaker never opens")
	case note != "":
		r.mark(expression, Approximated, note)
	default:
		r.mark(expression, Carried, "")
	}
	from.Breakers = breakers
	from.setBy(r, "Breakers.FailureRatio", expression)
	r.byDefault(n, missing(n, "checkPeriod: 100ms", "fallbackDuration: 10s", "recoveryDuration: 10s, which is left out"))
	part.apply = append(part.apply, func(p *Policy) {
		p.Breakers = append(p.Breakers, from.Breakers...)
		p.setFrom(&from, "Breakers")
	})
}

// traefikExpression returns a breaker for each alternative of an expression, and what is different.
func traefikExpression(text string, base Breaker) (all []Breaker, note string) {
	const unread = "only NetworkErrorRatio, LatencyAtQuantileMS and ResponseCodeRatio over all statuses, joined by ||, can be carried over"
	ratio := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || v <= 0 || v > 1 {
			return 0
		}
		return v
	}
	for alternative := range strings.SplitSeq(text, "||") {
		alternative = strings.TrimSpace(alternative)
		b := base
		if m := networkRatio.FindStringSubmatch(alternative); m != nil && ratio(m[2]) > 0 {
			b.FailureRatio = ratio(m[2])
			b.Counts = Conditions{Statuses: []StatusRange{{502, 502}, {504, 504}}, Connect: true, Refused: true, Reset: true, Timeout: true}
		} else if m := responseRatio.FindStringSubmatch(alternative); m != nil && ratio(m[6]) > 0 {
			low, high := statusNumber(m[1]), statusNumber(m[2])-1
			allLow, allHigh := statusNumber(m[3]), statusNumber(m[4])
			if allLow > 100 || allHigh < 600 || low > high {
				note = unread
				continue
			}
			b.FailureRatio = ratio(m[6])
			b.Counts = Conditions{Statuses: []StatusRange{{low, high}}}
			if low <= 502 && 504 <= high { // Traefik answers so itself
				b.Counts.Connect, b.Counts.Refused, b.Counts.Reset, b.Counts.Timeout = true, true, true, true
			}
		} else if m := latencyAbove.FindStringSubmatch(alternative); m != nil {
			quantile, err1 := strconv.ParseFloat(m[1], 64)
			ms, err2 := strconv.ParseFloat(m[3], 64)
			if err1 != nil || err2 != nil || quantile < 0 || quantile >= 100 || ms > 1e9 {
				note = unread
				continue
			}
			// The quantile is above a time if more than the rest of the calls take longer.
			b.SlowRatio, b.SlowCall = 1-quantile/100, time.Duration(ms*float64(time.Millisecond))
		} else {
			note = unread
			continue
		}
		all = append(all, b)
	}
	return all, note
}

// statusNumber returns the number that a pattern has matched.
func statusNumber(s string) int {
	v, _ := strconv.Atoi(s)
	return v
}

func traefikRate(r *reader, n *node, part *traefikPart) {
	part.says = true
	var from Policy
	l := &from.RateLimit
	*l = RateLimit{Per: time.Second, Burst: 1, PerCall: true}
	r.object(n, fields{
		"average":         approx(set(&from, "RateLimit", &l.Calls, number(0, maxWhole)), "Traefik limits each source, here all callers together"),
		"period":          set(&from, "RateLimit.Per", &l.Per, traefikDuration),
		"burst":           set(&from, "RateLimit.Burst", &l.Burst, number(0, maxWhole)),
		"sourceCriterion": drop("callers are not told apart"),
		"redis":           drop("each instance has its own limit"),
	})
	l.Per = cmp.Or(l.Per, time.Second)
	l.Burst = max(1, l.Burst) // as Traefik does: a bucket of less would let nothing pass
	r.byDefault(n, missing(n, "period: 1s", "burst: 1"))
	part.apply = append(part.apply, func(p *Policy) {
		p.RateLimit = from.RateLimit
		p.setFrom(&from, "RateLimit")
	})
}

func traefikInFlight(r *reader, n *node, part *traefikPart) {
	part.says = true
	var from Policy
	from.Concurrency.PerCall = true
	r.object(n, fields{
		"amount":          approx(set(&from, "Concurrency", &from.Concurrency.MaxRequests, whole(0, maxWhole)), "Traefik limits each source, here all callers together"),
		"sourceCriterion": drop("callers are not told apart"),
	})
	part.apply = append(part.apply, func(p *Policy) {
		p.Concurrency = from.Concurrency
		p.setFrom(&from, "Concurrency")
	})
}

// traefikStrategy reads how servers are chosen. RoundRobin is the old name of wrr.
func traefikStrategy(r *reader, n *node, part *traefikPart) {
	if slices.Contains([]string{"", "wrr", "roundrobin"}, strings.ToLower(n.value())) {
		ignore(r, n)
		return
	}
	r.mark(n, Approximated, "a simulation sends each attempt to any server, at random")
	part.apply = append(part.apply, func(p *Policy) { p.RoundRobin = false })
}

func traefikPassive(r *reader, n *node, part *traefikPart) {
	part.says = true
	var from Policy
	fails, window := 1, 10*time.Second
	r.object(n, fields{
		"failureWindow":     set(&from, "Breakers.OpenFor", &window, traefikDuration),
		"maxFailedAttempts": approx(set(&from, "Breakers.ConsecutiveFailures", &fails, whole(1, maxWhole)), "the failures in a row may be further apart than failureWindow"),
	})
	r.byDefault(n, missing(n, "failureWindow: 10s", "maxFailedAttempts: 1"))
	part.apply = append(part.apply, func(p *Policy) {
		p.Breakers = append(slices.Clone(p.Breakers), Breaker{
			Scope: ScopeEndpoint, ConsecutiveFailures: fails, OpenFor: window, MaxEjected: 1,
			Counts: Conditions{Statuses: []StatusRange{{500, 599}}, Connect: true, Refused: true, Reset: true, Timeout: true},
		})
		p.setFrom(&from, "Breakers")
	})
}
