package foreign

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// envoyBuffer is why limits for the bodies that are kept for a retry are dropped.
const envoyBuffer = "bodies have no size in a simulation; retry.replayBuffer is Rebound's limit"

// envoyRouteTimeout is Envoy's timeout of a route that has none.
const envoyRouteTimeout = 15 * time.Second

// envoy collects the routes and clusters of a file. A route is one policy for each of its clusters.
type envoy struct {
	routes   []envoyRoute
	clusters []envoyCluster
}

type envoyRoute struct {
	policy   Policy
	clusters []string
}

type envoyCluster struct {
	name   string
	policy Policy
	says   bool // something about failures
	used   bool
}

// parseEnvoy reads YAML or JSON. Fields may be in snake_case or in lowerCamelCase.
func parseEnvoy(name string, data []byte) ([]*node, error) {
	roots, err := parseYAML(name, data)
	for _, root := range roots {
		snake(root)
	}
	return roots, err
}

var camelForm = regexp.MustCompile(`^[a-z]+[a-z0-9]*([A-Z][a-zA-Z0-9]*)+$`)

func snake(n *node) {
	if camelForm.MatchString(n.key) {
		n.key = regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(n.key, func(s string) string { return "_" + strings.ToLower(s) })
		n.key = strings.Replace(n.key, "consecutive5xx", "consecutive_5xx", 1)
	}
	for _, item := range n.items {
		snake(item)
	}
}

func readEnvoy(r *reader, roots []*node) []Policy {
	var e envoy
	for _, root := range roots {
		e.root(r, root)
	}
	return e.policies()
}

func (e *envoy) policies() []Policy {
	var all []Policy
	for _, route := range e.routes {
		if len(route.clusters) == 0 {
			route.clusters = []string{""}
		}
		for _, name := range route.clusters {
			p := route.policy
			if len(route.clusters) > 1 {
				p.Name += "/" + name
			}
			c := envoyCluster{policy: envoyClusterDefaults()}
			if i := slices.IndexFunc(e.clusters, func(c envoyCluster) bool { return c.name == name }); i >= 0 {
				e.clusters[i].used = true
				c = e.clusters[i]
			}
			c.apply(&p)
			all = append(all, p)
		}
	}
	for _, c := range e.clusters {
		if !c.used && c.says {
			p := Policy{Name: c.name, Timeout: envoyRouteTimeout, Retry: Retry{MaxAttempts: 1}}
			c.apply(&p)
			all = append(all, p)
		}
	}
	return all
}

func envoyClusterDefaults() Policy {
	return Policy{
		ConnectTimeout: 5 * time.Second,
		Concurrency:    Concurrency{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3},
	}
}

func (c *envoyCluster) apply(p *Policy) {
	from := &c.policy
	p.ConnectTimeout, p.Breakers, p.Concurrency, p.Retry.Budget = from.ConnectTimeout, from.Breakers, from.Concurrency, from.Retry.Budget
	for _, field := range []string{"ConnectTimeout", "Breakers", "Concurrency", "Retry.Budget"} {
		p.setFrom(from, field)
	}
}

// root reads a bootstrap, a discovery response, or a fragment: a RouteConfiguration, a virtual
// host, a route, a cluster, or a list of these.
func (e *envoy) root(r *reader, n *node) {
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return n.get(key) != nil })
	}
	switch {
	case n.shape == list:
		r.list(n, e.root)
	case has("static_resources", "dynamic_resources", "admin"):
		e.bootstrap(r, n)
	case has("resources"):
		r.object(n, fields{"resources": func(r *reader, n *node) { r.list(n, e.root) }}.ignoring("version_info", "type_url", "nonce", "control_plane", "canary"))
	case has("filter_chains"):
		e.listener(r, n)
	case has("virtual_hosts"):
		e.routeConfiguration(r, n)
	case has("clusters", "route_config", "listeners"):
		r.object(n, fields{
			"clusters":     func(r *reader, n *node) { r.list(n, e.cluster) },
			"listeners":    func(r *reader, n *node) { r.list(n, e.listener) },
			"route_config": e.routeConfiguration,
			"routes":       func(r *reader, n *node) { e.routeList(r, n, "routes", nil) },
		}.ignoring("secrets"))
	case has("domains", "routes"):
		e.virtualHost(r, n)
	case has("route") && has("match"):
		e.route(r, n, "route", nil)
	case has("retry_policy", "hedge_policy") || has("cluster", "weighted_clusters") && has("timeout"):
		route := envoyRoute{policy: Policy{Name: "route", Timeout: envoyRouteTimeout, Retry: Retry{MaxAttempts: 1}}}
		route.action(r, n)
		e.routes = append(e.routes, route)
	case has("retry_on", "num_retries"):
		route := envoyRoute{policy: Policy{Name: "retry_policy", Timeout: envoyRouteTimeout}}
		envoyRetryPolicy(r, n, &route.policy)
		e.routes = append(e.routes, route)
	default:
		e.cluster(r, n)
	}
}

