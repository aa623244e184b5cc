// Package nethttp knows what net/http does, and what HTTP means, where its API does not tell.
package nethttp

import (
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Fails reports whether a status says that the server failed, as one of 500 or more does. A caller
// can cause 501 and 508, the latter with a Via header if there is another gateway behind this one.
func Fails(status int) bool {
	return status >= http.StatusInternalServerError && status != http.StatusNotImplemented && status != http.StatusLoopDetected
}

// StreamError has the shape of the HTTP/2 stream error inside net/http. The As method of that error
// fills any struct of this shape.
type StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (StreamError) Error() string { return "stream error" }

// refusedStream is REFUSED_STREAM (RFC 9113, 8.7): the request was not processed.
const refusedStream = 0x7

// RefusedStream reports whether err says that an HTTP/2 upstream has not processed the request.
func RefusedStream(err error) bool {
	var stream StreamError
	return errors.As(err, &stream) && stream.Code == refusedStream
}

// Repeats reports whether net/http may send req again by itself when a kept connection fails, even
// if req may have arrived. Such a repetition is in no trace and in no budget. For a request with a
// body, net/http also needs GetBody.
func Repeats(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// IsUpgrade reports whether the caller asks for another protocol. "Upgrade: h2c" does not count:
// some clients send it with every request, RFC 9113 has retired it, and the response is an ordinary
// one.
func IsUpgrade(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && !strings.EqualFold(h["Upgrade"][0], "h2c") &&
		httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
}
