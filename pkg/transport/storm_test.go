package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// outcome is how an attempt ends.
type outcome string

// The outcomes. Those of unusual can only come from a RoundTripper that is not the pool.
const (
	answers    outcome = "answers"
	noBody     outcome = "no body"
	notFound   outcome = "404"
	fails      outcome = "503"
	asksAWhile outcome = "503 with Retry-After"
	tooMany    outcome = "429 with Retry-After"
	resets     outcome = "reset"
	hangs      outcome = "hang"
	slow       outcome = "slow"
	truncates  outcome = "truncated body"
	stalls     outcome = "stalled body"
	fullStall  outcome = "503 with a stalled body"
	events     outcome = "event stream"
	switches   outcome = "upgrade"

	refuses     outcome = "refused"
	panics      outcome = "panic"
	bodyPanics  outcome = "panicking body"
	nothing     outcome = "neither response nor error"
	nilBody     outcome = "nil body"
	noStatus    outcome = "status 0"
	keepsBody   outcome = "reads the request late"
	cancelsSelf outcome = "error of a context that is not the caller's"
)

func usual() []outcome {
	return []outcome{answers, noBody, notFound, fails, asksAWhile, tooMany, resets, hangs, slow, truncates, stalls, fullStall, events, switches}
}

func unusual() []outcome {
	return []outcome{refuses, panics, bodyPanics, nothing, nilBody, noStatus, keepsBody, cancelsSelf}
}

// behaviour is what a caller does with its call.
type behaviour string

const (
	reads       behaviour = "reads all"
	closes      behaviour = "closes at once"
	readsABit   behaviour = "reads a byte and closes"
	readsSlowly behaviour = "reads slowly"
	cancels     behaviour = "cancels"
	hasLittle   behaviour = "has a deadline"
	closesTwice behaviour = "closes while it reads, twice"
)

func behaviours() []behaviour {
	return []behaviour{reads, closes, readsABit, readsSlowly, cancels, hasLittle, closesTwice}
}

// bodyKind is the kind of a request body.
type bodyKind string

const (
	without     bodyKind = "without a body"
	replayable  bodyKind = "a body"
	stream      bodyKind = "a streamed body"
	brokenBody  bodyKind = "a body that breaks off"
	endlessBody bodyKind = "a body that stalls"
)

func bodyKinds() []bodyKind { return []bodyKind{without, replayable, stream, brokenBody, endlessBody} }

// dice draws from the bytes of a script. After its end it draws the first of each list.
type dice struct {
	mu    sync.Mutex
	bytes []byte
	drawn map[string]int
}

func (d *dice) int(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func (d *dice) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.bytes) == 0
}

func (d *dice) count(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drawn[what]++
}

// draw returns one of a list, and counts it.
func draw[T ~string](d *dice, list []T) T {
	one := list[d.int(len(list))]
	d.count(string(one))
	return one
}

// storm is a set of endpoints below a transport, with calls that all end in their own way.
type storm struct {
	*dice
	t      *testing.T
	pool   bool // the endpoints are real servers behind the pool
	dns    bool // the endpoints come and go
	set    *endpoint.Set
	rt     *transport.Transport
	memory *transport.ReplayMemory
	calm   atomic.Bool // every attempt is answered

	connections conncount.Counter

	names struct {
		sync.Mutex
		list []netip.Addr
	}
}

const stormMembers = 4

var errStorm = errors.New("an error of the storm")

func newStorm(t *testing.T, script []byte, pool bool) *storm {
	s := &storm{t: t, pool: pool, dice: &dice{bytes: script, drawn: map[string]int{}}, memory: transport.NewReplayMemory(1 << 20)}
	o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections(), Resolver: s}
	o.Policy.Eject.ConsecutiveFailures = 2
	o.Policy.Eject.EjectFor, o.Policy.Eject.MaxEjectFor = 300*time.Millisecond, time.Second
	o.Policy.Eject.MaxEjected = []float64{0.5, 1}[s.int(2)]
	o.Policy.Refresh = 200 * time.Millisecond
	o.Policy.Resolve = endpoint.ResolveStatic
	random := rand.New(rand.NewPCG(1, uint64(s.int(256))))
	o.Random = func() float64 { s.mu.Lock(); defer s.mu.Unlock(); return random.Float64() }
	o.Notify = func(e endpoint.Event) { s.count("endpoint " + string(e.Kind)) }
	if s.dns = s.int(2) == 1; s.dns {
		o.Policy.Resolve = endpoint.ResolveDNS
	}
	s.enlist(stormMembers)
	network := pipenet.New()
	for _, a := range s.names.list {
		address := netip.AddrPortFrom(a, 80).String()
		if !s.dns {
			o.Policy.Addresses = append(o.Policy.Addresses, address)
		}
		if pool {
			network.Serve(t, address, http.HandlerFunc(s.serve), func(server *http.Server) { server.ConnState = s.connections.See })
		}
	}
	if pool {
		o.DialContext = network.Dial
	} else {
		o.Connect = func(string) http.RoundTripper { return roundTripper(s.attempt) }
	}
	s.set = endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)

	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout, p.BodyIdleTimeout = 2*time.Second, 200*time.Millisecond, time.Second
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 1e6}
	p.Retry.ReplayBuffer = 1 << 10
	p.Breaker.MinRequests = 20
	p.Breaker.ConsecutiveFailures = []int{0, 5}[s.int(2)]
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 100*time.Millisecond, time.Second
	s.rt = newTransport(t, s.set, p, transport.WithReplayMemory(s.memory), transport.WithRandom(o.Random))
	return s
}

