package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/rebound-dev/rebound/internal/config"
)

func help(w io.Writer, _ *flag.FlagSet) {
	fmt.Fprint(w, `lab tells what a policy would do in an outage. It runs the policy's own pipeline against a
modelled upstream, in virtual time: minutes take seconds, and the same seed gives the same figures.

Usage: lab COMMAND [flags]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s  %s\n", c.name, c.about)
	}
	fmt.Fprint(w, `
Examples:
  lab simulate --scenario outage-hanging --html outage.html
  lab compare --config rebound.yaml --route process --rate 700
  lab check --config rebound.yaml --limits limits.yaml

lab COMMAND --help has the flags of each. It ends with 0, 1 if it failed or a limit is broken, 2 if a
flag or a file is wrong.
`)
}

// usage is the help of a command: what it does, its flags, and examples.
func usage(about, line, examples string) func(io.Writer, *flag.FlagSet) {
	return func(w io.Writer, fs *flag.FlagSet) {
		fmt.Fprintf(w, "%s\n\nUsage: %s\n\n", about, line)
		config.Usage(w, fs, usageOrder(fs)...)
		fmt.Fprintf(w, "\nExamples:\n%s", examples)
	}
}

// usageOrder is the order of flags in the help; a command has some of them.
func usageOrder(fs *flag.FlagSet) []string {
	var names []string
	for _, name := range []string{
		"config", "route", "scenario", "limits", "rate", "clients", "capacity", "for", "seed",
		"status", "error", "header", "request-header", "body", "elapsed", "attempt", "breaker", "tokens",
		"json", "html", "version",
	} {
		if fs.Lookup(name) != nil {
			names = append(names, name)
		}
	}
	return names
}
