// Package leaks finds goroutines that outlive the tests. It waits for them longer than goleak does
// by itself: on a busy machine, one that ends may take more than half a second.
package leaks

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// limit is how long goroutines may take to end.
const limit = 20 * time.Second

// Main runs the tests of a package and ends the process. If the tests pass, and goroutines are
// still there after 20 s, it fails with their stacks.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// None fails the test if goroutines are still there after 20 s. Those that options leaves out do
// not count.
func None(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := find(options...); err != nil {
		t.Error(err)
	}
}

func find(options ...goleak.Option) error {
	const pause = 10 * time.Millisecond
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		if err := goleak.Find(options...); err == nil || time.Now().After(end) {
			return err
		}
	}
}
