package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Limits for reading a response ahead.
const (
	aheadBytes = drainBytes
	aheadTime  = drainTime
)

// errBroken is the error of a response that broke off before the caller got anything of it.
var errBroken = errors.New("the response broke off")

// readAhead reads a short response to its end before the caller gets it, if its endpoint is
// doubtful. If the response breaks off, another endpoint can still answer the call. A response that
// takes longer than aheadTime goes to the caller as it comes.
func (c *exchange) readAhead(ctx context.Context, resp *http.Response, a *resilience.Attempt) (*http.Response, error) {
	if !c.lease.Doubted() || !c.tried.Repeatable || c.grpc || resp.StatusCode >= http.StatusInternalServerError ||
		resp.Body == nil || resp.ContentLength <= 0 || resp.ContentLength > aheadBytes || !c.lease.OthersLeft(&c.tried) {
		return resp, nil
	}
	// The caller gets a copy, because net/http sets the trailer of resp at the end of the body, and
	// the caller may be looking at it then.
	shown := *resp
	shown.Trailer = resp.Trailer.Clone()
	body := &aheadBody{ReadCloser: resp.Body, ended: make(chan struct{}), atEnd: func() { shown.Trailer = resp.Trailer }}
	body.arrived = sync.NewCond(&body.mu)
	go body.fill(int(resp.ContentLength))
	// The next attempt gets at least half of the time that is left.
	timer := time.NewTimer(min(aheadTime, time.Until(a.CallDeadline())/2))
	defer timer.Stop()
	select {
	case <-body.ended:
		if body.err != io.EOF { //nolint:errorlint // io.Reader: only io.EOF itself is the end
			_ = resp.Body.Close()
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", errBroken, body.err)
		}
	case <-timer.C:
	}
	shown.Body = body
	return &shown, nil
}

// aheadBody is a body that is read into memory by a goroutine of its own, while its reader gets
// what has arrived. Close ends the goroutine.
type aheadBody struct {
	io.ReadCloser
	ended chan struct{} // closed after the last Read of the body; err is set then
	atEnd func()        // called before Read returns err

	mu      sync.Mutex
	arrived *sync.Cond
	data    []byte // arrived, and not yet read
	err     error
}

func (b *aheadBody) fill(size int) {
	defer close(b.ended)
	chunk := make([]byte, size+1) // one more, to see the end
	for {
		n, err := b.ReadCloser.Read(chunk)
		b.mu.Lock()
		b.data, b.err = append(b.data, chunk[:n]...), err
		b.arrived.Broadcast()
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Read waits until something has arrived.
func (b *aheadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) == 0 && b.err == nil {
		b.arrived.Wait()
	}
	if len(b.data) == 0 {
		b.atEnd()
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}
