package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) { leaks.Main(m) }

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
		"no seeds":          {[]string{"boundary", "--seeds", "0"}, "lab boundary: --seeds: must be from 1 to 1000, got 0"},
		"too many seeds":    {[]string{"boundary", "--seeds", "1000000000000"}, "lab boundary: --seeds: must be from 1 to 1000, got 1000000000000"},
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

// scripts matches the scripts of a page: its type and its text.
var scripts = regexp.MustCompile(`(?s)<script type="([a-z/]+)">(.*?)</script>`)

// readPage returns a page. It must load nothing, and its content security policy must allow the one
// script that draws its charts, and no other.
func readPage(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<li>", "--html " + path, version.String(), "prefers-color-scheme: dark"} { // verdict, command, version
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("want %q in the page", want)
		}
	}
	rest, drawing := text, 0
	for _, script := range scripts.FindAllSubmatch(text, -1) {
		rest = bytes.Replace(rest, script[0], nil, 1)
		if string(script[1]) == "application/json" {
			continue
		}
		drawing++
		sum := sha256.Sum256(script[2])
		allowed := "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
		if !strings.Contains(html.UnescapeString(string(text)), `http-equiv="Content-Security-Policy" content="`+allowed+`"`) {
			t.Errorf("want the content security policy %s", allowed)
		}
		rest = append(rest, bytes.ReplaceAll(script[2], []byte("http://www.w3.org/2000/svg"), nil)...) // a name, not an address
	}
	if drawing != 1 {
		t.Errorf("the page has %d scripts that draw, want one", drawing)
	}
	for _, forbidden := range []string{"http:", "https:", "<script", "</script", "src=", "href=", "url(", "@import", "\nimport", "import(", "fetch(", "NaN"} {
		if bytes.Contains(rest, []byte(forbidden)) {
			t.Errorf("the page has %q, want none", forbidden)
		}
	}
	return text
}

// checkCharts checks the charts of a page, which have the data of every second and, for readers
// without scripts, a table. It returns their number.
func checkCharts(t *testing.T, page []byte) (found int) {
	t.Helper()
	tables := regexp.MustCompile(`(?s)<table><caption>(.*?)</caption>.*?<tbody>(.*?)</tbody></table></figure>`).FindAllSubmatch(page, -1)
	for _, script := range scripts.FindAllSubmatch(page, -1) {
		if string(script[1]) != "application/json" {
			continue
		}
		var f struct {
			Title       string
			Lines       []struct{ Name, Word, Unit string }
			Seconds     int
			Disturbance [2]float64
			Rows        [][]*float64
		}
		if err := json.Unmarshal(script[2], &f); err != nil {
			t.Fatal(err)
		}
		if f.Title == "" || len(f.Lines) == 0 || f.Seconds < 20 || len(f.Rows) != f.Seconds || f.Disturbance[0] >= f.Disturbance[1] || f.Disturbance[1] > float64(f.Seconds) {
			t.Errorf("got chart %.300s, want lines, the values of each second, and a disturbance", script[2])
		}
		for _, row := range f.Rows {
			if len(row) != len(f.Lines) {
				t.Fatalf("%s: %d values in a second, want one of each of %d lines", f.Title, len(row), len(f.Lines))
			}
		}
		if found >= len(tables) || html.UnescapeString(string(tables[found][1])) != f.Title {
			t.Fatalf("chart %d, %s, has no table", found, f.Title)
		}
		// The first row, which is the first second.
		first := "<tr><td>0"
		for _, v := range f.Rows[0] {
			if v == nil {
				first += "<td>–"
			} else {
				first += "<td>" + strconv.FormatFloat(*v, 'f', -1, 64)
			}
		}
		if rows := bytes.Count(tables[found][2], []byte("<tr>")); !bytes.HasPrefix(tables[found][2], []byte(first)) || rows < 20 || rows > 60 {
			t.Errorf("%s: got a table of %d rows, %.80s, want 20 to 60 and first %s", f.Title, rows, tables[found][2], first)
		}
		found++
	}
	return found
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
// was too busy for the programs, the run tells nothing and is repeated. So is one that differs if a
// late goroutine shows that the machine stood still. What is wrong in all three runs is no chance.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes twenty seconds")
	}
	t.Parallel()
	times := map[string]int{} // in how many runs a figure was wrong
	for runs := 1; ; runs++ {
		late := lateness()
		_, out, errs := execute(t, "run", "--rate", "100", "--json")
		stood := late()
		var results struct{ Simulated, Measured *lab.Result }
		if err := json.Unmarshal([]byte(out), &results); err != nil || results.Measured == nil {
			t.Fatalf("got error %v, stderr %q, stdout %.200q, want two results as JSON", err, errs, out)
		}
		busy := results.Measured.Before.P50 > 2*results.Simulated.Before.P50
		var wrong []string
		for _, a := range agreements() {
			s, m := a.figure(results.Simulated), a.figure(results.Measured)
			t.Logf("%s: simulated "+a.format+", measured "+a.format, a.name, s, m)
			if !a.idle && !(math.Abs(s-m) <= a.tolerance) {
				times[a.name]++
				wrong = append(wrong, fmt.Sprintf("%s: simulated %v, measured %v, want at most %v between them", a.name, s, m, a.tolerance))
			}
		}
		if !busy && (len(wrong) == 0 || stood < 200*time.Millisecond) {
			for _, w := range wrong {
				t.Error(w)
			}
			return
		}
		if runs == 3 {
			for name, n := range times {
				if n == runs {
					t.Errorf("%s is wrong in each of %d runs", name, n)
				}
			}
			if t.Failed() {
				t.Fatalf("in the last run: %q", wrong)
			}
			t.Skipf("the machine was too busy for the programs in three runs, and stood still for up to %v in the last: %q", stood, wrong)
		}
	}
}

// lateness lets a goroutine sleep for short times until longest is called. That returns by how much
// one of them was too long at most.
func lateness() (longest func() time.Duration) {
	const nap = 10 * time.Millisecond
	end, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			select {
			case <-end:
				result <- most
				return
			default:
			}
			began := time.Now()
			time.Sleep(nap)
			most = max(most, time.Since(began)-nap)
		}
	}()
	return func() time.Duration { close(end); return <-result }
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
