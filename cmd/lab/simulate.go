package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// outputFlags choose the form of the figures.
type outputFlags struct {
	json *bool
	page *string
}

func addOutputFlags(fs *flag.FlagSet) outputFlags {
	return outputFlags{
		fs.Bool("json", false, "print all figures as JSON, including those of every second"),
		fs.String("html", "", "write a page with charts to `FILE`"),
	}
}

const aboutSimulate = `simulate runs a policy in a scenario, next to Rebound's default policy. It prints a verdict and the
figures. FILE may also be a file of another system that lab import reads: then each policy in it is run
by that system's rules.`

func simulate(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	out := addOutputFlags(fs)
	if code, done := p.Parse(fs, usage(aboutSimulate, "lab simulate [flags]",
		`  lab simulate --scenario outage-hanging --rate 700 --html outage.html
  lab simulate --config rebound.yaml --route process --scenario mine.yaml
  lab simulate --config virtual-service.yaml --scenario outage-hanging
  kubectl get virtualservice -o yaml | lab simulate --config -
`)); done {
		return code
	}
	s, err := load.read()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	chosen, err := policy.choose(p, s.Method())
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	if !chosen.foreign {
		one, err := chosen.one()
		if err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
		chosen.policies = []namedPolicy{one}
	}
	c := newContest(chosen.policies, false)
	return c.run(ctx, p, fs, load, s, out, format{}, len(chosen.policies) == 1)
}

const aboutCompare = `compare runs a series of policies in one scenario. Each adds to the one before: no retry, immediate
retry, a fixed wait, an exponential wait, full jitter, a budget, a circuit breaker, the policy itself.
Where the policy has no budget or no breaker, the rung has the default one. With a file of another
system, it compares each policy in it with itself without retries, and with Rebound's default.

With --before, it compares the policies of an older version of the file with those of FILE that have the
same name. An empty file has none, and neither has a file of Kubernetes without settings of a system. If
both have none, the exit code is 3.`

func compare(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy, load := addPolicyFlags(fs), addLoadFlags(fs)
	out := addOutputFlags(fs)
	before := fs.String("before", "", "compare with the policies of `FILE`, before a change")
	withBoundary := fs.Bool("boundary", false, "with --before: also find the load from which each policy no longer recovers, with --capacity and --seed; seven more runs a policy, with up to --capacity calls a second")
	var form format
	fs.TextVar(&form, "format", format{}, "print the figures as `FORM`: text, markdown or json")
	if code, done := p.Parse(fs, usage(aboutCompare, "lab compare [flags]",
		`  lab compare --scenario outage-hanging
  lab compare --config rebound.yaml --scenario overload --html overload.html
  lab compare --before old.yaml --config new.yaml --format markdown
`)); done {
		return code
	}
	s, err := load.read()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *withBoundary && *before == "" {
		return p.Fail(cli.ExitUsage, errors.New("--boundary: requires --before FILE"))
	}
	if *withBoundary && load.load.Capacity <= 0 {
		return p.Fail(cli.ExitUsage, errors.New("--boundary: requires --capacity above 0"))
	}
	if *before != "" {
		return compareBefore(ctx, p, fs, policy, *before, *withBoundary, load, s, out, form)
	}
	chosen, err := policy.choose(p, s.Method())
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	if chosen.foreign {
		c := newContest(chosen.policies, true)
		return c.run(ctx, p, fs, load, s, out, form, false)
	}
	one, err := chosen.one()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	return ladderContest(one).run(ctx, p, fs, load, s, out, form, false)
}

// format is the form of a comparison; its zero value is text.
type format struct{ name string }

func (f format) MarshalText() ([]byte, error) {
	if f.name == "" {
		return []byte("text"), nil
	}
	return []byte(f.name), nil
}

func (f *format) UnmarshalText(text []byte) error {
	switch f.name = string(text); f.name {
	case "text", "markdown", "json":
		return nil
	}
	return fmt.Errorf("expected text, markdown or json, got %q", text)
}

// entrant is a policy that runs in a contest.
type entrant struct {
	namedPolicy
	hidden bool // runs only to be compared with
	judged bool // has a verdict
	// against is the number of the run without retries that its saved calls count against.
	against int
}

// contest is a number of policies in one scenario.
type contest struct {
	entrants []entrant
	// reference returns what the verdict on a result compares with.
	reference func(results []*lab.Result, judged *lab.Result) reference
}

// newContest compares policies with Rebound's default, or the default itself with no retries. Each
// is compared with itself without retries, in a row of its own if shown.
func newContest(policies []namedPolicy, shown bool) contest {
	var c contest
	add := func(n namedPolicy, judged, shown bool) {
		at := len(c.entrants)
		c.entrants = append(c.entrants, entrant{namedPolicy: n.withoutRetries(), hidden: !shown, against: at}, entrant{namedPolicy: n, judged: judged, against: at})
	}
	def := namedPolicy{Name: ours, Policy: transport.DefaultPolicy()}
	if len(policies) == 1 && policies[0].same(def) {
		add(policies[0], true, true)
		c.reference = func(results []*lab.Result, _ *lab.Result) reference { return reference{"Without retries", results[0]} }
		return c
	}
	for _, n := range policies {
		add(n, true, shown)
	}
	add(def, false, false)
	c.reference = func(results []*lab.Result, _ *lab.Result) reference { return reference{ours, results[len(results)-1]} }
	return c
}

