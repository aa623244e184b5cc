package lab

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Measurement makes the calls of a scenario against a real service in real time, and counts them as
// an [Experiment] does.
type Measurement struct {
	Scenario Scenario
	Load     Load
	// Call makes one call and returns how it ended, with one entry for each attempt. It must be
	// safe for concurrent use.
	Call func() *resilience.Report
	// Progress is as in [Experiment].
	Progress func(passed time.Duration)
	// Begin, if not nil, is called when the clock starts. Call attempt for every attempt that
	// reaches the upstream.
	Begin func(attempt func())
}

// Run makes the calls and returns when the last one has ended. It fails if the scenario or the load
// is not valid. Run checks ctx once per second, and returns its cause if it has ended. The result
// has no figures that only a model can know: circuits, budgets, and the upstream's work.
func (m Measurement) Run(ctx context.Context) (*Result, error) {
	if err := m.Scenario.Validate(); err != nil {
		return nil, err
	}
	if err := m.Load.validate(m.Scenario); err != nil {
		return nil, err
	}
	m.Load.Length = m.Load.length(m.Scenario)
	rec := newRecorder(m.Scenario.Disturbance, m.Load.Length, 0)
	if m.Begin != nil {
		m.Begin(func() { rec.attempt(time.Now(), 0) })
	}
	r := &run{
		scenario: m.Scenario, load: m.Load, progress: m.Progress, recorder: rec,
		call: func(int) *resilience.Report {
			report := m.Call()
			rec.retried(len(report.Attempts) - 1)
			return report
		},
		sampleClients: func() (int, int, float64) { return 0, 0, 0 },
	}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return r.result(faults.Stats{}), nil
}

// Document returns the scenario's upstream as a faults document for flaky-server. capacity is in
// calls per second; 0 means no limit. It fails, and lists every key, if flaky-server cannot play
// the scenario: it cannot refuse connections, be several instances, have no workers, multiply its
// latency, or change the number of workers in steps.
func (s Scenario) Document(capacity float64) (faults.Spec, error) {
	var mistakes []string
	cannot := func(path, why string) { mistakes = append(mistakes, path+": "+why) }
	spec := s.Upstream.Faults
	spec.Schedule = nil
	if s.Upstream.Instances > 1 {
		cannot("upstream.instances", "flaky-server is one instance")
	}
	if s.Upstream.Endpoints.Resolve != endpoint.ResolveNone {
		cannot("upstream.endpoints.resolve", "flaky-server is one instance")
	}
	workers := 0
	if capacity > 0 {
		workers = max(1, int(math.Round(capacity*backend.Mean(spec.Latency).Seconds())))
		spec.Capacity = faults.Capacity{Workers: workers, Queue: int(capacity * s.Upstream.Queue.Seconds())}
	}
	for i, p := range s.Upstream.Phases {
		at := func(key string) string { return config.Join(config.Index("upstream.phases", i), key) }
		w := p.Window
		if p.Refuse {
			cannot(at("refuse"), "flaky-server does not refuse connections")
		}
		if p.Gone {
			cannot(at("gone"), "flaky-server does not refuse connections")
		}
		if p.Slower != nil {
			cannot(at("slower"), "flaky-server has a latency instead")
		}
		if p.WorkingAtEnd != nil {
			cannot(at("workingAtEnd"), "flaky-server does not change its workers step by step")
		}
		if p.Working != nil {
			left := int(math.Round(*p.Working * float64(workers)))
			if left < 1 {
				cannot(at("working"), "flaky-server has at least one worker")
			}
			w.Capacity = &faults.CapacityChange{Workers: &left}
		}
		spec.Schedule = append(spec.Schedule, w)
	}
	if len(mistakes) > 0 {
		return faults.Spec{}, fmt.Errorf("scenario %s can only be simulated: %v", s.Name, mistakes)
	}
	return spec, spec.Validate()
}
