package foreign_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// imported imports a text that has no mistake, and checks that the report accounts for all of it.
func imported(t *testing.T, system foreign.System, text string) *foreign.Result {
	t.Helper()
	result, err := foreign.Import(system, "file", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	accounted(t, system, "file", []byte(text), result)
	return result
}

// named returns the policy of a name.
func named(t *testing.T, result *foreign.Result, name string) foreign.Policy {
	t.Helper()
	var all []string
	for _, p := range result.Policies {
		if p.Name == name {
			return p
		}
		all = append(all, p.Name)
	}
	t.Fatalf("no policy %s, only %s", name, strings.Join(all, ", "))
	return foreign.Policy{}
}

// wantKind checks what became of the field whose path ends in path, and why.
func wantKind(t *testing.T, result *foreign.Result, path string, kind foreign.Kind, sentence string) {
	t.Helper()
	found := false
	for _, e := range result.Report {
		if e.Kind == foreign.Default || !strings.HasSuffix(e.Path, path) {
			continue
		}
		found = true
		if e.Kind != kind || !strings.Contains(e.Sentence, sentence) {
			t.Errorf("%s: got %s: %s, want %s: %s", e.Path, e.Kind, e.Sentence, kind, sentence)
		}
	}
	if !found {
		t.Errorf("%s: the report has no entry", path)
	}
}

// Istio makes no retry policy for a route without attempts, and so no timeout for a try.
func TestIstioWithoutAttemptsHasNoTryTimeout(t *testing.T) {
	t.Parallel()
	for name, retries := range map[string]string{
		"attempts: 0": "{attempts: 0, perTryTimeout: 2s, retryOn: 5xx, backoff: 1s, retryIgnorePreviousHosts: false}",
		"no attempts": "{perTryTimeout: 2s, retryOn: 5xx, backoff: 1s, retryIgnorePreviousHosts: false}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Istio, virtualService+"      retries: "+retries+"\n      timeout: 10s\n")
			p := result.Policies[0]
			if p.TryTimeout != 0 || p.From["TryTimeout"] != nil || p.Retry.MaxAttempts != 1 {
				t.Errorf("got a try of %v from %v, %d attempts, want no limit and 1", p.TryTimeout, p.From["TryTimeout"], p.Retry.MaxAttempts)
			}
			for _, field := range []string{"perTryTimeout", "retryOn", "backoff", "retryIgnorePreviousHosts"} {
				wantKind(t, result, "retries."+field, foreign.Dropped, "makes no retry policy")
			}
		})
	}
}

