package endpoint_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Endpoints that take the same time share the calls equally.
func TestEqualEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		for address, n := range w.calls(3000) {
			if n < 900 || n > 1100 {
				t.Errorf("%s got %d of 3000 calls, want 1000 ± 100", address, n)
			}
		}
	})
}

func TestSlowEndpointIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		for i := range 3 {
			w.answer(i+1, answer{latency: 5 * time.Millisecond})
		}
		w.answer(2, answer{latency: 500 * time.Millisecond})
		if n := w.calls(1000)[name(2)]; n > 10 {
			t.Errorf("the slow endpoint got %d of 1000 calls, want at most 10", n)
		}
	})
}

// Requests in flight count: a hanging endpoint gets few requests even before one of them times out.
func TestHangingEndpointGetsFewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		for i := range 3 {
			w.answer(i+1, answer{latency: 5 * time.Millisecond})
		}
		w.calls(100)
		w.answer(2, answer{latency: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				l := new(endpoint.Lease)
				if err := w.set.Begin(ctx, l, new(endpoint.Call), time.Second); err != nil {
					t.Error(err)
					return
				}
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders/", nil)
				_, err := l.RoundTrip(req, false)
				if err != nil {
					l.End(resilience.Neutral)
				}
				l.End(resilience.Healthy)
			})
			time.Sleep(2 * time.Millisecond)
		}
		if s := w.set.State()[1]; s.InFlight > 10 {
			t.Errorf("the hanging endpoint has %d of 500 requests, want at most 10", s.InFlight)
		}
		cancel()
		all.Wait()
		for _, s := range w.set.State() {
			if s.InFlight != 0 {
				t.Errorf("%s has %d requests in flight after the end, want 0", s.Address, s.InFlight)
			}
		}
	})
}

// The attempts of one call go to different endpoints, until it has tried all.
func TestRetryGoesToAnotherEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, func(o *endpoint.Options) { o.Policy.Eject.MaxEjected = 0 })
		for i := range 4 {
			w.answer(i+1, answer{status: 503})
		}
		for range 50 {
			c := &endpoint.Call{}
			tried := map[string]bool{}
			for range 4 {
				address, _, _ := w.attempt(c)
				tried[address] = true
			}
			if len(tried) != 4 {
				t.Errorf("four attempts of a call tried %d endpoints, want 4", len(tried))
			}
			if address, _, _ := w.attempt(c); !tried[address] {
				t.Errorf("the fifth attempt went to %s, want one of the four", address)
			}
		}
	})
}

// An endpoint that fails five times in a row is left out. One probe brings it back.
func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		w.answer(2, answer{status: 503})
		n := 0
		for w.set.Ejections() == 0 && n < 20 {
			n += w.calls(1)[name(2)]
		}
		if n != 5 {
			t.Errorf("the bad endpoint got %d calls before its ejection, want 5", n)
		}
		w.wantEvents("ejected " + name(2))
		if s := w.set.State()[1]; !s.Ejected || s.Circuit != resilience.Open || w.set.Ejections() != 1 {
			t.Errorf("got %+v and %d ejections, want it ejected, once", s, w.set.Ejections())
		}
		time.Sleep(1300 * time.Millisecond) // 1 s ± 20 %
		if n := w.calls(50)[name(2)]; n != 1 {
			t.Errorf("the bad endpoint got %d calls after its time, want one probe", n)
		}
		w.answer(2, answer{})
		if n := w.calls(25)[name(2)]; n != 0 { // the second period is twice as long
			t.Errorf("the bad endpoint got %d calls in its second period, want none", n)
		}
		time.Sleep(1300 * time.Millisecond)
		if address, state, _ := w.attempt(&endpoint.Call{Repeatable: true}); address != name(2) || state != endpoint.LeaseProbe {
			t.Errorf("the call went to %s as %s, want the probe of %s", address, state, name(2))
		}
		w.wantEvents("returned " + name(2))
		if n := w.calls(300)[name(2)]; n < 60 {
			t.Errorf("the endpoint got %d of 300 calls after its return, want its share", n)
		}
	})
}

