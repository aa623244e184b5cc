package foreign_test

import (
	"fmt"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// A rule is for a destination if both name the same host, in whatever spelling.
func TestIstioHosts(t *testing.T) {
	for name, c := range map[string]struct {
		routeIn, to string
		ruleIn, of  string
		want        bool
	}{
		"the same short name":               {"", "reviews", "", "reviews", true},
		"short names of one namespace":      {"default", "reviews", "", "reviews", true},
		"short names of two namespaces":     {"one", "reviews", "two", "reviews", false},
		"a short name and a full one":       {"shop", "reviews", "ops", "reviews.shop.svc.cluster.local", true},
		"a short name and another full one": {"shop", "reviews", "ops", "reviews.ops.svc.cluster.local", false},
		"a name with its namespace":         {"shop", "reviews.default", "", "reviews", true},
		"a name up to svc":                  {"shop", "reviews.default.svc", "", "reviews", true},
		"full names":                        {"a", "reviews.default.svc.cluster.local", "b", "reviews.default.svc.cluster.local", true},
		"a host outside":                    {"a", "api.example.com", "b", "api.example.com", true},
		"another host outside":              {"a", "api.example.com", "b", "www.example.com", false},
		"every host":                        {"a", "reviews", "b", "*", true},
		"every host of a namespace":         {"shop", "reviews", "ops", "*.shop.svc.cluster.local", true},
		"every host of another namespace":   {"shop", "reviews", "ops", "*.ops.svc.cluster.local", false},
	} {
		t.Run(name, func(t *testing.T) {
			in := func(namespace string) string {
				if namespace == "" {
					return ""
				}
				return ", namespace: " + namespace
			}
			text := fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: route%s}
spec: {http: [{route: [{destination: {host: %s}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: rule%s}
spec: {host: "%s", trafficPolicy: {connectionPool: {http: {http2MaxRequests: 7}}}}
`, in(c.routeIn), c.to, in(c.ruleIn), c.of)
			r, err := foreign.Import(foreign.Istio, "f", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Policies[0].Concurrency.MaxRequests == 7; got != c.want {
				t.Errorf("the rule applies: %v, want %v", got, c.want)
			}
			if got, want := len(r.Policies), 2-one(c.want); got != want {
				t.Errorf("%d policies, want %d: a rule that no route uses is one of its own", got, want)
			}
		})
	}
}

// Of several rules, that of the closest host counts.
func TestIstioClosestRule(t *testing.T) {
	rule := func(host string, most int) string {
		return fmt.Sprintf("---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r%d}\n"+
			"spec: {host: %q, trafficPolicy: {connectionPool: {http: {http2MaxRequests: %d}}}}\n", most, host, most)
	}
	const route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: route}\nspec: {http: [{route: [{destination: {host: reviews}}]}]}\n"
	all := []string{rule("*", 1), rule("*.default.svc.cluster.local", 2), rule("reviews.default.svc.cluster.local", 3)}
	text := route
	for i, add := range all {
		text += add
		r, err := foreign.Import(foreign.Istio, "f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Policies[0].Concurrency.MaxRequests; got != i+1 {
			t.Errorf("with %d rules: limit %d, want %d", i+1, got, i+1)
		}
	}
}
