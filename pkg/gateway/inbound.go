package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Limits for discarding the rest of a request's body, so that its connection can serve the caller's
// next request.
const (
	drainBytes = 256 << 10
	drainTime  = 50 * time.Millisecond
)

// inboundBody is the body of the caller's request. It is nil if the request has none.
//
// When the handler returns, the body of an HTTP/1 request must have ended. Otherwise net/http's
// server reads the rest. Without full duplex it does so before it answers, and a caller that has
// stopped sending delays the answer for ever. With full duplex it does so after the handler, and
// collides with its own next read (go.dev/issue/68560).
type inboundBody struct {
	original io.ReadCloser
	call     *call
	ended    atomic.Bool
	closed   atomic.Bool
	inAnswer atomic.Bool // the body of a gRPC answer is being read
	trailers http.Header // of the upstream's request
}

// hasBody reports whether the caller sends a body. net/http's server gives each HTTP/2 request a
// Body, even if the stream ended with the header.
func hasBody(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody {
		return false
	}
	if r.ProtoMajor != 2 || r.ContentLength != 0 || len(r.Trailer) > 0 {
		return true
	}
	length := r.Header[headerContentLength] // net/http makes 0 of one that is not a number
	return len(length) > 0 && length[0] != "0"
}

// Read reads the body for an attempt.
func (b *inboundBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *inboundBody) read(p []byte) (int, error) {
	n, err := b.original.Read(p)
	if errors.Is(err, io.EOF) {
		b.takeTrailers()
		b.ended.Store(true)
	}
	return n, err
}

// Close stops reads by attempts. It does not close the caller's body, since net/http's Close would
// wait for the rest of it.
func (b *inboundBody) Close() error {
	b.closed.Store(true)
	b.endRead()
	return nil
}

// beginAnswer says that the body of a gRPC answer is being read. If the connection is lost,
// net/http closes the request's body, and reports the loss once the read of it has ended. That read
// may wait for a caller who waits for the answer, so it is ended here.
func (b *inboundBody) beginAnswer() {
	if b == nil || b.call.in.ProtoMajor != 2 {
		return
	}
	b.inAnswer.Store(true)
	if b.closed.Load() {
		b.endRead()
	}
}

// endRead ends a read of the caller's body while a gRPC answer is being read. Over HTTP/2, Close
// does not wait. The caller may go on sending: net/http's server drops what comes, and sends the
// answer.
func (b *inboundBody) endRead() {
	if b.inAnswer.Load() && !b.ended.Load() {
		_ = b.original.Close()
	}
}

func (b *inboundBody) endAnswer() {
	if b != nil {
		b.inAnswer.Store(false)
	}
}

// announceTrailers returns the trailers of the upstream's request, with the names that the caller
// has announced. The values are filled in at the end of the body.
func (b *inboundBody) announceTrailers() http.Header {
	if b == nil || b.call.in.ContentLength >= 0 && len(b.call.in.Trailer) == 0 {
		return nil
	}
	b.trailers = make(http.Header, len(b.call.in.Trailer))
	for name := range b.call.in.Trailer {
		// An invalid name stays, so that the transport rejects the request.
		if validTrailer(name) || !httpguts.ValidHeaderFieldName(name) {
			b.trailers[name] = nil
		}
	}
	return b.trailers
}

// takeTrailers copies the trailers that net/http's server has put into the request.
func (b *inboundBody) takeTrailers() {
	if b.trailers == nil || b.ended.Load() {
		return
	}
	for name, values := range b.call.in.Trailer {
		if len(values) > 0 && validTrailer(name) {
			b.trailers[name] = values
		}
	}
}

// validTrailer reports whether a field may be passed on as a trailer (RFC 9110, 6.5.1). Fields for
// framing, routing or authentication must not, nor Via, nor fields that only trusted callers may
// set.
func validTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(name) && !hopByHop(name) && !trustedOnly(name) && name != headerVia
}

// atEnd reports whether the body needs no more reads. An HTTP/2 stream ends with its answer even if
// the body is unread.
func (b *inboundBody) atEnd() bool {
	return b == nil || b.ended.Load() || b.call.in.ProtoMajor != 1
}

// streamOn lets the answer begin before the body has ended. The connection is closed afterwards.
func (b *inboundBody) streamOn(answer http.Header) {
	_ = http.NewResponseController(b.call.out).EnableFullDuplex()
	answer.Set(headerConnection, "close")
}

// drain reads a small rest of the body and reports whether the body has ended. It does not read if
// the caller waits for 100 (Continue).
func (b *inboundBody) drain() bool {
	if b.atEnd() {
		return true
	}
	if b.call.in.ContentLength > drainBytes || b.call.in.Header.Get("Expect") != "" {
		return false
	}
	control := http.NewResponseController(b.call.out)
	if control.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return false // without a deadline the read could block
	}
	_, _ = io.CopyN(io.Discard, reader(b.read), drainBytes+1)
	if !b.ended.Load() {
		return false
	}
	return control.SetReadDeadline(time.Time{}) == nil
}

// reader is a function as an io.Reader.
type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// abandon discards the rest of the body after the answer. The deadline ends a pending read, and the
// read here waits for that. Otherwise net/http's server would find that read still pending, and
// would lift the deadline to end it.
func (b *inboundBody) abandon() {
	control := http.NewResponseController(b.call.out)
	_ = control.Flush()
	if control.SetReadDeadline(time.Now()) == nil && b.call.in.Header.Get("Expect") == "" {
		_, _ = b.original.Read(make([]byte, 1))
	}
}
