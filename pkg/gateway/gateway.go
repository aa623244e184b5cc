package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"math"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/certs"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Options are the dependencies of a gateway. The zero value is ready to use.
type Options struct {
	// Next sends all attempts. Nil means the endpoints of each upstream (package endpoint).
	Next http.RoundTripper
	// DialContext opens the connections to them. Nil means net.Dialer.DialContext.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver looks up the names of upstreams whose endpoints come from DNS. Nil means
	// net.DefaultResolver.
	Resolver endpoint.Resolver
	// TLS is the configuration for https upstreams. Nil trusts the system's roots.
	TLS *tls.Config
	// Observers are notified of attempts, calls and changes of circuits, each in this order.
	Observers []observe.Observer
	// Random returns uniform values in [0, 1). It must be safe for concurrent use. Nil means
	// math/rand/v2.
	Random func() float64
	// Logger logs loops and reloads. Nil discards them.
	Logger *slog.Logger
	// TracerProvider and Propagator create spans of calls, attempts and waits as children of the
	// span in the request's context. Without a TracerProvider there are no spans.
	TracerProvider trace.TracerProvider
	Propagator     propagation.TextMapPropagator
}

// Gateway is the http.Handler of the data port. It is safe for concurrent use.
type Gateway struct {
	options Options
	buffers bufferPool[[copyBufferSize]byte]
	large   bufferPool[[largeBufferSize]byte]
	via     via
	// current serves new calls. A call in flight keeps the generation that it began with.
	current atomic.Pointer[generation]
	memory  *transport.ReplayMemory // shared by all policies
	active  atomic.Int64            // calls in flight
	refusal atomic.Pointer[Refusal]

	reload sync.Mutex  // serializes Reload and guards past
	past   []time.Time // for each replaced configuration, when its last call must have ended
}

// replayMemory returns the most bytes of request bodies that a gateway keeps for retries: a quarter
// of the process's memory limit (GOMEMLIMIT), or 64 MiB without a limit. A body that is being kept
// takes up to three times its size until the garbage of its growth is collected, and the rest of
// the gateway needs memory too.
func replayMemory() transport.Size {
	limit := debug.SetMemoryLimit(-1) // only reads it
	if limit == math.MaxInt64 {
		return 64 << 20
	}
	return transport.Size(limit / 4)
}

// generation is the state that belongs to one configuration.
type generation struct {
	config     Config
	router     *router
	upstreams  map[upstreamKey]*upstream
	transports map[circuitKey]*transport.Transport
	names      map[upstreamKey]string // in reports, metrics and /breakers

	certificates *certs.Store // of the data port; nil without TLS
}

// circuitKey identifies a circuit and its budget: one per policy and upstream.
type circuitKey struct {
	policy   string
	upstream upstreamKey
}

// New returns a gateway. If the configuration is invalid, the error lists all mistakes.
func New(c Config, o Options) (*Gateway, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{options: o, via: newVia(pseudonym()), memory: transport.NewReplayMemory(replayMemory())}
	first, err := g.generation(c, nil)
	if err != nil {
		return nil, err
	}
	g.current.Store(first)
	return g, nil
}

// generation builds the state for c. It reuses the circuits and pools of old, which may be nil.
func (g *Gateway) generation(c Config, old *generation) (*generation, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := &generation{
		config: c, router: &router{}, upstreams: map[upstreamKey]*upstream{},
		transports: map[circuitKey]*transport.Transport{}, names: c.names(),
	}
	var err error
	if n.certificates, err = g.certificates(c, old); err != nil {
		return nil, err
	}
	l := newListener(c.Listener)
	for _, r := range c.Routes {
		to, err := c.destination(r.Upstream)
		if err != nil {
			return nil, err
		}
		key := circuitKey{r.Policy, to.key()}
		if n.upstreams[key.upstream] == nil {
			if n.upstreams[key.upstream], err = g.newUpstream(to, c.continueWait(key.upstream), old); err != nil {
				return nil, err
			}
		}
		if n.transports[key] == nil {
			if n.transports[key], err = g.transport(key, n, old); err != nil {
				return nil, err
			}
		}
		handler, err := g.newRoute(r, to, n.names[key.upstream], l, n.upstreams[key.upstream].headers)
		if err != nil {
			return nil, err
		}
		handler.transport = n.transports[key]
		n.router.add(handler)
	}
	return n, nil
}

