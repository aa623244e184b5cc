package httproute_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/httproute"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	head    = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec:\n  rules:\n"
	backend = "backendRefs: [{name: a, port: 80}]"
)

// one returns a file of one rule.
func one(rule string) string { return head + "    - {" + rule + "}\n" }

// parents returns a file of one rule for the Gateway of a name.
func parents(name string) string {
	return strings.Replace(one(backend), "spec:\n", "spec:\n  parentRefs: [{name: "+name+"}]\n", 1)
}

// kind returns an object of a kind, to go behind another.
func kind(name string) string {
	return "---\napiVersion: gateway.networking.k8s.io/v1\nkind: " + name + "\nmetadata: {name: x}\nspec: {}\n"
}

// checkNotes checks that each note of a rule has one of the texts, and the other way round.
func checkNotes(t *testing.T, notes []httproute.Note, texts []string) {
	t.Helper()
	notes = ofRules(notes)
	for _, want := range texts {
		if !slices.ContainsFunc(notes, func(n httproute.Note) bool {
			return strings.Contains(n.String(), want) && strings.HasPrefix(n.String(), "f.yaml:")
		}) {
			t.Errorf("got notes %v, want one with %q", notes, want)
		}
	}
	if len(notes) != len(texts) {
		t.Errorf("got notes %v, want %q", notes, texts)
	}
}

// ofRules leaves out the notes of the first rule that stand for all: TestDoNoHarm has them.
func ofRules(notes []httproute.Note) []httproute.Note {
	return slices.DeleteFunc(slices.Clone(notes), func(n httproute.Note) bool {
		return strings.HasPrefix(n.Sentence, "there is none")
	})
}

