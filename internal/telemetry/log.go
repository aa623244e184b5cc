package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// The messages of the log lines.
const (
	// at the start: variables are set that have no effect here
	lineNoEffect = "variables of OpenTelemetry's without effect"
	// the collector is away, slow, or refuses; at most once a minute, and with the last spans
	lineNoExport = "traces cannot be exported"
	// at the end: whoever reads the log was too slow for some lines
	lineDropped = "log lines were dropped"
)

// The keys of their fields.
const (
	logTraceID = "trace_id" // the trace, on every line of a traced request
	// the server's span, on the same lines; on the line of an attempt the call's span
	logSpanID    = "span_id"
	logError     = "error"                     // the error
	logSkipped   = "errors_since_last_warning" // failed exports since the last warning
	logVariables = "variables"                 // the variables, each with the reason
	logLines     = "lines"                     // the number of lines
)

// NewLogger returns a logger that writes lines of at least level to w: as text to a terminal,
// otherwise as JSON. A line that is logged with a context has the context's trace_id and span_id.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if terminal(w) {
		return slog.New(&traced{slog.NewTextHandler(w, options)})
	}
	return slog.New(&traced{slog.NewJSONHandler(w, options)})
}

// Level is the lowest level of lines that are written. It is the value of a flag. The zero value is
// info.
type Level slog.Level

// Level implements slog.Leveler for [NewLogger].
func (l Level) Level() slog.Level { return slog.Level(l) }

// MarshalText returns the text that [Level.UnmarshalText] accepts.
func (l Level) MarshalText() ([]byte, error) {
	return []byte(strings.ToLower(l.Level().String())), nil
}

// UnmarshalText accepts debug, info, warn or error, in any case.
func (l *Level) UnmarshalText(text []byte) error {
	for _, known := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(string(text), known.String()) {
			*l = Level(known)
			return nil
		}
	}
	return expected("debug, info, warn or error", string(text))
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) // /dev/null is none
}

// traced adds trace_id and span_id of the context's span to each line.
type traced struct{ slog.Handler }

func (h *traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String(logTraceID, span.TraceID().String()), slog.String(logSpanID, span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h *traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &traced{h.Handler.WithAttrs(attrs)}
}
func (h *traced) WithGroup(name string) slog.Handler { return &traced{h.Handler.WithGroup(name)} }

// errorsOnly drops lines below the error level, such as the SDK's lines about its own work.
type errorsOnly struct{ slog.Handler }

func (h errorsOnly) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelError && h.Handler.Enabled(ctx, level)
}
