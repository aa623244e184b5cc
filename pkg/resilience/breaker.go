package resilience

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerPolicy says when the circuit to an upstream opens, and how it closes
// again. With ConsecutiveFailures and FailureRatio both 0 it never opens.
type BreakerPolicy struct {
	// Window is the rolling time over which the ratio is taken, in ten steps.
	// 10ms to 24h.
	Window time.Duration `yaml:"window"`
	// MinRequests must have ended within Window before the ratio counts. At least 1.
	MinRequests int `yaml:"minRequests"`
	// FailureRatio trips the breaker when it is reached. 0 to 1, 0 = never.
	FailureRatio float64 `yaml:"failureRatio"`
	// ConsecutiveFailures trips it too, however sparse they are. 0 = never.
	ConsecutiveFailures int `yaml:"consecutiveFailures"`
	// OpenFor is the first open period, jittered by ±20 % and doubled with every
	// re-opening. Above 0.
	OpenFor time.Duration `yaml:"openFor"`
	// MaxOpenFor bounds every open period. At least OpenFor.
	MaxOpenFor time.Duration `yaml:"maxOpenFor"`
	// Probes go through while the circuit is half-open; as many successes in a
	// row close it and one failure opens it again. At least 1.
	Probes int `yaml:"probes"`
}

// DefaultBreakerPolicy is the breaker part of [DefaultPolicy].
func DefaultBreakerPolicy() BreakerPolicy {
	return BreakerPolicy{
		Window:              10 * time.Second,
		MinRequests:         50,
		FailureRatio:        0.5,
		ConsecutiveFailures: 12,
		OpenFor:             time.Second,
		MaxOpenFor:          2 * time.Second,
		Probes:              3,
	}
}

const (
	windowSteps = 10
	maxWindow   = 24 * time.Hour // near the end of a Duration's range gobreaker's arithmetic overflows
	maxCount    = 1 << 30        // keeps every count within gobreaker's uint32
)

// Mistakes lists what is wrong, with paths relative to the breaker part.
func (p BreakerPolicy) Mistakes() (m Mistakes) {
	m.Check(p.Window >= 10*time.Millisecond && p.Window <= maxWindow, "window", "must be from 10ms to %v, got %v", maxWindow, p.Window)
	m.Check(p.MinRequests >= 1 && p.MinRequests <= maxCount, "minRequests", "must be from 1 to %d, got %d", maxCount, p.MinRequests)
	m.Check(p.FailureRatio >= 0 && p.FailureRatio <= 1, "failureRatio", "must be from 0 (never) to 1, got %v", p.FailureRatio)
	m.Check(p.ConsecutiveFailures >= 0 && p.ConsecutiveFailures <= maxCount, "consecutiveFailures",
		"must be from 0 (never) to %d, got %d", maxCount, p.ConsecutiveFailures)
	m.Check(p.OpenFor > 0, "openFor", "must be above 0, got %v", p.OpenFor)
	if p.OpenFor > 0 {
		m.Check(p.MaxOpenFor >= p.OpenFor, "maxOpenFor", "must be at least openFor (%v), got %s", p.OpenFor, named(p.MaxOpenFor, DefaultBreakerPolicy().MaxOpenFor))
	}
	m.Check(p.Probes >= 1 && p.Probes <= maxCount, "probes", "must be from 1 to %d, got %d", maxCount, p.Probes)
	return m
}

// State says whether a circuit lets attempts through.
type State uint8

// The states.
const (
	Closed   State = iota // attempts go through
	HalfOpen              // a few go through, as probes
	Open                  // none goes through
)

// String is closed, half-open or open.
func (s State) String() string {
	switch s {
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	default:
		return "closed"
	}
}

// MarshalText makes the state readable in JSON and YAML.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Transition is one change of a circuit's state, with the counts that caused it.
type Transition struct {
	Upstream string
	From, To State
	At       time.Time
	// Successes and Failures ended within the window, or as probes.
	Successes, Failures int
	// Consecutive failures, however far apart.
	Consecutive int
	// OpenFor is the open period that begins, 0 unless To is Open.
	OpenFor time.Duration
}

