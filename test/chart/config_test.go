package chart_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	oneRoute  = "routes: [{name: a, match: /, upstream: 'http://a'}]\n"
	twoRoutes = "routes: [{name: a, match: /a, upstream: 'http://a'}, "
)

// Helm refuses a configuration that no pod would start with, as far as it can see that. The message
// names the client's own path.
func TestRefusedConfiguration(t *testing.T) {
	client := build(t, "client")
	for name, tc := range map[string]struct{ config, path string }{
		"no routes":                          {"routes: []", "routes"},
		"attempt longer than the call":       {oneRoute + "policies: {b: {timeout: 5s, attemptTimeout: 10s}}", "policies.b.attemptTimeout"},
		"call shorter than the usual try":    {oneRoute + "policies: {default: {timeout: 1ms}}", "policies.default.attemptTimeout"},
		"attempt longer than the usual":      {oneRoute + "policies: {default: {attemptTimeout: 1h}}", "policies.default.attemptTimeout"},
		"no time at all":                     {oneRoute + "policies: {b: {timeout: 0}}", "policies.b"},
		"negative time":                      {oneRoute + "policies: {b: {timeout: -1h}}", "policies.b"},
		"a nanosecond too much":              {oneRoute + "policies: {b: {timeout: 1h, attemptTimeout: 60m1ns}}", "policies.b.attemptTimeout"},
		"first wait above the longest":       {oneRoute + "policies: {b: {retry: {backoff: {base: 3s, max: 2s}}}}", "policies.b.retry.backoff.base"},
		"first wait above the usual":         {oneRoute + "policies: {b: {retry: {backoff: {base: 1h}}}}", "policies.b.retry.backoff.base"},
		"longest wait below the usual":       {oneRoute + "policies: {b: {retry: {backoff: {max: 1ms}}}}", "policies.b.retry.backoff.base"},
		"no longest wait":                    {oneRoute + "policies: {b: {retry: {backoff: {max: 0}}}}", "policies.b.retry.backoff.base"},
		"open for longer than at most":       {oneRoute + "policies: {b: {breaker: {openFor: 3s, maxOpenFor: 2s}}}", "policies.b.breaker"},
		"open for longer than usual":         {oneRoute + "policies: {b: {breaker: {openFor: 1h}}}", "policies.b.breaker"},
		"open for at most less than usual":   {oneRoute + "policies: {b: {breaker: {maxOpenFor: 1ms}}}", "policies.b.breaker"},
		"unknown policy":                     {twoRoutes + "{name: b, match: /b, upstream: 'http://a', policy: fast}]", "routes[1].policy"},
		"policy without a name":              {twoRoutes + "{name: b, match: /b, upstream: 'http://a', policy: ''}]", "routes[1].policy"},
		"two routes of one name":             {twoRoutes + "{name: a, match: /b, upstream: 'http://a'}]", "routes[1].name"},
		"two routes of one pattern":          {twoRoutes + "{name: b, match: /a, upstream: 'http://a'}]", "routes[1].match"},
		"a policy that an upgrade takes out": {"routes: [{name: a, match: /, upstream: 'http://a', policy: demo}]\npolicies: {demo: null}", "routes[0].policy"},
	} {
		t.Run(name, func(t *testing.T) {
			// The client never sees the chart's values that null removes.
			if _, err := check(t, client, strings.Replace(tc.config, "policies: {demo: null}", "", 1)); err == nil || !strings.Contains(err.Error(), tc.path) {
				t.Fatalf("the client says %v, want a mistake in %s", err, tc.path)
			}
			_, err := render(t, "rebound", map[string]any{"config": parse(t, tc.config)})
			path := "config." + tc.path
			if tc.path == "routes" {
				path = "'/config/routes'"
			}
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("the chart says %v, want a mistake in %s", err, path)
			}
		})
	}
}