// A probe that is told to come later decides nothing. The next one waits, and for as long as told.
// The call goes on elsewhere.
func TestRateLimitedProbe(t *testing.T) {
	for title, tc := range map[string]struct {
		retry string
		most  int // of probes in six seconds
	}{
		"at once": {"", 6},
		"20 s":    {"20", 1},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				w.eject(2)
				w.answer(2, answer{status: 429, retry: tc.retry})
				probes := 0
				for range 300 { // six seconds
					c := &endpoint.Call{Repeatable: true}
					first, _, h := w.attempt(c)
					if first == name(2) {
						probes++
					}
					if h == resilience.Neutral {
						if second, _, _ := w.attempt(c); second == first {
							t.Fatalf("both attempts of a call went to %s", first)
						}
					}
					time.Sleep(pace)
				}
				if probes < 1 || probes > tc.most {
					t.Errorf("the endpoint got %d of 300 calls, want 1 to %d", probes, tc.most)
				}
				w.answer(2, answer{})
				time.Sleep(21 * time.Second)
				if n := w.calls(300)[name(2)]; n < 60 {
					t.Errorf("the endpoint got %d of 300 calls after it recovered, want its share", n)
				}
			})
		})
	}
}

// A Retry-After keeps no probe away from endpoints that get calls anyway: too many fail, or there
// is no other one.
func TestRetryAfterWhileNobodyIsOut(t *testing.T) {
	for name, endpoints := range map[string]int{"panic": 3, "the only one": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := endpoints / 3 // once only one of three is left, it is out for as long as it asked
				w := newWorld(t, endpoints, nil)
				for n := range endpoints {
					w.answer(n+1, answer{status: 503, retry: "60"})
				}
				w.calls(250) // five seconds
				for n := range endpoints {
					w.answer(n+1, answer{})
				}
				w.calls(750)
				failing := 0
				for _, s := range w.set.State() {
					if s.Circuit != resilience.Closed {
						failing++
					}
				}
				if failing > out {
					t.Errorf("%d of %d circuits are not closed after 15 good seconds, want at most %d", failing, endpoints, out)
				}
			})
		})
	}
}

// Also in a panic a retry goes to an endpoint that the call has not tried, although one that it has
// tried waits for a probe.
func TestRetryIsNoSecondProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		w.answer(1, answer{status: 503})
		w.answer(2, answer{status: 503})
		w.calls(250)
		time.Sleep(time.Minute) // both wait for a probe
		c := &endpoint.Call{Repeatable: true}
		first, state, _ := w.attempt(c)
		if state != endpoint.LeaseProbe {
			t.Fatalf("the first attempt went to %s as %s, want a probe", first, state)
		}
		time.Sleep(time.Minute)
		if second, _, _ := w.attempt(c); second == first {
			t.Errorf("both attempts went to %s", first)
		}
	})
}

// What the beginning of an answer shows: a good one gives the endpoint's latency, and settles a
// probe whose body takes long.
func TestAnswersThatAreMeasured(t *testing.T) {
	for name, tc := range map[string]struct {
		answer answer
		good   bool
	}{
		"200":                               {answer{}, true},
		"404":                               {answer{status: 404}, true},
		"gRPC, messages follow":             {answer{grpc: "later"}, true},
		"gRPC, OK without messages":         {answer{grpc: "0"}, true},
		"gRPC, NOT_FOUND":                   {answer{grpc: "5"}, true},
		"429":                               {answer{status: 429}, false},
		"503":                               {answer{status: 503}, false},
		"gRPC, UNAVAILABLE":                 {answer{grpc: "14"}, false},
		"gRPC, INTERNAL":                    {answer{grpc: "13"}, false},
		"gRPC, DATA_LOSS":                   {answer{grpc: "15"}, false},
		"gRPC, DEADLINE_EXCEEDED":           {answer{grpc: "4"}, false},
		"gRPC, RESOURCE_EXHAUSTED":          {answer{grpc: "8"}, false},
		"gRPC, a status that is no number":  {answer{grpc: "x"}, false},
		"gRPC, UNKNOWN and not well-formed": {answer{grpc: "99"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				w.eject(2)
				tc.answer.latency = 40 * time.Millisecond
				w.answer(2, tc.answer)
				time.Sleep(12 * time.Second) // the latency so far is forgotten
				l := w.probe(t.Context(), time.Second)
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders/", nil)
				if _, err := l.RoundTrip(req, false); err != nil {
					t.Fatal(err)
				}
				if got := w.set.State()[1].Latency; (got == 40*time.Millisecond) != tc.good {
					t.Errorf("its latency is %v after an answer that took 40ms, want it measured: %v", got, tc.good)
				}
				time.Sleep(3 * time.Second)
				if got := w.set.State()[1].Circuit; (got == resilience.Closed) != tc.good {
					t.Errorf("its circuit is %v while the answer goes on, want closed: %v", got, tc.good)
				}
				l.End(resilience.Neutral)
			})
		})
	}
}

