package config

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// CheckHost reports what is wrong with the host and the port of u, which [url.Parse] takes nearly as they come: a
// variable that nobody has replaced, a list, a path. The host must be a name of at most 253 letters, digits, dots,
// dashes and underscores, an IPv4 address, or an IPv6 address in brackets. A port must be from 1 to 65535; u may go
// without one.
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

// isHostName reports whether a resolver would look name up. A name whose last label is a number would be an IPv4
// address, if it were one.
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
