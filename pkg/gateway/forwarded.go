package gateway

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/pkg/transport"
)

// Headers that a proxy reads or writes.
const (
	headerConnection      = "Connection"
	headerContentLocation = "Content-Location"
	headerContentType     = "Content-Type"
	headerContentLength   = "Content-Length"
	headerForwarded       = "Forwarded"
	headerForwardedFor    = "X-Forwarded-For"
	headerForwardedHost   = "X-Forwarded-Host"
	headerForwardedProto  = "X-Forwarded-Proto"
	headerLocation        = "Location"
	headerMaxForwards     = "Max-Forwards"
	headerTE              = "Te"
	headerTrailer         = "Trailer"
	headerUpgrade         = "Upgrade"
	headerUserAgent       = "User-Agent"
	headerVia             = "Via"

	prefixForwarded = "X-Forwarded-"
)

// hopByHop reports whether a header is for the next peer only (RFC 9110, 7.6.1), even if Connection
// does not name it.
func hopByHop(name string) bool {
	switch name {
	case headerConnection, "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		headerTE, headerTrailer, "Transfer-Encoding", headerUpgrade:
		return true
	}
	return false
}

// trustedOnly reports whether a header is accepted from trusted callers only.
func trustedOnly(name string) bool {
	switch name {
	case headerForwarded, transport.HeaderAttemptCount, transport.HeaderExpectedTimeout:
		return true
	}
	return strings.HasPrefix(name, prefixForwarded)
}

// lookAlike reports whether a header spelled with _ looks like one that only trusted callers may
// send, such as X_Forwarded_For. CGI and WSGI servers do not distinguish _ from -, and proxies in
// front pass such headers on.
func lookAlike(name string) bool {
	return strings.IndexByte(name, '_') >= 0 && trustedOnly(withDashes(name))
}

// withDashes returns the name that a server which does not distinguish _ from - takes name for.
func withDashes(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// dropNamed deletes the headers that from's Connection header names from h, except Via and those in
// which proxies describe the caller. A proxy in front may pass on its caller's Connection header.
// Otherwise the caller could use it to hide behind the proxy's address.
func dropNamed(h, from http.Header) {
	for _, v := range from[headerConnection] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(textproto.TrimString(name)); name != headerVia && !trustedOnly(name) {
				delete(h, name)
			}
		}
	}
}

// upgradeType returns the protocol to which h asks to switch, or "".
func upgradeType(h http.Header) string {
	if len(h[headerUpgrade]) == 0 || !httpguts.HeaderValuesContainsToken(h[headerConnection], headerUpgrade) {
		return ""
	}
	return h.Get(headerUpgrade)
}

// upgradeTo returns the protocol that the gateway asks the upstream for, or "". It ignores Upgrade:
// h2c, which some clients send with every request. That upgrade cannot work, as its settings header
// is hop-by-hop.
func upgradeTo(h http.Header) string {
	if protocol := upgradeType(h); !strings.EqualFold(protocol, "h2c") {
		return protocol
	}
	return ""
}

// outgoingHeader returns the header of the upstream's request and the size in bytes of the caller's
// header. The two headers share their value slices, which must not be modified in place.
func (c *call) outgoingHeader(trusted bool) (h http.Header, size int) {
	in := c.in.Header
	h = make(http.Header, len(in)+6)
	for name, values := range in {
		for _, v := range values {
			size += len(name) + len(v)
		}
		if !hopByHop(name) && (trusted || !trustedOnly(name)) && !lookAlike(name) {
			h[name] = values
		}
	}
	if len(in[headerConnection]) > 0 {
		dropNamed(h, in)
	}
	if te := in[headerTE]; len(te) > 0 && httpguts.HeaderValuesContainsToken(te, "trailers") {
		h[headerTE] = c.value("trailers")
	}
	if protocol := upgradeTo(in); protocol != "" {
		h[headerConnection], h[headerUpgrade] = c.value(headerUpgrade), c.value(protocol)
	}
	if _, ok := h[headerUserAgent]; !ok {
		h[headerUserAgent] = nil // otherwise net/http would add its own
	}
	c.forward(h)
	h[headerRequestID] = c.requestIDs
	addTo(h, c.route.headers, c.in.Method)
	return h, size
}

// forward adds the headers that describe the caller to h. outgoingHeader has already dropped those
// of an untrusted caller.
func (c *call) forward(h http.Header) {
	if peer := peerAddress(c.in.RemoteAddr); peer != "" {
		if before := h[headerForwardedFor]; len(before) > 0 {
			peer = strings.Join(before, ", ") + ", " + peer
		}
		h[headerForwardedFor] = c.value(peer)
	}
	// An HTTP/1.0 request may have no host. Upstreams would build links with an empty one.
	if h.Get(headerForwardedHost) == "" {
		delete(h, headerForwardedHost)
		if c.in.Host != "" {
			h[headerForwardedHost] = c.value(c.in.Host)
		}
	}
	if h.Get(headerForwardedProto) == "" {
		h[headerForwardedProto] = c.value(scheme(c.in))
	}
	c.route.gateway.via.add(h, c.in.ProtoMajor, c.in.ProtoMinor)
}

