package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// policyFlags choose a policy.
type policyFlags struct{ file, route *string }

func addPolicyFlags(fs *flag.FlagSet) policyFlags {
	return policyFlags{
		fs.String("config", "", "read routes and policies, YAML, from `FILE`; default: the default policy"),
		fs.String("route", "", "use the policy of the route `NAME`"),
	}
}

// namedPolicy is a policy and its name in the file.
type namedPolicy struct {
	Name   string
	Policy transport.Policy
	// Client makes clients that follow the policy of another system, rival. Then Policy is not
	// used.
	Client   func(lab.ClientOptions) (lab.Client, error)
	rival    foreign.Policy
	baseline bool // whether it only shows what the retries of another one do
}

// policies returns the policies that the routes use, sorted by name. With --route it returns only
// that route's policy.
func (f policyFlags) policies() ([]namedPolicy, error) {
	if *f.file == "" {
		if *f.route != "" {
			return nil, errors.New("--route: requires --config FILE")
		}
		return []namedPolicy{{Name: gateway.DefaultPolicyName, Policy: transport.DefaultPolicy()}}, nil
	}
	cfg := gateway.DefaultConfig()
	if err := loadConfig(*f.file, &cfg); err != nil {
		return nil, err
	}
	var names, routes []string
	for _, r := range cfg.Routes {
		routes = append(routes, r.Name)
		if *f.route == "" || *f.route == r.Name {
			names = append(names, r.Policy)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("--route: %s has no route %q; its routes are %s", *f.file, *f.route, strings.Join(routes, ", "))
	}
	slices.Sort(names)
	var all []namedPolicy
	for _, name := range slices.Compact(names) {
		all = append(all, namedPolicy{Name: name, Policy: cfg.Policies[name]})
	}
	return all, nil
}

// policy returns the only policy, and fails if there are several.
func (f policyFlags) policy() (namedPolicy, error) {
	all, err := f.policies()
	if err != nil {
		return namedPolicy{}, err
	}
	for _, other := range all[1:] {
		if !reflect.DeepEqual(other.Policy, all[0].Policy) {
			return namedPolicy{}, fmt.Errorf("--route: %s has routes with different policies, choose one", *f.file)
		}
	}
	return all[0], nil
}

// loadFlags choose a scenario and its load.
type loadFlags struct {
	scenario *string
	load     lab.Load
}

func addLoadFlags(fs *flag.FlagSet) *loadFlags {
	l := &loadFlags{load: lab.DefaultLoad()}
	l.add(fs, "outage")
	return l
}

// add adds the flags. Their defaults are the values in l.
func (l *loadFlags) add(fs *flag.FlagSet, scenario string) {
	l.scenario = fs.String("scenario", scenario, "run this scenario: the `NAME` of a built-in one, or the path of a .yaml file")
	fs.Float64Var(&l.load.Rate, "rate", l.load.Rate, "`CALLS` per second, of all clients together")
	fs.IntVar(&l.load.Clients, "clients", l.load.Clients, "`N` client instances make the calls, each with its own circuit and budget")
	fs.Float64Var(&l.load.Capacity, "capacity", l.load.Capacity, "`CALLS` per second that the upstream can serve; 0 means no limit")
	fs.DurationVar(&l.load.Length, "for", 0, "how long calls are made; 0s means the scenario's length")
	fs.Uint64Var(&l.load.Seed, "seed", l.load.Seed, "seed of all randomness: the same `N` gives the same figures")
}

// experiment returns an experiment with policy p in the chosen scenario.
func (l *loadFlags) experiment(p namedPolicy) (lab.Experiment, error) {
	s, err := lab.LoadScenario(*l.scenario)
	if err != nil {
		return lab.Experiment{}, fmt.Errorf("--scenario: %w", err)
	}
	e := lab.Experiment{Policy: p.Policy, Client: p.Client, Scenario: s, Load: l.load}
	return e, e.Validate()
}

// runAll runs experiments on virtual clocks, one per processor at a time. It returns the results in
// the order of the experiments, and reports the share that is done to progress.
func runAll(ctx context.Context, experiments []lab.Experiment, progress func(float64)) ([]*lab.Result, error) {
	var mu sync.Mutex
	var total, done time.Duration
	for _, e := range experiments {
		total += cmp.Or(e.Load.Length, e.Scenario.Length)
	}
	step := func(time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		done += time.Second
		progress(min(1, float64(done)/float64(total)))
	}
	results, errs := make([]*lab.Result, len(experiments)), make([]error, len(experiments))
	var running sync.WaitGroup
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, e := range experiments {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			e.Progress = step
			virtual.Run(func() { results[i], errs[i] = e.Run(ctx) })
		})
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}
