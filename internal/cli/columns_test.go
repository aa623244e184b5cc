package cli_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
)

const about = `tool does one thing well and says so in a sentence that is too long for a line of eighty characters.
Usage: tool [flags]

  --size N  how large it is, in units that nobody has counted before, from 1 to 100 [REBOUND_SIZE]

Examples:
  tool --size 3 --and-a-long-example-that-somebody-copies-as-it-stands-here
`

// No line of a help is longer than 80 characters, or than the terminal is wide. Examples stay as
// they are.
func TestHelpFitsTheTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		columns, want int
		holds         string
	}{
		"no terminal":     {0, 80, "  --size N  how large it is, in units that nobody has counted before, from 1 to\n            100 [REBOUND_SIZE]\n"},
		"a wide terminal": {200, 80, "100 [REBOUND_SIZE]\n"},
		"forty columns":   {40, 40, "  --size N\n      how large it is, in units that\n      nobody has counted before, from 1\n      to 100 [REBOUND_SIZE]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			p := cli.Program{Name: "tool", Args: []string{"--help"}, LookupEnv: func(string) (string, bool) { return "", false }, Stdout: &out, Stderr: io.Discard, Columns: c.columns}
			if code, done := p.Parse(p.Flags(), func(w io.Writer, _ *flag.FlagSet) { fmt.Fprint(w, about) }); code != cli.ExitOK || !done {
				t.Fatalf("got code %d, done %v", code, done)
			}
			for line := range strings.Lines(out.String()) {
				if len(line)-1 > c.want && !strings.HasPrefix(line, "  tool") {
					t.Errorf("%q has %d characters, want at most %d", line, len(line)-1, c.want)
				}
			}
			for _, want := range []string{c.holds, "\n  tool --size 3 --and-a-long-example-that-somebody-copies-as-it-stands-here\n"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
		})
	}
}

func TestInterruptionIsNamed(t *testing.T) {
	var errs strings.Builder
	p := cli.Program{Name: "tool", Stderr: &errs}
	if code := p.Fail(cli.ExitFailed, fmt.Errorf("run: %w", context.Canceled)); code != cli.ExitFailed || errs.String() != "tool: interrupted\n" {
		t.Errorf("got code %d, %q, want 1 and that it was interrupted", code, errs.String())
	}
}
