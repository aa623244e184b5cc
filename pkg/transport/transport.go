package transport

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Transport is an http.RoundTripper that makes calls under a policy. Each upstream (scheme, host
// and port) has its own circuit and retry budget. A Transport is safe for concurrent use.
type Transport struct {
	next      http.RoundTripper
	endpoints endpoints // next, or nil if next has none
	policy    Policy
	options   resilience.Options
	memory    *ReplayMemory
	tracer    *tracer // nil without tracing
	owns      bool    // the headers of requests; see WithOwnHeaders
	// attempts holds the header values of X-Attempt-Count, so that calls do not allocate them.
	attempts [][]string
	// attemptTimeout is the usual value of X-Envoy-Expected-Rq-Timeout-Ms.
	attemptTimeout []string

	// origins finds an upstream by the scheme and host of a URL as written. It is replaced, never
	// changed: a lookup takes no lock and allocates nothing.
	origins   atomic.Pointer[directory]
	mu        sync.Mutex
	upstreams map[origin]*upstream // by canonical origin
	retired   bool

	refused exchanges // of calls that an open circuit refused
}

type origin struct{ scheme, host string }

// directory finds upstreams by origin. Most transports have one upstream or a few, and comparing
// with each of these is faster than hashing.
type directory struct {
	all map[origin]*upstream
	few [4]struct {
		origin
		*upstream
	}
}

// with returns d and one more upstream, which o leads to.
func (d *directory) with(o origin, u *upstream) *directory {
	next := &directory{all: make(map[origin]*upstream, len(d.all)+1), few: d.few}
	maps.Copy(next.all, d.all)
	next.all[o] = u
	for i := range next.few {
		if f := &next.few[i]; f.upstream == nil {
			f.origin, f.upstream = o, u
			break
		}
	}
	return next
}

func (d *directory) find(o origin) *upstream {
	for i := range d.few {
		if f := &d.few[i]; f.host == o.host && f.scheme == o.scheme && f.upstream != nil {
			return f.upstream
		}
	}
	return d.all[o]
}

type upstream struct {
	name     string
	pipeline *resilience.Pipeline[*http.Response]
	lastUsed atomic.Int64 // Unix seconds
	http2    atomic.Bool  // the last response to a gRPC call came over HTTP/2
}

var errNoURL = errors.New("the request has no URL")

// Limits that protect the memory from a caller that uses ever new hosts, such as a crawler. Beyond
// maxUpstreams, the transport forgets the one that was unused for longest.
const (
	maxUpstreams        = 1024
	maxAliases          = 4 * maxUpstreams
	defaultReplayMemory = 64 << 20
)

// Option sets something that is not part of the policy.
type Option func(*Transport)

// WithObserver reports attempts, calls and circuit transitions to o.
func WithObserver(o resilience.Observer) Option {
	return func(t *Transport) { t.options.Observer = o }
}

// WithRandom takes jitter from random instead of math/rand/v2. random must be uniform in [0, 1) and
// safe for concurrent use.
func WithRandom(random func() float64) Option {
	return func(t *Transport) { t.options.Random = random }
}

// WithOwnHeaders lets the transport add its headers to the header of the request itself, for the
// first attempt, and saves a copy. The caller must give each request a header that nothing else
// uses, and must not use it any more after the call either: an attempt that was given up may still
// read it. Without this option the transport changes no request, as [http.RoundTripper] demands.
func WithOwnHeaders() Option { return func(t *Transport) { t.owns = true } }

// WithReplayMemory limits the memory for request bodies by m, which several transports may share.
// Without it, each transport has 64 MiB of its own. A body that does not fit is sent once only.
func WithReplayMemory(m *ReplayMemory) Option {
	return func(t *Transport) { t.memory = m }
}

// endpoints is a RoundTripper over several endpoints, such as an [endpoint.Set].
type endpoints interface {
	Begin(ctx context.Context, l *endpoint.Lease, c *endpoint.Call, limit time.Duration) error
	CloseIdleConnections()
}

// New returns a Transport that sends requests through next under policy p. If next is nil, it uses
// http.DefaultTransport. If p is not valid, the error lists all its mistakes.
func New(next http.RoundTripper, p Policy, options ...Option) (*Transport, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if next == nil {
		next = http.DefaultTransport
	}
	t := &Transport{
		next: next, policy: p,
		memory:    NewReplayMemory(defaultReplayMemory),
		upstreams: map[origin]*upstream{},
	}
	t.prepare()
	for _, o := range options {
		o(t)
	}
	if t.endpoints, _ = next.(endpoints); t.endpoints != nil {
		t.closeIdleOnOpening()
	}
	return t, nil
}

// closeIdleOnOpening drops the idle connections when a circuit opens. They lead to the pods that
// have failed. After a node has died silently, each of them would cost a call its attempt timeout.
func (t *Transport) closeIdleOnOpening() {
	observe := t.options.Observer.Transition
	t.options.Observer.Transition = func(tr resilience.Transition) {
		if tr.To == resilience.Open {
			t.endpoints.CloseIdleConnections()
		}
		if observe != nil {
			observe(tr)
		}
	}
}

// prepare computes what depends on the policy alone.
func (t *Transport) prepare() {
	t.origins.Store(&directory{})
	t.policy.Retry.Methods = slices.Clone(t.policy.Retry.Methods) // the caller may change its own
	t.attemptTimeout = []string{milliseconds(t.policy.AttemptTimeout)}
	for n := range t.policy.Retry.MaxAttempts {
		t.attempts = append(t.attempts, []string{strconv.Itoa(n + 1)})
	}
}

// Renew returns a transport under policy p to replace t, for a policy that changes while calls are
// running. It takes over the replay memory, and the circuits and budgets with unchanged settings of
// the upstreams for which keep returns true. Calls that t has begun end under t's policy. When no
// new calls will come to t, call [Transport.Retire]. If p is not valid, the error lists all its
// mistakes.
func (t *Transport) Renew(p Policy, keep func(upstream string) bool) (*Transport, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	next := &Transport{
		next: t.next, endpoints: t.endpoints, policy: p, options: t.options, memory: t.memory, tracer: t.tracer, owns: t.owns,
		upstreams: map[origin]*upstream{},
	}
	next.prepare()
	t.mu.Lock()
	defer t.mu.Unlock()
	for o, u := range t.upstreams {
		if !keep(u.name) {
			continue
		}
		pipeline, err := u.pipeline.Renew(p.core())
		if err != nil {
			return nil, err
		}
		renewed := &upstream{name: u.name, pipeline: pipeline}
		renewed.lastUsed.Store(u.lastUsed.Load())
		renewed.http2.Store(u.http2.Load())
		next.upstreams[o] = renewed
	}
	return next, nil
}

// Retire ends t's role: from now on successor, which [Transport.Renew] returned, makes the calls,
// or no transport does if successor is nil. Circuits that successor did not take over report no
// more transitions.
func (t *Transport) Retire(successor *Transport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retired = true
	for o, u := range t.upstreams {
		u.pipeline.Retire(successor.pipelineOf(o))
	}
}

// pipelineOf returns the pipeline of an upstream, or nil.
func (t *Transport) pipelineOf(o origin) *resilience.Pipeline[*http.Response] {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if u, ok := t.upstreams[o]; ok {
		return u.pipeline
	}
	return nil
}

// Policy returns t's policy.
func (t *Transport) Policy() Policy { return t.policy }

// RoundTrip makes one call, with as many attempts as the policy allows. It returns the upstream's
// last response if there was one, whatever its status, and a [*resilience.Error] otherwise. The
// response body is streamed. The caller must close it.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	u, err := t.upstream(req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	c := t.newExchange(req, u.name)
	if c.grpc && c.source != nil {
		c.source.direct = u.http2.Load()
	}
	limit := t.Limit(req)
	begun := 0
	ctx := req.Context()
	ctx, c.trace = t.tracer.start(ctx, c)
	panicked, reusable := true, false
	defer func() { // deferred, because next may panic
		c.source.finish(begun)
		c.trace.abandon()
		if panicked {
			c.lease.End(resilience.Unhealthy)
		}
		if reusable { // no attempt, so nothing else knows c
			t.refused.put(c)
		}
	}()
	resp, report, err := u.pipeline.DoWithin(ctx, limit, c)
	panicked = false
	begun = len(report.Attempts)
	c.trace.end(&report, err)
	u.used(report.Start)
	if c.report != nil {
		*c.report = report
	}
	if err != nil {
		if begun == 0 && report.Reason == resilience.ReasonBreakerOpen {
			reusable = true
		}
		return nil, err
	}
	if http2 := resp.ProtoMajor == 2; c.grpc && u.http2.Load() != http2 {
		u.http2.Store(http2)
	}
	return resp, nil
}

