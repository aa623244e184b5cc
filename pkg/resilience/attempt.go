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
	early        attemptEnd                 // made by begin; or it has only the caller's ctx
	late         atomic.Pointer[attemptEnd] // made later, or nil
	clock        clock
	ticket       ticket
	pipeline     *shared
	retryable    atomic.Bool // a retry may help, so the attempt earns no token
	held         atomic.Bool
}

// attemptEnd ends an attempt. Making it takes a third of the time of a call in memory, so it is
// made only when somebody asks for it. An operation that asks once, as net/http does, will ask in
// each attempt. So from then on begin makes it, which is cheaper.
type attemptEnd struct {
	ctx    context.Context // ends with the attempt; the operation gets an attemptContext
	cancel context.CancelCauseFunc
	timer  *time.Timer // of the clock's next check; nil if the clock did not run any more
}

// over is the end of all attempts that ended before somebody asked.
var over = func() *attemptEnd { //nolint:gochecknoglobals // nothing changes it
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(nil)
	return &attemptEnd{ctx: ctx, cancel: cancel}
}()

// attemptContext is the attempt as a context: with its deadline, and canceled by its clock. Unlike
// with context.WithDeadline, the clock can be stopped when the answer begins, and the context lives
// on until the body is read.
type attemptContext Attempt

func (c *attemptContext) Deadline() (time.Time, bool) { return (*Attempt)(c).deadline(), true }

func (c *attemptContext) Done() <-chan struct{} {
	a := (*Attempt)(c)
	e := a.end()
	if e == nil {
		a.pipeline.asked.Store(true)
		e = a.makeEnd()
	}
	return e.ctx.Done()
}

// Err makes the end if there is an error, so that context.Cause finds the cause in its ctx.
func (c *attemptContext) Err() error {
	a := (*Attempt)(c)
	e := a.end()
	if e == nil {
		if a.early.ctx.Err() == nil && (time.Since(a.start) < a.limit || !a.expire()) {
			return nil
		}
		e = a.makeEnd()
	}
	return e.ctx.Err()
}

// Value finds the caller's values. By a key of its own, the context package also finds its context
// here: that of the end. It asks only after Done, or after Err has returned an error, so there is
// an end then.
func (c *attemptContext) Value(key any) any {
	if e := (*Attempt)(c).end(); e != nil {
		if v := e.ctx.Value(key); v != nil || e != over {
			return v
		}
	}
	return c.early.ctx.Value(key)
}

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
		a.finish(nil)
	}
}

// Settle reports the attempt's health to the breaker and keeps the attempt held. It is for answers
// that may take hours, such as event streams.
func (a *Attempt) Settle(h Health) { a.settle(h, a.now()) }

// Cancel cancels the attempt's context with a cause. It does not release the attempt.
func (a *Attempt) Cancel(cause error) { a.finish(cause) }

func (a *Attempt) settle(h Health, now time.Time) {
	if h == Healthy && !a.retryable.Load() && !a.ticket.settled() {
		a.pipeline.budget.earn()
	}
	a.ticket.settle(h, now)
}

// begin starts the attempt.
func (a *Attempt) begin(parent context.Context, now time.Time, limit time.Duration) {
	a.start = now
	a.limit = limit
	if !a.pipeline.asked.Load() {
		a.early.ctx = parent
		return
	}
	a.early.ctx, a.early.cancel = context.WithCancelCause(parent)
	a.early.timer = time.AfterFunc(firstCheck(limit), a.check)
}

// end returns the attempt's end, or nil if nobody has asked for it.
func (a *Attempt) end() *attemptEnd {
	if a.early.cancel != nil {
		return &a.early
	}
	return a.late.Load()
}

// makeEnd makes the end of an attempt that began without one. If another goroutine was faster, it
// returns that one's.
func (a *Attempt) makeEnd() *attemptEnd {
	e := &attemptEnd{}
	e.ctx, e.cancel = context.WithCancelCause(a.early.ctx)
	passed := time.Since(a.start)
	if passed < a.limit && a.clock.state.Load() == clockRuns {
		e.timer = a.startClock(passed)
	}
	if !a.late.CompareAndSwap(nil, e) {
		e.stopTimer()
		e.cancel(nil)
		return a.late.Load()
	}
	if passed >= a.limit {
		a.expire()
	}
	return e
}

func (e *attemptEnd) stopTimer() {
	if e.timer != nil {
		e.timer.Stop()
	}
}

// finish ends the attempt. Its context gets the cause, unless it has ended before.
func (a *Attempt) finish(cause error) {
	e := a.end()
	if e == nil {
		// After the caller's context has ended, the attempt's must show why.
		if cause == nil && a.early.ctx.Err() == nil && a.late.CompareAndSwap(nil, over) {
			return
		}
		e = a.makeEnd()
	}
	e.cancel(cause)
}

// timedOut reports whether the clock ended the attempt.
func (a *Attempt) timedOut() bool {
	e := a.end()
	return e != nil && errors.Is(context.Cause(e.ctx), errAttemptTimeout)
}

// report reports the health to the breaker after the operation has returned. If the attempt is
// held, a good outcome has to wait for [Attempt.Release].
func (a *Attempt) report(h Health, now time.Time) {
	if !a.held.Load() {
		a.settle(h, now)
		a.finish(nil)
		return
	}
	if h == Healthy {
		a.ticket.answered.Store(true)
		a.ticket.breaker.alive(now)
		return
	}
	a.settle(h, now)
}
