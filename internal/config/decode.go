package config

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/mistake"
)

const (
	// maxValues bounds the work of one document. A few lines of nested aliases can expand to
	// billions of values.
	maxValues = 100_000
	// maxKey is the longest key in bytes. Keys become part of paths, and paths part of every
	// message.
	maxKey = 256
	// maxMistakes is how many mistakes are reported. Each one costs a comparison with every known
	// key.
	maxMistakes = 1000
)

// Decode decodes the one YAML document in data into dst, a pointer to a struct. Values that the
// document does not mention keep what dst has. Errors call the document name, usually its file
// name.
//
// A field's key is its yaml tag (`yaml:"name"`), or its name in lower case. The tag "-" leaves a
// field out, and ",inline" merges the fields of a struct into its parent. Fields may be structs,
// maps with string keys, lists, pointers, strings, bools, numbers, [time.Duration] (as Go writes
// them; only 0 may lack a unit), and any type with an UnmarshalText method. A struct with methods
// SetShort(string) and Short() (string, bool) may also be written as a string.
//
// A mapping is merged into the existing struct or map entry. A list replaces the existing list.
// Only pointers accept null, which sets them to nil. If a new list element, map entry or pointer
// has a SetDefaults method, it is called first. Aliases and merge keys (<<) are followed; tags
// (!!binary) are errors.
//
// If dst has a Validate() error method, Decode calls it last, on the whole value. It may return
// several errors through Unwrap() []error, as [errors.Join] and [mistake.List] do. A
// [mistake.Mistake] gets the place of its value, or of the nearest value above it. An error about a
// value that could not be decoded is dropped.
//
// The error is a *[mistake.List] with every mistake, up to 1000, and dst is then unchanged. An
// error of another type means that dst is not a pointer to a struct. Decode may be called
// concurrently with different dst.
func Decode(name string, data []byte, dst any) error {
	target := reflect.ValueOf(dst)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("decoding %s: expected a pointer to a struct as the target, got %T", name, dst)
	}
	d := newDecoder(name)
	root, broken := parse(name, data)
	if broken != nil {
		return mistake.List{broken}.Err()
	}
	if root == nil || isNull(root) {
		keys := strings.Join(names(d.fieldsOf(target.Type().Elem())), ", ")
		return mistake.List{{File: name, Line: 1, Column: 1, Message: "is empty, expected a mapping with keys " + keys}}.Err()
	}

	// Decode into a copy and write to nothing that it shares with dst, so that a rejected document
	// changes nothing.
	result := reflect.New(target.Type().Elem())
	result.Elem().Set(target.Elem())
	d.value(root, result.Elem(), "")
	if v, ok := result.Interface().(interface{ Validate() error }); ok && !d.stopped {
		d.merge(v.Validate())
	}
	if len(d.errs) > 0 {
		return d.mistakes().Err()
	}
	target.Elem().Set(result.Elem())
	return nil
}

// Keys returns the top-level keys of the document in data in document order, followed by those of
// its merge keys. A caller uses it to find out which values the document sets. An empty document
// has no keys.
//
// The error is a *[mistake.List], as for [Decode]. Keys checks neither whether a key is known nor
// its value.
func Keys(name string, data []byte) ([]string, error) {
	root, broken := parse(name, data)
	if broken != nil {
		return nil, mistake.List{broken}.Err()
	}
	if root == nil || isNull(root) {
		return nil, nil
	}
	d := newDecoder(name)
	if root.Kind != yaml.MappingNode {
		d.expected(root, "", "a mapping")
		return nil, d.errs.Err()
	}
	var keys []string
	for _, e := range d.entries(root, "") {
		keys = append(keys, e.name)
	}
	if len(d.errs) > 0 {
		return nil, d.mistakes().Err()
	}
	return keys, nil
}

// shortForm is a struct that can also be written as a string.
type shortForm interface {
	SetShort(text string)
	Short() (text string, ok bool) // ok is false if only the mapping can express the value
}

type place struct{ line, column int }

type decoder struct {
	file    string
	errs    mistake.List
	failed  map[string]bool  // paths of values that are in the document, but not in the result
	places  map[string]place // every value in the document, by path
	open    map[*yaml.Node]bool
	fields  map[reflect.Type][]field
	visited int
	stopped bool
	cut     bool // there are more mistakes than errs has
}

func newDecoder(name string) *decoder {
	return &decoder{
		file:   name,
		failed: make(map[string]bool),
		places: make(map[string]place),
		open:   make(map[*yaml.Node]bool),
		fields: make(map[reflect.Type][]field),
	}
}