// Objects of one name in two namespaces, as kubectl get -A gives them, are two objects.
func TestNamespacesTellObjectsApart(t *testing.T) {
	t.Parallel()
	object := func(kind, namespace, name, spec string) string {
		return "---\napiVersion: " + kind[:strings.LastIndex(kind, "/")] + "\nkind: " + kind[strings.LastIndex(kind, "/")+1:] +
			"\nmetadata: {name: " + name + ", namespace: " + namespace + "}\nspec: " + spec + "\n"
	}
	const (
		ingress    = "traefik.io/v1alpha1/IngressRoute"
		middleware = "traefik.io/v1alpha1/Middleware"
		transport  = "traefik.io/v1alpha1/ServersTransport"
		httpRoute  = "gateway.networking.k8s.io/v1/HTTPRoute"
		limits     = "gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy"
		budget     = "gateway.networking.x-k8s.io/v1alpha1/XBackendTrafficPolicy"
		virtual    = "networking.istio.io/v1/VirtualService"
	)
	for name, c := range map[string]struct {
		system foreign.System
		text   string
		figure func(foreign.Policy) float64
		want   map[string]float64 // by policy
	}{
		"Traefik, a middleware": {
			foreign.Traefik,
			object(ingress, "a", "shop", "{routes: [{middlewares: [{name: retry}], services: [{name: s}]}]}") +
				object(middleware, "a", "retry", "{retry: {attempts: 2}}") +
				object(ingress, "b", "shop", "{routes: [{middlewares: [{name: retry}], services: [{name: s}]}]}") +
				object(middleware, "b", "retry", "{retry: {attempts: 5}}"),
			func(p foreign.Policy) float64 { return float64(p.Retry.MaxAttempts) },
			map[string]float64{"a/shop": 2, "b/shop": 5},
		},
		"Traefik, a middleware of another namespace": {
			foreign.Traefik,
			object(ingress, "a", "shop", "{routes: [{middlewares: [{name: retry, namespace: b}], services: [{name: s}]}]}") +
				object(ingress, "a", "web", "{routes: [{middlewares: [{name: b-retry@kubernetescrd}], services: [{name: s}]}]}") +
				object(middleware, "a", "retry", "{retry: {attempts: 2}}") +
				object(middleware, "b", "retry", "{retry: {attempts: 5}}"),
			func(p foreign.Policy) float64 { return float64(p.Retry.MaxAttempts) },
			map[string]float64{"shop": 5, "web": 5, "a/retry": 2},
		},
		"Traefik, a transport": {
			foreign.Traefik,
			object(ingress, "a", "shop", "{routes: [{services: [{name: s, serversTransport: slow}]}]}") +
				object(transport, "a", "slow", "{forwardingTimeouts: {dialTimeout: 2}}") +
				object(transport, "b", "slow", "{forwardingTimeouts: {dialTimeout: 5}}"),
			func(p foreign.Policy) float64 { return p.ConnectTimeout.Seconds() },
			map[string]float64{"shop": 2, "b/slow": 5},
		},
		"Envoy Gateway": {
			foreign.EnvoyGateway,
			object(httpRoute, "a", "shop", "{rules: [{backendRefs: [{name: s}]}]}") +
				object(httpRoute, "b", "shop", "{rules: [{backendRefs: [{name: s}]}]}") +
				object(limits, "a", "p", "{targetRef: {kind: HTTPRoute, name: shop}, circuitBreaker: {maxConnections: 2}}") +
				object(limits, "b", "p", "{targetRef: {kind: HTTPRoute, name: shop}, circuitBreaker: {maxConnections: 5}}"),
			func(p foreign.Policy) float64 { return float64(p.Concurrency.MaxConnections) },
			map[string]float64{"a/shop/0": 2, "b/shop/0": 5},
		},
		"Gateway API": {
			foreign.GatewayAPI,
			object(httpRoute, "a", "shop", "{rules: [{backendRefs: [{name: s}]}, {backendRefs: [{name: s, namespace: b}]}]}") +
				object(httpRoute, "b", "shop", "{rules: [{backendRefs: [{name: s}]}]}") +
				object(budget, "a", "p", "{targetRefs: [{kind: Service, name: s}], retryConstraint: {budget: {percent: 2}}}") +
				object(budget, "b", "p", "{targetRefs: [{kind: Service, name: s}], retryConstraint: {budget: {percent: 5}}}"),
			func(p foreign.Policy) float64 { return p.Retry.Budget.Percent },
			map[string]float64{"a/shop/0": 2, "a/shop/1": 5, "b/shop/0": 5},
		},
		"Istio": {
			foreign.Istio,
			object(virtual, "a", "shop", "{http: [{timeout: 2s, route: [{destination: {host: s}}]}]}") +
				object(virtual, "b", "shop", "{http: [{timeout: 5s, route: [{destination: {host: s}}]}]}") +
				object(virtual, "b", "web", "{http: [{timeout: 1s, route: [{destination: {host: s}}]}]}"),
			func(p foreign.Policy) float64 { return p.Timeout.Seconds() },
			map[string]float64{"a/shop/0": 2, "b/shop/0": 5, "web/0": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, c.system, c.text)
			for policy, want := range c.want {
				if got := c.figure(named(t, result, policy)); got != want {
					t.Errorf("policy %s: got %v, want %v", policy, got, want)
				}
			}
			if len(result.Policies) != len(c.want) {
				t.Errorf("got %d policies, want %d", len(result.Policies), len(c.want))
			}
		})
	}
}

// Envoy Gateway takes the policy that is closest to a rule, and has defaults without one.
func TestEnvoyGatewayTakesTheClosestPolicy(t *testing.T) {
	t.Parallel()
	const routes = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, labels: {team: blue}}
spec:
  parentRefs: [{name: eg, sectionName: https}]
  rules: [{backendRefs: [{name: s}]}, {name: slow, backendRefs: [{name: s}]}]
`
	target := func(most, target string) string {
		return "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: most-" + most +
			"}\nspec: {" + target + ", circuitBreaker: {maxConnections: " + most + "}}\n"
	}
	gateway := target("1", "targetRef: {kind: Gateway, name: eg}")
	listener := target("2", "targetRef: {kind: Gateway, name: eg, sectionName: https}")
	route := target("3", "targetRefs: [{kind: HTTPRoute, name: shop}]")
	labels := target("4", "targetSelectors: [{kind: HTTPRoute, matchLabels: {team: blue}}]")
	rule := target("5", "targetRefs: [{kind: HTTPRoute, name: shop, sectionName: slow}]")
	for name, c := range map[string]struct {
		policies   string
		most, slow int
		more       int // policies that no route takes
	}{
		"none":                 {"", 1024, 1024, 0},
		"the Gateway's":        {gateway, 1, 1, 0},
		"the listener's":       {gateway + listener, 2, 2, 1},
		"the route's":          {gateway + route, 3, 3, 1},
		"by labels":            {gateway + labels, 4, 4, 1},
		"the rule's":           {rule + gateway, 1, 5, 0},
		"another Gateway's":    {target("6", "targetRef: {kind: Gateway, name: other}"), 1024, 1024, 1},
		"another listener's":   {target("6", "targetRef: {kind: Gateway, name: eg, sectionName: http}"), 1024, 1024, 1},
		"another team's":       {target("6", "targetSelectors: [{kind: HTTPRoute, matchLabels: {team: red}}]"), 1024, 1024, 1},
		"of another kind":      {target("6", "targetRef: {kind: GRPCRoute, name: shop}"), 1024, 1024, 1},
		"the first of the two": {route + labels, 3, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.EnvoyGateway, routes+c.policies)
			for policy, want := range map[string]int{"shop/0": c.most, "shop/slow": c.slow} {
				p := named(t, result, policy)
				if got := p.Concurrency.MaxConnections; got != want {
					t.Errorf("%s: at most %d connections, want %d", policy, got, want)
				}
				if p.Timeout != 15*time.Second || p.ConnectTimeout != 10*time.Second {
					t.Errorf("%s: timeouts %v and %v, want the defaults of Envoy Gateway", policy, p.Timeout, p.ConnectTimeout)
				}
			}
			if got := len(result.Policies) - 2; got != c.more {
				t.Errorf("%d policies more than rules, want %d", got, c.more)
			}
		})
	}
	result := imported(t, foreign.EnvoyGateway, target("7", "targetSelectors: [{kind: Gateway, matchLabels: {team: blue}}]"))
	wantKind(t, result, "targetSelectors[0]", foreign.Dropped, "name them in targetRefs")
}

// envoyListener is a listener with what an HttpConnectionManager has besides its name.
func envoyListener(manager string) string {
	return `filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
