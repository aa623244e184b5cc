package lab

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Events in the same nanosecond of a virtual clock happen in any order. If their order matters, the
// same seed gives different figures. So events are kept apart: time is divided into grids, and each
// attempt has its own lane in every grid. An attempt arrives in its lane, and service times are
// whole grids. A worker starts its next job when it ends one, so it stays in the lane of its first
// attempt. Lanes are even; workers that return after a phase start at odd ones. Lanes repeat after
// half a million attempts. By then a collision is as unlikely as with random times.
const (
	grid  = 1 << 20 // ns, 1.05 ms
	lanes = grid / 2
)

// service is the modelled upstream. It is safe for concurrent use.
type service struct {
	start     time.Time
	seed      uint64
	instances []*instance
	attempts  atomic.Uint64
	recorder  *recorder
}

// instance is one of the equal instances of a service.
type instance struct {
	injector *faults.Injector
	queue    *faults.Queue
	number   int    // from 0
	refuses  []Span // when it refuses connections
	gone     []Span // when it is not in DNS, in order
	slower   []slowness
	workers  int // all of them; 0 = no limit
	working  atomic.Int64
	scale    float64 // factor for service times, which makes the capacity a whole number of workers
	shares   []share
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

func newService(s Scenario, capacity float64, seed uint64, r *recorder) (*service, error) {
	u := &service{start: r.start, seed: seed, recorder: r}
	n := s.Upstream.Instances
	for i := range n {
		in, err := newInstance(s.Upstream, i+1, capacity/float64(s.Upstream.atStart()), seed^uint64(i)<<40)
		if err != nil {
			return nil, err
		}
		u.instances = append(u.instances, in)
	}
	return u, nil
}

// newInstance returns an instance. Instances are numbered from 1. A capacity of 0 means no limit.
func newInstance(u Upstream, number int, capacity float64, seed uint64) (*instance, error) {
	in := &instance{scale: 1, number: number - 1}
	spec := u.Faults
	spec.Schedule = nil
	for _, p := range u.Phases {
		if p.Instance != 0 && p.Instance != number {
			continue
		}
		spec.Schedule = append(spec.Schedule, p.Window)
		if p.Refuse {
			in.refuses = append(in.refuses, Span{p.At, p.For})
		}
		if p.Gone {
			in.gone = append(in.gone, Span{p.At, p.For})
		}
		if p.Slower != nil {
			in.slower = append(in.slower, slowness{Span{p.At, p.For}, *p.Slower})
		}
		if p.Working != nil {
			sh := share{Span{p.At, p.For}, *p.Working, *p.Working}
			if p.WorkingAtEnd != nil {
				sh.to = *p.WorkingAtEnd
			}
			in.shares = append(in.shares, sh)
		}
	}
	if capacity > 0 {
		mean := meanOf(u.Faults.Latency)
		exact := capacity * mean.Seconds()
		in.workers = max(1, int(math.Round(exact)))
		in.scale = float64(in.workers) / exact
		spec.Capacity = faults.Capacity{Workers: in.workers, Queue: int(capacity * u.Queue.Seconds())}
		in.working.Store(int64(in.workers))
	}
	var err error
	if in.injector, err = faults.New(spec, seed); err != nil {
		return nil, err
	}
	room := spec.Capacity.Queue
	in.queue = faults.NewQueue(func() faults.Capacity {
		c := faults.Capacity{Workers: in.workers, Queue: room}
		if in.workers > 0 {
			if c.Workers = int(in.working.Load()); c.Workers == 0 {
				c.Workers = -1 // no worker works; 0 would mean no limit
			}
		}
		return c
	})
	return in, nil
}

// link connects one client with the service.
type link struct {
	*service
	client *client
}

// RoundTrip makes one attempt at a random instance.
func (l link) RoundTrip(req *http.Request) (*http.Response, error) {
	return l.attempt(req, func(rng *rand.Rand) *instance { return l.instances[rng.IntN(len(l.instances))] }, "")
}

// attempt makes one attempt at the instance that choose returns. address is the instance's address
// as the client knows it, or empty.
func (l link) attempt(req *http.Request, choose func(*rand.Rand) *instance, address string) (*http.Response, error) {
	defer l.client.beginAttempt()()
	number := l.attempts.Add(1)
	began := time.Now()
	l.travel(number)
	rng := rand.New(rand.NewPCG(l.seed, streamAttempts+number))
	in := choose(rng)
	l.recorder.attempt(began, in.number)
	elapsed := time.Since(l.start)
	if in.down(elapsed) || address != "" && address != in.address(elapsed) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	resp, err := in.serve(req, elapsed, rng)
	if req.Context().Err() != nil {
		// The lease of a probe ends in the same nanosecond as its attempt. The lease must end
		// first.
		time.Sleep(time.Nanosecond)
	}
	return resp, err
}

// travel delays the attempt until its lane. It models the network: at most one grid, half a grid on
// average.
func (u *service) travel(number uint64) {
	lane := time.Duration(number%lanes) * 2
	wait := (lane - time.Since(u.start)) % grid
	if wait < 0 {
		wait += grid
	}
	time.Sleep(wait)
}

func (in *instance) down(elapsed time.Duration) bool {
	for _, s := range in.refuses {
		if elapsed >= s.At && elapsed < s.End() {
			return true
		}
	}
	return in.isGone(elapsed)
}

func (in *instance) serve(req *http.Request, elapsed time.Duration, rng *rand.Rand) (*http.Response, error) {
	ctx := req.Context()
	fate := in.injector.Next(req.Header.Get("X-Request-Id"))
	in.slow(&fate, elapsed)
	err := in.queue.Do(ctx, faults.Job{
		Service:  in.roundToGrid(fate.Service, rng),
		Deadline: fate.Deadline(req.Header.Get(transport.HeaderExpectedTimeout)),
	})
	switch {
	case errors.Is(err, faults.ErrRefused):
		fate.Fault, fate.Status, fate.Latency = faults.FaultOverload, http.StatusServiceUnavailable, 0
	case errors.Is(err, faults.ErrDropped):
		fate.Fault, fate.Status, fate.Latency = faults.FaultDropped, http.StatusGatewayTimeout, 0
	case err != nil:
		return nil, err // the caller has left
	}
	if !faults.Pause(ctx, fate.Latency) {
		return nil, context.Cause(ctx)
	}
	return answer(req, fate)
}

// slow makes a call take longer. The last phase that covers the time wins.
func (in *instance) slow(fate *faults.Fate, elapsed time.Duration) {
	for _, s := range slices.Backward(in.slower) {
		if elapsed >= s.At && elapsed < s.End() {
			longer := func(d time.Duration) time.Duration {
				return time.Duration(min(float64(d)*s.factor, float64(maxLength)))
			}
			fate.Service, fate.Latency = longer(fate.Service), longer(fate.Latency)
			return
		}
	}
}

// roundToGrid rounds a service time to whole grids, up or down at random so that the mean stays the
// same.
func (in *instance) roundToGrid(d time.Duration, rng *rand.Rand) time.Duration {
	grids := min(float64(d)*in.scale/grid, float64(maxLength)/grid)
	n, rest := math.Modf(grids)
	if rng.Float64() < rest {
		n++
	}
	return time.Duration(n) * grid
}

// answer returns the response that flaky-server would send, without a body.
func answer(req *http.Request, fate faults.Fate) (*http.Response, error) {
	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}
	//exhaustive:enforce
	switch fate.Fault {
	case faults.FaultError, faults.FaultOverload, faults.FaultDropped:
		resp.StatusCode = fate.Status
		if after := retryAfter(fate.RetryAfter); after != "" {
			resp.Header = http.Header{"Retry-After": {after}}
		}
	case faults.FaultReset:
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	case faults.FaultHang:
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	case faults.FaultTruncate:
		resp.Body = &body{ctx: req.Context(), end: io.ErrUnexpectedEOF}
	case faults.FaultSlowBody:
		resp.Body = &body{ctx: req.Context(), takes: time.Second, end: io.EOF}
	case faults.FaultNone:
	}
	return resp, nil
}