// An endpoint that refuses calls at once has the fewest in flight and the lowest latency. It still
// gets no more than the others.
func TestRateLimitedEndpointGetsNoMore(t *testing.T) {
	for name, refusal := range map[string]answer{
		"429":                {status: 429, latency: time.Millisecond},
		"RESOURCE_EXHAUSTED": {grpc: "8", latency: time.Millisecond},
	} {
		for load, gap := range map[string]time.Duration{"few calls": pace, "many calls": 500 * time.Microsecond} {
			t.Run(name+", "+load, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 3, nil)
					for n := 1; n <= 3; n++ {
						w.answer(n, answer{latency: 10 * time.Millisecond})
					}
					w.calls(30)
					w.answer(2, refusal)
					var refused atomic.Int64
					var wg sync.WaitGroup
					const calls = 2000
					for range calls {
						wg.Go(func() {
							if _, _, h := w.attempt(&endpoint.Call{Repeatable: true}); h == resilience.Neutral {
								refused.Add(1)
							}
						})
						time.Sleep(gap)
					}
					wg.Wait()
					if n := refused.Load(); n == 0 || n > 0.34*calls {
						t.Errorf("%d of %d calls were refused, want some, at most a third", n, calls)
					}
				})
			})
		}
	}
}

// Only a call that can be repeated is risked as a probe, unless there is none for a second.
func TestProbePrefersRepeatableCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		w.eject(2)
		time.Sleep(1250 * time.Millisecond)
		for range 100 {
			if address, _, _ := w.attempt(&endpoint.Call{}); address == name(2) {
				t.Fatal("a call that cannot be repeated was the probe")
			}
		}
		time.Sleep(1100 * time.Millisecond)
		if address, state, _ := w.attempt(&endpoint.Call{}); address != name(2) || state != endpoint.LeaseProbe {
			t.Errorf("after a second the call went to %s as %s, want the probe", address, state)
		}
	})
}

// A share of failures ejects too, although successes come between.
func TestEjectionByRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, func(o *endpoint.Options) { o.Policy.Eject.MinRequests = 5 })
		for i := 0; len(w.kinds()) == 0; i++ {
			if i == 5000 {
				t.Fatal("an endpoint with 67 % failures was not ejected within 10 s")
			}
			w.answer(1, answer{status: []int{503, 503, 200}[i%3]})
			w.attempt(new(endpoint.Call))
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// No more than maxEjected are left out. If more would have to go, none is.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		w.answer(1, answer{status: 503})
		w.answer(2, answer{status: 503})
		for range 600 {
			w.attempt(&endpoint.Call{})
			time.Sleep(pace)
		}
		for _, s := range w.set.State() {
			if s.Ejected {
				t.Errorf("%s is ejected, want none with two of three bad", s.Address)
			}
		}
		events := w.kinds()
		if len(events) != 2 || events[1] != "panic" {
			t.Errorf("got events %q, want an ejection and then panic", events)
		}
		if counts := w.calls(100); counts[name(3)] < 95 {
			t.Errorf("got %v of 100 calls, want nearly all at the good one", counts)
		}
		// Calls that cannot be repeated, also while the bad ones wait for their probes.
		for n := 1; n <= 3; n++ {
			w.answer(n, answer{latency: 10 * time.Millisecond, status: []int{503, 503, 200}[n-1]})
		}
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range 20_000 { // 40 seconds
			wg.Go(func() {
				if _, _, h := w.attempt(&endpoint.Call{}); h != resilience.Healthy {
					failed.Add(1)
				}
			})
			time.Sleep(2 * time.Millisecond)
		}
		wg.Wait()
		if n := failed.Load(); n > 6 { // probes
			t.Errorf("%d of 20000 calls failed, want at most 6: the third endpoint works", n)
		}
		w.answer(3, answer{})
		w.answer(1, answer{})
		w.answer(2, answer{})
		for range 50 { // until the probes have succeeded
			w.calls(20)
			time.Sleep(time.Second)
		}
		for address, n := range w.calls(300) {
			if n < 60 {
				t.Errorf("%s got %d of 300 calls after all have recovered, want its share", address, n)
			}
		}
	})
}

// What is told and counted is what happens: an endpoint is ejected when it is left out, be it only
// at the end of a panic, and returned when it works again, be it during one.
func TestEventsTellWhatHappens(t *testing.T) {
	fail := func(w *world, n int) {
		for w.set.State()[n-1].Circuit == resilience.Closed {
			w.answer(n, answer{status: 503})
			w.calls(1)
		}
	}
	recover := func(w *world, n int) {
		w.answer(n, answer{})
		for w.set.State()[n-1].Circuit != resilience.Closed {
			w.calls(1)
		}
	}
	for title, tc := range map[string]struct {
		endpoints int
		happens   func(*world)
		events    []string
		ejections uint64
	}{
		"the only one fails":              {1, func(w *world) { fail(w, 1) }, nil, 0},
		"the only one fails and recovers": {1, func(w *world) { fail(w, 1); recover(w, 1) }, nil, 0},
		"one fails and recovers":          {3, func(w *world) { fail(w, 1); recover(w, 1) }, []string{"ejected " + name(1), "returned " + name(1)}, 1},
		"two fail, the first recovers": {3, func(w *world) { fail(w, 1); fail(w, 2); recover(w, 1) }, []string{
			"ejected " + name(1), "panic", "calm", "returned " + name(1), "ejected " + name(2),
		}, 2},
		"two fail, the second recovers": {3, func(w *world) { fail(w, 1); fail(w, 2); recover(w, 2) }, []string{
			"ejected " + name(1), "panic", "calm", "ejected " + name(1),
		}, 2},
		"the other one leaves DNS": {2, func(w *world) { fail(w, 1); w.dns.set(nil, 0, "10.0.0.1"); w.calls(300); recover(w, 1) }, []string{
			"ejected " + name(1), "removed " + name(2), "returned " + name(1),
		}, 1},
		"all leave DNS in a panic but one": {3, func(w *world) { fail(w, 1); fail(w, 2); w.dns.set(nil, 0, "10.0.0.1"); w.calls(300) }, []string{
			"ejected " + name(1), "panic", "calm", "removed " + name(2), "removed " + name(3),
		}, 1},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.endpoints, nil)
				w.calls(1)
				tc.happens(w)
				got := w.kinds()
				if i := slices.Index(got, "removed "+name(3)); i > 0 {
					slices.Sort(got[i-1:]) // they leave in no order
				}
				if !slices.Equal(got, tc.events) || w.set.Ejections() != tc.ejections {
					t.Errorf("got events %q and %d ejections, want %q and %d", got, w.set.Ejections(), tc.events, tc.ejections)
				}
			})
		})
	}
}

func TestMaxEjected(t *testing.T) {
	for name, tc := range map[string]struct {
		endpoints int
		max       float64
		bad       int
		ejected   int
		err       error
	}{
		"half of three, one bad":  {3, 0.5, 1, 1, nil},
		"half of two, one bad":    {2, 0.5, 1, 1, nil},
		"half of four, three bad": {4, 0.5, 3, 0, nil},
		"none":                    {3, 0, 1, 0, nil},
		"the only one":            {1, 1, 1, 0, nil},
		"all of two":              {2, 1, 2, 2, endpoint.ErrEjected},
		"29 of fifty, 29 bad":     {50, 0.58, 29, 29, nil}, // in floating point, 50 * 0.58 is less
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.endpoints, func(o *endpoint.Options) { o.Policy.Eject.MaxEjected = tc.max })
				for i := range tc.bad {
					w.answer(i+1, answer{status: 503})
				}
				for range 1000 * tc.bad {
					time.Sleep(pace)
					l := new(endpoint.Lease)
					if err := w.set.Begin(t.Context(), l, new(endpoint.Call), time.Second); err != nil {
						break
					}
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders/", nil)
					if resp, err := l.RoundTrip(req, false); err != nil || resp.StatusCode != http.StatusOK {
						l.End(resilience.Unhealthy)
					}
					l.End(resilience.Healthy)
				}
				ejected := 0
				for _, s := range w.set.State() {
					if s.Ejected {
						ejected++
					}
				}
				err := w.set.Begin(t.Context(), new(endpoint.Lease), new(endpoint.Call), time.Second)
				if ejected != tc.ejected || !errors.Is(err, tc.err) {
					t.Errorf("%d endpoints are ejected, error %v, want %d, %v", ejected, err, tc.ejected, tc.err)
				}
			})
		})
	}
}

// An endpoint that asks for time gets it.
func TestRetryAfterKeepsRequestsAway(t *testing.T) {
	for name, h := range map[string]resilience.Health{"503": resilience.Unhealthy, "429": resilience.Neutral} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				w.calls(30)
				var told string
				for told == "" {
					l := new(endpoint.Lease)
					if err := w.set.Begin(t.Context(), l, new(endpoint.Call), time.Second); err != nil {
						t.Fatal(err)
					}
					l.Report(h, 20*time.Second)
					l.End(resilience.Healthy)
					told = l.Address()
				}
				if n := w.calls(300)[told]; n > 0 {
					t.Errorf("the endpoint got %d calls, want none", n)
				}
				time.Sleep(21 * time.Second)
				if n := w.calls(300)[told]; n < 60 {
					t.Errorf("the endpoint got %d of 300 calls after its time, want its share", n)
				}
			})
		})
	}
}

// OthersServe is the reason not to blame the upstream.
func TestOthersServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.calls(20)
		l := new(endpoint.Lease)
		if err := w.set.Begin(t.Context(), l, new(endpoint.Call), time.Second); err != nil {
			t.Fatal(err)
		}
		if !l.OthersServe() {
			t.Error("the other endpoint has just answered, want OthersServe")
		}
		time.Sleep(2 * time.Second)
		if l.OthersServe() {
			t.Error("nobody has answered for two seconds, want no OthersServe")
		}
		l.End(resilience.Neutral)
		if new(endpoint.Lease).OthersServe() {
			t.Error("a lease without an endpoint has no others")
		}
	})
}

// A Set is also a RoundTripper by itself.
func TestRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.answer(1, answer{status: 503, body: "no"})
		w.answer(2, answer{body: "yes"})
		client := &http.Client{Transport: w.set}
		bad := 0
		for range 300 {
			time.Sleep(pace)
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders/", nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				bad++
			}
		}
		if bad > 7 {
			t.Errorf("%d of 300 calls failed, want 5 until the ejection, and at most 2 probes", bad)
		}
		for _, s := range w.set.State() {
			if s.InFlight != 0 {
				t.Errorf("%s has %d requests in flight, want 0", s.Address, s.InFlight)
			}
		}
	})
}

// A Set by itself judges a status as the pipeline does, and does what a Retry-After asks.
func TestRoundTripJudgesTheStatus(t *testing.T) {
	for title, tc := range map[string]struct {
		answer answer
		health string // healthy, failure, or away: neither, but it gets no more requests
	}{
		"404":                    {answer{status: 404}, "healthy"},
		"501":                    {answer{status: 501}, "healthy"},
		"508":                    {answer{status: 508}, "healthy"},
		"500":                    {answer{status: 500}, "failure"},
		"504":                    {answer{status: 504}, "failure"},
		"503 with a Retry-After": {answer{status: 503, retry: "20"}, "away"},
		"429 with a Retry-After": {answer{status: 429, retry: "20"}, "away"},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2, nil)
				w.answer(1, tc.answer)
				for range 200 {
					resp, _, err := fetch.Read(w.set.RoundTrip(fetch.Request(t, http.MethodGet, "http://orders/", nil)))
					if err != nil {
						t.Fatal(resp, err)
					}
					time.Sleep(pace)
				}
				ejected, n := w.set.Ejections(), w.set.State()[0].Requests
				switch {
				case tc.health == "healthy" && (ejected > 0 || n < 70),
					tc.health == "failure" && n > 8,
					tc.health == "away" && n != 1:
					t.Errorf("the endpoint got %d of 200 requests and %d ejections, want it %s", n, ejected, tc.health)
				}
			})
		})
	}
}

