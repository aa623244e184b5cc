package live

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	windowSeconds = 10 // of the figures that are shown as now

	updateCalls = 16  // one by one in an event: all since the one before, if there are no more
	sampleCalls = 6   // of more than that: nobody reads thirty a second, and an event fits a server's buffer
	resumeCalls = 100 // in the first event of a page, and in that after a break
)

// update is one event: what has changed since the one before.
type update struct {
	Reset   bool    `json:"reset,omitempty"` // it is the first: forget what was
	Now     float64 `json:"now"`             // ms since 1970, as everything
	Started float64 `json:"started"`
	// Calls are the newest, oldest first. Missed is how many there were besides, and
	// Total how many there have been.
	Calls       []*record         `json:"calls,omitempty"`
	Missed      uint64            `json:"missed,omitempty"`
	Total       uint64            `json:"total"`
	Series      []seriesUpdate    `json:"series"`
	Transitions []transitionShown `json:"transitions,omitempty"` // oldest first
	// TransitionsMissed is how many there were besides.
	TransitionsMissed uint64 `json:"transitionsMissed,omitempty"`

	Pages    pagesShown     `json:"pages"`
	Settings *settingsShown `json:"settings,omitempty"` // with Reset
	Faults   uint64         `json:"faultsVersion,omitempty"`
	Traffic  *TrafficState  `json:"traffic,omitempty"`
}

type settingsShown struct {
	Traces  string              `json:"traces,omitempty"`
	Example string              `json:"example,omitempty"`
	Faults  bool                `json:"faults"`
	Traffic *TrafficSettings    `json:"traffic,omitempty"` // that the generator began with
	Reasons []resilience.Reason `json:"reasons"`
	Seconds int                 `json:"seconds"` // that are kept
	Window  int                 `json:"window"`  // seconds of "now"
}

type pagesShown struct {
	Open    int    `json:"open"`
	Dropped uint64 `json:"dropped"` // since the start, because they did not read
}

// seriesUpdate is one upstream under one policy.
type seriesUpdate struct {
	Policy   string         `json:"policy"`
	Upstream string         `json:"upstream"`
	Window   windowShown    `json:"window"`
	Circuit  *circuitShown  `json:"circuit,omitempty"`
	Seconds  []*secondShown `json:"seconds,omitempty"`
	Totals   *totalsShown   `json:"totals,omitempty"` // in /api/state
}

type totalsShown struct {
	Offered         uint64                       `json:"offered"`
	Good            uint64                       `json:"good"`
	Attempts        uint64                       `json:"attempts"`
	AttemptsGood    uint64                       `json:"attemptsGood"`
	AttemptsNeutral uint64                       `json:"attemptsNeutral,omitempty"`
	Reasons         map[resilience.Reason]uint64 `json:"reasons"`
}

type windowShown struct {
	Seconds      float64 `json:"seconds"` // that it covers
	Offered      uint32  `json:"offered"`
	Good         uint32  `json:"good"`
	Attempts     uint32  `json:"attempts"`
	AttemptsGood uint32  `json:"attemptsGood"`
	// AttemptsNeutral ended by the caller's doing: the upstream did them neither well
	// nor badly.
	AttemptsNeutral uint32  `json:"attemptsNeutral,omitempty"`
	Refused         uint32  `json:"refused"`
	P50             float64 `json:"p50"` // ms
	P99             float64 `json:"p99"`
}

type circuitShown struct {
	State       resilience.State `json:"state"`
	Since       float64          `json:"since"`
	ProbeAt     float64          `json:"probeAt,omitempty"`
	Successes   int              `json:"successes"`
	Failures    int              `json:"failures"`
	Consecutive int              `json:"consecutiveFailures"`
	Probes      int              `json:"probesOut,omitempty"`
	Tokens      float64          `json:"budgetTokens"`
	Burst       float64          `json:"budgetBurst"`
	Settings    circuitSettings  `json:"settings"`
}

type circuitSettings struct {
	Window              float64 `json:"window"` // ms
	MinRequests         int     `json:"minRequests"`
	FailureRatio        float64 `json:"failureRatio"`
	ConsecutiveFailures int     `json:"consecutiveFailures"`
	Probes              int     `json:"probes"`
}

