package foreign

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
)

// r4j collects the instances of all modules. Those with the same name are one policy, as their
// annotations sit on one method.
type r4j struct {
	policies map[string]*Policy
	// read are the instances of the document without a profile, by module and name.
	read map[[2]string]*node
	// configs are its configurations, by module and name.
	configs map[string]map[string]*r4jConfig
	order   []string
	// profile is that of the document. Its policies are those of the document without a profile,
	// with changes.
	profile string
}

// parseSpring reads the configuration of a Spring application, YAML or properties.
func parseSpring(name string, data []byte) ([]*node, error) {
	if propertiesForm.Match(data) {
		return parseProperties(name, data)
	}
	roots, err := parseYAML(name, data)
	for _, root := range roots {
		split(root, ".")
		placeholders(root)
	}
	return roots, err
}

// propertiesForm matches a line of a properties file with a setting of resilience4j.
var propertiesForm = regexp.MustCompile(`(?m)^\s*resilience4j\.[^\s:=]+\s*(=|:[ \t]*[^\s{\[])`)

var placeholder = regexp.MustCompile(`^\$\{[^:{}]+(?::([^{}]*))?\}$`)

// placeholders replaces ${NAME:default} with its default.
func placeholders(n *node) {
	if m := placeholder.FindStringSubmatch(n.text); m != nil && strings.Contains(n.text, ":") {
		n.note = "the default of " + clip(n.text)
		n.text = m[1]
	}
	for _, item := range n.items {
		placeholders(item)
	}
}

// relaxed is how Spring compares keys: maxAttempts, max-attempts and MAX_ATTEMPTS are the same.
func relaxed(key string) string {
	return strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(key, "-", ""), "_", ""))
}

func readResilience4j(r *reader, roots []*node) []Policy {
	x := r4j{policies: map[string]*Policy{}, read: map[[2]string]*node{}, configs: map[string]map[string]*r4jConfig{}}
	for _, root := range roots {
		x.profile = root.at("spring", "config", "activate", "on-profile").value()
		if x.profile == "" {
			x.profile = root.at("spring", "profiles").value()
		}
		x.root(r, root)
	}
	var all []Policy
	for _, name := range x.order {
		all = append(all, *x.policies[name])
	}
	return all
}

func (x *r4j) root(r *reader, root *node) {
	if root.shape != mapping {
		r.fail(root, "expected a mapping, got %s", root.describe())
		return
	}
	for _, item := range root.items {
		switch key := relaxed(item.key); {
		case key == "resilience4j":
			r.object(item, fields{
				"circuitbreaker":       x.module(r4jModule{read: r4jBreaker, wait: "waitDurationInOpenState", alone: true}),
				"retry":                x.module(r4jModule{read: r4jRetry, wait: "waitDuration"}),
				"bulkhead":             x.module(r4jModule{read: r4jBulkhead}),
				"thread-pool-bulkhead": x.module(r4jModule{read: r4jThreads}),
				"ratelimiter":          x.module(r4jModule{read: r4jRate}),
				"timelimiter":          x.module(r4jModule{read: r4jTime}),
			}.ignoring("micrometer", "scheduled", "metrics", "cache"))
		case config.Distance(key, "resilience4j") <= 3:
			r.unknown(item, fields{"resilience4j": nil})
		default:
			ignore(r, item)
		}
	}
}

// r4jModule is a module of resilience4j.
type r4jModule struct {
	// read returns the defaults of the module.
	read func(r *reader, n *node, p *Policy) []string
	// wait is the setting without which others of the same wait have no effect, or "".
	wait string
	// alone means that a configuration stands alone: it does not inherit the one with the name
	// default, nor settings of a wait that it has itself.
	alone bool
}

// r4jConfig is a shared configuration.
type r4jConfig struct {
	node *node
	used bool
}

