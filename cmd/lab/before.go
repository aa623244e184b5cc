package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// change is a policy before and after a change of its file.
type change struct {
	Policy string `json:"policy"`
	// Verdict is on the policy after the change; "" if it is gone.
	Verdict string `json:"verdict,omitempty"`
	// Before is nil for a new policy, After for one that is gone.
	Before *lab.Result `json:"before,omitempty"`
	After  *lab.Result `json:"after,omitempty"`
	// The boundaries, in percent of the capacity, if they were asked for.
	BoundaryBefore *lab.Boundary `json:"boundaryBefore,omitempty"`
	BoundaryAfter  *lab.Boundary `json:"boundaryAfter,omitempty"`

	before, after *namedPolicy
}

// changes is what a change of a file does.
type changes struct {
	Verdict   []string `json:"verdict"`
	Changes   []change `json:"changes"`
	Unchanged []string `json:"unchanged"` // names of policies
}

// compareBefore compares the policies of the file before, an older version, with those of --config.
func compareBefore(ctx context.Context, p cli.Program, fs *flag.FlagSet, policy policyFlags, before string, withBoundary bool,
	load *loadFlags, s lab.Scenario, out outputFlags, form format,
) int {
	if *policy.file == "" {
		return p.Fail(cli.ExitUsage, errors.New("--before: requires --config FILE"))
	}
	if *policy.file == "-" && before == "-" {
		return p.Fail(cli.ExitUsage, errors.New("--before: the standard input is --config already"))
	}
	after, older, err := readSides(p, policy, before, s.Method())
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	c := pair(older, after)
	if err := c.run(ctx, p, load, s); err != nil {
		return p.Fail(exitCode(err), err)
	}
	if withBoundary {
		if err := c.findBoundaries(ctx, p, load, s); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
	}
	c.judge()
	if err := writePage(*out.page, page{Verdict: c.Verdict, Command: commandLine(p, fs), Policies: c.texts(), Rungs: c.results()}); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	switch {
	case *out.json || form.name == "json":
		err = writeJSON(p.Stdout, c)
	case form.name == "markdown":
		err = p.Print(c.markdown(withBoundary))
	default:
		err = p.Print(c.text(withBoundary, p.Columns))
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// readSides returns the policies of --config and of the older file. An empty file has none, and
// neither has a file of Kubernetes in which no system shows, such as one with a Deployment only. If
// both are like that, the error is a *[foreign.NoPolicies].
func readSides(p cli.Program, policy policyFlags, before, method string) (after, older []namedPolicy, err error) {
	type side struct {
		name string
		data []byte
	}
	var sides [2]side
	for i, file := range []string{*policy.file, before} {
		if sides[i].name, sides[i].data, err = readInput(p, file); err != nil {
			return nil, nil, err
		}
	}
	var policies [2][]namedPolicy
	var nothing *foreign.NoPolicies
	for i, s := range sides {
		if len(bytes.TrimSpace(s.data)) == 0 {
			continue // no policies yet, or no more
		}
		// A file is for the system that its own text shows, or else the other version's text.
		of, from := policy, *policy.from
		if from == "" && !foreign.Own(s.data) && systemOf(s.name, s.data) == "" && foreign.NoSettings(s.name, s.data) == nil {
			from = string(systemOf(sides[1-i].name, sides[1-i].data))
		}
		of.from = &from
		c, err := of.parse(p, s.name, s.data, method)
		if none, ok := errors.AsType[*foreign.NoPolicies](err); ok {
			fmt.Fprintf(p.Stderr, "%v; so it counts as a file without policies\n", none)
			nothing = none
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		policies[i] = c.policies
	}
	if nothing != nil && len(policies[0])+len(policies[1]) == 0 {
		return nil, nil, nothing
	}
	return policies[0], policies[1], nil
}

// exitNothing is the exit code for a file that is sound, but has no policies.
const exitNothing = 3

// inputCode returns the exit code for an error in a file.
func inputCode(err error) int {
	if _, ok := errors.AsType[*foreign.NoPolicies](err); ok {
		return exitNothing
	}
	return cli.ExitUsage
}

// pair finds the policies that differ, by their names.
func pair(before, after []namedPolicy) *changes {
	c := &changes{Changes: []change{}, Unchanged: []string{}, Verdict: []string{}}
	old := map[string]*namedPolicy{}
	for i := range before {
		old[before[i].Name] = &before[i]
	}
	for i := range after {
		n := &after[i]
		was := old[n.Name]
		delete(old, n.Name)
		if was != nil && was.same(*n) {
			c.Unchanged = append(c.Unchanged, n.Name)
			continue
		}
		c.Changes = append(c.Changes, change{Policy: n.Name, before: was, after: n})
	}
	for i := range before {
		if n := &before[i]; old[n.Name] != nil {
			c.Changes = append(c.Changes, change{Policy: n.Name, before: n})
		}
	}
	return c
}

// each calls do for the policy before and the policy after each change, if there is one.
func (c *changes) each(do func(n namedPolicy, result **lab.Result, boundary **lab.Boundary)) {
	for i := range c.Changes {
		h := &c.Changes[i]
		if h.before != nil {
			do(*h.before, &h.Before, &h.BoundaryBefore)
		}
		if h.after != nil {
			do(*h.after, &h.After, &h.BoundaryAfter)
		}
	}
}

func (c *changes) run(ctx context.Context, p cli.Program, load *loadFlags, s lab.Scenario) error {
	var experiments []lab.Experiment
	var into []**lab.Result
	var wrong error
	c.each(func(n namedPolicy, result **lab.Result, _ **lab.Boundary) {
		e, err := load.experiment(n, s)
		if err != nil {
			wrong = usageError{err}
		}
		experiments, into = append(experiments, e), append(into, result)
	})
	if wrong != nil {
		return wrong
	}
	results, err := runWithProgress(ctx, p, experiments)
	for i, r := range results {
		*into[i] = r
	}
	return err
}

// usageError is a mistake in the flags or files.
type usageError struct{ error }

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return cli.ExitUsage
	}
	return cli.ExitFailed
}

func (c *changes) findBoundaries(ctx context.Context, p cli.Program, load *loadFlags, s lab.Scenario) error {
	var policies []namedPolicy
	var into []**lab.Boundary
	c.each(func(n namedPolicy, _ **lab.Result, b **lab.Boundary) {
		policies, into = append(policies, n), append(into, b)
	})
	const seeds = 1 // a boundary for each policy costs as much as several runs
	found, err := findBoundaries(ctx, p, policies, s.ForBoundary(), load.load, seeds)
	for i := range found {
		*into[i] = &found[i].Boundary
	}
	return err
}

func (c *changes) judge() {
	for i := range c.Changes {
		h := &c.Changes[i]
		switch {
		case h.After == nil:
			h.Verdict = ""
			c.Verdict = append(c.Verdict, oneLine(h.Policy)+" is gone.")
			continue
		case h.Before == nil:
			h.Verdict = "New. " + verdictOn(h.After, reference{})
		default:
			switch before, after := grade(h.Before, reference{}), grade(h.After, reference{}); {
			case after > before:
				h.Verdict = "Worse. "
			case after < before:
				h.Verdict = "Better. "
			}
			h.Verdict += verdictOn(h.After, reference{"Before", h.Before})
		}
		c.Verdict = append(c.Verdict, oneLine(h.Policy)+": "+h.Verdict)
	}
	if len(c.Changes) == 0 {
		c.Verdict = append(c.Verdict, "No policy has changed.")
	}
}

// table returns the figures before and after each change. name writes the name of a policy.
func (c *changes) table(withBoundary bool, name func(string) string) table {
	t := table{header: []string{"policy", "worst second, attempts a call", "recovery", "ended well during", "after"}, left: 1}
	if withBoundary {
		t.header = append(t.header, "no recovery from")
	}
	for _, h := range c.Changes {
		cell := func(figure func(*lab.Result) string) string {
			return arrow(h.Before, h.After, figure)
		}
		row := []string{
			name(h.Policy),
			cell(func(r *lab.Result) string { return fmt.Sprintf("%.2f", r.PeakAmplification) }),
			cell(recovery),
			cell(func(r *lab.Result) string { return percent(r.During.Success) }),
			cell(func(r *lab.Result) string { return percent(r.After.Success) }),
		}
		if withBoundary {
			row = append(row, arrow(h.BoundaryBefore, h.BoundaryAfter, noRecoveryFrom))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// arrow returns a figure before and after a change; a dash if there is none.
func arrow[T any](before, after *T, figure func(*T) string) string {
	side := func(r *T) string {
		if r == nil {
			return "-"
		}
		return figure(r)
	}
	return side(before) + " → " + side(after)
}

func noRecoveryFrom(b *lab.Boundary) string {
	if b.Percent >= lab.BoundarySteps {
		return "none"
	}
	return fmt.Sprintf("%d %%", b.Percent)
}

// one returns any of the results.
func (c *changes) one() *lab.Result {
	if len(c.Changes) == 0 {
		return nil
	}
	return cmp.Or(c.Changes[0].After, c.Changes[0].Before)
}

func (c *changes) text(withBoundary bool, columns int) string {
	text := strings.Join(c.Verdict, "\n") + "\n"
	if r := c.one(); r != nil {
		text += "\n" + title(r) + "\n" + c.table(withBoundary, oneLine).text(columns)
	}
	if len(c.Unchanged) > 0 {
		text += "\nunchanged: " + oneLine(strings.Join(c.Unchanged, ", ")) + "\n"
	}
	return text
}

func (c *changes) markdown(withBoundary bool) string {
	var b strings.Builder
	for _, h := range c.Changes {
		verdict := h.Verdict
		if h.After == nil {
			verdict = "is gone."
		}
		b.WriteString("- " + code(h.Policy) + ": " + verdict + "\n")
	}
	if r := c.one(); r != nil {
		b.WriteString("\n" + markdownTitle(r) + "\n\n" + c.table(withBoundary, code).markdown())
	} else {
		b.WriteString("No policy has changed.\n")
	}
	if len(c.Unchanged) > 0 {
		b.WriteString("\nUnchanged:")
		for i, name := range c.Unchanged {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(" " + code(name))
		}
		b.WriteString(".\n")
	}
	return b.String()
}

// results returns the results of all changes, for a page.
func (c *changes) results() []policyResult {
	var all []policyResult
	for _, h := range c.Changes {
		if h.Before != nil {
			all = append(all, policyResult{Policy: h.Policy + ", before", Result: h.Before})
		}
		if h.After != nil {
			all = append(all, policyResult{Policy: h.Policy, Result: h.After})
		}
	}
	return all
}

func (c *changes) texts() []policyText {
	var all []policyText
	for _, h := range c.Changes {
		if h.before != nil {
			all = append(all, policyText{h.Policy + ", before", h.before.text()})
		}
		if h.after != nil {
			all = append(all, policyText{h.Policy, h.after.text()})
		}
	}
	return all
}
