package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// route is a valid route, for documents with a mistake elsewhere.
const route = "routes:\n  - {name: a, match: /a, upstream: \"http://up:5000\"}\n"

// malformed returns configurations, each named after its mistake.
func malformed() map[string]string {
	policy := func(s string) string { return route + "policies:\n  default:\n" + s }
	routes := func(s string) string { return "routes:\n" + s }
	return map[string]string{
		"empty file":                          "",
		"only a comment":                      "# nothing\n",
		"only null":                           "null\n",
		"a list":                              "- a\n- b\n",
		"a string":                            "hello\n",
		"two documents":                       route + "---\n" + route,
		"binary file":                         "\x7fELF\x02\x01\x01\x00\x00",
		"not UTF-8":                           "routes: \xff\xfe\n",
		"a line of 10 MB":                     "routes: \"" + strings.Repeat("x", 10<<20) + "\"\n",
		"broken YAML":                         "routes: [\n",
		"tabs":                                "routes:\n\t- name: a\n",
		"unknown key":                         route + "timeouts: 5s\n",
		"unknown key in a route":              routes("  - {name: a, match: /a, upstream: \"http://up\", retries: 3}\n"),
		"unknown key in a policy":             policy("    retries: {}\n"),
		"unknown key, almost right":           policy("    attemptTimeOut: 1s\n"),
		"duplicate key":                       policy("    timeout: 5s\n    timeout: 6s\n"),
		"routes missing":                      "policies: {}\n",
		"routes empty":                        "routes: []\n",
		"routes null":                         "routes:\n",
		"routes a mapping":                    "routes: {a: b}\n",
		"route a string":                      routes("  - /process\n"),
		"route without a name":                routes("  - {match: /a, upstream: \"http://up\"}\n"),
		"route with a bad name":               routes("  - {name: \"a b\", match: /a, upstream: \"http://up\"}\n"),
		"duplicate route name":                routes("  - {name: a, match: /a, upstream: \"http://up\"}\n  - {name: a, match: /b, upstream: \"http://up\"}\n"),
		"route without a pattern":             routes("  - {name: a, upstream: \"http://up\"}\n"),
		"duplicate pattern":                   routes("  - {name: a, match: /a, upstream: \"http://up\"}\n  - {name: b, match: /a, upstream: \"http://up\"}\n"),
		"conflicting patterns":                routes("  - {name: a, match: \"/{x}/b\", upstream: \"http://up\"}\n  - {name: b, match: \"/a/{y}\", upstream: \"http://up\"}\n"),
		"malformed pattern":                   routes("  - {name: a, match: \"/{id\", upstream: \"http://up\"}\n"),
		"pattern without a slash":             routes("  - {name: a, match: process, upstream: \"http://up\"}\n"),
		"pattern with a bad method":           routes("  - {name: a, match: \"GE T /a\", upstream: \"http://up\"}\n"),
		"pattern with a method in lower case": routes("  - {name: a, match: \"get /a\", upstream: \"http://up\"}\n"),
		"upstream missing":                    routes("  - {name: a, match: /a}\n"),
		"upstream without a scheme":           routes("  - {name: a, match: /a, upstream: \"flaky-server:5000\"}\n"),
		"upstream with another scheme":        routes("  - {name: a, match: /a, upstream: \"ftp://up\"}\n"),
		"upstream without a host":             routes("  - {name: a, match: /a, upstream: \"http:///path\"}\n"),
		"upstream with a bad port":            routes("  - {name: a, match: /a, upstream: \"http://up:99999\"}\n"),
		"upstream with a port in words":       routes("  - {name: a, match: /a, upstream: \"http://up:http\"}\n"),
		"upstream with a password":            routes("  - {name: a, match: /a, upstream: \"http://me:secret@up\"}\n"),
		"upstream with a query":               routes("  - {name: a, match: /a, upstream: \"http://up?x=1\"}\n"),
		"upstream a number":                   routes("  - {name: a, match: /a, upstream: 5000}\n"),
		"unknown policy":                      routes("  - {name: a, match: /a, upstream: \"http://up\", policy: fast}\n"),
		"bad policy name":                     route + "policies:\n  \"a/b\": {}\n",
		"policies a list":                     route + "policies: []\n",
		"policy null":                         policy("    timeout:\n"),
		"duration without a unit":             policy("    timeout: 5\n"),
		"duration in words":                   policy("    timeout: five seconds\n"),
		"negative duration":                   policy("    timeout: -5s\n"),
		"timeout zero":                        policy("    timeout: 0s\n"),
		"attempt longer than the call":        policy("    timeout: 1s\n    attemptTimeout: 2s\n"),
		"negative body timeout":               policy("    bodyIdleTimeout: -1s\n"),
		"maxAttempts zero":                    policy("    retry: {maxAttempts: 0}\n"),
		"maxAttempts absurd":                  policy("    retry: {maxAttempts: 1000}\n"),
		"maxAttempts a string":                policy("    retry: {maxAttempts: three}\n"),
		"maxAttempts a fraction":              policy("    retry: {maxAttempts: 2.5}\n"),
		"maxAttempts beyond any number":       policy("    retry: {maxAttempts: 99999999999999999999}\n"),
		"retry a list":                        policy("    retry: [3]\n"),
		"bad jitter name":                     policy("    retry: {backoff: {jitter: some}}\n"),
		"base above max":                      policy("    retry: {backoff: {base: 2s, max: 1s}}\n"),
		"factor below 1":                      policy("    retry: {backoff: {factor: 0.5}}\n"),
		"factor not a number":                 policy("    retry: {backoff: {factor: .nan}}\n"),
		"status not an error":                 policy("    retry: {statuses: [200]}\n"),
		"status twice":                        policy("    retry: {statuses: [503, 503]}\n"),
		"statuses a number":                   policy("    retry: {statuses: 503}\n"),
		"method in lower case":                policy("    retry: {methods: [get]}\n"),
		"negative retry-after":                policy("    retry: {maxRetryAfter: -1s}\n"),
		"size without a unit":                 policy("    retry: {replayBuffer: 65536}\n"),
		"size in the wrong unit":              policy("    retry: {replayBuffer: 64KB}\n"),
		"size too large":                      policy("    retry: {replayBuffer: 1GiB}\n"),
		"negative ratio":                      policy("    retry: {budget: {ratio: -1}}\n"),
		"infinite burst":                      policy("    retry: {budget: {burst: .inf}}\n"),
		"failure ratio above 1":               policy("    breaker: {failureRatio: 50}\n"),
		"no window":                           policy("    breaker: {window: 0s}\n"),
		"openFor above maxOpenFor":            policy("    breaker: {openFor: 10s}\n"),
		"no probes":                           policy("    breaker: {probes: 0}\n"),
		"many mistakes at once":               routes("  - {name: \"\", match: \"/{\", upstream: up, policy: x, foo: 1}\n") + "policies:\n  default: {timeout: -1s, retry: {maxAttempts: -3, backoff: {jitter: maybe}}, breaker: {probes: -1}}\n",
	}
}

// Every malformed configuration gives a readable report with file, line, column and expectation,
// exit code 2, and no panic.
func TestMalformedConfigurations(t *testing.T) {
	dir := t.TempDir()
	var listing strings.Builder
	documents := malformed()
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		file := filepath.Join(dir, "rebound.yaml")
		if err := os.WriteFile(file, []byte(documents[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), []string{"--check", "--config", file}, noEnv, &stdout, &stderr)
		if code != 2 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "rebound.yaml") {
			t.Errorf("%s: got exit code %d, stdout %q, stderr %q, want 2 and a report on stderr", name, code, stdout.String(), stderr.String())
		}
		fmt.Fprintf(&listing, "## %s\n%s\n", name, strings.ReplaceAll(stderr.String(), dir+string(filepath.Separator), ""))
	}
	golden.File(t, filepath.Join("testdata", "malformed.golden"), listing.String())
}