// module reads one module: its shared configurations and its instances.
func (x *r4j) module(m r4jModule) action {
	return func(r *reader, n *node) {
		configs := map[string]*r4jConfig{}
		instances := map[string]*node{}
		var order []string
		collect := func(r *reader, n *node) {
			r.byName(n, func(_ *reader, n *node) {
				if instances[n.key] == nil {
					order = append(order, n.key)
				}
				instances[n.key] = n
			})
		}
		r.object(n, fields{
			"configs": func(r *reader, n *node) {
				r.byName(n, func(_ *reader, n *node) { configs[n.key] = &r4jConfig{node: n} })
			},
			"instances": collect,
			"backends":  collect,
			"limiters":  collect,
		}.dropping("the order of the annotations is taken as it is by default: retry, breaker, rate limit, timeout, bulkhead",
			"circuitBreakerAspectOrder", "retryAspectOrder", "bulkheadAspectOrder", "rateLimiterAspectOrder", "timeLimiterAspectOrder").
			ignoring("metrics", "enabled", "tags"))
		all := x.shared(n.key, configs)
		for _, name := range order {
			instance := instances[name]
			own := overlay(instance, x.read[[2]string{n.key, name}])
			whole := m.fold(r, m.chain(r, own, all))
			if whole.shape == mapping && len(instance.items) == 0 {
				r.mark(instance, Carried, "")
			}
			defaults := m.read(r, whole, x.policy(name))
			r.byDefault(instance, strings.Join(missingIn(whole, defaults), ", "))
			if x.profile == "" {
				x.read[[2]string{n.key, name}] = own
			}
		}
		for _, name := range slices.Sorted(maps.Keys(configs)) {
			c := configs[name]
			if c.used {
				c.node.leaves(func(leaf *node) { r.idle = append(r.idle, idleValue{leaf, "every instance has a value of its own"}) })
				continue
			}
			whole := m.fold(r, m.chain(r, c.node, all))
			defaults := m.read(r, whole, x.policy(name))
			r.byDefault(c.node, strings.Join(missingIn(whole, defaults), ", "))
		}
	}
}

// shared returns the configurations of a module: those of this document, with what the document
// without a profile says of them, and its others.
func (x *r4j) shared(module string, configs map[string]*r4jConfig) map[string]*r4jConfig {
	all := maps.Clone(x.configs[module])
	if all == nil {
		all = map[string]*r4jConfig{}
	}
	for name, c := range configs {
		if below := all[name]; below != nil {
			c.node = overlay(c.node, below.node)
		}
		all[name] = c
	}
	if x.profile == "" {
		x.configs[module] = all
	}
	return all
}

// chain returns an instance and the configurations that it inherits, the nearest first.
func (m r4jModule) chain(r *reader, instance *node, configs map[string]*r4jConfig) []*node {
	chain := []*node{instance}
	for at := instance; ; {
		base := "default"
		named := field(at, "baseConfig")
		switch {
		case named != nil:
			base = named.value()
		case m.alone && at != instance:
			return chain
		case m.alone && configs[at.key] != nil: // createDirectConfig in resilience4j
			base = at.key
		}
		c := configs[base]
		if c == nil && named != nil && base != "default" {
			r.badWord(named, "configuration", base, slices.Sorted(maps.Keys(configs)))
		}
		if c == nil || slices.Contains(chain, c.node) {
			return chain
		}
		if len(chain) > maxDepth {
			r.fail(at, "expected at most %d configurations in a row", maxDepth)
			return chain
		}
		c.used = true
		chain, at = append(chain, c.node), c.node
	}
}

// fold returns the first node of a chain with what it inherits from the others.
func (m r4jModule) fold(r *reader, chain []*node) *node {
	nearest := slices.IndexFunc(chain, func(n *node) bool { return m.wait != "" && field(n, m.wait) != nil })
	var whole *node
	for i := len(chain) - 1; i >= 0; i-- {
		n := chain[i]
		switch {
		case m.wait == "" || i == nearest:
		case nearest < 0 || i < nearest || m.alone:
			n = r.withoutWait(n, r4jWaitSettings(), "has no effect without "+m.wait+" beside it")
		default: // mergePropertiesIfAny in resilience4j's ConfigUtils leaves it out
			factor := "randomizedWaitFactor"
			n = r.withoutWait(n, fields{factor: r4jWaitSettings()[factor]}, "has no effect with the "+m.wait+" of another")
		}
		whole = overlay(n, whole)
	}
	whole.accounted = len(whole.items) == 0 && whole.shape == mapping // what it is a copy of has the entry
	return whole
}

