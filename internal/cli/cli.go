// Package cli has what every command shares: exit codes, flags with their environment variables,
// address checks, and the probe sub-command.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/version"
)

// The exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // the command failed
	ExitUsage  = 2 // the flags, the environment or the configuration are wrong
)

// Program is one run of a command. It holds everything that a process gets from outside, so that
// tests can run it too.
type Program struct {
	Name           string
	Args           []string // without the name
	LookupEnv      func(string) (string, bool)
	Environ        func() []string // the whole environment, as [os.Environ]; nil skips warnings about unused variables
	Stdin          io.Reader       // only for commands that read a file named -
	Stdout, Stderr io.Writer
	Columns        int // of the terminal that Stdout is; 0 if it is none
}

// Main runs the command of this process and exits with its code. The first SIGINT or SIGTERM ends
// the context, a second one kills the process.
func Main(name string, run func(context.Context, Program) int) {
	ctx, stop := serve.Signals(context.Background())
	code := run(ctx, Program{Name: name, Args: os.Args[1:], LookupEnv: os.LookupEnv, Environ: os.Environ, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Columns: Columns(os.Stdout)})
	stop()
	os.Exit(code)
}

// Flags returns a new flag set for [Program.Parse]. It has --version.
func (p Program) Flags() *flag.FlagSet {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.Bool("version", false, "print the version and exit")
	return fs
}

// settings looks up a variable, but hides REBOUND_VERSION. Many users set that as a label, and
// --version is a command rather than a setting.
func (p Program) settings(name string) (string, bool) {
	if name == "REBOUND_VERSION" {
		return "", false
	}
	return p.LookupEnv(name)
}

// Parse reads the command line and the environment into fs. If done is true, the program must exit
// with code: Parse has printed the help, the version or an error.
func (p Program) Parse(fs *flag.FlagSet, help func(io.Writer, *flag.FlagSet)) (code int, done bool) {
	if err := config.ParseFlags(fs, p.Args, p.settings); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			var text strings.Builder
			help(&text, fs)
			_, _ = io.WriteString(p.Stdout, Wrap(text.String(), p.helpColumns()))
			return ExitOK, true
		}
		return p.Fail(ExitUsage, fmt.Errorf("%w\nsee %s --help", err, p.Name)), true
	}
	if show := fs.Lookup("version"); show != nil && show.Value.String() == "true" {
		fmt.Fprintln(p.Stdout, p.Name, version.String())
		return ExitOK, true
	}
	return ExitOK, false
}

// CheckAddresses returns an error if an address has the wrong form to listen on.
func CheckAddresses(addrs ...string) error {
	for _, addr := range addrs {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return fmt.Errorf("%q: must be an address such as :8080 or 127.0.0.1:8080", addr)
		}
	}
	return nil
}

func (p Program) helpColumns() int {
	if p.Columns > 0 {
		return min(p.Columns, HelpColumns)
	}
	return HelpColumns
}

// Fail prints err to Stderr and returns code. The end of the program's context is an interruption.
func (p Program) Fail(code int, err error) int {
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
	return code
}
