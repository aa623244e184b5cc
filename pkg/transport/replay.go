package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// errBodyNotKept is the error for reading bytes of a request body that were not kept.
var errBodyNotKept = errors.New("the request body was not kept for another attempt")

// readSize is the size of one read of the request body, in bytes.
const readSize = 32 << 10

// errBodyShort is the error for a body that is shorter than the request's ContentLength.
var errBodyShort = fmt.Errorf("%w: its body is shorter than its ContentLength", ErrInvalidRequest)

// errBodyLong is the error for a body that is longer than the request's ContentLength.
var errBodyLong = fmt.Errorf("%w: its body is longer than its ContentLength", ErrInvalidRequest)

// replaySource gives every attempt the request body from its beginning. If the request has GetBody,
// it asks for a new body. Otherwise it keeps what the first attempt reads, up to a limit. Past the
// limit the body streams through, and only one attempt is possible.
//
// A separate goroutine reads the caller's body, one read at a time, because a read cannot be
// interrupted. net/http waits for a read even after the attempt's time is up, so a caller that
// stops sending would hold the call past every deadline. The reader of an attempt waits for the
// result or for the end of its attempt. The next attempt's reader may get that result instead.
//
// Over HTTP/2, net/http does not wait for a read. There an attempt of a gRPC call reads by itself.
type replaySource struct {
	original io.ReadCloser
	getBody  func() (io.ReadCloser, error)
	memory   *ReplayMemory
	limit    int64 // how many bytes may be kept
	length   int64 // the request's ContentLength, -1 if unknown
	expects  bool  // the request waits for a 100 (Continue)
	direct   bool  // a gRPC call over HTTP/2

	mu       sync.Mutex
	current  *progress     // of the last attempt; nil for a body in memory, which cannot fail
	next     io.ReadCloser // from getBody, for the next attempt if there is one
	kept     []byte        // the beginning of the body
	keptEnd  int64         // the length of kept, even after it was released
	lost     bool          // more was read than was kept: no other attempt is possible
	chunk    []byte        // bytes that were read, are not in kept, and wait to be taken
	consumed int64         // bytes read from original
	end      error         // the error that ended original
	reading  bool          // a read of original is running
	filling  func()        // fill, without an allocation for each read
	buffer   []byte
	waiting  []chan struct{} // of the readers that wait for the running read
	readers  int
	over     bool // the call has ended: no attempt follows
	closed   bool
}

func newReplaySource(req *http.Request, limit int64, m *ReplayMemory) *replaySource {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	if req.ContentLength > limit {
		limit = 0 // it would not fit: keep nothing
	}
	length := req.ContentLength
	if length == 0 { // means unknown if there is a body
		length = -1
	}
	return &replaySource{original: req.Body, getBody: req.GetBody, memory: m, limit: limit, length: length, expects: len(req.Header["Expect"]) > 0}
}

// open returns the body from its beginning, for an attempt with context ctx.
func (s *replaySource) open(ctx context.Context, first bool) (io.ReadCloser, error) {
	if s.getBody != nil {
		return s.reopen(first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return nil, errBodyNotKept
	}
	s.readers++
	r := &replayReader{source: s, ctx: ctx}
	s.current = &r.progress
	return r, nil
}

func (s *replaySource) reopen(first bool) (io.ReadCloser, error) {
	s.mu.Lock()
	body := s.next
	s.next = nil
	s.mu.Unlock()
	if first {
		body = s.original
	}
	if body == nil {
		var err error
		if body, err = s.getBody(); err != nil {
			return nil, fmt.Errorf("%w: %w", errBodyNotKept, err)
		}
	}
	if !s.expects && inMemory(body, s.length) {
		return body, nil // it neither waits nor fails, and net/http sends it at once
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &watchedBody{ReadCloser: body, source: s}
	s.current = &r.progress
	return r, nil
}

// replayable reports whether another attempt could send the whole body.
func (s *replaySource) replayable() bool {
	if s == nil || s.getBody != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost
}

// prepare gets the body for the next attempt and reports whether there is one. It is called while
// the caller can still get the last response instead.
func (s *replaySource) prepare() bool {
	if s == nil || s.getBody == nil {
		return s.replayable()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		body, err := s.getBody()
		if err != nil {
			return false
		}
		s.next = body
	}
	return true
}

// failure returns the error of the caller's body, or nil if the body has not failed.
func (s *replaySource) failure() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end
	if p := s.current; p != nil && p.err != nil {
		err = p.err
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// callerBusy reports whether the attempt waits for the caller's body or is still sending it. It is
// false if the upstream has accepted no bytes for patience: the attempt then waits for the
// upstream. heldBack is true if net/http held the body back at first.
func (s *replaySource) callerBusy(patience time.Duration, heldBack bool) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.current
	switch {
	case p == nil, p.ended:
		return false
	case s.reading, p.reading:
		return true
	}
	if p.offset == 0 {
		return heldBack
	}
	return time.Since(p.at) < patience
}

// unfinished reports whether the attempt has not sent the whole body yet.
func (s *replaySource) unfinished() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil && !s.current.ended
}

// idle reports whether the attempt has sent a part of the body, and no more of it for as long as
// patience.
func (s *replaySource) idle(patience time.Duration) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.current
	return p != nil && p.offset > 0 && time.Since(p.at) >= patience
}

