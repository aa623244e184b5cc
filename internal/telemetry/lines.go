package telemetry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// gatherLines is how long a line may wait for others, to be written with them. Lines above the
	// info level do not wait.
	gatherLines = 10 * time.Millisecond
	// enoughLines is how many bytes of lines are written without waiting for more.
	enoughLines = 64 << 10
	// mostLines is how many bytes of lines are kept for a reader that is slower than the log.
	mostLines = 1 << 20
	// sparedLines are kept free for lines above the info level.
	sparedLines = 64 << 10
	// closeLimit limits how long Close waits for such a reader.
	closeLimit = 3 * time.Second
)

// lines writes the lines of a log in one goroutine, many at a time. It never blocks: if its memory
// is full, it drops lines and counts them. It is safe for concurrent use.
type lines struct {
	to io.Writer

	mu      sync.Mutex
	pending []byte
	dropped uint64
	closed  bool // lines are written at once

	some chan struct{} // pending is not empty any more
	now  chan struct{} // pending must not wait
	done chan struct{} // closed when the goroutine has ended

	writing sync.Mutex // guards to
}

func newLines(to io.Writer) *lines {
	l := &lines{to: to, some: make(chan struct{}, 1), now: make(chan struct{}, 1), done: make(chan struct{})}
	go l.run()
	return l
}

// add adds a line with its line break. It keeps no reference to it.
func (l *lines) add(line []byte, level slog.Level) {
	most := mostLines
	if level > slog.LevelInfo {
		most += sparedLines
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.write(line)
		return
	}
	before := len(l.pending)
	after := before + len(line)
	if after > most {
		l.dropped++
		l.mu.Unlock()
		return
	}
	l.pending = append(l.pending, line...)
	l.mu.Unlock()
	if before == 0 {
		signal(l.some)
	}
	if level > slog.LevelInfo || before < enoughLines && after >= enoughLines {
		signal(l.now)
	}
}

// through adds the lines that a handler of slog writes, each with its level.
type through struct {
	slog.Handler // writes to the text of one
	one          *oneLine
}

// oneLine is a line on its way from slog's handler to lines.
type oneLine struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines *lines
}

func newThrough(l *lines, options *slog.HandlerOptions) *through {
	one := &oneLine{lines: l}
	return &through{slog.NewJSONHandler(&one.text, options), one}
}

func (h *through) Handle(ctx context.Context, r slog.Record) error {
	h.one.mu.Lock()
	defer h.one.mu.Unlock()
	h.one.text.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	h.one.lines.add(h.one.text.Bytes(), r.Level)
	if h.one.text.Cap() > longestKept {
		h.one.text = bytes.Buffer{}
	}
	return nil
}

func (h *through) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &through{h.Handler.WithAttrs(attrs), h.one}
}
func (h *through) WithGroup(name string) slog.Handler {
	return &through{h.Handler.WithGroup(name), h.one}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *lines) run() {
	defer close(l.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var free []byte
	for range l.some {
		timer.Reset(gatherLines)
		select {
		case <-timer.C:
		case <-l.now:
		}
		l.mu.Lock()
		batch, closed := l.pending, l.closed
		l.pending = free[:0]
		l.mu.Unlock()
		l.write(batch)
		if closed {
			return
		}
		if free = batch; cap(free) > 2*enoughLines {
			free = nil // it was needed in a rush only
		}
	}
}

// write writes a batch of lines, and counts those that the writer did not take.
func (l *lines) write(batch []byte) {
	if len(batch) == 0 {
		return
	}
	l.writing.Lock()
	n, err := l.to.Write(batch)
	l.writing.Unlock()
	if err != nil {
		lost := uint64(bytes.Count(batch[min(max(n, 0), len(batch)):], []byte("\n")))
		l.mu.Lock()
		l.dropped += lost
		l.mu.Unlock()
	}
}

// lost returns how many lines were dropped so far.
func (l *lines) lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// close writes the pending lines and ends the goroutine. It waits for at most closeLimit, and
// reports whether all lines were written. Later lines are written at once.
func (l *lines) close() bool {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	signal(l.some)
	signal(l.now)
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case <-l.done:
		return true
	case <-limit.C:
		return false
	}
}

// Log is a logger whose lines one goroutine writes, so that no call waits for the reader of the
// log. It drops lines that the reader is too slow for, and counts them. It is safe for concurrent
// use.
type Log struct {
	*slog.Logger
	lines *lines // nil on a terminal
	once  sync.Once
}

// StartLog returns a log that writes the same lines to w as the logger of [NewLogger]. Close ends
// it.
func StartLog(w io.Writer, level slog.Leveler) *Log {
	if terminal(w) {
		return &Log{Logger: NewLogger(w, level)}
	}
	l := newLines(w)
	options := &slog.HandlerOptions{Level: level}
	return &Log{Logger: slog.New(&quick{traced{newThrough(l, options)}, l}), lines: l}
}

// Close writes the lines that are not yet written, for at most 3 s, and says at the end how many
// were dropped. Lines after it are written at once. It may be called more than once.
func (l *Log) Close() {
	if l.lines == nil {
		return
	}
	l.once.Do(func() {
		if !l.lines.close() {
			return // the reader does not read: a further line would wait for it, too
		}
		if n := l.lines.lost(); n > 0 {
			l.WarnContext(context.Background(), lineDropped, slog.Uint64(logLines, n))
		}
	})
}

// DroppedLines returns a function that returns how many lines l, of a [Log], has dropped so far. It
// returns nil if l drops none.
func DroppedLines(l *slog.Logger) func() uint64 {
	if h, ok := l.Handler().(*quick); ok {
		return h.lines.lost
	}
	return nil
}
