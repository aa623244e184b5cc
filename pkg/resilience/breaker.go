package resilience

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// BreakerPolicy sets when the circuit to an upstream opens, and how it closes again. With
// ConsecutiveFailures and FailureRatio both 0 it never opens.
type BreakerPolicy struct {
	// Window is the time that FailureRatio covers. It rolls in ten steps. 10ms to 24h.
	Window time.Duration `yaml:"window"`
	// MinRequests is the number of attempts that must have ended within Window before FailureRatio
	// counts. At least 1.
	MinRequests int `yaml:"minRequests"`
	// FailureRatio is the share of failures that opens the circuit. 0 to 1; 0 = never.
	FailureRatio float64 `yaml:"failureRatio"`
	// ConsecutiveFailures is the number of failures in a row that opens the circuit, however far
	// apart they are. If more than 30 % of the attempts failed before, it takes more, because then
	// failures in a row are chance. 0 = never.
	ConsecutiveFailures int `yaml:"consecutiveFailures"`
	// OpenFor is the first open period. It is jittered by ±20 % and doubles each time the circuit
	// opens again. Above 0.
	OpenFor time.Duration `yaml:"openFor"`
	// MaxOpenFor is the longest open period. At least OpenFor.
	MaxOpenFor time.Duration `yaml:"maxOpenFor"`
	// Probes is the number of probes that may be in flight while the circuit is half-open. As many
	// successes close it. A failure opens it again if no probe has succeeded before. At least 1.
	Probes int `yaml:"probes"`
}

const (
	windowSteps = 10
	maxWindow   = 24 * time.Hour // gobreaker's arithmetic overflows near the largest Duration
	maxCount    = 1 << 30        // Probes must fit into gobreaker's uint32
)

// mistakes returns the mistakes in p, with paths relative to it.
func (p BreakerPolicy) mistakes() (m mistake.List) {
	m.Check(p.Window >= 10*time.Millisecond && p.Window <= maxWindow, "window", "must be from 10ms to %v, got %v", maxWindow, p.Window)
	m.Check(p.MinRequests >= 1 && p.MinRequests <= maxCount, "minRequests", "must be from 1 to %d, got %d", maxCount, p.MinRequests)
	m.Check(p.FailureRatio >= 0 && p.FailureRatio <= 1, "failureRatio", "must be from 0 (never) to 1, got %v", p.FailureRatio)
	m.Check(p.ConsecutiveFailures >= 0 && p.ConsecutiveFailures <= maxCount, "consecutiveFailures",
		"must be from 0 (never) to %d, got %d", maxCount, p.ConsecutiveFailures)
	m.Check(p.OpenFor > 0, "openFor", "must be above 0, got %v", p.OpenFor)
	if p.OpenFor > 0 {
		m.Check(p.MaxOpenFor >= p.OpenFor, "maxOpenFor", "must be at least openFor (%v), got %s", p.OpenFor, named(p.MaxOpenFor, DefaultPolicy().Breaker.MaxOpenFor))
	}
	m.Check(p.Probes >= 1 && p.Probes <= maxCount, "probes", "must be from 1 to %d, got %d", maxCount, p.Probes)
	return m
}

// State decides whether a circuit lets attempts pass.
type State uint8

// The states.
const (
	Closed   State = iota // all attempts pass
	HalfOpen              // a few attempts pass, as probes
	Open                  // no attempt passes
)

// String returns closed, half-open or open.
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

// MarshalText returns the state as a word, for JSON and YAML.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Transition is one change of a circuit's state, and the counts that caused it.
type Transition struct {
	Upstream string
	From, To State
	At       time.Time
	// Successes and Failures count the results within the window, or those of the probes.
	Successes, Failures int
	// Consecutive counts the failures in a row, also those older than the window.
	Consecutive int
	// OpenFor is the length of the open period, 0 unless To is Open.
	OpenFor time.Duration
}

