// Package virtual runs code on a virtual clock: hours of timers and sleeps pass in the time that
// the computing between them takes.
package virtual

import (
	"fmt"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// Run calls f in a bubble of testing/synctest. It returns when f, and every goroutine that f
// started, has returned. In the bubble, time stands still while a goroutine computes, and jumps to
// the next timer when all goroutines wait. It begins at midnight UTC 2000-01-01.
//
// Run panics if f panics, or if its goroutines are deadlocked. Concurrent calls have clocks of
// their own. Code that blocks on a channel or context from outside f stops the clock.
func Run(f func()) {
	var thrown any
	// synctest needs a *testing.T, even outside tests. It uses only what a zero T has: no flags, no
	// test run and no output reach the program. TestProgram checks that.
	synctest.Test(new(testing.T), func(*testing.T) {
		defer func() {
			// otherwise a panic in the bubble's goroutine would end the process
			if p := recover(); p != nil {
				thrown = fmt.Errorf("%v\n\non the virtual clock:\n%s", p, debug.Stack())
			}
		}()
		f()
	})
	if thrown != nil {
		panic(thrown)
	}
}
