package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// grpcNames are the gRPC statuses in the order of their numbers, from 0.
func grpcNames() []string {
	return []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
}

// grpcWords are the gRPC statuses as annotations write them.
func grpcWords() []string {
	words := grpcNames()
	for i, w := range words {
		words[i] = strings.ToLower(strings.ReplaceAll(w, "_", "-"))
	}
	return words
}

// grpcStatus returns the name of a status that is written in any way: UNAVAILABLE, unavailable or
// 14.
func grpcStatus(s string) (string, bool) {
	names := grpcNames()
	if i, err := strconv.Atoi(s); err == nil {
		if i < 0 || i >= len(names) {
			return "", false
		}
		return names[i], true
	}
	name := strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
	return name, slices.Contains(names, name)
}

func readGRPC(r *reader, roots []*node) []Policy {
	var all []Policy
	for _, root := range roots {
		if root.shape == list { // the choices of a DNS TXT record
			r.list(root, func(r *reader, n *node) {
				r.object(n, fields{
					"serviceConfig": func(r *reader, n *node) { all = append(all, grpcConfig(r, n)...) },
				}.ignoring("clientLanguage", "clientHostname", "percentage"))
			})
			continue
		}
		all = append(all, grpcConfig(r, root)...)
	}
	return all
}

func grpcConfig(r *reader, n *node) []Policy {
	var all []Policy
	shared := Policy{}
	r.object(n, fields{
		"methodConfig": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				p := grpcMethods(r, n)
				if n.shape == mapping && len(n.items) > 0 && field(n, "name") == nil {
					r.unused(n, "the methodConfig has no name, so gRPC applies it to no method")
					return
				}
				all = append(all, p)
			})
		},
		"retryThrottling":     func(r *reader, n *node) { grpcThrottling(r, n, &shared) },
		"loadBalancingConfig": func(r *reader, n *node) { grpcBalancer(r, n, &shared) },
	}.ignoring("loadBalancingPolicy", "healthCheckConfig", "connectionScaling", "$schema"))
	for i := range all {
		if all[i].Retry.MaxAttempts != 1 || all[i].Hedge.MaxAttempts > 0 {
			all[i].Retry.Budget = shared.Retry.Budget
			all[i].setFrom(&shared, "Retry.Budget")
		}
		all[i].Breakers = shared.Breakers
		all[i].setFrom(&shared, "Breakers")
	}
	if len(all) == 0 && len(shared.From) > 0 {
		shared.Retry.MaxAttempts, shared.GRPC = 1, true
		all = append(all, shared)
	}
	return all
}

func grpcMethods(r *reader, n *node) Policy {
	p := Policy{GRPC: true, Retry: Retry{MaxAttempts: 1}}
	r.object(n, fields{
		"name": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				service, method := field(n, "service"), field(n, "method")
				if service.value() == "" && method.value() != "" {
					r.fail(method, "expected a service too: gRPC refuses a method without one")
				}
				if p.Name == "" && service.value() != "" {
					p.Name = strings.TrimSuffix(service.value()+"/"+method.value(), "/")
				}
				r.object(n, fields{}.ignoring("service", "method"))
			})
		},
		"timeout":       set(&p, "Timeout", &p.Timeout, protoDuration),
		"retryPolicy":   func(r *reader, n *node) { grpcRetry(r, n, &p) },
		"hedgingPolicy": func(r *reader, n *node) { grpcHedging(r, n, &p) },
		"waitForReady":  drop("a call without a connection fails at once"),
	}.ignoring("maxRequestMessageBytes", "maxResponseMessageBytes"))
	retry, hedging := grpcGiven(n, "retryPolicy"), grpcGiven(n, "hedgingPolicy")
	if retry != nil && hedging != nil {
		r.fail(hedging, "retryPolicy and hedgingPolicy exclude each other: they are a oneof in gRPC's service_config.proto")
	}
	if field(n, "timeout") == nil {
		r.byDefault(n, "timeout: none but the caller's deadline")
	}
	if retry == nil && hedging == nil {
		r.byDefault(n, "retryPolicy: none; a stream that the server refused is still sent again once, which is left out")
	}
	return p
}

// grpcGiven is field without a null, which stands for no value.
func grpcGiven(n *node, key string) *node {
	if value := field(n, key); value != nil && !value.null {
		return value
	}
	return nil
}

// grpcMostAttempts is the number to which gRPC cuts maxAttempts.
const grpcMostAttempts = 5

