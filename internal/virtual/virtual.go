// Package virtual runs a program's code on a virtual clock: hours of timers and
// sleeps pass in the time that the computing between them takes.
package virtual

import (
	"fmt"
	"runtime/debug"
	"testing"
	"testing/synctest"
)

// Run calls f in a bubble of testing/synctest and returns when f, and every
// goroutine that it started, has returned. In the bubble time stands still while
// anything computes, and jumps to the next timer when all goroutines wait. It
// begins at midnight UTC 2000-01-01.
//
// A panic in f, and goroutines that wait for each other for ever, panic here.
// Concurrent calls have clocks of their own. What blocks on a channel or a
// context made outside of f stops the clock.
func Run(f func()) {
	var thrown any
	// A bubble is to be had from a *testing.T only, also for a program that is no
	// test. It uses of it what a zero T has, which TestProgram watches over: there is
	// no flag, no test run and no output to be kept out of the program.
	synctest.Test(new(testing.T), func(*testing.T) {
		defer func() {
			if p := recover(); p != nil { // a panic in the bubble's goroutine would end the process
				thrown = fmt.Errorf("%v\n\non the virtual clock:\n%s", p, debug.Stack())
			}
		}()
		f()
	})
	if thrown != nil {
		panic(thrown)
	}
}
