//go:build unix

package endpoint

import (
	"errors"
	"syscall"
)

// withoutRoute reports whether err says that there is no route to an address.
func withoutRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