func (e *envoy) bootstrap(r *reader, n *node) {
	r.object(n, fields{
		"static_resources": func(r *reader, n *node) {
			r.object(n, fields{
				"listeners": func(r *reader, n *node) { r.list(n, e.listener) },
				"clusters":  func(r *reader, n *node) { r.list(n, e.cluster) },
			}.ignoring("secrets"))
		},
		"dynamic_resources": drop("what a control plane sends is not in the file"),
	}.ignoring("node", "node_context_params", "cluster_manager", "hds_config", "flags_path",
		"stats_sinks", "deferred_stat_options", "stats_config", "stats_flush_interval", "stats_flush_on_admin",
		"stats_eviction_interval", "watchdog", "watchdogs", "tracing", "layered_runtime", "admin", "overload_manager",
		"enable_dispatcher_stats", "header_prefix", "stats_server_version_override", "use_tcp_for_dns_lookups",
		"dns_resolution_config", "typed_dns_resolver_config", "bootstrap_extensions", "fatal_actions", "config_sources",
		"default_config_source", "default_socket_interface", "certificate_provider_instances", "inline_headers",
		"perf_tracing_file_path", "default_regex_engine", "xds_delegate_extension", "xds_config_tracker_extension",
		"listener_manager", "application_log_config", "grpc_async_client_manager_config", "memory_allocator_manager",
		"enable_worker_cpu_affinity", "runtime"))
}

// listener reads the HTTP connection managers inside a listener. The rest is about callers.
func (e *envoy) listener(r *reader, n *node) {
	r.misspelled(n, "filter_chains", "default_filter_chain")
	for _, chain := range append(n.get("filter_chains").all(), n.get("default_filter_chain")) {
		r.misspelled(chain, "filters", "filter_chain_match")
		for _, filter := range chain.get("filters").all() {
			r.misspelled(filter, "typed_config", "config_discovery", "config", "name")
		}
	}
	e.within(r, n)
	ignore(r, n)
}

// misspelled reports a key of n that is close to one of the known keys. n may have other keys too.
func (r *reader) misspelled(n *node, known ...string) {
	for _, item := range n.all() {
		if near := meant(item.key, known); near != "" && near != item.key {
			r.failAt(item.keyLine, item.keyColumn, item.path, "unknown field, did you mean %q?", near)
		}
	}
}

func (e *envoy) within(r *reader, n *node) {
	for _, item := range n.items {
		manager, kind := item, item.get("@type").value()
		if strings.HasSuffix(kind, ".TypedStruct") { // the fields of another type, which it names
			manager, kind = item.get("value"), item.get("type_url").value()
		}
		isManager := strings.HasSuffix(kind, "HttpConnectionManager") ||
			strings.HasSuffix(n.get("name").value(), "http_connection_manager") && (item.key == "typed_config" || item.key == "config")
		switch {
		case isManager && manager != nil && manager.shape == mapping:
			e.connectionManager(r, manager)
			continue
		case item.key == "route_config" && item.shape == mapping:
			e.routeConfiguration(r, item)
			continue
		case item.key == "rds" && item.shape == mapping:
			envoyDiscovered(r, item)
			continue
		}
		e.within(r, item)
	}
}

// envoyDiscovered drops the settings for routes that come from a control plane.
func envoyDiscovered(r *reader, n *node) {
	r.mark(n, Dropped, "the routes that a control plane sends are not in the file")
}

