package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// pattern is a parsed Route.Match. The syntax is that of net/http's ServeMux: [METHOD
// ][HOST]/[PATH].
type pattern struct {
	method string // empty for any
	host   string // in lower case, without a trailing dot; empty for any
	path   string // as written, with its wildcards
}

// String returns the pattern in the syntax of ServeMux.
func (p pattern) String() string {
	if p.method == "" {
		return p.host + p.path
	}
	return p.method + " " + p.host + p.path
}

const patternExpected = "must be a pattern such as /process or GET /orders/{id}"

// parsePattern parses a pattern. It rejects patterns that ServeMux accepts although they match no
// request. ServeMux reports other mistakes.
func parsePattern(match string) (pattern, error) {
	var p pattern
	fields := strings.Fields(match)
	switch len(fields) {
	case 0:
		return p, errors.New(patternExpected + ", got nothing")
	case 1:
		p.path = fields[0]
	case 2:
		p.method, p.path = fields[0], fields[1]
	}
	if len(fields) > 2 || p.method != "" && !validMethod(p.method) {
		return p, fmt.Errorf(patternExpected+", with a method in capital letters or none, got %q", match)
	}
	slash := strings.IndexByte(p.path, '/')
	if slash < 0 {
		return p, nil
	}
	host := p.path[:slash]
	p.path = p.path[slash:]
	if strings.Contains(host, "{") {
		p.host = host
		return p, nil
	}
	p.host = strings.TrimSuffix(strings.ToLower(host), ".")
	if err := checkHost(host, p.host); err != nil {
		return p, err
	}
	return p, checkPath(p.path)
}

// validMethod reports whether m can be the method of a request: any token (RFC 9110, 9.1). A
// standard method in small letters is not valid here, since methods are case-sensitive.
func validMethod(m string) bool {
	switch upper := strings.ToUpper(m); upper {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m == upper
	}
	return httpguts.ValidHeaderFieldName(m)
}

// checkHost returns an error for a host that no request can have. host is written in lower case,
// without a trailing dot.
func checkHost(written, host string) error {
	if written == "" {
		return nil
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil && a.Is6() && strings.HasSuffix(inner, "]") {
			return nil
		}
	}
	name, port, found := strings.Cut(host, ":")
	switch {
	case found && port != "" && strings.Trim(port, "0123456789") == "":
		return fmt.Errorf("must name the host without a port, since hosts are compared without it: %s/ and not %s/", name, written)
	case strings.Contains(host, "*"):
		return fmt.Errorf("must name a whole host such as shop.example.com, got %q; only paths have wildcards", written)
	case strings.IndexFunc(host, func(c rune) bool { return c > 0x7f }) >= 0:
		return fmt.Errorf("must name the host as requests do, with xn-- for letters beyond ASCII, got %q", written)
	case strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || host == "" || strings.Contains(host, ".."):
		return fmt.Errorf("must name a host such as shop.example.com, got %q", written)
	}
	return nil
}

// checkPath returns an error for a path that no cleaned request path can match.
func checkPath(p string) error {
	if strings.ContainsAny(p, "?#") {
		return fmt.Errorf("must be a path without a query, got %q; a question mark in a path is written %%3F", p)
	}
	if _, err := url.PathUnescape(p); err != nil {
		return fmt.Errorf("must have two hexadecimal digits behind each %%, got %q; a percent sign is written %%25", p)
	}
	if escapes(p, false) {
		return fmt.Errorf("must be a path without .. beside an escaped slash, a backslash or a semicolon, which requests must not have, got %q", p)
	}
	if clean := cleanPath(p); clean != dotsUnescaped(p) {
		return fmt.Errorf("must be a path without //, /./ and /../, which are removed from a request's path before it is compared: %s and not %s", clean, p)
	}
	return nil
}

// router finds the route of a request. It matches like ServeMux but never redirects. A pattern with
// a host wins over one without. Otherwise the more specific pattern wins. A router does not change
// once it is built.
type router struct {
	any   node
	hosts map[string]*node // nil when no pattern has a host
}

// node is a node in the tree of path segments.
type node struct {
	literal map[string]*node // by unescaped segment
	one     *node            // {name}
	end     leaf             // the pattern's path ends here
	slash   leaf             // {$}
	rest    leaf             // {name...}, or a slash at the pattern's end
}

// leaf holds the routes whose patterns end at one node, by method.
type leaf struct {
	all     *route // for any method
	methods map[string]*route
}

// add adds a route. Its pattern must be valid and must not conflict with earlier ones.
func (rt *router) add(r *route) {
	p := r.pattern
	n := &rt.any
	if p.host != "" {
		if rt.hosts == nil {
			rt.hosts = map[string]*node{}
		}
		host := bareHost(p.host)
		if n = rt.hosts[host]; n == nil {
			n = &node{}
			rt.hosts[host] = n
		}
	}
	n.leafOf(p.path).add(p.method, r)
}

func (l *leaf) add(method string, r *route) {
	if method == "" {
		l.all = r
		return
	}
	if l.methods == nil {
		l.methods = map[string]*route{}
	}
	l.methods[method] = r
}

// leafOf returns the leaf for a pattern's path and adds the nodes on the way.
func (n *node) leafOf(p string) *leaf {
	for p != "" {
		segment, rest := firstSegment(p)
		switch {
		case p == "/" || strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "...}"):
			return &n.rest
		case segment == "{$}":
			return &n.slash
		case strings.HasPrefix(segment, "{"):
			if n.one == nil {
				n.one = &node{}
			}
			n = n.one
		default:
			name := unescaped(segment)
			if n.literal == nil {
				n.literal = map[string]*node{}
			}
			if n.literal[name] == nil {
				n.literal[name] = &node{}
			}
			n = n.literal[name]
		}
		p = rest
	}
	return &n.end
}

