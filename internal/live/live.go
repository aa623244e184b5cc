package live

import (
	"cmp"
	"context"
	"crypto/rand"
	"iter"
	rnd "math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	// gatherEvery is how old a call may get before it is shown.
	gatherEvery = 200 * time.Millisecond

	keptSeconds     = 300 // of figures
	keptCalls       = 512 // of the calls that went well at once, and as many of the others
	keptTransitions = 256 // of circuits
	maxSeries       = 64  // with figures of their own; the rest is counted together
	maxShards       = 64
	maxPending      = 1024 // calls between two gatherings that are shown one by one
	minPending      = 32   // of them for each shard
)

// Options are what a Live shows besides calls. The zero value is ready to use.
type Options struct {
	// Upstreams is asked five times a second for circuits and budgets. It must be
	// quick, and looking must not change what it tells. Nil for none.
	Upstreams func() []Upstream
	// Traces is where the trace of a call is found: an http or https URL in which
	// {id} stands for the trace's id. Without {id} it is the address of a Jaeger.
	// Empty for no links.
	Traces string
	// Faults is the URL of flaky-server's admin port, whose faults the page may then
	// change. Empty for no such controls.
	Faults string
	// Example is a URL that is offered to be tried while there are no calls. Empty for
	// none.
	Example string
	// Hosts are the names that it may be asked under, besides those that cannot be
	// another site's; see [siteguard.Guard].
	Hosts []string
	// Traffic is a generator that the page may steer, nil for none.
	Traffic Traffic
}

// Upstream is the circuit and the budget of one upstream under one policy.
type Upstream struct {
	Upstream, Policy string
	Breaker          resilience.BreakerSnapshot
	BudgetTokens     float64
	// Settings and Burst are what the policy says of them.
	Settings resilience.BreakerPolicy
	Burst    float64
}

// Call is a call as a gateway answered it.
type Call struct {
	Route, Policy, Upstream    string // empty without a route
	Method, Scheme, Host, Path string // what the caller asked for, without the query
	Status                     int    // what the caller got
	RequestID                  string
	TraceID                    [16]byte // zero for none
	Start                      time.Time
	Duration                   time.Duration
	Report                     *resilience.Report // read only before Record returns
}

// Live is the recent past of a gateway. It is safe for concurrent use.
type Live struct {
	options Options
	reasons reasonIndex
	shards  []shard // a power of two
	instant string  // tells this process's events from those of one before
	start   time.Time
	hub     hub
	faults  *faultsProxy // nil without

	firstTraffic *TrafficSettings // nil without a generator

	transitions struct {
		mu      sync.Mutex
		pending history[transition]
		n       uint64 // how many came
	}

	// mu is never taken on a call's way. It holds what has been gathered, all of
	// it in the order of tick.
	mu     sync.Mutex
	tick   uint64
	spare  pending
	series map[seriesKey]*series
	calls  struct {
		total       uint64
		quiet, loud history[record] // good at the first attempt, and all others
	}
	circuits struct {
		total uint64
		history[transition]
	}
	states []Upstream
	told   time.Time // when pages got the last event
}

// New makes a Live. The error is about the options' URLs. It is empty until
// [Live.Run] gathers what is recorded.
func New(o Options) (*Live, error) {
	l := &Live{options: o, reasons: newReasonIndex(), start: time.Now(), instant: rand.Text()[:8], series: map[seriesKey]*series{}}
	if err := checkTraces(&l.options.Traces); err != nil {
		return nil, err
	}
	if o.Faults != "" {
		p, err := newFaultsProxy(o.Faults)
		if err != nil {
			return nil, err
		}
		l.faults = p
	}
	if state := l.traffic(); state != nil {
		l.firstTraffic = &state.TrafficSettings
	}
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < maxShards {
		n *= 2
	}
	l.shards = make([]shard, n)
	size := max(maxPending/n, minPending)
	for i := range l.shards {
		l.shards[i].pending = newPending(size)
	}
	l.spare = newPending(size)
	l.calls.quiet.limit, l.calls.loud.limit = keptCalls, keptCalls
	l.circuits.limit, l.transitions.pending.limit = keptTransitions, keptTransitions
	return l, nil
}

// Record adds a call. It waits for nobody and takes less than a microsecond.
func (l *Live) Record(c *Call) {
	l.shards[rnd.Uint32()&uint32(len(l.shards)-1)].record(c, l.reasons.of(c.Report.Reason))
}

// Transition adds a change of a circuit, under the policy of this name.
func (l *Live) Transition(policy string, t resilience.Transition) {
	l.transitions.mu.Lock()
	defer l.transitions.mu.Unlock()
	l.transitions.pending.add(&transition{policy: policy, Transition: t}, 0)
	l.transitions.n++
}

