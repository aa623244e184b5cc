package lab

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Client is one client instance of an [Experiment]. It is safe for concurrent use.
type Client interface {
	// Call makes one call and returns how it ended, with an entry for each attempt. The call has
	// ended well if its reason is ok.
	Call() *resilience.Report
	// State returns the client's state at this moment.
	State() ClientState
}

// ClientState describes a [Client].
type ClientState struct {
	Open    bool    // whether its circuit for the whole upstream is open
	Ejected int     // endpoints that it does not use because of their failures
	Tokens  float64 // balance of its budget for retries; 0 if it has none
	// Opened is how often that circuit has opened, Ejections how often an endpoint was ejected.
	Opened, Ejections uint64
}

// AnyInstance makes [ClientOptions.Send] choose, as a load balancer does that ignores failures.
const AnyInstance = -1

// ClientOptions are the surroundings of a [Client]. All its functions are safe for concurrent use.
//
// Events in the same nanosecond have no order. So a client that wakes up another call of its own
// must let that call sleep for a short random time, or the same seed gives different figures.
type ClientOptions struct {
	// Number is the client's number, from 0.
	Number int
	// Request is what every call sends. A client must clone it to change it.
	Request *http.Request
	// Instances returns the numbers of the instances that are in DNS at this moment, from 0.
	Instances func() []int
	// Send makes one attempt at an instance, or at [AnyInstance]. Its errors are those of net/http:
	// a refused connection is a *net.OpError of a dial, a lost one of a read.
	Send func(req *http.Request, instance int) (*http.Response, error)
	// Random and Choose draw random numbers from 0 to below 1. All draws of Random at the same time
	// are equal, so that it is independent of everything else; those of Choose differ.
	Random, Choose func() float64
}

func (e Experiment) newClient(number int, s *service, r *recorder) (Client, error) {
	request := &http.Request{
		Method: e.Scenario.Method(), URL: &url.URL{Scheme: "http", Host: "upstream", Path: "/"}, Host: "upstream",
		Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	jitter := backend.Random{Seed: e.Load.Seed, Stream: streamClients + uint64(number), Start: s.start}
	choices := &backend.Sequence{Random: backend.Random{Seed: e.Load.Seed, Stream: streamChoices + uint64(number), Start: s.start}}
	if e.Client == nil {
		return newClient(number, e, s, r, request, jitter.Float64, choices.Float64)
	}
	to := link{s, &client{recorder: r}}
	own, err := e.Client(ClientOptions{
		Number: number, Request: request, Instances: s.known, Send: to.send,
		Random: jitter.Float64, Choose: choices.Float64,
	})
	return recorded{own, r}, err
}

// known returns the numbers of the instances that are in DNS.
func (u *service) known() []int {
	elapsed := time.Since(u.start)
	var all []int
	for _, in := range u.instances {
		if !in.Gone(elapsed) {
			all = append(all, in.number)
		}
	}
	return all
}

// send makes one attempt at an instance.
func (l link) send(req *http.Request, number int) (*http.Response, error) {
	if number == AnyInstance {
		return l.RoundTrip(req)
	}
	return l.attempt(req, func(*rand.Rand) *instance { return l.instances[number] }, "")
}

// recorded is a client that records its attempts.
type recorded struct {
	Client
	recorder *recorder
}

func (c recorded) Call() *resilience.Report {
	report := c.Client.Call()
	for i := range report.Attempts {
		c.recorder.attemptEnded(&report.Attempts[i])
	}
	return report
}

// sampleClients returns the number of open circuits, that of ejected endpoints, and the mean
// balance of the budgets.
func sampleClients(clients []Client) (open, ejected int, tokens float64) {
	for _, c := range clients {
		s := c.State()
		if s.Open {
			open++
		}
		ejected += s.Ejected
		tokens += s.Tokens
	}
	return open, ejected, tokens / float64(len(clients))
}

// client is a client with Rebound's own transport.
type client struct {
	transport *transport.Transport
	set       *endpoint.Set // nil with resolve: none
	request   *http.Request

	recorder *recorder

	mu          sync.Mutex
	halfOpen    bool
	opened      uint64
	transitions int // transitions of the circuit
	inFlight    int // running attempts
	leftover    int // those that began before the last transition
}

func newClient(number int, e Experiment, s *service, r *recorder, request *http.Request, jitter, choose func() float64) (*client, error) {
	c := &client{recorder: r, request: request}
	next := http.RoundTripper(link{s, c})
	if p := e.Scenario.Upstream.Endpoints; p.Resolve != endpoint.ResolveNone {
		c.set = link{s, c}.newSet(s.policy(p), c.request.URL, choose)
		next = c.set
	}
	t, err := transport.New(next, e.Policy, transport.WithRandom(jitter), transport.WithObserver(resilience.Observer{
		Attempt: func(_ context.Context, a *resilience.AttemptReport) { r.attemptEnded(a) },
		Transition: func(t resilience.Transition) {
			c.recordTransition(t.To)
			if e.Transition != nil {
				e.Transition(number, t)
			}
		},
	}))
	c.transport = t
	return c, err
}

// Call makes one call and reads its response to the end.
func (c *client) Call() *resilience.Report {
	var report resilience.Report
	resp, err := c.transport.RoundTrip(c.request.WithContext(transport.WithReport(context.Background(), &report)))
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // the report has the error
		_ = resp.Body.Close()
	}
	return &report
}

func (c *client) State() ClientState {
	s := ClientState{Tokens: c.transport.Policy().Retry.Budget.Most()} // for a client without calls
	for _, upstream := range c.transport.State() {                     // there is one
		s.Tokens, s.Open = upstream.BudgetTokens, upstream.Breaker.State == resilience.Open
	}
	if c.set != nil {
		s.Ejections = c.set.Ejections()
		for _, e := range c.set.State() {
			if e.Ejected {
				s.Ejected++
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Opened = c.opened
	return s
}

func (c *client) close() {
	if c.set != nil {
		c.set.Close()
	}
}

// recordTransition records a transition of the circuit.
func (c *client) recordTransition(to resilience.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.halfOpen = to == resilience.HalfOpen
	if to == resilience.Open {
		c.opened++
	}
	c.transitions++
	c.leftover = c.inFlight
}

// beginAttempt records the start of an attempt, and returns what endAttempt needs.
func (c *client) beginAttempt() (transitions int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight++
	if c.halfOpen {
		c.recorder.probesInFlight(c.inFlight - c.leftover)
	}
	return c.transitions
}

// endAttempt records the end of an attempt that began after so many transitions.
func (c *client) endAttempt(transitions int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
	if transitions != c.transitions {
		c.leftover--
	}
}
