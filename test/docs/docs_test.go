// Package docs_test checks the documentation against the code. It generates the reference pages and
// the JSON Schemas in docs/: configuration.md, faults.md and graph.md from the Go types of the
// documents, their comments and their defaults (of scenarios only the schema), observability.md
// from the declarations of the names and from the output of the programs. A test fails if a
// generated page differs from the code, or if a page has a link or a command that leads nowhere.
//
//	go test ./test/docs -update
//
// writes the pages again. The hand-written text is in the templates next to this file.
package docs_test

import (
	"bytes"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"text/template"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
)

const root = "../.."

// example returns the default configuration with one route and one upstream, which have no default.
func example() gateway.Config {
	c := gateway.DefaultConfig()
	c.Routes = []gateway.Route{{
		Name: "process", Match: "/process", Upstream: "flaky-server", Policy: gateway.DefaultPolicyName,
	}}
	c.Upstreams = map[string]gateway.Upstream{"flaky-server": gateway.DefaultUpstream("http://flaky-server:5000")}
	return c
}

func TestConfiguration(t *testing.T) {
	d := newDocument(t, gateway.DefaultConfig(), func(yaml []byte) error {
		c := gateway.DefaultConfig()
		return config.Decode("", yaml, &c)
	}, "{}", "routes: [{}]", "upstreams: {NAME: {}}")
	golden.File(t, filepath.Join(root, "docs", "configuration.md"), page(t, "configuration.md.tmpl", d, example()))
	golden.File(t, filepath.Join(root, "docs", "rebound.schema.json"), d.jsonSchema(t, "Rebound: configuration of client"))
}

func TestFaults(t *testing.T) {
	d := newDocument(t, faults.Default(), func(yaml []byte) error {
		s := faults.Default()
		return config.Decode("", yaml, &s)
	}, "{}", "schedule: [{}]")
	golden.File(t, filepath.Join(root, "docs", "faults.md"), page(t, "faults.md.tmpl", d, faults.Default()))
	golden.File(t, filepath.Join(root, "docs", "faults.schema.json"), d.jsonSchema(t, "Rebound: faults of flaky-server"))
}

func TestGraph(t *testing.T) {
	var g callgraph.Graph
	g.SetDefaults()
	d := newDocument(t, g, func(yaml []byte) error {
		_, err := callgraph.Read("", yaml)
		return err
	}, "{}", "services: [{}]")
	golden.File(t, filepath.Join(root, "docs", "graph.md"), page(t, "graph.md.tmpl", d, g))
	golden.File(t, filepath.Join(root, "docs", "graph.schema.json"), d.jsonSchema(t, "Rebound: graph of services for lab graph"))
}

func TestScenario(t *testing.T) {
	var s lab.Scenario
	s.SetDefaults()
	d := newDocument(t, s, func(yaml []byte) error {
		var s lab.Scenario
		s.SetDefaults()
		return config.Decode("", yaml, &s)
	}, "{}", "upstream: {phases: [{}]}", "load: {surge: {}, herd: {}}")
	golden.File(t, filepath.Join(root, "docs", "scenario.schema.json"), d.jsonSchema(t, "Rebound: scenario of lab"))
}

// The graph on the page is valid, and the first example has the verdict that the page shows.
func TestGraphOnThePage(t *testing.T) {
	text := files.Read(t, filepath.Join(root, "docs", "graph.md"))
	blocks := fenced(text, "yaml")
	if len(blocks) != 1 {
		t.Fatalf("found %d blocks of YAML, want 1", len(blocks))
	}
	if _, err := callgraph.Read("docs/graph.md", []byte(blocks[0])); err != nil {
		t.Error(err)
	}
	verdict, _, _ := strings.Cut(files.Read(t, filepath.Join(root, "cmd", "lab", "testdata", "graph-three-tiers.txt")), "\n")
	if !strings.Contains(text, "    "+verdict+"\n") {
		t.Errorf("no verdict %q on the page", verdict)
	}
}

// page fills a template with the document's keys, value as an example, and the flags.
func page(t *testing.T, file string, d *document, value any) []byte {
	t.Helper()
	tmpl, err := template.ParseFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := config.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = tmpl.Execute(&out, map[string]any{
		"Notice":   "<!-- Generated from the Go types and their comments: go test ./test/docs -update -->",
		"Defaults": string(yaml),
		"Keys":     d.tables(),
		"Flags":    flagTable(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestExamples checks that the programs accept the YAML on the pages, and that the last block of a
// page is the defaults.
func TestExamples(t *testing.T) {
	for file, c := range map[string]struct {
		want any
		into func() any
	}{
		"docs/configuration.md": {example(), func() any { return &gateway.Config{} }},
		"docs/faults.md":        {faults.Default(), func() any { return &faults.Spec{} }},
	} {
		t.Run(file, func(t *testing.T) {
			blocks := fenced(files.Read(t, filepath.Join(root, file)), "yaml")
			if len(blocks) < 2 {
				t.Fatalf("found %d blocks of YAML, want a short one and the defaults", len(blocks))
			}
			for i, block := range blocks {
				got := c.into()
				if g, ok := got.(*gateway.Config); ok && i < len(blocks)-1 {
					*g = gateway.DefaultConfig()
				}
				if err := config.Decode(file, []byte(block), got); err != nil {
					t.Errorf("%v\nin\n%s", err, block)
				}
				// The last block is complete: over the zero value it gives the defaults too.
				if last := reflect.ValueOf(got).Elem().Interface(); i == len(blocks)-1 && !reflect.DeepEqual(last, c.want) {
					t.Errorf("the last block is\n%+v\nwant\n%+v", last, c.want)
				}
			}
		})
	}
}

// glob returns the files that match a pattern relative to the repository's root.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("got no file for %s (error %v), want some", pattern, err)
	}
	return found
}
