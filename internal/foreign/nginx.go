package foreign

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
)

func parseNginx(name string, data []byte) ([]*node, error) { return parseBlocks(name, data, true) }

// nginx reads the locations that pass requests on. Each is one policy; the upstream block of the
// same name adds its servers' limits.
type nginx struct {
	upstreams map[string]*nginxUpstream
	locations []nginxLocation
}

type nginxLocation struct {
	policy   Policy
	upstream string
}

type nginxUpstream struct {
	policy  Policy
	servers int // without backups
	peers   int
	address string // of the first
	fails   int
	window  time.Duration
}

// nginxSettings are the settings of one protocol module at one level. A block inherits those of the
// blocks around it.
type nginxSettings struct {
	policy Policy // with the default or the inherited values
	off    bool
}

// nginxModules are the modules that pass requests on.
func nginxModules() []string {
	return []string{"proxy", "grpc", "fastcgi", "uwsgi", "scgi", "memcached"}
}

func readNginx(r *reader, roots []*node) []Policy {
	x := nginx{upstreams: map[string]*nginxUpstream{}}
	levels := map[string]nginxSettings{}
	for _, module := range nginxModules() {
		levels[module] = nginxDefaults()
	}
	for _, root := range roots {
		x.collect(r, root)
	}
	for _, root := range roots {
		x.block(r, root, levels, "")
	}
	return x.policies()
}

func nginxDefaults() nginxSettings {
	return nginxSettings{policy: Policy{
		ConnectTimeout: 60 * time.Second, TryTimeout: 60 * time.Second,
		Retry: Retry{
			OncePerEndpoint: true, OtherEndpoint: true, Methods: IdempotentMethods(), UnsentAnyMethod: true,
			On: nginxConditions("error", "timeout"),
		},
	}}
}

func (x *nginx) policies() []Policy {
	var all []Policy
	for _, l := range x.locations {
		p := l.policy
		if u := x.upstreams[l.upstream]; u != nil {
			p.Concurrency = u.policy.Concurrency
			p.setFrom(&u.policy, "Concurrency")
			if u.peers > 1 && u.fails > 0 {
				counts := p.Retry.On
				counts.Statuses = slices.DeleteFunc(slices.Clone(counts.Statuses), func(s StatusRange) bool { return s.Low == 403 || s.Low == 404 })
				counts.Connect, counts.Refused, counts.Reset, counts.Timeout = true, true, true, true
				p.Breakers = []Breaker{{
					Scope: ScopeEndpoint, Failures: u.fails, Window: u.window, FixedWindow: true, FromLastFailure: true, IfRepeated: true,
					OpenFor: u.window, HalfOpenCalls: 1, MaxEjected: 1, Counts: counts,
				}}
				if u.window > 0 { // nginx counts in whole seconds
					p.Breakers[0].OpenJitter = float64(time.Second) / float64(u.window)
				}
				p.setFrom(&u.policy, "Breakers")
			}
		}
		all = append(all, p)
	}
	return all
}

// collect reads the upstream blocks, which may come after their use.
func (x *nginx) collect(r *reader, n *node) {
	for _, item := range n.items {
		switch item.key {
		case "upstream":
			x.upstream(r, item)
		case "http":
			x.collect(r, item)
		}
	}
}

func (x *nginx) upstream(r *reader, n *node) {
	if len(n.args) != 1 {
		r.fail(n, "expected the name of the upstream")
		return
	}
	r.mark(n.args[0], Unrelated, "")
	name := n.args[0].text
	if x.upstreams[name] != nil {
		r.fail(n, "the upstream %s is already given: nginx refuses it", clip(name))
	}
	u := &nginxUpstream{fails: 1, window: 10 * time.Second}
	x.upstreams[name] = u
	f := fields{
		"server":       func(r *reader, n *node) { u.server(r, n) },
		"queue":        drop("requests do not wait for a server"),
		"health_check": drop(noActiveChecks),
		"check":        drop(noActiveChecks),
	}.ignoring("zone", "state", "hash", "ip_hash", "keepalive", "keepalive_requests", "keepalive_time", "keepalive_timeout",
		"least_conn", "least_time", "ntlm", "random", "resolver", "resolver_timeout", "sticky", "sticky_cookie_insert", "match", "round_robin")
	for _, item := range n.items {
		r.setting(item, f)
	}
	if u.peers == 1 {
		r.byDefault(n, "with one server, nginx does not count its failures")
	}
	if u.peers > 1 && len(u.policy.From["Breakers.Failures"])+len(u.policy.From["Breakers.OpenFor"]) == 0 {
		r.byDefault(n, "max_fails=1 fail_timeout=10s")
	}
}

