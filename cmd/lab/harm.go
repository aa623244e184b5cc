package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

func harm(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addOwnPolicyFlags(fs)
	every := fs.Int("every", 1, "run only every `N`th cell")
	worst := fs.Int("worst", 0, "print only the `N` worst cells; 0 means all")
	asJSON := fs.Bool("json", false, "print the verdict and the table as JSON")
	if code, done := p.Parse(fs, usage(`harm compares a policy with one attempt without any policy, in many scenarios, loads and numbers of
clients, and prints a table, the worst cell first. The exit code is 1 if the policy does harm: if a
cell has less than 95 % of the goodput without a policy, or more than 1.3 attempts per call in any
second, or 1.5 if a part of the attempts fails whatever the load. Seconds with fewer attempts than
35 % of the capacity do not count. All cells take some minutes.`, "lab harm [flags]",
		`  lab harm --every 7
  lab harm --config rebound.yaml --route process --worst 20
`)); done {
		return code
	}
	if *every < 1 || *worst < 0 {
		return p.Fail(cli.ExitUsage, errors.New("--every must be at least 1, and --worst at least 0"))
	}
	chosen, err := policy.policy(p, "GET")
	if err != nil {
		return p.Fail(inputCode(err), err)
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
	verdict := harmVerdict(broken, table)
	shown := table
	if *worst > 0 {
		shown = table[:min(*worst, len(table))]
	}
	if *asJSON {
		err = writeJSON(p.Stdout, struct {
			Verdict string     `json:"verdict"`
			Cells   []lab.Harm `json:"cells"`
		}{verdict, shown})
	} else {
		err = writeHarm(p, verdict, shown)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if broken > 0 {
		return p.Fail(cli.ExitFailed, fmt.Errorf("the policy does harm in %d of %d cells", broken, len(table)))
	}
	return cli.ExitOK
}

// harmVerdict says in how many cells the policy does harm, and what it does in the worst.
func harmVerdict(broken int, table []lab.Harm) string {
	worst := table[0]
	verdict := fmt.Sprintf("No harm in %s.", number(len(table), "cell", "cells"))
	if broken > 0 {
		verdict = fmt.Sprintf("Harm in %d of %d cells.", broken, len(table))
	}
	return verdict + fmt.Sprintf(" The worst: %s at %.0f %% load with %s, %.2f of the goodput without a policy, %.2f attempts a call in the worst second.",
		worst.Scenario, 100*worst.OfLoad, number(worst.Clients, "client", "clients"), worst.Kept(), worst.Peak)
}

func writeHarm(p cli.Program, verdict string, all []lab.Harm) error {
	t := table{header: []string{"", "scenario", "load", "clients", "success", "without", "kept", "peak", "allowed"}, left: 2}
	for _, h := range all {
		of := "ok"
		if h.Broken() {
			of = "HARM"
		}
		t.add(of, h.Scenario, fmt.Sprintf("%.0f %%", 100*h.OfLoad), fmt.Sprint(h.Clients), percent(h.With), percent(h.Without),
			fmt.Sprintf("%.2f", h.Kept()), fmt.Sprintf("%.2f", h.Peak), fmt.Sprintf("%.2f", h.Allowed))
	}
	return p.Print(verdict + "\n\n" + t.text(p.Columns))
}
