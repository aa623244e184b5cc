package callgraph

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Names of policies that need no entry in [Graph.Policies].
const (
	PolicyDefault = "default" // Rebound's default
	PolicyNone    = "none"    // one attempt, with the timeouts of the default, and nothing else
)

// Graph is a document: services that call each other, and what happens to them.
//
// All times count from the start of the run.
type Graph struct {
	// Name identifies the graph in reports. Letters, digits, dots, dashes and underscores.
	Name string `yaml:"name"`
	// Description describes the graph in one sentence.
	Description string `yaml:"description"`
	// Length is how long calls are made. Above 0.
	Length time.Duration `yaml:"length"`
	// Disturbance splits the figures into before, during and after. It changes nothing by itself.
	Disturbance lab.Span `yaml:"disturbance"`
	// Load are the calls from outside.
	Load Load `yaml:"load"`
	// Policy is the name of the policy of every call that names none: an entry of policies, default
	// (Rebound's default) or none (one attempt).
	Policy string `yaml:"policy"`
	// Policies are the policies that calls name.
	Policies map[string]Source `yaml:"policies"`
	// PassOn is what a service passes on from a request to the calls that it makes for it.
	PassOn PassOn `yaml:"passOn"`
	// Services are the services, in the order in which results list them.
	Services []Service `yaml:"services"`
}

// Load are the calls from outside, at random times (Poisson).
type Load struct {
	// Entry is the name of the service that is called.
	Entry string `yaml:"entry"`
	// Rate is the number of calls per second, of all clients together. Above 0, at most 100000.
	Rate float64 `yaml:"rate"`
	// Clients is the number of client instances, each with its own circuit and budget. 1 to 10000.
	Clients int `yaml:"clients"`
	// Policy is the name of the clients' policy. Without it: the policy of the graph.
	Policy string `yaml:"policy"`
}

// Source is where a policy comes from: a file, or the policy itself.
type Source struct {
	// File is the path of a configuration of Rebound, or of a file of another system that lab
	// import reads, relative to the graph's file.
	File string `yaml:"file"`
	// Name is the name of the policy in the file. It may be left out if the file has only one.
	Name string `yaml:"name"`
	// Inline is a policy of Rebound, in place of a file. What it leaves out is as in Rebound's
	// default.
	Inline *transport.Policy `yaml:"inline"`
}

// PassOn is what a service passes on from a request to the calls that it makes for it.
type PassOn struct {
	// Deadline passes on the time that the caller still waits, and ends calls when the caller has
	// left. Otherwise a service goes on for callers that have left.
	Deadline bool `yaml:"deadline"`
	// Attempts passes on which attempt of its caller a request is. Rebound's pipeline then makes
	// one attempt of a call that is part of a retry.
	Attempts bool `yaml:"attempts"`
}

// Service is a service of equal instances.
type Service struct {
	// Name is the name by which calls refer to the service. Letters, digits, dots, dashes and
	// underscores.
	Name string `yaml:"name"`
	// Instances is the number of instances at the start, 1 to 1000.
	Instances int `yaml:"instances"`
	// Capacity is the number of calls per second that the instances of the start can serve
	// together. 0 to 1000000; 0 means no limit.
	Capacity float64 `yaml:"capacity"`
	// Queue is the size of an instance's queue, as the time that its workers need for the work in
	// it. 0 or more; 0 refuses a call when all workers are busy.
	Queue time.Duration `yaml:"queue"`
	// Faults are the constant faults: a faults document without capacity, schedule and grpc. Its
	// latency is the time that a worker needs for a call. The calls of other services come after
	// it, and keep no worker busy.
	Faults faults.Spec `yaml:"faults"`
	// Calls are the calls of other services, in order. One that fails ends the call with an error:
	// the status of the last answer if it is 500 or more, else 502, 503 or 504.
	Calls []Call `yaml:"calls"`
	// PassOn is what this service passes on. Without it: as in the graph.
	PassOn *PassOn `yaml:"passOn"`
	// Phases change the service for a time, as in a scenario. Where they overlap, the later one in
	// the list wins, key by key.
	Phases []lab.Phase `yaml:"phases"`
	// Autoscaler changes the number of instances.
	Autoscaler *Autoscaler `yaml:"autoscaler"`
	// Liveness restarts instances that hang.
	Liveness *Liveness `yaml:"liveness"`
	// Readiness keeps calls away from instances that hang.
	Readiness *Readiness `yaml:"readiness"`
	// Endpoints are how clients with a policy of Rebound see the instances. With resolve: none,
	// each attempt goes to a random instance that is ready, as through a service of Kubernetes with
	// an address of its own. With resolve: dns or static, the clients know the addresses of the
	// instances and choose one, as a gateway does. DNS has the instances that are ready; static
	// those of the start. So addresses must be left out.
	Endpoints endpoint.Policy `yaml:"endpoints"`
}

