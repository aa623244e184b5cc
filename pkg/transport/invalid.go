package transport

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/internal/nethttp"
)

// ErrInvalidRequest matches the error of a call whose request cannot be sent. Either net/http
// refuses it, or it is larger than the upstream allows. The upstream is not to blame.
var ErrInvalidRequest = errors.New("the request cannot be sent")

// ErrHeaderTooLarge matches the error of a call whose request header is larger than the limit that
// an HTTP/2 upstream announced. It matches [ErrInvalidRequest] too.
var ErrHeaderTooLarge = fmt.Errorf("%w: its header is larger than the upstream allows", ErrInvalidRequest)

// checkRequest returns the reason why net/http would refuse to send req, or nil. It does not check
// the trailer; see checkTrailer. Checking first is cheaper and more reliable than reading
// net/http's error: some mistakes are found only on an open connection, and then look like a
// connection failure.
func checkRequest(req *http.Request) error {
	// both are tokens (RFC 9110, 5.6.2)
	if req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method) {
		return fmt.Errorf("%w: the method %q is not a token", ErrInvalidRequest, req.Method)
	}
	if err := checkURL(req.URL); err != nil {
		return err
	}
	if _, err := httpguts.PunycodeHostPort(cmp.Or(req.Host, req.URL.Host)); err != nil {
		return fmt.Errorf("%w: the host %q is not valid: %w", ErrInvalidRequest, cmp.Or(req.Host, req.URL.Host), err)
	}
	if err := checkFields("header", req.Header); err != nil {
		return err
	}
	if req.ContentLength > 0 && req.Body == nil {
		return fmt.Errorf("%w: it has a Content-Length of %d and no body", ErrInvalidRequest, req.ContentLength)
	}
	return nil
}

// checkURL checks what must be checked before sending. Over HTTP/2, net/http sends a URL with
// control characters, and the upstream may never answer.
func checkURL(u *url.URL) error {
	if hasControl(u.Opaque) || hasControl(u.RawQuery) {
		return fmt.Errorf("%w: its URL has a control character", ErrInvalidRequest)
	}
	return nil
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// checkTrailer returns the reason why net/http would refuse to send the trailer, or nil. Call it
// before the body is read: reading may set the trailer's values.
func checkTrailer(trailer http.Header) error {
	if len(trailer) == 0 {
		return nil
	}
	for name := range trailer {
		if httpguts.ValidHeaderFieldName(name) && !httpguts.ValidTrailerHeader(http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("%w: %q cannot be a trailer", ErrInvalidRequest, name)
		}
	}
	return checkFields("trailer", trailer)
}

func checkFields(kind string, h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%w: the %s name %q is not a token", ErrInvalidRequest, kind, name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("%w: the value of the %s %s has an invalid character", ErrInvalidRequest, kind, name)
			}
		}
	}
	return nil
}

// refusedBySender returns the error to wrap err in if net/http refused the request while sending
// it, or nil for any other error. These errors of net/http have no types, so their texts are
// compared. TestA3WhatNetHTTPRefusesIsNobodysFault checks the texts against net/http.
func refusedBySender(err error) error {
	cause := err
	for next := errors.Unwrap(cause); next != nil; next = errors.Unwrap(cause) {
		cause = next
	}
	text := cause.Error()
	if strings.HasSuffix(text, "request header list larger than peer's advertised limit") {
		return ErrHeaderTooLarge
	}
	for _, begin := range []string{
		"http: ContentLength=", "http: Request.ContentLength=", "http2: request body larger than specified content length",
		"unsupported protocol scheme ", "http: no Host in request URL",
		"net/http: invalid ", "http: invalid ", "net/http: can't write control character in Request.URL",
		"invalid HTTP header ", "invalid HTTP trailer ", "invalid Trailer key ", "invalid request :path ", "invalid Host header",
		"invalid Upgrade request header", "invalid Transfer-Encoding request header", "invalid Connection request header",
	} {
		if strings.HasPrefix(strings.TrimPrefix(text, "http2: "), strings.TrimPrefix(begin, "http2: ")) {
			return ErrInvalidRequest
		}
	}
	return nil
}

// tooLargeForPeer reports whether err may be due to a header above the limit of an HTTP/2 upstream
// that had not announced its limit yet. On a new connection the first request is sent at once, and
// such an upstream closes the connection.
func tooLargeForPeer(err error, h http.Header) bool {
	text := err.Error()
	if !strings.Contains(text, "server sent GOAWAY") || !slices.ContainsFunc(
		// the codes that servers use for it
		[]string{"PROTOCOL_ERROR", "COMPRESSION_ERROR", "ENHANCE_YOUR_CALM"},
		func(code string) bool { return strings.Contains(text, "ErrCode="+code) }) {
		return false
	}
	size := 0
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(v) + 32 // the size as defined in RFC 9113, 6.5.2
		}
	}
	return size > suspiciousHeader
}

// malformedForPeer reports whether an HTTP/2 upstream has rejected the request as malformed (RFC
// 9113, 8.1.1). The error for a malformed response has the same code, but comes from net/http
// itself.
func malformedForPeer(err error) bool {
	var stream nethttp.StreamError
	return errors.As(err, &stream) && stream.Code == protocolError && strings.Contains(err.Error(), "received from peer")
}

// protocolError is PROTOCOL_ERROR (RFC 9113, 7).
const protocolError = 0x1

// suspiciousHeader is the smallest header size, in bytes, that tooLargeForPeer suspects. Servers
// allow 4 KiB and more.
const suspiciousHeader = 4 << 10
