package backend

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Refused is the error of a connection that is refused.
func Refused() error { return &net.OpError{Op: "dial", Net: "tcp", Err: refused} }

// Reset is the error of a connection that dies before the answer.
func Reset() error { return &net.OpError{Op: "read", Net: "tcp", Err: reset} }

// announced is the length in bytes of a body, as the header says. That of flaky-server is about as
// long.
const announced = 100

// Answer returns the response that flaky-server would send, without a body.
func Answer(req *http.Request, fate faults.Fate) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}
	//exhaustive:enforce
	switch fate.Fault {
	case faults.FaultError, faults.FaultOverload, faults.FaultDropped:
		resp.StatusCode = fate.Status
		if after := retryafter.Injected(fate.RetryAfter); after != "" {
			resp.Header = http.Header{"Retry-After": {after}}
		}
	case faults.FaultReset:
		return nil, Reset()
	case faults.FaultHang:
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	case faults.FaultTruncate:
		resp.Body, resp.ContentLength = &body{ctx: req.Context(), end: io.ErrUnexpectedEOF}, announced
	case faults.FaultSlowBody:
		resp.Body, resp.ContentLength = &body{ctx: req.Context(), takes: time.Second, end: io.EOF}, announced
	case faults.FaultNone:
	}
	return resp, nil
}

// body waits for a time, and then ends or fails.
type body struct {
	ctx   context.Context
	takes time.Duration
	end   error
}

func (b *body) Read([]byte) (int, error) {
	if !faults.Pause(b.ctx, b.takes) {
		return 0, context.Cause(b.ctx)
	}
	b.takes = 0
	return 0, b.end
}

func (b *body) Close() error { return nil }
