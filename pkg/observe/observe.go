// Package observe defines what a gateway reports: finished calls, their attempts, and changes of
// circuits. The log, the metrics and the live page are observers of one gateway.
package observe

import (
	"context"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Observer is notified by a gateway. Its methods are called from many goroutines at once. They
// delay the call that they observe, so they must not block.
type Observer interface {
	// ObserveAttempt is called after the verdict on an attempt. The attempt is valid until
	// ObserveAttempt returns.
	ObserveAttempt(ctx context.Context, a *resilience.AttemptReport)
	// ObserveCall is called when the answer of a call is written, also for a call without a route.
	// The call's Report is valid until ObserveCall returns.
	ObserveCall(ctx context.Context, c Call)
	// ObserveTransition is called after each change of a circuit's state. The changes of one
	// circuit arrive in order.
	ObserveTransition(t Transition)
	// ObserveEndpoint is called after each change of an endpoint. The changes of one upstream
	// arrive in order.
	ObserveEndpoint(e EndpointEvent)
}

// Call is a call as the gateway answered it.
type Call struct {
	Route, Policy string // empty without a route
	Pattern       string // path of the route's pattern, empty without a route
	Upstream      string // scheme, host and port, empty without a route
	Scheme        string // of the caller's connection: http, or https over TLS
	Host          string // as the caller wrote it, of any length; empty if HTTP/1.0 came without one
	Path          string // as the caller wrote it, still escaped, of any length, without the query
	Method        string // as the caller wrote it, of any length
	Caller        string // address and port of the caller's connection, which may be a proxy's
	Status        int    // of the caller's response, 0 without one
	// GRPCStatus is the name of the gRPC status of the caller's response, such as UNAVAILABLE, and
	// GRPCMessage its message, cut after 512 bytes. They are empty if the call is not one of gRPC.
	GRPCStatus, GRPCMessage string
	// CallersDoing reports whether the caller made the call end as it did: a gRPC call that ended
	// with DEADLINE_EXCEEDED after the time that its caller had given it, or a response that broke
	// off after its reader had paused for long.
	CallersDoing bool
	RequestID    string
	TraceID      [16]byte // zero without a trace
	Start        time.Time
	Duration     time.Duration
	// Report is what the pipeline did. Observers must not change it.
	Report *resilience.Report
}

// Transition is a change of the circuit that protects an upstream under a policy.
type Transition struct {
	Policy string
	resilience.Transition
}

// EndpointEvent is a change of an endpoint of an upstream.
type EndpointEvent struct {
	Upstream string // as in Call
	endpoint.Event
}

// Upstream is the circuit and the budget of one upstream under one policy, at one moment.
type Upstream struct {
	Policy string `json:"policy"`
	// Name is the upstream's key in the configuration, if it has one.
	Name     string                     `json:"name,omitempty"`
	Upstream string                     `json:"upstream"` // as in Call
	Breaker  resilience.BreakerSnapshot `json:"breaker"`
	// BudgetTokens is the balance of the retry budget.
	BudgetTokens float64 `json:"budgetTokens"`
	// Concurrency is the state of the concurrency limit.
	Concurrency resilience.ConcurrencySnapshot `json:"concurrency"`
	// Endpoints are those of the upstream, whatever the policy. Nil if they are not known.
	Endpoints []endpoint.State `json:"endpoints,omitempty"`
	// Ejections counts how often one of them was ejected.
	Ejections uint64 `json:"ejections,omitempty"`
	// Settings and Burst come from the policy in force.
	Settings resilience.BreakerPolicy `json:"-"`
	Burst    float64                  `json:"-"`
}

// Funcs is an Observer made of functions. A nil function observes nothing.
type Funcs struct {
	Attempt    func(ctx context.Context, a *resilience.AttemptReport)
	Call       func(ctx context.Context, c Call)
	Transition func(t Transition)
	Endpoint   func(e EndpointEvent)
}

// ObserveAttempt implements Observer.
func (f Funcs) ObserveAttempt(ctx context.Context, a *resilience.AttemptReport) {
	if f.Attempt != nil {
		f.Attempt(ctx, a)
	}
}

// ObserveCall implements Observer.
func (f Funcs) ObserveCall(ctx context.Context, c Call) {
	if f.Call != nil {
		f.Call(ctx, c)
	}
}

// ObserveTransition implements Observer.
func (f Funcs) ObserveTransition(t Transition) {
	if f.Transition != nil {
		f.Transition(t)
	}
}

// ObserveEndpoint implements Observer.
func (f Funcs) ObserveEndpoint(e EndpointEvent) {
	if f.Endpoint != nil {
		f.Endpoint(e)
	}
}
