package lab_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// waits counts the calls that begin within a span, and those of them that wait longer than a limit.
type waits struct {
	start time.Time
	span  lab.Span
	limit time.Duration

	mu         sync.Mutex
	made, long int
}

// share returns the share of the calls that wait for long.
func (w *waits) share() float64 { return float64(w.long) / float64(max(1, w.made)) }

// waiting is a client with the default policy that records how long its calls wait.
type waiting struct {
	*waits
	transport *transport.Transport
	request   *http.Request
}

// roundTripper is a function that makes an attempt.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// client returns a client under a policy for an experiment.
func (w *waits) client(p transport.Policy) func(lab.ClientOptions) (lab.Client, error) {
	return func(o lab.ClientOptions) (lab.Client, error) {
		t, err := transport.New(roundTripper(func(r *http.Request) (*http.Response, error) {
			return o.Send(r, lab.AnyInstance)
		}), p, transport.WithRandom(o.Random))
		return &waiting{w, t, o.Request}, err
	}
}

func (c *waiting) Call() *resilience.Report {
	began := time.Now()
	var report resilience.Report
	resp, err := c.transport.RoundTrip(c.request.WithContext(transport.WithReport(context.Background(), &report)))
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // the report has the error
		_ = resp.Body.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := began.Sub(c.start); at >= c.span.At && at < c.span.End() {
		c.made++
		if time.Since(began) > c.limit {
			c.long++
		}
	}
	return &report
}

func (c *waiting) State() lab.ClientState { return lab.ClientState{} }

// hang returns the outage of the issue: eight workers of 20 ms, and nothing is answered for ten
// seconds.
func hang() lab.Scenario {
	s := steady(func(s *lab.Scenario) {
		s.Upstream.Faults.Latency.Value = 20 * time.Millisecond
		s.Disturbance = lab.Span{At: 10 * time.Second, For: 10 * time.Second}
		s.Length = 40 * time.Second
		s.Upstream.Phases = []lab.Phase{phase(s.Disturbance.At, s.Disturbance.For, func(p *lab.Phase) { p.Working = new(0.0) })}
	})
	return s
}

// While the upstream hangs, hardly a call waits. A client with many calls finds out after 60 ms
// without an answer, one of few calls needs a second.
func TestFewCallsWaitInAnOutage(t *testing.T) {
	statistics(t)
	t.Parallel()
	for _, c := range []struct {
		clients    int
		rate       float64
		mean, most float64
	}{{1, 200, 0.015, 0.018}, {1, 300, 0.015, 0.018}, {20, 200, 0.25, 0.3}, {20, 300, 0.16, 0.2}} {
		t.Run(fmt.Sprintf("%d clients, %g calls/s", c.clients, c.rate), func(t *testing.T) {
			t.Parallel()
			const seeds = 10
			var sum float64
			for seed := range uint64(seeds) {
				s := hang()
				w := &waits{span: s.Disturbance, limit: 50 * time.Millisecond}
				r := simulateAt(t, w, lab.Experiment{
					Client: w.client(transport.DefaultPolicy()), Scenario: s,
					Load: lab.Load{Rate: c.rate, Clients: c.clients, Capacity: 400, Seed: seed + 1},
				})
				sum += w.share()
				if w.share() > c.most || r.RecoveryS == nil || *r.RecoveryS > 2 {
					t.Errorf("seed %d: %.2f %% of the calls wait over 50 ms, recovery %s, want at most %.1f %%, and 2 s", seed+1, 100*w.share(), shown(r.RecoveryS), 100*c.most)
				}
			}
			t.Logf("%.2f %% of the calls wait over 50 ms", 100*sum/seeds)
			if mean := sum / seeds; mean > c.mean {
				t.Errorf("%.2f %% of the calls wait over 50 ms, want at most %.1f %%", 100*mean, 100*c.mean)
			}
		})
	}
}

// An upstream that pauses again and again is not taken for one that hangs: its pauses are known
// after the first.
func TestPausesAreLearned(t *testing.T) {
	statistics(t)
	t.Parallel()
	for _, pause := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			s := steady(func(s *lab.Scenario) {
				s.Upstream.Faults.Latency.Value = 20 * time.Millisecond
				s.Length = 4 * time.Minute
				s.Disturbance = lab.Span{At: time.Second, For: s.Length - time.Second}
				for at := 15 * time.Second; at < s.Length; at += 15 * time.Second {
					s.Upstream.Phases = append(s.Upstream.Phases, phase(at, pause, func(p *lab.Phase) { p.Working = new(0.0) }))
				}
			})
			r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{Rate: 200, Clients: 1, Capacity: 400, Seed: 1}})
			if r.During.Success < 0.998 {
				t.Errorf("%.2f %% of the calls end well, want at least 99.8 %%", 100*r.During.Success)
			}
		})
	}
}
