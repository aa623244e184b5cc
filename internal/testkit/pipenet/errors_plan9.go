package pipenet

import "syscall"

// The system's errors.
const (
	inUse   = syscall.ErrorString("address in use")
	refused = syscall.ErrorString("connection refused")
)