type secondShown struct {
	At           float64                      `json:"at"`
	Offered      uint32                       `json:"offered,omitempty"`
	Good         uint32                       `json:"good,omitempty"`
	Attempts     uint32                       `json:"attempts,omitempty"`
	AttemptsGood uint32                       `json:"attemptsGood,omitempty"`
	Refused      map[resilience.Reason]uint64 `json:"refused,omitempty"`
	P50          float64                      `json:"p50,omitempty"`
	P99          float64                      `json:"p99,omitempty"`
	State        *resilience.State            `json:"state,omitempty"`
	Tokens       *float64                     `json:"tokens,omitempty"`
}

// transition is a change of a circuit.
type transition struct {
	resilience.Transition
	policy string
	at     float64
}

type transitionShown struct {
	At          float64          `json:"at"`
	Policy      string           `json:"policy"`
	Upstream    string           `json:"upstream"`
	From        resilience.State `json:"from"`
	To          resilience.State `json:"to"`
	Successes   int              `json:"successes"`
	Failures    int              `json:"failures"`
	Consecutive int              `json:"consecutiveFailures"`
	OpenFor     float64          `json:"openFor,omitempty"` // ms
}

// position is how far a page has come: what it says in Last-Event-ID.
type position struct{ tick, calls, transitions uint64 }

func (l *Live) position() position { return position{l.tick, l.calls.total, l.circuits.total} }

func (l *Live) eventID(p position) string {
	return fmt.Sprintf("%s-%d-%d-%d", l.instant, p.tick, p.calls, p.transitions)
}

// positionOf is false for an event of another process, or none of ours.
func (l *Live) positionOf(id string) (p position, ok bool) {
	parts := strings.Split(id, "-")
	into := []*uint64{&p.tick, &p.calls, &p.transitions}
	if parts[0] != l.instant || len(parts) != 1+len(into) {
		return position{}, false
	}
	for i, n := range into {
		var err error
		if *n, err = strconv.ParseUint(parts[1+i], 10, 64); err != nil {
			return position{}, false
		}
	}
	if p.tick > l.tick || p.calls > l.calls.total || p.transitions > l.circuits.total {
		return position{}, false
	}
	return p, true
}

// since is what has changed since p, with limit calls at most.
func (l *Live) since(p position, limit int, now time.Time) update {
	u := update{
		Now: l.millis(now), Started: l.millis(l.start), Total: l.calls.total,
		Calls: l.recent(limit, p.tick, nil), Pages: l.hub.shown(), Series: []seriesUpdate{},
	}
	if limit == updateCalls && l.calls.total-p.calls > updateCalls {
		// Of many, those that tell something first.
		sample := l.recent(sampleCalls*2/3, p.tick, func(r *record) bool { return !r.quiet() })
		for _, r := range u.Calls {
			if len(sample) < sampleCalls && !slices.Contains(sample, r) {
				sample = append(sample, r)
			}
		}
		u.Calls = sample
	}
	slices.SortFunc(u.Calls, func(a, b *record) int { return int(a.ID) - int(b.ID) })
	u.Missed = besides(l.calls.total-p.calls, len(u.Calls))

	l.circuits.newest(p.tick, func(t *transition) bool {
		u.Transitions = append(u.Transitions, transitionShown{
			At: t.at, Policy: t.policy, Upstream: t.Upstream, From: t.From, To: t.To,
			Successes: t.Successes, Failures: t.Failures, Consecutive: t.Consecutive, OpenFor: milliseconds(t.OpenFor),
		})
		return true
	})
	slices.Reverse(u.Transitions)
	u.TransitionsMissed = besides(l.circuits.total-p.transitions, len(u.Transitions))

	second := l.second(now)
	for _, s := range l.sorted() {
		shown := l.present(s, now)
		s.each(second, p.tick, func(e *secondSums) {
			if e.shown != nil {
				shown.Seconds = append(shown.Seconds, e.shown)
				return
			}
			one := l.secondShown(e)
			if e.number < second {
				e.shown = one
			}
			shown.Seconds = append(shown.Seconds, one)
		})
		u.Series = append(u.Series, shown)
	}
	if l.faults != nil {
		u.Faults = l.faults.version.Load()
	}
	u.Traffic = l.traffic()
	return u
}

// besides is how many there were of all besides those that are shown. An event's
// id may be of somebody's making, and its numbers not go together.
func besides(all uint64, shown int) uint64 { return all - min(all, uint64(shown)) }

// present is a series without its past.
func (l *Live) present(s *series, now time.Time) seriesUpdate {
	return seriesUpdate{Policy: s.key.policy, Upstream: s.key.upstream, Window: l.window(s, now), Circuit: l.circuit(s.key)}
}

