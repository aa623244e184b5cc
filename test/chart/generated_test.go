package chart_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// read returns the text of a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	return files.Read(t, filepath.Join(root, path))
}

// generated compares a file with the text that it is generated from, or writes it with -update.
func generated(t *testing.T, path, want string) {
	t.Helper()
	golden.File(t, filepath.Join(root, path), want)
}

// Helm sees only files inside the chart.
func TestGeneratedRules(t *testing.T) {
	generated(t, "helm/rebound/files/rules.yaml", read(t, "deploy/prometheus/rules.yaml"))
	generated(t, "helm/rebound/files/rebound.json", read(t, "deploy/grafana/rebound.json"))
}

// The keys of `config.policies`, `config.upstreams.*.endpoints` and `faults` whose values are
// numbers with a fraction. None of them is a text elsewhere.
func TestGeneratedNumbers(t *testing.T) {
	types := map[string]map[string]bool{}
	var walk func(at map[string]any)
	walk = func(at map[string]any) {
		properties, _ := at["properties"].(map[string]any)
		for name, p := range properties {
			p := p.(map[string]any)
			kind := fmt.Sprint(p["type"])
			if types[name] == nil {
				types[name] = map[string]bool{}
			}
			types[name][strings.Trim(strings.ReplaceAll(kind, "null", ""), "[] ")] = true
			walk(p)
		}
		for _, key := range []string{"items", "additionalProperties"} {
			if inner, ok := at[key].(map[string]any); ok {
				walk(inner)
			}
		}
	}
	c := schemaOf(t, "docs/rebound.schema.json")["properties"].(map[string]any)
	walk(c["policies"].(map[string]any))
	entry := c["upstreams"].(map[string]any)["additionalProperties"].(map[string]any)
	walk(entry["properties"].(map[string]any)["endpoints"].(map[string]any))
	walk(schemaOf(t, "docs/faults.schema.json"))
	var names []string
	for name, of := range types {
		if !of["number"] {
			continue
		}
		names = append(names, name)
		if delete(of, "number"); len(of) > 0 && !of["integer"] {
			t.Errorf("%s is a number and %v, want a number everywhere", name, of)
		}
	}
	slices.Sort(names)
	text, err := sigsyaml.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	generated(t, "helm/rebound/files/numbers.yaml", "# Keys whose values are numbers, from: make manifests\n"+string(text))
}

// The client's defaults decide whether a policy that sets only a part of its keys is legal.
func TestGeneratedPolicy(t *testing.T) {
	out, err := check(t, build(t, "client"), "routes: [{name: a, match: /, upstream: \"http://a\"}]\n")
	if err != nil {
		t.Fatal(err)
	}
	var effective struct {
		Policies map[string]any `json:"policies"`
	}
	if err := sigsyaml.Unmarshal([]byte(out), &effective); err != nil {
		t.Fatal(err)
	}
	text, err := sigsyaml.Marshal(effective.Policies["default"])
	if err != nil {
		t.Fatal(err)
	}
	generated(t, "helm/rebound/files/policy.yaml", "# The client's default policy, from: make manifests\n"+string(text))
}

// nullable lists the values that may be null although they have a default. Null for another value
// removes its key, and no template expects that.
var nullable = []string{ //nolint:gochecknoglobals // a table
	"client.resources", "flakyServer.resources", "jaeger.resources", "jaeger.runAsUser",
	"client.autoscaling.targetCPUUtilizationPercentage", "client.podDisruptionBudget.maxUnavailable",
	"client.replicas", "client.topologySpread", "client.httpRoute.matches", "podSecurityContext", "securityContext",
}

// The schema of `config` and of `faults` is the programs' own. Every description is the comment in
// values.yaml, and every value with a default is required.
func TestGeneratedSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "helm/rebound/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	values := schema["properties"].(map[string]any)
	configSchema := schemaOf(t, "docs/rebound.schema.json")
	acceptTexts(configSchema)
	configSchema["properties"].(map[string]any)["routes"].(map[string]any)["minItems"] = 1
	values["config"] = configSchema
	faultsSchema := schemaOf(t, "docs/faults.schema.json")
	acceptTexts(faultsSchema)
	values["flakyServer"].(map[string]any)["properties"].(map[string]any)["faults"] = faultsSchema
	required := map[string][]string{}
	for _, k := range keys(t) {
		at := schema
		for i, name := range k.path {
			if group := strings.Join(k.path[:i], "."); (i+1 < len(k.path) || k.needed) && !slices.Contains(required[group], name) {
				required[group] = append(required[group], name)
				at["required"] = required[group]
			}
			properties, _ := at["properties"].(map[string]any)
			next, ok := properties[name].(map[string]any)
			if !ok {
				t.Fatalf("values.schema.json has no %s, want it", k)
			}
			at = next
		}
		at["description"] = k.comment
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		t.Fatal(err)
	}
	generated(t, "helm/rebound/values.schema.json", out.String())
}

