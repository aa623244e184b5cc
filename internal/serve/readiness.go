package serve

import (
	"net/http"
	"sync/atomic"
)

// State is a stage in the life of a program. It never moves back.
type State int32

// The states, in order.
const (
	Starting State = iota // not listening yet, or not warm yet
	Ready                 // accepting calls
	Draining              // stopping; the last state
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Draining:
		return "draining"
	}
	return "unknown"
}

// Readiness holds the state that readiness and liveness probes report. It is safe for concurrent
// use.
type Readiness struct{ state atomic.Int32 }

// NewReadiness returns a Readiness that is Starting.
func NewReadiness() *Readiness { return &Readiness{} }

// Set moves to state s. It ignores an earlier state than the current one, so that becoming ready
// late does not undo a drain.
func (r *Readiness) Set(s State) {
	for {
		old := r.state.Load()
		if int32(s) <= old || r.state.CompareAndSwap(old, int32(s)) {
			return
		}
	}
}

// State returns the current state.
func (r *Readiness) State() State { return State(r.state.Load()) }

// Livez returns a handler that always answers 200 "ok". It checks nothing else, because a restart
// would not repair anything else.
func (r *Readiness) Livez() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
}

// Readyz returns a handler that answers 200 "ok" if the state is Ready, and otherwise 503 with the
// reason: "not ready: draining".
func (r *Readiness) Readyz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s := r.State(); s != Ready {
			answer(w, http.StatusServiceUnavailable, "not ready: "+s.String())
			return
		}
		answer(w, http.StatusOK, "ok")
	})
}

func answer(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}
