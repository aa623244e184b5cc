package rival

import "time"

// result is what a breaker counts of an attempt.
type result struct{ failed, slow bool }

// counts are the results that a breaker looks at: those of a time, or the last ones.
type counts struct {
	window time.Duration // 0 = without end
	fixed  bool          // begin again after each window, instead of rolling
	last   int           // this many results, instead of a time; 0 = a time

	since  time.Time // the start of a fixed window
	events []event   // those of a rolling window
	total  int
	failed int
	slow   int
}

type event struct {
	at time.Time
	result
}

// clear forgets everything.
func (c *counts) clear(now time.Time) {
	c.events, c.total, c.failed, c.slow, c.since = nil, 0, 0, 0, now
}

// expired reports whether a fixed window is over.
func (c *counts) expired(now time.Time) bool {
	return c.fixed && c.window > 0 && now.Sub(c.since) >= c.window
}

// prune drops results that a rolling window does not cover any more.
func (c *counts) prune(now time.Time) {
	if c.fixed {
		return
	}
	for len(c.events) > 0 && (c.last > 0 && len(c.events) > c.last || c.last == 0 && now.Sub(c.events[0].at) >= c.window) {
		c.count(c.events[0].result, -1)
		c.events = c.events[1:]
	}
}

func (c *counts) add(now time.Time, r result) {
	c.count(r, 1)
	if !c.fixed && (c.last > 0 || c.window > 0) {
		c.events = append(c.events, event{now, r})
	}
	c.prune(now)
}

func (c *counts) count(r result, n int) {
	c.total += n
	if r.failed {
		c.failed += n
	}
	if r.slow {
		c.slow += n
	}
}

// share returns n as a share of the results, or 0 if there are fewer than least.
func (c *counts) share(n, least int) float64 {
	if c.total == 0 || c.total < least {
		return 0
	}
	return float64(n) / float64(c.total)
}

// fewer returns when there will be fewer than n failures in a rolling window with at least n.
func (c *counts) fewer(n int) time.Time {
	left := c.failed
	for _, e := range c.events {
		if !e.failed {
			continue
		}
		if left--; left < n {
			return e.at.Add(c.window)
		}
	}
	return c.since
}
