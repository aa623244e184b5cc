package reboundgrpc

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Interceptors make the calls of grpc-go connections under a policy. Each target has its own
// circuit and retry budget, which all connections to it share. It is safe for concurrent use.
type Interceptors struct {
	policy   resilience.Policy
	options  resilience.Options
	methods  methods
	priority func(ctx context.Context, method string) resilience.Priority
	tracer   *tracer // nil without tracing and metrics
	setup    []func(*Interceptors) error
	watched  bool        // something wants the address of each attempt
	unfilled metadata.MD // for [seen.reset]; nothing writes to it

	targets sync.Map   // from a target as written to its *upstream
	mu      sync.Mutex // for adding to targets
	known   int        // entries of targets
	// first is an entry of targets, usually the only one. Comparing with it is faster than hashing.
	first atomic.Pointer[target]
}

// target is an upstream and one way to write its name.
type target struct {
	written string
	*upstream
}

// upstream is a target with its circuit.
type upstream struct {
	name     string // the canonical target
	host     string // for spans and metrics; empty if the target has no host
	port     int
	pipeline *resilience.Pipeline[answer]
	lastUsed atomic.Int64 // Unix seconds
}

// answer is what a server, or grpc-go by itself, says at the end of a call: nil for OK.
type answer struct{ err error }

// maxTargets limits the memory that a program with ever new targets takes. Beyond it, the one that
// was unused for longest is forgotten.
const maxTargets = 1024

// Option sets something that is not part of the policy.
type Option func(*Interceptors)

// WithIdempotent marks methods as safe to call twice. Such a call is repeated even if the server
// may have processed it: when it is UNAVAILABLE without a message, when the connection breaks, and
// when an attempt times out. A pattern is "/orders.Orders/Get", or "/orders.Orders/*" for all
// methods of a service. [New] returns an error for any other, and for one that is given twice.
func WithIdempotent(patterns ...string) Option {
	return func(i *Interceptors) {
		i.setup = append(i.setup, func(i *Interceptors) error { return i.methods.add(patterns) })
	}
}

// WithObserver reports attempts, calls and circuit transitions to o. A stream is reported when its
// headers arrive.
func WithObserver(o resilience.Observer) Option {
	return func(i *Interceptors) { i.options.Observer = o }
}

// WithPriority sets the class of each call under a concurrency limit. method is such as
// "/orders.Orders/Get". priority must be safe for concurrent use.
func WithPriority(priority func(ctx context.Context, method string) resilience.Priority) Option {
	return func(i *Interceptors) { i.priority = priority }
}

// WithTracing makes a span for every call, with spans for its attempts and waits. policy is the
// policy's name in them. The propagator writes the context of each attempt into its metadata. With
// the provider of trace/noop, WithTracing does nothing.
func WithTracing(provider trace.TracerProvider, propagator propagation.TextMapPropagator, policy string) Option {
	return func(i *Interceptors) { i.tracing().useTracer(provider, propagator, policy) }
}

// WithMetrics records the histogram rpc.client.call.duration, in seconds, of each attempt. Its
// attributes are those of OpenTelemetry's semantic conventions. Methods count as _OTHER unless
// generated code calls them, as other names have no bound.
func WithMetrics(provider metric.MeterProvider) Option {
	return func(i *Interceptors) {
		i.setup = append(i.setup, func(i *Interceptors) error { return i.tracing().useMeter(provider) })
	}
}

func (i *Interceptors) tracing() *tracer {
	if i.tracer == nil {
		i.tracer = &tracer{}
	}
	return i.tracer
}

