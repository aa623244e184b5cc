package lab

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Scenario is what happens to the upstream and to the load while calls are made.
// It is a document; [Builtin] has the ones that come with Rebound.
//
// All times count from the start of the run.
type Scenario struct {
	// Name is how reports call it: letters, digits, dots, dashes and underscores.
	Name string `yaml:"name"`
	// Description says in a sentence what happens.
	Description string `yaml:"description"`
	// Length is how long calls are made when nobody says otherwise. Above 0.
	Length time.Duration `yaml:"length"`
	// Disturbance is the time that the figures are split by: before, during and
	// after it. It changes nothing by itself.
	Disturbance Span `yaml:"disturbance"`
	// Upstream is the service that is called.
	Upstream Upstream `yaml:"upstream"`
	// Load is how the calls come.
	Load Shape `yaml:"load"`
}

// Span is a piece of time.
type Span struct {
	At  time.Duration `yaml:"at"`  // 0 or more
	For time.Duration `yaml:"for"` // above 0
}

// End is when the span is over.
func (s Span) End() time.Duration { return s.At + s.For }

// Upstream is a service of a number of equal instances behind one name. Each
// attempt goes to one of them, all equally likely, whatever its state.
type Upstream struct {
	// Instances share the capacity in equal parts. 1 to 1000.
	Instances int `yaml:"instances"`
	// Queue is how much work may wait for a worker, as the time that all workers
	// need for it. 0 or more; 0 refuses a call that finds all workers busy.
	Queue time.Duration `yaml:"queue"`
	// Faults is what is wrong all the time: a faults document without capacity and
	// schedule. Its latency is the time that a worker needs for a call.
	Faults faults.Spec `yaml:"faults"`
	// Phases change the upstream for a while. Where they overlap, the later one in
	// the list wins, field by field.
	Phases []Phase `yaml:"phases"`
}

// Phase is a change of the upstream from At until At+For: the keys of a window of
// the faults document, but for capacity, and what a faults document cannot say.
type Phase struct {
	faults.Window `yaml:",inline"`
	// Instance is the only one that it is about, from 1; 0 means all of them.
	Instance int `yaml:"instance"`
	// Refuse refuses connections: nobody listens.
	Refuse bool `yaml:"refuse"`
	// Working is the share of the workers that work; the others end the call they
	// have and take no new one. 0 to 1; at 0 the upstream hangs: calls wait in line.
	Working *float64 `yaml:"working"`
	// WorkingAtEnd makes Working the share at the start of the phase, from where it
	// goes in a straight line to this one. 0 to 1.
	WorkingAtEnd *float64 `yaml:"workingAtEnd"`
}

// Shape is how calls come.
type Shape struct {
	// Think makes callers wait for each other's answers: there are as many callers
	// as make the rate if answers took no time, and each thinks for Think on
	// average between an answer and its next call. 0, the default, lets calls come
	// by themselves at random (Poisson), which is how a public service is called.
	Think time.Duration `yaml:"think"`
	// Surge sets another rate for a while.
	Surge *Surge `yaml:"surge"`
	// Herd begins many calls at once.
	Herd *Herd `yaml:"herd"`
}

// Surge is a rate relative to what the upstream can do.
type Surge struct {
	Span `yaml:",inline"`
	// OfCapacity is the rate as a share of the capacity. Above 0, at most 100.
	OfCapacity float64 `yaml:"ofCapacity"`
}

// Herd is a number of calls that begin together, in turns among the clients.
type Herd struct {
	At    time.Duration `yaml:"at"`    // 0 or more
	Calls int           `yaml:"calls"` // 1 to 100000
}

// SetDefaults is called by the loader before it decodes a scenario.
func (s *Scenario) SetDefaults() {
	*s = Scenario{
		Length:   2 * time.Minute,
		Upstream: Upstream{Instances: 1, Queue: 10 * time.Second},
	}
}

// maxLength bounds a run: the series of seconds is kept in memory.
const maxLength = 24 * time.Hour

