package page

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/siteguard"
)

// Options configures a Page. The zero value is ready to use.
type Options struct {
	// Traces is the address of a trace: an http or https URL in which {id} stands for the trace ID.
	// Without {id} it is the address of a Jaeger. Empty for no links.
	Traces string
	// Faults is the URL of flaky-server's admin port. The page can then change its faults. Empty
	// for no such controls.
	Faults string
	// Example is a URL that the page suggests while there are no calls. Empty for no suggestion.
	Example string
	// Hosts are additional names under which browsers may reach the page, see [siteguard.Guard].
	Hosts []string
	// Traffic is a generator that the page can control, or nil.
	Traffic Traffic
	// Tour makes the page offer a tour through some faults. It needs Faults and Traffic.
	Tour bool
}

// Page serves the recent past of a gateway. It is safe for concurrent use.
type Page struct {
	live    *live.Live
	options Options
	hub     hub
	faults  *faultsProxy // nil without [Options.Faults]
	told    time.Time    // of the latest event; only publish uses it

	firstTraffic *TrafficSettings // the generator's initial settings; nil without a generator
}

// New returns a Page that shows what l records. The error is about the options' URLs.
func New(l *live.Live, o Options) (*Page, error) {
	p := &Page{live: l, options: o}
	if err := checkTraces(&p.options.Traces); err != nil {
		return nil, err
	}
	if o.Faults != "" {
		proxy, err := newFaultsProxy(o.Faults)
		if err != nil {
			return nil, err
		}
		p.faults = proxy
	}
	if state := p.traffic(); state != nil {
		p.firstTraffic = &state.TrafficSettings
	}
	return p, nil
}

// Run runs the recorder and sends its updates to the open pages, until ctx ends. Then it ends their
// streams.
func (p *Page) Run(ctx context.Context) {
	defer p.hub.close()
	p.live.Run(ctx, p.publish)
}

// Handler serves the page at /, its files below /assets/ and its API below /api/. The only access
// control is [siteguard.Guard], which rejects requests from other sites' pages.
func (p *Page) Handler() http.Handler {
	mux := http.NewServeMux()
	handleFiles(mux)
	handle(mux, "/api/live", map[string]http.HandlerFunc{http.MethodGet: p.serveLive})
	handle(mux, "/api/state", map[string]http.HandlerFunc{http.MethodGet: p.serveState})
	handle(mux, "/api/calls", map[string]http.HandlerFunc{http.MethodGet: p.serveCalls})
	handle(mux, "/api/calls/{id}", map[string]http.HandlerFunc{http.MethodGet: p.serveCall})
	handle(mux, "/api/faults", map[string]http.HandlerFunc{http.MethodGet: p.serveFaults, http.MethodPut: p.serveFaults, http.MethodPatch: p.serveFaults})
	handle(mux, "/api/faults/reset", map[string]http.HandlerFunc{http.MethodPost: p.serveReset})
	handle(mux, "/api/traffic", map[string]http.HandlerFunc{http.MethodGet: p.serveTraffic, http.MethodPut: p.serveTraffic})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "there is no " + r.URL.Path + " here"})
	})
	return siteguard.Guard(mux, func(w http.ResponseWriter, detail string) {
		problem.Write(w, problem.Problem{Status: http.StatusForbidden, Detail: detail})
	}, p.options.Hosts...)
}

// handle registers a handler for each method of path, and answers other methods with 405. The mux
// alone would answer them with 404, because its pattern "/" matches every method.
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