// setting reads one setting, which must be in f.
func (r *reader) setting(n *node, f fields) {
	do, known := f[n.key]
	if !known {
		r.unknown(n, f)
		return
	}
	do(r, n)
}

// server reads the parameters of a server. Those of the first one count for all.
func (u *nginxUpstream) server(r *reader, n *node) {
	fails, window := 1, 10*time.Second
	backup := false
	for i, arg := range n.args {
		key, value, assigned := strings.Cut(arg.text, "=")
		inner := &node{path: arg.path, text: value, line: arg.line, column: arg.column + columns(key) + 1}
		switch {
		case i == 0, key == "weight", key == "down" && !assigned, key == "resolve" && !assigned, key == "route", key == "service", key == "drain" && !assigned:
			r.mark(arg, Unrelated, "")
		case key == "max_fails":
			u.parameter(r, arg, "Breakers.Failures", keep(&fails, whole(0, maxWhole)), inner)
		case key == "fail_timeout":
			u.parameter(r, arg, "Breakers.OpenFor", keep(&window, nginxTime), inner)
		case key == "max_conns":
			u.policy.Concurrency.PerEndpoint, u.policy.Concurrency.SkipFull = true, true
			u.parameter(r, arg, "Concurrency.MaxRequests", keep(&u.policy.Concurrency.MaxRequests, whole(0, maxWhole)), inner)
		case key == "backup" && !assigned:
			backup = true
			r.mark(arg, Dropped, "all servers get requests; a backup is left out")
		case key == "slow_start":
			r.mark(arg, Dropped, "a server gets its full share at once")
		default:
			near := meant(key, []string{"weight", "down", "resolve", "route", "service", "drain", "max_fails", "fail_timeout", "max_conns", "backup", "slow_start"})
			if near != "" {
				r.fail(arg, "unknown parameter, did you mean %q?", near)
			} else {
				r.fail(arg, "unknown parameter %q", clip(arg.text))
			}
		}
	}
	u.peers++
	if u.peers == 1 && len(n.args) > 0 {
		u.address = n.args[0].text
	}
	if backup {
		return
	}
	if u.servers++; u.servers == 1 {
		u.fails, u.window = fails, window
	} else if u.fails != fails || u.window != window {
		r.byDefault(n, "the first server's max_fails and fail_timeout are taken for all servers")
	}
}

// parameter reads the value of a parameter such as max_fails=3, and notes it for the whole word.
func (u *nginxUpstream) parameter(r *reader, arg *node, field string, do action, value *node) {
	before := len(r.report)
	do(r, value)
	r.report = r.report[:before]
	r.mark(arg, Carried, "")
	u.policy.setBy(r, field, arg)
}

