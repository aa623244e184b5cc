package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
)

const (
	plainRoute   = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: ratings}\nspec: {rules: [{timeouts: {request: 5s}, backendRefs: [{name: ratings, port: 80}]}]}\n"
	linkerdRoute = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: ratings\n  annotations:\n    retry.linkerd.io/http: 5xx\n    retry.linkerd.io/limit: \"4\"\n" +
		"spec: {rules: [{timeouts: {request: 5s}, backendRefs: [{name: ratings, port: 80}]}]}\n"
	trafficPolicy = "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: ratings}\n" +
		"spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ratings}], retry: {numRetries: 4, retryOn: {httpStatusCodes: [500], triggers: [retriable-status-codes]}}}\n"
	deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: ratings}\nspec: {replicas: 2}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: ratings}\nspec: {ports: [{port: 80}]}\n"
	ownRatings = "routes: [{name: a, match: /a, upstream: \"http://x\"}]\n"
)

// compareSides compares two texts, as versions of one file.
func compareSides(t *testing.T, name, before, after string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	paths := [2]string{filepath.Join(dir, "before", name), filepath.Join(dir, "after", name)}
	for i, text := range []string{before, after} {
		if err := os.MkdirAll(filepath.Dir(paths[i]), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return execute(t, append([]string{"compare", "--before", paths[0], "--config", paths[1], "--rate", "20", "--clients", "2", "--capacity", "60", "--for", "45s"}, args...)...)
}

// Each version of a file is for the system that its own text shows. The other version's counts only
// if it shows none.
func TestEachSideHasItsOwnSystem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, before, after string
		systems             []string // of the version after, and of the one before
		want                string   // in the first line
	}{
		"Linkerd's annotations are removed":    {"route.yaml", linkerdRoute, plainRoute, []string{"gateway-api", "linkerd"}, "ratings/0: "},
		"Linkerd's annotations are added":      {"route.yaml", plainRoute, linkerdRoute, []string{"linkerd", "gateway-api"}, "ratings/0: "},
		"a BackendTrafficPolicy is removed":    {"route.yaml", plainRoute + trafficPolicy, plainRoute, []string{"gateway-api", "envoy-gateway"}, "ratings/0: "},
		"Rebound's own format becomes Istio's": {"policy.yaml", ownRatings, calm, []string{"istio", ""}, "ratings/0: New. "},
		"Istio's format becomes Rebound's own": {"policy.yaml", calm, ownRatings, []string{"", "istio"}, "default: New. "},
		"the older version shows none":         {"application.properties", "orders.maxAttempts: 2\n", "resilience4j.retry.instances.orders.maxAttempts: 3\n", []string{"resilience4j", ""}, "orders: New. "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := compareSides(t, c.file, c.before, c.after)
			if code != cli.ExitOK || !strings.HasPrefix(out, c.want) {
				t.Errorf("got exit code %d, stderr %s, stdout\n%s\nwant 0 and %q", code, errs, out, c.want)
			}
			if strings.HasPrefix(c.want, "orders") && !strings.Contains(errs, "has no settings of resilience4j") {
				t.Errorf("got stderr\n%s\nwant that the older version was read as resilience4j", errs)
			}
			for i, system := range c.systems {
				side := []string{"after", "before"}[i]
				if want := filepath.Join(side, c.file) + ": 1 policy of " + system + "\n"; system != "" && !strings.Contains(errs, want) {
					t.Errorf("got stderr\n%s\nwant %q", errs, want)
				}
			}
		})
	}
}

// A version without policies is compared as an empty file is. Two of them are no comparison.
func TestSideWithoutPolicies(t *testing.T) {
	t.Parallel()
	const note = ": has no object with retries, timeouts or breakers, only of kind Deployment, Service; so it counts as a file without policies\n"
	for name, c := range map[string]struct {
		before, after string
		args          []string
		code          int
		out, errs     string // the beginning, and a part
	}{
		"a VirtualService is added":   {deployment, deployment + "---\n" + calm, nil, cli.ExitOK, "ratings/0: New. ", note},
		"a VirtualService is removed": {deployment + "---\n" + calm, deployment, nil, cli.ExitOK, "ratings/0 is gone.\n", note},
		"added, with --from":          {deployment, deployment + "---\n" + calm, []string{"--from", "istio"}, cli.ExitOK, "ratings/0: New. ", "has no settings of istio"},
		"the items of a list":         {"apiVersion: v1\nkind: List\nitems: []\n", calm, nil, cli.ExitOK, "ratings/0: New. ", "is a list without objects"},
		"neither has one":             {deployment, deployment + "---\n" + deployment, nil, exitNothing, "", "lab compare: "},
		"neither, and one is empty":   {"", deployment, nil, exitNothing, "", "lab compare: "},
		"a mistake":                   {deployment, strings.Replace(calm, "retries", "retires", 1), nil, cli.ExitUsage, "", "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := compareSides(t, "app.yaml", c.before, c.after, c.args...)
			if code != c.code || !strings.HasPrefix(out, c.out) || !strings.Contains(errs, c.errs) {
				t.Errorf("got exit code %d, stderr %s, stdout\n%s\nwant %d, %q and %q", code, errs, out, c.code, c.errs, c.out)
			}
		})
	}
}

