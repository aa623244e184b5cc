package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// jsonOf runs a command that prints JSON.
func jsonOf[T any](t *testing.T, args ...string) T {
	t.Helper()
	code, out, errs := execute(t, args...)
	var got T
	if err := json.Unmarshal([]byte(out), &got); code != cli.ExitOK || err != nil {
		t.Fatalf("got exit code %d, error %v, stdout %s, stderr %s", code, err, out, errs)
	}
	return got
}

// The boundaries of compare are for the capacity and the seed that its title names.
func TestCompareFindsTheBoundaryOfItsFlags(t *testing.T) {
	t.Parallel()
	empty := files.Temp(t, "empty.yaml", "")
	load := []string{"--config", istio, "--clients", "2", "--capacity", "10"}
	alone := jsonOf[struct{ Boundaries []located }](t, append([]string{"boundary", "--json", "--seeds", "3"}, load...)...).Boundaries[0].BySeed
	if alone[0] == alone[2] {
		t.Fatalf("got the boundaries %v: this test needs seeds that differ", alone)
	}
	for seed, flag := range map[int]string{1: "1", 3: "3"} {
		c := jsonOf[changes](t, append([]string{
			"compare", "--before", empty, "--boundary", "--format", "json", "--scenario", "outage-hanging", "--rate", "1", "--seed", flag,
		}, load...)...)
		if got, want := c.Changes[0].BoundaryAfter.Percent, alone[seed-1]; got != want {
			t.Errorf("seed %d: got %d %%, want %d %% as lab boundary finds", seed, got, want)
		}
	}
	if code, _, errs := execute(t, append([]string{"compare", "--before", empty, "--boundary"}, append(load, "--capacity", "0")...)...); code != cli.ExitUsage {
		t.Errorf("without a capacity: got exit code %d, stderr %q", code, errs)
	}
}

