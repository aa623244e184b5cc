// Package wait is for tests that cannot run on a virtual clock: they wait for other processes, or
// for the kernel.
package wait

import (
	"runtime"
	"testing"
	"time"
)

// Until returns when ok returns true. If ok still returns false after limit, the test ends with the
// stacks of all goroutines. what completes "waited in vain for".
func Until(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	UntilSeen(t, limit, what, func() (bool, string) { return ok(), "" })
}

// UntilSeen is Until for a look that also returns what it saw. The failure shows the last.
func UntilSeen(t testing.TB, limit time.Duration, what string, look func() (ok bool, seen string)) {
	t.Helper()
	const pause = 2 * time.Millisecond
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		ok, seen := look()
		if ok {
			return
		}
		if time.Now().After(end) {
			if seen != "" {
				what += ", last seen: " + seen
			}
			stacks := make([]byte, 1<<20)
			t.Fatalf("waited %v in vain for %s\n%s", limit, what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// OneOf calls try until it returns "", at most n times. Otherwise the test fails with what the last
// try missed. It is for limits of time that a busy machine may break now and then.
func OneOf(t testing.TB, n int, try func() (missed string)) {
	t.Helper()
	var missed string
	for range n {
		if missed = try(); missed == "" {
			return
		}
		t.Logf("missed: %s", missed)
	}
	t.Errorf("missed in each of %d tries, in the last: %s", n, missed)
}