// The chart accepts every configuration that the client accepts.
func TestAcceptedConfiguration(t *testing.T) {
	client := build(t, "client")
	usual := defaults(t)
	for name, config := range map[string]string{
		"the same in other units":        oneRoute + "policies: {b: {timeout: 1.5s, attemptTimeout: 1500ms}, c: {timeout: 1h, attemptTimeout: 59m60s}, d: {timeout: 0.3s, attemptTimeout: 100ms200ms}}",
		"the same in many digits":        oneRoute + "policies: {b: {timeout: 1100ms, attemptTimeout: 1.1s}, c: {timeout: 2.3s, attemptTimeout: 2300000us}, d: {timeout: 0.123456789s, attemptTimeout: 123456789ns}}",
		"less than a nanosecond more":    oneRoute + "policies: {b: {timeout: 1s, attemptTimeout: 1000000000.9ns}, c: {timeout: 1.5ns, attemptTimeout: 1.9ns}}",
		"signs":                          oneRoute + "policies: {b: {timeout: +5s, attemptTimeout: +1s}}",
		"no first wait":                  oneRoute + "policies: {b: {retry: {backoff: {base: 0, max: 50ms}}}}",
		"no waits":                       oneRoute + "policies: {b: {retry: {backoff: {base: 0, max: 0}}}}",
		"bounds that are met":            oneRoute + usual.Replace("policies: {b: {retry: {backoff: {base: MAX}}, breaker: {openFor: MAXOPEN}}, c: {attemptTimeout: TIMEOUT}, d: {timeout: ATTEMPT}, e: {retry: {backoff: {max: BASE}}, breaker: {maxOpenFor: OPEN}}}"),
		"only the rest of a policy":      oneRoute + "policies: {b: {}, c: {retry: {}, breaker: {}}, d: {retry: {maxAttempts: 1}}}",
		"the policy default by name":     twoRoutes + "{name: b, match: /b, upstream: 'http://a', policy: default}]",
		"names that differ by the case":  twoRoutes + "{name: A, match: /A, upstream: 'http://a'}]",
		"one path for two methods":       twoRoutes + "{name: b, match: GET /a, upstream: 'http://a'}]",
		"a name that is a pattern":       twoRoutes + "{name: b, match: /b, upstream: 'http://a'}, {name: match, match: /name, upstream: 'http://a'}]",
		"policies that look like others": "routes: [{name: a, match: /, upstream: 'http://a', policy: 'true'}]\npolicies: {'true': {timeout: 30s}}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := check(t, client, config); err != nil {
				t.Fatalf("the client refuses the configuration, want it accepted: %v", err)
			}
			effective(t, client, mustRender(t, "rebound", map[string]any{"config": parse(t, config)}))
		})
	}
}

// defaults fills in the client's defaults for everything that a policy leaves out.
func defaults(t *testing.T) *strings.Replacer {
	t.Helper()
	var p struct {
		Timeout, AttemptTimeout string
		Retry                   struct{ Backoff struct{ Base, Max string } }
		Breaker                 struct{ OpenFor, MaxOpenFor string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "helm/rebound/files/policy.yaml")), &p); err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("TIMEOUT", p.Timeout, "ATTEMPT", p.AttemptTimeout, "BASE", p.Retry.Backoff.Base, "MAXOPEN", p.Breaker.MaxOpenFor,
		"MAX", p.Retry.Backoff.Max, "OPEN", p.Breaker.OpenFor)
}

// The README's command extracts the client's configuration from Helm's output.
func TestCheckOfTheReadme(t *testing.T) {
	found := regexp.MustCompile(`(?s)--show-only (\S+) \|\s+(sed '[^']+') \|`).FindStringSubmatch(read(t, "helm/rebound/README.md"))
	if found == nil {
		t.Fatal("the README has no command that checks the configuration, want one")
	}
	r := mustRender(t, "rebound", nil)
	for _, m := range r.manifests {
		if m.Name != "rebound/"+found[1] {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", found[2])
		cmd.Stdin = strings.NewReader("---\n# Source: " + m.Name + "\n" + m.Content + "\n")
		out, err := cmd.Output()
		if want := clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"]; err != nil || strings.TrimSpace(string(out)) != strings.TrimSpace(want) {
			t.Errorf("got %v\n%s\nwant\n%s", err, out, want)
		}
		return
	}
	t.Errorf("Helm renders no %s, want it", found[1])
}

