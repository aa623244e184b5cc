package resilience

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Attempt is one try of an operation. It is valid until the operation returns,
// or, once [Attempt.Hold] was called, until [Attempt.Release].
type Attempt struct {
	number int
	limit  time.Duration
	// callDeadline is that of the call, attempts and waits together.
	callDeadline time.Time
	start        time.Time
	ctx          attemptContext
	cancel       context.CancelCauseFunc
	clock        clock
	ticket       ticket
	budget       *budget
	repeated     atomic.Bool // its outcome asks for a repetition, and earns no token for it
	held         atomic.Bool
}

// attemptContext adds the attempt's deadline to a context that ends by a timer
// of ours: the timer is stopped when the answer begins, while the context lives
// on until its body is read, which context.WithDeadline cannot do.
type attemptContext struct {
	context.Context
	deadline time.Time
}

func (c *attemptContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Number counts the attempts of a call from 1.
func (a *Attempt) Number() int { return a.number }

// Start is when the attempt was begun.
func (a *Attempt) Start() time.Time { return a.start }

// Limit is the time this attempt was given, above 0: the policy's attempt
// timeout, or what was left until the call's deadline when that is less.
func (a *Attempt) Limit() time.Duration { return a.limit }

// CallDeadline is when the whole call must be over.
func (a *Attempt) CallDeadline() time.Time { return a.callDeadline }

// Breaker is the state of the circuit that let the attempt through.
func (a *Attempt) Breaker() State { return a.ticket.state }

// Hold keeps the attempt open after the operation has returned a result, such
// as an answer whose body is still to be read: its context stays alive, and the
// breaker hears of a good outcome at [Attempt.Release] only. Whoever holds must
// release. A half-open circuit waits no longer than the attempt timeout.
func (a *Attempt) Hold() { a.held.Store(true) }

// Release ends a held attempt with its health and cancels its context. The
// first call counts, later ones do nothing. It is safe for concurrent use.
func (a *Attempt) Release(h Health) {
	if a.held.CompareAndSwap(true, false) {
		a.settle(h, time.Now())
		a.cancel(nil)
	}
}

// Settle tells the breaker the attempt's health now, while it stays held: for an
// answer that may go on for hours, such as an event stream.
func (a *Attempt) Settle(h Health) { a.settle(h, time.Now()) }

// Cancel ends the attempt's context with a cause, which makes what still works
// on it give up. It does not release.
func (a *Attempt) Cancel(cause error) { a.cancel(cause) }

func (a *Attempt) settle(h Health, now time.Time) {
	if h == Healthy && !a.repeated.Load() && !a.ticket.settled.Load() {
		a.budget.earn()
	}
	a.ticket.settle(h, now)
}

// begin starts the attempt's clock.
func (a *Attempt) begin(parent context.Context, now time.Time, limit time.Duration) {
	a.start = now
	a.limit = limit
	var ctx context.Context
	ctx, a.cancel = context.WithCancelCause(parent)
	a.ctx = attemptContext{Context: ctx, deadline: a.start.Add(limit)}
	a.startClock()
}

// timedOut tells whether the attempt's own timer ended it.
func (a *Attempt) timedOut() bool {
	return errors.Is(context.Cause(&a.ctx), errAttemptTimeout)
}

// report tells the breaker how the operation ended. A good outcome of a held
// attempt is not over yet.
func (a *Attempt) report(h Health, now time.Time) {
	if !a.held.Load() {
		a.settle(h, now)
		a.cancel(nil)
		return
	}
	if h == Healthy {
		a.ticket.answered.Store(true)
		a.ticket.breaker.alive()
		return
	}
	a.settle(h, now)
}