// Each match becomes the patterns that take the same requests. What has none is left out, and
// noted.
func TestRoutes(t *testing.T) {
	for name, tc := range map[string]struct {
		file  string
		want  []string // pattern, upstream, policy
		notes []string // parts of notes, in their order
	}{
		"everything":         {one(backend), []string{"/ http://a:80 default"}, nil},
		"a prefix":           {one("matches: [{path: {value: /x}}], " + backend), []string{"/x http://a:80 default", "/x/ http://a:80 default"}, nil},
		"a prefix's slash":   {one("matches: [{path: {type: PathPrefix, value: /x/}}], " + backend), []string{"/x http://a:80 default", "/x/ http://a:80 default"}, nil},
		"a method":           {one("matches: [{method: POST, path: {value: /}}], " + backend), []string{"POST / http://a:80 default"}, nil},
		"exact":              {one("matches: [{path: {type: Exact, value: /x}}, {path: {type: Exact, value: /y/}}], " + backend), []string{"/x http://a:80 default", "/y/{$} http://a:80 default"}, nil},
		"a timeout":          {one("name: slow, timeouts: {request: 9s}, " + backend), []string{"/ http://a:80 shop-slow"}, nil},
		"hosts":              {strings.Replace(one(backend), "spec:\n", "spec:\n  hostnames: [a.example, b.example]\n", 1), []string{"a.example/ http://a:80 default", "b.example/ http://a:80 default"}, nil},
		"a wildcard":         {strings.Replace(one(backend), "spec:\n", "spec:\n  hostnames: [a.example, '*.example']\n", 1), []string{"a.example/ http://a:80 default"}, []string{"f.yaml:5:26: spec.hostnames[1]: not carried over: a route has one host"}},
		"a namespace":        {strings.Replace(one(backend), "name: shop", "name: shop, namespace: s", 1), []string{"/ http://a.s:80 default"}, nil},
		"another namespace":  {one("backendRefs: [{name: a, namespace: b, port: 80}]"), []string{"/ http://a.b:80 default"}, nil},
		"two Services":       {one("backendRefs: [{name: z, port: 1, weight: 0}, {name: a, port: 80}, {name: b, port: 80}]"), []string{"/ http://a:80 default"}, []string{"f.yaml:6:74: spec.rules[0].backendRefs[2]: not carried over: a route has one upstream, and a of weight 1 gets what is for b of weight 1"}},
		"a canary":           {one("backendRefs: [{name: canary, port: 80, weight: 1}, {name: stable, namespace: s, port: 81, weight: 99}, {name: c, port: 1, filters: [{type: URLRewrite}]}]"), []string{"/ http://stable.s:81 default"}, []string{"backendRefs[0]: not carried over: a route has one upstream, and stable of weight 99 gets what is for canary of weight 1", "backendRefs[2]: not carried over"}},
		"no Service, heavy":  {one("backendRefs: [{group: x.io, kind: Bucket, name: b, weight: 99}, {name: a, port: 80}, {name: c}]"), []string{"/ http://a:80 default"}, []string{"backendRefs[0]: not carried over: not a Service with a port, and a of weight 1 gets what is for it, of weight 99", "backendRefs[2]: not carried over: not a Service with a port, and a of weight 1 gets what is for it, of weight 1"}},
		"two namespaces":     {strings.Replace(one("backendRefs: [{name: a, namespace: x, port: 80}, {name: b, port: 80, weight: 2}]"), "name: shop", "name: shop, namespace: s", 1), []string{"/ http://b.s:80 default"}, []string{"backendRefs[0]: not carried over"}},
		"other kinds":        {one(backend) + kind("Gateway") + kind("GatewayClass") + kind("ReferenceGrant") + kind("TLSRoute") + kind("TCPRoute"), []string{"/ http://a:80 default"}, []string{"[1].kind: a Gateway is not carried over", "[4].kind: a TLSRoute is not carried over", "[5].kind: a TCPRoute is not carried over"}},
		"GET":                {one("matches: [{method: GET}, {method: GET, path: {value: /x}}], " + backend), []string{"GET / http://a:80 default", "GET /x http://a:80 default", "GET /x/ http://a:80 default"}, []string{"f.yaml:6:18: spec.rules[0].matches[0].method: a route of GET takes HEAD too"}},
		"exact wins, later":  {one("matches: [{path: {value: /x}}], "+backend) + "    - {matches: [{path: {type: Exact, value: /x}}], backendRefs: [{name: b, port: 80}]}\n", []string{"/x/ http://a:80 default", "/x http://b:80 default"}, nil},
		"exact wins, first":  {one("matches: [{path: {type: Exact, value: /x}}], "+backend) + "    - {matches: [{path: {value: /x}}], backendRefs: [{name: b, port: 80}]}\n", []string{"/x http://a:80 default", "/x/ http://b:80 default"}, nil},
		"exact twice":        {one("matches: [{path: {type: Exact, value: /x}}], "+backend) + "    - {matches: [{path: {type: Exact, value: /x}}], backendRefs: [{name: b, port: 80}]}\n", []string{"/x http://a:80 default"}, []string{"/x belongs to route shop-0 already"}},
		"empty lists":        {one("matches: [{headers: [], queryParams: null}], filters: [], retry: null, timeouts: null, " + backend), []string{"/ http://a:80 default"}, []string{"rules[0].retry: is empty", "rules[0].timeouts: is empty"}},
		"the same parents":   {parents("a") + "---\n" + strings.Replace(parents("a"), "spec:\n", "spec:\n  hostnames: [b.example]\n", 1), []string{"/ http://a:80 default", "b.example/ http://a:80 default"}, nil},
		"other parents":      {parents("a") + "---\n" + strings.Replace(parents("b"), "spec:\n", "spec:\n  hostnames: [b.example]\n", 1), []string{"/ http://a:80 default", "b.example/ http://a:80 default"}, []string{"[1].spec.parentRefs: not carried over: these are other parents"}},
		"single quotes":      {strings.Replace(one(backend), "gateway.networking.k8s.io/v1", "'gateway.networking.k8s.io/v1'", 1), []string{"/ http://a:80 default"}, nil},
		"another system's":   {strings.Replace(one("timeouts: {request: 1s}, "+backend), "gateway.networking.k8s.io/v1", "policy.linkerd.io/v1beta3", 1) + "---\n" + one("timeouts: {request: 9s}, backendRefs: [{name: b, port: 80}]"), []string{"/ http://b:80 shop-0"}, []string{"is read with --from linkerd"}},
		"a header":           {one("matches: [{headers: [{name: A, value: b}]}, {path: {value: /x}}], " + backend), []string{"/x http://a:80 default", "/x/ http://a:80 default"}, []string{"spec.rules[0].matches[0].headers: the match is not carried over"}},
		"an expression":      {one("matches: [{path: {type: RegularExpression, value: /x.*}}, {method: PUT}], " + backend), []string{"PUT / http://a:80 default"}, []string{"matches[0].path.type: the match is not carried over"}},
		"the same twice":     {one(backend) + "    - {backendRefs: [{name: b, port: 80}]}\n", []string{"/ http://a:80 default"}, []string{"/ belongs to route shop-0 already"}},
		"filters":            {one("filters: [{type: URLRewrite}], " + backend), []string{"/ http://a:80 default"}, []string{"spec.rules[0].filters: not carried over"}},
		"a redirect":         {one("filters: [{type: RequestRedirect}], matches: [{path: {value: /old}}]") + "    - {" + backend + "}\n", []string{"/ http://a:80 default"}, []string{"spec.rules[0]: not carried over: it has no Service", "filters"}},
		"a rule left out":    {one("retry: {backoff: 9ms}") + "---\n" + one(backend), []string{"/ http://a:80 default"}, []string{"[0].spec.rules[0]: not carried over: it has no Service"}},
		"a List":             {"apiVersion: v1\nkind: List\nitems:\n  - apiVersion: gateway.networking.k8s.io/v1\n    kind: HTTPRoute\n    metadata: {name: x}\n    spec: {rules: [{" + backend + "}]}\n", []string{"/ http://a:80 default"}, nil},
		"beside a GRPCRoute": {strings.Replace(one(backend), "HTTPRoute", "GRPCRoute", 1) + "---\n" + one("timeouts: {request: 9s}, "+backend), []string{"/ http://a:80 shop-0-2"}, []string{"[0].kind: a GRPCRoute is not carried over"}},
	} {
		t.Run(name, func(t *testing.T) {
			if !httproute.Is([]byte(tc.file)) {
				t.Error("Is says false, want true")
			}
			c, notes, err := httproute.Config("f.yaml", []byte(tc.file))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range c.Routes {
				got = append(got, r.Match+" "+r.Upstream+" "+r.Policy)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got routes %q, want %q", got, tc.want)
			}
			checkNotes(t, notes, tc.notes)
			g, err := gateway.New(c, gateway.Options{})
			if err != nil {
				t.Fatal(err)
			}
			g.Close()
		})
	}
}

