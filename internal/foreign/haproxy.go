package foreign

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// haproxySections are the words that begin a section.
func haproxySections() []string {
	return []string{
		"global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist", "mailers", "cache", "program",
		"ring", "http-errors", "fcgi-app", "log-forward", "crt-store", "traces", "acme", "log-profile", "dynamic-update",
	}
}

// parseHAProxy reads lines of words into sections.
func parseHAProxy(name string, data []byte) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	root := &node{shape: mapping, line: 1, column: 1}
	var section *node
	var errs mistake.List
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		words, open := haproxyWords(strings.TrimRight(line, "\r\n"), number)
		if open != 0 {
			errs = append(errs, &mistake.Mistake{File: name, Line: number, Column: open, Message: "this quote is never closed"})
			continue
		}
		if len(words) == 0 {
			continue
		}
		n := words[0]
		if strings.HasPrefix(n.text, ".if") || strings.HasPrefix(n.text, ".el") {
			errs = append(errs, &mistake.Mistake{
				File: name, Line: number, Column: n.column, Message: "what stands below " + clip(n.text) + " depends on where HAProxy runs: take out the lines that do not apply",
			})
			continue
		}
		n.shape, n.key, n.args, n.text = mapping, n.text, words[1:], ""
		if slices.Contains(haproxySections(), n.key) {
			n.path = strings.TrimSpace(n.key + " " + strings.Join(n.words(), " "))
			root.items = append(root.items, n)
			section = n
		} else {
			if section == nil {
				errs = append(errs, &mistake.Mistake{File: name, Line: number, Column: n.column, Message: "expected a section such as defaults or backend first"})
				break
			}
			n.path = section.path + ": " + n.key
			section.items = append(section.items, n)
		}
		for _, arg := range n.args {
			arg.path = n.path
		}
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	return []*node{root}, nil
}

// haproxyWords splits a line. Quotes and a backslash keep spaces; # begins a comment. open is the
// column of a quote that is never closed, or 0.
func haproxyWords(line string, number int) (words []*node, open int) {
	var word strings.Builder
	start, quote := -1, byte(0)
	end := func() {
		if start >= 0 {
			column := 1 + utf8.RuneCountInString(line[:start])
			words = append(words, &node{text: word.String(), line: number, column: column, keyLine: number, keyColumn: column})
		}
		word.Reset()
		start = -1
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			end()
			continue
		case quote == 0 && c == '#':
			end()
			return words, 0
		}
		if start < 0 {
			start = i
		}
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, 1+utf8.RuneCountInString(line[:i])
		case quote == c:
			quote, open = 0, 0
		default:
			word.WriteByte(c)
		}
	}
	end()
	return words, open
}

// haproxy reads backends. Each is one policy.
type haproxy struct {
	defaults map[string]haproxyPart
	last     string         // the name of the last defaults section
	lines    map[string]int // of the backends, by name
	all      []Policy
}

// haproxyPart is what a section says.
type haproxyPart struct {
	policy  Policy
	mode    string
	servers int
	redo    bool // retries of more than failed connections
	server  haproxyServer
}

// haproxyServer are the parameters of the servers of a backend.
type haproxyServer struct {
	observe, onError string
	limit, rise      int
	inter            time.Duration
}

func readHAProxy(r *reader, roots []*node) []Policy {
	x := haproxy{defaults: map[string]haproxyPart{"": haproxyStart()}, lines: map[string]int{}}
	for _, root := range roots {
		for _, section := range root.items {
			switch section.key {
			case "defaults":
				x.section(r, section)
			case "backend", "listen":
				x.section(r, section)
			case "frontend":
				x.frontend(r, section)
			default:
				ignore(r, section)
			}
		}
	}
	return x.all
}

func haproxyStart() haproxyPart {
	return haproxyPart{
		policy: Policy{RoundRobin: true, Retry: Retry{
			MaxAttempts: 4, SameEndpoint: true, On: Conditions{Connect: true}, Backoff: Backoff{Kind: BackoffFixed, Base: time.Second},
		}},
		server: haproxyServer{limit: 10, rise: 2, inter: 2 * time.Second, onError: "fail-check"},
	}
}

