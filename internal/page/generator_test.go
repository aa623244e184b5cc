package page_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// generate runs a generator until the function that it returns is called.
func generate(t *testing.T, traffic *page.Generator, client string, direct ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { traffic.Run(ctx, client, direct...) })
	return func() { cancel(); running.Wait() }
}

// until waits for what happens on real connections.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	wait.Until(t, 20*time.Second, what, ok)
}

// Every change of the rate used to restart the interval: dragging the page's slider for 5 s stopped
// the traffic for 5 s.
func TestGeneratorKeepsItsPaceWhileItIsSet(t *testing.T) {
	type step struct {
		at        time.Duration
		perSecond int
	}
	often := func(until time.Duration, rates ...int) (steps []step) {
		for at := time.Duration(0); at < until; at += 40 * time.Millisecond {
			steps = append(steps, step{at, rates[len(steps)%len(rates)]})
		}
		return steps
	}
	for name, tc := range map[string]struct {
		steps []step
		after time.Duration
		want  int // calls by then
	}{
		"left alone":                      {[]step{{0, 20}}, 5 * time.Second, 101},
		"the same again and again":        {often(5*time.Second, 20), 5 * time.Second, 101},
		"to and fro":                      {often(5*time.Second, 20, 5), 5 * time.Second, 63},
		"and off in between":              {often(5*time.Second, 20, 0), 5 * time.Second, 63},
		"slow again and again":            {often(5*time.Second, 1), 5 * time.Second, 6},
		"at once after none":              {[]step{{0, 0}, {3 * time.Second, 1}}, 3 * time.Second, 1},
		"at once after a while of few":    {[]step{{0, 1}, {900 * time.Millisecond, 10}}, 900 * time.Millisecond, 2},
		"nothing is made up for":          {[]step{{0, 1}, {900 * time.Millisecond, 200}}, 909 * time.Millisecond, 3},
		"not sooner because it was asked": {[]step{{0, 10}, {10 * time.Millisecond, 0}, {20 * time.Millisecond, 10}}, 99 * time.Millisecond, 1},
		"slower from the last one on":     {[]step{{0, 10}, {50 * time.Millisecond, 2}}, 499 * time.Millisecond, 1},
		"and not later":                   {[]step{{0, 10}, {50 * time.Millisecond, 2}}, 500 * time.Millisecond, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				traffic, err := page.NewGenerator(0, 0, time.Second)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				// A bubble has no network: the calls fail at once, and count.
				go traffic.Run(ctx, "nowhere://client", "nowhere://upstream")
				begin := time.Now()
				for _, s := range tc.steps {
					time.Sleep(s.at - time.Since(begin))
					if err := traffic.Set(page.TrafficSettings{PerSecond: s.perSecond, Path: page.PathWith}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(tc.after - time.Since(begin))
				synctest.Wait()
				if got := traffic.State().With.Ended; got != tc.want {
					t.Errorf("%d calls, want %d", got, tc.want)
				}
			})
		})
	}
}

// The generator counts the attempts that each upstream got, and only those at its own calls. It
// calls the endpoints of the upstream without the gateway in turn.
func TestGeneratorCountsAttempts(t *testing.T) {
	traffic, err := page.NewGenerator(200, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
	behind := traffic.Counted(http.HandlerFunc(answer))
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			behind.ServeHTTP(httptest.NewRecorder(), r)
		}
		behind.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)) // a visitor's
		w.WriteHeader(http.StatusOK)
	}))
	defer client.Close()
	var direct []string
	var counts [2]atomic.Int64
	for i := range counts {
		s := httptest.NewServer(traffic.Counted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			counts[i].Add(1)
			answer(w, r)
		})))
		defer s.Close()
		direct = append(direct, s.URL)
	}
	defer generate(t, traffic, client.URL, direct...)()
	until(t, "20 answers", func() bool { return traffic.State().With.Ended >= 20 })
	if err := traffic.Set(page.TrafficSettings{Path: page.PathBoth}); err != nil {
		t.Fatal(err)
	}
	var s page.TrafficState
	inFlight := func(r page.TrafficResult) bool { return r.Sent != r.Ended }
	until(t, "three attempts a call with the client, and one without", func() bool {
		s = traffic.State()
		if s.With.Attempts > 3*s.With.Sent { // a call in flight has made some of its attempts
			t.Fatalf("attempts with the client = %+v, want three a call", s.With)
		}
		return !inFlight(s.With) && !inFlight(s.Without) && s.With.Attempts == 3*s.With.Ended && s.Without.Attempts == s.Without.Ended
	})
	if s.With.P50 <= 0 || s.With.P99 < s.With.P50 {
		t.Errorf("times until an answer = %v and %v ms, want a median above 0 and a 99th percentile not below it", s.With.P50, s.With.P99)
	}
	if a, b := counts[0].Load(), counts[1].Load(); a+b != int64(s.Without.Ended) || a-b < 0 || a-b > 1 {
		t.Errorf("calls to the two endpoints = %d and %d, want half of %d each", a, b, s.Without.Ended)
	}
}

