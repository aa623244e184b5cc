package backend

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

// Grid is the unit of service times. A worker that starts its next job when it ends one stays at
// the same place in every grid.
const Grid = 1 << 20 // ns, 1.05 ms

// Longest limits the times of a model.
const Longest = 24 * time.Hour

// Span is an interval of a run.
type Span struct{ At, For time.Duration }

// Covers reports whether the span has begun, and has not ended. It subtracts instead of adding,
// because At+For may overflow.
func (s Span) Covers(elapsed time.Duration) bool { return elapsed >= s.At && elapsed-s.At < s.For }

// Phase changes an instance for a time. It has the fields of a phase of package lab.
type Phase struct {
	faults.Window
	Instance     int // from 1; 0 means all
	Refuse, Gone bool
	Slower       *float64
	Working      *float64
	WorkingAtEnd *float64
}

// Config describes the instances of a service.
type Config struct {
	Faults faults.Spec // without capacity and schedule
	Phases []Phase
	Queue  time.Duration // size of the queue, as the time that the workers need for it
	// Capacity is in calls per second of one instance. 0 means no limit.
	Capacity float64
	// Apart makes every job end in an odd nanosecond, if jobs arrive in even ones. So the end of a
	// job and an arrival that finds the queue full never compete.
	Apart bool
}

// Instance is one of the equal instances of a service. It is safe for concurrent use.
type Instance struct {
	injector *faults.Injector
	queue    atomic.Pointer[faults.Queue]
	capacity func() faults.Capacity
	refuses  []Span // when it refuses connections
	gone     []Span // when it is not in DNS, in order
	slower   []slowness
	workers  int // all of them; 0 = no limit
	working  atomic.Int64
	scale    float64 // factor for service times, which makes the capacity a whole number of workers
	shares   []share
	apart    bool

	cured atomic.Bool // it was restarted: phases that stop workers have no effect any more
	mu    sync.Mutex
	past  faults.Stats // of the queues before the last restart
}

// share is a phase in which only a part of the workers works.
type share struct {
	Span
	from, to float64
}

// slowness is a phase in which service times are multiplied.
type slowness struct {
	Span
	factor float64
}

// New returns an instance. Instances are numbered from 1.
func New(c Config, number int, seed uint64) (*Instance, error) {
	in := &Instance{scale: 1, apart: c.Apart}
	spec := c.Faults
	spec.Schedule = nil
	for _, p := range c.Phases {
		if p.Instance != 0 && p.Instance != number {
			continue
		}
		spec.Schedule = append(spec.Schedule, p.Window)
		span := Span{p.At, p.For}
		if p.Refuse {
			in.refuses = append(in.refuses, span)
		}
		if p.Gone {
			in.gone = append(in.gone, span)
		}
		if p.Slower != nil {
			in.slower = append(in.slower, slowness{span, *p.Slower})
		}
		if p.Working != nil {
			sh := share{span, *p.Working, *p.Working}
			if p.WorkingAtEnd != nil {
				sh.to = *p.WorkingAtEnd
			}
			in.shares = append(in.shares, sh)
		}
	}
	if c.Capacity > 0 {
		exact := c.Capacity * Mean(c.Faults.Latency).Seconds()
		in.workers = max(1, int(math.Round(exact)))
		in.scale = float64(in.workers) / exact
		spec.Capacity = faults.Capacity{Workers: in.workers, Queue: int(c.Capacity * c.Queue.Seconds())}
		in.working.Store(int64(in.workers))
	}
	var err error
	if in.injector, err = faults.New(spec, seed); err != nil {
		return nil, err
	}
	room := spec.Capacity.Queue
	in.capacity = func() faults.Capacity {
		c := faults.Capacity{Workers: in.workers, Queue: room}
		if in.workers > 0 {
			if c.Workers = int(in.working.Load()); c.Workers == 0 {
				c.Workers = -1 // no worker works; 0 would mean no limit
			}
		}
		return c
	}
	in.queue.Store(faults.NewQueue(in.capacity))
	return in, nil
}

// Workers returns the number of all workers, or 0 without a limit.
func (in *Instance) Workers() int { return in.workers }

// Next decides the fate of the next arrival.
func (in *Instance) Next(requestID string) faults.Fate { return in.injector.Next(requestID) }

// Fate decides the fate of the arrival with a number, in any order of arrivals.
func (in *Instance) Fate(arrival uint64) faults.Fate { return in.injector.Fate(arrival) }

// Refuses reports whether the instance refuses connections.
func (in *Instance) Refuses(elapsed time.Duration) bool {
	return slices.ContainsFunc(in.refuses, func(s Span) bool { return s.Covers(elapsed) }) || in.Gone(elapsed)
}

// Gone reports whether the instance is not in DNS.
func (in *Instance) Gone(elapsed time.Duration) bool {
	return slices.ContainsFunc(in.gone, func(s Span) bool { return s.Covers(elapsed) })
}

// TimesGone returns how often the instance was gone, or is.
func (in *Instance) TimesGone(elapsed time.Duration) (times int) {
	for _, s := range in.gone {
		if elapsed >= s.At {
			times++
		}
	}
	return times
}

