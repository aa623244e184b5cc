// Package gobuild builds programs for tests that run them as processes.
package gobuild

import (
	"os/exec"
	"testing"
)

// Programs builds main packages, named as for go build in dir, and returns the directory of the
// executables. Each has the name of its package's directory. They are removed with the test.
func Programs(t testing.TB, dir string, packages ...string) string {
	t.Helper()
	into := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", into}, packages...)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %q: %v\n%s", packages, err, text)
	}
	return into
}
