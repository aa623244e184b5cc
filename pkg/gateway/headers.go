package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/internal/reread"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Header is the value of a header that an upstream's requests get. Its short form is the value
// alone.
type Header struct {
	// Value is the header's value. Use file for secrets: /config and --check print this value.
	Value string `yaml:"value,omitempty"`
	// File is a file with the value, which is never printed. Spaces, tabs and line breaks around
	// the value do not count. The file is read again when it changes.
	File string `yaml:"file,omitempty"`
}

// SetShort sets the value. It is called by the loader for the short form.
func (h *Header) SetShort(value string) { *h = Header{Value: value} }

// Short returns the short form, if h has one.
func (h Header) Short() (value string, ok bool) { return h.Value, h.File == "" }

// headerMistakes returns the mistakes in the headers of an upstream, with paths relative to them.
func headerMistakes(headers map[string]Header) (m mistake.List) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		at, h, canonical := config.Join("", name), headers[name], http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			m.Add(at, "must be the name of a header, got %q", name)
		case canonical == "Host":
			m.Add(at, "must be left out: set the upstream's host instead")
		case setByGateway(canonical) || lookAlike(canonical):
			m.Add(at, "must be left out: it describes the message, the caller or the attempt, so the gateway sets it")
		case canonical == transport.HeaderIdempotencyKey:
			m.Add(at, "must be left out: one key for all requests would make the upstream ignore all but one")
		case seen[canonical] != "":
			m.Add(at, "is the same header as %s", seen[canonical])
		}
		seen[canonical] = name
		m.Check((h.Value == "") != (h.File == ""), at, "must have a value or a file with the value, and not both")
		m.Check(httpguts.ValidHeaderFieldValue(h.Value), at, "must be printable and on one line")
		m.Check(!httpguts.ValidHeaderFieldValue(h.Value) || strings.Trim(h.Value, whiteSpace) == h.Value, at, "must not begin or end with a space or a tab")
	}
	return m
}

// setByGateway reports whether the gateway or net/http writes a header by rules of its own.
func setByGateway(name string) bool {
	switch name {
	case headerVia, headerRequestID, "Content-Length", "Expect", "Traceparent", "Tracestate":
		return true
	}
	return hopByHop(name) || trustedOnly(name)
}

// addedHeaders holds the headers of an upstream's requests.
type addedHeaders = reread.Store[http.Header]

// loadHeaders returns the headers, or nil if there are none. failed is called when a changed file
// cannot be used.
func loadHeaders(headers map[string]Header, failed func(error)) (*addedHeaders, error) {
	if len(headers) == 0 {
		return nil, nil
	}
	return reread.Load(func(old *http.Header) (*http.Header, error) {
		loaded := make(http.Header, len(headers))
		var errs []error
		for _, name := range slices.Sorted(maps.Keys(headers)) {
			value, err := headers[name].read()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			loaded[http.CanonicalHeaderKey(name)] = []string{value}
		}
		switch {
		case errs != nil:
			return nil, errors.Join(errs...)
		case old != nil && maps.EqualFunc(*old, loaded, slices.Equal):
			return old, nil
		}
		return &loaded, nil
	}, failed)
}

// whiteSpace is not part of a value. HTTP/1 drops it, and over HTTP/2 it makes the request
// malformed (RFC 9113, 8.2.1).
const whiteSpace = " \t\r\n"

// maxHeaderFile limits the size of a header's file. Upstreams accept no larger header.
const maxHeaderFile = 16 << 10

// read returns the value. Its errors do not quote the file, which may be a secret.
func (h Header) read() (string, error) {
	if h.File == "" {
		return h.Value, nil
	}
	content, err := os.ReadFile(h.File)
	if err != nil {
		return "", err
	}
	value := string(bytes.Trim(content, whiteSpace))
	switch {
	case value == "":
		return "", fmt.Errorf("%s: expected a value, got a file without one", h.File)
	case len(value) > maxHeaderFile:
		return "", fmt.Errorf("%s: expected at most %d bytes, got %d", h.File, maxHeaderFile, len(value))
	case !httpguts.ValidHeaderFieldValue(value):
		return "", fmt.Errorf("%s: expected one line without control characters", h.File)
	}
	return value, nil
}

// addTo sets the headers in h, in place of the caller's. For servers that do not distinguish _ from
// -, the caller's X_Tenant would be a second X-Tenant, so it is dropped too. A TRACE request gets
// no headers, because its response repeats them (RFC 9110, 9.3.8).
func addTo(h http.Header, added *addedHeaders, method string) {
	if added == nil || method == http.MethodTrace {
		return
	}
	values := *added.Look()
	for name := range values {
		delete(h, withDashes(name))
	}
	for name := range h {
		if strings.IndexByte(name, '_') < 0 {
			continue
		}
		for other := range values {
			if withDashes(other) == withDashes(name) {
				delete(h, name)
			}
		}
	}
	maps.Copy(h, values)
}
