package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/lab"
)

const tightLimits = "amplification: 2\nrecoverWithin: 200s\nload: {rate: 100, clients: 4, capacity: 300, seeds: 1}"

// A test report has one case for each limit, those that are broken with a failure.
func TestCheckForJUnit(t *testing.T) {
	t.Parallel()
	limits := files.Temp(t, "limits.yaml", tightLimits)
	code, out, _ := execute(t, "check", "--config", istio, "--limits", limits, "--format", "junit")
	var got struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Class   string `xml:"classname,attr"`
				Name    string `xml:"name,attr"`
				File    string `xml:"file,attr"`
				Line    int    `xml:"line,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(out), &got); code != cli.ExitFailed || err != nil || len(got.Suites) != 1 {
		t.Fatalf("got exit code %d, error %v, report\n%s\nwant 1 and a suite", code, err, out)
	}
	suite := got.Suites[0]
	failures := 0
	for _, c := range suite.Cases {
		if c.Failure != nil {
			failures++
			if !strings.HasPrefix(c.Failure.Message, "found ") {
				t.Errorf("got failure %q, want what was found", c.Failure.Message)
			}
		}
		if c.Class != "ratings/0" || !strings.HasPrefix(c.Name, "outage") || c.File != istio || c.Line != 10 {
			t.Errorf("got case %+v, want one of the policy, at line 10 of its file", c)
		}
	}
	if suite.Tests != 4 || len(suite.Cases) != 4 || failures == 0 || failures == 4 || suite.Failures != failures || got.Failures != failures || got.Tests != 4 {
		t.Errorf("got %d cases, %d failures, suite %d and %d, all %d and %d, want 4 cases of which some fail",
			len(suite.Cases), failures, suite.Tests, suite.Failures, got.Tests, got.Failures)
	}
}

// GitHub shows each broken limit at its policy. What a file says is no workflow command.
func TestCheckForGitHub(t *testing.T) {
	t.Parallel()
	limits := files.Temp(t, "limits.yaml", tightLimits)
	config := files.Temp(t, "a,b:100%.yaml", `routes: [{name: a, match: /a, upstream: "http://x", policy: stubborn}]
policies:
  stubborn:
    retry: {maxAttempts: 5, budget: {ratio: 100, burst: 1000000}}
    breaker: {failureRatio: 0, consecutiveFailures: 0}
    concurrency: {max: -1}
`)
	code, out, _ := execute(t, "check", "--config", config, "--limits", limits, "--format", "github")
	want := regexp.MustCompile(`^\d of 4 limits broken\. stubborn, scenario outage-hanging: Retry storm: .*\n` +
		`::error file=\S*/a%2Cb%3A100%25\.yaml,line=3,title=lab check%3A stubborn::stubborn, scenario outage: amplification at most 2 in any second, found \d\.\d\d \(seed 1\)\n` +
		`::error file=`)
	if code != cli.ExitFailed || !want.MatchString(out) {
		t.Errorf("got exit code %d, stdout\n%s\nwant 1 and %s", code, out, want)
	}
	hostile := files.Temp(t, "application.yml", "resilience4j.retry.instances:\n  \"x\\n::warning::y\": {maxAttempts: 9, waitDuration: 1ms}\n")
	_, out, errs := execute(t, "check", "--config", hostile, "--limits", limits, "--format", "github")
	if !strings.Contains(out, "::error ") || strings.Contains(out, "\n::warning") {
		t.Errorf("got stdout\n%s\nstderr %s\nwant annotations, and none that the file invents", out, errs)
	}
}

// --format json and --json are the same.
func TestFormats(t *testing.T) {
	t.Parallel()
	limits := files.Temp(t, "limits.yaml", "scenarios: [{scenario: herd, wasted: 1}]\nload: {rate: 100, clients: 4, capacity: 300, seeds: 1}")
	_, one, _ := execute(t, "check", "--limits", limits, "--json")
	_, other, _ := execute(t, "check", "--limits", limits, "--format", "json")
	if one != other || !json.Valid([]byte(one)) {
		t.Errorf("got %s and %s, want the same", one, other)
	}
	for _, args := range [][]string{{"check", "--format", "xml"}, {"compare", "--format", "junit"}} {
		code, _, errs := execute(t, args...)
		if code != cli.ExitUsage || !strings.Contains(errs, "--format: expected text, ") {
			t.Errorf("%v: got exit code %d, stderr %q, want 2 and the forms", args, code, errs)
		}
	}
}

const (
	calm   = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ratings}\nspec:\n  hosts: [ratings]\n  http: [{route: [{destination: {host: ratings}}], timeout: 2s, retries: {attempts: 0}}]\n"
	others = `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: same}
