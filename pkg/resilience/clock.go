package resilience

import (
	"sync/atomic"
	"time"
)

// clock ends an attempt when its time is up. It also notices when this process was stopped
// meanwhile: by a signal, by its container's CPU quota, or because the machine was suspended. The
// upstream may have answered during such a stall, so a timeout then proves nothing.
//
// clock checks for a stall after seven eighths of the time and at the end. A check that runs late
// shows that nothing ran before it. After a short stall, the last eighth leaves time to read an
// answer that has already arrived.
//
// An attempt that ends in time needs one timer, as it would without the check for stalls. If nobody
// asks for its end it needs none, but then a stall cannot be told from an upstream that is late.
type clock struct {
	state   atomic.Uint32
	stalled atomic.Bool
}

// The states of a clock.
const (
	clockRuns uint32 = iota
	clockStopped
	clockExpired
)

// minStall is much longer than a loaded machine delays a timer, and much shorter than a stall that
// makes many attempts time out together.
const minStall = 100 * time.Millisecond

// firstCheck returns the time from the start of an attempt to the first check.
func firstCheck(limit time.Duration) time.Duration { return limit - limit/8 }

// startClock starts the timer of the next check, when a part of the limit has passed.
func (a *Attempt) startClock(passed time.Duration) *time.Timer {
	if left := firstCheck(a.limit) - passed; left > 0 {
		return time.AfterFunc(left, a.check)
	}
	return time.AfterFunc(a.limit-passed, a.lastCheck)
}

// check is the first check. It cannot reset the first timer, because it may run before that is
// stored, so the last check has its own timer.
func (a *Attempt) check() {
	a.clock.detectStall(a.limit, a.start.Add(firstCheck(a.limit)))
	if left := time.Until(a.deadline()); left > 0 {
		time.AfterFunc(left, a.lastCheck)
		return
	}
	a.expire()
}

func (a *Attempt) lastCheck() {
	a.clock.detectStall(a.limit, a.deadline())
	a.expire()
}

// expire cancels the attempt, unless the clock was stopped, and reports whether the clock ran.
func (a *Attempt) expire() bool {
	ran := a.clock.state.CompareAndSwap(clockRuns, clockExpired)
	if a.clock.state.Load() == clockExpired { // another goroutine may be about to cancel it
		a.finish(errAttemptTimeout)
	}
	return ran
}

// detectStall records a stall if a check that was due at due runs late.
func (c *clock) detectStall(limit time.Duration, due time.Time) {
	if late(time.Since(due), limit) {
		c.stalled.Store(true)
	}
}

// late reports whether a timer that is late by so much shows a stall.
func late(by, limit time.Duration) bool { return by >= max(limit/16, minStall) }

// stopClock stops the clock at now and reports whether the attempt had not timed out. It does the
// last check itself if the attempt's time is up: there may be no timer, or its function may be a
// moment late. Somebody who asks at the same time may start a timer that is left over: its checks
// have no effect.
func (a *Attempt) stopClock(now time.Time) bool {
	e := a.end()
	if e != nil {
		e.stopTimer()
	}
	if now.Sub(a.start) < a.limit && a.clock.state.CompareAndSwap(clockRuns, clockStopped) {
		return true
	}
	if a.expire() && e != nil {
		a.clock.detectStall(a.limit, a.deadline())
	}
	return a.clock.state.Load() == clockStopped
}
