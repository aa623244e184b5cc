package docs_test

import (
	"fmt"
	"go/doc"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// document describes a file that a program reads: a tree of keys, made from the Go type.
type document struct {
	comments
	root     *key
	all      map[string]*key // by path
	required map[string]bool // by path
}

// key is one place in a document. It has keys (a mapping of known ones), an element (a list, or a
// mapping whose keys the reader chooses), or neither.
type key struct {
	path     string // "policies.<name>.timeout", "routes[].name"; "" for the document
	doc      string
	repeats  bool         // in a list element: doc is that of the document's own key
	typ      reflect.Type // not a pointer
	optional bool         // a pointer: null is as good as absent
	required bool
	standard any // the default as JSON has it; nil for none
	keys     []*key
	element  *key

	takes  string // in the reader's words
	schema object // without the keys below
}

// newDocument describes the type of defaults. The program says which keys are required: decode
// reports them as missing from the blank documents. NAME stands for the names that a user chooses.
func newDocument(t *testing.T, defaults any, decode func([]byte) error, blank ...string) *document {
	t.Helper()
	d := &document{comments: readComments(t), all: map[string]*key{}, required: map[string]bool{}}
	index := regexp.MustCompile(`\[\d+\]`)
	for _, text := range blank {
		var mistakes mistake.List
		mistakes.Merge("", decode([]byte(text)))
		for _, m := range mistakes {
			d.required[strings.ReplaceAll(index.ReplaceAllString(m.Path, "[]"), ".NAME.", ".<name>.")] = true
		}
	}
	typ := reflect.TypeOf(defaults)
	known := d.valueNames().with(fieldNames(typ)).with(names{typ.Name(): "document"})
	d.root = d.key(t, "", typ, marshalled(t, defaults), "", known)
	d.root.doc = "" // the page says it
	for path, k := range d.all {
		// A key of a window means the same as that of the faults which the window changes.
		if outside := d.outside(path); outside != nil && k.doc == "" {
			k.doc, k.repeats = outside.doc, true
		}
		if path != "" && k.doc == "" {
			t.Errorf("%s: got no comment on its field or type (%s), want one", path, k.typ)
		}
	}
	for path := range d.required {
		if d.all[path] == nil {
			t.Errorf("the program requires %q, want it among the keys of %s", path, typ)
		}
	}
	if t.Failed() {
		t.FailNow() // after all mistakes
	}
	return d
}

// outside returns the key that a key of a window changes: it is next to the list of windows, or in
// the faults next to it.
func (d *document) outside(path string) *key {
	i := strings.LastIndex(path, "[].")
	if i < 0 {
		return nil
	}
	parent, name := "", path[i+len("[]."):]
	if dot := strings.LastIndex(path[:i], "."); dot >= 0 {
		parent = path[:dot+1]
	}
	if k := d.all[parent+name]; k != nil {
		return k
	}
	return d.all[parent+"faults."+name]
}

func (d *document) key(t *testing.T, path string, typ reflect.Type, standard any, comment string, known names) *key {
	t.Helper()
	k := &key{path: path, typ: typ, standard: standard, required: d.required[path], doc: prose(comment, known)}
	if typ.Kind() == reflect.Pointer {
		k.optional, k.typ = true, typ.Elem()
	}
	if k.required {
		k.standard = nil
	}
	switch k.typ.Kind() {
	case reflect.Struct:
		known = known.with(fieldNames(k.typ))
		switch {
		case k.isElement():
			known = known.with(names{k.typ.Name(): article(k.typ.Name())})
		case path != "":
			known = known.with(names{k.typ.Name(): "`" + k.name() + "`"})
		}
		k.doc = strings.TrimSpace(k.doc + " " + prose(d.docs[k.typ.String()], known))
		k.standard = nil // its keys have their own
		values, _ := standard.(object)
		for _, f := range fields(k.typ) {
			at := strings.TrimPrefix(path+"."+f.key, ".")
			k.keys = append(k.keys, d.key(t, at, f.Type, values[f.key], d.docs[f.qualified], known))
		}
	case reflect.Map:
		k.element = d.key(t, path+".<name>", k.typ.Elem(), fresh(t, k.typ.Elem()), "", known)
		k.standard = nil
	case reflect.Slice:
		k.element = d.key(t, path+"[]", k.typ.Elem(), fresh(t, k.typ.Elem()), "", known)
	}
	if k.doc == "" && k.element != nil {
		k.doc = k.element.doc
	}
	if k.doc == "" {
		k.doc = prose(d.docs[k.typ.String()], known)
	}
	if !k.isElement() || k.doc != "" { // the list describes plain elements
		d.all[path] = k
	}
	d.describe(t, k)
	return k
}

// article returns the name of a type as a noun: "a route" for Route.
func article(name string) string {
	name = strings.ToLower(name)
	if strings.ContainsAny(name[:1], "aeiou") {
		return "an " + name
	}
	return "a " + name
}

// describe sets what k takes, in words and as a schema. The program itself checks which numbers are
// possible, alone and together.
func (d *document) describe(t *testing.T, k *key) {
	t.Helper()
	values := d.values[k.typ.String()]
	switch {
	case k.typ == reflect.TypeFor[time.Duration]():
		k.takes, k.schema = "duration", quantity(`^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`)
	case k.typ == reflect.TypeFor[transport.Size]():
		k.takes, k.schema = "size", quantity(`^(0|[0-9]+(B|KiB|MiB|GiB))$`)
	case values != nil:
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = v.text
		}
		k.takes, k.schema = "one of `"+strings.Join(texts, "`, `")+"`", object{"type": "string", "enum": texts}
	case k.typ.Kind() == reflect.Bool:
		k.takes, k.schema = "true or false", object{"type": "boolean"}
	case k.typ.Kind() == reflect.Int:
		k.takes, k.schema = "whole number", object{"type": "integer"}
	case k.typ.Kind() == reflect.Float64:
		k.takes, k.schema = "number", object{"type": "number"}
	case k.typ.Kind() == reflect.String:
		k.takes, k.schema = "text", object{"type": "string"}
	case k.typ.Kind() == reflect.Slice && k.mapping() == nil:
		k.takes, k.schema = "list of "+k.name(), object{"type": "array"}
		if !strings.HasSuffix(k.name(), "s") {
			k.takes = "list of texts"
		}
	case k.typ.Kind() == reflect.Slice:
		k.takes, k.schema = "list of mappings", object{"type": "array"}
	case hasShortForm(k.typ):
		k.takes, k.schema = "text or mapping", object{"type": []string{"string", "object"}}
	case k.typ.Kind() == reflect.Struct, k.typ.Kind() == reflect.Map:
		k.takes, k.schema = "mapping", object{"type": "object"}
	default:
		t.Fatalf("%s: got type %s, want one that this test has words for", k.path, k.typ)
	}
}