// retryAfter returns the header value for text, as [faults.Spec.RetryAfter] describes.
func retryAfter(text string) string {
	if text == "date" {
		return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat)
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return strconv.FormatFloat(math.Ceil(d.Seconds()), 'f', 0, 64)
	}
	return text
}

// body waits for a time, and then ends or fails.
type body struct {
	ctx   context.Context
	takes time.Duration
	end   error
}

func (b *body) Read([]byte) (int, error) {
	if !faults.Pause(b.ctx, b.takes) {
		return 0, context.Cause(b.ctx)
	}
	b.takes = 0
	return 0, b.end
}

func (b *body) Close() error { return nil }

// run keeps the number of working workers up to date until stop is closed.
func (u *service) run(stop <-chan struct{}) {
	var all sync.WaitGroup
	for i, in := range u.instances {
		if len(in.shares) > 0 {
			// The offsets keep instances from changing in the same nanosecond.
			all.Go(func() { in.run(u.start.Add(time.Duration(2*i)*time.Microsecond+1), stop) })
		}
	}
	all.Wait()
}

// rampStep is how often a share that changes gradually is updated.
const rampStep = 100 * time.Millisecond

func (in *instance) run(start time.Time, stop <-chan struct{}) {
	for {
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
func (in *instance) set(target int64) {
	for in.working.Load() < target {
		in.working.Add(1)
		in.queue.Wake()
		time.Sleep(2 * time.Nanosecond)
	}
	in.working.Store(target)
}

// target returns how many workers work at a time. The last phase that covers it wins.
func (in *instance) target(elapsed time.Duration) int64 {
	working := 1.0
	for _, s := range in.shares {
		if elapsed >= s.At && elapsed < s.End() {
			working = s.from + (s.to-s.from)*float64(elapsed-s.At)/float64(s.For)
		}
	}
	return int64(math.Round(working * float64(in.workers)))
}

// nextChange returns the time until the target may change, or -1 if it will not change any more.
func (in *instance) nextChange(elapsed time.Duration) time.Duration {
	next := time.Duration(-1)
	sooner := func(d time.Duration) {
		if d > 0 && (next < 0 || d < next) {
			next = d
		}
	}
	for _, s := range in.shares {
		sooner(s.At - elapsed)
		sooner(s.End() - elapsed)
		if s.from != s.to && elapsed >= s.At && elapsed < s.End() {
			sooner(rampStep)
		}
	}
	return next
}

func (u *service) stats() (sum faults.Stats) {
	for _, in := range u.instances {
		s := in.queue.Stats()
		sum.Served += s.Served
		sum.Wasted += s.Wasted
		sum.Dropped += s.Dropped
		sum.Refused += s.Refused
	}
	return sum
}
