package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/pkg/lab"
)

const aboutCheck = `check checks every policy that a route of the file uses against limits. The exit code is 1 if one
is broken, and 3 if FILE has no policies. FILE may also be a file of another system that lab import reads: then each policy in it is
run by that system's rules.

The form github prints a workflow command for each broken limit, which GitHub shows at the policy's line.
The form junit is for test reports.

The file of limits may have these keys. A scenario's path begins at the directory of that file. The load
below is the default:

  amplification: 1.2               # attempts per call in any second, in outage
                                   # and outage-hanging
  recoverWithin: 5s                # until 95 % of the calls end well, likewise
  successDuringErrorRate30: 0.965  # share of calls that end well in
                                   # error-rate-30; also 10 and 60
  scenarios:                       # limits for any scenario
    - {scenario: herd, amplification: 1.5, recoverWithin: 3s,
       successDuring: 0.5, successAfter: 0.99, wasted: 0.1}
  load: {rate: 500, clients: 20, capacity: 1000, seed: 1, seeds: 3}`

// finding is the result of checking a policy against one limit.
type finding struct {
	Policy string `json:"policy"`
	lab.Finding
	line int // of the policy in its file; 0 if it is not in one
}

// checked is what a check found.
type checked struct {
	Verdict  string    `json:"verdict"`
	Findings []finding `json:"findings"`
	file     string    // of the policies; "" without one
	broken   int
}