func (x *haproxy) section(r *reader, n *node) {
	words := n.words()
	for _, arg := range n.args {
		r.mark(arg, Unrelated, "")
	}
	base := x.last
	if i := slices.Index(words, "from"); i >= 0 && i+1 < len(words) {
		base = words[i+1]
		if _, ok := x.defaults[base]; !ok {
			r.fail(n.args[i+1], "there is no defaults section of this name")
		}
	}
	part := x.defaults[base]
	if n.key == "defaults" && !slices.Contains(words, "from") {
		part = haproxyStart()
	}
	for _, item := range n.items {
		if item.key == "mode" && len(item.args) == 1 {
			part.mode = item.args[0].text
		}
	}
	if part.mode == "tcp" && n.key != "defaults" {
		r.mark(n, Dropped, "is not HTTP")
		return
	}
	p := &part.policy
	p.From = maps.Clone(p.From)
	part.lines(r, n.items)
	if n.key == "defaults" {
		x.last = ""
		if len(words) > 0 && words[0] != "from" {
			x.last = words[0]
		}
		x.defaults[x.last] = part
		return
	}
	if p.Name = n.key; len(words) > 0 {
		p.Name = words[0]
	}
	if line, again := x.lines[p.Name]; again {
		r.fail(n, "the name %s is already given on line %d: HAProxy refuses it", clip(p.Name), line)
	}
	x.lines[p.Name] = n.line
	if part.servers == 0 {
		return
	}
	part.finish(r, n)
	x.all = append(x.all, part.policy)
}

// frontend notes that the settings of a frontend are about callers.
func (x *haproxy) frontend(r *reader, n *node) {
	for _, item := range n.items {
		if !slices.Contains(haproxyOther(), item.key) {
			r.nearMiss(item, haproxyKnown())
		}
	}
	ignore(r, n)
}

// haproxyOther are settings that look like those about failures.
func haproxyOther() []string {
	return []string{"tcp-request", "tcp-response", "http-response", "mode", "clitimeout"}
}

func haproxyKnown() []string {
	return []string{"timeout", "retries", "retry-on", "option", "server", "default-server", "server-template", "http-request", "fullconn", "balance"}
}

// lines reads the lines of a section. Of two that set the same, the last counts.
func (part *haproxyPart) lines(r *reader, lines []*node) {
	last := lastOf(lines, haproxySetting)
	for _, n := range lines {
		if setting := haproxySetting(n); setting == "" || last[setting] == n {
			part.line(r, n)
			continue
		}
		unused := *part
		unused.policy.From = nil
		first := len(r.report)
		unused.line(r, n)
		r.replaced(first)
	}
}

// haproxySetting names what a line sets alone, or returns "".
func haproxySetting(n *node) string {
	words := append([]string{n.key}, n.words()...)
	switch {
	case n.key == "timeout" && len(words) > 1:
		return "timeout " + words[1]
	case n.key == "retries", n.key == "retry-on":
		return n.key
	case n.key == "no", n.key == "default":
		words = words[1:]
	}
	if len(words) > 1 && words[0] == "option" && words[1] == "redispatch" {
		return "option redispatch"
	}
	return ""
}

// laterOne is why a setting is dropped that a later one replaces.
const laterOne = "a later setting replaces it"

// replaced drops the entries from number first on, of a setting that a later one replaces.
func (r *reader) replaced(first int) {
	for i := range r.report[first:] {
		r.report[first+i].Kind, r.report[first+i].Sentence = Dropped, laterOne
	}
}

