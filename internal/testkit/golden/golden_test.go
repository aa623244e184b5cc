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
