package resilience

import (
	"sync/atomic"
	"time"
)

// clock ends an attempt when its time is up, and notices when this process did
// not run meanwhile: stopped by a signal, frozen by its container's CPU quota,
// or suspended with the machine. An upstream may have answered during such a
// stall without anybody looking, so running out of time proves nothing then.
//
// It looks once at seven eighths of the time and once at the end. A look that
// comes late means that nothing ran in between. The first look leaves an eighth
// of the time for an answer that is waiting to be read after a short stall.
//
// An attempt that ends in time pays for one timer, as it would without this.
type clock struct {
	timer   *time.Timer // of the first look
	state   atomic.Uint32
	stalled atomic.Bool
}

// The states of a clock.
const (
	clockRuns uint32 = iota
	clockStopped
	clockExpired
)

// minStall is far above what a loaded machine delays a timer by, and far below a
// stall that can make many attempts time out together.
const minStall = 100 * time.Millisecond

// firstLook is when the first look is due.
func firstLook(limit time.Duration) time.Duration { return limit - limit/8 }

// startClock begins the attempt's time.
func (a *Attempt) startClock() { a.clock.timer = time.AfterFunc(firstLook(a.limit), a.look) }

// look is the first look. The last one has a timer of its own: this one may come
// before the first timer's variable is set.
func (a *Attempt) look() {
	a.clock.notice(a.limit, a.start.Add(firstLook(a.limit)))
	if left := time.Until(a.ctx.deadline); left > 0 {
		time.AfterFunc(left, a.lastLook)
		return
	}
	a.expire()
}

func (a *Attempt) lastLook() {
	a.clock.notice(a.limit, a.ctx.deadline)
	a.expire()
}

// expire ends the attempt unless it has ended in time.
func (a *Attempt) expire() {
	if a.clock.state.CompareAndSwap(clockRuns, clockExpired) {
		a.cancel(errAttemptTimeout)
	}
}

// notice notes a stall when a look is late.
func (c *clock) notice(limit time.Duration, due time.Time) {
	if late(time.Since(due), limit) {
		c.stalled.Store(true)
	}
}

// late reports whether a timer that came by so much after it was due shows a stall.
func late(by, limit time.Duration) bool { return by >= max(limit/16, minStall) }

// stop ends the clock and reports whether that was in time.
func (c *clock) stop() bool {
	return c.timer.Stop() || c.state.CompareAndSwap(clockRuns, clockStopped)
}
