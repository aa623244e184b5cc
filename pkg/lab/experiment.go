package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Experiment is one policy in one scenario under one load.
type Experiment struct {
	Policy   transport.Policy
	Scenario Scenario
	Load     Load
	// Progress, unless nil, is told once for every second of the run how much of it
	// has passed. It must not block.
	Progress func(passed time.Duration)
	// Transition, unless nil, is told of every change of a client's circuit, clients
	// counted from 0. It must not block, and be safe for concurrent use.
	Transition func(client int, t resilience.Transition)
}

// Load is how much is asked of how much.
type Load struct {
	// Rate is the number of calls a second of all clients together. 0 to 1000000;
	// 0 leaves the herd of the scenario alone.
	Rate float64 `json:"rate"`
	// Clients is the number of instances that make the calls, each with a circuit
	// breaker and a budget of its own. 1 to 100000.
	Clients int `json:"clients"`
	// Capacity is the number of calls a second that the upstream can serve.
	// 0 to 1000000; 0 is without limit.
	Capacity float64 `json:"capacity"`
	// Length is how long calls are made. 0 means as long as the scenario says.
	Length time.Duration `json:"-"`
	// Seed decides all that is left to chance: the same one gives the same figures.
	Seed uint64 `json:"seed"`
}

// DefaultLoad is half of what the upstream can do, by 20 clients.
func DefaultLoad() Load { return Load{Rate: 500, Clients: 20, Capacity: 1000, Seed: 1} }

