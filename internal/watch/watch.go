// Package watch reports when the content of a file changes. It notices a write in place, a rename
// over the file, and a swap of the symbolic link through which Kubernetes mounts a ConfigMap.
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
	// settle is how long a file must be quiet before it is read: editors empty a file before they
	// write it.
	settle = 100 * time.Millisecond
	// pollInterval is how often the file is read without an event. The kernel reports no events for
	// network file systems, for a replaced directory, or if no inotify instance is free.
	pollInterval = 5 * time.Second
)

// File is a watched file.
type File struct {
	path    string
	read    func() ([]byte, error)
	first   content
	watcher *fsnotify.Watcher // nil if it could not be created
	events  <-chan fsnotify.Event
	ask     chan struct{} // holds a value after Look was called
	errors  <-chan error
}

// content is the result of one read: data or an error.
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

// New reads the file at path with read and begins to watch it; [File.Run] reports later changes.
// The file need not exist. A pipe or device is read only this once. If the kernel cannot report
// changes, New logs that, and changes are noticed within five seconds. The caller must close the
// File.
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

// Content returns what New read.
func (f *File) Content() ([]byte, error) { return f.first.data, f.first.err }

// Close ends the watch. Call it after [File.Run] has returned.
func (f *File) Close() error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Close()
}

// Look makes [File.Run] read the file soon and report it even if it has not changed. It does not
// wait, and is safe for concurrent use.
func (f *File) Look() {
	select {
	case f.ask <- struct{}{}:
	default: // a look is already pending
	}
}

// Run calls changed on its own goroutine after each change, with the file's new content or the
// error from reading it. Of several changes in quick succession it reports only the last. It
// returns when ctx ends. Run may be called once.
func (f *File) Run(ctx context.Context, changed func([]byte, error)) {
	if f.read == nil {
		<-ctx.Done()
		return
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	quiet := time.NewTimer(settle) // also for changes between New and now
	defer quiet.Stop()
	// Compare with the content last reported. Reading it again here could miss a change in between.
	seen := f.first
	for {
		forced := false
		select {
		case <-ctx.Done():
			return
		case <-f.ask:
			forced = true
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
		case <-poll.C:
		case <-quiet.C:
		}
		f.follow()
		var now content
		if now.data, now.err = f.read(); !now.equal(seen) || forced {
			seen = now
			changed(now.data, now.err)
		}
	}
}

// follow watches the directories of the file and of every symbolic link on the way to it. A watch
// on the file itself would be lost when the file is replaced.
func (f *File) follow() {
	if f.watcher == nil {
		return
	}
	path := f.path
	for range 40 { // Linux's limit for symbolic links
		_ = f.watcher.Add(filepath.Dir(path)) // if the directory is gone, polling notices when it returns
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	// A directory on the way may be a link too, such as ..data of a ConfigMap.
	if real, err := filepath.EvalSymlinks(f.path); err == nil {
		_ = f.watcher.Add(filepath.Dir(real))
	}
}
