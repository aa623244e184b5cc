package foreign

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// toml parses the part of TOML that configurations of Traefik use: tables, arrays of tables, dotted
// keys, strings, numbers, booleans, arrays and inline tables. Dates are read as their text.
type toml struct {
	file         string
	text         string
	at           int
	line, column int
	count        int
}

// tomlError ends the parsing. It never leaves this file.
type tomlError struct{ m *mistake.Mistake }

func (e tomlError) Error() string { return e.m.Error() }

func parseTOML(name string, data []byte) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	p := &toml{file: name, text: strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n"), line: 1, column: 1}
	root := &node{shape: mapping, line: 1, column: 1}
	if err := p.document(root); err != nil {
		return nil, mistake.List{err.m}.Err()
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	return []*node{root}, nil
}

func (p *toml) fail(format string, args ...any) *tomlError {
	return &tomlError{&mistake.Mistake{File: p.file, Line: p.line, Column: p.column, Message: fmt.Sprintf(format, args...)}}
}

func (p *toml) more() bool { return p.at < len(p.text) }

func (p *toml) peek(s string) bool { return strings.HasPrefix(p.text[p.at:], s) }

// skip goes on by n bytes.
func (p *toml) skip(n int) {
	for range n {
		if !p.more() {
			return
		}
		if p.text[p.at] == '\n' {
			p.line, p.column = p.line+1, 1
		} else if utf8.RuneStart(p.text[p.at]) {
			p.column++
		}
		p.at++
	}
}

// space skips spaces and comments, and ends of lines if lines is true.
func (p *toml) space(lines bool) {
	for p.more() {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || lines && c == '\n':
			p.skip(1)
		case c == '#':
			end := strings.IndexByte(p.text[p.at:], '\n')
			if end < 0 {
				end = len(p.text) - p.at
			}
			p.skip(end)
		default:
			return
		}
	}
}

// endOfLine checks that nothing follows in the line.
func (p *toml) endOfLine() *tomlError {
	p.space(false)
	if p.more() && p.text[p.at] != '\n' {
		return p.fail("expected the end of the line")
	}
	return nil
}

