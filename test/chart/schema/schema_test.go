// Package schema_test compares the JSON Schemas under docs/ with the programs: a validator in
// common use and the program accept the same documents.
package schema_test

import (
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

const root = "../../.."

// route is a route that completes a document under test.
const route = "routes: [{name: a, match: /, upstream: 'http://a'}]\n"

func TestConfiguration(t *testing.T) {
	agree(t, "rebound.schema.json", func(text []byte) error {
		c := gateway.DefaultConfig()
		return config.Decode("", text, &c)
	}, map[string]document{
		"the demo's policy":       {files.Read(t, filepath.Join(root, "cmd/demo/rebound.yaml")), true},
		"every default":           {marshalled(t, gateway.ForUpstream("http://a")), true},
		"a route alone":           {route, true},
		"another policy":          {route + "policies: {default: {timeout: 9s}, other: {retry: {maxAttempts: 1}}}", true},
		"every form of duration":  {route + "policies: {p: {timeout: 1h2m3.5s, attemptTimeout: 750ms, bodyIdleTimeout: 0, retry: {maxRetryAfter: .5s}}}", true},
		"every form of size":      {route + "policies: {p: {retry: {replayBuffer: 1MiB}}, q: {retry: {replayBuffer: 0}}}", true},
		"unknown key":             {route + "polices: {}", false},
		"unknown key of a policy": {route + "policies: {default: {retries: 3}}", false},
		"unknown key far down":    {route + "policies: {default: {retry: {budget: {rate: 1}}}}", false},
		"no routes":               {"policies: {}", false},
		"no upstream":             {"routes: [{name: a, match: /}]", false},
		"duration without a unit": {route + "policies: {default: {timeout: 5}}", false},
		"duration of days":        {route + "policies: {default: {timeout: 1d}}", false},
		"size without a unit":     {route + "policies: {default: {retry: {replayBuffer: 64}}}", false},
		"size of thousands":       {route + "policies: {default: {retry: {replayBuffer: 64KB}}}", false},
		"jitter":                  {route + "policies: {default: {retry: {backoff: {jitter: some}}}}", false},
		"text for a number":       {route + "policies: {default: {breaker: {probes: three}}}", false},
		"fraction of an attempt":  {route + "policies: {default: {retry: {maxAttempts: 1.5}}}", false},
		"number for a list":       {route + "policies: {default: {retry: {statuses: 503}}}", false},
		"null":                    {route + "policies: {default: {timeout: null}}", false},
	})
}

func TestFaults(t *testing.T) {
	agree(t, "faults.schema.json", func(text []byte) error {
		s := faults.Default()
		return config.Decode("", text, &s)
	}, map[string]document{
		"every default":       {marshalled(t, faults.Default()), true},
		"nothing":             {"{}", true},
		"latency":             {"latency: {distribution: pareto, min: 1ms, alpha: 1.5}", true},
		"windows":             {"schedule: [{for: 1s, errorRate: 1}, {at: 2s, for: 1s, latency: {distribution: fixed, value: 1s}, capacity: {workers: 1}}]", true},
		"null in a window":    {"schedule: [{for: 1s, errorRate: null, latency: null, retryAfter: null}]", true},
		"unknown key":         {"errorrate: 1", false},
		"window without end":  {"schedule: [{at: 1s}]", false},
		"what no window has":  {"schedule: [{for: 1s, failFirst: 1}]", false},
		"distribution":        {"latency: {distribution: normal}", false},
		"effect":              {"effect: during", false},
		"text for a flag":     {"honourDeadline: 'yes'", false},
		"text for a rate":     {"errorRate: 30%", false},
		"null for a rate":     {"errorRate: null", false},
		"list for a mapping":  {"capacity: []", false},
		"number for a status": {"statuses: [5xx]", false},
	})
}

type document struct {
	text string
	ok   bool
}

// agree checks documents against the schema and the program.
func agree(t *testing.T, file string, decode func([]byte) error, documents map[string]document) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(root, "docs", file))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range documents {
		t.Run(name, func(t *testing.T) {
			var value any
			if err := yaml.Unmarshal([]byte(c.text), &value); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); (err == nil) != c.ok {
				t.Errorf("the schema's error is %v, want accepted: %t\n%s", err, c.ok, c.text)
			}
			if err := decode([]byte(c.text)); (err == nil) != c.ok {
				t.Errorf("the program's error is %v, want accepted: %t\n%s", err, c.ok, c.text)
			}
		})
	}
}

func marshalled(t *testing.T, v any) string {
	t.Helper()
	b, err := config.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