func (l *Live) sorted() []*series {
	all := make([]*series, 0, len(l.series))
	for _, s := range l.series {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *series) int {
		return strings.Compare(a.key.upstream+"\x00"+a.key.policy, b.key.upstream+"\x00"+b.key.policy)
	})
	return all
}

func (l *Live) window(s *series, now time.Time) windowShown {
	second := l.second(now)
	w := s.window(second, windowSeconds)
	shown := windowShown{
		Seconds: min(now.Sub(l.start).Seconds(), now.Sub(l.start).Seconds()-float64(second-windowSeconds+1)),
		Offered: w.offered, Good: w.good, Attempts: w.attempts, AttemptsGood: w.attemptsGood, AttemptsNeutral: w.attemptsNeutral,
		P50: milliseconds(w.latency.quantile(0.5)), P99: milliseconds(w.latency.quantile(0.99)),
	}
	for i, name := range l.reasons.names {
		if isRefusal(name) {
			shown.Refused += w.reasons[i]
		}
	}
	return shown
}

func (l *Live) circuit(key seriesKey) *circuitShown {
	for i := range l.states {
		u := &l.states[i]
		if u.Policy != key.policy || u.Upstream != key.upstream {
			continue
		}
		b := &u.Breaker
		shown := &circuitShown{
			State: b.State, Since: l.millis(b.Since), Successes: b.Successes, Failures: b.Failures, Consecutive: b.Consecutive,
			Probes: b.Probes, Tokens: u.BudgetTokens, Burst: u.Burst,
			Settings: circuitSettings{
				Window: milliseconds(u.Settings.Window), MinRequests: u.Settings.MinRequests, FailureRatio: u.Settings.FailureRatio,
				ConsecutiveFailures: u.Settings.ConsecutiveFailures, Probes: u.Settings.Probes,
			},
		}
		if !b.ProbeAt.IsZero() {
			shown.ProbeAt = l.millis(b.ProbeAt)
		}
		return shown
	}
	return nil
}

func (l *Live) secondShown(e *secondSums) *secondShown {
	shown := &secondShown{
		At:      float64(l.start.UnixMilli()) + float64(e.number)*1000,
		Offered: e.offered, Good: e.good, Attempts: e.attempts, AttemptsGood: e.attemptsGood,
		Refused: l.reasons.named(func(i int) uint64 {
			if isRefusal(l.reasons.names[i]) {
				return uint64(e.reasons[i])
			}
			return 0
		}),
		P50: milliseconds(e.latency.quantile(0.5)), P99: milliseconds(e.latency.quantile(0.99)),
	}
	if e.circuit {
		state, tokens := e.state, e.tokens
		shown.State, shown.Tokens = &state, &tokens
	}
	return shown
}

// first is what a page is told when it opens or comes back: everything that it
// does not have. The position is the one it has then.
func (l *Live) first(lastEventID string, now time.Time) (u update, at position) {
	p, known := l.positionOf(lastEventID)
	u = l.since(p, resumeCalls, now)
	if !known {
		u.Reset, u.Missed, u.TransitionsMissed = true, 0, 0
		u.Settings = l.settings()
	}
	return u, l.position()
}

func (l *Live) settings() *settingsShown {
	return &settingsShown{
		Traffic: l.firstTraffic,
		Traces:  l.options.Traces, Example: l.options.Example, Faults: l.faults != nil, Reasons: resilience.Reasons(), Seconds: keptSeconds, Window: windowSeconds,
	}
}

// publish tells the open pages what this tick has brought.
func (l *Live) publish(now time.Time, before position) {
	if l.hub.empty() {
		return
	}
	u := l.since(before, updateCalls, now)
	changed := len(u.Calls) > 0 || u.Missed > 0 || len(u.Transitions) > 0
	for i := range u.Series {
		changed = changed || len(u.Series[i].Seconds) > 0
	}
	if !changed {
		changed = now.Sub(l.told) >= time.Second
	}
	if !changed {
		return
	}
	l.told = now
	l.hub.publish(event(l.eventID(l.position()), u))
}

// event encodes an update once for all pages.
func event(id string, u update) []byte {
	data, err := json.Marshal(u)
	if err != nil { // NaN in a figure; the pages will say that they are stale
		return []byte(": " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n\n")
	}
	return slices.Concat([]byte("id: "+id+"\nevent: update\ndata: "), data, []byte("\n\n"))
}
