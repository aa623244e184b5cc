package endpoint

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The cost of an endpoint is its recent latency times its requests in flight: peak EWMA, as in
// Finagle and Linkerd. A latency above the average replaces it at once, a lower one pulls it down
// slowly.
const (
	// decay is the time constant of the average.
	decay = 10 * time.Second
	// seed stands for the latency of an endpoint that has not answered yet.
	seed = 30 * time.Millisecond
	// forget is the time without an answer after which the average says nothing any more. An
	// endpoint without requests in flight then gets one at once, like a new one. Otherwise one that
	// hung for a moment would wait for most of a minute until its average has decayed.
	forget = 10 * time.Second
	// minLatency keeps the averages of idle endpoints comparable.
	minLatency = time.Microsecond
)

const (
	// An endpoint costs penalty times as much for each failure in a row, up to maxPenalties, until
	// avoidFor after the last one. This is little: an endpoint that always fails shall be ejected
	// soon, and a rare failure shall not cost an endpoint its share.
	penalty      = 2
	maxPenalties = 3
	avoidFor     = time.Second
	// maxRefusals limits the penalties for answers in a row that say "too many requests". They
	// eject nobody and come fast. So without up to 64 times the cost, a busy set would prefer the
	// endpoint that gives them: it has the fewest requests in flight.
	maxRefusals = 6
	// waiting is the factor for an endpoint that has asked for time with Retry-After.
	waiting = 4096
	// broken is the factor for an endpoint that fails and is not ejected, because too many do. One
	// that works gets nearly all requests until it has this many more in flight. A larger factor
	// would overload it, though the others may fail on some requests only.
	broken = 64
	// maxTold limits the time for which a Retry-After keeps requests away.
	maxTold = 5 * time.Minute
)

// member is one endpoint of a set.
type member struct {
	address string
	circuit *resilience.Circuit // nil if it is never ejected

	connect sync.Once
	sender  sender
	retired atomic.Bool // it is not in use any more

	// The set's mutex guards these.
	working bool // its circuit is closed
	out     bool // it is left out
	ejected bool // it was left out, and has not worked since

	inFlight atomic.Int64
	requests atomic.Uint64

	// Times are in ns since the set's epoch. They are read without a lock. mu guards the changes
	// that depend on the value before.
	mu       sync.Mutex
	strain   strain        // mu guards it, but for what strain says
	latency  atomic.Uint64 // seconds, the bits of a float64; 0 = unknown
	measured atomic.Int64  // when latency was last updated
	failures atomic.Int64  // in a row
	refusals atomic.Int64  // in a row
	avoid    atomic.Int64  // when the last failure or refusal is forgiven
	told     atomic.Int64  // when the Retry-After of the last answer ends
	lastGood atomic.Int64  // when the last request succeeded; 0 = never
	halfOpen atomic.Int64  // when the circuit became half-open
	opened   atomic.Int64  // when the circuit last opened
}

// state returns the state of the endpoint's circuit.
func (m *member) state() resilience.State {
	if m.circuit == nil {
		return resilience.Closed
	}
	return m.circuit.State()
}

// cost returns the endpoint's cost at now. The lowest is the best.
func (m *member) cost(now int64) float64 {
	pending := m.inFlight.Load()
	return m.expected(now, pending) * float64(pending+1)
}

// alike is the ratio up to which the latencies of two endpoints count as equal. Equal endpoints
// differ by chance: the average follows each peak. Without alike, the one with the latest peak
// would get much less than its share.
const alike = 2

// better reports whether m is a better choice than o.
func (m *member) better(o *member, now int64) bool {
	mine, others := m.inFlight.Load(), o.inFlight.Load()
	a, b := m.expected(now, mine), o.expected(now, others)
	if a < b*alike && b < a*alike {
		return mine < others
	}
	return a*float64(mine+1) < b*float64(others+1)
}

// expected returns the latency to expect with pending requests in flight, in seconds, times the
// penalties.
func (m *member) expected(now, pending int64) float64 {
	latency := m.average(now)
	if latency == 0 {
		latency = seed.Seconds()
	}
	if now < m.told.Load() {
		return latency * waiting
	}
	if m.state() != resilience.Closed {
		// The average of one that does not answer goes to nothing.
		return max(latency, seed.Seconds()) * broken
	}
	if pending == 0 && now-m.measured.Load() > int64(forget) {
		return 0
	}
	for range m.penalties(now) {
		latency *= penalty
	}
	return latency
}

// penalties returns how many penalties the endpoint has at now.
func (m *member) penalties(now int64) int {
	if now >= m.avoid.Load() {
		return 0
	}
	return int(min(m.failures.Load()+m.refusals.Load(), maxRefusals))
}

// average returns the average latency at now in seconds, or 0 if there is none.
func (m *member) average(now int64) float64 {
	bits := m.latency.Load()
	if bits == 0 {
		return 0
	}
	age := float64(now - m.measured.Load())
	return max(minLatency.Seconds(), math.Float64frombits(bits)*math.Exp(-age/float64(decay)))
}

// observe adds a latency to the average. With only up set, a latency below the average is ignored.
// The caller holds mu.
func (m *member) observe(d time.Duration, now int64, onlyUp bool) {
	s := d.Seconds()
	before, age := math.Float64frombits(m.latency.Load()), max(0, now-m.measured.Load())
	if s < before && age <= int64(forget) {
		if onlyUp {
			return
		}
		weight := math.Exp(-float64(age) / float64(decay))
		s = before*weight + s*(1-weight)
	}
	m.latency.Store(math.Float64bits(max(s, minLatency.Seconds())))
	m.measured.Store(now)
}

func (m *member) succeeded(now int64) {
	m.lastGood.Store(now)
	if m.failures.Load() != 0 {
		m.failures.Store(0)
	}
	if m.refusals.Load() != 0 {
		m.refusals.Store(0)
	}
}

// refused records an answer that says "too many requests".
func (m *member) refused(now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusals.Store(min(m.refusals.Load()+1, maxRefusals))
	m.avoid.Store(max(m.avoid.Load(), now+int64(avoidFor)))
}

// failed records a failure. told is the answer's Retry-After, or 0.
func (m *member) failed(now int64, told time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := min(m.failures.Load()+1, maxPenalties)
	m.failures.Store(n)
	m.avoid.Store(max(m.avoid.Load(), now+int64(avoidFor)))
	m.keepAway(now, told)
}

// waits reports whether the endpoint has asked for time, which is not over at now.
func (m *member) waits(now int64) bool {
	return now < m.told.Load() || m.refusals.Load() > 0 && now < m.avoid.Load()
}

func (m *member) keepAway(now int64, told time.Duration) {
	if told > 0 {
		m.told.Store(now + int64(min(told, maxTold)))
	}
}