// Work lets the instance do the work of an arrival. expected is the value of the arrival's header
// with the time that is left. Work returns the fate with what the queue made of it, or the cause of
// ctx if the caller has left.
func (in *Instance) Work(ctx context.Context, fate faults.Fate, expected string, elapsed time.Duration, rng *rand.Rand) (faults.Fate, error) {
	in.slow(&fate, elapsed)
	queue := in.queue.Load()
	takes := in.roundToGrid(fate.Service, rng)
	if in.apart && takes > 0 && int64(queue.Stats().Busy) < in.working.Load() {
		takes--
	}
	err := queue.Do(ctx, faults.Job{Service: takes, Deadline: fate.Deadline(expected)})
	switch {
	case errors.Is(err, faults.ErrRefused):
		fate.Fault, fate.Status, fate.Latency = faults.FaultOverload, http.StatusServiceUnavailable, 0
	case errors.Is(err, faults.ErrDropped):
		fate.Fault, fate.Status, fate.Latency = faults.FaultDropped, http.StatusGatewayTimeout, 0
	case err != nil:
		return fate, err // the caller has left
	}
	if !faults.Pause(ctx, fate.Latency) {
		return fate, context.Cause(ctx)
	}
	return fate, nil
}

// Probe waits in the queue for a worker, and returns an error if none comes before ctx ends or if
// the queue is full.
func (in *Instance) Probe(ctx context.Context) error {
	return in.queue.Load().Do(ctx, faults.Job{})
}

// slow makes a call take longer. The last phase that covers the time wins.
func (in *Instance) slow(fate *faults.Fate, elapsed time.Duration) {
	for _, s := range slices.Backward(in.slower) {
		if s.Covers(elapsed) {
			longer := func(d time.Duration) time.Duration {
				return time.Duration(min(float64(d)*s.factor, float64(Longest)))
			}
			fate.Service, fate.Latency = longer(fate.Service), longer(fate.Latency)
			return
		}
	}
}

// roundToGrid rounds a service time to whole grids, up or down at random so that the mean stays the
// same.
func (in *Instance) roundToGrid(d time.Duration, rng *rand.Rand) time.Duration {
	grids := min(float64(d)*in.scale/Grid, float64(Longest)/Grid)
	n, rest := math.Modf(grids)
	if rng.Float64() < rest {
		n++
	}
	return time.Duration(n) * Grid
}

// Restart replaces the queue by an empty one. Phases that stop workers have no effect any more. The
// calls in the old queue stay there; the caller ends them.
func (in *Instance) Restart() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cured.Store(true)
	in.working.Store(int64(in.workers))
	in.past = sum(in.past, in.queue.Swap(faults.NewQueue(in.capacity)).Stats())
}

// Stats returns what the instance has done. Work that ends after a restart does not count.
func (in *Instance) Stats() faults.Stats {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := in.queue.Load().Stats()
	all := sum(in.past, now)
	all.Busy, all.Queued = now.Busy, now.Queued
	return all
}

func sum(a, b faults.Stats) faults.Stats {
	return faults.Stats{
		Served: a.Served + b.Served, Wasted: a.Wasted + b.Wasted,
		Dropped: a.Dropped + b.Dropped, Refused: a.Refused + b.Refused,
	}
}

// rampStep is how often a share that changes gradually is updated.
const rampStep = 100 * time.Millisecond

// Run keeps the number of working workers up to date until stop is closed. start is the begin of
// the run.
func (in *Instance) Run(start time.Time, stop <-chan struct{}) {
	for len(in.shares) > 0 && !in.cured.Load() {
		elapsed := time.Since(start)
		in.set(in.target(elapsed))
		next := in.nextChange(elapsed)
		if next < 0 {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return
		}
	}
}

// set changes the number of working workers. Returning workers start two nanoseconds apart.
func (in *Instance) set(target int64) {
	for in.working.Load() < target {
		in.working.Add(1)
		in.queue.Load().Wake()
		time.Sleep(2 * time.Nanosecond)
	}
	in.working.Store(target)
}

// target returns how many workers work at a time. The last phase that covers it wins.
func (in *Instance) target(elapsed time.Duration) int64 {
	working := 1.0
	for _, s := range in.shares {
		if s.Covers(elapsed) {
			working = s.from + (s.to-s.from)*float64(elapsed-s.At)/float64(s.For)
		}
	}
	return int64(math.Round(working * float64(in.workers)))
}

// nextChange returns the time until the target may change, or -1 if it will not change any more.
func (in *Instance) nextChange(elapsed time.Duration) time.Duration {
	next := time.Duration(-1)
	sooner := func(d time.Duration) {
		if d > 0 && (next < 0 || d < next) {
			next = d
		}
	}
	for _, s := range in.shares {
		sooner(s.At - elapsed)
		sooner(s.For - (elapsed - s.At)) // before it begins this may overflow, but then At is next
		if s.from != s.to && s.Covers(elapsed) {
			sooner(rampStep)
		}
	}
	return next
}