// An endpoint is made sick with the other settings, and not more than there are.
func TestSick(t *testing.T) {
	traffic, err := page.NewGenerator(20, 2, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for n, ok := range map[int]bool{0: true, 1: true, 2: true, 3: false, -1: false} {
		err := traffic.Set(page.TrafficSettings{Path: page.PathBoth, Sick: n})
		if ok != (err == nil) || ok && (traffic.Sick() != n || traffic.State().Sick != n) {
			t.Errorf("%d sick endpoints: error %v and then %d, want it accepted: %v", n, err, traffic.Sick(), ok)
		}
	}
}

// With another path, the results begin anew: those of both ways would be of different times.
func TestGeneratorForgetsWhenThePathChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traffic, err := page.NewGenerator(20, 0, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go traffic.Run(ctx, "nowhere://client", "nowhere://upstream")
		after := func(settings page.TrafficSettings) page.TrafficState {
			if err := traffic.Set(settings); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(990 * time.Millisecond)
			return traffic.State()
		}
		for _, step := range []struct {
			settings      page.TrafficSettings
			with, without int
		}{
			{page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}, 20, 20},
			{page.TrafficSettings{PerSecond: 20, Path: page.PathWith}, 20, 0},
			{page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}, 20, 20},
			{page.TrafficSettings{PerSecond: 0, Path: page.PathBoth}, 20, 20},
		} {
			if s := after(step.settings); s.With.Ended != step.with || s.Without.Ended != step.without {
				t.Errorf("after %+v: %d calls with and %d without, want %d and %d", step.settings, s.With.Ended, s.Without.Ended, step.with, step.without)
			}
		}
	})
}

