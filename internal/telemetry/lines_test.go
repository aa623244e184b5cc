package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// A device that is no terminal gets batches of lines in JSON, as a file does.
func TestNullDeviceIsNoTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	l := telemetry.StartLog(null, slog.LevelInfo)
	defer l.Close()
	if telemetry.DroppedLines(l.Logger) == nil {
		t.Errorf("%s counts as a terminal, want a file", os.DevNull)
	}
}

// A line from StartLog is the same to the byte as one from slog, whatever is in it.
func TestLogWritesWhatSlogWrites(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 30, 1, 20_300_000, time.FixedZone("", 3600))
	span := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 0xab}, SpanID: trace.SpanID{0xfe}}))
	record := func(at time.Time, message string, attrs ...slog.Attr) slog.Record {
		r := slog.NewRecord(at, slog.LevelInfo, message, 0)
		r.AddAttrs(attrs...)
		return r
	}
	for name, r := range map[string]slog.Record{
		"nothing":            record(at, ""),
		"UTC":                record(at.UTC(), "call"),
		"whole seconds":      record(at.Truncate(time.Second), "call"),
		"no time":            record(time.Time{}, "call"),
		"a time beyond 9999": record(at.AddDate(9000, 0, 0), "call"),
		"texts":              record(at, "call", slog.String("route", "orders"), slog.String("path", "/a%20b?<&>'"), slog.String("empty", "")),
		"integers":           record(at, "call", slog.Int("status", -200), slog.Int64("least", math.MinInt64), slog.Uint64("most", math.MaxUint64)),
		"durations":          record(at, "call", slog.Duration("waited", 0), slog.Duration("duration", -1500*time.Millisecond)),
		"truth":              record(at, "call", slog.Bool("yes", true), slog.Bool("no", false)),
		"a quote":            record(at, "call", slog.String("path", `/"x"`), slog.Int("n", 1)),
		"a backslash":        record(at, "call", slog.String("path", `\`)),
		"a line break":       record(at, "call\n{}", slog.String("path", "\r\n\t\x00\x1f\x7f")),
		"beyond ASCII":       record(at, "é", slog.String("path", "…\u2028\u2029😀")),
		"broken text":        record(at, "call", slog.String("path", "a\xffb")),
		"a key to escape":    record(at, "call", slog.String(`a"b`, "c")),
		"an empty key":       record(at, "call", slog.String("", "c")),
		"an empty attribute": record(at, "call", slog.Attr{}),
		"a float":            record(at, "call", slog.Float64("f", 1e21)),
		"a time":             record(at, "call", slog.Time("then", at)),
		"an error":           record(at, "call", slog.Any("error", errors.New("no"))),
		"no error":           record(at, "call", slog.Any("error", nil)),
		"a list":             record(at, "call", slog.Any("list", []string{"a", "<b>"})),
		"a group":            record(at, "call", slog.Group("g", slog.Int("n", 1)), slog.Group("empty")),
		"a value of its own": record(at, "call", slog.Any("level", slog.LevelWarn)),
		"one that is quick, then one that is not": record(at, "call", slog.String("a", "b"), slog.Any("c", struct{ N int }{1})),
	} {
		for traced, ctx := range map[string]context.Context{"": t.Context(), ", traced": span} {
			t.Run(name+traced, func(t *testing.T) {
				var want, got output.Buffer
				_ = telemetry.NewLogger(&want, slog.LevelInfo).Handler().Handle(ctx, r)
				log := telemetry.StartLog(&got, slog.LevelInfo)
				_ = log.Handler().Handle(ctx, r)
				log.Close()
				if got.String() != want.String() {
					t.Errorf("got the line\n%swant\n%s", got.String(), want.String())
				}
			})
		}
	}
}

// The line of a call, with a logger that has attributes of its own, too.
func TestLogWithAttributes(t *testing.T) {
	var got output.Buffer
	log := telemetry.StartLog(&got, slog.LevelInfo)
	log.With("listener", "data").WithGroup("g").Info("hello", "n", 1)
	log.Debug("below the level")
	gateway.LogObserver(log.Logger).ObserveCall(t.Context(), goodCall())
	log.Close()
	text := got.String()
	first, second, _ := strings.Cut(text, "\n")
	if !strings.HasSuffix(first, `"level":"INFO","msg":"hello","listener":"data","g":{"n":1}}`) {
		t.Errorf("got the first line %s, want listener and group", first)
	}
	_, call, _ := strings.Cut(second, `,"level"`)
	const want = `:"INFO","msg":"call","route":"orders","method":"GET","path":"/orders/7","caller":"127.0.0.1:4711","upstream":"http://up","status":200,"reason":"ok","attempts":1,"waited":0,"duration":1500000,"request_id":"IFVPXAE6R6ZU2Z2FOWA7R36VQ4"}` + "\n"
	if call != want {
		t.Errorf("got the call's line %s, want %s", call, want)
	}
}

// Lines of many goroutines are written whole, each once, and none is lost by Close.
func TestLogLosesNothing(t *testing.T) {
	const goroutines, each = 16, 500
	var got output.Buffer
	log := telemetry.StartLog(&got, slog.LevelInfo)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				log.Info("line", "id", fmt.Sprintf("%d-%d", g, i))
			}
		})
	}
	wg.Wait()
	log.Close()
	log.Close()
	log.Info("line", "id", "after Close")
	seen := map[string]int{}
	for line := range strings.Lines(got.String()) {
		_, id, _ := strings.Cut(line, `"msg":"line","id":"`)
		id, ok := strings.CutSuffix(id, "\"}\n")
		if !ok {
			t.Fatalf("got the line %s, want a whole one", line)
		}
		seen[id]++
	}
	if len(seen) != goroutines*each+1 || seen["15-499"] != 1 || seen["after Close"] != 1 {
		t.Errorf("got %d different lines, want %d, each once", len(seen), goroutines*each+1)
	}
	if n := telemetry.DroppedLines(log.Logger)(); n != 0 {
		t.Errorf("got %d dropped lines, want none", n)
	}
}

