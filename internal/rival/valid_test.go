package rival

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// A policy that cannot be simulated is refused, not simulated without the field.
func TestCheck(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*foreign.Policy){
		"":                                      func(*foreign.Policy) {},
		"a time is below 0":                     func(p *foreign.Policy) { p.Timeout = -1 },
		"Retry.MaxAttempts: must be at least 0": func(p *foreign.Policy) { p.Retry.MaxAttempts = -1 },
		`Retry.Backoff.Kind: unknown value "x"`: func(p *foreign.Policy) { p.Retry.Backoff.Kind = "x" },
		`Jitter: unknown value "x"`:             func(p *foreign.Policy) { p.Retry.Backoff.Jitter = "x" },
		`Budget.Kind: unknown value "x"`:        func(p *foreign.Policy) { p.Retry.Budget.Kind = "x" },
		"Factor: must be above 0":               func(p *foreign.Policy) { p.Retry.Backoff.Kind = foreign.BackoffExponential },
		"Waits: must not be empty":              func(p *foreign.Policy) { p.Retry.Backoff.Kind = foreign.BackoffList },
		"Budget.Window: must be above 0":        func(p *foreign.Policy) { p.Retry.Budget.Kind = foreign.BudgetWindow },
		`Scope: unknown scope ""`:               func(p *foreign.Policy) { p.Breakers = []foreign.Breaker{{}} },
		"BelowMean: needs the scope endpoint": func(p *foreign.Policy) {
			p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeUpstream, BelowMean: 1, CheckEvery: time.Second}}
		},
		"CheckEvery: must be at least 1ms": func(p *foreign.Policy) {
			p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeUpstream, CheckEvery: 1}}
		},
		"MaxRetries: cannot be simulated per endpoint": func(p *foreign.Policy) {
			p.Concurrency = foreign.Concurrency{MaxRetries: 1, PerEndpoint: true}
		},
		"cannot be simulated per endpoint and per call": func(p *foreign.Policy) {
			p.Concurrency = foreign.Concurrency{MaxRequests: 1, PerEndpoint: true, PerCall: true}
		},
		"RateLimit: needs Calls":               func(p *foreign.Policy) { p.RateLimit.Calls = 1 },
		"Hedge.OnTryTimeout: needs TryTimeout": func(p *foreign.Policy) { p.Hedge.OnTryTimeout = true },
	} {
		p := foreign.Policy{Name: "test"}
		change(&p)
		err := Check(p)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "policy test: ")) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	var all []foreign.Policy
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		all = append(all, foreign.Policy{Name: name, Timeout: 1, Retry: foreign.Retry{
			MaxAttempts: 2, Methods: []string{"POST"}, On: foreign.Conditions{GRPC: []string{"UNAVAILABLE"}},
		}})
	}
	got := strings.Join(Notes(all, http.MethodGet), "\n")
	const want = "a, b, c, 2 more: the retries on statuses of gRPC, because the calls are of HTTP\n" +
		"a, b, c, 2 more: the retries, because the scenario's calls are GET, which is not among the retried methods (load.method)"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if notes := Notes(all, http.MethodPost); len(notes) != 1 {
		t.Errorf("got notes %v, want none on the method", notes)
	}
	all[1].From = foreign.Sources{"ConnectTimeout": {{Line: 1}}}
	if notes := Notes(all, http.MethodPost); len(notes) != 2 || notes[1] != "b: the time to connect, because connections are made or refused at once" {
		t.Errorf("got notes %v, want one on the time to connect", notes)
	}
	all[1].From = nil
	for i := range all {
		all[i].GRPC = true
	}
	if notes := Notes(all, http.MethodGet); len(notes) != 1 {
		t.Errorf("got notes %v, want none on gRPC", notes)
	}
}

// Every policy that the import makes of an example can be simulated.
func TestCheckExamples(t *testing.T) {
	files, err := filepath.Glob("../foreign/testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := foreign.Import(foreign.System(filepath.Base(filepath.Dir(file))), file, text)
		if filepath.Ext(file) == ".golden" || err != nil {
			continue // not an example, or refused
		}
		for _, p := range r.Policies {
			checked++
			if err := Check(p); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if checked < 200 {
		t.Errorf("%d policies checked, want more", checked)
	}
}