// line reads one line of a section.
func (part *haproxyPart) line(r *reader, n *node) {
	p := &part.policy
	switch n.key {
	case "no", "default":
		if len(n.args) > 1 && n.args[0].text == "option" {
			word := *n.args[1]
			word.key = word.text
			r.nearMiss(&word, []string{"redispatch"})
		}
		if haproxySetting(n) != "" {
			p.Retry.OtherEndpoint, p.Retry.SameEndpoint = false, true
			p.setBy(r, "Retry.OtherEndpoint", n)
			r.mark(n, Carried, "")
			return
		}
		ignore(r, n)
	case "timeout":
		part.timeout(r, n)
	case "retries":
		one(func(r *reader, n *node) {
			if v, ok := whole(0, 1000)(r, n); ok {
				p.Retry.MaxAttempts = v + 1
				p.setBy(r, "Retry.MaxAttempts", n)
				r.mark(n, Carried, "")
			}
		})(r, n)
	case "retry-on":
		part.retryOn(r, n)
	case "option":
		part.option(r, n)
	case "server", "default-server", "server-template":
		part.serverLine(r, n)
	case "balance":
		if len(n.args) > 0 {
			p.RoundRobin = slices.Contains([]string{"roundrobin", "static-rr"}, n.args[0].text)
		}
		ignore(r, n)
	case "fullconn":
		r.mark(n, Dropped, haproxyDynamic)
	case "http-check", "tcp-check":
		r.mark(n, Dropped, noActiveChecks)
	case "contimeout":
		one(approx(set(p, "ConnectTimeout", &p.ConnectTimeout, haproxyTime), "the old name of timeout connect"))(r, n)
	case "srvtimeout":
		one(approx(set(p, "TryTimeout", &p.TryTimeout, haproxyTime), "the old name of timeout server"))(r, n)
	case "http-request":
		if len(n.args) > 0 && n.args[0].text == "set-timeout" {
			r.mark(n, Dropped, "the timeout of a backend is the same for every request")
			return
		}
		if len(n.args) > 0 && n.args[0].text == "disable-l7-retry" {
			p.Retry.UnsentAnyMethod = true
			p.setBy(r, "Retry.Methods", n)
			if len(n.args) == 1 {
				p.Retry.Methods = []string{}
				r.mark(n, Carried, "")
				return
			}
			p.Retry.Methods = IdempotentMethods()
			r.mark(n, Approximated, "whatever the condition, taken for: only idempotent methods are retried, unless nothing was sent")
			return
		}
		ignore(r, n)
	default:
		if !slices.Contains(haproxyOther(), n.key) {
			r.nearMiss(n, haproxyKnown())
		}
		ignore(r, n)
	}
}

// haproxyDynamic is why the settings of HAProxy's dynamic limit are dropped.
const haproxyDynamic = "maxconn is the limit at any load"

// haproxyTime accepts times such as 5s. A number is milliseconds.
func haproxyTime(r *reader, n *node) (time.Duration, bool) {
	return spans("a time such as 5s", func(s string) (time.Duration, bool) {
		return amount(s, time.Millisecond, map[string]time.Duration{
			"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
		})
	})(r, n)
}

func (part *haproxyPart) timeout(r *reader, n *node) {
	if len(n.args) != 2 {
		r.fail(n, "expected a name and a time after timeout")
		return
	}
	p := &part.policy
	f := fields{
		"connect": set(p, "ConnectTimeout", &p.ConnectTimeout, haproxyTime),
		"server":  approx(set(p, "TryTimeout", &p.TryTimeout, haproxyTime), "HAProxy limits the time without any byte from the server, taken for the time of an attempt"),
		"queue":   set(p, "Concurrency.MaxWait", &p.Concurrency.MaxWait, haproxyTime),
	}.ignoring("client", "client-fin", "client-hs", "http-request", "http-keep-alive", "check", "tunnel", "server-fin", "tarpit", "connect-fin")
	name := n.args[0]
	name.key = name.text
	do, known := f[name.key]
	if !known {
		r.unknown(name, f)
		return
	}
	before := len(r.report)
	do(r, n.args[1])
	if len(r.report) > before { // the name belongs to the entry of the time
		name.accounted = true
		r.report[len(r.report)-1].Fields++
	}
}

func haproxyConditions() []string {
	return []string{
		"none", "conn-failure", "empty-response", "junk-response", "response-timeout", "0rtt-rejected", "401", "403", "404", "408",
		"421", "422", "425", "429", "500", "501", "502", "503", "504", "all-retryable-errors",
	}
}

func (part *haproxyPart) retryOn(r *reader, n *node) {
	p := &part.policy
	on := Conditions{}
	part.redo = false
	for _, arg := range n.args {
		if !slices.Contains(haproxyConditions(), arg.text) {
			r.badWord(arg, "condition", arg.text, haproxyConditions())
			continue
		}
		switch arg.text {
		case "none":
		case "conn-failure":
			on.Connect = true
		case "empty-response":
			on.Reset = true
		case "response-timeout":
			on.Timeout = true
		case "junk-response", "0rtt-rejected":
			r.mark(arg, Dropped, "an answer that is not HTTP, and TLS early data, are not simulated")
		case "all-retryable-errors":
			on.Connect, on.Reset, on.Timeout = true, true, true
			on.Statuses = append(on.Statuses, StatusRange{500, 500}, StatusRange{502, 504})
		default:
			code, _ := strconv.Atoi(arg.text) // it is one of the list
			on.Statuses = append(on.Statuses, StatusRange{code, code})
		}
		part.redo = part.redo || arg.text != "none" && arg.text != "conn-failure"
		r.mark(arg, Carried, "")
	}
	p.Retry.On = on
	p.setBy(r, "Retry.On", n)
}