// firstSegment splits p, which begins with a slash, into its first segment and the rest.
func firstSegment(p string) (segment, rest string) {
	p = p[1:]
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i], p[i:]
	}
	return p, ""
}

func unescaped(segment string) string {
	if strings.IndexByte(segment, '%') < 0 {
		return segment
	}
	s, err := url.PathUnescape(segment)
	if err != nil {
		return segment
	}
	return s
}

// search holds the arguments of a search in the tree.
type search struct {
	method string
	// methods, if not nil, collects the methods of all routes that match the path. The search then
	// returns no route.
	methods *[]string
}

// find returns the route of a request, or nil. p is the path as [escapedPath] returns it.
func (rt *router) find(host, method, p string) *route {
	return rt.search(host, p, search{method: method})
}

// methods returns the methods for which the path has a route, in order.
func (rt *router) methods(host, p string) []string {
	var found []string
	rt.search(host, p, search{methods: &found})
	if slices.Contains(found, http.MethodGet) {
		found = append(found, http.MethodHead)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (rt *router) search(host, p string, s search) *route {
	switch {
	case p == "": // the same as / (RFC 9110, 4.2.3)
		p = "/"
	case p[0] == '/':
		p = cleanPath(p)
	}
	if rt.hosts != nil {
		if n := rt.hosts[bareHost(host)]; n != nil {
			if r := n.search(p, s); r != nil {
				return r
			}
		}
	}
	return rt.any.search(p, s)
}

func (n *node) search(p string, s search) *route {
	switch {
	case p == "":
		return n.end.search(s)
	case p == "/":
		if r := n.slash.search(s); r != nil {
			return r
		}
	case p[0] == '/':
		segment, rest := firstSegment(p)
		if next := n.literal[unescaped(segment)]; next != nil {
			if r := next.search(rest, s); r != nil {
				return r
			}
		}
		if n.one != nil {
			if r := n.one.search(rest, s); r != nil {
				return r
			}
		}
	} // anything else is *, which only a catch-all matches
	return n.rest.search(s)
}

func (l *leaf) search(s search) *route {
	if s.methods != nil {
		for m := range l.methods {
			*s.methods = append(*s.methods, m)
		}
		return nil
	}
	if l.methods != nil {
		if r := l.methods[s.method]; r != nil {
			return r
		}
		if s.method == http.MethodHead {
			if r := l.methods[http.MethodGet]; r != nil {
				return r
			}
		}
	}
	return l.all
}

// bareHost returns a host in the form in which hosts are compared: in lower case, without port,
// trailing dot and brackets.
func bareHost(h string) string {
	if strings.HasPrefix(h, "[") {
		if i := strings.IndexByte(h, ']'); i > 0 {
			h = h[1:i]
		}
		if a, err := netip.ParseAddr(h); err == nil {
			return a.String() // normalizes the notation of zeros
		}
	} else if i := strings.LastIndexByte(h, ':'); i >= 0 {
		h = h[:i]
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}

// cleanPath returns an escaped path without double slashes and without the segments . and .., even
// escaped ones. An escaped slash is part of a segment. p must begin with a slash.
func cleanPath(p string) string {
	p = dotsUnescaped(p)
	if !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return p
	}
	clean := path.Clean(p)
	if p[len(p)-1] == '/' && clean != "/" {
		clean += "/"
	}
	return clean
}

// dotsUnescaped returns p with %2E replaced by a dot, which is equivalent (RFC 3986, 6.2.2.2).
func dotsUnescaped(p string) string {
	if !strings.Contains(p, "%2") {
		return p
	}
	return strings.NewReplacer("%2e", ".", "%2E", ".").Replace(p)
}

// escapes reports whether an upstream could resolve p to a path outside the matched route. This
// happens if a .. stands beside an escaped slash, a backslash or a semicolon, which some servers
// treat as separators. Behind an upstream's prefix it also happens if the .. segments lead above
// the root. p is as [escapedPath] returns it.
func escapes(p string, behindPrefix bool) bool {
	if p = dotsUnescaped(p); !strings.Contains(p, "..") {
		return false
	}
	depth := 0
	for segment := range strings.SplitSeq(p, "/") {
		switch segment {
		case "", ".":
		case "..":
			if depth--; depth < 0 && behindPrefix {
				return true
			}
		default:
			for name := range strings.FieldsFuncSeq(unescaped(segment), slashLike) {
				if name, _, _ = strings.Cut(name, ";"); name == ".." {
					return true
				}
			}
			depth++
		}
	}
	return false
}

func slashLike(c rune) bool { return c == '/' || c == '\\' }

// escapedPath returns the path of u as the caller wrote it. It escapes bytes that are not valid in
// a URL. For such a path [url.URL.EscapedPath] would drop the existing escapes, so that an escaped
// slash would split a segment in two.
func escapedPath(u *url.URL) string {
	p := u.EscapedPath()
	if u.RawPath == "" || p == u.RawPath {
		return p
	}
	return escapeBytes(u.RawPath, validInPath)
}

// validInPath reports whether a byte is valid in a path (RFC 3986, 3.3). It also accepts brackets,
// which all implementations tolerate.
func validInPath(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,;=:@%/[]", c) >= 0
}

// escapeBytes returns s with all invalid bytes escaped.
func escapeBytes(s string, valid func(byte) bool) string {
	bad := 0
	for i := range len(s) {
		if !valid(s[i]) {
			bad++
		}
	}
	if bad == 0 {
		return s
	}
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+2*bad)
	for i := range len(s) {
		if c := s[i]; valid(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}
