package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

func check(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addPolicyFlags(fs)
	file := fs.String("limits", "", "read the limits, YAML, from `FILE`")
	asJSON := fs.Bool("json", false, "print the findings as JSON")
	if code, done := p.Parse(fs, usage(`check checks every policy that a route of the file uses against limits. The exit code is 1 if one
is broken. FILE may also be a file of another system that lab import reads: then each policy in it is
run by that system's rules. The file of limits may have these keys. The load below is the default:

  amplification: 1.2              # attempts per call in any second, in outage and outage-hanging
  recoverWithin: 5s               # until 95 % of the calls end well, in the same scenarios
  successDuringErrorRate30: 0.965 # share of calls that end well in error-rate-30; also 10 and 60
  scenarios:                      # limits for any scenario
    - {scenario: herd, amplification: 1.5, recoverWithin: 3s, successDuring: 0.5, successAfter: 0.99, wasted: 0.1}
  load: {rate: 500, clients: 20, capacity: 1000, seed: 1, seeds: 3}`, "lab check --config FILE --limits FILE [flags]",
		`  lab check --config rebound.yaml --limits limits.yaml
  lab check --config virtual-service.yaml --limits limits.yaml
  lab check --config rebound.yaml --route process --limits limits.yaml --json
`)); done {
		return code
	}
	if *file == "" {
		return p.Fail(cli.ExitUsage, errors.New("--limits: a file with limits is required\nsee lab check --help"))
	}
	policies, err := policy.rivals(p.Stderr)
	others := policies != nil
	if err == nil && !others {
		policies, err = policy.policies()
	}
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	limits, err := lab.LoadLimits(*file)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	trials, err := limits.Trials()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	var experiments []lab.Experiment
	run := policies
	if others {
		run = withDefault(policies)
	}
	for _, chosen := range run {
		for _, t := range trials {
			for _, load := range t.Loads {
				e := lab.Experiment{Policy: chosen.Policy, Client: chosen.Client, Scenario: t.Scenario, Load: load}
				if err := e.Validate(); err != nil {
					return p.Fail(cli.ExitUsage, err)
				}
				experiments = append(experiments, e)
			}
		}
	}
	results, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if others && !*asJSON {
		n := len(results) / len(run) // of each policy
		fmt.Fprintf(p.Stdout, "%s\n\n", worstTrial(policies, results[:len(results)-n], results[len(results)-n:]))
	}
	type finding struct {
		Policy string `json:"policy"`
		lab.Finding
	}
	var found []finding
	broken := 0
	for _, chosen := range policies {
		for _, t := range trials {
			for _, f := range t.Judge(results[:len(t.Loads)]) {
				found = append(found, finding{chosen.Name, f})
				if f.Broken {
					broken++
				}
			}
			results = results[len(t.Loads):]
		}
	}
	if *asJSON {
		if err := writeJSON(p.Stdout, found); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
	} else {
		t := tabwriter.NewWriter(p.Stdout, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "\tpolicy\tscenario\tlimit\tfound\tseed")
		for _, f := range found {
			verdict := "ok"
			if f.Broken {
				verdict = "BROKEN"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", verdict, f.Policy, f.Scenario, f.Limit, f.Found, f.Seed)
		}
		if err := t.Flush(); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
	}
	if broken > 0 {
		return p.Fail(cli.ExitFailed, fmt.Errorf("%d of %d limits broken", broken, len(found)))
	}
	return cli.ExitOK
}
