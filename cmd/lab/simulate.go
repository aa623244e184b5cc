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

func simulate(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	asJSON := fs.Bool("json", false, "print all figures as JSON, including those of every second")
	page := fs.String("html", "", "write a page with charts to `FILE`")
	if code, done := p.Parse(fs, usage("simulate runs a policy in a scenario and prints the figures.", "lab simulate [flags]",
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
	results, err := runWithProgress(ctx, p, []lab.Experiment{e})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	named := []policyResult{{chosen.Name, results[0]}}
	if err := writePage(*page, named); err != nil {
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

func compare(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	asJSON := fs.Bool("json", false, "print all figures as JSON, including those of every second")
	page := fs.String("html", "", "write a page with charts to `FILE`")
	if code, done := p.Parse(fs, usage(`compare runs a series of policies in one scenario. Each adds to the one before: no retry, immediate
retry, a fixed wait, an exponential wait, full jitter, a budget, a circuit breaker, the policy itself.`, "lab compare [flags]",
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
	results, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	var named []policyResult
	for i, r := range ladder {
		named = append(named, policyResult{r.Name, results[i]})
	}
	if err := writePage(*page, named); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *asJSON {
		err = writeJSON(p.Stdout, named)
	} else {
		err = writeLadder(p.Stdout, named)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// runWithProgress runs experiments with a progress bar.
func runWithProgress(ctx context.Context, p cli.Program, experiments []lab.Experiment) ([]*lab.Result, error) {
	b := newProgressBar(p.Stderr)
	defer b.clear()
	return runAll(ctx, experiments, b.set)
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writePage writes the page to path, if path is not empty.
func writePage(path string, results []policyResult) error {
	if path == "" {
		return nil
	}
	text, err := renderPage(results)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}
