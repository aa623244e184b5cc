package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// located is a policy and its boundary.
type located struct {
	Policy string `json:"policy"`
	lab.Boundary
}

// boundaryCapacity is the default capacity of a search: a small one is quick.
const boundaryCapacity = 200

// mostSeeds limits the searches at the same time: each has a goroutine.
const mostSeeds = 1000

const aboutBoundary = `boundary finds the load from which a policy no longer recovers from a disturbance: the upstream is
well again, and in the minute after that there are no five seconds in a row in each of which 95 % of
the calls end well. It searches by bisection, in whole percents of the upstream's capacity, once for
each seed. FILE may also be a file of another system that lab import reads. Without --config it looks at
the default policy and at simpler ones.`

func boundary(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addPolicyFlags(fs)
	scenario := fs.String("scenario", "outage-hanging", "run this scenario: the `NAME` of a built-in one, or the path of a .yaml file")
	load := lab.Load{Clients: 20, Capacity: boundaryCapacity, Seed: 1}
	fs.IntVar(&load.Clients, "clients", load.Clients, "`N` client instances make the calls, each with its own circuit and budget")
	fs.Float64Var(&load.Capacity, "capacity", load.Capacity, "`CALLS` per second that the upstream can serve; above 0")
	seeds := fs.Int("seeds", 5, "search with the seeds 1 to `N`, at most 1000")
	asJSON := fs.Bool("json", false, "print the verdict and the table as JSON")
	if code, done := p.Parse(fs, usage(aboutBoundary, "lab boundary [flags]",
		`  lab boundary
  lab boundary --config rebound.yaml --route process --scenario outage
`)); done {
		return code
	}
	switch {
	case *seeds < 1 || *seeds > mostSeeds:
		return p.Fail(cli.ExitUsage, fmt.Errorf("--seeds: must be from 1 to %d, got %d", mostSeeds, *seeds))
	case !(load.Capacity > 0): // also NaN
		return p.Fail(cli.ExitUsage, fmt.Errorf("--capacity: must be above 0, got %v", load.Capacity))
	}
	s, err := (&loadFlags{scenario: scenario}).read()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	s = s.ForBoundary()
	var policies []namedPolicy
	if *policy.file == "" && *policy.route == "" && *policy.from == "" {
		for _, rung := range lab.Ladder(transport.DefaultPolicy()) {
			policies = append(policies, namedPolicy{Name: rung.Name, Policy: rung.Policy})
		}
	} else {
		chosen, err := policy.choose(p, s.Method())
		if err != nil {
			return p.Fail(inputCode(err), err)
		}
		policies = chosen.policies
	}
	for _, chosen := range policies {
		if err := (lab.Experiment{Policy: chosen.Policy, Client: chosen.Client, Scenario: s, Load: load}).Validate(); err != nil {
			return p.Fail(cli.ExitUsage, byFlags(err, map[string]string{"clients": "--clients", "capacity": "--capacity"}))
		}
	}
	table, err := findBoundaries(ctx, p, policies, s, load, *seeds)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *asJSON {
		err = writeJSON(p.Stdout, struct {
			Verdict    []string  `json:"verdict"`
			Boundaries []located `json:"boundaries"`
		}{boundaryVerdict(table), table})
	} else {
		err = writeBoundaries(p, s, table)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// findBoundaries finds the boundaries of the policies. The first of the seeds is that of load. Its
// rate does not matter.
func findBoundaries(ctx context.Context, p cli.Program, policies []namedPolicy, s lab.Scenario, load lab.Load, seeds int) ([]located, error) {
	const steps = 7 // of a bisection of a hundred loads
	var done atomic.Int64
	progress := newProgressBar(p)
	defer progress.clear()
	free := make(chan struct{}, runtime.GOMAXPROCS(0))
	different, which := distinct(policies)
	var found []lab.Boundary
	for _, chosen := range different {
		b, err := lab.FindBoundary(ctx, seeds, func(ctx context.Context, percent int, seed uint64) (recovers bool, err error) {
			free <- struct{}{}
			defer func() { <-free }()
			load := load
			load.Rate, load.Seed, load.Length = load.Capacity*float64(percent)/lab.BoundarySteps, load.Seed+seed-1, 0
			virtual.Run(func() {
				var r *lab.Result
				if r, err = (lab.Experiment{Policy: chosen.Policy, Client: chosen.Client, Scenario: s, Load: load}).Run(ctx); err == nil {
					recovers = r.RecoveryS != nil
				}
			})
			progress.set(min(1, float64(done.Add(1))/float64(steps*seeds*len(different))))
			return recovers, err
		})
		if err != nil {
			return nil, err
		}
		found = append(found, b)
	}
	table := make([]located, len(policies))
	for i, n := range which {
		table[i] = located{policies[i].Name, found[n]}
	}
	return table, nil
}

// boundaryVerdict says for each policy where its boundary is.
func boundaryVerdict(all []located) []string {
	var verdict []string
	for _, f := range all {
		from := "Recovers at every load up to 99 %."
		if f.Percent < lab.BoundarySteps {
			from = fmt.Sprintf("No recovery from %d %% load on.", f.Percent)
		}
		if len(all) > 1 {
			from = oneLine(f.Policy) + ": " + from
		}
		verdict = append(verdict, from)
	}
	return verdict
}

func writeBoundaries(p cli.Program, s lab.Scenario, all []located) error {
	t := table{header: []string{"policy", "no longer recovers from", "by seed"}, left: 3}
	for _, f := range all {
		from := "none"
		if f.Percent < lab.BoundarySteps {
			from = fmt.Sprintf("%d %% load", f.Percent)
		}
		by := fmt.Sprintf("%d to %d %%", f.Low, f.High)
		if f.Low == f.High {
			by = "all alike"
		}
		t.add(oneLine(f.Policy), from, by)
	}
	return p.Print(fmt.Sprintf("%s\n\n%s: %s\n\n%s", strings.Join(boundaryVerdict(all), "\n"), s.Name, s.Description, t.text(p.Columns)))
}