// enlist makes the name stand for n endpoints.
func (s *storm) enlist(n int) {
	s.names.Lock()
	defer s.names.Unlock()
	s.names.list = nil
	for i := range n {
		s.names.list = append(s.names.list, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
}

// LookupNetIP makes the storm the resolver of its set.
func (s *storm) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	time.Sleep(5 * time.Millisecond)
	s.names.Lock()
	defer s.names.Unlock()
	if len(s.names.list) == 0 {
		return nil, errStorm
	}
	return slices.Clone(s.names.list), nil
}

// attempt makes the storm the RoundTripper of all endpoints.
func (s *storm) attempt(req *http.Request) (*http.Response, error) {
	o := answers
	if !s.calm.Load() {
		o = draw(s.dice, append(usual(), unusual()...))
	}
	if req.Body != nil && o != keepsBody {
		_, _ = io.CopyN(io.Discard, req.Body, 100)
		_ = req.Body.Close()
	}
	ctx := req.Context()
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: req}
	body := &stormBody{ctx: ctx, text: strings.NewReader(strings.Repeat("x", 200)), closed: make(chan struct{}), end: o}
	resp.Body = body
	switch o {
	case answers, truncates, stalls, bodyPanics:
	case keepsBody:
		if req.Body != nil {
			go func() {
				_, _ = io.Copy(io.Discard, req.Body)
				_ = req.Body.Close()
			}()
		}
	case noBody:
		resp.Body = http.NoBody
	case nilBody:
		resp.Body = nil
	case notFound:
		resp.StatusCode = http.StatusNotFound
	case fails, fullStall:
		resp.StatusCode = http.StatusServiceUnavailable
	case asksAWhile:
		resp.StatusCode = http.StatusServiceUnavailable
		resp.Header.Set("Retry-After", "1")
	case tooMany:
		resp.StatusCode = http.StatusTooManyRequests
		resp.Header.Set("Retry-After", "1")
	case refuses:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case resets:
		return nil, syscall.ECONNRESET
	case hangs:
		<-ctx.Done()
		return nil, ctx.Err()
	case cancelsSelf:
		return nil, context.Canceled
	case slow:
		time.Sleep(150 * time.Millisecond)
	case events:
		resp.Header.Set("Content-Type", "text/event-stream")
	case switches:
		resp.StatusCode = http.StatusSwitchingProtocols
	case panics:
		panic(errStorm)
	case nothing:
		return nil, nil //nolint:nilnil // it is the case
	case noStatus:
		resp.StatusCode = 0
	}
	return resp, nil
}

// stormBody is the body of a response, and the connection after an upgrade.
type stormBody struct {
	ctx    context.Context
	text   *strings.Reader
	once   sync.Once
	closed chan struct{}
	end    outcome
}

func (b *stormBody) Read(p []byte) (int, error) {
	if b.text.Len() > 0 {
		return b.text.Read(p)
	}
	switch b.end {
	case truncates:
		return 0, io.ErrUnexpectedEOF
	case bodyPanics:
		panic(errStorm)
	case stalls, fullStall, events:
		select {
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		case <-b.closed:
			return 0, http.ErrBodyReadAfterClose
		}
	default:
		return 0, io.EOF
	}
}

func (b *stormBody) Write(p []byte) (int, error) { return len(p), nil }