spec: {hosts: [same], http: [{route: [{destination: {host: same}}], timeout: 2s}]}
`
	// gone is a policy whose name means something in Markdown.
	gone = `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: "a|b` + "`" + `@c<d>"}
spec: {hosts: [gone], http: [{route: [{destination: {host: gone}}], timeout: 2s}]}
`
)

// A change of a file becomes a table of what it does, for a comment on the change.
func TestCompareBeforeAndAfter(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(istio)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	before, after, empty := filepath.Join(dir, "before.yaml"), filepath.Join(dir, "after.yaml"), filepath.Join(dir, "empty.yaml")
	for path, text := range map[string]string{before: calm + others + gone, after: "# a comment moves all lines\n" + string(text) + others, empty: ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := small("compare", "--scenario", "outage-hanging", "--config", after, "--before", before)
	code, out, errs := execute(t, append(args, "--boundary", "--format", "markdown")...)
	if code != cli.ExitOK {
		t.Fatalf("got exit code %d, stderr %q, want 0", code, errs)
	}
	golden.File(t, filepath.Join("testdata", "before-after.md"), out)
	page := filepath.Join(dir, "page.html")
	code, out, _ = execute(t, append(args, "--html", page)...)
	if code != cli.ExitOK || !strings.HasPrefix(out, "ratings/0: Worse. Retry storm: ") || !strings.Contains(out, " is gone.\n") || !strings.Contains(out, "\nunchanged: same/0\n") {
		t.Errorf("got exit code %d, stdout\n%s\nwant what became of each policy", code, out)
	}
	checkPage(t, page, "ratings/0, before", "ratings/0", "a|b`@c&lt;d&gt;/0, before")
	code, out, _ = execute(t, small("compare", "--config", istio, "--before", empty)...)
	if code != cli.ExitOK || !strings.HasPrefix(out, "ratings/0: New. ") || !strings.Contains(out, " - → ") {
		t.Errorf("a new file: got exit code %d, stdout\n%s", code, out)
	}
	code, out, _ = execute(t, small("compare", "--config", istio, "--before", istio, "--format", "json")...)
	var same changes
	if err := json.Unmarshal([]byte(out), &same); code != cli.ExitOK || err != nil || len(same.Changes) != 0 || len(same.Unchanged) != 1 || same.Verdict[0] != "No policy has changed." {
		t.Errorf("the same file: got exit code %d, error %v, %s", code, err, out)
	}
}

// Every command that takes a file takes it from the standard input too.
func TestStandardInput(t *testing.T) {
	t.Parallel()
	limits := files.Temp(t, "limits.yaml", "amplification: 100\nload: {rate: 100, clients: 4, capacity: 300, seeds: 1}")
	own := "routes: [{name: a, match: /a, upstream: \"http://x\"}]\n"
	live := files.Read(t, "testdata/kubectl-list.yaml")
	properties := "orders.retry: 3\n"
	for name, c := range map[string]struct {
		text string
		args []string
		want string
	}{
		"simulate":           {live, small("simulate", "--config", "-"), "Retry storm: "},
		"simulate, own":      {own, small("simulate", "--config", "-"), "No harm: "},
		"compare":            {live, small("compare", "--config", "-"), "Retry storm: "},
		"check":              {live, []string{"check", "--config", "-", "--limits", limits}, "All 2 limits hold. ratings/0"},
		"boundary":           {live, []string{"boundary", "--config", "-", "--seeds", "1", "--capacity", "20", "--clients", "1"}, "No recovery from "},
		"import":             {live, []string{"import", "-"}, "# 1 policy of istio: "},
		"import with a flag": {live, []string{"import", "--config", "-"}, "# 1 policy of istio: "},
		"explain":            {own, []string{"explain", "--config", "-", "GET /a", "--status", "503"}, "retry after 0s to 100ms (jitter)\n\nGET /a (route a, "},
		"a system by name":   {properties, small("simulate", "--config", "-", "--from", "resilience4j"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := executeIn(t, c.text, c.args...)
			if c.want == "" {
				if code != exitNothing || !strings.Contains(errs, "stdin:") || !strings.Contains(errs, "resilience4j") {
					t.Errorf("got exit code %d, stderr %q, want that the file has nothing of resilience4j", code, errs)
				}
				return
			}
			if code != cli.ExitOK || !strings.HasPrefix(out, c.want) {
				t.Errorf("got exit code %d, stdout\n%.300s\nstderr %s\nwant %q first", code, out, errs, c.want)
			}
		})
	}
}