` + manager
}

// A misspelled field on the way to the routes loses no retries without a word.
func TestEnvoyListenerIsChecked(t *testing.T) {
	t.Parallel()
	const routes = `      route_config:
        virtual_hosts:
        - domains: ["*"]
          routes: [{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: 5xx}}}]
`
	good := envoyListener(routes)
	if p := imported(t, foreign.Envoy, good).Policies[0]; p.Retry.MaxAttempts != 2 {
		t.Fatalf("got %d attempts, want 2", p.Retry.MaxAttempts)
	}
	other := envoyListener(routes) + "---\nname: a\ncircuit_breakers: {thresholds: [{max_retries: 3}]}\n"
	for name, misspelled := range map[string][2]string{
		"route_config":  {"route_config", "route_confg"},
		"routeConfig":   {"route_config", "routeConfg"},
		"filter_chains": {"filter_chains", "filter_chain"},
		"filters":       {"- filters", "- filter"},
		"typed_config":  {"typed_config", "typed_confg"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(other, misspelled[0]+":", misspelled[1]+":", 1)
			if text == other {
				t.Fatal("nothing is misspelled")
			}
			if _, err := foreign.Import(foreign.Envoy, "file", []byte(text)); err == nil || !strings.Contains(err.Error(), "unknown field") {
				t.Errorf("got %v, want an unknown field", err)
			}
		})
	}
}

// Filters that limit or break calls are reported as dropped.
func TestEnvoyFiltersAreDropped(t *testing.T) {
	t.Parallel()
	for filter, sentence := range map[string]string{
		"adaptive_concurrency.v3.AdaptiveConcurrency": "latency",
		"admission_control.v3.AdmissionControl":       "success rate",
		"local_ratelimit.v3.LocalRateLimit":           "for callers",
		"fault.v3.HTTPFault":                          "on purpose",
		"ratelimit.v3.RateLimit":                      "rate limit service",
	} {
		t.Run(filter, func(t *testing.T) {
			t.Parallel()
			name, _, _ := strings.Cut(filter, ".")
			of := `"@type": type.googleapis.com/envoy.extensions.filters.http.` + filter
			result := imported(t, foreign.Envoy, envoyListener(`      http_filters:
      - {name: envoy.filters.http.`+name+`, typed_config: {`+of+`}}
      - {name: own, typed_config: {`+of+`}}
      - {name: envoy.filters.http.`+name+`, disabled: true}
      - {name: envoy.filters.http.router}
      route_config:
        virtual_hosts:
        - domains: ["*"]
          routes:
          - match: {prefix: /}
            route: {cluster: a, retry_policy: {retry_on: 5xx}}
            typed_per_filter_config: {envoy.filters.http.`+name+`: {`+of+`, stat_prefix: a}}
