package connpool

import (
	"errors"
	"syscall"
)

// hungUp reports whether err is the system's for a write to a connection that the peer has closed.
// Windows never returns syscall's EPIPE and ECONNRESET, whose numbers are invented.
func hungUp(err error) bool {
	return errors.Is(err, syscall.WSAECONNRESET) || errors.Is(err, syscall.WSAECONNABORTED)
}
