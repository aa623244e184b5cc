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
)

// ErrInvalidRequest matches the error of a call whose request cannot be sent: net/http
// refuses it, or it is larger than the upstream allows. The upstream is not to blame.
var ErrInvalidRequest = errors.New("the request cannot be sent")

// ErrHeaderTooLarge matches the error of a call whose request header is above the
// limit that an HTTP/2 upstream announced. It matches [ErrInvalidRequest] too.
var ErrHeaderTooLarge = fmt.Errorf("%w: its header is larger than the upstream allows", ErrInvalidRequest)

// checkRequest returns why net/http would refuse to send req, nil if it would
// not. It does not look at the trailer; see checkTrailer. Asking first is cheaper and surer than reading the error afterwards: some
// are found only when a connection is there already, and look like its fault.
func checkRequest(req *http.Request) error {
	if req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method) { // both are tokens (RFC 9110, 5.6.2)
		return fmt.Errorf("%w: the method %q is not a token", ErrInvalidRequest, req.Method)
	}
	if err := checkURL(req.URL); err != nil {
		return err
	}
	if _, err := httpguts.PunycodeHostPort(cmp.Or(req.Host, req.URL.Host)); err != nil {
		return fmt.Errorf("%w: the host %q has no form that can be sent: %w", ErrInvalidRequest, cmp.Or(req.Host, req.URL.Host), err)
	}
	if err := checkFields("header", req.Header); err != nil {
		return err
	}
	if req.ContentLength > 0 && req.Body == nil {
		return fmt.Errorf("%w: it has a Content-Length of %d and no body", ErrInvalidRequest, req.ContentLength)
	}
	return nil
}

// checkURL is the one check that cannot wait for an error: over HTTP/2 net/http
// sends such a URL, and the upstream may not answer at all.
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

// checkTrailer returns why net/http would refuse to send a trailer. It must be asked
// before the body is read: reading it may set the trailer's values.
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
				return fmt.Errorf("%w: the value of the %s %s has a character that it must not have", ErrInvalidRequest, kind, name)
			}
		}
	}
	return nil
}

// refusedBySender returns what err matches when net/http found only while sending
// that it will not send the request; nil for any other error. Its errors have no
// types. TestA3WhatNetHTTPRefusesIsNobodysFault holds the words against it.
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

// tooLargeForPeer reports whether err may come from a header that is above the
// limit of an HTTP/2 upstream which had not announced it yet: on a new connection
// the first request is sent at once, and the upstream ends the connection.
func tooLargeForPeer(err error, h http.Header) bool {
	text := err.Error()
	if !strings.Contains(text, "server sent GOAWAY") || !slices.ContainsFunc(
		[]string{"PROTOCOL_ERROR", "COMPRESSION_ERROR", "ENHANCE_YOUR_CALM"}, // what servers say of it
		func(code string) bool { return strings.Contains(text, "ErrCode="+code) }) {
		return false
	}
	size := 0
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(v) + 32 // as RFC 9113, 6.5.2, counts
		}
	}
	return size > suspiciousHeader
}

// malformedForPeer reports whether an HTTP/2 upstream has called the request malformed
// (RFC 9113, 8.1.1). An answer that is malformed has an error that is ours.
func malformedForPeer(err error) bool {
	var stream streamError
	return errors.As(err, &stream) && stream.Code == protocolError && strings.Contains(err.Error(), "received from peer")
}

// protocolError is PROTOCOL_ERROR (RFC 9113, 7).
const protocolError = 0x1

// suspiciousHeader is the header size, in bytes, from which a header is suspected. Servers allow
// 4 KiB and more.
const suspiciousHeader = 4 << 10
