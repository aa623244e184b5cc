package connpool

import (
	"errors"
	"syscall"
)

// hungUp reports whether err is the system's for a write to a connection that the peer has closed.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ErrorString("i/o on hungup channel"))
}
