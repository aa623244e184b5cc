package resilience

import (
	"context"
	"errors"
)

// Func is an [Operation] made from a plain function. The function must be safe to repeat, because
// an error counts as a transient failure of the upstream and is retried. An error made by
// [Permanent] counts as an answer instead. Use [Classified] for other rules.
type Func[T any] func(ctx context.Context) (T, error)

// Attempt calls the function.
func (f Func[T]) Attempt(ctx context.Context, _ *Attempt) (T, error) { return f(ctx) }

// Classify returns [Judge] of err.
func (f Func[T]) Classify(_ T, err error) Outcome { return Judge(err) }

// Decided does nothing.
func (f Func[T]) Decided(*AttemptReport) {}

// Discard does nothing.
func (f Func[T]) Discard(T, *Attempt) {}

// Classified is a [Func] with its own classifier instead of [Judge].
type Classified[T any] struct {
	Func[T]
	// Classifier is used as [Operation.Classify]. It must not be nil.
	Classifier func(result T, err error) Outcome
}

// Classify calls the classifier.
func (c Classified[T]) Classify(result T, err error) Outcome { return c.Classifier(result, err) }

// Judge returns the outcome of a plain function. A nil error is a success. A [Permanent] error is
// an answer of a healthy upstream and is not retried. Any other error is a transient failure.
func Judge(err error) Outcome {
	var permanent *permanentError
	switch {
	case err == nil:
		return Outcome{Reason: ReasonOK, Health: Healthy}
	case errors.As(err, &permanent):
		return Outcome{Reason: ReasonStatusNotRetryable, Health: Healthy}
	}
	return Outcome{Reason: ReasonResetBeforeHeaders, Retry: true}
}

// Permanent marks err as an answer that a retry would not change, such as sql.ErrNoRows. The call
// ends with it at once, and the circuit counts a success. errors.Is and errors.As still find err.
// Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }

func (p *permanentError) Unwrap() error { return p.err }
