package reboundgrpc

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// judgement is the meaning of a call's end.
type judgement struct {
	health resilience.Health
	reason resilience.Reason
	repeat repeat
}

// repeat says which calls may be made again.
type repeat uint8

const (
	never      repeat = iota
	byMethod          // if the method allows it: the server may have processed the call
	byPushback        // if the server asks for it
	everything        // all: nothing was sent
)

// judgeStatus decides who is to blame for a status. It is the table in docs/grpc.md. ours reports
// whether our own limit for the attempt had passed.
func judgeStatus(code codes.Code, ours bool) judgement {
	switch code {
	case codes.OK:
		return judgement{resilience.Healthy, resilience.ReasonOK, never}
	case codes.Unavailable:
		return judgement{resilience.Unhealthy, reasonOf(code), byMethod}
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return judgement{resilience.Unhealthy, reasonOf(code), never}
	case codes.DeadlineExceeded:
		if ours {
			return judgement{resilience.Unhealthy, reasonOf(code), never}
		}
		return judgement{resilience.Neutral, reasonOf(code), never}
	case codes.ResourceExhausted:
		return judgement{resilience.Neutral, reasonOf(code), byPushback}
	case codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated:
		return judgement{resilience.Healthy, reasonOf(code), never}
	}
	return judgeStatus(codes.Unknown, ours) // gRPC does not define it
}

// judge decides who is to blame for the end of an attempt with err, which s describes.
func (s *seen) judge(err error, ours bool) judgement {
	code := codeOf(err)
	switch {
	case code == codes.OK, s.answered():
		return judgeStatus(code, ours)
	case s.unsent() && code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Canceled, notEncoded(err):
		// bad metadata, no credentials, a message without an encoding
		return judgement{resilience.Neutral, resilience.ReasonInvalidRequest, never}
	case s.header != nil: // the response has begun
		j := judgeStatus(code, ours)
		j.repeat = never
		return j
	case s.unsent() && code == codes.Unavailable:
		return judgement{resilience.Unhealthy, resilience.ReasonDialError, everything}
	case code == codes.Unavailable:
		return judgement{resilience.Unhealthy, resilience.ReasonResetBeforeHeaders, byMethod}
	case code == codes.DeadlineExceeded && ours:
		return judgement{resilience.Unhealthy, resilience.ReasonAttemptTimeout, byMethod}
	case code == codes.DeadlineExceeded:
		return judgement{resilience.Neutral, resilience.ReasonDeadlineExceeded, never}
	case code == codes.Canceled: // the connection was closed by this process
		return judgement{resilience.Neutral, reasonOf(code), never}
	}
	j := judgeStatus(code, ours) // such as a broken stream
	j.repeat = never
	return j
}

// notEncoded reports whether grpc-go could not encode a message of the caller. It uses INTERNAL
// for this, as servers do for their own failures, so only the text tells. A test makes such an
// error with grpc-go itself.
func notEncoded(err error) bool {
	s := status.Convert(err)
	return s.Code() == codes.Internal &&
		(strings.HasPrefix(s.Message(), "grpc: error while marshaling") || strings.HasPrefix(s.Message(), "grpc: error while compressing"))
}

func reasonOf(code codes.Code) resilience.Reason { return resilience.GRPCReason(int(code)) } //nolint:gosec // 0 to 16

func nameOf(code codes.Code) string { return grpcwire.Code(code).String() }
