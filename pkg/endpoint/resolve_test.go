package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/pkg/endpoint"
)

func begin(w *world) error {
	l := new(endpoint.Lease)
	err := w.set.Begin(w.t.Context(), l, new(endpoint.Call), time.Second)
	l.End(0)
	return err
}

// Addresses that come and go are taken over. Endpoints that stay keep their state.
func TestAddressesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.answer(2, answer{status: 503})
		for w.set.Ejections() == 0 {
			w.calls(1)
		}
		w.wantEvents("ejected " + name(2))
		w.dns.set(nil, 0, "10.0.0.3", "10.0.0.2", "10.0.0.3") // another order, and one twice
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.wantAddresses(name(2), name(3))
		w.wantEvents("added "+name(3), "removed "+name(1))
		w.calls(20)
		if n := w.calls(100)[name(1)]; n > 0 {
			t.Errorf("the removed endpoint got %d calls, want none", n)
		}
		if s := w.set.State()[0]; s.Requests == 0 {
			t.Error("the endpoint that stayed has lost its counts")
		}
	})
}

func TestAddressesOfAllKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, nil)
		w.dns.set(nil, 0, "2001:db8::1", "::ffff:10.0.0.9", "10.0.0.9")
		w.calls(10)
		w.wantAddresses("10.0.0.9:80", "[2001:db8::1]:80")
	})
}

// Of a name with IPv4 and IPv6 addresses, a machine uses those that it has a route to.
func TestAddressesWithoutARoute(t *testing.T) {
	v4, v6 := "10.0.0.9:80", []string{"[2001:db8::1]:80", "[2001:db8::2]:80"}
	for title, tc := range map[string]struct {
		routes func(netip.Addr) bool
		found  []string
		want   []string
	}{
		"both":               {func(netip.Addr) bool { return true }, []string{"2001:db8::1", "10.0.0.9", "2001:db8::2"}, append([]string{v4}, v6...)},
		"no IPv6":            {netip.Addr.Is4, []string{"2001:db8::1", "10.0.0.9", "2001:db8::2"}, []string{v4}},
		"no IPv4":            {netip.Addr.Is6, []string{"2001:db8::1", "10.0.0.9", "2001:db8::2"}, v6},
		"one of the IPv6":    {func(a netip.Addr) bool { return a.String() != "2001:db8::1" }, []string{"2001:db8::1", "10.0.0.9", "2001:db8::2"}, append([]string{v4}, v6...)},
		"neither":            {func(netip.Addr) bool { return false }, []string{"2001:db8::1", "10.0.0.9", "2001:db8::2"}, append([]string{v4}, v6...)},
		"only IPv6, no IPv6": {netip.Addr.Is4, []string{"2001:db8::1", "2001:db8::2"}, v6},
		"only IPv4, no IPv4": {netip.Addr.Is6, []string{"10.0.0.9"}, []string{v4}},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 0, func(o *endpoint.Options) { o.Routed = tc.routes })
				w.dns.set(nil, 0, tc.found...)
				w.calls(1)
				w.wantAddresses(tc.want...)
			})
		})
	}
}

// A real connection over IPv6.
func TestRealIPv6(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	_ = up.Listener.Close()
	up.Listener = listener
	up.Start()
	t.Cleanup(up.Close)
	d := &dns{}
	d.set(nil, 0, "::1")
	o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections(), Resolver: d}
	o.Policy.Resolve = endpoint.ResolveDNS
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	set := endpoint.New(&url.URL{Scheme: "http", Host: "orders:" + port}, o)
	t.Cleanup(set.Close)
	resp, _, err := fetch.Read(set.RoundTrip(fetch.Request(t, http.MethodGet, "http://orders:"+port+"/", nil)))
	if err != nil || resp.StatusCode != http.StatusOK || set.State()[0].Address != "[::1]:"+port {
		t.Errorf("got %v, error %v, endpoints %+v, want status 200 from [::1]", resp, err, set.State())
	}
}

// Resolvers ask again after 5 s if a packet was lost. Such a lookup succeeds, and delays only the
// calls without an address.
func TestSlowLookupSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.dns.takes = 5100 * time.Millisecond
		start := time.Now()
		if err := begin(w); err != nil || time.Since(start) != w.dns.takes {
			t.Errorf("the first call: error %v after %v, want none after %v", err, time.Since(start), w.dns.takes)
		}
		w.dns.set(nil, 5100*time.Millisecond, "10.0.0.2")
		for range 12 { // a refresh, and the lookup
			start := time.Now()
			w.attempt(new(endpoint.Call))
			if took := time.Since(start); took > 0 {
				t.Errorf("a call waited %v for a lookup, want 0s", took)
			}
			time.Sleep(time.Second)
		}
		w.wantAddresses(name(2))
	})
}

func TestThousandAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, nil)
		for i := range 1000 {
			w.dns.addresses = append(w.dns.addresses, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		}
		if n := len(w.calls(5000)); n < 900 {
			t.Errorf("5000 calls reached %d endpoints, want nearly all of 1000", n)
		}
	})
}

