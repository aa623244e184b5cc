//go:build !plan9

package pipenet

import "syscall"

// The system's errors.
const (
	inUse   = syscall.EADDRINUSE
	refused = syscall.ECONNREFUSED
)