// connectionManager reads an HttpConnectionManager. A misspelled field must not lose its routes,
// and one of a newer Envoy must not keep a whole dump from being read.
func (e *envoy) connectionManager(r *reader, n *node) {
	known := fields{
		"route_config":  e.routeConfiguration,
		"rds":           envoyDiscovered,
		"scoped_routes": drop("routes that depend on a scope are not read"),
		"http_filters":  func(r *reader, n *node) { r.list(n, envoyFilter) },
	}.dropping("a stall in the middle of an answer is not simulated", "stream_idle_timeout").
		ignoring("@type", "codec_type", "stat_prefix", "add_user_agent", "tracing", "common_http_protocol_options",
			"http1_safe_max_connection_duration", "http_protocol_options", "http2_protocol_options", "http3_protocol_options",
			"server_name", "server_header_transformation", "scheme_header_transformation", "max_request_headers_kb",
			"stream_flush_timeout", "request_timeout", "request_headers_timeout", "drain_timeout", "drain_timeout_jitter",
			"delayed_close_timeout", "idle_timeout", "access_log", "access_log_flush_interval", "access_log_options",
			"flush_access_log_on_new_request", "use_remote_address", "xff_num_trusted_hops",
			"original_ip_detection_extensions", "early_header_mutation_extensions", "internal_address_config",
			"skip_xff_append", "via", "generate_request_id", "preserve_external_request_id",
			"always_set_request_id_in_response", "forward_client_cert_details", "set_current_client_cert_details",
			"forward_client_cert_matcher", "proxy_100_continue", "proxy100_continue",
			"represent_ipv4_remote_address_as_ipv4_mapped_ipv6", "upgrade_configs", "normalize_path", "merge_slashes",
			"path_with_escaped_slashes_action", "request_id_extension", "local_reply_config", "strip_matching_host_port",
			"strip_any_host_port", "strip_trailing_host_dot", "stream_error_on_invalid_http_message",
			"path_normalization_options", "proxy_status_config", "typed_header_validation_config",
			"append_x_forwarded_port", "append_local_overload", "add_proxy_protocol_connection_state",
			"forward_proto_config")
	for _, item := range n.items {
		if known[item.key] == nil && meant(item.key, []string{"route_config", "scoped_routes", "http_filters"}) == "" {
			known[item.key] = drop("is no field of Envoy that is known here")
		}
	}
	r.object(n, known)
}

// envoyFilter drops an HTTP filter that decides about failures, or such a filter's settings for a
// route. Others have nothing to do with failures.
func envoyFilter(r *reader, n *node) {
	name := cmp.Or(n.at("typed_config", "@type").value(), n.get("@type").value(), n.get("name").value())
	kind := strings.NewReplacer("_", "", ".v2", "", ".v3", "").Replace(strings.ToLower(name + " " + n.get("name").value() + " " + n.key))
	for _, filter := range [][2]string{
		{"adaptiveconcurrency", "there is no limit that follows the upstream's latency"},
		{"admissioncontrol", "there is no limit by success rate before the upstream"},
		{"localratelimit", "a rate limit for callers, in front of the routes"},
		{"filters.http.fault", "the fault is made on purpose: use the faults of flaky-server"},
		{"filters.http.ratelimit", "it needs Envoy's rate limit service"},
	} {
		if strings.Contains(kind, filter[0]) && n.get("disabled").value() != "true" {
			r.mark(n, Dropped, filter[1])
		}
	}
	ignore(r, n)
}

// envoyFilters reads the settings of filters for a route, by name.
func envoyFilters(r *reader, n *node) { r.byName(n, envoyFilter) }

func (e *envoy) routeConfiguration(r *reader, n *node) {
	r.object(n, fields{
		"virtual_hosts":           func(r *reader, n *node) { r.list(n, e.virtualHost) },
		"typed_per_filter_config": envoyFilters,
	}.ignoring("@type", "name", "vhds", "internal_only_headers", "response_headers_to_add", "response_headers_to_remove",
		"request_headers_to_add", "request_headers_to_remove", "most_specific_header_mutations_wins", "validate_clusters",
		"max_direct_response_body_size_bytes", "cluster_specifier_plugins", "request_mirror_policies",
		"ignore_port_in_host_matching", "vhost_header", "ignore_path_parameters_in_path_matching",
		"metadata"))
}

