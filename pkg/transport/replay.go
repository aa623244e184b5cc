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

// errBodyGone is what a reader gets that asks for bytes which were not kept.
var errBodyGone = errors.New("the request body was not kept for a repetition")

// readSize is how much of a request body is read at once.
const readSize = 32 << 10

// errBodyShort is what a reader gets at the end of a body that is shorter than the
// request's ContentLength.
var errBodyShort = fmt.Errorf("%w: its body is shorter than its ContentLength", ErrInvalidRequest)

// replaySource gives every attempt the request body from its beginning. With a
// GetBody it asks for a new one; otherwise it keeps what the first attempt
// reads, as it reads it, up to a limit. Past the limit the body streams through,
// for one attempt only.
//
// The caller's body is read in a goroutine of its own, one read at a time,
// because nothing can interrupt it: net/http waits for it even after the
// attempt's time is up, and a caller who stops sending would hold the call past
// every deadline. An attempt's reader waits for the result or for the end of
// its attempt, and the next attempt's reader may get the result instead.
type replaySource struct {
	original io.ReadCloser
	getBody  func() (io.ReadCloser, error)
	memory   *ReplayMemory
	limit    int64 // bytes that may be kept
	length   int64 // the request's ContentLength, -1 for unknown
	expects  bool  // a 100 (Continue) before it is sent

	mu       sync.Mutex
	current  *progress     // of the last attempt, nil when nothing can go wrong with it
	next     io.ReadCloser // asked of getBody for the attempt that may follow
	kept     []byte        // the body's beginning
	keptEnd  int64         // how long it is, also when it was let go
	lost     bool          // more was read than is kept: no other attempt
	chunk    []byte        // what was read last, when it is not kept, and is still to be taken
	consumed int64         // bytes read from original
	end      error         // what original ended with
	reading  chan struct{} // closed when the read that is going on is over, nil when none is
	buffer   []byte
	readers  int
	over     bool // the call has ended: no attempt follows
	closed   bool
}

func newReplaySource(req *http.Request, limit int64, m *ReplayMemory) *replaySource {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	if req.ContentLength > limit {
		limit = 0 // it would overflow anyway; keep nothing of it
	}
	length := req.ContentLength
	if length == 0 { // with a body it means unknown
		length = -1
	}
	return &replaySource{original: req.Body, getBody: req.GetBody, memory: m, limit: limit, length: length, expects: len(req.Header["Expect"]) > 0}
}

// open gives the body from its beginning, to an attempt with context ctx.
func (s *replaySource) open(ctx context.Context, first bool) (io.ReadCloser, error) {
	if s.getBody != nil {
		return s.reopen(first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return nil, errBodyGone
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
			return nil, fmt.Errorf("%w: %w", errBodyGone, err)
		}
	}
	if !s.expects && inMemory(body) {
		return body, nil // it neither waits nor breaks, and net/http sends it at once
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

// prepare asks for the body of the next attempt and reports whether it can be had.
// It is asked while there is still an answer that the caller can get instead.
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

// ending is what is wrong with the caller's own body; ok is false when nothing is.
func (s *replaySource) ending() (e ending, ok bool) {
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.end
	if p := s.current; p != nil && p.err != nil {
		err = p.err
	}
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return 0, false
	case errors.Is(err, ErrInvalidRequest):
		return cannotBeSent, true
	}
	return uploadBroke, true
}

// callerBusy reports whether the attempt waits for the caller to send, or sends on
// what the caller has sent. An upstream that has taken nothing for as long as
// patience is what the attempt waits for instead. heldBack reports whether the
// body was held back at first.
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
	case s.reading != nil, p.reading:
		return true
	}
	if p.offset == 0 {
		return heldBack
	}
	return time.Since(p.at) < patience
}

// progress is how far net/http has come with one attempt's body. It is read and
// written under the source's mu.
type progress struct {
	offset  int64     // bytes that it has taken
	at      time.Time // when it took the last
	reading bool      // it waits for the caller
	ended   bool      // it has everything
	err     error     // what the body ended with, when that is wrong
}

// took books what one Read gave, and returns its error.
func (p *progress) took(n int, err error, length int64) error {
	p.reading = false
	p.offset += int64(n)
	if n > 0 {
		p.at = time.Now()
	}
	if err == io.EOF && p.offset < length { //nolint:errorlint // io.Reader: only io.EOF itself is the end
		err = errBodyShort
	}
	switch {
	case err == io.EOF, p.offset == length: //nolint:errorlint // as above
		p.ended = true
	case err != nil:
		p.err = err
	}
	return err
}