// A file without policies has an exit code of its own, so that a script can leave it out.
func TestExitCodeWithoutPolicies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"limits.yaml": tightLimits, "app.yaml": deployment, "kustomization.yaml": "resources: [app.yaml]\n", "values.yaml": "replicas: 2\n", "empty.yaml": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]int{"app.yaml": exitNothing, "kustomization.yaml": exitNothing, "values.yaml": cli.ExitUsage, "empty.yaml": cli.ExitUsage} {
		for _, command := range []string{"check", "simulate", "compare", "boundary", "import", "harm", "run", "graph"} {
			args := []string{command, "--config", filepath.Join(dir, file)}
			if command == "graph" {
				args = append(args, "../../docs/examples/shop.yaml")
			}
			if command == "check" {
				args = append(args, "--limits", filepath.Join(dir, "limits.yaml"))
			}
			if code, _, errs := execute(t, args...); code != want {
				t.Errorf("%s %s: got exit code %d, stderr %q, want %d", command, file, code, errs, want)
			}
		}
	}
}

// A configuration of Rebound named as a kustomization keeps its mistakes. It used to count as a
// file without policies.
func TestConfigurationNamedKustomization(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kustomization.yaml")
	if err := os.WriteFile(file, []byte("routes: [{name: all, match: /, upstream: 'http://up'}]\npolicies: {default: {retry: {maxAttemps: 3}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{"simulate": ":2:30: ", "compare": ":2:30: ", "import": "use --from NAME"} {
		if code, _, errs := execute(t, command, "--config", file); code != cli.ExitUsage || !strings.Contains(errs, want) {
			t.Errorf("%s: got exit code %d, stderr %q, want 2 and %q", command, code, errs, want)
		}
	}
}

// A route without a DestinationRule in the file may have one elsewhere, which nobody has judged.
func TestAbsentDestinationRuleIsTold(t *testing.T) {
	t.Parallel()
	const want = "  absent: virtual-service.yaml:6:10: spec.http[0]: no DestinationRule in the file is for ratings.default, so there is no breaker and no limit\n"
	rule := "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: ratings}\nspec: {host: ratings}\n"
	for text, tells := range map[string]bool{calm: true, calm + rule: false} {
		_, _, errs := executeIn(t, text, "simulate", "--config", "-", "--rate", "5", "--clients", "1", "--for", "45s")
		if got := strings.Contains(strings.ReplaceAll(errs, "stdin:", "virtual-service.yaml:"), want); got != tells {
			t.Errorf("got stderr\n%s\ntells of it: %v, want %v", errs, got, tells)
		}
	}
}

// The verdicts that README.md and docs/import.md show are those of the commands above them.
func TestVerdictsOnThePages(t *testing.T) {
	if testing.Short() {
		t.Skip("makes very many calls")
	}
	t.Parallel()
	shown := regexp.MustCompile(`(?m)^    (?:\$ )?go run \./cmd/lab (simulate --config cmd/lab/(testdata/istio\.yaml) (--scenario \S+ --rate \d+))\n+    (\S.*)$`)
	for _, page := range []string{"../../README.md", "../../docs/import.md"} {
		m := shown.FindStringSubmatch(files.Read(t, page))
		if m == nil {
			t.Fatalf("%s shows no verdict on cmd/lab/testdata/istio.yaml", page)
		}
		code, out, errs := execute(t, append([]string{"simulate", "--config", m[2]}, strings.Fields(m[3])...)...)
		if got, _, _ := strings.Cut(out, "\n"); code != cli.ExitOK || got != m[4] {
			t.Errorf("%s: lab %s: got exit code %d, stderr %s, %q, want %q", page, m[1], code, errs, got, m[4])
		}
	}
}
