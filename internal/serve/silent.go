package serve

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// silentTime is how long after it was opened a connection without a byte of a request still holds a
// stop. In net/http it is 5 s. A TLS handshake is part of this time.
const silentTime = time.Second

// silent knows the connections on which no request has begun.
type silent struct {
	closing atomic.Bool
	opened  sync.Map // of net.Conn to time.Time
}

// see is a ConnState. It takes a lock only for new connections and their first requests.
func (s *silent) see(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.opened.Store(c, time.Now())
	case http.StateIdle: // was active
	default:
		s.opened.Delete(c)
	}
}

// closeAll closes the connections that are silent for too long, until stop is called.
func (s *silent) closeAll() (stop func()) {
	s.closing.Store(true)
	done := make(chan struct{})
	var closer sync.WaitGroup
	closer.Go(func() {
		for {
			select {
			case <-time.After(s.closeOld()):
			case <-done:
				return
			}
		}
	})
	return func() { close(done); closer.Wait() }
}

// closeOld closes the connections that are silent for too long and returns when the next may be.
func (s *silent) closeOld() (next time.Duration) {
	next = silentTime
	s.opened.Range(func(c, opened any) bool {
		if left := silentTime - time.Since(opened.(time.Time)); left > 0 {
			next = min(next, left)
		} else {
			_ = c.(net.Conn).Close()
		}
		return true
	})
	return next
}

// errorLog leaves out the TLS handshakes that a stop ends. They are nobody's error.
type errorLog struct {
	slog.Handler
	silent *silent
}

// Handle implements slog.Handler.
func (h errorLog) Handle(ctx context.Context, r slog.Record) error {
	if h.silent.closing.Load() && strings.HasPrefix(r.Message, "http: TLS handshake error") {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}