// BreakerSnapshot is the state of a circuit at one moment.
type BreakerSnapshot struct {
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Successes and Failures count the results within the window (closed) or of the probes
	// (half-open).
	Successes   int `json:"successes"`
	Failures    int `json:"failures"`
	Consecutive int `json:"consecutiveFailures"`
	// ProbeAt is the time when an open circuit turns half-open, zero in other states.
	ProbeAt time.Time `json:"probeAt,omitzero"`
	// Probes counts the probes in flight.
	Probes int `json:"probes"`
	// Stale counts results of attempts that started before the last transition. They are dropped.
	Stale uint64 `json:"staleResults"`
}

var (
	errRefusedOpen     = errors.New("the circuit is open")
	errRefusedHalfOpen = errors.New("the circuit is half-open and all its probes are in flight")

	// gobreaker takes results as errors.
	errCountFailure = errors.New("failure")
	errCountNeutral = errors.New("neutral")
)

// breaker is a circuit. gobreaker's two-step breaker counts probes and sets the state. breaker
// adds:
//
//   - the counts of a closed circuit, which take no further lock, clock reading or allocation, so
//     gobreaker hears only of the failures there;
//   - an open period that is jittered and grows;
//   - a transition to half-open on time, not at the next call;
//   - its own count of consecutive failures, because gobreaker's loses the failures of buckets
//     that leave the window;
//   - a time limit for probes, so that none keeps its slot forever. A result that comes later still
//     counts.
//
// mu is held during every call into gobreaker. gobreaker runs its callbacks under its own mutex, so
// they only write fields of breaker. Observers are called after mu is released.
type breaker struct {
	policy BreakerPolicy
	name   string
	random func() float64
	notify func(Transition)

	// refusing is the time, in ns since epoch, until which the circuit is open. A refusal only
	// reads this word and takes no lock.
	refusing atomic.Int64
	epoch    time.Time

	// current is generation<<2 | state, to be read without a lock.
	current atomic.Uint64

	lastGood atomic.Int64 // when the last good answer began or ended, ns since epoch

	mu          sync.Mutex
	cb          *gobreaker.TwoStepCircuitBreaker[struct{}]
	state       State
	since       time.Time
	generation  uint64
	reopenings  int
	probeAt     time.Time
	consecutive int
	window      window // of the results while the circuit is closed
	traffic     traffic
	results     int           // at most as many as usual covers
	usual       float64       // the failure rate before these failures
	ended       float64       // how often failures in a row ended, for each result
	probed      bool          // a probe has succeeded since the circuit became half-open
	cuts        atomic.Int32  // attempts that callers ended since the last success; written under mu
	silent      time.Duration // since when nothing has succeeded, for them; from epoch
	lastCut     time.Duration // from epoch
	causes      tally         // counts behind the next transition
	probesOut   int
	doubted     bool      // one of the probes out is doubtful
	undecided   time.Time // when the last doubtful probe ended without a decision
	overdue     int       // how often probes were overdue since the circuit became half-open
	pausedUntil time.Time // no probe begins before, because of those
	stale       uint64
	pending     []Transition
	publishing  bool
	retired     bool // notify is not called any more
}

func newBreaker(name string, p BreakerPolicy, random func() float64, notify func(Transition)) *breaker {
	b := &breaker{policy: p, name: name, random: random, notify: notify}
	b.epoch = time.Now()
	b.since = b.epoch
	b.window.step = p.Window / windowSteps
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		MaxRequests:  uint32(p.Probes),
		Interval:     p.Window,
		BucketPeriod: p.Window / windowSteps,
		// gobreaker's open period cannot change. With 1 ns it is over at once, and breaker does not
		// call gobreaker before its own period, jittered and growing, is over.
		Timeout:       1,
		ReadyToTrip:   b.readyToTrip,
		IsSuccessful:  func(err error) bool { return err == nil },
		IsExcluded:    func(err error) bool { return errors.Is(err, errCountNeutral) },
		OnStateChange: b.onStateChange,
	})
	b.traffic.pace = newPace()
	return b
}

