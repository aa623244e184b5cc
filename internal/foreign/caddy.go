package foreign

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parseCaddy reads a Caddyfile or Caddy's JSON.
func parseCaddy(name string, data []byte) ([]*node, error) {
	if caddyIsJSON(data) {
		return parseYAML(name, data)
	}
	return parseBlocks(name, data, false)
}

// caddyIsJSON reports whether data is JSON: a Caddyfile that begins with a brace goes on in the
// next line, and not with a quote.
func caddyIsJSON(data []byte) bool {
	rest, brace := bytes.CutPrefix(bytes.TrimSpace(data), []byte("{"))
	return brace && bytes.HasPrefix(bytes.TrimSpace(rest), []byte(`"`))
}

// caddy reads every reverse_proxy. Each is one policy.
type caddy struct {
	all      []Policy
	snippets map[string]*node // by name
	imports  int              // of snippets, into the present reverse_proxy
}

// maxImports bounds the work: snippets that import each other can expand to billions of settings.
const maxImports = 100

func readCaddy(r *reader, roots []*node) []Policy {
	c := caddy{snippets: map[string]*node{}}
	for _, root := range roots {
		if root.get("apps") != nil || root.get("handler") != nil || root.get("handle") != nil || root.get("routes") != nil {
			c.json(r, root, "")
			continue
		}
		c.caddyfile(r, root)
	}
	return c.all
}

// caddyfile reads the sites first, and then the snippets, for what no site has read of them.
func (c *caddy) caddyfile(r *reader, root *node) {
	sites, snippets := *root, *root
	sites.items, snippets.items = nil, nil
	for _, item := range root.items {
		if strings.HasPrefix(item.key, "(") && len(item.args) == 0 {
			c.snippets[strings.Trim(item.key, "()")] = item
			snippets.items = append(snippets.items, item)
			continue
		}
		sites.items = append(sites.items, item)
	}
	c.block(r, &sites, "")
	c.block(r, &snippets, "")
}

// settings returns what is in the block of n, with the snippets that it imports.
func (c *caddy) settings(r *reader, n *node) []*node {
	var all []*node
	for _, item := range n.items {
		if s := c.snippets[strings.Join(item.words(), " ")]; item.key == "import" && s != nil && c.imports < maxImports {
			c.imports++
			r.mark(item, Carried, "")
			all = append(all, c.settings(r, s)...)
			continue
		}
		all = append(all, item)
	}
	return all
}

func caddyPolicy(name string) Policy {
	if name == "" {
		name = "reverse_proxy"
	}
	return Policy{
		Name: name,
		Retry: Retry{
			MaxAttempts: 1, Methods: []string{"GET"}, UnsentAnyMethod: true, Resend: true,
			On: Conditions{Connect: true, Refused: true, Reset: true, Timeout: true},
		},
	}
}

// caddySettings are what both forms have in common.
type caddySettings struct {
	policy   *Policy
	retries  int
	interval time.Duration
	fails    int
	window   time.Duration
	statuses []StatusRange
}

func (s *caddySettings) finish(r *reader, n *node) {
	p := s.policy
	retry := &p.Retry
	switch {
	case s.retries > 0:
		retry.MaxAttempts = s.retries + 1
	case retry.StopAfter > 0:
		retry.MaxAttempts = 0
	}
	if s.interval == 0 && retry.StopAfter > 0 { // also if it is set to 0: Handler.Provision in Caddy's reverseproxy.go
		s.interval = 250 * time.Millisecond
		r.byDefault(n, "lb_try_interval: 250ms")
	}
	if s.interval > 0 {
		retry.Backoff = Backoff{Kind: BackoffFixed, Base: s.interval}
	}
	if retry.MaxAttempts == 1 {
		r.byDefault(n, "no retries without lb_retries or lb_try_duration")
	} else {
		r.byDefault(n, "retried are failed connections, and other failures without an answer if the method is GET")
	}
	if s.window > 0 {
		p.Breakers = []Breaker{{
			Scope: ScopeEndpoint, Failures: max(1, s.fails), Window: s.window, WhileCounted: true, OpenFor: s.window, MaxEjected: 1,
			Counts: Conditions{Statuses: s.statuses, Connect: true, Refused: true, Reset: true, Timeout: true},
		}}
	} else {
		r.byDefault(n, "fail_duration: 0, so failures of an upstream are not remembered")
	}
	if p.ConnectTimeout == 0 { // HTTPTransport.NewTransport in Caddy's httptransport.go
		p.ConnectTimeout = 3 * time.Second
		r.byDefault(n, "dial_timeout: 3s")
	}
}

