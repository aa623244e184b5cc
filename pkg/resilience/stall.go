package resilience

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// How a stall of the upstream is found.
const (
	tick         = 5 * time.Millisecond
	slowTick     = 50 * time.Millisecond   // while it stalls, when nothing is left to be found soon
	leastStall   = 60 * time.Millisecond   // the silence of a stall, at least
	unknownStall = 250 * time.Millisecond  // the same while the upstream's pauses are not known,
	knownAfter   = 8 * time.Second         // so long after its first successes
	stallFactor  = 1.5                     // times the usual latency, or the longest pause
	stallGaps    = 10                      // times the usual time between two successes
	maxGap       = time.Second             // a longer one is a pause
	longestPause = 500 * time.Millisecond  // a longer silence is an outage
	pausesKept   = 5 * time.Minute         // a pause is known for that time, up to twice as long
	pauseShows   = time.Second             // the first answers after a pause may all be late
	failsBefore  = 3                       // times the usual time between two successes, in which failures are chance
	leastMany    = 6                       // attempts in flight from which silence counts, at least
	manyFactor   = 1.5                     // times the attempts that are usually in flight
	suspectFor   = 5 * time.Second         // how long there are ticks after slow answers
	enoughTime   = 0.75                    // of what passes: with less of its own a process cannot judge by latency
	starvedUpTo  = time.Second             // a latency that a process may have caused by itself
	hangGaps     = 30                      // as stallGaps, from which on it is no queue of a slow upstream
	hangPlaces   = 2                       // the limit while the upstream hangs
	probeEvery   = 1500 * time.Millisecond // after the last place was taken one more is, at any limit
)

// stallWatch finds out whether the upstream stalls: many attempts are in flight, and none succeeds.
//
// It measures silence in this process's own time. It counts the ticks of a timer that is set anew
// after each, and lets all that is ready run first. So a process that stands still, or that has too
// little processor time, counts few ticks, and its answers can be read before it takes their
// lateness for a silence. There are ticks only while many attempts are in flight, while it stalls,
// and for some seconds after several slow answers in a row.
type stallWatch struct {
	over    atomic.Int64 // since when many are in flight, ns since epoch; 0 = they are not
	ticking atomic.Bool
	timer   *time.Timer  // of the next tick; protected by ticking
	stalled atomic.Int64 // after the last success before the stall, ns since epoch; 0 = it does not

	suspected atomic.Int64 // when a block of successes was slow at last, ns since epoch
	long      atomic.Bool  // it has stalled for nearly as long as an attempt may take
	failed    atomic.Int64 // the last attempt that ended unhealthy, ns since epoch
	lastStall atomic.Int64 // when the upstream stalled at last, ns since epoch
	since     atomic.Int64 // since when there are ticks, ns since epoch
	spent     atomic.Int64 // this process's own time, ns, while there are ticks
	spentThen int64        // the same after the last block; protected by sampling

	// Used by the tick only.
	seen  struct{ over, good, failed, gap int64 }
	step  time.Duration // until this tick
	own   time.Duration // of silence
	asked time.Duration // of silence, since an attempt began in it
	idle  time.Duration // of a stall with nothing in flight

	pausing sync.Mutex // protects what follows
	// The longest pauses that ended by themselves, in this period and the one before.
	pauses [2]time.Duration
	period int64 // when this period began, ns since epoch
	// A silence that may be such a pause, and when it ended, ns since epoch. Its length is 0 if
	// there is none.
	ended struct {
		silence time.Duration
		at      int64
	}
}

// watch begins to look for a stall, with many attempts in flight.
func (l *limiterState) watch(at int64) {
	if l.over.Load() == 0 && l.over.CompareAndSwap(0, max(1, at)) {
		l.startTicks()
	}
}

func (l *limiterState) startTicks() {
	if l.ticking.CompareAndSwap(false, true) {
		l.step = tick
		l.since.Store(int64(time.Since(l.epoch)))
		if l.timer == nil {
			l.timer = time.AfterFunc(math.MaxInt64, l.tick)
		}
		l.timer.Reset(tick)
	}
}

// tick looks for a success since the tick before.
func (l *limiterState) tick() {
	runtime.Gosched() // answers that are ready come first
	w := &l.stallWatch
	w.spent.Add(int64(w.step))
	over, good, failed := w.over.Load(), l.lastGood.Load(), w.failed.Load()
	at, timeout := int64(time.Since(l.epoch)), time.Duration(l.timeout.Load())
	stalls := l.stalls()
	switch {
	case good != w.seen.good:
		// It ended by itself, and nothing failed in it. A failure at its begin may be chance.
		if w.own <= longestPause && w.seen.failed-w.seen.good <= max(int64(tick), failsBefore*w.seen.gap) {
			w.endSilence(w.own, good)
		}
		w.own = 0
	case !stalls && over == 0:
		w.own = 0
	case !stalls && over != w.seen.over:
		w.own = tick
	default:
		w.own += w.step
	}
	w.asked += w.step
	if good != w.seen.good || l.began.Load() < good-int64(time.Millisecond) {
		w.asked = 0 // all that is in flight began before the last success: the callers may pause
	}
	w.seen.over, w.seen.good, w.seen.failed, w.seen.gap, w.step = over, good, failed, l.gap.Load(), tick
	switch {
	case stalls:
		if w.own > longestPause {
			w.step = slowTick
		}
		if w.own > max(timeout*3/4, time.Duration(hangGaps*l.gap.Load())) {
			w.long.Store(true)
		}
		if w.idle += w.step; l.inFlight.Load() > 0 {
			w.idle = 0
		}
		if w.idle > timeout {
			l.endStall()
		}
	case over != 0:
		if w.own >= l.silenceOfAStall(at) && w.asked >= max(leastStall, time.Duration(stallFactor*float64(l.typical.Load()))) {
			w.idle = 0
			w.long.Store(false)
			w.stalled.Store(good + 1)
			w.lastStall.Store(at)
			l.setFew()
		}
	case at-l.suspected.Load() > int64(suspectFor):
		w.ticking.Store(false)
		if w.over.Load() != 0 { // since it was read
			l.startTicks()
		}
		return
	}
	w.timer.Reset(w.step)
}

