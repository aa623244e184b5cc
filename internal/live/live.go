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

	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	// gatherEvery is the longest time that a call waits before it is shown.
	gatherEvery = 200 * time.Millisecond

	keptChanges = 256 // of circuits, and as many of endpoints
	maxSeries   = 64  // the others are counted together
	maxShards   = 64
	maxPending  = 1024 // calls kept between two gatherings
	minPending  = 32   // the same for each shard
)

// Limits of what a Live keeps and shows.
const (
	KeptSeconds   = 300 // of figures
	KeptCalls     = 512 // calls that were good at the first attempt, and as many others
	WindowSeconds = 10  // of the current figures
)

// Live records the recent past of a gateway. It is safe for concurrent use.
type Live struct {
	// upstreams returns the current circuits and budgets, unless it is nil.
	upstreams func() []observe.Upstream
	reasons   reasonIndex
	shards    []shard // a power of two
	instant   string  // distinguishes this process's update IDs from an earlier one's
	start     time.Time

	transitions     intake[transition]
	endpointChanges intake[endpointChange]

	// mu guards the gathered data. ObserveCall does not take it.
	mu     sync.Mutex
	tick   uint64   // the number of gatherings
	before position // before the latest gathering
	spare  pending
	series map[seriesKey]*series
	all    series // of all calls, also those without a route
	calls  struct {
		total       uint64
		quiet, loud history[Record] // good at the first attempt, and all others
	}
	circuits  changes[transition]
	endpoints changes[endpointChange]
	states    []observe.Upstream
	// requests are the endpoints' counts of the last seconds.
	requests [WindowSeconds + 1]requestCounts
}

// New returns a Live. It shows nothing until [Live.Run] gathers the recorded calls.
func New() *Live {
	l := &Live{reasons: newReasonIndex(), start: time.Now(), instant: rand.Text()[:8], series: map[seriesKey]*series{}}
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
	l.calls.quiet.limit, l.calls.loud.limit = KeptCalls, KeptCalls
	l.circuits.limit, l.transitions.pending.limit = keptChanges, keptChanges
	l.endpoints.limit, l.endpointChanges.pending.limit = keptChanges, keptChanges
	return l
}

// ObserveCall records a call. It copies what it keeps. It takes less than a microsecond, and no
// lock that all calls share.
func (l *Live) ObserveCall(_ context.Context, c observe.Call) {
	l.shards[rnd.Uint32()&uint32(len(l.shards)-1)].record(&c, l.reasons.of(c.Report.Reason))
}

// ObserveAttempt does nothing: the call's report has its attempts.
func (l *Live) ObserveAttempt(context.Context, *resilience.AttemptReport) {}

// ObserveTransition adds a change of a circuit.
func (l *Live) ObserveTransition(t observe.Transition) {
	l.transitions.add(&transition{t, l.millis(t.At)})
}

// ObserveEndpoint adds a change of an endpoint.
func (l *Live) ObserveEndpoint(e observe.EndpointEvent) {
	l.endpointChanges.add(l.newEndpointChange(&e))
}

// intake collects changes between two gatherings.
type intake[T any] struct {
	mu      sync.Mutex
	pending history[T]
	n       uint64 // all of them, also those that pending has dropped
}

func (i *intake[T]) add(v *T) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pending.add(v, 0)
	i.n++
}

// changes are gathered ones.
type changes[T any] struct {
	total uint64 // all of them, also those that history has dropped
	history[T]
}

// gather moves the changes of an intake to c.
func (c *changes[T]) gather(i *intake[T], tick uint64) {
	i.mu.Lock()
	pending, n := i.pending, i.n
	i.pending = history[T]{limit: keptChanges}
	i.mu.Unlock()
	c.total = n
	for v := range pending.oldest() {
		c.add(v, tick)
	}
}

// Attach makes Live show the circuits and budgets that upstreams returns. Live calls it five times
// a second: it must be quick and must not change them. Attach must be called before [Live.Run].
func (l *Live) Attach(upstreams func() []observe.Upstream) { l.upstreams = upstreams }

// Run gathers the recorded calls and transitions five times a second, until ctx ends. It calls
// gathered, unless that is nil, after each gathering. [Live.Latest] then returns what has changed.
func (l *Live) Run(ctx context.Context, gathered func()) {
	ticker := time.NewTicker(gatherEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.gather()
			if gathered != nil {
				gathered()
			}
		}
	}
}

// gather moves the shards' calls into the history and the figures.
func (l *Live) gather() {
	var states []observe.Upstream
	if l.upstreams != nil {
		states = l.upstreams()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = l.position()
	l.tick++
	now := time.Now()
	// A second has the calls gathered from its second tick to the first tick of the next.
	second := l.second(now)

	var records []*Record
	for i := range l.shards {
		l.spare = l.shards[i].take(l.spare)
		for key, figures := range l.spare.series {
			if figures.offered > 0 {
				l.seriesOf(key).add(second, l.tick, figures)
				l.all.add(second, l.tick, figures)
				l.calls.total += uint64(figures.offered)
			}
		}
		for _, calls := range []*ring{&l.spare.quiet, &l.spare.loud} {
			calls.each(func(s *slot) { records = append(records, l.newRecord(s)) })
		}
		l.spare.clear()
	}
	slices.SortFunc(records, func(a, b *Record) int { return cmp.Compare(a.end(), b.end()) })
	// Calls that were not kept have numbers too, which precede those of the kept ones.
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
	l.circuits.gather(&l.transitions, l.tick)
	l.endpoints.gather(&l.endpointChanges, l.tick)
	l.observe(states, second)
	l.forget(second)
}

// observe adds the current circuits and budgets to their series.
func (l *Live) observe(states []observe.Upstream, second int64) {
	l.states = states
	l.countRequests(second)
	for i := range states {
		u := &states[i]
		s := l.seriesOf(seriesKey{u.Policy, u.Upstream})
		if s.key != otherSeries() { // it has many circuits, so it shows none
			s.observe(second, l.tick, u)
		}
	}
}

// seriesOf returns the series of key. Without room for it, it returns the one for all others.
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

// forget drops series that have had no second for [KeptSeconds]. Their totals move to the series
// for all others.
func (l *Live) forget(second int64) {
	for key, s := range l.series {
		if second-s.latest < KeptSeconds || key == otherSeries() {
			continue
		}
		delete(l.series, key)
		if s.total.offered > 0 {
			l.seriesOf(otherSeries()).total.merge(&s.total)
		}
	}
}

// Others stands for all upstreams for which there is no place, in the figures and in [Wanted].
const Others = "(others)"

func otherSeries() seriesKey { return seriesKey{"", Others} }

// millis returns t in ms since 1970. It counts from the start on the monotonic clock, so that
// setting the system's clock does not shift the times against each other.
func (l *Live) millis(t time.Time) float64 {
	return float64(l.start.UnixMilli()) + float64(t.Sub(l.start))/float64(time.Millisecond)
}

// history holds the newest items up to limit, each with the tick in which it was added.
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

// oldest iterates over all items, from the oldest.
func (h *history[T]) oldest() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range h.items {
			if !yield(h.items[(h.next+i)%len(h.items)].value) {
				return
			}
		}
	}
}

// newest calls use for the items added after a tick, from the newest, until use returns false.
func (h *history[T]) newest(after uint64, use func(*T) bool) {
	for i := range h.items {
		s := h.items[(h.next+2*len(h.items)-1-i)%len(h.items)]
		if s.tick <= after || !use(s.value) {
			return
		}
	}
}