func check(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addPolicyFlags(fs)
	file := fs.String("limits", "", "read the limits, YAML, from `FILE`")
	var form reportForm
	fs.TextVar(&form, "format", reportForm{}, "print the findings as `FORM`: text, github, junit or json")
	asJSON := fs.Bool("json", false, "the same as --format json")
	if code, done := p.Parse(fs, usage(aboutCheck, "lab check --config FILE --limits FILE [flags]",
		`  lab check --config rebound.yaml --limits limits.yaml
  lab check --config virtual-service.yaml --limits limits.yaml --format github
  lab check --config rebound.yaml --limits limits.yaml --format junit > lab.xml
`)); done {
		return code
	}
	if *file == "" {
		return p.Fail(cli.ExitUsage, errors.New("--limits: a file with limits is required\nsee lab check --help"))
	}
	if err := policy.check(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *asJSON {
		form.name = "json"
	}
	limits, err := lab.LoadLimits(*file)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	trials, err := limits.Trials()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	var methods []string
	for _, t := range trials {
		if method := t.Scenario.Method(); !slices.Contains(methods, method) {
			methods = append(methods, method)
		}
	}
	chosen, err := policy.choose(p, methods...)
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	run := chosen.policies
	if chosen.foreign {
		run = withDefault(run) // the verdict compares with it
	}
	different, which := distinct(run)
	var experiments []lab.Experiment
	for _, n := range different {
		for _, t := range trials {
			for _, load := range t.Loads {
				e := lab.Experiment{Policy: n.Policy, Client: n.Client, Scenario: t.Scenario, Load: load}
				if err := e.Validate(); err != nil {
					return p.Fail(cli.ExitUsage, err)
				}
				experiments = append(experiments, e)
			}
		}
	}
	unique, err := runWithProgress(ctx, p, experiments)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	var results []*lab.Result
	each := len(experiments) / len(different)
	for _, n := range which {
		results = append(results, unique[n*each:(n+1)*each]...)
	}
	c := judge(chosen, trials, results)
	if err := form.write(p, c); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if c.broken > 0 {
		return p.Fail(cli.ExitFailed, fmt.Errorf("%d of %d limits broken", c.broken, len(c.Findings)))
	}
	return cli.ExitOK
}

// judge judges results, which are in the order of the policies and of the trials. Those of
// Rebound's default come last, if the policies are another system's.
func judge(chosen choice, trials []lab.Trial, results []*lab.Result) checked {
	c := checked{file: chosen.file}
	each := 0 // results of a policy
	for _, t := range trials {
		each += len(t.Loads)
	}
	worst, worstGrade, worstPolicy, ref := (*lab.Result)(nil), -1, "", reference{}
	for k, n := range chosen.policies {
		own := results[k*each : (k+1)*each]
		for i, r := range own {
			var next reference
			if chosen.foreign {
				next = reference{ours, results[len(chosen.policies)*each+i]}
			}
			if g := grade(r, next); g > worstGrade {
				worst, worstGrade, worstPolicy, ref = r, g, n.Name, next
			}
		}
		for _, t := range trials {
			for _, f := range t.Judge(own[:len(t.Loads)]) {
				c.Findings = append(c.Findings, finding{n.Name, f, n.line})
				if f.Broken {
					c.broken++
				}
			}
			own = own[len(t.Loads):]
		}
	}
	c.Verdict = fmt.Sprintf("%d of %d limits broken.", c.broken, len(c.Findings))
	if c.broken == 0 {
		c.Verdict = fmt.Sprintf("All %d limits hold.", len(c.Findings))
	}
	c.Verdict += fmt.Sprintf(" %s, scenario %s: %s", oneLine(worstPolicy), worst.Scenario, verdictOn(worst, ref))
	return c
}

// reportForm is the form of the findings; its zero value is text.
type reportForm struct{ name string }

func (f reportForm) MarshalText() ([]byte, error) { return format(f).MarshalText() }

func (f *reportForm) UnmarshalText(text []byte) error {
	switch f.name = string(text); f.name {
	case "text", "github", "junit", "json":
		return nil
	}
	return fmt.Errorf("expected text, github, junit or json, got %q", text)
}

func (f reportForm) write(p cli.Program, c checked) error {
	switch f.name {
	case "json":
		return writeJSON(p.Stdout, c)
	case "github":
		return writeAnnotations(p.Stdout, c)
	case "junit":
		return writeJUnit(p.Stdout, c)
	}
	t := table{header: []string{"", "policy", "scenario", "limit", "found", "seed"}, left: 6}
	for _, f := range c.Findings {
		verdict := "ok"
		if f.Broken {
			verdict = "BROKEN"
		}
		t.add(verdict, oneLine(f.Policy), f.Scenario, f.Limit, f.Found, fmt.Sprint(f.Seed))
	}
	return p.Print(c.Verdict + "\n\n" + t.text(p.Columns))
}

// sentence describes a finding.
func (f finding) sentence() string {
	return fmt.Sprintf("%s, scenario %s: %s, found %s (seed %d)", oneLine(f.Policy), f.Scenario, f.Limit, f.Found, f.Seed)
}

// writeAnnotations writes a workflow command of GitHub for each broken limit.
func writeAnnotations(w io.Writer, c checked) error {
	var b strings.Builder
	b.WriteString(c.Verdict + "\n")
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range c.Findings {
		if !f.Broken {
			continue
		}
		at := ""
		if f.line > 0 {
			at = fmt.Sprintf("file=%s,line=%d,", property.Replace(filepath.ToSlash(filepath.Clean(c.file))), f.line)
		}
		fmt.Fprintf(&b, "::error %stitle=%s::%s\n", at, property.Replace("lab check: "+oneLine(f.Policy)), data.Replace(f.sentence()))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type junitSuites struct {
	XMLName  xml.Name   `xml:"testsuites"`
	Tests    int        `xml:"tests,attr"`
	Failures int        `xml:"failures,attr"`
	Suite    junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Cases     []junitCase `xml:"testcase"`
	SystemOut string      `xml:"system-out"` // the verdict
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Line    int           `xml:"line,attr,omitempty"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// writeJUnit writes a test case for each limit.
func writeJUnit(w io.Writer, c checked) error {
	suite := junitSuite{Name: "lab check", Tests: len(c.Findings), Failures: c.broken, SystemOut: c.Verdict}
	for _, f := range c.Findings {
		of := junitCase{Class: oneLine(f.Policy), Name: f.Scenario + ": " + f.Limit, Line: f.line}
		if f.line > 0 {
			of.File = filepath.ToSlash(c.file)
		}
		if f.Broken {
			of.Failure = &junitFailure{"found " + f.Found, "limit", f.sentence()}
		}
		suite.Cases = append(suite.Cases, of)
	}
	text, err := xml.MarshalIndent(junitSuites{Tests: suite.Tests, Failures: suite.Failures, Suite: suite}, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, text)
	return err
}