`))
			wantKind(t, result, "http_filters[0]", foreign.Dropped, sentence)
			wantKind(t, result, "http_filters[1]", foreign.Dropped, sentence)
			wantKind(t, result, "http_filters[2]", foreign.Unrelated, "")
			wantKind(t, result, "http_filters[3]", foreign.Unrelated, "")
			wantKind(t, result, `typed_per_filter_config["envoy.filters.http.`+name+`"]`, foreign.Dropped, sentence)
		})
	}
}

// A route that delegates gives its timeout and its retries to the routes of the delegate.
func TestIstioDelegates(t *testing.T) {
	t.Parallel()
	service := func(name, http string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: " + name + ", namespace: shop}\nspec: {http: [" + http + "]}\n"
	}
	const settings = "timeout: 4s, retries: {attempts: 5, perTryTimeout: 1s, retryOn: 5xx}"
	root := service("root", "{"+settings+", delegate: {name: team}}")
	t.Run("takes both", func(t *testing.T) {
		t.Parallel()
		result := imported(t, foreign.Istio, root+service("team", "{route: [{destination: {host: a}}]}"))
		p := named(t, result, "team/0")
		if p.Timeout != 4*time.Second || p.TryTimeout != time.Second || p.Retry.MaxAttempts != 6 || len(p.From["Timeout"]) != 1 {
			t.Errorf("got %v, %v, %d attempts, from %v", p.Timeout, p.TryTimeout, p.Retry.MaxAttempts, p.From)
		}
		wantKind(t, result, "timeout", foreign.Carried, "")
		wantKind(t, result, "retries.attempts", foreign.Carried, "")
		for _, e := range result.Report {
			if e.Kind == foreign.Default && (strings.HasPrefix(e.Sentence, "timeout: none") || strings.HasPrefix(e.Sentence, "retries: 2")) {
				t.Errorf("a default that does not apply: %+v", e)
			}
		}
	})
	t.Run("has its own", func(t *testing.T) {
		t.Parallel()
		result := imported(t, foreign.Istio, service("team", "{timeout: 2s, retries: {attempts: 1}, route: [{destination: {host: a}}]}")+root)
		p := named(t, result, "team/0")
		if p.Timeout != 2*time.Second || p.TryTimeout != 0 || p.Retry.MaxAttempts != 2 {
			t.Errorf("got %v, %v, %d attempts", p.Timeout, p.TryTimeout, p.Retry.MaxAttempts)
		}
		for _, e := range result.Report { // the delegate's object is first
			isRoot, want := e.Line > 5, foreign.Carried
			if isRoot {
				want = foreign.Dropped
			}
			if e.Kind != foreign.Default && (strings.Contains(e.Path, ".retries") || strings.HasSuffix(e.Path, ".timeout")) && e.Kind != want {
				t.Errorf("got %+v, want %s", e, want)
			}
		}
	})
	t.Run("is elsewhere", func(t *testing.T) {
		t.Parallel()
		result := imported(t, foreign.Istio, root+service("other", "{route: [{destination: {host: a}}]}"))
		wantKind(t, result, "timeout", foreign.Dropped, "not in the file")
		wantKind(t, result, "retries.perTryTimeout", foreign.Dropped, "not in the file")
		if p := named(t, result, "other/0"); p.Timeout != 0 {
			t.Errorf("another route has the timeout %v", p.Timeout)
		}
	})
	t.Run("of two", func(t *testing.T) {
		t.Parallel()
		result := imported(t, foreign.Istio, root+service("root2", "{timeout: 8s, delegate: {name: team}}")+service("team", "{route: [{destination: {host: a}}]}"))
		if a, b := named(t, result, "root/0/team/0"), named(t, result, "root2/0/team/0"); a.Timeout != 4*time.Second || b.Timeout != 8*time.Second || b.Retry.MaxAttempts != 3 {
			t.Errorf("got %v and %v, %d attempts", a.Timeout, b.Timeout, b.Retry.MaxAttempts)
		}
	})
}

// What another field switches off is not carried over.
func TestValuesWithoutEffectAreDropped(t *testing.T) {
	t.Parallel()
	const r4j = "resilience4j:\n  retry:\n    configs: {default: {waitDuration: 1s, exponentialBackoffMultiplier: 3, exponentialMaxWaitDuration: 9s, randomizedWaitFactor: 0.3}}\n    instances:\n"
	for name, c := range map[string]struct {
		system  foreign.System
		text    string
		carried []string
		dropped []string
	}{
		"Envoy, statuses": {
			foreign.Envoy, "{retry_on: \"5xx, reset\", retriable_status_codes: [404], num_retries: 2}",
			[]string{"retry_on", "num_retries"}, []string{"retriable_status_codes[0]"},
		},
		"Envoy, statuses with their word": {
			foreign.Envoy, "{retriable_status_codes: [404], retry_on: \"5xx, retriable-status-codes\"}",
			[]string{"retry_on", "retriable_status_codes[0]"}, nil,
		},
		"Envoy, no retry_on": {
			foreign.Envoy, "{num_retries: 2, retriable_status_codes: [404], per_try_timeout: 1s, retry_back_off: {base_interval: 1s}}",
			[]string{"per_try_timeout"}, []string{"num_retries", "retriable_status_codes[0]", "base_interval"},
		},
		"Envoy Gateway": {
			foreign.EnvoyGateway, traffic + "  retry: {retryOn: {triggers: [reset], httpStatusCodes: [404]}}\n",
			[]string{"triggers[0]"}, []string{"httpStatusCodes[0]"},
		},
		"resilience4j": {
			foreign.Resilience4j, r4j + "      a: {}\n",
			[]string{"waitDuration"}, []string{"exponentialBackoffMultiplier", "exponentialMaxWaitDuration", "randomizedWaitFactor"},
		},
		"resilience4j, one of two instances grows": {
			foreign.Resilience4j, r4j + "      a: {}\n      b: {waitDuration: 1s, enableExponentialBackoff: true}\n      c: {enableExponentialBackoff: false}\n",
			[]string{"waitDuration", "exponentialBackoffMultiplier", "exponentialMaxWaitDuration"}, []string{"randomizedWaitFactor"},
		},
		"resilience4j, a breaker": {
			foreign.Resilience4j, "resilience4j.circuitbreaker.instances.a:\n  waitDurationInOpenState: 5s\n  exponentialMaxWaitDurationInOpenState: 9s\n  randomizedWaitFactor: 0.2\n",
			[]string{"waitDurationInOpenState"}, []string{"exponentialMaxWaitDurationInOpenState", "randomizedWaitFactor"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, c.system, c.text)
			for _, path := range c.carried {
				wantKind(t, result, path, foreign.Carried, "")
			}
			for _, path := range c.dropped {
				wantKind(t, result, path, foreign.Dropped, "")
			}
		})
	}
}

// The system shows in whatever quotes the text has.
func TestDetectInQuotes(t *testing.T) {
	t.Parallel()
	for api, want := range map[string]foreign.System{
		"networking.istio.io/v1":                foreign.Istio,
		"gateway.envoyproxy.io/v1alpha1":        foreign.EnvoyGateway,
		"linkerd.io/v1alpha2":                   foreign.Linkerd,
		"policy.linkerd.io/v1":                  foreign.Linkerd,
		"dapr.io/v1alpha1":                      foreign.Dapr,
		"gateway.networking.k8s.io/v1":          foreign.GatewayAPI,
		"gateway.networking.x-k8s.io/v1alpha1":  foreign.GatewayAPI,
		"traefik.io/v1alpha1":                   foreign.Traefik,
		"traefik.containo.us/v1alpha1":          foreign.Traefik,
		"apps/v1":                               "",
		"networking.istio.iocaine.example/v1":   "",
		"x.networking.istio.io.example.com/net": "",
	} {
		for _, text := range []string{
			"apiVersion: %\n", "apiVersion: '%'\n", "apiVersion: \"%\"\n", "'apiVersion': '%'\n", "\"apiVersion\" : \"%\"\n",
			"items:\n- apiVersion: '%'\n", "{kind: List, items: [{'apiVersion': '%'}]}\n",
		} {
			text = strings.Replace(text, "%", api, 1)
			if got := foreign.Detect("file", []byte(text)); got != want {
				t.Errorf("%q: got %q, want %q", text, got, want)
			}
		}
	}
	for text, want := range map[string]foreign.System{
		"'methodConfig': []\n":                   foreign.GRPC,
		"'retry_policy': {}\n":                   foreign.Envoy,
		"  'retry.linkerd.io/http': '5xx'\n":     foreign.Linkerd,
		"\"methodConfig\": []\n":                 foreign.GRPC,
		"  \"retry.linkerd.io/http\": \"5xx\"\n": foreign.Linkerd,
	} {
		if got := foreign.Detect("file", []byte(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// The mesh's retries apply to the routes that have none.
func TestIstioMeshRetries(t *testing.T) {
	t.Parallel()
	routes := virtualService + "    - {route: [{destination: {host: b}}], retries: {attempts: 1}}\n"
	const own = "    - {route: [{destination: {host: b}}], retries: {attempts: 1}}\n"
	operator := func(retries string) string {
		return "---\napiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: default, meshConfig: {enableTracing: true, defaultHttpRetryPolicy: {" + retries + "}}}\n"
	}
	for name, c := range map[string]struct {
		mesh     string
		attempts int
	}{
		"none":           {"", 3},
		"more":           {operator("attempts: 6, retryOn: 5xx"), 7},
		"off":            {operator("attempts: 0"), 1},
		"Sail":           {strings.NewReplacer("install.istio.io/v1alpha1", "sailoperator.io/v1", "IstioOperator", "Istio", "{profile: default, meshConfig", "{values: {meshConfig", "}}}\n", "}}}}\n").Replace(operator("attempts: 4")), 5},
		"nothing of it":  {"---\napiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: demo}\n", 3},
		"in a ConfigMap": {"---\napiVersion: v1\nkind: ConfigMap\ndata: {mesh: \"defaultHttpRetryPolicy: {attempts: 6}\"}\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Istio, routes+c.mesh)
			if got := result.Policies[0].Retry.MaxAttempts; got != c.attempts {
				t.Errorf("got %d attempts, want %d", got, c.attempts)
			}
			if got := result.Policies[1].Retry.MaxAttempts; got != 2 {
				t.Errorf("a route with retries of its own has %d attempts, want 2", got)
			}
			defaults := 0
			for _, e := range result.Report {
				if e.Kind == foreign.Default && strings.HasPrefix(e.Sentence, "retries: 2 on") {
					defaults++
				}
			}
			if isMesh := c.attempts != 3; (defaults == 0) != isMesh {
				t.Errorf("Istio's own default is noted %d times", defaults)
			}
			if strings.Contains(name, "ConfigMap") {
				wantKind(t, result, "data.mesh", foreign.Dropped, "is not read")
			}
		})
	}
	result := imported(t, foreign.Istio, routes+operator("attempts: 6, perTryTimeout: 1s"))
	wantKind(t, result, "defaultHttpRetryPolicy.attempts", foreign.Carried, "")
	wantKind(t, result, "defaultHttpRetryPolicy.perTryTimeout", foreign.Dropped, "perTryTimeout")
	if p := result.Policies[0]; p.TryTimeout != 0 {
		t.Errorf("a try takes %v", p.TryTimeout)
	}
	result = imported(t, foreign.Istio, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec:\n  http:\n"+own+operator("attempts: 6"))
	wantKind(t, result, "defaultHttpRetryPolicy.attempts", foreign.Dropped, "of its own")
}

// What gRPC skips in a list of load balancers is reported.
func TestGRPCBalancersThatAreSkipped(t *testing.T) {
	t.Parallel()
	const outlier = `"outlier_detection_experimental": {"interval": "5s", "failurePercentageEjection": {"threshold": 50}, "childPolicy": [{"round_robin": {}}]}`
	config := func(balancers string) string {
		return `{"methodConfig": [{"name": [{}], "timeout": "1s"}], "loadBalancingConfig": [` + balancers + `]}`
	}
	result := imported(t, foreign.GRPC, config(`{`+strings.Replace(outlier, "_experimental", "", 1)+`}, {"own_policy": {"a": 1}}, {`+outlier+`}`))
	wantKind(t, result, "loadBalancingConfig[0].outlier_detection", foreign.Dropped, `did you mean "outlier_detection_experimental"`)
	wantKind(t, result, "loadBalancingConfig[1].own_policy", foreign.Dropped, "does not know")
	if len(result.Policies[0].Breakers) == 0 {
		t.Error("the first known policy is not read")
	}
	result = imported(t, foreign.GRPC, config(`{"round_robin": {}}, {`+outlier+`}`))
	wantKind(t, result, "loadBalancingConfig[1].outlier_detection_experimental", foreign.Dropped, "the first policy")
	if len(result.Policies[0].Breakers) != 0 {
		t.Error("a policy behind the first is read")
	}
	result = imported(t, foreign.GRPC, config(`{"own_policy": {"a": 1}}`))
	wantKind(t, result, "loadBalancingConfig[0].own_policy", foreign.Dropped, "refuses the whole service config")
	// grpc-go refuses the whole service config for these.
	for name, balancers := range map[string]string{
		"only a misspelled one": `{` + strings.Replace(outlier, "_experimental", "", 1) + `}`,
		"none":                  "",
		"two in one":            `{"round_robin": {}, "pick_first": {}}`,
		"not a mapping":         `"round_robin"`,
	} {
		if _, err := foreign.Import(foreign.GRPC, "file", []byte(config(balancers))); err == nil || !strings.Contains(err.Error(), "gRPC refuses") {
			t.Errorf("%s: got %v, want that gRPC refuses it", name, err)
		}
	}
}

// A connection manager is also read from a TypedStruct, and with fields that are newer than this
// list. A dump of a newer Envoy is no mistake.
func TestEnvoyManagersOfOtherVersions(t *testing.T) {
	t.Parallel()
	const routes = `      stat_prefix: a
      route_config:
        virtual_hosts:
        - domains: ["*"]
          routes: [{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: 5xx}}}]
