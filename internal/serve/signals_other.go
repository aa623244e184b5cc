//go:build !unix

package serve

import (
	"os"
	"syscall"
)

func ignored() bool { return false }

func hangups() []os.Signal { return []os.Signal{syscall.SIGHUP} }

// catchBrokenPipes does nothing: these systems have no signal for it.
func catchBrokenPipes(chan<- os.Signal) {}
