// Package mistake collects the mistakes in a configuration, so that users see all of them at once.
package mistake

import (
	"errors"
	"fmt"
	"strings"
)

// shown is how many mistakes a List prints. Nobody reads a longer list before correcting the first.
const shown = 50

// Mistake is one mistake in a configuration.
type Mistake struct {
	File         string // "" outside a document
	Line, Column int    // from 1, the column in characters; 0 without a place in the text
	Path         string // "retry.maxAttempts", "routes[1].match", `policies["a.b"]`; "" for the whole
	Message      string // what was expected and what was found
	Err          error  // the cause, or nil
}

// New returns a mistake at path. The text follows [fmt.Errorf], with %w for a cause.
func New(path, format string, args ...any) *Mistake {
	err := fmt.Errorf(format, args...)
	return &Mistake{Path: path, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Error returns "file:line:column: path: message", without the parts that are not known.
func (m *Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", m.Line, m.Column)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if m.Path != "" {
		b.WriteString(m.Path + ": ")
	}
	b.WriteString(m.Message)
	return b.String()
}

// Unwrap returns the cause.
func (m *Mistake) Unwrap() error { return m.Err }

// List is a list of mistakes. Its zero value is empty.
type List []*Mistake

// Add adds a mistake at path. The text follows [fmt.Errorf].
func (l *List) Add(path, format string, args ...any) {
	*l = append(*l, New(path, format, args...))
}

// Check adds a mistake at path unless ok.
func (l *List) Check(ok bool, path, format string, args ...any) {
	if !ok {
		l.Add(path, format, args...)
	}
}

// Merge adds the mistakes that validating the part at path returned, with path before their own. It
// takes joined errors apart. An error that holds no [Mistake] becomes a mistake at path itself.
func (l *List) Merge(path string, err error) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			l.Merge(path, e)
		}
		return
	}
	m := Mistake{Message: err.Error(), Err: err}
	if one, ok := errors.AsType[*Mistake](err); ok {
		m = *one
	}
	switch {
	case m.Path == "":
		m.Path = path
	case path != "" && m.Path[0] != '[':
		m.Path = path + "." + m.Path
	default:
		m.Path = path + m.Path
	}
	*l = append(*l, &m)
}

// Err returns a pointer to l, which is comparable, or nil if l is empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return &l
}

// Error returns one line for each of the first 50 mistakes, and the number of the others.
func (l *List) Error() string {
	lines := make([]string, 0, min(len(*l), shown+1))
	for i, m := range *l {
		if i == shown {
			lines = append(lines, fmt.Sprintf("and %d more", len(*l)-shown))
			break
		}
		lines = append(lines, m.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each mistake, for [errors.Is] and [errors.As].
func (l *List) Unwrap() []error {
	all := make([]error, len(*l))
	for i, m := range *l {
		all[i] = m
	}
	return all
}
