package resilience

import (
	"testing"
	"testing/synctest"
	"time"
)

// A few slow answers among fast ones need no ticks, nor does a fixed limit.
func TestSlowAnswersAmongFastOnesNeedNoTicks(t *testing.T) {
	for name, c := range map[string]struct {
		max  int
		slow int // one answer in so many is slow
		want bool
	}{
		"a part is slow":              {0, 20, false},
		"all are slow":                {0, 1, true},
		"all are slow, a fixed limit": {20, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(ConcurrencyPolicy{Max: c.max}, time.Second)
				answer := func(latency time.Duration) {
					l.take(time.Now(), 1)
					time.Sleep(100 * time.Millisecond)
					l.leave(time.Now(), Healthy, latency)
				}
				for range 100 {
					answer(5 * time.Millisecond)
				}
				ticked := false
				for i := range 200 {
					latency := 5 * time.Millisecond
					if i%c.slow == 0 {
						latency = 200 * time.Millisecond
					}
					answer(latency)
					ticked = ticked || l.ticking.Load()
				}
				if ticked != c.want {
					t.Errorf("ticks: %v, want %v", ticked, c.want)
				}
				time.Sleep(2 * suspectFor) // a bubble ends with no timer
				if l.ticking.Load() {
					t.Error("the ticks go on")
				}
			})
		})
	}
}

// tickedByHand returns an adaptive limiter whose ticks the test makes.
func tickedByHand() *limiter {
	l := newLimiter(ConcurrencyPolicy{}, 10*time.Second)
	l.ticking.Store(true)
	l.timer = time.AfterFunc(time.Hour, func() {})
	return l
}

// Silence and latency count in this process's own time: what passes without ticks does not.
func TestOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := tickedByHand()
		defer func() { l.timer.Stop() }()
		l.step = tick
		answer := func() {
			l.take(time.Now(), 1)
			time.Sleep(5 * time.Millisecond)
			l.leave(time.Now(), Healthy, 5*time.Millisecond)
			l.tick()
		}
		for range 2000 { // the latency is known for ten seconds
			answer()
		}
		for range 10 {
			l.take(time.Now(), 1)
		}
		time.Sleep(time.Second) // the process stands still
		l.tick()
		if l.stalls() {
			t.Error("it stalls after one second and one tick, want no stall")
		}
		l.sampling.Lock()
		share := l.ownShare(int64(time.Since(l.epoch)))
		l.sampling.Unlock()
		if share > 0.2 {
			t.Errorf("own share of %.2f of a standstill, want little", share)
		}
		ticks := 1
		for ; !l.stalls() && ticks < 1000; ticks++ {
			time.Sleep(tick)
			l.tick()
		}
		if own := time.Duration(ticks) * tick; own < leastStall || own > unknownStall+2*tick {
			t.Errorf("it stalls after %v of the process's own time, want from %v to %v", own, leastStall, unknownStall)
		}
	})
}

// A call of before a change may begin a stall after it, under no limit. A success ends it.
func TestSuccessEndsAStallUnderNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newLimiter(ConcurrencyPolicy{}, time.Second)
		l := before.renew(ConcurrencyPolicy{Max: -1})
		l.takeOver(time.Second)
		for range 2 * leastMany {
			before.take(time.Now(), 1)
		}
		time.Sleep(1500 * time.Millisecond)
		if !l.stalls() {
			t.Error("it does not stall after 1.5 s without an answer")
		}
		l.leave(time.Now(), Healthy, time.Second)
		if l.stalls() {
			t.Error("it stalls after a success")
		}
		for range 2*leastMany - 1 {
			l.leave(time.Now(), Healthy, time.Second)
		}
		time.Sleep(5 * time.Second)
	})
}

