package resilience_test

import (
	"testing"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// A reason has the gRPC status that the upstream sent, or the one that stands for it.
func TestReasonAsGRPCStatus(t *testing.T) {
	for reason, want := range map[resilience.Reason]struct {
		code int
		sent bool
	}{
		"ok": {0, true}, "grpc_canceled": {1, true}, "grpc_unavailable": {14, true}, "grpc_unauthenticated": {16, true}, "grpc_other": {2, true},
		"status_400": {13, false}, "status_401": {16, false}, "status_403": {7, false}, "status_404": {12, false},
		"status_429": {14, false}, "status_503": {14, false}, "status_500": {2, false}, "status_not_retryable": {2, false},
		"caller_canceled": {1, false}, "attempt_timeout": {4, false}, "deadline_exceeded": {4, false},
		"dial_error": {14, false}, "breaker_open": {14, false}, "rate_limited": {8, false}, "no_route": {12, false}, "loop_detected": {9, false},
		"invalid_request": {3, false},
	} {
		if code, sent := reason.GRPC(); code != want.code || sent != want.sent {
			t.Errorf("%s: got %d, %v, want %d, %v", reason, code, sent, want.code, want.sent)
		}
	}
	for code := 1; code <= 16; code++ {
		if got, sent := resilience.GRPCReason(code).GRPC(); got != code || !sent {
			t.Errorf("%s: got %d, %v, want %d", resilience.GRPCReason(code), got, sent, code)
		}
	}
}
