package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// shown is how many mistakes Errors prints; past it the reader needs another file, not a longer list.
const shown = 50

// Error is one mistake in a document.
type Error struct {
	File         string // the name given to Decode or Load
	Line, Column int    // from 1, the column in characters; 0 when the mistake has no place in the text
	Path         string // "policies.default.retry.maxAttempts", "routes[1].match", `policies["a.b"]`; "" for the whole document
	Message      string // what was expected and what was found

	err error
}

// Error returns "file:line:column: path: message", without the parts that are not known.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Unwrap returns what Validate or UnmarshalText reported, or nil.
func (e *Error) Unwrap() error { return e.err }

// Errors are all the mistakes of one document in the order of their places in it. It is never empty where a
// function of this package returns it.
type Errors []*Error

// Error returns one line for each mistake, and says how many more there are after the first 50.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), shown+1))
	for i, one := range e {
		if i == shown {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-shown))
			break
		}
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each mistake, for [errors.Is] and [errors.As].
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}