// acceptTexts lets a schema accept "0.5" for a number, which is what `helm --set` makes of 0.5. The
// template turns it into a number again.
func acceptTexts(schema any) {
	switch at := schema.(type) {
	case map[string]any:
		if at["type"] == "number" {
			at["type"] = []any{"number", "string"}
		} else if types, ok := at["type"].([]any); ok && slices.Contains(types, any("number")) {
			at["type"] = append(types, "string")
		}
		if types, ok := at["type"].([]any); ok && slices.Contains(types, any("number")) {
			at["pattern"] = "^[-+]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][-+]?[0-9]+)?$"
		}
		for _, inner := range at {
			acceptTexts(inner)
		}
	case []any:
		for _, inner := range at {
			acceptTexts(inner)
		}
	}
}

func schemaOf(t *testing.T, path string) map[string]any {
	t.Helper()
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, path)), &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema, "$schema")
	delete(schema, "title")
	return schema
}

// The table of values has the values of values.yaml.
func TestGeneratedReadme(t *testing.T) {
	const begin, end = "<!-- From the comments in values.yaml: make manifests -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(read(t, "helm/rebound/README.md"), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("helm/rebound/README.md has no line %q or no %q, want both", begin, end)
	}
	var table strings.Builder
	table.WriteString("\n| value | default | meaning |\n|---|---|---|\n")
	for _, k := range keys(t) {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", k, k.standard, strings.ReplaceAll(k.comment, "|", `\|`))
	}
	table.WriteString("\n")
	generated(t, "helm/rebound/README.md", before+begin+table.String()+end+after)
}

// key is a value that a user can set in values.yaml.
type key struct {
	path     []string
	standard string // its default as Markdown
	needed   bool   // it may not be null
	comment  string
}

func (k key) String() string { return strings.Join(k.path, ".") }

// keys returns the values in values.yaml in their order. A value without a comment fails the test,
// unless it only holds others.
func keys(t *testing.T) (found []key) {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, "helm/rebound/values.yaml")), &document); err != nil {
		t.Fatal(err)
	}
	var walk func(path []string, node *yaml.Node)
	walk = func(path []string, node *yaml.Node) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			name, value := node.Content[i], node.Content[i+1]
			k := key{path: append(slices.Clone(path), name.Value), comment: comment(name.HeadComment)}
			// A mapping with comments inside is a group. A mapping without is one value.
			group := value.Kind == yaml.MappingNode && slices.ContainsFunc(value.Content, func(n *yaml.Node) bool { return n.HeadComment != "" })
			switch {
			case !group && k.comment == "":
				t.Errorf("values.yaml:%d: %s has no comment, want one", name.Line, k)
			case !group:
				k.standard = inline(t, value)
				k.needed = !slices.Contains([]string{"`\"\"`", "`[]`", "`{}`", "`0`", "`null`"}, k.standard) && !slices.Contains(nullable, k.String())
				found = append(found, k)
			case k.comment != "":
				found = append(found, k)
			}
			if group {
				walk(k.path, value)
			}
		}
	}
	walk(nil, document.Content[0])
	if len(found) < 50 {
		t.Fatalf("got %d values, want at least 50", len(found))
	}
	return found
}

// comment joins a comment's lines. A part before an empty line is about the file.
func comment(text string) string {
	parts := strings.Split(text, "\n\n")
	lines := strings.Split(parts[len(parts)-1], "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(strings.TrimPrefix(line, "#"))
	}
	return strings.TrimSpace(strings.Join(lines, " "))
}

// inline returns a value on one line. It leaves a long one to values.yaml.
func inline(t *testing.T, node *yaml.Node) string {
	t.Helper()
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	if s := strings.TrimSpace(text.String()); len(s) <= 60 {
		return "`" + s + "`"
	}
	return "see [values.yaml](values.yaml)"
}

const manifestsHeader = `# Made from helm/rebound by: make manifests
# Do not edit. What it is:
#
#   helm template rebound helm/rebound --set jaeger.enabled=true --no-hooks
`

// k8s/ is the chart for users without Helm: with Jaeger, without the test.
func TestGeneratedManifests(t *testing.T) {
	r := mustRender(t, "rebound", map[string]any{"jaeger": map[string]any{"enabled": true}})
	var out strings.Builder
	out.WriteString(manifestsHeader)
	for _, m := range r.manifests {
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", m.Name, strings.TrimSpace(m.Content))
	}
	generated(t, "k8s/rebound.yaml", out.String())
}

// `kubectl apply -k k8s/` sends what the chart renders. Only the label that names the manager
// differs.
func TestKustomization(t *testing.T) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), root+"/k8s")
	if err != nil {
		t.Fatal(err)
	}
	want := mustRender(t, "rebound", map[string]any{"jaeger": map[string]any{"enabled": true}})
	for _, o := range want.objects {
		l := o.GetLabels()
		l["app.kubernetes.io/managed-by"] = "kustomize"
		o.SetLabels(l)
	}
	if built.Size() != len(want.objects) {
		t.Errorf("%d objects, want %d", built.Size(), len(want.objects))
	}
	for _, res := range built.Resources() {
		text, err := res.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		got := decode(t, res.GetName(), string(text))
		if !slices.ContainsFunc(want.objects, func(o object) bool { return same(t, o, got) }) {
			t.Errorf("the chart renders no such object, want it:\n%s", text)
		}
	}
}

func same(t *testing.T, a, b object) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}
