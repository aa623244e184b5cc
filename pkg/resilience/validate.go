package resilience

import (
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// FieldError is one mistake in a policy. Path is the configuration key, such as
// "retry.backoff.base". Message has the expected value and the actual one.
type FieldError = mistake.Mistake

// Mistakes lists all mistakes in a policy, in the order of its fields.
type Mistakes = mistake.List

// named formats d and marks a default, so that users do not search their file for it.
func named(d, byDefault time.Duration) string {
	if d == byDefault {
		return d.String() + ", its default"
	}
	return d.String()
}
