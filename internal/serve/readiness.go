package serve

import (
	"net/http"
	"sync/atomic"
)

// State is where a program is in its life. It only ever moves on.
type State int32

// The states in their order.
const (
	Starting State = iota // not yet listening, or not yet warm
	Ready                 // accepting calls
	Draining              // on the way out; the last state
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

// Readiness is what the probes of an orchestrator are told. It is safe for concurrent use.
type Readiness struct{ state atomic.Int32 }

// NewReadiness returns a Readiness that is Starting.
func NewReadiness() *Readiness { return &Readiness{} }

// Set moves on to s. It ignores a move back, so becoming ready late does not undo a drain.
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

// Livez answers 200 "ok" for as long as the process answers at all. It depends on nothing else, because a
// restart mends nothing else.
func (r *Readiness) Livez() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, "ok")
	})
}

// Readyz answers 200 "ok" when Ready, and otherwise 503 with the reason: "not ready: draining".
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