// breakerFile is an Istio route with outlier detection, twice, so that its two policies are one.
const breakerFile = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {http: [{timeout: 500ms, route: [{destination: {host: b}}]}, {timeout: 500ms, route: [{destination: {host: b}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b}
spec: {host: b, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 1s, maxEjectionPercent: 100}}}
`

// The table of a graph does not say never of a run that is too short to show a recovery.
func TestGraphTooShortToRecover(t *testing.T) {
	t.Parallel()
	file := files.Temp(t, "two.yaml", twoServices)
	page := filepath.Join(t.TempDir(), "page.html")
	code, out, errs := execute(t, "graph", file, "--hang", "b", "--for", "12s", "--html", page)
	if code != cli.ExitOK {
		t.Fatalf("got exit code %d, stderr %q", code, errs)
	}
	text := string(readPage(t, page))
	for name, text := range map[string]string{"table": out, "page": text} {
		if strings.Contains(text, never) || !strings.Contains(text, "recovery unknown, the run is too short") || strings.Count(text, "unknown") < 3 {
			t.Errorf("the %s says never, or not that the recovery is unknown:\n%.2000s", name, text)
		}
	}
}

// What other systems' policies open and eject on an edge is counted. Identical policies in a file
// need no choice.
func TestGraphCountsEjectionsOfOthers(t *testing.T) {
	t.Parallel()
	file := files.Temp(t, "two.yaml", strings.Replace(twoServices, "{name: b,", "{name: b, instances: 2,", 1))
	r := jsonOf[graphResult](t, "graph", file, "--json", "--hang", "b", "--config", files.Temp(t, "istio.yaml", breakerFile))
	if e := r.Edges; e[0].Ejections+e[1].Ejections == 0 {
		t.Errorf("got %+v, want ejections", e)
	}
	dapr := `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: a}
spec:
  policies:
    timeouts: {t: 1s}
    circuitBreakers: {c: {maxRequests: 1, timeout: 5s, trip: consecutiveFailures > 3}}
  targets: {apps: {b: {timeout: t, circuitBreaker: c}}}
`
	r = jsonOf[graphResult](t, "graph", file, "--json", "--hang", "b", "--config", files.Temp(t, "dapr.yaml", dapr))
	if e := r.Edges; e[0].Opened+e[0].Ejections == 0 {
		t.Errorf("got %+v, want opened circuits", e)
	}
	different := strings.Replace(breakerFile, "500ms", "1s", 1)
	code, _, errs := execute(t, "graph", file, "--config", files.Temp(t, "istio.yaml", different))
	if code != cli.ExitUsage || !strings.Contains(errs, "has several policies, choose one: a/0, a/1") {
		t.Errorf("two different policies: got exit code %d, stderr %q", code, errs)
	}
}

// check says of every method of its scenarios whether the policy retries it.
func TestCheckNotesEveryMethod(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../pkg/lab/scenarios/short.yaml")
	if err != nil {
		t.Fatal(err)
	}
	post := files.Temp(t, "post.yaml", string(source)+"\nload: {method: POST}\n")
	limits := files.Temp(t, "limits.yaml", "load: {rate: 20, clients: 1, capacity: 100, seeds: 1}\nscenarios: [{scenario: short, wasted: 1}, {scenario: "+post+", wasted: 1}]\n")
	rebound := files.Temp(t, "rebound.yaml", "routes: [{name: a, match: /, upstream: 'http://x'}]\n")
	code, _, errs := execute(t, "check", "--limits", limits, "--config", rebound)
	if code != cli.ExitOK || !strings.Contains(errs, "policy default does not retry POST, ") || strings.Contains(errs, "not retry GET") {
		t.Errorf("a policy of ours: got exit code %d, stderr %q, want a note on POST only", code, errs)
	}
	caddy := files.Temp(t, "Caddyfile", "a {\n\treverse_proxy b {\n\t\tlb_retries 2\n\t\ttransport http {\n\t\t\tdial_timeout 1s\n\t\t}\n\t}\n}\n")
	code, _, errs = execute(t, "check", "--limits", limits, "--config", caddy)
	if code != cli.ExitOK || strings.Count(errs, "the scenario's calls are POST") != 1 || strings.Count(errs, "the time to connect") != 1 {
		t.Errorf("a policy of Caddy: got exit code %d, stderr %q, want one note on POST and one on the time to connect", code, errs)
	}
}

// run begins with a verdict on the simulation and one on the real programs, as text and as JSON.
func TestRunBeginsWithVerdicts(t *testing.T) {
	t.Parallel()
	brief := files.Temp(t, "brief.yaml", `name: brief
description: Half a second of errors.
length: 2s
disturbance: {at: 500ms, for: 500ms}
upstream:
  faults:
    latency: {distribution: fixed, value: 10ms}
  phases:
    - {at: 500ms, for: 500ms, errorRate: 1}
`)
	args := []string{"run", "--scenario", brief, "--rate", "20"}
	_, out, errs := execute(t, args...) // the exit code says whether the two agree
	lines := strings.SplitN(out, "\n", 4)
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "Simulated: ") || !strings.HasPrefix(lines[1], "Measured: ") || lines[2] != "" {
		t.Errorf("got stdout\n%s\nstderr %q, want two verdicts first", out, errs)
	}
	_, out, errs = execute(t, append(args, "--json")...)
	var got struct {
		Verdict             []string
		Simulated, Measured *lab.Result
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Verdict) != 2 || !strings.HasPrefix(got.Verdict[1], "Measured: ") || got.Simulated == nil || got.Measured == nil {
		t.Errorf("got error %v, verdict %q, stderr %q", err, got.Verdict, errs)
	}
}

// A capacity that is too large is one mistake. The rate that follows from it used to be another.
func TestBoundaryTellsOfTheCapacityOnce(t *testing.T) {
	t.Parallel()
	code, _, errs := execute(t, "boundary", "--capacity", "2e6")
	if code != cli.ExitUsage || strings.Count(errs, "--capacity: ") != 1 {
		t.Errorf("got exit code %d, stderr %q, want 2 and one mistake", code, errs)
	}
}

// Times that are no whole number of seconds used to be a nanosecond too short: "1.000999999s".
func TestTimesAreRounded(t *testing.T) {
	t.Parallel()
	scenario := files.Temp(t, "scenario.yaml", `name: brief
length: 3s
disturbance: {at: 1.001s, for: 500ms}
upstream: {faults: {latency: {distribution: fixed, value: 10ms}}}
`)
	code, out, errs := execute(t, "simulate", "--scenario", scenario, "--rate", "20", "--clients", "1")
	if want := "disturbed from 1.001s to 1.501s;"; code != cli.ExitOK || !strings.Contains(out, want) {
		t.Errorf("got exit code %d, stderr %q, stdout\n%s\nwant %q", code, errs, out, want)
	}
}