// progress is how far net/http has come with the body of one attempt. The source's mu guards it.
type progress struct {
	offset  int64     // bytes taken
	at      time.Time // the time of the last taken byte
	reading bool      // a read waits for the caller
	ended   bool      // the whole body was taken
	err     error     // the error of the body, nil at a proper end
}

// record notes the result of one Read, and returns its error.
func (p *progress) record(n int, err error, length int64) error {
	p.reading = false
	p.offset += int64(n)
	if n > 0 {
		p.at = time.Now()
	}
	if err == io.EOF && p.offset < length { //nolint:errorlint // io.Reader: only io.EOF itself is the end
		err = errBodyShort
	}
	if length >= 0 && p.offset > length { // net/http looks for more than it sends
		err = errBodyLong
	}
	switch {
	case errors.Is(err, errBodyLong):
		p.err = err
	case err == io.EOF, p.offset == length: //nolint:errorlint // as above
		p.ended = true
	case err != nil:
		p.err = err
	}
	return err
}

// watchedBody is the original body of a request with GetBody, or a copy from GetBody.
type watchedBody struct {
	io.ReadCloser
	source   *replaySource
	progress progress
	closed   bool // guarded by the source's mu
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.source.mu.Lock()
	b.progress.reading = true
	b.source.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	if b.closed { // an error after Close is expected
		b.progress.reading = false
		return n, err
	}
	return n, b.progress.record(n, err, b.source.length)
}

func (b *watchedBody) Close() error {
	b.source.mu.Lock()
	b.closed = true
	b.source.mu.Unlock()
	return b.ReadCloser.Close()
}

// inMemory reports whether body is one that http.NewRequest makes from bytes in memory, and has the
// length that the request announces. length is -1 if that is unknown. net/http closes the
// connection when it finds another length, and may then return the error of the connection.
func inMemory(body io.ReadCloser, length int64) bool {
	t := reflect.TypeOf(body)
	if t != reflect.TypeOf(io.NopCloser(nil)) && t != reflect.TypeOf(io.NopCloser(new(bytes.Reader))) {
		return false
	}
	switch b := reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader:
		return length < 0 || int64(b.Len()) == length
	case *bytes.Buffer:
		return length < 0 || int64(b.Len()) == length
	case *strings.Reader:
		return length < 0 || int64(b.Len()) == length
	}
	return false
}

// finish ends the replay after the given number of attempts. It releases the kept bytes, and closes
// the body when the last reader is done, as a RoundTripper must.
func (s *replaySource) finish(attempts int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.getBody != nil {
		if attempts == 0 { // otherwise the RoundTripper below has closed it
			_ = s.original.Close()
		}
		if s.next != nil {
			_ = s.next.Close()
		}
		return
	}
	s.over, s.lost = true, true
	s.closeIfDone()
}

// closeIfDone closes original if it has no more readers. The caller holds mu. It does not wait for
// a running read: closing a pipe ends the read, and the body of an HTTP server blocks Close until
// the read ends.
func (s *replaySource) closeIfDone() {
	if s.closed || !s.over || s.readers > 0 {
		return
	}
	s.closed = true
	s.releaseKept()
	if s.reading {
		go func() { _ = s.original.Close() }()
		return
	}
	_ = s.original.Close()
}

func (s *replaySource) releaseKept() {
	s.memory.free(int64(cap(s.kept)))
	s.kept = nil
}

