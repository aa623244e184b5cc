package lab

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Measurement makes the calls of a scenario against something real, in real time,
// and counts them as an [Experiment] does.
type Measurement struct {
	Scenario Scenario
	Load     Load
	// Call makes one call and tells how it ended, with as many attempts as there
	// were. It must be safe for concurrent use.
	Call func() *resilience.Report
	// Progress is as in [Experiment].
	Progress func(passed time.Duration)
	// Begin, unless nil, is called as the clock starts. It is handed what to call
	// for every attempt that reaches the upstream.
	Begin func(attempt func())
}

// Run makes the calls and returns when the last of them has ended. The errors are
// those of the scenario and the load; Run looks at ctx once a second and ends
// early with its cause. What only a model knows is left out of the result:
// circuits, budgets, and the upstream's work.
func (m Measurement) Run(ctx context.Context) (*Result, error) {
	if err := m.Scenario.Validate(); err != nil {
		return nil, err
	}
	if err := m.Load.validate(m.Scenario); err != nil {
		return nil, err
	}
	m.Load.Length = m.Load.length(m.Scenario)
	rec := newRecorder(m.Scenario.Disturbance, m.Load.Length)
	if m.Begin != nil {
		m.Begin(func() { rec.attempt(time.Now()) })
	}
	r := &run{
		scenario: m.Scenario, load: m.Load, progress: m.Progress, recorder: rec,
		call: func(int) *resilience.Report {
			report := m.Call()
			rec.retried(len(report.Attempts) - 1)
			return report
		},
		look: func() (int, float64) { return 0, 0 },
	}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return r.result(faults.Stats{}), nil
}

// Document is the scenario's upstream as a faults document for flaky-server, with
// a capacity in calls a second, 0 for none. It fails, with every key at once,
// for what flaky-server cannot do: refuse connections, be several instances,
// have no worker, or change their number step by step.
func (s Scenario) Document(capacity float64) (faults.Spec, error) {
	var mistakes []string
	cannot := func(path, why string) { mistakes = append(mistakes, path+": "+why) }
	spec := s.Upstream.Faults
	spec.Schedule = nil
	if s.Upstream.Instances > 1 {
		cannot("upstream.instances", "flaky-server is one instance")
	}
	workers := 0
	if capacity > 0 {
		workers = max(1, int(math.Round(capacity*meanOf(spec.Latency).Seconds())))
		spec.Capacity = faults.Capacity{Workers: workers, Queue: int(capacity * s.Upstream.Queue.Seconds())}
	}
	for i, p := range s.Upstream.Phases {
		at := func(key string) string { return config.Join(config.Index("upstream.phases", i), key) }
		w := p.Window
		if p.Refuse {
			cannot(at("refuse"), "flaky-server does not refuse connections")
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
		return faults.Spec{}, fmt.Errorf("scenario %s is for the simulation only: %v", s.Name, mistakes)
	}
	return spec, spec.Validate()
}
