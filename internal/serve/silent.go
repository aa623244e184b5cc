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
	mu      sync.Mutex
	opened  map[net.Conn]time.Time
}

// see is called with each state of a connection, but for idle.
func (s *silent) see(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.opened, c)
		return
	}
	if s.opened == nil {
		s.opened = map[net.Conn]time.Time{}
	}
	s.opened[c] = time.Now()
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
	var old []net.Conn
	s.mu.Lock()
	for c, opened := range s.opened {
		if left := silentTime - time.Since(opened); left > 0 {
			next = min(next, left)
		} else {
			old = append(old, c)
		}
	}
	s.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
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
