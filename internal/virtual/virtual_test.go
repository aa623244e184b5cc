package virtual_test

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/virtual"
)

func TestTimeIsVirtual(t *testing.T) {
	real := time.Now()
	for range 2 {
		var began time.Time
		var passed time.Duration
		virtual.Run(func() {
			began = time.Now()
			time.Sleep(24 * time.Hour)
			passed = time.Since(began)
		})
		if want := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC); !began.Equal(want) {
			t.Errorf("the clock began at %v, want %v", began, want)
		}
		if passed != 24*time.Hour {
			t.Errorf("%v passed, want a day", passed)
		}
	}
	if took := time.Since(real); took > time.Hour {
		t.Errorf("it took %v, want next to no real time", took)
	}
}

func TestConcurrentRuns(t *testing.T) {
	var wg sync.WaitGroup
	passed := make([]time.Duration, 8)
	for i := range passed {
		wg.Go(func() {
			virtual.Run(func() {
				start := time.Now()
				time.Sleep(time.Duration(i) * time.Minute)
				passed[i] = time.Since(start)
			})
		})
	}
	wg.Wait()
	for i, got := range passed {
		if want := time.Duration(i) * time.Minute; got != want {
			t.Errorf("run %d slept for %v, want %v", i, got, want)
		}
	}
}

func TestPanics(t *testing.T) {
	for name, c := range map[string]struct {
		f    func()
		want string
	}{
		"in the function":  {func() { panic(errors.New("boom")) }, "boom"},
		"waiting for ever": {func() { <-make(chan int) }, "deadlock"},
		"goroutine left":   {func() { go func() { select {} }() }, "deadlock"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, c.want) {
					t.Errorf("panic %q, want one with %q", p, c.want)
				}
			}()
			virtual.Run(c.f)
		})
	}
}

// A binary that is not a test keeps its output, its flags and its exit code.
func TestProgram(t *testing.T) {
	program := filepath.Join(gobuild.Programs(t, ".", "./testdata/program"), "program")
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "argument")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ended with %v, want exit status 7", err)
	}
	if got, want := stdout.String(), "recovered: true\nflags: 0 arguments: [-test.v argument]\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr %q, want none", &stderr)
	}
}
