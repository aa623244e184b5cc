package live

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	updateCalls = 16  // the limit for showing each call of a gathering
	sampleCalls = 6   // shown when there are more, so that an update fits a server's write buffer
	resumeCalls = 100 // in an update for a reader that opens or comes back
)

// Update is what has changed since an earlier update. Callers must not change it. All times are in
// milliseconds, points in time since 1970.
type Update struct {
	ID   string `json:"-"` // for [Live.Since]
	Tick uint64 `json:"-"` // the number of the gathering that it includes last

	Reset   bool    `json:"reset,omitempty"` // there is no earlier update: the reader starts afresh
	Now     float64 `json:"now"`
	Started float64 `json:"started"`
	// Calls are the newest calls, oldest first. Missed counts the new calls that are not among
	// them. Total counts all calls since the start.
	Calls  []*Record      `json:"calls,omitempty"`
	Missed uint64         `json:"missed,omitempty"`
	Total  uint64         `json:"total"`
	Series []seriesUpdate `json:"series"`
	// All has the figures of all series together, if there are several.
	All         *seriesUpdate     `json:"all,omitempty"`
	Transitions []transitionShown `json:"transitions,omitempty"` // oldest first
	// TransitionsMissed counts the new transitions that are not among Transitions.
	TransitionsMissed uint64 `json:"transitionsMissed,omitempty"`
	// EndpointChanges and EndpointChangesMissed are the same of endpoints.
	EndpointChanges       []*endpointChange `json:"endpointChanges,omitempty"`
	EndpointChangesMissed uint64            `json:"endpointChangesMissed,omitempty"`
}

// Empty reports whether the update has no call, no change and no second. Its time and its
// window may be new.
func (u *Update) Empty() bool {
	return len(u.Calls) == 0 && u.Missed == 0 && len(u.Transitions) == 0 && len(u.EndpointChanges) == 0 &&
		!slices.ContainsFunc(u.Series, func(s seriesUpdate) bool { return len(s.Seconds) > 0 })
}

// State is the present without the past.
type State struct {
	Now     float64        `json:"now"`
	Started float64        `json:"started"`
	Calls   uint64         `json:"calls"` // since the start, including calls without a route
	Series  []seriesUpdate `json:"series"`
}

