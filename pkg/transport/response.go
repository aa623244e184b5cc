package transport

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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
}

func (b *responseBody) Read(p []byte) (int, error) {
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
	switch {
	case err == nil:
	case err == io.EOF: //nolint:errorlint // io.Reader: only io.EOF itself is the end
		b.exchange.trace.bodyEnded(nil)
		b.attempt.Release(resilience.Healthy)
	case b.callerGone():
		b.exchange.trace.bodyEnded(nil)
		b.attempt.Release(resilience.Neutral)
	default:
		b.exchange.trace.bodyEnded(err)
		err = b.exchange.bodyFailed(b.attempt, err)
		b.attempt.Release(resilience.Unhealthy)
	}
	return n, err
}

func (b *responseBody) callerGone() bool { return b.exchange.req.Context().Err() != nil }

func (b *responseBody) cut() {
	b.attempt.Cancel(fmt.Errorf("the response body stalled for %v", b.stall))
}

// Close before the end is the caller's choice; the upstream was good so far.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.exchange.trace.bodyEnded(nil)
	if b.callerGone() {
		b.attempt.Release(resilience.Neutral)
	} else {
		b.attempt.Release(resilience.Healthy)
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