// A policy takes from the file what an HTTPRoute can say. The rest is Rebound's. Where a policy
// does something else than the file says, a note says so.
func TestPolicies(t *testing.T) {
	for name, tc := range map[string]struct {
		rule  string
		want  func(*transport.Policy)
		notes []string // parts of notes, in any order
	}{
		"a timeout": {"timeouts: {request: 9s}", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 9*time.Second, 9*time.Second, 1
		}, nil},
		"of an attempt": {"timeouts: {backendRequest: 700ms}", func(p *transport.Policy) { p.AttemptTimeout, p.Retry.MaxAttempts = 700*time.Millisecond, 1 }, nil},
		"of a very long attempt": {"timeouts: {backendRequest: 2h}", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 2*time.Hour, 2*time.Hour, 1
		}, nil},
		"a very long one": {"timeouts: {request: 2h}", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 2*time.Hour, 2*time.Hour, 1
		}, nil},
		"a very long one, of many attempts": {"timeouts: {request: 2h, backendRequest: 90m}", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 2*time.Hour, 90*time.Minute, 1
		}, nil},
		"both": {"timeouts: {request: 9s, backendRequest: 2s}, retry: {attempts: 1, codes: [503], backoff: 25ms}, matches: [{method: PUT}]", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts, p.Retry.Statuses = 9*time.Second, 2*time.Second, 2, []int{503}
			p.Retry.Backoff = resilience.Backoff{Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{"retry.backoff: ", "retry: connections that fail"}},
		"no timeout": {"timeouts: {request: 0s}", func(p *transport.Policy) { p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = time.Hour, time.Hour, 1 },
			[]string{"f.yaml:6:28: spec.rules[0].timeouts.request: 0 is no limit, and a policy has one: taken as 1h0m0s"}},
		"no timeout of an attempt": {"timeouts: {request: 9s, backendRequest: 0s}", func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 9*time.Second, 9*time.Second, 1
		}, nil},
		"no timeout at all": {"timeouts: {backendRequest: 0s}", func(p *transport.Policy) { p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = time.Hour, time.Hour, 1 },
			[]string{"spec.rules[0].timeouts.backendRequest: 0 is no limit"}},
		"a retry": {"retry: {attempts: 3, codes: [500, 503], backoff: 100ms}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 4, []int{500, 503}
			p.Retry.Backoff = resilience.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{
			"rules[0].retry.backoff: the specification leaves growth and jitter open",
			"rules[0].retry: connections that fail or break off, and attempts over backendRequest, are retried too",
			"f.yaml:6:15: spec.rules[0].retry: only GET, HEAD, OPTIONS, TRACE, PUT, DELETE are retried",
		}},
		"a retry of methods that are": {"matches: [{method: PUT}, {method: DELETE}], retry: {attempts: 1, codes: [503], backoff: 100ms}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 2, []int{503}
			p.Retry.Backoff = resilience.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{"retry.backoff: ", "retry: connections that fail"}},
		"a retry of one that is not": {"matches: [{method: PUT}, {method: POST}], retry: {attempts: 1, codes: [503], backoff: 100ms}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 2, []int{503}
			p.Retry.Backoff = resilience.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{"retry.backoff: ", "retry: connections that fail", "retry: only GET"}},
		"a retry by default": {"retry: {}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 2, []int{}
			p.Retry.Backoff = resilience.Backoff{Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{"rules[0].retry: attempts: 1, codes: none, backoff: 25ms to 250ms", "retry: connections that fail", "retry: only GET"}},
		"no retry": {"retry: {attempts: 0}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 1, []int{}
			p.Retry.Backoff = resilience.Backoff{Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Factor: 3, Jitter: resilience.JitterFull}
		}, nil},
		"too many retries": {"matches: [{method: PUT}], retry: {attempts: 500, codes: [500], backoff: 100ms}", func(p *transport.Policy) {
			p.Retry.MaxAttempts, p.Retry.Statuses = 100, []int{500}
			p.Retry.Backoff = resilience.Backoff{Base: 100 * time.Millisecond, Max: time.Second, Factor: 3, Jitter: resilience.JitterFull}
		}, []string{
			"retry.backoff: ", "retry: connections that fail", "spec.rules[0].retry.attempts: a policy has at most 100 attempts: taken as 99 retries",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, notes, err := httproute.Config("f.yaml", []byte(one(tc.rule+", "+backend)))
			if err != nil {
				t.Fatal(err)
			}
			want := transport.DefaultPolicy()
			want.Timeout, want.AttemptTimeout = time.Hour, time.Hour
			tc.want(&want)
			got, _ := config.Marshal(c.Policies["shop-0"])
			expected, _ := config.Marshal(want)
			if string(got) != string(expected) {
				t.Errorf("got\n%s\nwant\n%s", got, expected)
			}
			checkNotes(t, notes, tc.notes)
		})
	}
}

