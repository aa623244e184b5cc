// Package mistake collects mistakes in a configuration, so that a user sees all of them at once.
package mistake

import (
	"errors"
	"fmt"
	"strings"
)

// Mistake is one value that is not allowed.
type Mistake struct {
	Path    string // the key, such as "retry.backoff.base" or "routes[1].match"; "" for the whole
	Message string // the expected value and the actual one

	err error
}

// New returns a mistake at path. The message follows [fmt.Errorf], so %w wraps a cause.
func New(path, format string, args ...any) *Mistake {
	err := fmt.Errorf(format, args...)
	return &Mistake{Path: path, Message: err.Error(), err: err}
}

// FieldPath returns the path. Loaders use it to find file, line and column.
func (m *Mistake) FieldPath() string { return m.Path }

// Unwrap returns the cause, or nil.
func (m *Mistake) Unwrap() error { return m.err }

// Error returns "path: message", or only the message if there is no path.
func (m *Mistake) Error() string {
	if m.Path == "" {
		return m.Message
	}
	return m.Path + ": " + m.Message
}

// List is a list of mistakes in the order in which they were found. Its zero value is empty.
type List []*Mistake

// Error returns the mistakes, one per line.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, m := range l {
		lines[i] = m.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns each mistake, for [errors.Is] and [errors.As].
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, m := range l {
		errs[i] = m
	}
	return errs
}

// Err returns l, or nil if it is empty.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// Add adds a mistake, made as [New] makes it.
func (l *List) Add(path, format string, args ...any) { *l = append(*l, New(path, format, args...)) }

// Check adds a mistake unless ok.
func (l *List) Check(ok bool, path, format string, args ...any) {
	if !ok {
		l.Add(path, format, args...)
	}
}

// Merge adds the mistakes in the part of the configuration at path. Their paths are relative to it.
func (l *List) Merge(path string, part List) {
	for _, m := range part {
		*l = append(*l, &Mistake{Path: under(path, m.Path), Message: m.Message, err: m})
	}
}

// Of returns the single mistakes in err, which may be joined. An error with a method
// FieldPath() string is a mistake at that path. Any other error has no path.
func Of(err error) List {
	if err == nil {
		return nil
	}
	// Each level is checked by itself: errors.As would search the whole tree.
	if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
		var all List
		for _, e := range many.Unwrap() {
			all = append(all, Of(e)...)
		}
		return all
	}
	m := &Mistake{Message: err.Error(), err: err}
	var f interface{ FieldPath() string }
	if errors.As(err, &f) {
		m.Path = f.FieldPath()
		m.Message = strings.TrimPrefix(m.Message, m.Path+": ")
	}
	return List{m}
}

// under returns the path of below, which is relative to above.
func under(above, below string) string {
	switch {
	case above == "":
		return below
	case below == "" || strings.HasPrefix(below, "["):
		return above + below
	}
	return above + "." + below
}
