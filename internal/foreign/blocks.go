package foreign

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// token is a word of a file in a format with blocks.
type token struct {
	text         string
	quoted       bool
	line, column int
	lineStart    bool // the first word of its line
}

// blocks parses files whose settings are words with a block in braces behind some of them: nginx
// and Caddy.
type blocks struct {
	file   string
	tokens []token
	// semicolons ends a setting at a semicolon; else it ends with its line.
	semicolons bool
	errs       mistake.List
	depth      int
}

func (b *blocks) fail(line, column int, format string, args ...any) {
	b.errs = append(b.errs, &mistake.Mistake{File: b.file, Line: line, Column: column, Message: fmt.Sprintf(format, args...)})
}

// lex splits text into words. A brace is a word of its own: anywhere with semicolons, else only if
// space surrounds it.
func (b *blocks) lex(text string) {
	runes := []rune(text)
	line, column, lineStart := 1, 1, true
	i := 0
	step := func() {
		if runes[i] == '\n' {
			line, column, lineStart = line+1, 1, true
		} else {
			column++
		}
		i++
	}
	special := func(r rune) bool { return b.semicolons && strings.ContainsRune("{};", r) }
	for i < len(runes) {
		switch r := runes[i]; {
		case unicode.IsSpace(r):
			step()
		case r == '#':
			for i < len(runes) && runes[i] != '\n' {
				step()
			}
		case special(r):
			b.tokens = append(b.tokens, token{string(r), false, line, column, lineStart})
			lineStart = false
			step()
		case r == '"' || r == '\'' && b.semicolons || r == '`' && !b.semicolons:
			t := token{"", true, line, column, lineStart}
			var word strings.Builder
			for step(); i < len(runes) && runes[i] != r; step() {
				if runes[i] == '\\' && r != '`' && i+1 < len(runes) {
					step()
				}
				word.WriteRune(runes[i])
			}
			if i == len(runes) {
				b.fail(t.line, t.column, "this quote is never closed")
				return
			}
			step()
			t.text, lineStart = word.String(), false
			b.tokens = append(b.tokens, t)
		default:
			t := token{"", false, line, column, lineStart}
			start := i
			for i < len(runes) && !unicode.IsSpace(runes[i]) && !special(runes[i]) {
				if runes[i] == '$' && i+1 < len(runes) && runes[i+1] == '{' && b.semicolons { // ${name}
					for i < len(runes) && runes[i] != '}' && runes[i] != '\n' {
						step()
					}
					if i == len(runes) || runes[i] == '\n' {
						break
					}
				}
				if runes[i] == '\\' && i+1 < len(runes) && runes[i+1] != '\n' {
					step()
				}
				step()
			}
			t.text = string(runes[start:i])
			lineStart = false
			b.tokens = append(b.tokens, t)
		}
	}
}

// maxDepth keeps a file of braces from using up the stack.
const maxDepth = 100

// block reads settings up to the closing brace, or to the end of the file at the top, into n.
func (b *blocks) block(n *node, top bool) {
	b.depth++
	defer func() { b.depth-- }()
	if b.depth > maxDepth {
		b.fail(n.line, n.column, "expected at most %d blocks in each other", maxDepth)
		b.tokens = nil
		return
	}
	count := map[string]int{}
	for len(b.tokens) > 0 && len(b.errs) == 0 {
		if b.is("}") {
			if top {
				b.fail(b.tokens[0].line, b.tokens[0].column, "a closing brace without an opening one")
				return
			}
			b.tokens = b.tokens[1:]
			return
		}
		b.setting(n, count)
	}
	if !top && len(b.errs) == 0 {
		b.fail(n.keyLine, n.keyColumn, "this block is never closed")
	}
}

func (b *blocks) is(text string) bool {
	return len(b.tokens) > 0 && !b.tokens[0].quoted && b.tokens[0].text == text
}

// setting reads one setting into n.
func (b *blocks) setting(n *node, count map[string]int) {
	first := b.tokens[0]
	s := &node{shape: mapping, line: first.line, column: first.column, keyLine: first.line, keyColumn: first.column}
	if !b.is("{") { // a block without words before it is possible in a Caddyfile
		s.key = first.text
		b.tokens = b.tokens[1:]
	}
	label := clip(s.key)
	if count[s.key]++; count[s.key] > 1 {
		label += "[" + strconv.Itoa(count[s.key]-1) + "]"
	}
	s.path = strings.TrimPrefix(n.path+"."+label, ".")
	if s.path == "" {
		s.path = "{}"
	}
	n.items = append(n.items, s)
	ended := false
	for len(b.tokens) > 0 {
		t := b.tokens[0]
		switch {
		case b.semicolons && b.is(";"):
			b.tokens = b.tokens[1:]
			return
		case b.is("{") && (b.semicolons || !t.lineStart || s.key == ""):
			b.tokens = b.tokens[1:]
			b.block(s, false)
			return
		case b.is("}") || !b.semicolons && t.lineStart:
			ended = true
		}
		if ended {
			break
		}
		s.args = append(s.args, &node{path: s.path, text: t.text, line: t.line, column: t.column, keyLine: t.line, keyColumn: t.column})
		b.tokens = b.tokens[1:]
	}
	if b.semicolons {
		b.fail(first.line, first.column, "expected a semicolon or a block after %q", clip(first.text))
	}
}

// parseBlocks parses a file with blocks into one mapping.
func parseBlocks(name string, data []byte, semicolons bool) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	b := blocks{file: name, semicolons: semicolons}
	b.lex(strings.TrimPrefix(string(data), "\ufeff"))
	root := &node{shape: mapping, line: 1, column: 1}
	b.block(root, true)
	if err := b.errs.Err(); err != nil {
		return nil, err
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	return []*node{root}, nil
}

// words returns the texts of the words behind a setting.
func (n *node) words() []string {
	var all []string
	for _, a := range n.args {
		all = append(all, a.text)
	}
	return all
}

// only returns the only word behind a setting as a value of its own, or reports that there is none.
func (r *reader) only(n *node) (*node, bool) {
	if len(n.args) != 1 || len(n.items) > 0 {
		r.fail(n, "expected one value after %s, got %d", n.key, len(n.args))
		return nil, false
	}
	return n.args[0], true
}

// one reads the only word behind a setting.
func one(do action) action {
	return func(r *reader, n *node) {
		if value, ok := r.only(n); ok {
			do(r, value)
		}
	}
}

// columns is the number of characters of s.
func columns(s string) int { return utf8.RuneCountInString(s) }
