package gobuild_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
)

func TestPrograms(t *testing.T) {
	program := filepath.Join(gobuild.Programs(t, "testdata", "./hello"), "hello")
	if text, err := exec.CommandContext(t.Context(), program).Output(); string(text) != "hello\n" || err != nil {
		t.Errorf("the program printed %q, error %v, want %q", text, err, "hello\n")
	}
}
