package lab

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Scenario is what happens to the upstream and to the load while calls are made. It is a document;
// [Builtin] has the ones that come with Rebound.
//
// All times count from the start of the run.
type Scenario struct {
	// Name identifies the scenario in reports. Letters, digits, dots, dashes and underscores.
	Name string `yaml:"name"`
	// Description describes the scenario in one sentence.
	Description string `yaml:"description"`
	// Length is the default time for which calls are made. Above 0.
	Length time.Duration `yaml:"length"`
	// Disturbance splits the figures into before, during and after. It changes nothing by itself.
	Disturbance Span `yaml:"disturbance"`
	// Upstream is the modelled upstream.
	Upstream Upstream `yaml:"upstream"`
	// Load is the pattern of the calls.
	Load Shape `yaml:"load"`
}

// Span is an interval.
type Span struct {
	At  time.Duration `yaml:"at"`  // 0s to 24h
	For time.Duration `yaml:"for"` // above 0s, at most 24h
}

// End returns the end of the span.
func (s Span) End() time.Duration { return s.At + s.For }

// check adds the mistakes in s at path.
func (s Span) check(found *mistake.List, path string) {
	found.Check(s.At >= 0 && s.At <= maxLength, path+".at", "must be from 0s to %v, got %v", maxLength, s.At)
	found.Check(s.For > 0 && s.For <= maxLength, path+".for", "must be above 0s and at most %v, got %v", maxLength, s.For)
}

// Upstream is a service of equal instances behind one name.
type Upstream struct {
	// Instances is the number of instances, 1 to 1000. Those that are not gone at the start share
	// the capacity in equal parts; the others have as much each.
	Instances int `yaml:"instances"`
	// Endpoints are how the clients see the instances. With resolve: none, each attempt goes to a
	// random instance, whatever its state. With resolve: dns or static, the clients know the
	// addresses of the instances and choose one, as a gateway does. Without addresses: they are
	// those of the instances at the start.
	Endpoints endpoint.Policy `yaml:"endpoints"`
	// Queue is the size of the queue, as the time that all workers need for its work. 0 or more; 0
	// refuses a call when all workers are busy.
	Queue time.Duration `yaml:"queue"`
	// Faults are the constant faults: a faults document without capacity, schedule and grpc. Its
	// latency is the time that a worker needs for a call.
	Faults faults.Spec `yaml:"faults"`
	// Phases change the upstream for a time. Where they overlap, the later one in the list wins,
	// key by key.
	Phases []Phase `yaml:"phases"`
}

// Phase changes the upstream from At until At+For. It has the keys of a window of the faults
// document, except capacity, and keys that a faults document lacks.
type Phase struct {
	faults.Window `yaml:",inline"`
	// Instance is the number of the changed instance, from 1; 0 means all instances.
	Instance int `yaml:"instance"`
	// Refuse refuses connections.
	Refuse bool `yaml:"refuse"`
	// Gone takes the instance out of DNS, and it refuses connections. Afterwards it is back under
	// another address.
	Gone bool `yaml:"gone"`
	// Slower multiplies the time that a worker needs. Above 0.
	Slower *float64 `yaml:"slower"`
	// Working is the share of workers that take calls; the others only finish the call that they
	// have. 0 to 1; at 0 the upstream hangs: calls stay in the queue.
	Working *float64 `yaml:"working"`
	// WorkingAtEnd is the share at the end of the phase. From Working, at the start, the share
	// changes in a straight line. 0 to 1.
	WorkingAtEnd *float64 `yaml:"workingAtEnd"`
}

// Shape is the pattern of the calls.
type Shape struct {
	// Method is the HTTP method of the calls, which decides whether a policy retries them. In
	// capital letters; GET by default.
	Method string `yaml:"method"`
	// Think makes callers wait for their response, and then for Think on average before the next
	// call. There are as many callers as would reach the rate if responses took no time, at most
	// 100000. 0, the default, makes calls at random times (Poisson), as callers of a public service
	// do. At most 24h.
	Think time.Duration `yaml:"think"`
	// Surge sets another rate for a time.
	Surge *Surge `yaml:"surge"`
	// Herd begins many calls at once.
	Herd *Herd `yaml:"herd"`
}