// Validate reports every impossible value at once, each with the path of its key.
func (s Scenario) Validate() error {
	var errs []error
	check := func(ok bool, path, format string, args ...any) {
		if !ok {
			errs = append(errs, config.Errorf(path, format, args...))
		}
	}
	check(validName(s.Name), "name", "must be letters, digits, dots, dashes or underscores, got %q", s.Name)
	check(s.Length > 0 && s.Length <= maxLength, "length", "must be above 0 and at most %v, got %v", maxLength, s.Length)
	check(s.Disturbance.At >= 0, "disturbance.at", "must be 0s or more, got %v", s.Disturbance.At)
	check(s.Disturbance.For > 0, "disturbance.for", "must be above 0s, got %v", s.Disturbance.For)
	check(s.Upstream.Instances >= 1 && s.Upstream.Instances <= 1000, "upstream.instances", "must be from 1 to 1000, got %d", s.Upstream.Instances)
	check(s.Upstream.Queue >= 0, "upstream.queue", "must be 0s or more, got %v", s.Upstream.Queue)
	check(s.Upstream.Faults.Capacity == faults.Capacity{}, "upstream.faults.capacity",
		"must be left out: the capacity is that of the run, and upstream.queue the room in front of it")
	check(len(s.Upstream.Faults.Schedule) == 0, "upstream.faults.schedule", "must be left out: upstream.phases is the schedule")
	check(s.Upstream.Faults.FailFirst == 0, "upstream.faults.failFirst", "must be left out: it goes by the request's id, and the calls of a simulation have none")
	check(meanOf(s.Upstream.Faults.Latency) > 0, "upstream.faults.latency",
		"must have a mean above 0s and below %v, which is how long a worker needs for a call", maxLength)
	base := s.Upstream.Faults
	base.Capacity, base.Schedule = faults.Capacity{}, nil
	if err := base.Validate(); err != nil {
		errs = append(errs, config.At("upstream.faults", err))
	} else {
		for i, p := range s.Upstream.Phases {
			errs = append(errs, p.validate(config.Index("upstream.phases", i), s.Upstream)...)
		}
	}
	check(s.Load.Think >= 0, "load.think", "must be 0s (calls come by themselves) or more, got %v", s.Load.Think)
	if surge := s.Load.Surge; surge != nil {
		check(s.Load.Think == 0, "load.surge", "must be left out with load.think: callers who wait cannot surge")
		check(surge.At >= 0, "load.surge.at", "must be 0s or more, got %v", surge.At)
		check(surge.For > 0, "load.surge.for", "must be above 0s, got %v", surge.For)
		check(surge.OfCapacity > 0 && surge.OfCapacity <= 100, "load.surge.ofCapacity", "must be above 0 and at most 100, got %v", surge.OfCapacity)
	}
	if herd := s.Load.Herd; herd != nil {
		check(herd.At >= 0, "load.herd.at", "must be 0s or more, got %v", herd.At)
		check(herd.Calls >= 1 && herd.Calls <= 100_000, "load.herd.calls", "must be from 1 to 100000, got %d", herd.Calls)
	}
	return errors.Join(errs...)
}

func (p Phase) validate(path string, u Upstream) (errs []error) {
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			errs = append(errs, config.Errorf(config.Join(path, key), format, args...))
		}
	}
	check(p.Instance >= 0 && p.Instance <= u.Instances, "instance", "must be from 1 to %d, or 0 for all, got %d", u.Instances, p.Instance)
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
	for _, err := range unjoin(alone.Validate()) {
		place := path
		if f, ok := err.(interface{ FieldPath() string }); ok {
			place += strings.TrimPrefix(f.FieldPath(), "schedule[0]")
		}
		errs = append(errs, config.Errorf(place, "%w", err))
	}
	return errs
}

func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

func deref(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func validName(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// meanOf is the mean of a latency, 0 when there is none or it has no usable one.
// The formulas are those of the distributions of [faults.Latency.Sample].
func meanOf(l faults.Latency) time.Duration {
	var mean float64
	switch l.Distribution {
	case faults.DistributionFixed:
		mean = float64(l.Value)
	case faults.DistributionUniform:
		mean = (float64(l.Min) + float64(l.Max)) / 2
	case faults.DistributionLognormal:
		sigma := math.Log(float64(l.P99)/float64(l.Median)) / z99
		mean = float64(l.Median) * math.Exp(sigma*sigma/2)
	case faults.DistributionPareto:
		if l.Alpha > 1 {
			mean = float64(l.Min) * l.Alpha / (l.Alpha - 1)
		}
	}
	if !(mean > 0 && mean < float64(maxLength)) {
		return 0
	}
	return time.Duration(mean)
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

//go:embed scenarios/*.yaml
var builtin embed.FS

// Names are those of the built-in scenarios, sorted.
func Names() []string {
	files, err := fs.Glob(builtin, "scenarios/*.yaml")
	if err != nil {
		return nil // the pattern is a constant
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	slices.Sort(files)
	return files
}

// Source is the document of a built-in scenario, to read or to copy.
func Source(name string) ([]byte, error) {
	text, err := builtin.ReadFile("scenarios/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no scenario %q, there are %s", name, strings.Join(Names(), ", "))
	}
	return text, nil
}

// Builtin is a scenario that comes with Rebound.
func Builtin(name string) (Scenario, error) {
	text, err := Source(name)
	if err != nil {
		return Scenario{}, err
	}
	return decodeScenario(name+".yaml", text)
}

// LoadScenario is the built-in scenario of that name, or the one in the file at
// that path: a name has neither a slash nor the ending .yaml.
func LoadScenario(nameOrPath string) (Scenario, error) {
	if !strings.ContainsAny(nameOrPath, `/\`) && !strings.HasSuffix(nameOrPath, ".yaml") && !strings.HasSuffix(nameOrPath, ".yml") {
		return Builtin(nameOrPath)
	}
	var s Scenario
	s.SetDefaults()
	return s, config.Load(nameOrPath, &s)
}

func decodeScenario(name string, text []byte) (Scenario, error) {
	var s Scenario
	s.SetDefaults()
	return s, config.Decode(name, text, &s)
}
