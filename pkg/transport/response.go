package transport

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// What the losing response of a retried attempt is read for, at most, so that
// its connection can serve the next attempt.
const (
	drainBytes = 64 << 10
	drainTime  = 50 * time.Millisecond
)

var errDrained = errors.New("the losing response took too long to drain")

// discard drains a response nobody gets, within bounds, and closes it.
func discard(resp *http.Response, a *resilience.Attempt) {
	// Of the time that is left, the next attempt gets at least half.
	limit := min(drainTime, time.Until(a.CallDeadline())/2)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		limit = 0 // the connection has no end to read to
	}
	if resp.ContentLength <= drainBytes && limit > 0 {
		stop := time.AfterFunc(limit, func() { a.Cancel(errDrained) })
		_, _ = io.CopyN(io.Discard, resp.Body, drainBytes+1)
		stop.Stop()
	}
	_ = resp.Body.Close()
}

// responseBody holds the attempt open while the caller reads: the attempt's
// context lives until the end, and the end is what the breaker hears.
type responseBody struct {
	io.ReadCloser
	attempt  *resilience.Attempt
	exchange *exchange
	stall    time.Duration
	timer    *time.Timer
	read     int64 // bytes so far
	// returned is when the last Read gave something, and paused whether its reader
	// has then let patience pass before the next.
	returned time.Time
	paused   bool
	over     atomic.Bool
}

// patience is how long a reader may pause without a doubt that the upstream, which
// cannot send on meanwhile, still waits for it. The shortest limits in use are
// 1 s and more (nginx's send_timeout and the like).
const patience = 500 * time.Millisecond

// unnoticed is how much of a body an upstream can send before it notices that
// nobody reads: the buffers on the way hold more.
const unnoticed = 64 << 10

func (b *responseBody) Read(p []byte) (int, error) {
	if b.over.Load() { // judged already
		return b.ReadCloser.Read(p)
	}
	if !b.paused && b.read > unnoticed {
		b.paused = time.Since(b.returned) >= patience
	}
	if b.stall > 0 {
		// Only the upstream's silence counts, not a slow reader's.
		if b.timer == nil {
			b.timer = time.AfterFunc(b.stall, b.cut)
		} else {
			b.timer.Reset(b.stall)
		}
	}
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	if b.read += int64(n); b.read > unnoticed && !b.paused {
		b.returned = time.Now()
	}
	switch {
	case err == nil:
	case err == io.EOF: //nolint:errorlint // io.Reader: only io.EOF itself is the end
		_ = b.end(bodyComplete, nil)
	case b.callerGone():
		_ = b.end(bodyAbandoned, nil)
	case b.paused:
		err = b.end(bodyNotRead, err)
	default:
		err = b.end(bodyDied, err)
	}
	return n, err
}

// end tells the breaker and the trace how the body ended, once, and returns what
// its reader is told.
func (b *responseBody) end(e ending, err error) error {
	if !b.over.CompareAndSwap(false, true) {
		return err
	}
	b.exchange.trace.bodyEnded(err)
	if err != nil {
		err = b.exchange.bodyFailed(b.attempt, err)
	}
	b.attempt.Release(e.blame().health)
	return err
}

func (b *responseBody) callerGone() bool { return b.exchange.req.Context().Err() != nil }

func (b *responseBody) cut() {
	b.attempt.Cancel(fmt.Errorf("the response body stalled for %v", b.stall))
}

// Close before the end is the caller's choice; the upstream was good so far.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	if b.callerGone() {
		_ = b.end(bodyAbandoned, nil)
	} else {
		_ = b.end(bodyClosed, nil)
	}
	return err
}

// upgradedBody is the connection after 101 Switching Protocols, untouched but
// for the attempt that ends with it.
type upgradedBody struct {
	io.ReadWriteCloser
	attempt  *resilience.Attempt
	exchange *exchange
}

func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.exchange.trace.bodyEnded(nil)
	b.attempt.Release(resilience.Neutral) // the breaker heard at the switch
	return err
}

// CloseWrite passes a half-close on, which proxies ask for by this method.
func (b *upgradedBody) CloseWrite() error {
	if half, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("half-close: %w", errors.ErrUnsupported)
}