// Surge is a rate relative to the capacity.
type Surge struct {
	Span `yaml:",inline"`
	// OfCapacity is the rate as a share of the capacity. Above 0, at most 100.
	OfCapacity float64 `yaml:"ofCapacity"`
}

// Herd is a number of calls that begin together, distributed over the clients in turn.
type Herd struct {
	At    time.Duration `yaml:"at"`    // 0 or more
	Calls int           `yaml:"calls"` // 1 to 100000
}

// Method returns the HTTP method of the calls.
func (s Scenario) Method() string { return cmp.Or(s.Load.Method, http.MethodGet) }

// SetDefaults sets s to the defaults. Loaders call it before they decode a file into s.
func (s *Scenario) SetDefaults() {
	*s = Scenario{
		Length:   2 * time.Minute,
		Upstream: Upstream{Instances: 1, Endpoints: endpoint.DefaultPolicy(), Queue: 10 * time.Second},
		Load:     Shape{Method: http.MethodGet},
	}
}

// maxLength limits a run, because its series of seconds is kept in memory.
const maxLength = backend.Longest

// Validate returns all invalid values at once, each with the path of its key.
func (s Scenario) Validate() error {
	var found mistake.List
	check := found.Check
	check(validName(s.Name), "name", "must be letters, digits, dots, dashes or underscores, got %q", s.Name)
	check(s.Length > 0 && s.Length <= maxLength, "length", "must be above 0 and at most %v, got %v", maxLength, s.Length)
	s.Disturbance.check(&found, "disturbance")
	check(s.Upstream.Instances >= 1 && s.Upstream.Instances <= 1000, "upstream.instances", "must be from 1 to 1000, got %d", s.Upstream.Instances)
	policy := s.Upstream.Endpoints
	if policy.Addresses = nil; policy.Resolve == endpoint.ResolveStatic {
		policy.Addresses = []string{(&instance{Instance: &backend.Instance{}}).address(0)}
	}
	found.Merge("upstream.endpoints", policy.Validate())
	check(len(s.Upstream.Endpoints.Addresses) == 0, "upstream.endpoints.addresses", "must be left out: the instances are the endpoints")
	check(validMethod(s.Load.Method), "load.method", "must be a method in capital letters such as GET, got %q", s.Load.Method)
	check(s.Upstream.Queue >= 0, "upstream.queue", "must be 0s or more, got %v", s.Upstream.Queue)
	check(s.Upstream.Faults.Capacity == faults.Capacity{}, "upstream.faults.capacity",
		"must be left out: the run sets the capacity, and upstream.queue the queue")
	check(len(s.Upstream.Faults.Schedule) == 0, "upstream.faults.schedule", "must be left out: upstream.phases is the schedule")
	check(s.Upstream.Faults.FailFirst == 0, "upstream.faults.failFirst", "must be left out: it needs request ids, and simulated calls have none")
	check(s.Upstream.Faults.GRPC.IsZero(), "upstream.faults.grpc", "must be left out: simulated calls are HTTP")
	check(backend.Mean(s.Upstream.Faults.Latency) > 0, "upstream.faults.latency",
		"must have a mean above 0s and below %v: it is the time that a worker needs for a call", maxLength)
	base := s.Upstream.Faults
	base.Capacity, base.Schedule, base.GRPC = faults.Capacity{}, nil, faults.GRPC{}
	err := base.Validate()
	found.Merge("upstream.faults", err)
	if err == nil {
		for i, p := range s.Upstream.Phases {
			found.Merge(config.Index("upstream.phases", i), p.validate(s.Upstream))
		}
	}
	check(s.Load.Think >= 0 && s.Load.Think <= maxLength, "load.think", "must be from 0s (calls do not wait for each other) to %v, got %v", maxLength, s.Load.Think)
	if surge := s.Load.Surge; surge != nil {
		check(s.Load.Think == 0, "load.surge", "must be left out with load.think: callers that wait for their responses cannot surge")
		surge.check(&found, "load.surge")
		check(surge.OfCapacity > 0 && surge.OfCapacity <= 100, "load.surge.ofCapacity", "must be above 0 and at most 100, got %v", surge.OfCapacity)
	}
	if herd := s.Load.Herd; herd != nil {
		check(herd.At >= 0, "load.herd.at", "must be 0s or more, got %v", herd.At)
		check(herd.Calls >= 1 && herd.Calls <= 100_000, "load.herd.calls", "must be from 1 to 100000, got %d", herd.Calls)
	}
	return found.Err()
}

