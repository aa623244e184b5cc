package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// TestReasonsAreAllExplained checks that the page's table of reasons has each reason, and no other.
func TestReasonsAreAllExplained(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\n### Reasons\n.*?\n### `).Find(page)
	got := []string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllSubmatch(table, -1) {
		got = append(got, string(row[1]))
	}
	want := []string{}
	for _, r := range resilience.Reasons() {
		want = append(want, string(r))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/observability.md explains %q, want %q", got, want)
	}
}
