package live

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
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

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/siteguard"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

//go:embed page/index.html page/live.css page/live.js page/live.svg
var files embed.FS

// contentSecurityPolicy is what the page's browser may do for it: nothing that is not ours.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page at /, what it is made of below /assets/, and what it
// shows below /api/. It has no access control but one: the pages of other sites
// are refused, see [siteguard.Guard].
func (l *Live) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]string{"/{$}": "index.html", "/assets/live.css": "live.css", "/assets/live.js": "live.js", "/assets/live.svg": "live.svg"} {
		handle(mux, path, map[string]http.HandlerFunc{http.MethodGet: serveFile(file)})
	}
	handle(mux, "/api/live", map[string]http.HandlerFunc{http.MethodGet: l.serveLive})
	handle(mux, "/api/state", map[string]http.HandlerFunc{http.MethodGet: l.serveState})
	handle(mux, "/api/calls", map[string]http.HandlerFunc{http.MethodGet: l.serveCalls})
	handle(mux, "/api/calls/{id}", map[string]http.HandlerFunc{http.MethodGet: l.serveCall})
	handle(mux, "/api/faults", map[string]http.HandlerFunc{http.MethodGet: l.serveFaults, http.MethodPut: l.serveFaults, http.MethodPatch: l.serveFaults})
	handle(mux, "/api/faults/reset", map[string]http.HandlerFunc{http.MethodPost: l.serveReset})
	handle(mux, "/api/traffic", map[string]http.HandlerFunc{http.MethodGet: l.serveTraffic, http.MethodPut: l.serveTraffic})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "there is no " + r.URL.Path + " here"})
	})
	return siteguard.Guard(mux, func(w http.ResponseWriter, detail string) {
		problem.Write(w, problem.Problem{Status: http.StatusForbidden, Detail: detail})
	}, l.options.Hosts...)
}

// handle serves path by method. The catch-all pattern of a ServeMux would turn
// its own 405 into a 404.
func handle(mux *http.ServeMux, path string, by map[string]http.HandlerFunc) {
	var allowed []string
	for method := range by {
		allowed = append(allowed, method)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if h, ok := by[r.Method]; ok {
			h(w, r)
			return
		}
		if h, ok := by[http.MethodGet]; ok && r.Method == http.MethodHead && r.URL.Path != "/api/live" {
			h(w, r)
			return
		}
		w.Header().Set("Allow", allow)
		problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: r.URL.Path + " takes " + allow + ", not " + r.Method})
	})
}

func serveFile(name string) http.HandlerFunc {
	content, err := files.ReadFile("page/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	sum := sha256.Sum256(content)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	types := map[string]string{
		"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
	}
	contentType := types[name[strings.LastIndexByte(name, '.')+1:]]
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // ask each time: a page of another version must not meet this API
		h.Set("ETag", tag)
		h.Set("Content-Type", contentType)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}
}

// state is the answer of /api/state: the present without the past.
type state struct {
	Now      float64        `json:"now"`
	Started  float64        `json:"started"`
	Calls    uint64         `json:"calls"` // since the start, those without a route among them
	Series   []seriesUpdate `json:"series"`
	Pages    pagesShown     `json:"pages"`
	Settings *settingsShown `json:"settings"`
	Traffic  *TrafficState  `json:"traffic,omitempty"`
}

func (l *Live) serveState(w http.ResponseWriter, r *http.Request) {
	if !query(w, r) {
		return
	}
	now := time.Now()
	l.mu.Lock()
	s := state{
		Now: l.millis(now), Started: l.millis(l.start), Calls: l.calls.total, Series: []seriesUpdate{},
		Pages: l.hub.shown(), Settings: l.settings(), Traffic: l.traffic(),
	}
	for _, one := range l.sorted() {
		shown, t := l.present(one, now), &one.total
		shown.Totals = &totalsShown{
			Offered: t.offered, Good: t.good, Attempts: t.attempts, AttemptsGood: t.attemptsGood, AttemptsNeutral: t.attemptsNeutral,
			Reasons: l.reasons.named(func(i int) uint64 { return t.reasons[i] }),
		}
		s.Series = append(s.Series, shown)
	}
	l.mu.Unlock()
	writeJSON(w, s)
}

const (
	readTimeout   = 10 * time.Second // of a body
	answerTimeout = 30 * time.Second // of an answer that is no stream

	defaultCalls = 50
	mostCalls    = 2 * keptCalls
)

func (l *Live) serveCalls(w http.ResponseWriter, r *http.Request) {
	if !query(w, r, "limit", "reason") {
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
	var wanted func(*record) bool
	if text := r.URL.Query().Get("reason"); text != "" {
		reason := resilience.Reason(text)
		if !reason.Valid() {
			refuse(w, fmt.Sprintf("reason: must be one of %v or status_<code>, got %q", resilience.Reasons(), text))
			return
		}
		wanted = func(r *record) bool { return r.has(reason) }
	}
	l.mu.Lock()
	answer := struct {
		Total uint64    `json:"total"` // that there have been
		Calls []*record `json:"calls"` // the newest first
	}{l.calls.total, l.recent(limit, 0, wanted)}
	l.mu.Unlock()
	writeJSON(w, answer)
}

func (l *Live) serveCall(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil || id == 0 {
		refuse(w, fmt.Sprintf("id: must be a number from 1, got %q", r.PathValue("id")))
		return
	}
	if !query(w, r) {
		return
	}
	l.mu.Lock()
	total := l.calls.total
	found := l.recent(1, 0, func(r *record) bool { return r.ID == id })
	l.mu.Unlock()
	switch {
	case len(found) > 0:
		writeJSON(w, found[0])
	case id > total:
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf("there has been no call %d yet, only %d", id, total)})
	default:
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: fmt.Sprintf(
			"call %d is not kept any more: the newest %d that went well at once are, and as many others", id, keptCalls)})
	}
}

// query refuses what would be ignored.
func query(w http.ResponseWriter, r *http.Request, known ...string) bool {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, "query: "+err.Error())
		return false
	}
	for name, given := range values {
		if !slices.Contains(known, name) {
			refuse(w, fmt.Sprintf("query: %q is not known here; there is %s", name, cmp.Or(strings.Join(known, ", "), "nothing to ask for")))
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

// readBody reads the whole body, or answers and returns false.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if errors.Is(err, os.ErrDeadlineExceeded) { // it stays: the server must not wait for the rest either
		w.Header().Set("Connection", "close")
		problem.Write(w, problem.Problem{Status: http.StatusRequestTimeout, Detail: fmt.Sprintf("the body did not come within %v", readTimeout)})
		return nil, false
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		problem.Write(w, problem.Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("expected a body of at most %d bytes", maxBody)})
		return nil, false
	}
	if err != nil {
		refuse(w, "the body could not be read: "+err.Error())
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
