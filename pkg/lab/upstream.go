package lab

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
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
	grid  = backend.Grid
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
	*backend.Instance
	number int // from 0
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
	c := backend.Config{Faults: u.Faults, Queue: u.Queue, Capacity: capacity}
	for _, p := range u.Phases {
		c.Phases = append(c.Phases, backend.Phase(p))
	}
	in, err := backend.New(c, number, seed)
	return &instance{in, number - 1}, err
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
	defer l.client.endAttempt(l.client.beginAttempt())
	number := l.attempts.Add(1)
	began := time.Now()
	l.travel(number)
	rng := rand.New(rand.NewPCG(l.seed, streamAttempts+number))
	in := choose(rng)
	l.recorder.attempt(began, in.number)
	elapsed := time.Since(l.start)
	if in.Refuses(elapsed) || address != "" && address != in.address(elapsed) {
		return nil, backend.Refused()
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

func (in *instance) serve(req *http.Request, elapsed time.Duration, rng *rand.Rand) (*http.Response, error) {
	fate := in.Next(req.Header.Get("X-Request-Id"))
	fate, err := in.Work(req.Context(), fate, req.Header.Get(transport.HeaderExpectedTimeout), elapsed, rng)
	if err != nil {
		return nil, err
	}
	return backend.Answer(req, fate)
}

// run keeps the number of working workers up to date until stop is closed.
func (u *service) run(stop <-chan struct{}) {
	var all sync.WaitGroup
	for i, in := range u.instances {
		// The offsets keep instances from changing in the same nanosecond.
		all.Go(func() { in.Run(u.start.Add(time.Duration(2*i)*time.Microsecond+1), stop) })
	}
	all.Wait()
}

func (u *service) stats() (sum faults.Stats) {
	for _, in := range u.instances {
		s := in.Stats()
		sum.Served += s.Served
		sum.Wasted += s.Wasted
		sum.Dropped += s.Dropped
		sum.Refused += s.Refused
	}
	return sum
}
