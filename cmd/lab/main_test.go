package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// execute runs the program as main does.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), cli.Program{
		Name: "lab", Args: args, LookupEnv: func(string) (string, bool) { return "", false }, Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String()
}

// small returns args with a load that runs quickly.
func small(args ...string) []string {
	return append(args, "--rate", "100", "--clients", "4", "--capacity", "300", "--for", "60s")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	pages := [][]string{{"--help"}}
	for _, c := range commands() {
		pages = append(pages, []string{c.name, "--help"})
	}
	for _, args := range pages {
		code, out, errs := execute(t, args...)
		if code != cli.ExitOK || errs != "" {
			t.Errorf("%v: got exit code %d, stderr %q, want 0 and none", args, code, errs)
		}
		got.WriteString("$ lab " + strings.Join(args, " ") + "\n" + out + "\n")
	}
	golden.File(t, filepath.Join("testdata", "help.txt"), got.String())
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	const routes = `routes: [{name: a, match: /a, upstream: "http://x"}, {name: b, match: /b, upstream: "http://x", policy: other}]
policies: {other: {retry: {maxAttempts: 5}}}`
	config := files.Temp(t, "rebound.yaml", routes)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no command":        {nil, "expected a command"},
		"unknown command":   {[]string{"stimulate"}, `unknown command "stimulate"`},
		"unknown flag":      {[]string{"simulate", "--rates", "3"}, "unknown flag --rates, did you mean --rate?"},
		"no such scenario":  {[]string{"simulate", "--scenario", "outrage"}, `--scenario: no scenario "outrage"; the built-in scenarios are bad-endpoint`},
		"no such file":      {[]string{"simulate", "--scenario", "./none.yaml"}, "./none.yaml: cannot be read"},
		"rate":              {[]string{"simulate", "--rate", "-3"}, "lab simulate: --rate: must be from 0"},
		"too short":         {[]string{"simulate", "--for", "10s"}, "lab simulate: --for: must be at least 40s, the end of the disturbance of scenario outage, got 10s"},
		"clients, capacity": {[]string{"compare", "--clients", "0", "--capacity", "-1"}, "lab compare: --clients: must be from 1 to 100000, got 0\n--capacity: must be from 0 "},
		"boundary":          {[]string{"boundary", "--capacity", "2e6"}, "lab boundary: --capacity: must be from 0 "},
		"which route":       {[]string{"simulate", "--config", config}, "has routes with different policies"},
		"no such route":     {[]string{"compare", "--config", config, "--route", "c"}, `has no route "c"; its routes are a, b`},
		"route of what":     {[]string{"check", "--route", "a", "--limits", "x"}, "--route: requires --config"},
		"no limits":         {[]string{"check"}, "a file with limits is required"},
		"wrong limits":      {[]string{"check", "--limits", files.Temp(t, "limits.yaml", "amplification: 0")}, "limits.yaml:1:16: amplification: must be at least 1, got 0"},
		"not in real time":  {[]string{"run", "--scenario", "outage"}, "scenario outage can only be simulated: [upstream.phases[0].refuse: flaky-server does not refuse connections]"},
		"clients to run":    {[]string{"run", "--clients", "3"}, "--clients: must be 1"},
		"no such to print":  {[]string{"scenarios", "--scenario", "x"}, `no scenario "x"`},
		"argument too many": {[]string{"scenarios", "x"}, `unexpected argument "x"`},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := execute(t, c.args...)
			if code != cli.ExitUsage || !strings.Contains(errs, c.want) || out != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q, want 2 and %q", code, out, errs, c.want)
			}
		})
	}
}

