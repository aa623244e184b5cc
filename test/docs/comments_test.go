package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// comments holds the doc comments of the repository's packages. Names are qualified as reflect
// prints types: "gateway.Route", "gateway.Route.Match".
type comments struct {
	docs   map[string]string  // of types, of their fields and of functions
	values map[string][]value // of named types: the constants, in the order of the source
	groups map[string]string  // of named types: the comment over the constants
	consts map[string][]value // of packages: the constants that are text, in the order of the source
}

type value struct{ name, text, doc string }

func readComments(t *testing.T) comments {
	t.Helper()
	c := comments{map[string]string{}, map[string][]value{}, map[string]string{}, map[string][]value{}}
	for _, path := range append(glob(t, "pkg/*/*.go"), glob(t, "internal/*/*.go")...) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		pkg := filepath.Base(filepath.Dir(path)) + "."
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.GenDecl:
				c.add(pkg, d)
			case *ast.FuncDecl:
				if d.Recv == nil {
					c.docs[pkg+d.Name.Name] = first(d.Doc)
				}
			}
		}
	}
	return c
}

func (c comments) add(pkg string, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			// The later paragraphs are for Go programmers.
			doc, _, _ := strings.Cut(first(s.Doc, decl.Doc), "\n\n")
			c.docs[pkg+s.Name.Name] = doc
			if fields, ok := s.Type.(*ast.StructType); ok {
				for _, f := range fields.Fields.List {
					for _, name := range f.Names {
						c.docs[pkg+s.Name.Name+"."+name.Name] = first(f.Doc, f.Comment)
					}
				}
			}
		case *ast.ValueSpec:
			if decl.Tok == token.CONST && len(s.Names) == 1 {
				c.addConstant(pkg, decl, s)
			}
		}
	}
}

func (c comments) addConstant(pkg string, decl *ast.GenDecl, s *ast.ValueSpec) {
	v := value{name: s.Names[0].Name, doc: first(s.Doc, s.Comment)}
	typ, _ := s.Type.(*ast.Ident)
	switch {
	case len(s.Values) == 0: // one more of an enumeration by iota
		typ, _ = decl.Specs[0].(*ast.ValueSpec).Type.(*ast.Ident)
	case len(s.Values) == 1:
		switch x := s.Values[0].(type) {
		case *ast.BasicLit:
			if x.Kind != token.STRING {
				return
			}
			v.text, _ = strconv.Unquote(x.Value)
		case *ast.SelectorExpr:
			v.text = conventions(x.Sel.Name)
		case *ast.Ident:
			if x.Name != "iota" {
				return
			}
		}
	}
	if v.text != "" {
		c.consts[pkg] = append(c.consts[pkg], v)
	}
	if typ != nil {
		name := pkg + typ.Name
		c.values[name] = append(c.values[name], v)
		c.groups[name] = first(decl.Doc)
	}
}

// conventions returns the name in OpenTelemetry's semantic conventions for a constant of their Go
// package, or "" for a constant that is not used here.
func conventions(constant string) string {
	return map[string]string{
		"HTTPRequestMethodKey":      string(semconv.HTTPRequestMethodKey),
		"URLSchemeKey":              string(semconv.URLSchemeKey),
		"HTTPRouteKey":              string(semconv.HTTPRouteKey),
		"HTTPResponseStatusCodeKey": string(semconv.HTTPResponseStatusCodeKey),
		"ServerAddressKey":          string(semconv.ServerAddressKey),
		"ServerPortKey":             string(semconv.ServerPortKey),
		"ErrorTypeKey":              string(semconv.ErrorTypeKey),
		"RPCSystemNameKey":          string(semconv.RPCSystemNameKey),
		"RPCMethodKey":              string(semconv.RPCMethodKey),
		"RPCResponseStatusCodeKey":  string(semconv.RPCResponseStatusCodeKey),
	}[constant]
}

func first(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if text := strings.TrimSpace(g.Text()); text != "" {
			return text
		}
	}
	return ""
}

// names maps Go names to the words that replace them on a page.
type names map[string]string

func (n names) with(more names) names {
	all := maps.Clone(n)
	maps.Copy(all, more)
	return all
}

func (n names) replace(text string) string {
	return goName.ReplaceAllStringFunc(text, func(name string) string {
		if name[0] == '"' {
			return name // a quotation
		}
		name = strings.Trim(name, "[]")
		last := name[strings.LastIndex(name, ".")+1:]
		if key, ok := n[last]; ok {
			return key
		}
		return name
	})
}

// valueNames maps the constants to their values, for comments that mention them.
func (c comments) valueNames() names {
	n := names{}
	for _, values := range c.values {
		for _, v := range values {
			n[v.name] = "`" + v.text + "`"
		}
	}
	return n
}

var goName = regexp.MustCompile(`"[^"]*"|\[[A-Z]\w*(\.\w+)?\]|\b[A-Z][\w-]*(\.[A-Z]\w*)?`)

// prose rewrites a doc comment for a reader who knows the keys but not Go, as one paragraph of
// whole sentences.
func prose(comment string, known names) string {
	text := strings.Join(strings.Fields(comment), " ")
	if text == "" {
		return ""
	}
	text = known.replace(text)
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
