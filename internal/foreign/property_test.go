package foreign_test

import (
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// accounted checks a result. The report has one entry for each value of the file, with a place and
// a reason. A client can execute the policies.
func accounted(t *testing.T, system foreign.System, name string, data []byte, r *foreign.Result) {
	t.Helper()
	leaves, err := foreign.Leaves(system, name, data)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Report.Fields(); got != leaves {
		t.Errorf("the report accounts for %d values, the file has %d", got, leaves)
	}
	for _, e := range r.Report {
		if e.File != name || e.Line < 1 || e.Column < 1 {
			t.Errorf("%s: has no place: %+v", e.Path, e.Place)
		}
		explained := e.Kind != foreign.Carried && e.Kind != foreign.Unrelated
		if (e.Sentence != "") != explained {
			t.Errorf("%s: %s with the sentence %q", e.Path, e.Kind, e.Sentence)
		}
		if (e.Fields == 0) != (e.Kind == foreign.Default) {
			t.Errorf("%s: %s with %d values", e.Path, e.Kind, e.Fields)
		}
	}
	seen := map[string]bool{}
	for _, p := range r.Policies {
		if p.Name == "" || seen[p.Name] {
			t.Errorf("policy %q: the name is empty or not unique", p.Name)
		}
		seen[p.Name] = true
		executable(t, p)
	}
	if len(r.Policies) == 0 {
		t.Error("no policy and no error")
	}
}

// executable checks the promises of the model's comments.
func executable(t *testing.T, p foreign.Policy) {
	t.Helper()
	check := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("policy %s: %s: %+v", p.Name, what, p)
		}
	}
	b := p.Retry.Backoff
	check(p.Timeout >= 0 && p.TryTimeout >= 0 && p.ConnectTimeout >= 0 && p.Retry.StopAfter >= 0, "a negative time")
	check(p.Retry.MaxAttempts >= 0, "negative attempts")
	check(b.Base >= 0 && b.Max >= 0, "a negative wait")
	check((b.Kind == foreign.BackoffExponential) == (b.Factor > 0), "a factor exactly with an exponential backoff")
	check(b.Percent >= 0 && b.Percent <= 100, "a jitter of more than 100 %")
	check(finite(p.Retry.Budget.Percent) && finite(p.Retry.Budget.MinPerSecond) && finite(p.RateLimit.Calls), "not a number")
	for _, s := range p.Retry.On.Statuses {
		check(100 <= s.Low && s.Low <= s.High && s.High <= 599, "a status that does not exist")
	}
	for _, br := range p.Breakers {
		check(br.Scope == foreign.ScopeUpstream || br.Scope == foreign.ScopeEndpoint, "no scope")
		check(br.FailureRatio >= 0 && br.FailureRatio <= 1 && br.SlowRatio >= 0 && br.SlowRatio <= 1, "a ratio above 1")
		check(br.OpenFor >= 0 && br.MaxOpenFor >= 0 && br.Window >= 0, "a negative time")
		check(br.Scope == foreign.ScopeUpstream || br.MaxEjected >= 0 && br.MaxEjected <= 1, "a share above 1")
	}
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) && f >= 0 }

func TestExamplesAreAccountedFor(t *testing.T) {
	for path, data := range examples(t) {
		t.Run(path, func(t *testing.T) {
			r, err := foreign.Import(systemOf(path), filepath.Base(path), data)
			if err != nil && isReal(path) {
				return // TestExamples shows the reason
			}
			if err != nil {
				t.Fatal(err)
			}
			accounted(t, systemOf(path), filepath.Base(path), data, r)
		})
	}
}

// Files in which settings refer to each other in circles, or many times, do not take for ever.
func TestNoExplosion(t *testing.T) {
	for name, c := range map[string]struct {
		system foreign.System
		text   string
	}{
		"a chain of itself": {foreign.Traefik, "http: {routers: {r: {rule: x, middlewares: [a]}}, middlewares: {a: {chain: {middlewares: [" +
			strings.Repeat("a, b, ", 50) + "a]}}, b: {chain: {middlewares: [a, b]}}, c: {retry: {attempts: 2}}}}"},
		"snippets of themselves": {foreign.Caddy, "(a) {\n" + strings.Repeat("import a\n", 50) + "}\nreverse_proxy x:80 {\nimport a\n}\n"},
		"aliases of aliases": {foreign.Istio, "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n" +
			"c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n"},
		"braces":        {foreign.Nginx, strings.Repeat("a {", 100_000)},
		"a long key":    {foreign.Traefik, "[http]\n" + strings.Repeat("a.", 100_000) + "a = 1"},
		"a long header": {foreign.Traefik, "[http]\n[" + strings.Repeat("a.", 100_000) + "a]"},
		"lines":         {foreign.HAProxy, "backend a\n server b c:80\n" + strings.Repeat(" retries 1\n", 50_000)},
		"settings":      {foreign.Caddy, "reverse_proxy x:80 {\n" + strings.Repeat(" lb_retries 1\n", 50_000) + "}\n"},
		"variables":     {foreign.AWS, strings.Repeat("AWS_MAX_ATTEMPTS=3\n", 50_000)},
		"keys as paths": {foreign.DotNet, "{" + numbered(20_000, `"A:k%d": 1,`) + `"R": {"Retry": {"MaxRetryAttempts": 3}}}`},
		"configurations": {foreign.Resilience4j, "resilience4j:\n  retry:\n    configs:\n      c0: {}\n" + numbered(500, "      c%[1]d: {baseConfig: c%[2]d}\n") +
			"    instances:\n" + numbered(500, "      i%[1]d: {baseConfig: c%[2]d}\n")},
		"inline tables": {foreign.Traefik, "[http]\na = " + strings.Repeat("{a = ", 100_000)},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := foreign.Import(c.system, "f", []byte(c.text))
			if err == nil {
				accounted(t, c.system, "f", []byte(c.text), r)
			}
		})
	}
}

// numbered returns a text many times, with each number from 1 and the one before it.
func numbered(n int, format string) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(strings.NewReplacer("%[1]d", strconv.Itoa(i), "%[2]d", strconv.Itoa(i-1), "%d", strconv.Itoa(i)).Replace(format))
	}
	return b.String()
}

// Any text gives either mistakes with places or a report that accounts for all of it, in any
// dialect.
func FuzzImport(f *testing.F) {
	systems := foreign.Systems()
	for path, data := range examples(f) {
		for i, name := range systems {
			if name == string(systemOf(path)) {
				f.Add(uint8(i), string(data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		system := foreign.System(systems[int(which)%len(systems)])
		foreign.Detect("file", []byte(text))
		r, err := foreign.Import(system, "file", []byte(text))
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "file:") && !strings.HasPrefix(line, "and ") {
					t.Errorf("the mistake %q has no place", line)
				}
			}
			return
		}
		accounted(t, system, "file", []byte(text), r)
	})
}
