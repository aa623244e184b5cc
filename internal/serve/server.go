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
	// readHeaderTimeout limits how long a client that sends its headers byte by byte holds a
	// connection.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout is longer than the 60 s to 90 s for which common clients and load balancers keep
	// a connection. So the other side closes it first: a request that meets a closing connection is
	// lost.
	idleTimeout = 120 * time.Second
	// maxHeaderBytes is far above real headers, and an eighth of net/http's default. A caller can
	// make the server allocate that much before the handler sees the request. net/http rejects
	// larger headers itself. A handler that wants to reject large headers itself must use a lower
	// limit; the gateway uses half.
	maxHeaderBytes = 128 << 10
	// cutGrace is the time between the end of a handler's context and the end of its connection. In
	// it, a handler that watches its context can end its call properly and finish its span.
	cutGrace = time.Second
)

// errCut is the cause of cancellation of a request that outlives the drain timeout.
var errCut = errors.New("the server is shutting down")

// server is one listener and its calls.
type server struct {
	name     string
	listener net.Listener
	parker   *parker // nil with TLS: to leave the server, a connection would have to close its TLS
	http     *http.Server
	drained  func() // Listener.Drained
	calls    calls
	silent   silent
	leaving  atomic.Bool             // responses ask the caller to close the connection
	cut      context.CancelCauseFunc // ends the context of every request
}

// maxStreams is the most requests in flight on one HTTP/2 connection. net/http's default is 250.
const maxStreams = 2000

func newServer(ctx context.Context, l Listener, opened net.Listener, logger *slog.Logger) *server {
	requests, cut := context.WithCancelCause(ctx)
	s := &server{name: l.Name, listener: limited{opened}, drained: l.Drained, cut: cut}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(l.TLS != nil)
	protocols.SetUnencryptedHTTP2(l.TLS == nil) // with prior knowledge, as service meshes use it within a pod
	s.http = &http.Server{
		Handler:           s.counted(l.Handler),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Let the handler count and log OPTIONS * too.
		DisableGeneralOptionsHandler: true,
		// No ReadTimeout or WriteTimeout: they limit a whole body, and a stream has no end.
		// Handlers limit their reads and writes.
		Protocols: protocols,
		// A client of gRPC has one connection, and streams beyond the limit wait without a word.
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		TLSConfig:   l.TLS,
		BaseContext: func(net.Listener) context.Context { return requests },
		ConnState:   s.see,
		ConnContext: WithConn,
		// net/http logs problems of single callers: a broken preface, a handler that panicked.
		ErrorLog: slog.NewLogLogger(errorLog{logger.With(logListener, l.Name).Handler(), &s.silent}, slog.LevelWarn),
	}
	if l.TLS == nil {
		s.parker = newParker(opened.Addr())
	}
	return s
}

// see is the ConnState of the http.Server.
func (s *server) see(c net.Conn, state http.ConnState) {
	if c, ok := c.(*conn); ok && state == http.StateIdle {
		c.state.Store(idle)
	}
	s.silent.see(c, state)
}

type connKey struct{}

// WithConn returns a context whose connection is conn, as an [http.Server] wants it for its
// ConnContext.
func WithConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// Conn returns the connection of the request with the context ctx, or nil if ctx is of another
// server. A handler can close the connection of an HTTP/2 request, which it cannot hijack.
func Conn(ctx context.Context) net.Conn {
	conn, _ := ctx.Value(connKey{}).(net.Conn)
	return conn
}

// counted counts the calls of next. It passes on the ResponseWriter unwrapped, since that may
// implement Flusher, Hijacker and more.
func (s *server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.begin()
		defer s.calls.end()
		// Not Server.SetKeepAlivesEnabled(false): that closes idle connections at once, which loses
		// requests on their way. An upgrade needs its own Connection header.
		if s.leaving.Load() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// limited limits the unsent data of a listener's connections.
type limited struct{ net.Listener }

func (l limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		limitUnsent(c)
	}
	return c, err
}

// listeners are those to serve.
func (s *server) listeners() []net.Listener {
	if s.parker == nil {
		return []net.Listener{s.listener}
	}
	return []net.Listener{arrivals{s.listener, s.parker}, s.parker}
}

// serve serves one of the listeners. It returns nil after a shutdown.
func (s *server) serve(l net.Listener) (err error) {
	if s.parker == nil {
		err = s.http.ServeTLS(l, "", "")
	} else {
		err = s.http.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s (%s): %w", l.Addr(), s.name, err)
	}
	return nil
}

// shutdown stops accepting and waits for the calls in flight until limit ends. Then it cuts the
// remaining calls and returns their number.
func (s *server) shutdown(limit context.Context) (cut int) {
	stop := s.silent.closeAll()
	defer stop()
	if s.parker != nil {
		s.parker.stop()
	}
	_ = s.http.Shutdown(limit) // the error only says that limit ended; cut shows the effect
	cut = s.calls.wait(limit)  // Shutdown does not know hijacked connections
	s.cut(errCut)
	if cut > 0 {
		grace, cancel := context.WithTimeout(context.WithoutCancel(limit), cutGrace)
		defer cancel()
		s.calls.wait(grace)
	}
	_ = s.http.Close() // a connection that fails to close ends with the process
	if s.drained != nil {
		s.drained()
	}
	return cut
}

// calls counts the calls in flight.
type calls struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n becomes 0; nil while there is no waiter
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

// wait returns 0 when no call is in flight. If ctx ends first, it returns the number of calls. Only
// one goroutine may wait at a time.
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