`
	inStruct := func(kind, of string) string {
		return `filter_chains:
- filters:
  - name: ` + of + `
    typed_config:
      "@type": type.googleapis.com/` + kind + `.TypedStruct
      type_url: type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      value:
` + strings.ReplaceAll("\n"+strings.TrimSuffix(routes, "\n"), "\n", "\n  ")[1:] + "\n"
	}
	for name, text := range map[string]string{
		"xDS":                    inStruct("xds.type.v3", "envoy.filters.network.http_connection_manager"),
		"UDPA":                   inStruct("udpa.type.v1", "envoy.filters.network.http_connection_manager"),
		"under any name":         inStruct("xds.type.v3", "own"),
		"a field of next year":   envoyListener(routes + "      http4_protocol_options: {a: 1}\n"),
		"one that is like a few": envoyListener(routes + "      stream_idle_timeouts: 1s\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Envoy, text)
			if p := result.Policies[0]; p.Retry.MaxAttempts != 2 {
				t.Errorf("got %d attempts, want 2", p.Retry.MaxAttempts)
			}
			if strings.Contains(text, "http4") {
				wantKind(t, result, "http4_protocol_options", foreign.Dropped, "known here")
			}
		})
	}
}

// A null is no value: the mesh's retries and those of a route that delegates apply.
func TestIstioNullIsNoValue(t *testing.T) {
	t.Parallel()
	const mesh = "---\napiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {meshConfig: {defaultHttpRetryPolicy: {attempts: 6}}}\n"
	const root = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: root}\nspec: {http: [{timeout: 4s, retries: {attempts: 5}, delegate: {name: team}}]}\n"
	const empty = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: empty}\nspec: {http: [{timeout: , retries: , delegate: {name: team}}]}\n"
	const team = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: team}\nspec: {http: [{timeout: , retries: , route: [{destination: {host: a}}]}]}\n"
	for name, c := range map[string]struct {
		text     string
		policy   string
		attempts int
		timeout  time.Duration
		defaults int // noted
	}{
		"nothing else":                     {team, "team/0", 3, 0, 2},
		"the mesh":                         {team + mesh, "team/0", 7, 0, 1},
		"a root":                           {team + root, "team/0", 6, 4 * time.Second, 0},
		"a root with nulls":                {team + empty, "team/0", 3, 0, 2},
		"a root and one with nulls":        {team + root + empty, "empty/0/team/0", 3, 0, 2},
		"these, and the mesh":              {team + root + empty + mesh, "empty/0/team/0", 7, 0, 1},
		"a root whose retries have a null": {team + "---" + strings.Replace(root[3:], "attempts: 5", "attempts: ", 1), "team/0", 1, 4 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Istio, c.text)
			if p := named(t, result, c.policy); p.Retry.MaxAttempts != c.attempts || p.Timeout != c.timeout {
				t.Errorf("got %d attempts, timeout %v, want %d, %v", p.Retry.MaxAttempts, p.Timeout, c.attempts, c.timeout)
			}
			defaults := 0
			for _, e := range result.Report {
				if e.Kind == foreign.Default && (strings.HasPrefix(e.Sentence, "retries: 2 on") || strings.HasPrefix(e.Sentence, "timeout: none")) {
					defaults++
				}
			}
			if defaults != c.defaults {
				t.Errorf("%d defaults of a route are noted, want %d", defaults, c.defaults)
			}
		})
	}
}

// Dapr takes a number without a unit for milliseconds, and no request for one.
func TestDaprBareNumbers(t *testing.T) {
	t.Parallel()
	result := imported(t, foreign.Dapr, resiliency+`  policies:
    timeouts: {general: "5000"}
    retries: {often: {policy: exponential, duration: "250", maxInterval: "1500", maxRetries: 3}, steady: {duration: "500"}}
    circuitBreakers: {shared: {maxRequests: 0, interval: "8000", timeout: "45000"}}
  targets: {apps: {a: {timeout: general, retry: often, circuitBreaker: shared}, b: {retry: steady}}}
