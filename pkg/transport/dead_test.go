package transport_test

import (
	"context"
	"errors"
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

	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// grave is three endpoints. The first is on a dead node: its dials get no answer.
type grave struct {
	set     *endpoint.Set
	lookups atomic.Int64
	gone    atomic.Bool // the first has left DNS
	dials   atomic.Int64
}

func (g *grave) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	g.lookups.Add(1)
	all := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
	if g.gone.Load() {
		all = all[1:]
	}
	return all, nil
}

func newGrave(t *testing.T, resolve endpoint.Resolve) *grave {
	t.Helper()
	g := &grave{}
	network := pipenet.New()
	for _, address := range []string{"10.0.0.2:80", "10.0.0.3:80"} {
		network.Serve(t, address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }))
	}
	o := endpoint.Options{
		Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections(), Resolver: g, Random: func() float64 { return 0 },
		DialContext: func(ctx context.Context, kind, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "10.0.0.1:") || address == "orders:80" && g.dials.Add(1) == 1 {
				<-ctx.Done()
				return nil, &net.OpError{Op: "dial", Net: kind, Err: ctx.Err()}
			}
			return network.Dial(ctx, kind, strings.Replace(address, "orders", "10.0.0.2", 1))
		},
	}
	o.Policy.Resolve, o.Policy.Refresh = resolve, time.Hour
	if resolve == endpoint.ResolveStatic {
		o.Policy.Addresses = []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"}
	}
	g.set = endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)
	t.Cleanup(g.set.Close)
	return g
}

// A dial without an answer has sent nothing. So a POST goes to another endpoint at once, as after a
// refused connection, and the dead one is ejected.
func TestPostOfADeadEndpointGoesToAnother(t *testing.T) {
	for _, resolve := range []endpoint.Resolve{endpoint.ResolveDNS, endpoint.ResolveStatic, endpoint.ResolveNone} {
		t.Run(string(resolve), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGrave(t, resolve)
				p := steady()
				rt := newTransport(t, g.set, p)
				spent := 0.0
				for i := range 30 {
					start := time.Now()
					r := call(t, rt, request(t, http.MethodPost, "http://orders/", strings.NewReader("once")))
					if r.err != nil || r.body != "ok" {
						t.Fatalf("call %d: got %q, error %v, attempts %q, want ok", i, r.body, r.err, r.reasons())
					}
					took, n := time.Since(start), len(r.report.Attempts)
					if want := p.AttemptTimeout * time.Duration(n-1); resolve != endpoint.ResolveNone && took != want {
						t.Errorf("call %d took %v, want %v for %d attempts: no backoff", i, took, want, n)
					}
					if n > 1 && !slices.Equal(r.reasons(), []resilience.Reason{resilience.ReasonAttemptTimeout, resilience.ReasonOK}) {
						t.Errorf("call %d: got attempts %q", i, r.reasons())
					}
					if spent += float64(n - 1); resolve == endpoint.ResolveNone {
						spent += float64(n - 1) // it may be an overload, so each timeout costs a token too
					}
					if left := p.Retry.Budget.Burst - spent; rt.State()[0].BudgetTokens != left {
						t.Errorf("call %d left %v tokens, want %v", i, rt.State()[0].BudgetTokens, left)
					}
					time.Sleep(11 * time.Second) // an endpoint that was slow is tried again
				}
				if s := g.set.State(); len(s) > 0 && (s[0].Requests < 5 || !s[0].Ejected) {
					t.Errorf("got %+v, want the dead endpoint ejected", s[0])
				}
			})
		})
	}
}

// The name is looked up at once: a dead pod may have left DNS.
func TestDeadEndpointIsLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrave(t, endpoint.ResolveDNS)
		rt := newTransport(t, g.set, steady())
		l := new(endpoint.Lease)
		if err := g.set.Begin(t.Context(), l, new(endpoint.Call), time.Second); err != nil {
			t.Fatal(err)
		}
		l.End(resilience.Neutral)
		g.gone.Store(true)
		for range 10 {
			get(t, rt, "http://orders/")
		}
		synctest.Wait()
		if n := g.lookups.Load(); n != 2 || len(g.set.State()) != 2 {
			t.Errorf("%d lookups and %d endpoints, want 2 lookups and no dead endpoint", n, len(g.set.State()))
		}
	})
}

