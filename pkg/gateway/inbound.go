package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
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
	io.ReadCloser
	call  *call
	ended atomic.Bool
}

func (b *inboundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
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
	answer.Set("Connection", "close")
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
	_, _ = io.CopyN(io.Discard, b, drainBytes+1)
	if !b.ended.Load() {
		return false
	}
	return control.SetReadDeadline(time.Time{}) == nil
}

// abandon gives up the rest after the answer. A read of it that is going on ends
// by the deadline, and the one here after it at once; without that the server
// would meet the first still going on, and lift the deadline to end it.
func (b *inboundBody) abandon() {
	control := http.NewResponseController(b.call.out)
	_ = control.Flush()
	if control.SetReadDeadline(time.Now()) == nil && b.call.in.Header.Get("Expect") == "" {
		_, _ = b.ReadCloser.Read(make([]byte, 1))
	}
}
