package callgraph

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
)

// keep starts what runs beside the calls of a service, until stop is closed.
func (s *service) keep(keepers *sync.WaitGroup, stop <-chan struct{}) {
	c := &crew{service: s, wanted: s.Instances, serves: make([]bool, len(s.instances)), unready: make([]bool, len(s.instances))}
	for i := range s.Instances {
		c.serves[i] = true
	}
	for i, in := range s.instances {
		// The offsets keep instances from changing in the same nanosecond.
		offset := time.Duration(2*(s.number<<10+i)) * time.Microsecond
		keepers.Go(func() { in.Run(s.sim.start.Add(offset+1), stop) })
		if s.Liveness != nil {
			keepers.Go(func() { c.probe(in, offset, stop) })
		}
		if s.Readiness != nil {
			keepers.Go(func() { c.judge(in, offset+time.Microsecond, stop) })
		}
	}
	if s.Autoscaler != nil {
		keepers.Go(func() { c.scale(stop) })
	}
}

// wait waits until a time of the run, and reports whether stop is still open.
func (s *sim) wait(until time.Duration, stop <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(s.start.Add(until)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}

// crew knows which instances of a service serve.
type crew struct {
	*service

	mu      sync.Mutex
	wanted  int    // the first instances; more may serve no calls
	serves  []bool // of the instances: has started, and is not restarting
	unready []bool // of the instances: fails its readiness probes
}

// update publishes the instances that get calls. The caller holds mu.
func (c *crew) update() {
	var ready []int
	for i, in := range c.instances {
		up := i < c.wanted && c.serves[i]
		in.up.Store(up)
		if up && !c.unready[i] {
			ready = append(ready, i)
		}
	}
	c.ready.Store(&ready)
}

// set begins or ends the service of an instance, which starts as a ready one.
func (c *crew) set(number int, serves bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serves[number], c.unready[number] = serves, false
	c.update()
}

func (c *crew) up(number int) bool { return c.instances[number].up.Load() }

// samples is how often the workers are looked at in a period.
const samples = 15

// tolerance is the change that the autoscaler of Kubernetes leaves alone.
const tolerance = 0.1

// scale is the autoscaler.
func (c *crew) scale(stop <-chan struct{}) {
	a := c.Autoscaler
	type advice struct {
		at     time.Duration
		wanted int
	}
	past := []advice{{0, c.wanted}} // within the stabilization
	starting := map[int]time.Duration{}
	for at := a.Period / samples; ; {
		var busy, workers, up int
		for range samples {
			if !c.sim.wait(at&^1, stop) {
				return
			}
			for n, when := range starting {
				if at >= when {
					delete(starting, n)
					c.set(n, true)
				}
			}
			// Also those that fail their readiness probes: an overload makes them fail, and
			// Kubernetes counts the processor time of a pod that was ready before.
			up = 0
			for _, in := range c.instances {
				if in.up.Load() {
					up++
					busy += in.Stats().Busy
					workers += in.Workers()
				}
			}
			at += a.Period / samples
		}
		if workers == 0 {
			continue
		}
		ratio := float64(busy) / float64(workers) / a.Target
		c.mu.Lock()
		want := c.wanted
		if math.Abs(ratio-1) > tolerance {
			want = min(max(int(math.Ceil(float64(up)*ratio-1e-9)), a.Min), a.Max)
		}
		past = slices.DeleteFunc(append(past, advice{at, want}), func(p advice) bool { return at-p.at > a.Stabilization })
		for _, p := range past {
			want = max(want, min(p.wanted, c.wanted)) // fewer only if fewer were enough all the time
		}
		for i := c.wanted; i < want; i++ {
			c.serves[i] = false
			starting[i] = at + a.Delay
		}
		for i := want; i < c.wanted; i++ {
			delete(starting, i)
		}
		c.wanted = want
		c.update()
		c.mu.Unlock()
	}
}

// errRestarted ends a call in an instance that is restarted.
type errRestarted struct{ rank int }

func (e errRestarted) Error() string { return "the instance was restarted" }

// lost returns the error of a request whose instance was restarted, or nil.
func lost(ctx context.Context) error {
	if e, ok := errors.AsType[errRestarted](context.Cause(ctx)); ok {
		return e
	}
	return nil
}

// landing returns the error that the caller of a request sees. Requests that a restart loses end at
// different times.
func landing(err error) error {
	if e, ok := errors.AsType[errRestarted](err); ok {
		time.Sleep(time.Duration(2*e.rank) * time.Nanosecond)
		return backend.Reset()
	}
	return err
}

// fly lets a request end when the instance is restarted.
func (in *instance) fly(ctx context.Context, id uint64) (_ context.Context, landed func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.flights == nil {
		in.flights = map[uint64]context.CancelCauseFunc{}
	}
	in.flights[id] = cancel
	return ctx, func() {
		in.mu.Lock()
		delete(in.flights, id)
		in.mu.Unlock()
		cancel(nil)
	}
}

// probe restarts an instance that fails its probes.
func (c *crew) probe(in *instance, offset time.Duration, stop <-chan struct{}) {
	l := c.Liveness
	failures := 0
	for at := l.Period + offset; ; at += l.Period {
		if !c.sim.wait(at&^1, stop) {
			return
		}
		if !c.up(in.number) || c.answers(in, l.Timeout) {
			failures = 0
			continue
		}
		if failures++; failures < l.Failures {
			continue
		}
		failures = 0
		c.set(in.number, false)
		in.restart()
		c.figures.restarted()
		at = time.Since(c.sim.start) + l.Restart
		if !c.sim.wait(at&^1, stop) {
			return
		}
		c.set(in.number, true)
	}
}

// answers reports whether an instance passes a probe.
func (c *crew) answers(in *instance, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(c.sim.ctx, timeout)
	defer cancel()
	return in.Probe(ctx) == nil
}

// judge takes an instance that fails its readiness probes out of those that get calls, and lets it
// come back.
func (c *crew) judge(in *instance, offset time.Duration, stop <-chan struct{}) {
	r := c.Readiness
	failures, successes := 0, 0
	for at := r.Period + offset; ; at += r.Period {
		if !c.sim.wait(at&^1, stop) {
			return
		}
		switch {
		case !c.up(in.number):
			failures, successes = 0, 0
			continue
		case c.answers(in, r.Timeout):
			failures, successes = 0, successes+1
		default:
			failures, successes = failures+1, 0
		}
		c.mu.Lock()
		switch {
		case failures >= r.Failures:
			c.unready[in.number] = true
		case successes >= r.Successes:
			c.unready[in.number] = false
		}
		c.update()
		c.mu.Unlock()
	}
}

// restart loses everything in the instance.
func (in *instance) restart() {
	in.Restart()
	in.mu.Lock()
	defer in.mu.Unlock()
	for rank, id := range slices.Sorted(maps.Keys(in.flights)) {
		in.flights[id](errRestarted{rank})
	}
}