// via holds this gateway's entries in Via (RFC 9110, 7.6.3), one per version of HTTP. The name is
// unique to this process, so that the gateway recognizes requests that come back.
type via struct {
	name                  string
	http10, http11, http2 []string
}

func newVia(name string) via {
	return via{name: name, http10: []string{"1.0 " + name}, http11: []string{"1.1 " + name}, http2: []string{"2 " + name}}
}

func (v *via) add(h http.Header, major, minor int) {
	own := v.http11
	switch {
	case major > 1:
		own = v.http2
	case minor == 0:
		own = v.http10
	}
	if before := h[headerVia]; len(before) > 0 {
		own = []string{strings.Join(before, ", ") + ", " + own[0]}
	}
	h[headerVia] = own
}

// seen reports whether a request has already passed through this gateway.
func (v *via) seen(h http.Header) bool {
	for _, value := range h[headerVia] {
		for entry := range strings.SplitSeq(value, ",") {
			if fields := strings.Fields(entry); len(fields) > 1 && fields[1] == v.name {
				return true
			}
		}
	}
	return false
}

// upstreamURL is the URL of a route's upstream.
type upstreamURL struct {
	url *url.URL
	at  string // scheme, host and port
	// prefix is the URL's path without a slash at its end. It is put before each request's path.
	// prefix is escaped, plainPrefix is not.
	prefix, plainPrefix string
}

func newUpstreamURL(u *url.URL) upstreamURL {
	prefix := strings.TrimSuffix(u.EscapedPath(), "/")
	return upstreamURL{url: u, at: transport.UpstreamOf(u), prefix: prefix, plainPrefix: unescaped(prefix)}
}

// of returns the URL of the upstream's request. It keeps the bytes of the caller's path and query.
func (u *upstreamURL) of(in *url.URL) url.URL {
	out := url.URL{
		Scheme: u.url.Scheme, Host: u.url.Host, Path: in.Path, RawPath: in.RawPath,
		RawQuery: in.RawQuery, ForceQuery: in.ForceQuery,
	}
	if strings.IndexByte(out.RawQuery, ' ') >= 0 { // HTTP/2 allows spaces, a request line does not
		out.RawQuery = strings.ReplaceAll(out.RawQuery, " ", "%20")
	}
	if in.Path == "*" {
		return out
	}
	if in.Path == "" { // the same as / (RFC 9110, 4.2.3)
		out.Path, out.RawPath = "/", ""
	}
	if u.prefix != "" {
		if out.RawPath != "" || u.prefix != u.plainPrefix {
			if out.RawPath == "" {
				out.RawPath = out.EscapedPath()
			}
			out.RawPath = u.prefix + out.RawPath
		}
		out.Path = u.plainPrefix + out.Path
	}
	if out.RawPath == "" || out.EscapedPath() == out.RawPath {
		return out
	}
	// net/url would write a path with different escapes. Opaque is written as it is.
	raw := escapeBytes(out.RawPath, validOnLine)
	if strings.HasPrefix(raw, "//") { // net/url takes the beginning of such an Opaque for a host
		raw = escapeBytes(out.RawPath, validInPath)
		out.RawPath = raw
		out.Path, _ = url.PathUnescape(raw)
		return out
	}
	out.Opaque = raw
	return out
}

// validOnLine reports whether a byte of a path is valid in a request line. A space ends the path
// there. For many servers # does, too.
func validOnLine(c byte) bool { return c > ' ' && c != '#' && c != 0x7f }

// ownView returns an upstream's Location in a form that the caller can follow. A Location on the
// upstream itself becomes relative to the gateway, without the prefix. host is a further name of
// the upstream and may be empty. Other Locations stay as they are.
func (u *upstreamURL) ownView(location, host string) string {
	rest := location
	switch begin, after, found := strings.Cut(location, "//"); {
	case found && (begin == "" || strings.HasSuffix(begin, ":") && strings.IndexByte(begin, '/') < 0):
		end := strings.IndexAny(after, `/\?#`)
		if end < 0 {
			end = len(after)
		}
		of := url.URL{Scheme: strings.TrimSuffix(begin, ":"), Host: after[:end]}
		if begin == "" {
			of.Scheme = u.url.Scheme
		}
		at := transport.UpstreamOf(&of)
		if at != u.at {
			of.Host = host
			if host == "" || transport.UpstreamOf(&url.URL{Scheme: u.url.Scheme, Host: host}) != at {
				return location
			}
		}
		rest = after[end:]
	case u.prefix == "" || !strings.HasPrefix(location, "/"):
		return location
	}
	if u.prefix != "" {
		var ok bool
		if rest, ok = strings.CutPrefix(rest, u.prefix); !ok || rest != "" && strings.IndexByte("/?#", rest[0]) < 0 {
			return location
		}
	}
	if rest == "" || rest[0] != '/' {
		rest = "/" + rest
	}
	if len(rest) > 1 && strings.IndexByte("/\\\t", rest[1]) >= 0 {
		// Two slashes at the beginning would make a host of the next segment. Browsers also read \
		// as a slash and drop tabs.
		rest = "/." + rest
	}
	return rest
}
