package main

import (
	"bytes"
	"encoding/json"
	"html"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

const examples = "../../docs/examples/"

// The graphs of docs/graph.md give the figures that it shows.
func TestGraphExamples(t *testing.T) {
	t.Parallel()
	for name, services := range map[string]int{"three-tiers": 3, "shop": 5, "isotope": 5} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "three-tiers" {
				t.Skip("makes very many calls")
			}
			t.Parallel()
			page := filepath.Join(t.TempDir(), "page.html")
			code, out, errs := execute(t, "graph", examples+name+".yaml", "--html", page)
			if code != cli.ExitOK {
				t.Fatalf("got exit code %d, stderr %q, want 0", code, errs)
			}
			golden.File(t, filepath.Join("testdata", "graph-"+name+".txt"), out+"\nstderr:\n"+strings.ReplaceAll(filepath.ToSlash(errs), examples, "docs/examples/"))
			text := readPage(t, page)
			if charts := checkCharts(t, text); charts != 2*services {
				t.Errorf("got %d charts, want two of each of the %d services", charts, services)
			}
			verdict, _, _ := strings.Cut(out, "\n")
			if boxes := bytes.Count(text, []byte(`class="box `)); boxes != services || !strings.Contains(html.UnescapeString(string(text)), verdict) {
				t.Errorf("got %d boxes, want %d, and the verdict in the page", boxes, services)
			}
		})
	}
}

const twoServices = `{name: two, length: 20s, disturbance: {at: 8s, for: 2s}, load: {entry: a, rate: 50},
  services: [{name: a, capacity: 100, faults: {latency: {distribution: fixed, value: 20ms}}, calls: [{to: b}]},
    {name: b, capacity: 100, faults: {latency: {distribution: fixed, value: 20ms}}}]}`

