package foreign

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// maxText is the largest file accepted in formats that are not YAML.
const maxText = 1 << 20

// textMistake returns what keeps data from being a text file, or nil.
func textMistake(name string, data []byte) error {
	message := ""
	switch {
	case len(data) > maxText:
		message = "expected at most 1 MiB, got more"
	case !utf8.Valid(data):
		message = "expected UTF-8 text"
	case bytes.IndexByte(data, 0) >= 0:
		message = "expected a text without null bytes"
	default:
		return nil
	}
	return mistake.List{{File: name, Line: 1, Column: 1, Message: message}}.Err()
}

// parseProperties reads a properties file of Java into one mapping. A dot in a key goes one level
// down.
func parseProperties(name string, data []byte) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	root := &node{shape: mapping, line: 1, column: 1}
	all := properties{}
	var errs mistake.List
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		text := strings.TrimLeft(lines[i], " \t\f")
		indent := len(lines[i]) - len(text)
		if text == "" || text[0] == '#' || text[0] == '!' {
			continue
		}
		for strings.HasSuffix(text, `\`) && !strings.HasSuffix(text, `\\`) && i+1 < len(lines) {
			i++
			text = strings.TrimSuffix(text, `\`) + strings.TrimLeft(lines[i], " \t\f")
		}
		end := strings.IndexAny(text, "=: \t")
		if end < 0 {
			end = len(text)
		}
		key := text[:end]
		value := strings.TrimLeft(text[end:], " \t\f")
		if value != "" && (value[0] == '=' || value[0] == ':') {
			value = strings.TrimLeft(value[1:], " \t\f")
		}
		parts := splitKey(key)
		if len(parts) > maxDepth {
			errs = append(errs, &mistake.Mistake{
				File: name, Line: number, Column: indent + 1, Message: fmt.Sprintf("expected at most %d parts in a key, got %d", maxDepth, len(parts)),
			})
			continue
		}
		leaf := &node{path: key, text: strings.TrimSpace(value), line: number, column: indent + 1, keyLine: number, keyColumn: indent + 1}
		if at := strings.LastIndex(text, leaf.text); leaf.text != "" && i+1 == number {
			leaf.column = indent + 1 + utf8.RuneCountInString(text[:at])
		}
		if problem := all.put(root, parts, leaf); problem != "" {
			errs = append(errs, &mistake.Mistake{File: name, Line: number, Column: indent + 1, Path: key, Message: problem})
		}
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	placeholders(root)
	return []*node{root}, nil
}

var keyPart = regexp.MustCompile(`[^.\[\]]+|\[[^\]]*\]`)

// splitKey splits a.b[0].c into a, b, [0] and c. [name] is the key name.
func splitKey(key string) []string {
	return keyPart.FindAllString(key, -1)
}

// properties finds the values below a mapping by their keys. A file may have a hundred thousand.
type properties map[child]*node

type child struct {
	of  *node
	key string
}

// put adds leaf below n at a path of keys, or returns what is wrong.
func (all properties) put(n *node, keys []string, leaf *node) string {
	if len(keys) == 0 {
		return "expected a key"
	}
	key := keys[0]
	index := strings.Trim(key, "[]")
	if strings.HasPrefix(key, "[") && index != "" && strings.Trim(index, "0123456789") == "" {
		if n.shape == mapping && len(n.items) == 0 {
			n.shape = list
		}
	} else {
		key = index
	}
	item, known := all[child{n, key}]
	switch {
	case known && len(keys) == 1:
		return fmt.Sprintf("the field is already given on line %d", item.line)
	case known && item.shape == scalar:
		return fmt.Sprintf("line %d gives %s a value, so it cannot have fields", item.line, item.path)
	case len(keys) == 1:
		item = leaf
		item.key = key
	case !known:
		path := strings.TrimPrefix(n.path+"."+key, ".")
		item = &node{path: path, key: key, shape: mapping, line: leaf.line, column: leaf.column, keyLine: leaf.keyLine, keyColumn: leaf.keyColumn}
	}
	if !known {
		all[child{n, key}] = item
		n.items = append(n.items, item)
	}
	if len(keys) == 1 {
		return ""
	}
	return all.put(item, keys[1:], leaf)
}
