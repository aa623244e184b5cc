package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
)

// programFlag is a flag as the help of one or more programs describes it.
type programFlag struct {
	name, argument, meaning, standard string
	programs                          []string
}

var helpFlag = regexp.MustCompile(`^  --([\w-]+)(?: (\S+(?: \S+)*))?  +(\S.*?)(?: \(default (.*)\))? \[REBOUND_\w+\]$`)

// wrapped matches the break of a description that goes on in the next line.
var wrapped = regexp.MustCompile(`\n {6,}`)

// flagTable returns a table of the flags of the servers, from their golden help texts. A flag that
// they share has one row.
func flagTable(t *testing.T) string {
	t.Helper()
	var flags []*programFlag
	for _, program := range []string{"client", "flaky-server"} {
		path := filepath.Join(root, "cmd", program, "testdata", "help.txt")
		for line := range strings.Lines(wrapped.ReplaceAllString(files.Read(t, path), " ")) {
			line = strings.TrimRight(line, "\n")
			if !strings.HasPrefix(line, "  --") {
				continue
			}
			m := helpFlag.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%s: got the line %q, want a flag", path, line)
			}
			i := slices.IndexFunc(flags, func(f *programFlag) bool {
				return f.name == m[1] && f.argument == m[2] && f.meaning == m[3] && f.standard == m[4]
			})
			if i < 0 {
				i = len(flags)
				flags = append(flags, &programFlag{name: m[1], argument: m[2], meaning: m[3], standard: m[4]})
			}
			flags[i].programs = append(flags[i].programs, program)
		}
	}
	var out strings.Builder
	out.WriteString("| flag | of | default | meaning |\n|---|---|---|---|\n")
	for _, f := range flags {
		standard := f.standard
		if standard != "" {
			standard = "`" + standard + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n",
			strings.TrimSpace("--"+f.name+" "+f.argument), strings.Join(f.programs, ", "), standard, strings.ReplaceAll(f.meaning, "|", `\|`))
	}
	return strings.TrimSpace(out.String())
}

// The golden help of a program has a line for every flag that its source declares.
func TestHelpHasEveryFlag(t *testing.T) {
	for _, dir := range glob(t, "cmd/*") {
		found := 0
		help := files.Read(t, filepath.Join(dir, "testdata", "help.txt"))
		for _, path := range glob(t, filepath.Join("cmd", filepath.Base(dir), "*.go")) {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if name := declaredFlag(n); name != "" {
					found++
					if !strings.Contains(help, "\n  --"+name+" ") {
						t.Errorf("%s: the help of %s has no line for --%s, want one", set.Position(n.Pos()), filepath.Base(dir), name)
					}
				}
				return true
			})
		}
		if found == 0 {
			t.Errorf("%s: found no declared flag, want some", dir)
		}
	}
}

// declaredFlag returns the name of the flag that a call such as fs.StringVar(&v, "name", ...)
// declares, or "".
func declaredFlag(n ast.Node) string {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || method.Sel.Name == "Lookup" {
		return ""
	}
	if on, ok := method.X.(*ast.Ident); !ok || on.Name != "fs" {
		return ""
	}
	for _, arg := range call.Args {
		if text, ok := arg.(*ast.BasicLit); ok && text.Kind == token.STRING {
			name, _ := strconv.Unquote(text.Value)
			return name
		}
	}
	return ""
}