// Objects as kubectl prints them, in a list and with what the cluster adds, have no unknown fields,
// and the same policies.
func TestLiveObjects(t *testing.T) {
	t.Parallel()
	code, _, errs := executeIn(t, files.Read(t, "testdata/kubectl-list.yaml"), "import", "-")
	if code != cli.ExitOK || !strings.HasPrefix(errs, "stdin: 1 policy of istio: ") || strings.Contains(errs, "is not read") {
		t.Errorf("got exit code %d, stderr\n%s\nwant one policy and nothing left", code, errs)
	}
	tried := map[string]int{}
	for _, system := range []string{"istio", "envoy-gateway", "gateway-api", "linkerd", "dapr", "traefik"} {
		paths, err := filepath.Glob(filepath.Join(foreignFiles, system, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			code, want, _ := execute(t, "import", "--from", system, path)
			if code != cli.ExitOK { // an example of what is refused
				continue
			}
			live := asLiveObjects(t, path)
			if live == "" {
				continue
			}
			tried[system]++
			code, got, errs := executeIn(t, live, "import", "--from", system, "-")
			_, want, _ = strings.Cut(want, "\n") // what the cluster adds to objects of other systems is counted
			_, got, _ = strings.Cut(got, "\n")
			want, got = source.ReplaceAllString(want, ""), source.ReplaceAllString(got, "")
			if code != cli.ExitOK || got != want {
				t.Errorf("%s: got exit code %d, stderr %s, policies\n%s\nwant\n%s", path, code, errs, got, want)
			}
		}
		if tried[system] == 0 {
			t.Errorf("no objects of %s in %v", system, paths)
		}
	}
}

// source is the line of an import that has the file's name.
var source = regexp.MustCompile(`(?m)^# From .*$`)

// The order of the keys in a file means nothing. kubectl prints them sorted.
func TestOrderOfKeys(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(foreignFiles + "/*/*")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, path := range paths {
		if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" {
			continue
		}
		system := filepath.Base(filepath.Dir(path))
		code, want, _ := execute(t, "import", "--from", system, path)
		if code != cli.ExitOK { // an example of what is refused
			continue
		}
		var sorted bytes.Buffer
		encoder := yaml.NewEncoder(&sorted)
		for decoder := yaml.NewDecoder(strings.NewReader(files.Read(t, path))); ; {
			var document any
			if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if err := encoder.Encode(document); err != nil { // sorts the keys
				t.Fatal(err)
			}
		}
		tried++
		code, got, errs := executeIn(t, sorted.String(), "import", "--from", system, "-")
		want, got = source.ReplaceAllString(want, ""), source.ReplaceAllString(got, "")
		if code != cli.ExitOK || got != want {
			t.Errorf("%s: got exit code %d, stderr %s, policies\n%s\nwant\n%s", path, code, errs, got, want)
		}
	}
	if tried < 10 {
		t.Errorf("tried %d files, want all", tried)
	}
}

