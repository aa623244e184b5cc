// Package cli has what every command needs as a program: exit codes, flags with their
// environment variables, the check of addresses, and the probe.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/version"
)

// The exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // it could not do what it was asked to
	ExitUsage  = 2 // it was asked something wrong
)

// Program is one run of a command, with all that a process has handed in, so
// that a test can run it too.
type Program struct {
	Name           string
	Args           []string // without the name
	LookupEnv      func(string) (string, bool)
	Environ        func() []string // all of it, as [os.Environ]; nil for no look at what is set in vain
	Stdout, Stderr io.Writer
}

// Main runs the command of this process and exits with its code. The first
// SIGINT or SIGTERM ends the context, a second one the process.
func Main(name string, run func(context.Context, Program) int) {
	ctx, stop := serve.Signals(context.Background())
	code := run(ctx, Program{Name: name, Args: os.Args[1:], LookupEnv: os.LookupEnv, Environ: os.Environ, Stdout: os.Stdout, Stderr: os.Stderr})
	stop()
	os.Exit(code)
}

// Flags is a new flag set that [Program.Parse] takes. It has --version.
func (p Program) Flags() *flag.FlagSet {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.Bool("version", false, "print the version and exit")
	return fs
}

// settings is the environment without REBOUND_VERSION, which many set as a label:
// --version asks for something to be done and is no setting.
func (p Program) settings(name string) (string, bool) {
	if name == "REBOUND_VERSION" {
		return "", false
	}
	return p.LookupEnv(name)
}

// Parse reads the command line and the environment into fs. When done is true
// the program ends with code: it was asked for its help or its version, or
// something was wrong.
func (p Program) Parse(fs *flag.FlagSet, help func(io.Writer, *flag.FlagSet)) (code int, done bool) {
	if err := config.ParseFlags(fs, p.Args, p.settings); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			help(p.Stdout, fs)
			return ExitOK, true
		}
		return p.Fail(ExitUsage, fmt.Errorf("%w\nsee %s --help", err, p.Name)), true
	}
	if asked := fs.Lookup("version"); asked != nil && asked.Value.String() == "true" {
		fmt.Fprintln(p.Stdout, p.Name, version.String())
		return ExitOK, true
	}
	return ExitOK, false
}

// CheckAddresses refuses what cannot be listened on by the look of it.
func CheckAddresses(addrs ...string) error {
	for _, addr := range addrs {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return fmt.Errorf("%q: must be an address such as :8080 or 127.0.0.1:8080", addr)
		}
	}
	return nil
}

// Fail tells err on the standard error stream and gives code back.
func (p Program) Fail(code int, err error) int {
	fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
	return code
}