// caddyDuration accepts durations as Go writes them, with days.
func caddyDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 250ms", caddyTime)(r, n)
}

// caddyNumber is caddyDuration for JSON, where a number is nanoseconds.
func caddyNumber(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 250ms, or a number of nanoseconds", func(s string) (time.Duration, bool) {
		if v, err := strconv.ParseInt(s, 10, 64); err == nil {
			return time.Duration(v), true
		}
		return caddyTime(s)
	})(r, n)
}

// caddyTime reads a duration. Go does not know days: they become hours.
func caddyTime(s string) (time.Duration, bool) {
	valid := true
	s = caddyDays.ReplaceAllStringFunc(s, func(days string) string {
		v, err := strconv.ParseFloat(strings.TrimSuffix(days, "d"), 64)
		valid = valid && err == nil
		return strconv.FormatFloat(24*v, 'f', -1, 64) + "h"
	})
	d, ok := goDuration(s)
	return d, ok && valid
}

var caddyDays = regexp.MustCompile(`[0-9.]{1,12}d`)

// caddyStatus accepts 503 and 5xx. In JSON, 5 means 5xx.
func caddyStatus(s string) (StatusRange, bool) {
	if len(s) == 1 {
		s += "xx"
	}
	if class, ok := statusClass(s); ok {
		return class, true
	}
	status, ok := statusRange(s)
	return status, ok && status.Low == status.High
}

// block looks for reverse_proxy at any depth of a Caddyfile.
func (c *caddy) block(r *reader, n *node, name string) {
	for _, item := range n.items {
		switch {
		case item.key == "reverse_proxy":
			c.proxy(r, item, name)
		case item.key == "import" && c.snippets[strings.Join(item.words(), " ")] != nil:
			ignore(r, item) // it is read where it is defined
		case item.key == "import":
			r.mark(item, Dropped, includedFile)
		case len(item.items) > 0:
			inner := strings.TrimSpace(strings.TrimSuffix(strings.Join(append([]string{item.key}, item.words()...), " "), ","))
			if name != "" {
				inner = name + " " + inner
			}
			for _, arg := range item.args {
				r.mark(arg, Unrelated, "")
			}
			c.block(r, item, inner)
		default:
			r.nearMiss(item, []string{"reverse_proxy"})
			ignore(r, item)
		}
	}
}

func (c *caddy) proxy(r *reader, n *node, name string) {
	p := caddyPolicy(name)
	s := caddySettings{policy: &p, fails: 1}
	for i, arg := range n.args {
		if i == 0 && (strings.HasPrefix(arg.text, "/") || strings.HasPrefix(arg.text, "@")) {
			p.Name = strings.TrimSpace(name + " " + arg.text)
		}
		r.mark(arg, Unrelated, "")
	}
	var unused Policy
	f, onlyCheck := caddyFields(&s), caddyFields(&caddySettings{policy: &unused})
	c.imports = 0
	settings := c.settings(r, n)
	last := lastOf(settings, keyOf)
	for _, item := range settings {
		switch {
		case strings.HasPrefix(item.key, "@"):
			ignore(r, item)
		case caddyOnce(item.key) && last[item.key] != item:
			first := len(r.report)
			r.setting(item, onlyCheck)
			unused.From = nil
			r.replaced(first)
		default:
			r.setting(item, f)
		}
	}
	s.finish(r, n)
	c.all = append(c.all, p)
}

