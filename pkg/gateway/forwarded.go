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

// hopByHop reports whether a header is for the next peer only (RFC 9110, 7.6.1),
// also without Connection naming it.
func hopByHop(name string) bool {
	switch name {
	case headerConnection, "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		headerTE, headerTrailer, "Transfer-Encoding", headerUpgrade:
		return true
	}
	return false
}

// trustedOnly reports whether a header is believed only from a trusted caller.
func trustedOnly(name string) bool {
	switch name {
	case headerForwarded, transport.HeaderAttemptCount, transport.HeaderExpectedTimeout:
		return true
	}
	return strings.HasPrefix(name, prefixForwarded)
}

// lookAlike reports whether servers that make variables of headers (CGI, WSGI) take a
// header for one that only a trusted caller may send: X_Forwarded_For for
// X-Forwarded-For. Proxies in front pass it on as any other.
func lookAlike(name string) bool {
	return strings.IndexByte(name, '_') >= 0 && trustedOnly(http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")))
}

// dropNamed deletes from h the headers that the Connection header of from names, but
// not what proxies say of the caller: a proxy in front may pass on the Connection of
// its caller, who could hide behind the proxy's own address with it.
func dropNamed(h, from http.Header) {
	for _, v := range from[headerConnection] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(textproto.TrimString(name)); name != headerVia && !trustedOnly(name) {
				delete(h, name)
			}
		}
	}
}

// upgradeType is the protocol that h asks to switch to, empty for none.
func upgradeType(h http.Header) string {
	if len(h[headerUpgrade]) == 0 || !httpguts.HeaderValuesContainsToken(h[headerConnection], headerUpgrade) {
		return ""
	}
	return h.Get(headerUpgrade)
}

// upgradeTo is the one that the caller asks for and gets. Upgrade: h2c, which some
// clients send with every request, is none: its settings header is hop-by-hop and
// gone, so it could not work.
func upgradeTo(h http.Header) string {
	if protocol := upgradeType(h); !strings.EqualFold(protocol, "h2c") {
		return protocol
	}
	return ""
}

// outgoingHeader makes the header of the upstream's request, and adds up the size
// of the caller's. The values are shared, which is safe: they are replaced, never
// written into.
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
		h[headerUserAgent] = nil // or net/http would send its own
	}
	c.forward(h)
	h[headerRequestID] = c.requestIDs
	return h, size
}

// forward tells the upstream where the call comes from. What an untrusted caller
// said about that is not in h.
func (c *call) forward(h http.Header) {
	if peer := peerAddress(c.in.RemoteAddr); peer != "" {
		if before := h[headerForwardedFor]; len(before) > 0 {
			peer = strings.Join(before, ", ") + ", " + peer
		}
		h[headerForwardedFor] = c.value(peer)
	}
	// HTTP/1.0 may leave the host out, and an empty one would end up in links.
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

// via is this gateway's entry in Via (RFC 9110, 7.6.3), by the protocol of the
// message that it passes on. The name tells this process from every other one, so
// that a request that comes back is known.
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

// seen reports whether a request has passed through this gateway already.
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

// upstreamURL is where the requests of a route go.
type upstreamURL struct {
	url *url.URL
	at  string // its origin: scheme, host and port
	// prefix is put before each request's path: escaped, and as it is meant. It does
	// not end with a slash.
	prefix, plainPrefix string
}

func newUpstreamURL(u *url.URL) upstreamURL {
	prefix := strings.TrimSuffix(u.EscapedPath(), "/")
	return upstreamURL{url: u, at: transport.UpstreamOf(u), prefix: prefix, plainPrefix: unescaped(prefix)}
}

// of makes the URL of the upstream's request: the bytes of the path and of the
// query are those that the caller wrote.
func (u *upstreamURL) of(in *url.URL) url.URL {
	out := url.URL{
		Scheme: u.url.Scheme, Host: u.url.Host, Path: in.Path, RawPath: in.RawPath,
		RawQuery: in.RawQuery, ForceQuery: in.ForceQuery,
	}
	if strings.IndexByte(out.RawQuery, ' ') >= 0 { // HTTP/2 can carry it, a request line cannot
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
	// net/url would write another path than this one, with all escapes undone and
	// made anew.
	raw := escapeBytes(out.RawPath, validOnLine)
	if strings.HasPrefix(raw, "//") { // an Opaque that begins so is taken for a host
		raw = escapeBytes(out.RawPath, validInPath)
		out.RawPath = raw
		out.Path, _ = url.PathUnescape(raw)
		return out
	}
	out.Opaque = raw
	return out
}

// validOnLine reports whether a byte of a path may stand in a request line. A
// space ends the path there, and for many servers a # does.
func validOnLine(c byte) bool { return c > ' ' && c != '#' && c != 0x7f }

// ownView is a Location of the upstream as the caller can follow it: one at the
// upstream's own origin becomes relative to the gateway's, without the path that
// is put before each request's. host is what the upstream takes for its own name
// besides. Anything else stays as it is.
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
		rest = "/." + rest // two slashes at the beginning, between which browsers drop tabs, would make a host of what follows
	}
	return rest
}
