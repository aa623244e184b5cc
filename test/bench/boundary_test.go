package bench_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	modelled "github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/translate"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// folkMesh is the setting that most examples for Istio show, in half the time.
const folkMesh = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
    - route: [{destination: {host: ratings}}]
      timeout: 5s
      retries: {attempts: 3, perTryTimeout: 1s, retryOn: "5xx,reset,connect-failure,refused-stream"}
`

// bounded is a policy whose boundary is predicted and measured. All times are half of the usual
// ones, so that a probe takes half as long.
type bounded struct {
	name   string
	policy transport.Policy                            // of the real client
	client func(lab.ClientOptions) (lab.Client, error) // of the prediction; nil = by policy
}

func boundedPolicies() ([]bounded, error) {
	byDefault := transport.DefaultPolicy()
	byDefault.Timeout, byDefault.AttemptTimeout = byDefault.Timeout/2, byDefault.AttemptTimeout/2
	rungs := map[string]transport.Policy{}
	for _, rung := range lab.Ladder(byDefault) {
		rungs[rung.Name] = rung.Policy
	}
	naive := rungs["immediate retry"]
	imported, err := foreign.Import("", "folk.yaml", []byte(folkMesh))
	if err != nil {
		return nil, err
	}
	osdi := naive
	osdi.Timeout, osdi.AttemptTimeout, osdi.Retry.MaxAttempts = 30*time.Second, 1500*time.Millisecond, 5
	return []bounded{
		{"three attempts without a wait", naive, nil},
		{"Istio, 3 retries of 1 s", translate.Policy(imported.Policies[0]).Policy, modelled.New(imported.Policies[0])},
		{"OSDI'22, five attempts of 1.5 s", osdi, nil},
		{"with a budget for retries", rungs["+ budget"], nil},
		{"the default policy", byDefault, nil},
	}, nil
}

// hang is an upstream of 200 calls a second that answers nothing for five seconds. A policy has 15
// seconds to recover.
func hang() (s lab.Scenario, load lab.Load) {
	s.SetDefaults()
	s.Name, s.Length = "hang", 23*time.Second
	s.Disturbance = lab.Span{At: 3 * time.Second, For: 5 * time.Second}
	s.Upstream.Faults.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: 100 * time.Millisecond}
	s.Upstream.Phases = []lab.Phase{{Window: faults.Window{At: s.Disturbance.At, For: s.Disturbance.For}, Working: new(0.0)}}
	return s, lab.Load{Clients: 1, Capacity: 200}
}

// BenchmarkBoundary finds the load from which a policy no longer recovers, in the simulator and
// with client and flaky-server as processes, for the same arrivals.
func BenchmarkBoundary(b *testing.B) {
	programs := gobuild.Programs(b, "../..", "./cmd/client", "./cmd/flaky-server")
	policies, err := boundedPolicies()
	if err != nil {
		b.Fatal(err)
	}
	const (
		seeds = 3
		most  = 3 // points between the boundaries
	)
	for _, p := range policies {
		b.Run(p.name, func(b *testing.B) {
			for b.Loop() {
				predicted, err := lab.FindBoundary(b.Context(), seeds, p.predict)
				if err != nil {
					b.Fatal(err)
				}
				measured, err := lab.FindBoundary(b.Context(), seeds, func(ctx context.Context, percent int, seed uint64) (bool, error) {
					recovers, err := p.probe(ctx, b, programs, percent, seed)
					b.Logf("%d %% load, seed %d: recovers %v", percent, seed, recovers)
					return recovers, err
				})
				if err != nil {
					b.Fatal(err)
				}
				fmt.Printf("\n| %s | %d %v | %d %v |\n", p.name, predicted.Percent, predicted.BySeed, measured.Percent, measured.BySeed)
				if apart := max(predicted.Percent-measured.Percent, measured.Percent-predicted.Percent); apart > most {
					b.Errorf("the boundaries are %d points apart, want at most %d", apart, most)
				}
				b.ReportMetric(float64(predicted.Percent), "predicted-%")
				b.ReportMetric(float64(measured.Percent), "measured-%")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// predict reports whether the simulated policy recovers.
func (p bounded) predict(ctx context.Context, percent int, seed uint64) (recovers bool, err error) {
	s, load := hang()
	load.Rate, load.Seed = load.Capacity*float64(percent)/lab.BoundarySteps, seed
	virtual.Run(func() {
		var r *lab.Result
		if r, err = (lab.Experiment{Policy: p.policy, Client: p.client, Scenario: s, Load: load}).Run(ctx); err == nil {
			recovers = r.RecoveryS != nil
		}
	})
	return recovers, err
}

// probe reports whether the real policy recovers. Its processes are new ones.
func (p bounded) probe(ctx context.Context, b *testing.B, programs string, percent int, seed uint64) (recovers bool, err error) {
	s, load := hang()
	load.Rate, load.Seed = load.Capacity*float64(percent)/lab.BoundarySteps, seed
	alone := s
	alone.Upstream.Phases = nil // a faults document cannot take all workers away: the process is frozen
	document, err := alone.Document(load.Capacity)
	if err != nil {
		return false, err
	}
	upstream := &flaky{ctx: ctx, program: filepath.Join(programs, "flaky-server")}
	if err := upstream.start("127.0.0.1:0", seed); err != nil {
		return false, err
	}
	defer stop(upstream.process)
	if err := upstream.put(document); err != nil {
		return false, err
	}
	urls, stopClients := startClients(b, filepath.Join(programs, "client"), 1, upstream.data, p.policy)
	defer stopClients()
	caller := &http.Transport{MaxIdleConnsPerHost: 1024}
	defer caller.CloseIdleConnections()
	start := time.Now()
	freeze := outage{span: s.Disturbance, begin: upstream.freeze, end: upstream.goOn}
	r, err := lab.Measurement{
		Scenario: s, Load: load,
		Begin: func(func()) {
			start = time.Now()
			freeze.run(start)
		},
		Call: func() *resilience.Report {
			var c called
			c.call(caller, urls[0], start)
			return &resilience.Report{Reason: c.reason, Attempts: make([]resilience.AttemptReport, max(1, len(c.attempts)))}
		},
	}.Run(ctx)
	if err = errors.Join(err, freeze.wait()); err != nil {
		return false, err
	}
	return r.RecoveryS != nil, nil
}

// outage begins and ends during a measurement.
type outage struct {
	span       lab.Span
	begin, end func() error
	done       chan error // nil before run
}

// run starts the outage of a measurement that starts at a time.
func (o *outage) run(start time.Time) {
	o.done = make(chan error, 1)
	go func() {
		time.Sleep(time.Until(start.Add(o.span.At)))
		err := o.begin()
		time.Sleep(time.Until(start.Add(o.span.End())))
		o.done <- errors.Join(err, o.end())
	}()
}

// wait waits for the end of the outage. A measurement that fails early has none.
func (o *outage) wait() error {
	if o.done == nil {
		return nil
	}
	return <-o.done
}

// A measurement that fails before it begins is no reason to wait for its outage.
func TestOutageOfAFailedMeasurement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var events []string
		o := outage{span: lab.Span{At: time.Second, For: time.Second}, begin: func() error { events = append(events, "begin"); return nil }, end: func() error { return errors.New("end") }}
		_, err := lab.Measurement{Scenario: lab.Scenario{}, Begin: func(func()) { o.run(time.Now()) }}.Run(t.Context())
		if err == nil || o.wait() != nil || events != nil {
			t.Errorf("got error %v, events %v, want an error and no outage", err, events)
		}
		o.run(time.Now())
		if err := o.wait(); err == nil || len(events) != 1 {
			t.Errorf("got error %v, events %v, want the end's error", err, events)
		}
	})
}