// The comparison used to mix the seconds before a fault into its figures: nine seconds after the
// begin of an outage it said that most calls succeed. Calls and attempts that were sent before
// Forget do not count, also if they end after it.
func TestGeneratorForgetsWhatWasSentUnderOtherFaults(t *testing.T) {
	traffic, err := page.NewGenerator(200, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var blocked atomic.Int64
	release := make(chan struct{})
	counted := traffic.Counted(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			counted.ServeHTTP(w, r)
		default: // under the faults of before
			counted.ServeHTTP(httptest.NewRecorder(), r)
			blocked.Add(1)
			<-release
			counted.ServeHTTP(httptest.NewRecorder(), r) // a second attempt
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer client.Close()
	defer generate(t, traffic, client.URL, client.URL)()
	set := func(perSecond int) {
		t.Helper()
		if err := traffic.Set(page.TrafficSettings{Path: page.PathBoth, PerSecond: perSecond}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "10 calls that wait", func() bool { return blocked.Load() >= 10 })
	set(0)
	sent := func() [2]int { s := traffic.State(); return [2]int{s.With.Sent, s.Without.Sent} }
	for last := [2]int{}; last != sent(); time.Sleep(100 * time.Millisecond) { // until the rate is 0
		last = sent()
	}
	forgotten := time.Now()
	traffic.Forget()
	if s := traffic.State(); s.With.Sent > 1 || s.With.Attempts > 1 || s.Seconds > time.Since(forgotten).Seconds() { // one may be on its way
		t.Errorf("after Forget: %+v, want no results of the time before", s)
	}
	close(release)
	set(200)
	var s page.TrafficState
	until(t, "10 answers each way", func() bool {
		s = traffic.State()
		return s.With.Ended >= 10 && s.Without.Ended >= 10
	})
	for way, r := range map[string]page.TrafficResult{"with": s.With, "without": s.Without} {
		if r.Good != r.Ended || r.Attempts > r.Sent {
			t.Errorf("%s the policy: %+v, want good calls of one attempt only: the others were sent before", way, r)
		}
	}
}

// The calls with the policy reach another upstream if an answer tells of attempts that this one has
// not seen. The comparison used to count 0 attempts then. Without a route they reach none, and it
// used to blame the policy.
func TestGeneratorWhoseCallsGoElsewhere(t *testing.T) {
	for name, tc := range map[string]struct {
		counted  bool
		attempts string
		status   int
		want     bool
	}{
		"here":                           {true, "1", 200, false},
		"elsewhere":                      {false, "1", 200, true},
		"elsewhere, and failed":          {false, "1", 503, true},
		"nothing reached any":            {false, "0", 503, false},
		"here, but undisclosed":          {true, "", 200, false},
		"elsewhere, but undisclosed":     {false, "", 200, true},
		"refused or failed, nobody says": {false, "", 503, false},
		"no route":                       {false, "0", 404, true},
		"no route, but undisclosed":      {false, "", 404, true},
		"a route for other methods":      {false, "0", 405, true},
		"not found here":                 {true, "1", 404, false},
	} {
		t.Run(name, func(t *testing.T) {
			traffic, err := page.NewGenerator(100, 0, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			var answer http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tc.attempts != "" {
					w.Header().Set("X-Attempt-Count", tc.attempts)
				}
				w.WriteHeader(tc.status)
			})
			if tc.counted {
				answer = traffic.Counted(answer)
			}
			client := httptest.NewServer(answer)
			defer client.Close()
			defer generate(t, traffic, client.URL, client.URL)()
			until(t, "3 answers", func() bool { return traffic.State().With.Ended >= 3 })
			if got := traffic.State().Elsewhere; got != tc.want {
				t.Errorf("elsewhere = %v, want %v", got, tc.want)
			}
		})
	}
}

// The generator used to follow redirects: its calls reached another host past the policy.
func TestGeneratorFollowsNoRedirect(t *testing.T) {
	traffic, err := page.NewGenerator(100, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var followed atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer other.Close()
	client := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer client.Close()
	defer generate(t, traffic, client.URL, client.URL)()
	var s page.TrafficState
	until(t, "5 answers", func() bool { s = traffic.State(); return s.With.Ended >= 5 })
	if n := followed.Load(); n > 0 || s.With.Good > 0 {
		t.Errorf("%d calls reached the other host, and %d are good, want none", n, s.With.Good)
	}
}

// The times of each way are those that its callers waited: no shorter than its server took, and the
// median is not moved by a few slow calls.
func TestGeneratorMeasuresTimes(t *testing.T) {
	traffic, err := page.NewGenerator(200, 0, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	const slow = 400 * time.Millisecond
	// hold serves nine calls of ten after quick, and one after slow.
	type side struct {
		mu    sync.Mutex
		begun int
		took  []time.Duration
	}
	hold := func(s *side, quick time.Duration) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			s.mu.Lock()
			s.begun++
			wait := quick
			if s.begun%10 == 0 {
				wait = slow
			}
			s.mu.Unlock()
			time.Sleep(wait)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.took = append(s.took, time.Since(began))
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	var with, without side
	client, direct := hold(&with, time.Millisecond), hold(&without, 40*time.Millisecond)
	defer generate(t, traffic, client, direct)()
	until(t, "100 calls each way", func() bool { s := traffic.State(); return s.With.Sent >= 100 && s.Without.Sent >= 100 })
	if err := traffic.Set(page.TrafficSettings{Path: page.PathBoth}); err != nil {
		t.Fatal(err)
	}
	var s page.TrafficState
	until(t, "all answers", func() bool {
		s = traffic.State()
		return s.With.Ended >= s.With.Sent && s.Without.Ended >= s.Without.Sent
	})
	for way, of := range map[string]struct {
		shown page.TrafficResult
		side  *side
	}{"with": {s.With, &with}, "without": {s.Without, &without}} {
		of.side.mu.Lock()
		took := slices.Sorted(slices.Values(of.side.took))
		of.side.mu.Unlock()
		if len(took) != of.shown.Ended {
			if s.Seconds >= 9 { // the results are of ten seconds
				t.Skipf("this machine took %v s for the calls, and the first ones do not count any more", s.Seconds)
			}
			t.Fatalf("%s: the server answered %d calls, and %d ended, want the same", way, len(took), of.shown.Ended)
		}
		at := func(share float64) float64 {
			return float64(took[int(share*float64(len(took)-1))].Truncate(time.Microsecond)) / float64(time.Millisecond)
		}
		if p50 := of.shown.P50; p50 < at(0.5) || p50 >= at(0.95) {
			t.Errorf("%s: median = %v ms, want at least the server's, %v ms, and less than its slow calls, %v ms", way, p50, at(0.5), at(0.95))
		}
		if p99 := of.shown.P99; p99 < at(0.99) {
			t.Errorf("%s: 99th percentile = %v ms, want at least the server's, %v ms", way, p99, at(0.99))
		}
	}
}
