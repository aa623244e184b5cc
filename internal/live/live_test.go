package live_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const upstream = "http://flaky-server:5000"

// call returns a call that has just ended, with one attempt for each reason.
func call(reasons ...resilience.Reason) *observe.Call {
	c := &observe.Call{
		Policy: "default", Upstream: upstream, Method: http.MethodGet, Scheme: "http", Host: "localhost:8080", Path: "/process",
		Status: http.StatusServiceUnavailable, Start: time.Now(), Report: &resilience.Report{Reason: resilience.ReasonBreakerOpen},
	}
	for i, r := range reasons {
		a := resilience.AttemptReport{Number: i + 1, Start: c.Start, Reason: r, Verdict: resilience.VerdictGiveUp, Status: http.StatusServiceUnavailable}
		c.Report.Reason = resilience.ReasonMaxAttempts
		if r == resilience.ReasonOK {
			a.Status, a.Verdict, c.Status, c.Report.Reason = http.StatusOK, resilience.VerdictReturn, http.StatusOK, r
		}
		c.Report.Attempts = append(c.Report.Attempts, a)
	}
	return c
}

// run returns a Live that runs until the test ends.
func run(t *testing.T, upstreams ...func() []observe.Upstream) *live.Live {
	t.Helper()
	l := live.New()
	if len(upstreams) > 0 {
		l.Attach(upstreams[0])
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx, nil) }()
	t.Cleanup(func() { cancel(); <-ended })
	return l
}

// Each outcome counts as good, failed or refused.
func TestFigures(t *testing.T) {
	at := func(reason resilience.Reason, status int) func(*observe.Call) {
		return func(c *observe.Call) { c.Report.Reason, c.Status = reason, status }
	}
	for name, c := range map[string]struct {
		change                               func(*observe.Call)
		attempts                             []resilience.Reason
		good, attemptsMade, attemptsGood, no uint32
	}{
		"ok":                        {func(*observe.Call) {}, []resilience.Reason{"ok"}, 1, 1, 1, 0},
		"not found":                 {func(c *observe.Call) { at("status_not_retryable", 404)(c); c.Report.Attempts[0].Status = 404 }, []resilience.Reason{"status_404"}, 1, 1, 1, 0},
		"not implemented":           {func(c *observe.Call) { at("status_not_retryable", 501)(c); c.Report.Attempts[0].Status = 501 }, []resilience.Reason{"status_501"}, 0, 1, 0, 0},
		"upgrade":                   {func(c *observe.Call) { at("upgrade", 101)(c); c.Report.Attempts[0].Status = 101 }, []resilience.Reason{"ok"}, 1, 1, 1, 0},
		"too many":                  {func(c *observe.Call) { at("max_attempts", 429)(c); c.Report.Attempts[0].Status = 429 }, []resilience.Reason{"status_429"}, 0, 1, 0, 0},
		"body failed":               {at("body_failed", 200), []resilience.Reason{"status_503", "ok"}, 0, 2, 0, 0},
		"own body failed":           {at("body_failed", 502), []resilience.Reason{"body_failed"}, 0, 1, 0, 0},
		"caller gone":               {at("caller_canceled", 499), []resilience.Reason{"caller_canceled"}, 0, 1, 0, 0},
		"circuit open":              {func(*observe.Call) {}, nil, 0, 0, 0, 1},
		"circuit probing":           {at("breaker_half_open", 503), nil, 0, 0, 0, 1},
		"budget exhausted":          {at("budget_exhausted", 503), []resilience.Reason{"status_503"}, 0, 1, 0, 1},
		"gRPC ok":                   {func(c *observe.Call) { c.GRPCStatus = "OK" }, []resilience.Reason{"ok"}, 1, 1, 1, 0},
		"gRPC not found":            {func(c *observe.Call) { at("status_not_retryable", 200)(c); c.GRPCStatus = "NOT_FOUND" }, []resilience.Reason{"grpc_not_found"}, 1, 1, 1, 0},
		"gRPC unavailable, then ok": {func(c *observe.Call) { c.GRPCStatus, c.Report.Attempts[0].Status = "OK", 200 }, []resilience.Reason{"grpc_unavailable", "ok"}, 1, 2, 1, 0},
		"gRPC internal at once": {func(c *observe.Call) {
			at("status_not_retryable", 200)(c)
			c.GRPCStatus, c.Report.Attempts[0].Status = "INTERNAL", 200
		}, []resilience.Reason{"grpc_internal"}, 0, 1, 0, 0},
		"gRPC internal at the end": {func(c *observe.Call) { at("grpc_internal", 200)(c); c.GRPCStatus = "INTERNAL" }, []resilience.Reason{"ok"}, 0, 1, 0, 0},
		"gRPC caller gone":         {func(c *observe.Call) { at("caller_canceled", 200)(c); c.GRPCStatus = "CANCELLED" }, []resilience.Reason{"caller_canceled"}, 0, 1, 0, 0},
		"a new reason":             {at("invented", 503), []resilience.Reason{"status_503"}, 0, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := run(t)
				one := call(c.attempts...)
				c.change(one)
				l.ObserveCall(context.Background(), *one)
				time.Sleep(time.Second)
				got := l.Since("").Series[0].Window
				if got.Offered != 1 || got.Good != c.good || got.Attempts != c.attemptsMade || got.AttemptsGood != c.attemptsGood || got.Refused != c.no {
					t.Errorf("got %+v, want %+v", got, c)
				}
			})
		})
	}
}