// renew returns a closed circuit for the same client and upstream under another policy. What b has
// learned of the traffic does not depend on the policy. The results of b's attempts still count for
// the pace that both share.
func (b *breaker) renew(p BreakerPolicy) *breaker {
	next := newBreaker(b.name, p, b.random, b.notify)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.measure()
	next.traffic, next.results, next.usual, next.ended = b.traffic, b.results, b.usual, b.ended
	return next
}

// caller is who makes an attempt.
type caller interface {
	// callerBusy reports whether the attempt waits for the caller.
	callerBusy() bool
	// doubtful reports whether the attempt, as a probe, may decide nothing because of the caller.
	doubtful() bool
}

// ticket is the permission for one attempt. It is settled once, with the attempt's health.
type ticket struct {
	breaker    *breaker
	generation uint64
	at         time.Duration // when it was given, from the breaker's epoch
	lease      time.Duration // the attempt timeout, of a probe at most longestLease
	probe      *probe        // nil through a closed circuit
	state      State
	progress   atomic.Uint32 // written under mu: a settled ticket has no slot
	answered   atomic.Bool   // a good answer has begun, but its body is not complete
}

// The progress of a ticket.
const (
	ticketOut uint32 = iota
	ticketOverdue
	ticketSettled
)

// longestLease is how long a probe keeps its slot at most. A policy without a limit, or for long
// answers, has attempts of an hour. In that time one probe that hangs would have all other calls
// refused, although the upstream is well.
const longestLease = 10 * time.Second

func (t *ticket) settled() bool { return t.progress.Load() == ticketSettled }

// probe is what a ticket of a half-open circuit has besides.
type probe struct {
	done     func(error) // tells gobreaker the result
	timer    *time.Timer // ends the lease
	caller   caller
	doubtful bool // it may decide nothing
	capped   bool // the lease is shorter than the attempt may be
	clock    *clock
}

// refusal returns an error if the circuit is open at now, and the time until its next probe. It
// takes no lock.
func (b *breaker) refusal(now time.Time) (time.Duration, error) {
	if left := time.Duration(b.refusing.Load()) - now.Sub(b.epoch); left > 0 {
		return left, errRefusedOpen
	}
	return 0, nil
}

// allow fills t with the permission for an attempt, or returns errRefusedOpen or errRefusedHalfOpen
// and the time until the next probe, 0 if that is unknown. A probe keeps its slot for at most
// lease, and longestLease. When the lease ends, by reports whether the attempt waits for its
// caller, and c whether this process was stopped meanwhile.
//
// Only one probe at a time may be doubtful, and after it has decided nothing, none for openFor.
// Otherwise callers with slow uploads or little time could hold all probes, and the circuit would
// never close. The caller of a probe that is overdue waits for long. So unless a probe has
// succeeded, none begins for openFor after one was overdue, and for twice as long each further
// time, up to maxOpenFor.
func (b *breaker) allow(t *ticket, now time.Time, lease time.Duration, by caller, c *clock) (time.Duration, error) {
	if b.admit(t, now, lease) {
		return 0, nil
	}
	if left, err := b.refusal(now); err != nil {
		return left, err
	}
	b.mu.Lock()
	defer b.unlock()
	b.wake(now)
	if b.state == Open {
		return b.probeAt.Sub(now), errRefusedOpen
	}
	if b.admit(t, now, lease) { // it has just closed
		return 0, nil
	}
	doubtful := by.doubtful()
	if doubtful && (b.doubted || now.Sub(b.undecided) < b.policy.OpenFor) || !b.probed && now.Before(b.pausedUntil) {
		return 0, errRefusedHalfOpen
	}
	done, err := b.cb.Allow()
	if err != nil {
		return 0, errRefusedHalfOpen
	}
	b.probesOut++
	b.doubted = b.doubted || doubtful
	p := &probe{done: done, caller: by, clock: c, doubtful: doubtful, capped: lease > longestLease}
	lease = min(lease, longestLease)
	*t = ticket{breaker: b, generation: b.generation, at: now.Sub(b.epoch), lease: lease, state: HalfOpen, probe: p}
	p.timer = time.AfterFunc(lease, t.expire)
	return 0, nil
}

