package endpoint

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Errors of [Set.Begin]. Nothing was sent.
var (
	// ErrNoEndpoint means that no address of the upstream is known.
	ErrNoEndpoint = errors.New("the upstream's name has no address")
	// ErrEjected means that all endpoints are ejected. It is possible with MaxEjected 1 only.
	ErrEjected = errors.New("all endpoints are ejected")
)

// ErrOtherHost is the error of a request whose URL has another scheme, host or port than the set's
// target, such as one that an http.Client makes after a redirect. Nothing was sent.
var ErrOtherHost = errors.New("the request is for another host than that of the endpoints")

// Options configure a [Set]. Connections and Policy must be valid.
type Options struct {
	Connections Connections
	Policy      Policy
	// ContinueWait is how long a request with "Expect: 100-continue" waits for the 100 before it
	// sends its body anyway. At least 0.
	ContinueWait time.Duration
	// DialContext makes the connections; nil means that of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for https; nil means the system's roots. It is not changed.
	TLS *tls.Config
	// PriorKnowledge speaks HTTP/2 without TLS. The target's scheme must be http.
	PriorKnowledge bool
	// Random is uniform in [0, 1) and safe for concurrent use; nil means math/rand/v2.
	Random func() float64
	// Resolver looks up names with resolve: dns; nil means net.DefaultResolver.
	Resolver Resolver
	// Routed reports whether this machine has a route to an address. With resolve: dns, it decides
	// which of IPv4 and IPv6 is used if a name has both. nil asks the system, or with DialContext
	// or Connect uses both.
	Routed func(netip.Addr) bool
	// Connect returns what sends the requests to one endpoint, a host:port; nil means a pool of
	// connections.
	Connect func(address string) http.RoundTripper
	// Notify is called for each change of an endpoint, in order, without a lock; nil means never.
	// It must not block.
	Notify func(Event)
}

// Set sends requests to the endpoints of one upstream. It is safe for concurrent use.
//
// With resolve: none, the set has a single endpoint, which stands for everything behind the
// upstream's name.
type Set struct {
	target  *url.URL
	options Options
	epoch   time.Time

	// current is replaced, never changed: choosing takes no lock.
	current atomic.Pointer[view]
	lookups lookups

	continueWait atomic.Int64 // of the options, in ns

	ejections atomic.Uint64

	mu         sync.Mutex // guards the making of views
	panicking  bool
	pending    []Event
	publishing bool
	closed     bool
}

// view is the endpoints of a set at one moment.
type view struct {
	all      []*member
	usable   []*member // without the ejected ones
	halfOpen []*member // to be probed
	open     []*member // to be probed later
}

// Event is a change of an endpoint.
type Event struct {
	Kind EventKind
	// Address is the endpoint, empty for panic and calm.
	Address string
	At      time.Time
	// For is the time until the next probe, for an ejection. 0 = it is due.
	For time.Duration
	// Err is why a lookup failed.
	Err error
}

// EventKind is the kind of an [Event].
type EventKind string

// The kinds.
const (
	EventAdded    EventKind = "added"         // the name, or the list, has a new address
	EventRemoved  EventKind = "removed"       // the name, or the list, has lost an address
	EventEjected  EventKind = "ejected"       // the endpoint failed and is left out, maybe only now that a panic is over
	EventReturned EventKind = "returned"      // the endpoint works again, after an ejection
	EventPanic    EventKind = "panic"         // too many endpoints fail, so none is left out
	EventCalm     EventKind = "calm"          // few enough endpoints fail again
	EventLookup   EventKind = "lookup_failed" // the lookup failed, so the addresses before stay in use
)

