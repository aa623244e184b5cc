// Package watch tells when the content of a file has changed, however it was
// replaced: written in place, renamed over, or by a swap of the symbolic link
// that Kubernetes mounts a ConfigMap with.
package watch

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a file must have been left alone: an editor empties a
	// file before it writes it.
	settle = 100 * time.Millisecond
	// lookAnyway is for what the kernel does not tell of: network file systems, a
	// directory that was replaced, a machine without a free inotify instance.
	lookAnyway = 5 * time.Second
)

// File is a file that is watched.
type File struct {
	path    string
	read    func() ([]byte, error)
	first   content
	watcher *fsnotify.Watcher // nil when the system provides none
	events  <-chan fsnotify.Event
	ask     chan struct{} // has something when Look was called
	errors  <-chan error
}

// content is what was read at once, or why nothing was.
type content struct {
	data []byte
	err  error
}

func (c content) equal(o content) bool {
	if c.err != nil || o.err != nil {
		return c.err != nil && o.err != nil && c.err.Error() == o.err.Error()
	}
	return bytes.Equal(c.data, o.data)
}

// New reads the file at path by read and begins to watch it: changes from then on
// are told by [File.Run]. The file need not exist. What is no file but a pipe or a
// device is read this once only. Where the kernel's notification cannot be had,
// which logger is told, changes are seen within five seconds. The file is to be
// closed.
func New(path string, read func() ([]byte, error), logger *slog.Logger) *File {
	f := &File{path: path, read: read, ask: make(chan struct{}, 1)}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f.read = nil
	} else if w, err := fsnotify.NewWatcher(); err != nil {
		logger.Warn(linePolling, logFile, path, logError, err)
	} else {
		f.watcher, f.events, f.errors = w, w.Events, w.Errors
		f.follow()
	}
	f.first.data, f.first.err = read()
	return f
}

// Content is what New read.
func (f *File) Content() ([]byte, error) { return f.first.data, f.first.err }

// Close ends the watch. It is called after [File.Run] has returned.
func (f *File) Close() error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Close()
}

// Look has [File.Run] read the file soon, and tell of it as of a change even if
// it is the same as before. It does not wait, and is safe for concurrent use.
func (f *File) Look() {
	select {
	case f.ask <- struct{}{}:
	default: // it is about to look
	}
}

// Run calls changed, on its own goroutine, with what the file has after each
// change of its content, or with why it cannot be read any more. Of changes that
// follow each other within a moment it tells of the last. It returns when ctx has
// ended. It is called once.
func (f *File) Run(ctx context.Context, changed func([]byte, error)) {
	if f.read == nil {
		<-ctx.Done()
		return
	}
	anyway := time.NewTicker(lookAnyway)
	defer anyway.Stop()
	quiet := time.NewTimer(settle) // what happened between New and now
	defer quiet.Stop()
	// What was told, itself and not by another look: between two looks it may change.
	seen := f.first
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-f.ask:
			asked = true
		case _, ok := <-f.events:
			if !ok {
				f.events = nil
				continue
			}
			quiet.Reset(settle)
			continue
		case _, ok := <-f.errors: // events were lost
			if !ok {
				f.errors = nil
				continue
			}
		case <-anyway.C:
		case <-quiet.C:
		}
		f.follow()
		var now content
		if now.data, now.err = f.read(); !now.equal(seen) || asked {
			seen = now
			changed(now.data, now.err)
		}
	}
}

// follow watches the directories of the file and of every link on the way to it.
// The file itself would be lost when it is replaced.
func (f *File) follow() {
	if f.watcher == nil {
		return
	}
	path := f.path
	for range 40 { // as many links as Linux follows
		_ = f.watcher.Add(filepath.Dir(path)) // if it is gone, lookAnyway sees it come back
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	// A directory on the way may be a link too, as ..data of a ConfigMap is.
	if real, err := filepath.EvalSymlinks(f.path); err == nil {
		_ = f.watcher.Add(filepath.Dir(real))
	}
}
