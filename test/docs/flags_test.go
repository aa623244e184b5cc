package docs_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
)

// programFlag is a flag as the help of one or more programs describes it.
type programFlag struct {
	name, argument, meaning, standard string
	programs                          []string
}

var helpFlag = regexp.MustCompile(`^  --([\w-]+)(?: (\S+(?: \S+)*))?  +(\S.*?)(?: \(default (.*)\))? \[REBOUND_\w+\]$`)

// flagTable returns a table of the flags of the servers, from their golden help texts. A flag that
// they share has one row.
func flagTable(t *testing.T) string {
	t.Helper()
	var flags []*programFlag
	for _, program := range []string{"client", "flaky-server"} {
		path := filepath.Join(root, "cmd", program, "testdata", "help.txt")
		for line := range strings.Lines(files.Read(t, path)) {
			line = strings.TrimRight(line, "\n")
			if !strings.HasPrefix(line, "  --") {
				continue
			}
			m := helpFlag.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%s: got the line %q, want a flag", path, line)
			}
			i := slices.IndexFunc(flags, func(f *programFlag) bool {
				return f.name == m[1] && f.argument == m[2] && f.meaning == m[3] && f.standard == m[4]
			})
			if i < 0 {
				i = len(flags)
				flags = append(flags, &programFlag{name: m[1], argument: m[2], meaning: m[3], standard: m[4]})
			}
			flags[i].programs = append(flags[i].programs, program)
		}
	}
	var out strings.Builder
	out.WriteString("| flag | of | default | meaning |\n|---|---|---|---|\n")
	for _, f := range flags {
		standard := f.standard
		if standard != "" {
			standard = "`" + standard + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n",
			strings.TrimSpace("--"+f.name+" "+f.argument), strings.Join(f.programs, ", "), standard, strings.ReplaceAll(f.meaning, "|", `\|`))
	}
	return strings.TrimSpace(out.String())
}
