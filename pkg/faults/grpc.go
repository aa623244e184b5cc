package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
)

// GRPC is how the faults look to callers over gRPC. All other keys apply to them as to callers over
// HTTP. The section is not shown if nothing in it is set.
type GRPC struct {
	// Codes are the status codes of the error status, such as UNAVAILABLE, all equally likely.
	// Empty means those of the HTTP statuses, by gRPC's own table: 400 INTERNAL, 401
	// UNAUTHENTICATED, 403 PERMISSION_DENIED, 404 UNIMPLEMENTED, 429, 502, 503 and 504 UNAVAILABLE,
	// any other UNKNOWN.
	Codes []string `yaml:"codes" json:"codes"`
	// After is what the caller gets before an error status. Empty means [AfterNothing].
	After After `yaml:"after" json:"after"`
	// Messages is the number of whole messages before a stream breaks, or before its error status
	// if After is message. At least 0; 0 = 1.
	Messages int `yaml:"messages" json:"messages"`
	// Pushback is the grpc-retry-pushback-ms of every error status. A duration such as "100ms"
	// becomes milliseconds, rounded up; "stop" becomes -1, which asks for no further attempt; any
	// other text is sent unchanged, to test nonsense. At most 1 KiB, without surrounding blanks.
	// Empty sends none.
	Pushback string `yaml:"pushback" json:"pushback"`
	// Break is how a call ends that is reset or truncated. Empty means [BreakStream].
	Break Break `yaml:"break" json:"break"`
}

// After is a point of a response.
type After string

// The points of a response at which an error status can come.
const (
	AfterNothing After = "nothing" // the status comes with the headers: Trailers-Only
	AfterHeaders After = "headers" // the headers come first, without a message
	AfterMessage After = "message" // `messages` messages come first, of a unary call its response
)

// Break is a way to end a call without a status.
type Break string

// The ways to end a call without a status.
const (
	BreakStream     Break = "stream"     // the stream is reset, and other calls on the connection go on
	BreakConnection Break = "connection" // the connection is reset, with all calls on it
	BreakEnd        Break = "end"        // the response ends as if it were whole, but has no status
)

// GRPCFate is what happens to an arrival over gRPC.
type GRPCFate struct {
	Code     int    // the status code for FaultError, otherwise 0
	After    After  // as in [GRPC.After]
	Messages int    // as in [GRPC.Messages]; at least 1
	Pushback string // the value of grpc-retry-pushback-ms; empty for none
	Break    Break  // as in [GRPC.Break]
}

// IsZero reports whether nothing is set.
func (g GRPC) IsZero() bool {
	return len(g.Codes) == 0 && g.After == "" && g.Messages == 0 && g.Pushback == "" && g.Break == ""
}

// normalized returns g with its defaults filled in, unless nothing is set: a document without the
// section is shown without it.
func (g GRPC) normalized() GRPC {
	if g.IsZero() {
		return GRPC{}
	}
	return g.filled()
}

func (g GRPC) filled() GRPC {
	if g.After == "" {
		g.After = AfterNothing
	}
	if g.Messages == 0 {
		g.Messages = 1
	}
	if g.Break == "" {
		g.Break = BreakStream
	}
	if g.Codes == nil {
		g.Codes = []string{} // so that JSON has [] instead of null
	}
	return g
}

// fate returns what g does to an arrival with the fault and the HTTP status. choice, from 0 to 1,
// selects a code.
func (g GRPC) fate(fault Fault, status int, choice float64) GRPCFate {
	g = g.filled()
	f := GRPCFate{After: g.After, Messages: g.Messages, Pushback: pushback(g.Pushback), Break: g.Break}
	switch {
	case fault != FaultError:
	case len(g.Codes) == 0:
		f.Code = int(codeOf(status))
	default:
		code, _ := grpcwire.ParseCode(g.Codes[int(choice*float64(len(g.Codes)))]) // Validate has seen it
		f.Code = int(code)
	}
	return f
}

// codeOf returns the code for an HTTP status, as a gRPC client takes one from a proxy that knows no
// gRPC (http-grpc-status-mapping.md).
func codeOf(status int) grpcwire.Code {
	switch status {
	case http.StatusBadRequest:
		return grpcwire.Internal
	case http.StatusUnauthorized:
		return grpcwire.Unauthenticated
	case http.StatusForbidden:
		return grpcwire.PermissionDenied
	case http.StatusNotFound:
		return grpcwire.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return grpcwire.Unavailable
	}
	return grpcwire.Unknown
}

func pushback(text string) string {
	switch text {
	case "":
		return "" // of every arrival without a pushback; a text that is no duration costs an error
	case "stop":
		return "-1"
	}
	if d, err := time.ParseDuration(text); err == nil {
		ms := d / time.Millisecond
		if d%time.Millisecond > 0 {
			ms++
		}
		return strconv.FormatInt(int64(ms), 10)
	}
	return text
}

func (c *checker) grpc(path string, g GRPC) {
	for i, name := range g.Codes {
		if code, ok := grpcwire.ParseCode(name); !ok || code == grpcwire.OK || code.String() != name {
			c.Add(fmt.Sprintf("%s.codes[%d]", path, i), "expected a status code other than OK, such as UNAVAILABLE, got %q", name)
		}
	}
	if points := []After{"", AfterNothing, AfterHeaders, AfterMessage}; !slices.Contains(points, g.After) {
		c.Add(path+".after", "expected nothing, headers or message, got %q", g.After)
	}
	c.atLeastZero(path+".messages", g.Messages)
	c.headerText(path+".pushback", g.Pushback)
	if ways := []Break{"", BreakStream, BreakConnection, BreakEnd}; !slices.Contains(ways, g.Break) {
		c.Add(path+".break", "expected stream, connection or end, got %q", g.Break)
	}
}