// block reads the settings of a block and goes into those below.
func (x *nginx) block(r *reader, n *node, outer map[string]nginxSettings, name string) {
	levels := map[string]nginxSettings{}
	for module, s := range outer {
		levels[module] = s
	}
	if n.key == "server" {
		for _, item := range n.items {
			if item.key == "server_name" && len(item.args) > 0 {
				name = item.args[0].text
			}
		}
	}
	if n.key == "location" {
		name = strings.TrimPrefix(name+" "+strings.Join(n.words(), " "), " ")
	}
	for _, arg := range n.args {
		r.mark(arg, Unrelated, "")
	}
	var passes []*node
	var inner []*node
	here := map[string]*node{} // the settings of modules
	for _, item := range n.items {
		module, rest, _ := strings.Cut(item.key, "_")
		switch {
		case item.key == "upstream":
			// collected
		case item.key == "stream" || item.key == "mail":
			r.mark(item, Dropped, "is not HTTP")
		case slices.Contains(nginxModules(), module) && rest != "":
			s := levels[module]
			if rest == "pass" {
				passes = append(passes, item)
				r.mark(item, Unrelated, "")
				continue
			}
			if first := here[item.key]; first != nil && nginxOnce(rest) {
				r.fail(item, "the setting is already given on line %d: nginx refuses it", first.line)
			} else if first != nil && rest == "next_upstream" { // nginx adds them up
				both := *item
				both.args = slices.Concat(first.args, item.args)
				item = &both
			}
			here[item.key] = item
			s.read(r, item, module, rest)
			levels[module] = s
		case len(item.items) > 0 && !strings.HasSuffix(item.key, "_by_lua_block"):
			inner = append(inner, item)
		case strings.HasPrefix(item.key, "limit_req"), strings.HasPrefix(item.key, "limit_conn"):
			r.mark(item, Dropped, "a limit for each caller")
		case item.key == "include":
			r.mark(item, Dropped, includedFile)
		default:
			r.nearMiss(item, append(nginxWords(), "upstream", "proxy_pass"))
			ignore(r, item)
		}
	}
	for _, pass := range passes {
		x.pass(r, pass, levels, name)
	}
	for _, item := range inner {
		r.nearMiss(item, []string{"upstream"})
		x.block(r, item, levels, name)
	}
}

// nginxOnce reports whether a module's setting may be given only once in a block.
func nginxOnce(setting string) bool {
	return slices.Contains([]string{"connect_timeout", "read_timeout", "send_timeout", "next_upstream_timeout", "next_upstream_tries"}, setting)
}

// includedFile is why a reference to another file is dropped.
const includedFile = "what it names is not read: import it too"

// nginxWords are the settings about failures.
func nginxWords() []string {
	return []string{
		"proxy_connect_timeout", "proxy_read_timeout", "proxy_send_timeout", "proxy_next_upstream",
		"proxy_next_upstream_timeout", "proxy_next_upstream_tries",
	}
}

// nearMiss reports a setting that is probably a misspelling of a known one. It is for formats with
// too many settings to know them all.
func (r *reader) nearMiss(n *node, known []string) {
	for _, word := range known {
		if d := config.Distance(strings.ToLower(n.key), word); 0 < d && d <= min(2, 1+len(word)/7) {
			r.failAt(n.keyLine, n.keyColumn, n.path, "unknown setting, did you mean %q?", word)
			return
		}
	}
}

func (x *nginx) pass(r *reader, n *node, levels map[string]nginxSettings, name string) {
	module, _, _ := strings.Cut(n.key, "_")
	s := levels[module]
	p := s.policy
	if p.Name = name; name == "" {
		p.Name = strings.Join(n.words(), " ")
	}
	if s.off || p.Retry.MaxAttempts == 1 {
		p.Retry.MaxAttempts, p.Retry.OncePerEndpoint = 1, false
	}
	target := strings.Join(n.words(), " ")
	if _, after, ok := strings.Cut(target, "://"); ok {
		target = after
	}
	target, _, _ = strings.Cut(target, "/")
	if x.alone(target) && p.Retry.MaxAttempts != 1 {
		p.Retry.MaxAttempts, p.Retry.OncePerEndpoint = 1, false
		r.byDefault(n, "with one server, nginx has none to try next")
	}
	var left []string
	for key, text := range map[string]string{
		"ConnectTimeout": "connect_timeout: 60s", "TryTimeout": "read_timeout: 60s", "Retry.On": "next_upstream: error timeout",
		"Retry.MaxAttempts": "next_upstream_tries: 0, as many as there are servers", "Retry.StopAfter": "next_upstream_timeout: 0, no limit",
	} {
		if len(p.From[key]) == 0 {
			left = append(left, module+"_"+text)
		}
	}
	slices.Sort(left)
	r.byDefault(n, strings.Join(left, ", "))
	x.locations = append(x.locations, nginxLocation{p, target})
}

// alone reports whether a target is one address: an upstream of one server, or no upstream. A name
// may stand for several addresses.
func (x *nginx) alone(target string) bool {
	if u := x.upstreams[target]; u != nil {
		if u.peers != 1 {
			return false
		}
		target = u.address
	}
	if host, _, err := net.SplitHostPort(target); err == nil {
		target = host
	}
	_, err := netip.ParseAddr(strings.Trim(target, "[]"))
	return err == nil || strings.HasPrefix(target, "unix:")
}

