package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
)

const aboutGraph = `graph simulates services that call each other, with a policy on every call: how many attempts an outage
of one service causes, at which service, and for how long. FILE describes the services, their policies
and what happens to them (docs/graph.md). It may also be a service graph of Istio's isotope: then the
service that is the most calls away from the entry hangs for ten seconds, or the one of --hang.`

// chosenPolicy is the name of the policy of --config.
const chosenPolicy = "--config"

// graphResult is the outcome of a graph.
type graphResult struct {
	Verdict string `json:"verdict"`
	*callgraph.Result
	// Own are the services with Rebound's default on every call, if a call has another policy.
	Own []callgraph.ServiceResult `json:"servicesWithDefault,omitempty"`
}

func graph(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addPolicyFlags(fs)
	fs.Lookup("config").Usage = "the policy of every call that names none, from `FILE`; default: as the graph says"
	entry := fs.String("entry", "", "the service `NAME` gets the calls from outside; default: as the graph says")
	hang := fs.String("hang", "", "the service `NAME` hangs during the disturbance, besides what the graph says")
	rate := fs.Float64("rate", 0, "`CALLS` per second from outside; default: as the graph says")
	length := fs.Duration("for", 0, "how long calls are made; 0s means the graph's length")
	seed := fs.Uint64("seed", 1, "seed of all randomness: the same `N` gives the same figures")
	out := addOutputFlags(fs)
	var positional []string
	p.Args, positional = splitPositional(fs, p.Args)
	if code, done := p.Parse(fs, usage(aboutGraph, "lab graph [flags] FILE", `  lab graph docs/examples/three-tiers.yaml --html graph.html
  lab graph topology.yaml --config virtual-service.yaml --hang ratings
`)); done {
		return code
	}
	if len(positional) != 1 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("expected one FILE, or - for the standard input, got %d", len(positional)))
	}
	if positional[0] == "-" && *policy.file == "-" {
		return p.Fail(cli.ExitUsage, errors.New("--config: the standard input is the graph already"))
	}
	name, data, err := readInput(p, positional[0])
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	e, err := readGraph(p, name, data, *entry, *hang, *rate)
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	e.Seed = *seed
	if err := e.Graph.Validate(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *length != 0 {
		e.Graph.Length = *length
		if err := e.Graph.Validate(); err != nil {
			return p.Fail(cli.ExitUsage, fmt.Errorf("--for: %w", err))
		}
	}
	if err := policy.check(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *policy.file != "" {
		chosen, err := policy.chosen(p)
		if err != nil {
			return p.Fail(inputCode(err), err)
		}
		e.Policies[chosenPolicy] = chosen
		e.Graph.Policies = maps.Clone(e.Graph.Policies)
		if e.Graph.Policies == nil {
			e.Graph.Policies = map[string]callgraph.Source{}
		}
		e.Graph.Policies[chosenPolicy] = callgraph.Source{File: *policy.file}
		e.Graph.Policy = chosenPolicy
	}
	if err := e.Graph.Validate(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	result, own, err := runGraph(ctx, p, e)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	r := graphResult{Verdict: graphVerdict(result, own), Result: result}
	if own != nil {
		r.Own = own.Services
	}
	if *out.page != "" {
		text, err := renderGraph(r, commandLine(p, fs)+" "+shellWord(positional[0]))
		if err == nil {
			err = writeFile(*out.page, text)
		}
		if err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
	}
	if *out.json {
		err = writeJSON(p.Stdout, r)
	} else {
		err = p.Print(graphFigures(r, p.Columns))
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// runGraph runs a graph on a virtual clock, with a progress bar. If a call has another policy than
// Rebound's default, it also runs the graph with the default on every call.
func runGraph(ctx context.Context, p cli.Program, e callgraph.Experiment) (result, own *callgraph.Result, err error) {
	b := newProgressBar(p)
	defer b.clear()
	var ownErr error
	var running sync.WaitGroup
	if withDefault, other := e.WithDefault(); other {
		running.Go(func() { virtual.Run(func() { own, ownErr = withDefault.Run(ctx) }) })
	}
	e.Progress = func(passed time.Duration) { b.set(min(1, float64(passed)/float64(e.Graph.Length))) }
	virtual.Run(func() { result, err = e.Run(ctx) })
	running.Wait()
	return result, own, cmp.Or(err, ownErr)
}

// readGraph reads a graph of ours or of isotope, and the policies that it names.
func readGraph(p cli.Program, name string, data []byte, entry, hang string, rate float64) (callgraph.Experiment, error) {
	e := callgraph.Experiment{Policies: map[string]callgraph.Policy{}}
	var err error
	if callgraph.IsIsotope(name, data) {
		var notes []string
		if e.Graph, notes, err = callgraph.Isotope(name, data, entry, rate); err != nil {
			return e, err
		}
		hang = cmp.Or(hang, e.Graph.Bottom())
		notes = append(notes, fmt.Sprintf("%s: added, because isotope has no disturbance: %s hangs from %v to %v", name, hang, e.Graph.Disturbance.At, e.Graph.Disturbance.End()))
		for _, note := range notes {
			fmt.Fprintln(p.Stderr, note)
		}
	} else {
		if e.Graph, err = callgraph.Read(name, data); err != nil {
			if system := systemOf(name, data); system != "" {
				err = fmt.Errorf("%s: is a file of %s, but a graph is expected: give the file with --config, and a graph", name, system)
			}
			return e, err
		}
		e.Graph.Load.Entry = cmp.Or(entry, e.Graph.Load.Entry)
		e.Graph.Load.Rate = cmp.Or(rate, e.Graph.Load.Rate)
		if err := e.Graph.Validate(); err != nil {
			return e, byFlags(err, givenFlags(entry, rate))
		}
	}
	if hang != "" {
		if err := e.Graph.Hang(hang); err != nil {
			return e, fmt.Errorf("--hang: %w", err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Graph.Policies)) {
		source := e.Graph.Policies[key]
		if source.Inline != nil {
			continue
		}
		file := source.File
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(name), file)
		}
		if e.Policies[key], err = policyOf(p, file, source.Name); err != nil {
			return e, fmt.Errorf("%s: policies.%s: %w", name, key, err)
		}
	}
	return e, nil
}

// givenFlags names the flags that have set values of a graph.
func givenFlags(entry string, rate float64) map[string]string {
	flags := map[string]string{}
	if entry != "" {
		flags["load.entry"] = "--entry"
	}
	if rate != 0 {
		flags["load.rate"] = "--rate"
	}
	return flags
}

// policyOf reads a policy from a file of ours or of another system. name may be empty if the file
// has only one.
func policyOf(p cli.Program, file, name string) (callgraph.Policy, error) {
	from, route := "", ""
	flags := policyFlags{file: &file, route: &route, from: &from}
	shown, data, err := readInput(p, file)
	if err != nil {
		return callgraph.Policy{}, err
	}
	if systemOf(shown, data) != "" {
		route = name
	} else if name != "" {
		cfg := gateway.DefaultConfig()
		if err := decodeConfig(shown, data, &cfg); err != nil {
			return callgraph.Policy{}, err
		}
		own, ok := cfg.Policies[name]
		if !ok {
			return callgraph.Policy{}, fmt.Errorf("%s has no policy %q; its policies are %s", file, name, strings.Join(slices.Sorted(maps.Keys(cfg.Policies)), ", "))
		}
		return callgraph.Policy{Own: own}, nil
	}
	c, err := flags.parse(p, shown, data, http.MethodGet)
	if err != nil {
		return callgraph.Policy{}, err
	}
	only, err := onlyPolicy(c)
	if err != nil && !c.foreign {
		return only, fmt.Errorf("%s has several policies: name one", file)
	}
	return only, err
}

// chosen returns the only policy that the flags choose.
func (f policyFlags) chosen(p cli.Program) (callgraph.Policy, error) {
	c, err := f.choose(p, http.MethodGet)
	if err != nil {
		return callgraph.Policy{}, err
	}
	return onlyPolicy(c)
}

// onlyPolicy returns the only policy of a choice, and fails if there are several.
func onlyPolicy(c choice) (callgraph.Policy, error) {
	if !c.foreign {
		own, err := c.one()
		return callgraph.Policy{Own: own.Policy}, err
	}
	if _, err := c.one(); err != nil {
		var names []string
		for _, o := range c.policies {
			names = append(names, o.Name)
		}
		return callgraph.Policy{}, fmt.Errorf("%s has several policies, choose one: %s", c.file, strings.Join(names, ", "))
	}
	return callgraph.Policy{Client: c.policies[0].Client}, nil
}

// graphVerdict says in a sentence or two what happened, next to the same run with Rebound's default
// on every call, if there is one.
func graphVerdict(r, own *callgraph.Result) string {
	front, worst := r.Front(), r.Worst()
	attempts := fmt.Sprintf("%.1f attempts per call at %s in the worst second", worst.PerEntry.Peak, worst.Name)
	back := graphRecovery(r)
	load := fmt.Sprintf("at %g calls/s", r.Rate)
	verdict := fmt.Sprintf("No storm: at most %s, %s %s.", attempts, back, load)
	switch {
	case front.Before.Success < good:
		verdict = fmt.Sprintf("Fails by itself: %s of the calls end well before the disturbance %s, %s.", percent(front.Before.Success), load, attempts)
	case worst.PerEntry.Peak >= stormFrom:
		verdict = fmt.Sprintf("Retry storm: %s, %s %s.", attempts, back, load)
	case front.RecoveryS == nil && !tooShort(r):
		verdict = fmt.Sprintf("No storm, but no recovery: %s, %s %s.", attempts, back, load)
	}
	if own != nil {
		verdict += fmt.Sprintf(" %s: %.1f attempts, %s.", ours, own.Worst().PerEntry.Peak, graphRecovery(own))
	}
	return verdict
}

// graphRecovery says when the entry was good again.
func graphRecovery(r *callgraph.Result) string {
	switch front := r.Front(); {
	case front.RecoveryS != nil:
		return fmt.Sprintf("recovered after %.1f s", *front.RecoveryS)
	case tooShort(r):
		return "recovery unknown, the run is too short"
	default:
		return fmt.Sprintf("not recovered after %.0f s", r.LengthS-r.DisturbanceToS)
	}
}

// graphTitle describes a run.
func graphTitle(r *callgraph.Result) string {
	name := r.Graph
	if r.Description != "" {
		name += ": " + r.Description
	}
	return fmt.Sprintf("%s\n%g calls/s of %s, for %v; disturbed from %v to %v; seed %d",
		name, r.Rate, r.Entry, seconds(r.LengthS), seconds(r.DisturbanceFromS), seconds(r.DisturbanceToS), r.Seed)
}

// shortRecovery formats the recovery of a service for a table.
func shortRecovery(r *callgraph.Result, s callgraph.ServiceResult) string {
	switch {
	case s.RecoveryS != nil:
		return fmt.Sprintf("%.1fs", *s.RecoveryS)
	case tooShort(r):
		return "unknown"
	}
	return never
}

// tooShort reports whether a run ends before it could show a recovery.
func tooShort(r *callgraph.Result) bool {
	return r.LengthS < r.DisturbanceToS+lab.RecoveryHolds.Seconds()
}

// edgeName names an edge.
func edgeName(e callgraph.Edge) string { return cmp.Or(e.From, "load") + " → " + e.To }

// graphFigures returns the figures of a graph, in lines for a terminal of so many columns.
func graphFigures(r graphResult, columns int) string {
	services := table{header: []string{
		"service", "per call", "worst", "per entry call", "worst", "before", "during", "after", "goodput/s", "recovery", "p99 after, ms", "wasted", "instances", "restarts",
	}, left: 1}
	for i := range r.Services {
		s := &r.Services[i]
		wasted := lab.Work{Served: s.Served, Wasted: s.Wasted}
		services.add(s.Name, ratio(s.PerCall.Mean), ratio(s.PerCall.Peak), ratio(s.PerEntry.Mean), ratio(s.PerEntry.Peak),
			percent(s.Before.Success), percent(s.During.Success), percent(s.After.Success), fmt.Sprintf("%.1f", s.After.Goodput),
			shortRecovery(r.Result, *s), latency(s.After.OK, s.After.P99), percent(wasted.WastedShare()), fmt.Sprint(s.Instances), fmt.Sprint(s.Restarts))
	}
	edges := table{header: []string{"calls", "calls", "per call", "worst", "circuits opened", "endpoints ejected", "policy"}, left: 1}
	for _, e := range r.Edges {
		edges.add(edgeName(e), fmt.Sprint(e.Calls), ratio(e.PerCall.Mean), ratio(e.PerCall.Peak), fmt.Sprint(e.Opened), fmt.Sprint(e.Ejections), e.Policy)
	}
	return fmt.Sprintf(`%s

%s

%s
per call: attempts per call of the service's callers; per entry call: attempts that one call of the
entry causes, as a multiple of those when all is well; worst: in the worst second

%s`, r.Verdict, graphTitle(r.Result), services.text(columns), edges.text(columns))
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }
