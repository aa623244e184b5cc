package gateway_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// reloaded is a gateway under one policy with one route, a way to call it, and a
// way to change it.
type reloaded struct {
	*gateway.Gateway
	t      *testing.T
	config gateway.Config
	told   []observe.Transition
}

// upstreamFunc answers attempts without a network, so that it works on the virtual clock.
type upstreamFunc func(*http.Request) int

func (f upstreamFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.WriteHeader(f(r))
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func newReloaded(t *testing.T, p transport.Policy, upstream upstreamFunc) *reloaded {
	t.Helper()
	r := &reloaded{t: t}
	r.config = r.with(p)
	g, err := gateway.New(r.config, gateway.Options{
		Next:      upstream,
		Observers: []observe.Observer{observe.Funcs{Transition: func(tr observe.Transition) { r.told = append(r.told, tr) }}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Gateway = g
	return r
}

func (r *reloaded) with(p transport.Policy, routes ...gateway.Route) gateway.Config {
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = p
	if routes == nil {
		routes = []gateway.Route{all("http://upstream.test")}
	}
	for i := range routes {
		routes[i].SetDefaults()
	}
	c.Routes = routes
	return c
}

func (r *reloaded) to(c gateway.Config) {
	r.t.Helper()
	if err := r.Reload(func() (gateway.Config, error) { return c, nil }); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reloaded) call(path string) *http.Response {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.ServeHTTP(w, request(r.t, http.MethodGet, "http://gateway.test"+path, nil))
	return w.Result()
}

func (r *reloaded) state() resilience.State {
	r.t.Helper()
	b := r.Upstreams()
	if len(b) != 1 {
		r.t.Fatalf("%d circuits, want 1: %+v", len(b), b)
	}
	return b[0].Breaker.State
}

func failing(*http.Request) int { return http.StatusServiceUnavailable }

// tripping is a policy whose circuit opens at once and for an hour, with three
// attempts and tokens that nothing earns back.
func tripping() transport.Policy {
	p := calm()
	p.Breaker.ConsecutiveFailures = 3
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Hour, time.Hour
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 10}
	return p
}

// What a circuit and a budget know outlives a change of anything but their own settings.
func TestReloadKeepsWhatDidNotChange(t *testing.T) {
	for name, tc := range map[string]struct {
		change        func(*gateway.Config, *transport.Policy)
		open          bool    // the circuit is as it was
		tokens        float64 // of 10, less the two that the outage cost
		transitions   int     // told after an hour
		secondAnswers int     // to a call after the change
	}{
		"nothing":             {func(*gateway.Config, *transport.Policy) {}, true, 8, 2, 503},
		"attempts":            {func(_ *gateway.Config, p *transport.Policy) { p.Retry.MaxAttempts = 2 }, true, 8, 2, 503},
		"the attempt timeout": {func(_ *gateway.Config, p *transport.Policy) { p.AttemptTimeout /= 2 }, true, 8, 2, 503},
		"the budget":          {func(_ *gateway.Config, p *transport.Policy) { p.Retry.Budget.Burst = 20 }, true, 20, 2, 503},
		"the breaker":         {func(_ *gateway.Config, p *transport.Policy) { p.Breaker.ConsecutiveFailures = 4 }, false, 8, 1, 200},
		"a route's pattern":   {func(c *gateway.Config, _ *transport.Policy) { c.Routes[0].Match = "/{rest...}" }, true, 8, 2, 503},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var healthy atomic.Bool
				r := newReloaded(t, tripping(), func(q *http.Request) int {
					if healthy.Load() {
						return http.StatusOK
					}
					return failing(q)
				})
				r.call("/")
				if r.state() != resilience.Open {
					t.Fatalf("the circuit is %v after three failures, want it open", r.state())
				}
				healthy.Store(true)
				p := tripping()
				c := r.with(p)
				tc.change(&c, &p)
				c.Policies[gateway.DefaultPolicyName] = p
				r.to(c)
				if b := r.Upstreams(); len(b) != 1 || (b[0].Breaker.State == resilience.Open) != tc.open || b[0].BudgetTokens != tc.tokens {
					t.Errorf("after the change: %+v, want open %v and %v tokens", b, tc.open, tc.tokens)
				}
				if got := r.call("/").StatusCode; got != tc.secondAnswers {
					t.Errorf("a call after the change gets %d, want %d", got, tc.secondAnswers)
				}
				time.Sleep(2 * time.Hour) // a circuit that was replaced says nothing more
				synctest.Wait()
				if len(r.told) != tc.transitions {
					t.Errorf("told of %d transitions, want %d: %+v", len(r.told), tc.transitions, r.told)
				}
			})
		})
	}
}

// An upstream that no route names any more is forgotten, with its circuit, also
// when its policy goes with it.
func TestReloadForgetsUpstreamsThatAreGone(t *testing.T) {
	for name, policy := range map[string]string{"the policy stays": "default", "the policy goes": "own"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReloaded(t, tripping(), failing)
				c := r.with(tripping(), gateway.Route{Name: "a", Match: "/a", Upstream: "http://A.test:80"}, gateway.Route{Name: "b", Match: "/b", Upstream: "http://b.test"})
				c.Policies["own"] = tripping()
				c.Routes[1].Policy = policy
				r.to(c)
				r.call("/a")
				r.call("/b")
				if got := len(r.Upstreams()); got != 2 {
					t.Fatalf("%d circuits, want 2", got)
				}
				r.to(r.with(tripping(), gateway.Route{Name: "a", Match: "/a", Upstream: "http://A.test:80"}))
				if b := r.Upstreams(); len(b) != 1 || b[0].Upstream != "http://a.test" || b[0].Breaker.State != resilience.Open {
					t.Errorf("%+v, want only that of a, still open", b)
				}
				if got := r.call("/b").StatusCode; got != http.StatusNotFound {
					t.Errorf("the route that is gone answers %d, want 404", got)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if len(r.told) != 3 { // two opened, one of them half-opened
					t.Errorf("told of %d transitions, want 3: %+v", len(r.told), r.told)
				}
			})
		})
	}
}

