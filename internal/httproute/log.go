package httproute

import (
	"context"
	"log/slog"
)

const (
	// At start and at each reload, for each field of a file of HTTPRoutes that is not carried over,
	// or not as it is there.
	lineNotCarried = "field of an HTTPRoute is not carried over"

	logField = "field" // the field with its place, and why
)

// Log writes a line for each note.
func Log(ctx context.Context, logger *slog.Logger, notes []Note) {
	for _, n := range notes {
		logger.WarnContext(ctx, lineNotCarried, logField, n.String())
	}
}
