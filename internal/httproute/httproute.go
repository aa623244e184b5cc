// Package httproute makes the configuration of a gateway from HTTPRoutes of the Kubernetes Gateway
// API, so that a team can keep one source for a mesh, a Gateway and Rebound.
package httproute

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// group begins the apiVersion of each object of the Gateway API.
const group = "gateway.networking.k8s.io/"

var sign = regexp.MustCompile(`(?m)(?:^|[{,])\s*-?\s*["']?apiVersion["']?:\s*["']?gateway\.networking\.k8s\.io/`)

// Is reports whether a file has objects of the Gateway API.
func Is(data []byte) bool { return sign.Match(data) }

// Note says that something in the file is not carried over, or not as it is there.
type Note struct {
	foreign.Place
	Sentence string
}

// String returns "file:line:column: path: sentence".
func (n Note) String() string {
	return (&mistake.Mistake{File: n.File, Line: n.Line, Column: n.Column, Path: n.Path, Message: n.Sentence}).Error()
}

// Config returns the configuration that the HTTPRoutes in data ask for. Each rule with a timeout or
// a retry has a policy of its own: what an HTTPRoute can say is from the file, and the rest
// (circuit breaker, retry budget, methods) has Rebound's defaults. Other rules have the policy
// default. No rule gets a retry or a timeout that it does not ask for: without a retry it has one
// attempt, and a timeout that is left out is an hour. Errors call the file name.
//
// The notes have what is not carried over. The error is a *[mistake.List] for mistakes in the file.
func Config(name string, data []byte) (gateway.Config, []Note, error) {
	imported, err := foreign.ImportGatewayAPI(name, data)
	if err != nil {
		return gateway.Config{}, nil, err
	}
	roots, err := config.Documents(name, data)
	if err != nil {
		return gateway.Config{}, nil, err
	}
	m := maker{
		file: name, config: gateway.DefaultConfig(), policies: imported.Policies, candidates: map[string][]*candidate{},
		routeNames: names{}, policyNames: names{gateway.DefaultPolicyName: 1}, upstreamNames: names{},
		said: map[string]bool{}, upstreams: map[string]string{},
	}
	m.config.Policies[gateway.DefaultPolicyName] = unlimited()
	for _, e := range imported.Report {
		// A default is what the file leaves open and Rebound decides. Here a rule without a retry
		// is noted once, and not each time.
		if e.Kind == foreign.Approximated || e.Kind == foreign.Dropped || e.Kind == foreign.Default && e.Sentence != "retry: none" {
			m.notes = append(m.notes, Note{e.Place, e.Sentence})
		}
	}
	// A BackendTLSPolicy may come after the routes to its Service.
	for _, read := range []func(*yaml.Node, string){m.backendTLS, m.object} {
		for i, root := range roots {
			path := ""
			if len(roots) > 1 {
				path = fmt.Sprintf("[%d]", i)
			}
			read(root, path)
		}
	}
	m.unusedTLS()
	if m.tooMany == nil {
		m.routes()
	}
	if m.tooMany != nil {
		return gateway.Config{}, nil, mistake.List{m.tooMany}.Err()
	}
	if len(m.config.Routes) == 0 {
		lines := make([]string, len(m.notes))
		for i, n := range m.notes {
			lines[i] = "\n" + n.String()
		}
		return gateway.Config{}, nil, mistake.List{{File: name, Line: 1, Column: 1, Message: "has no HTTPRoute with a rule that can be carried over" + strings.Join(lines, "")}}.Err()
	}
	if err := m.config.Validate(); err != nil {
		return gateway.Config{}, nil, fmt.Errorf("%s: the routes that its rules become: %w", name, err)
	}
	slices.SortStableFunc(m.notes, func(a, b Note) int { return a.Line - b.Line })
	return m.config, m.notes, nil
}

// maker collects a configuration.
type maker struct {
	file     string
	config   gateway.Config
	policies []foreign.Policy // of all rules, in the order of the file; the next one is first
	notes    []Note
	parents  any             // of the first HTTPRoute that has some
	said     map[string]bool // the sentences that stand for the whole file
	matches  int             // read so far
	tls      []tlsPolicy

	candidates map[string][]*candidate // by host
	pairs      int                     // of a match and a host, among the candidates
	tooMany    *mistake.Mistake        // the first match or route above mostRoutes

	routeNames, policyNames, upstreamNames names
	upstreams                              map[string]string // the names of upstreams, by service and port
}

