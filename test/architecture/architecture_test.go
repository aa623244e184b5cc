// Package architecture_test checks that the imports between the packages of this repository point
// in one direction.
package architecture_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/rebound-dev/rebound/"
	root   = "../.."

	// top is the level of everything outside pkg/ and internal/: the programs, and the tools and
	// tests of the whole.
	top = 6
)

// levels places every package under pkg/ and internal/. A package imports only packages of a
// strictly lower level; its tests may also import its own level. The lower a package is, the more
// can be built on it without the rest.
func levels() map[string]int {
	return map[string]int{
		"internal/flaky/flakypb": -1, // a package of level 0 may import only these
		"internal/grpcwire":      -1,
		"internal/mistake":       -1,
		"internal/nethttp":       -1,
		"internal/recent":        -1,
		"internal/reread":        -1,
		"internal/retryafter":    -1,

		"internal/certs":     0,
		"internal/config":    0,
		"internal/connpool":  0,
		"internal/chart":     0,
		"internal/problem":   0,
		"internal/siteguard": 0,
		"internal/version":   0,
		"internal/heap":      0,
		"internal/virtual":   0,
		"internal/watch":     0,
		"pkg/faults":         0,
		"pkg/resilience":     0,

		"internal/backend": 1,
		"internal/foreign": 1,
		"internal/serve":   1,
		"pkg/endpoint":     1,
		"pkg/grpc":         1,

		"pkg/observe":   2,
		"pkg/transport": 2,

		"internal/cli":       3,
		"internal/flaky":     3,
		"internal/live":      3,
		"internal/telemetry": 3,
		"internal/translate": 3,
		"pkg/gateway":        3,
		"pkg/lab":            3,

		"internal/callgraph": 4,
		"internal/httproute": 4,
		"internal/page":      4,
		"internal/rival":     4,

		"internal/app":      5, // what client is made of
		"internal/flakyapp": 5, // what flaky-server is made of
	}
}

// public lists the packages that a user's program may import: see VERSIONING.md.
func public() []string {
	return []string{"pkg/endpoint", "pkg/faults", "pkg/gateway", "pkg/grpc", "pkg/lab", "pkg/observe", "pkg/resilience", "pkg/transport"}
}

// pkg is the output of `go list -json` for a package. Deps are the packages it is built from,
// direct and indirect. Neither Imports nor Deps includes tests.
type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func TestImportDirection(t *testing.T) {
	pkgs := list(t)
	if len(pkgs) == 0 {
		t.Fatal("go list found no package, want some")
	}
	for _, v := range violations(pkgs) {
		t.Error(v)
	}
}

// Every package under pkg/ is in public, and every package in public exists. It does not matter
// whether another package imports it.
func TestPublicPackagesAreThoseUnderPkg(t *testing.T) {
	var placed []string
	for name := range levels() {
		if within(name, "pkg") {
			placed = append(placed, name)
		}
	}
	slices.Sort(placed)
	promised := slices.Sorted(slices.Values(public()))
	for _, name := range placed {
		if !slices.Contains(promised, name) {
			t.Errorf("%s is in levels() and not in public(): promise it in VERSIONING.md, or move it to internal", name)
		}
	}
	for _, name := range promised {
		if !slices.Contains(placed, name) {
			t.Errorf("%s is in public() and not in levels(): place it", name)
		}
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("%s is in public(), but: %v", name, err)
		}
	}
}

// VERSIONING.md promises stability for exactly the public packages.
func TestVersioningListsPublicPackages(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "VERSIONING.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(pkg/[^`]+)` \\|").FindAllSubmatch(page, -1) {
		got = append(got, string(row[1]))
	}
	want := slices.Sorted(slices.Values(public()))
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("public packages in VERSIONING.md = %q, want %q as in public()", got, want)
	}
}

