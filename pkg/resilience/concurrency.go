package resilience

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// ConcurrencyPolicy limits the attempts in flight, so that calls do not pile up in an upstream that
// hangs or is slow.
type ConcurrencyPolicy struct {
	// Max is the most attempts in flight. An attempt gives its place back when the response
	// headers arrive, or when it fails; a body takes no place. 0 adapts to the upstream: it sets
	// no limit while the upstream is well. While it gives no answers, the limit is three times
	// what is usual, but at least 12, and 2 when attempts have failed and nothing was answered for
	// long. While all its answers are slow, the limit is what it can serve with a short queue. Both
	// leave out requests with a body, which may wait for their callers. Calls get the share of
	// their class, in whole places and at least one (normal 90 %: 10 of 12, and 1 of 2); of a slow
	// upstream also a part of a place, which is free for that part of the time. After 1.5 s without
	// a new attempt, one more passes while there are no answers. -1 = no limit. -1 to 1000000.
	Max int `yaml:"max"`
	// Queue is the number of attempts that may wait for a place. In a full queue an attempt takes
	// the place of one of a lower class. 0 to 1000000; 0 refuses at once.
	Queue int `yaml:"queue"`
	// MaxWait is the longest time that an attempt waits for a place. An attempt that could not end
	// in time does not wait. Above 0 with a queue, 0 without.
	MaxWait time.Duration `yaml:"maxWait"`
}

const maxConcurrency = 1_000_000

func (p ConcurrencyPolicy) mistakes() (m mistake.List) {
	m.Check(p.Max >= -1 && p.Max <= maxConcurrency, "max", "must be from 1 to %d, or 0 (adaptive) or -1 (no limit), got %d", maxConcurrency, p.Max)
	m.Check(p.Queue >= 0 && p.Queue <= maxConcurrency, "queue", "must be from 0 (no queue) to %d, got %d", maxConcurrency, p.Queue)
	m.Check(p.Queue == 0 || p.Max >= 0, "queue", "must be left out with max -1: there is no limit to wait for")
	m.Check((p.Queue > 0) == (p.MaxWait > 0), "maxWait", "must be above 0 with a queue, and left out without one, got %v", p.MaxWait)
	return m
}

// Priority is the class of a call under a concurrency limit. The zero value is normal.
type Priority uint8

// The classes, and the share of the limit up to which they get a place.
const (
	PriorityNormal    Priority = iota // 90 %
	PriorityCritical                  // 100 %
	PrioritySheddable                 // 70 %
)

// ParsePriority returns the class with a name: critical, normal or sheddable. ok is false for any
// other text.
func ParsePriority(name string) (p Priority, ok bool) {
	for _, p := range []Priority{PriorityNormal, PriorityCritical, PrioritySheddable} {
		if p.String() == name {
			return p, true
		}
	}
	return PriorityNormal, false
}

// String returns critical, normal or sheddable.
func (p Priority) String() string {
	switch p {
	case PriorityCritical:
		return "critical"
	case PrioritySheddable:
		return "sheddable"
	default:
		return "normal"
	}
}

// The shares of the limit.
const (
	normalShare    = 0.9
	sheddableShare = 0.7
	retryShare     = 0.8 // of retries of any class, so that they leave room for first attempts
)

func (p Priority) share(retry bool) float64 {
	share := 1.0
	switch p {
	case PriorityNormal:
		share = normalShare
	case PrioritySheddable:
		share = sheddableShare
	case PriorityCritical:
	}
	if retry {
		share = min(share, retryShare)
	}
	return share
}

