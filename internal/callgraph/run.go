package callgraph

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Policy is what a client does about failures.
type Policy struct {
	// Own is the policy if Client is nil.
	Own transport.Policy
	// Client makes clients with the rules of another system. They must be a [Doer].
	Client func(lab.ClientOptions) (lab.Client, error)
}

// Doer is a client that makes a call with a request. The call ends when the request's context does.
type Doer interface {
	Do(req *http.Request) *resilience.Report
}

// Experiment is one run of a graph.
type Experiment struct {
	Graph Graph
	// Policies are those of the graph's policies. The default and none need no entry.
	Policies map[string]Policy
	// Seed seeds all randomness: the same seed gives the same figures.
	Seed uint64
	// Progress, if not nil, is called once for every second of the run with the time that has
	// passed. It must not block.
	Progress func(passed time.Duration)
}

// WithDefault returns e with Rebound's default policy on every call. other is false if e is so
// already.
func (e Experiment) WithDefault() (with Experiment, other bool) {
	with = e
	g := &with.Graph
	change := func(policy *string) {
		other = other || *policy != "" && *policy != PolicyDefault
		*policy = PolicyDefault
	}
	change(&g.Policy)
	change(&g.Load.Policy)
	g.Services = slices.Clone(g.Services)
	for i := range g.Services {
		calls := slices.Clone(g.Services[i].Calls)
		for j := range calls {
			change(&calls[j].Policy)
		}
		g.Services[i].Calls = calls
	}
	return with, other
}

// sim is a run.
type sim struct {
	Experiment
	start    time.Time
	ctx      context.Context // of work that does not notice that its caller has left
	off      atomic.Bool     // no calls begin any more
	services []*service
	edges    []*edgeFigures
	sets     []*endpoint.Set
	running  backend.Pool // work that does not notice that its caller has left, and parallel calls
}

// service is a running service.
type service struct {
	Service
	sim       *sim
	number    int
	passOn    PassOn
	instances []*instance
	ready     atomic.Pointer[[]int] // the instances that get calls, in order, unless they are gone
	figures   *figures
}

// instance is a running instance.
type instance struct {
	*backend.Instance
	service *service
	number  int         // from 0
	up      atomic.Bool // takes connections, unless a phase refuses them
	clients map[edge]client

	mu       sync.Mutex
	arriving time.Time // when ids arrive
	ids      []uint64
	flights  map[uint64]context.CancelCauseFunc // with liveness only
}

// Run makes the calls and returns when the last one has ended. It needs the virtual clock of
// testing/synctest. If the experiment is not valid, Run returns the error of [Graph.Validate]. Run
// checks ctx once per second, and returns its cause if it has ended.
func (e Experiment) Run(ctx context.Context) (*Result, error) {
	if err := e.Graph.Validate(); err != nil {
		return nil, err
	}
	work, end := context.WithCancel(context.Background())
	defer end()
	s := &sim{Experiment: e, start: time.Now(), ctx: work}
	defer func() {
		for _, set := range s.sets {
			set.Close()
		}
	}()
	clients, err := s.build()
	if err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	var keepers sync.WaitGroup
	for _, service := range s.services {
		service.keep(&keepers, stop)
	}
	var calls backend.Pool
	calls.Go(func() { s.makeCalls(&calls, clients) })
	err = s.watch(ctx)
	calls.Wait()
	for _, service := range s.services {
		service.figures.stop()
	}
	close(stop)
	end()
	keepers.Wait()
	s.running.Wait()
	if err != nil {
		return nil, err
	}
	return s.result(), nil
}

// watch samples the services once per second.
func (s *sim) watch(ctx context.Context) error {
	for at := time.Second; at <= s.Graph.Length; at += time.Second {
		time.Sleep(time.Until(s.start.Add(at - 1)))
		for _, service := range s.services {
			service.figures.sample(len(*service.ready.Load()))
		}
		if s.Progress != nil {
			s.Progress(at)
		}
		// The channel of ctx was made outside the bubble, and waiting for it would stop the virtual
		// clock.
		if ctx.Err() != nil {
			s.off.Store(true)
			return context.Cause(ctx)
		}
	}
	return nil
}