func (e *envoy) virtualHost(r *reader, n *node) {
	host := Policy{Retry: Retry{MaxAttempts: 1}}
	name := n.get("name").value()
	var routes *node
	own := false
	r.object(n, fields{
		"routes":       func(_ *reader, n *node) { routes = n },
		"retry_policy": func(r *reader, n *node) { own = true; envoyRetryPolicy(r, n, &host) },
		"hedge_policy": func(r *reader, n *node) { envoyHedge(r, n, &host) },
		"rate_limits":  drop("it needs Envoy's rate limit service"),

		"typed_per_filter_config": envoyFilters,
	}.dropping("a plugin of Envoy", "retry_policy_typed_config").
		dropping(envoyBuffer, "per_request_buffer_limit_bytes", "request_body_buffer_limit").
		ignoring("@type", "name", "domains", "cors", "matcher", "metadata", "virtual_clusters", "require_tls",
			"include_attempt_count_in_response", "include_is_timeout_retry_header", "include_request_attempt_count",
			"request_headers_to_add", "request_headers_to_remove",
			"request_mirror_policies", "response_headers_to_add", "response_headers_to_remove"))
	inherited := (*Policy)(nil)
	if own || host.Hedge != (Hedge{}) {
		inherited = &host
	}
	if routes != nil {
		e.routeList(r, routes, cmp.Or(name, "routes"), inherited)
	}
}

func (e *envoy) routeList(r *reader, n *node, name string, host *Policy) {
	k := 0
	r.list(n, func(r *reader, n *node) {
		e.route(r, n, name+"/"+strconv.Itoa(k), host)
		k++
	})
}

// envoyDuration accepts durations in the JSON form of protocol buffers, and {seconds: 5} as old
// files have it.
func envoyDuration(r *reader, n *node) (time.Duration, bool) {
	if n.shape != mapping || len(n.items) == 0 {
		return protoDuration(r, n)
	}
	var seconds, nanos int
	before := len(r.errs)
	r.object(n, fields{"seconds": keep(&seconds, whole(0, 1e9)), "nanos": keep(&nanos, whole(0, 999_999_999))})
	return time.Duration(seconds)*time.Second + time.Duration(nanos), len(r.errs) == before
}

func (e *envoy) route(r *reader, n *node, name string, host *Policy) {
	route := envoyRoute{policy: Policy{Name: name, Timeout: envoyRouteTimeout, Retry: Retry{MaxAttempts: 1}}}
	p := &route.policy
	if host != nil {
		p.Retry, p.TryTimeout, p.Hedge = host.Retry, host.TryTimeout, host.Hedge
		for _, field := range []string{"Retry", "TryTimeout", "Hedge"} {
			p.setFrom(host, field)
		}
	}
	if own := n.get("name").value(); own != "" {
		p.Name = own
	}
	upstream := false
	r.object(n, fields{
		"route":                   func(r *reader, n *node) { upstream = true; route.action(r, n) },
		"typed_per_filter_config": envoyFilters,
	}.dropping(envoyBuffer, "per_request_buffer_limit_bytes", "request_body_buffer_limit").ignoring("@type", "name", "match", "decorator", "metadata", "request_body_buffer_limit",
		"request_headers_to_add", "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
		"stat_prefix", "tracing", "direct_response", "redirect", "filter_action", "non_forwarding_action"))
	if upstream {
		e.routes = append(e.routes, route)
	}
}

