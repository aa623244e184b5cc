package lab_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// validation compares published results with ours. The tests here write its tables with -update.
const validation = "../../docs/validation.md"

// The retry experiment of "Metastable Failures in the Wild" (Huang et al., OSDI'22): a short loss
// of capacity, and retries that may keep the server down after it. The load is the one fitted
// number.
func TestMetastableFailuresInTheWild(t *testing.T) {
	statistics(t)
	t.Parallel()
	const (
		capacity = 1000
		fitted   = 0.375
		seeds    = 10
		ours     = 2 // seeds for the default policy
	)
	cfg := gateway.DefaultConfig()
	if err := config.Load("testdata/osdi22/policy.yaml", &cfg); err != nil {
		t.Fatal(err)
	}
	published := cfg.Policies[gateway.DefaultPolicyName]
	var table strings.Builder
	table.WriteString("| | processors | for, s | load | published | ours: seeds that recover | attempts per call at the end | default policy: seeds that recover | recovery at most, s |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range []struct {
		name       string
		processors string
		load       float64 // relative to the fitted one
		recovers   bool
	}{{"a", "2 → 0.45", 1, true}, {"b", "2 → 0.40", 1, false}, {"c", "2 → 0.40", 1, true}, {"d", "2 → 0.40", 0.75, true}} {
		s, err := lab.LoadScenario("testdata/osdi22/" + c.name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		s.Length = s.Disturbance.End() + 13*time.Second
		var experiments []lab.Experiment
		for i := range seeds + ours {
			p, seed := published, i
			if i >= seeds {
				p, seed = transport.DefaultPolicy(), i-seeds
			}
			experiments = append(experiments, lab.Experiment{
				Policy: p, Scenario: s, Load: lab.Load{Rate: capacity * fitted * c.load, Clients: 20, Capacity: capacity, Seed: uint64(seed) + 1},
			})
		}
		results := all(t, experiments)
		recovered, least, most := 0, math.Inf(1), 0.0
		for i, r := range results[:seeds] {
			if r.RecoveryS != nil {
				recovered++
			}
			if (r.RecoveryS != nil) != c.recovers {
				t.Errorf("%s, seed %d: recovery %s, published is %v", c.name, i+1, shown(r.RecoveryS), c.recovers)
			}
			end := amplificationAtEnd(r)
			least, most = min(least, end), max(most, end)
		}
		// A server that is down for good is kept down by retries, and one that is well gets none.
		if c.recovers && most > 1.01 || !c.recovers && least < 2 {
			t.Errorf("%s: %.2f to %.2f attempts per call at the end", c.name, least, most)
		}
		ourRecovered := 0
		for i, r := range results[seeds:] {
			if r.RecoveryS != nil {
				ourRecovered++
			}
			if r.RecoveryS == nil || *r.RecoveryS > 2 {
				t.Errorf("%s, default policy, seed %d: recovery %s, want at most 2 s", c.name, i+1, shown(r.RecoveryS))
			}
		}
		outcome := "never recovers"
		if c.recovers {
			outcome = "recovers"
		}
		fmt.Fprintf(&table, "| %s | %s | %g | %g | %s | %d of %d | %.1f to %.1f | %d of %d | %s |\n", c.name, c.processors, s.Disturbance.For.Seconds(), c.load,
			outcome, recovered, seeds, least, most, ourRecovered, ours, inSeconds(worst(results[seeds:], recoveryOf)))
	}
	golden.Table(t, validation, "osdi22", table.String())
}

// amplificationAtEnd returns the attempts per call in the last three seconds.
func amplificationAtEnd(r *lab.Result) float64 {
	var attempts, calls float64
	for _, s := range r.Series[int(r.LengthS)-3 : int(r.LengthS)] {
		attempts, calls = attempts+float64(s.Attempts), calls+float64(s.Offered)
	}
	return attempts / calls
}

// row is a row of a database with optimistic concurrency control: a write succeeds if nobody else
// has written since the row was read.
type row struct {
	mu            sync.Mutex
	version       int
	writes, wrong int
}

func (r *row) read() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version
}

func (r *row) write(version int) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	if version != r.version {
		r.wrong++
		return false
	}
	r.version++
	return true
}

// contender is a client of a row. An attempt reads the row and writes it.
type contender struct {
	row    *row
	start  time.Time
	number time.Duration
	rng    *rand.Rand
}

