package serve

import (
	"net/http"
	"sync"
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
type Readiness struct {
	mu       sync.Mutex
	state    State
	watchers []func(State)
}

// NewReadiness returns a Readiness that is Starting.
func NewReadiness() *Readiness { return &Readiness{} }

// Set moves to state s. It ignores an earlier state than the current one, so that becoming ready
// late does not undo a drain.
func (r *Readiness) Set(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s <= r.state {
		return
	}
	r.state = s
	for _, f := range r.watchers {
		f(s)
	}
}

// Watch calls f with the current state, and later with each new one. f must be quick and must not
// use r.
func (r *Readiness) Watch(f func(State)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, f)
	f(r.state)
}

// State returns the current state.
func (r *Readiness) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

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
