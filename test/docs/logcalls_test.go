package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logCall is a call in the source that writes a log line.
type logCall struct {
	pkg     string // "gateway"
	message value
	level   string
	keys    []value // in the order of the source
}

// logCalls finds the calls that write log lines. Messages and keys must be constants named line...
// and log... with a comment; a literal is an error.
func logCalls(t *testing.T, c comments) (calls []logCall) {
	t.Helper()
	written := map[value]bool{}
	for _, path := range slices.Concat(glob(t, "pkg/*/*.go"), glob(t, "internal/*/*.go"), glob(t, "cmd/*/*.go")) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"log/slog"` }) && !logs(file) {
			continue
		}
		pkg := filepath.Base(filepath.Dir(path))
		lines, keys := c.prefixed(pkg+".", "line"), c.prefixed(pkg+".", "log")
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if text := literal(call); text != "" {
				t.Errorf("%s: got the literal %s in a log line, want a constant line... or log... with a comment, for docs/observability.md",
					set.Position(call.Pos()), text)
			}
			message := slices.IndexFunc(call.Args, func(a ast.Expr) bool { return named(a, lines) != nil })
			if message < 0 {
				return true
			}
			found := logCall{pkg: pkg, message: *named(call.Args[message], lines), level: levelOf(call)}
			for _, a := range call.Args[message+1:] {
				ast.Inspect(a, func(n ast.Node) bool {
					if x, ok := n.(ast.Expr); ok {
						if k := named(x, keys); k != nil {
							found.keys = append(found.keys, *k)
						}
					}
					return true
				})
			}
			written[found.message] = true
			calls = append(calls, found)
			return true
		})
	}
	for pkg := range c.consts {
		for _, line := range c.prefixed(pkg, "line") {
			if !written[line] {
				t.Errorf("package %s declares the log line %q and never writes it, want a call", strings.TrimSuffix(pkg, "."), line.text)
			}
		}
		for _, k := range append(c.prefixed(pkg, "line"), c.prefixed(pkg, "log")...) {
			if k.doc == "" {
				t.Errorf("%s%s has no comment, want one for docs/observability.md", pkg, k.name)
			}
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return calls
}

// logs reports whether a file uses a logger without importing slog.
func logs(file *ast.File) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		found = found || ok && (s.Sel.Name == "Logger" || s.Sel.Name == "logger")
		return !found
	})
	return found
}

func named(x ast.Expr, among []value) *value {
	if id, ok := x.(*ast.Ident); ok {
		if i := slices.IndexFunc(among, func(v value) bool { return v.name == id.Name }); i >= 0 {
			return &among[i]
		}
	}
	return nil
}

// literal returns the first string literal in a call of slog, quoted, or "" if there is none.
func literal(call *ast.CallExpr) string {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	args := call.Args
	switch f.Sel.Name {
	case "Debug", "Info", "Warn", "Error", "DebugContext", "InfoContext", "WarnContext", "ErrorContext", "Log", "LogAttrs", "With":
	case "String", "Int", "Int64", "Uint64", "Float64", "Bool", "Time", "Duration", "Any", "Group":
		if x, ok := f.X.(*ast.Ident); !ok || x.Name != "slog" {
			return ""
		}
		args = args[:1]
	default:
		return ""
	}
	for _, a := range args {
		if lit, ok := a.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			return strconv.Quote(text)
		}
	}
	return ""
}

// levelOf returns the level of a call: an argument's, or else the method's.
func levelOf(call *ast.CallExpr) string {
	for _, a := range call.Args {
		if s, ok := a.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Level") {
			return strings.ToUpper(strings.TrimPrefix(s.Sel.Name, "Level"))
		}
	}
	if f, ok := call.Fun.(*ast.SelectorExpr); ok {
		return strings.ToUpper(strings.TrimSuffix(f.Sel.Name, "Context"))
	}
	return ""
}