// New returns interceptors for calls under policy p. If p or an option is not valid, the error
// lists all mistakes.
func New(p resilience.Policy, options ...Option) (*Interceptors, error) {
	i := &Interceptors{policy: p, unfilled: metadata.MD{keyUnfilled: nil}}
	for _, o := range options {
		o(i)
	}
	var m mistake.List
	m.Merge("", p.Validate())
	errs := []error{m.Err()}
	for _, set := range i.setup {
		errs = append(errs, set(i))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	i.setup = nil
	if !i.tracer.enabled() {
		i.tracer = nil
	}
	i.watched = i.tracer != nil || i.options.Observer.Attempt != nil || i.options.Observer.Call != nil
	return i, nil
}

// newPeer returns where grpc-go may write the address of an attempt, or nil if nobody watches.
func (i *Interceptors) newPeer() *peer.Peer {
	if !i.watched {
		return nil
	}
	return new(peer.Peer)
}

// DialOptions returns what a connection needs: both interceptors, inside those that were added
// before, and no retries by grpc-go. Those of a service config would otherwise be made within each
// of ours. grpc-go still repeats by itself what a server has certainly not processed.
func (i *Interceptors) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(i.Unary), grpc.WithChainStreamInterceptor(i.Stream), grpc.WithDisableRetry()}
}

// UpstreamState is the state of a target's circuit and budget at one moment.
type UpstreamState struct {
	Upstream string                     `json:"upstream"` // the target in its canonical form, such as dns:///orders:50051
	Breaker  resilience.BreakerSnapshot `json:"breaker"`
	// BudgetTokens is the balance of the retry budget.
	BudgetTokens float64 `json:"budgetTokens"`
	// Concurrency is the state of the concurrency limit.
	Concurrency resilience.ConcurrencySnapshot `json:"concurrency"`
}

// State returns the state of every target that was called, sorted by name. It changes nothing.
func (i *Interceptors) State() []UpstreamState {
	var states []UpstreamState
	i.targets.Range(func(_, v any) bool {
		u := v.(*upstream)
		if !slices.ContainsFunc(states, func(s UpstreamState) bool { return s.Upstream == u.name }) {
			states = append(states, UpstreamState{u.name, u.pipeline.Breaker(), u.pipeline.BudgetTokens(), u.pipeline.Concurrency()})
		}
		return true
	})
	slices.SortFunc(states, func(a, b UpstreamState) int { return cmp.Compare(a.Upstream, b.Upstream) })
	return states
}

// upstream returns the upstream that a connection leads to.
func (i *Interceptors) upstream(cc *grpc.ClientConn) (*upstream, error) {
	written := ""
	if cc != nil { // other implementations of gRPC call interceptors without one
		written = cc.Target()
	}
	if t := i.first.Load(); t != nil && t.written == written {
		return t.upstream, nil
	}
	if u, ok := i.targets.Load(written); ok {
		return u.(*upstream), nil
	}
	name := written
	if cc != nil {
		name = cc.CanonicalTarget()
	}
	return i.add(written, name)
}

// used records the time of a call. It writes only when the second changes, so that CPU cores can
// share the cache line.
func (u *upstream) used(at time.Time) {
	if now := at.Unix(); u.lastUsed.Load() != now {
		u.lastUsed.Store(now)
	}
}

// add returns the upstream with a canonical name, which it makes if there is none.
func (i *Interceptors) add(written, name string) (*upstream, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var u *upstream
	var oldest any
	at := int64(math.MaxInt64)
	i.targets.Range(func(key, v any) bool {
		other := v.(*upstream)
		if other.name == name {
			u = other
		}
		if used := other.lastUsed.Load(); used < at {
			oldest, at = key, used
		}
		return true
	})
	if _, ok := i.targets.Load(written); ok {
		return u, nil
	}
	if u == nil {
		pipeline, err := resilience.New[answer](name, i.policy, i.options)
		if err != nil {
			return nil, err
		}
		u = &upstream{name: name, pipeline: pipeline}
		u.host, u.port = hostOf(name)
	}
	u.used(time.Now())
	if i.known++; i.known > maxTargets {
		i.targets.Delete(oldest)
		i.known--
		if t := i.first.Load(); t != nil && t.written == oldest {
			i.first.Store(nil)
		}
	}
	i.targets.Store(written, u)
	i.first.CompareAndSwap(nil, &target{written, u})
	return u, nil
}