// New returns a set for the scheme, host and port of target. The scheme must be http or https. The
// set looks up no name and opens no connection before the first request.
func New(target *url.URL, o Options) *Set {
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Routed == nil && o.DialContext == nil && o.Connect == nil {
		o.Routed = routed
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	o.TLS = connpool.TLSConfig(o.TLS) // shared: the endpoints of a name have one certificate
	s := &Set{target: target, options: o, epoch: time.Now()}
	s.continueWait.Store(int64(o.ContinueWait))
	s.current.Store(&view{})
	s.lookups.set = s
	switch o.Policy.Resolve {
	case ResolveDNS:
	case ResolveStatic:
		s.replace(o.Policy.Addresses)
	default:
		s.replace([]string{connpool.Address(target)})
	}
	return s
}

// Renew returns a set under o to replace s. If both resolve the same name, it begins with the
// addresses that s knows, so a failed lookup leaves it with these. Everything else is new. The
// caller closes s when no new requests will come to it.
func (s *Set) Renew(o Options) *Set {
	next := New(s.target, o)
	if known := s.current.Load().all; o.Policy.Resolve == ResolveDNS && s.options.Policy.Resolve == ResolveDNS && len(known) > 0 {
		addresses := make([]string, len(known))
		for i, m := range known {
			addresses[i] = m.address
		}
		next.replace(addresses)
		next.lookups.inherit(&s.lookups)
	}
	return next
}

// SetContinueWait changes [Options.ContinueWait] for later requests.
func (s *Set) SetContinueWait(d time.Duration) {
	if s.continueWait.Swap(int64(d)) == int64(d) {
		return
	}
	for _, m := range s.current.Load().all {
		if m.requests.Load() == 0 { // it has no connection yet, and newPool will see d
			continue
		}
		if p, ok := s.senderOf(m).(interface{ SetContinueWait(d time.Duration) }); ok {
			p.SetContinueWait(d)
		}
	}
}

// SetAddresses changes the addresses of a set with resolve: static. It has no effect on others.
// There must be at least one, each a host:port. One that is listed twice counts once. Endpoints
// that stay keep their state and connections. Requests to those that leave go on.
func (s *Set) SetAddresses(addresses []string) {
	if s.options.Policy.Resolve == ResolveStatic {
		s.replace(addresses)
	}
}

// named reports whether the set has a single endpoint that stands for a name.
func (s *Set) named() bool {
	return s.options.Policy.Resolve != ResolveDNS && s.options.Policy.Resolve != ResolveStatic
}

// fails reports whether some endpoint fails, ejected or not.
func (v *view) fails() bool { return len(v.open)+len(v.halfOpen) > 0 }

// since returns the time from the set's epoch in ns.
func (s *Set) since(now time.Time) int64 { return int64(now.Sub(s.epoch)) }

// replace makes addresses the endpoints of the set. Endpoints that stay keep their state.
func (s *Set) replace(addresses []string) {
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return
	}
	before := map[string]*member{}
	for _, m := range s.current.Load().all {
		before[m.address] = m
	}
	first := len(before) == 0
	all := make([]*member, 0, len(addresses))
	listed := make(map[string]bool, len(addresses))
	for _, a := range addresses {
		if listed[a] {
			continue
		}
		listed[a] = true
		m := before[a]
		if m == nil {
			m = s.newMember(a)
			if !first {
				s.tell(Event{Kind: EventAdded, Address: a})
			}
		}
		delete(before, a)
		all = append(all, m)
	}
	s.show(all, time.Now())
	for _, m := range before {
		s.retire(m)
		s.tell(Event{Kind: EventRemoved, Address: m.address})
	}
}

func (s *Set) newMember(address string) *member {
	m := &member{address: address}
	m.measured.Store(-int64(forget) - 1)
	if s.named() || s.options.Policy.Eject.off() {
		return m
	}
	m.circuit, _ = resilience.NewCircuit(address, s.options.Policy.Eject.circuit(), s.options.Random, func(t resilience.Transition) {
		s.changed(m, t)
	})
	return m
}

// retire ends the use of m. Its requests go on.
func (s *Set) retire(m *member) {
	m.retired.Store(true)
	if m.circuit != nil {
		m.circuit.Retire()
	}
	if m.requests.Load() > 0 { // otherwise it has no connection yet, and senderOf will see retired
		closeSender(s.senderOf(m))
	}
}

// closeSender closes the connections that no request uses, and the others when their requests end.
func closeSender(s sender) {
	if c, ok := s.(interface{ Close() }); ok {
		c.Close()
	} else {
		s.CloseIdleConnections()
	}
}

// changed is called when the circuit of m has changed.
func (s *Set) changed(m *member, t resilience.Transition) {
	switch at := s.since(t.At); t.To {
	case resilience.HalfOpen:
		m.halfOpen.Store(at)
	case resilience.Open:
		m.opened.Store(at)
	case resilience.Closed:
	}
	s.mu.Lock()
	defer s.unlock()
	if s.closed {
		return
	}
	if t.To == resilience.Open {
		s.senderOf(m).CloseIdleConnections()
	}
	s.show(s.current.Load().all, t.At)
}

