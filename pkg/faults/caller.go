package faults

import (
	"context"
	"strconv"
	"time"
)

// Deadline is when the caller of the work stops waiting, given what it says in
// X-Envoy-Expected-Rq-Timeout-Ms, or zero if that says nothing or nobody minds.
func (f Fate) Deadline(timeout string) time.Time {
	if !f.HonourDeadline {
		return time.Time{}
	}
	ms, err := strconv.ParseInt(timeout, 10, 64)
	const longest = int64(24 * time.Hour / time.Millisecond)
	if err != nil || ms <= 0 || ms > longest {
		return time.Time{} // unreadable, or as good as none
	}
	return time.Now().Add(time.Duration(ms) * time.Millisecond)
}

// Pause waits for d and tells whether the caller, whose context ctx is, is still
// there.
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
