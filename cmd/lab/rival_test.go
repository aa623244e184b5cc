package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/lab"
)

const istio = "testdata/istio.yaml"

func TestSimulateFileOfAnotherSystem(t *testing.T) {
	t.Parallel()
	code, out, errs := execute(t, small("simulate", "--config", istio, "--scenario", "outage-hanging")...)
	if code != cli.ExitOK {
		t.Fatalf("got exit code %d, stderr %q, want 0", code, errs)
	}
	golden.File(t, filepath.Join("testdata", "simulate-istio.txt"), out+"\nstderr:\n"+filepath.ToSlash(errs))

	page := filepath.Join(t.TempDir(), "page.html")
	code, out, _ = execute(t, small("simulate", "--config", istio, "--json", "--html", page)...)
	var got struct {
		Verdict []string
		Results []policyResult
	}
	if err := json.Unmarshal([]byte(out), &got); code != cli.ExitOK || err != nil || len(got.Verdict) != 1 || len(got.Results) != 2 {
		t.Fatalf("got exit code %d, error %v, stdout %.200q, want 0 and two results as JSON", code, err, out)
	}
	checkPage(t, page, "ratings/0", "Rebound&#39;s default")
}

func TestSimulateManyPoliciesOfAnotherSystem(t *testing.T) {
	t.Parallel()
	const two = `resilience4j.retry.instances:
  orders: {maxAttempts: 3, waitDuration: 100ms}
  users: {maxAttempts: 2, waitDuration: 100ms}
`
	file := files.Temp(t, "application.yml", two)
	code, out, errs := execute(t, small("simulate", "--config", file)...)
	if code != cli.ExitOK || !regexp.MustCompile(`^orders: .*\nusers: .*\n\n`).MatchString(out) {
		t.Errorf("got exit code %d, stderr %q, stdout\n%s\nwant 0, and first a verdict on each", code, errs, out)
	}
	code, out, errs = execute(t, small("simulate", "--config", file, "--route", "users")...)
	if code != cli.ExitOK || strings.Contains(out, "orders") || !strings.Contains(out, "policy: users\n") {
		t.Errorf("got exit code %d, stderr %q, stdout\n%s\nwant 0 and only the policy users", code, errs, out)
	}
	code, out, errs = execute(t, "simulate", "--config", file, "--route", "none")
	if code != cli.ExitUsage || !strings.Contains(errs, `has no policy "none"; its policies are orders, users`) || out != "" {
		t.Errorf("got exit code %d, stderr %q, want 2 and the names", code, errs)
	}
}

func TestCompareFileOfAnotherSystem(t *testing.T) {
	t.Parallel()
	code, out, errs := execute(t, small("compare", "--config", istio)...)
	if code != cli.ExitOK {
		t.Fatalf("got exit code %d, stderr %q, want 0", code, errs)
	}
	for _, name := range []string{"ratings/0, no retry", "ratings/0", "Rebound's default"} {
		if !regexp.MustCompile(`(?m)^ *` + name + ` +\d`).MatchString(out) {
			t.Errorf("want a row %q in\n%s", name, out)
		}
	}
}

func TestCheckFileOfAnotherSystem(t *testing.T) {
	t.Parallel()
	limits := files.Temp(t, "limits.yaml", "amplification: 2\nload: {rate: 100, clients: 4, capacity: 300, seeds: 1}")
	code, out, errs := execute(t, "check", "--config", istio, "--limits", limits)
	if code != cli.ExitFailed || !strings.Contains(errs, "lab check: 2 of 2 limits broken") {
		t.Errorf("got exit code %d, stderr %q, want 1 and two broken limits", code, errs)
	}
	if !strings.HasPrefix(out, "2 of 2 limits broken. ratings/0, scenario outage-hanging: Retry storm: ") || !strings.Contains(out, "\nBROKEN   ratings/0 ") || strings.Contains(out, "  Rebound's default ") {
		t.Errorf("got stdout\n%s\nwant the verdict on the worst scenario, and rows of this policy only", out)
	}
}

func TestOtherCommandsRefuseFileOfAnotherSystem(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"harm", "--config", istio}, {"explain", "--config", istio, "GET /", "--status", "503"}} {
		code, _, errs := execute(t, args...)
		if code != cli.ExitUsage || !strings.Contains(errs, "is a file of istio, but this command takes a configuration of Rebound") {
			t.Errorf("%v: got exit code %d, stderr %q, want 2 and the reason", args, code, errs)
		}
	}
}

func TestLossesFitOnAScreen(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  http:\n")
	for range 30 {
		text.WriteString("    - {route: [{destination: {host: a}}], timeout: 1s, fault: {abort: {httpStatus: 500}}}\n")
	}
	_, _, errs := execute(t, small("simulate", "--config", files.Temp(t, "a.yaml", text.String()), "--route", "a/0")...)
	if lines := strings.Count(errs, "\n"); lines != screenful+2 || !regexp.MustCompile(`\n  and 12 more: see lab import .*a\.yaml\n$`).MatchString(errs) {
		t.Errorf("%d lines of stderr, want %d and a count of the others in\n%s", lines, screenful+2, errs)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	result := func(recovery, peak, during float64) *lab.Result {
		r := &lab.Result{LengthS: 100, DisturbanceToS: 40, PeakAmplification: peak, Load: lab.Load{Rate: 700, Capacity: 1000}, Before: lab.Part{Success: 1}, During: lab.Part{Success: during}}
		if recovery >= 0 {
			r.RecoveryS = &recovery
		}
		return r
	}
	own := result(2.1, 1.1, 0.9)
	limited := result(-1, 1, 0.5)
	limited.Before.Success = 0.5
	short := result(-1, 1.2, 0)
	short.LengthS = 50
	for want, r := range map[string]*lab.Result{
		"Fails by itself: 50.0 % of the calls end well before the disturbance at 70 % load. Rebound's default: 100.0 %.":                    limited,
		"No recovery: not recovered after 10 s at 70 % load, 1.2 attempts a call in the worst second. Rebound's default: 2.1 s.":            short,
		"Retry storm: 5.9 attempts a call in the worst second, not recovered after 60 s at 70 % load. Rebound's default: 2.1 s.":            result(-1, 5.9, 0),
		"Never recovers: not recovered after 60 s at 70 % load, 1.2 attempts a call in the worst second. Rebound's default: 2.1 s.":         result(-1, 1.2, 0),
		"Slow recovery: 20.0 s at 70 % load, 3.0 attempts a call in the worst second. Rebound's default: 2.1 s.":                            result(20, 3, 0.9),
		"Retry storm: 3.0 attempts a call in the worst second, recovered after 1.0 s at 70 % load. Rebound's default: 1.1 attempts, 2.1 s.": result(1, 3, 0.9),
		"Calls lost: 50.0 % end well in the disturbance at 70 % load, recovered after 1.0 s. Rebound's default: 90.0 %.":                    result(1, 1, 0.5),
		"No harm: 1.0 attempts a call in the worst second, recovered after 1.0 s at 70 % load. Rebound's default: 1.1 attempts, 2.1 s.":     result(1, 1, 0.9),
	} {
		if got := verdictOn(r, reference{ours, own}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got, want := verdictOn(own, reference{ours, result(-1, 1, 0.9)}), "Rebound's default: 1.0 attempts, not recovered after 60 s."; !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want %s at its end", got, fmt.Sprintf("%q", want))
	}
}