// mostRoutes bounds the time that a file takes: every match is compared with every path, and every
// route with every other one.
const mostRoutes = 2000

func (m *maker) refuse(at *yaml.Node, path, format string, args ...any) {
	m.tooMany = mistake.New(strings.TrimPrefix(path, "."), format, args...)
	m.tooMany.File, m.tooMany.Line, m.tooMany.Column = m.file, at.Line, at.Column
}

// once notes what is so in the whole file where it is so first.
func (m *maker) once(at *yaml.Node, path, sentence string) {
	if !m.said[sentence] {
		m.said[sentence] = true
		m.note(at, path, "%s", sentence)
	}
}

// object is what an HTTPRoute and a list of them have in common, as far as it is read here. The
// import has checked all of it.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Items      []yaml.Node
	Metadata   struct {
		Name, Namespace   string
		CreationTimestamp string `yaml:"creationTimestamp"`
	}
	Spec struct {
		ParentRefs yaml.Node `yaml:"parentRefs"`
		Hostnames  []yaml.Node
		Rules      []yaml.Node
	}
}

type rule struct {
	Name        string
	Matches     []yaml.Node
	Filters     yaml.Node
	BackendRefs []yaml.Node `yaml:"backendRefs"`
	Session     yaml.Node   `yaml:"sessionPersistence"`
	Timeouts    yaml.Node
	Retry       yaml.Node
}

type match struct {
	Path struct {
		Type  string
		Value *string
	}
	Method      string
	Headers     yaml.Node
	QueryParams yaml.Node `yaml:"queryParams"`
}

type backend struct {
	Group, Kind, Name, Namespace string
	Port                         int
	Weight                       *int
	Filters                      yaml.Node
}

func (m *maker) note(at *yaml.Node, path, format string, args ...any) {
	m.notes = append(m.notes, Note{foreign.Place{File: m.file, Line: at.Line, Column: at.Column, Path: strings.TrimPrefix(path, ".")}, fmt.Sprintf(format, args...)})
}

// decode reads a value of a type that the import has checked. What does not fit is noted.
func (m *maker) decode(n *yaml.Node, path string, into any) bool {
	if err := n.Decode(into); err != nil {
		m.note(n, path, "not carried over: %s", strings.ReplaceAll(err.Error(), "\n", " "))
		return false
	}
	return true
}

func (m *maker) object(n *yaml.Node, path string) {
	var o object
	if !m.decode(n, path, &o) {
		return
	}
	switch {
	case strings.HasSuffix(o.Kind, "List"):
		for i := range o.Items {
			m.object(&o.Items[i], fmt.Sprintf("%s.items[%d]", path, i))
		}
	case !strings.HasPrefix(o.APIVersion, group) && !strings.HasPrefix(o.APIVersion, "gateway.networking.x-k8s.io/"):
		// A kind of another system. The import has noted what matters of it.
	case o.Kind == "GRPCRoute":
		m.policies = m.policies[min(len(o.Spec.Rules), len(m.policies)):]
		m.note(n, path+".kind", "a GRPCRoute is not carried over: write its routes in a configuration of Rebound")
	case o.Kind == "HTTPRoute":
		m.parentsOf(&o.Spec.ParentRefs, path+".spec.parentRefs")
		for k := range o.Spec.Rules {
			m.rule(o, k, fmt.Sprintf("%s.spec.rules[%d]", path, k))
		}
	case !slices.Contains(silentKinds(), o.Kind):
		// A kind that routes, or sets TLS, and each one to come.
		m.note(n, path+".kind", "a %s is not carried over", o.Kind)
	}
}

// silentKinds are the kinds of the Gateway API that need no note here: those that change nothing
// for a request, and those that are read elsewhere.
func silentKinds() []string {
	return []string{"GatewayClass", "ReferenceGrant", "BackendTLSPolicy", "XBackendTrafficPolicy"}
}

// parentsOf notes that a route has other parents than those before it: an HTTPRoute of an internal
// Gateway alone, for example, would be served beside that of a public one.
func (m *maker) parentsOf(n *yaml.Node, path string) {
	var parents any
	if !given(*n) || !m.decode(n, path, &parents) {
		return
	}
	if m.parents == nil {
		m.parents = parents
	} else if !reflect.DeepEqual(m.parents, parents) {
		m.note(n, path, "not carried over: these are other parents than the first HTTPRoute's, and the client serves the routes of all")
	}
}

