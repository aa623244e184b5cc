package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The table of reasons is written by hand, because each needs a sentence; it must
// have every reason, and no other.
func TestReasonsAreAllExplained(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "pipeline.md"))
	if err != nil {
		t.Fatal(err)
	}
	explained := []string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(page, -1) {
		explained = append(explained, string(row[1]))
	}
	want := []string{}
	for _, r := range resilience.Reasons() {
		want = append(want, string(r))
	}
	slices.Sort(explained)
	slices.Sort(want)
	if !slices.Equal(explained, want) {
		t.Errorf("docs/pipeline.md explains %q, the reasons are %q", explained, want)
	}
}