// withoutWait returns n without some settings of its wait that have no effect:
// configureRetryIntervalFunction and its like in resilience4j.
func (r *reader) withoutWait(n *node, settings fields, why string) *node {
	if n.shape != mapping {
		return n
	}
	left := *n
	left.items = nil
	for _, item := range n.items {
		name, ok := r.find(settings, item.key)
		if !ok {
			left.items = append(left.items, item)
			continue
		}
		settings[name](r, item)
		r.idle = append(r.idle, idleValue{item, why})
	}
	return &left
}

// r4jWaitSettings are the settings of a wait beside its base, which they check only.
func r4jWaitSettings() fields {
	return fields{
		"enableExponentialBackoff":              check(javaBoolean),
		"enableRandomizedWait":                  check(javaBoolean),
		"exponentialBackoffMultiplier":          check(number(1, 1e6)),
		"exponentialMaxWaitDuration":            check(javaDuration),
		"exponentialMaxWaitDurationInOpenState": check(javaDuration),
		"randomizedWaitFactor":                  check(number(0, 1)),
	}
}

// overlay returns n with the fields of the mapping below it that n does not have. Nothing counts as
// an empty mapping.
func overlay(n, below *node) *node {
	whole := *n
	if whole.null {
		whole.null, whole.shape = false, mapping
	}
	if whole.shape != mapping || below == nil || below.shape != mapping {
		return &whole
	}
	whole.items = nil
	for _, item := range below.items {
		if field(n, item.key) == nil {
			whole.items = append(whole.items, item)
		}
	}
	whole.items = append(whole.items, n.items...)
	return &whole
}

// field returns the value of a key of n in any of Spring's spellings, or nil.
func field(n *node, key string) *node {
	key = relaxed(key)
	for _, item := range n.items {
		if relaxed(item.key) == key {
			return item
		}
	}
	return nil
}

func (x *r4j) policy(name string) *Policy {
	base := x.policies[name]
	if x.profile != "" {
		name += "/" + x.profile
	}
	p := x.policies[name]
	if p == nil {
		p = &Policy{Retry: Retry{MaxAttempts: 1}}
		if base != nil {
			*p = *base
			p.Breakers, p.From = slices.Clone(base.Breakers), maps.Clone(base.From)
		}
		p.Name = name
		x.policies[name] = p
		x.order = append(x.order, name)
	}
	return p
}

// javaDuration accepts 500ms, PT0.5S and numbers of milliseconds.
func javaDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 500ms", func(s string) (time.Duration, bool) {
		if d, ok := isoDuration(s); ok {
			return d, true
		}
		return amount(strings.ToLower(s), time.Millisecond, map[string]time.Duration{
			"ns": time.Nanosecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
			"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
		})
	})(r, n)
}

// javaBoolean accepts what Spring takes for true and false.
func javaBoolean(r *reader, n *node) (bool, bool) {
	if n.shape == scalar {
		switch strings.ToLower(n.text) {
		case "on", "yes", "1":
			return true, true
		case "off", "no", "0":
			return false, true
		}
	}
	return boolean(r, n)
}

// javaEnum accepts words in any of Spring's spellings: COUNT_BASED, count-based, countBased.
func javaEnum(words ...string) parser[string] {
	return func(r *reader, n *node) (string, bool) {
		i := slices.IndexFunc(words, func(word string) bool { return n.shape == scalar && relaxed(word) == relaxed(n.text) })
		if i < 0 {
			return oneOf(words...)(r, n)
		}
		return words[i], true
	}
}

// javaShare accepts a percentage of at least 1 and returns it from 0 to 1.
func javaShare(r *reader, n *node) (float64, bool) {
	v, ok := number(1, 100)(r, n)
	return v / 100, ok
}

// everything is what resilience4j counts if a file does not name exceptions.
func everything() Conditions {
	return Conditions{Statuses: []StatusRange{{400, 599}}, Connect: true, Refused: true, Reset: true, Timeout: true}
}

