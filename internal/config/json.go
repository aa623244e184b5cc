package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// fromJSON rewrites JSON that the YAML parser would read differently, and returns any other data
// unchanged. Against YAML 1.2 the parser does not know the escape \/, which PHP writes, or
// surrogate pairs, which Python writes for an emoji, and it folds Unicode's line separators. The
// rewriting shifts the columns after such a character.
func fromJSON(data []byte) []byte {
	if !json.Valid(data) {
		return data
	}
	var out bytes.Buffer
	for rest := data; len(rest) > 0; {
		// In JSON, a backslash or a character beyond ASCII is always inside a string.
		size := 2
		switch {
		case bytes.HasPrefix(rest, []byte(`\/`)):
			out.WriteByte('/')
		case bytes.HasPrefix(rest, []byte(`\u`)):
			size = 6
			if r := unicodeEscape(rest); utf16.IsSurrogate(r) {
				if r = utf16.DecodeRune(r, unicodeEscape(rest[6:])); r != utf8.RuneError {
					size = 12
				}
				fmt.Fprintf(&out, `\U%08x`, r)
			} else {
				out.Write(rest[:size])
			}
		case rest[0] == '\\':
			out.Write(rest[:size])
		default:
			var r rune
			if r, size = utf8.DecodeRune(rest); r == '\u0085' || r == '\u2028' || r == '\u2029' {
				fmt.Fprintf(&out, `\u%04x`, r)
			} else {
				out.Write(rest[:size])
			}
		}
		rest = rest[size:]
	}
	return out.Bytes()
}

// unicodeEscape returns the character of the \uXXXX at the start of text, which is part of valid
// JSON, or utf8.RuneError if there is none.
func unicodeEscape(text []byte) rune {
	var r rune
	if _, err := fmt.Sscanf(string(text[:min(6, len(text))]), `\u%04x`, &r); err != nil {
		return utf8.RuneError
	}
	return r
}
