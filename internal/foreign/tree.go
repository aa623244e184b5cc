package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// maxValues bounds the work of one file. A few lines of nested aliases can expand to billions of
// values.
const maxValues = 100_000

type shape uint8

const (
	scalar shape = iota
	list
	mapping // keys may repeat only in formats that are not YAML
)

// node is a value of a file in any syntax.
type node struct {
	path  string
	key   string // in a mapping
	shape shape
	text  string // of a scalar
	null  bool   // a YAML null

	line, column       int // of the value
	keyLine, keyColumn int // of the key, or of the value without one

	args  []*node // scalars between the key and the block, in formats such as nginx's
	items []*node

	note      string // what is different from the text in the file, if anything
	accounted bool   // a leaf that an entry of the report accounts for
}

// leaves calls f for each value below n that has no values below it.
func (n *node) leaves(f func(*node)) {
	if len(n.args) == 0 && len(n.items) == 0 {
		f(n)
		return
	}
	for _, a := range n.args {
		f(a)
	}
	for _, item := range n.items {
		item.leaves(f)
	}
}

// get returns the first value of a key of n, or nil.
func (n *node) get(key string) *node {
	if n == nil || n.shape != mapping {
		return nil
	}
	for _, item := range n.items {
		if item.key == key {
			return item
		}
	}
	return nil
}

// given is get without a null, which stands for no value.
func (n *node) given(key string) *node {
	if value := n.get(key); value != nil && !value.null {
		return value
	}
	return nil
}

// at returns the value at a path of keys, or nil.
func (n *node) at(keys ...string) *node {
	for _, key := range keys {
		n = n.get(key)
	}
	return n
}

// value returns the text of n, or "" if it is no scalar.
func (n *node) value() string {
	if n == nil || n.shape != scalar {
		return ""
	}
	return n.text
}

// describe names n for the "got" part of an error.
func (n *node) describe() string {
	switch {
	case n.shape == mapping:
		return "a mapping"
	case n.shape == list:
		return "a list"
	case n.null:
		return "nothing"
	}
	return strconv.Quote(clip(n.text))
}

// clip shortens quoted text, so that a message stays one readable line.
func clip(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// parseYAML returns the values of all documents in data.
func parseYAML(name string, data []byte) ([]*node, error) {
	roots, err := config.Documents(name, data)
	if err != nil {
		return nil, err
	}
	b := yamlBuilder{file: name, open: map[*yaml.Node]bool{}}
	var all []*node
	for _, root := range roots {
		all = append(all, b.build(root, ""))
	}
	if err := b.errs.Err(); err != nil {
		return nil, err
	}
	return all, nil
}

// yamlBuilder copies YAML values and follows aliases and merge keys.
type yamlBuilder struct {
	file  string
	count int
	open  map[*yaml.Node]bool
	errs  mistake.List
}

func (b *yamlBuilder) fail(y *yaml.Node, path, format string, args ...any) {
	b.errs = append(b.errs, &mistake.Mistake{File: b.file, Line: y.Line, Column: y.Column, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (b *yamlBuilder) build(y *yaml.Node, path string) *node {
	n := &node{path: path, line: y.Line, column: y.Column, keyLine: y.Line, keyColumn: y.Column}
	if b.count++; b.count > maxValues {
		if b.count == maxValues+1 {
			b.fail(y, path, "expected at most %d values, aliases included", maxValues)
		}
		return n
	}
	if y.Kind == yaml.AliasNode {
		if b.open[y.Alias] {
			b.fail(y, path, "the anchor &%s contains itself", clip(y.Value))
			return n
		}
		b.open[y.Alias] = true
		defer delete(b.open, y.Alias)
		y = y.Alias
	}
	switch y.Kind {
	case yaml.ScalarNode:
		n.text, n.null = y.Value, y.Tag == "!!null"
	case yaml.SequenceNode:
		n.shape = list
		for i, item := range y.Content {
			n.items = append(n.items, b.build(item, config.Index(path, i)))
		}
	case yaml.MappingNode:
		n.shape = mapping
		b.mapping(n, y, path)
	}
	return n
}

func (b *yamlBuilder) mapping(n *node, y *yaml.Node, path string) {
	lines := map[string]int{}
	var merged []*node
	for i := 0; i+1 < len(y.Content) && b.count <= maxValues; i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			b.fail(key, path, "expected a string as key")
			continue
		}
		if key.Tag == "!!merge" {
			merged = append(merged, b.build(value, path))
			continue
		}
		at := config.Join(path, clip(key.Value))
		if line, again := lines[key.Value]; again {
			b.fail(key, at, "the field is already given on line %d", line)
			continue
		}
		lines[key.Value] = key.Line
		item := b.build(value, at)
		item.key, item.keyLine, item.keyColumn = key.Value, key.Line, key.Column
		n.items = append(n.items, item)
	}
	for _, m := range merged {
		b.merge(n, m)
	}
}

// merge adds the keys of m, the value of a merge key (<<), that n does not have.
func (b *yamlBuilder) merge(n, m *node) {
	switch {
	case m.shape == mapping:
		for _, item := range m.items {
			if n.get(item.key) == nil {
				n.items = append(n.items, item)
			}
		}
	case m.shape == list:
		for _, item := range m.items {
			b.merge(n, item)
		}
	case !m.null:
		b.errs = append(b.errs, &mistake.Mistake{File: b.file, Line: m.line, Column: m.column, Path: n.path, Message: "expected a mapping after <<"})
	}
}

// lastOf returns the last of the items with each name.
func lastOf(items []*node, name func(*node) string) map[string]*node {
	last := map[string]*node{}
	for _, item := range items {
		last[name(item)] = item
	}
	return last
}

func keyOf(n *node) string { return n.key }

// split turns the key a.b into b below a, as Spring reads it. Paths of values keep the text of the
// file.
func split(n *node, separator string) {
	if n.shape != mapping {
		for _, item := range n.items {
			split(item, separator)
		}
		return
	}
	var items []*node
	mappings := map[string]int{} // the places of mappings in items, by key
	own := map[int]bool{}        // those that are no part of an alias
	for _, item := range n.items {
		first, rest, separated := strings.Cut(item.key, separator)
		if separated && first != "" && rest != "" && !strings.HasPrefix(item.key, "[") {
			parent := *item
			inner := *item
			inner.key = rest
			parent.path, parent.key, parent.shape, parent.items, parent.text = config.Join(n.path, first), first, mapping, []*node{&inner}, ""
			item = &parent
		}
		if item.shape == mapping {
			if at, again := mappings[item.key]; again {
				if !own[at] {
					merged := *items[at]
					merged.items = slices.Clone(merged.items)
					items[at], own[at] = &merged, true
				}
				items[at].items = append(items[at].items, item.items...)
				continue
			}
			mappings[item.key] = len(items)
		}
		items = append(items, item)
	}
	n.items = items
	for _, item := range n.items {
		split(item, separator)
	}
}
