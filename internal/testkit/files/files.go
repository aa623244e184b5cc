// Package files reads and writes files for tests.
package files

import (
	"os"
	"path/filepath"
	"testing"
)

// Read returns the text of the file at path.
func Read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Temp writes text to a new file of that name and returns its path. The file is in a directory of
// its own, which is removed with the test.
func Temp(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
