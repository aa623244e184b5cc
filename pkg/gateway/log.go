package gateway

import (
	"context"
	"log/slog"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// LogObserver is an observer that writes a warning for every change of a
// circuit, with the counts that caused it, and a line for every attempt at the
// debug level.
func LogObserver(l *slog.Logger) resilience.Observer {
	return resilience.Observer{
		Attempt: func(ctx context.Context, a *resilience.AttemptReport) {
			if !l.Enabled(ctx, slog.LevelDebug) {
				return
			}
			l.LogAttrs(ctx, slog.LevelDebug, "attempt",
				slog.Int("attempt", a.Number), slog.String("verdict", string(a.Verdict)), slog.String("reason", string(a.Reason)),
				slog.Duration("duration", a.Duration), slog.Duration("wait", a.Wait.Planned), slog.Any("error", a.Err))
		},
		Transition: func(t resilience.Transition) {
			l.LogAttrs(context.Background(), slog.LevelWarn, "circuit changed",
				slog.String("upstream", t.Upstream), slog.String("from", t.From.String()), slog.String("to", t.To.String()),
				slog.Int("successes", t.Successes), slog.Int("failures", t.Failures),
				slog.Int("consecutive_failures", t.Consecutive), slog.Duration("open_for", t.OpenFor))
		},
	}
}
