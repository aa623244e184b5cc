package watch_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/internal/watch"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace is write for a watched file that must not be seen empty: a busy machine may stop between
// emptying a file and filling it.
func replace(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+"~", text)
	rename(t, path+"~", path)
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// Every way to change a file is reported, and the new content is in place by then.
func TestChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare, change func(t *testing.T, dir string)
	}{
		"written in place": {
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "file"), "old") },
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "file"), "new") },
		},
		"renamed over, as editors do": {
			func(t *testing.T, dir string) { write(t, filepath.Join(dir, "file"), "old") },
			func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "file"), "new") },
		},
		"a ConfigMap's swap of its link": {
			func(t *testing.T, dir string) {
				for version, text := range map[string]string{"..v1": "old", "..v2": "new"} {
					if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
						t.Fatal(err)
					}
					write(t, filepath.Join(dir, version, "file"), text)
				}
				link(t, "..v1", filepath.Join(dir, "..data"))
				link(t, filepath.Join("..data", "file"), filepath.Join(dir, "file"))
			},
			func(t *testing.T, dir string) {
				link(t, "..v2", filepath.Join(dir, "..data_tmp"))
				rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
				if err := os.RemoveAll(filepath.Join(dir, "..v1")); err != nil {
					t.Fatal(err)
				}
			},
		},
		"written where a link leads": {
			func(t *testing.T, dir string) {
				if err := os.Mkdir(filepath.Join(dir, "elsewhere"), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(dir, "elsewhere", "real"), "old")
				link(t, filepath.Join("elsewhere", "real"), filepath.Join(dir, "file"))
			},
			func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "elsewhere", "real"), "new") },
		},
		"made": {
			func(*testing.T, string) {},
			func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "file"), "new") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 1
			if name == "written in place" {
				tries = 3 // the file may be seen empty
			}
			wait.OneOf(t, tries, func() (missed string) {
				dir := t.TempDir()
				tc.prepare(t, dir)
				changed, stop := run(t, filepath.Join(dir, "file"))
				defer stop()
				tc.change(t, dir)
				if got := <-changed; got != "new" {
					return fmt.Sprintf("got content %q, want new", got)
				}
				return ""
			})
		})
	}
}

func reading(path string) func() ([]byte, error) {
	return func() ([]byte, error) { return os.ReadFile(path) }
}

// run watches path and sends the file's content at each change.
func run(t *testing.T, path string) (changed chan string, stop func()) {
	t.Helper()
	f := watch.New(path, reading(path), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	changed = make(chan string, 10)
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.Run(ctx, func(text []byte, _ error) { changed <- string(text) })
	}()
	return changed, func() {
		cancel()
		<-over
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Touching a file or rewriting the same content is not a change. A change between New and Run is
// one.
func TestOnlyTheContentCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "same")
	f := watch.New(path, reading(path), slog.New(slog.DiscardHandler))
	if text, err := f.Content(); string(text) != "same" || err != nil {
		t.Errorf("got content %q, error %v from New, want same", text, err)
	}
	write(t, path, "before Run")
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	first := make(chan struct{}, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.Run(ctx, func(text []byte, _ error) {
			got = append(got, string(text))
			first <- struct{}{}
		})
	}()
	<-first
	replace(t, path, "before Run")
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(filepath.Dir(path), "another"), "file")
	replace(t, path, "at last")
	<-first
	cancel()
	<-over
	_ = f.Close()
	if len(got) != 2 || got[1] != "at last" {
		t.Errorf("got reports %q, want the change before Run and the last one", got)
	}
}

// Removing the file is reported once, so that the reader can report the error.
func TestRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "there")
	changed, stop := run(t, path)
	defer stop()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := <-changed; got != "" {
		t.Errorf("got content %q, want none", got)
	}
	replace(t, path, "again")
	if got := <-changed; got != "again" {
		t.Errorf("got content %q, want again", got)
	}
}

// A half-written file is reported. So is the whole file after it, although it equals the content
// before.
func TestHalfWrittenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "whole")
	half := false
	f := watch.New(path, func() ([]byte, error) {
		if half {
			half = false
			return nil, nil // as just after the file was truncated
		}
		return os.ReadFile(path)
	}, slog.New(slog.DiscardHandler))
	defer f.Close()
	half = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	f.Run(ctx, func(text []byte, _ error) {
		got = append(got, string(text))
		if len(got) == 2 {
			cancel()
			return
		}
		write(t, path, "whole")
	})
	if len(got) != 2 || got[0] != "" || got[1] != "whole" {
		t.Errorf("got reports %q, want an empty one and then the whole file", got)
	}
}

// A pipe is read once: a second reader would take another reader's data or block forever.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	go func() { _ = os.WriteFile(path, []byte("once"), 0o600) }()
	f := watch.New(path, reading(path), slog.New(slog.DiscardHandler))
	defer f.Close()
	if text, err := f.Content(); string(text) != "once" || err != nil {
		t.Errorf("got content %q, error %v from New, want once", text, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Run(ctx, func([]byte, error) { t.Error("got a report, want none for a pipe") })
}

// After Look, the content is reported even if it is unchanged or cannot be read.
func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "same")
	f := watch.New(path, func() ([]byte, error) { return os.ReadFile(path) }, slog.New(slog.DiscardHandler))
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	reports, done := make(chan string), make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx, func(data []byte, err error) {
			if err != nil {
				data = []byte("unreadable")
			}
			reports <- string(data)
		})
	}()
	for range 2 {
		f.Look()
		if got := <-reports; got != "same" {
			t.Errorf("got a report of %q, want %q", got, "same")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.Look()
	if got := <-reports; got != "unreadable" {
		t.Errorf("got a report of %q, want %q", got, "unreadable")
	}
	cancel()
	for { // the removal itself may be reported too
		select {
		case <-reports:
		case <-done:
			return
		}
	}
}
