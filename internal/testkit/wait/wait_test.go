package wait_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// recorder is a testing.TB that keeps the failure.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestUntil(t *testing.T) {
	for name, c := range map[string]struct {
		trueAfter, want time.Duration
		failure         string
	}{
		"at once": {0, 0, ""},
		"soon":    {100 * time.Millisecond, 100 * time.Millisecond, ""},
		"never":   {time.Hour, 1002 * time.Millisecond, "waited 1s in vain for the end\ngoroutine "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r := &recorder{TB: t}
				done := make(chan struct{})
				go func() {
					defer close(done)
					wait.Until(r, time.Second, "the end", func() bool { return time.Since(start) >= c.trueAfter })
				}()
				<-done
				if got := time.Since(start); got != c.want {
					t.Errorf("returned after %v, want %v", got, c.want)
				}
				if !strings.HasPrefix(r.failure, c.failure) || (c.failure == "") != (r.failure == "") {
					t.Errorf("got failure %.100q, want %q", r.failure, c.failure)
				}
			})
		})
	}
}