// asLiveObjects returns the objects in a file as kubectl prints them, or "" if there are none.
func asLiveObjects(t *testing.T, path string) string {
	t.Helper()
	items := []any{}
	for decoder := yaml.NewDecoder(strings.NewReader(files.Read(t, path))); ; {
		var object map[string]any
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if object["kind"] == nil {
			return ""
		}
		if nested, ok := object["items"].([]any); ok {
			items = append(items, nested...)
			continue
		}
		items = append(items, object)
	}
	for _, item := range items {
		object := item.(map[string]any)
		metadata, _ := object["metadata"].(map[string]any)
		if metadata == nil {
			metadata = map[string]any{}
			object["metadata"] = metadata
		}
		annotations, _ := metadata["annotations"].(map[string]any)
		if annotations == nil {
			annotations = map[string]any{}
			metadata["annotations"] = annotations
		}
		annotations["kubectl.kubernetes.io/last-applied-configuration"] = "{\"apiVersion\":\"v1\"}\n"
		for key, value := range map[string]any{
			"uid": "5a1c5f3e-1111-2222-3333-444455556666", "creationTimestamp": "2026-03-01T10:00:00Z", "generation": 2, "resourceVersion": "12345",
			"finalizers": []any{"a/b"}, "ownerReferences": []any{map[string]any{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "y"}},
			"managedFields": []any{map[string]any{"manager": "kubectl", "operation": "Update", "fieldsV1": map[string]any{"f:spec": map[string]any{".": map[string]any{}}}}},
		} {
			metadata[key] = value
		}
		object["status"] = map[string]any{"observedGeneration": 2, "conditions": []any{map[string]any{"type": "Accepted", "status": "True"}}}
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": ""}, "items": items})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A policy that retries only POST says so, and shows its retries with calls of that method.
func TestMethods(t *testing.T) {
	t.Parallel()
	config := files.Temp(t, "rebound.yaml", "routes: [{name: a, match: /a, upstream: \"http://x\"}]\npolicies: {default: {retry: {methods: [POST]}}}")
	source, err := lab.Source("error-rate-30")
	if err != nil {
		t.Fatal(err)
	}
	mine := files.Temp(t, "mine.yaml", string(source)+"\nload: {method: POST}\n")
	for scenario, c := range map[string]struct{ note, retries string }{
		"error-rate-30": {"policy default does not retry GET, ", "0"},
		mine:            {"", `[1-9]\d+`},
	} {
		code, out, errs := execute(t, "simulate", "--config", config, "--scenario", scenario, "--rate", "50", "--clients", "2")
		if code != cli.ExitOK || !strings.HasPrefix(errs, c.note) || c.note == "" && errs != "" || !regexp.MustCompile(`(?m)^retries +`+c.retries+`; `).MatchString(out) {
			t.Errorf("%s: got exit code %d, stderr %q, stdout\n%s\nwant %s retries", scenario, code, errs, out, c.retries)
		}
	}
}

// What retries saved is the difference to the run without them. In an overload, calls that end well
// after a retry are not saved: without retries as many would.
func TestSavedAgainstNoRetries(t *testing.T) {
	t.Parallel()
	_, out, _ := execute(t, small("simulate", "--config", istio, "--scenario", "outage-hanging", "--json")...)
	var got outcome
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	_, out, _ = execute(t, small("compare", "--config", istio, "--scenario", "outage-hanging", "--json")...)
	var rows outcome
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows.Results) != 3 {
		t.Fatalf("got error %v, %d results, want three", err, len(rows.Results))
	}
	without, with := rows.Results[0], rows.Results[1]
	want := endedWell(with.Result) - endedWell(without.Result)
	if *with.Saved != want || *got.Results[0].Saved != want || *without.Saved != 0 || want == int64(with.Result.OKAfterRetry) {
		t.Errorf("got %d and %d saved calls, want %d, the difference to %s", *with.Saved, *got.Results[0].Saved, want, without.Policy)
	}
}

// The example in findings: a file without budget and circuit. The default ones help.
func TestLadderSaysWhatHelps(t *testing.T) {
	t.Parallel()
	config := files.Temp(t, "rebound.yaml", `routes: [{name: a, match: /a, upstream: "http://x"}]
policies: {default: {retry: {maxAttempts: 4, budget: {ratio: 100, burst: 1000000}}, breaker: {failureRatio: 0, consecutiveFailures: 0}, concurrency: {max: -1}}}`)
	code, out, _ := execute(t, small("compare", "--config", config, "--scenario", "outage-hanging")...)
	if want := regexp.MustCompile(`^Retry storm: .* With a retry budget and a breaker: \d\.\d s\.\n`); code != cli.ExitOK || !want.MatchString(out) {
		t.Errorf("got exit code %d, stdout\n%s\nwant %s", code, out, want)
	}
}

func TestHelpCommand(t *testing.T) {
	t.Parallel()
	for _, c := range [][2][]string{{{"help"}, {"--help"}}, {{"help", "check"}, {"check", "--help"}}} {
		code, got, errs := execute(t, c[0]...)
		_, want, _ := execute(t, c[1]...)
		if code != cli.ExitOK || errs != "" || got != want || got == "" {
			t.Errorf("lab %v: got exit code %d, stderr %q, stdout %q, want that of lab %v", c[0], code, errs, got, c[1])
		}
	}
}

// No line of a help is longer than 80 characters.
func TestHelpIsNarrow(t *testing.T) {
	t.Parallel()
	for line := range strings.Lines(files.Read(t, "testdata/help.txt")) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > cli.HelpColumns {
			t.Errorf("%d characters, want at most %d: %s", n, cli.HelpColumns, line)
		}
	}
}