// transport returns the transport for a policy and an upstream. Routes with the same policy and
// upstream share it, with its circuit and budget.
func (g *Gateway) transport(key circuitKey, n, old *generation) (*transport.Transport, error) {
	p := n.config.Policies[key.policy]
	if old != nil && old.transports[key] != nil {
		return old.transports[key].Renew(p, func(string) bool { return true })
	}
	options := []transport.Option{transport.WithObserver(g.observer(key)), transport.WithRandom(g.options.Random), transport.WithReplayMemory(g.memory), transport.WithOwnHeaders()}
	if g.options.TracerProvider != nil {
		options = append(options, transport.WithTracing(g.options.TracerProvider, g.options.Propagator, key.policy))
	}
	return transport.New(g.next(n.upstreams[key.upstream]), p, options...)
}

// observer passes the attempts and transitions of one circuit to all observers.
func (g *Gateway) observer(key circuitKey) resilience.Observer {
	if len(g.options.Observers) == 0 {
		return resilience.Observer{}
	}
	return resilience.Observer{
		Attempt: func(ctx context.Context, a *resilience.AttemptReport) {
			for _, o := range g.options.Observers {
				o.ObserveAttempt(ctx, a)
			}
		},
		Transition: func(t resilience.Transition) {
			t.Upstream = cmp.Or(g.current.Load().names[key.upstream], t.Upstream)
			for _, o := range g.options.Observers {
				o.ObserveTransition(observe.Transition{Policy: key.policy, Transition: t})
			}
		},
	}
}

// notify passes the changes of an upstream's endpoints to all observers.
func (g *Gateway) notify(key upstreamKey) func(endpoint.Event) {
	return func(e endpoint.Event) {
		name := cmp.Or(g.current.Load().names[key], key.origin)
		for _, o := range g.options.Observers {
			o.ObserveEndpoint(observe.EndpointEvent{Upstream: name, Event: e})
		}
	}
}

// finished passes a finished call to all observers.
func (g *Gateway) finished(ctx context.Context, c observe.Call) {
	c.TraceID = trace.SpanContextFromContext(ctx).TraceID()
	for _, o := range g.options.Observers {
		o.ObserveCall(ctx, c)
	}
}

// Config returns the effective configuration.
func (g *Gateway) Config() Config { return g.current.Load().config }

// Close closes the connections to the upstreams. Connections of calls in flight are closed when the
// calls end. Each later call uses a connection of its own.
func (g *Gateway) Close() {
	if next, ok := g.options.Next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
	for _, u := range g.current.Load().upstreams {
		if u.set != nil {
			u.set.Close()
		}
	}
}

// Upstreams returns the circuit and the budget of every upstream that was called, sorted by policy
// and name. It changes nothing.
func (g *Gateway) Upstreams() []observe.Upstream {
	list := []observe.Upstream{}
	n := g.current.Load()
	for key, t := range n.transports {
		p := n.config.Policies[key.policy]
		var endpoints []endpoint.State
		var ejections uint64
		if set := n.upstreams[key.upstream].set; set != nil {
			endpoints, ejections = set.State(), set.Ejections()
		}
		for _, s := range t.State() {
			list = append(list, observe.Upstream{
				Policy: key.policy, Name: key.upstream.name, Upstream: n.names[key.upstream],
				Breaker: s.Breaker, BudgetTokens: s.BudgetTokens, Concurrency: s.Concurrency, Settings: p.Breaker, Burst: p.Retry.Budget.Most(),
				Endpoints: endpoints, Ejections: ejections,
			})
		}
	}
	slices.SortFunc(list, func(a, b observe.Upstream) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Upstream, b.Upstream))
	})
	return list
}

// FilesRefused reports by upstream whether changed files of it (certificates, keys, headers) cannot
// be used, so that those before stay in use. The data port is "". Upstreams without files are left
// out. Files are read when they are needed: in the meantime the answer is that of the last time.
func (g *Gateway) FilesRefused() map[string]bool {
	n := g.current.Load()
	refused := map[string]bool{}
	if n.certificates != nil {
		refused[""] = n.certificates.Refused()
	}
	for key, u := range n.upstreams {
		if u.files != nil {
			refused[n.names[key]] = u.files.Refused()
		}
		if u.headers != nil {
			refused[n.names[key]] = refused[n.names[key]] || u.headers.Refused()
		}
	}
	return refused
}

// ReplayMemory returns how many bytes of request bodies are currently kept for retries.
func (g *Gateway) ReplayMemory() (bytes int64) { return g.memory.Used() }