// caddyFields are the settings of a reverse_proxy in a Caddyfile.
func caddyFields(s *caddySettings) fields {
	p := s.policy
	return fields{
		"lb_retries":      one(set(p, "Retry.MaxAttempts", &s.retries, whole(0, maxWhole))),
		"lb_try_duration": one(set(p, "Retry.StopAfter", &p.Retry.StopAfter, caddyDuration)),
		"lb_try_interval": one(set(p, "Retry.Backoff", &s.interval, caddyDuration)),
		"lb_retry_match":  func(r *reader, n *node) { caddyRetryMatch(r, n, p) },
		"max_fails":       one(set(p, "Breakers.Failures", &s.fails, whole(0, maxWhole))),
		"fail_duration":   one(set(p, "Breakers.OpenFor", &s.window, caddyDuration)),
		"unhealthy_status": func(r *reader, n *node) {
			for _, arg := range n.args {
				status, ok := caddyStatus(arg.text)
				if !ok {
					r.fail(arg, "expected a status such as 503 or 5xx, got %q", clip(arg.text))
					continue
				}
				s.statuses = append(s.statuses, status)
				r.mark(arg, Carried, "")
			}
			p.setBy(r, "Breakers.Counts", n)
		},
		"lb_policy": func(r *reader, n *node) {
			p.RoundRobin = len(n.args) > 0 && n.args[0].text == "round_robin"
			ignore(r, n)
		},
		"import":                  drop(includedFile),
		"unhealthy_latency":       drop(caddySlow),
		"unhealthy_request_count": one(caddyRequestCount(p)),
		"transport":               func(r *reader, n *node) { caddyTransport(r, n, p) },
	}.dropping(noActiveChecks, "health_uri", "health_path", "health_upstream", "health_port", "health_interval", "health_passes",
		"health_fails", "health_timeout", "health_status", "health_body", "health_method", "health_request_body",
		"health_follow_redirects", "health_headers").
		ignoring("to", "dynamic", "flush_interval", "request_buffers", "response_buffers", "stream_buffer_size",
			"stream_timeout", "stream_close_delay", "verbose_logs", "proxy_status_name", "trusted_proxies", "header_up",
			"header_down", "method", "rewrite", "replace_status", "handle_response", "buffer_requests",
			"buffer_responses", "max_buffer_size")
}

// caddyOnce reports whether the last of several settings with this name counts.
func caddyOnce(name string) bool {
	return slices.Contains([]string{
		"lb_retries", "lb_try_duration", "lb_try_interval", "max_fails", "fail_duration", "unhealthy_request_count",
	}, name)
}

const caddySlow = "slow answers do not count as failures here"

func caddyRequestCount(p *Policy) action {
	return func(r *reader, n *node) {
		first := len(r.report)
		set(p, "Concurrency.MaxRequests", &p.Concurrency.MaxRequests, whole(0, maxWhole))(r, n)
		p.Concurrency.PerEndpoint, p.Concurrency.SkipFull = true, true
		r.approximate(first, "an endpoint with this many requests in flight gets no more")
	}
}

func caddyRetryMatch(r *reader, n *node, p *Policy) {
	var methods []string
	other := false
	each := func(key string, args []*node) {
		if key != "method" {
			other = true
			return
		}
		for _, arg := range args {
			methods = append(methods, strings.ToUpper(arg.text))
			r.mark(arg, Carried, "")
		}
	}
	if len(n.args) > 0 {
		each(n.args[0].text, n.args[1:])
		if !other {
			r.mark(n.args[0], Carried, "")
		}
	}
	for _, item := range n.items {
		each(item.key, item.args)
	}
	if other || len(methods) == 0 {
		r.mark(n, Dropped, "only methods can decide about retries")
	}
	if len(methods) > 0 {
		if p.From["Retry.Methods"] != nil { // one matcher of several is enough
			methods = slices.Concat(p.Retry.Methods, methods)
		}
		p.Retry.Methods = methods
		p.setBy(r, "Retry.Methods", n)
	}
}

func caddyTransport(r *reader, n *node, p *Policy) {
	for _, arg := range n.args {
		r.mark(arg, Unrelated, "")
	}
	f := caddyTransportFields(p, caddyDuration, one)
	for _, item := range n.items {
		r.setting(item, f)
	}
}

// caddyTransportFields are the settings of the HTTP and FastCGI transports in both forms.
func caddyTransportFields(p *Policy, duration parser[time.Duration], value func(action) action) fields {
	return fields{
		"dial_timeout":            value(set(p, "ConnectTimeout", &p.ConnectTimeout, duration)),
		"response_header_timeout": value(set(p, "TryTimeout", &p.TryTimeout, duration)),
		"max_conns_per_host":      value(approx(set(p, "Concurrency.MaxConnections", &p.Concurrency.MaxConnections, whole(0, maxWhole)), "with HTTP/1, this many requests at a time")),
		"read_timeout":            drop("the time between two reads is not limited"),
		"write_timeout":           drop("the time between two writes is not limited"),
	}.ignoring("protocol", "read_buffer", "write_buffer", "read_buffer_size", "write_buffer_size", "max_response_header", "max_response_header_size",
		"proxy_protocol", "forward_proxy_url", "network_proxy", "dial_fallback_delay", "expect_continue_timeout", "resolver",
		"resolvers", "tls", "tls_client_auth", "tls_insecure_skip_verify", "tls_curves", "tls_timeout", "tls_trusted_ca_certs",
		"tls_server_name", "tls_renegotiation", "tls_except_ports", "tls_trust_pool", "keep_alive", "keepalive",
		"keepalive_interval", "keepalive_idle_conns", "keepalive_idle_conns_per_host", "versions", "compression",
		"local_address", "root", "split", "split_path", "env", "resolve_root_symlink", "capture_stderr")
}

