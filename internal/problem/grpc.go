package problem

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rebound-dev/rebound/internal/grpcwire"
)

// domain is the domain of our reasons in a google.rpc.ErrorInfo.
const domain = "rebound"

// WriteGRPC writes p as the whole response to a gRPC call: a status without messages. The message
// begins with the reason. A google.rpc.ErrorInfo repeats it for programs, with the route, the
// upstream and the attempts. If retryIn is above 0, a google.rpc.RetryInfo and a pushback tell the
// caller to wait for so long. WriteGRPC must be the first write to w. It returns the status.
func WriteGRPC(w http.ResponseWriter, p Problem, retryIn time.Duration) (grpcwire.Code, string) {
	h := w.Header()
	if retryIn > 0 {
		h[grpcwire.HeaderPushback] = []string{strconv.FormatInt(retryIn.Milliseconds(), 10)}
	}
	for _, name := range []string{"Retry-After", "Content-Encoding", "Content-Length", "Trailer", "Grpc-Encoding"} {
		h.Del(name)
	}
	h.Set("Content-Type", grpcwire.ContentType)
	code, message := setGRPC(h, "", GRPCStatus(p, retryIn))
	w.WriteHeader(http.StatusOK)
	return code, message
}

// EndGRPC writes p as the trailers of a response that has begun. Otherwise it is like [WriteGRPC].
func EndGRPC(w http.ResponseWriter, p Problem) (grpcwire.Code, string) {
	return setGRPC(w.Header(), http.TrailerPrefix, GRPCStatus(p, 0))
}

// setGRPC sets s in h, with a prefix of the names.
func setGRPC(h http.Header, prefix string, s *status.Status) (grpcwire.Code, string) {
	h[prefix+grpcwire.HeaderStatus] = []string{strconv.Itoa(int(s.GetCode()))}
	h[prefix+grpcwire.HeaderMessage] = []string{grpcwire.EncodeMessage(s.GetMessage())}
	if encoded, err := (proto.MarshalOptions{Deterministic: true}).Marshal(s); err == nil {
		h[prefix+grpcwire.HeaderDetails] = []string{base64.RawStdEncoding.EncodeToString(encoded)}
	}
	return grpcwire.Code(s.GetCode()), s.GetMessage() //nolint:gosec // one of the 17 codes
}

// GRPCStatus returns p as a gRPC status with the details that [WriteGRPC] describes.
func GRPCStatus(p Problem, retryIn time.Duration) *status.Status {
	p = p.complete()
	code := grpcCode(p)
	s := &status.Status{Code: int32(code), Message: message(p)}
	info := &errdetails.ErrorInfo{Reason: p.Reason, Domain: domain, Metadata: map[string]string{}}
	for key, value := range map[string]string{"route": p.Route, "upstream": p.Upstream, "traceId": p.TraceID} {
		if value != "" {
			info.Metadata[key] = value
		}
	}
	if p.Attempts >= 0 {
		info.Metadata["attempts"] = strconv.Itoa(p.Attempts)
	}
	details := []proto.Message{info}
	if retryIn > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryIn)})
	}
	for _, d := range details {
		if encoded, err := anypb.New(d); err == nil { // it fails for text that is not UTF-8 only
			s.Details = append(s.Details, encoded)
		}
	}
	return s
}

func message(p Problem) string {
	text := p.Detail
	if p.Reason != "" {
		text = p.Reason + ": " + text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// grpcCode returns the code for an error of ours: UNAVAILABLE if the upstream cannot serve the
// call, RESOURCE_EXHAUSTED for a limit, DEADLINE_EXCEEDED if the time was up. What a caller can
// cause has a code that no circuit of a gateway before this one counts as a failure. The others are
// those that gRPC's http-grpc-status-mapping.md gives for the HTTP status.
func grpcCode(p Problem) grpcwire.Code {
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge:
		return grpcwire.ResourceExhausted
	case http.StatusServiceUnavailable:
		if p.Reason == "concurrency_limit" {
			return grpcwire.ResourceExhausted
		}
		return grpcwire.Unavailable
	case http.StatusBadGateway:
		return grpcwire.Unavailable
	case http.StatusGatewayTimeout:
		return grpcwire.DeadlineExceeded
	case StatusCallerGone:
		return grpcwire.Canceled
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return grpcwire.Unimplemented
	case http.StatusForbidden:
		return grpcwire.PermissionDenied
	case http.StatusUnauthorized:
		return grpcwire.Unauthenticated
	case http.StatusBadRequest:
		return grpcwire.InvalidArgument
	case http.StatusLoopDetected:
		return grpcwire.FailedPrecondition
	}
	return grpcwire.Unknown
}