// The adaptive limit.
const (
	leastLimit = 12
	leastFirst = 9 // when it begins to be slow
	timesUsual = 3
	slowFactor = 4                      // times the usual latency, and
	leastSlow  = 100 * time.Millisecond // a process without processor time is not slow
	blockSize  = 5                      // at least so many successes are judged together,
	blockTime  = 100 * time.Millisecond // of at least so much time
	slowHolds  = 5 * time.Second
	usualOver  = 10 * time.Second // how fast the usual follows while the upstream is well
	adoptOver  = time.Minute      // how fast it follows while the upstream is only slow
	failsToo   = 0.1              // failures for each success from which a slow upstream is not only slow:
	failsOver  = 5                // then the usual follows so many times as slowly
	busier     = 3                // times the usual rate of successes from which the traffic is another
)

var errNoPlace = errors.New("the concurrency limit is reached")

// limiter limits the attempts in flight. A success takes no lock that another one holds.
//
// While the upstream is well there is no adaptive limit, so neither a surge nor slow calls among
// fast ones are refused. The upstream is in trouble if
//
//   - it stalls: many are in flight, and none has succeeded for a while since; or
//   - it is slow: even the fastest of several successes took four times as long as usual, and over
//     100 ms. A slow part of the endpoints does not look like that, but a queue in the upstream
//     does. Then a brake finds the limit, as long as it refuses attempts. But the latency counts
//     only while this process gets the processor time that it asks for.
type limiter struct {
	policy ConcurrencyPolicy
	*limiterState
}

// limiterState is what limiters of the same upstream share when the policy changes.
type limiterState struct {
	epoch   time.Time
	timeout atomic.Int64 // of an attempt, ns

	inFlight atomic.Int64
	leftOut  atomic.Int64 // in flight without a place
	began    atomic.Int64 // when the last place was taken, ns since epoch
	few      atomic.Int64 // below it attempts of any class get a place
	many     atomic.Int64 // from more on the upstream may stall
	limit    atomic.Int64 // the limit while it stalls
	lastGood atomic.Int64 // the last success, ns since epoch
	typical  atomic.Int64 // the usual latency, ns; 0 = unknown
	known    atomic.Int64 // since when it is known, ns since epoch
	failures atomic.Int64 // since the last block
	gap      atomic.Int64 // the usual time between two successes, ns
	slow     atomic.Int64 // until when the upstream counts as slow, ns since epoch
	brake    places       // while it is slow; 0 = it is not
	latency  atomic.Int64 // while it is slow, ns
	left     atomic.Int64 // when an attempt ended at last while it was slow, ns since epoch
	full     atomic.Bool  // the brake has refused an attempt since the last block
	tired    atomic.Int64 // until when it gets no retries after it was slow, ns since epoch

	stallWatch

	settingFew sync.Mutex
	sampling   sync.Mutex // taken by TryLock only
	block      sample
	slowness   brake
	late       lateness
	needed     int64 // when it has refused attempts at last, or the upstream was slow, ns since epoch
	doubted    bool  // the last block seemed slow, but did not count
	usual      struct {
		latency, inFlight float64 // s, attempts; 0 = unknown
		spread            float64 // of the latency: its variance, divided by the square of its mean
		rate              float64 // successes a second
		at                int64   // of the last update, ns since epoch
	}

	queueing sync.Mutex
	queues   [6]list.List            // of *queued, by rank
	waiting  atomic.Int64            // in all queues
	newest   atomic.Pointer[limiter] // its limit holds for all that wait
}

// sample sums up successes.
type sample struct {
	n                 int
	latency, inFlight float64
	squares           float64 // of the latencies
	failures          float64 // at the same time
	fastest           time.Duration
	from              int64 // the first of them, ns since epoch
}

// spread returns the variance of the latencies, divided by the square of their mean, but at most
// mostSpread. It is 0 if all answers took no time.
func (b *sample) spread() float64 {
	if b.latency == 0 {
		return 0
	}
	n := float64(b.n)
	return min(mostSpread, max(0, b.squares*n/(b.latency*b.latency)-1)*n/(n-1))
}

