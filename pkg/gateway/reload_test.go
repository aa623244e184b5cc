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

// reloaded is a gateway with one policy and one route, which a test calls and reloads.
type reloaded struct {
	*gateway.Gateway
	t           *testing.T
	config      gateway.Config
	transitions []observe.Transition
}

// upstreamFunc returns the status of an attempt's answer. It uses no network, so that it works on
// the virtual clock.
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
		Observers: []observe.Observer{observe.Funcs{Transition: func(tr observe.Transition) { r.transitions = append(r.transitions, tr) }}},
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
		r.t.Fatalf("got %d circuits, want 1: %+v", len(b), b)
	}
	return b[0].Breaker.State
}

func failing(*http.Request) int { return http.StatusServiceUnavailable }

// tripping returns a policy whose circuit opens after one failed call, which makes three attempts,
// and stays open for an hour. Its budget of 10 tokens is not refilled.
func tripping() transport.Policy {
	p := calm()
	p.Breaker.ConsecutiveFailures = 3
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Hour, time.Hour
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 10}
	return p
}

// A circuit and a budget keep their state unless a reload changes their own settings.
func TestReloadKeepsWhatDidNotChange(t *testing.T) {
	for name, tc := range map[string]struct {
		change        func(*gateway.Config, *transport.Policy)
		open          bool    // the circuit is still open
		tokens        float64 // in the budget: 10 less 2 for retries, unless it is new
		transitions   int     // reported until 2 h after the change
		secondAnswers int     // status of a call after the change
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
					t.Fatalf("the circuit is %v after three failures, want open", r.state())
				}
				healthy.Store(true)
				p := tripping()
				c := r.with(p)
				tc.change(&c, &p)
				c.Policies[gateway.DefaultPolicyName] = p
				r.to(c)
				if b := r.Upstreams(); len(b) != 1 || (b[0].Breaker.State == resilience.Open) != tc.open || b[0].BudgetTokens != tc.tokens {
					t.Errorf("after the change: got %+v, want open %v and %v tokens", b, tc.open, tc.tokens)
				}
				if got := r.call("/").StatusCode; got != tc.secondAnswers {
					t.Errorf("a call after the change got status %d, want %d", got, tc.secondAnswers)
				}
				time.Sleep(2 * time.Hour) // a replaced circuit reports no more transitions
				synctest.Wait()
				if len(r.transitions) != tc.transitions {
					t.Errorf("got %d transitions, want %d: %+v", len(r.transitions), tc.transitions, r.transitions)
				}
			})
		})
	}
}

// A reload drops the circuit of an upstream that no route uses any more, whether or not its policy
// is dropped too.
func TestReloadDropsUnusedUpstreams(t *testing.T) {
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
					t.Fatalf("got %d circuits, want 2", got)
				}
				r.to(r.with(tripping(), gateway.Route{Name: "a", Match: "/a", Upstream: "http://A.test:80"}))
				if b := r.Upstreams(); len(b) != 1 || b[0].Upstream != "http://a.test" || b[0].Breaker.State != resilience.Open {
					t.Errorf("got circuits %+v, want only that of a, still open", b)
				}
				if got := r.call("/b").StatusCode; got != http.StatusNotFound {
					t.Errorf("the dropped route got status %d, want 404", got)
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if len(r.transitions) != 3 { // two circuits opened, and the remaining one became half-open
					t.Errorf("got %d transitions, want 3: %+v", len(r.transitions), r.transitions)
				}
			})
		})
	}
}

// An invalid configuration changes nothing. /config shows its mistakes in comments above the
// configuration in effect.
func TestReloadRefused(t *testing.T) {
	r := newReloaded(t, tripping(), failing)
	r.call("/")
	admin := r.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), nil)
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, request(t, http.MethodGet, path, nil))
		return w
	}
	show := func() string { return ask("/config").Body.String() }
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
				t.Fatalf("got error %v and Refused %+v, want the same error in both", err, r.Refused())
			}
			if r.state() != resilience.Open || r.Config().Routes[0].Policy != "default" {
				t.Errorf("got configuration %+v and circuit %v, want the old configuration and an open circuit", r.Config(), r.state())
			}
			if w := ask("/configz"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "refused") {
				t.Errorf("/configz: got %d, want 503 and the mistakes\n%s", w.Code, w.Body)
			}
			shown := show()
			if !strings.HasSuffix(shown, before) || !strings.HasPrefix(shown, "# ") {
				t.Errorf("/config: got\n%s\nwant a comment and then\n%s", shown, before)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if first, _, _ := strings.Cut(line, "\r"); !strings.Contains(shown, first) {
					t.Errorf("/config: want %q, got\n%s", line, shown)
				}
			}
			again := gateway.DefaultConfig()
			if err := config.Decode("shown", []byte(shown), &again); err != nil {
				t.Errorf("decoding /config: got error %v, want none", err)
			}
		})
	}
	r.to(r.with(tripping()))
	if w := ask("/configz"); w.Code != http.StatusOK {
		t.Errorf("/configz after a valid reload: got %d, want 200\n%s", w.Code, w.Body)
	}
	if r.Refused() != nil || show() != before {
		t.Errorf("/config after a valid reload: got\n%s\nwant\n%s", show(), before)
	}
}

// Calls in flight end under the configuration with which they began. New calls use the new one. No
// call is lost.
func TestReloadUnderLoad(t *testing.T) {
	arrived := make(chan struct{})
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusAccepted)
		}
	})
	slowest, others := calm(), calm()
	slowest.Timeout, slowest.AttemptTimeout = time.Minute, time.Minute
	slowest.Concurrency.Max, others.Concurrency.Max = -1, -1 // otherwise a busy machine may have a call refused
	one := gateway.DefaultConfig()
	one.Policies["default"] = slowest
	one.Routes = []gateway.Route{{Name: "all", Match: "/", Upstream: s.URL, Policy: "default"}}
	two := gateway.DefaultConfig()
	two.Policies["default"] = others
	two.Policies["other"] = others
	two.Routes = []gateway.Route{
		{Name: "other", Match: "/call", Upstream: s.URL, Policy: "other"},
	}
	g, err := gateway.New(one, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	front := server(t, g.ServeHTTP)
	t.Cleanup(g.Close)
	client := newClient(t)

	// The upload of one call lasts until all other calls and reloads are done.
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
		t.Errorf("the call in flight got status %d, want 202", got)
	}
}

// A policy that no route uses has no calls. The default one always exists, and has an hour with
// HTTPRoutes.
func TestLongestTimeoutIsOfUsedPolicies(t *testing.T) {
	p, unused := calm(), calm()
	p.Timeout, p.AttemptTimeout = 9*time.Second, time.Second
	unused.Timeout = time.Hour
	r := newReloaded(t, p, failing)
	c := r.with(p)
	c.Policies["unused"] = unused
	r.to(c)
	if got := r.LongestTimeout(); got != 9*time.Second {
		t.Errorf("LongestTimeout = %v, want 9s", got)
	}
}

// A drain waits for calls that began under a replaced policy, but no longer than their timeout
// allows.
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
				t.Errorf("LongestTimeout = %v, want %v", got, d)
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
