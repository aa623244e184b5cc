package files_test

import (
	"path/filepath"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
)

func TestTempAndRead(t *testing.T) {
	path, other := files.Temp(t, "a.yaml", "text\n"), files.Temp(t, "a.yaml", "other\n")
	if name := filepath.Base(path); name != "a.yaml" || path == other {
		t.Errorf("got %s and %s, want two files called a.yaml", path, other)
	}
	if got := files.Read(t, path); got != "text\n" {
		t.Errorf("Read returned %q, want %q", got, "text\n")
	}
}