// action reads a RouteAction.
func (route *envoyRoute) action(r *reader, n *node) {
	p := &route.policy
	r.object(n, fields{
		"cluster": func(r *reader, n *node) {
			route.clusters = append(route.clusters, n.value())
			ignore(r, n)
		},
		"weighted_clusters": func(r *reader, n *node) {
			r.object(n, fields{"clusters": func(r *reader, n *node) {
				r.list(n, func(r *reader, n *node) {
					route.clusters = append(route.clusters, n.get("name").value())
					ignore(r, n)
				})
			}}.ignoring("total_weight", "runtime_key_prefix", "header_name", "random_value_specifier", "use_hash_policy"))
		},
		"timeout": set(p, "Timeout", &p.Timeout, envoyDuration),
		"retry_policy": func(r *reader, n *node) {
			p.Retry, p.TryTimeout = Retry{}, 0 // replaces that of the virtual host
			p.From = without(p.From, "Retry", "TryTimeout")
			envoyRetryPolicy(r, n, p)
		},
		"hedge_policy":        func(r *reader, n *node) { envoyHedge(r, n, p) },
		"max_stream_duration": drop("limits streams, which are not simulated"),
		"rate_limits":         drop("it needs Envoy's rate limit service"),
	}.dropping("a stall in the middle of an answer is not simulated", "idle_timeout").
		dropping("the caller's own deadline is not changed", "max_grpc_timeout", "grpc_timeout_offset").
		dropping("a plugin of Envoy", "retry_policy_typed_config").
		ignoring("cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin", "append_x_forwarded_host",
			"auto_host_rewrite", "cluster_not_found_response_code", "cors", "early_data_policy", "flush_timeout",
			"hash_policy", "host_rewrite", "host_rewrite_header", "host_rewrite_literal",
			"host_rewrite_path_regex", "include_vh_rate_limits", "internal_redirect_action",
			"internal_redirect_policy", "max_internal_redirects", "metadata_match", "path_rewrite",
			"path_rewrite_policy", "prefix_rewrite", "priority", "regex_rewrite", "request_mirror_policies",
			"upgrade_configs"))
	if p.Hedge.OnTryTimeout && p.TryTimeout == 0 {
		p.Hedge = Hedge{}
		p.From = without(p.From, "Hedge")
		if on := n.at("hedge_policy", "hedge_on_per_try_timeout"); on != nil {
			r.change(on, Dropped, "there is no per_try_timeout to hedge on")
		}
	}
	if n.get("timeout") == nil {
		r.byDefault(n, "timeout: 15s")
	}
}

// without returns the sources that are not of the fields.
func without(from Sources, fields ...string) Sources {
	left := Sources{}
	for name, place := range from {
		if !slices.ContainsFunc(fields, func(f string) bool { return name == f || strings.HasPrefix(name, f+".") }) {
			left[name] = place
		}
	}
	return left
}

func envoyRetryPolicy(r *reader, n *node, p *Policy) {
	retries := 1
	var codes []StatusRange
	b := Backoff{Kind: BackoffEnvoy, Base: 25 * time.Millisecond, Jitter: JitterFull}
	listed := n.get("retriable_status_codes")
	if listed != nil { // retry_on may come first
		statusList(100, &codes)(r, listed)
	}
	p.Retry.RetryAfter = RetryAfter{}
	r.object(n, fields{
		"retry_on":               envoyRetryOn(p, &codes, false),
		"num_retries":            set(p, "Retry.MaxAttempts", &retries, whole(0, maxWhole)),
		"per_try_timeout":        set(p, "TryTimeout", &p.TryTimeout, envoyDuration),
		"per_try_idle_timeout":   drop("a stall in the middle of an answer is not simulated"),
		"retriable_status_codes": func(*reader, *node) {},
		"retry_back_off": func(r *reader, n *node) {
			r.object(n, fields{
				"base_interval": set(p, "Retry.Backoff.Base", &b.Base, positive(envoyDuration)),
				"max_interval":  set(p, "Retry.Backoff.Max", &b.Max, positive(envoyDuration)),
			})
			r.longEnough(n.get("max_interval"), b.Max, b.Base)
		},
		"rate_limited_retry_back_off": func(r *reader, n *node) {
			p.Retry.RetryAfter = RetryAfter{Obey: true, Max: 300 * time.Second}
			p.setBy(r, "Retry.RetryAfter", n)
			r.object(n, fields{
				"reset_headers": approx(unread, "Retry-After is obeyed, whichever header is named"),
				"max_interval":  set(p, "Retry.RetryAfter.Max", &p.Retry.RetryAfter.Max, positive(envoyDuration)),
			})
		},
		"retry_host_predicate": func(r *reader, n *node) {
			p.Retry.OtherEndpoint = true
			p.setBy(r, "Retry.OtherEndpoint", n)
			r.mark(n, Approximated, "a retry goes to another endpoint, whichever predicate is named")
		},
		"host_selection_retry_max_attempts": approx(unread, "another endpoint is chosen at once, however many are left"),
		"retriable_headers":                 drop("an answer's headers do not decide about retries"),
		"retriable_request_headers":         func(r *reader, n *node) { envoyMethods(r, n, p) },
	}.dropping("endpoints have no priorities here", "retry_priority").
		dropping("options of Envoy's plugins", "retry_options_predicates", "refresh_cluster_on_retry").
		ignoring("@type"))
	if p.Retry.MaxAttempts = retries + 1; n.get("retry_on") == nil {
		p.Retry.MaxAttempts = 1
		r.byDefault(n, "retry_on: nothing, so nothing is retried")
		for _, item := range n.items {
			if item.key != "per_try_timeout" {
				r.unused(item, "without retry_on, nothing is retried")
			}
		}
	} else if listed != nil && !slices.ContainsFunc(strings.Split(n.get("retry_on").value(), ","), isCodesWord) {
		r.unused(listed, "has no effect: retry_on does not have retriable-status-codes")
	}
	if b.Max == 0 {
		b.Max = 10 * b.Base
	}
	p.Retry.Backoff = b
	r.byDefault(n, missing(n, "num_retries: 1", "per_try_timeout: that of the route", "retry_back_off: 25ms to 250ms with full jitter"))
}