// queued is an attempt that waits for a place.
type queued struct {
	share    float64
	deadline time.Time
	place    chan struct{} // closed when it has one, or is displaced
	// displaced is set before place is closed for an attempt that made room for a higher rank.
	displaced bool
}

func newLimiter(p ConcurrencyPolicy, attemptTimeout time.Duration) *limiter {
	l := &limiter{policy: p, limiterState: &limiterState{epoch: time.Now()}}
	l.newest.Store(l)
	l.timeout.Store(int64(attemptTimeout))
	l.limit.Store(leastLimit)
	l.many.Store(leastMany)
	l.setFew()
	return l
}

// renew returns a limiter of the same upstream with another policy. It changes nothing until
// takeOver.
func (l *limiter) renew(p ConcurrencyPolicy) *limiter { return &limiter{p, l.limiterState} }

// takeOver puts l's policy in force.
func (l *limiter) takeOver(attemptTimeout time.Duration) {
	if l.newest.Swap(l) == l {
		return
	}
	l.timeout.Store(int64(attemptTimeout))
	if l.policy.Max != 0 { // nothing looks for a stall any more, nor for its end
		l.over.Store(0)
		l.endStall()
	}
	l.admit(time.Now())
}

// current returns the limit in force, or 0 if there is none.
func (l *limiter) current() int {
	switch {
	case l.policy.Max > 0:
		return l.policy.Max
	case l.policy.Max == 0:
		return int(l.inForce(int64(time.Since(l.epoch))))
	}
	return 0
}

// enter takes a place for an attempt, or waits for one until deadline at the latest. It returns
// errNoPlace or the cause of ctx.
func (l *limiter) enter(ctx context.Context, now time.Time, p Priority, retry bool, deadline time.Time) error {
	share := p.share(retry)
	if l.take(now, share) || !retry && l.probes(now) {
		return nil
	}
	if l.policy.Queue == 0 {
		return errNoPlace
	}
	return l.wait(ctx, now, p.rank(retry), share, deadline)
}

// rank returns the order in which attempts leave the queue, from 0: the critical ones first, and in
// each class first attempts before retries, which may use less of the limit.
func (p Priority) rank(retry bool) int {
	rank := 2
	switch p {
	case PriorityCritical:
		rank = 0
	case PrioritySheddable:
		rank = 4
	case PriorityNormal:
	}
	if retry {
		rank++
	}
	return rank
}

// free reports whether attempts of any class get a place, and how many are in flight. It is the
// usual case, and the class need not be known.
func (l *limiter) free() (inFlight int64, ok bool) {
	switch {
	case l.policy.Max < 0:
		return 0, true
	case l.policy.Max > 0:
		inFlight = l.inFlight.Load()
		return inFlight, inFlight < int64(float64(l.policy.Max)*sheddableShare)
	}
	inFlight = l.inFlight.Load()
	return inFlight, inFlight < l.few.Load()
}

// setFew sets few, after a change of what it depends on.
func (l *limiterState) setFew() {
	l.settingFew.Lock()
	defer l.settingFew.Unlock()
	few := l.many.Load()
	if brake := l.brake.Load(); brake > 0 {
		few = min(few, int64(brake*sheddableShare))
	}
	if l.stalls() {
		few = 0
	}
	l.few.Store(few)
}

// ofLimit returns the share of a limit. Of a small one it is still a place.
func ofLimit(limit int64, share float64) int64 { return max(1, int64(float64(limit)*share)) }

// places is a limit that need not be whole. Its part of a place is one for a part of the time.
type places struct{ bits atomic.Uint64 }

func (p *places) Load() float64       { return math.Float64frombits(p.bits.Load()) }
func (p *places) Store(limit float64) { p.bits.Store(math.Float64bits(limit)) }

// takeFree takes a place if attempts of any class get one.
func (l *limiter) takeFree(now time.Time) bool {
	if l.policy.Max < 0 {
		l.inFlight.Add(1)
		return true
	}
	n, ok := l.free()
	if !ok || !l.inFlight.CompareAndSwap(n, n+1) {
		return false
	}
	l.begin(now)
	return true
}