// A redirect to another host must not reach these endpoints: they are not that host.
func TestRedirectToAnotherHost(t *testing.T) {
	for title, tc := range map[string]struct {
		location string
		other    bool
	}{
		"the same host":    {"/b", false},
		"its default port": {"http://orders:80/b", false},
		"in capitals":      {"HTTP://ORDERS/b", false},
		"another host":     {"http://stock/b", true},
		"another port":     {"http://orders:81/b", true},
		"another scheme":   {"https://orders/b", true},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				paths := map[string]int{}
				w := newWorld(t, 2, func(o *endpoint.Options) {
					o.Connect = func(string) http.RoundTripper {
						return roundTripper(func(r *http.Request) (*http.Response, error) {
							time.Sleep(5 * time.Millisecond)
							paths[r.URL.Path]++
							resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}, Request: r}
							if r.URL.Path == "/a" {
								resp.StatusCode = http.StatusFound
								resp.Header.Set("Location", tc.location)
							}
							return resp, nil
						})
					}
				})
				_, _, err := fetch.Read((&http.Client{Transport: w.set}).Do(fetch.Request(t, http.MethodGet, "http://orders/a", nil)))
				if errors.Is(err, endpoint.ErrOtherHost) != tc.other || (err != nil) != tc.other || (paths["/b"] == 0) != tc.other {
					t.Errorf("got error %v, requests %v, want ErrOtherHost and no request for /b: %v", err, paths, tc.other)
				}
				for _, s := range w.set.State() {
					if s.InFlight != 0 || s.Failures != 0 || s.Latency.Round(time.Millisecond) != time.Duration(min(s.Requests, 1))*5*time.Millisecond {
						t.Errorf("got %+v, want no request in flight, no failure, and a latency of 5ms after a request", s)
					}
				}
				if n := w.set.State()[0].Requests + w.set.State()[1].Requests; n != uint64(paths["/a"]+paths["/b"]) {
					t.Errorf("%d requests count, want those that the endpoints got: %v", n, paths)
				}
			})
		})
	}
}

// A request for another host says nothing about the endpoint that was to get it. Such an endpoint
// used to look faster than all others until its first answer, so it got every call of a burst.
func TestOtherHostIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		for range 30 {
			l := new(endpoint.Lease)
			if err := w.set.Begin(t.Context(), l, new(endpoint.Call), time.Second); err != nil {
				t.Fatal(err)
			}
			if _, err := l.RoundTrip(fetch.Request(t, http.MethodGet, "http://stock/", nil), false); !errors.Is(err, endpoint.ErrOtherHost) {
				t.Errorf("got error %v, want ErrOtherHost", err)
			}
			l.Report(resilience.Neutral, 0)
			l.End(resilience.Neutral)
		}
		for _, s := range w.set.State() {
			if s.Latency != 0 || s.InFlight != 0 || s.Failures != 0 {
				t.Errorf("got %+v, want no latency, no failure and no request in flight", s)
			}
		}
	})
}

