package backend

import "syscall"

// The system's errors of a connection.
const (
	refused = syscall.ErrorString("connection refused")
	reset   = syscall.ErrorString("i/o on hungup channel")
)