// ownShare returns the share of the time since the last block that was this process's own, or 0 if
// there were too few ticks to know. sampling is held.
func (l *limiter) ownShare(at int64) float64 {
	known := at - max(l.usual.at, l.since.Load())
	if known < int64(blockTime)/2 {
		return 0
	}
	return min(1, float64(l.spent.Load()-l.spentThen+int64(tick))/float64(known))
}

// suspect keeps the ticks on, so that the next blocks show whether the upstream is slow.
func (l *limiter) suspect(at int64) {
	if l.policy.Max == 0 {
		l.suspected.Store(at)
		l.startTicks()
	}
}

// endSilence records the end of a silence, which may have been a pause of the upstream.
func (w *stallWatch) endSilence(silence time.Duration, at int64) {
	if stallFactor*float64(silence) <= float64(leastStall) {
		return
	}
	w.pausing.Lock()
	defer w.pausing.Unlock()
	if silence > w.ended.silence {
		w.ended.silence, w.ended.at = silence, at
	}
}

// learnPause learns from a block of successes whether the last silence was a pause of the upstream.
// After a pause all is as before. If it is slow instead, its answers came late for that.
func (w *stallWatch) learnPause(at, from int64, slow bool) {
	w.pausing.Lock()
	defer w.pausing.Unlock()
	switch e := &w.ended; {
	case e.silence == 0 || from <= e.at: // a block of before shows nothing
	case !slow:
		w.forget(at)
		w.pauses[0] = max(w.pauses[0], e.silence)
		e.silence = 0
	case at-e.at > int64(pauseShows):
		e.silence = 0
	}
}

// longestKnown returns the longest pause that is known.
func (w *stallWatch) longestKnown(at int64) time.Duration {
	w.pausing.Lock()
	defer w.pausing.Unlock()
	w.forget(at)
	return max(w.pauses[0], w.pauses[1])
}

// forget drops the pauses that are too old. pausing is held.
func (w *stallWatch) forget(at int64) {
	switch age := at - w.period; {
	case age > 2*int64(pausesKept):
		w.pauses, w.period = [2]time.Duration{}, at
	case age > int64(pausesKept):
		w.pauses, w.period = [2]time.Duration{0, w.pauses[0]}, at
	}
}

// silenceOfAStall returns from which silence on the upstream stalls.
func (l *limiterState) silenceOfAStall(at int64) time.Duration {
	usual := l.typical.Load()
	if usual == 0 {
		return time.Duration(l.timeout.Load()) // nothing is known: all calls may be slow by nature
	}
	w := &l.stallWatch
	least := leastStall
	if at-l.known.Load() < int64(knownAfter) || w.seen.over-w.seen.good > int64(unknownStall) {
		least = unknownStall
	}
	return max(least, time.Duration(stallFactor*float64(usual)), time.Duration(stallGaps*l.gap.Load()),
		time.Duration(stallFactor*float64(w.longestKnown(at))))
}

// stalls reports whether the upstream stalls.
func (l *limiterState) stalls() bool { return l.lastGood.Load() < l.stalled.Load() }

// placesInAStall returns the limit while the upstream stalls. It is low once the first attempts
// time out or fail: then the upstream hangs, and an attempt only shows whether it still does.
func (l *limiterState) placesInAStall() int64 {
	if l.long.Load() && l.failed.Load() > l.lastStall.Load() {
		return hangPlaces
	}
	return l.limit.Load()
}

// probeIsDue reports whether a first attempt may pass although there is no place. All places may be
// held by attempts that are slow by nature, or that hang although the upstream is well again. Then
// no other attempt could show that the upstream answers.
func (l *limiter) probeIsDue(now time.Time) bool {
	return l.policy.Max == 0 && l.stalls() && int64(now.Sub(l.epoch))-l.began.Load() >= int64(probeEvery)
}

// probes takes a place beyond the limit if a probe is due.
func (l *limiter) probes(now time.Time) bool {
	began := l.began.Load()
	if !l.probeIsDue(now) || !l.began.CompareAndSwap(began, int64(now.Sub(l.epoch))) {
		return false
	}
	l.inFlight.Add(1)
	return true
}

// endStall ends a stall.
func (l *limiterState) endStall() {
	l.stalled.Store(0)
	l.setFew()
}