// watchedBody is a body that GetBody gave, or the one that it copies.
type watchedBody struct {
	io.ReadCloser
	source   *replaySource
	progress progress
	closed   bool // under the source's mu
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.source.mu.Lock()
	b.progress.reading = true
	b.source.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	if b.closed { // what a Read says after Close is nobody's mistake
		b.progress.reading = false
		return n, err
	}
	return n, b.progress.took(n, err, b.source.length)
}

func (b *watchedBody) Close() error {
	b.source.mu.Lock()
	b.closed = true
	b.source.mu.Unlock()
	return b.ReadCloser.Close()
}

// inMemory reports whether a body is one of those that http.NewRequest makes of
// bytes in memory.
func inMemory(body io.ReadCloser) bool {
	t := reflect.TypeOf(body)
	if t != reflect.TypeOf(io.NopCloser(nil)) && t != reflect.TypeOf(io.NopCloser(new(bytes.Reader))) {
		return false
	}
	switch reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// finish says that no attempt follows after so many: nothing more is kept, and
// the body is closed when its last reader is done with it, as a RoundTripper
// must.
func (s *replaySource) finish(attempts int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.getBody != nil {
		if attempts == 0 { // the RoundTripper below closes what it was given
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

// closeIfDone closes original when nobody will read it any more. It is called
// under mu. A read that is going on is not waited for; for a pipe the closing
// ends it, and an HTTP server's body lets the closing wait.
func (s *replaySource) closeIfDone() {
	if s.closed || !s.over || s.readers > 0 {
		return
	}
	s.closed = true
	s.letGo()
	if s.reading != nil {
		go func() { _ = s.original.Close() }()
		return
	}
	_ = s.original.Close()
}

func (s *replaySource) letGo() {
	s.memory.free(int64(cap(s.kept)))
	s.kept = nil
}

// read is one Read at offset by a reader whose attempt has ctx.
func (s *replaySource) read(ctx context.Context, p []byte, offset int64) (int, error) {
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.mu.Lock()
		if n, ok, err := s.take(p, offset); ok {
			s.mu.Unlock()
			return n, err
		}
		if s.reading == nil {
			s.reading = make(chan struct{})
			go s.fill()
		}
		over := s.reading
		s.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
}

// take reads what there is at offset; ok is false when original must be asked.
// It is called under mu.
func (s *replaySource) take(p []byte, offset int64) (n int, ok bool, err error) {
	if offset < s.keptEnd {
		if s.kept == nil {
			return 0, true, errBodyGone
		}
		return copy(p, s.kept[offset:]), true, nil
	}
	if s.lost && s.kept != nil && s.readers == 1 {
		s.letGo() // its only reader is past it
	}
	switch {
	case offset < s.consumed-int64(len(s.chunk)):
		return 0, true, errBodyGone
	case len(s.chunk) > 0:
		n = copy(p, s.chunk)
		s.chunk = s.chunk[n:]
		return n, true, nil
	case s.end != nil:
		return 0, true, s.end
	}
	return 0, false, nil
}

// fill reads original once. Only one fill runs at a time, and only when what
// the one before read was kept or taken.
func (s *replaySource) fill() {
	if s.buffer == nil {
		s.buffer = make([]byte, readSize)
	}
	n, err := s.original.Read(s.buffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = err
	if n > 0 {
		s.keep(s.buffer[:n])
		s.consumed += int64(n)
	}
	close(s.reading)
	s.reading = nil
}

func (s *replaySource) keep(b []byte) {
	need := int64(len(s.kept) + len(b))
	if s.lost || need > s.limit || !s.memory.grow(&s.kept, need, s.limit) {
		s.lost = true
		s.chunk = b
		return
	}
	s.kept = append(s.kept, b...)
	s.keptEnd = need
}

// replayReader is one attempt's view of the body.
type replayReader struct {
	source   *replaySource
	ctx      context.Context
	progress progress
	closed   atomic.Bool
}

func (r *replayReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.source.read(r.ctx, p, r.progress.offset) // only Read moves it
	r.source.mu.Lock()
	defer r.source.mu.Unlock()
	if err != nil && r.ctx.Err() != nil { // the attempt's end, not the body's
		return n, err
	}
	return n, r.progress.took(n, err, r.source.length)
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

// ReplayMemory bounds what all calls of the transports that share it keep of
// request bodies. It is safe for concurrent use.
type ReplayMemory struct {
	limit int64
	used  atomic.Int64
}

// NewReplayMemory makes one of at most limit.
func NewReplayMemory(limit Size) *ReplayMemory { return &ReplayMemory{limit: int64(limit)} }

// Used is how many bytes are kept now.
func (m *ReplayMemory) Used() int64 { return m.used.Load() }

// grow makes room for need bytes in b, which gets at most limit; false when
// there is none left.
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
