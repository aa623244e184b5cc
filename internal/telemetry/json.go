package telemetry

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// quick writes the usual lines itself, to the byte as slog's handler for JSON does, in a third of
// the time. It leaves all others to that handler: those with text to escape, or with a value that
// is not a text, an integer or a duration.
type quick struct {
	traced // writes to lines, too
	lines  *lines
}

// buffers are lines to use again.
var buffers = sync.Pool{New: func() any { return new(line) }} //nolint:gochecknoglobals // a pool

// longestKept is the size from which a buffer is not used again.
const longestKept = 16 << 10

// Handle implements slog.Handler.
func (h *quick) Handle(ctx context.Context, r slog.Record) error {
	l := newLine(r.Time, r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		l.add(&a)
		return l.ok
	})
	if h.end(ctx, l, r.Level) {
		return nil
	}
	return h.traced.Handle(ctx, r)
}

// HandleAttrs writes a line at the current time, like Handle.
func (h *quick) HandleAttrs(ctx context.Context, level slog.Level, message string, attrs []slog.Attr) {
	now := time.Now()
	l := newLine(now, level, message)
	for i := range attrs {
		l.add(&attrs[i])
	}
	if !h.end(ctx, l, level) {
		r := slog.NewRecord(now, level, message, 0)
		r.AddAttrs(attrs...)
		_ = h.traced.Handle(ctx, r) // slog ignores it, too
	}
}

// line is a line that is being made.
type line struct {
	text []byte
	ok   bool // otherwise slog has to write it
}

func newLine(at time.Time, level slog.Level, message string) *line {
	l, _ := buffers.Get().(*line)
	b := append(l.text[:0], `{"time":"`...)
	b = at.AppendFormat(b, time.RFC3339Nano)
	b = append(append(append(b, `","level":"`...), level.String()...), `","msg":`...)
	l.text, l.ok = appendText(b, message)
	l.ok = l.ok && !at.IsZero() && at.Year() >= 1 && at.Year() <= 9999
	return l
}

func (l *line) add(a *slog.Attr) {
	if l.ok {
		l.text, l.ok = appendAttr(l.text, a)
	}
}

// end writes l, or reports that slog has to.
func (h *quick) end(ctx context.Context, l *line, level slog.Level) (written bool) {
	if l.ok {
		if span := trace.SpanContextFromContext(ctx); span.IsValid() {
			trace, of := span.TraceID(), span.SpanID()
			l.text = appendHex(append(l.text, `,"`+logTraceID+`":"`...), trace[:])
			l.text = appendHex(append(l.text, `","`+logSpanID+`":"`...), of[:])
			l.text = append(l.text, '"')
		}
		l.text = append(l.text, "}\n"...)
		h.lines.add(l.text, level)
	}
	written = l.ok
	if cap(l.text) <= longestKept {
		buffers.Put(l)
	}
	return written
}

func appendAttr(b []byte, a *slog.Attr) (_ []byte, ok bool) {
	if a.Key == "" {
		return b, false
	}
	b = append(b, ',')
	if b, ok = appendText(b, a.Key); !ok {
		return b, false
	}
	b = append(b, ':')
	switch v := a.Value; v.Kind() {
	case slog.KindString:
		return appendText(b, v.String())
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10), true
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10), true
	case slog.KindDuration:
		return strconv.AppendInt(b, int64(v.Duration()), 10), true
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool()), true
	case slog.KindAny:
		if v.Any() == nil { // the error of an attempt that has none
			return append(b, "null"...), true
		}
		return b, false
	default:
		return b, false
	}
}

// appendText appends a text in quotes. It reports false if the text has something to escape.
func appendText(b []byte, s string) (_ []byte, ok bool) {
	b = append(b, '"')
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			return b, false
		}
	}
	b = append(b, s...)
	return append(b, '"'), true
}

func appendHex(b, digits []byte) []byte {
	const hex = "0123456789abcdef"
	for _, d := range digits {
		b = append(b, hex[d>>4], hex[d&15])
	}
	return b
}
