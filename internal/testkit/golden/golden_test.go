package golden_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// recorder is a testing.TB that keeps failures instead of reporting them.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) { r.failure = fmt.Sprintf(format, args...) }

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.golden")
	compare := func(got string) string {
		r := &recorder{TB: t}
		golden.File(r, path, got)
		return r.failure
	}
	if got := compare("a\nb\n"); !strings.Contains(got, "-update to write it") {
		t.Errorf("without a file: got failure %q, want one that names -update", got)
	}
	if err := flag.Set("update", "true"); err != nil {
		t.Fatal(err)
	}
	failure := compare("a\nb\n")
	if err := flag.Set("update", "false"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); string(text) != "a\nb\n" || err != nil || failure != "" {
		t.Errorf("with -update: got file %q, error %v and failure %q, want the new text and no failure", text, err, failure)
	}
	for got, want := range map[string]string{
		"a\nb\n":    "",
		"a\nc\n":    `file.golden:2: got "c", want "b"`,
		"a\nb\n\nd": "got 4 lines, want 3",
	} {
		if failure := compare(got); !strings.Contains(failure, want) || (want == "") != (failure == "") {
			t.Errorf("compare(%q): got failure %q, want %q", got, failure, want)
		}
	}
}

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	const page = "# Page\n\n<!-- table one -->\n\n| a |\n\n<!-- end -->\n\n<!-- table two -->\n\n| b |\n\n<!-- end -->\n"
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ table, got, want string }{
		"the same":   {"two", "| b |\n", ""},
		"another":    {"two", "| c |\n", `page.md:11: got "| c |", want "| b |"`},
		"no table":   {"three", "| c |\n", "has no line \"<!-- table three -->\""},
		"the latter": {"one", "| b |", `page.md:5: got "| b |", want "| a |"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			golden.Table(r, path, c.table, c.got)
			if !strings.Contains(r.failure, c.want) || (c.want == "") != (r.failure == "") {
				t.Errorf("got failure %q, want %q", r.failure, c.want)
			}
		})
	}
	if err := flag.Set("update", "true"); err != nil {
		t.Fatal(err)
	}
	golden.Table(t, path, "two", "| c |\n| d |\n")
	if err := flag.Set("update", "false"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != strings.Replace(page, "| b |", "| c |\n| d |", 1) {
		t.Errorf("with -update: got file %q, error %v, want the new table in it", text, err)
	}
}
