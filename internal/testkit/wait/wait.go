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
	const pause = 2 * time.Millisecond
	for end := time.Now().Add(limit); !ok(); time.Sleep(pause) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("waited %v in vain for %s\n%s", limit, what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