func (b *stormBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// serve makes the storm the handler of all endpoints.
func (s *storm) serve(w http.ResponseWriter, r *http.Request) {
	o := answers
	if !s.calm.Load() {
		o = draw(s.dice, usual())
	}
	if o != answers { // which leaves the request body to net/http
		_, _ = io.CopyN(io.Discard, r.Body, 100)
	}
	flush := func() { _ = http.NewResponseController(w).Flush() }
	switch o {
	case answers:
		_, _ = io.WriteString(w, strings.Repeat("x", 200))
	case notFound:
		w.WriteHeader(http.StatusNotFound)
	case fails:
		w.WriteHeader(http.StatusServiceUnavailable)
	case asksAWhile, tooMany:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(map[outcome]int{asksAWhile: http.StatusServiceUnavailable, tooMany: http.StatusTooManyRequests}[o])
	case resets:
		panic(http.ErrAbortHandler)
	case hangs:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	case slow:
		time.Sleep(150 * time.Millisecond)
	case truncates:
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		flush()
		panic(http.ErrAbortHandler)
	case stalls, fullStall, events:
		_, _ = io.Copy(io.Discard, r.Body)
		switch o {
		case fullStall:
			w.WriteHeader(http.StatusServiceUnavailable)
		case events:
			w.Header().Set("Content-Type", "text/event-stream")
		}
		_, _ = io.WriteString(w, "x")
		flush()
		<-r.Context().Done()
	case switches:
		if r.Header.Get("Upgrade") == "" {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: storm\r\n\r\nx")
		_, _ = io.Copy(io.Discard, conn)
	}
}

// call makes one call, and leaves nothing of it to do.
func (s *storm) call() {
	b, kind, direct := reads, without, false
	upgrade, patience := false, time.Hour
	method := http.MethodGet
	if !s.calm.Load() {
		b, kind, direct = draw(s.dice, behaviours()), draw(s.dice, bodyKinds()), s.int(5) == 4
		upgrade, method = s.int(8) == 7, []string{http.MethodGet, http.MethodPut, http.MethodPost}[s.int(3)]
		patience = time.Duration(s.int(8)) * 75 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	if direct {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, time.Second) // nothing else ends a hanging attempt
		defer end()
	}
	switch b {
	case cancels:
		defer time.AfterFunc(patience, cancel).Stop()
	case hasLittle:
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, patience)
		defer end()
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://orders/", nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	switch kind {
	case replayable:
		req.ContentLength, req.Body = 200, io.NopCloser(bytes.NewReader(make([]byte, 200)))
	case stream:
		req.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 2000))) // more than is kept
	case brokenBody:
		req.Body = newUpload(ctx)
		_ = req.Body.Close()
	case endlessBody:
		req.Body = newUpload(ctx)
	case without:
	}
	if upgrade {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "storm")
	}
	var next http.RoundTripper = s.rt
	if direct {
		next = s.set
	}
	var report resilience.Report
	defer func() {
		if p := recover(); p != nil {
			s.count("panic of a call")
			if p != any(errStorm) {
				s.t.Errorf("a call panicked: %v", p)
			}
		}
	}()
	resp, err := next.RoundTrip(req.WithContext(transport.WithReport(ctx, &report)))
	if report.Reason != "" {
		s.count("reason " + string(report.Reason))
	}
	if err != nil {
		return
	}
	if resp == nil || resp.Body == nil {
		if !direct {
			s.t.Errorf("got %v without an error, want a response with a body", resp)
		}
		return
	}
	defer resp.Body.Close()
	s.use(resp.Body, b)
}

func (s *storm) use(body io.ReadCloser, b behaviour) {
	// Event streams and upgraded connections have no end.
	defer time.AfterFunc(4*time.Second, func() { _ = body.Close() }).Stop()
	one := make([]byte, 1)
	switch b {
	case reads, cancels, hasLittle:
		_, _ = io.Copy(io.Discard, body)
	case closes:
	case readsABit:
		_, _ = body.Read(one)
	case readsSlowly:
		for range 5 {
			if _, err := body.Read(one); err != nil {
				return
			}
			time.Sleep(600 * time.Millisecond)
		}
	case closesTwice:
		var closing sync.WaitGroup
		defer closing.Wait()
		for range 2 {
			closing.Go(func() { time.Sleep(20 * time.Millisecond); _ = body.Close() })
		}
		_, _ = io.Copy(io.Discard, body)
	}
}

