package page

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	readTimeout   = 10 * time.Second // for a request's body
	answerTimeout = 30 * time.Second // for writing an answer that is not a stream

	defaultCalls = 50
	mostCalls    = 2 * live.KeptCalls
)

// state is the answer of /api/state.
type state struct {
	live.State
	Pages    pagesShown     `json:"pages"`
	Settings *settingsShown `json:"settings"`
	Traffic  *TrafficState  `json:"traffic,omitempty"`
}

type settingsShown struct {
	Traces  string              `json:"traces,omitempty"`
	Example string              `json:"example,omitempty"`
	Faults  bool                `json:"faults"`            // can be changed
	Traffic *TrafficSettings    `json:"traffic,omitempty"` // the generator's initial settings
	Tour    bool                `json:"tour,omitempty"`    // is offered
	Reasons []resilience.Reason `json:"reasons"`
	Seconds int                 `json:"seconds"` // that are kept
	Window  int                 `json:"window"`  // seconds of the current figures
}

func (p *Page) settings() *settingsShown {
	return &settingsShown{
		Traces: p.options.Traces, Example: p.options.Example, Faults: p.faults != nil, Traffic: p.firstTraffic,
		Tour:    p.options.Tour && p.faults != nil && p.firstTraffic != nil,
		Reasons: resilience.Reasons(), Seconds: live.KeptSeconds, Window: live.WindowSeconds,
	}
}

func (p *Page) serveState(w http.ResponseWriter, r *http.Request) {
	if !query(w, r) {
		return
	}
	writeJSON(w, state{State: p.live.State(), Pages: p.hub.shown(), Settings: p.settings(), Traffic: p.traffic()})
}

func (p *Page) serveCalls(w http.ResponseWriter, r *http.Request) {
	if !query(w, r, "limit", "reason", "upstream", "policy") {
		return
	}
	limit := defaultCalls
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostCalls {
			refuse(w, fmt.Sprintf("limit: must be from 1 to %d, got %q", mostCalls, text))
			return
		}
		limit = n
	}
	reason := resilience.Reason(r.URL.Query().Get("reason"))
	if reason != "" && !reason.Valid() {
		refuse(w, fmt.Sprintf("reason: must be one of %v or status_<code>, got %q", resilience.Reasons(), reason))
		return
	}
	if q := r.URL.Query(); q.Get("upstream") == live.Others && q.Get("policy") != "" {
		refuse(w, fmt.Sprintf("policy: must not be given with upstream=%s, which has calls under all policies", live.Others))
		return
	}
	calls, total := p.live.Calls(limit, live.Wanted{Reason: reason, Upstream: r.URL.Query().Get("upstream"), Policy: r.URL.Query().Get("policy")})
	writeJSON(w, struct {
		Total uint64         `json:"total"` // since the start
		Calls []*live.Record `json:"calls"` // the newest first
	}{total, calls})
}

func (p *Page) serveCall(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil || id == 0 {
		refuse(w, fmt.Sprintf("id: must be a number from 1, got %q", r.PathValue("id")))
		return
	}
	if !query(w, r) {
		return
	}
	call, total := p.live.Call(id)
	switch {
	case call != nil:
		writeJSON(w, call)
	case id > total:
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("there is no call %d yet: the newest is call %d", id, total)})
	default:
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf(
			"call %d is not kept any more: only the newest %d calls that succeeded at once and the newest %d others are", id, live.KeptCalls, live.KeptCalls)})
	}
}

// query answers 400 and returns false for query parameters that are unknown or repeated.
func query(w http.ResponseWriter, r *http.Request, known ...string) bool {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, "query: "+err.Error())
		return false
	}
	for name, given := range values {
		if !slices.Contains(known, name) {
			refuse(w, fmt.Sprintf("query: unknown parameter %q, expected %s", name, cmp.Or(strings.Join(known, " or "), "no parameters")))
			return false
		}
		if len(given) > 1 {
			refuse(w, fmt.Sprintf("%s: must be given once, got %d", name, len(given)))
			return false
		}
	}
	return true
}

func refuse(w http.ResponseWriter, detail string) {
	problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: detail})
}

// readBody returns the whole body, or answers with an error and returns false.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if errors.Is(err, os.ErrDeadlineExceeded) { // keep the deadline, so that the server does not wait for the rest either
		w.Header().Set("Connection", "close")
		problem.Write(w, problem.Problem{Status: http.StatusRequestTimeout, Detail: fmt.Sprintf("the body did not arrive within %v", readTimeout)})
		return nil, false
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		problem.Write(w, problem.Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is too large: expected at most %d bytes", maxBody)})
		return nil, false
	}
	if err != nil {
		refuse(w, "cannot read the body: "+err.Error())
		return nil, false
	}
	_ = control.SetReadDeadline(time.Time{})
	return body, true
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Detail: err.Error()})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	_, _ = w.Write(append(body, '\n'))
}