// A pause of the upstream is learned, so that the next one is no stall. A silence in which attempts
// fail is none, nor one after which all is slow. But if a part of the attempts fails all the time,
// one of them may be the last result before a pause.
func TestSilencesThatAreLearned(t *testing.T) {
	for name, c := range map[string]struct {
		fails time.Duration // after so much silence; 0 = none fails
		after time.Duration // the latency after the silence
		least time.Duration
		most  time.Duration
	}{
		"a pause":                  {0, 5 * time.Millisecond, 290 * time.Millisecond, 310 * time.Millisecond},
		"a failure at its begin":   {5 * time.Millisecond, 5 * time.Millisecond, 290 * time.Millisecond, 310 * time.Millisecond},
		"a failure in it":          {100 * time.Millisecond, 5 * time.Millisecond, 0, 60 * time.Millisecond},
		"all is slow from then on": {0, 300 * time.Millisecond, 0, 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := tickedByHand()
				defer func() { l.timer.Stop() }()
				l.step = tick
				answer := func(latency time.Duration) {
					time.Sleep(tick)
					l.take(time.Now(), 1)
					l.leave(time.Now(), Healthy, latency)
					l.tick()
				}
				for range 2000 {
					answer(5 * time.Millisecond)
				}
				for range 10 {
					l.take(time.Now(), 1)
				}
				for silence := tick; silence < 300*time.Millisecond; silence += tick {
					time.Sleep(tick)
					if silence == c.fails {
						l.leave(time.Now(), Unhealthy, silence)
					}
					l.tick()
				}
				time.Sleep(tick)
				for range 9 {
					l.leave(time.Now(), Healthy, 300*time.Millisecond)
				}
				l.tick()
				for range 400 {
					answer(c.after)
				}
				if got := l.longestKnown(int64(time.Since(l.epoch))); got < c.least || got > c.most {
					t.Errorf("the longest pause known is %v, want from %v to %v", got, c.least, c.most)
				}
			})
		})
	}
}

// The machine has too little processor time: all answers come late, and as many as before. It does
// not show that the upstream is slow, so nothing is refused, nor for long if the limit was in force
// before. With enough processor time the same latency is a queue in the upstream.
func TestLatencyWithoutProcessorTime(t *testing.T) {
	for name, c := range map[string]struct {
		own    time.Duration // of a tick's time, this process's own
		slow   time.Duration // the latency
		before time.Duration // so long it has enough, with the same latency
		limit  bool          // at the end, and no retries
	}{
		"enough":                {tick, 400 * time.Millisecond, 0, true},
		"nearly enough":         {tick * 9 / 10, 400 * time.Millisecond, 0, true},
		"half of it":            {tick / 2, 400 * time.Millisecond, 0, false},
		"half of it, later":     {tick / 2, 400 * time.Millisecond, 2 * time.Second, false},
		"a fifth of it":         {tick / 5, 400 * time.Millisecond, 0, false},
		"a fifth of it, later":  {tick / 5, 400 * time.Millisecond, 2 * time.Second, false},
		"half, but much slower": {tick / 2, 4 * time.Second, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := tickedByHand()
				defer func() { l.timer.Stop() }()
				var spent time.Duration // since the last tick
				refused := 0            // of those in flight at the same time
				answer := func(callers int, latency, own time.Duration) {
					for range callers - int(l.inFlight.Load()) {
						if !l.take(time.Now(), 1) {
							refused++
							break
						}
					}
					time.Sleep(tick)
					l.leave(time.Now(), Healthy, latency)
					if spent += own; spent >= tick {
						spent -= tick
						l.step = tick
						l.tick()
					}
				}
				for range 2000 {
					answer(2, 10*time.Millisecond, tick)
				}
				for range c.before / tick {
					answer(80, c.slow, tick)
				}
				if limit := l.current(); (limit > 0) != (c.before > 0) {
					t.Errorf("a limit of %d after %v of slow answers", limit, c.before)
				}
				refused = 0
				for range 5 * time.Second / tick {
					answer(80, c.slow, c.own)
				}
				if limit := l.current(); (limit > 0) != c.limit {
					t.Errorf("a limit of %d at the end, want one: %v", limit, c.limit)
				}
				if late := int64(time.Since(l.epoch)) < l.late.until.Load(); late != c.limit {
					t.Errorf("late answers at the end: %v, want %v", late, c.limit)
				}
				if most := int(500 * time.Millisecond / tick); !c.limit && refused > most {
					t.Errorf("refused %d times, want at most %d", refused, most)
				}
			})
		})
	}
}