// given reports whether a field is there, and neither null nor an empty list.
func given(n yaml.Node) bool {
	return !n.IsZero() && n.Tag != "!!null" && (n.Kind != yaml.SequenceNode || len(n.Content) > 0)
}

func (m *maker) rule(o object, k int, path string) {
	n := &o.Spec.Rules[k]
	if len(m.policies) == 0 {
		return // the import has found no such rule
	}
	from := m.policies[0]
	m.policies = m.policies[1:]
	var r rule
	if !m.decode(n, path, &r) {
		return
	}
	if given(r.Filters) {
		m.note(&r.Filters, path+".filters", "not carried over: requests and responses pass as they are")
	}
	if given(r.Session) {
		m.note(&r.Session, path+".sessionPersistence", "not carried over")
	}
	upstream, ok := m.upstream(n, r.BackendRefs, o.Metadata.Namespace, path+".backendRefs")
	if !ok {
		m.forget(&r.Retry)
		return
	}
	if !given(r.Retry) {
		m.once(n, path+".retry", noRetry)
	}
	if _, total := from.From["Timeout"]; !total {
		m.once(n, path+".timeouts.request", noTimeout)
	}
	policy := gateway.DefaultPolicyName
	if given(r.Timeouts) || given(r.Retry) {
		policy = m.policyNames.free(from.Name)
		m.config.Policies[policy] = m.policy(from, &r, path)
	}
	matches := r.Matches
	if len(matches) == 0 {
		matches = []yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}}
	}
	hosts := m.hosts(o.Spec.Hostnames, strings.TrimSuffix(path, fmt.Sprintf(".rules[%d]", k))+".hostnames")
	own := owner{name: o.Metadata.Namespace + "/" + o.Metadata.Name}
	own.created, _ = time.Parse(time.RFC3339, o.Metadata.CreationTimestamp) // zero if it is no time
	for i := range matches {
		c := candidate{node: &matches[i], at: fmt.Sprintf("%s.matches[%d]", path, i), owner: own}
		if !m.match(&c) {
			continue
		}
		m.matches++
		c.order = m.matches
		c.route = gateway.Route{Name: named(from.Name), Upstream: upstream, Policy: policy}
		if m.pairs += len(hosts); m.pairs > mostRoutes {
			if m.tooMany == nil {
				m.refuse(c.node, c.at, "expected at most %d matches in a file, each counted for each of its hostnames", mostRoutes)
			}
			return
		}
		for _, host := range hosts {
			m.candidates[host] = append(m.candidates[host], new(c))
		}
	}
}

// forget removes the notes on a value and what is below it.
func (m *maker) forget(value *yaml.Node) {
	m.notes = slices.DeleteFunc(m.notes, func(n Note) bool { return n.Line == value.Line && n.Column == value.Column })
	for _, below := range value.Content {
		m.forget(below)
	}
}

