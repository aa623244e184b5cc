package foreign_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// examples returns the example files, by path below testdata: SYSTEM/NAME.
func examples(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, path := range paths {
		if filepath.Ext(path) == ".golden" || filepath.Base(filepath.Dir(path)) == "fuzz" {
			continue
		}
		if all[path], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// isReal reports whether an example has the fields and values of a public file, and not ones of our
// own. Some of those are refused.
func isReal(path string) bool { return strings.HasPrefix(filepath.Base(path), "real-") }

func systemOf(path string) foreign.System {
	return foreign.System(filepath.Base(filepath.Dir(path)))
}

// Every example gives the policies and the report of its golden file.
func TestExamples(t *testing.T) {
	for path, data := range examples(t) {
		t.Run(path, func(t *testing.T) {
			result, err := foreign.Import(systemOf(path), filepath.Base(path), data)
			if err != nil {
				if !isReal(path) {
					t.Fatal(err)
				}
				golden.File(t, path+".golden", "refused\n"+err.Error()+"\n")
				return
			}
			golden.File(t, path+".golden", show(result))
		})
	}
}

// The system of every example shows in its text.
func TestDetect(t *testing.T) {
	for path, data := range examples(t) {
		got, want := foreign.Detect(filepath.Base(path), data), systemOf(path)
		if got == "" && isReal(path) {
			if _, err := foreign.Import(want, path, data); err != nil {
				continue // nor has it anything else of the system
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	for name, text := range map[string]string{"empty": "", "prose": "nothing of interest", "deployment": "apiVersion: apps/v1\nkind: Deployment\n"} {
		if got := foreign.Detect("", []byte(text)); got != "" {
			t.Errorf("%s: got %q, want none", name, got)
		}
	}
}

// There are examples of every system.
func TestExamplesOfEverySystem(t *testing.T) {
	count := map[foreign.System]int{}
	for path := range examples(t) {
		count[systemOf(path)]++
	}
	for _, name := range foreign.Systems() {
		if n := count[foreign.System(name)]; n < 6 {
			t.Errorf("%s has %d examples, want at least 6", name, n)
		}
	}
}

// show prints a result for people: what is set in each policy, then the report.
func show(r *foreign.Result) string {
	var b strings.Builder
	for _, p := range r.Policies {
		fmt.Fprintf(&b, "policy %s\n", p.Name)
		from := p.From
		p.Name, p.From = "", nil
		showFields(&b, "", reflect.ValueOf(p))
		for _, field := range slices.Sorted(keys(from)) {
			for _, place := range from[field] {
				fmt.Fprintf(&b, "  from %s: %d:%d %s\n", field, place.Line, place.Column, place.Path)
			}
		}
		b.WriteString("\n")
	}
	for _, e := range r.Report {
		fmt.Fprintf(&b, "%d:%d %s: %s", e.Line, e.Column, e.Path, e.Kind)
		if e.Fields > 1 {
			fmt.Fprintf(&b, " (%d)", e.Fields)
		}
		if e.Sentence != "" {
			b.WriteString(": " + e.Sentence)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func keys(m foreign.Sources) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func showFields(b *strings.Builder, path string, v reflect.Value) {
	switch {
	case v.IsZero():
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[foreign.StatusRange]():
		for i := range v.NumField() {
			showFields(b, strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case v.Type() == reflect.TypeFor[[]foreign.Breaker]():
		for i := range v.Len() {
			showFields(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	default:
		fmt.Fprintf(b, "  %s: %v\n", path, v.Interface())
	}
}
