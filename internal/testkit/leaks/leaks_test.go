package leaks_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// recorder is a testing.TB that keeps the failure and the log.
type recorder struct {
	testing.TB
	failure, log string
}

func (r *recorder) Helper() {}

func (r *recorder) Error(args ...any) { r.failure = fmt.Sprint(args...) }

func (r *recorder) Log(args ...any) { r.log += fmt.Sprint(args...) }

// A goroutine that takes seconds to end is none that stays.
func TestNone(t *testing.T) {
	for name, tc := range map[string]struct {
		lives   time.Duration
		failure string
		log     string
	}{
		"none":  {0, "", ""},
		"soon":  {time.Second, "", ""},
		"late":  {7 * time.Second, "", "leaks_test.idle"},
		"stays": {9 * time.Second, "leaks_test.idle", "leaks_test.idle"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := goleak.IgnoreCurrent()
				var lives sync.WaitGroup
				defer lives.Wait()
				lives.Go(func() { idle(tc.lives) })
				r := &recorder{TB: t}
				leaks.None(r, before)
				if !strings.Contains(r.failure, tc.failure) || (tc.failure == "") != (r.failure == "") {
					t.Errorf("got failure %q, want %q", r.failure, tc.failure)
				}
				if !strings.Contains(r.log, tc.log) || (tc.log == "") != (r.log == "") {
					t.Errorf("got log %q, want %q", r.log, tc.log)
				}
			})
		})
	}
}

func idle(d time.Duration) { time.Sleep(d) }
