package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// maxBytes is the largest document accepted. The parser needs several hundred bytes of memory for
// each byte of text.
const maxBytes = 1 << 20

// Documents returns the root values of all YAML documents in data, or of the JSON document, without
// those that are empty. Aliases are not followed. The error is a *[mistake.List].
func Documents(name string, data []byte) ([]*yaml.Node, error) {
	all, broken := parseAll(name, data)
	if broken != nil {
		return nil, mistake.List{broken}.Err()
	}
	var roots []*yaml.Node
	for _, n := range all {
		if len(n.Content) > 0 && !isNull(n.Content[0]) {
			roots = append(roots, n.Content[0])
		}
	}
	return roots, nil
}

// parse returns the root value of the only document in data, or the mistake that keeps it from
// being parsed.
func parse(name string, data []byte) (*yaml.Node, *mistake.Mistake) {
	all, broken := parseAll(name, data)
	switch {
	case broken != nil:
		return nil, broken
	case len(all) > 1:
		second := all[1]
		return nil, &mistake.Mistake{File: name, Line: second.Line, Column: second.Column, Message: "expected one document, got a second one"}
	case len(all) == 0, len(all[0].Content) == 0:
		return nil, nil
	}
	return all[0].Content[0], nil
}

// parseAll returns the documents.
func parseAll(name string, data []byte) ([]*yaml.Node, *mistake.Mistake) {
	at := func(line, column int, format string, args ...any) *mistake.Mistake {
		return &mistake.Mistake{File: name, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	}
	if len(data) > maxBytes {
		return nil, at(1, 1, "expected at most 1 MiB, got more")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors write a byte order mark; JSON does not allow one
	if offset, what := invalidByte(data); what != "" {
		line, column := position(data, offset)
		return nil, at(line, column, "expected UTF-8 text, got %s", what)
	}

	data = fromJSON(data)
	all, err := documents(data)
	if err != nil {
		line, column, message := locate(data, err)
		return nil, at(line, column, "%s", message)
	}
	return all, nil
}

// position returns the line and the column of the byte at offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return 1 + bytes.Count(before, []byte{'\n'}), 1 + utf8.RuneCount(before[start:])
}

// invalidByte finds the first byte that a text file must not have, and describes it.
func invalidByte(data []byte) (offset int, what string) {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return i, fmt.Sprintf("byte 0x%02x", data[i])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return i, fmt.Sprintf("control character U+%04X", r)
		}
		i += size
	}
	return 0, ""
}

// documents parses all documents.
func documents(text []byte) (all []*yaml.Node, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var n yaml.Node
		switch err := decoder.Decode(&n); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, &n)
	}
}

// locate returns the place and the reason of a parse error. The parser's own line number is
// unreliable: depending on the error it is missing, one too small, or the start of the surrounding
// block. But the parser reads from left to right. So locate searches for the shortest prefix of
// lines that fails with the same error, with its open brackets closed.
func locate(data []byte, cause error) (line, column int, message string) {
	why := reason(cause)
	var ends []int // end offset of each line
	for i, c := range data {
		if c == '\n' || i == len(data)-1 {
			ends = append(ends, i+1)
		}
	}
	n := sort.Search(len(ends), func(i int) bool {
		text := data[:ends[i]]
		closers, _ := unclosed(text)
		_, err := documents(slices.Concat(text, closers))
		return err != nil && reason(err) == why
	})
	if n == len(ends) { // with its brackets closed, the text is valid
		if closers, at := unclosed(data); len(closers) > 0 {
			line, column = position(data, at)
			return line, column, "this bracket is never closed"
		}
		n--
	}
	start := 0
	if n > 0 {
		start = ends[n-1]
	}
	text := data[start:ends[n]]
	indent := len(text) - len(bytes.TrimLeft(text, " "))
	if bytes.HasPrefix(text[indent:], []byte{'\t'}) && strings.Contains(why, "cannot start any token") {
		return n + 1, indent + 1, "expected spaces as indentation, got a tab"
	}
	return n + 1, indent + 1, hint(why)
}

// unclosed returns the brackets that close those left open in text, and the offset of the outermost
// open one. It understands quotes but no other syntax, which is enough for an error's position.
func unclosed(text []byte) (closers []byte, outermost int) {
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == '"' && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			if i == 0 || bytes.IndexByte([]byte(" \t\n,:[{"), text[i-1]) >= 0 {
				quote = c
			}
		case c == '[' || c == '{':
			if len(closers) == 0 {
				outermost = i
			}
			closers = append(closers, c+2) // in ASCII, [ and ] are two apart, and so are { and }
		case len(closers) > 0 && c == closers[len(closers)-1]:
			closers = closers[:len(closers)-1]
		}
	}
	slices.Reverse(closers)
	return closers, outermost
}

// hint adds the usual cause to the parser's message.
func hint(why string) string {
	switch {
	case strings.Contains(why, "found unexpected end of stream"):
		return "this quote is never closed"
	case strings.Contains(why, "mapping values are not allowed"):
		why += ` (check the indentation, and quote values that contain ": ")`
	case strings.Contains(why, "did not find expected key"):
		why += " (check the indentation)"
	case strings.Contains(why, "cannot start any token"):
		why += " (quote values that begin with this character)"
	case strings.Contains(why, "unknown anchor"), strings.Contains(why, "alphabetic or numeric character"):
		why += " (quote values that begin with * or &)"
	case strings.Contains(why, "incompatible YAML document"):
		why += " (remove the %YAML line)"
	}
	return why
}

// reason returns the parser's message without its position.
func reason(err error) string {
	return regexp.MustCompile(`^yaml: (line \d+: )?`).ReplaceAllString(err.Error(), "")
}