func (part *haproxyPart) option(r *reader, n *node) {
	p := &part.policy
	name := ""
	if len(n.args) > 0 {
		name = n.args[0].text
	}
	switch name {
	case "redispatch":
		p.Retry.OtherEndpoint, p.Retry.SameEndpoint = true, false
		p.setBy(r, "Retry.OtherEndpoint", n)
		r.mark(n, Approximated, "each retry goes to another server; after a timeout of the connection, HAProxy does so at the last retry, or at every Nth")
	case "httpchk", "tcp-check", "mysql-check", "pgsql-check", "redis-check", "smtpchk", "ldap-check", "external-check", "ssl-hello-chk", "spop-check":
		r.mark(n, Dropped, noActiveChecks)
	default:
		if len(n.args) > 0 {
			word := *n.args[0]
			word.key = word.text
			r.nearMiss(&word, []string{"redispatch"})
		}
		ignore(r, n)
	}
}

// haproxyPairs are the parameters of a server that have a value and say nothing about failures
// here.
func haproxyPairs() []string {
	return strings.Fields(`addr agent-addr agent-inter agent-port agent-send alpn ca-file check-alpn check-proto check-reuse-pool
		check-sni check-via-socks4 ciphers ciphersuites client-sigalgs cookie crl-file crt curves disabled-on error-limit-mode
		fastinter downinter fall force guid hash-key id init-addr init-state interface log-bufsize log-proto max-reuse
		namespace npn pool-conn-name pool-idle-conn pool-low-conn pool-max-conn pool-purge-delay port proto proxy-v2-options
		redir resolve-net resolve-opts resolve-prefer resolvers set-proxy-v2-tlv-fmt shard sigalgs sni socks4 source
		ssl-max-ver ssl-min-ver strict-maxconn tcp-md5sig tcp-ut track usesrc verify verifyhost weight ws renegotiate`)
}

// haproxyWordsAlone are the parameters of a server without a value that say nothing about failures.
func haproxyWordsAlone() []string {
	return strings.Fields(`agent-check allow-0rtt check-send-proxy check-ssl disabled enabled no-agent-check
		no-backup no-check no-check-ssl no-send-proxy no-send-proxy-v2 no-send-proxy-v2-ssl no-send-proxy-v2-ssl-cn no-ssl
		no-ssl-reuse no-sslv3 no-tls-tickets no-tlsv10 no-tlsv11 no-tlsv12 no-tlsv13 no-verifyhost non-stick send-proxy
		send-proxy-v2 send-proxy-v2-ssl send-proxy-v2-ssl-cn ssl ssl-reuse stick tfo tls-tickets force-sslv3 force-tlsv10
		force-tlsv11 force-tlsv12 force-tlsv13 no-tfo`)
}