// The text of httpRoutes reaches the client as it is, in place of config. It also decides the check
// before an installation, the name of the ConfigMap and the grace period.
func TestHTTPRoutes(t *testing.T) {
	client := build(t, "client")
	const route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec:\n  rules:\n    - backendRefs: [{name: a, port: 80}]\n"
	names := map[string]string{}
	for name, tc := range map[string]struct {
		text  string
		grace int64
	}{
		"without limits":       {route, 30},
		"a request's":          {route + "      timeouts: {request: 1m30s, backendRequest: 5s}\n", 120},
		"an attempt's":         {route + "      timeouts:\n        backendRequest: '100s'\n", 120},
		"JSON":                 {`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": {"rules": [{"backendRefs": [{"name": "a", "port": 80}], "timeouts": {"request": "100s"}}]}}`, 120},
		"space before a colon": {`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": {"rules": [{"backendRefs": [{"name": "a", "port": 80}], "timeouts": {"request" : "100s"}}]}}`, 120},
		"an anchor":            {route + "      timeouts: {request: &t 100s, backendRequest: *t}\n", 120},
		"a comment":            {route + "      # timeouts: {request: 2h}\n# request: 2h\n", 30},
		"several objects":      {route + "---\n" + strings.Replace(route, "shop", "other", 1), 30},
		"signs of YAML":        {"# {{ no template }} \"x\"\n\n" + route + "# \n", 30},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", map[string]any{"httpRoutes": tc.text})
			effective(t, client, r)
			c := clientOf[*corev1.ConfigMap](t, r)
			if got := c.Data["rebound.yaml"]; got != tc.text {
				t.Errorf("the client gets %q, want %q", got, tc.text)
			}
			if other, taken := names[c.Name]; taken {
				t.Errorf("the ConfigMap is called %s as that of %s, want another name for another text", c.Name, other)
			}
			names[c.Name] = name
			d := clientOf[*appsv1.Deployment](t, r)
			// The drain delay, and 6 s to cut what is left and for the last spans.
			if want := fmt.Sprintf("--drain-timeout=%ds", tc.grace-5-6); !slices.Contains(d.Spec.Template.Spec.Containers[0].Args, want) {
				t.Errorf("got the arguments %q, want %s", d.Spec.Template.Spec.Containers[0].Args, want)
			}
			if got := *d.Spec.Template.Spec.TerminationGracePeriodSeconds; got != tc.grace {
				t.Errorf("got %d s to end, want %d s", got, tc.grace)
			}
			checks := 0
			for _, m := range all[*corev1.ConfigMap](r) {
				if m.Name == "client-check" {
					checks++
					if m.Data["rebound.yaml"] != tc.text {
						t.Errorf("the check gets %q, want %q", m.Data["rebound.yaml"], tc.text)
					}
				}
			}
			if checks != 1 {
				t.Errorf("got %d ConfigMaps of the check, want 1", checks)
			}
		})
	}
	for name, tc := range map[string]struct {
		values map[string]any
		want   string
	}{
		"an empty file": {map[string]any{"httpRoutes": ""}, "httpRoutes: is an empty text"},
		"another text":  {map[string]any{"httpRoutes": "routes: []"}, "/httpRoutes"},
		"a certificate": {map[string]any{"httpRoutes": route, "client": map[string]any{"tls": map[string]any{"secretName": "a"}}},
			"client.tls: sets config.listener, and httpRoutes is in the place of config"},
		"an issued certificate": {map[string]any{"httpRoutes": route, "client": map[string]any{"tls": map[string]any{"certificate": map[string]any{"enabled": true, "issuerRef": map[string]any{"name": "a"}, "dnsNames": []any{"a"}}}}},
			"client.tls: sets config.listener, and httpRoutes is in the place of config"},
		"files of upstreams": {map[string]any{"httpRoutes": route, "client": map[string]any{"upstreams": map[string]any{"a": map[string]any{"ca": map[string]any{"secret": "a"}}}}},
			"client.upstreams: adds to config.upstreams"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, "rebound", tc.values); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