// nginxTime accepts times such as 30s, 1m30s and 500ms. A number is seconds.
func nginxTime(r *reader, n *node) (time.Duration, bool) {
	return spans("a time such as 30s", func(s string) (time.Duration, bool) {
		known := map[string]time.Duration{
			"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
			"w": 7 * 24 * time.Hour, "M": 30 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
		}
		return amounts(s, time.Second, known, len(known))
	})(r, n)
}

// read reads one setting of a module. The settings that inherit it must not change.
func (s *nginxSettings) read(r *reader, n *node, module, rest string) {
	p := &s.policy
	p.From = maps.Clone(p.From)
	if strings.HasPrefix(rest, "ssl_") || strings.HasPrefix(rest, "cache_") && rest != "cache_use_stale" {
		ignore(r, n)
		return
	}
	words := module + "_next_upstream"
	f := fields{
		module + "_connect_timeout":       one(set(p, "ConnectTimeout", &p.ConnectTimeout, nginxTime)),
		module + "_read_timeout":          one(approx(set(p, "TryTimeout", &p.TryTimeout, nginxTime), "nginx limits the time between two reads, taken for the time of an attempt")),
		module + "_send_timeout":          drop("the time between two writes of the request is not limited"),
		module + "_next_upstream_timeout": one(set(p, "Retry.StopAfter", &p.Retry.StopAfter, nginxTime)),
		module + "_next_upstream_tries":   one(set(p, "Retry.MaxAttempts", &p.Retry.MaxAttempts, whole(0, maxWhole))),
		module + "_cache_use_stale":       drop("there is no cache to answer from"),
		words:                             s.nextUpstream,
	}
	for _, key := range nginxOther() {
		f.ignoring(module + "_" + key)
	}
	r.setting(n, f)
}

// nginxOther are the settings of the modules that say nothing about failures, without the module.
func nginxOther() []string {
	return strings.Fields(`allow_upstream bind buffer_size buffering buffers busy_buffers_size cache cookie_domain cookie_flags
		cookie_path force_ranges headers_hash_bucket_size headers_hash_max_size hide_header http_version ignore_client_abort
		ignore_headers intercept_errors limit_rate max_temp_file_size method no_cache pass_header pass_request_body
		pass_request_headers pass_trailers redirect request_buffering request_dynamic send_lowat set_body set_header
		socket_keepalive store store_access temp_file_write_size temp_path catch_stderr index keep_conn param
		split_path_info gzip_flag modifier1 modifier2 protocol protocol_timeout script_name headers_hash pass_headers
		hide_headers upload_rate download_rate session_drop responses requests`)
}

func nginxConditionWords() []string {
	return []string{
		"error", "timeout", "denied", "invalid_header", "http_500", "http_502", "http_503", "http_504", "http_403",
		"http_404", "http_429", "non_idempotent", "off",
	}
}

func nginxConditions(words ...string) Conditions {
	var c Conditions
	for _, w := range words {
		c.nginxWord(w)
	}
	return c
}

func (c *Conditions) nginxWord(word string) {
	switch word {
	case "error":
		c.Connect, c.Refused, c.Reset = true, true, true
	case "timeout":
		c.Connect, c.Timeout = true, true
	default:
		if code, err := strconv.Atoi(strings.TrimPrefix(word, "http_")); err == nil {
			c.Statuses = append(c.Statuses, StatusRange{code, code})
		}
	}
}

func (s *nginxSettings) nextUpstream(r *reader, n *node) {
	p := &s.policy
	p.Retry.On, p.Retry.Methods, s.off = Conditions{}, IdempotentMethods(), false
	for _, arg := range n.args {
		switch {
		case !slices.Contains(nginxConditionWords(), arg.text):
			r.badWord(arg, "condition", arg.text, nginxConditionWords())
		case arg.text == "off":
			s.off = true
		case arg.text == "non_idempotent":
			p.Retry.Methods = nil
		case arg.text == "denied", arg.text == "invalid_header":
			r.mark(arg, Dropped, "an answer that is not HTTP, or that a server's access rules refuse, is not simulated")
		}
		p.Retry.On.nginxWord(arg.text)
		r.mark(arg, Carried, "")
	}
	p.setBy(r, "Retry.On", n)
}