// upload is a request body that stalls after its first byte until it is closed or its caller
// leaves, and then fails.
type upload struct {
	ctx    context.Context
	begin  atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func newUpload(ctx context.Context) *upload { return &upload{ctx: ctx, closed: make(chan struct{})} }

func (u *upload) Read(p []byte) (int, error) {
	if !u.begin.Swap(true) {
		return copy(p, "x"), nil
	}
	select {
	case <-u.closed:
	case <-u.ctx.Done(): // net/http waits for Read before it calls Close
	}
	return 0, errStorm
}

func (u *upload) Close() error {
	u.once.Do(func() { close(u.closed) })
	return nil
}

// run makes calls until the script is over, and checks that nothing is left of them.
func (s *storm) run() {
	s.t.Helper()
	var calls sync.WaitGroup
	closes := s.int(4) == 3
	for range 60 {
		if s.over() {
			break
		}
		calls.Go(s.call)
		time.Sleep([]time.Duration{0, 0, 5, 20, 100, 500}[s.int(6)] * time.Millisecond)
		if s.dns && s.int(4) == 3 {
			s.enlist(s.int(stormMembers + 1))
		}
	}
	if closes {
		s.count("closed during calls")
		s.set.Close()
	}
	calls.Wait()
	synctest.Wait()
	for _, e := range s.set.State() {
		if e.InFlight != 0 {
			s.t.Errorf("%s has %d requests in flight after all calls, want 0: %+v", e.Address, e.InFlight, e)
		}
	}
	if n := s.memory.Used(); n != 0 {
		s.t.Errorf("%d bytes of request bodies are kept after all calls, want 0", n)
	}
}

// recover checks that the circuits lost no probe: once every attempt is answered, all endpoints are
// in use again.
func (s *storm) recover() {
	s.t.Helper()
	s.calm.Store(true)
	s.enlist(stormMembers)
	works := func() bool {
		for _, u := range s.rt.State() {
			if u.Breaker.State != resilience.Closed || u.Breaker.Probes != 0 {
				return false
			}
		}
		all := s.set.State()
		return len(all) == stormMembers && !slices.ContainsFunc(all, func(e endpoint.State) bool {
			return e.Ejected || e.Circuit != resilience.Closed || e.InFlight != 0
		})
	}
	for range 600 {
		time.Sleep(50 * time.Millisecond)
		s.call()
		if works() {
			return
		}
	}
	s.t.Errorf("half a minute after the storm got %+v below %+v, want all in use", s.set.State(), s.rt.State())
}

// weather runs a storm on a virtual clock. It fails if a goroutine is left.
func weather(t *testing.T, script []byte, pool bool) map[string]int {
	t.Helper()
	var drawn map[string]int
	synctest.Test(t, func(t *testing.T) {
		s := newStorm(t, script, pool)
		s.run()
		if s.drawn["closed during calls"] == 0 {
			s.recover()
			s.set.Close()
		}
		s.connections.WantOpen(t, 0)
		drawn = s.drawn
	})
	return drawn
}

// Calls end in every way, while endpoints come and go. Nothing may be left behind: no request in
// flight, no kept body, no lost probe, no connection, no goroutine.
func TestStorm(t *testing.T) {
	for name, tc := range map[string]struct {
		pool    bool
		scripts int
		want    []string
	}{
		"RoundTripper": {false, 150, append([]string{"panic of a call"}, words(unusual())...)},
		"pool":         {true, 150, nil},
	} {
		t.Run(name, func(t *testing.T) {
			drawn := map[string]int{}
			for seed := range uint64(tc.scripts) {
				random := rand.New(rand.NewPCG(seed, 0))
				script := make([]byte, 400)
				for i := range script {
					script[i] = byte(random.UintN(256))
				}
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					for what, n := range weather(t, script, tc.pool) {
						drawn[what] += n
					}
				})
			}
			want := append(tc.want, words(usual())...)
			want = append(want, words(behaviours())...)
			want = append(want, words(bodyKinds())...)
			for _, kind := range []endpoint.EventKind{
				endpoint.EventAdded, endpoint.EventRemoved, endpoint.EventEjected, endpoint.EventReturned, endpoint.EventPanic, endpoint.EventCalm, endpoint.EventLookup,
			} {
				want = append(want, "endpoint "+string(kind))
			}
			want = append(want, "closed during calls", "reason ok", "reason max_attempts", "reason caller_canceled", "reason deadline_exceeded", "reason breaker_open", "reason body_failed")
			for _, what := range want {
				if drawn[what] == 0 {
					t.Errorf("the storms had no %s", what)
				}
			}
			t.Log(drawn)
		})
	}
}

func words[T ~string](list []T) (all []string) {
	for _, one := range list {
		all = append(all, string(one))
	}
	return all
}

func FuzzStorm(f *testing.F) {
	for seed := range byte(10) {
		f.Add(bytes.Repeat([]byte{seed, 5 * seed, 17, 0, 251 - seed}, 30))
	}
	f.Fuzz(func(t *testing.T, script []byte) { weather(t, script[:min(len(script), 300)], false) })
}
