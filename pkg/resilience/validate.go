package resilience

import (
	"fmt"
	"strings"
	"time"
)

// FieldError is one mistake in a policy.
type FieldError struct {
	Path    string // the configuration key, such as "retry.backoff.base"
	Message string // the expected value and the actual one
}

// FieldPath returns the path. Loaders use it to find file, line and column.
func (e *FieldError) FieldPath() string { return e.Path }

// Error returns the message without the path, which [Mistakes] adds.
func (e *FieldError) Error() string { return e.Message }

// Mistakes lists all mistakes in a policy, in the order of its fields.
type Mistakes []*FieldError

// Error returns the mistakes with their paths, one per line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, e := range m {
		lines[i] = e.Path + ": " + e.Message
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes as errors.
func (m Mistakes) Unwrap() []error {
	errs := make([]error, len(m))
	for i, e := range m {
		errs[i] = e
	}
	return errs
}

// Err returns m, or nil if it is empty.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// Check adds a mistake at path unless ok.
func (m *Mistakes) Check(ok bool, path, format string, args ...any) {
	if !ok {
		*m = append(*m, &FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
}

// Merge adds the mistakes in a part of the policy, with prefix before their paths.
func (m *Mistakes) Merge(prefix string, part Mistakes) {
	for _, e := range part {
		path := e.Path
		if prefix != "" {
			path = prefix + "." + path
		}
		*m = append(*m, &FieldError{Path: path, Message: e.Message})
	}
}

// named formats d and marks a default, so that users do not search their file for it.
func named(d, byDefault time.Duration) string {
	if d == byDefault {
		return d.String() + ", its default"
	}
	return d.String()
}
