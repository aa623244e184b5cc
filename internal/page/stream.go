package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/problem"
)

const (
	heartbeatEvery = 15 * time.Second
	writeTimeout   = 5 * time.Second // for each piece
	writePiece     = 64 << 10        // bytes; the first event of a page can have megabytes
)

// update is the data of an event. Its first fields are those of [live.Update].
type update struct {
	live.Update
	Pages    pagesShown     `json:"pages"`
	Settings *settingsShown `json:"settings,omitempty"` // with Reset
	Faults   uint64         `json:"faultsVersion,omitempty"`
	Traffic  *TrafficState  `json:"traffic,omitempty"`
	Marks    []faultMark    `json:"faultMarks,omitempty"` // with Reset
}

// encode turns an update into an event for all pages.
func (p *Page) encode(u live.Update) event {
	shown := update{Update: u, Pages: p.hub.shown(), Traffic: p.traffic()}
	if u.Reset {
		shown.Settings = p.settings()
	}
	if p.faults != nil {
		shown.Faults = p.faults.version.Load()
		if u.Reset {
			shown.Marks = p.faults.marksAt(u.Now)
		}
	}
	data, err := json.Marshal(shown)
	if err != nil { // a figure is NaN; the pages will say that they are stale
		return event{u.Tick, []byte(": " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n\n")}
	}
	return event{u.Tick, slices.Concat([]byte("id: "+u.ID+"\nevent: update\ndata: "), data, []byte("\n\n"))}
}

// publish sends the latest update to the open pages. It skips empty updates, except for one each
// second.
func (p *Page) publish() {
	if p.hub.empty() {
		return
	}
	u, now := p.live.Latest(), time.Now()
	if u.Empty() && now.Sub(p.told) < time.Second {
		return
	}
	p.told = now
	p.hub.publish(p.encode(u))
}

// serveLive streams events until the page leaves or is dropped.
func (p *Page) serveLive(w http.ResponseWriter, r *http.Request) {
	s := p.hub.open()
	if s == nil {
		w.Header().Set("Retry-After", "5")
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Detail: fmt.Sprintf("too many open pages (limit %d), or the server is shutting down", maxPages)})
		return
	}
	var err error
	defer func() { p.hub.leave(s, errors.Is(err, os.ErrDeadlineExceeded)) }()
	first := p.live.Since(r.Header.Get("Last-Event-ID"))

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // otherwise nginx delays events
	stream := stream{w, http.NewResponseController(w)}
	if err = stream.write(append([]byte("retry: 1000\n"), p.encode(first).data...)); err != nil {
		return
	}
	// That write may have taken longer than the queue lasts, so the page listens only now. One
	// event has what happened meanwhile. The queue may repeat it, which tick shows.
	p.hub.listen(s)
	late := p.live.Since(first.ID)
	if late.Tick > first.Tick {
		err = stream.write(p.encode(late).data)
	}

	heartbeat := time.NewTimer(heartbeatEvery)
	defer heartbeat.Stop()
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-s.gone:
			return
		case e := <-s.events:
			if e.tick <= late.Tick {
				continue
			}
			err = stream.write(e.data)
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

// write returns an error if the page has left or does not read.
func (s *stream) write(b []byte) error {
	for piece := range slices.Chunk(b, writePiece) {
		_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.Write(piece); err != nil {
			return err
		}
	}
	return s.control.Flush()
}