func TestSimulate(t *testing.T) {
	t.Parallel()
	config := files.Temp(t, "rebound.yaml", `routes: [{name: a, match: /a, upstream: "http://x"}, {name: b, match: /b, upstream: "http://x", policy: stubborn}]
policies: {stubborn: {retry: {maxAttempts: 5, budget: {ratio: 100, burst: 1000000}}, breaker: {failureRatio: 0, consecutiveFailures: 0}, concurrency: {max: -1}}}`)
	page := filepath.Join(t.TempDir(), "page.html")
	code, out, errs := execute(t, small("simulate", "--config", config, "--route", "b", "--html", page)...)
	if code != cli.ExitOK || errs != "" {
		t.Fatalf("got exit code %d, stderr %q, want 0 and none", code, errs)
	}
	for _, want := range []string{
		"\n\noutage: For ten seconds connections are refused.\n100 calls/s by 4 clients to an upstream with a capacity of 300/s, for 1m0s; disturbed from 30s to 40s; seed 1\n",
		"policy: stubborn\n", "recovery        0.0s, from the end", "ok ", "dial_error ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !regexp.MustCompile(`(?m)^ *ended well +100\.0 % +\d+\.\d % +100\.0 %\s*$`).MatchString(out) {
		t.Errorf("want a row for the calls that ended well in\n%s", out)
	}
	if !strings.HasPrefix(out, "Retry storm: ") {
		t.Errorf("want the verdict first in\n%s", out)
	}
	checkPage(t, page, "stubborn", "Rebound&#39;s default")

	code, out, errs = execute(t, small("simulate", "--config", config, "--route", "b", "--json")...)
	var got outcome
	if code != cli.ExitOK || errs != "" || json.Unmarshal([]byte(out), &got) != nil || len(got.Results) != 2 {
		t.Fatalf("got exit code %d, stderr %q, stdout %.200q, want 0 and two results as JSON", code, errs, out)
	}
	result := got.Results[0].Result
	if len(got.Verdict) != 1 || !strings.HasPrefix(got.Verdict[0], "Retry storm: ") || got.Results[0].Policy != "stubborn" || got.Results[1].Policy != ours {
		t.Errorf("got verdict %q on %s next to %s, want a retry storm of stubborn next to the default", got.Verdict, got.Results[0].Policy, got.Results[1].Policy)
	}
	if len(result.Series) != 60 || result.PeakAmplification < 2 || result.RecoveryS == nil {
		t.Errorf("%d seconds, amplification %v and recovery %v, want 60 and those of a stubborn policy",
			len(result.Series), result.PeakAmplification, result.RecoveryS)
	}
}

