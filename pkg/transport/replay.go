package transport

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// errBodyGone is what a reader gets that asks for bytes which were not kept.
var errBodyGone = errors.New("the request body was not kept for a repetition")

// replaySource gives every attempt the request body from its beginning. With a
// GetBody it asks for a new one; otherwise it keeps what the first attempt
// reads, as it reads it, up to a limit. Past the limit what was kept is let go
// and the body streams through, for one attempt only.
//
// An attempt that failed may still be reading in net/http's write loop when the
// next one starts. That is harmless: whoever reads, the bytes go to the kept
// part, and every reader follows its own offset.
type replaySource struct {
	original io.ReadCloser
	getBody  func() (io.ReadCloser, error)
	memory   *memory

	// reading has room for the one who reads original, which may take as long as
	// the caller likes. A channel, because waiting for a mutex stops the virtual
	// time of testing/synctest.
	reading chan struct{}

	mu       sync.Mutex
	limit    int64 // bytes that may be kept
	kept     []byte
	consumed int64 // bytes read from original
	lost     bool  // more was read than is kept
	end      error // what original ended with
	readers  int
	over     bool // the call has ended: no attempt follows
	closed   bool
}

func newReplaySource(req *http.Request, limit int64, m *memory) *replaySource {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	if req.ContentLength > limit {
		limit = 0 // it would overflow anyway; keep nothing of it
	}
	return &replaySource{original: req.Body, getBody: req.GetBody, memory: m, limit: limit, reading: make(chan struct{}, 1)}
}

// open gives the body from its beginning.
func (s *replaySource) open(first bool) (io.ReadCloser, error) {
	if s.getBody != nil {
		if first {
			return s.original, nil
		}
		return s.getBody()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return nil, errBodyGone
	}
	s.readers++
	return &replayReader{source: s}, nil
}

// replayable tells whether another attempt could send the whole body.
func (s *replaySource) replayable() bool {
	if s == nil || s.getBody != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost
}

// finish says that no attempt follows after so many: nothing more is kept, and
// the body is closed when its last reader is done with it, as a RoundTripper
// must.
func (s *replaySource) finish(attempts int) {
	if s == nil {
		return
	}
	if s.getBody != nil {
		if attempts == 0 { // the RoundTripper below closes what it was given
			_ = s.original.Close()
		}
		return
	}
	s.mu.Lock()
	s.over = true
	if s.readers == 0 {
		s.letGo()
	}
	shut := s.mayClose()
	s.mu.Unlock()
	if shut {
		_ = s.original.Close()
	}
}

func (s *replaySource) mayClose() bool {
	if s.closed || !s.over || s.readers > 0 {
		return false
	}
	s.closed = true
	return true
}

func (s *replaySource) letGo() {
	s.memory.free(int64(cap(s.kept)))
	s.kept = nil
}

// read is one Read of a reader at offset.
func (s *replaySource) read(p []byte, offset int64) (int, error) {
	if n, err, ok := s.readKept(p, offset); ok {
		return n, err
	}
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	if n, err, ok := s.readKept(p, offset); ok { // another reader was here first
		return n, err
	}
	n, err := s.original.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = err
	if n > 0 {
		s.keep(p[:n])
		s.consumed += int64(n)
	}
	return n, err
}

// readKept reads without touching original; ok is false when that must be asked.
func (s *replaySource) readKept(p []byte, offset int64) (n int, err error, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case offset < s.consumed && s.lost:
		return 0, errBodyGone, true
	case offset < s.consumed:
		return copy(p, s.kept[offset:]), nil, true
	case s.end != nil:
		return 0, s.end, true
	}
	return 0, nil, false
}

// failed tells whether the caller's body itself broke.
func (s *replaySource) failed() bool {
	if s == nil || s.getBody != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end != nil && !errors.Is(s.end, io.EOF)
}

func (s *replaySource) keep(b []byte) {
	if s.lost {
		return
	}
	need := int64(len(s.kept) + len(b))
	if s.over && s.readers == 1 || need > s.limit || !s.memory.grow(&s.kept, need, s.limit) {
		s.lost = true
		s.letGo()
		return
	}
	s.kept = append(s.kept, b...)
}

// replayReader is one attempt's view of the body.
type replayReader struct {
	source *replaySource
	offset int64
	closed atomic.Bool
}

func (r *replayReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.source.read(p, r.offset)
	r.offset += int64(n)
	return n, err
}

func (r *replayReader) Close() error {
	if !r.closed.CompareAndSwap(false, true) {
		return nil
	}
	s := r.source
	s.mu.Lock()
	s.readers--
	shut := s.mayClose()
	if shut {
		s.letGo()
	}
	s.mu.Unlock()
	if shut {
		return s.original.Close()
	}
	return nil
}

// memory bounds what all calls of a transport keep together.
type memory struct {
	limit int64
	used  atomic.Int64
}

// grow makes room for need bytes in b, which gets at most limit; false when
// there is none left.
func (m *memory) grow(b *[]byte, need, limit int64) bool {
	have := int64(cap(*b))
	if need <= have {
		return true
	}
	want := max(need, min(limit, max(2*have, 512)))
	if m.used.Add(want-have) > m.limit {
		m.used.Add(have - want)
		return false
	}
	bigger := make([]byte, len(*b), want)
	copy(bigger, *b)
	*b = bigger
	return true
}

func (m *memory) free(n int64) { m.used.Add(-n) }