// An attempt whose caller left before an answer says nothing about the upstream. A 429 does: with a
// retry after it, the page used to say that everything succeeds at the first attempt.
func TestNeutralAttempts(t *testing.T) {
	for name, c := range map[string]struct {
		reason resilience.Reason
		status int
		want   uint32
	}{"429": {"status_429", 429, 0}, "caller gone": {resilience.ReasonCallerCanceled, 0, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := run(t)
				one := call(c.reason, resilience.ReasonOK)
				one.Report.Attempts[0].Health, one.Report.Attempts[0].Status = resilience.Neutral, c.status
				l.ObserveCall(context.Background(), *one)
				time.Sleep(time.Second)
				if got := l.Since("").Series[0].Window; got.Attempts != 2 || got.AttemptsGood != 1 || got.AttemptsNeutral != c.want {
					t.Errorf("got %+v, want two attempts, one good, %d neutral", got, c.want)
				}
			})
		})
	}
}

// An upstream without calls for five minutes makes room for another one. Its totals are kept.
func TestOldUpstreamsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		record := func(host string) {
			c := call(resilience.ReasonOK)
			c.Upstream = host
			l.ObserveCall(context.Background(), *c)
			time.Sleep(time.Second)
		}
		for i := range 70 {
			record(fmt.Sprintf("http://old-%d", i))
		}
		time.Sleep(6 * time.Minute)
		record("http://new")
		state := l.State()
		if len(state.Series) != 2 || state.Series[0].Totals.Offered != 70 || state.Series[1].Upstream != "http://new" || state.Series[1].Totals.Offered != 1 {
			t.Errorf("series = %+v, want the 70 old calls in one and the new call in another", state.Series)
		}
	})
}

// Each second has its circuit and budget, also without calls.
func TestCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		u := observe.Upstream{Upstream: upstream, Policy: "default", BudgetTokens: 10, Burst: 10}
		l := run(t, func() []observe.Upstream { mu.Lock(); defer mu.Unlock(); return []observe.Upstream{u} })
		time.Sleep(2100 * time.Millisecond)
		mu.Lock()
		u.Breaker = resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(time.Minute)}
		u.BudgetTokens = 0
		mu.Unlock()
		time.Sleep(time.Second)
		s := l.Since("").Series[0]
		if s.Circuit.State != resilience.Open || s.Circuit.ProbeAt == 0 {
			t.Errorf("circuit = %+v, want it open with the time of a probe", s.Circuit)
		}
		var states []string
		for _, sec := range s.Seconds {
			states = append(states, fmt.Sprint(*sec.State, " ", *sec.Tokens))
		}
		if got := strings.Join(states[:3], ", "); got != "closed 10, closed 10, open 0" {
			t.Errorf("seconds = %s, want closed 10, closed 10, open 0", got)
		}
	})
}