// isCodesWord reports whether a word of retry_on stands for a list of statuses.
func isCodesWord(word string) bool { return strings.TrimSpace(word) == "retriable-status-codes" }

// unread accepts a value without reading it.
func unread(r *reader, n *node) { r.mark(n, Carried, "") }

// envoyMethods reads the request headers that allow a retry, if they are exact matches of :method.
func envoyMethods(r *reader, n *node, p *Policy) {
	var methods []string
	exact := n.shape == list
	for _, item := range n.items {
		value := item.get("exact_match").value()
		if value == "" {
			value = item.at("string_match", "exact").value()
		}
		exact = exact && item.get("name").value() == ":method" && value != ""
		methods = append(methods, value)
	}
	if !exact {
		r.mark(n, Dropped, "only exact matches of :method can decide about retries")
		return
	}
	p.Retry.Methods = methods
	p.setBy(r, "Retry.Methods", n)
	r.mark(n, Carried, "")
}

func envoyHedge(r *reader, n *node, p *Policy) {
	r.object(n, fields{
		"hedge_on_per_try_timeout": set(p, "Hedge", &p.Hedge.OnTryTimeout, boolean),
	}.dropping("Envoy does not implement it", "initial_requests", "additional_request_chance"))
}

func (e *envoy) cluster(r *reader, n *node) {
	c := envoyCluster{name: n.get("name").value(), policy: envoyClusterDefaults()}
	p := &c.policy
	panicBelow := 0.5
	r.object(n, fields{
		"connect_timeout":   set(p, "ConnectTimeout", &p.ConnectTimeout, positive(envoyDuration)),
		"circuit_breakers":  func(r *reader, n *node) { c.says = true; envoyThresholds(r, n, p) },
		"outlier_detection": func(r *reader, n *node) { c.says = true; envoyOutlierDetection(r, n, p) },
		"health_checks":     drop(noActiveChecks),
		"queuing_policies":  drop("requests wait for a connection in turn"),
		"typed_extension_protocol_options": func(r *reader, n *node) {
			for _, options := range n.items {
				if retry := options.get("retry_policy"); retry != nil {
					r.mark(retry, Dropped, "a retry policy of the cluster: write it at the routes")
				}
			}
			ignore(r, n)
		},
		"common_lb_config": func(r *reader, n *node) {
			r.object(n, fields{
				"healthy_panic_threshold": func(r *reader, n *node) {
					if v, ok := envoyPercent(r, n); ok {
						panicBelow = v / 100
						p.setBy(r, "Breakers.PanicBelow", n)
						r.mark(n, Carried, "")
					}
				},
			}.ignoring("update_merge_window", "ignore_new_hosts_until_first_hc", "close_connections_on_host_set_change",
				"consistent_hashing_lb_config", "override_host_status", "zone_aware_lb_config", "locality_weighted_lb_config"))
		},
	}.ignoring(envoyClusterKeys()...))
	for i := range p.Breakers {
		p.Breakers[i].PanicBelow = panicBelow
	}
	if n.get("circuit_breakers") == nil && c.name != "" {
		r.byDefault(n, envoyLimits)
	}
	e.clusters = append(e.clusters, c)
}