// serverLine reads the parameters of a server. Those of the last line count for all servers.
func (part *haproxyPart) serverLine(r *reader, n *node) {
	args := n.args
	skip := map[string]int{"server": 2, "server-template": 3, "default-server": 0}[n.key]
	if len(args) < skip {
		r.fail(n, "expected a name and an address after %s", n.key)
		return
	}
	if skip > 0 {
		part.servers++
	}
	for _, arg := range args[:skip] {
		r.mark(arg, Unrelated, "")
	}
	p, s := &part.policy, &part.server
	c := &p.Concurrency
	f := fields{
		"maxconn":        set(p, "Concurrency.MaxRequests", &c.MaxRequests, whole(0, maxWhole)),
		"maxqueue":       set(p, "Concurrency.MaxPending", &c.MaxPending, whole(0, maxWhole)),
		"observe":        set(p, "Breakers.Counts", &s.observe, oneOf("layer4", "layer7")),
		"error-limit":    set(p, "Breakers.ConsecutiveFailures", &s.limit, whole(1, maxWhole)),
		"on-error":       set(p, "Breakers.Scope", &s.onError, oneOf("fastinter", "fail-check", "sudden-death", "mark-down")),
		"rise":           set(p, "Breakers.OpenFor", &s.rise, whole(1, maxWhole)),
		"inter":          set(p, "Breakers.OpenFor", &s.inter, haproxyTime),
		"minconn":        drop(haproxyDynamic),
		"slowstart":      drop("a server gets its full share at once"),
		"on-marked-down": drop("sessions of a server that goes down are not cut"),
		"on-marked-up":   ignore,
	}
	for _, key := range haproxyPairs() {
		f[key] = ignore
	}
	alone := haproxyWordsAlone()
	for i := skip; i < len(args); i++ {
		arg := args[i]
		arg.key = arg.text
		switch {
		case slices.Contains(alone, arg.text):
			r.mark(arg, Unrelated, "")
			continue
		case arg.text == "check":
			r.mark(arg, Dropped, noActiveChecks)
			continue
		case arg.text == "backup":
			r.mark(arg, Dropped, "all servers get requests, also a backup")
			continue
		}
		do, known := f[arg.text]
		switch {
		case !known:
			for _, word := range alone {
				f[word] = ignore // candidates for did you mean
			}
			r.unknown(arg, f)
			return
		case i+1 == len(args):
			r.fail(arg, "expected a value after %s", arg.text)
			return
		}
		i++
		before := len(r.report)
		do(r, args[i])
		if len(r.report) > before { // the name belongs to the entry of the value
			arg.accounted = true
			r.report[len(r.report)-1].Fields++
		}
	}
}

// finish sets what depends on several lines of a backend.
func (part *haproxyPart) finish(r *reader, n *node) {
	p := &part.policy
	if c := &p.Concurrency; c.MaxRequests > 0 {
		c.PerEndpoint, c.SkipFull = true, true
		if c.MaxPending == 0 {
			c.MaxPending = -1 // maxqueue 0 is no limit
		}
		if c.MaxWait == 0 {
			c.MaxWait = p.ConnectTimeout
			r.byDefault(n, "timeout queue: that of timeout connect")
		}
	} else {
		c.MaxWait, c.MaxPending = 0, 0
	}
	p.Retry.Backoff = Backoff{Kind: BackoffFixed, Base: time.Second}
	if p.ConnectTimeout > 0 {
		p.Retry.Backoff.Base = min(time.Second, p.ConnectTimeout)
	}
	switch {
	case p.Retry.OtherEndpoint:
		p.Retry.Backoff = Backoff{}
		r.byDefault(n, "retries come at once, because they go to another server")
	case part.redo:
		p.Retry.Backoff = Backoff{}
		r.byDefault(n, "retries come at once; HAProxy waits up to 1s before it connects to the same server again")
	default:
		r.byDefault(n, "a retry waits for timeout connect, at most 1s")
	}
	var left []string
	for key, text := range map[string]string{
		"Retry.MaxAttempts": "retries: 3", "Retry.On": "retry-on: conn-failure", "ConnectTimeout": "timeout connect: none",
		"TryTimeout": "timeout server: none", "Retry.OtherEndpoint": "no option redispatch, so that retries go to the same server",
	} {
		if len(p.From[key]) == 0 {
			left = append(left, text)
		}
	}
	slices.Sort(left)
	r.byDefault(n, strings.Join(left, ", "))
	if s := part.server; s.observe != "" {
		counts := Conditions{Connect: true, Reset: true}
		if s.observe == "layer7" {
			counts = Conditions{Statuses: []StatusRange{{500, 500}, {502, 599}}, Connect: true, Reset: true, Timeout: true}
		}
		if s.onError == "mark-down" {
			p.Breakers = []Breaker{{
				Scope: ScopeEndpoint, ConsecutiveFailures: s.limit, OpenFor: time.Duration(s.rise) * s.inter, MaxEjected: 1, Counts: counts,
			}}
			r.byDefault(n, "a server that is marked down comes back after rise successful checks, taken for rise times inter")
		} else {
			r.byDefault(n, "only on-error mark-down takes a server out by its errors; other values act through health checks")
		}
	}
	if len(p.Breakers) == 0 {
		for name, places := range p.From {
			for _, place := range places {
				if strings.HasPrefix(name, "Breakers.") {
					r.changeAt(place, Dropped, "it works through health checks, which are left out")
				}
			}
		}
		p.From = without(p.From, "Breakers")
	}
}
