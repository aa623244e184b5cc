package cli_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		args           []string
		env            map[string]string
		code           int
		done           bool
		stdout, stderr string
	}{
		"nothing":            {nil, nil, cli.ExitOK, false, "", ""},
		"a flag":             {[]string{"--size", "3"}, nil, cli.ExitOK, false, "", ""},
		"by the environment": {nil, map[string]string{"REBOUND_SIZE": "3"}, cli.ExitOK, false, "", ""},
		"help":               {[]string{"--help"}, nil, cli.ExitOK, true, "the help of tool", ""},
		"version":            {[]string{"--version"}, nil, cli.ExitOK, true, "tool ", ""},
		"unknown flag":       {[]string{"--nope"}, nil, cli.ExitUsage, true, "", "see tool --help\n"},
		"a label":            {nil, map[string]string{"REBOUND_VERSION": "1.2.3"}, cli.ExitOK, false, "", ""},
		"bad environment":    {nil, map[string]string{"REBOUND_SIZE": "x"}, cli.ExitUsage, true, "", "REBOUND_SIZE"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			p := cli.Program{
				Name: "tool", Args: tc.args, Stdout: &stdout, Stderr: &stderr,
				LookupEnv: func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok },
			}
			fs := p.Flags()
			size := fs.Int("size", 1, "how large")
			code, done := p.Parse(fs, func(w io.Writer, fs *flag.FlagSet) { fmt.Fprintf(w, "the help of %s\n", fs.Name()) })
			if code != tc.code || done != tc.done || !strings.HasPrefix(stdout.String(), tc.stdout) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("got code %d, done %v, stdout %q, stderr %q, want %d, %v, %q, %q", code, done, stdout.String(), stderr.String(), tc.code, tc.done, tc.stdout, tc.stderr)
			}
			if !tc.done && *size != 1 && *size != 3 {
				t.Errorf("got size %d, want 1 or 3", *size)
			}
		})
	}
}
