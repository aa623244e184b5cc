package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// parseTOML returns the values of a TOML file in one mapping. The parser knows the places; the
// decoder above it checks the file.
func parseTOML(name string, data []byte) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	t := tomlTree{file: name, data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			t.lines = append(t.lines, i+1)
		}
	}
	t.parser.Reset(data)
	root := &node{shape: mapping, line: 1, column: 1}
	table := root
	for t.parser.NextExpression() && t.mistake == nil {
		switch e := t.parser.Expression(); e.Kind {
		case unstable.KeyValue:
			t.pair(table, e, 0)
		case unstable.Table, unstable.ArrayTable:
			table = t.header(root, e)
		}
	}
	if t.mistake != nil {
		return nil, mistake.List{t.mistake}.Err()
	}
	var ignored map[string]any
	if err := toml.Unmarshal(data, &ignored); err != nil {
		return nil, mistake.List{tomlMistake(name, data, err)}.Err()
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	return []*node{root}, nil
}

// tomlMistake returns an error of the decoder.
func tomlMistake(name string, data []byte, err error) *mistake.Mistake {
	m := &mistake.Mistake{File: name, Line: 1, Column: 1, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	if strings.HasPrefix(m.Message, "expected keyword") { // it takes any word for true, false, inf or nan
		m.Message = "expected a value, and quotes around a text"
	}
	if at, ok := errors.AsType[*toml.DecodeError](err); ok {
		m.Line, m.Column = at.Position()
		if lines := strings.SplitAfter(string(data), "\n"); m.Line <= len(lines) { // it counts bytes
			m.Column = 1 + utf8.RuneCountInString(lines[m.Line-1][:min(m.Column-1, len(lines[m.Line-1]))])
		}
	}
	return m
}

// tomlTree copies the values of a file with their places.
type tomlTree struct {
	file    string
	data    []byte
	lines   []int // where each begins
	parser  unstable.Parser
	count   int
	mistake *mistake.Mistake
}

// at gives n the place of an offset.
func (t *tomlTree) at(n *node, offset int) *node {
	line, found := slices.BinarySearch(t.lines, offset)
	if !found {
		line--
	}
	n.line, n.column = line+1, 1+utf8.RuneCount(t.data[t.lines[line]:offset])
	n.keyLine, n.keyColumn = n.line, n.column
	return n
}

// deep reports a key that is too long. A path of each of its parts would fill the memory.
func (t *tomlTree) deep(e *unstable.Node) bool {
	count := 0
	for keys := e.Key(); keys.Next(); {
		if count++; count > maxDepth {
			t.tooMuch(t.at(&node{}, int(keys.Node().Raw.Offset)))
			return true
		}
	}
	return false
}

func (t *tomlTree) tooMuch(n *node) {
	if t.mistake == nil {
		t.mistake = &mistake.Mistake{File: t.file, Line: n.line, Column: n.column, Message: fmt.Sprintf("expected at most %d values, and %d in each other", maxValues, maxDepth)}
	}
}

// child adds an empty value for a key to a table.
func (t *tomlTree) child(table *node, key *unstable.Node, s shape) *node {
	text := string(key.Data)
	n := t.at(&node{path: config.Join(table.path, clip(text)), key: text, shape: s}, int(key.Raw.Offset))
	table.items = append(table.items, n)
	return n
}

// header returns the table that [a.b] or [[a.b]] begins.
func (t *tomlTree) header(root *node, e *unstable.Node) *node {
	n := root
	if t.deep(e) {
		return n
	}
	for keys := e.Key(); keys.Next(); {
		key := keys.Node()
		isNew := keys.IsLast() && e.Kind == unstable.ArrayTable
		child := n.get(string(key.Data))
		if child == nil {
			child = t.child(n, key, mapping)
			if isNew {
				child.shape = list
			}
		}
		if n = child; n.shape != list {
			continue
		}
		if len(n.items) == 0 && !isNew {
			return n // an empty array: the decoder reports it
		}
		if isNew {
			n.items = append(n.items, t.at(&node{path: config.Index(n.path, len(n.items)), shape: mapping}, int(key.Raw.Offset)))
		}
		n = n.items[len(n.items)-1]
	}
	return n
}

// pair adds key = value to a table.
func (t *tomlTree) pair(table *node, e *unstable.Node, depth int) {
	if t.deep(e) {
		return
	}
	var last *unstable.Node
	for keys := e.Key(); keys.Next(); {
		if last != nil {
			child := table.get(string(last.Data))
			if child == nil {
				child = t.child(table, last, mapping)
			}
			table = child
		}
		last = keys.Node()
	}
	if old := table.get(string(last.Data)); old != nil && t.mistake == nil {
		at := t.at(&node{}, int(last.Raw.Offset))
		t.mistake = &mistake.Mistake{File: t.file, Line: at.line, Column: at.column, Message: fmt.Sprintf("%s is already given on line %d", old.path, old.keyLine)}
	}
	n := t.child(table, last, scalar)
	start := int(last.Raw.Offset + last.Raw.Length)
	start += len(t.data[start:]) - len(bytes.TrimLeft(t.data[start:], " \t="))
	keyLine, keyColumn := n.keyLine, n.keyColumn
	t.value(n, e.Value(), start, depth)
	n.keyLine, n.keyColumn = keyLine, keyColumn
}

// value reads a value that begins at an offset into n.
func (t *tomlTree) value(n *node, v *unstable.Node, offset, depth int) {
	t.at(n, offset)
	if t.count++; t.count > maxValues || depth > maxDepth {
		t.tooMuch(n)
	}
	if t.mistake != nil {
		return
	}
	switch v.Kind {
	case unstable.Array:
		n.shape = list
		for items := v.Children(); items.Next(); {
			item := &node{path: config.Index(n.path, len(n.items))}
			at := offset // an array in an array has no place of its own
			if raw := items.Node().Raw; raw.Length > 0 {
				at = int(raw.Offset)
			}
			t.value(item, items.Node(), at, depth+1)
			n.items = append(n.items, item)
		}
	case unstable.InlineTable:
		n.shape = mapping
		for items := v.Children(); items.Next(); {
			t.pair(n, items.Node(), depth+1)
		}
	case unstable.String:
		n.text = string(v.Data)
	default:
		n.text = strings.ReplaceAll(string(v.Data), "_", "")
	}
}
