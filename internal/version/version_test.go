package version_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/version"
)

func TestStringNamesTheBuild(t *testing.T) {
	if s := version.String(); !strings.HasSuffix(s, runtime.Version()) || strings.Count(s, " ") < 1 {
		t.Errorf("got %q, want a version and the Go release %s", s, runtime.Version())
	}
}