func (l Load) validate(s Scenario) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	const most = 1e6
	check(l.Rate >= 0 && l.Rate <= most, "rate: must be from 0 to %v calls a second, got %v", int(most), l.Rate)
	check(l.Clients >= 1 && l.Clients <= 100_000, "clients: must be from 1 to 100000, got %d", l.Clients)
	check(l.Capacity >= 0 && l.Capacity <= most, "capacity: must be from 0 (no limit) to %v calls a second, got %v", int(most), l.Capacity)
	check(l.Length >= 0 && l.Length <= maxLength, "length: must be above 0 and at most %v, got %v", maxLength, l.Length)
	if length := l.length(s); length > 0 {
		check(s.Disturbance.End() <= length, "length: scenario %s is not over before %v, got %v", s.Name, s.Disturbance.End(), length)
	}
	if length := l.length(s); length > 0 {
		if s.Load.Surge != nil {
			check(s.Load.Surge.End() <= length, "length: the surge of scenario %s is not over before %v, got %v", s.Name, s.Load.Surge.End(), length)
		}
		if s.Load.Herd != nil {
			check(s.Load.Herd.At < length, "length: the herd of scenario %s comes at %v, got %v", s.Name, s.Load.Herd.At, length)
		}
	}
	if l.Capacity == 0 {
		check(s.Load.Surge == nil, "capacity: scenario %s has a load relative to it, got none", s.Name)
		for _, p := range s.Upstream.Phases {
			if p.Working != nil {
				check(false, "capacity: scenario %s takes workers away, and without a limit there are none", s.Name)
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (l Load) length(s Scenario) time.Duration {
	if l.Length > 0 {
		return l.Length
	}
	return s.Length
}

// Validate reports what is wrong with the scenario, the load and the policy.
func (e Experiment) Validate() error {
	return errors.Join(e.Scenario.Validate(), e.Load.validate(e.Scenario), e.Policy.Validate())
}

// What is left to chance comes from streams of their own, so that one does not
// depend on how much another was used.
const (
	streamArrivals = 0
	streamClients  = 1       // one for each from here on
	streamCallers  = 1 << 32 // likewise
	streamAttempts = 1 << 40 // likewise
)

// Run makes the calls and returns when the last of them has ended. In a bubble
// of testing/synctest, such as [virtual.Run] of this repository gives, time is
// virtual; elsewhere it is real, and the same seed does not give the same
// figures.
//
// The errors are those of [Experiment.Validate]. Run looks at ctx once a second
// and ends early with its cause.
func (e Experiment) Run(ctx context.Context) (*Result, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	e.Load.Length = e.Load.length(e.Scenario)
	recorder := newRecorder(e.Scenario.Disturbance, e.Load.Length)
	service, err := newService(e.Scenario, e.Load.Capacity, e.Load.Seed, recorder)
	if err != nil {
		return nil, err
	}
	clients := make([]*client, e.Load.Clients)
	for i := range clients {
		if clients[i], err = newClient(i, e, service, recorder); err != nil {
			return nil, err
		}
	}
	stop := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() { service.run(stop) })
	defer keeper.Wait()
	defer close(stop)
	r := &run{
		scenario: e.Scenario, load: e.Load, progress: e.Progress, recorder: recorder,
		call: func(i int) *resilience.Report { return clients[i].call() },
		look: func() (open int, tokens float64) { return look(clients) },
	}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return r.result(service.stats()), nil
}

// run is a load under way.
type run struct {
	scenario Scenario
	load     Load
	progress func(time.Duration)
	recorder *recorder
	call     func(client int) *resilience.Report
	look     func() (open int, tokens float64)
	calls    sync.WaitGroup
}

func (r *run) run(ctx context.Context) error {
	var sources sync.WaitGroup
	sources.Go(r.surge)
	if r.scenario.Load.Herd != nil {
		sources.Go(r.herd)
	}
	var err error
	sources.Go(func() { err = r.watch(ctx) })
	sources.Wait()
	r.calls.Wait()
	return err
}

// watch looks at every client once a second.
func (r *run) watch(ctx context.Context) error {
	for at := time.Second; at <= r.load.Length; at += time.Second {
		time.Sleep(time.Until(r.recorder.start.Add(at - 1)))
		r.recorder.sample(r.look())
		if r.progress != nil {
			r.progress(at)
		}
		// Its channel is from outside of the bubble: to wait for it would stop the clock.
		if ctx.Err() != nil {
			r.recorder.callOff()
			return context.Cause(ctx)
		}
	}
	return nil
}

// surge makes the calls that come at a rate.
func (r *run) surge() {
	if r.scenario.Load.Think > 0 {
		r.closedLoop()
		return
	}
	rng := rand.New(rand.NewPCG(r.load.Seed, streamArrivals))
	var at time.Duration
	for !r.recorder.calledOff() {
		rate, until := r.rate(at)
		gap := maxLength
		if rate > 0 {
			gap = time.Duration(min(rng.ExpFloat64()/rate*float64(time.Second), float64(maxLength)))
		}
		// A Poisson process has no memory: where the rate changes it begins anew.
		if at+gap >= until {
			if at = until; at >= r.load.Length {
				return
			}
			continue
		}
		at += gap + 1
		time.Sleep(time.Until(r.recorder.start.Add(at)))
		client := rng.IntN(r.load.Clients)
		r.calls.Go(func() { r.one(client) })
	}
}

// rate is the rate at a time, and until when it stays.
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

// closedLoop makes the calls of callers who wait for their answers.
func (r *run) closedLoop() {
	think := float64(r.scenario.Load.Think)
	for i := range int(max(1, r.load.Rate*r.scenario.Load.Think.Seconds())) {
		rng := rand.New(rand.NewPCG(r.load.Seed, streamCallers+uint64(i)))
		r.calls.Go(func() {
			for wait := rng.Float64() * think; ; wait = rng.ExpFloat64() * think {
				time.Sleep(time.Duration(wait))
				if time.Since(r.recorder.start) >= r.load.Length || r.recorder.calledOff() {
					return
				}
				r.one(i % r.load.Clients)
			}
		})
	}
}

// herd makes the calls that begin together: two nanoseconds are between them, to
// keep them in one order.
func (r *run) herd() {
	h := r.scenario.Load.Herd
	time.Sleep(time.Until(r.recorder.start.Add(h.At)))
	for i := range h.Calls {
		if r.recorder.calledOff() {
			return
		}
		r.calls.Go(func() { r.one(i % r.load.Clients) })
		time.Sleep(2 * time.Nanosecond)
	}
}

// one makes one call of a client.
func (r *run) one(client int) {
	start := time.Now()
	slot := r.recorder.begin(start)
	report := r.call(client)
	r.recorder.end(slot, time.Since(start), report)
}

// client is one of the instances that make calls.
type client struct {
	transport *transport.Transport
	request   *http.Request

	recorder *recorder

	mu       sync.Mutex
	halfOpen bool
	turns    int // of the circuit
	flying   int // attempts under way
	stray    int // of them, begun before the last turn
}

func newClient(number int, e Experiment, s *service, r *recorder) (*client, error) {
	c := &client{recorder: r}
	c.request = &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "upstream", Path: "/"}, Host: "upstream",
		Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	random := random{seed: e.Load.Seed, stream: streamClients + uint64(number), start: s.start}
	t, err := transport.New(link{s, c}, e.Policy, transport.WithRandom(random.Float64), transport.WithObserver(resilience.Observer{
		Attempt: func(_ context.Context, a *resilience.AttemptReport) { r.attempted(a) },
		Transition: func(t resilience.Transition) {
			c.turn(t.To)
			r.turned(t.To)
			if e.Transition != nil {
				e.Transition(number, t)
			}
		},
	}))
	c.transport = t
	return c, err
}

// call makes one call and reads its answer to the end.
func (c *client) call() *resilience.Report {
	var report resilience.Report
	resp, err := c.transport.RoundTrip(c.request.WithContext(transport.WithReport(context.Background(), &report)))
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // how that ends is in the report
		_ = resp.Body.Close()
	}
	return &report
}

// look is how many circuits are open, and the mean balance of the budgets.
func look(clients []*client) (open int, tokens float64) {
	for _, c := range clients {
		balance := c.transport.Policy().Retry.Budget.Burst // before its first call
		for _, s := range c.transport.State() {            // one upstream
			balance = s.BudgetTokens
			if s.Breaker.State == resilience.Open {
				open++
			}
		}
		tokens += balance
	}
	return open, tokens / float64(len(clients))
}

// turn notes a new state of the circuit.
func (c *client) turn(to resilience.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.halfOpen = to == resilience.HalfOpen
	c.turns++
	c.stray = c.flying
}

// sent counts an attempt, and when it is over what it gives is called.
func (c *client) sent() (returned func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying++
	if c.halfOpen {
		c.recorder.probing(c.flying - c.stray)
	}
	turn := c.turns
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.flying--
		if turn != c.turns {
			c.stray--
		}
	}
}

// random gives the uniform numbers of a client. They are a function of the time, so
// that calls and circuits of the same nanosecond do not take each other's.
type random struct {
	seed, stream uint64
	start        time.Time
}

func (r random) Float64() float64 {
	return rand.New(rand.NewPCG(r.seed^r.stream<<32, uint64(time.Since(r.start)))).Float64()
}