// A concurrency limit is shown while it is in force. Calls that it or the rate limit refuses count
// as refused.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		u := observe.Upstream{Upstream: upstream, Policy: "default", Concurrency: resilience.ConcurrencySnapshot{InFlight: 3}}
		l := run(t, func() []observe.Upstream { mu.Lock(); defer mu.Unlock(); return []observe.Upstream{u} })
		time.Sleep(time.Second)
		if got := l.State().Series[0].Concurrency; got != nil {
			t.Errorf("without a limit: concurrency = %+v, want none", *got)
		}
		mu.Lock()
		u.Concurrency = resilience.ConcurrencySnapshot{InFlight: 3, Queued: 2, Limit: 4}
		mu.Unlock()
		for _, r := range []resilience.Reason{resilience.ReasonConcurrencyLimit, resilience.ReasonRateLimited, resilience.ReasonRateLimited} {
			c := call()
			c.Report.Reason = r
			l.ObserveCall(context.Background(), *c)
		}
		l.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		time.Sleep(time.Second)
		s := l.State().Series[0]
		if got, want := s.Concurrency, u.Concurrency; got == nil || *got != want {
			t.Errorf("concurrency = %v, want %+v", got, want)
		}
		want := map[resilience.Reason]uint64{resilience.ReasonConcurrencyLimit: 1, resilience.ReasonRateLimited: 2}
		if s.Window.Refused != 3 || !maps.Equal(s.Window.RefusedBy, want) {
			t.Errorf("refused = %d, by %v, want 3 by %v", s.Window.Refused, s.Window.RefusedBy, want)
		}
	})
}

// More than 256 transitions between two gatherings used to lose the newest ones silently.
func TestTransitionsThatDoNotFitAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		first := l.Since("")
		for i := range 300 {
			l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: fmt.Sprintf("http://u%d", i), From: resilience.Closed, To: resilience.Open, At: time.Now()}})
		}
		check := func(e live.Update) {
			t.Helper()
			if n := len(e.Transitions); n != 256 || e.TransitionsMissed != 44 || e.Transitions[0].Upstream != "http://u44" || e.Transitions[n-1].Upstream != "http://u299" {
				t.Errorf("got %d transitions and %d missed, from %+v to %+v, want 256 and 44, from u44 to u299", n, e.TransitionsMissed, e.Transitions[0], e.Transitions[n-1])
			}
		}
		time.Sleep(300 * time.Millisecond)
		check(l.Latest())
		check(l.Since(first.ID))
		if e := l.Since(""); e.TransitionsMissed != 0 || len(e.Transitions) != 256 {
			t.Errorf("without an ID: got %d transitions and %d missed, want 256 and 0", len(e.Transitions), e.TransitionsMissed)
		}
	})
}

