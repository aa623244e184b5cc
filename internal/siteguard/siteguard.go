// Package siteguard keeps the pages of other sites away from an admin port that has
// no access control. A browser on the same machine or in the same network can
// reach such a port, and runs what strangers wrote.
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

// Guard has refused, which answers 403 with the reason,
//
//   - what is asked for under a name that somebody else may own, because a page of
//     that name may have had it resolved to here (DNS rebinding). Addresses, names
//     without a dot, and those that no public registry gives away, such as a
//     cluster's, are ours, and so are hosts; "*" among them is every name.
//   - changes that a browser sends for another origin.
//   - what a browser reads for another origin, but for a link that is followed: the
//     other page could not see it, but open more than its share.
//
// Programs that are no browsers are concerned by the first only.
func Guard(next http.Handler, refuse func(w http.ResponseWriter, detail string), hosts ...string) http.Handler {
	changes := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !ours(r.Host, hosts...):
			refuse(w, fmt.Sprintf("this was asked of %q, a name that may belong to another site; ask an address, localhost or a name of the cluster, or allow it with --hosts", r.Host))
		case changes.Check(r) != nil:
			refuse(w, "a browser sent this for another site, which must not change anything here")
		case foreign(r):
			refuse(w, "a browser asked this for another site, which must not look at anything here")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document"
	}
	return false
}

// registrable reports whether a stranger can own a name, or one below it: its last
// label is one of the public Internet's. That of a cluster's services, which may be
// asked as client.NAMESPACE, is none, and neither are those that RFC 2606, RFC
// 6761, RFC 6762 and ICANN (internal) reserve.
func registrable(name string) bool {
	for _, domain := range []string{"home.arpa", "example.com", "example.net", "example.org"} { // RFC 8375, RFC 2606
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return false
		}
	}
	suffix, icann := publicsuffix.PublicSuffix(name)
	return icann || strings.Contains(suffix, ".") // one that a company gives away below its own
}

// ours reports whether host, a Host header, is an address or a name that cannot
// belong to another site, or one of hosts. No host, which HTTP/1.0 allows, is no
// browser's.
func ours(host string, hosts ...string) bool {
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

// Hosts is a flag's value: names with commas between them, or "*".
type Hosts []string

// String is what [Hosts.Set] takes.
func (h *Hosts) String() string {
	if h == nil {
		return ""
	}
	return strings.Join(*h, ",")
}

// Set replaces the names. The error names the one that is none.
func (h *Hosts) Set(text string) error {
	var names Hosts
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" || name != "*" && strings.ContainsAny(name, "/:*@ []") {
			return fmt.Errorf("must be names such as rebound.example.com with commas between them, without ports, or *, got %q", name)
		}
		names = append(names, name)
	}
	*h = names
	return nil
}
