package nethttp

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// CheckHost checks the host and the port of u. [url.Parse] accepts almost any host, such as an
// unexpanded variable, a list or a path. CheckHost requires a name of at most 253 letters, digits,
// dots, dashes and underscores, an IPv4 address, or an IPv6 address in brackets. A port is optional
// and must be from 1 to 65535.
func CheckHost(u *url.URL) error {
	host, port := u.Hostname(), u.Port()
	if host == "" {
		return errors.New("there is no host")
	}
	if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
		return errors.New("the host must be a name of letters, digits, dots, dashes and underscores, an IPv4 address, or an IPv6 address in brackets")
	}
	if port == "" && strings.HasSuffix(u.Host, ":") {
		return errors.New("there is no port after the colon")
	}
	if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) {
		return errors.New("the port must be from 1 to 65535")
	}
	return nil
}

// isHostName reports whether name is a host name to resolve. A name whose last label is a number is
// not: it looks like an IPv4 address.
func isHostName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}
