package resilience

import (
	"fmt"
	"strings"
	"time"
)

// FieldError is one mistake in a policy.
type FieldError struct {
	Path    string // the configuration key, such as "retry.backoff.base"
	Message string // what was expected and what is there instead
}

// FieldPath is the key that is wrong. Loaders use it to find file, line and column.
func (e *FieldError) FieldPath() string { return e.Path }

// Error is the message alone; [Mistakes] puts the path before it.
func (e *FieldError) Error() string { return e.Message }

// Mistakes is every mistake found in a policy, in the order of its fields.
type Mistakes []*FieldError

// Error lists the mistakes, one a line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, e := range m {
		lines[i] = e.Path + ": " + e.Message
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the mistakes one by one.
func (m Mistakes) Unwrap() []error {
	errs := make([]error, len(m))
	for i, e := range m {
		errs[i] = e
	}
	return errs
}

// Err is m as an error, nil when there is no mistake.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// Check records a mistake at path unless ok.
func (m *Mistakes) Check(ok bool, path, format string, args ...any) {
	if !ok {
		*m = append(*m, &FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
}

// Merge adds the mistakes of a part that stands at prefix ("" for here).
func (m *Mistakes) Merge(prefix string, part Mistakes) {
	for _, e := range part {
		path := e.Path
		if prefix != "" {
			path = prefix + "." + path
		}
		*m = append(*m, &FieldError{Path: path, Message: e.Message})
	}
}

// named tells of a value that may be in force because nobody set another one:
// whoever is told of a conflict with it may not find it in what he wrote.
func named(d, byDefault time.Duration) string {
	if d == byDefault {
		return d.String() + ", its default"
	}
	return d.String()
}