// show makes a view of all, and tells what has changed since the last one. The caller holds mu.
func (s *Set) show(all []*member, now time.Time) {
	v := &view{all: all}
	for _, m := range all {
		state := m.state()
		m.working = state == resilience.Closed
		switch state {
		case resilience.Closed:
			v.usable = append(v.usable, m)
		case resilience.HalfOpen:
			v.halfOpen = append(v.halfOpen, m)
		case resilience.Open:
			v.open = append(v.open, m)
		}
	}
	failing, alone := len(all)-len(v.usable), len(all) == 1
	most := int(s.options.Policy.Eject.MaxEjected*float64(len(all)) + 1e-9) // 0.29 of 100 is 28.999...
	panicking := !alone && failing > most
	if panicking || alone {
		v.usable = all
	}
	if panicking != s.panicking {
		s.panicking = panicking
		kind := EventCalm
		if panicking {
			kind = EventPanic
		}
		s.tell(Event{Kind: kind})
	}
	for _, m := range all {
		out := !m.working && !panicking && !alone
		switch {
		case out && !m.out:
			s.ejections.Add(1)
			m.ejected = true
			told := time.Duration(m.told.Load() - s.since(now))
			s.tell(Event{Kind: EventEjected, Address: m.address, For: max(0, m.circuit.Snapshot().ProbeAt.Sub(now), told)})
		case m.working && m.ejected:
			m.ejected = false
			s.tell(Event{Kind: EventReturned, Address: m.address})
		}
		m.out = out
	}
	s.current.Store(v)
}

// tell passes e to Notify when mu is released. The caller holds mu.
func (s *Set) tell(e Event) {
	if s.options.Notify != nil {
		e.At = time.Now()
		s.pending = append(s.pending, e)
	}
}

// unlock releases mu after it has passed the recorded events to Notify, in order. mu is not held
// during the calls.
func (s *Set) unlock() {
	if s.publishing {
		s.mu.Unlock()
		return
	}
	s.publishing = true
	for len(s.pending) > 0 {
		e := s.pending[0]
		s.pending = s.pending[1:]
		s.mu.Unlock()
		s.options.Notify(e)
		s.mu.Lock()
	}
	s.publishing = false
	s.mu.Unlock()
}

// sender sends requests to one endpoint.
type sender interface {
	http.RoundTripper
	RoundTripFresh(req *http.Request) (*http.Response, error)
	CloseIdleConnections()
}

// senderOf returns what sends the requests of m. A request that chose m just before it was retired
// gets a connection of its own.
func (s *Set) senderOf(m *member) sender {
	m.connect.Do(func() {
		if s.options.Connect != nil {
			m.sender = simple{s.options.Connect(m.address)}
		} else {
			m.sender = s.newPool(m)
		}
		if m.retired.Load() {
			closeSender(m.sender)
		}
	})
	return m.sender
}

func (s *Set) newPool(m *member) *connpool.Pool {
	o := connpool.Options{
		Limits: connpool.Limits(s.options.Connections), ContinueWait: time.Duration(s.continueWait.Load()),
		DialContext: s.options.DialContext, TLS: s.options.TLS, PriorKnowledge: s.options.PriorKnowledge, Random: s.options.Random,
	}
	if !s.named() {
		o.Address = m.address
	}
	return connpool.New(s.target, o)
}

// simple is a sender that knows nothing of connections.
type simple struct{ http.RoundTripper }

func (s simple) RoundTripFresh(req *http.Request) (*http.Response, error) { return s.RoundTrip(req) }

