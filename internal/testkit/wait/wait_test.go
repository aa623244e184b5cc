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

func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Errorf(format string, args ...any) { r.failure = fmt.Sprintf(format, args...) }

func TestOneOf(t *testing.T) {
	for name, c := range map[string]struct {
		missed  []string // by the tries
		tries   int
		failure string
	}{
		"at once":     {[]string{"", "b"}, 1, ""},
		"in the last": {[]string{"a", ""}, 2, ""},
		"never":       {[]string{"a", "b"}, 2, "missed in each of 2 tries, in the last: b"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			tries := 0
			wait.OneOf(r, len(c.missed), func() string { tries++; return c.missed[tries-1] })
			if tries != c.tries || r.failure != c.failure {
				t.Errorf("got failure %q after %d tries, want %q after %d", r.failure, tries, c.failure, c.tries)
			}
		})
	}
}

func TestUntil(t *testing.T) {
	for name, c := range map[string]struct {
		trueAfter, want time.Duration
		seen, failure   string
	}{
		"at once":               {0, 0, "", ""},
		"soon":                  {100 * time.Millisecond, 100 * time.Millisecond, "", ""},
		"soon, something seen":  {100 * time.Millisecond, 100 * time.Millisecond, "a", ""},
		"never":                 {time.Hour, 1002 * time.Millisecond, "", "waited 1s in vain for the end\ngoroutine "},
		"never, something seen": {time.Hour, 1002 * time.Millisecond, "a", "waited 1s in vain for the end, last seen: a\ngoroutine "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r := &recorder{TB: t}
				done := make(chan struct{})
				go func() {
					defer close(done)
					ok := func() bool { return time.Since(start) >= c.trueAfter }
					if c.seen == "" {
						wait.Until(r, time.Second, "the end", ok)
					} else {
						wait.UntilSeen(r, time.Second, "the end", func() (bool, string) { return ok(), c.seen })
					}
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