// A failed, empty or slow lookup keeps the addresses, and delays no call.
func TestBadLookupsKeepTheAddresses(t *testing.T) {
	for name, bad := range map[string]func(*dns){
		"failed": func(d *dns) { d.set(errLookup, 0) },
		"empty":  func(d *dns) { d.set(nil, 0) },
		"slow":   func(d *dns) { d.set(errLookup, time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, nil)
				w.calls(10)
				bad(w.dns)
				for range 40 {
					start := time.Now()
					w.attempt(new(endpoint.Call))
					if took := time.Since(start); took > 0 {
						t.Errorf("a call waited %v for a lookup, want 0s", took)
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				w.wantAddresses("10.0.0.1:80", "10.0.0.2:80")
				if events := w.kinds(); len(events) == 0 || events[0] != "lookup_failed" {
					t.Errorf("got events %q, want lookup_failed", events)
				}
			})
		})
	}
}

// Without any address, calls fail at once, and lookups are at least a second apart.
func TestNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, nil)
		w.dns.set(errLookup, 0)
		for range 30 {
			if err := begin(w); !errors.Is(err, endpoint.ErrNoEndpoint) || !errors.Is(err, errLookup) {
				t.Errorf("got error %v, want ErrNoEndpoint and the resolver's", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.dns.count(); n > 4 {
			t.Errorf("%d lookups in 3 s, want at most 4", n)
		}
		w.dns.set(nil, 0, "10.0.0.1")
		time.Sleep(time.Second)
		if err := begin(w); err != nil {
			t.Errorf("got error %v once the name has an address, want none", err)
		}
	})
}

// The first call waits for the lookup, but no longer than it may.
func TestFirstLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.dns.takes = 2 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.set.Begin(ctx, new(endpoint.Lease), new(endpoint.Call), time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want the context's", err)
		}
		start := time.Now()
		if err := begin(w); err != nil || time.Since(start) != time.Second {
			t.Errorf("got error %v after %v, want none after 1s", err, time.Since(start))
		}
	})
}

// Lookups stop without requests. The first request afterwards catches up.
func TestLookupsStopWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.calls(1)
		time.Sleep(time.Hour)
		if n := w.dns.count(); n > 5 {
			t.Errorf("%d lookups in an hour without requests, want at most 5", n)
		}
		w.dns.set(nil, 100*time.Millisecond, "10.0.0.7")
		if address, _, _ := w.attempt(new(endpoint.Call)); address != "10.0.0.7:80" {
			t.Errorf("after an hour the call went to %s, want the new address", address)
		}
	})
}

// A set that replaces another takes its addresses as they are. It used to wait for a lookup if it
// replaced one that had not had a request.
func TestRenewedSetDoesNotWait(t *testing.T) {
	for renewals := 1; renewals <= 3; renewals++ {
		for title, tc := range map[string]struct {
			pause time.Duration // before the last renewal, and after it
			waits time.Duration
			calls int // before
		}{
			"at once":                {time.Millisecond, 0, 1},
			"within three refreshes": {7 * time.Second, 0, 1},
			"after an hour":          {time.Hour, 100 * time.Millisecond, 1},
			"without addresses":      {time.Millisecond, 100 * time.Millisecond, 0},
		} {
			t.Run(fmt.Sprintf("%s, %d renewals", title, renewals), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 2, nil)
					w.calls(tc.calls)
					w.dns.set(nil, 100*time.Millisecond, "10.0.0.7")
					for n := range renewals {
						if n == renewals-1 {
							time.Sleep(tc.pause)
						}
						old := w.set
						w.set = old.Renew(w.options)
						old.Close()
						t.Cleanup(w.set.Close)
					}
					time.Sleep(tc.pause)
					start := time.Now()
					address, _, _ := w.attempt(new(endpoint.Call))
					if took := time.Since(start); took != tc.waits || took > 0 && address != name(7) {
						t.Errorf("the call took %v and went to %s, want %v for a lookup", took, address, tc.waits)
					}
				})
			})
		}
	}
}

// A failed dial is a sign that an address is gone. The name is looked up at once, but not twice
// within a second.
func TestDialErrorLooksUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.answer(2, answer{err: errRefused})
		w.calls(4)
		time.Sleep(1100 * time.Millisecond)
		w.dns.set(nil, 0, "10.0.0.1")
		before := w.dns.count()
		w.calls(100) // two seconds
		w.wantAddresses("10.0.0.1:80")
		if n := w.dns.count() - before; n > 2 {
			t.Errorf("%d lookups within two seconds, want at most 2", n)
		}
	})
}

// Failed dials do not slow down lookups that are more frequent than theirs.
func TestDialErrorsWithFrequentRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, func(o *endpoint.Options) { o.Policy.Refresh = 200 * time.Millisecond })
		w.answer(2, answer{err: errRefused})
		w.calls(10)
		before := w.dns.count()
		for range 100 { // two seconds
			w.attempt(&endpoint.Call{})
			w.attempt(&endpoint.Call{})
			time.Sleep(pace)
		}
		if n := w.dns.count() - before; n < 9 || n > 11 {
			t.Errorf("%d lookups within two seconds, want 10", n)
		}
	})
}