func r4jBreaker(r *reader, n *node, p *Policy) []string {
	p.Breakers, p.From = []Breaker{{
		Scope: ScopeUpstream, MinCalls: 100, FailureRatio: 0.5, SlowRatio: 1, SlowCall: 60 * time.Second,
		OpenFor: 60 * time.Second, HalfOpenCalls: 10, Counts: everything(),
	}}, without(p.From, "Breakers")
	b := &p.Breakers[0]
	size, kind := 100, "COUNT_BASED"
	grow, factor, random, width := false, 1.5, false, 0.5
	const exponential, randomized = "enableExponentialBackoff", "enableRandomizedWait"
	var exceptions javaLists
	r.object(n, fields{
		"failureRateThreshold":                         set(p, "Breakers.FailureRatio", &b.FailureRatio, javaShare),
		"slowCallRateThreshold":                        set(p, "Breakers.SlowRatio", &b.SlowRatio, javaShare),
		"slowCallDurationThreshold":                    set(p, "Breakers.SlowCall", &b.SlowCall, positive(javaDuration)),
		"permittedNumberOfCallsInHalfOpenState":        set(p, "Breakers.HalfOpenCalls", &b.HalfOpenCalls, whole(1, maxWhole)),
		"ringBufferSizeInHalfOpenState":                set(p, "Breakers.HalfOpenCalls", &b.HalfOpenCalls, whole(1, maxWhole)),
		"slidingWindowType":                            set(p, "Breakers.CountWindow", &kind, javaEnum("COUNT_BASED", "TIME_BASED")),
		"slidingWindowSize":                            set(p, "Breakers.CountWindow", &size, whole(1, maxWhole)),
		"ringBufferSizeInClosedState":                  set(p, "Breakers.CountWindow", &size, whole(1, maxWhole)),
		"minimumNumberOfCalls":                         set(p, "Breakers.MinCalls", &b.MinCalls, whole(1, maxWhole)),
		"waitDurationInOpenState":                      set(p, "Breakers.OpenFor", &b.OpenFor, positive(javaDuration)),
		exponential:                                    set(p, "Breakers.Growth", &grow, javaBoolean),
		"exponentialBackoffMultiplier":                 onlyWith(n, exponential, approx(keep(&factor, number(1, 1e6)), "the open time doubles"), number(1, 1e6)),
		"exponentialMaxWaitDurationInOpenState":        onlyWith(n, exponential, set(p, "Breakers.MaxOpenFor", &b.MaxOpenFor, javaDuration), javaDuration),
		randomized:                                     approx(set(p, "Breakers.OpenJitter", &random, javaBoolean), "the open time is lengthened only, not shortened"),
		"randomizedWaitFactor":                         onlyWith(n, randomized, keep(&width, number(0, 1)), number(0, 1)),
		"automaticTransitionFromOpenToHalfOpenEnabled": approx(unread, "a circuit becomes half-open at the first call either way, which is the same for callers"),
		"maxWaitDurationInHalfOpenState":               drop("a half-open circuit waits for its calls"),
		"recordExceptions":                             exceptions.take(&exceptions.only),
		"ignoreExceptions":                             exceptions.take(&exceptions.not),
		"recordFailurePredicate":                       drop(javaCode), "recordResultPredicate": drop(javaCode),
		"ignoreExceptionPredicate": drop(javaCode), "recordExceptionPredicate": drop(javaCode), "currentTimestampFunction": drop(javaCode),
		"initialState": drop("a circuit is closed at the start"), "transitionToStateAfterWaitDuration": drop("a circuit becomes half-open after its open time"),
	}.ignoring("baseConfig", "registerHealthIndicator", "eventConsumerBufferSize", "allowHealthIndicatorToFail",
		"writableStackTraceEnabled", "slidingWindowSynchronizationStrategy", "ignoreClassBindingExceptions", "enableScheduler"))
	exceptions.apply(r, p, "Breakers.Counts", &b.Counts)
	if b.CountWindow, b.Window = size, 0; kind == "TIME_BASED" {
		b.CountWindow, b.Window = 0, time.Duration(size)*time.Second
	} else {
		b.MinCalls = min(b.MinCalls, size)
	}
	if grow && random {
		r.fail(n, "enableExponentialBackoff and enableRandomizedWait exclude each other: resilience4j refuses both")
	}
	if grow {
		b.Growth = GrowthExponential
		if field(n, "exponentialBackoffMultiplier") == nil {
			b.MaxOpenFor = 0
			r.changeIn(n, "has no effect without exponentialBackoffMultiplier", "exponentialMaxWaitDurationInOpenState")
		}
	}
	if random {
		b.OpenJitter = width
	}
	return []string{"slidingWindowType: COUNT_BASED", "slidingWindowSize: 100", "minimumNumberOfCalls: 100, at most slidingWindowSize",
		"failureRateThreshold: 50", "waitDurationInOpenState: 60s", "permittedNumberOfCallsInHalfOpenState: 10",
		"slowCallRateThreshold: 100", "slowCallDurationThreshold: 60s", "recordExceptions: every exception"}
}

