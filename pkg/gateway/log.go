package gateway

import (
	"context"
	"log/slog"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// LogTransitions is an observer that writes a line for every change of a
// circuit, with the counts that caused it.
func LogTransitions(l *slog.Logger) resilience.Observer {
	return resilience.Observer{Transition: func(t resilience.Transition) {
		l.LogAttrs(context.Background(), slog.LevelWarn, "circuit changed",
			slog.String("upstream", t.Upstream), slog.String("from", t.From.String()), slog.String("to", t.To.String()),
			slog.Int("successes", t.Successes), slog.Int("failures", t.Failures),
			slog.Int("consecutive_failures", t.Consecutive), slog.Duration("open_for", t.OpenFor))
	}}
}
