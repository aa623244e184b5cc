package lab

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Experiment is one policy in one scenario under one load.
type Experiment struct {
	Policy   transport.Policy
	Scenario Scenario
	// Client, if not nil, returns the client instances, and Policy is not used: they follow the
	// rules of another system. A client must get all its randomness from its options.
	Client func(ClientOptions) (Client, error)
	Load   Load
	// Progress, if not nil, is called once for every second of the run with the time that has
	// passed. It must not block.
	Progress func(passed time.Duration)
	// Transition, if not nil, is called for every change of a client's circuit, if the clients
	// follow Policy. Clients count from 0. It must not block, and must be safe for concurrent use.
	Transition func(client int, t resilience.Transition)
}

// Load is the number of calls and the capacity for them.
type Load struct {
	// Rate is the number of calls per second, of all clients together. 0 to 1000000; with 0, only
	// the scenario's herd makes calls.
	Rate float64 `json:"rate"`
	// Clients is the number of client instances, each with its own circuit and budget. 1 to 100000.
	Clients int `json:"clients"`
	// Capacity is the number of calls per second that the upstream can serve. 0 to 1000000; 0 means
	// no limit.
	Capacity float64 `json:"capacity"`
	// Length is how long calls are made. 0 means the scenario's length.
	Length time.Duration `json:"-"`
	// Seed seeds all randomness: the same seed gives the same figures.
	Seed uint64 `json:"seed"`
}

// DefaultLoad returns a load of 20 clients at half the upstream's capacity.
func DefaultLoad() Load { return Load{Rate: 500, Clients: 20, Capacity: 1000, Seed: 1} }

// maxCallers limits the callers that wait for their responses: each has a goroutine.
const maxCallers = 100_000

func (l Load) validate(s Scenario) error {
	var found mistake.List
	check := found.Check
	const most = 1e6
	check(l.Rate >= 0 && l.Rate <= most, "rate", "must be from 0 to %v calls a second, got %v", int(most), l.Rate)
	check(l.Clients >= 1 && l.Clients <= 100_000, "clients", "must be from 1 to 100000, got %d", l.Clients)
	check(l.Capacity >= 0 && l.Capacity <= most, "capacity", "must be from 0 (no limit) to %v calls a second, got %v", int(most), l.Capacity)
	callers := l.Rate * s.Load.Think.Seconds()
	check(callers <= maxCallers, "rate", "must make at most %d callers, each with load.think of scenario %s (%v) between its calls, makes %.0f", maxCallers, s.Name, s.Load.Think, callers)
	check(l.Length >= 0 && l.Length <= maxLength, "length", "must be above 0 and at most %v, got %v", maxLength, l.Length)
	if length := l.length(s); length > 0 {
		check(s.Disturbance.End() <= length, "length", "must be at least %v, the end of the disturbance of scenario %s, got %v", s.Disturbance.End(), s.Name, length)
	}
	if length := l.length(s); length > 0 {
		if s.Load.Surge != nil {
			check(s.Load.Surge.End() <= length, "length", "must be at least %v, the end of the surge of scenario %s, got %v", s.Load.Surge.End(), s.Name, length)
		}
		if s.Load.Herd != nil {
			check(s.Load.Herd.At < length, "length", "must be above %v, the start of the herd of scenario %s, got %v", s.Load.Herd.At, s.Name, length)
		}
	}
	if l.Capacity == 0 {
		check(s.Load.Surge == nil, "capacity", "must be above 0, because the surge of scenario %s is relative to it, got 0", s.Name)
		for _, p := range s.Upstream.Phases {
			if p.Working != nil {
				check(false, "capacity", "must be above 0, because scenario %s stops workers, got 0", s.Name)
				break
			}
		}
	}
	return found.Err()
}

func (l Load) length(s Scenario) time.Duration {
	if l.Length > 0 {
		return l.Length
	}
	return s.Length
}

// Validate returns the mistakes in the scenario, the load and the policy.
func (e Experiment) Validate() error {
	err := errors.Join(e.Scenario.Validate(), e.Load.validate(e.Scenario))
	if e.Client == nil {
		err = errors.Join(err, e.Policy.Validate())
	}
	return err
}

// Numbers of the random streams. Each source has its own stream, so that none depends on how much
// another one has drawn.
const (
	streamArrivals = 0
	streamClients  = 1       // one per client, from here on
	streamChoices  = 1 << 31 // one per client, from here on
	streamCallers  = 1 << 32 // one per caller, from here on
	streamAttempts = 1 << 40 // one per attempt, from here on
)