func (c *contender) RoundTrip(req *http.Request) (*http.Response, error) {
	c.travel()
	version := c.row.read()
	c.travel()
	c.travel()
	ok := c.row.write(version)
	c.travel()
	status := http.StatusOK
	if !ok {
		status = http.StatusConflict
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Request: req}, nil
}

// travel waits for the network. No two contenders arrive in the same nanosecond, so that the same
// seed gives the same figures.
func (c *contender) travel() {
	const lanes = 256
	d := time.Duration(math.Abs(10+2*c.rng.NormFloat64()) * float64(time.Millisecond))
	at := time.Since(c.start) + d
	time.Sleep(d + (c.number-at%lanes+lanes)%lanes)
}

// contend lets clients write a row once each, and returns the writes that they need and the time
// until the last is done.
func contend(t *testing.T, clients int, b resilience.Backoff, seed uint64) (writes int, took time.Duration) {
	t.Helper()
	p := lab.NoPolicy(transport.DefaultPolicy())
	p.Timeout, p.AttemptTimeout = time.Hour, time.Hour
	p.Retry.MaxAttempts, p.Retry.Backoff, p.Retry.Statuses = 100, b, []int{http.StatusConflict}
	p.Retry.Budget = resilience.BudgetPolicy{Ratio: 100, Burst: 1e6, FloorPerSecond: 1e6}
	var shared row
	virtual.Run(func() {
		start := time.Now()
		var all sync.WaitGroup
		for i := range clients {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			c := &contender{row: &shared, start: start, number: time.Duration(i), rng: rng}
			tr, err := transport.New(c, p, transport.WithRandom(rng.Float64))
			if err != nil {
				t.Error(err)
				return
			}
			all.Go(func() {
				req, err := http.NewRequest(http.MethodPut, "http://row/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := tr.RoundTrip(req)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("client %d of %d: got %v, error %v, want a write", i+1, clients, resp, err)
				}
			})
		}
		all.Wait()
		took = time.Since(start)
	})
	if shared.version != clients {
		t.Errorf("%d writes, want one of each of the %d clients", shared.version, clients)
	}
	return shared.writes, took
}

// publishedJitter has what the program of the post below gives: writes, and seconds until the last
// is done, by the kind of wait and the number of clients. Each is a mean of 100 rounds, as in the
// program.
func publishedJitter() map[string]map[int][2]float64 {
	return map[string]map[int][2]float64{
		"no backoff":   {10: {50.4, 0.377}, 20: {151.5, 0.602}, 50: {689.4, 1.143}, 100: {2422.4, 2.030}},
		"exponential":  {10: {51.1, 3.515}, 20: {148.2, 14.162}, 50: {624.2, 36.483}, 100: {1863.7, 63.758}},
		"full":         {10: {38.7, 0.461}, 20: {99.1, 0.993}, 50: {332.2, 2.883}, 100: {796.7, 4.869}},
		"equal":        {10: {42.8, 0.736}, 20: {109.2, 1.647}, 50: {348.5, 4.276}, 100: {814.4, 6.686}},
		"decorrelated": {10: {37.6, 0.442}, 20: {101.5, 0.834}, 50: {373.6, 2.190}, 100: {1002.4, 4.625}},
	}
}