// mistakes returns all mistakes found. If the search stopped early, the last mistake reports that.
func (d *decoder) mistakes() mistake.List {
	all := d.errs
	slices.SortStableFunc(all, func(a, b *mistake.Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if d.cut {
		last := fmt.Sprintf("has more than %d mistakes; the rest are not listed", maxMistakes)
		all = append(all, &mistake.Mistake{File: d.file, Message: last})
	}
	return all
}

// mistake reports that the value at path is not used.
func (d *decoder) mistake(n *yaml.Node, path, format string, args ...any) {
	d.failed[path] = true
	d.duplicate(n, path, format, args...)
}

// duplicate reports a second value for a key. Unlike mistake it does not mark path as failed, since
// the first value is used.
func (d *decoder) duplicate(n *yaml.Node, path, format string, args ...any) {
	if len(d.errs) >= maxMistakes {
		d.stopped, d.cut = true, true
		return
	}
	m := mistake.New(path, format, args...)
	m.File, m.Line, m.Column = d.file, n.Line, n.Column
	d.errs = append(d.errs, m)
}

func (d *decoder) expected(n *yaml.Node, path, what string) {
	d.mistake(n, path, "expected %s, got %s", what, describe(n))
}

// merge adds the errors of Validate, except those about values that were not decoded.
func (d *decoder) merge(err error) {
	var found mistake.List
	found.Merge("", err)
	for _, m := range found {
		up := ancestors(m.Path)
		if slices.ContainsFunc(up, func(p string) bool { return d.failed[p] }) {
			continue
		}
		m.File, m.Line, m.Column = d.file, 0, 0
		for _, p := range up {
			if at, ok := d.places[p]; ok {
				m.Line, m.Column = at.line, at.column
				break
			}
		}
		d.errs = append(d.errs, m)
	}
}

// visit counts a value and reports whether decoding may go on.
func (d *decoder) visit(n *yaml.Node, path string) bool {
	if d.visited++; d.visited > maxValues && !d.stopped {
		d.stopped = true
		d.mistake(n, path, "expected at most %d values in a document, aliases included", maxValues)
	}
	return !d.stopped
}

// resolve follows n if it is an alias. The caller calls done when it has decoded the value. If an
// anchor contains itself, resolve reports that and returns nil.
func (d *decoder) resolve(n *yaml.Node, path string) (value *yaml.Node, done func()) {
	if n.Kind != yaml.AliasNode {
		return n, func() {}
	}
	if d.open[n.Alias] {
		d.mistake(n, path, "the anchor &%s contains itself", n.Value)
		return nil, func() {}
	}
	d.open[n.Alias] = true
	return n.Alias, func() { delete(d.open, n.Alias) }
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if !d.visit(n, path) {
		return
	}
	d.places[path] = place{n.Line, n.Column}
	n, done := d.resolve(n, path)
	defer done()
	if n == nil {
		return
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.mistake(n, path, "expected a value without a tag, got %s", clip(n.Tag))
		return
	}

	if v.Kind() == reflect.Pointer {
		if isNull(n) {
			v.SetZero()
			return
		}
		p := newValue(v.Type().Elem())
		if !v.IsNil() {
			p.Elem().Set(v.Elem())
		}
		d.concrete(n, p.Elem(), path)
		v.Set(p)
		return
	}
	d.concrete(n, v, path)
}

// concrete decodes into any type except a pointer.
func (d *decoder) concrete(n *yaml.Node, v reflect.Value, path string) {
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, v, text, path)
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(n, v, path)
		return
	}
	if short, ok := v.Addr().Interface().(shortForm); ok && n.Kind != yaml.MappingNode {
		if n.Kind != yaml.ScalarNode || isNull(n) {
			d.expected(n, path, "a string or a mapping")
			return
		}
		var text string
		d.str(n, reflect.ValueOf(&text).Elem(), path)
		short.SetShort(text)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		d.str(n, v, path)
	case reflect.Bool:
		d.boolean(n, v, path)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.integer(n, v, path)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.unsigned(n, v, path)
	case reflect.Float32, reflect.Float64:
		d.float(n, v, path)
	default:
		d.mistake(n, path, "cannot be configured: its type is %s", v.Type())
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.expected(n, path, "a mapping")
		return
	}
	fields := d.fieldsOf(v.Type())
	entries := d.entries(n, path)
	present := make(map[string]bool, len(entries))
	for _, e := range entries {
		present[e.name] = true
	}
	for _, e := range entries {
		if d.stopped {
			return
		}
		at := Join(path, e.name)
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == e.name })
		if i < 0 {
			near := Nearest(e.name, names(fields))
			if near != "" && !present[near] {
				d.failed[Join(path, near)] = true // do not report it as missing too
			}
			d.mistake(e.key, at, "%s", unknownKey(near, names(fields)))
			continue
		}
		d.value(e.value, v.FieldByIndex(fields[i].index), at)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.expected(n, path, "a mapping")
		return
	}
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		d.mistake(n, path, "cannot be configured: its type is %s", t)
		return
	}
	result := reflect.MakeMap(t)
	for iter := v.MapRange(); iter.Next(); {
		result.SetMapIndex(iter.Key(), iter.Value())
	}
	for _, e := range d.entries(n, path) {
		key := reflect.ValueOf(e.name).Convert(t.Key())
		element := newValue(t.Elem()).Elem()
		if present := result.MapIndex(key); present.IsValid() {
			element.Set(present)
		}
		d.value(e.value, element, Join(path, e.name))
		result.SetMapIndex(key, element)
	}
	v.Set(result)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.expected(n, path, "a list")
		return
	}
	result := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), maxValues))
	for i, item := range n.Content {
		element := newValue(v.Type().Elem()).Elem()
		d.value(item, element, Index(path, i))
		result = reflect.Append(result, element)
	}
	v.Set(result)
}