// Changes of endpoints are shown in order, each once, and those that do not fit are counted.
func TestEndpointChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		first := l.Since("")
		start := first.Now
		for _, e := range []endpoint.Event{
			{Kind: endpoint.EventAdded, Address: "10.0.0.2:80"},
			{Kind: endpoint.EventEjected, Address: "10.0.0.1:80", For: 1500 * time.Millisecond},
			{Kind: endpoint.EventPanic},
			{Kind: endpoint.EventLookup, Err: errors.New(strings.Repeat("no such host ", 100))},
		} {
			time.Sleep(time.Millisecond)
			e.At = time.Now()
			l.ObserveEndpoint(observe.EndpointEvent{Upstream: upstream, Event: e})
		}
		time.Sleep(300 * time.Millisecond)
		check := func(u live.Update) {
			t.Helper()
			var got []string
			for _, c := range u.EndpointChanges {
				got = append(got, fmt.Sprint(c.At-start, " ", c.Upstream, " ", c.Change, " ", c.Endpoint, " ", c.EjectFor, " ", len(c.Error)))
			}
			want := []string{
				"1 " + upstream + " added 10.0.0.2:80 0 0", "2 " + upstream + " ejected 10.0.0.1:80 1500 0",
				"3 " + upstream + " panic  0 0", "4 " + upstream + " lookup_failed  0 515",
			}
			if !slices.Equal(got, want) || u.EndpointChangesMissed != 0 || u.Empty() {
				t.Errorf("got %q, %d missed, empty %v, want %q, 0, false", got, u.EndpointChangesMissed, u.Empty(), want)
			}
		}
		check(l.Latest())
		check(l.Since(first.ID))
		check(l.Since(""))
		time.Sleep(time.Second)
		if u := l.Latest(); len(u.EndpointChanges) != 0 || !u.Empty() {
			t.Errorf("a second later: got %v, want no change", u.EndpointChanges)
		}

		before := l.Since("").ID
		for i := range 300 {
			l.ObserveEndpoint(observe.EndpointEvent{Upstream: upstream, Event: endpoint.Event{Kind: endpoint.EventAdded, Address: fmt.Sprint(i), At: time.Now()}})
		}
		time.Sleep(300 * time.Millisecond)
		u := l.Since(before)
		if n := len(u.EndpointChanges); n != 256 || u.EndpointChangesMissed != 44 || u.EndpointChanges[0].Endpoint != "44" || u.TransitionsMissed != 0 {
			t.Errorf("got %d changes, %d and %d missed, want 256, 44 and 0", n, u.EndpointChangesMissed, u.TransitionsMissed)
		}
		if u := l.Since(""); !u.Reset || len(u.EndpointChanges) != 256 || u.EndpointChangesMissed != 0 {
			t.Errorf("without an ID: got %d changes, %d missed, want 256 and 0", len(u.EndpointChanges), u.EndpointChangesMissed)
		}
	})
}

// More than a thousand good calls before the next gathering used to push out failed ones.
func TestGoodCallsDoNotPushOutFailingOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		for range 5 {
			l.ObserveCall(context.Background(), *call(resilience.StatusReason(503)))
		}
		for range 5000 {
			l.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		}
		time.Sleep(time.Second)
		if calls, _ := l.Calls(live.KeptCalls, live.Wanted{Reason: resilience.ReasonMaxAttempts}); len(calls) != 5 {
			t.Errorf("kept failed calls = %d, want 5", len(calls))
		}
	})
}

// An attempt whose body failed used to count as good.
func TestFailedBodiesAreNotGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		c := call(resilience.StatusReason(503), resilience.ReasonOK)
		c.Report.Reason = resilience.ReasonBodyFailed
		l.ObserveCall(context.Background(), *c)
		time.Sleep(time.Second)
		kept, _ := l.Call(1)
		if a := kept.Attempts; len(a) != 2 || a[0].Reason != "status_503" || a[1].Good || a[1].Reason != "body_failed" {
			t.Errorf("attempts = %+v, want status_503 and body_failed, both not good", a)
		}
	})
}

// A quantile used to be wrong by a quarter of its value, and by more beyond the histogram's end.
func TestQuantilesAreNear(t *testing.T) {
	for _, tc := range []struct{ took, shown time.Duration }{
		{65600 * time.Microsecond, 0}, {1049 * time.Millisecond, 0}, {time.Microsecond, 0}, {99 * time.Second, 0},
		{0, time.Microsecond}, {-time.Second, time.Microsecond}, {time.Hour, 134 * time.Second},
	} {
		t.Run(tc.took.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := run(t)
				for range 1000 {
					c := call(resilience.ReasonOK)
					c.Duration = tc.took
					l.ObserveCall(context.Background(), *c)
				}
				time.Sleep(time.Second)
				want := float64(max(tc.took, 0)) / 1e6
				if tc.shown > 0 {
					want = float64(tc.shown) / 1e6
				}
				s := l.Since("").Series[0].Seconds[0]
				for name, got := range map[string]float64{"50 %": s.P50, "99 %": s.P99} {
					if got < want*0.875-0.001 || got > want*1.125+0.001 {
						t.Errorf("%s: %v ms, want %v", name, got, want)
					}
				}
			})
		})
	}
}