// The figures of "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015):
// clients compete for a row, and differ in their waits. The numbers are those of the simulator that
// was published with it.
func TestExponentialBackoffAndJitter(t *testing.T) {
	statistics(t)
	t.Parallel()
	const rounds = 10
	// The published cap is 2ⁿ·5 ms before retry n.
	capped := func(j resilience.Jitter) resilience.Backoff {
		return resilience.Backoff{Base: 10 * time.Millisecond, Max: 2 * time.Second, Factor: 2, Jitter: j}
	}
	decorrelated := capped(resilience.JitterDecorrelated)
	decorrelated.Base = 5 * time.Millisecond
	kinds := []struct {
		name    string
		backoff resilience.Backoff
	}{
		{"no backoff", resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}},
		{"exponential", capped(resilience.JitterNone)},
		{"full", capped(resilience.JitterFull)},
		{"equal", capped(resilience.JitterEqual)},
		{"decorrelated", decorrelated},
	}
	sizes := []int{10, 20, 50, 100}
	calls, seconds := map[string]float64{}, map[string]float64{}
	key := func(kind string, clients int) string { return fmt.Sprint(kind, clients) }
	var mu sync.Mutex
	var running sync.WaitGroup
	free := make(chan struct{}, 2)
	for _, clients := range slices.Backward(sizes) {
		for _, kind := range kinds {
			for seed := range uint64(rounds) {
				free <- struct{}{}
				running.Go(func() {
					defer func() { <-free }()
					n, took := contend(t, clients, kind.backoff, seed+1)
					mu.Lock()
					defer mu.Unlock()
					// Sums of whole numbers do not depend on the order.
					calls[key(kind.name, clients)] += float64(n)
					seconds[key(kind.name, clients)] += float64(took)
				})
			}
		}
	}
	running.Wait()
	if t.Failed() {
		return
	}
	for k := range calls {
		calls[k] /= rounds
		seconds[k] /= rounds * float64(time.Second)
	}
	var table strings.Builder
	table.WriteString("| clients | |")
	for _, kind := range kinds {
		table.WriteString(" " + kind.name + " |")
	}
	table.WriteString("\n|---|---|" + strings.Repeat("---|", len(kinds)) + "\n")
	for _, clients := range sizes {
		for _, figure := range []struct {
			name, format string
			of           map[string]float64
			number, from int     // which of the published figures, and the least clients to compare
			within       float64 // share
		}{{"calls", " %.0f |", calls, 0, 10, 0.1}, {"until the last is done, s", " %.1f |", seconds, 1, 50, 0.15}} {
			fmt.Fprintf(&table, "| %d | %s |", clients, figure.name)
			for _, kind := range kinds {
				fmt.Fprintf(&table, figure.format, figure.of[key(kind.name, clients)])
			}
			table.WriteString("\n| | published program |")
			for _, kind := range kinds {
				published := publishedJitter()[kind.name][clients][figure.number]
				fmt.Fprintf(&table, figure.format, published)
				// A round lasts until its slowest client is done, and with few clients that varies.
				if off := figure.of[key(kind.name, clients)]/published - 1; clients >= figure.from && math.Abs(off) > figure.within {
					t.Errorf("%d clients, %s, %s: %+.0f %% of the published program, want at most %.0f %%", clients, kind.name, figure.name, 100*off, 100*figure.within)
				}
			}
			table.WriteString("\n")
		}
	}
	golden.Table(t, validation, "jitter", table.String())

	// Ratios of two figures at 100 clients, or of one at 100 and at 50.
	ratio := func(of map[string]float64, kind, other string) float64 {
		return of[key(kind, 100)] / of[key(other, 100)]
	}
	var claims strings.Builder
	claims.WriteString("| published, for 100 clients | ours | the test asks for |\n|---|---|---|\n")
	for _, c := range []struct {
		published, figure string
		ours              float64
		low, high         float64
	}{
		{"Work grows as N².", "calls without backoff, 100 clients to 50", calls[key("no backoff", 100)] / calls[key("no backoff", 50)], 3, 4.5},
		{"Backoff alone helps a little.", "calls, exponential to none", ratio(calls, "exponential", "no backoff"), 0.5, 0.9},
		{"Jitter needs less than half of the calls.", "calls, full to exponential", ratio(calls, "full", "exponential"), 0, 0.5},
		{"It is much faster too.", "time, full to exponential", ratio(seconds, "full", "exponential"), 0, 0.2},
		{"No jitter is the clear loser in time.", "time, exponential to equal", ratio(seconds, "exponential", "equal"), 5, math.Inf(1)},
		{"Equal jitter does slightly more work than full.", "calls, equal to full", ratio(calls, "equal", "full"), 1, 1.15},
		{"It takes much longer.", "time, equal to full", ratio(seconds, "equal", "full"), 1.2, 3},
		{"Decorrelated needs more calls than full.", "calls, decorrelated to full", ratio(calls, "decorrelated", "full"), 1.05, 1.5},
		{"It takes slightly less time.", "time, decorrelated to full", ratio(seconds, "decorrelated", "full"), 0.7, 1},
	} {
		asked := fmt.Sprintf("%g to %g", c.low, c.high)
		if c.ours < c.low || c.ours > c.high {
			t.Errorf("%s %s: %.2f, want %s", c.published, c.figure, c.ours, asked)
		}
		switch {
		case math.IsInf(c.high, 1):
			asked = fmt.Sprintf("at least %g", c.low)
		case c.low == 0:
			asked = fmt.Sprintf("at most %g", c.high)
		}
		fmt.Fprintf(&claims, "| %s | %s: %.2f | %s |\n", c.published, c.figure, c.ours, asked)
	}
	golden.Table(t, validation, "jitter-claims", claims.String())
}
