// Package golden compares what a test produces with files in the repository.
//
// Run a test with -update to write its golden files again, and read the change before you commit
// it. The flag exists only in test packages that import golden.
package golden

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// Updating reports whether the test was run with -update.
func Updating() bool { return *update }

// File compares got with the file at path, or writes the file with -update. If they differ, the
// test fails with the first line that does.
func File[T ~string | ~[]byte](t testing.TB, path string, got T) {
	t.Helper()
	if Updating() {
		Write(t, path, got)
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("golden file: %v; run the test with -update to write it", err)
		return
	}
	if string(got) == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Errorf("%s:%d: got %q, want %q; run the test with -update and read the change", path, i+1, gotLines[i], wantLines[i])
			return
		}
	}
	t.Errorf("%s: got %d lines, want %d; run the test with -update and read the change", path, len(gotLines), len(wantLines))
}

// Write writes the file at path. A test whose file needs another comparison than [File] calls it
// when [Updating] returns true.
func Write[T ~string | ~[]byte](t testing.TB, path string, got T) {
	t.Helper()
	if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}