// refuses reports whether a call that begins would get no place, nor wait for one.
func (l *limiter) refuses(now time.Time, op any) bool {
	if _, ok := l.free(); ok || l.policy.Queue > 0 || l.policy.Max == 0 && sends(op) {
		return false
	}
	return !l.fits(l.inFlight.Load()+1, now, priority(op).share(false)) && !l.probeIsDue(now)
}

// take takes a place if there is one. Otherwise it changes nothing, not even for a moment: admit
// would not see a place that becomes free meanwhile, and nothing would wake who waits for it.
func (l *limiter) take(now time.Time, share float64) bool {
	for {
		n := l.inFlight.Load()
		if !l.fits(n+1, now, share) {
			return false
		}
		if l.inFlight.CompareAndSwap(n, n+1) {
			l.begin(now)
			return true
		}
	}
}

// begin records that an attempt has begun. As in succeeded, it seldom writes.
func (l *limiter) begin(now time.Time) {
	if at := int64(now.Sub(l.epoch)); at-l.began.Load() > int64(time.Millisecond) {
		l.began.Store(at)
	}
}

// fits reports whether n attempts may be in flight.
func (l *limiter) fits(n int64, now time.Time, share float64) bool {
	if l.policy.Max != 0 {
		return l.policy.Max < 0 || n <= ofLimit(int64(l.policy.Max), share)
	}
	at := int64(now.Sub(l.epoch))
	if n > l.many.Load() {
		l.watch(at)
	}
	switch {
	case l.stalls():
		if n <= ofLimit(l.placesInAStall(), share) {
			return true
		}
	case at >= l.slow.Load() || l.fitsBrake(n, at, share):
		return true
	}
	if !l.full.Load() {
		l.full.Store(true)
	}
	return false
}

// fitsBrake reports whether n attempts may be in flight while the upstream is slow. One more than
// the whole places may be if none has ended for a while. By Little's law an attempt ends each
// latency/limit, and if the last place stays empty for a part of that time, the limit is kept on
// average.
func (l *limiter) fitsBrake(n, at int64, share float64) bool {
	limit := share * l.brake.Load()
	switch whole := math.Floor(limit); {
	case limit == 0 || float64(n) <= whole:
		return true
	case float64(n) == whole+1 && limit > whole && l.policy.Queue == 0: // nothing would wake who waits for a part
		return float64(at-l.left.Load()) >= (float64(n)-limit)*float64(l.latency.Load())/limit
	}
	return false
}

// inForce returns the adaptive limit that is in force, or 0 if none is.
func (l *limiter) inForce(at int64) int64 {
	switch {
	case l.stalls():
		return l.placesInAStall()
	case at < l.slow.Load():
		return int64(math.Ceil(l.brake.Load()))
	}
	return 0
}

// usualLatency returns the usual latency, or what it takes for it while that is unknown.
func (l *limiter) usualLatency() time.Duration {
	if usual := l.typical.Load(); usual > 0 {
		return time.Duration(usual)
	}
	return time.Duration(l.timeout.Load()) / 8
}

// leave gives a place back. latency is how long the attempt took until its result.
func (l *limiter) leave(now time.Time, h Health, latency time.Duration) {
	at := int64(now.Sub(l.epoch))
	if h == Unhealthy { // first: the place may be one too many
		l.failed.Store(at)
	}
	if l.brake.Load() > 0 {
		l.left.Store(at)
	}
	n := l.inFlight.Add(-1)
	if l.over.Load() != 0 && n <= l.many.Load() {
		l.over.Store(0)
	}
	if l.policy.Max >= 0 { // a fixed limit learns too how long attempts take
		switch h {
		case Healthy:
			l.succeeded(at, n+1, latency)
		case Unhealthy:
			l.failures.Add(1)
		case Neutral, cut:
		}
	}
	if h == Healthy && l.stalled.Load() != 0 {
		l.endStall() // under any policy: it may have changed
	}
	if l.waiting.Load() > 0 {
		l.newest.Load().admit(now)
	}
}

