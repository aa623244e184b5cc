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

// Admin is the handler of the admin port. livez and readyz are the probes; an
// open breaker never makes the gateway unready, since it can answer all the
// same. metrics serves /metrics. page serves the live page at /, to those who
// accept HTML, and all below /assets/ and /api/; nil for none.
//
// All but the probes and /metrics, which are asked by any name that leads here, is
// kept from the pages of other sites; see [siteguard.Guard], which hosts are for.
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
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "there is no " + r.URL.Path + " on the admin port; GET / lists what there is"})
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
GET /breakers        circuits and retry budgets, as JSON
GET /metrics         metrics, for Prometheus
GET /api/state       figures of the last ten seconds and since the start, as JSON
GET /api/calls       recent calls, the newest first; ?limit=50&reason=max_attempts
GET /api/calls/{id}  one of them
GET /api/live        all of that as it happens, as server-sent events
GET /debug/pprof/    profiles
`))
}