// A request for another host is not sent to these endpoints, and blames nobody.
func TestRequestForAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrave(t, endpoint.ResolveStatic)
		rt := newTransport(t, g.set, steady())
		r := get(t, rt, "http://stock/")
		if !errors.Is(r.err, endpoint.ErrOtherHost) || !slices.Equal(r.reasons(), []resilience.Reason{resilience.ReasonInvalidRequest}) {
			t.Errorf("got error %v, attempts %q, want ErrOtherHost and one invalid_request", r.err, r.reasons())
		}
		if b := rt.State()[0].Breaker; b.Failures != 0 {
			t.Errorf("the circuit counts %s, want no failure", tally(b))
		}
		for _, s := range g.set.State() {
			if s.Latency != 0 || s.InFlight != 0 {
				t.Errorf("got %+v, want no latency and no request in flight", s)
			}
		}
	})
}

// A caller with little time says nothing about the endpoint.
func TestCallersDeadlineBlamesNoDial(t *testing.T) {
	for name, send := range map[string]func(t *testing.T, g *grave, req *http.Request) error{
		"under a policy": func(t *testing.T, g *grave, req *http.Request) error {
			t.Helper()
			return call(t, newTransport(t, g.set, steady()), req).err
		},
		"a Set by itself": func(t *testing.T, g *grave, req *http.Request) error {
			t.Helper()
			return call(t, g.set, req).err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGrave(t, endpoint.ResolveStatic)
				failed := 0
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					err := send(t, g, request(t, http.MethodGet, "http://orders/", nil).WithContext(ctx))
					cancel()
					if err != nil {
						failed++
						if e := new(resilience.Error); !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &e) && e.Timeout()) {
							t.Errorf("got error %v, want that the time was up", err)
						}
					}
				}
				if s := g.set.State()[0]; failed == 0 || s.Failures != 0 || g.set.Ejections() != 0 {
					t.Errorf("%d calls failed, %+v, %d ejections, want failed calls and no blame", failed, s, g.set.Ejections())
				}
			})
		})
	}
}

// While the endpoints restart one after the other, each refused connection is followed by an
// attempt at the other endpoint, even if the client makes few: the upstream sees only that one. The
// limit on the share of retries used to refuse some of them.
func TestAttemptAfterARefusedConnectionIsNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		addresses := []string{"10.0.0.1:80", "10.0.0.2:80"}
		gone := make([]atomic.Bool, len(addresses))
		for i, address := range addresses {
			network.Serve(t, address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if gone[i].Load() {
					panic(http.ErrAbortHandler) // its kept connections break too
				}
				_, _ = w.Write([]byte("ok"))
			}))
		}
		var mu sync.Mutex                     // the dials draw too, each in a goroutine of its own
		chance := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in each run
		o := endpoint.Options{
			Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections(),
			Random: func() float64 { mu.Lock(); defer mu.Unlock(); return chance.Float64() },
			DialContext: func(ctx context.Context, kind, address string) (net.Conn, error) {
				if gone[slices.Index(addresses, address)].Load() {
					return nil, &net.OpError{Op: "dial", Net: kind, Err: syscall.ECONNREFUSED}
				}
				return network.Dial(ctx, kind, address)
			},
		}
		o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, addresses
		set := endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)
		t.Cleanup(set.Close)
		rt := newTransport(t, set, transport.DefaultPolicy())
		refused := 0
		calls := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second / 2) {
				r := get(t, rt, "http://orders/")
				if r.body != "ok" {
					t.Errorf("got %q, error %v, attempts %q, want ok", r.body, r.err, r.reasons())
				}
				refused += len(r.reasons()) - 1
			}
		}
		calls(20 * time.Second)
		for i := range gone {
			gone[i].Store(true)
			calls(10 * time.Second)
			gone[i].Store(false)
			calls(5 * time.Second)
		}
		if refused < 5 {
			t.Errorf("%d attempts failed, want at least 5", refused)
		}
	})
}