// Call is one step of a service.
type Call struct {
	// Pause is a wait before the call. It keeps no worker busy. 0 or more.
	Pause time.Duration `yaml:"pause"`
	// To is the name of the called service. A step without it is only a pause.
	To string `yaml:"to"`
	// Times is the number of calls, one after the other. 1 to 100.
	Times int `yaml:"times"`
	// Parallel begins the step together with the one before it, and makes its calls at once.
	Parallel bool `yaml:"parallel"`
	// Probability is the share of the requests for which the step is done. 0 to 1.
	Probability float64 `yaml:"probability"`
	// Optional ignores the failure of the calls.
	Optional bool `yaml:"optional"`
	// Policy is the name of the policy of the calls. Without it: the policy of the graph.
	Policy string `yaml:"policy"`
}

// Autoscaler changes the number of instances as the horizontal pod autoscaler of Kubernetes does:
// every period, to the number at which the workers would be busy for the target's share of the
// time. It does nothing if that differs by at most a tenth.
type Autoscaler struct {
	// Target is the share of the workers that should be busy. Above 0, at most 1.
	Target float64 `yaml:"target"`
	// Min is the least number of instances. 1 to max.
	Min int `yaml:"min"`
	// Max is the largest number of instances. min to 1000.
	Max int `yaml:"max"`
	// Period is how often the number is decided. At least 1s.
	Period time.Duration `yaml:"period"`
	// Delay is how long a new instance takes until it serves calls. 0 or more.
	Delay time.Duration `yaml:"delay"`
	// Stabilization is how long fewer instances must be enough before any is taken away. 0 or more.
	Stabilization time.Duration `yaml:"stabilization"`
}

// Liveness restarts an instance that fails several probes in a row. A probe waits in the queue for
// a worker, as a call does. A restart loses all calls in the instance, and ends the effect of
// phases that stop its workers.
type Liveness struct {
	// Period is the time from one probe to the next. At least 1s.
	Period time.Duration `yaml:"period"`
	// Timeout is how long a probe may take. Above 0, at most the period.
	Timeout time.Duration `yaml:"timeout"`
	// Failures is the number of failures in a row after which the instance is restarted. 1 to 100.
	Failures int `yaml:"failures"`
	// Restart is how long the restart takes. In that time the instance gets no calls. 0 or more.
	Restart time.Duration `yaml:"restart"`
}

// Readiness keeps calls away from an instance that fails several probes in a row, until it passes
// some. A probe waits in the queue for a worker, as a call does. The instance goes on with the
// calls that it has. If no instance is ready, connections to the service are refused.
type Readiness struct {
	// Period is the time from one probe to the next. At least 1s.
	Period time.Duration `yaml:"period"`
	// Timeout is how long a probe may take. Above 0, at most the period.
	Timeout time.Duration `yaml:"timeout"`
	// Failures is the number of failures in a row after which the instance is not ready. 1 to 100.
	Failures int `yaml:"failures"`
	// Successes is the number of successes in a row after which it is ready again. 1 to 100.
	Successes int `yaml:"successes"`
}

// Read reads a graph from the text of a file. The error is a *[mistake.List].
func Read(name string, data []byte) (Graph, error) {
	var g Graph
	g.SetDefaults()
	err := config.Decode(name, data, &g)
	return g, err
}

// SetDefaults sets g to the defaults. Loaders call it before they decode a file into g.
func (g *Graph) SetDefaults() {
	*g = Graph{
		Length: 90 * time.Second, Policy: PolicyDefault, PassOn: PassOn{Deadline: true},
		Load: Load{Clients: 20},
	}
}

// SetDefaults sets p to the defaults.
func (p *PassOn) SetDefaults() { *p = PassOn{Deadline: true} }

// SetDefaults sets s to the defaults.
func (s *Service) SetDefaults() {
	*s = Service{Instances: 1, Queue: 10 * time.Second, Endpoints: endpoint.DefaultPolicy()}
}

// SetDefaults sets c to the defaults.
func (c *Call) SetDefaults() { *c = Call{Times: 1, Probability: 1} }

// SetDefaults sets a to the defaults, which are those of Kubernetes where it has some.
func (a *Autoscaler) SetDefaults() {
	*a = Autoscaler{Target: 0.8, Min: 1, Period: 15 * time.Second, Delay: 30 * time.Second, Stabilization: 5 * time.Minute}
}