// Numbers of the random streams.
const (
	streamArrivals = 1
	streamClients  = 2 // one per client, from here on
)

// build makes the services and the clients, and returns those of the load.
func (s *sim) build() ([]client, error) {
	g := s.Graph
	for i, spec := range g.Services {
		service := &service{Service: spec, sim: s, number: i, passOn: g.PassOn, figures: newFigures(s.start, g.Disturbance, g.Length)}
		if spec.PassOn != nil {
			service.passOn = *spec.PassOn
		}
		c := backend.Config{Faults: spec.Faults, Queue: spec.Queue, Capacity: spec.Capacity / float64(spec.Instances), Apart: true}
		for _, p := range spec.Phases {
			c.Phases = append(c.Phases, backend.Phase(p))
		}
		var ready []int
		for n := range spec.most() {
			in, err := backend.New(c, n+1, mix(s.Seed, uint64(i)<<20+uint64(n)))
			if err != nil {
				return nil, err
			}
			service.instances = append(service.instances, &instance{Instance: in, service: service, number: n})
			if n < spec.Instances {
				service.instances[n].up.Store(true)
				ready = append(ready, n)
			}
		}
		service.ready.Store(&ready)
		s.services = append(s.services, service)
	}
	number := uint64(streamClients)
	connect := func(from string, e edge, instances int) ([]client, error) {
		figures := &edgeFigures{Edge: Edge{From: from, To: e.to, Policy: e.policy}, seconds: make([]pair, s.seconds())}
		s.edges = append(s.edges, figures)
		var all []client
		for range instances {
			c, err := s.newClient(e, number, figures)
			if err != nil {
				return nil, err
			}
			number++
			all = append(all, c)
		}
		return all, nil
	}
	entry := edge{g.Load.Entry, g.Load.Policy}
	if entry.policy == "" {
		entry.policy = g.Policy
	}
	load, err := connect("", entry, g.Load.Clients)
	if err != nil {
		return nil, err
	}
	for _, service := range s.services {
		for _, e := range service.edges(g) {
			all, err := connect(service.Name, e, len(service.instances))
			if err != nil {
				return nil, err
			}
			for i, in := range service.instances {
				if in.clients == nil {
					in.clients = map[edge]client{}
				}
				in.clients[e] = all[i]
			}
		}
	}
	return load, nil
}

func (s *sim) seconds() int { return int((s.Graph.Length + time.Second - 1) / time.Second) }

// client is the client of one instance for one edge.
type client struct {
	do      func(*http.Request) *resilience.Report
	to      *service
	figures *edgeFigures
}

func (s *sim) newClient(e edge, number uint64, figures *edgeFigures) (client, error) {
	to := s.services[s.Graph.number(e.to)]
	c := client{to: to, figures: figures}
	policy, ok := s.Policies[e.policy]
	switch {
	case ok:
	case e.policy == PolicyDefault:
		policy.Own = transport.DefaultPolicy()
	case e.policy == PolicyNone:
		policy.Own = lab.NoPolicy(transport.DefaultPolicy())
	default:
		if policy.Own = transport.DefaultPolicy(); s.Graph.Policies[e.policy].Inline == nil {
			return c, fmt.Errorf("policy %s: was not read", e.policy)
		}
		policy.Own = *s.Graph.Policies[e.policy].Inline
	}
	jitter := backend.Random{Seed: s.Seed, Stream: number, Start: s.start}
	choices := &backend.Sequence{Random: backend.Random{Seed: ^s.Seed, Stream: number, Start: s.start}}
	if policy.Client == nil {
		next := http.RoundTripper(wire{to: to, instance: lab.AnyInstance})
		if to.Endpoints.Resolve != endpoint.ResolveNone {
			set := to.newSet(choices.Float64)
			s.sets = append(s.sets, set)
			figures.sets = append(figures.sets, set)
			next = set
		}
		t, err := transport.New(next, policy.Own, transport.WithRandom(jitter.Float64), transport.WithObserver(resilience.Observer{
			Transition: func(t resilience.Transition) {
				if t.To == resilience.Open {
					figures.opened.Add(1)
				}
			},
		}))
		c.do = func(req *http.Request) *resilience.Report {
			var report resilience.Report
			resp, err := t.RoundTrip(req.WithContext(transport.WithReport(req.Context(), &report)))
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body) // the report has the error
				_ = resp.Body.Close()
			}
			return &report
		}
		return c, err
	}
	other, err := policy.Client(lab.ClientOptions{
		Number: int(number - streamClients), Request: request(e.to), //nolint:gosec // at most 100000 clients
		Instances: to.known,
		Send: func(req *http.Request, instance int) (*http.Response, error) {
			return wire{to: to, instance: instance}.RoundTrip(req)
		},
		Random: jitter.Float64, Choose: choices.Float64,
	})
	if err != nil {
		return c, err
	}
	doer, ok := other.(Doer)
	if !ok {
		return c, fmt.Errorf("policy %s: its clients, %T, take no request", e.policy, other)
	}
	c.do = doer.Do
	figures.others = append(figures.others, other)
	return c, nil
}