func TestSimulateEndpoints(t *testing.T) {
	t.Parallel()
	code, out, errs := execute(t, small("simulate", "--scenario", "bad-endpoint")...)
	if code != cli.ExitOK || errs != "" {
		t.Fatalf("got exit code %d, stderr %q, want 0 and none", code, errs)
	}
	for _, want := range []string{
		`(?m)^ *attempts to instance 1 +3\d\.\d % +\d\.\d % +-\s*$`, `(?m)^endpoints +ejected [1-9]\d* times$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("want a line like %s in\n%s", want, out)
		}
	}
}

// checkPage checks that the page loads nothing else and that its charts are complete.
func checkPage(t *testing.T, path string, policies ...string) {
	t.Helper()
	text := readPage(t, path)
	for _, p := range policies {
		if !bytes.Contains(text, []byte("<h2>"+p+"</h2>")) {
			t.Errorf("want policy %q in the page", p)
		}
	}
	if !bytes.Contains(text, []byte("<pre>")) {
		t.Error("want the text of the policy in the page")
	}
	if charts := checkCharts(t, text); charts != 3*len(policies) {
		t.Errorf("%d charts, want three of every policy", charts)
	}
}

// readPage returns a page, which must load nothing.
func readPage(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<li>", "--html " + path, version.String()} { // verdict, command, version
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("want %q in the page", want)
		}
	}
	for _, forbidden := range []string{"http:", "https:", "<script", "src=", "href=", "url(", "@import", "NaN"} {
		if bytes.Contains(text, []byte(forbidden)) {
			t.Errorf("the page has %q, want none", forbidden)
		}
	}
	if !bytes.Contains(text, []byte("prefers-color-scheme: dark")) {
		t.Error("the page has no dark colours")
	}
	return text
}

// checkCharts checks the charts of a page, those with a band, and returns their number.
func checkCharts(t *testing.T, page []byte) (found int) {
	t.Helper()
	for _, chart := range regexp.MustCompile(`(?s)<svg viewBox="0 0 \d+ 100".*?</svg>`).FindAll(page, -1) {
		found++
		for decoder := xml.NewDecoder(bytes.NewReader(chart)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("a chart: got %v, want valid XML", err)
			}
		}
		if !bytes.Contains(chart, []byte(`class="band"`)) || bytes.Count(chart, []byte("<path")) < 2 || bytes.Count(chart, []byte("<title>")) < 20 {
			t.Errorf("got chart %.200s, want a band, a grid with curves, and the values of each second", chart)
		}
	}
	return found
}

// No two marks of an axis have the same text, also where there are few calls and clients.
func TestMarksOfAxesDiffer(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.html")
	if code, _, errs := execute(t, "simulate", "--clients", "1", "--rate", "1", "--for", "60s", "--html", page); code != cli.ExitOK {
		t.Fatalf("got exit code %d: %s", code, errs)
	}
	axes := regexp.MustCompile(`<div class="axis y">(.*?)</div>`).FindAllSubmatch(readPage(t, page), -1)
	if len(axes) < 3 {
		t.Fatalf("got %d axes, want one for each chart", len(axes))
	}
	for _, axis := range axes {
		marks := regexp.MustCompile(`<span>.*?</span>`).FindAllString(string(axis[1]), -1)
		if slices.Sort(marks); len(slices.Compact(slices.Clone(marks))) != len(marks) || len(marks) < 2 {
			t.Errorf("got marks %s, want two or more that differ", marks)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.html")
	code, out, errs := execute(t, small("compare", "--scenario", "outage-hanging", "--html", page)...)
	if code != cli.ExitOK || errs != "" {
		t.Fatalf("got exit code %d, stderr %q, want 0 and none", code, errs)
	}
	names := []string{"no retry", "immediate retry", "fixed wait", "exponential wait", "full jitter", "&#43; budget", "&#43; breaker", "the policy"}
	checkPage(t, page, names...)
	for _, name := range names {
		name = strings.ReplaceAll(name, "&#43;", "+")
		if !regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(name) + ` +\d`).MatchString(out) {
			t.Errorf("want a row %q in\n%s", name, out)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const load = "\nload: {rate: 100, clients: 4, capacity: 300, seeds: 2}"
	config := files.Temp(t, "rebound.yaml", `routes: [{name: a, match: /a, upstream: "http://x"}, {name: b, match: /b, upstream: "http://x", policy: stubborn}]
policies: {stubborn: {retry: {maxAttempts: 5, budget: {ratio: 100, burst: 1000000}}, breaker: {failureRatio: 0, consecutiveFailures: 0}, concurrency: {max: -1}}}`)
	limits := files.Temp(t, "limits.yaml", "amplification: 2"+load)
	code, out, errs := execute(t, "check", "--config", config, "--limits", limits)
	if code != cli.ExitFailed || !strings.Contains(errs, "lab check: 2 of 4 limits broken") {
		t.Errorf("exit code %d, stderr %q, want 1 for the stubborn policy", code, errs)
	}
	for _, want := range []string{
		`(?m)^ok +default +outage +amplification at most 2 in any second +1\.\d\d +\d$`,
		`(?m)^BROKEN +stubborn +outage-hanging +amplification at most 2 in any second +[3-9]\.\d\d +\d$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	code, out, errs = execute(t, "check", "--config", config, "--route", "a", "--limits", limits, "--json")
	var found struct {
		Verdict  string
		Findings []struct {
			Policy string
			Broken bool
		}
	}
	if code != cli.ExitOK || errs != "" || json.Unmarshal([]byte(out), &found) != nil || !strings.HasPrefix(found.Verdict, "All 2 limits hold. default, scenario ") || len(found.Findings) != 2 || found.Findings[0].Policy != "default" || found.Findings[0].Broken {
		t.Errorf("exit code %d, stderr %q, findings %s, want two that hold, and a verdict", code, errs, out)
	}
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	code, out, _ := execute(t, "scenarios")
	if code != cli.ExitOK || strings.Count(out, "\n") != len(lab.Names())+2 || !strings.HasPrefix(out, fmt.Sprintf("%d scenarios. Print the file of one ", len(lab.Names()))) || !strings.Contains(out, "outage-hanging   ") {
		t.Errorf("got exit code %d, list\n%s\nwant 0 and all scenarios", code, out)
	}
	code, out, _ = execute(t, "scenarios", "--scenario", "herd")
	if code != cli.ExitOK || !strings.Contains(out, "\nload:\n  herd: {at: 30s, calls: 1000}\n") {
		t.Errorf("got exit code %d, file\n%s\nwant 0 and the scenario herd", code, out)
	}
}

// The simulation and the real programs agree, in twenty seconds of real time. Latency depends on
// what else runs on the machine, so it is not compared. If the usual latency shows that the machine
// was too busy for the programs, the run tells nothing and is repeated.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes twenty seconds")
	}
	t.Parallel()
	for runs := 1; ; runs++ {
		_, out, errs := execute(t, "run", "--rate", "100", "--json")
		var results struct{ Simulated, Measured *lab.Result }
		if err := json.Unmarshal([]byte(out), &results); err != nil || results.Measured == nil {
			t.Fatalf("got error %v, stderr %q, stdout %.200q, want two results as JSON", err, errs, out)
		}
		busy := results.Measured.Before.P50 > 2*results.Simulated.Before.P50
		for _, a := range agreements() {
			s, m := a.figure(results.Simulated), a.figure(results.Measured)
			t.Logf("%s: simulated "+a.format+", measured "+a.format, a.name, s, m)
			if !busy && !a.idle && !(math.Abs(s-m) <= a.tolerance) {
				t.Errorf("%s: simulated %v, measured %v, want at most %v between them", a.name, s, m, a.tolerance)
			}
		}
		if !busy {
			return
		}
		if runs == 3 {
			t.Skip("the machine was too busy for the programs in three runs")
		}
	}
}

