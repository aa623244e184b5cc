package chart_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
)

// renderer returns a function that returns all that a release of some values has, or why there is
// none. The schema takes most of the time, and can be left out where nothing depends on it.
func renderer(t *testing.T, bySchema bool) func(values map[string]any) string {
	t.Helper()
	c, caps := load(t), capabilities(t)
	return func(values map[string]any) string {
		t.Helper()
		options := common.ReleaseOptions{Name: "rebound", Namespace: "somewhere", IsInstall: true, Revision: 1}
		rendered, err := util.ToRenderValuesWithSchemaValidation(c, values, options, caps, !bySchema)
		if err != nil {
			return refused + err.Error() // then the value matters too
		}
		out, err := engine.Engine{Strict: true}.Render(c, rendered)
		if err != nil {
			return refused + err.Error()
		}
		text, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

const refused = "refused: "

// Every value does something: in one of the scenarios, the release is another one without it.
func TestEveryValueIsUsed(t *testing.T) {
	all, output := scenarios(t), renderer(t, true)
	whole := map[string]string{}
	for name, values := range all {
		whole[name] = output(values)
		if strings.HasPrefix(whole[name], refused) {
			t.Fatalf("%s: %s", name, whole[name])
		}
	}
	for _, k := range keys(t) {
		if k.standard == "" {
			continue // a group
		}
		used := false
		for name, values := range all {
			if less, given := without(values, k.path); given && output(less) != whole[name] {
				used = true
				break
			}
		}
		if !used {
			t.Errorf("no scenario in ci/ is another one without its %s, want one that sets and needs it", k)
		}
	}
}

// No value loses its effect in silence because a switch is off, unless the switch is beside it. In
// each scenario, each switch that is on is switched off: then every value that mattered before
// still matters, or the values are refused.
func TestNoValueIsIgnored(t *testing.T) {
	// What values.yaml says of them.
	documented := map[string][]string{
		"otel.protocol": {"jaeger.enabled"}, // no destination of traces
	}
	all, values, output, valid := scenarios(t), keys(t), renderer(t, false), renderer(t, true)
	for _, name := range []string{"production-values", "platform-values", "certmanager-values", "prefix-values", "grpc-values"} {
		scenario := all[name]
		before := output(scenario)
		matters := map[string]bool{}
		for _, k := range values {
			if less, given := without(scenario, k.path); given && k.standard != "" {
				matters[k.String()] = output(less) != before
			}
		}
		for _, s := range values {
			if on, given := lookup(scenario, s.path); !given || on != true {
				continue
			}
			off := with(scenario, s.path, false)
			if strings.HasPrefix(valid(off), refused) {
				continue // in words of its own
			}
			release := output(off)
			group := "none"
			if last := s.path[len(s.path)-1]; last == "enabled" || last == "create" {
				group = strings.Join(s.path[:len(s.path)-1], ".") + "."
			}
			for _, k := range values {
				// A switch inside a group is not beside that of the group.
				value, _ := lookup(scenario, k.path)
				beside := strings.HasPrefix(k.String(), group) && value != true
				if !matters[k.String()] || beside || k.String() == s.String() || slices.Contains(documented[k.String()], s.String()) {
					continue
				}
				if less, _ := without(off, k.path); output(less) == release {
					t.Errorf("%s: %s has no effect without %s, want it refused, or values.yaml to say so", name, k, s)
				}
			}
		}
	}
}

// lookup returns the value at path, and whether it is there.
func lookup(values map[string]any, path []string) (value any, given bool) {
	if value, given = values[path[0]]; !given || len(path) == 1 {
		return value, given
	}
	inner, _ := value.(map[string]any)
	return lookup(inner, path[1:])
}

// with returns values with another one at path.
func with(values map[string]any, path []string, value any) map[string]any {
	more := maps.Clone(values)
	if more == nil {
		more = map[string]any{}
	}
	if len(path) == 1 {
		more[path[0]] = value
		return more
	}
	inner, _ := more[path[0]].(map[string]any)
	more[path[0]] = with(inner, path[1:], value)
	return more
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