// admit fills t with the permission for an attempt if the circuit is closed. It takes no lock.
func (b *breaker) admit(t *ticket, now time.Time, lease time.Duration) bool {
	v := b.current.Load()
	if State(v&3) != Closed {
		return false
	}
	*t = ticket{breaker: b, generation: v >> 2, at: now.Sub(b.epoch), lease: lease}
	return true
}

// restart begins the lease of a probe anew at now, when the probe has waited in a queue. If its
// lease has ended there, it decides nothing, unless its attempt may take longer than longestLease.
func (t *ticket) restart(now time.Time) {
	if t.probe != nil && t.probe.timer.Stop() {
		t.at = now.Sub(t.breaker.epoch)
		t.probe.timer.Reset(t.lease)
	}
}

// settle reports the health of the attempt to the breaker. Only the first call counts.
func (t *ticket) settle(h Health, now time.Time) {
	b := t.breaker
	if b == nil || t.settled() {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	switch t.progress.Swap(ticketSettled) {
	case ticketOut:
		if t.probe != nil {
			t.probe.timer.Stop()
		}
		b.report(t, h, now)
	case ticketOverdue:
		b.reportOverdue(t, h, now)
	}
}

// expire ends a probe's lease. A probe whose answer has begun is healthy. A probe that waits for
// its caller is neutral, and so is one whose time passed while this process was stopped. Any other
// probe without an answer is a failure, unless its attempt has time left: then it only gives its
// slot back, and counts when it ends.
func (t *ticket) expire() {
	answered := t.answered.Load()
	next := ticketSettled
	if t.probe.capped && !answered {
		next = ticketOverdue
	}
	h := Unhealthy
	switch {
	case answered:
		h = Healthy
	case next == ticketOverdue, t.probe.caller.callerBusy(), t.stalled(time.Now()):
		h = Neutral
	}
	now := time.Now()
	b := t.breaker
	b.mu.Lock()
	defer b.unlock()
	if !t.progress.CompareAndSwap(ticketOut, next) {
		return
	}
	if next == ticketOverdue {
		b.pause(t, now)
	}
	b.report(t, h, now)
}

// pause keeps probes away for a while after one was overdue at now. Others that began with it are
// overdue too, and make the pause no longer. pause is called under mu.
func (b *breaker) pause(t *ticket, now time.Time) {
	if t.generation != b.generation || now.Before(b.pausedUntil) {
		return
	}
	b.pausedUntil = now.Add(b.doubled(b.overdue))
	b.overdue++
}

// stalled reports whether this process was stopped during a part of the lease, which ends at now.
// See [clock].
func (t *ticket) stalled(now time.Time) bool {
	return t.probe.clock.stalled.Load() || late(now.Sub(t.breaker.epoch)-t.at-t.lease, t.lease)
}

// report counts the result of an attempt. It is called under mu.
func (b *breaker) report(t *ticket, h Health, now time.Time) {
	if h == unsent {
		h = Neutral
	} else {
		b.traffic.pace.attempts.Add(1)
	}
	if t.generation != b.generation {
		// gobreaker would drop the result too. But it first reads the clock, which would turn an
		// open circuit half-open too early.
		b.stale++
		return
	}
	if t.probe != nil {
		b.reportProbe(t.probe, h, now)
		return
	}
	at := now.Sub(b.epoch)
	if h == cut {
		h = b.judgeCut(t, at)
	}
	if h == Neutral {
		return
	}
	// A result counts at the time when its attempt began. If that has almost left the window, as
	// after a long download, the result would never count. Then it counts at the time when it
	// became known.
	counts := t.at
	if at-t.at >= b.policy.Window-b.window.step {
		counts = at
	}
	opened := b.since.Sub(b.epoch)
	b.window.advance(at - opened)
	b.window.add(counts-opened, h == Healthy)
	if h == Healthy {
		b.good(now)
		b.succeeded()
		b.cuts.Store(0)
		return
	}
	b.consecutive++
	if done, err := b.cb.Allow(); err == nil {
		done(errCountFailure)
	}
}

// reportProbe counts the result of a probe. It is called under mu.
func (b *breaker) reportProbe(p *probe, h Health, now time.Time) {
	b.probesOut--
	b.doubted = b.doubted && !p.doubtful
	b.countProbe(p, h, now)
}

// reportOverdue counts the result of a probe that has given its slot back. Without it the circuit
// of an upstream whose good answers all take longer than longestLease would never close, and that
// of one that hangs would never open again. reportOverdue is called under mu.
func (b *breaker) reportOverdue(t *ticket, h Health, now time.Time) {
	switch {
	case t.generation != b.generation:
		b.stale++
	case h == Healthy, h == Unhealthy && !b.probed: // see countProbe
		b.countProbe(t.probe, h, now)
	}
}

// countProbe counts the result of a probe. It may be the second result of this probe, after a
// neutral one, which gobreaker accepts. countProbe is called under mu.
func (b *breaker) countProbe(p *probe, h Health, now time.Time) {
	b.causes = probes(b.cb.Counts())
	if h == Unhealthy && b.probed {
		h = Neutral // the upstream answers some calls, which an open circuit would refuse
	}
	switch h {
	case Healthy:
		b.good(now)
		b.consecutive = 0
		b.probed = true
		b.cuts.Store(0)
		b.causes.successes++
		p.done(nil)
	case Unhealthy:
		b.consecutive++
		b.causes.failures++
		p.done(errCountFailure)
	case Neutral, cut: // a cut probe is neutral, and its slot goes to the next caller
		if p.doubtful {
			b.undecided = now
		}
		p.done(errCountNeutral)
	}
}

// tally counts results.
type tally struct{ successes, failures int }

// probes returns gobreaker's counts of the probes.
func probes(c gobreaker.Counts) tally { return tally{int(c.TotalSuccesses), int(c.TotalFailures)} }

// window counts the results of the last steps. Times count from its beginning.
type window struct {
	step  time.Duration
	last  int64 // the number of the current step, from 0
	steps [windowSteps]tally
	total tally
}

// advance removes the results that are too old at a time. A time before the current step changes
// nothing.
func (w *window) advance(at time.Duration) {
	now := int64(at / w.step)
	for range min(now-w.last, windowSteps) {
		w.last++
		old := &w.steps[w.last%windowSteps]
		w.total.successes -= old.successes
		w.total.failures -= old.failures
		*old = tally{}
	}
	w.last = max(w.last, now)
}

// add counts a result at a time, unless that is not within the window.
func (w *window) add(at time.Duration, success bool) {
	n := int64(at / w.step)
	if n < 0 || n > w.last || w.last-n >= windowSteps {
		return
	}
	t := &w.steps[n%windowSteps]
	if success {
		t.successes++
		w.total.successes++
	} else {
		t.failures++
		w.total.failures++
	}
}

// Failures in a row show that an upstream has failed, or are chance if it fails partly.
const (
	// partly is the failure rate up to which ConsecutiveFailures is taken as it is.
	partly = 0.3
	// usualOf is the number of results that usual covers, about.
	usualOf = 64
	// assumed is the number of successes that are assumed before the first result.
	assumed = 8
	// longRun is the mean number of failures in a row from which they are not chance.
	longRun = 3
)

// succeeded ends the failures in a row. It is called under mu.
func (b *breaker) succeeded() {
	for range min(b.consecutive, usualOf) {
		b.learn(1, 0)
	}
	b.learn(0, float64(min(b.consecutive, 1)))
	b.consecutive = 0
}

// inRuns reports whether the failures came in runs of more than longRun: the upstream fails now and
// then as a whole. By chance they are that long at a failure rate of 67 %. It is called under mu.
func (b *breaker) inRuns() bool { return b.ended*longRun < b.usual }

// learn adds a result to usual, 1 for a failure, and to ended, 1 for the success after one. It is
// called under mu.
func (b *breaker) learn(failed, ended float64) {
	b.results = min(b.results+1, usualOf-assumed)
	n := float64(b.results + assumed)
	b.usual += (failed - b.usual) / n
	b.ended += (ended - b.ended) / n
}

// failsInARow reports whether so many attempts failed in a row that the circuit opens. If a large
// part of the attempts failed before, then it takes more: as many as are as rare at that failure
// rate as ConsecutiveFailures are at partly. It is called under mu.
func (b *breaker) failsInARow() bool {
	n := float64(b.policy.ConsecutiveFailures)
	if n == 0 {
		return false
	}
	if b.usual > partly {
		n *= math.Log(partly) / math.Log(b.usual)
	}
	return float64(b.consecutive) >= n
}

// severalCuts is the number of cut attempts that say nothing yet about a silent upstream.
const severalCuts = 3

// judgeCut returns the health of an attempt that its caller ended after a fair share of its time.
// One impatient caller proves nothing. But if several attempts of different calls were cut, and
// nothing has succeeded for as long as a whole attempt may take, then the upstream hangs. Without
// this rule a hanging upstream would go unnoticed if every caller gave up early. judgeCut is
// called under mu.
func (b *breaker) judgeCut(t *ticket, now time.Duration) Health {
	// The upstream is silent only while attempts are made. After a pause the count starts again.
	if b.cuts.Load() == 0 || t.at-b.lastCut >= max(b.policy.Window, t.lease) {
		b.cuts.Store(0)
		b.silent = max(t.at, time.Duration(b.lastGood.Load()))
	}
	b.lastCut = now
	if b.cuts.Add(1) > severalCuts && now-b.silent >= t.lease {
		return Unhealthy
	}
	return Neutral
}

// good records a good answer. It seldom writes, so that cores can share the line.
func (b *breaker) good(now time.Time) {
	if at := int64(now.Sub(b.epoch)); at-b.lastGood.Load() > int64(time.Millisecond) {
		b.lastGood.Store(at)
	}
}

// alive records that an answer has begun. Its body may take long, but the upstream does not hang.
func (b *breaker) alive(now time.Time) {
	b.good(now)
	if b.cuts.Load() == 0 { // the usual case, without a lock
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cuts.Store(0)
}

// readyToTrip reports whether the circuit opens. It runs under gobreaker's mutex and mu.
func (b *breaker) readyToTrip(gobreaker.Counts) bool {
	b.causes = b.window.total
	if b.failsInARow() {
		return true
	}
	ended := b.causes.successes + b.causes.failures
	return b.policy.FailureRatio > 0 && ended >= b.policy.MinRequests &&
		float64(b.causes.failures) >= b.policy.FailureRatio*float64(ended)
}

// onStateChange records a transition. It runs under gobreaker's mutex and mu.
func (b *breaker) onStateChange(_ string, _, to gobreaker.State) {
	now := time.Now()
	tr := Transition{
		Upstream: b.name, From: b.state, At: now, Consecutive: b.consecutive,
		Successes: b.causes.successes, Failures: b.causes.failures,
	}
	b.measure()
	b.generation++
	b.since = now
	b.probesOut, b.doubted = 0, false
	b.overdue, b.pausedUntil = 0, time.Time{}
	b.probed = false
	b.causes = tally{}
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
		b.window = window{step: b.window.step}
	}
	tr.To = b.state
	b.current.Store(b.generation<<2 | uint64(b.state))
	b.pending = append(b.pending, tr)
}

// doubled returns min(OpenFor·2^times, MaxOpenFor).
func (b *breaker) doubled(times int) time.Duration {
	d := b.policy.OpenFor
	for range times {
		if d >= b.policy.MaxOpenFor/2 {
			return b.policy.MaxOpenFor
		}
		d *= 2
	}
	return min(d, b.policy.MaxOpenFor)
}

// openPeriod returns min(OpenFor·2^reopenings, MaxOpenFor)·U(0.8, 1.2). A result above MaxOpenFor
// is mirrored to below it. If it were capped instead, half of all instances would probe in
// lockstep.
func (b *breaker) openPeriod() time.Duration {
	jittered := time.Duration(float64(b.doubled(b.reopenings)) * (0.8 + 0.4*b.random()))
	if over := jittered - b.policy.MaxOpenFor; over > 0 {
		jittered = b.policy.MaxOpenFor - over
	}
	return max(jittered, 1)
}

// onTime turns an open circuit half-open when its period is over, even without traffic.
func (b *breaker) onTime() {
	b.mu.Lock()
	defer b.unlock()
	b.wake(time.Now())
}

// probeNow ends the open period.
func (b *breaker) probeNow() {
	b.mu.Lock()
	defer b.unlock()
	if b.state == Open {
		now := time.Now()
		b.probeAt = now
		b.refusing.Store(int64(now.Sub(b.epoch)))
		b.wake(now)
	}
}

// wake turns an open circuit half-open if its period is over at now. It is called under mu.
func (b *breaker) wake(now time.Time) {
	if b.state == Open && !now.Before(b.probeAt) {
		// gobreaker changes its state when State is called after its period, and calls
		// onStateChange.
		b.cb.State()
	}
}

// unlock releases mu after passing the recorded transitions to the observer, in order. One
// goroutine at a time does this. mu is not held during the observer's call, so the observer may
// read the breaker or make a call.
func (b *breaker) unlock() {
	if b.publishing || len(b.pending) == 0 {
		b.mu.Unlock()
		return
	}
	b.publishing = true
	defer func() { // also if the observer panics: later transitions must still be passed on
		b.publishing = false
		b.mu.Unlock()
	}()
	for len(b.pending) > 0 {
		next := b.pending[0]
		b.pending = b.pending[1:]
		b.publish(next)
	}
}

// publish releases mu, calls the observer, and takes mu again.
func (b *breaker) publish(t Transition) {
	if b.notify == nil || b.retired {
		return
	}
	b.mu.Unlock()
	defer b.mu.Lock()
	b.notify(t)
}

// retire stops the calls of the observer.
func (b *breaker) retire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retired = true
}

