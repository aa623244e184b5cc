// Package siteguard protects an admin port without access control from pages of other sites. A
// browser on the same machine or network can reach such a port, and runs code that strangers wrote.
package siteguard

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Guard passes requests on to next, but rejects these by calling refuse, which answers 403 with the
// reason:
//
//   - Requests for a host name that may belong to another site. A page of that site can have its
//     own name resolve to this server (DNS rebinding). Always accepted are addresses, names without
//     a dot, names outside the public registries, such as a cluster's, and the names in hosts; "*"
//     in hosts accepts every name.
//   - Changes that a browser sends from another origin.
//   - Reads that a browser sends from another origin, except when the user follows a link. The
//     other page could not see the response, but it could open too many connections.
//
// Programs other than browsers are only affected by the first rule.
func Guard(next http.Handler, refuse func(w http.ResponseWriter, detail string), hosts ...string) http.Handler {
	changes := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !allowed(r.Host, hosts...):
			refuse(w, fmt.Sprintf("host %q may belong to another site; use an IP address, localhost or a cluster name, or allow the name with --hosts", r.Host))
		case changes.Check(r) != nil:
			refuse(w, "cross-origin request: pages of other sites must not change anything here")
		case crossSite(r):
			refuse(w, "cross-origin request: pages of other sites must not read anything here")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func crossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	}
	return false
}

// registrable reports whether a stranger can own name or a parent of it, because its last label is
// one of the public Internet's. It reports false for a cluster's services, which callers may name
// client.NAMESPACE, and for names that RFC 2606, RFC 6761, RFC 6762 and ICANN (internal) reserve.
func registrable(name string) bool {
	for _, domain := range []string{"home.arpa", "example.com", "example.net", "example.org"} { // RFC 8375, RFC 2606
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return false
		}
	}
	suffix, icann := publicsuffix.PublicSuffix(name)
	return icann || strings.Contains(suffix, ".") // a company lets others register names below its own
}

// allowed reports whether host, a Host header, is an address, a name that cannot belong to another
// site, or one of hosts. An empty host, as in HTTP/1.0, is allowed: browsers always send one.
func allowed(host string, hosts ...string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || !strings.Contains(name, ".") || !registrable(name) {
		return true
	}
	return slices.Contains(hosts, "*") || slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, name) })
}

// Hosts is a flag's value: comma-separated names, or "*".
type Hosts []string

// String returns the names in the form that [Hosts.Set] accepts.
func (h *Hosts) String() string {
	if h == nil {
		return ""
	}
	return strings.Join(*h, ",")
}

// Set replaces the names. The error quotes the invalid name.
func (h *Hosts) Set(text string) error {
	var names Hosts
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" || name != "*" && strings.ContainsAny(name, "/:*@ []") {
			return fmt.Errorf("must be comma-separated names without ports, such as rebound.example.com, or *, got %q", name)
		}
		names = append(names, name)
	}
	*h = names
	return nil
}
