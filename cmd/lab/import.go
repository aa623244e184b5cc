package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/translate"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const aboutImport = `import reads the retries, timeouts and breakers of another system, from FILE or from the standard input
for -, and prints them as policies of Rebound. What became of every field of the file goes to stderr: carried over, approximated, or dropped,
with the reason. A misspelled field is an error.

The systems are istio, envoy, envoy-gateway, gateway-api, linkerd, dapr, resilience4j, dotnet, grpc, aws,
nginx, haproxy, caddy and traefik.`

// importPolicy runs the command import.
func importPolicy(_ context.Context, p cli.Program) int {
	fs := p.Flags()
	file := fs.String("config", "", "read `FILE`, as without the flag")
	from := fs.String("from", "", "the `SYSTEM` that FILE is for; default: what it shows")
	var positional []string
	p.Args, positional = splitPositional(fs, p.Args)
	if code, done := p.Parse(fs, usage(aboutImport, "lab import [--from SYSTEM] FILE", `  lab import virtual-service.yaml > policies.yaml
  kubectl get virtualservices,destinationrules -o yaml | lab import -
  lab import --from resilience4j src/main/resources/application.yml
`)); done {
		return code
	}
	if *file != "" {
		positional = append(positional, *file)
	}
	if len(positional) != 1 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("expected one FILE, or - for the standard input, got %d", len(positional)))
	}
	name, data, err := readInput(p, positional[0])
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	imported, err := foreign.Import(foreign.System(*from), name, data)
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	results := make([]translate.Result, len(imported.Policies))
	for i, policy := range imported.Policies {
		results[i] = translate.Policy(policy)
	}
	keys := policyKeys(imported.Policies)
	report := translate.Report(imported, results)
	verdict := importVerdict(imported, report)
	if err := writeImported(p.Stdout, name, verdict, imported, keys, results); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	writeImportReport(p.Stderr, name, verdict, report)
	return cli.ExitOK
}

// importVerdict says in a sentence how much of a file the policies have.
func importVerdict(from *foreign.Result, report foreign.Report) string {
	count := map[foreign.Kind]int{}
	for _, e := range report {
		count[e.Kind] += e.Fields
	}
	return fmt.Sprintf("%s of %s: %s carried over, %d approximated, %d dropped.", number(len(from.Policies), "policy", "policies"),
		from.System, number(count[foreign.Carried], "value", "values"), count[foreign.Approximated], count[foreign.Dropped])
}

var notInKeys = regexp.MustCompile(`[^A-Za-z0-9._]+`)

// policyKeys returns a key for each policy: its name, with the characters that a key may have.
func policyKeys(policies []foreign.Policy) []string {
	var keys []string
	for _, p := range policies {
		key := strings.Trim(notInKeys.ReplaceAllString(p.Name, "-"), "-._")
		if len(key) > 56 { // with room for a number
			key = strings.Trim(key[:56], "-._")
		}
		if key == "" {
			key = "policy"
		}
		for n, base := 2, key; slices.Contains(keys, key); n++ {
			key = fmt.Sprintf("%s-%d", base, n)
		}
		keys = append(keys, key)
	}
	return keys
}

// importedPart is the part of a configuration that an import gives.
type importedPart struct {
	Policies  map[string]transport.Policy `yaml:"policies"`
	Upstreams map[string]importedUpstream `yaml:"upstreams,omitempty"`
}

type importedUpstream struct {
	Endpoints importedEndpoints `yaml:"endpoints"`
}

type importedEndpoints struct {
	Resolve endpoint.Resolve `yaml:"resolve"`
	Eject   endpoint.Eject   `yaml:"eject"`
}

func writeImported(w io.Writer, name, verdict string, from *foreign.Result, keys []string, results []translate.Result) error {
	part := importedPart{Policies: map[string]transport.Policy{}, Upstreams: map[string]importedUpstream{}}
	renamed := map[string]string{}
	for i, r := range results {
		key := keys[i]
		part.Policies[key] = r.Policy
		if r.Eject != nil {
			part.Upstreams[key] = importedUpstream{importedEndpoints{endpoint.ResolveDNS, *r.Eject}}
		}
		if key != from.Policies[i].Name {
			renamed[key] = from.Policies[i].Name
		}
	}
	text, err := config.Marshal(part)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n# From %s. A part of a configuration: routes and the upstreams' urls are missing.\n", verdict, oneLine(name))
	for _, key := range slices.Sorted(maps.Keys(renamed)) {
		fmt.Fprintf(&b, "# %s is %s.\n", key, oneLine(renamed[key]))
	}
	b.Write(bytes.TrimSuffix(text, []byte("\n")))
	b.WriteString("\n")
	_, err = io.WriteString(w, b.String())
	return err
}

// oneLine makes text safe for a comment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// writeImportReport writes what became of the fields: those that are approximated or dropped one by
// one, the others in one line.
func writeImportReport(w io.Writer, name, verdict string, report foreign.Report) {
	fmt.Fprintf(w, "%s: %s\n", name, verdict)
	writeEntries(w, "approximated", report, func(e foreign.Entry) bool { return e.Kind == foreign.Approximated })
	writeEntries(w, "dropped", report, func(e foreign.Entry) bool { return e.Kind == foreign.Dropped })
	writeEntries(w, "left out in the file, so the defaults apply", report, func(e foreign.Entry) bool { return e.Kind == foreign.Default && e.Line > 0 })
	writeEntries(w, "different in Rebound", bySentence(report), func(foreign.Entry) bool { return true })
	writePaths(w, "carried over", report, foreign.Carried)
	writePaths(w, "not about failures", report, foreign.Unrelated)
}

func writeEntries(w io.Writer, title string, report foreign.Report, wanted func(foreign.Entry) bool) {
	for _, e := range report {
		if !wanted(e) {
			continue
		}
		if title != "" {
			fmt.Fprintf(w, "\n%s:\n", title)
			title = ""
		}
		fmt.Fprintf(w, "  %s: %s\n", entryPlace(e), e.Sentence)
	}
}

// bySentence returns the entries that belong to a policy and to no place, one for each sentence.
func bySentence(report foreign.Report) foreign.Report {
	var all foreign.Report
	for _, e := range report {
		if e.Kind != foreign.Default || e.Line > 0 {
			continue
		}
		i := slices.IndexFunc(all, func(other foreign.Entry) bool { return other.Sentence == e.Sentence })
		if i < 0 {
			all = append(all, e)
			continue
		}
		all[i].Path += ", " + e.Path
	}
	return all
}

// writePaths writes the paths of a kind in one line, each once, without the numbers of elements.
func writePaths(w io.Writer, title string, report foreign.Report, kind foreign.Kind) {
	var paths []string
	seen := map[string]bool{}
	count := 0
	for _, e := range report {
		if e.Kind != kind {
			continue
		}
		count += e.Fields
		if path := listIndex.ReplaceAllString(e.Path, "[]"); !seen[path] {
			seen[path] = true
			paths = append(paths, path)
		}
	}
	if count > 0 {
		fmt.Fprintf(w, "\n%s, %s: %s\n", title, number(count, "value", "values"), strings.Join(paths, ", "))
	}
}

func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// entryPlace returns "file:line:column: path" without what is not known.
func entryPlace(e foreign.Entry) string {
	if e.Line == 0 {
		return e.Path
	}
	return strings.TrimSuffix(fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Path), ": ")
}

var listIndex = regexp.MustCompile(`\[\d+\]`)