// traffic describes the attempts of one client.
type traffic struct {
	rate  float64 // attempts a second, 0 = less than one, or too few to know
	whole bool    // a whole window has been measured
	fails float64 // the share of the attempts that usually fails; 0 if they fail in long runs
	pace  *pace   // of the retries
}

// partly reports whether a part of the attempts usually fails.
func (t traffic) partly() bool { return t.fails >= partlyFails }

// partlyFails is the failure rate from which a part of the attempts usually fails.
const partlyFails = 0.1

// seen returns the traffic so far.
func (b *breaker) seen() traffic {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.measure()
	t := b.traffic
	if !b.inRuns() {
		t.fails = b.usual
	}
	return t
}

// steady returns the rate over a whole window, or 0 if it is unknown or less than one.
func (t traffic) steady() float64 {
	if !t.whole {
		return 0
	}
	return t.rate
}

// fewAttempts say nothing about the rate of a client that has just started.
const fewAttempts = 10

// measure updates traffic, which stays as it is while the circuit is not closed. Before the first
// whole window, the highest rate so far counts. measure is called under mu.
func (b *breaker) measure() {
	if b.state != Closed {
		return
	}
	since := time.Since(b.since)
	b.window.advance(since)
	n := float64(b.window.total.successes + b.window.total.failures)
	if since >= b.policy.Window {
		b.traffic.rate, b.traffic.whole = n/b.policy.Window.Seconds(), true
	} else if n >= fewAttempts {
		b.traffic.rate = max(b.traffic.rate, n/max(1, since.Seconds()))
	}
	if b.traffic.rate < 1 {
		b.traffic.rate = 0
	}
}

func (b *breaker) snapshot() BreakerSnapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BreakerSnapshot{State: b.state, Since: b.since, Consecutive: b.consecutive, Probes: b.probesOut, Stale: b.stale}
	var counts tally
	switch b.state {
	case Open:
		s.ProbeAt = b.probeAt
	case HalfOpen:
		counts = probes(b.cb.Counts())
	case Closed:
		b.window.advance(time.Since(b.since))
		counts = b.window.total
	}
	s.Successes, s.Failures = counts.successes, counts.failures
	return s
}