// Active returns the number of calls in flight, from their request's headers until their response's
// end.
func (g *Gateway) Active() int64 { return g.active.Load() }

// LongestTimeout returns how long calls in flight may still take. It is the longest timeout of
// the policies that routes use, or longer while calls under replaced policies may still run.
func (g *Gateway) LongestTimeout() time.Duration {
	longest := g.current.Load().longestTimeout()
	g.reload.Lock()
	defer g.reload.Unlock()
	for _, until := range g.past {
		longest = max(longest, time.Until(until))
	}
	return longest
}

func (n *generation) longestTimeout() (longest time.Duration) {
	for _, r := range n.config.Routes {
		longest = max(longest, n.config.Policies[r.Policy].Timeout)
	}
	return longest
}

// ServeHTTP proxies r to its route's upstream. It answers 404 or 405 if no route matches.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.active.Add(1)
	defer g.active.Add(-1)
	if r.ProtoMajor == 2 {
		growStack()
	}
	path := escapedPath(r.URL)
	if path != r.URL.Path {
		// otelhttp sets the decoded path, but url.path is the escaped one (RFC 3986, 3.3).
		trace.SpanFromContext(r.Context()).SetAttributes(semconv.URLPath(path))
	}
	current := g.current.Load()
	if routable(r) {
		if route := current.router.find(r.Host, r.Method, path); route != nil {
			route.serve(w, r, path)
			return
		}
	}
	g.refuse(w, r, current, path)
}

// growStack makes room on the goroutine's stack for a call, which needs almost 8 KiB. net/http's
// server has a new goroutine for each HTTP/2 request, which begins with 2 KiB. It would double
// twice, the second time deep in the call, and moving a stack takes as long as it has frames.
//
//go:noinline
func growStack() {
	var room [4 << 10]byte
	runtime.KeepAlive(&room)
}

// routable reports whether r has a path to route by. CONNECT without a path and URLs such as urn:x
// have none.
func routable(r *http.Request) bool {
	return r.URL.Opaque == "" && (r.Method != http.MethodConnect || r.URL.Path != "")
}

// refuse answers 404 if no route matches the path, or 405 if one matches with another method.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, n *generation, path string) {
	start := time.Now()
	p := problem.Problem{
		Status: http.StatusNotFound, Reason: string(resilience.ReasonNoRoute), TraceID: traceID(r),
		Detail: "no route matches " + r.Method + " " + path,
	}
	if routable(r) {
		if allowed := strings.Join(n.router.methods(r.Host, path), ", "); allowed != "" {
			w.Header().Set("Allow", allowed)
			p.Status, p.Reason = http.StatusMethodNotAllowed, string(resilience.ReasonMethodNotAllowed)
			p.Detail = "the route for " + path + " takes " + allowed + ", not " + r.Method
		}
	}
	if n.config.Listener.Disclose {
		w.Header().Set(transport.HeaderAttemptCount, "0")
	} else {
		p.Attempts = -1
	}
	var rpc rpcStatus
	if isGRPC(r) {
		code, message := problem.WriteGRPC(w, p, 0)
		rpc = rpcStatus{code.String(), message}
		p.Status = http.StatusOK
	} else {
		problem.Write(w, p)
	}
	g.finished(r.Context(), observe.Call{Scheme: scheme(r), Host: r.Host, Path: path, Method: r.Method, Caller: r.RemoteAddr, Status: p.Status, Start: start, Duration: time.Since(start),
		GRPCStatus: rpc.name, GRPCMessage: rpc.message, Report: &resilience.Report{Reason: resilience.Reason(p.Reason)}})
}

// pseudonym returns a random name for this process in Via.
func pseudonym() string { return "rebound-" + strings.ToLower(rand.Text()[:8]) }

// The sizes of the buffers that copy bodies. A body of known length takes fewer system
// calls with more room. A stream or a tunnel often holds its buffers for hours.
const (
	copyBufferSize  = 32 << 10
	largeBufferSize = 64 << 10
)

// bufferPool reuses the buffers that copy bodies.
type bufferPool[B [copyBufferSize]byte | [largeBufferSize]byte] struct{ pool sync.Pool }

func (p *bufferPool[B]) get() *B {
	if b, ok := p.pool.Get().(*B); ok {
		return b
	}
	return new(B)
}

func (p *bufferPool[B]) put(b *B) { p.pool.Put(b) }
