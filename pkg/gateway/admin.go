package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/siteguard"
)

// Admin returns the handler of the admin port. livez and readyz serve the probes, and metrics
// serves /metrics. An open circuit must not make the gateway unready, since the gateway still
// answers. page serves the live page: / for clients that accept HTML, and everything below /assets/
// and /api/. It may be nil.
//
// The probes and /metrics answer requests for any host. [siteguard.Guard] protects the other paths
// from the pages of other sites. hosts are further host names that it accepts.
func (g *Gateway) Admin(livez, readyz, metrics, page http.Handler, hosts ...string) http.Handler {
	open := http.NewServeMux()
	open.Handle("/", siteguard.Guard(g.guarded(page), func(w http.ResponseWriter, detail string) {
		problem.Write(w, problem.Problem{Status: http.StatusForbidden, Detail: detail})
	}, hosts...))
	open.Handle("GET /metrics", metrics)
	open.Handle("GET /livez", livez)
	open.Handle("GET /readyz", readyz)
	return open
}

func (g *Gateway) guarded(page http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config", g.serveConfig)
	mux.HandleFunc("GET /configz", g.serveConfigz)
	mux.HandleFunc("GET /breakers", g.serveBreakers)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	index := http.HandlerFunc(serveIndex)
	if page == nil {
		mux.Handle("GET /{$}", index)
	} else {
		mux.Handle("/api/", page)
		mux.Handle("/assets/", page)
		mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Vary", "Accept")
			if strings.Contains(r.Header.Get("Accept"), "text/html") {
				page.ServeHTTP(w, r)
				return
			}
			index(w, r)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "there is no " + r.URL.Path + " on the admin port; GET / lists the paths"})
	})
	return mux
}

func (g *Gateway) serveConfig(w http.ResponseWriter, _ *http.Request) {
	text, err := config.Marshal(g.Config())
	if err != nil {
		problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Detail: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Cache-Control", "no-store")
	if r := g.Refused(); r != nil {
		_, _ = w.Write(r.comment())
	}
	_, _ = w.Write(text)
}

// serveConfigz answers 200 if the last configuration was accepted, and 503 with its mistakes while
// it is refused. It is for checks after a change, and no probe: the pod works with the
// configuration before.
func (g *Gateway) serveConfigz(w http.ResponseWriter, _ *http.Request) {
	if r := g.Refused(); r != nil {
		problem.Write(w, problem.Problem{Status: http.StatusServiceUnavailable, Detail: "the configuration is refused, and the previous one stays in force: " + r.Err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte("ok\n"))
}

func (g *Gateway) serveBreakers(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(map[string]any{"breakers": g.Upstreams()}); err != nil {
		problem.Write(w, problem.Problem{Status: http.StatusInternalServerError, Detail: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
}

func serveIndex(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(`Rebound client, admin port

GET /                the live page, in a browser
GET /livez           the process is alive
GET /readyz          it takes calls
GET /config          the effective configuration, as YAML
GET /configz         200, or 503 while a changed configuration is refused
GET /breakers        circuits and retry budgets, as JSON
GET /metrics         metrics, for Prometheus
GET /api/state       figures of the last ten seconds and since the start, as JSON
GET /api/calls       recent calls, the newest first; ?limit=50&reason=max_attempts
GET /api/calls/{id}  one of them
GET /api/live        all of that as it happens, as server-sent events
GET /debug/pprof/    profiles
`))
}
