package serve

import (
	"context"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends with the first SIGINT or SIGTERM. From then on signals have their
// default effect again, so that a second one ends a process that takes too long at once. The caller calls
// stop when it no longer waits for signals.
func Signals(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