// missingIn returns those of the defaults, each "key: value", whose key n does not have.
func missingIn(n *node, defaults []string) []string {
	return slices.DeleteFunc(slices.Clone(defaults), func(d string) bool {
		key, _, _ := strings.Cut(d, ":")
		return field(n, key) != nil
	})
}

// changeIn drops fields of n.
func (r *reader) changeIn(n *node, sentence string, names ...string) {
	for _, name := range names {
		if set := field(n, name); set != nil {
			r.change(set, Dropped, sentence)
		}
	}
}

const javaCode = "a class of the application decides"

func r4jRetry(r *reader, n *node, p *Policy) []string {
	retry := &p.Retry
	*retry = Retry{MaxAttempts: 3, Backoff: Backoff{Kind: BackoffFixed, Base: 500 * time.Millisecond}, On: everything()}
	retry.On.BreakerOpen, retry.On.Limited = true, true
	p.From = without(p.From, "Retry")
	b := &retry.Backoff
	grow, factor, random, width := false, 1.5, false, 0.5
	const exponential, randomized = "enableExponentialBackoff", "enableRandomizedWait"
	var exceptions javaLists
	r.object(n, fields{
		"maxAttempts":                     set(p, "Retry.MaxAttempts", &retry.MaxAttempts, whole(1, maxWhole)),
		"maxRetryAttempts":                set(p, "Retry.MaxAttempts", &retry.MaxAttempts, whole(1, maxWhole)),
		"waitDuration":                    set(p, "Retry.Backoff.Base", &b.Base, javaDuration),
		exponential:                       set(p, "Retry.Backoff", &grow, javaBoolean),
		"exponentialBackoffMultiplier":    onlyWith(n, exponential, set(p, "Retry.Backoff.Factor", &factor, number(1, 1e6)), number(1, 1e6)),
		"exponentialMaxWaitDuration":      onlyWith(n, exponential, set(p, "Retry.Backoff.Max", &b.Max, javaDuration), javaDuration),
		randomized:                        set(p, "Retry.Backoff.Jitter", &random, javaBoolean),
		"randomizedWaitFactor":            onlyWith(n, randomized, set(p, "Retry.Backoff.Percent", &width, number(0, 1)), number(0, 1)),
		"retryExceptions":                 exceptions.take(&exceptions.only),
		"ignoreExceptions":                exceptions.take(&exceptions.not),
		"retryExceptionPredicate":         drop(javaCode),
		"resultPredicate":                 drop(javaCode),
		"consumeResultBeforeRetryAttempt": drop(javaCode),
		"intervalBiFunction":              drop(javaCode),
	}.ignoring("baseConfig", "failAfterMaxAttempts", "eventConsumerBufferSize", "ignoreClassBindingExceptions", "writableStackTraceEnabled"))
	exceptions.apply(r, p, "Retry.On", &retry.On)
	if grow {
		b.Kind, b.Factor = BackoffExponential, factor
		if field(n, "exponentialBackoffMultiplier") == nil {
			b.Max, width = 0, 0.5
			r.changeIn(n, "has no effect without exponentialBackoffMultiplier", "exponentialMaxWaitDuration", "randomizedWaitFactor")
		} else if random && field(n, "randomizedWaitFactor") == nil {
			b.Max = 0
			r.changeIn(n, "has no effect beside enableRandomizedWait without randomizedWaitFactor", "exponentialMaxWaitDuration")
		}
	}
	if random {
		b.Jitter, b.Percent = JitterPercent, 100*width
	}
	wait := []string{"maxAttempts: 3", "waitDuration: 500ms, the same each time"}
	if grow {
		wait = []string{"maxAttempts: 3", "waitDuration: 500ms", "exponentialBackoffMultiplier: 1.5"}
	}
	return append(wait,
		"retryExceptions: every exception, taken for every status from 400 and every failed connection, and also for calls that the breaker or a limit refuses")
}

