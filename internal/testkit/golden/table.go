package golden

import (
	"os"
	"strings"
	"sync"
	"testing"
)

// tables is held while a file is read and written again.
var tables sync.Mutex //nolint:gochecknoglobals // parallel tests write tables of one file

// Table compares got with a table in the Markdown file at path, or writes it there with -update.
// The table is between a line <!-- table NAME --> and the next line <!-- end -->. It is safe for
// concurrent use within one process.
func Table(t testing.TB, path, name, got string) {
	t.Helper()
	tables.Lock()
	defer tables.Unlock()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	begin, end := "<!-- table "+name+" -->\n", "<!-- end -->\n"
	head, rest, found := strings.Cut(string(text), begin)
	if !found {
		t.Errorf("%s has no line %q", path, strings.TrimSpace(begin))
		return
	}
	_, tail, found := strings.Cut(rest, end)
	if !found {
		t.Errorf("%s has no line %q after %q", path, strings.TrimSpace(end), strings.TrimSpace(begin))
		return
	}
	File(t, path, head+begin+"\n"+strings.TrimSpace(got)+"\n\n"+end+tail)
}
