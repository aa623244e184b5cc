package serve

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Signals returns a context that ends with the first SIGINT or SIGTERM. A second signal kills the
// process at once, even if it arrives before the first is handled. The caller calls stop when it no
// longer waits for signals.
func Signals(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	received := make(chan os.Signal, 2) // room for both signals, if the second arrives early
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

// HangupSignals receives SIGHUP, SIGUSR1 and SIGUSR2, which would kill the process by default. A
// nil *HangupSignals receives none.
type HangupSignals struct {
	received chan os.Signal
	ignored  bool // the process was started with SIGHUP ignored, as by nohup
}

// Hangups starts to receive these signals for [Config.Hangups], until stop is called. It also
// catches the SIGPIPE of a log whose reader has closed. SIGQUIT still ends the process with the
// stacks of all goroutines.
func Hangups() (_ *HangupSignals, stop func()) {
	h, unread := &HangupSignals{received: make(chan os.Signal, 1), ignored: ignored()}, make(chan os.Signal, 1)
	signal.Notify(h.received, hangups()...)
	catchBrokenPipes(unread) // that is enough
	return h, func() {
		signal.Stop(h.received)
		signal.Stop(unread)
	}
}

// handleSignals handles the signals of c.Hangups until done is closed. It closes hungUp when a
// signal begins the stop.
func (c *Config) handleSignals(ctx context.Context, done <-chan struct{}, hungUp chan<- struct{}) {
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

// end kills the process with s, so that its parent sees the signal. If the process was started with
// s ignored, as in the background of a shell script, end exits with the status that a shell would
// report.
func end(s os.Signal) {
	signal.Reset(s)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(s) == nil {
		time.Sleep(100 * time.Millisecond)
	}
	status := 128 + 15 // SIGTERM
	if s == syscall.SIGINT {
		status = 128 + 2
	}
	os.Exit(status)
}