// Close ends a lookup, and what comes later uses what is known.
func TestCloseDuringALookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.dns.takes = time.Minute
		done := make(chan error)
		go func() { done <- begin(w) }()
		synctest.Wait()
		w.set.Close()
		if err := <-done; !errors.Is(err, endpoint.ErrNoEndpoint) {
			t.Errorf("got error %v, want ErrNoEndpoint", err)
		}
		if err := begin(w); !errors.Is(err, endpoint.ErrNoEndpoint) {
			t.Errorf("after Close: got error %v, want ErrNoEndpoint", err)
		}
	})
}

// A lookup that Close ends has not failed.
func TestCloseTellsNoFailedLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.calls(1)
		w.dns.set(nil, time.Minute)
		time.Sleep(6 * time.Second)
		w.set.Close()
		w.wantEvents()
		if n := w.dns.count(); n != 2 {
			t.Errorf("%d lookups, want one that Close ended", n)
		}
	})
}

func TestStaticAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, func(o *endpoint.Options) {
			o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{"a:1", "[::1]:2"}
		})
		if counts := w.calls(100); len(counts) != 2 || w.dns.count() != 0 {
			t.Errorf("got %v and %d lookups, want both addresses and none", counts, w.dns.count())
		}
	})
}

func TestPolicyMistakes(t *testing.T) {
	for want, change := range map[string]func(*endpoint.Policy){
		`resolve: expected one of none, dns, static, got "srv"`:                          func(p *endpoint.Policy) { p.Resolve = "srv" },
		"addresses: must have at least one host:port with resolve: static":               func(p *endpoint.Policy) { p.Resolve = endpoint.ResolveStatic },
		"addresses: must be left out with resolve: none; they belong to resolve: static": func(p *endpoint.Policy) { p.Addresses = []string{"a:1"} },
		`addresses[0]: must be a host:port such as 10.0.0.7:8080, got "a"`:               func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"a"} },
		`addresses[0]: must be a host:port such as 10.0.0.7:8080, got "a:0"`:             func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"a:0"} },
		`addresses[0]: must be a host:port such as 10.0.0.7:8080, got "a:080"`:           func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"a:080"} },
		`addresses[0]: must be a host:port such as 10.0.0.7:8080, got "a b:80"`:          func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"a b:80"} },
		`addresses[0]: must be a host:port such as 10.0.0.7:8080, got "10.0.0.7/x:80"`:   func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"10.0.0.7/x:80"} },
		"addresses[1]: a:1 is listed twice":                                              func(p *endpoint.Policy) { p.Resolve, p.Addresses = endpoint.ResolveStatic, []string{"a:1", "a:1"} },
		"refresh: must be from 100ms to 1h0m0s, got 1ms":                                 func(p *endpoint.Policy) { p.Refresh = time.Millisecond },
		"eject.consecutiveFailures: must be from 0 (never) to 1073741824, got -1":        func(p *endpoint.Policy) { p.Eject.ConsecutiveFailures = -1 },
		"eject.failureRatio: must be from 0 (never) to 1, got 2":                         func(p *endpoint.Policy) { p.Eject.FailureRatio = 2 },
		"eject.minRequests: must be from 1 to 1073741824, got 0":                         func(p *endpoint.Policy) { p.Eject.MinRequests = 0 },
		"eject.window: must be from 10ms to 24h0m0s, got 0s":                             func(p *endpoint.Policy) { p.Eject.Window = 0 },
		"eject.ejectFor: must be above 0, got 0s":                                        func(p *endpoint.Policy) { p.Eject.EjectFor = 0 },
		"eject.maxEjectFor: must be at least ejectFor (1s), got 1ms":                     func(p *endpoint.Policy) { p.Eject.MaxEjectFor = time.Millisecond },
		"eject.maxEjected: must be from 0 (none) to 1, got 1.5":                          func(p *endpoint.Policy) { p.Eject.MaxEjected = 1.5 },
	} {
		t.Run(want, func(t *testing.T) {
			p := endpoint.DefaultPolicy()
			change(&p)
			if err := p.Validate(); err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}
	if err := endpoint.DefaultPolicy().Validate(); err != nil {
		t.Errorf("the defaults: got error %v, want none", err)
	}
}

func TestResolveText(t *testing.T) {
	var r endpoint.Resolve
	if err := r.UnmarshalText([]byte("dns")); err != nil || r != endpoint.ResolveDNS {
		t.Errorf("got %s, error %v, want dns", r, err)
	}
	if err := r.UnmarshalText([]byte("srv")); err == nil || err.Error() != fmt.Sprintf("expected one of none, dns, static, got %q", "srv") {
		t.Errorf("got error %v, want one that lists the values", err)
	}
}