// grpcAttempts reads maxAttempts.
func grpcAttempts(p *Policy, field string, dst *int) action {
	return func(r *reader, n *node) {
		v, ok := whole(2, maxWhole)(r, n)
		if !ok {
			return
		}
		*dst = min(v, grpcMostAttempts)
		p.setBy(r, field, n)
		if v > grpcMostAttempts {
			r.mark(n, Approximated, "gRPC makes at most 5 attempts")
		}
		r.mark(n, Carried, "")
	}
}

func grpcRetry(r *reader, n *node, p *Policy) {
	p.Retry.Backoff = Backoff{Kind: BackoffExponential, Factor: 1, Jitter: JitterPercent, Percent: 20, JitterAboveMax: true}
	p.Retry.RetryAfter = RetryAfter{Obey: true}
	b := &p.Retry.Backoff
	mistakes := len(r.errs)
	r.object(n, fields{
		"maxAttempts":           grpcAttempts(p, "Retry.MaxAttempts", &p.Retry.MaxAttempts),
		"initialBackoff":        set(p, "Retry.Backoff.Base", &b.Base, positive(protoDuration)),
		"maxBackoff":            set(p, "Retry.Backoff.Max", &b.Max, positive(protoDuration)),
		"backoffMultiplier":     set(p, "Retry.Backoff.Factor", &b.Factor, positive(number(0, 1e6))),
		"retryableStatusCodes":  grpcCodes(p),
		"perAttemptRecvTimeout": set(p, "TryTimeout", &p.TryTimeout, protoDuration),
	})
	if len(r.errs) == mistakes {
		grpcNeeds(r, n, "a retryPolicy", "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes")
	}
	if codes := field(n, "retryableStatusCodes"); codes != nil && len(p.Retry.On.GRPC) == 0 && len(r.errs) == mistakes {
		r.fail(codes, "must not be empty: gRPC then ignores the retryPolicy")
	}
	if slices.ContainsFunc(n.items, func(item *node) bool {
		return item.key[:min(1, len(item.key))] != strings.ToLower(item.key[:min(1, len(item.key))])
	}) {
		r.byDefault(n, "only gRPC in Go takes names that begin with a capital letter")
	}
	p.Retry.On.Refused = true
	r.byDefault(n, "jitter ±20 % on top of maxBackoff; the pushback of the server is obeyed like Retry-After")
}

// grpcNeeds reports the first of the keys that n does not have. what is n.
func grpcNeeds(r *reader, n *node, what string, keys ...string) {
	for _, key := range keys {
		if field(n, key) == nil {
			r.fail(n, "%s is missing: gRPC refuses %s without it", key, what)
			return
		}
	}
}

func grpcCodes(p *Policy) action {
	return func(r *reader, n *node) {
		r.list(n, func(r *reader, n *node) {
			name, ok := grpcStatus(n.value())
			if !ok {
				r.badWord(n, "status", n.value(), grpcNames())
				return
			}
			p.Retry.On.GRPC = append(p.Retry.On.GRPC, name)
			r.mark(n, Carried, "")
		})
		p.setBy(r, "Retry.On", n)
	}
}

func grpcHedging(r *reader, n *node, p *Policy) {
	r.object(n, fields{
		"maxAttempts":         grpcAttempts(p, "Hedge.MaxAttempts", &p.Hedge.MaxAttempts),
		"hedgingDelay":        set(p, "Hedge.Delay", &p.Hedge.Delay, protoDuration),
		"nonFatalStatusCodes": grpcCodes(p),
	})
	r.byDefault(n, "hedging is not implemented in Go and in the C core")
}

func grpcThrottling(r *reader, n *node, p *Policy) {
	b := &p.Retry.Budget
	*b = Budget{Kind: BudgetTokens, Cost: 1, ChargeFailures: true}
	mistakes := len(r.errs)
	r.object(n, fields{
		"maxTokens":  set(p, "Retry.Budget.Tokens", &b.Tokens, positive(number(0, 1000))),
		"tokenRatio": set(p, "Retry.Budget.Refill", &b.Refill, positive(number(0, 1000))),
	})
	if len(r.errs) == mistakes {
		grpcNeeds(r, n, "retryThrottling", "maxTokens", "tokenRatio")
	}
	b.Threshold = b.Tokens / 2
}

