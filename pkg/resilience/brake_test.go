package resilience_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// brownOut is an upstream with workers, which has few of them left from begins to ends.
type brownOut struct {
	seed         uint64
	workers      int
	begins, ends time.Duration
	left         int
	rate         func(at time.Duration) float64 // calls a second
	work         func(at time.Duration, rng *rand.Rand) time.Duration
}

// answer is one call through it.
type answer struct {
	begun, ended time.Duration // since the start
	refused      bool
}

// run makes calls to the upstream until a time, and returns them, and the last moment at which a
// limit was in force.
func (u brownOut) run(t *testing.T, until time.Duration) (answers []answer, last time.Duration) {
	t.Helper()
	p := limited(resilience.ConcurrencyPolicy{})
	p.Timeout, p.AttemptTimeout = time.Minute, time.Minute
	pl := pipeline(t, p, resilience.Options{})
	rng := rand.New(rand.NewPCG(u.seed, 0))
	free := make(chan struct{}, u.workers)
	start := time.Now()
	var mu sync.Mutex
	var calls sync.WaitGroup
	calls.Go(func() {
		time.Sleep(u.begins)
		for range u.workers - u.left {
			free <- struct{}{}
		}
		time.Sleep(u.ends - time.Since(start))
		for range u.workers - u.left {
			<-free
		}
	})
	for at := time.Duration(0); at < until; at = time.Since(start) {
		work := u.work(at, rng)
		calls.Go(func() {
			_, report, _ := pl.Do(t.Context(), &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
				free <- struct{}{}
				defer func() { <-free }()
				time.Sleep(work)
				return "ok", nil
			}})
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer{at, time.Since(start), report.Reason == resilience.ReasonConcurrencyLimit})
		})
		time.Sleep(time.Duration(float64(time.Second) / u.rate(at)))
		if pl.Concurrency().Limit > 0 {
			last = time.Since(start)
		}
	}
	calls.Wait()
	return answers, last
}

// The limit keeps the queue of an upstream short, whatever it has seen before: few long calls among
// many short ones, or answers in no time. With few long calls chance decides much: without a bound
// for what it allows for them it would take 1.7 s, with it 1.0 s.
func TestBrakeKeepsTheQueueShort(t *testing.T) {
	for name, c := range map[string]struct {
		workers, left int
		rate          float64
		work          func(at time.Duration, rng *rand.Rand) time.Duration
		most          time.Duration // mean latency
	}{
		"one call of ten is long": {40, 10, 600, func(_ time.Duration, rng *rand.Rand) time.Duration {
			if rng.IntN(10) == 0 {
				return 400 * time.Millisecond
			}
			return 5 * time.Millisecond
		}, 1100 * time.Millisecond},
		"answers in no time at first": {8, 2, 300, func(at time.Duration, _ *rand.Rand) time.Duration {
			if at < 500*time.Millisecond {
				return 0
			}
			return 20 * time.Millisecond
		}, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			var sum time.Duration
			var n, refused int
			for seed := range uint64(8) {
				synctest.Test(t, func(t *testing.T) {
					u := brownOut{seed, c.workers, 20 * time.Second, time.Minute, c.left, func(time.Duration) float64 { return c.rate }, c.work}
					answers, _ := u.run(t, 50*time.Second)
					for _, a := range answers {
						switch {
						case a.begun < 30*time.Second:
						case a.refused:
							refused++
						default:
							sum += a.ended - a.begun
							n++
						}
					}
				})
			}
			mean := sum / time.Duration(max(1, n))
			t.Logf("%d calls served in %v on average, %d refused", n, mean, refused)
			if n == 0 || mean > c.most {
				t.Errorf("%d calls were served in %v on average, want some in %v at most", n, mean, c.most)
			}
		})
	}
}

// A limit that was too high while one worker was left is tried again, or the recovered upstream
// would be held at the least one.
func TestLeastLimitEndsAfterTheRecovery(t *testing.T) {
	const ends, until = time.Minute, 100 * time.Second
	synctest.Test(t, func(t *testing.T) {
		u := brownOut{1, 6, 20 * time.Second, ends, 1, func(time.Duration) float64 { return 250 },
			func(time.Duration, *rand.Rand) time.Duration { return 20 * time.Millisecond }}
		if _, last := u.run(t, until); last < ends || last > ends+10*time.Second {
			t.Errorf("the limit was in force until %v, want from %v to %v", last, ends, ends+10*time.Second)
		}
	})
}

// A limit that refuses nothing any more ends at once if as many calls succeed as before, and a
// second later if fewer do: the callers may only pause.
func TestLimitThatRefusesNothing(t *testing.T) {
	const begins, changes = 10 * time.Second, 20 * time.Second
	for name, c := range map[string]struct {
		ends        time.Duration // the trouble
		later       float64       // calls a second from changes on
		least, most time.Duration // from the last refusal until the limit ends
	}{
		"the upstream is well again": {changes, 300, 0, 400 * time.Millisecond},
		"fewer calls are made":       {time.Minute, 40, 900 * time.Millisecond, 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := brownOut{1, 8, begins, c.ends, 2, func(at time.Duration) float64 {
					if at < changes {
						return 300
					}
					return c.later
				}, func(time.Duration, *rand.Rand) time.Duration { return 20 * time.Millisecond }}
				answers, limited := u.run(t, 40*time.Second)
				var last time.Duration
				for _, a := range answers {
					if a.refused {
						last = max(last, a.begun)
					}
				}
				if got := limited - last; last < changes-time.Second || got < c.least || got > c.most {
					t.Errorf("the last refusal came after %v, and the limit ended %v later, want from %v to %v", last, got, c.least, c.most)
				}
			})
		})
	}
}
