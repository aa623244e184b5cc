//go:build !unix

package serve

import (
	"os"
	"syscall"
)

func hangups() []os.Signal { return []os.Signal{syscall.SIGHUP} }