func envoyClusterKeys() []string {
	return []string{"@type", "name", "transport_socket_matches", "transport_socket_matcher", "alt_stat_name",
		"stats_matcher", "eds_cluster_config", "per_connection_buffer_limit_bytes", "per_connection_buffer_high_watermark_timeout",
		"lb_policy", "load_assignment", "max_requests_per_connection", "upstream_http_protocol_options",
		"common_http_protocol_options", "http_protocol_options", "http2_protocol_options",
		"dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate", "respect_dns_ttl", "dns_lookup_family", "dns_resolvers",
		"use_tcp_for_dns_lookups", "dns_resolution_config", "typed_dns_resolver_config", "wait_for_warm_on_init",
		"cleanup_interval", "upstream_bind_config", "lb_subset_config", "transport_socket", "metadata", "protocol_selection",
		"upstream_connection_options", "close_connections_on_host_health_failure", "ignore_health_on_host_removal", "filters",
		"load_balancing_policy", "lrs_server", "lrs_report_endpoint_metrics", "track_timeout_budgets", "upstream_config",
		"track_cluster_stats", "preconnect_policy", "connection_pool_per_downstream_connection", "type",
		"cluster_type", "ring_hash_lb_config", "maglev_lb_config", "original_dst_lb_config", "least_request_lb_config",
		"round_robin_lb_config", "hosts", "tls_context"}
}

// envoyLimits are the defaults of Envoy's circuit breakers.
const envoyLimits = "circuit_breakers: 1024 connections, pending requests and requests, 3 retries"

func envoyThresholds(r *reader, n *node, p *Policy) {
	c := &p.Concurrency
	found := false
	r.object(n, fields{
		"per_host_thresholds": drop("there is no limit of connections per endpoint"),
		"thresholds": func(r *reader, n *node) {
			r.list(n, func(r *reader, n *node) {
				if !slices.Contains([]string{"", "DEFAULT", "0"}, n.get("priority").value()) {
					r.mark(n, Dropped, "limits of other priorities than DEFAULT")
					return
				}
				if found {
					r.mark(n, Dropped, "Envoy takes the first of several with the same priority")
					return
				}
				found = true
				r.object(n, fields{
					"max_connections":      set(p, "Concurrency.MaxConnections", &c.MaxConnections, limit),
					"max_pending_requests": set(p, "Concurrency.MaxPending", &c.MaxPending, limit),
					"max_requests":         set(p, "Concurrency.MaxRequests", &c.MaxRequests, limit),
					"max_retries":          set(p, "Concurrency.MaxRetries", &c.MaxRetries, limit),
					"retry_budget": func(r *reader, n *node) {
						envoyBudget(r, n, p, budgetNames{"budget_percent", "min_retry_concurrency", "budget_interval", envoyDuration})
					},
				}.ignoring("priority", "track_remaining", "max_connection_pools"))
				r.byDefault(n, missing(n, "max_connections: 1024", "max_pending_requests: 1024", "max_requests: 1024"))
				r.budgetWins(n.get("retry_budget"), n.get("max_retries"), c)
				if n.get("max_retries") == nil && n.get("retry_budget") == nil {
					r.byDefault(n, "max_retries: 3")
				}
			})
		},
	})
	if !found {
		r.byDefault(n, envoyLimits)
	}
}

