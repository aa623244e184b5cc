package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// ours is the name of the policy that other systems' policies are compared with.
const ours = "Rebound's default"

// ownKeys matches a key that a configuration of Rebound has at its top level.
var ownKeys = regexp.MustCompile(`(?m)^(routes|policies|upstreams|listener)\s*:`)

// systemOf returns the other system that a file is for, and the file. The system is "" for a
// configuration of Rebound and a file that cannot be read.
func systemOf(file string) (foreign.System, []byte) {
	data, err := config.Read(file)
	if err != nil || ownKeys.Match(data) {
		return "", nil
	}
	return foreign.Detect(file, data), data
}

// loadConfig reads a configuration of Rebound.
func loadConfig(file string, cfg *gateway.Config) error {
	err := config.Load(file, cfg)
	if err == nil {
		return nil
	}
	if system, _ := systemOf(file); system != "" {
		return fmt.Errorf("%s: is a file of %s, but this command takes a configuration of Rebound: see lab import --help", file, system)
	}
	return err
}

// rivals returns the policies of a file of another system, or nil if the file is not one. With
// --route it returns only the policy of that name. It tells stderr what of the file is not
// simulated.
func (f policyFlags) rivals(stderr io.Writer) ([]namedPolicy, error) {
	if *f.file == "" {
		return nil, nil
	}
	system, data := systemOf(*f.file)
	if system == "" {
		return nil, nil
	}
	imported, err := foreign.Import(system, *f.file, data)
	if err != nil {
		return nil, err
	}
	var all []namedPolicy
	var names []string
	var chosen []foreign.Policy
	for _, p := range imported.Policies {
		names = append(names, p.Name)
		if *f.route != "" && *f.route != p.Name {
			continue
		}
		if err := rival.Check(p); err != nil {
			return nil, fmt.Errorf("%s: %w", *f.file, err)
		}
		chosen = append(chosen, p)
		all = append(all, namedPolicy{Name: p.Name, Client: rival.New(p), rival: p})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--route: %s has no policy %q; its policies are %s", *f.file, *f.route, strings.Join(names, ", "))
	}
	writeLosses(stderr, *f.file, imported, chosen)
	return all, nil
}

// screenful is the most losses that are listed.
const screenful = 20