type entry struct {
	name       string
	merge      bool // an unquoted <<
	key, value *yaml.Node
}

// entries returns the keys and values of a mapping. Those of its merge keys come last, without the
// keys that the mapping has itself.
func (d *decoder) entries(n *yaml.Node, path string) []entry {
	var (
		all    []entry
		merges []entry
		seen   = make(map[string]int) // key to line
	)
	for i := 0; i+1 < len(n.Content); i += 2 {
		e, at, ok := d.entry(n.Content[i], n.Content[i+1], path)
		if d.stopped {
			return nil
		}
		if !ok {
			continue
		}
		if e.merge {
			merges = append(merges, e)
			if len(merges) > 1 {
				d.duplicate(e.key, at, "the key is already given on line %d; merge a list instead", merges[0].key.Line)
			}
			continue
		}
		if line, again := seen[e.name]; again {
			d.duplicate(e.key, at, "the key is already given on line %d", line)
			continue
		}
		seen[e.name] = e.key.Line
		all = append(all, e)
	}
	if len(merges) == 0 {
		return all
	}
	for _, e := range d.merged(merges[0].value, path, true) {
		if _, own := seen[e.name]; !own {
			seen[e.name] = e.key.Line
			all = append(all, e)
		}
	}
	return all
}

// entry checks one key. at is the path of its value.
func (d *decoder) entry(key, value *yaml.Node, path string) (e entry, at string, ok bool) {
	if !d.visit(key, path) {
		return e, path, false
	}
	k := key
	if k.Kind == yaml.AliasNode {
		k = k.Alias
	}
	at = Join(path, clip(k.Value))
	switch {
	case k.Style&yaml.TaggedStyle != 0:
		d.mistake(key, at, "expected a key without a tag, got %s", clip(k.Tag))
	case k.Kind != yaml.ScalarNode:
		d.mistake(key, path, "expected a string as key, got %s", describe(k))
	case k.Tag == "!!null", k.Tag == "!!bool", k.Tag == "!!int", k.Tag == "!!float":
		d.mistake(key, at, "expected a string as key, got %s; write %q if the text is meant", describe(k), clip(k.Value))
	case len(k.Value) > maxKey:
		d.mistake(key, at, "expected a key of at most %d bytes, got %d", maxKey, len(k.Value))
	default:
		return entry{k.Value, k.Tag == "!!merge", key, value}, at, true
	}
	return e, at, false
}

// merged returns the entries of a merge key's value: a mapping, or a list of mappings. In a list
// the first mapping wins.
func (d *decoder) merged(n *yaml.Node, path string, listAllowed bool) []entry {
	if !d.visit(n, path) {
		return nil
	}
	n, done := d.resolve(n, path)
	defer done()
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.MappingNode:
		return d.entries(n, path)
	case n.Kind == yaml.SequenceNode && listAllowed:
		var all []entry
		for _, item := range n.Content {
			all = append(all, d.merged(item, path, false)...)
		}
		return all
	}
	d.mistake(n, path, "expected a mapping or a list of mappings after <<, got %s", describe(n))
	return nil
}

// field is one key of a struct.
type field struct {
	name      string
	index     []int
	omitEmpty bool
}

func (d *decoder) fieldsOf(t reflect.Type) []field {
	fields, ok := d.fields[t]
	if !ok {
		fields = fieldsOf(t)
		d.fields[t] = fields
	}
	return fields
}

func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inline := slices.Contains(strings.Split(options, ","), "inline") && f.Type.Kind() == reflect.Struct
		switch {
		case name == "-", !f.IsExported() && !(inline && f.Anonymous):
			continue
		case inline:
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
			continue
		case name == "":
			name = strings.ToLower(f.Name)
		}
		all = append(all, field{name, []int{i}, slices.Contains(strings.Split(options, ","), "omitempty")})
	}
	return all
}

func names(fields []field) []string {
	all := make([]string, len(fields))
	for i, f := range fields {
		all[i] = f.name
	}
	return all
}

// newValue returns a pointer to a new value of type t with its defaults.
func newValue(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if d, ok := p.Interface().(interface{ SetDefaults() }); ok {
		d.SetDefaults()
	}
	return p
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