// validate returns the mistakes in p, with paths relative to it.
func (p Phase) validate(u Upstream) error {
	var found mistake.List
	check := found.Check
	check(p.Instance >= 0 && p.Instance <= u.Instances, "instance", "must be from 1 to %d, or 0 for all, got %d", u.Instances, p.Instance)
	check(!p.Gone || u.Endpoints.Resolve == endpoint.ResolveDNS, "gone", "must be left out without endpoints: {resolve: dns}")
	check(p.Slower == nil || *p.Slower > 0 && *p.Slower <= 1e6, "slower", "must be above 0 and at most 1000000, got %v", deref(p.Slower))
	check(p.Capacity == nil, "capacity", "must be left out: working is the share of the workers that work")
	share := func(key string, v *float64) {
		check(v == nil || *v >= 0 && *v <= 1, key, "must be from 0 to 1, got %v", deref(v))
	}
	share("working", p.Working)
	share("workingAtEnd", p.WorkingAtEnd)
	check(p.WorkingAtEnd == nil || p.Working != nil, "workingAtEnd", "must come with working, the share at the start")
	alone := u.Faults
	alone.Capacity, alone.Schedule = faults.Capacity{}, []faults.Window{p.Window}
	alone.Schedule[0].Capacity = nil
	var window mistake.List
	window.Merge("", alone.Validate())
	for _, m := range window {
		found.Add(strings.TrimPrefix(strings.TrimPrefix(m.Path, "schedule[0]"), "."), "%s", m.Message)
	}
	return found.Err()
}

func deref(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func validMethod(method string) bool {
	return method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}

func validName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

//go:embed scenarios/*.yaml
var builtin embed.FS

// Names returns the sorted names of the built-in scenarios.
func Names() []string {
	files, err := fs.Glob(builtin, "scenarios/*.yaml")
	if err != nil {
		return nil // cannot happen: the pattern is a constant
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	slices.Sort(files)
	return files
}

// Source returns the document of a built-in scenario.
func Source(name string) ([]byte, error) {
	text, err := builtin.ReadFile("scenarios/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no scenario %q; the built-in scenarios are %s", name, strings.Join(Names(), ", "))
	}
	return text, nil
}

// LoadScenario returns a built-in scenario by name, or reads one from a file. A path has a slash or
// ends in .yaml or .yml; a name does not.
func LoadScenario(nameOrPath string) (Scenario, error) {
	var s Scenario
	s.SetDefaults()
	if isPath(nameOrPath) {
		err := config.Load(nameOrPath, &s)
		return s, err
	}
	text, err := Source(nameOrPath)
	if err != nil {
		return Scenario{}, err
	}
	err = config.Decode(nameOrPath+".yaml", text, &s)
	return s, err
}

// isPath reports whether a scenario is named by the path of its file.
func isPath(s string) bool {
	return strings.ContainsAny(s, `/\`) || strings.HasSuffix(s, ".yaml") || strings.HasSuffix(s, ".yml")
}
