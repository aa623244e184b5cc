package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// What is read of a request's body for nobody, at most, so that its connection
// can serve the caller's next request.
const (
	drainBytes = 256 << 10
	drainTime  = 50 * time.Millisecond
)

// inboundBody is the request's body as it comes from the caller. The HTTP/1
// server must not be left with a body that is not at its end, whatever the call
// came to: without full duplex it reads the rest before it answers, which a
// caller who has stopped sending delays for ever; with it, it reads the rest
// after the handler and then trips over its own next read (go.dev/issue/68560).
// A nil one is that of a request without a body.
type inboundBody struct {
	original io.ReadCloser
	call     *call
	ended    atomic.Bool
	closed   atomic.Bool
	trailers http.Header // of the upstream's request
}

// Read is what the attempts read with.
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

// Close says that no attempt reads any more. It leaves the caller's body as it is:
// net/http's own would wait for what the caller has still to send.
func (b *inboundBody) Close() error {
	b.closed.Store(true)
	return nil
}

// announceTrailers is the map for the trailers of the upstream's request, with the
// names that the caller has announced. It fills at the end of the body.
func (b *inboundBody) announceTrailers() http.Header {
	if b == nil || b.call.in.ContentLength >= 0 && len(b.call.in.Trailer) == 0 {
		return nil
	}
	b.trailers = make(http.Header, len(b.call.in.Trailer))
	for name := range b.call.in.Trailer {
		// A name that no header can have stays, and the transport refuses the request.
		if validTrailer(name) || !httpguts.ValidHeaderFieldName(name) {
			b.trailers[name] = nil
		}
	}
	return b.trailers
}

// takeTrailers passes on those that came. The server leaves them in the request.
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

// validTrailer reports whether a field may be passed on behind a body: not one
// that frames a message, that a peer decides by before the body, or that only this
// gateway may say (RFC 9110, 6.5.1).
func validTrailer(name string) bool {
	return httpguts.ValidTrailerHeader(name) && !hopByHop(name) && !trustedOnly(name) && name != headerVia
}

// atEnd tells whether nothing is left to be read. An HTTP/2 stream ends with its
// answer, without anybody reading.
func (b *inboundBody) atEnd() bool {
	return b == nil || b.ended.Load() || b.call.in.ProtoMajor != 1
}

// streamOn lets the answer begin while the body goes on. The connection serves
// nothing else afterwards.
func (b *inboundBody) streamOn(answer http.Header) {
	_ = http.NewResponseController(b.call.out).EnableFullDuplex()
	answer.Set(headerConnection, "close")
}

// drain reads what little may be left, and tells whether that was all. It does
// not ask for what the caller holds back until it is told to continue.
func (b *inboundBody) drain() bool {
	if b.atEnd() {
		return true
	}
	if b.call.in.ContentLength > drainBytes || b.call.in.Header.Get("Expect") != "" {
		return false
	}
	control := http.NewResponseController(b.call.out)
	if control.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return false // reading could last
	}
	_, _ = io.CopyN(io.Discard, reader(b.read), drainBytes+1)
	if !b.ended.Load() {
		return false
	}
	return control.SetReadDeadline(time.Time{}) == nil
}

// reader is a function that reads.
type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// abandon gives up the rest after the answer. A read of it that is going on ends
// by the deadline, and the one here after it at once; without that the server
// would meet the first still going on, and lift the deadline to end it.
func (b *inboundBody) abandon() {
	control := http.NewResponseController(b.call.out)
	_ = control.Flush()
	if control.SetReadDeadline(time.Now()) == nil && b.call.in.Header.Get("Expect") == "" {
		_, _ = b.original.Read(make([]byte, 1))
	}
}
