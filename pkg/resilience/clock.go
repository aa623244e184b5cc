package resilience

import (
	"sync"
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
	mu       sync.Mutex
	timer    *time.Timer
	due      time.Time // when the next look should be
	deadline time.Time
	late     time.Duration // a look that is later than this saw a stall
	expire   func()
	stopped  bool
	expired  bool
	stalled  bool
}

// minStall is far above what a loaded machine delays a timer by, and far below a
// stall that can make many attempts time out together.
const minStall = 100 * time.Millisecond

func (c *clock) start(now time.Time, limit time.Duration, expire func()) {
	first := limit - limit/8
	c.deadline, c.due, c.expire = now.Add(limit), now.Add(first), expire
	c.late = max(limit/16, minStall)
	c.mu.Lock() // look may come before timer is set
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(first, c.look)
}

func (c *clock) look() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	now := time.Now()
	if now.Sub(c.due) >= c.late {
		c.stalled = true
	}
	if left := c.deadline.Sub(now); left > 0 {
		c.due = c.deadline
		c.timer.Reset(left)
		c.mu.Unlock()
		return
	}
	c.expired = true
	c.mu.Unlock()
	c.expire()
}

// stop ends the clock and reports whether that was in time.
func (c *clock) stop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.timer.Stop()
	return !c.expired
}

// stood reports whether this process stood still while the clock ran.
func (c *clock) stood() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stalled
}