func envoyOutlierDetection(r *reader, n *node, p *Policy) {
	o := envoyOutlier()
	enforceRate, enforceFailures, failurePercent := 100, 0, 85
	percent := whole(0, 100)
	count := whole(0, maxWhole)
	const always = "detections are enforced always or never, not at random"
	r.object(n, fields{
		"consecutive_5xx":                       set(p, "Breakers.ConsecutiveFailures", &o.consecutive5xx, count),
		"interval":                              set(p, "Breakers.CheckEvery", &o.interval, positive(envoyDuration)),
		"base_ejection_time":                    set(p, "Breakers.OpenFor", &o.base, positive(envoyDuration)),
		"max_ejection_time":                     set(p, "Breakers.MaxOpenFor", &o.maxTime, positive(envoyDuration)),
		"max_ejection_percent":                  set(p, "Breakers.MaxEjected", &o.maxEjected, share),
		"enforcing_consecutive_5xx":             set(p, "Breakers.ConsecutiveFailures", &o.enforce5xx, percent),
		"consecutive_gateway_failure":           set(p, "Breakers.ConsecutiveFailures", &o.gateway, count),
		"enforcing_consecutive_gateway_failure": set(p, "Breakers.ConsecutiveFailures", &o.enforceGateway, percent),
		"split_external_local_origin_errors":    set(p, "Breakers.Counts", &o.split, boolean),
		"consecutive_local_origin_failure":      set(p, "Breakers.ConsecutiveFailures", &o.local, count),
		"enforcing_success_rate":                set(p, "Breakers.BelowMean", &enforceRate, percent),
		"success_rate_minimum_hosts":            set(p, "Breakers.BelowMean", &o.successHosts, count),
		"success_rate_request_volume":           set(p, "Breakers.BelowMean", &o.successVolume, count),
		"success_rate_stdev_factor":             set(p, "Breakers.BelowMean", &o.stdev, count),
		"failure_percentage_threshold":          set(p, "Breakers.FailureRatio", &failurePercent, percent),
		"enforcing_failure_percentage":          set(p, "Breakers.FailureRatio", &enforceFailures, percent),
		"failure_percentage_minimum_hosts":      set(p, "Breakers.MinEndpoints", &o.failureHosts, count),
		"failure_percentage_request_volume":     set(p, "Breakers.MinCalls", &o.failureVolume, count),
		"always_eject_one_host":                 set(p, "Breakers.AtLeastOne", &o.alwaysOne, boolean),
	}.dropping("failures of the client itself are detected in a row only", "enforcing_local_origin_success_rate",
		"enforcing_failure_percentage_local_origin", "enforcing_consecutive_local_origin_failure").
		dropping("ejection times have no jitter here", "max_ejection_time_jitter").
		dropping(noActiveChecks, "successful_active_health_check_uneject_host", "detect_degraded_hosts").
		dropping("a plugin of Envoy", "monitors"))
	for _, key := range []string{"enforcing_consecutive_5xx", "enforcing_consecutive_gateway_failure", "enforcing_success_rate", "enforcing_failure_percentage"} {
		if set := n.get(key); set != nil && set.value() != "0" && set.value() != "100" {
			r.change(set, Approximated, always)
		}
	}
	o.successRate = enforceRate > 0
	if enforceFailures > 0 {
		o.failurePercent = failurePercent
	}
	off := func(enforcing string, value int, fields ...string) {
		for _, field := range fields {
			if set := n.get(field); set != nil && value == 0 {
				r.change(set, Dropped, enforcing+" is 0: it is not enforced")
			}
		}
	}
	off("enforcing_consecutive_5xx", o.enforce5xx, "consecutive_5xx")
	off("enforcing_consecutive_gateway_failure", o.enforceGateway, "consecutive_gateway_failure")
	off("enforcing_success_rate", enforceRate, "success_rate_minimum_hosts", "success_rate_request_volume", "success_rate_stdev_factor")
	off("enforcing_failure_percentage", enforceFailures, "failure_percentage_threshold", "failure_percentage_minimum_hosts", "failure_percentage_request_volume")
	if local := n.get("consecutive_local_origin_failure"); local != nil && !o.split {
		r.change(local, Dropped, "counts only with split_external_local_origin_errors: true")
	}
	p.Breakers = o.breakers()
	r.byDefault(n, missing(n, "consecutive_5xx: 5", "interval: 10s", "base_ejection_time: 30s", "max_ejection_percent: 10",
		"enforcing_success_rate: 100, so hosts 1.9 deviations below the mean are ejected too"))
}

// change gives the entry for n another kind.
func (r *reader) change(n *node, kind Kind, sentence string) { r.changeAt(r.place(n), kind, sentence) }

// changeAt gives the entry for a place another kind.
func (r *reader) changeAt(place Place, kind Kind, sentence string) {
	for i := range r.report {
		if r.report[i].Place == place {
			r.report[i].Kind, r.report[i].Sentence = kind, sentence
		}
	}
}
