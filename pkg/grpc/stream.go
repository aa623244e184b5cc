package reboundgrpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Stream makes a call with a stream of messages. It is a grpc.StreamClientInterceptor. A stream is
// begun again only if there was no connection for it. The response's headers must arrive within the
// policy's AttemptTimeout, and the policy's limits end with them. What happens then counts at the
// end of the stream.
func (i *Interceptors) Stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s := &stream{streamer: streamer, desc: desc, begun: make(chan struct{}), done: make(chan struct{})}
	if err := i.prepare(ctx, &s.call, method, cc, opts); err != nil {
		return nil, err
	}
	go s.run()
	select {
	case <-s.begun:
		return s, nil
	case <-s.done:
	}
	switch {
	case s.panicked != nil:
		panic(s.panicked) // on the goroutine of the caller, who may expect it
	case s.attempt != nil: // it has also begun
		return s, nil
	}
	return nil, s.err
}

// stream is a call with a stream of messages. It is the operation that the pipeline runs, on a
// goroutine of its own until the response's headers arrive, and the stream that its caller uses.
type stream struct {
	call
	streamer grpc.Streamer
	desc     *grpc.StreamDesc
	last     *streamAttempt

	begun    chan struct{} // closed when attempt is set
	attempt  *streamAttempt
	done     chan struct{} // closed when the pipeline is done: with the headers, or without a stream
	err      error         // the pipeline's error for the caller; valid after done
	panicked any

	// What the caller has done, for [stream.CallerBusy]: times since start in nanoseconds.
	closed  atomic.Bool  // it sends no more
	sending atomic.Int64 // when the SendMsg began that is running; 0 for none
	sent    atomic.Int64 // when the last SendMsg ended; 0 for none
}

// run runs the pipeline.
func (s *stream) run() {
	defer close(s.done)
	defer func() {
		s.trace.abandon()
		if s.attempt == nil {
			s.panicked = recover()
		}
	}()
	result, report, err := s.upstream.pipeline.Do(s.ctx, s)
	s.upstream.used(report.Start)
	s.trace.end(&report, err)
	s.err = result.err
	if err != nil {
		s.err = s.failure(err, &report)
	}
}

// streamAttempt is one attempt to get a stream.
type streamAttempt struct {
	grpc.ClientStream
	call    *stream
	attempt *resilience.Attempt
	seen    seen

	mu   sync.Mutex
	over chan struct{} // closed when the stream has ended with err
	err  error
	held bool
}