// routes adds the routes of all candidates, in the order of the file.
func (m *maker) routes() {
	type found struct {
		chosen
		host string
	}
	var all []found
	for _, host := range slices.Sorted(maps.Keys(m.candidates)) {
		for _, c := range m.resolve(m.candidates[host]) {
			all = append(all, found{c, host})
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return cmp.Compare(a.by.order, b.by.order) })
	if len(all) > mostRoutes {
		first := all[mostRoutes].by
		m.refuse(first.node, first.at, "expected at most %d routes, got %d: a match becomes one for each hostname, two for a prefix, and beside a shorter path with a method one for each method",
			mostRoutes, len(all))
		return
	}
	for _, f := range all {
		r := f.by.route
		r.Name = m.routeNames.free(r.Name)
		method, path, _ := strings.Cut(f.pattern, "/")
		r.Match = method + f.host + "/" + path
		m.config.Routes = append(m.config.Routes, r)
	}
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._]+`)

// named returns name with the characters that a name may have.
func named(name string) string {
	name = strings.Trim(notInNames.ReplaceAllString(name, "-"), "-._")
	if len(name) > 56 {
		name = strings.Trim(name[:56], "-._")
	}
	return cmp.Or(name, "route")
}

// names are the names that are taken, each with the last number that was tried behind it.
type names map[string]int

// free takes a name, with a number if it is taken.
func (taken names) free(name string) string {
	base := named(name)
	name = base
	for taken[name] > 0 {
		taken[base]++
		name = fmt.Sprintf("%s-%d", base, taken[base])
	}
	taken[name] = 1
	return name
}

// hosts returns the hosts of patterns, or "" for any.
func (m *maker) hosts(names []yaml.Node, path string) []string {
	if len(names) == 0 {
		return []string{""}
	}
	var hosts []string
	for i := range names {
		if host := names[i].Value; strings.HasPrefix(host, "*") {
			note := Note{foreign.Place{File: m.file, Line: names[i].Line, Column: names[i].Column, Path: strings.TrimPrefix(fmt.Sprintf("%s[%d]", path, i), ".")}, "not carried over: a route has one host, or any"}
			if !slices.Contains(m.notes, note) {
				m.notes = append(m.notes, note)
			}
		} else {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// match reads a match, and reports whether patterns can say it. With a condition that patterns lack
// it is left out: without the condition it would take other requests too.
func (m *maker) match(c *candidate) bool {
	value := match{}
	if !m.decode(c.node, c.at, &value) {
		return false
	}
	for _, condition := range []struct {
		name string
		node yaml.Node
	}{{"headers", value.Headers}, {"queryParams", value.QueryParams}} {
		if given(condition.node) {
			m.note(&condition.node, c.at+"."+condition.name, "the match is not carried over: routes match hosts, methods and paths")
			return false
		}
	}
	c.path, c.method = "/", value.Method
	if value.Path.Value != nil {
		c.path = *value.Path.Value
	}
	if strings.ContainsAny(c.path, "{}") || !strings.HasPrefix(c.path, "/") {
		m.note(c.node, c.at+".path", "the match is not carried over: the path %q has no pattern", c.path)
		return false
	}
	if c.method != anyMethod && !slices.Contains(methods(), c.method) {
		m.note(c.node, c.at+".method", "the match is not carried over: the method %q is none of the Gateway API (%s)", c.method, strings.Join(methods(), ", "))
		return false
	}
	switch value.Path.Type {
	case "", "PathPrefix":
		c.path = strings.TrimSuffix(c.path, "/")
		c.paths = []string{c.path + "/"}
		if c.path != "" {
			c.paths = []string{c.path, c.path + "/"}
		}
	case "Exact":
		c.exact = true
		c.paths = []string{c.path}
		if strings.HasSuffix(c.path, "/") {
			c.paths = []string{c.path + "{$}"}
		}
	default:
		m.note(c.node, c.at+".path.type", "the match is not carried over: %s has no pattern", value.Path.Type)
		return false
	}
	if c.method == http.MethodGet {
		m.once(c.node, c.at+".method", "a route of GET takes HEAD too, here and in every other match, unless another match takes it")
	}
	return true
}

// upstream returns the upstream of the Service that gets a rule's requests: the one with the
// largest weight, and of equal ones the first.
func (m *maker) upstream(rule *yaml.Node, refs []yaml.Node, namespace, path string) (upstream string, ok bool) {
	type service struct {
		backend
		i, weight int
	}
	var services, others []service
	best := 0
	for i := range refs {
		s := service{i: i, weight: 1}
		at := fmt.Sprintf("%s[%d]", path, i)
		if !m.decode(&refs[i], at, &s.backend) {
			continue
		}
		if s.Weight != nil {
			s.weight = *s.Weight
		}
		switch {
		case s.weight == 0:
		case s.Group != "" || s.Kind != "" && s.Kind != "Service" || s.Name == "" || s.Port == 0:
			others = append(others, s)
		default:
			services = append(services, s)
			if s.weight > services[best].weight {
				best = len(services) - 1
			}
		}
	}
	for _, s := range others {
		instead := ""
		if len(services) > 0 {
			to := services[best]
			instead = fmt.Sprintf(", and %s of weight %d gets what is for it, of weight %d", to.Name, to.weight, s.weight)
		}
		m.note(&refs[s.i], fmt.Sprintf("%s[%d]", path, s.i), "not carried over: not a Service with a port%s", instead)
	}
	if len(services) == 0 {
		m.note(rule, strings.TrimSuffix(path, ".backendRefs"), "not carried over: it has no Service to send requests to")
		return "", false
	}
	to := services[best]
	for i, s := range services {
		if i != best {
			m.note(&refs[s.i], fmt.Sprintf("%s[%d]", path, s.i), "not carried over: a route has one upstream, and %s of weight %d gets what is for %s of weight %d",
				to.Name, to.weight, s.Name, s.weight)
		}
	}
	if given(to.Filters) {
		m.note(&to.Filters, fmt.Sprintf("%s[%d].filters", path, to.i), "not carried over: requests and responses pass as they are")
	}
	return m.address(to.Name, cmp.Or(to.Namespace, namespace), to.Port), true
}

const (
	// noLimit stands for a timeout that is 0 or left out, which means none.
	noLimit = time.Hour
	// mostAttempts is the largest maxAttempts of a policy.
	mostAttempts = 100
)

// What a rule leaves out is no reason to change what it does: a Gateway neither repeats nor cuts
// its calls.
const (
	noRetry   = "there is none: one attempt, here and in every other rule without it"
	noTimeout = "there is none, and a policy has one: taken as 1h, here and in every other rule without it"
)

// unlimited returns the policy of a rule that asks for nothing.
func unlimited() transport.Policy {
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = noLimit, noLimit, 1
	return p
}

// policy returns the policy of the rule at path. Unlike that of lab import, it keeps a breaker and
// a budget: a running gateway needs them.
func (m *maker) policy(from foreign.Policy, r *rule, path string) transport.Policy {
	p := unlimited()
	_, total := from.From["Timeout"]
	_, attempt := from.From["TryTimeout"]
	const zero = "0 is no limit, and a policy has one: taken as %s"
	if total && from.Timeout == 0 {
		m.note(field(&r.Timeouts, "request"), path+".timeouts.request", zero, noLimit)
	}
	if attempt && from.TryTimeout == 0 && !total { // otherwise the request's limits it
		m.note(field(&r.Timeouts, "backendRequest"), path+".timeouts.backendRequest", zero, noLimit)
	}
	p.AttemptTimeout = cmp.Or(from.TryTimeout, noLimit)
	if total {
		p.Timeout = cmp.Or(from.Timeout, noLimit)
		p.AttemptTimeout = min(cmp.Or(from.TryTimeout, p.Timeout), p.Timeout)
	}
	p.Timeout = max(p.Timeout, p.AttemptTimeout)
	if given(r.Retry) {
		m.retryNotes(from, r, path, p.Retry.Methods)
		p.Retry.MaxAttempts = min(from.Retry.MaxAttempts, mostAttempts)
		b := &p.Retry.Backoff
		// A factor of 3 comes closest to Envoy's 1, 3, 7 times the base. The jitter is full, as
		// there.
		b.Base, b.Max, b.Factor = from.Retry.Backoff.Base, from.Retry.Backoff.Max, 3
		p.Retry.Statuses = []int{}
		for _, codes := range from.Retry.On.Statuses {
			for code := codes.Low; code <= codes.High; code++ {
				p.Retry.Statuses = append(p.Retry.Statuses, code)
			}
		}
		slices.Sort(p.Retry.Statuses)
		p.Retry.Statuses = slices.Compact(p.Retry.Statuses)
	}
	if budget := from.Retry.Budget; budget.Kind != foreign.BudgetNone {
		p.Retry.Budget.Ratio, p.Retry.Budget.Burst, p.Retry.Budget.FloorPerSecond = budget.Percent/100, 10, budget.MinPerSecond
		for _, place := range from.From["Retry.Budget"] {
			note := Note{place, "a share of the last calls becomes a share of the calls that succeed, of which 10 retries are saved"}
			if !slices.Contains(m.notes, note) {
				m.notes = append(m.notes, note)
			}
		}
	}
	return p
}

// retryNotes notes what a policy retries otherwise than the rule says.
func (m *maker) retryNotes(from foreign.Policy, r *rule, path string, methods []string) {
	if from.Retry.MaxAttempts > mostAttempts {
		m.note(field(&r.Retry, "attempts"), path+".retry.attempts", "a policy has at most %d attempts: taken as %d retries", mostAttempts, mostAttempts-1)
	}
	others := len(r.Matches) == 0
	for i := range r.Matches {
		var of match
		_ = r.Matches[i].Decode(&of) // what does not fit is noted with the match
		others = others || !slices.Contains(methods, of.Method)
	}
	if others && from.Retry.MaxAttempts > 1 {
		m.note(&r.Retry, path+".retry", "only %s are retried, and other methods with an Idempotency-Key, or if they were not sent", strings.Join(methods, ", "))
	}
}

// field returns the value of a field of a mapping, or the mapping.
func field(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return n
}