// json looks for the handler reverse_proxy at any depth of Caddy's JSON.
func (c *caddy) json(r *reader, n *node, name string) {
	if n.get("handler").value() == "reverse_proxy" {
		c.handler(r, n, name)
		return
	}
	if n.shape == mapping && n.get("match") != nil {
		for _, m := range n.get("match").items {
			for _, key := range []string{"host", "path"} {
				if values := m.get(key); values != nil && len(values.items) > 0 {
					name = strings.TrimSpace(name + " " + values.items[0].value())
				}
			}
		}
	}
	if len(n.items) == 0 {
		ignore(r, n)
	}
	for _, item := range n.items {
		c.json(r, item, name)
	}
}

func plain(do action) action { return do }

func (c *caddy) handler(r *reader, n *node, name string) {
	p := caddyPolicy(name)
	s := caddySettings{policy: &p, fails: 1}
	r.object(n, fields{
		"transport": func(r *reader, n *node) { r.object(n, caddyTransportFields(&p, caddyNumber, plain)) },
		"load_balancing": func(r *reader, n *node) {
			r.object(n, fields{
				"retries":      set(&p, "Retry.MaxAttempts", &s.retries, whole(0, maxWhole)),
				"try_duration": set(&p, "Retry.StopAfter", &p.Retry.StopAfter, caddyNumber),
				"try_interval": set(&p, "Retry.Backoff", &s.interval, caddyNumber),
				"retry_match":  func(r *reader, n *node) { caddyMatchers(r, n, &p) },
				"selection_policy": func(r *reader, n *node) {
					p.RoundRobin = n.get("policy").value() == "round_robin"
					ignore(r, n)
				},
			})
		},
		"health_checks": func(r *reader, n *node) {
			r.object(n, fields{
				"active": drop(noActiveChecks),
				"passive": func(r *reader, n *node) {
					r.object(n, fields{
						"max_fails":               set(&p, "Breakers.Failures", &s.fails, whole(0, maxWhole)),
						"fail_duration":           set(&p, "Breakers.OpenFor", &s.window, caddyNumber),
						"unhealthy_latency":       drop(caddySlow),
						"unhealthy_request_count": caddyRequestCount(&p),
						"unhealthy_status": func(r *reader, n *node) {
							r.list(n, func(r *reader, n *node) {
								status, ok := caddyStatus(n.value())
								if !ok {
									r.fail(n, "expected a status such as 503 or 5, got %s", n.describe())
									return
								}
								s.statuses = append(s.statuses, status)
								r.mark(n, Carried, "")
							})
							p.setBy(r, "Breakers.Counts", n)
						},
					})
				},
			})
		},
		"circuit_breaker": drop("a plugin of Caddy"),
	}.ignoring("handler", "upstreams", "dynamic_upstreams", "flush_interval", "trusted_proxies", "headers", "request_buffers",
		"response_buffers", "proxy_status_name", "stream_timeout", "stream_buffer_size", "stream_close_delay", "rewrite",
		"handle_response", "verbose_logs"))
	s.finish(r, n)
	c.all = append(c.all, p)
}

// caddyMatchers reads matchers of requests, if they are about methods only.
func caddyMatchers(r *reader, n *node, p *Policy) {
	var methods []string
	for _, matcher := range n.items {
		if matcher.get("method") == nil || len(matcher.items) != 1 {
			methods = nil
			break
		}
		for _, m := range matcher.get("method").items {
			methods = append(methods, m.value())
		}
	}
	if len(methods) == 0 || slices.Contains(methods, "") {
		r.mark(n, Dropped, "only methods can decide about retries")
		return
	}
	p.Retry.Methods = methods
	p.setBy(r, "Retry.Methods", n)
	r.mark(n, Carried, "")
}
