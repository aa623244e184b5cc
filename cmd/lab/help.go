package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/rebound-dev/rebound/internal/config"
)

func help(w io.Writer, _ *flag.FlagSet) {
	fmt.Fprint(w, `lab shows how a policy behaves in an outage. It runs the policy's own pipeline against a modelled
upstream in virtual time. Minutes take seconds, and the same seed gives the same figures.

Usage: lab COMMAND [flags]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s  %s\n", c.name, c.about)
	}
	fmt.Fprint(w, `
Examples:
  lab simulate --config virtual-service.yaml --scenario outage-hanging
  lab simulate --scenario outage-hanging --html outage.html
  lab compare --config rebound.yaml --route process --rate 700
  lab check --config rebound.yaml --limits limits.yaml

lab COMMAND --help lists the flags of a command. Exit codes: 0 ok, 1 failed or a limit is broken,
2 wrong flag or file, 3 a file without policies.
`)
}

// usage returns the help of a command: its description, flags and examples.
func usage(about, line, examples string) func(io.Writer, *flag.FlagSet) {
	return func(w io.Writer, fs *flag.FlagSet) {
		fmt.Fprintf(w, "%s\n\nUsage: %s\n\n", about, line)
		config.Usage(w, fs,
			"config", "from", "route", "scenario", "limits", "entry", "hang", "rate", "clients", "capacity", "for", "seed",
			"status", "error", "header", "request-header", "body", "elapsed", "attempt", "rate-limit", "breaker", "concurrency", "tokens",
			"before", "boundary", "every", "worst", "seeds", "format", "json", "html", "version")
		fmt.Fprintf(w, "\nExamples:\n%s", examples)
	}
}
