package callgraph

import (
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
)

// Result is the outcome of an [Experiment]. Times have the unit in their names.
type Result struct {
	Graph       string  `json:"graph"`
	Description string  `json:"description,omitempty"`
	Entry       string  `json:"entry"`
	Rate        float64 `json:"rate"`
	Seed        uint64  `json:"seed"`
	LengthS     float64 `json:"lengthSeconds"`
	// The disturbance, in seconds from the start.
	DisturbanceFromS float64 `json:"disturbanceFromSeconds"`
	DisturbanceToS   float64 `json:"disturbanceToSeconds"`

	Services []ServiceResult `json:"services"` // as in the graph
	Edges    []Edge          `json:"edges"`
}

// ServiceResult is what happened to a service. Its calls are those of all its callers.
type ServiceResult struct {
	Name string `json:"name"`
	// Visits is the number of calls that one call of the load causes when all is well.
	Visits float64 `json:"visits"`
	// PerCall is the number of attempts per call of the callers.
	PerCall Amplification `json:"attemptsPerCall"`
	// PerEntry is the number of attempts that a call of the load causes, divided by Visits.
	PerEntry Amplification `json:"attemptsPerEntryCall"`

	Before Part `json:"before"`
	During Part `json:"during"`
	After  Part `json:"after"`
	// RecoveryS is the time in seconds from the end of the disturbance until, in each of five
	// seconds in a row, 95 % of the calls that begin end well. nil if that does not happen.
	RecoveryS *float64 `json:"recoverySeconds"`
	// The attempts, by what became of them.
	Served  uint64 `json:"served"`
	Wasted  uint64 `json:"wasted"`  // served, but the caller had left
	Refused uint64 `json:"refused"` // the queue was full
	Dropped uint64 `json:"dropped"` // the deadline had passed
	// Instances is the largest number of instances that got calls, Restarts how often one
	// restarted.
	Instances int `json:"instances"`
	Restarts  int `json:"restarts"`
	// Series has the figures of every second.
	Series []Second `json:"series"`
}

// Amplification is a number of attempts. It counts attempts for the call that they belong to, in
// the second in which that call begins. So a call with a delay does not distort it.
type Amplification struct {
	Mean float64 `json:"mean"`
	// Peak is the largest number in any second. A second with fewer than 20 calls is counted
	// together with the seconds before it.
	Peak float64 `json:"peak"`
}

// Part describes the calls that began in one part of the run.
type Part struct {
	Calls    uint64  `json:"calls"`
	OK       uint64  `json:"ok"`
	Attempts uint64  `json:"attempts"`
	Success  float64 `json:"success"` // share of calls that ended well; 1 without calls
	Goodput  float64 `json:"goodputPerSecond"`
	P50      float64 `json:"p50ms"` // of the calls that ended well
	P99      float64 `json:"p99ms"`
}

// Second has the figures of one second of a service.
type Second struct {
	Calls     uint32  `json:"calls"`    // calls of its callers that began
	Attempts  uint32  `json:"attempts"` // attempts that began
	OfCalls   uint32  `json:"attemptsOfCalls"`
	Caused    uint32  `json:"attemptsOfEntryCalls"` // by the calls of the load that began
	Goodput   uint32  `json:"goodput"`              // calls that ended well
	P99       float64 `json:"p99ms"`                // of the calls that ended well
	Instances int     `json:"instances"`            // that get calls, at the end
}

// Edge is the calls from a service to another one under a policy.
type Edge struct {
	From   string `json:"from,omitempty"` // none for the load
	To     string `json:"to"`
	Policy string `json:"policy"`
	Calls  uint64 `json:"calls"`
	// PerCall is the number of attempts per call.
	PerCall Amplification `json:"attemptsPerCall"`
	// Opened is how often a circuit for the whole upstream opened, of all instances of the caller
	// together.
	Opened uint64 `json:"circuitsOpened"`
	// Ejections is how often an instance of the caller ejected an endpoint.
	Ejections uint64 `json:"endpointsEjected"`
}

func (s *sim) result() *Result {
	g := s.Graph
	r := &Result{
		Graph: g.Name, Description: g.Description, Entry: g.Load.Entry, Rate: g.Load.Rate, Seed: s.Seed, LengthS: g.Length.Seconds(),
		DisturbanceFromS: g.Disturbance.At.Seconds(), DisturbanceToS: g.Disturbance.End().Seconds(),
	}
	order, _ := g.order()
	visits := g.visits(order)
	entry := s.services[g.number(g.Load.Entry)].figures.seconds
	for i, service := range s.services {
		f := service.figures
		f.close()
		out := ServiceResult{
			Name: service.Name, Visits: visits[i], Series: f.seconds, Instances: f.most, Restarts: f.restarts, Wasted: f.wasted,
			Before: f.parts[before].figures(g.Disturbance.At),
			During: f.parts[during].figures(g.Disturbance.For),
			After:  f.parts[after].figures(g.Length - g.Disturbance.End()),
		}
		for _, in := range service.instances {
			stats := in.Stats()
			out.Served += stats.Served
			out.Wasted += stats.Wasted
			out.Refused += stats.Refused
			out.Dropped += stats.Dropped
		}
		out.PerCall.Mean, out.PerCall.Peak = backend.Amplification(len(f.seconds), func(i int) (float64, float64) {
			return float64(f.seconds[i].Calls), float64(f.seconds[i].OfCalls)
		})
		// A call of the load is one call of the entry, unless other services call the entry too;
		// then the graph has a circle.
		out.PerEntry.Mean, out.PerEntry.Peak = backend.Amplification(len(f.seconds), func(j int) (float64, float64) {
			return float64(entry[j].Calls), float64(f.seconds[j].Caused) / visits[i]
		})
		if recovery, ok := backend.Recovery(f.tenths, g.Disturbance.End()); ok {
			out.RecoveryS = new(recovery.Seconds())
		}
		r.Services = append(r.Services, out)
	}
	for _, f := range s.edges {
		e := f.Edge
		e.Opened = f.opened.Load()
		for _, set := range f.sets {
			e.Ejections += set.Ejections()
		}
		for _, c := range f.others {
			state := c.State()
			e.Opened += state.Opened
			e.Ejections += state.Ejections
		}
		e.PerCall.Mean, e.PerCall.Peak = backend.Amplification(len(f.seconds), func(i int) (float64, float64) {
			return float64(f.seconds[i].calls), float64(f.seconds[i].attempts)
		})
		for _, p := range f.seconds {
			e.Calls += uint64(p.calls)
		}
		r.Edges = append(r.Edges, e)
	}
	return r
}

func (p *part) figures(length time.Duration) Part {
	f := Part{
		Calls: p.calls, OK: p.ok, Attempts: p.attempts, Success: 1,
		P50: backend.Milliseconds(p.latency.Quantile(0.5)), P99: backend.Milliseconds(p.latency.Quantile(0.99)),
	}
	if p.calls > 0 {
		f.Success = float64(p.ok) / float64(p.calls)
	}
	if length > 0 {
		f.Goodput = float64(p.ok) / length.Seconds()
	}
	return f
}

// Worst returns the service with the largest amplification in any second, against the calls of the
// load.
func (r *Result) Worst() *ServiceResult {
	worst := &r.Services[0]
	for i := range r.Services {
		if s := &r.Services[i]; s.PerEntry.Peak > worst.PerEntry.Peak {
			worst = s
		}
	}
	return worst
}

// Front returns the result of the entry.
func (r *Result) Front() *ServiceResult {
	for i := range r.Services {
		if r.Services[i].Name == r.Entry {
			return &r.Services[i]
		}
	}
	return nil
}
