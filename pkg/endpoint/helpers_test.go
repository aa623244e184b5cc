package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/retryafter"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world is a set of endpoints whose behaviour a test controls. Each answers after its latency.
type world struct {
	t       *testing.T
	set     *endpoint.Set
	options endpoint.Options
	dns     *dns

	mu       sync.Mutex
	answers  map[string]answer // by address
	attempts map[string]int
	events   []endpoint.Event
}

// answer is how an endpoint behaves: it takes latency, and then fails with err, or answers.
type answer struct {
	latency time.Duration
	err     error
	status  int    // 200 if it is 0
	retry   string // Retry-After
	grpc    string // grpc-status of an answer without messages; "later" is one with messages
	body    string
}

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// newWorld returns a world with n endpoints from DNS, 10.0.0.1:80 and so on. change may change the
// options before the set is made.
func newWorld(t *testing.T, n int, change func(*endpoint.Options)) *world {
	t.Helper()
	w := &world{t: t, answers: map[string]answer{}, attempts: map[string]int{}, dns: &dns{}}
	for i := range n {
		w.dns.addresses = append(w.dns.addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}))
	}
	random := rand.New(rand.NewPCG(1, 2))
	w.options = endpoint.Options{
		Connections: endpoint.DefaultConnections(), Policy: endpoint.DefaultPolicy(), Resolver: w.dns,
		Random:  func() float64 { w.mu.Lock(); defer w.mu.Unlock(); return random.Float64() },
		Connect: func(address string) http.RoundTripper { return instance{w, address} },
		Notify:  func(e endpoint.Event) { w.mu.Lock(); defer w.mu.Unlock(); w.events = append(w.events, e) },
	}
	w.options.Policy.Resolve = endpoint.ResolveDNS
	if change != nil {
		change(&w.options)
	}
	w.set = endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, w.options)
	t.Cleanup(w.set.Close)
	return w
}

type instance struct {
	*world
	address string
}

func (i instance) RoundTrip(req *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.attempts[i.address]++
	a := i.answers[i.address]
	i.mu.Unlock()
	select {
	case <-time.After(a.latency):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	if a.err != nil {
		return nil, a.err
	}
	header := http.Header{}
	if a.retry != "" {
		header.Set("Retry-After", a.retry)
	}
	if a.grpc != "" {
		header.Set("Content-Type", "application/grpc")
		if a.grpc != "later" {
			header.Set("Grpc-Status", a.grpc)
		}
	}
	return &http.Response{StatusCode: max(a.status, http.StatusOK), Body: io.NopCloser(strings.NewReader(a.body)), Request: req, Header: header}, nil
}

func (w *world) answer(address int, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[name(address)] = a
}

// name returns the address of endpoint n.
func name(n int) string { return fmt.Sprintf("10.0.0.%d:80", n) }

// attempt makes one attempt of a call, and reports its health. It returns the endpoint.
func (w *world) attempt(c *endpoint.Call) (address string, state endpoint.LeaseState, h resilience.Health) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://orders/", nil)
	if err != nil {
		w.t.Error(err)
		return "", "", resilience.Unhealthy
	}
	l := new(endpoint.Lease)
	if err := w.set.Begin(w.t.Context(), l, c, time.Second); err != nil {
		w.t.Errorf("Begin: got error %v, want none", err)
		return "", "", resilience.Unhealthy
	}
	resp, err := l.RoundTrip(req, false)
	var retryAfter time.Duration
	switch {
	case err != nil || resp.StatusCode >= 500:
		h = resilience.Unhealthy
	case resp.StatusCode == http.StatusTooManyRequests, resp.Header.Get("Grpc-Status") == "8":
		h = resilience.Neutral
	default:
		h = resilience.Healthy
	}
	if resp != nil && h != resilience.Healthy {
		retryAfter = retryafter.Of(resp, time.Now())
	}
	l.Report(h, retryAfter)
	l.End(h)
	return l.Address(), l.State(), h
}

// eject makes endpoint n answer 503 until it is ejected.
func (w *world) eject(n int) {
	w.t.Helper()
	w.answer(n, answer{status: 503})
	for w.set.Ejections() == 0 {
		w.calls(1)
	}
}

// probe begins an attempt, which must be a probe.
func (w *world) probe(ctx context.Context, limit time.Duration) *endpoint.Lease {
	w.t.Helper()
	l := new(endpoint.Lease)
	if err := w.set.Begin(ctx, l, &endpoint.Call{Repeatable: true}, limit); err != nil || l.State() != endpoint.LeaseProbe {
		w.t.Fatalf("got %v and a lease %s, want the probe", err, l.State())
	}
	return l
}

// pace is the time between two calls.
const pace = 20 * time.Millisecond

// calls makes n calls of one attempt, and returns the number of attempts by endpoint.
func (w *world) calls(n int) map[string]int {
	w.t.Helper()
	w.mu.Lock()
	before := maps.Clone(w.attempts)
	w.mu.Unlock()
	for range n {
		w.attempt(&endpoint.Call{Repeatable: true})
		time.Sleep(pace)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := map[string]int{}
	for address, n := range w.attempts {
		counts[address] = n - before[address]
	}
	return counts
}

// kinds returns the events so far, as words.
func (w *world) kinds() (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		list = append(list, strings.TrimSpace(string(e.Kind)+" "+e.Address))
	}
	w.events = nil
	return list
}

func (w *world) wantEvents(want ...string) {
	w.t.Helper()
	if got := w.kinds(); !slices.Equal(got, want) {
		w.t.Errorf("got events %q, want %q", got, want)
	}
}

// dns is a resolver whose answers a test controls.
type dns struct {
	mu        sync.Mutex
	addresses []netip.Addr
	err       error
	takes     time.Duration
	lookups   int
}

func (d *dns) set(err error, takes time.Duration, addresses ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.takes, d.addresses = err, takes, nil
	for _, a := range addresses {
		d.addresses = append(d.addresses, netip.MustParseAddr(a))
	}
}

func (d *dns) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lookups
}

func (d *dns) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.lookups++
	takes, err, all := d.takes, d.err, slices.Clone(d.addresses)
	d.mu.Unlock()
	if network != "ip" || host != "orders" {
		return nil, fmt.Errorf("lookup of %s %s, want ip orders", network, host)
	}
	select {
	case <-time.After(takes):
		return all, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errLookup = errors.New("server misbehaving")

// addresses returns the endpoints of the set.
func (w *world) addresses() (list []string) {
	for _, s := range w.set.State() {
		list = append(list, s.Address)
	}
	return list
}

func (w *world) wantAddresses(want ...string) {
	w.t.Helper()
	if got := w.addresses(); !slices.Equal(got, want) {
		w.t.Errorf("got endpoints %q, want %q", got, want)
	}
}