// SetDefaults sets l to the defaults, which are those of Kubernetes where it has some.
func (l *Liveness) SetDefaults() {
	*l = Liveness{Period: 10 * time.Second, Timeout: time.Second, Failures: 3, Restart: 10 * time.Second}
}

// SetDefaults sets r to the defaults, which are those of Kubernetes.
func (r *Readiness) SetDefaults() {
	*r = Readiness{Period: 10 * time.Second, Timeout: time.Second, Failures: 3, Successes: 1}
}

// Limits of a graph.
const (
	leastWorkers = 0.7 // of an instance, before they are rounded to whole ones
	maxServices  = 1000
	maxClients   = 100_000
	maxCalls     = 100_000 // calls a second that the load makes when all is well, on all edges
)

// Validate returns all invalid values at once, each with the path of its key.
func (g Graph) Validate() error {
	var found mistake.List
	check := found.Check
	check(validName(g.Name), "name", "must be letters, digits, dots, dashes or underscores, got %q", g.Name)
	longest := backend.Longest
	check(g.Length > 0 && g.Length <= longest, "length", "must be above 0 and at most %v, got %v", longest, g.Length)
	check(g.Disturbance.At >= 0 && g.Disturbance.At <= longest, "disturbance.at", "must be from 0s to %v, got %v", longest, g.Disturbance.At)
	check(g.Disturbance.For > 0 && g.Disturbance.For <= longest, "disturbance.for", "must be above 0s and at most %v, got %v", longest, g.Disturbance.For)
	check(g.Disturbance.At <= g.Length && g.Disturbance.For <= g.Length-g.Disturbance.At, "disturbance",
		"must end within the length, %v, got %v", g.Length, g.Disturbance.End())
	check(g.Load.Rate > 0 && g.Load.Rate <= maxCalls, "load.rate", "must be above 0 and at most %d calls a second, got %v", maxCalls, g.Load.Rate)
	check(g.Load.Clients >= 1 && g.Load.Clients <= 10_000, "load.clients", "must be from 1 to 10000, got %d", g.Load.Clients)
	for _, name := range slices.Sorted(maps.Keys(g.Policies)) {
		at := config.Join("policies", name)
		check(name != PolicyDefault && name != PolicyNone, at, "%s has a meaning already, choose another name", name)
		source := g.Policies[name]
		check((source.File != "") != (source.Inline != nil), at, "must have either file or inline")
		check(source.File != "" || source.Name == "", at+".name", "must be left out without file")
		if source.Inline != nil {
			found.Merge(at+".inline", source.Inline.Validate())
		}
	}
	policy := func(path, name string) {
		_, ok := g.Policies[name]
		check(ok || name == PolicyDefault || name == PolicyNone, path, "there is no policy %q: must be default, none or one of policies", name)
	}
	policy("policy", g.Policy)
	if g.Load.Policy != "" {
		policy("load.policy", g.Load.Policy)
	}
	check(len(g.Services) >= 1 && len(g.Services) <= maxServices, "services", "must be from 1 to %d, got %d", maxServices, len(g.Services))
	if len(g.Services) > maxServices {
		return found.Err()
	}
	numbers := map[string]int{}
	for i, s := range g.Services {
		at := config.Index("services", i)
		check(validName(s.Name), at+".name", "must be letters, digits, dots, dashes or underscores, got %q", s.Name)
		if first, again := numbers[s.Name]; again {
			check(false, at+".name", "%s is the name of services[%d] already", s.Name, first)
		} else {
			numbers[s.Name] = i
		}
		found.Merge(at, s.validate(g.Length))
		for j, c := range s.Calls {
			at := config.Index(at+".calls", j)
			if c.Policy != "" {
				policy(at+".policy", c.Policy)
			}
		}
	}
	known := func(path, name string) {
		_, ok := numbers[name]
		check(ok, path, "there is no service %q", name)
	}
	known("load.entry", g.Load.Entry)
	for i, s := range g.Services {
		for j, c := range s.Calls {
			if c.To != "" {
				known(config.Index(config.Index("services", i)+".calls", j)+".to", c.To)
			}
		}
	}
	if len(found) > 0 {
		return found.Err()
	}
	g.checkWhole(&found)
	return found.Err()
}