// While the writer is busy, or waits for more, lines gather and are written together.
func TestLogWritesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w countingWriter
		log := telemetry.StartLog(&w, slog.LevelInfo)
		for range 100 {
			log.Info("line")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if w.writes != 1 {
			t.Errorf("got %d writes for 100 lines at once, want 1", w.writes)
		}
		start := time.Now()
		log.Warn("line")
		synctest.Wait()
		if w.writes != 2 || time.Since(start) > 0 {
			t.Errorf("got %d writes, want a second one for a warning, at once", w.writes)
		}
		log.Close()
	})
}

type countingWriter struct{ writes int }

func (w *countingWriter) Write(b []byte) (int, error) { w.writes++; return len(b), nil }

// A reader that does not read costs lines, but no call waits for it, and the lines are counted.
func TestLogDropsWhatNobodyReads(t *testing.T) {
	// Close gives a reader up that reads nothing for 3 s, and this one may on a busy machine.
	wait.OneOf(t, 2, func() (missed string) {
		r, w := io.Pipe()
		log := telemetry.StartLog(w, slog.LevelInfo)
		long := strings.Repeat("x", 1000)
		const n = 5000
		for range n {
			log.Info("line", "text", long)
		}
		log.Warn("warning") // there is room for it
		dropped := telemetry.DroppedLines(log.Logger)()
		if dropped == 0 || dropped > n-900 {
			return fmt.Sprintf("got %d of %d lines of 1 KB dropped, want all beyond 1 MiB", dropped, n)
		}
		text := closeAndRead(log, w, r)
		last := text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:]
		if want := fmt.Sprintf(`"level":"WARN","msg":"log lines were dropped","lines":%d}`+"\n", dropped); !strings.HasSuffix(last, want) {
			return fmt.Sprintf("got the last line %s, want it to end with %s", last, want)
		}
		if lines := strings.Count(text, `"msg":"line"`); lines != int(n-dropped) || !strings.Contains(text, `"warning"`) {
			return fmt.Sprintf("got %d lines and %d dropped ones of %d, and a warning: %v, want all of them", lines, dropped, n, strings.Contains(text, `"warning"`))
		}
		return ""
	})
}

