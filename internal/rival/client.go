package rival

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// patience is when the caller of a call without a timeout gives up. Else a call to an upstream that
// hangs for ever would never end.
const patience = time.Minute

// Client is one client instance of another system.
type Client struct {
	policy  foreign.Policy
	options lab.ClientOptions
	// knows reports whether the client knows the endpoints and chooses one.
	knows bool

	mu     sync.Mutex
	budget budget
	calls  *places
	tries  map[int]*places // by endpoint; everyone without PerEndpoint
	rate   rate
	guards *guards
	turn   int         // the endpoint of the last attempt, for those that go in turn
	idle   map[int]int // connections without an attempt, by endpoint
}

// New returns a maker of clients that follow a policy, for [lab.Experiment].
func New(p foreign.Policy) func(lab.ClientOptions) (lab.Client, error) {
	return func(o lab.ClientOptions) (lab.Client, error) {
		if err := Check(p); err != nil {
			return nil, err
		}
		return newClient(p, o), nil
	}
}

func newClient(p foreign.Policy, o lab.ClientOptions) *Client {
	now := time.Now()
	c := &Client{
		policy: p, options: o,
		budget: newBudget(p), calls: callPlaces(p.Concurrency), tries: map[int]*places{}, turn: -1, idle: map[int]int{},
		rate: newRate(p.RateLimit, now, o.Random), guards: newGuards(p, now, o.Random, o.Instances),
	}
	c.knows = p.Retry.OtherEndpoint || p.Retry.SameEndpoint || p.RoundRobin || p.Concurrency.PerEndpoint || slices.ContainsFunc(p.Breakers, func(b foreign.Breaker) bool {
		return b.Scope == foreign.ScopeEndpoint
	})
	return c
}

// State returns the client's state at this moment.
func (c *Client) State() lab.ClientState {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.guards.advance(time.Now())
	s := lab.ClientState{Open: c.guards.isOpen(), Ejected: c.guards.ejected(), Opened: c.guards.opened, Ejections: c.guards.ejections}
	if c.policy.Retry.Budget.Kind == foreign.BudgetTokens {
		s.Tokens = c.budget.tokens
	}
	return s
}

// Call makes one call.
func (c *Client) Call() *resilience.Report { return c.Do(c.options.Request) }

// Do makes one call with a request, which ends when the request's context does.
func (c *Client) Do(req *http.Request) *resilience.Report {
	k := &call{client: c, ctx: req.Context(), request: req, start: time.Now(), waits: waits{policy: c.policy.Retry.Backoff}}
	k.deadline = k.start.Add(patience)
	if c.policy.Timeout > 0 {
		k.deadline = k.start.Add(c.policy.Timeout)
	}
	k.report = &resilience.Report{Upstream: "upstream", Start: k.start, Deadline: k.deadline}
	c.mu.Lock()
	c.budget.begin(k.start)
	c.mu.Unlock()
	reason := k.enter()
	left := reason != resilience.ReasonOK && k.ctx.Err() != nil
	if left || c.policy.Timeout == 0 && reason == resilience.ReasonDeadlineExceeded {
		reason = resilience.ReasonCallerCanceled
	}
	c.mu.Lock()
	c.budget.end(reason == resilience.ReasonOK, k.retried, k.price)
	c.mu.Unlock()
	k.report.Reason, k.report.Duration = reason, time.Since(k.start)
	return k.report
}

// placesOf returns the places for attempts to an endpoint. The caller holds the lock.
func (c *Client) placesOf(endpoint int) *places {
	if !c.policy.Concurrency.PerEndpoint {
		endpoint = everyone
	}
	p := c.tries[endpoint]
	if p == nil {
		p = tryPlaces(c.policy.Concurrency, c.policy.GRPC)
		c.tries[endpoint] = p
	}
	return p
}
