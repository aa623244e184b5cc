package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// outputFlags choose the form of the figures.
type outputFlags struct {
	json *bool
	page *string
}

func addOutputFlags(fs *flag.FlagSet) outputFlags {
	return outputFlags{
		fs.Bool("json", false, "print all figures as JSON, including those of every second"),
		fs.String("html", "", "write a page with charts to `FILE`"),
	}
}

func simulate(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	out := addOutputFlags(fs)
	if code, done := p.Parse(fs, usage(`simulate runs a policy in a scenario and prints the figures. FILE may also be a file of another system
that lab import reads: then each policy in it is run by that system's rules, next to Rebound's default.`, "lab simulate [flags]",
		`  lab simulate --scenario outage-hanging --rate 700 --html outage.html
  lab simulate --config rebound.yaml --route process --scenario my-outage.yaml
  lab simulate --config virtual-service.yaml --scenario outage-hanging
`)); done {
		return code
	}
	if others, err := policy.rivals(p.Stderr); err != nil {
		return p.Fail(cli.ExitUsage, err)
	} else if others != nil {
		return runRivals(ctx, p, others, load, out, true)
	}
	chosen, err := policy.policy()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	e, err := load.experiment(chosen)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	results, err := runWithProgress(ctx, p, []lab.Experiment{e})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	named := []policyResult{{chosen.Name, results[0]}}
	if err := writePage(*out.page, named); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *out.json {
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
	out := addOutputFlags(fs)
	if code, done := p.Parse(fs, usage(`compare runs a series of policies in one scenario. Each adds to the one before: no retry, immediate
retry, a fixed wait, an exponential wait, full jitter, a budget, a circuit breaker, the policy itself.
With a file of another system, it compares each policy in it with itself without retries, and with
Rebound's default.`, "lab compare [flags]",
		`  lab compare --scenario outage-hanging
  lab compare --config rebound.yaml --scenario overload --html overload.html
`)); done {
		return code
	}
	if others, err := policy.rivals(p.Stderr); err != nil {
		return p.Fail(cli.ExitUsage, err)
	} else if others != nil {
		return runRivals(ctx, p, withoutRetries(others), load, out, false)
	}
	chosen, err := policy.policy()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	var experiments []lab.Experiment
	ladder := lab.Ladder(chosen.Policy)
	for _, r := range ladder {
		e, err := load.experiment(namedPolicy{Name: r.Name, Policy: r.Policy})
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
	if err := writePage(*out.page, named); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *out.json {
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
	return writeFile(path, text)
}

func writeFile(path string, page []byte) error {
	if err := os.WriteFile(path, page, 0o644); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}
