// Command lab shows how a policy behaves in an outage, under errors, or with a herd of calls. It
// runs the policy's own pipeline against a modelled upstream on a virtual clock.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/rebound-dev/rebound/internal/cli"
)

func main() {
	if os.Getenv("GOGC") == "" {
		// A simulation makes much garbage, and keeps little of it. The collector lets garbage grow
		// to twice of what is kept. So it runs less often if something large is kept, which takes
		// no memory because nothing writes to it.
		debug.SetGCPercent(200)
		kept := make([]byte, 16<<20)
		defer runtime.KeepAlive(kept)
	}
	cli.Main("lab", run)
}

// command is one of lab's commands.
type command struct {
	name, about string
	run         func(context.Context, cli.Program) int
}

func commands() []command {
	return []command{
		{"simulate", "run one policy in one scenario; print the figures, write a page with charts", simulate},
		{"compare", "run one scenario without retries, with simpler policies, and with the policy", compare},
		{"check", "check policies against limits; exit code 1 if one is broken", check},
		{"harm", "show where a policy is worse for callers than no policy; exit code 1 if it is", harm},
		{"boundary", "find the load from which policies no longer recover", boundary},
		{"graph", "simulate services that call each other, with a policy on every call", graph},
		{"run", "run a scenario with the real programs and compare with the simulation", runReal},
		{"import", "read the policy of another system; print it as a policy, and what is different", importPolicy},
		{"explain", "explain the decision after one attempt, gate by gate", explain},
		{"scenarios", "list the built-in scenarios, or print the file of one", scenarios},
	}
}

// run runs the command in p.Args and returns the exit code.
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
	if len(p.Args) > 0 && p.Args[0] == "help" {
		if len(p.Args) > 1 {
			p.Args = []string{p.Args[1], "--help"}
			return run(ctx, p)
		}
		p.Args = []string{"--help"}
	}
	if len(p.Args) > 0 && p.Args[0] != "" && p.Args[0][0] != '-' {
		return p.Fail(cli.ExitUsage, fmt.Errorf("unknown command %q\nsee %s --help", p.Args[0], p.Name))
	}
	if code, done := p.Parse(fs, help); done {
		return code
	}
	return p.Fail(cli.ExitUsage, fmt.Errorf("expected a command, such as %[1]s simulate\nsee %[1]s --help", p.Name))
}