// grpcBalancer reads the outlier detection inside a load balancer's configuration.
func grpcBalancer(r *reader, n *node, p *Policy) {
	if n.shape != list {
		r.fail(n, "expected a list, got %s", n.describe())
		return
	}
	known := func(policy *node) bool { return slices.Contains(grpcBalancers(), policy.key) }
	none := !slices.ContainsFunc(n.items, func(item *node) bool { return slices.ContainsFunc(item.items, known) })
	if len(n.items) == 0 {
		r.fail(n, "must not be empty: gRPC refuses a service config without a policy of load balancing in this list")
	}
	chosen := false // gRPC takes the first policy that it knows
	for _, item := range n.items {
		if item.shape != mapping || len(item.items) != 1 {
			r.fail(item, "expected a mapping with one policy: gRPC refuses any other")
			continue
		}
		for _, policy := range item.items {
			switch {
			case !known(policy):
				near := meant(policy.key, grpcBalancers())
				if near != "" {
					near = fmt.Sprintf(", did you mean %q?", near)
				}
				switch {
				case none && near != "":
					r.failAt(policy.keyLine, policy.keyColumn, policy.path, "unknown policy%s gRPC refuses a service config without one that it knows in this list", near)
				case none:
					r.mark(policy, Dropped, "a policy that is not gRPC's own: a program without it refuses the whole service config")
				default:
					r.mark(policy, Dropped, "gRPC skips a policy that it does not know"+near)
				}
			case chosen:
				r.mark(policy, Dropped, "gRPC takes the first policy of the list that it knows")
			case policy.key == "outlier_detection_experimental" && policy.shape == mapping:
				grpcOutlier(r, policy, p)
				chosen = true
			default:
				chosen = true
			}
		}
	}
	ignore(r, n)
}

// grpcBalancers are the policies of load balancing that gRPC has.
func grpcBalancers() []string {
	return []string{
		"cds_experimental", "grpclb", "least_request_experimental", "outlier_detection_experimental", "pick_first",
		"priority_experimental", "random_subsetting_experimental", "ring_hash_experimental", "rls_experimental", "round_robin",
		"weighted_round_robin", "weighted_target_experimental", "xds_cluster_impl_experimental",
		"xds_cluster_manager_experimental", "xds_cluster_resolver_experimental", "xds_override_host_experimental",
		"xds_wrr_locality_experimental",
	}
}

func grpcOutlier(r *reader, n *node, p *Policy) {
	o := envoyOutlier()
	o.consecutive5xx, o.successRate, o.panicBelow = 0, false, 0
	count, percent := whole(0, maxWhole), whole(0, 100)
	enforceRate, enforceFailures, failurePercent := 100, 100, 85
	r.object(n, fields{
		"interval":           set(p, "Breakers.CheckEvery", &o.interval, protoDuration),
		"baseEjectionTime":   set(p, "Breakers.OpenFor", &o.base, protoDuration),
		"maxEjectionTime":    set(p, "Breakers.MaxOpenFor", &o.maxTime, protoDuration),
		"maxEjectionPercent": set(p, "Breakers.MaxEjected", &o.maxEjected, share),
		"successRateEjection": func(r *reader, n *node) {
			o.successRate = true
			r.object(n, fields{
				"stdevFactor":           set(p, "Breakers.BelowMean", &o.stdev, count),
				"enforcementPercentage": set(p, "Breakers.BelowMean", &enforceRate, percent),
				"minimumHosts":          set(p, "Breakers.BelowMean", &o.successHosts, count),
				"requestVolume":         set(p, "Breakers.BelowMean", &o.successVolume, count),
			})
		},
		"failurePercentageEjection": func(r *reader, n *node) {
			o.failurePercent = -1
			r.object(n, fields{
				"threshold":             set(p, "Breakers.FailureRatio", &failurePercent, percent),
				"enforcementPercentage": set(p, "Breakers.FailureRatio", &enforceFailures, percent),
				"minimumHosts":          set(p, "Breakers.MinEndpoints", &o.failureHosts, count),
				"requestVolume":         set(p, "Breakers.MinCalls", &o.failureVolume, count),
			})
		},
	}.ignoring("childPolicy"))
	o.successRate = o.successRate && enforceRate > 0
	if o.failurePercent < 0 {
		o.failurePercent = 0
		if enforceFailures > 0 {
			o.failurePercent = failurePercent
		}
	}
	p.Breakers = o.breakers()
	for i := range p.Breakers {
		p.Breakers[i].Counts.GRPC = grpcNames()[1:]
	}
	p.setBy(r, "Breakers.Scope", n)
	r.byDefault(n, missing(n, "interval: 10s", "baseEjectionTime: 30s", "maxEjectionPercent: 10"))
}
