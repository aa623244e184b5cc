package foreign_test

import (
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// imported imports a text that has no mistake, and checks that the report accounts for all of it.
func imported(t *testing.T, system foreign.System, text string) *foreign.Result {
	t.Helper()
	result, err := foreign.Import(system, "file", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	accounted(t, system, "file", []byte(text), result)
	return result
}

// named returns the policy of a name.
func named(t *testing.T, result *foreign.Result, name string) foreign.Policy {
	t.Helper()
	var all []string
	for _, p := range result.Policies {
		if p.Name == name {
			return p
		}
		all = append(all, p.Name)
	}
	t.Fatalf("no policy %s, only %s", name, strings.Join(all, ", "))
	return foreign.Policy{}
}

// wantKind checks what became of the field whose path ends in path, and why.
func wantKind(t *testing.T, result *foreign.Result, path string, kind foreign.Kind, sentence string) {
	t.Helper()
	found := false
	for _, e := range result.Report {
		if e.Kind == foreign.Default || !strings.HasSuffix(e.Path, path) {
			continue
		}
		found = true
		if e.Kind != kind || !strings.Contains(e.Sentence, sentence) {
			t.Errorf("%s: got %s: %s, want %s: %s", e.Path, e.Kind, e.Sentence, kind, sentence)
		}
	}
	if !found {
		t.Errorf("%s: the report has no entry", path)
	}
}

// Istio makes no retry policy for a route without attempts, and so no timeout for a try.
func TestIstioWithoutAttemptsHasNoTryTimeout(t *testing.T) {
	t.Parallel()
	for name, retries := range map[string]string{
		"attempts: 0": "{attempts: 0, perTryTimeout: 2s, retryOn: 5xx, backoff: 1s, retryIgnorePreviousHosts: false}",
		"no attempts": "{perTryTimeout: 2s, retryOn: 5xx, backoff: 1s, retryIgnorePreviousHosts: false}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Istio, virtualService+"      retries: "+retries+"\n      timeout: 10s\n")
			p := result.Policies[0]
			if p.TryTimeout != 0 || p.From["TryTimeout"] != nil || p.Retry.MaxAttempts != 1 {
				t.Errorf("got a try of %v from %v, %d attempts, want no limit and 1", p.TryTimeout, p.From["TryTimeout"], p.Retry.MaxAttempts)
			}
			for _, field := range []string{"perTryTimeout", "retryOn", "backoff", "retryIgnorePreviousHosts"} {
				wantKind(t, result, "retries."+field, foreign.Dropped, "makes no retry policy")
			}
		})
	}
}