// A terminal of forty columns gets lines that fit.
func TestNarrowTerminal(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{small("simulate", "--config", istio), {"scenarios"}, {"graph", files.Temp(t, "graph.yaml", twoServices)}} {
		var out bytes.Buffer
		code := run(t.Context(), cli.Program{
			Name: "lab", Args: args, LookupEnv: func(string) (string, bool) { return "", false }, Stdout: &out, Stderr: new(bytes.Buffer), Columns: 40,
		})
		if code != cli.ExitOK || !strings.Contains(out.String(), "\n  ") {
			t.Errorf("%v: got exit code %d, stdout\n%s", args, code, &out)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 40 {
				t.Errorf("%v: %d characters, want at most 40: %s", args, n, line)
			}
		}
	}
	for columns, want := range map[int]int{200: 40, 40: 31, 5: 0} {
		if got := widthOfBar(columns); got != want {
			t.Errorf("%d columns: got a bar of %d, want %d", columns, got, want)
		}
	}
}

// Ctrl-C is no failure of the simulation.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	code := run(ctx, cli.Program{
		Name: "lab", Args: small("simulate"), LookupEnv: func(string) (string, bool) { return "", false }, Stdout: new(bytes.Buffer), Stderr: &errs,
	})
	if code != cli.ExitFailed || errs.String() != "lab simulate: interrupted\n" {
		t.Errorf("got exit code %d, stderr %q, want 1 and that it was interrupted", code, errs.String())
	}
}

func TestBoundaryVerdict(t *testing.T) {
	t.Parallel()
	args := []string{"boundary", "--config", istio, "--seeds", "1", "--capacity", "20", "--clients", "1"}
	_, out, _ := execute(t, args...)
	_, asJSON, _ := execute(t, append(args, "--json")...)
	var got struct {
		Verdict    []string
		Boundaries []located
	}
	if err := json.Unmarshal([]byte(asJSON), &got); err != nil || len(got.Boundaries) != 1 || len(got.Verdict) != 1 || !strings.HasPrefix(out, got.Verdict[0]+"\n\noutage-hanging: ") {
		t.Errorf("got error %v, JSON %s, stdout\n%s\nwant the verdict first in both", err, asJSON, out)
	}
}

func TestHarmVerdict(t *testing.T) {
	t.Parallel()
	args := []string{"harm", "--every", "500"}
	_, out, _ := execute(t, args...)
	_, asJSON, _ := execute(t, append(args, "--json")...)
	var got struct {
		Verdict string
		Cells   []lab.Harm
	}
	if err := json.Unmarshal([]byte(asJSON), &got); err != nil || len(got.Cells) != 2 || !regexp.MustCompile(`^(No harm|Harm) in .* The worst: `).MatchString(got.Verdict) || !strings.HasPrefix(out, got.Verdict+"\n\n") {
		t.Errorf("got error %v, JSON %s, stdout\n%s\nwant the verdict first in both", err, asJSON, out)
	}
}
