// Package reread keeps what files contain, and reads them again when they change. So secrets can be
// rotated without a restart, also where a symbolic link is swapped, as Kubernetes does.
package reread

import (
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is how long files count as unchanged. They are read on the goroutine that needs their
// content, so that nothing runs while nobody does.
const checkEvery = time.Second

// Store holds a value of files. It is safe for concurrent use.
type Store[T any] struct {
	read   func(old *T) (*T, error)
	failed func(error)

	current atomic.Pointer[T]
	checked atomic.Int64 // when the files were last read, Unix ns

	mu      sync.Mutex  // held while files are read
	last    string      // the error of the last reading
	told    string      // the last error that failed got; empty once the files are right
	refused atomic.Bool // told is not empty
}

// Load calls read with nil, and returns its error. Later, [Store.Look] calls read again with the
// current value. Read returns that value if the files are unchanged. If it fails, the current value
// stays in use. failed, which may be nil, is called once for each new error, as soon as a second
// reading finds it too: while files are replaced one by one, a certificate is for a moment without
// its key.
func Load[T any](read func(old *T) (*T, error), failed func(error)) (*Store[T], error) {
	first, err := read(nil)
	if err != nil {
		return nil, err
	}
	s := &Store[T]{read: read, failed: failed}
	s.current.Store(first)
	s.checked.Store(time.Now().UnixNano())
	return s, nil
}

// Current returns the value without reading the files.
func (s *Store[T]) Current() *T { return s.current.Load() }

// Look returns the value. It reads the files first if the last reading is a second old and nobody
// else is reading them.
func (s *Store[T]) Look() *T {
	now := time.Now().UnixNano()
	if now-s.checked.Load() < int64(checkEvery) || !s.mu.TryLock() {
		return s.current.Load()
	}
	defer s.mu.Unlock()
	s.checked.Store(now)
	next, err := s.read(s.current.Load())
	if err != nil {
		s.refuse(err)
		return s.current.Load()
	}
	s.last, s.told = "", ""
	s.refused.Store(false)
	s.current.Store(next)
	return next
}

// refuse reports err, unless it is new or was reported already. The caller holds mu.
func (s *Store[T]) refuse(err error) {
	text := err.Error()
	again := text == s.last
	s.last = text
	if !again || text == s.told {
		return
	}
	s.told = text
	s.refused.Store(true)
	if s.failed != nil {
		s.failed(err)
	}
}

// Refused reports whether the files had an error, which failed got, when they were last read.
func (s *Store[T]) Refused() bool { return s.refused.Load() }
