package bench_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// transportDir is the directory of the code with tracing.
const transportDir = "../../pkg/transport"

// withoutTracing replaces tracing.go.
const withoutTracing = `package transport

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

func WithTracing(trace.TracerProvider, propagation.TextMapPropagator, string) Option {
	return func(*Transport) {}
}

func WithRoute(ctx context.Context, _ string) context.Context { return ctx }
`

// buildCallers builds this test binary twice: as it is, and from a copy of pkg/transport without
// the statements, fields and arguments of tracing. The copy is the honest baseline: it is today's
// code, and the compiler sees no tracing in it.
func buildCallers(b *testing.B) (asItIs, untraced string) {
	dir := b.TempDir()
	overlay, err := untracedOverlay(dir)
	if err != nil {
		b.Fatal(err)
	}
	build := func(name string, flags ...string) string {
		binary := filepath.Join(dir, name)
		cmd := exec.CommandContext(b.Context(), "go", append(append([]string{"test", "-c", "-o", binary}, flags...), ".")...) //nolint:gosec // arguments of ours
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return binary
	}
	return build("as-it-is"), build("untraced", "-overlay", overlay)
}

// untracedOverlay writes the copy, and the file for go build's -overlay that puts it in place of
// the original.
func untracedOverlay(dir string) (string, error) {
	root, err := filepath.Abs(transportDir)
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		return "", err
	}
	replace, dropped := map[string]string{}, 0
	for _, path := range files {
		name := filepath.Base(path)
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		code := []byte(withoutTracing)
		if name != "tracing.go" {
			var n int
			if code, n, err = withoutTracingIn(path); err != nil {
				return "", err
			}
			dropped += n
		}
		replace[path] = filepath.Join(dir, name)
		if err := os.WriteFile(replace[path], code, 0o600); err != nil {
			return "", err
		}
	}
	// It must find at least Start, begin, inject, verdict, end and abandon.
	if dropped < 6 {
		return "", fmt.Errorf("%s: found %d uses of tracing, want at least 6", root, dropped)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o600)
}

// withoutTracingIn returns a file without the code that mentions tracing, and the number of places
// it removed.
func withoutTracingIn(path string) ([]byte, int, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, 0, err
	}
	dropped := 0
	drop := func(n ast.Node) bool {
		if !mentionsTracing(n) {
			return false
		}
		dropped++
		return true
	}
	// Innermost first: the statements around a removed one stay.
	var lists []*[]ast.Stmt
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			lists = append(lists, &n.List)
		case *ast.CaseClause:
			lists = append(lists, &n.Body)
		case *ast.CommClause:
			lists = append(lists, &n.Body)
		case *ast.StructType:
			n.Fields.List = slices.DeleteFunc(n.Fields.List, func(f *ast.Field) bool { return drop(f) })
		case *ast.CompositeLit:
			n.Elts = slices.DeleteFunc(n.Elts, func(e ast.Expr) bool {
				kv, ok := e.(*ast.KeyValueExpr)
				return ok && drop(kv.Value)
			})
		}
		return true
	})
	for _, list := range slices.Backward(lists) {
		*list = slices.DeleteFunc(*list, func(s ast.Stmt) bool { return !holdsStatements(s) && drop(s) })
	}
	if mentionsTracing(file) {
		return nil, 0, fmt.Errorf("%s: tracing is left, because it is part of a larger statement", path)
	}
	var out strings.Builder
	if err := format.Node(&out, fset, file); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s", path), err)
	}
	return []byte(out.String()), dropped, nil
}

// holdsStatements reports whether s contains statements. Then not all of it is tracing.
func holdsStatements(s ast.Stmt) bool {
	found := false
	ast.Inspect(s, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			found = found || len(n.List) > 0
		case *ast.CaseClause, *ast.CommClause:
			found = true
		}
		return !found
	})
	return found
}

// mentionsTracing reports whether n reads or declares a call's trace or a transport's tracer.
func mentionsTracing(n ast.Node) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			// The TLS handshakes of net/http/httptrace are not tracing.
			if on, ok := n.X.(*ast.SelectorExpr); ok && on.Sel.Name == "tls" {
				return true
			}
			found = found || n.Sel.Name == "trace" || n.Sel.Name == "tracer"
		case *ast.Field:
			for _, name := range n.Names {
				found = found || name.Name == "trace" || name.Name == "tracer"
			}
		}
		return !found
	})
	return found
}

// The baseline of BenchmarkTracingOff must compile and must contain no tracing.
func TestUntracedCopyCompiles(t *testing.T) {
	overlay, err := untracedOverlay(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, transportDir).CombinedOutput(); err != nil { //nolint:gosec // arguments of ours
		t.Errorf("%v\n%s", err, out)
	}
}