// leastAdvice is the shortest wait that a refused caller is told, so that the refused do not come
// back at once.
const leastAdvice = time.Second

// advice returns how long a refused caller should wait: until the attempts in flight, the last of
// which began at l.began, should have ended. If they already take longer than usual, it is until
// their time is over. A caller that waits so long finds a place, unless others have taken it.
func (l *limiter) advice(now time.Time) time.Duration {
	since := now.Sub(l.epoch) - time.Duration(l.began.Load())
	timeout := time.Duration(l.timeout.Load())
	usual := min(timeout, time.Duration(stallFactor*float64(l.usualLatency())))
	if since >= usual {
		usual = timeout
	}
	return max(leastAdvice, usual-since)
}

// succeeded learns from a success.
func (l *limiter) succeeded(at, inFlight int64, latency time.Duration) {
	if at-l.lastGood.Load() > int64(time.Millisecond) { // seldom, so that cores can share the line
		l.lastGood.Store(at)
	}
	if !l.sampling.TryLock() {
		return // one sample more or less does not matter
	}
	defer l.sampling.Unlock()
	b := &l.block
	if b.n == 0 {
		b.fastest, b.from = latency, at
	}
	b.fastest = min(b.fastest, latency)
	if b.n++; b.n > 1 && b.fastest > leastSlow && b.fastest.Seconds() > slowFactor*l.usual.latency {
		l.suspect(at) // so that this process's own time is known when the block is judged
	}
	l.late.see(at, latency.Seconds())
	b.latency += latency.Seconds()
	b.squares += latency.Seconds() * latency.Seconds()
	b.inFlight += float64(inFlight)
	if b.n >= blockSize && at-l.usual.at >= int64(blockTime) {
		l.judge(at)
		*b = sample{}
	}
}

// judge judges a block of successes.
func (l *limiter) judge(at int64) {
	u, b := &l.usual, &l.block
	mean := b.latency / float64(b.n)
	// Many more successes than usual do not show a queue in the upstream. Then other calls are
	// made, which are slow by nature.
	rate := float64(b.n) / time.Duration(at-u.at).Seconds()
	limit := max(slowFactor*u.latency, leastSlow.Seconds())
	seems := u.latency > 0 && b.fastest.Seconds() > limit && rate <= busier*u.rate
	own := l.ownShare(at)
	// On a machine without processor time to spare, all that waits may wait for that, but not long.
	starved := seems && own > 0 && own < enoughTime && b.fastest < starvedUpTo
	slow := seems && !starved
	if slow && l.brake.Load() == 0 {
		// Answers that come all at once may only show that the upstream stood still.
		slow = b.fastest.Seconds()*own > limit && (l.doubted || at-b.from >= int64(blockTime)/2)
	}
	if seems {
		l.suspect(at)
	}
	l.doubted = seems && !slow
	l.learnPause(at, b.from, seems)
	l.spentThen = l.spent.Load()
	b.failures = float64(l.failures.Swap(0))
	expected := failsToo * float64(b.n)
	fails := b.failures > expected+2*math.Sqrt(expected) // more than by chance
	l.late.learn(at, b, fails)
	if starved {
		l.late.forget()
	}
	if l.policy.Max == 0 {
		l.hold(at, slow, l.full.Swap(false), fails, starved)
	} else {
		l.set(at, 0)
	}
	over := usualOver
	if seems || at < l.tired.Load() {
		over = adoptOver // after it was slow its latency still has much of a queue in it
	}
	weight := 1.0
	if u.latency > 0 {
		weight = follows(at-u.at, over)
	}
	if slow && fails {
		weight /= failsOver // it is hardly the new usual
	}
	if u.at > 0 {
		// Not smoothed: it must follow at once when a part of the endpoints stops to answer.
		l.gap.Store(min((at-u.at)/int64(b.n), int64(maxGap)))
	}
	u.at = at
	u.latency += weight * (mean - u.latency)
	if !seems && l.brake.Load() == 0 { // in trouble more are in flight than usual
		u.rate += weight * (rate - u.rate)
		u.inFlight += weight * (b.inFlight/float64(b.n) - u.inFlight)
		u.spread += weight * (b.spread() - u.spread)
		l.limit.Store(max(leastLimit, int64(math.Ceil(timesUsual*u.inFlight))))
		l.many.Store(max(leastMany, int64(manyFactor*u.inFlight)))
	}
	if l.typical.Swap(int64(u.latency*float64(time.Second))) == 0 {
		l.known.Store(at)
	}
	l.setFew()
}

