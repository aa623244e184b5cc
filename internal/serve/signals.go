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

// HangupSignals are the signals that would end a process although nobody asks it to: SIGHUP, SIGUSR1 and SIGUSR2. A
// nil one has none.
type HangupSignals struct {
	received chan os.Signal
	ignored  bool // the process was started to ignore SIGHUP, as nohup does
}

// Hangups takes these signals from now on, and until stop, for [Config.Hangups], and the SIGPIPE of a log whose reader
// is gone. SIGQUIT still ends the process with the stacks of all goroutines.
func Hangups() (_ *HangupSignals, stop func()) {
	h, unread := &HangupSignals{received: make(chan os.Signal, 1), ignored: ignored()}, make(chan os.Signal, 1)
	signal.Notify(h.received, hangups()...)
	signal.Notify(unread, syscall.SIGPIPE) // that it is taken is enough
	return h, func() {
		signal.Stop(h.received)
		signal.Stop(unread)
	}
}

// answer answers the signals of c.Hangups until done. It closes hungUp when one of them asks for the stop.
func (c *Config) answer(ctx context.Context, done <-chan struct{}, hungUp chan<- struct{}) {
	if c.Hangups == nil {
		return
	}
	stopping := false
	for {
		select {
		case s := <-c.Hangups.received:
			switch {
			case s != syscall.SIGHUP || stopping || ctx.Err() != nil || c.Reload == nil && c.Hangups.ignored:
				c.Logger.InfoContext(ctx, lineIgnored, logSignal, s.String())
			case c.Reload == nil:
				c.Logger.InfoContext(ctx, lineHungUp)
				stopping = true
				close(hungUp)
			default:
				c.Logger.InfoContext(ctx, lineHangup)
				c.Reload()
			}
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