// The rules find each kind of mistake, even while the tree has none.
func TestRules(t *testing.T) {
	for name, c := range map[string]struct {
		pkg  pkg
		want string // a part of the only violation; none when empty
	}{
		"down":                     {pkg{ImportPath: "pkg/gateway", Imports: []string{"net/http", module + "pkg/transport"}}, ""},
		"down two levels":          {pkg{ImportPath: "pkg/gateway", Imports: []string{module + "internal/config"}}, ""},
		"sideways":                 {pkg{ImportPath: "internal/serve", Imports: []string{module + "pkg/endpoint"}}, "internal/serve (level 1) imports pkg/endpoint (level 1)"},
		"up":                       {pkg{ImportPath: "internal/config", Imports: []string{module + "internal/serve"}}, "internal/config (level 0) imports internal/serve (level 1)"},
		"test sideways":            {pkg{ImportPath: "internal/serve", TestImports: []string{module + "pkg/endpoint"}}, ""},
		"test of itself":           {pkg{ImportPath: "cmd/client", XTestImports: []string{module + "cmd/client"}}, ""},
		"test up":                  {pkg{ImportPath: "internal/serve", TestImports: []string{module + "pkg/lab"}}, "test of internal/serve (level 1) imports pkg/lab (level 3)"},
		"external test up":         {pkg{ImportPath: "internal/serve", XTestImports: []string{module + "pkg/lab"}}, "test of internal/serve (level 1) imports pkg/lab (level 3)"},
		"program from package":     {pkg{ImportPath: "pkg/lab", Imports: []string{module + "cmd/lab"}}, "pkg/lab imports cmd/lab"},
		"program from program":     {pkg{ImportPath: "cmd/demo", Imports: []string{module + "cmd/client/run"}}, "cmd/demo imports cmd/client/run"},
		"program from test":        {pkg{ImportPath: "pkg/lab", XTestImports: []string{module + "cmd/lab"}}, "test of pkg/lab imports cmd/lab"},
		"everything from program":  {pkg{ImportPath: "cmd/demo", Imports: []string{module + "pkg/lab", module + "internal/config"}}, ""},
		"tool from package":        {pkg{ImportPath: "pkg/lab", Imports: []string{module + "test/tool"}}, "pkg/lab (level 3) imports test/tool (level 6)"},
		"package without a level":  {pkg{ImportPath: "pkg/extra"}, "pkg/extra has no level"},
		"inner package without":    {pkg{ImportPath: "internal/live/page"}, "internal/live/page has no level"},
		"import without a level":   {pkg{ImportPath: "cmd/demo", Imports: []string{module + "pkg/extra"}}, "cmd/demo imports pkg/extra, which has no level"},
		"HTTP in the core":         {pkg{ImportPath: "pkg/resilience", Deps: []string{"net/http"}}, "pkg/resilience depends on net/http"},
		"tracing in the core":      {pkg{ImportPath: "pkg/resilience", Deps: []string{"go.opentelemetry.io/otel/trace"}}, "pkg/resilience depends on go.opentelemetry.io"},
		"HTTP in a test":           {pkg{ImportPath: "pkg/resilience", XTestImports: []string{"net/http"}}, ""},
		"tracing API in transport": {pkg{ImportPath: "pkg/transport", Deps: []string{"go.opentelemetry.io/otel/trace", "go.opentelemetry.io/auto/sdk"}}, ""},
		"tracing SDK in transport": {pkg{ImportPath: "pkg/transport", Deps: []string{"go.opentelemetry.io/otel/sdk/trace"}}, "pkg/transport depends on go.opentelemetry.io/otel/sdk"},
		"grpc-go in transport":     {pkg{ImportPath: "pkg/transport", Deps: []string{"google.golang.org/grpc/codes"}}, "pkg/transport depends on google.golang.org/grpc/codes"},
		"grpc-go in the gateway":   {pkg{ImportPath: "pkg/gateway", Deps: []string{"google.golang.org/genproto/googleapis/rpc/status", "google.golang.org/grpc"}}, "pkg/gateway depends on google.golang.org/grpc"},
		"grpc-go in the core":      {pkg{ImportPath: "pkg/resilience", Deps: []string{"google.golang.org/grpc"}}, "pkg/resilience depends on google.golang.org/grpc"},
		"grpc-go for its users":    {pkg{ImportPath: "pkg/grpc", Deps: []string{"google.golang.org/grpc", "go.opentelemetry.io/otel/trace"}}, ""},
		"tracing SDK in pkg/grpc":  {pkg{ImportPath: "pkg/grpc", Deps: []string{"go.opentelemetry.io/otel/sdk/trace"}}, "pkg/grpc depends on go.opentelemetry.io/otel/sdk"},
		"the engine in the core":   {pkg{ImportPath: "pkg/resilience", Imports: []string{"github.com/failsafe-go/failsafe-go", "github.com/sony/gobreaker/v2"}}, ""},
		"a gRPC service in client": {pkg{ImportPath: "cmd/client", Deps: []string{module + "internal/flaky/flakypb"}}, "cmd/client depends on " + module + "internal/flaky/flakypb"},
		"an engine elsewhere":      {pkg{ImportPath: "pkg/transport", Imports: []string{"github.com/failsafe-go/failsafe-go/retrypolicy"}}, "pkg/transport imports github.com/failsafe-go/failsafe-go/retrypolicy"},
		"the kit in a test":        {pkg{ImportPath: "pkg/faults", XTestImports: []string{module + "internal/testkit/balancer"}}, ""},
		"the kit in a low test":    {pkg{ImportPath: "internal/reread", XTestImports: []string{module + "internal/testkit/leaks"}}, ""},
		"the kit in the kit":       {pkg{ImportPath: "internal/testkit/balancer", Imports: []string{module + "internal/testkit/rawhttp"}}, ""},
		"upwards from the kit":     {pkg{ImportPath: "internal/testkit/balancer", Imports: []string{module + "internal/config"}}, "internal/testkit/balancer (level -2) imports internal/config (level 0)"},
		"a breaker elsewhere":      {pkg{ImportPath: "cmd/demo", Imports: []string{"github.com/sony/gobreaker/v2"}}, "cmd/demo imports github.com/sony/gobreaker/v2"},
		"an engine in a test":      {pkg{ImportPath: "pkg/lab", TestImports: []string{"github.com/sony/gobreaker/v2"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.pkg.ImportPath = module + c.pkg.ImportPath
			got := violations([]pkg{c.pkg})
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("got %q, want none", got)
			case c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
				t.Errorf("got %q, want one with %q", got, c.want)
			}
		})
	}
}

