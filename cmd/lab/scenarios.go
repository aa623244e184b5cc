package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

func scenarios(_ context.Context, p cli.Program) int {
	fs := p.Flags()
	name := fs.String("scenario", "", "print the file of the built-in scenario `NAME`")
	if code, done := p.Parse(fs, usage(`scenarios lists the built-in scenarios, or prints the file of one. Copy it, change it, and
give its path to any other command.`, "lab scenarios [flags]",
		`  lab scenarios
  lab scenarios --scenario outage > mine.yaml
  lab simulate --scenario mine.yaml
`)); done {
		return code
	}
	if *name != "" {
		text, err := lab.Source(*name)
		if err != nil {
			return p.Fail(cli.ExitUsage, fmt.Errorf("--scenario: %w", err))
		}
		if _, err := p.Stdout.Write(text); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
		return cli.ExitOK
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d scenarios. Print the file of one with --scenario NAME, copy and change it:\n\n", len(lab.Names()))
	for _, name := range lab.Names() {
		s, err := lab.LoadScenario(name)
		if err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
		fmt.Fprintf(&b, "  %-15s  %s\n", name, s.Description)
	}
	if err := p.Print(b.String()); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}
