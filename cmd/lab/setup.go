package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
)

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

// read reads the scenario.
func (l *loadFlags) read() (lab.Scenario, error) {
	s, err := lab.LoadScenario(*l.scenario)
	if err != nil {
		err = fmt.Errorf("--scenario: %w", err)
	}
	return s, err
}

// experiment returns an experiment with policy p.
func (l *loadFlags) experiment(p namedPolicy, s lab.Scenario) (lab.Experiment, error) {
	e := lab.Experiment{Policy: p.Policy, Client: p.Client, Scenario: s, Load: l.load}
	return e, byFlags(e.Validate(), map[string]string{"rate": "--rate", "clients": "--clients", "capacity": "--capacity", "length": "--for"})
}

// byFlags names the flags that set what is wrong, instead of the paths. The scenario is checked
// already, so that every mistake is in a flag.
func byFlags(err error, flags map[string]string) error {
	var all mistake.List
	all.Merge("", err)
	for _, m := range all {
		m.Path = cmp.Or(flags[m.Path], m.Path)
	}
	return all.Err()
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
		if ctx.Err() != nil { // even a run that ends at once takes time, and there may be thousands
			break
		}
		running.Go(func() {
			defer func() { <-free }()
			e.Progress = step
			virtual.Run(func() { results[i], errs[i] = e.Run(ctx) })
		})
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}
