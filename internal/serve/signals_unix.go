//go:build unix

package serve

import (
	"os"
	"os/signal"
	"syscall"
)

func ignored() bool { return signal.Ignored(syscall.SIGHUP) }

func hangups() []os.Signal { return []os.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} }

func catchBrokenPipes(c chan<- os.Signal) { signal.Notify(c, syscall.SIGPIPE) }
