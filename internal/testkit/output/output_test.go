package output_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/output"
)

// The race detector checks the rest.
func TestConcurrentWrites(t *testing.T) {
	var b output.Buffer
	var writers sync.WaitGroup
	for range 10 {
		writers.Go(func() {
			fmt.Fprintln(&b, "a line")
			_ = b.String()
		})
	}
	writers.Wait()
	if got := strings.Count(b.String(), "a line\n"); got != 10 {
		t.Errorf("got %d whole lines, want 10", got)
	}
}