// follows returns the weight of a block in an average that follows within over, if passed ns have
// passed since the block before.
func follows(passed int64, over time.Duration) float64 {
	return -math.Expm1(-float64(passed) / float64(over))
}

// hold keeps the brake in force while the upstream is slow, or while the brake refuses attempts,
// and for a second afterwards while fewer calls succeed than usual: by chance a short time needs no
// brake. It does so too if fewer succeed because fewer are made, which it cannot know. starved
// reports that this process has too little processor time to judge by the latency.
func (l *limiter) hold(at int64, slow, full, fails, starved bool) {
	limit := l.brake.Load()
	if slow || full {
		l.needed = at
	}
	rate := float64(l.block.n) / time.Duration(at-l.usual.at).Seconds()
	usual := timesUsual * l.usual.inFlight
	switch b := &l.block; {
	case fails && slow:
		// A part of it may hang, and hold places. A search would take them from the rest. But if
		// most attempts fail, it may be a queue as long as attemptTimeout. With leastLimit places
		// for each of many clients it would stay so long.
		limit = float64(l.limit.Load())
		if b.failures > float64(b.n) {
			limit = max(leastBrake, usual)
		}
		l.slowness = l.newBrake(at)
	case fails:
		limit = 0
	case starved && full:
		limit *= 2 // what is refused here would be served
		l.slowness = l.newBrake(at)
	case limit > 0 && (slow || full || at-l.needed < int64(brakeTime) && rate < loses*l.usual.rate):
		limit = l.slowness.next(at, b, limit, full)
	case slow:
		// It is not known yet whether there is a queue: at first nothing in flight is too much.
		// And on a busy machine even a burst of what is usual looks like one.
		inFlight := b.inFlight / float64(b.n)
		if at-l.lastStall.Load() < int64(slowHolds) {
			// Calls were refused as if it hung. The usual rate would need as many places.
			inFlight = max(inFlight, l.usual.rate*b.latency/float64(b.n))
		}
		limit = max(leastFirst, usual, 1+inFlight/normalShare)
		l.slowness = l.newBrake(at)
	default:
		limit = 0
	}
	l.set(at, limit)
}

// newBrake returns a brake for this upstream.
func (l *limiter) newBrake(at int64) brake {
	return newBrake(at, l.usual.latency, l.usual.spread, l.usual.rate)
}

// set puts the brake in force with a limit, or releases it with 0. At no moment is it in force with
// another limit than its own.
func (l *limiter) set(at int64, limit float64) {
	if limit == 0 {
		l.slow.Store(0)
		l.brake.Store(0)
		return
	}
	l.latency.Store(int64(l.block.latency / float64(l.block.n) * float64(time.Second)))
	l.brake.Store(limit)
	l.slow.Store(at + int64(slowHolds))
	l.tired.Store(at + int64(slowHolds))
}

