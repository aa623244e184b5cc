package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Limits for draining the response of a retried attempt. Only a drained connection can serve the
// next attempt.
const (
	drainBytes = 64 << 10
	drainTime  = 50 * time.Millisecond
)

var errDrained = errors.New("the discarded response took too long to drain")

// discard drains a response that the caller does not get, within limits, and closes it.
func discard(resp *http.Response, a *resilience.Attempt) {
	// The next attempt gets at least half of the time that is left.
	limit := min(drainTime, time.Until(a.CallDeadline())/2)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		limit = 0 // the body of an upgrade has no end
	}
	if resp.ContentLength <= drainBytes && limit > 0 {
		stop := time.AfterFunc(limit, func() { a.Cancel(errDrained) })
		_, _ = io.CopyN(io.Discard, resp.Body, drainBytes+1)
		stop.Stop()
	}
	_ = resp.Body.Close()
}

// responseBody keeps the attempt open while the caller reads. The attempt's context ends with the
// body, and the end of the body counts for the circuit.
type responseBody struct {
	io.ReadCloser
	attempt  *resilience.Attempt
	exchange *exchange
	lease    *endpoint.Lease
	grpc     *grpcBody // nil if it is not a response of gRPC
	timer    *time.Timer
	read     int64 // bytes read so far
	// returned is when the last Read returned data. paused reports whether the reader then waited
	// longer than maxReadPause before its next Read.
	returned time.Time
	paused   bool
	over     atomic.Bool
}

// maxReadPause is how long a reader may pause before an error of the upstream may be due to the
// pause. The shortest send timeouts in use are 1 s and more (nginx's send_timeout, for example).
const maxReadPause = 500 * time.Millisecond

// ErrReaderPaused is in the error of a response body that broke off after its reader had paused for
// so long that the upstream may have given up waiting.
var ErrReaderPaused = errors.New("the reader of the response paused")

// undetectedSize is how many bytes an upstream can send before it notices a paused reader: the
// buffers on the way hold more.
const undetectedSize = 64 << 10

func (b *responseBody) Read(p []byte) (int, error) {
	if b.over.Load() { // the end was recorded already
		return b.ReadCloser.Read(p)
	}
	if !b.paused && b.read > undetectedSize {
		b.paused = time.Since(b.returned) >= maxReadPause
	}
	if stall := b.exchange.transport.policy.BodyIdleTimeout; stall > 0 && !b.grpc.idles() {
		// Only the upstream's silence counts, not the time that a slow reader takes.
		if b.timer == nil {
			b.timer = time.AfterFunc(stall, b.cut)
		} else {
			b.timer.Reset(stall)
		}
	}
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	if b.read += int64(n); b.read > undetectedSize && !b.paused {
		b.returned = time.Now()
	}
	switch {
	case err == nil:
	case err == io.EOF: //nolint:errorlint // io.Reader: only io.EOF itself is the end
		_ = b.end(bodyComplete, nil)
	case b.grpc != nil && timeIsUp(b.exchange.req.Context()):
		_ = b.end(bodyAbandoned, nil)
		err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	case b.callerGone():
		_ = b.end(bodyAbandoned, nil)
	case b.paused:
		err = b.end(bodyUnread, fmt.Errorf("%w: %w", ErrReaderPaused, err))
	default:
		err = b.end(bodyBroken, err)
	}
	return n, err
}

// end records how the body ended in the circuit and the trace, once. It returns the error for the
// reader.
func (b *responseBody) end(e ending, err error) error {
	if !b.over.CompareAndSwap(false, true) {
		return err
	}
	if e == bodyComplete && b.grpc != nil {
		e = b.grpc.ending(b.exchange)
	}
	b.exchange.trace.bodyEnded(e, err)
	if err != nil {
		err = b.exchange.bodyFailed(b.attempt, err)
	}
	h := e.blame().health
	b.lease.End(h)
	b.attempt.Release(spare(h, b.lease))
	return err
}

func (b *responseBody) callerGone() bool { return b.exchange.req.Context().Err() != nil }

func (b *responseBody) cut() {
	b.attempt.Cancel(fmt.Errorf("the response body stalled for %v", b.exchange.transport.policy.BodyIdleTimeout))
}

// A Close before the end is the caller's choice. The upstream was healthy so far.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	if b.callerGone() {
		_ = b.end(bodyAbandoned, nil)
	} else {
		_ = b.end(bodyClosed, nil)
	}
	return err
}

// upgradedBody is the connection after 101 Switching Protocols. It changes nothing but ends the
// attempt when it is closed.
type upgradedBody struct {
	io.ReadWriteCloser
	attempt  *resilience.Attempt
	exchange *exchange
	lease    *endpoint.Lease
}

func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.exchange.trace.bodyEnded(bodyComplete, nil)
	b.lease.End(resilience.Neutral)
	b.attempt.Release(resilience.Neutral) // the circuit counted the attempt at the switch
	return err
}

// CloseWrite half-closes the connection. Proxies look for this method.
func (b *upgradedBody) CloseWrite() error {
	if half, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return fmt.Errorf("half-close: %w", errors.ErrUnsupported)
}
