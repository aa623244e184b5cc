package resilience

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Attempt is one attempt of an operation. It is valid until the operation returns. After
// [Attempt.Hold] it is valid until [Attempt.Release].
type Attempt struct {
	number       int
	limit        time.Duration
	callDeadline *time.Time
	start        time.Time
	ctx          context.Context // ends with the attempt; the operation gets an attemptContext
	cancel       context.CancelCauseFunc
	clock        clock
	ticket       ticket
	budget       *budget
	retryable    atomic.Bool // a retry may help, so the attempt earns no token
	held         atomic.Bool
}

// attemptContext is the attempt as a context: with its deadline, and canceled by its clock. Unlike
// with context.WithDeadline, the clock can be stopped when the answer begins, and the context lives
// on until the body is read.
type attemptContext Attempt

func (c *attemptContext) Deadline() (time.Time, bool) { return (*Attempt)(c).deadline(), true }

func (c *attemptContext) Done() <-chan struct{} { return c.ctx.Done() }

func (c *attemptContext) Err() error { return c.ctx.Err() }

func (c *attemptContext) Value(key any) any { return c.ctx.Value(key) }

func (a *Attempt) deadline() time.Time { return a.start.Add(a.limit) }

// now returns the time. Since the attempt's start is known, it reads one clock instead of the two
// of time.Now.
func (a *Attempt) now() time.Time { return a.start.Add(time.Since(a.start)) }

// Number returns the number of the attempt in its call, from 1.
func (a *Attempt) Number() int { return a.number }

// Start returns the time when the attempt began.
func (a *Attempt) Start() time.Time { return a.start }

// Limit returns the time that the attempt has, above 0: the policy's attempt timeout, or the time
// until the call's deadline if that is shorter.
func (a *Attempt) Limit() time.Duration { return a.limit }

// CallDeadline returns the deadline of the whole call.
func (a *Attempt) CallDeadline() time.Time { return *a.callDeadline }

// Breaker returns the state of the circuit when it let the attempt through.
func (a *Attempt) Breaker() State { return a.ticket.state }

// Hold keeps the attempt open after the operation has returned a result whose body is not read yet.
// Its context stays alive, and the breaker counts a good outcome at [Attempt.Release] only. The
// holder must call Release. A half-open circuit waits for it no longer than the attempt timeout or
// 10 s.
func (a *Attempt) Hold() { a.held.Store(true) }

// Release ends a held attempt, reports its health to the breaker and cancels its context. Only the
// first call has an effect. It is safe for concurrent use.
func (a *Attempt) Release(h Health) {
	if a.held.CompareAndSwap(true, false) {
		a.settle(h, a.now())
		a.cancel(nil)
	}
}

// Settle reports the attempt's health to the breaker and keeps the attempt held. It is for answers
// that may take hours, such as event streams.
func (a *Attempt) Settle(h Health) { a.settle(h, a.now()) }

// Cancel cancels the attempt's context with a cause. It does not release the attempt.
func (a *Attempt) Cancel(cause error) { a.cancel(cause) }

func (a *Attempt) settle(h Health, now time.Time) {
	if h == Healthy && !a.retryable.Load() && !a.ticket.settled() {
		a.budget.earn()
	}
	a.ticket.settle(h, now)
}

// begin creates the attempt's context and starts its clock.
func (a *Attempt) begin(parent context.Context, now time.Time, limit time.Duration) {
	a.start = now
	a.limit = limit
	a.ctx, a.cancel = context.WithCancelCause(parent)
	a.startClock()
}

// timedOut reports whether the clock ended the attempt.
func (a *Attempt) timedOut() bool {
	return errors.Is(context.Cause(a.ctx), errAttemptTimeout)
}

// report reports the health to the breaker after the operation has returned. If the attempt is
// held, a good outcome has to wait for [Attempt.Release].
func (a *Attempt) report(h Health, now time.Time) {
	if !a.held.Load() {
		a.settle(h, now)
		a.cancel(nil)
		return
	}
	if h == Healthy {
		a.ticket.answered.Store(true)
		a.ticket.breaker.alive(now)
		return
	}
	a.settle(h, now)
}