func request(host string) *http.Request {
	return &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: host, Path: "/"}, Host: host,
		Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

// mix returns a number that depends on both numbers (the finalizer of SplitMix64).
func mix(a, b uint64) uint64 {
	x := a + 0x9e3779b97f4a7c15*(b+1)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// makeCalls makes the calls of the load.
func (s *sim) makeCalls(calls *backend.Pool, clients []client) {
	rng := rand.New(rand.NewPCG(s.Seed, streamArrivals))
	var at time.Duration
	for i := uint64(0); !s.off.Load(); i++ {
		gap := min(rng.ExpFloat64()/s.Graph.Load.Rate*float64(time.Second), float64(backend.Longest))
		at += time.Duration(gap) + 1
		if at >= s.Graph.Length {
			return
		}
		time.Sleep(time.Until(s.start.Add(at)))
		c := clients[rng.IntN(len(clients))]
		info := &call{id: mix(s.Seed, i), root: int(at / time.Second)}
		calls.Go(func() { c.call(s.ctx, info, nil) })
	}
}

// call is one call of a client. Its attempts find it in the context of their requests.
type call struct {
	id    uint64
	root  int // the second in which the call of the load began that this one is a part of
	slot  slot
	tries atomic.Uint64
	edge  *edgeFigures
}

type callKey struct{}

// call makes a call and returns the status that its caller answers: 200 or an error.
func (c client) call(ctx context.Context, info *call, header http.Header) int {
	req := request(c.to.Name)
	for name, value := range header {
		req.Header[name] = value
	}
	began := time.Now()
	info.slot, info.edge = c.to.figures.begin(began), c.figures
	c.figures.begin(info.slot)
	report := c.do(req.WithContext(context.WithValue(ctx, callKey{}, info)))
	c.to.figures.end(info.slot, time.Since(began), report.Reason == resilience.ReasonOK)
	return statusOf(report)
}

// statusOf returns what a service answers that needs the result of a call.
func statusOf(report *resilience.Report) int {
	if report.Reason == resilience.ReasonOK {
		return http.StatusOK
	}
	if n := len(report.Attempts); n > 0 {
		if last := report.Attempts[n-1].Status; last >= http.StatusInternalServerError {
			return last
		}
	}
	reason := report.Reason
	if n := len(report.Attempts); n > 0 && reason == resilience.ReasonMaxAttempts {
		reason = report.Attempts[n-1].Reason
	}
	switch reason {
	case resilience.ReasonDialError, resilience.ReasonResetBeforeHeaders, resilience.ReasonBodyFailed:
		return http.StatusBadGateway
	case resilience.ReasonAttemptTimeout, resilience.ReasonDeadlineExceeded, resilience.ReasonDeadlineTooClose, resilience.ReasonCallerCanceled:
		return http.StatusGatewayTimeout
	}
	return http.StatusServiceUnavailable
}

// serve lets the instance answer a request.
func (in *instance) serve(req *http.Request, info *call, id uint64, rng *rand.Rand) (*http.Response, error) {
	s := in.service.sim
	if in.service.passOn.Deadline {
		return in.handle(req.Context(), req, info, id, rng)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	done := make(chan answer, 1)
	s.running.Go(func() {
		resp, err := in.handle(s.ctx, req, info, id, rng) //nolint:bodyclose // the client closes it
		if req.Context().Err() != nil {
			in.service.figures.waste()
		}
		done <- answer{resp, err}
	})
	select {
	case a := <-done:
		return a.resp, a.err
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

// handle does the work of a request, and makes the calls that belong to it.
func (in *instance) handle(ctx context.Context, req *http.Request, info *call, id uint64, rng *rand.Rand) (*http.Response, error) {
	arrived := time.Now()
	if in.service.Liveness != nil {
		var landed func()
		ctx, landed = in.fly(ctx, id)
		defer landed()
	}
	fate, err := in.Work(ctx, in.Fate(id), req.Header.Get(transport.HeaderExpectedTimeout), arrived.Sub(in.service.sim.start), rng)
	if err == nil && fate.Fault == faults.FaultNone && len(in.service.Calls) > 0 {
		status := in.makeCalls(ctx, req.Header, arrived, info, id, rng)
		if err = lost(ctx); err == nil && status >= http.StatusInternalServerError {
			fate.Fault, fate.Status = faults.FaultError, status
		}
	}
	if err != nil {
		return nil, landing(err)
	}
	resp, err := backend.Answer(req.WithContext(ctx), fate)
	return resp, landing(err)
}

// makeCalls makes the calls of a service for one request, and returns the status of the answer.
func (in *instance) makeCalls(ctx context.Context, header http.Header, arrived time.Time, info *call, id uint64, rng *rand.Rand) int {
	steps := in.service.Calls
	status := http.StatusOK
	for first := 0; first < len(steps) && status < http.StatusInternalServerError; {
		end := first + 1
		for end < len(steps) && steps[end].Parallel {
			end++
		}
		var mu sync.Mutex
		var together sync.WaitGroup
		var order time.Duration
		for i := first; i < end; i++ {
			step := steps[i]
			if step.Probability < 1 && rng.Float64() >= step.Probability {
				continue
			}
			begin := func(number, times int) {
				work := func() {
					if got := in.step(ctx, step, header, arrived, info, mix(id, uint64(i)<<20+uint64(number)), times); got != http.StatusOK && !step.Optional {
						mu.Lock()
						defer mu.Unlock()
						status = max(status, got)
					}
				}
				if end == first+1 && times == step.Times {
					work()
					return
				}
				// Two calls of a client in the same nanosecond would have no order.
				later := order
				order += 2
				together.Add(1)
				in.service.sim.running.Go(func() {
					defer together.Done()
					time.Sleep(later)
					work()
				})
			}
			if !step.Parallel {
				begin(0, step.Times)
				continue
			}
			for n := range step.Times {
				begin(n, 1)
			}
		}
		together.Wait()
		first = end
	}
	return status
}

// step makes the calls of one step one after the other.
func (in *instance) step(ctx context.Context, step Call, header http.Header, arrived time.Time, info *call, id uint64, times int) int {
	for n := range times {
		if !faults.Pause(ctx, step.Pause) {
			return http.StatusGatewayTimeout
		}
		if step.To == "" {
			continue
		}
		passed := in.service.passOn.header(header, time.Since(arrived))
		c := in.clients[in.service.sim.Graph.edgeOf(step)]
		if status := c.call(ctx, &call{id: mix(id, uint64(n)), root: info.root}, passed); status != http.StatusOK {
			return status
		}
	}
	return http.StatusOK
}

// header returns what is passed on of a request's header after a time.
func (p PassOn) header(h http.Header, passed time.Duration) http.Header {
	out := http.Header{}
	if p.Attempts {
		if v := h[transport.HeaderAttemptCount]; len(v) > 0 {
			out[transport.HeaderAttemptCount] = v
		}
	}
	if p.Deadline {
		if ms, err := strconv.ParseInt(h.Get(transport.HeaderExpectedTimeout), 10, 64); err == nil && ms > 0 {
			left := max(1, ms-passed.Milliseconds()) // 0 would mean no limit
			out[transport.HeaderExpectedTimeout] = []string{strconv.FormatInt(left, 10)}
		}
	}
	return out
}