// CloseIdleConnections closes the idle connections of the RoundTripper below, if it supports that.
func (t *Transport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// Limit returns how long a call of req may take: the policy's timeout, or the limit in req's
// X-Envoy-Expected-Rq-Timeout-Ms if that is lower.
func (t *Transport) Limit(req *http.Request) time.Duration {
	if inbound := inboundLimit(req.Header); inbound > 0 {
		return min(t.policy.Timeout, inbound)
	}
	return t.policy.Timeout
}

// repeats reports whether the policy allows a retry of a method.
func (t *Transport) repeats(method string) bool {
	return slices.Contains(t.policy.Retry.Methods, method)
}

func (t *Transport) attemptValue(n int) []string { return t.attempts[n-1] }

// upstream returns the upstream of req.
func (t *Transport) upstream(req *http.Request) (*upstream, error) {
	if req.URL == nil {
		return nil, errNoURL
	}
	written := origin{req.URL.Scheme, req.URL.Host}
	if u := t.origins.Load().find(written); u != nil {
		return u, nil
	}
	return t.addUpstream(written)
}

// used records the time of a call. It writes only when the second changes, so that CPU cores can
// share the cache line.
func (u *upstream) used(at time.Time) {
	if now := at.Unix(); u.lastUsed.Load() != now {
		u.lastUsed.Store(now)
	}
}

func (t *Transport) addUpstream(written origin) (*upstream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	canonical := written.canonical()
	u, ok := t.upstreams[canonical]
	if !ok {
		if len(t.upstreams) >= maxUpstreams {
			t.forgetOldest()
		}
		name := canonical.String()
		pipeline, err := resilience.New[*http.Response](name, t.policy.core(), t.options)
		if err != nil {
			return nil, err
		}
		if t.retired { // for a late call; its circuit is not reported
			pipeline.Retire(nil)
		}
		u = &upstream{name: name, pipeline: pipeline}
		u.used(time.Now())
		t.upstreams[canonical] = u
	}
	known := t.origins.Load()
	if known.find(written) == u { // another first call was faster
		return u, nil
	}
	if len(known.all) >= maxAliases {
		known = &directory{}
	}
	t.origins.Store(known.with(written, u))
	return u, nil
}

func (t *Transport) forgetOldest() {
	var oldest origin
	at := int64(math.MaxInt64)
	for o, u := range t.upstreams {
		if used := u.lastUsed.Load(); used < at {
			oldest, at = o, used
		}
	}
	delete(t.upstreams, oldest)
	t.origins.Store(&directory{})
}

// canonical returns the origin in the form that RFC 6454 compares: lower case, without the scheme's
// default port.
func (o origin) canonical() origin {
	o.scheme, o.host = strings.ToLower(o.scheme), strings.ToLower(o.host)
	switch o.scheme {
	case "http":
		o.host = strings.TrimSuffix(o.host, ":80")
	case "https":
		o.host = strings.TrimSuffix(o.host, ":443")
	}
	return o
}

func (o origin) String() string { return o.scheme + "://" + o.host }

// UpstreamOf returns the name of the upstream of u: its origin, as in reports, spans and
// [Transport.State].
func UpstreamOf(u *url.URL) string { return origin{u.Scheme, u.Host}.canonical().String() }

// UpstreamState is the state of an upstream's circuit and budget at one moment.
type UpstreamState struct {
	Upstream string                     `json:"upstream"`
	Breaker  resilience.BreakerSnapshot `json:"breaker"`
	// BudgetTokens is the balance of the retry budget.
	BudgetTokens float64 `json:"budgetTokens"`
	// Concurrency is the state of the concurrency limit.
	Concurrency resilience.ConcurrencySnapshot `json:"concurrency"`
}

// State returns the state of every upstream that was called, sorted by name. It changes nothing.
func (t *Transport) State() []UpstreamState {
	t.mu.Lock()
	all := make([]*upstream, 0, len(t.upstreams))
	for _, u := range t.upstreams {
		all = append(all, u)
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b *upstream) int { return cmp.Compare(a.name, b.name) })
	states := make([]UpstreamState, len(all))
	for i, u := range all {
		states[i] = UpstreamState{Upstream: u.name, Breaker: u.pipeline.Breaker(), BudgetTokens: u.pipeline.BudgetTokens(), Concurrency: u.pipeline.Concurrency()}
	}
	return states
}

type reportKey struct{}

// WithReport makes RoundTrip write the report of the call to r when it returns, with or without a
// response. If the response body fails later, r.Reason becomes body_failed, on the goroutine that
// reads the body. Use one context per call.
func WithReport(ctx context.Context, r *resilience.Report) context.Context {
	return context.WithValue(ctx, reportKey{}, r)
}

func reportOf(ctx context.Context) *resilience.Report {
	r, _ := ctx.Value(reportKey{}).(*resilience.Report)
	return r
}
