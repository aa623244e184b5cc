package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

func (d *decoder) text(n *yaml.Node, v reflect.Value, into encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.expected(n, path, "a string")
		return
	}
	v.SetZero() // the old value may point to memory of dst
	if err := into.UnmarshalText([]byte(n.Value)); err != nil {
		d.mistake(n, path, "%w", err)
	}
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value, path string) {
	const what = "a duration such as 250ms"
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Value != "0" {
		d.expected(n, path, what)
		return
	}
	parsed, err := time.ParseDuration(n.Value)
	if err != nil {
		d.expected(n, path, what)
		return
	}
	v.SetInt(int64(parsed))
}

func (d *decoder) str(n *yaml.Node, v reflect.Value, path string) {
	switch {
	case n.Kind != yaml.ScalarNode || isNull(n):
		d.expected(n, path, "a string")
	case n.Tag == "!!bool" || n.Tag == "!!int" || n.Tag == "!!float":
		d.mistake(n, path, "expected a string, got %s; write %q if the text is meant", describe(n), clip(n.Value))
	default:
		v.SetString(n.Value)
	}
}

func (d *decoder) boolean(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		d.expected(n, path, "true or false")
		return
	}
	v.SetBool(strings.EqualFold(n.Value, "true"))
}

func (d *decoder) integer(n *yaml.Node, v reflect.Value, path string) {
	if !isNumber(n, "") {
		d.expected(n, path, "a decimal integer")
		return
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || v.OverflowInt(i) {
		low := int64(math.MinInt64) >> (64 - v.Type().Bits())
		d.expected(n, path, fmt.Sprintf("a decimal integer between %d and %d", low, ^low))
		return
	}
	v.SetInt(i)
}

func (d *decoder) unsigned(n *yaml.Node, v reflect.Value, path string) {
	if !isNumber(n, "") {
		d.expected(n, path, "a decimal integer")
		return
	}
	u, err := strconv.ParseUint(strings.TrimPrefix(n.Value, "+"), 10, 64)
	if err != nil || v.OverflowUint(u) {
		d.expected(n, path, fmt.Sprintf("a decimal integer between 0 and %d", uint64(math.MaxUint64)>>(64-v.Type().Bits())))
		return
	}
	v.SetUint(u)
}

func (d *decoder) float(n *yaml.Node, v reflect.Value, path string) {
	if !isNumber(n, ".eE+-") {
		d.expected(n, path, "a decimal number")
		return
	}
	f, err := strconv.ParseFloat(n.Value, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && v.OverflowFloat(f):
		d.expected(n, path, fmt.Sprintf("a decimal number that fits %d bits", v.Type().Bits()))
	case err != nil:
		d.expected(n, path, "a decimal number")
	default:
		v.SetFloat(f)
	}
}

// isNumber reports whether n is a decimal number. extra has the characters that it may contain
// besides a sign and digits. isNumber ignores the parser's tag: YAML 1.1 reads 010 as 8 and 1_0 as
// 10, and counts .nan and .inf as numbers. In a configuration each of these is more likely a
// mistake.
func isNumber(n *yaml.Node, extra string) bool {
	if n.Kind != yaml.ScalarNode || n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return false
	}
	digits := strings.TrimLeft(n.Value, "+-")
	if len(n.Value)-len(digits) > 1 || strings.Trim(digits, "0123456789"+extra) != "" || !strings.ContainsAny(digits, "0123456789") {
		return false
	}
	octal := len(digits) > 1 && digits[0] == '0' && '0' <= digits[1] && digits[1] <= '9'
	return !octal
}
