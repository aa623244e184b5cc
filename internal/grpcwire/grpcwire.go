// Package grpcwire reads and writes the headers and trailers of gRPC calls over HTTP/2. The rules
// are those of the gRPC project's PROTOCOL-HTTP2.md, and for retries of its proposal A6.
package grpcwire

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers and trailers of gRPC, in net/http's canonical form.
const (
	HeaderStatus   = "Grpc-Status"
	HeaderMessage  = "Grpc-Message"
	HeaderDetails  = "Grpc-Status-Details-Bin"
	HeaderTimeout  = "Grpc-Timeout"
	HeaderPushback = "Grpc-Retry-Pushback-Ms"
	HeaderAttempts = "Grpc-Previous-Rpc-Attempts"
)

// ContentType is the media type of messages in the default encoding.
const ContentType = "application/grpc"

// Code is a gRPC status code.
type Code int

// The status codes.
const (
	OK Code = iota
	Canceled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
	codeCount
)

// names returns the names of all codes, in order.
func names() [codeCount]string {
	return [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
		"UNAUTHENTICATED",
	}
}

// String returns the name of the code, such as UNAVAILABLE. A code that gRPC does not define is
// UNKNOWN, as for any client.
func (c Code) String() string {
	if c < 0 || c >= codeCount {
		c = Unknown
	}
	return names()[c]
}

// Fails reports whether c says that the server failed. DEADLINE_EXCEEDED does not: the code does
// not tell whose time was up. Nor does RESOURCE_EXHAUSTED: the server works, and refuses for now.
func (c Code) Fails() bool {
	switch c {
	case Unknown, Internal, Unavailable, DataLoss:
		return true
	}
	return false
}

// ParseCode returns the code with a name, in capital letters, or with a number.
func ParseCode(s string) (c Code, ok bool) {
	for c, name := range names() {
		if s == name || s == strconv.Itoa(c) {
			return Code(c), true
		}
	}
	return Unknown, false
}

// Is reports whether a request or a response with the header h is one of gRPC. gRPC-Web is another
// protocol.
func Is(h http.Header) bool {
	v := h["Content-Type"]
	if len(v) == 0 || len(v[0]) < len(ContentType) || !strings.EqualFold(v[0][:len(ContentType)], ContentType) {
		return false
	}
	rest := v[0][len(ContentType):]
	return rest == "" || strings.ContainsRune("+; \t", rune(rest[0]))
}

// IsAnswer reports whether resp is an answer of gRPC. A proxy in front of the server answers
// differently.
func IsAnswer(resp *http.Response) bool { return resp.StatusCode == http.StatusOK && Is(resp.Header) }

// Status returns the status in the header of a response without messages (Trailers-Only), or in the
// trailers. ok is false if there is none. An unreadable one is UNKNOWN.
func Status(h http.Header) (c Code, ok bool) {
	v := h[HeaderStatus]
	if len(v) == 0 {
		return Unknown, false
	}
	n, err := strconv.Atoi(v[0])
	if err != nil || n < 0 || n >= int(codeCount) {
		return Unknown, true
	}
	return Code(n), true
}

// Pushback returns how long a server asks to wait before the next attempt. given reports whether it
// has said anything. ok is false if it wants no further attempt, which an unreadable value means
// too.
func Pushback(h http.Header) (wait time.Duration, given, ok bool) {
	return ParsePushback(h[HeaderPushback])
}

// ParsePushback is [Pushback] for the header's values.
func ParsePushback(values []string) (wait time.Duration, given, ok bool) {
	if len(values) == 0 {
		return 0, false, true
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	if len(values) > 1 || err != nil || ms < 0 {
		return 0, true, false
	}
	return time.Duration(ms) * time.Millisecond, true, true
}

// unit is a unit of a timeout.
type unit struct {
	letter byte
	length time.Duration
}

// units returns the units of a timeout, the shortest first.
func units() []unit {
	return []unit{{'n', time.Nanosecond}, {'u', time.Microsecond}, {'m', time.Millisecond}, {'S', time.Second}, {'M', time.Minute}, {'H', time.Hour}}
}

// mostDigits is how many digits a timeout may have.
const mostDigits = 8

// Timeout returns the time limit in a request's header. ok is false if there is none, or no
// readable one.
func Timeout(h http.Header) (d time.Duration, ok bool) {
	v := h[HeaderTimeout]
	if len(v) != 1 || len(v[0]) < 2 || len(v[0]) > mostDigits+1 {
		return 0, false
	}
	last := len(v[0]) - 1
	n, err := strconv.ParseUint(v[0][:last], 10, 32)
	if err != nil {
		return 0, false
	}
	for _, u := range units() {
		if u.letter != v[0][last] {
			continue
		}
		if n > uint64(math.MaxInt64/u.length) {
			return math.MaxInt64, true
		}
		return time.Duration(n) * u.length, true
	}
	return 0, false
}

// FormatTimeout returns d, above 0, as the value of a header. It rounds up: with a limit that is
// rounded down, a server that respects it would give up before its caller does.
func FormatTimeout(d time.Duration) string {
	d = max(d, 1)
	for _, u := range units() {
		if n := (d-1)/u.length + 1; n < 100_000_000 {
			return strconv.FormatInt(int64(n), 10) + string(u.letter)
		}
	}
	return "99999999H"
}

// longestMessage limits the bytes of a message that is shown to people.
const longestMessage = 512

// Message returns the message in a header or in trailers, decoded and cut after 512 bytes. It is a
// copy: the rest of the header can be freed.
func Message(h http.Header) string {
	v := h[HeaderMessage]
	if len(v) == 0 || v[0] == "" {
		return ""
	}
	s, cut := v[0], false
	b := make([]byte, 0, min(len(s), longestMessage))
	for i := 0; i < len(s); i++ {
		if cut = len(b) == longestMessage; cut {
			break
		}
		c := s[i]
		if c == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				c, i = byte(n), i+2
			}
		}
		b = append(b, c)
	}
	text := strings.ToValidUTF8(string(b), "")
	if cut {
		text += "…"
	}
	return text
}

// EncodeMessage returns a message as the value of the header Grpc-Message: percent-encoded where it
// is not printable ASCII.
func EncodeMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
