// Command lab tells what a policy would do: in an outage, under errors, in a
// herd. It runs the policy's own pipeline against a modelled upstream on a virtual
// clock.
package main

import (
	"context"
	"fmt"

	"github.com/rebound-dev/rebound/internal/cli"
)

func main() { cli.Main("lab", run) }

// command is what the word after the program's name chooses.
type command struct {
	name, about string
	run         func(context.Context, cli.Program) int
}

func commands() []command {
	return []command{
		{"simulate", "one policy in one scenario: the figures, and a page with charts", simulate},
		{"compare", "the same scenario for no retry, every kind of wait, a budget, a breaker, and the policy", compare},
		{"check", "hold a policy against limits: exit code 1 if one is broken", check},
		{"run", "twenty seconds in real time with the real programs, next to what the simulation says", realTime},
		{"explain", "what happens after one attempt: every gate with what it found", explain},
		{"scenarios", "the scenarios there are, or the file of one to copy", scenarios},
	}
}

// run is the program; it returns the exit code.
func run(ctx context.Context, p cli.Program) int {
	if len(p.Args) > 0 {
		for _, c := range commands() {
			if c.name == p.Args[0] {
				p.Name += " " + c.name
				p.Args = p.Args[1:]
				return c.run(ctx, p)
			}
		}
	}
	fs := p.Flags()
	if len(p.Args) > 0 && p.Args[0] != "" && p.Args[0][0] != '-' {
		return p.Fail(cli.ExitUsage, fmt.Errorf("unknown command %q\nsee %s --help", p.Args[0], p.Name))
	}
	if code, done := p.Parse(fs, help); done {
		return code
	}
	return p.Fail(cli.ExitUsage, fmt.Errorf("expected a command, such as %[1]s simulate\nsee %[1]s --help", p.Name))
}
