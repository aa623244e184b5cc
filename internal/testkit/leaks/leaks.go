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

// limit is how long goroutines may take to end. A dial and a handshake may take 10 s: one that was
// forgotten must not end by itself in time. After late, their stacks are printed although they end.
const (
	limit = 8 * time.Second
	late  = 2 * time.Second
)

// Main runs the tests of a package and ends the process. If the tests pass, and goroutines are
// still there after 8 s, it fails with their stacks. It prints those that are there after 2 s.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		log := func(text string) { fmt.Fprintln(os.Stderr, text) }
		if err := find(log); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// None fails the test if goroutines are still there after 8 s, and logs those that are there after
// 2 s. Those that options leaves out do not count.
func None(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := find(func(text string) { t.Log(text) }, options...); err != nil {
		t.Error(err)
	}
}

func find(log func(string), options ...goleak.Option) error {
	const pause = 10 * time.Millisecond
	logged := false
	for begun := time.Now(); ; time.Sleep(pause) {
		err := goleak.Find(options...)
		switch took := time.Since(begun); {
		case err == nil || took > limit:
			return err
		case took > late && !logged:
			logged = true
			log(fmt.Sprintf("goroutines that outlive the tests by %v: %v", late, err))
		}
	}
}
