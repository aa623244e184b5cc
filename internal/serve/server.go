package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readHeaderTimeout keeps a client that sends its headers byte by byte from holding a connection.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout is above the 60 s and 90 s for which usual clients and load balancers keep a connection,
	// so that they close it and not we: a request that meets a closing connection is lost.
	idleTimeout = 120 * time.Second
	// maxHeaderBytes is far above any real header, and an eighth of the default: it is memory that a
	// caller takes before anything is known of it. A handler that refuses large headers in its own words has
	// the half of it: what is above this, net/http refuses unseen.
	maxHeaderBytes = 128 << 10
	// cutGrace is how long handlers whose context has ended have before their connections end too. A
	// handler that watches its context ends its call in its own way in it, and finishes its span.
	cutGrace = time.Second
)

// errCut is the cause of the end of a request's context when the drain timeout is over.
var errCut = errors.New("the server is shutting down")

// server is one listener with its calls.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
	drained  func() // of the Listener
	calls    calls
	leaving  atomic.Bool             // answers ask for their connection to be closed
	cut      context.CancelCauseFunc // ends the context of every request
}

func newServer(ctx context.Context, l Listener, opened net.Listener, logger *slog.Logger) *server {
	requests, cut := context.WithCancelCause(ctx)
	s := &server{name: l.Name, listener: opened, drained: l.Drained, cut: cut}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // with prior knowledge, as service meshes talk it within a pod
	s.http = &http.Server{
		Handler:           s.counted(l.Handler),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// OPTIONS * is for the handler too, which counts and logs it.
		DisableGeneralOptionsHandler: true,
		// No ReadTimeout and no WriteTimeout: they bound a whole body, and a stream has no end. Handlers
		// bound what they read and write.
		Protocols:   protocols,
		BaseContext: func(net.Listener) context.Context { return requests },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context { limitUnsent(conn); return ctx },
		// What net/http logs concerns one caller: a broken preface, a handler that panicked.
		ErrorLog: slog.NewLogLogger(logger.With(logListener, l.Name).Handler(), slog.LevelWarn),
	}
	return s
}

// counted wraps next without wrapping its ResponseWriter, which may be a Flusher, a Hijacker and more.
func (s *server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.begin()
		defer s.calls.end()
		// Not Server.SetKeepAlivesEnabled(false): that closes idle connections there and then, and a
		// request that is on its way on one of them is lost. An upgrade needs its own Connection header.
		if s.leaving.Load() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// serve returns nil when the server was shut down.
func (s *server) serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s (%s): %w", s.listener.Addr(), s.name, err)
	}
	return nil
}

// shutdown stops accepting, gives the calls in flight until limit ends, cuts the rest, and returns how many
// that were.
func (s *server) shutdown(limit context.Context) (cut int) {
	_ = s.http.Shutdown(limit) // its error is that limit has ended, and what that means is seen below
	cut = s.calls.wait(limit)  // connections that were taken over are unknown to Shutdown
	s.cut(errCut)
	if cut > 0 {
		grace, cancel := context.WithTimeout(context.WithoutCancel(limit), cutGrace)
		defer cancel()
		s.calls.wait(grace)
	}
	_ = s.http.Close() // what could fail to close is about to end with the process
	if s.drained != nil {
		s.drained()
	}
	return cut
}

// calls counts the calls in flight.
type calls struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n becomes 0; nil while nobody waits
}

func (c *calls) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

func (c *calls) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.n == 0 && c.none != nil {
		close(c.none)
		c.none = nil
	}
}

// wait returns when no call is in flight, or when ctx ends, and then how many are. One caller at a time.
func (c *calls) wait(ctx context.Context) int {
	c.mu.Lock()
	if c.n == 0 {
		c.mu.Unlock()
		return 0
	}
	none := make(chan struct{})
	c.none = none
	c.mu.Unlock()

	select {
	case <-none:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