// BreakerSnapshot is what a circuit looked like at one moment. Taking it never
// changes the state.
type BreakerSnapshot struct {
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Successes and Failures within the window (closed) or among the probes (half-open).
	Successes   int `json:"successes"`
	Failures    int `json:"failures"`
	Consecutive int `json:"consecutiveFailures"`
	// ProbeAt is when an open circuit admits its next probe, zero in other states.
	ProbeAt time.Time `json:"probeAt,omitzero"`
	// Probes is the number of probes that are out now.
	Probes int `json:"probes"`
	// Stale counts results that came after the state they belong to had ended.
	Stale uint64 `json:"staleResults"`
}

var (
	errRefusedOpen     = errors.New("the circuit is open")
	errRefusedHalfOpen = errors.New("the circuit is half-open and its probes are out")

	// What gobreaker is told: it sees errors only.
	errCountFailure = errors.New("failure")
	errCountNeutral = errors.New("neutral")
)

// breaker is a circuit on gobreaker's two-step form. gobreaker counts and
// decides; what it lacks is added around it: an open period that is jittered
// and grows, a transition that happens on time instead of when someone looks,
// an own consecutive count (gobreaker's loses the failures of buckets that
// roll out of the window), and probes that cannot keep their slot for ever.
//
// mu is held around every call into gobreaker, so that its callbacks, which run
// under its own mutex, only write fields of ours; observers are called after
// mu is released.
type breaker struct {
	policy BreakerPolicy
	name   string
	random func() float64
	notify func(Transition)

	// refusing is the time in ns since epoch until which the circuit is known to
	// be open: a refusal reads one word and takes no lock.
	refusing atomic.Int64
	epoch    time.Time

	mu          sync.Mutex
	cb          *gobreaker.TwoStepCircuitBreaker[struct{}]
	state       State
	since       time.Time
	generation  uint64
	reopenings  int
	probeAt     time.Time
	consecutive int
	cuts        atomic.Int32 // attempts that callers ended since the last success; written under mu
	silent      time.Time    // when the first of them began
	lastCut     time.Time
	lastResult  time.Time
	causes      gobreaker.Counts // of the transition that is about to happen
	probesOut   int
	stale       uint64
	pending     []Transition
	publishing  bool
	retired     bool // nobody is told any more
}

func newBreaker(name string, p BreakerPolicy, random func() float64, notify func(Transition)) *breaker {
	b := &breaker{policy: p, name: name, random: random, notify: notify}
	b.epoch = time.Now()
	b.since = b.epoch
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		MaxRequests:  uint32(p.Probes),
		Interval:     p.Window,
		BucketPeriod: p.Window / windowSteps,
		// gobreaker's own open period is fixed for life. It is made to have passed
		// at once, and ours, jittered and growing, is kept by not asking before.
		Timeout:       1,
		ReadyToTrip:   b.readyToTrip,
		IsSuccessful:  func(err error) bool { return err == nil },
		IsExcluded:    func(err error) bool { return errors.Is(err, errCountNeutral) },
		OnStateChange: b.onStateChange,
	})
	return b
}

// waiter reports whether an attempt waits for its caller.
type waiter interface{ callerBusy() bool }

// ticket is the permission for one attempt, settled once with its outcome.
type ticket struct {
	breaker    *breaker
	generation uint64
	at         time.Time
	done       func(error)
	state      State
	timer      *time.Timer   // of a probe's lease
	lease      time.Duration // the attempt timeout
	caller     waiter        // of a probe
	clock      *clock        // of its attempt
	settled    atomic.Bool
	answered   atomic.Bool // a good answer began; its body is not over yet
}

// refusal tells why the circuit would refuse an attempt now and how long until
// the next probe, nil when it would not. It reads one word.
func (b *breaker) refusal(now time.Time) (time.Duration, error) {
	if left := time.Duration(b.refusing.Load()) - now.Sub(b.epoch); left > 0 {
		return left, errRefusedOpen
	}
	return 0, nil
}

// allow asks for an attempt, which keeps a probe's slot no longer than lease.
// caller says whether the attempt waits for its caller when the lease ends, and c
// whether this process stood still meanwhile. The error is errRefusedOpen or
// errRefusedHalfOpen, with the time until the next probe when that is known.
func (b *breaker) allow(t *ticket, now time.Time, lease time.Duration, caller waiter, c *clock) (time.Duration, error) {
	if left, err := b.refusal(now); err != nil {
		return left, err
	}
	b.mu.Lock()
	defer b.unlock()
	b.wake(now)
	if b.state == Open {
		return b.probeAt.Sub(now), errRefusedOpen
	}
	done, err := b.cb.Allow()
	if err != nil {
		return 0, errRefusedHalfOpen
	}
	*t = ticket{breaker: b, generation: b.generation, at: now, done: done, state: b.state, lease: lease}
	if b.state == HalfOpen {
		b.probesOut++
		t.caller, t.clock = caller, c
		t.timer = time.AfterFunc(lease, t.expire)
	}
	return 0, nil
}