// A request for another host neither waits for a lookup nor takes the probe of an endpoint.
func TestOtherHostTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := func(w *world) {
			t.Helper()
			if _, _, err := fetch.Read(w.set.RoundTrip(fetch.Request(t, http.MethodGet, "http://stock/", nil))); !errors.Is(err, endpoint.ErrOtherHost) {
				t.Errorf("got error %v, want ErrOtherHost", err)
			}
		}
		w := newWorld(t, 2, nil)
		if other(w); w.dns.count() != 0 {
			t.Errorf("%d lookups, want none", w.dns.count())
		}
		w.eject(2)
		w.answer(2, answer{})
		time.Sleep(3 * time.Second) // the probe is due, for any call
		requests := w.set.State()[1].Requests
		if other(w); w.set.State()[1].Requests != requests {
			t.Error("the request for another host took the probe")
		}
		if address, state, _ := w.attempt(new(endpoint.Call)); address != name(2) || state != endpoint.LeaseProbe {
			t.Errorf("the call after it went to %s as %s, want the probe of %s", address, state, name(2))
		}
	})
}

// An endpoint that is ejected again is ejected for its new period, also if its circuit's change has
// not been told yet. The time of the last period used to be taken, which was over.
func TestEjectionTellsItsOwnPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told, ejected := make(chan struct{}), make(chan endpoint.Event, 10)
		w := newWorld(t, 0, func(o *endpoint.Options) {
			o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{name(1), name(2), name(3)}
			o.Notify = func(e endpoint.Event) {
				if e.Kind == endpoint.EventEjected {
					ejected <- e
					<-told // so the endpoint's next changes wait
				}
			}
		})
		state := func() endpoint.State { return w.set.State()[1] }
		look := func() { w.set.SetAddresses([]string{name(1), name(2), name(3)}) } // the set takes the circuits' states
		w.answer(2, answer{status: 503})
		var first sync.WaitGroup
		first.Go(func() {
			for w.set.Ejections() == 0 {
				w.calls(1)
			}
		})
		<-ejected
		w.answer(1, answer{latency: 50 * time.Millisecond}) // else the endpoint, whose last call has not ended, gets none
		w.answer(2, answer{})
		w.answer(3, answer{latency: 50 * time.Millisecond})
		until := func(want resilience.State) {
			t.Helper()
			for n := 0; state().Circuit != want; n++ {
				if w.calls(1); n == 1000 {
					t.Fatalf("the circuit is %s after 1000 calls, want %s", state().Circuit, want)
				}
			}
			look()
		}
		time.Sleep(3 * time.Second)
		look()
		until(resilience.Closed)
		w.answer(2, answer{status: 503})
		until(resilience.Open)
		close(told)
		if e := <-ejected; e.Address != name(2) || e.For < 500*time.Millisecond {
			t.Errorf("got %+v, want the second ejection of %s, for about a second", e, name(2))
		}
		first.Wait()
	})
}

// An ejected endpoint gets no probe for as long as it asked, and the event says so.
func TestEjectionTellsTheRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, func(o *endpoint.Options) { o.Policy.Eject.ConsecutiveFailures = 1 })
		w.answer(2, answer{status: 503, retry: "20"})
		for w.set.Ejections() == 0 {
			w.calls(1)
		}
		if e := w.events[0]; e.Kind != endpoint.EventEjected || e.For != 20*time.Second {
			t.Errorf("got %+v, want the ejection, for 20 s", e)
		}
	})
}

// SetAddresses takes an address that is listed twice once.
func TestAddressListedTwice(t *testing.T) {
	w := newWorld(t, 0, func(o *endpoint.Options) {
		o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{name(1)}
	})
	w.set.SetAddresses([]string{name(2), name(1), name(2), name(1)})
	w.wantAddresses(name(2), name(1))
	w.wantEvents("added " + name(2))
	w.set.SetAddresses([]string{name(1)})
	w.wantEvents("removed " + name(2))
}