// writeLosses lists what the simulation does not have of a file. The rest is counted.
func writeLosses(w io.Writer, file string, imported *foreign.Result, chosen []foreign.Policy) {
	var lines []string
	for _, kind := range []foreign.Kind{foreign.Dropped, foreign.Approximated} {
		for _, e := range imported.Report {
			if e.Kind == kind {
				lines = append(lines, fmt.Sprintf("%s: %s: %s", kind, entryPlace(e), e.Sentence))
			}
		}
	}
	for _, note := range rival.Notes(chosen, "GET") {
		lines = append(lines, "not simulated: "+note)
	}
	fmt.Fprintf(w, "%s: %s of %s\n", file, number(len(imported.Policies), "policy", "policies"), imported.System)
	for _, line := range lines[:min(len(lines), screenful)] {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if more := len(lines) - screenful; more > 0 {
		fmt.Fprintf(w, "  and %d more: see lab import %s\n", more, file)
	}
}

// withDefault adds Rebound's default policy.
func withDefault(all []namedPolicy) []namedPolicy {
	return append(slices.Clip(all), namedPolicy{Name: ours, Policy: transport.DefaultPolicy()})
}

// withoutRetries puts each policy without its retries before the policy.
func withoutRetries(all []namedPolicy) []namedPolicy {
	var both []namedPolicy
	for _, p := range all {
		alone := p
		alone.baseline = true
		alone.rival.Retry.MaxAttempts, alone.rival.Hedge = 1, foreign.Hedge{}
		alone.Name += ", no retry"
		alone.Client = rival.New(alone.rival)
		both = append(both, alone, p)
	}
	return both
}

// contest is the outcome of policies of another system in a scenario.
type contest struct {
	// Verdict has one sentence for each policy.
	Verdict []string       `json:"verdict"`
	Results []policyResult `json:"results"`
}

// runRivals runs the policies and Rebound's default in one scenario and prints the verdict and the
// figures. verbose prints all figures of the policy if there is only one.
func runRivals(ctx context.Context, p cli.Program, policies []namedPolicy, load *loadFlags, out outputFlags, verbose bool) int {
	var experiments []lab.Experiment
	for _, named := range withDefault(policies) {
		e, err := load.experiment(named)
		if err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
		experiments = append(experiments, e)
	}
	results, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	own := results[len(policies)]
	var c contest
	judged := 0
	for _, named := range policies {
		if !named.baseline {
			judged++
		}
	}
	for i, named := range withDefault(policies) {
		c.Results = append(c.Results, policyResult{named.Name, results[i]})
		if i < len(policies) && !named.baseline {
			v := verdictOn(results[i], own)
			if judged > 1 {
				v = named.Name + ": " + v
			}
			c.Verdict = append(c.Verdict, v)
		}
	}
	if err := writePage(*out.page, c.Results); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if *out.json {
		err = writeJSON(p.Stdout, c)
	} else {
		err = writeContest(p.Stdout, c, verbose)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

func writeContest(w io.Writer, c contest, verbose bool) error {
	fmt.Fprintf(w, "%s\n\n", strings.Join(c.Verdict, "\n"))
	if err := writeLadder(w, c.Results); err != nil {
		return err
	}
	if !verbose || len(c.Results) > 2 {
		return nil
	}
	fmt.Fprintf(w, "\npolicy: %s\n\n", c.Results[0].Policy)
	return writeFigures(w, c.Results[0].Result)
}

// Limits of the verdict.
const (
	stormFrom = 2.0  // attempts a call in the worst second
	slowFrom  = 5.0  // seconds until service is good again
	fewer     = 0.05 // of the calls
	good      = 0.95 // of the calls end well
	forever   = 60.0 // seconds without recovery
)

// grade says how bad a result is, from 0, next to that of Rebound's default.
func grade(r, own *lab.Result) int {
	switch {
	case r.Before.Success < good && own.Before.Success >= good:
		return 6
	case recovery(r) == never && r.PeakAmplification >= stormFrom:
		return 5
	case recovery(r) == never:
		return 4
	case r.RecoveryS != nil && *r.RecoveryS > slowFrom:
		return 3
	case r.PeakAmplification >= stormFrom:
		return 2
	case r.During.Success < own.During.Success-fewer:
		return 1
	}
	return 0
}

// verdictOn says in one or two sentences what the figures of a policy mean, next to those of
// Rebound's default in the same run.
func verdictOn(r, own *lab.Result) string {
	worst := fmt.Sprintf("%.1f attempts a call in the worst second", r.PeakAmplification)
	after := fmt.Sprintf("not recovered after %.0f s", r.LengthS-r.DisturbanceToS)
	back, compared := "recovery "+recovery(r), "recovery "+recovery(own)
	if r.RecoveryS != nil {
		back = fmt.Sprintf("recovered after %.1f s", *r.RecoveryS)
	}
	switch {
	case own.RecoveryS != nil:
		compared = fmt.Sprintf("%.1f s", *own.RecoveryS)
	case recovery(own) == never:
		compared = after
	}
	switch grade(r, own) {
	case 6:
		return fmt.Sprintf("Fails by itself: %s of the calls end well before the disturbance %s. %s: %s.",
			percent(r.Before.Success), atLoad(r.Load), ours, percent(own.Before.Success))
	case 5:
		return fmt.Sprintf("Retry storm: %s, %s %s. %s: %s.", worst, after, atLoad(r.Load), ours, compared)
	case 4:
		name := "No recovery"
		if r.LengthS-r.DisturbanceToS >= forever {
			name = "Never recovers"
		}
		return fmt.Sprintf("%s: %s %s, %s. %s: %s.", name, after, atLoad(r.Load), worst, ours, compared)
	case 3:
		return fmt.Sprintf("Slow recovery: %.1f s %s, %s. %s: %s.", *r.RecoveryS, atLoad(r.Load), worst, ours, compared)
	case 2:
		return fmt.Sprintf("Retry storm: %s, %s %s. %s: %.1f attempts, %s.", worst, back, atLoad(r.Load), ours, own.PeakAmplification, compared)
	case 1:
		return fmt.Sprintf("Calls lost: %s end well in the disturbance %s, %s. %s: %s.",
			percent(r.During.Success), atLoad(r.Load), back, ours, percent(own.During.Success))
	}
	return fmt.Sprintf("No harm: %s, %s %s. %s: %.1f attempts, %s.", worst, back, atLoad(r.Load), ours, own.PeakAmplification, compared)
}

func atLoad(l lab.Load) string {
	if l.Capacity == 0 {
		return fmt.Sprintf("at %g calls/s", l.Rate)
	}
	return fmt.Sprintf("at %.3g %% load", 100*l.Rate/l.Capacity)
}

// worstTrial returns the verdict on the worst of the results of a check. own are the results of
// Rebound's default, in the same order.
func worstTrial(policies []namedPolicy, results, own []*lab.Result) string {
	worst := 0
	for i := range results {
		if grade(results[i], own[i%len(own)]) > grade(results[worst], own[worst%len(own)]) {
			worst = i
		}
	}
	return fmt.Sprintf("%s, scenario %s: %s", policies[worst/len(own)].Name, results[worst].Scenario, verdictOn(results[worst], own[worst%len(own)]))
}