// Attempt begins a stream, gives it to the caller, and waits for its headers.
func (s *stream) Attempt(ctx context.Context, a *resilience.Attempt) (answer, error) {
	t := &streamAttempt{call: s, attempt: a, over: make(chan struct{})}
	t.seen.peer = s.interceptors.newPeer()
	t.seen.reset(s.interceptors.unfilled)
	s.last = t
	ctx = s.begin(ctx, a)
	var err error
	t.ClientStream, err = s.streamer(untimed{ctx, s.ctx}, s.desc, s.cc, s.method, t.seen.options(nil, s.opts, t.end)...)
	if err != nil {
		t.end(err)
		return t.seen.answer(ctx, err)
	}
	s.attempt = t
	close(s.begun)
	if header, _ := t.Header(); header == nil { // then it has ended, and only now grpc-go may say how
		select {
		case <-t.over:
		case <-ctx.Done():
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended() {
		return t.seen.answer(ctx, t.err)
	}
	if err := ctx.Err(); err != nil {
		return answer{}, &noAnswer{err}
	}
	t.held = true
	a.Hold()
	s.trace.hold()
	return answer{}, nil
}

// end records the end of the stream, once. grpc-go calls it, whatever ends the stream.
func (t *streamAttempt) end(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	t.mu.Lock()
	if t.ended() {
		t.mu.Unlock()
		return
	}
	t.seen.over.Store(true)
	t.err = err
	close(t.over)
	held := t.held
	t.mu.Unlock()
	if held {
		j := t.judge()
		if t.seen.peer != nil && t.seen.peer.Addr != nil {
			t.call.trace.peer(t.seen.peer.Addr.String())
		}
		t.call.trace.streamEnded(codeOf(err), j.reason)
		t.attempt.Release(j.health)
	}
}

// ended reports whether the stream has ended. Only then seen may be read.
func (t *streamAttempt) ended() bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

// judge decides who is to blame for the end of a stream after its headers.
func (t *streamAttempt) judge() judgement {
	c := t.call
	j := t.seen.judge(t.err, false)
	if t.err != nil && (c.ctx.Err() != nil || c.cc != nil && c.cc.GetState() == connectivity.Shutdown) {
		switch codeOf(t.err) {
		case codes.Canceled, codes.DeadlineExceeded:
			j.health = resilience.Neutral // the caller's doing
		}
	}
	return j
}

// untimed is the context of a stream's attempt. It ends with the attempt, but has the deadline of
// the caller: our limit ends with the headers, and a server that knew of it would end long streams.
type untimed struct {
	context.Context
	caller context.Context
}

func (c untimed) Deadline() (time.Time, bool) { return c.caller.Deadline() }

// Classify returns the outcome of an attempt. A stream that the caller has is not begun again.
func (s *stream) Classify(r answer, err error) resilience.Outcome {
	var o resilience.Outcome
	switch ended := s.last.ended(); {
	case ended:
		o = s.classify(&s.last.seen, r, err)
	case err == nil: // its headers are there
		return resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy}
	default: // its time was up, and the pipeline knows why
		o.Retry = true
	}
	if s.attempt != nil && o.Retry {
		o.Gates = slices.Values([]resilience.Gate{{
			Name: "kind", Shut: true, Found: func() string { return "a stream that its caller has begun to use" },
		}})
	}
	return o
}

// Decided adds the verdict on an attempt to its trace.
func (s *stream) Decided(r *resilience.AttemptReport) {
	t := s.last
	t.mu.Lock()
	err := t.err
	t.mu.Unlock()
	s.describe(r, &t.seen)
	s.trace.verdict(r, err)
}

// Discard has nothing to free: the attempt's context, which has ended, ends the stream.
func (s *stream) Discard(answer, *resilience.Attempt) {}

// CallerSends reports whether the caller sends more than one message.
func (s *stream) CallerSends() bool { return s.desc.ClientStreams }

// CallerBusy reports whether the server may be waiting for a message of the caller. A server that
// takes no message for half of the attempt timeout is to blame itself.
func (s *stream) CallerBusy() bool {
	select {
	case <-s.begun:
	default:
		return false
	}
	if !s.desc.ClientStreams || s.closed.Load() {
		return false
	}
	began := s.sending.Load()
	return began == 0 || s.since(began) < s.patience()
}

// CallerWaits reports whether the caller may be waiting for an answer although it may still send:
// it has sent something, and nothing more for half of the attempt timeout.
func (s *stream) CallerWaits() bool {
	sent := s.sent.Load()
	return sent > 0 && s.since(sent) >= s.patience()
}

func (s *stream) patience() time.Duration { return s.interceptors.policy.AttemptTimeout / 2 }

// now is the time since the last attempt began, above 0.
func (s *stream) now() int64 { return max(1, int64(time.Since(s.start))) }

func (s *stream) since(at int64) time.Duration { return time.Since(s.start) - time.Duration(at) }

// Header returns the header of the response. See grpc.ClientStream.
func (s *stream) Header() (metadata.MD, error) { return s.attempt.Header() }

// Trailer returns the trailer of the response. See grpc.ClientStream.
func (s *stream) Trailer() metadata.MD { return s.attempt.Trailer() }

// Context returns the stream's context. See grpc.ClientStream.
func (s *stream) Context() context.Context { return s.attempt.Context() }

// CloseSend ends the caller's messages. See grpc.ClientStream.
func (s *stream) CloseSend() error {
	s.closed.Store(true)
	return s.attempt.CloseSend()
}

// SendMsg sends a message. See grpc.ClientStream.
func (s *stream) SendMsg(m any) error {
	s.sending.Store(s.now())
	err := s.attempt.SendMsg(m)
	s.sent.Store(s.now())
	s.sending.Store(0)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.ended(err)
}

// RecvMsg receives a message. See grpc.ClientStream.
func (s *stream) RecvMsg(m any) error {
	err := s.attempt.RecvMsg(m)
	if err == nil {
		return nil
	}
	return s.ended(err)
}

// ended returns the error for the caller of a stream that has ended with err. Before the headers,
// it is what the pipeline found: grpc-go does not know of our limits.
func (s *stream) ended(err error) error {
	s.attempt.end(err) // grpc-go has called it already, unless an interceptor has dropped its option
	<-s.done
	if s.err != nil {
		return s.err
	}
	return err
}
