package resilience

import (
	"context"
	"errors"
)

// Func makes an operation of a plain function. An error is a transient failure
// of the upstream and may be repeated, so the function must be safe to repeat.
// An error made by [Permanent] is an answer instead. [Classified] judges in
// another way.
type Func[T any] func(ctx context.Context) (T, error)

// Attempt calls the function.
func (f Func[T]) Attempt(ctx context.Context, _ *Attempt) (T, error) { return f(ctx) }

// Classify is [Judge].
func (f Func[T]) Classify(_ T, err error) Outcome { return Judge(err) }

// Decided does nothing.
func (f Func[T]) Decided(*AttemptReport) {}

// Discard does nothing.
func (f Func[T]) Discard(T, *Attempt) {}

// Classified is a [Func] with a classifier of its own, for results or errors
// that need another judgement than [Judge] gives.
type Classified[T any] struct {
	Func[T]
	// Classifier says what an attempt's outcome means, as [Operation.Classify]
	// does. It must not be nil.
	Classifier func(result T, err error) Outcome
}

// Classify asks the classifier.
func (c Classified[T]) Classify(result T, err error) Outcome { return c.Classifier(result, err) }

// Judge is the outcome of a plain function: no error is success, a permanent
// error is an answer of a healthy upstream that is not repeated, and any other
// error is a transient failure.
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

// Permanent marks err as an answer that a repetition would not change, such as
// sql.ErrNoRows: the call ends with it at once, and the circuit counts a healthy
// upstream. errors.Is and errors.As still find err. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }

func (p *permanentError) Unwrap() error { return p.err }