// settle reports an attempt's outcome; only the first report counts.
func (t *ticket) settle(h Health, now time.Time) {
	if t.breaker == nil || !t.settled.CompareAndSwap(false, true) {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.breaker.report(t, h, now)
}

// expire ends a probe's lease. An answer that began is as much as a probe can
// show in its time. A probe that waits for its caller shows nothing, nor does one
// whose time passed while this process stood still; otherwise no answer is a failure.
func (t *ticket) expire() {
	if !t.settled.CompareAndSwap(false, true) {
		return
	}
	h := Unhealthy
	switch {
	case t.answered.Load():
		h = Healthy
	case t.caller.callerBusy(), t.stalled(time.Now()):
		h = Neutral
	}
	t.breaker.report(t, h, time.Now())
}

// stalled reports whether this process did not run for a part of a probe's lease
// that ends now, as [clock] has it for an attempt.
func (t *ticket) stalled(now time.Time) bool {
	return t.clock.stalled.Load() || late(now.Sub(t.at.Add(t.lease)), t.lease)
}

func (b *breaker) report(t *ticket, h Health, now time.Time) {
	b.mu.Lock()
	defer b.unlock()
	if t.generation != b.generation {
		// gobreaker drops it too, but only after having looked at the clock, which
		// would turn an open circuit half-open before its time.
		b.stale++
		return
	}
	if t.state == HalfOpen {
		b.probesOut--
		b.causes = b.cb.Counts()
	} else if now.Sub(t.at) >= b.policy.Window-b.policy.Window/windowSteps {
		// gobreaker books a result under the time of its admission and drops it
		// when that has left the window, which its first step does before the window
		// is over: the failure of a long download would never count. It is admitted
		// again, to count when it became known.
		if done, err := b.cb.Allow(); err == nil {
			t.done = done
		}
	}
	if h == cut {
		h = b.judgeCut(t, now)
	}
	switch h {
	case Healthy:
		b.lastResult = now
		b.consecutive = 0
		b.cuts.Store(0)
		b.causes.TotalSuccesses++
		t.done(nil)
	case Unhealthy:
		b.lastResult = now
		b.consecutive++
		b.causes.TotalFailures++
		t.done(errCountFailure)
	case Neutral, cut:
		t.done(errCountNeutral)
	}
}

// severalCuts is from how many cut attempts on a silent upstream is suspected.
const severalCuts = 3

// judgeCut says what an attempt counts as that its caller ended after a fair
// share of its time. A caller in a hurry proves nothing. But where several were
// cut, each of another call, and nothing has succeeded for as long as a whole
// attempt may take, the upstream hangs: it would hang unnoticed if every caller
// gave up early. A probe that is cut proves nothing either way: its slot goes to
// the next caller. It is called under mu.
func (b *breaker) judgeCut(t *ticket, now time.Time) Health {
	if t.state != Closed {
		return Neutral
	}
	// Time in which nobody asked is no silence.
	if b.cuts.Load() == 0 || t.at.Sub(b.lastCut) >= max(b.policy.Window, t.lease) {
		b.cuts.Store(0)
		b.silent = t.at
	}
	b.lastCut = now
	if b.cuts.Add(1) > severalCuts && now.Sub(b.silent) >= t.lease {
		return Unhealthy
	}
	return Neutral
}

// alive is told of an answer that has begun, whose body may go on for long: an
// upstream that answers does not hang.
func (b *breaker) alive() {
	if b.cuts.Load() == 0 { // mostly, and then success pays for one look
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cuts.Store(0)
}

// readyToTrip runs under gobreaker's mutex and ours: it only reads.
func (b *breaker) readyToTrip(c gobreaker.Counts) bool {
	b.causes = c
	if n := b.policy.ConsecutiveFailures; n > 0 && b.consecutive >= n {
		return true
	}
	// Attempts in flight say nothing yet, so Requests is not the volume.
	ended := c.TotalSuccesses + c.TotalFailures
	return b.policy.FailureRatio > 0 && ended >= uint32(b.policy.MinRequests) &&
		float64(c.TotalFailures) >= b.policy.FailureRatio*float64(ended)
}

// onStateChange runs under gobreaker's mutex and ours: it only records.
func (b *breaker) onStateChange(_ string, _, to gobreaker.State) {
	now := time.Now()
	tr := Transition{
		Upstream: b.name, From: b.state, At: now, Consecutive: b.consecutive,
		Successes: int(b.causes.TotalSuccesses), Failures: int(b.causes.TotalFailures),
	}
	b.generation++
	b.since = now
	b.probesOut = 0
	b.causes = gobreaker.Counts{}
	switch to {
	case gobreaker.StateOpen:
		if b.state == HalfOpen {
			b.reopenings++
		}
		b.state = Open
		tr.OpenFor = b.openPeriod()
		b.probeAt = now.Add(tr.OpenFor)
		b.refusing.Store(int64(b.probeAt.Sub(b.epoch)))
		time.AfterFunc(tr.OpenFor, b.onTime)
	case gobreaker.StateHalfOpen:
		b.state = HalfOpen
	case gobreaker.StateClosed:
		b.state = Closed
		b.reopenings = 0
		b.consecutive = 0
		b.cuts.Store(0)
	}
	tr.To = b.state
	b.pending = append(b.pending, tr)
}

// openPeriod is OpenFor·2^re-openings, at most MaxOpenFor, times U(0.8, 1.2).
// What the jitter lifts above MaxOpenFor is mirrored below it: cut off there,
// half of all instances would probe in lockstep.
func (b *breaker) openPeriod() time.Duration {
	d := b.policy.OpenFor
	for range b.reopenings {
		if d >= b.policy.MaxOpenFor/2 {
			d = b.policy.MaxOpenFor
			break
		}
		d *= 2
	}
	d = min(d, b.policy.MaxOpenFor)
	jittered := time.Duration(float64(d) * (0.8 + 0.4*b.random()))
	if over := jittered - b.policy.MaxOpenFor; over > 0 {
		jittered = b.policy.MaxOpenFor - over
	}
	return max(jittered, 1)
}

// onTime turns an open circuit half-open when its period has passed, with or
// without traffic.
func (b *breaker) onTime() {
	b.mu.Lock()
	defer b.unlock()
	b.wake(time.Now())
}

// wake is called under mu.
func (b *breaker) wake(now time.Time) {
	if b.state == Open && !now.Before(b.probeAt) {
		// gobreaker changes its state when it is looked at, strictly after its
		// period; the look is the transition, and onStateChange records it.
		b.cb.State()
	}
}

// unlock releases mu and hands the transitions recorded meanwhile to the
// observer, one goroutine at a time and in their order. No lock is held during
// that, so the observer may look at the breaker or make a call.
func (b *breaker) unlock() {
	if b.publishing || len(b.pending) == 0 {
		b.mu.Unlock()
		return
	}
	b.publishing = true
	defer func() { // an observer may panic, and others must still be told afterwards
		b.publishing = false
		b.mu.Unlock()
	}()
	for len(b.pending) > 0 {
		next := b.pending[0]
		b.pending = b.pending[1:]
		b.tell(next)
	}
}

// tell calls the observer without mu, which is held again afterwards.
func (b *breaker) tell(t Transition) {
	if b.notify == nil || b.retired {
		return
	}
	b.mu.Unlock()
	defer b.mu.Lock()
	b.notify(t)
}

// retire ends the telling of transitions.
func (b *breaker) retire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired = true
}

func (b *breaker) snapshot() BreakerSnapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BreakerSnapshot{State: b.state, Since: b.since, Consecutive: b.consecutive, Probes: b.probesOut, Stale: b.stale}
	if b.state == Open {
		s.ProbeAt = b.probeAt
		return s
	}
	// gobreaker rolls its window when a call comes; a window in which none came
	// is empty whatever its counts still say.
	if b.state == HalfOpen || time.Since(b.lastResult) < b.policy.Window {
		c := b.cb.Counts()
		s.Successes, s.Failures = int(c.TotalSuccesses), int(c.TotalFailures)
	}
	return s
}
