package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// Marshal returns v, a struct or a pointer to one, as a YAML document. [Decode] reads it back into
// an equal value, which prints the same bytes again. Keys are in the order of the struct's fields,
// map keys are sorted, durations are as Go writes them, and types with a MarshalText method print
// as their text. Fields tagged ",omitempty" are left out when they are zero or empty. A nil list is
// [], a nil map {} and a nil pointer null. A value that YAML or Decode cannot hold, such as NaN, is
// an error that names its path.
func Marshal(v any) ([]byte, error) {
	in := reflect.ValueOf(v)
	for in.Kind() == reflect.Pointer {
		in = in.Elem()
	}
	if in.Kind() != reflect.Struct {
		return nil, fmt.Errorf("marshalling: expected a struct, got %T", v)
	}
	root, err := node(in, "")
	if err != nil {
		return nil, fmt.Errorf("marshalling %T: %w", v, err)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(root), encoder.Close()); err != nil {
		return nil, fmt.Errorf("marshalling %T: %w", v, err)
	}
	return out.Bytes(), nil
}

// node returns v as the parser would return its text. The YAML package's own rules for durations
// and text differ from Decode's, so Marshal builds the nodes itself.
func node(v reflect.Value, path string) (*yaml.Node, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
		}
		return node(v.Elem(), path)
	}
	if !v.CanAddr() { // make it addressable, to find MarshalText methods with a pointer receiver
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p.Elem()
	}
	if text, ok := v.Addr().Interface().(encoding.TextMarshaler); ok {
		b, err := text.MarshalText()
		if err != nil {
			return nil, mistake.New(path, "%w", err)
		}
		return textNode(string(b), path)
	}
	if short, ok := v.Addr().Interface().(shortForm); ok {
		if text, ok := short.Short(); ok {
			return stringNode(text, path)
		}
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		return stringNode(v.Interface().(time.Duration).String(), path)
	}

	scalar := func(tag, text string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}, nil
	}
	switch v.Kind() {
	case reflect.Struct:
		return structNode(v, path)
	case reflect.Map:
		return mapNode(v, path)
	case reflect.Slice:
		return listNode(v, path)
	case reflect.String:
		return stringNode(v.String(), path)
	case reflect.Bool:
		return scalar("!!bool", strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return scalar("!!int", strconv.FormatInt(v.Int(), 10))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return scalar("!!int", strconv.FormatUint(v.Uint(), 10))
	case reflect.Float32, reflect.Float64:
		if math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0) {
			return nil, mistake.New(path, "expected a finite number, got %v", v.Float())
		}
		return floatNode(v), nil
	}
	return nil, mistake.New(path, "cannot be configured: its type is %s", v.Type())
}

func structNode(v reflect.Value, path string) (*yaml.Node, error) {
	m := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range fieldsOf(v.Type()) {
		value := v.FieldByIndex(f.index)
		if f.omitEmpty && isEmpty(value) {
			continue
		}
		if err := add(m, f.name, value, path); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func mapNode(v reflect.Value, path string) (*yaml.Node, error) {
	if v.Type().Key().Kind() != reflect.String {
		return nil, mistake.New(path, "cannot be configured: its type is %s", v.Type())
	}
	m := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		if len(key.String()) > maxKey {
			return nil, mistake.New(path, "expected keys of at most %d bytes, got %d", maxKey, len(key.String()))
		}
		if err := add(m, key.String(), v.MapIndex(key), path); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func add(m *yaml.Node, name string, value reflect.Value, path string) error {
	path = Join(path, name)
	k, err := stringNode(name, path)
	if err != nil {
		return err
	}
	n, err := node(value, path)
	if err != nil {
		return err
	}
	m.Content = append(m.Content, k, n)
	return nil
}

func listNode(v reflect.Value, path string) (*yaml.Node, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range v.Len() {
		n, err := node(v.Index(i), Index(path, i))
		if err != nil {
			return nil, err
		}
		list.Content = append(list.Content, n)
	}
	return list, nil
}

func floatNode(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatFloat(v.Float(), 'g', -1, v.Type().Bits())}
	n.Tag = n.ShortTag() // a whole number is tagged as an integer; Decode reads it as either
	return n
}

// textNode returns the text of a type with a MarshalText method: as a number if it looks like one
// ("0.3"), and as a string otherwise ("64KiB").
func textNode(s, path string) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: s}
	n.Tag = n.ShortTag()
	if n.Tag == "!!int" || n.Tag == "!!float" {
		return n, nil
	}
	return stringNode(s, path)
}

// stringNode returns s as a string, in quotes if the bare text would mean something else.
func stringNode(s, path string) (*yaml.Node, error) {
	if !utf8.ValidString(s) {
		return nil, mistake.New(path, "expected UTF-8 text, got %q", clip(s))
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	// The encoder's block style for several lines does not read back if a line begins with a tab.
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || oldBool(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n, nil
}

// oldBool reports whether YAML 1.1, which many tools still use, reads s as true or false.
func oldBool(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off":
		return true
	}
	return false
}

func isEmpty(v reflect.Value) bool {
	if v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}