`)
	a, b := named(t, result, "app/a"), named(t, result, "app/b")
	if a.TryTimeout != 5*time.Second || a.Retry.Backoff.Max != 1500*time.Millisecond || b.Retry.Backoff.Base != 500*time.Millisecond {
		t.Errorf("got a try of %v, waits up to %v, and of %v, want 5s, 1.5s and 500ms", a.TryTimeout, a.Retry.Backoff.Max, b.Retry.Backoff.Base)
	}
	if got := a.Breakers[0]; got.HalfOpenCalls != 1 || got.Window != 8*time.Second || got.OpenFor != 45*time.Second {
		t.Errorf("got %d trial calls, a window of %v, open for %v, want 1, 8s and 45s", got.HalfOpenCalls, got.Window, got.OpenFor)
	}
	wantKind(t, result, "maxRequests", foreign.Approximated, "0 means 1")
	for _, wrong := range []string{`"-5"`, `"-18446744073709"`, `"9300000000000000000"`, "5000 ms"} {
		if _, err := foreign.Import(foreign.Dapr, "file", []byte(resiliency+"  policies: {timeouts: {general: "+wrong+"}}\n  targets: {apps: {a: {timeout: general}}}\n")); err == nil {
			t.Errorf("timeout %s: got no error, want one", wrong)
		}
	}
}

// An IngressRoute's strategy counts as that of a service does.
func TestTraefikStrategyOfAnIngressRoute(t *testing.T) {
	t.Parallel()
	for strategy, turns := range map[string]bool{"": true, "wrr": true, "RoundRobin": true, "p2c": false, "leasttime": false, "hrw": false} {
		text := "apiVersion: traefik.io/v1alpha1\nkind: IngressRoute\nmetadata: {name: a}\nspec: {routes: [{kind: Rule, match: Host(`a`), services: [{name: b, port: 80"
		if strategy != "" {
			text += ", strategy: " + strategy
		}
		result := imported(t, foreign.Traefik, text+"}]}]}\n")
		if got := result.Policies[0].RoundRobin; got != turns {
			t.Errorf("strategy %q: got in turn %v, want %v", strategy, got, turns)
		}
		if !turns {
			wantKind(t, result, "strategy", foreign.Approximated, "at random")
		}
	}
}

// Of an IngressRoute's services, the settings of the one with the largest weight count: those of a
// canary took the place of the others, or were mixed with them.
func TestTraefikTakesTheHeaviestService(t *testing.T) {
	t.Parallel()
	service := func(name, weight string, failures string) string {
		return "{name: " + name + weight + ", passiveHealthCheck: {failureWindow: 10s, maxFailedAttempts: " + failures + "}, serversTransport: " + name + ", middlewares: [{name: " + name + "}]}"
	}
	for name, services := range map[string]string{
		"the canary first": service("canary", ", weight: 1", "1") + ", " + service("stable", ", weight: 99", "7"),
		"the canary last":  service("stable", ", weight: 99", "7") + ", " + service("canary", ", weight: 1", "1"),
		"no weight is 1":   service("canary", ", weight: 0", "1") + ", " + service("stable", "", "7"),
		"the first of two": service("stable", "", "7") + ", " + service("canary", ", weight: 1", "1"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "apiVersion: traefik.io/v1alpha1\nkind: IngressRoute\nmetadata: {name: shop}\nspec: {routes: [{match: a, services: [" + services + "]}]}\n"
			for transport, after := range map[string]string{"stable": "7s", "canary": "1s"} {
				text += "---\napiVersion: traefik.io/v1alpha1\nkind: ServersTransport\nmetadata: {name: " + transport + "}\nspec: {forwardingTimeouts: {responseHeaderTimeout: " + after + "}}\n" +
					"---\napiVersion: traefik.io/v1alpha1\nkind: Middleware\nmetadata: {name: " + transport + "}\nspec: {inFlightReq: {amount: " + strings.TrimSuffix(after, "s") + "}}\n"
			}
			result := imported(t, foreign.Traefik, text)
			p := named(t, result, "shop")
			if len(p.Breakers) != 1 || p.Breakers[0].ConsecutiveFailures != 7 || p.TryTimeout != 7*time.Second || p.Concurrency.MaxRequests != 7 {
				t.Errorf("got %+v, want the settings of stable, with 7", p)
			}
			dropped := 0
			for _, e := range result.Report {
				if e.Kind == foreign.Dropped && strings.Contains(e.Sentence, "that of the service with the largest weight") {
					dropped++
				}
			}
			if len(result.Policies) != 1 { // what is dropped is no policy of its own either
				t.Errorf("got %d policies, want 1: %+v", len(result.Policies), result.Policies)
			}
			if dropped != 3 {
				t.Errorf("the report drops %d settings of canary, want 3:\n%v", dropped, result.Report)
			}
		})
	}
}

// A route without a DestinationRule in the file may have one elsewhere.
func TestIstioTellsOfAnAbsentDestinationRule(t *testing.T) {
	t.Parallel()
	absent := func(text string) (all []string) {
		for _, e := range imported(t, foreign.Istio, text).Report {
			if e.Absent {
				all = append(all, e.Sentence)
			}
		}
		return all
	}
	routes := "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {http: [{route: [{destination: {host: b}}, {destination: {host: c}}]}]}\n"
	rule := func(host string) string {
		return "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + host + "}\nspec: {host: " + host + "}\n"
	}
	const b, c = "no DestinationRule in the file is for b.default, so there is no breaker and no limit", "no DestinationRule in the file is for c.default, so there is no breaker and no limit"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"none": {routes, []string{b, c}}, "one": {routes + rule("b"), []string{c}}, "both": {routes + rule("b") + rule("c"), nil},
	} {
		if got := absent(c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// An object with a misspelled apiVersion, or of a system that is not read, is a mistake. It used to
// count as a file without policies, which a pipeline leaves out.
func TestObjectsOfUnknownGroups(t *testing.T) {
	t.Parallel()
	const gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\n---\n"
	for name, c := range map[string]struct{ text, want string }{
		"VirtualService":       {"apiVersion: networking.istio.oi/v1\nkind: VirtualService\n", "file.yaml:1:13: apiVersion: expected networking.istio.io for the kind VirtualService, got networking.istio.oi"},
		"DestinationRule":      {"{apiVersion: istio.io/v1, kind: DestinationRule}", "expected networking.istio.io for the kind DestinationRule, got istio.io"},
		"Resiliency":           {"{apiVersion: dapr.oi/v1alpha1, kind: Resiliency}", "expected dapr.io for the kind Resiliency, got dapr.oi"},
		"IngressRoute":         {"{apiVersion: traefic.io/v1alpha1, kind: IngressRoute}", "expected traefik.containo.us or traefik.io for the kind IngressRoute, got traefic.io"},
		"BackendTrafficPolicy": {"{apiVersion: gateway.envoyproxy.oi/v1alpha1, kind: BackendTrafficPolicy}", "expected gateway.envoyproxy.io for the kind BackendTrafficPolicy, got gateway.envoyproxy.oi"},
		"HTTPRoute":            {"{apiVersion: v1, kind: HTTPRoute}", `expected gateway.networking.k8s.io or policy.linkerd.io for the kind HTTPRoute, got none`},
		"in a list":            {"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service}, {apiVersion: linkerd.oi/v1, kind: serviceProfile}]}", "expected linkerd.io for the kind ServiceProfile, got linkerd.oi"},
		"beside others":        {gateway + "apiVersion: networking.istio.oi/v1\nkind: VirtualService\n", "file.yaml:5:13: apiVersion: expected networking.istio.io for the kind VirtualService, got networking.istio.oi"},
	} {
		_, err := foreign.Import("", "file.yaml", []byte(c.text))
		if none, ok := errors.AsType[*foreign.NoPolicies](err); ok || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v (no policies: %v), want a mistake with %q", name, err, none != nil, c.want)
		}
	}
	for name, text := range map[string]string{
		"a Deployment": "{apiVersion: apps/v1, kind: Deployment}", "a Gateway": gateway,
		"another system's objects": gateway + "{apiVersion: traefik.io/v1alpha1, kind: IngressRoute}\n",
	} {
		_, err := foreign.Import("", "file.yaml", []byte(text))
		if _, ok := errors.AsType[*foreign.NoPolicies](err); !ok {
			t.Errorf("%s: got error %v, want that there are no policies", name, err)
		}
	}
}

// A duration in ISO 8601 that is too long used to be a negative one, or the longest one, depending
// on the processor.
func TestDurationThatIsTooLong(t *testing.T) {
	t.Parallel()
	text := "resilience4j: {retry: {instances: {a: {waitDuration: P999999D}}}}"
	_, err := foreign.Import(foreign.Resilience4j, "file.yaml", []byte(text))
	if want := "waitDuration: expected a duration"; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "P999999D") {
		t.Errorf("got error %v, want one with %q and the value", err, want)
	}
}

// A key of many parts used to fill the memory: each part has a path of its own, as long as all
// parts before it.
func TestKeyOfManyParts(t *testing.T) {
	t.Parallel()
	text := "resilience4j.retry" + strings.Repeat(".a", 400_000) + "=1\n"
	_, err := foreign.Import(foreign.Resilience4j, "application.properties", []byte(text))
	if want := "application.properties:1:1: expected at most 100 parts in a key, got 400002"; err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
		t.Errorf("got error %.600v, want %q", err, want)
	}
}