func TestGraph(t *testing.T) {
	t.Parallel()
	file := files.Temp(t, "two.yaml", twoServices)
	figures := func(args ...string) (r graphResult) {
		code, out, errs := execute(t, append([]string{"graph", file, "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &r); code != cli.ExitOK || errs != "" || err != nil {
			t.Fatalf("got exit code %d, error %v, stderr %q, stdout %.200q, want 0 and a result as JSON", code, err, errs, out)
		}
		return r
	}
	r := figures()
	if r.Verdict != "No storm: at most 1.0 attempts per call at a in the worst second, recovered after 0.0 s at 50 calls/s." || len(r.Services) != 2 || len(r.Services[0].Series) != 20 {
		t.Errorf("got verdict %q, %d services and %d seconds, want no storm, 2 and 20", r.Verdict, len(r.Services), len(r.Services[0].Series))
	}
	if r.Own != nil {
		t.Errorf("got %d services with the default, want none: it is the policy already", len(r.Own))
	}
	r = figures("--hang", "b", "--rate", "30", "--for", "15s", "--seed", "7")
	if s := r.Services[1]; s.During.Success > 0.2 || r.Rate != 30 || len(s.Series) != 15 || r.Seed != 7 {
		t.Errorf("got %v success of b, rate %v, %d seconds and seed %d, want those of the flags", s.During.Success, r.Rate, len(s.Series), r.Seed)
	}
	stubborn := files.Temp(t, "rebound.yaml", `routes: [{name: a, match: /a, upstream: "http://x", policy: stubborn}]
policies: {stubborn: {timeout: 10s, attemptTimeout: 200ms, retry: {maxAttempts: 5, backoff: {base: 1ms, max: 1ms}, budget: {ratio: 100, burst: 1000000}}, breaker: {failureRatio: 0, consecutiveFailures: 0}, concurrency: {max: -1}}}`)
	if r = figures("--hang", "b", "--config", stubborn); !strings.HasPrefix(r.Verdict, "Retry storm: ") || !strings.Contains(r.Verdict, ". Rebound's default: 1.") || r.Edges[1].Policy != "--config" || len(r.Own) != 2 {
		t.Errorf("got verdict %q with policy %s, want a storm of the policy of --config, next to the default", r.Verdict, r.Edges[1].Policy)
	}
}

func TestGraphMistakes(t *testing.T) {
	t.Parallel()
	graph := func(text string) string { return files.Temp(t, "graph.yaml", text) }
	with := func(old, changed string) string {
		if !strings.Contains(twoServices, old) {
			t.Fatalf("no %q in the graph", old)
		}
		return graph(strings.Replace(twoServices, old, changed, 1))
	}
	two := "routes: [{name: a, match: /a, upstream: 'http://x'}, {name: b, match: /b, upstream: 'http://x', policy: other}]\npolicies: {other: {timeout: 4s}}"
	rebound := files.Temp(t, "rebound.yaml", two)
	istio, err := filepath.Abs(istio)
	if err != nil {
		t.Fatal(err)
	}
	policies := func(source string) string { return with("load:", "policies: {p: "+source+"}, load:") }
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no file":            {nil, "expected one FILE"},
		"two files":          {[]string{"a", "b"}, "expected one FILE, or - for the standard input, got 2"},
		"missing":            {[]string{"none.yaml"}, "none.yaml: cannot be read"},
		"unknown key":        {[]string{with("entry:", "entri:")}, `graph.yaml:1:65: load.entri: unknown key, did you mean "entry"?`},
		"unknown service":    {[]string{with("to: b", "to: c")}, `services[0].calls[0].to: there is no service "c"`},
		"unknown to hang":    {[]string{graph(twoServices), "--hang", "c"}, `--hang: there is no service "c"`},
		"nothing to hang":    {[]string{with("capacity: 100", "capacity: 0"), "--hang", "a"}, "lab graph: --hang: service a has no capacity"},
		"too short":          {[]string{graph(twoServices), "--for", "9s"}, "lab graph: --for: disturbance: must end within the length, 9s, got 10s"},
		"no such entry":      {[]string{graph(twoServices), "--entry", "c"}, `lab graph: --entry: there is no service "c"`},
		"rate":               {[]string{graph(twoServices), "--rate", "-3"}, "lab graph: --rate: must be above 0"},
		"no such policy":     {[]string{policies("{file: " + rebound + ", name: none}")}, `policies.p: ` + rebound + ` has no policy "none"; its policies are default, other`},
		"which policy":       {[]string{policies("{file: " + rebound + "}")}, rebound + " has several policies: name one"},
		"no policy file":     {[]string{policies("{file: none.yaml}")}, "none.yaml: cannot be read"},
		"no such in theirs":  {[]string{policies("{file: " + istio + ", name: none}")}, `has no policy "none"; its policies are ratings/0`},
		"route of nothing":   {[]string{graph(twoServices), "--route", "a"}, "--route: requires --config"},
		"mistake in isotope": {[]string{graph("services: [{name: a, isEntrypoint: true, scripts: []}]")}, `graph.yaml:1:42: services[0].scripts: unknown key, did you mean "script"? allowed: `},
		"isotope to hang":    {[]string{graph("services: [{name: a, isEntrypoint: true}]"), "--hang", "b"}, `--hang: there is no service "b"`},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := execute(t, append([]string{"graph"}, c.args...)...)
			if code != cli.ExitUsage || !strings.Contains(errs, c.want) || out != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q, want 2 and %q", code, out, errs, c.want)
			}
		})
	}
}

// The command on the page can be pasted, also if the path of the graph has a space.
func TestGraphCommandQuotesThePath(t *testing.T) {
	t.Parallel()
	file, page := files.Temp(t, "my graph's.yaml", twoServices), filepath.Join(t.TempDir(), "page.html")
	if code, _, errs := execute(t, "graph", file, "--for", "30s", "--html", page); code != cli.ExitOK {
		t.Fatalf("got exit code %d, stderr %q", code, errs)
	}
	want := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	if text := html.UnescapeString(string(readPage(t, page))); !strings.Contains(text, want) {
		t.Errorf("the page has no %s", want)
	}
}
