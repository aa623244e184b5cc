package chart_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
)

// Every value does something: in one of the scenarios, the release is another one without it.
func TestEveryValueIsUsed(t *testing.T) {
	all := scenarios(t)
	c, caps := load(t), capabilities(t)
	manifests := func(t *testing.T, values map[string]any) string {
		t.Helper()
		rendered, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "rebound", Namespace: "somewhere", IsInstall: true, Revision: 1}, caps)
		if err != nil {
			return "refused: " + err.Error() // then the value matters too
		}
		out, err := engine.Engine{Strict: true}.Render(c, rendered)
		if err != nil {
			return "refused: " + err.Error()
		}
		text, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	with := map[string]string{}
	for name, values := range all {
		with[name] = manifests(t, values)
		if strings.HasPrefix(with[name], "refused") {
			t.Fatalf("%s: %s", name, with[name])
		}
	}
	for _, k := range keys(t) {
		if k.standard == "" {
			continue // a group
		}
		used := false
		for name, values := range all {
			if less, given := without(values, k.path); given && manifests(t, less) != with[name] {
				used = true
				break
			}
		}
		if !used {
			t.Errorf("no scenario in ci/ is another one without its %s, want one that sets and needs it", k)
		}
	}
}

// without returns values without the one at path, and whether it was there.
func without(values map[string]any, path []string) (less map[string]any, given bool) {
	value, ok := values[path[0]]
	if !ok {
		return values, false
	}
	less = map[string]any{}
	for k, v := range values {
		less[k] = v
	}
	if len(path) == 1 {
		delete(less, path[0])
		return less, true
	}
	inner, ok := value.(map[string]any)
	if !ok {
		return values, false
	}
	less[path[0]], given = without(inner, path[1:])
	return less, given
}

// The schema has no key that values.yaml lacks, so that the test above finds all of them. A key
// that takes a value of Kubernetes' own type has no keys of ours.
func TestSchemaHasOnlyValues(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "helm/rebound/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	var known []string
	groups := map[string]bool{"": true}
	for _, k := range keys(t) {
		known = append(known, k.String())
		for i := 1; i < len(k.path); i++ {
			groups[strings.Join(k.path[:i], ".")] = true
		}
	}
	var walk func(at map[string]any, path string)
	walk = func(at map[string]any, path string) {
		properties, _ := at["properties"].(map[string]any)
		for name, inner := range properties {
			full := strings.TrimPrefix(path+"."+name, ".")
			switch {
			case full == "global": // for the values of a parent chart
			case groups[full]:
				walk(inner.(map[string]any), full)
			case !slices.Contains(known, full):
				t.Errorf("the schema has %s, and values.yaml does not: want it there, with a comment", full)
			}
		}
	}
	walk(schema, "")
}
