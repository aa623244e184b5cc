package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// simulate is the command of that name.
func simulate(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	asJSON := fs.Bool("json", false, "print all figures as JSON, with those of every second")
	page := fs.String("html", "", "write a page with charts to `FILE`")
	if code, done := p.Parse(fs, usage("simulate puts a policy into a scenario and prints the figures.", "lab simulate [flags]",
		`  lab simulate --scenario outage-hanging --rate 700 --html outage.html
  lab simulate --config rebound.yaml --route process --scenario my-outage.yaml
`)); done {
		return code
	}
	chosen, err := policy.policy()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	e, err := load.experiment(chosen.Policy)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	results, err := withBar(ctx, p, []lab.Experiment{e})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	rungs := []rung{{chosen.Name, results[0]}}
	if err := writePage(*page, rungs); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *asJSON {
		err = writeJSON(p.Stdout, results[0])
	} else {
		err = writeResult(p.Stdout, chosen.Name, results[0])
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// compare is the command of that name.
func compare(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	asJSON := fs.Bool("json", false, "print all figures as JSON, with those of every second")
	page := fs.String("html", "", "write a page with charts to `FILE`")
	if code, done := p.Parse(fs, usage(`compare puts a ladder of policies into a scenario: no retry, immediate retry, a fixed wait, an
exponential one, full jitter, a budget, a circuit breaker, and the policy itself.`, "lab compare [flags]",
		`  lab compare --scenario outage-hanging
  lab compare --config rebound.yaml --scenario overload --html overload.html
`)); done {
		return code
	}
	chosen, err := policy.policy()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	var experiments []lab.Experiment
	ladder := lab.Ladder(chosen.Policy)
	for _, r := range ladder {
		e, err := load.experiment(r.Policy)
		if err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
		experiments = append(experiments, e)
	}
	results, err := withBar(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	var rungs []rung
	for i, r := range ladder {
		rungs = append(rungs, rung{r.Name, results[i]})
	}
	if err := writePage(*page, rungs); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *asJSON {
		err = writeJSON(p.Stdout, rungs)
	} else {
		err = writeLadder(p.Stdout, rungs)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// withBar runs experiments and shows how far they are.
func withBar(ctx context.Context, p cli.Program, experiments []lab.Experiment) ([]*lab.Result, error) {
	b := newBar(p.Stderr)
	defer b.clear()
	return runAll(ctx, experiments, b.set)
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writePage writes the page, if one is wanted.
func writePage(path string, rungs []rung) error {
	if path == "" {
		return nil
	}
	text, err := renderPage(rungs)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}
