//go:build !plan9

package backend

import "syscall"

// The system's errors of a connection.
const (
	refused = syscall.ECONNREFUSED
	reset   = syscall.ECONNRESET
)
