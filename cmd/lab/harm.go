package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

func harm(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addPolicyFlags(fs)
	every := fs.Int("every", 1, "run only every `N`th cell")
	worst := fs.Int("worst", 0, "print only the `N` worst cells; 0 means all")
	asJSON := fs.Bool("json", false, "print the table as JSON")
	if code, done := p.Parse(fs, usage(`harm compares a policy with one attempt without any policy, in many scenarios, loads and numbers of
clients, and prints a table, the worst cell first. The exit code is 1 if the policy does harm: if a
cell has less than 95 % of the goodput without a policy, or more than 1.3 attempts per call in any
second. 1.5 are allowed while a part of the attempts fails whatever the load. All cells take a few
minutes.`, "lab harm [flags]",
		`  lab harm --every 7
  lab harm --config rebound.yaml --route process --worst 20
`)); done {
		return code
	}
	if *every < 1 || *worst < 0 {
		return p.Fail(cli.ExitUsage, errors.New("--every must be at least 1, and --worst at least 0"))
	}
	chosen, err := policy.policy()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	cells, err := lab.HarmGrid(*every)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	var experiments []lab.Experiment
	for _, c := range cells {
		experiments = append(experiments,
			lab.Experiment{Policy: chosen.Policy, Scenario: c.Scenario, Load: c.Load},
			lab.Experiment{Policy: lab.NoPolicy(chosen.Policy), Scenario: c.Scenario, Load: c.Load})
	}
	results, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	table := make([]lab.Harm, len(cells))
	broken := 0
	for i, c := range cells {
		if table[i] = c.Compare(results[2*i], results[2*i+1]); table[i].Broken() {
			broken++
		}
	}
	slices.SortStableFunc(table, func(a, b lab.Harm) int { return cmp.Compare(b.Badness(), a.Badness()) })
	shown := table
	if *worst > 0 {
		shown = table[:min(*worst, len(table))]
	}
	if *asJSON {
		err = writeJSON(p.Stdout, shown)
	} else {
		err = writeHarm(p, shown)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if broken > 0 {
		return p.Fail(cli.ExitFailed, fmt.Errorf("the policy does harm in %d of %d cells", broken, len(table)))
	}
	return cli.ExitOK
}

func writeHarm(p cli.Program, table []lab.Harm) error {
	t := tabwriter.NewWriter(p.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "\tscenario\tload\tclients\tsuccess\twithout\tkept\tpeak\tallowed")
	for _, h := range table {
		verdict := "ok"
		if h.Broken() {
			verdict = "HARM"
		}
		fmt.Fprintf(t, "%s\t%s\t%.0f %%\t%d\t%.1f %%\t%.1f %%\t%.2f\t%.2f\t%.2f\n",
			verdict, h.Scenario, 100*h.OfLoad, h.Clients, 100*h.With, 100*h.Without, h.Kept(), h.Peak, h.Allowed)
	}
	return t.Flush()
}