// Run gathers what is recorded and tells the open pages of it, until ctx ends.
// Then their streams end too.
func (l *Live) Run(ctx context.Context) {
	ticker := time.NewTicker(gatherEvery)
	defer ticker.Stop()
	defer l.hub.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.gather()
		}
	}
}

// gather takes what the shards have and publishes it.
func (l *Live) gather() {
	var states []Upstream
	if l.options.Upstreams != nil {
		states = l.options.Upstreams()
	}
	l.transitions.mu.Lock()
	circuits, changes := l.transitions.pending, l.transitions.n
	l.transitions.pending = history[transition]{limit: keptTransitions}
	l.transitions.mu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.position()
	l.tick++
	now := time.Now()
	// The calls of a second are those gathered from its second tick to the next one's
	// first.
	second := l.second(now)

	var records []*record
	for i := range l.shards {
		l.spare = l.shards[i].take(l.spare)
		for key, figures := range l.spare.series {
			if figures.offered > 0 {
				l.seriesOf(key).add(second, l.tick, figures)
				l.calls.total += uint64(figures.offered)
			}
		}
		for _, calls := range []*ring{&l.spare.quiet, &l.spare.loud} {
			calls.each(func(s *slot) { records = append(records, l.newRecord(s)) })
		}
		l.spare.clear()
	}
	slices.SortFunc(records, func(a, b *record) int { return cmp.Compare(a.end(), b.end()) })
	// Calls that came too fast have numbers all the same, before those that are kept.
	next := l.calls.total - uint64(len(records))
	for _, r := range records {
		next++
		r.ID = next
		if r.quiet() {
			l.calls.quiet.add(r, l.tick)
		} else {
			l.calls.loud.add(r, l.tick)
		}
	}
	l.circuits.total = changes
	for t := range circuits.oldest() {
		t.at = l.millis(t.At)
		l.circuits.add(t, l.tick)
	}
	l.observe(states, second)
	l.forget(second)
	l.publish(now, at)
}

// observe notes circuits and budgets as they are at the end of this tick.
func (l *Live) observe(states []Upstream, second int64) {
	l.states = states
	for i := range states {
		u := &states[i]
		s := l.seriesOf(seriesKey{u.Policy, u.Upstream})
		if s.key != otherSeries() { // which has no circuit, for it would be one after the other's
			s.observe(second, l.tick, u)
		}
	}
}

// seriesOf is that of key, or the one of all for which there is no room.
func (l *Live) seriesOf(key seriesKey) *series {
	s, ok := l.series[key]
	if !ok {
		if len(l.series) >= maxSeries {
			key = otherSeries()
			if s, ok = l.series[key]; ok {
				return s
			}
		}
		s = &series{key: key}
		l.series[key] = s
	}
	return s
}

// forget drops series of which nothing is left to be shown. What they counted
// since the start goes on in the one of all others.
func (l *Live) forget(second int64) {
	for key, s := range l.series {
		if second-s.latest < keptSeconds || key == otherSeries() {
			continue
		}
		delete(l.series, key)
		if s.total.offered > 0 {
			l.seriesOf(otherSeries()).total.merge(&s.total)
		}
	}
}

func otherSeries() seriesKey { return seriesKey{"", "(others)"} }

// millis is a time as pages see it, in ms since 1970. All of them are taken from
// one start, so that a clock that is set does not tear them apart.
func (l *Live) millis(t time.Time) float64 {
	return float64(l.start.UnixMilli()) + float64(t.Sub(l.start))/float64(time.Millisecond)
}

// history is the newest of some things, oldest first, each with the tick in
// which it came. The zero limit keeps none.
type history[T any] struct {
	limit int
	next  int
	items []stamped[T]
}

type stamped[T any] struct {
	value *T
	tick  uint64
}

func (h *history[T]) add(v *T, tick uint64) {
	if len(h.items) < h.limit {
		h.items = append(h.items, stamped[T]{v, tick})
		return
	}
	h.items[h.next] = stamped[T]{v, tick}
	h.next = (h.next + 1) % h.limit
}

// oldest goes through all from the oldest.
func (h *history[T]) oldest() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range h.items {
			if !yield(h.items[(h.next+i)%len(h.items)].value) {
				return
			}
		}
	}
}

// newest gives those that came after a tick to use, the newest first, until it
// has enough.
func (h *history[T]) newest(after uint64, use func(*T) bool) {
	for i := range h.items {
		s := h.items[(h.next+2*len(h.items)-1-i)%len(h.items)]
		if s.tick <= after || !use(s.value) {
			return
		}
	}
}