// wait waits for a place.
func (l *limiter) wait(ctx context.Context, now time.Time, rank int, share float64, deadline time.Time) error {
	deadline = deadline.Add(-l.usualLatency()) // the attempt itself takes as long
	if last := now.Add(l.policy.MaxWait); last.Before(deadline) {
		deadline = last
	}
	if !now.Before(deadline) {
		return errNoPlace
	}
	w := &queued{share: share, deadline: deadline, place: make(chan struct{})}
	l.queueing.Lock()
	if int(l.waiting.Load()) >= l.policy.Queue && !l.displace(rank) {
		l.queueing.Unlock()
		return errNoPlace
	}
	queue := &l.queues[rank]
	element := queue.PushBack(w)
	l.waiting.Add(1)
	l.queueing.Unlock()
	l.newest.Load().admit(now) // a place may have become free meanwhile

	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	err := errNoPlace
	select {
	case <-w.place:
		return w.result()
	case <-timer.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.queueing.Lock()
	defer l.queueing.Unlock()
	select {
	case <-w.place: // at the same moment
		return w.result()
	default:
	}
	if element.Value != nil { // admit has not dropped it
		l.remove(queue, element)
	}
	return err
}

// result returns errNoPlace for an attempt that was displaced. place is closed.
func (w *queued) result() error {
	if w.displaced {
		return errNoPlace
	}
	return nil
}

// displace takes the last attempt of the lowest rank below rank out of its queue, and reports
// whether there was one. It is called under queueing.
func (l *limiter) displace(rank int) bool {
	for i := len(l.queues) - 1; i > rank; i-- {
		if last := l.queues[i].Back(); last != nil {
			w := last.Value.(*queued)
			w.displaced = true
			close(w.place)
			l.remove(&l.queues[i], last)
			return true
		}
	}
	return false
}

// admit gives free places to those that wait, by rank, and in each rank in order.
func (l *limiter) admit(now time.Time) {
	l.queueing.Lock()
	defer l.queueing.Unlock()
	for i := range l.queues {
		l.admitFrom(&l.queues[i], now)
	}
}

// admitFrom gives free places to those in a queue, in order. All in it have the same share of the
// limit. It is called under queueing.
func (l *limiter) admitFrom(queue *list.List, now time.Time) {
	for queue.Len() > 0 {
		first := queue.Front()
		w := first.Value.(*queued)
		if now.Before(w.deadline) {
			if !l.take(now, w.share) {
				return
			}
			close(w.place)
		}
		l.remove(queue, first)
	}
}

// remove takes an attempt out of its queue. It is called under queueing.
func (l *limiter) remove(queue *list.List, e *list.Element) {
	queue.Remove(e)
	e.Value = nil
	l.waiting.Add(-1)
}

// crowded reports whether a retry would get no place at now. An upstream in trouble gets no retries
// at all, and none for a while after it was slow or answers came late: they would make it slow
// again.
func (l *limiter) crowded(now time.Time, p Priority) bool {
	switch {
	case l.policy.Max > 0:
		return l.inFlight.Load()+1 > ofLimit(int64(l.policy.Max), p.share(true))
	case l.policy.Max == 0:
		at := int64(now.Sub(l.epoch))
		return at < l.tired.Load() || at < l.late.until.Load() || l.inForce(at) > 0
	}
	return false
}

// ConcurrencySnapshot is the state of a concurrency limit at one moment.
type ConcurrencySnapshot struct {
	// InFlight is the number of attempts in flight, also of those that an adaptive limit leaves
	// out.
	InFlight int `json:"inFlight"`
	Queued   int `json:"queued"`
	// Limit is the most attempts in flight, or 0 if there is no limit at the moment.
	Limit int `json:"limit"`
}

func (l *limiter) snapshot() ConcurrencySnapshot {
	return ConcurrencySnapshot{InFlight: int(l.inFlight.Load() + l.leftOut.Load()), Queued: int(l.waiting.Load()), Limit: l.current()}
}