// read reads the next bytes for r. A large upload takes thousands of reads, so waiting for one
// leaves no garbage.
func (s *replaySource) read(p []byte, r *replayReader) (int, error) {
	offset := r.progress.offset // only r's Read changes it
	for {
		if r.ctx.Err() != nil {
			return 0, context.Cause(r.ctx)
		}
		if r.closed.Load() { // perhaps original too: every read of it would fail at once
			return 0, http.ErrBodyReadAfterClose
		}
		s.mu.Lock()
		if n, ok, err := s.take(p, offset); ok {
			s.mu.Unlock()
			return n, err
		}
		if !s.reading && s.direct {
			s.reading = true
			s.mu.Unlock()
			return s.readInto(p, &r.progress)
		}
		if !s.reading {
			s.reading = true
			if s.filling == nil {
				s.filling = s.fill
			}
			go s.filling()
		}
		if r.wake == nil {
			r.wake = make(chan struct{}, 1)
		}
		s.waiting = append(s.waiting, r.wake)
		s.mu.Unlock()
		select {
		case <-r.wake:
		case <-r.ctx.Done():
		}
	}
}

// take reads the bytes available at offset. ok is false if original must be read first. The caller
// holds mu.
func (s *replaySource) take(p []byte, offset int64) (n int, ok bool, err error) {
	if offset < s.keptEnd {
		if s.kept == nil {
			return 0, true, errBodyNotKept
		}
		return copy(p, s.kept[offset:]), true, nil
	}
	if s.lost && s.kept != nil && s.readers == 1 {
		s.releaseKept() // its only reader is past it
	}
	switch {
	case offset < s.consumed-int64(len(s.chunk)):
		return 0, true, errBodyNotKept
	case len(s.chunk) > 0:
		n = copy(p, s.chunk)
		s.chunk = s.chunk[n:]
		return n, true, nil
	case s.end != nil:
		return 0, true, s.end
	}
	return 0, false, nil
}

// fill reads original once. Only one read runs at a time, after the bytes of the last one were kept
// or taken.
func (s *replaySource) fill() {
	if s.buffer == nil {
		size := int64(readSize)
		if s.length >= 0 {
			size = min(size, s.length+1) // one more, for a body that is too long
		}
		s.buffer = make([]byte, size)
	}
	n, err := s.original.Read(s.buffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.filled(s.buffer[:n], err) {
		s.chunk = s.buffer[:n]
	}
}

// readInto reads original once, for r. If another attempt has begun in the meantime, the bytes are
// for that one.
func (s *replaySource) readInto(p []byte, r *progress) (int, error) {
	n, err := s.original.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.filled(p[:n], err) && s.current != r {
		s.chunk = bytes.Clone(p[:n])
	}
	return n, err
}

// filled ends a read of original, and reports whether its bytes were kept. The caller holds mu.
func (s *replaySource) filled(b []byte, err error) (kept bool) {
	if !s.closed { // otherwise its error is not the caller's
		s.end = err
	}
	kept = s.keep(b)
	s.consumed += int64(len(b))
	s.reading = false
	for _, wake := range s.waiting {
		select {
		case wake <- struct{}{}:
		default: // its reader has left
		}
	}
	s.waiting = s.waiting[:0]
	return kept
}

// keep reports whether b is kept for another attempt. The caller holds mu.
func (s *replaySource) keep(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	need := int64(len(s.kept) + len(b))
	if s.lost || need > s.limit || !s.memory.grow(&s.kept, need, s.limit) {
		s.lost = true
		return false
	}
	s.kept = append(s.kept, b...)
	s.keptEnd = need
	return true
}

// replayReader is the body that one attempt reads.
type replayReader struct {
	source   *replaySource
	ctx      context.Context
	wake     chan struct{} // gets a value when a read that it waits for ends
	progress progress
	closed   atomic.Bool
}

func (r *replayReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.source.read(p, r)
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	if err != nil && (r.ctx.Err() != nil || r.closed.Load()) { // the attempt has ended, not the body
		return n, err
	}
	return n, r.progress.record(n, err, r.source.length)
}

func (r *replayReader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		s := r.source
		s.mu.Lock()
		defer s.mu.Unlock()
		s.readers--
		s.closeIfDone()
	}
	return nil
}

// ReplayMemory limits the memory for request bodies, for all calls of the transports that share it.
// It is safe for concurrent use.
type ReplayMemory struct {
	limit int64
	used  atomic.Int64
}

// NewReplayMemory returns a ReplayMemory of limit bytes.
func NewReplayMemory(limit Size) *ReplayMemory { return &ReplayMemory{limit: int64(limit)} }

// Used returns how many bytes are kept now.
func (m *ReplayMemory) Used() int64 { return m.used.Load() }

// grow makes room for need bytes in b, up to a capacity of limit. It returns false if the memory is
// used up.
func (m *ReplayMemory) grow(b *[]byte, need, limit int64) bool {
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

func (m *ReplayMemory) free(n int64) { m.used.Add(-n) }
