package flaky

import (
	"encoding/binary"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/pkg/faults"
)

type callKey struct{}

// call is a gRPC call and its response. Package grpc writes to it what a good server sends; call
// sends what the fault makes of it.
//
// A method of the service runs on a goroutine of package grpc, but only net/http's may end the
// stream. So the method leaves a strike, and finish carries it out.
type call struct {
	http.ResponseWriter
	request *http.Request

	// of the method's goroutine
	id      string
	attempt int

	strike atomic.Pointer[strike] // nil until it is decided

	// of net/http's goroutine
	frame []byte // of a message that is not complete
	sent  int    // messages
}

// strike is the fate of a call.
type strike struct {
	faults.Fate
	whole int // messages before the one that is truncated
}

// unary decides how fate strikes a call with one reply.
func (c *call) unary(fate faults.Fate) {
	c.strike.Store(&strike{Fate: fate})
}

// stream decides how fate strikes a stream, and returns how many messages it may send.
func (c *call) stream(fate faults.Fate) (most int) {
	c.strike.Store(&strike{Fate: fate, whole: fate.GRPC.Messages})
	switch fate.Fault {
	case faults.FaultNone, faults.FaultSlowBody:
		return math.MaxInt
	case faults.FaultTruncate:
		return fate.GRPC.Messages + 1
	case faults.FaultError:
		if fate.GRPC.After == faults.AfterMessage {
			return fate.GRPC.Messages
		}
	default:
	}
	return 0
}

// passes reports whether the headers and the messages of a response with the fate s get through.
func (s *strike) passes() (headers, messages bool) {
	if s == nil {
		return true, true // no fault is decided: a mistake of the caller
	}
	switch s.Fault {
	case faults.FaultNone, faults.FaultSlowBody, faults.FaultTruncate:
		return true, true
	case faults.FaultError:
		return s.GRPC.After != faults.AfterNothing, s.GRPC.After == faults.AfterMessage
	default:
		return false, false
	}
}

func (c *call) WriteHeader(status int) {
	if headers, _ := c.strike.Load().passes(); headers {
		c.ResponseWriter.WriteHeader(status)
	}
}

// Flush is what package grpc requires of a ResponseWriter.
func (c *call) Flush() {
	if headers, _ := c.strike.Load().passes(); headers {
		_ = http.NewResponseController(c.ResponseWriter).Flush() // fails only if the caller has left
	}
}

// Write takes a part of a message.
func (c *call) Write(p []byte) (int, error) {
	s := c.strike.Load()
	_, messages := s.passes()
	switch {
	case !messages:
		return len(p), nil
	case s == nil || s.Fault != faults.FaultTruncate && s.Fault != faults.FaultSlowBody:
		return c.ResponseWriter.Write(p)
	}
	const prefix = 5 // a flag and the length
	c.frame = append(c.frame, p...)
	if len(c.frame) < prefix || len(c.frame)-prefix < int(binary.BigEndian.Uint32(c.frame[1:])) {
		return len(p), nil
	}
	frame := c.frame
	c.frame = nil
	c.sent++
	switch {
	case s.Fault == faults.FaultSlowBody:
		drip(c.request.Context(), c.ResponseWriter, frame)
	case c.sent > s.whole:
		_, _ = c.ResponseWriter.Write(frame[:len(frame)/2]) // fails only if the caller has left
	default:
		_, _ = c.ResponseWriter.Write(frame)
	}
	return len(p), nil
}

// finish ends the response as its fate demands, after package grpc has ended it.
func (c *call) finish() {
	s := c.strike.Load()
	if s == nil {
		return
	}
	switch s.Fault {
	case faults.FaultError, faults.FaultOverload, faults.FaultDropped:
		c.status(s)
	case faults.FaultReset, faults.FaultTruncate:
		c.breakOff(s.GRPC.Break)
	case faults.FaultHang:
		abort()
	case faults.FaultNone, faults.FaultSlowBody:
	}
}

// status sends the error status of s instead of package grpc's.
func (c *call) status(s *strike) {
	h := c.Header()
	c.clearStatus()
	h.Set(grpcwire.HeaderStatus, strconv.Itoa(s.GRPC.Code))
	h.Set(grpcwire.HeaderMessage, grpcwire.EncodeMessage(injected(s.Fate)))
	headers, _ := s.passes()
	if headers { // they are sent, and named the trailers of the status
		if s.GRPC.Pushback != "" {
			h.Set(http.TrailerPrefix+grpcwire.HeaderPushback, s.GRPC.Pushback)
		}
		return
	}
	h.Del("Trailer")
	if s.GRPC.Pushback != "" {
		h.Set(grpcwire.HeaderPushback, s.GRPC.Pushback)
	}
	c.ResponseWriter.WriteHeader(http.StatusOK)
}

// breakOff ends the call without a status.
func (c *call) breakOff(how faults.Break) {
	if how == faults.BreakEnd {
		c.clearStatus()
		c.Header().Del("Trailer")
		return
	}
	if conn := serve.Conn(c.request.Context()); conn != nil && how == faults.BreakConnection {
		resetConn(conn)
	}
	abort()
}

func (c *call) clearStatus() {
	for _, name := range []string{grpcwire.HeaderStatus, grpcwire.HeaderMessage, grpcwire.HeaderDetails} {
		c.Header().Del(name)
	}
}