func r4jBulkhead(r *reader, n *node, p *Policy) []string {
	c := &p.Concurrency
	*c = Concurrency{MaxRequests: 25}
	p.From = without(p.From, "Concurrency")
	r.object(n, fields{
		"maxConcurrentCalls": set(p, "Concurrency.MaxRequests", &c.MaxRequests, whole(1, maxWhole)),
		"maxWaitDuration":    set(p, "Concurrency.MaxWait", &c.MaxWait, javaDuration),
		"maxWaitTime":        set(p, "Concurrency.MaxWait", &c.MaxWait, javaDuration),
	}.ignoring("baseConfig", "fairCallHandlingEnabled", "writableStackTraceEnabled", "eventConsumerBufferSize"))
	if c.MaxWait > 0 {
		c.MaxPending = -1
	}
	return []string{"maxConcurrentCalls: 25", "maxWaitDuration: 0"}
}

func r4jThreads(r *reader, n *node, p *Policy) []string {
	c := &p.Concurrency
	c.MaxPending = 100
	r.object(n, fields{
		"maxThreadPoolSize":  set(p, "Concurrency.MaxRequests", &c.MaxRequests, whole(1, maxWhole)),
		"coreThreadPoolSize": approx(unread, "the limit is the most threads"),
		"queueCapacity":      set(p, "Concurrency.MaxPending", &c.MaxPending, whole(1, maxWhole)),
	}.ignoring("baseConfig", "keepAliveDuration", "writableStackTraceEnabled", "eventConsumerBufferSize", "contextPropagators"))
	return []string{"maxThreadPoolSize: the number of processors, taken for no limit", "queueCapacity: 100"}
}

func r4jRate(r *reader, n *node, p *Policy) []string {
	l := &p.RateLimit
	*l = RateLimit{Calls: 50, Per: 500 * time.Nanosecond, MaxWait: 5 * time.Second}
	p.From = without(p.From, "RateLimit")
	r.object(n, fields{
		"limitForPeriod":     set(p, "RateLimit.Calls", &l.Calls, number(1, maxWhole)),
		"limitRefreshPeriod": set(p, "RateLimit.Per", &l.Per, positive(javaDuration)),
		"timeoutDuration":    set(p, "RateLimit.MaxWait", &l.MaxWait, javaDuration),
	}.ignoring("baseConfig", "registerHealthIndicator", "eventConsumerBufferSize", "subscribeForEvents",
		"allowHealthIndicatorToFail", "writableStackTraceEnabled", "drainPermissionsOnResult"))
	return []string{"limitForPeriod: 50", "limitRefreshPeriod: 500ns", "timeoutDuration: 5s"}
}

func r4jTime(r *reader, n *node, p *Policy) []string {
	p.TryTimeout, p.From = time.Second, without(p.From, "TryTimeout")
	r.object(n, fields{
		"timeoutDuration":     set(p, "TryTimeout", &p.TryTimeout, javaDuration),
		"cancelRunningFuture": approx(unread, "an attempt that runs out of time is always canceled"),
	}.ignoring("baseConfig", "eventConsumerBufferSize", "writableStackTraceEnabled"))
	return []string{"timeoutDuration: 1s"}
}

// javaLists are the lists of exceptions that count, and of those that do not.
type javaLists struct{ only, not *node }

// take keeps a list for apply: the order of the two in the file does not matter.
func (l *javaLists) take(dst **node) action {
	return func(_ *reader, n *node) { *dst = n }
}