// ladderContest compares a policy with the usual steps towards one.
func ladderContest(n namedPolicy) contest {
	var c contest
	at := map[string]int{}
	for i, r := range lab.Ladder(n.Policy) {
		at[r.Name] = i
		c.entrants = append(c.entrants, entrant{namedPolicy: namedPolicy{Name: r.Name, Policy: r.Policy}})
	}
	c.entrants[len(c.entrants)-1].judged = true
	c.reference = func(results []*lab.Result, judged *lab.Result) reference {
		better := reference{"With a retry budget and a breaker", results[at["+ breaker"]]}
		if grade(judged, better) > grade(better.result, reference{}) {
			return better
		}
		return reference{"Retries alone (full jitter)", results[at["full jitter"]]}
	}
	return c
}

// policyResult is a policy's name and its result.
type policyResult struct {
	Policy string      `json:"policy"`
	Result *lab.Result `json:"result"`
	// Saved is how many more calls ended well than in the same run without retries.
	Saved *int64 `json:"callsSaved,omitempty"`
}

// outcome is what a contest found.
type outcome struct {
	// Verdict has one sentence for each policy.
	Verdict []string       `json:"verdict"`
	Results []policyResult `json:"results"`
	judged  []sentence
}

// sentence is a verdict on a policy.
type sentence struct{ policy, text string }

// run runs the contest and prints the verdict and the figures. With full, it prints all figures of
// the policy that is judged.
func (c contest) run(ctx context.Context, p cli.Program, fs *flag.FlagSet, load *loadFlags, s lab.Scenario, out outputFlags, form format, full bool) int {
	var all []namedPolicy
	for _, n := range c.entrants {
		all = append(all, n.namedPolicy)
	}
	different, which := distinct(all)
	var experiments []lab.Experiment
	for _, n := range different {
		e, err := load.experiment(n, s)
		if err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
		experiments = append(experiments, e)
	}
	unique, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	results := make([]*lab.Result, len(c.entrants))
	for i, n := range which {
		results[i] = unique[n]
	}
	o, judged := c.outcome(results)
	if err := writePage(*out.page, page{Verdict: o.Verdict, Command: commandLine(p, fs), Policies: texts(c.entrants), Rungs: o.Results}); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	switch {
	case *out.json || form.name == "json":
		err = writeJSON(p.Stdout, o)
	case form.name == "markdown":
		err = p.Print(markdownVerdict(o.judged) + "\n" + markdownTitle(results[0]) + "\n\n" + markdownLadder(o.Results))
	default:
		text := strings.Join(o.Verdict, "\n") + "\n\n" + title(results[0]) + "\n" + ladder(o.Results).text(p.Columns)
		if full {
			text += fmt.Sprintf("\npolicy: %s\n\n", judged.Policy) + figures(judged, p.Columns)
		}
		err = p.Print(text)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// outcome returns the verdict and the shown results, and the last that was judged.
func (c contest) outcome(results []*lab.Result) (o outcome, judged policyResult) {
	several := 0
	for _, n := range c.entrants {
		if n.judged {
			several++
		}
	}
	for i, n := range c.entrants {
		row := policyResult{n.Name, results[i], new(endedWell(results[i]) - endedWell(results[n.against]))}
		if !n.hidden {
			o.Results = append(o.Results, row)
		}
		if n.judged {
			v := sentence{n.Name, verdictOn(results[i], c.reference(results, results[i]))}
			o.judged = append(o.judged, v)
			if several > 1 {
				v.text = oneLine(v.policy) + ": " + v.text
			}
			o.Verdict = append(o.Verdict, v.text)
			judged = row
		}
	}
	return o, judged
}

// endedWell returns the number of calls that ended well.
func endedWell(r *lab.Result) int64 { return int64(r.Before.OK + r.During.OK + r.After.OK) }

// markdownVerdict returns the verdicts as a list of Markdown.
func markdownVerdict(all []sentence) string {
	var b strings.Builder
	for _, s := range all {
		b.WriteString("- " + code(s.policy) + ": " + s.text + "\n")
	}
	return b.String()
}

// runWithProgress runs experiments with a progress bar.
func runWithProgress(ctx context.Context, p cli.Program, experiments []lab.Experiment) ([]*lab.Result, error) {
	b := newProgressBar(p)
	defer b.clear()
	return runAll(ctx, experiments, b.set)
}

func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writePage writes the page to path, if path is not empty.
func writePage(path string, content page) error {
	if path == "" {
		return nil
	}
	text, err := renderPage(content)
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

func writeFile(path string, page []byte) error {
	if err := os.WriteFile(path, page, 0o644); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}