// checkWhole checks what depends on several services.
func (g Graph) checkWhole(found *mistake.List) {
	order, circle := g.order()
	if circle != nil {
		found.Add("services", "must not call each other in a circle: %s", strings.Join(circle, " calls "))
		return
	}
	var all float64
	visits := g.visits(order)
	for i, s := range g.Services {
		all += visits[i]
		found.Check(visits[i] > 0, config.Index("services", i), "%s is never called: the calls of the load do not reach it", s.Name)
	}
	found.Check(all*g.Load.Rate <= maxCalls, "load.rate", "must make at most %d calls a second on all services together, makes %.0f", maxCalls, all*g.Load.Rate)
	clients := g.Load.Clients
	for _, s := range g.Services {
		clients += s.most() * len(s.edges(g))
	}
	found.Check(clients <= maxClients, "services", "must have at most %d clients (instances of callers × called services), got %d", maxClients, clients)
}

// validate returns the mistakes in s, with paths relative to it.
func (s Service) validate(length time.Duration) error {
	var found mistake.List
	check := found.Check
	check(s.Capacity >= 0 && s.Capacity <= 1e6, "capacity", "must be from 0 (no limit) to 1000000 calls a second, got %v", s.Capacity)
	found.Merge("", s.checkUpstream(length))
	if mean := backend.Mean(s.Faults.Latency); mean > 0 && s.Capacity > 0 && s.Instances > 0 {
		least := leastWorkers * float64(s.Instances) / mean.Seconds()
		check(s.Capacity >= least, "capacity", "must be 0 or at least %.3g with %d instances: each has a worker, which needs %v for a call on average, got %v",
			least, s.Instances, mean, s.Capacity)
	}
	for i, c := range s.Calls {
		at := config.Index("calls", i)
		check(c.Pause >= 0 && c.Pause <= backend.Longest, at+".pause", "must be from 0s to %v, got %v", backend.Longest, c.Pause)
		check(c.To != "" || c.Pause > 0, at+".to", "must be the name of a service, or the step a pause")
		check(c.Times >= 1 && c.Times <= 100, at+".times", "must be from 1 to 100, got %d", c.Times)
		check(c.Probability >= 0 && c.Probability <= 1, at+".probability", "must be from 0 to 1, got %v", c.Probability)
	}
	if a := s.Autoscaler; a != nil {
		check(a.Target > 0 && a.Target <= 1, "autoscaler.target", "must be above 0 and at most 1, got %v", a.Target)
		check(a.Max >= 1 && a.Max <= 1000, "autoscaler.max", "must be from 1 to 1000, got %d", a.Max)
		check(a.Min >= 1 && a.Min <= a.Max, "autoscaler.min", "must be from 1 to max, %d, got %d", a.Max, a.Min)
		check(s.Instances >= a.Min && s.Instances <= a.Max, "instances", "must be from autoscaler.min to autoscaler.max, %d to %d, got %d", a.Min, a.Max, s.Instances)
		check(s.Capacity > 0, "capacity", "must be above 0 with an autoscaler: without a limit no worker is busy")
		check(a.Period >= time.Second && a.Period <= backend.Longest, "autoscaler.period", "must be from 1s to %v, got %v", backend.Longest, a.Period)
		check(a.Delay >= 0 && a.Delay <= backend.Longest, "autoscaler.delay", "must be from 0s to %v, got %v", backend.Longest, a.Delay)
		check(a.Stabilization >= 0 && a.Stabilization <= backend.Longest, "autoscaler.stabilization", "must be from 0s to %v, got %v", backend.Longest, a.Stabilization)
	}
	probe := func(at string, period, timeout time.Duration, failures int) {
		check(s.Capacity > 0, "capacity", "must be above 0 with %s: without a limit no instance hangs", at)
		check(period >= time.Second && period <= backend.Longest, at+".period", "must be from 1s to %v, got %v", backend.Longest, period)
		check(timeout > 0 && timeout <= period, at+".timeout", "must be above 0s and at most the period, %v, got %v", period, timeout)
		check(failures >= 1 && failures <= 100, at+".failures", "must be from 1 to 100, got %d", failures)
	}
	if r := s.Readiness; r != nil {
		probe("readiness", r.Period, r.Timeout, r.Failures)
		check(r.Successes >= 1 && r.Successes <= 100, "readiness.successes", "must be from 1 to 100, got %d", r.Successes)
	}
	if l := s.Liveness; l != nil {
		probe("liveness", l.Period, l.Timeout, l.Failures)
		check(l.Restart >= 0 && l.Restart <= backend.Longest, "liveness.restart", "must be from 0s to %v, got %v", backend.Longest, l.Restart)
	}
	return found.Err()
}

