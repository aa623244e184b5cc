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
		out, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), c, rendered)
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
	all, output, unchecked := scenarios(t), renderer(t, true), renderer(t, false)
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
			less, given := without(values, k.path)
			if !given {
				continue
			}
			text := output(less)
			if strings.HasPrefix(text, refused) { // it is required, which does not show that it is used
				value, _ := lookup(values, k.path)
				text = unchecked(with(values, k.path, other(value)))
			}
			if text != whole[name] && !strings.HasPrefix(text, refused) {
				used = true
				break
			}
		}
		if !used {
			t.Errorf("no scenario in ci/ is another one without its %s, want one that sets and needs it", k)
		}
	}
}

// other returns another value of the same type.
func other(value any) any {
	switch v := value.(type) {
	case bool:
		return !v
	case string:
		return v + "x"
	case float64:
		return v + 1
	case []any:
		changed := slices.Clone(v)
		if len(v) > 0 {
			changed[0] = other(v[0])
		}
		return changed
	case map[string]any:
		changed := maps.Clone(v)
		for _, key := range slices.Sorted(maps.Keys(v))[:min(len(v), 1)] {
			changed[key] = other(v[key])
		}
		return changed
	}
	return value
}

// Every key that the schema names does something, also those that values.yaml does not list one by
// one, such as in podSecurityContext: set to another value, it changes the release.
func TestEveryKeyOfTheSchemaIsUsed(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(read(t, "helm/rebound/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	resolve := func(at map[string]any) map[string]any {
		if ref, ok := at["$ref"].(string); ok {
			return schema["definitions"].(map[string]any)[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
		}
		return at
	}
	output, defaults, base := renderer(t, false), load(t).Values, parse(t, "{jaeger: {enabled: true}, client: {autoscaling: {enabled: true}, tls: {certificate: {enabled: true, issuerRef: {name: issuer}}}}}")
	var walk func(at map[string]any, path []string) int
	walk = func(at map[string]any, path []string) (found int) {
		properties, _ := resolve(at)["properties"].(map[string]any)
		for name, inner := range properties {
			if inner == false {
				continue // refused, such as a label that the chart sets
			}
			below := append(slices.Clone(path), name)
			inner, _ := inner.(map[string]any) // or true, which accepts anything
			if n := walk(inner, below); n > 0 {
				found += n
				continue
			}
			found++
			before, _ := lookup(defaults, below)
			after := output(with(base, below, sample(resolve(inner), before)))
			if strings.HasPrefix(after, refused) || after == output(base) {
				t.Errorf("%s changes nothing: %.200s", strings.Join(below, "."), after)
			}
		}
		return found
	}
	tested := 0
	for _, k := range keys(t) {
		if k.standard == "" || k.path[0] == "config" || k.String() == "flakyServer.faults" {
			continue // a group, or in a schema of the programs' own, which get all of it
		}
		at := schema
		for _, name := range k.path {
			at = resolve(resolve(at)["properties"].(map[string]any)[name].(map[string]any))
		}
		tested += walk(at, k.path)
	}
	if tested < 40 {
		t.Errorf("found %d keys below those of values.yaml, want at least 40", tested)
	}
}

// sample returns a value that a schema accepts, or nearly, and that is not the one before.
func sample(schema map[string]any, before any) any {
	for _, choice := range listOf(schema["enum"]) {
		if choice != before && choice != "" {
			return choice
		}
	}
	if before != nil {
		return other(before)
	}
	for _, kind := range append(listOf(schema["type"]), schema["type"]) {
		switch kind {
		case "boolean":
			return true
		case "integer", "number":
			return 7.
		case "array":
			return []any{map[string]any{"a": "b"}}
		case "object":
			return map[string]any{"a": "b"}
		}
	}
	return "a"
}

func listOf(value any) []any {
	list, _ := value.([]any)
	return list
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
