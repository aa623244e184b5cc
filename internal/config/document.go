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

// maxBytes is the largest document accepted. The parser needs some hundred bytes of memory for one of text.
const maxBytes = 1 << 20

// parse returns the root value of the only document in data, or what keeps the text from having one.
func parse(name string, data []byte) (*yaml.Node, *mistake.Mistake) {
	at := func(line, column int, format string, args ...any) *mistake.Mistake {
		return &mistake.Mistake{File: name, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	}
	if len(data) > maxBytes {
		return nil, at(1, 1, "expected at most 1 MiB, got more")
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // which some editors write; JSON knows no such thing
	if offset, what := notText(data); what != "" {
		line, column := position(data, offset)
		return nil, at(line, column, "expected UTF-8 text, got %s", what)
	}

	data = fromJSON(data)
	first, second, err := documents(data)
	if err != nil {
		line, column, message := locate(data, err)
		return nil, at(line, column, "%s", message)
	}
	if second != nil {
		return nil, at(second.Line, second.Column, "expected one document, got a second one")
	}
	if first == nil || len(first.Content) == 0 {
		return nil, nil
	}
	return first.Content[0], nil
}

// position returns the line and the column of the byte at offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return 1 + bytes.Count(before, []byte{'\n'}), 1 + utf8.RuneCount(before[start:])
}

// notText finds the first byte that has no place in a text file and says what it is.
func notText(data []byte) (offset int, what string) {
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

// documents parses up to two documents; the second only matters by being there.
func documents(text []byte) (first, second *yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	read := func() *yaml.Node {
		var n yaml.Node
		switch e := decoder.Decode(&n); {
		case errors.Is(e, io.EOF):
		case e != nil:
			err = e
		default:
			return &n
		}
		return nil
	}
	if first = read(); first != nil {
		second = read()
	}
	return first, second, err
}

// locate says where and why the parser gave up. What the parser says of the line is of no use: it is missing,
// one too small, or the start of the block around the mistake, depending on which part of it complains. But
// it reads from left to right: the mistake is in the first line with which the text up to there, its open
// brackets closed, fails like the whole.
func locate(data []byte, cause error) (line, column int, message string) {
	why := reason(cause)
	var ends []int // of each line
	for i, c := range data {
		if c == '\n' || i == len(data)-1 {
			ends = append(ends, i+1)
		}
	}
	n := sort.Search(len(ends), func(i int) bool {
		text := data[:ends[i]]
		closers, _ := closing(text)
		_, _, err := documents(slices.Concat(text, closers))
		return err != nil && reason(err) == why
	})
	if n == len(ends) { // with its brackets closed there is nothing wrong with it
		if closers, at := closing(data); len(closers) > 0 {
			line, column = position(data, at)
			return line, column, "the bracket that is opened here is never closed"
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

// closing returns the brackets that close what text leaves open, and where the outermost of those begins.
// It knows quotes, but no other context: no more than the place in a message hangs on it.
func closing(text []byte) (closers []byte, outermost int) {
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
			closers = append(closers, c+2) // in ASCII a bracket closes two after it opens
		case len(closers) > 0 && c == closers[len(closers)-1]:
			closers = closers[:len(closers)-1]
		}
	}
	slices.Reverse(closers)
	return closers, outermost
}

// hint adds to the parser's words what they usually mean.
func hint(why string) string {
	switch {
	case strings.Contains(why, "found unexpected end of stream"):
		return "the quote that is opened here is never closed"
	case strings.Contains(why, "mapping values are not allowed"):
		why += ` (a wrong indentation, or a value with ": " in it that needs quotes)`
	case strings.Contains(why, "did not find expected key"):
		why += " (a wrong indentation?)"
	case strings.Contains(why, "cannot start any token"):
		why += " (a value that begins with such a character needs quotes)"
	case strings.Contains(why, "unknown anchor"), strings.Contains(why, "alphabetic or numeric character"):
		why += " (a value that begins with * or & needs quotes)"
	case strings.Contains(why, "incompatible YAML document"):
		why += " (leave the line with %YAML out)"
	}
	return why
}

// reason is the parser's message without what it says of the place.
func reason(err error) string {
	return regexp.MustCompile(`^yaml: (line \d+: )?`).ReplaceAllString(err.Error(), "")
}