// Texts of a recorded call used to keep the large strings alive that they are parts of.
func TestCallersDoNotHoldMemory(t *testing.T) {
	l := live.New()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 1100 {
		c := call(resilience.StatusReason(503))
		sent := strings.Repeat("x", 100_000)
		c.Method, c.Host, c.Path, c.RequestID = sent[:4], sent[:10], sent[:20], sent[:10]
		l.ObserveCall(context.Background(), *c)
	}
	if after := heap(); after > before+5<<20 {
		t.Errorf("1,100 calls hold %d KiB, want at most 5 MiB", (after-before)>>10)
	}
	runtime.KeepAlive(l)
}

// An HTTP/1.0 call without a Host header used to be shown as http:///process.
func TestCallWithoutAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		c := call(resilience.ReasonOK)
		c.Host = ""
		l.ObserveCall(context.Background(), *c)
		time.Sleep(time.Second)
		if kept, _ := l.Call(1); kept.URL != "/process" {
			t.Errorf("URL = %q, want /process", kept.URL)
		}
	})
}

// The calls of one policy, and of the upstreams that are counted together, used to be cut off by
// newer calls of others.
func TestWantedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := run(t)
		observe := func(upstream, policy string) {
			c := call(resilience.ReasonOK)
			c.Upstream, c.Policy = upstream, policy
			c.Report.Upstream = upstream
			l.ObserveCall(context.Background(), *c)
		}
		for i := range 70 {
			observe(fmt.Sprintf("http://up-%02d", i), "a")
			time.Sleep(300 * time.Millisecond) // until it has a place, or none
		}
		observe("http://up-00", "b")
		time.Sleep(300 * time.Millisecond)
		for range 200 {
			observe("http://up-01", "a")
		}
		time.Sleep(300 * time.Millisecond)
		for name, tc := range map[string]struct {
			wanted live.Wanted
			want   string // of the newest
			n      int
		}{
			"all":                   {live.Wanted{}, "http://up-01 a", 100},
			"an upstream":           {live.Wanted{Upstream: "http://up-00"}, "http://up-00 b", 2},
			"with a policy":         {live.Wanted{Upstream: "http://up-00", Policy: "a"}, "http://up-00 a", 1},
			"with the other policy": {live.Wanted{Upstream: "http://up-00", Policy: "b"}, "http://up-00 b", 1},
			"with an unknown one":   {live.Wanted{Upstream: "http://up-00", Policy: "c"}, "", 0},
			"a policy":              {live.Wanted{Policy: "b"}, "http://up-00 b", 1},
			"counted together":      {live.Wanted{Upstream: live.Others}, "http://up-00 b", 70 - places(l) + 1},
			"and a reason":          {live.Wanted{Upstream: live.Others, Reason: resilience.ReasonMaxAttempts}, "", 0},
		} {
			calls, _ := l.Calls(100, tc.wanted)
			newest := ""
			if len(calls) > 0 {
				newest = calls[0].Upstream + " " + calls[0].Policy
			}
			if len(calls) != tc.n || newest != tc.want {
				t.Errorf("%s: %d calls, the newest %q, want %d and %q", name, len(calls), newest, tc.n, tc.want)
			}
		}
	})
}

// places returns how many upstreams have a place of their own.
func places(l *live.Live) (n int) {
	for _, s := range l.State().Series {
		if s.Upstream != live.Others {
			n++
		}
	}
	return n
}
