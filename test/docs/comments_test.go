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
)

// comments are the doc comments of the repository's packages. Names are
// qualified as reflect prints types: "gateway.Route", "gateway.Route.Match".
type comments struct {
	docs   map[string]string  // of types and of their fields
	values map[string][]value // of named string types: the constants, in the order of the source
	groups map[string]string  // of named string types: the comment over the constants
}

type value struct{ name, text, doc string }

func readComments(t *testing.T) comments {
	t.Helper()
	c := comments{map[string]string{}, map[string][]value{}, map[string]string{}}
	for _, path := range glob(t, "pkg/*/*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if gen, ok := decl.(*ast.GenDecl); ok {
				c.add(filepath.Base(filepath.Dir(path))+".", gen)
			}
		}
	}
	return c
}

func (c comments) add(pkg string, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			// What follows the first paragraph is for those who write Go.
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
			typ, ok := s.Type.(*ast.Ident)
			if !ok || decl.Tok != token.CONST || len(s.Values) != 1 {
				continue
			}
			if lit, ok := s.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				name := pkg + typ.Name
				c.values[name] = append(c.values[name], value{s.Names[0].Name, text, first(s.Doc, s.Comment)})
				c.groups[name] = first(decl.Doc)
			}
		}
	}
}

func first(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if text := strings.TrimSpace(g.Text()); text != "" {
			return text
		}
	}
	return ""
}

// names says what to put for a Go name in the text of a page.
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

// valueNames are the constants, for comments that speak of them.
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

// prose is a doc comment for a reader who knows keys, not Go: one paragraph of
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