// checkUpstream checks what a service shares with the upstream of a scenario.
func (s Service) checkUpstream(length time.Duration) error {
	var scenario lab.Scenario
	scenario.SetDefaults()
	scenario.Name, scenario.Disturbance = "graph", lab.Span{For: 1}
	scenario.Upstream.Instances, scenario.Upstream.Queue = s.Instances, s.Queue
	scenario.Upstream.Faults, scenario.Upstream.Phases, scenario.Upstream.Endpoints = s.Faults, s.Phases, s.Endpoints
	var all, found mistake.List
	all.Merge("", scenario.Validate())
	for _, m := range all {
		if path, ok := strings.CutPrefix(m.Path, "upstream."); ok {
			m.Path = path
			found = append(found, m)
		}
	}
	for i, p := range s.Phases {
		at := config.Index("phases", i)
		found.Check(p.Working == nil || s.Capacity > 0, at+".working", "must be left out without a capacity: there are no workers")
		found.Check(p.At <= length, at+".at", "must be within the length, %v, got %v", length, p.At)
	}
	return found.Err()
}

// most returns the largest number of instances.
func (s Service) most() int {
	if s.Autoscaler != nil {
		return max(s.Instances, s.Autoscaler.Max)
	}
	return s.Instances
}

// edge is a called service under a policy.
type edge struct{ to, policy string }

// edgeOf returns the edge of a call.
func (g Graph) edgeOf(c Call) edge {
	if c.Policy == "" {
		return edge{c.To, g.Policy}
	}
	return edge{c.To, c.Policy}
}

// edges returns the edges of the service's calls, each once.
func (s Service) edges(g Graph) []edge {
	var all []edge
	for _, c := range s.Calls {
		if e := g.edgeOf(c); c.To != "" && !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// number returns the number of a service.
func (g Graph) number(name string) int {
	return slices.IndexFunc(g.Services, func(s Service) bool { return s.Name == name })
}

// order returns the numbers of the services, callers first. If there is a circle, it returns the
// names in it.
func (g Graph) order() (order []int, circle []string) {
	const (
		open = iota + 1
		done
	)
	numbers := map[string]int{}
	for i, s := range g.Services {
		numbers[s.Name] = i
	}
	state := make([]int, len(g.Services))
	var path []string
	var visit func(int) bool
	visit = func(i int) bool {
		s := g.Services[i]
		switch state[i] {
		case done:
			return true
		case open:
			circle = append(slices.Clone(path[slices.Index(path, s.Name):]), s.Name)
			return false
		}
		state[i] = open
		path = append(path, s.Name)
		for _, c := range s.Calls {
			if c.To != "" && !visit(numbers[c.To]) {
				return false
			}
		}
		path = path[:len(path)-1]
		state[i] = done
		order = append(order, i)
		return true
	}
	for i := range g.Services {
		if !visit(i) {
			return nil, circle
		}
	}
	slices.Reverse(order)
	return order, nil
}

// visits returns how many calls of each service one call of the load causes when all is well.
func (g Graph) visits(order []int) []float64 {
	all := make([]float64, len(g.Services))
	all[g.number(g.Load.Entry)] = 1
	for _, i := range order {
		for _, c := range g.Services[i].Calls {
			if c.To != "" {
				all[g.number(c.To)] += all[i] * float64(c.Times) * c.Probability
			}
		}
	}
	return all
}

// Bottom returns the service that is the most calls away from the entry, the first of several.
func (g Graph) Bottom() string {
	order, _ := g.order()
	depth := make([]int, len(g.Services))
	for _, i := range order {
		for _, c := range g.Services[i].Calls {
			if c.To != "" {
				to := g.number(c.To)
				depth[to] = max(depth[to], depth[i]+1)
			}
		}
	}
	deepest := g.number(g.Load.Entry)
	for i, d := range depth {
		if d > depth[deepest] {
			deepest = i
		}
	}
	return g.Services[deepest].Name
}

// Hang makes a service hang in the disturbance. It fails if there is no such service, or if the
// service has no capacity.
func (g *Graph) Hang(name string) error {
	i := g.number(name)
	if i < 0 {
		return fmt.Errorf("there is no service %q", name)
	}
	if g.Services[i].Capacity == 0 {
		return fmt.Errorf("service %s has no capacity, so it has no workers that could hang", name)
	}
	hang := lab.Phase{Window: faults.Window{At: g.Disturbance.At, For: g.Disturbance.For}, Working: new(float64)}
	g.Services[i].Phases = append(slices.Clip(g.Services[i].Phases), hang)
	return nil
}

func validName(name string) bool {
	return name != "" && len(name) <= 100 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}