// A configuration that is wrong changes nothing, and /config says what was wrong
// with it, in comments around what is in effect.
func TestReloadRefused(t *testing.T) {
	r := newReloaded(t, tripping(), failing)
	r.call("/")
	admin := r.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), nil)
	show := func() string {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, request(t, http.MethodGet, "/config", nil))
		return w.Body.String()
	}
	before := show()
	wrong := r.with(tripping())
	wrong.Routes[0].Policy = "none"
	for name, load := range map[string]func() (gateway.Config, error){
		"cannot be read": func() (gateway.Config, error) {
			return gateway.Config{}, errors.New("a.yaml:3:5: first\nsecond\rroutes: []")
		},
		"is not valid": func() (gateway.Config, error) { return wrong, nil },
	} {
		t.Run(name, func(t *testing.T) {
			err := r.Reload(load)
			if err == nil || r.Refused() == nil || !errors.Is(r.Refused().Err, err) {
				t.Fatalf("got error %v, refusal %+v, want the same mistake", err, r.Refused())
			}
			if r.state() != resilience.Open || r.Config().Routes[0].Policy != "default" {
				t.Errorf("the refused configuration changed something, want the old one and an open circuit: %+v, %v", r.Config(), r.state())
			}
			shown := show()
			if !strings.HasSuffix(shown, before) || !strings.HasPrefix(shown, "# ") {
				t.Errorf("/config:\n%s\nwant a comment, and then as before:\n%s", shown, before)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if first, _, _ := strings.Cut(line, "\r"); !strings.Contains(shown, first) {
					t.Errorf("/config has no %q, want it in\n%s", line, shown)
				}
			}
			again := gateway.DefaultConfig()
			if err := config.Decode("shown", []byte(shown), &again); err != nil {
				t.Errorf("what /config shows: got error %v, want a configuration", err)
			}
		})
	}
	r.to(r.with(tripping()))
	if r.Refused() != nil || show() != before {
		t.Errorf("after a good one /config is\n%s\nwant\n%s", show(), before)
	}
}

// Calls in flight end under what they began with; new ones are made with the new
// configuration; none is lost.
func TestReloadUnderLoad(t *testing.T) {
	arrived := make(chan struct{})
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusAccepted)
		}
	})
	patient := calm()
	patient.Timeout, patient.AttemptTimeout = time.Minute, time.Minute
	one := gateway.DefaultConfig()
	one.Policies["default"] = patient
	one.Routes = []gateway.Route{{Name: "all", Match: "/", Upstream: s.URL, Policy: "default"}}
	two := gateway.DefaultConfig()
	two.Policies["default"] = calm()
	two.Policies["other"] = calm()
	two.Routes = []gateway.Route{
		{Name: "other", Match: "/call", Upstream: s.URL, Policy: "other"},
	}
	g, err := gateway.New(one, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	front := server(t, g.ServeHTTP)
	t.Cleanup(g.Close)
	client := caller(t)

	// One call is held by its upload until everything else is over.
	body, upload := io.Pipe()
	slow := make(chan int, 1)
	go func() {
		resp, err := client.Do(request(t, http.MethodPost, front.URL+"/slow", body))
		if err != nil {
			t.Error(err)
			slow <- 0
			return
		}
		_ = resp.Body.Close()
		slow <- resp.StatusCode
	}()
	if _, err := upload.Write([]byte("begun")); err != nil {
		t.Fatal(err)
	}
	<-arrived
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 100 {
				resp, err := client.Do(request(t, http.MethodGet, front.URL+"/call", nil))
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("a call got status %d, want 200", resp.StatusCode)
				}
			}
		})
	}
	for i := range 100 {
		c := []gateway.Config{two, one}[i%2]
		if err := g.Reload(func() (gateway.Config, error) { return c, nil }); err != nil {
			t.Error(err)
		}
	}
	callers.Wait()
	if err := g.Reload(func() (gateway.Config, error) { return two, nil }); err != nil {
		t.Error(err)
	}
	_ = upload.Close()
	if got := <-slow; got != http.StatusAccepted {
		t.Errorf("the call that was in flight got %d, want 202", got)
	}
}

// A drain waits for calls that began under a policy which was replaced meanwhile,
// and not for longer than they may take.
func TestLongestTimeoutOutlivesItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := func(d time.Duration) transport.Policy {
			p := calm()
			p.Timeout, p.AttemptTimeout = d, d
			return p
		}
		r := newReloaded(t, timeout(time.Minute), failing)
		want := func(d time.Duration) {
			t.Helper()
			if got := r.LongestTimeout(); got != d {
				t.Errorf("a call may take %v, want %v", got, d)
			}
		}
		want(time.Minute)
		time.Sleep(time.Hour)
		r.to(r.with(timeout(time.Second)))
		want(time.Minute)
		time.Sleep(50 * time.Second)
		r.to(r.with(timeout(2 * time.Second)))
		want(10 * time.Second)
		time.Sleep(10 * time.Second)
		want(2 * time.Second)
	})
}