// quantity returns the schema of a number with a unit. Only 0 may lack the unit.
func quantity(pattern string) object {
	return object{"type": []string{"string", "integer"}, "pattern": pattern, "minimum": 0, "maximum": 0}
}

// hasShortForm reports whether a mapping may also be written as a text.
func hasShortForm(typ reflect.Type) bool {
	return reflect.PointerTo(typ).Implements(reflect.TypeFor[interface{ SetShort(text string) }]())
}

func (k *key) name() string { return k.path[strings.LastIndex(k.path, ".")+1:] }

func (k *key) isElement() bool {
	return strings.HasSuffix(k.path, "[]") || strings.HasSuffix(k.path, ">")
}

// mapping returns the key that has known keys: k itself, or its elements; nil if neither has.
func (k *key) mapping() *key {
	if k.element != nil {
		k = k.element
	}
	if k.keys == nil {
		return nil
	}
	return k
}

// synopsis returns the first sentence of a key's comment.
func (k *key) synopsis() string { return new(doc.Package).Synopsis(k.doc) }

// shown returns the default as it is written in a file.
func (k *key) shown() string {
	switch {
	case k.required:
		return "required"
	case k.standard == nil:
		return ""
	case k.standard == "":
		return "`\"\"`"
	case k.element != nil:
		return "`" + strings.ReplaceAll(fmt.Sprint(k.standard), " ", ", ") + "`"
	}
	return fmt.Sprintf("`%v`", k.standard)
}

type structField struct {
	reflect.StructField
	key       string
	qualified string // as comments has it
}

// fields returns the fields of a struct that have a key, in order, including those of inline
// structs.
func fields(t reflect.Type) (all []structField) {
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue // inline, or no key
		}
		owner := t
		if outer := f.Index[:len(f.Index)-1]; len(outer) > 0 {
			owner = t.FieldByIndex(outer).Type
		}
		all = append(all, structField{f, name, owner.String() + "." + f.Name})
	}
	return all
}

func fieldNames(t reflect.Type) names {
	n := names{}
	for _, f := range fields(t) {
		n[f.Name] = "`" + f.key + "`"
	}
	return n
}

// fresh returns a new list element or map entry as the loader makes it.
func fresh(t *testing.T, typ reflect.Type) any {
	t.Helper()
	p := reflect.New(typ)
	if d, ok := p.Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	if typ.Kind() != reflect.Struct || hasShortForm(typ) {
		return nil
	}
	return marshalled(t, p.Interface())
}

// marshalled returns what the program prints for v, as JSON types.
func marshalled(t *testing.T, v any) any {
	t.Helper()
	text, err := config.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var values object
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values
}
