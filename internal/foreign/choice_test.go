package foreign_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// policyOf returns the first policy of a file.
func policyOf(t *testing.T, system foreign.System, text string) foreign.Policy {
	t.Helper()
	result, err := foreign.Import(system, "file", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return result.Policies[0]
}

// Which server an attempt goes to, as test/faithful saw it.
func TestChoiceOfTheServer(t *testing.T) {
	t.Parallel()
	haproxy := func(lines string) string {
		return "defaults\n timeout connect 1s\nbackend b\n" + lines + " server a 10.0.0.1:80\n server b 10.0.0.2:80\n"
	}
	traefik := func(strategy string) string {
		return "http:\n  routers: {r: {rule: Host(`a`), service: s}}\n  services: {s: {loadBalancer: {" + strategy + "servers: [{url: \"http://a\"}]}}}\n"
	}
	for name, c := range map[string]struct {
		system             foreign.System
		text               string
		turns, same, other bool
	}{
		"HAProxy":                   {foreign.HAProxy, haproxy(""), true, true, false},
		"HAProxy, roundrobin":       {foreign.HAProxy, haproxy(" balance roundrobin\n"), true, true, false},
		"HAProxy, leastconn":        {foreign.HAProxy, haproxy(" balance leastconn\n"), false, true, false},
		"HAProxy, redispatch":       {foreign.HAProxy, haproxy(" option redispatch\n"), true, false, true},
		"nginx":                     {foreign.Nginx, "location / { proxy_pass http://a; }", false, false, true},
		"Caddy":                     {foreign.Caddy, "a {\n reverse_proxy b\n}", false, false, false},
		"Caddy, round_robin":        {foreign.Caddy, "a {\n reverse_proxy b {\n  lb_policy round_robin\n }\n}", true, false, false},
		"Caddy, JSON, round_robin":  {foreign.Caddy, `{"handler": "reverse_proxy", "load_balancing": {"selection_policy": {"policy": "round_robin"}}}`, true, false, false},
		"Traefik":                   {foreign.Traefik, traefik(""), true, false, false},
		"Traefik, two at random":    {foreign.Traefik, traefik("strategy: p2c, "), false, false, false},
		"Traefik, weighted in turn": {foreign.Traefik, traefik("strategy: wrr, "), true, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := policyOf(t, c.system, c.text)
			if p.RoundRobin != c.turns || p.Retry.SameEndpoint != c.same || p.Retry.OtherEndpoint != c.other {
				t.Errorf("got in turn %v, same %v, other %v, want %v, %v, %v",
					p.RoundRobin, p.Retry.SameEndpoint, p.Retry.OtherEndpoint, c.turns, c.same, c.other)
			}
		})
	}
}

// Without a condition, HAProxy's rule is for every method.
func TestHAProxyWithoutRetriesOfRequests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rule string
		get  bool
	}{
		"always":       {"http-request disable-l7-retry", false},
		"for a method": {"http-request disable-l7-retry if METH_POST", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := policyOf(t, foreign.HAProxy, "backend b\n retry-on 503\n "+c.rule+"\n server a 10.0.0.1:80\n")
			if p.Retry.Methods == nil || slices.Contains(p.Retry.Methods, http.MethodGet) != c.get {
				t.Errorf("got methods %q, want GET among them: %v", p.Retry.Methods, c.get)
			}
			if !p.Retry.UnsentAnyMethod {
				t.Error("requests without a connection are not retried, want them retried")
			}
		})
	}
}

// HAProxy waits before it connects to the same server again, and only then.
func TestHAProxyWaitsForTheSameServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		option string
		want   time.Duration
	}{
		"same":    {"", 300 * time.Millisecond},
		"another": {" option redispatch\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := policyOf(t, foreign.HAProxy, "backend b\n timeout connect 300ms\n"+c.option+" server a 10.0.0.1:80\n server b 10.0.0.2:80\n")
			if got := p.Retry.Backoff.Base; got != c.want {
				t.Errorf("a retry waits %v, want %v", got, c.want)
			}
		})
	}
}
