package faults

import (
	"context"
	"strconv"
	"time"
)

// Deadline returns the time at which the caller stops waiting, given the value of its
// X-Envoy-Expected-Rq-Timeout-Ms header. It is zero if there is no readable value, or if
// HonourDeadline is off.
func (f Fate) Deadline(timeout string) time.Time {
	if !f.HonourDeadline {
		return time.Time{}
	}
	ms, err := strconv.ParseInt(timeout, 10, 64)
	const longest = int64(24 * time.Hour / time.Millisecond)
	if err != nil || ms <= 0 || ms > longest {
		return time.Time{} // unreadable, or too long to matter
	}
	return time.Now().Add(time.Duration(ms) * time.Millisecond)
}

// Pause waits for d and reports whether the caller, whose context is ctx, is still there.
func Pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
