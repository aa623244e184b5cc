package serve

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Signals returns a context that ends with the first SIGINT or SIGTERM. A second one ends a process that takes
// too long at once, however soon it comes. The caller calls stop when it no longer waits for signals.
func Signals(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	received := make(chan os.Signal, 2) // both may come before either is looked at
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		select {
		case <-received:
			cancel()
		case <-stopped:
			return
		}
		select {
		case s := <-received:
			end(s)
		case <-stopped:
		}
	}()
	var once sync.Once
	return ctx, func() {
		once.Do(func() {
			signal.Stop(received)
			close(stopped)
			cancel()
		})
	}
}

// Hangups takes from now on, and until stop, what would end the process although nobody asks it to: SIGHUP, which the
// channel gets for [Config.Hangups]; SIGUSR1 and SIGUSR2, which it gets too; and the SIGPIPE of a log whose reader is
// gone. SIGQUIT still ends the process with the stacks of all goroutines.
func Hangups() (_ <-chan os.Signal, stop func()) {
	received, unread := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(received, hangups()...)
	signal.Notify(unread, syscall.SIGPIPE) // that it is taken is enough
	return received, func() {
		signal.Stop(received)
		signal.Stop(unread)
	}
}

// answer answers the signals of c.Hangups until done.
func (c *Config) answer(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case s := <-c.Hangups:
			if s != syscall.SIGHUP || c.Reload == nil || ctx.Err() != nil {
				c.Logger.InfoContext(ctx, lineIgnored, logSignal, s.String())
				continue
			}
			c.Logger.InfoContext(ctx, lineHangup)
			c.Reload()
		case <-done:
			return
		}
	}
}

// end ends the process by s, so that its parent sees what ended it; and if s was
// ignored when the process began, as in the background of a shell's script, as
// a shell would report it.
func end(s os.Signal) {
	signal.Reset(s)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(s) == nil {
		time.Sleep(100 * time.Millisecond)
	}
	number, _ := s.(syscall.Signal)
	os.Exit(128 + int(number))
}