// apply changes what counts.
func (l *javaLists) apply(r *reader, p *Policy, name string, c *Conditions) {
	if l.only != nil {
		c.Statuses, c.Connect, c.Refused, c.Reset, c.Timeout, c.BreakerOpen, c.Limited = nil, false, false, false, false, false, false
		javaExceptions(r, l.only, p, name, c, true)
	}
	if l.not != nil {
		javaExceptions(r, l.not, p, name, c, false)
	}
}

// javaExceptions reads names of exceptions, a list or a text with commas, and adds them to what
// counts or takes them away.
func javaExceptions(r *reader, n *node, p *Policy, name string, c *Conditions, add bool) {
	leaves := []*node{n}
	if n.shape == list {
		leaves = n.items
	}
	for _, leaf := range leaves {
		if !r.scalar(leaf, "the name of an exception") {
			continue
		}
		known, unknown := 0, []string{}
		for class := range strings.SplitSeq(leaf.text, ",") {
			if c.exception(strings.TrimSpace(class), add) {
				known++
			} else {
				unknown = append(unknown, strings.TrimSpace(class))
			}
		}
		switch {
		case known == 0:
			r.mark(leaf, Dropped, "it is not known which answers raise "+clip(strings.Join(unknown, ", ")))
		case len(unknown) > 0:
			r.mark(leaf, Approximated, "it is not known which answers raise "+clip(strings.Join(unknown, ", ")))
		default:
			r.mark(leaf, Approximated, "taken for the statuses and failures that usually raise it")
		}
	}
	r.mark(n, Carried, "") // an empty list
	p.setBy(r, name, n)
}

// exception adds or takes away what raises an exception, and reports whether that is known.
func (c *Conditions) exception(class string, add bool) bool {
	name := class[strings.LastIndexByte(class, '.')+1:]
	set := func(flags ...*bool) {
		for _, f := range flags {
			*f = add
		}
	}
	switch {
	case name == "Exception", name == "Throwable", name == "RuntimeException":
		c.statuses(400, 599, add)
		set(&c.Connect, &c.Refused, &c.Reset, &c.Timeout)
	case strings.Contains(name, "HttpServerError"), name == "FeignServerException", name == "ServerErrorException", name == "InternalServerErrorException":
		c.statuses(500, 599, add)
	case strings.Contains(name, "HttpClientError"), name == "FeignClientException", name == "ClientErrorException":
		c.statuses(400, 499, add)
	case name == "FeignException", name == "WebClientResponseException", name == "HttpStatusCodeException", name == "RestClientException", name == "WebApplicationException":
		c.statuses(400, 599, add)
	case strings.HasSuffix(name, "ServiceUnavailable"):
		c.statuses(503, 503, add)
	case strings.HasSuffix(name, "TooManyRequests"):
		c.statuses(429, 429, add)
	case strings.HasSuffix(name, "GatewayTimeout"):
		c.statuses(504, 504, add)
	case strings.HasSuffix(name, "BadGateway"):
		c.statuses(502, 502, add)
	case name == "ConnectException", name == "UnknownHostException", name == "ConnectTimeoutException", name == "HttpHostConnectException":
		set(&c.Connect)
	case name == "TimeoutException", name == "SocketTimeoutException", name == "ReadTimeoutException", name == "HttpTimeoutException":
		set(&c.Timeout)
	case name == "IOException", name == "ResourceAccessException", name == "WebClientRequestException", name == "RetryableException", name == "SocketException":
		set(&c.Connect, &c.Refused, &c.Reset)
	case name == "CallNotPermittedException":
		set(&c.BreakerOpen)
	case name == "BulkheadFullException", name == "RequestNotPermitted":
		set(&c.Limited)
	default:
		return false
	}
	return true
}

// statuses adds a range of statuses or takes it away.
func (c *Conditions) statuses(low, high int, add bool) {
	if add {
		c.Statuses = append(c.Statuses, StatusRange{low, high})
		return
	}
	var left []StatusRange
	for _, s := range c.Statuses {
		if s.Low < low {
			left = append(left, StatusRange{s.Low, min(s.High, low-1)})
		}
		if s.High > high {
			left = append(left, StatusRange{max(s.Low, high+1), s.High})
		}
	}
	c.Statuses = left
}