// Run makes the calls and returns when the last one has ended. In a bubble of testing/synctest,
// such as internal/virtual provides, time is virtual. Outside a bubble time is real, and the same
// seed does not give the same figures.
//
// If e is not valid, Run returns the error of [Experiment.Validate]. Run checks ctx once per
// second, and returns its cause if it has ended.
func (e Experiment) Run(ctx context.Context) (*Result, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	e.Load.Length = e.Load.length(e.Scenario)
	recorder := newRecorder(e.Scenario.Disturbance, e.Load.Length, e.Scenario.Upstream.Instances)
	service, err := newService(e.Scenario, e.Load.Capacity, e.Load.Seed, recorder)
	if err != nil {
		return nil, err
	}
	clients := make([]Client, e.Load.Clients)
	for i := range clients {
		if clients[i], err = e.newClient(i, service, recorder); err != nil {
			return nil, err
		}
	}
	defer func() {
		for _, c := range clients {
			if c, ok := c.(*client); ok {
				c.close()
			}
		}
	}()
	stop := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() { service.run(stop) })
	defer keeper.Wait()
	defer close(stop)
	r := &run{
		scenario: e.Scenario, load: e.Load, progress: e.Progress, recorder: recorder,
		call:          func(i int) *resilience.Report { return clients[i].Call() },
		sampleClients: func() (open, ejected int, tokens float64) { return sampleClients(clients) },
	}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	result := r.result(service.stats())
	for _, c := range clients {
		state := c.State()
		result.Opened += state.Opened
		result.Ejections += state.Ejections
	}
	return result, nil
}

// run makes the calls of a load and records them.
type run struct {
	scenario      Scenario
	load          Load
	progress      func(time.Duration)
	recorder      *recorder
	call          func(client int) *resilience.Report
	sampleClients func() (open, ejected int, tokens float64)
	calls         backend.Pool
}

func (r *run) run(ctx context.Context) error {
	var sources sync.WaitGroup
	sources.Go(r.openLoop)
	if r.scenario.Load.Herd != nil {
		sources.Go(r.herd)
	}
	var err error
	sources.Go(func() { err = r.watch(ctx) })
	sources.Wait()
	r.calls.Wait()
	return err
}

// watch samples all clients once per second.
func (r *run) watch(ctx context.Context) error {
	for at := time.Second; at <= r.load.Length; at += time.Second {
		time.Sleep(time.Until(r.recorder.start.Add(at - 1)))
		r.recorder.sample(r.sampleClients())
		if r.progress != nil {
			r.progress(at)
		}
		// The channel of ctx was made outside the bubble, and waiting for it would stop the virtual
		// clock.
		if ctx.Err() != nil {
			r.recorder.stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

// openLoop makes calls at a rate, without waiting for their answers.
func (r *run) openLoop() {
	if r.scenario.Load.Think > 0 {
		r.closedLoop()
		return
	}
	rng := rand.New(rand.NewPCG(r.load.Seed, streamArrivals))
	var at time.Duration
	for !r.recorder.stopped() {
		rate, until := r.rate(at)
		gap := maxLength
		if rate > 0 {
			gap = time.Duration(min(rng.ExpFloat64()/rate*float64(time.Second), float64(maxLength)))
		}
		// A Poisson process has no memory, so it may start again where the rate changes.
		if at+gap >= until {
			if at = until; at >= r.load.Length {
				return
			}
			continue
		}
		at += gap + 1
		time.Sleep(time.Until(r.recorder.start.Add(at)))
		client := rng.IntN(r.load.Clients)
		r.calls.Go(func() { r.makeCall(client) })
	}
}

// rate returns the rate of calls at a time, and until when it applies.
func (r *run) rate(at time.Duration) (rate float64, until time.Duration) {
	s := r.scenario.Load.Surge
	switch {
	case s == nil || at >= s.End():
		return r.load.Rate, r.load.Length
	case at < s.At:
		return r.load.Rate, min(s.At, r.load.Length)
	}
	return s.OfCapacity * r.load.Capacity, min(s.End(), r.load.Length)
}

// closedLoop makes the calls of callers that wait for their answers.
func (r *run) closedLoop() {
	think := float64(r.scenario.Load.Think)
	for i := range int(max(1, r.load.Rate*r.scenario.Load.Think.Seconds())) {
		rng := rand.New(rand.NewPCG(r.load.Seed, streamCallers+uint64(i)))
		r.calls.Go(func() {
			for wait := rng.Float64() * think; ; wait = rng.ExpFloat64() * think {
				time.Sleep(time.Duration(wait))
				if time.Since(r.recorder.start) >= r.load.Length || r.recorder.stopped() {
					return
				}
				r.makeCall(i % r.load.Clients)
			}
		})
	}
}

// herd makes the calls that begin together. They are two nanoseconds apart, so that their order is
// always the same.
func (r *run) herd() {
	h := r.scenario.Load.Herd
	time.Sleep(time.Until(r.recorder.start.Add(h.At)))
	for i := range h.Calls {
		if r.recorder.stopped() {
			return
		}
		r.calls.Go(func() { r.makeCall(i % r.load.Clients) })
		time.Sleep(2 * time.Nanosecond)
	}
}

// makeCall makes one call from a client, and records it.
func (r *run) makeCall(client int) {
	start := time.Now()
	slot := r.recorder.begin(start)
	report := r.call(client)
	r.recorder.end(slot, time.Since(start), report)
}