// A rule that asks for no retry has one attempt, and one that sets no timeout is not cut: what
// works through a Gateway works here, and a PUT is sent once. Notes say so, once for the file.
func TestDoNoHarm(t *testing.T) {
	c, notes, err := httproute.Config("f.yaml", []byte(one("timeouts: {request: 9s}, matches: [{path: {value: /x}}], "+backend)+"    - {"+backend+"}\n    - {matches: [{path: {value: /y}}], "+backend+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	policy := c.Policies["default"]
	if policy.Retry.MaxAttempts != 1 || policy.Timeout != time.Hour || policy.AttemptTimeout != time.Hour {
		t.Errorf("a rule without timeouts and retry: got %d attempts, %v, %v an attempt; want one of an hour", policy.Retry.MaxAttempts, policy.Timeout, policy.AttemptTimeout)
	}
	want := []string{
		"f.yaml:6:7: spec.rules[0].retry: there is none: one attempt, here and in every other rule without it",
		"f.yaml:7:7: spec.rules[1].timeouts.request: there is none, and a policy has one: taken as 1h, here and in every other rule without it",
	}
	var got []string
	for _, n := range notes {
		got = append(got, n.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got notes %q, want %q", got, want)
	}
}

// tlsFor returns a BackendTLSPolicy with more fields, to go behind or before an HTTPRoute.
func tlsFor(name, service, more string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: " + name + "}\n" +
		"spec: {targetRefs: [{group: '', kind: Service, name: " + service + "}], validation: {hostname: a.internal, wellKnownCACertificates: System}" + more + "}\n"
}

// A Service with a BackendTLSPolicy is called with TLS, wherever the policy is in the file.
func TestBackendTLS(t *testing.T) {
	const sep = "---\n"
	secure := one("matches: [{method: GET}, {method: PUT}], backendRefs: [{name: a, port: 443}]")
	for name, tc := range map[string]struct {
		file  string
		want  []string // upstreams of the routes
		notes []string
	}{
		"behind":          {one(backend) + sep + tlsFor("t", "a", ""), []string{"https://a:80 a.internal"}, nil},
		"before":          {tlsFor("t", "a", "") + sep + secure, []string{"https://a:443 a.internal", "https://a:443 a.internal"}, []string{"takes HEAD too"}},
		"another Service": {one(backend) + sep + tlsFor("t", "b", ""), []string{"http://a:80"}, []string{"f.yaml:11:21: [1].spec.targetRefs[0]: has no effect: no rule here names the Service default/b"}},
		"in a List":       {one(backend) + sep + "apiVersion: v1\nkind: List\nitems: [{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: t}, spec: {targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: n}}}]\n", []string{"https://a:80 n"}, nil},
		"another namespace": {strings.Replace(one(backend), "{name: shop}", "{name: shop, namespace: s}", 1) + sep + tlsFor("t", "a", ""),
			[]string{"http://a.s:80"}, []string{"[1].spec.targetRefs[0]: has no effect: no rule here names the Service default/a"}},
		"another namespace, of the policy": {one(backend) + sep + strings.Replace(tlsFor("t", "a", ""), "{name: t}", "{name: t, namespace: s}", 1),
			[]string{"http://a:80"}, []string{"[1].spec.targetRefs[0]: has no effect: no rule here names the Service s/a"}},
		"v1alpha2": {one(backend) + "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: BackendTLSPolicy\nmetadata: {name: t}\nspec: {targetRef: {group: '', kind: Service, name: a}, tls: {hostname: a.internal, wellKnownCACerts: System}}\n",
			[]string{"http://a:80"}, []string{"[1].spec.targetRefs: not carried over: there is none"}},
		"no targets": {one(backend) + sep + strings.Replace(tlsFor("t", "a", ""), "[{group: '', kind: Service, name: a}]", "[]", 1),
			[]string{"http://a:80"}, []string{"[1].spec.targetRefs: not carried over: there is none"}},
		"two policies": {one(backend) + sep + tlsFor("t", "a", "") + sep + strings.Replace(tlsFor("u", "a", ""), "a.internal", "b.internal", 1),
			[]string{"https://a:80 a.internal"}, []string{"[2].spec.targetRefs[0]: not carried over: t has the Service already"}},
		"its own CA": {one(backend) + sep + strings.Replace(tlsFor("t", "a", ", options: {x: y}"), "wellKnownCACertificates: System", "subjectAltNames: [{type: Hostname, hostname: b}], caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]", 1),
			[]string{"https://a:80 a.internal"}, []string{"[1].spec.validation.caCertificateRefs: not carried over", "[1].spec.validation.subjectAltNames: not carried over", "[1].spec.options: not carried over"}},
		"one port": {one(backend) + sep + strings.Replace(tlsFor("t", "a", ""), "name: a}", "name: a, sectionName: https}", 1),
			[]string{"https://a:80 a.internal"}, []string{"targetRefs[0].sectionName: not carried over: every port"}},
		"another kind": {one(backend) + sep + strings.Replace(tlsFor("t", "a", ""), "kind: Service", "kind: Backend", 1),
			[]string{"http://a:80"}, []string{"targetRefs[0]: not carried over: not a Service"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, notes, err := httproute.Config("f.yaml", []byte(tc.file))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range c.Routes {
				if u, ok := c.Upstreams[r.Upstream]; ok {
					got = append(got, u.URL+" "+u.TLS.ServerName)
				} else {
					got = append(got, r.Upstream)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got upstreams %q, want %q", got, tc.want)
			}
			checkNotes(t, notes, tc.notes)
			g, err := gateway.New(c, gateway.Options{})
			if err != nil {
				t.Fatal(err)
			}
			g.Close()
		})
	}
}

// The file of a storefront, as a Gateway has it, works as it is.
func TestStorefront(t *testing.T) {
	text := files.Read(t, "../foreign/testdata/gateway-api/retry.yaml")
	c, notes, err := httproute.Config("retry.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Routes {
		got = append(got, fmt.Sprintf("%s: %s to %s by %s", r.Name, r.Match, r.Upstream, r.Policy))
	}
	want := []string{
		"storefront-api: shop.example.com/api to http://api.shop:8080 by storefront-api",
		"storefront-api-2: shop.example.com/api/ to http://api.shop:8080 by storefront-api",
		"storefront-1: shop.example.com/ to http://web.shop:80 by default",
	}
	if !slices.Equal(got, want) || len(notes) == 0 {
		t.Errorf("got %q, notes %v, want %q, and a note about the backoff", got, notes, want)
	}
}

// prefixes returns a rule with so many prefixes, and more matches before them.
func prefixes(n int, before string) string {
	var matches strings.Builder
	for i := range n {
		fmt.Fprintf(&matches, ", {path: {value: /p%d}}", i)
	}
	return one("matches: [" + strings.TrimPrefix(before+matches.String(), ", ") + "], " + backend)
}

// A file becomes as many routes as a gateway can check in a moment, with names of their own. More
// are refused, as are so many matches that to compare them would take long.
func TestManyRoutes(t *testing.T) {
	const post = "{method: POST}"
	c, _, err := httproute.Config("f.yaml", []byte(prefixes(124, post)))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Routes) != 1+16*124 {
		t.Errorf("got %d routes, want one and 16 for each prefix", len(c.Routes))
	}
	for name, tc := range map[string]struct{ file, want string }{
		"routes":  {prefixes(125, post), "spec.rules[0].matches[125]: expected at most 2000 routes, got 2001"},
		"matches": {prefixes(20_000, post), "spec.rules[0].matches[2000]: expected at most 2000 matches in a file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := httproute.Config("f.yaml", []byte(tc.file))
			if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:6:") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %.200v, want %q in f.yaml:6", err, tc.want)
			}
		})
	}
}

// Mistakes have their place, and nothing panics.
func TestMistakes(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"a misspelled field": {one("timeout: {request: 9s}, " + backend), "f.yaml:6:8: spec.rules[0].timeout: unknown field"},
		"a duration":         {one("timeouts: {request: soon}, " + backend), "f.yaml:6:"},
		"nothing left":       {one("matches: [{queryParams: [{name: a, value: b}]}], " + backend), "has no HTTPRoute with a rule that can be carried over\nf.yaml:6:"},
		"no rules":           {"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {}\n", "f.yaml:"},
		"a number for paths": {one("matches: [{path: {value: [1]}}], " + backend), "f.yaml:6:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := httproute.Config("f.yaml", []byte(tc.file))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
