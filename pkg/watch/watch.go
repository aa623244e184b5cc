// Package watch tells when the content of a file has changed, however it was
// replaced: written in place, renamed over, or by a swap of the symbolic link
// that Kubernetes mounts a ConfigMap with.
package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
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
	seen    content
	watcher *fsnotify.Watcher // nil when there is none to be had
	events  <-chan fsnotify.Event
	errors  <-chan error
}

// content is the hash of a file's content, or why it could not be read.
type content struct {
	sum [sha256.Size]byte
	err string
}

// New begins to watch: changes from now on are told by [File.Run]. The file need
// not exist. Where the kernel's notification cannot be had, which logger is told,
// changes are seen within five seconds. The file is to be closed.
func New(path string, logger *slog.Logger) *File {
	f := &File{path: path}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Warn(linePolling, logFile, path, logError, err)
	} else {
		f.watcher, f.events, f.errors = w, w.Events, w.Errors
		f.follow()
	}
	f.seen = f.read()
	return f
}

// Close ends the watch. It is called after [File.Run] has returned.
func (f *File) Close() error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Close()
}

// Run calls changed, on its own goroutine, after each change of the content. It
// returns when ctx has ended. It is called once.
func (f *File) Run(ctx context.Context, changed func()) {
	anyway := time.NewTicker(lookAnyway)
	defer anyway.Stop()
	quiet := time.NewTimer(settle) // what happened between New and now
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
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
		if now := f.read(); now != f.seen {
			f.seen = now
			changed()
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

func (f *File) read() content {
	b, err := os.ReadFile(f.path)
	if err != nil {
		// Only what is wrong, not the words, which may hold a number that varies.
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return content{err: err.Error()}
	}
	return content{sum: sha256.Sum256(b)}
}
