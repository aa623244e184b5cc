package live

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/problem"
)

const (
	maxPages       = 128
	pageQueue      = 25 // events that a page may be late: five seconds
	heartbeatEvery = 15 * time.Second
	writeTimeout   = 5 * time.Second
	writePiece     = 64 << 10 // that may take as long: an event for a page that opens can be megabytes
)

// hub hands events to the open pages. It waits for none of them: one that does
// not read is dropped, and asks for what it missed when it comes back.
type hub struct {
	mu      sync.Mutex
	pages   map[*page]struct{}
	dropped uint64
	closed  bool
}

// page is one open stream.
type page struct {
	listens bool // it is sent events
	events  chan []byte
	gone    chan struct{} // closed by the hub, which sends nothing any more
}

func (h *hub) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pages) == 0
}

func (h *hub) shown() pagesShown {
	h.mu.Lock()
	defer h.mu.Unlock()
	return pagesShown{Open: len(h.pages), Dropped: h.dropped}
}

// open is nil when there are too many, or the stream is over for all. The page
// is sent nothing before it listens.
func (h *hub) open() *page {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.pages) >= maxPages {
		return nil
	}
	if h.pages == nil {
		h.pages = map[*page]struct{}{}
	}
	p := &page{events: make(chan []byte, pageQueue), gone: make(chan struct{})}
	h.pages[p] = struct{}{}
	return p
}

func (h *hub) listen(p *page) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.listens = true
}

func (h *hub) leave(p *page, slow bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.pages[p]; ok {
		h.remove(p, slow)
	}
}

func (h *hub) remove(p *page, slow bool) {
	delete(h.pages, p)
	close(p.gone)
	if slow {
		h.dropped++
	}
}

func (h *hub) publish(event []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for p := range h.pages {
		if !p.listens {
			continue
		}
		select {
		case p.events <- event:
		default:
			h.remove(p, true)
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for p := range h.pages {
		h.remove(p, false)
	}
}

// serveLive streams events until the page goes, or is dropped.
func (l *Live) serveLive(w http.ResponseWriter, r *http.Request) {
	p := l.hub.open()
	if p == nil {
		w.Header().Set("Retry-After", "5")
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Detail: "as many pages are open as there may be, or the program ends"})
		return
	}
	var err error
	defer func() { l.hub.leave(p, errors.Is(err, os.ErrDeadlineExceeded)) }()
	l.mu.Lock()
	u, at := l.first(r.Header.Get("Last-Event-ID"), time.Now())
	l.mu.Unlock()

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would keep events back
	stream := stream{w, http.NewResponseController(w)}
	if err = stream.write(append([]byte("retry: 1000\n"), event(l.eventID(at), u)...)); err != nil {
		return
	}
	// That may have taken long. What has happened in between comes in one event, and
	// from then on, between two ticks, nothing twice and nothing not at all.
	l.mu.Lock()
	var late []byte
	if l.tick > at.tick {
		u = l.since(at, resumeCalls, time.Now())
		late = event(l.eventID(l.position()), u)
	}
	l.hub.listen(p)
	l.mu.Unlock()
	if late != nil {
		err = stream.write(late)
	}

	heartbeat := time.NewTimer(heartbeatEvery)
	defer heartbeat.Stop()
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-p.gone:
			return
		case e := <-p.events:
			err = stream.write(e)
		case <-heartbeat.C:
			err = stream.write([]byte(": still here\n\n"))
		}
		heartbeat.Reset(heartbeatEvery)
	}
}

type stream struct {
	io.Writer
	control *http.ResponseController
}

// write fails when the page is gone, or does not read.
func (s *stream) write(b []byte) error {
	for piece := range slices.Chunk(b, writePiece) {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.Write(piece); err != nil {
			return err
		}
	}
	return s.control.Flush()
}