func (s simple) CloseIdleConnections() {
	if c, ok := s.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// answerOf returns what the beginning of an answer shows. A gRPC answer without messages has its
// status in the header, and any other one in the trailer.
func answerOf(resp *http.Response) resilience.Health {
	refuses, fails := resp.StatusCode == http.StatusTooManyRequests, nethttp.Fails(resp.StatusCode)
	if grpcwire.IsAnswer(resp) {
		code, known := grpcwire.Status(resp.Header)
		refuses = code == grpcwire.ResourceExhausted
		fails = known && (code.Fails() || code == grpcwire.DeadlineExceeded)
	}
	switch {
	case refuses:
		return resilience.Neutral
	case fails:
		return resilience.Unhealthy
	}
	return resilience.Healthy
}

// RoundTrip sends a request to one endpoint. A response with a status of 500 or more, except 501
// and 508, and a body that breaks off count against the endpoint. The Retry-After of such a
// response, or of a 429, keeps later requests away from it. A request for another scheme, host or
// port than the target's is not sent: an http.Client gets [ErrOtherHost] for a redirect there.
func (s *Set) RoundTrip(req *http.Request) (*http.Response, error) {
	l := new(Lease)
	err := ErrOtherHost
	if s.serves(req.URL) {
		err = s.Begin(req.Context(), l, new(Call), probeLease)
	}
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	panicked := true
	defer func() {
		if panicked {
			l.End(resilience.Unhealthy)
		}
	}()
	resp, err := l.RoundTrip(req, false)
	panicked = false
	switch {
	case err != nil && req.Context().Err() != nil:
		l.End(resilience.Neutral)
	case err != nil || resp == nil: // without both, Options.Connect breaks the rules
		l.End(resilience.Unhealthy)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		l.End(resilience.Healthy)
	default:
		if h := answerOf(resp); h != resilience.Healthy { // otherwise the body decides
			l.Report(h, retryafter.Of(resp, time.Now()))
		}
		if resp.Body == nil {
			resp.Body = http.NoBody
		}
		resp.Body = &body{ReadCloser: resp.Body, lease: l, ctx: req.Context()}
	}
	return resp, err
}

// probeLease is how long a probe may take until its response begins, for requests without a policy.
// With probeGrace it is 10 s, after which a probe only gives its slot back.
const probeLease = 10*time.Second - probeGrace

// body ends the lease with the response body.
type body struct {
	io.ReadCloser
	lease *Lease
	ctx   context.Context
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case err == io.EOF:
		b.lease.End(resilience.Healthy)
	case b.ctx.Err() != nil:
		b.lease.End(resilience.Neutral)
	default:
		b.lease.End(resilience.Unhealthy)
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.lease.End(resilience.Healthy)
	return err
}

// CloseIdleConnections closes the connections that no request uses.
func (s *Set) CloseIdleConnections() {
	for _, m := range s.current.Load().all {
		if m.requests.Load() > 0 { // otherwise it has no connection
			s.senderOf(m).CloseIdleConnections()
		}
	}
}

// Close ends the lookups. It closes the connections that no request uses, and the others when their
// requests end. Each later request uses a connection of its own.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	all := s.current.Load().all
	s.mu.Unlock()
	s.lookups.close()
	for _, m := range all {
		s.retire(m)
	}
}

// State is the state of an endpoint at one moment.
type State struct {
	Address string `json:"address"`
	// Ejected reports whether the endpoint is left out.
	Ejected bool `json:"ejected"`
	// Circuit is the state of the endpoint's circuit. An endpoint whose circuit is not closed is in
	// use while too many others fail too, and if there is no other.
	Circuit resilience.State `json:"circuit"`
	// Requests counts the requests so far, InFlight those that have not ended.
	Requests uint64 `json:"requests"`
	InFlight int64  `json:"inFlight"`
	// Latency is the recent average, which follows a peak at once; 0 = unknown.
	Latency time.Duration `json:"latency"`
	// Failures counts the failures in a row, up to 3.
	Failures int64 `json:"failures"`
}

// State returns the state of all endpoints, in the order of the lookup. It is empty with resolve:
// none, and before the first lookup.
func (s *Set) State() []State {
	if s.named() {
		return nil
	}
	v := s.current.Load()
	now := s.since(time.Now())
	usable := map[*member]bool{}
	for _, m := range v.usable {
		usable[m] = true
	}
	states := make([]State, len(v.all))
	for i, m := range v.all {
		states[i] = State{
			Address: m.address, Ejected: !usable[m], Circuit: m.state(), Requests: m.requests.Load(), InFlight: m.inFlight.Load(),
			Latency: time.Duration(m.average(now) * float64(time.Second)), Failures: m.failures.Load(),
		}
	}
	return states
}

// Ejections returns how often an endpoint was ejected. A failed probe is not another ejection.
func (s *Set) Ejections() uint64 { return s.ejections.Load() }
