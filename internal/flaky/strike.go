package flaky

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/pkg/faults"
)

const (
	drips    = 10                     // pieces of a slow body
	dripWait = 100 * time.Millisecond // before each piece
)

// answer sends v with status, or the answer that fate demands.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, fate faults.Fate, status int, v any) {
	//exhaustive:enforce
	switch fate.Fault {
	case faults.FaultError, faults.FaultOverload, faults.FaultDropped:
		if after := retryafter.Injected(fate.RetryAfter); after != "" {
			w.Header().Set("Retry-After", after)
		}
		refuse(w, fate.Status, injected(fate))
		return
	case faults.FaultReset:
		reset(w)
		return
	case faults.FaultHang:
		s.hang(r.Context())
		abort()
	case faults.FaultNone, faults.FaultTruncate, faults.FaultSlowBody:
	}

	body, err := encode(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	switch fate.Fault {
	case faults.FaultTruncate:
		send(w, body[:len(body)/2])
		abort()
	case faults.FaultSlowBody:
		drip(r.Context(), w, body)
	default:
		_, _ = w.Write(body) // fails only if the caller has left
	}
}

// injected returns the text of the error status that fate demands.
func injected(fate faults.Fate) string {
	return fmt.Sprintf("injected fault: %s (arrival %d)", fate.Fault, fate.Arrival)
}

// drip writes body in pieces, with a wait before each.
func drip(caller context.Context, w http.ResponseWriter, body []byte) {
	for i := range drips {
		if !faults.Pause(caller, dripWait) {
			abort()
		}
		send(w, body[i*len(body)/drips:(i+1)*len(body)/drips])
	}
}

// send writes piece and flushes it, so that the caller sees it now.
func send(w http.ResponseWriter, piece []byte) {
	// HEAD has no body
	if _, err := w.Write(piece); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		abort()
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		abort()
	}
}

// hang blocks until the caller leaves or the server stops.
func (s *Server) hang(caller context.Context) {
	select {
	case <-caller.Done():
	case <-s.stopped.Done():
	}
}

// reset ends the connection with a TCP RST. Closing with a linger of 0 discards unsent data and
// sends RST. A connection that is not TCP is just closed. On a shared connection (HTTP/2) only the
// stream is reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		abort()
	}
	resetConn(conn)
}

func resetConn(conn net.Conn) {
	raw := conn
	// for TLS, whose own Close would send close_notify
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		raw = wrapped.NetConn()
	}
	if tcp, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0) // fails only if the connection is gone
	}
	_ = raw.Close()
}

// abort ends the handler without a complete answer. net/http closes the connection.
func abort() { panic(http.ErrAbortHandler) }