// seriesUpdate is one upstream under one policy.
type seriesUpdate struct {
	Policy   string        `json:"policy"`
	Upstream string        `json:"upstream"`
	Window   windowShown   `json:"window"`
	Circuit  *circuitShown `json:"circuit,omitempty"`
	// Concurrency is left out while there is no limit.
	Concurrency *resilience.ConcurrencySnapshot `json:"concurrency,omitempty"`

	Seconds []*secondShown `json:"seconds,omitempty"`
	// Endpoints are those of the upstream, if they are known.
	Endpoints        []endpointShown `json:"endpoints,omitempty"`
	EndpointsOmitted int             `json:"endpointsOmitted,omitempty"`
	Totals           *totalsShown    `json:"totals,omitempty"` // in a State only
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
	// AttemptsNeutral counts attempts that the caller ended before an answer. They say nothing
	// about the upstream.
	AttemptsNeutral uint32 `json:"attemptsNeutral,omitempty"`
	Refused         uint32 `json:"refused"`
	// RefusedBy has the parts of Refused by the call's reason.
	RefusedBy map[resilience.Reason]uint64 `json:"refusedBy,omitempty"`
	P50       float64                      `json:"p50"` // ms
	P99       float64                      `json:"p99"`
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

// transition is a change of a circuit, with its time in ms since 1970.
type transition struct {
	observe.Transition
	at float64
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

// position is the state of a reader: an update's ID encodes it.
type position struct{ tick, calls, transitions, endpoints uint64 }

func (l *Live) position() position {
	return position{l.tick, l.calls.total, l.circuits.total, l.endpoints.total}
}

func (l *Live) updateID(p position) string {
	return fmt.Sprintf("%s-%d-%d-%d-%d", l.instant, p.tick, p.calls, p.transitions, p.endpoints)
}

// positionOf decodes an update's ID. It returns false for an ID of another process, or one that
// no update has had.
func (l *Live) positionOf(id string) (p position, ok bool) {
	parts := strings.Split(id, "-")
	into := []*uint64{&p.tick, &p.calls, &p.transitions, &p.endpoints}
	if parts[0] != l.instant || len(parts) != 1+len(into) {
		return position{}, false
	}
	for i, n := range into {
		var err error
		if *n, err = strconv.ParseUint(parts[1+i], 10, 64); err != nil {
			return position{}, false
		}
	}
	if p.tick > l.tick || p.calls > l.calls.total || p.transitions > l.circuits.total || p.endpoints > l.endpoints.total {
		return position{}, false
	}
	return p, true
}

// since returns what has changed since p, with at most limit calls.
func (l *Live) since(p position, limit int, now time.Time) Update {
	u := Update{
		ID: l.updateID(l.position()), Tick: l.tick,
		Now: l.millis(now), Started: l.millis(l.start), Total: l.calls.total,
		Calls: l.recent(limit, p.tick, nil), Series: []seriesUpdate{},
	}
	if limit == updateCalls && l.calls.total-p.calls > updateCalls {
		// Prefer failed and repeated calls.
		sample := l.recent(sampleCalls*2/3, p.tick, func(r *Record) bool { return !r.quiet() })
		for _, r := range u.Calls {
			if len(sample) < sampleCalls && !slices.Contains(sample, r) {
				sample = append(sample, r)
			}
		}
		u.Calls = sample
	}
	slices.SortFunc(u.Calls, func(a, b *Record) int { return int(a.ID) - int(b.ID) })
	u.Missed = besides(l.calls.total-p.calls, len(u.Calls))

	l.circuits.newest(p.tick, func(t *transition) bool {
		u.Transitions = append(u.Transitions, transitionShown{
			At: t.at, Policy: t.Policy, Upstream: t.Upstream, From: t.From, To: t.To,
			Successes: t.Successes, Failures: t.Failures, Consecutive: t.Consecutive, OpenFor: milliseconds(t.OpenFor),
		})
		return true
	})
	slices.Reverse(u.Transitions)
	u.TransitionsMissed = besides(l.circuits.total-p.transitions, len(u.Transitions))
	l.endpoints.newest(p.tick, func(c *endpointChange) bool { u.EndpointChanges = append(u.EndpointChanges, c); return true })
	slices.Reverse(u.EndpointChanges)
	u.EndpointChangesMissed = besides(l.endpoints.total-p.endpoints, len(u.EndpointChanges))

	for _, s := range l.sorted() {
		shown := l.present(s, now)
		shown.Seconds = l.secondsSince(s, p.tick, now)
		u.Series = append(u.Series, shown)
	}
	if len(u.Series) > 1 {
		u.All = &seriesUpdate{Window: l.window(&l.all, now), Seconds: l.secondsSince(&l.all, p.tick, now)}
	}
	return u
}

// secondsSince returns the kept seconds of s that changed after a tick.
func (l *Live) secondsSince(s *series, tick uint64, now time.Time) (all []*secondShown) {
	second := l.second(now)
	s.each(second, tick, func(e *secondSums) {
		if e.shown != nil {
			all = append(all, e.shown)
			return
		}
		one := l.secondShown(e)
		if e.number < second {
			e.shown = one
		}
		all = append(all, one)
	})
	return all
}

// besides returns how many of all are not shown. It does not go below 0, which the numbers of a
// forged ID could otherwise cause.
func besides(all uint64, shown int) uint64 { return all - min(all, uint64(shown)) }

// present returns the current figures of a series.
func (l *Live) present(s *series, now time.Time) seriesUpdate {
	shown := seriesUpdate{Policy: s.key.policy, Upstream: s.key.upstream, Window: l.window(s, now), Circuit: l.circuit(s.key)}
	for i := range l.states {
		if u := &l.states[i]; u.Policy == s.key.policy && u.Upstream == s.key.upstream {
			shown.Endpoints, shown.EndpointsOmitted = l.endpointsOf(u, l.second(now))
			if u.Concurrency.Limit > 0 {
				limited := u.Concurrency
				shown.Concurrency = &limited
			}
			break
		}
	}
	return shown
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
	w := s.window(second, WindowSeconds)
	shown := windowShown{
		Seconds: min(now.Sub(l.start).Seconds(), now.Sub(l.start).Seconds()-float64(second-WindowSeconds+1)),
		Offered: w.offered, Good: w.good, Attempts: w.attempts, AttemptsGood: w.attemptsGood, AttemptsNeutral: w.attemptsNeutral,
		P50: milliseconds(w.latency.quantile(0.5)), P99: milliseconds(w.latency.quantile(0.99)),
	}
	shown.RefusedBy = l.refusals(&w)
	for _, n := range shown.RefusedBy {
		shown.Refused += uint32(n)
	}
	return shown
}

// refusals returns how many calls were refused, by reason.
func (l *Live) refusals(s *sums) map[resilience.Reason]uint64 {
	return l.reasons.named(func(i int) uint64 {
		if isRefusal(l.reasons.names[i]) {
			return uint64(s.reasons[i])
		}
		return 0
	})
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
		Refused: l.refusals(&e.sums),
		P50:     milliseconds(e.latency.quantile(0.5)), P99: milliseconds(e.latency.quantile(0.99)),
	}
	if e.circuit {
		state, tokens := e.state, e.tokens
		shown.State, shown.Tokens = &state, &tokens
	}
	return shown
}

// Latest returns what the latest gathering has changed.
func (l *Live) Latest() Update {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since(l.before, updateCalls, time.Now())
}

// Since returns what has changed since the update with this ID. An ID of another process, or one
// that no update has had, gives everything that is kept, with Reset set.
func (l *Live) Since(id string) Update {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, known := l.positionOf(id)
	u := l.since(p, resumeCalls, time.Now())
	if !known {
		u.Reset, u.Missed, u.TransitionsMissed, u.EndpointChangesMissed = true, 0, 0, 0
	}
	return u
}

// State returns the present figures and the totals since the start.
func (l *Live) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	s := State{Now: l.millis(now), Started: l.millis(l.start), Calls: l.calls.total, Series: []seriesUpdate{}}
	for _, one := range l.sorted() {
		shown, t := l.present(one, now), &one.total
		shown.Totals = &totalsShown{
			Offered: t.offered, Good: t.good, Attempts: t.attempts, AttemptsGood: t.attemptsGood, AttemptsNeutral: t.attemptsNeutral,
			Reasons: l.reasons.named(func(i int) uint64 { return t.reasons[i] }),
		}
		s.Series = append(s.Series, shown)
	}
	return s
}

// Wanted selects calls. The zero value selects all of them.
type Wanted struct {
	// Reason is that of the call or of one of its attempts.
	Reason resilience.Reason
	// Upstream may be [Others]: then the calls of all upstreams and policies whose figures are
	// counted together, and Policy must be empty.
	Upstream string
	Policy   string
}

// Calls returns up to limit of the wanted calls, the newest first, and the number of all calls
// since the start.
func (l *Live) Calls(limit int, w Wanted) (calls []*Record, total uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := func(r *Record) bool {
		if w.Reason != "" && !r.has(w.Reason) {
			return false
		}
		if w.Upstream == Others {
			_, alone := l.series[seriesKey{r.Policy, r.Upstream}]
			return r.Upstream != "" && !alone
		}
		return (w.Upstream == "" || r.Upstream == w.Upstream) && (w.Policy == "" || r.Policy == w.Policy)
	}
	return l.recent(limit, 0, wanted), l.calls.total
}

// Call returns the call with this ID, or nil if it is not kept, and the number of all calls since
// the start.
func (l *Live) Call(id uint64) (call *Record, total uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.recent(1, 0, func(r *Record) bool { return r.ID == id }); len(found) > 0 {
		call = found[0]
	}
	return call, l.calls.total
}