// violations returns a line for each import that breaks a rule, with the rule.
func violations(pkgs []pkg) []string {
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }

	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, module)
		level, placed := levelOf(name)
		if !placed {
			report("%s has no level: place it in levels() of test/architecture", name)
			continue
		}
		if within(name, "pkg") && !slices.Contains(public(), name) {
			report("%s is not public: move it to internal, or promise it in VERSIONING.md and public() of test/architecture", name)
		}

		check := func(who string, imports []string, highest int, rule string) {
			for _, imported := range imports {
				target, ours := strings.CutPrefix(imported, module)
				if !ours || target == name {
					continue
				}
				targetLevel, placed := levelOf(target)
				switch {
				case within(target, "cmd"):
					report("%s imports %s: nothing imports a program", who, target)
				case !placed:
					report("%s imports %s, which has no level", who, target)
				case targetLevel > highest:
					report("%s (level %d) imports %s (level %d): %s", who, level, target, targetLevel, rule)
				}
			}
		}
		check(name, p.Imports, level-1, "a package imports only lower levels")
		check("the test of "+name, slices.Concat(p.TestImports, p.XTestImports), level, "a test imports at most its own level")

		for _, forbidden := range forbiddenDeps(name) {
			if i := slices.IndexFunc(p.Deps, func(d string) bool { return within(d, forbidden.path) }); i >= 0 {
				report("%s depends on %s: %s", name, p.Deps[i], forbidden.because)
			}
		}
		if name != "pkg/resilience" {
			for _, imported := range p.Imports {
				if within(imported, "github.com/failsafe-go/failsafe-go") || within(imported, "github.com/sony/gobreaker") {
					report("%s imports %s: only pkg/resilience knows what the pipeline is made of", name, imported)
				}
			}
		}
	}
	return found
}

type forbiddenDep struct{ path, because string }

// sdk returns the packages of OpenTelemetry that are for programs.
func sdk() []forbiddenDep {
	const because = "a library uses the OpenTelemetry API, the program chooses the SDK"
	return []forbiddenDep{
		{"go.opentelemetry.io/otel/sdk", because},
		{"go.opentelemetry.io/otel/exporters", because},
		{"go.opentelemetry.io/contrib", because},
	}
}

// forbiddenDeps returns the packages that a package must not depend on, even indirectly.
func forbiddenDeps(name string) []forbiddenDep {
	grpcGo := forbiddenDep{"google.golang.org/grpc", "only programs that use pkg/grpc build grpc-go in"}
	switch name {
	case "pkg/resilience":
		const because = "it also serves callers with a database or a queue"
		return []forbiddenDep{{"net/http", because}, {"go.opentelemetry.io", because}, grpcGo}
	case "cmd/client":
		const because = "the gateway passes gRPC on, and needs no messages and no server of it"
		return []forbiddenDep{{module + "internal/flaky", because}, {"google.golang.org/grpc/reflection", because}}
	case "pkg/transport":
		return append(sdk(), grpcGo)
	case "pkg/grpc":
		return sdk()
	case "pkg/gateway", "pkg/endpoint", "pkg/faults", "pkg/observe", "pkg/lab":
		return []forbiddenDep{grpcGo}
	}
	return nil
}

// levelOf returns false for a package under pkg/ or internal/ that levels does not place. The test
// kit is below everything, so that every test can use it.
func levelOf(name string) (int, bool) {
	switch {
	case name == "internal/testkit/grpctest", name == "internal/testkit/leaks", name == "internal/testkit/rawhttp", name == "internal/testkit/wait":
		return -3, true // the rest of the kit may use them
	case within(name, "internal/testkit"):
		return -2, true
	}
	if !within(name, "pkg") && !within(name, "internal") {
		return top, true
	}
	level, ok := levels()[name]
	return level, ok
}

// within reports whether the import path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// list asks the go command for every package of the module.
func list(t *testing.T) []pkg {
	t.Helper()
	touch(t)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// touch reads every directory. The go command takes a test's result from its cache as long as the
// files that the test opened are the same. It does not see the files that go list opens.
func touch(t *testing.T) {
	t.Helper()
	for _, top := range []string{"cmd", "internal", "pkg", "test"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(_ string, _ os.DirEntry, err error) error { return err })
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
}
