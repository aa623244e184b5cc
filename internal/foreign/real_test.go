package foreign_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// Every example from a public file is listed in testdata/real.txt with its kind of source, and
// there are enough of them.
func TestRealFilesAreListed(t *testing.T) {
	list, err := os.ReadFile("testdata/real.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		path, source, _ := strings.Cut(strings.TrimSpace(line), " ")
		if listed[path] || source == "" {
			t.Errorf("real.txt: %q is listed twice or has no source", path)
		}
		listed[path] = true
	}
	count := map[foreign.System]int{}
	all := examples(t)
	for path := range all {
		name := strings.TrimPrefix(filepath.ToSlash(path), "testdata/")
		if isReal(path) {
			count[systemOf(path)]++
		}
		if isReal(path) != listed[name] {
			t.Errorf("%s: real is %v, listed in real.txt is %v", path, isReal(path), listed[name])
		}
		delete(listed, name)
	}
	for name := range listed {
		t.Errorf("real.txt lists %s, which is no file", name)
	}
	for _, system := range []foreign.System{
		foreign.Istio, foreign.Envoy, foreign.Linkerd, foreign.Dapr, foreign.Resilience4j, foreign.DotNet, foreign.GRPC,
		foreign.Nginx, foreign.HAProxy, foreign.Traefik,
	} {
		if count[system] < 10 {
			t.Errorf("%d public files of %s, want at least 10", count[system], system)
		}
	}
	if len(all) < 150 {
		t.Errorf("%d examples, want at least 150", len(all))
	}
}

// account is what the import makes of the public files of one system.
type account struct {
	files, full, part, refused int
	dropped                    map[string]int // files by field
}

// The account in docs/import.md is what the import does.
func TestAccount(t *testing.T) {
	accounts := map[foreign.System]*account{}
	var f folk
	all := examples(t)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if !isReal(path) {
			continue
		}
		a := accounts[systemOf(path)]
		if a == nil {
			a = &account{dropped: map[string]int{}}
			accounts[systemOf(path)] = a
		}
		a.files++
		r, err := foreign.Import(systemOf(path), path, all[path])
		if err != nil {
			a.refused++
			continue
		}
		a.add(r.Report)
		f.add(r)
	}
	var b strings.Builder
	b.WriteString(accountHeading + `
These examples have the fields and the values of public files, with other names. Each line of
` + "`internal/foreign/testdata/real.txt`" + ` says where one is from: most are from guides and
READMEs. Where only a part was to be had, it is completed with what a file needs around it. Refused
are templates, other protocols than HTTP, option classes of applications, and fields that the system
does not have. Ten systems are major here, with at least 13 files each; ` + "`envoy-gateway`, `gateway-api`" + `,
` + "`aws` and `caddy`" + ` are not.

| system | files | all carried over | some approximated or dropped | refused | dropped in most files |
|---|---:|---:|---:|---:|---|
`)
	var sum account
	for _, name := range foreign.Systems() {
		if a := accounts[foreign.System(name)]; a != nil {
			fmt.Fprintf(&b, "| `%s` | %d | %d | %d | %d | %s |\n", name, a.files, a.full, a.part, a.refused, a.most())
			sum.files, sum.full, sum.part, sum.refused = sum.files+a.files, sum.full+a.full, sum.part+a.part, sum.refused+a.refused
		}
	}
	fmt.Fprintf(&b, "| together | %d | %d | %d | %d | |\n\n%s", sum.files, sum.full, sum.part, sum.refused, f)
	const page = "../../docs/import.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), accountHeading)
	if !found {
		before += "\n"
	}
	golden.File(t, page, before+b.String())
}

const accountHeading = "## Files as they are found\n"

func (a *account) add(report foreign.Report) {
	fields := map[string]bool{}
	changed := false
	for _, e := range report {
		changed = changed || e.Kind == foreign.Dropped || e.Kind == foreign.Approximated
		if e.Kind == foreign.Dropped {
			fields[lastKey(e.Path)] = true
		}
	}
	delete(fields, "") // an object of another kind
	for field := range fields {
		a.dropped[field]++
	}
	if changed {
		a.part++
	} else {
		a.full++
	}
}

var (
	number   = regexp.MustCompile(`\[\d+\]`)
	quoted   = regexp.MustCompile(`\["[^"]*?([^"./]*/[^"]*|[^".]*)"\]$`)
	lastPart = regexp.MustCompile(`[^.: ]+$`)
)

// lastKey returns the name of the field at a path.
func lastKey(path string) string {
	path = number.ReplaceAllString(path, "")
	if m := quoted.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return lastPart.FindString(path)
}

// most returns the two fields that are dropped in most files.
func (a *account) most() string {
	fields := slices.SortedFunc(maps.Keys(a.dropped), func(x, y string) int {
		return cmp.Or(cmp.Compare(a.dropped[y], a.dropped[x]), cmp.Compare(x, y))
	})
	var shown []string
	for _, field := range fields[:min(2, len(fields))] {
		shown = append(shown, fmt.Sprintf("`%s` (%d)", field, a.dropped[field]))
	}
	return strings.Join(shown, ", ")
}

// folk is what the files have in common.
type folk struct {
	istio, three, twoSeconds, timed, tooLong int
	retry, limited, jitter, anyMethod        int
}

func (f *folk) add(r *foreign.Result) {
	seen := map[foreign.Place]bool{} // several policies may have one retry
	for _, p := range r.Policies {
		if p.Retry.MaxAttempts == 1 {
			continue
		}
		if at := p.From["Retry.MaxAttempts"]; len(at) > 0 {
			if seen[at[0]] {
				continue
			}
			seen[at[0]] = true
		} else if r.System == foreign.Istio {
			continue // the default of the mesh
		}
		f.retry++
		f.limited += one(p.Retry.Budget.Kind != foreign.BudgetNone || len(p.From["Concurrency.MaxRetries"]) > 0)
		f.jitter += one(p.Retry.Backoff.Jitter != foreign.JitterNone)
		f.anyMethod += one(p.Retry.Methods == nil)
		if r.System != foreign.Istio {
			continue
		}
		f.istio++
		f.three += one(p.Retry.MaxAttempts == 4)
		f.twoSeconds += one(p.TryTimeout == 2*time.Second)
		if p.Timeout > 0 && p.TryTimeout > 0 {
			f.timed++
			f.tooLong += one(time.Duration(p.Retry.MaxAttempts)*p.TryTimeout > p.Timeout)
		}
	}
}

func one(ok bool) int {
	if ok {
		return 1
	}
	return 0
}

func (f folk) String() string {
	return fmt.Sprintf(`What they say:

- Of %d retries in Istio's files, %d have `+"`attempts: 3`"+` and %d `+"`perTryTimeout: 2s`"+`.
- %d of these have a timeout beside the time of a try. In %d of them, the tries do not fit in the timeout.
- Of the %d retries of all systems, %d have a budget or another limit for all retries together.
- %d wait with jitter, also by the default of their system. %d repeat any method, also POST.
`, f.istio, f.three, f.twoSeconds, f.timed, f.tooLong, f.retry, f.limited, f.jitter, f.anyMethod)
}