// An interrupted command begins no more runs, of which there may be thousands.
func TestInterruptedBeforeARun(t *testing.T) {
	t.Parallel()
	s, err := lab.LoadScenario("outage")
	if err != nil {
		t.Fatal(err)
	}
	e := lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.DefaultLoad()}
	ctx, cancel := context.WithCancel(t.Context())
	var seconds atomic.Int64
	_, err = runAll(ctx, slices.Repeat([]lab.Experiment{e}, 1000), func(float64) {
		seconds.Add(1)
		cancel()
	})
	if most := int64(runtime.GOMAXPROCS(0)); !errors.Is(err, context.Canceled) || seconds.Load() > most {
		t.Errorf("got error %v after %d simulated seconds, want an interruption after at most %d", err, seconds.Load(), most)
	}
}

// A policy that a file repeats is run once, and all its names have the result.
func TestRepeatedPolicies(t *testing.T) {
	t.Parallel()
	own := func(name string, attempts int) namedPolicy {
		p := transport.DefaultPolicy()
		p.Retry.MaxAttempts = attempts
		return namedPolicy{Name: name, Policy: p}
	}
	other := func(name string, attempts int) namedPolicy {
		p := foreign.Policy{Name: name, Retry: foreign.Retry{MaxAttempts: attempts}}
		return namedPolicy{Name: name, Client: rival.New(p), rival: p}
	}
	different, which := distinct([]namedPolicy{own("a", 2), own("b", 3), other("c", 2), own("d", 2), other("e", 2), other("f", 3)})
	var names []string
	for _, n := range different {
		names = append(names, n.Name)
	}
	if !slices.Equal(names, []string{"a", "b", "c", "f"}) || !slices.Equal(which, []int{0, 1, 2, 0, 2, 3}) {
		t.Errorf("got %v for %v, want a, b, c and f for 0, 1, 2, 0, 2, 3", names, which)
	}
}