func (p *toml) document(root *node) *tomlError {
	table := root
	for p.space(true); p.more(); p.space(true) {
		var err *tomlError
		if p.peek("[") {
			table, err = p.header(root)
		} else {
			err = p.pair(table, 0)
		}
		if err == nil {
			err = p.endOfLine()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// header reads [a.b] or [[a.b]] and returns the table.
func (p *toml) header(root *node) (*node, *tomlError) {
	brackets := 1
	if p.peek("[[") {
		brackets = 2
	}
	p.skip(brackets)
	keys, err := p.keys()
	if err != nil {
		return nil, err
	}
	if !p.peek(strings.Repeat("]", brackets)) {
		return nil, p.fail("expected %q", strings.Repeat("]", brackets))
	}
	p.skip(brackets)
	n := root
	for i, key := range keys {
		last := i == len(keys)-1
		child := n.get(key.text)
		switch {
		case child == nil:
			child = p.child(n, key, mapping)
			if last && brackets == 2 {
				child.shape = list
			}
		case last && brackets == 1 && child.shape != mapping, last && brackets == 2 && child.shape != list, child.shape == scalar:
			return nil, p.fail("%s has another kind of value already", child.path)
		}
		n = child
		if n.shape == list {
			if last {
				n.items = append(n.items, &node{path: config.Index(n.path, len(n.items)), shape: mapping, line: key.line, column: key.column, keyLine: key.line, keyColumn: key.column})
			}
			if len(n.items) == 0 || n.items[len(n.items)-1].shape != mapping {
				return nil, p.fail("%s has another kind of value already", n.path)
			}
			n = n.items[len(n.items)-1]
		}
	}
	return n, nil
}

// child adds an empty value to a table.
func (p *toml) child(n, key *node, s shape) *node {
	child := &node{path: config.Join(n.path, clip(key.text)), key: key.text, shape: s, line: key.line, column: key.column, keyLine: key.line, keyColumn: key.column}
	n.items = append(n.items, child)
	return child
}

// keys reads a dotted key.
func (p *toml) keys() ([]*node, *tomlError) {
	var all []*node
	for {
		p.space(false)
		key := &node{line: p.line, column: p.column}
		switch {
		case p.peek(`"`) || p.peek("'"):
			text, err := p.str()
			if err != nil {
				return nil, err
			}
			key.text = text
		default:
			rest := p.text[p.at:]
			end := len(rest) - len(strings.TrimLeft(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"))
			if end == 0 {
				return nil, p.fail("expected a key")
			}
			key.text = rest[:end]
			p.skip(end)
		}
		if all = append(all, key); len(all) > maxDepth {
			return nil, p.fail("expected at most %d keys", maxDepth)
		}
		p.space(false)
		if !p.peek(".") {
			return all, nil
		}
		p.skip(1)
	}
}

// pair reads key = value into a table.
func (p *toml) pair(table *node, depth int) *tomlError {
	keys, err := p.keys()
	if err != nil {
		return err
	}
	n := table
	for _, key := range keys[:len(keys)-1] {
		child := n.get(key.text)
		if child == nil {
			child = p.child(n, key, mapping)
		}
		if child.shape != mapping {
			return p.fail("%s has a value already", child.path)
		}
		n = child
	}
	last := keys[len(keys)-1]
	if old := n.get(last.text); old != nil {
		return p.fail("%s is already given on line %d", old.path, old.keyLine)
	}
	if !p.peek("=") {
		return p.fail("expected = after the key")
	}
	p.skip(1)
	p.space(false)
	child := p.child(n, last, scalar)
	return p.value(child, depth)
}

// value reads a value into n.
func (p *toml) value(n *node, depth int) *tomlError {
	n.line, n.column = p.line, p.column
	if p.count++; p.count > maxValues {
		return p.fail("expected at most %d values", maxValues)
	}
	if depth > maxDepth {
		return p.fail("expected at most %d values in each other", maxDepth)
	}
	switch {
	case p.peek(`"`), p.peek("'"):
		text, err := p.str()
		n.text = text
		return err
	case p.peek("["):
		n.shape = list
		return p.array(n, depth)
	case p.peek("{"):
		n.shape = mapping
		return p.inline(n, depth)
	}
	rest := p.text[p.at:]
	end := strings.IndexAny(rest, ",]}#\n \t")
	if end < 0 {
		end = len(rest)
	}
	word := rest[:end]
	if !slices.Contains([]string{"true", "false", "inf", "nan"}, word) && (word == "" || !strings.ContainsAny(word[:1], "0123456789+-")) {
		return p.fail("expected a value, and quotes around a text")
	}
	n.text = strings.ReplaceAll(word, "_", "")
	p.skip(end)
	return nil
}

func (p *toml) array(n *node, depth int) *tomlError {
	p.skip(1)
	for {
		p.space(true)
		if p.peek("]") {
			p.skip(1)
			return nil
		}
		item := &node{path: config.Index(n.path, len(n.items)), keyLine: p.line, keyColumn: p.column}
		if err := p.value(item, depth+1); err != nil {
			return err
		}
		n.items = append(n.items, item)
		p.space(true)
		switch {
		case p.peek(","):
			p.skip(1)
		case !p.peek("]"):
			return p.fail("expected a comma or a closing bracket")
		}
	}
}

func (p *toml) inline(n *node, depth int) *tomlError {
	if depth > maxDepth {
		return p.fail("expected at most %d values in each other", maxDepth)
	}
	p.skip(1)
	p.space(false)
	for !p.peek("}") {
		if err := p.pair(n, depth+1); err != nil {
			return err
		}
		p.space(false)
		switch {
		case p.peek(","):
			p.skip(1)
			p.space(false)
		case !p.peek("}"):
			return p.fail("expected a comma or a closing brace")
		}
	}
	p.skip(1)
	return nil
}

// str reads a string of any of the four kinds.
func (p *toml) str() (string, *tomlError) {
	quote := p.text[p.at : p.at+1]
	long := p.peek(strings.Repeat(quote, 3))
	end := quote
	if long {
		end = strings.Repeat(quote, 3)
	}
	start := *p
	p.skip(len(end))
	if long && p.peek("\n") {
		p.skip(1)
	}
	var b strings.Builder
	for !p.peek(end) {
		switch {
		case !p.more(), !long && p.peek("\n"):
			p.line, p.column = start.line, start.column
			return "", p.fail("this quote is never closed")
		case quote == `"` && p.peek(`\`):
			if err := p.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteByte(p.text[p.at])
			p.skip(1)
		}
	}
	p.skip(len(end))
	return b.String(), nil
}

// escape reads an escape such as \n or \u00e4.
func (p *toml) escape(b *strings.Builder) *tomlError {
	p.skip(1)
	if !p.more() {
		return p.fail("this quote is never closed")
	}
	c := p.text[p.at]
	known := map[byte]string{'b': "\b", 't': "\t", 'n': "\n", 'f': "\f", 'r': "\r", 'e': "\x1b", '"': `"`, '\\': `\`}
	switch size := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]; {
	case known[c] != "":
		b.WriteString(known[c])
		p.skip(1)
	case size > 0 && p.at+1+size <= len(p.text):
		v, err := strconv.ParseUint(p.text[p.at+1:p.at+1+size], 16, 32)
		if err != nil {
			return p.fail("unknown escape")
		}
		b.WriteRune(rune(v))
		p.skip(1 + size)
	case c == '\n' || c == ' ' || c == '\t': // joins lines
		p.skip(len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], " \t\n")))
	default:
		return p.fail("unknown escape")
	}
	return nil
}