// closeAndRead closes a log and its pipe, and returns all that was written to it.
func closeAndRead(log *telemetry.Log, w io.Closer, r io.Reader) string {
	var got bytes.Buffer
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(&got, r) }()
	log.Close()
	_ = w.Close()
	<-read
	return got.String()
}

// No line that slog has to write takes the room that is kept for warnings.
func TestLogKeepsRoomForWarnings(t *testing.T) {
	for name, line := range map[string]func(*slog.Logger){
		"text to escape":  func(l *slog.Logger) { l.Info("line", "text", strings.Repeat("…", 400)) },
		"with attributes": func(l *slog.Logger) { l.With("text", strings.Repeat("x", 1000)).Info("line") },
		"in a group":      func(l *slog.Logger) { l.WithGroup("group").Info("line", "text", strings.Repeat("x", 1000)) },
	} {
		t.Run(name, func(t *testing.T) {
			wait.OneOf(t, 2, func() (missed string) {
				r, w := io.Pipe()
				log := telemetry.StartLog(w, slog.LevelInfo)
				for range 5000 {
					line(log.Logger)
				}
				log.Warn("warning")
				text := closeAndRead(log, w, r)
				if !strings.Contains(text, `"warning"`) {
					return "the warning was dropped, want room for it"
				}
				return ""
			})
		})
	}
}

// A reader that never reads does not keep the program from ending.
func TestLogCloseEnds(t *testing.T) {
	r, w := io.Pipe()
	log := telemetry.StartLog(w, slog.LevelInfo)
	log.Info("line")
	log.Close()
	_ = r.Close() // ends the goroutine
}

// Lines that cannot be written are lost, and counted.
func TestLogCountsFailedWrites(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	log := telemetry.StartLog(w, slog.LevelInfo)
	log.Info("line")
	log.Info("line")
	log.Close()
	_ = w.Close()
	if n := telemetry.DroppedLines(log.Logger)(); n < 2 {
		t.Errorf("got %d dropped lines, want the two that could not be written", n)
	}
}

func goodCall() observe.Call {
	return observe.Call{
		Route: "orders", Policy: "default", Pattern: "/orders/{id}", Upstream: "http://up", Scheme: "http", Host: "shop", Path: "/orders/7", Method: "GET",
		Caller: "127.0.0.1:4711", Status: 200, RequestID: "IFVPXAE6R6ZU2Z2FOWA7R36VQ4", Start: time.Now(), Duration: 1500 * time.Microsecond,
		Report: &resilience.Report{Reason: resilience.ReasonOK, Attempts: []resilience.AttemptReport{{
			Number: 1, Duration: time.Millisecond, Reason: resilience.ReasonOK, Verdict: resilience.VerdictReturn, Status: 200,
		}}},
	}
}

// BenchmarkCallLine compares the line of a call by slog with the one of StartLog. The calls to the
// system, one for each line and one for many, come on top.
func BenchmarkCallLine(b *testing.B) {
	log := telemetry.StartLog(io.Discard, slog.LevelInfo)
	b.Cleanup(log.Close)
	for _, l := range []struct {
		name   string
		logger *slog.Logger
	}{{"slog", telemetry.NewLogger(io.Discard, slog.LevelInfo)}, {"log", log.Logger}} {
		b.Run(l.name, func(b *testing.B) {
			o, c := gateway.LogObserver(l.logger), goodCall()
			b.ReportAllocs()
			for b.Loop() {
				o.ObserveCall(b.Context(), c)
			}
		})
	}
}
