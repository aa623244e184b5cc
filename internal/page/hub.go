package page

import "sync"

const (
	maxPages  = 128
	pageQueue = 25 // events that a page may be late: five seconds
)

// hub passes events to the open pages. It never waits for a page: it drops one whose queue is full.
// A dropped page asks for what it missed when it comes back.
type hub struct {
	mu      sync.Mutex
	pages   map[*subscriber]struct{}
	dropped uint64
	closed  bool
}

// subscriber is one open page.
type subscriber struct {
	listens bool // publish sends it events
	events  chan event
	gone    chan struct{} // closed by the hub when it removes the page
}

// event is an encoded update.
type event struct {
	tick uint64 // of the update
	data []byte
}

type pagesShown struct {
	Open    int    `json:"open"`
	Dropped uint64 `json:"dropped"` // since the start, for reading too slowly
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

// open adds a page. It returns nil if there are too many pages or the hub is closed. The page gets
// no events before listen.
func (h *hub) open() *subscriber {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.pages) >= maxPages {
		return nil
	}
	if h.pages == nil {
		h.pages = map[*subscriber]struct{}{}
	}
	p := &subscriber{events: make(chan event, pageQueue), gone: make(chan struct{})}
	h.pages[p] = struct{}{}
	return p
}

func (h *hub) listen(p *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.listens = true
}

func (h *hub) leave(p *subscriber, slow bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.pages[p]; ok {
		h.remove(p, slow)
	}
}

func (h *hub) remove(p *subscriber, slow bool) {
	delete(h.pages, p)
	close(p.gone)
	if slow {
		h.dropped++
	}
}

func (h *hub) publish(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for p := range h.pages {
		if !p.listens {
			continue
		}
		select {
		case p.events <- e:
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