// Whatever a RoundTripper does, its request does not stay in flight.
func TestRoundTripperThatBreaksTheRules(t *testing.T) {
	for name, next := range map[string]func() (*http.Response, error){
		"panic":   func() (*http.Response, error) { panic(http.ErrAbortHandler) },
		"nothing": func() (*http.Response, error) { return nil, nil }, //nolint:nilnil // it is the case
		"no body": func() (*http.Response, error) { return &http.Response{StatusCode: http.StatusOK}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, func(o *endpoint.Options) {
				o.Connect = func(string) http.RoundTripper {
					return roundTripper(func(*http.Request) (*http.Response, error) { return next() })
				}
			})
			func() {
				defer func() { _ = recover() }()
				resp, _, err := fetch.Read(w.set.RoundTrip(fetch.Request(t, http.MethodGet, "http://orders/", nil)))
				t.Logf("got %v, error %v", resp, err)
			}()
			for _, s := range w.set.State() {
				if s.InFlight != 0 {
					t.Errorf("%s has %d requests in flight, want 0", s.Address, s.InFlight)
				}
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Notify may use the set.
func TestNotifyMayUseTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		called := 0
		w = newWorld(t, 3, func(o *endpoint.Options) {
			o.Notify = func(endpoint.Event) { called++; w.set.State(); w.set.CloseIdleConnections() }
		})
		w.answer(1, answer{status: 503})
		w.calls(300)
		if called != 1 {
			t.Errorf("Notify was called %d times, want once", called)
		}
	})
}

// A request that comes after Close gets a connection of its own, also at an endpoint that had no
// request before. None is kept.
func TestRequestAfterClose(t *testing.T) {
	var connections conncount.Counter
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	up.Config.ConnState = connections.See
	up.Start()
	t.Cleanup(up.Close)
	for name, before := range map[string]int{"unused": 0, "used": 1} {
		t.Run(name, func(t *testing.T) {
			o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Connections: endpoint.DefaultConnections()}
			o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{up.Listener.Addr().String()}
			set := endpoint.New(&url.URL{Scheme: "http", Host: "orders"}, o)
			client := &http.Client{Transport: set}
			for range before {
				fetchOnce(t, client)
			}
			set.Close()
			fetchOnce(t, client)
			connections.WantOpen(t, 0)
		})
	}
}

func fetchOnce(t *testing.T, client *http.Client) {
	t.Helper()
	resp, _, err := fetch.Read(client.Do(fetch.Request(t, http.MethodGet, "http://orders/", nil)))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, error %v, want status 200", resp, err)
	}
}

// The attempt that is a probe knows who took its time, such as a caller who sends slowly. It ends a
// moment after its limit.
func TestProbeThatItsCallerDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, nil)
		w.eject(2)
		time.Sleep(1300 * time.Millisecond)
		l := w.probe(t.Context(), time.Second)
		time.Sleep(1100 * time.Millisecond)
		l.End(resilience.Neutral)
		if got := w.set.State()[1].Circuit; got != resilience.HalfOpen {
			t.Errorf("its circuit is %v, want half-open: the endpoint did not fail", got)
		}
	})
}

// A probe does not keep an endpoint away for as long as its answer takes. Headers that come in time
// bring the endpoint back. A probe that hangs for 10 s gives its turn to another one, after the
// pause of an ejection.
func TestLongProbe(t *testing.T) {
	for what, tc := range map[string]struct {
		answer answer
		limit  time.Duration
		wait   time.Duration
		want   resilience.State
	}{
		"a long body":              {answer{}, time.Second, 2*time.Second + 1, resilience.Closed},
		"a long body, for an hour": {answer{}, time.Hour, 10*time.Second + 1, resilience.Closed},
		"a hang, for an hour":      {answer{latency: 2 * time.Hour}, time.Hour, 11*time.Second + 1, resilience.HalfOpen},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				w.eject(2)
				w.answer(2, tc.answer)
				time.Sleep(1300 * time.Millisecond)
				ctx, cancel := context.WithCancel(t.Context())
				l := w.probe(ctx, tc.limit)
				var probe sync.WaitGroup
				probe.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://orders/", nil)
					_, _ = l.RoundTrip(req, false)
				})
				time.Sleep(tc.wait)
				synctest.Wait()
				w.answer(2, answer{})
				if got := w.set.State()[1].Circuit; got != tc.want {
					t.Errorf("its circuit is %v, want %v", got, tc.want)
				}
				if tc.want == resilience.HalfOpen {
					if address, state, _ := w.attempt(&endpoint.Call{Repeatable: true}); address != name(2) || state != endpoint.LeaseProbe {
						t.Errorf("the next call went to %s as %s, want another probe of %s", address, state, name(2))
					}
				}
				cancel()
				probe.Wait()
				l.End(resilience.Neutral)
			})
		})
	}
}
