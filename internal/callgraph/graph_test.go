package callgraph_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// start is a graph without mistakes, to which a case adds one.
const start = `name: g
disturbance: {at: 20s, for: 10s}
load: {entry: a, rate: 10}
`

func TestMistakesInGraphs(t *testing.T) {
	t.Parallel()
	const work = "faults: {latency: {distribution: fixed, value: 10ms}}"
	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", "g.yaml:1:1: is empty, expected a mapping with keys name, description"},
		"no services":    {start, "g.yaml:1:1: services: must be from 1 to 1000, got 0"},
		"no latency":     {start + "services: [{name: a}]", "g.yaml:4:12: services[0].faults.latency: must have a mean above 0s"},
		"disturbed late": {"name: g\nlength: 24h\ndisturbance: {at: 25h, for: 10s}\n", "g.yaml:3:19: disturbance.at: must be from 0s to 24h0m0s, got 25h0m0s"},
		"disturbed long": {"name: g\nlength: 24h\ndisturbance: {for: 25h}\n", "g.yaml:3:20: disturbance.for: must be above 0s and at most 24h0m0s, got 25h0m0s"},
		"no name":        {start + "services: [{name: 'a b', " + work + "}]", `services[0].name: must be letters, digits, dots, dashes or underscores, got "a b"`},
		"same name":      {start + "services: [{name: a, " + work + "}, {name: a, " + work + "}]", "services[1].name: a is the name of services[0] already"},
		"no entry":       {start + "services: [{name: b, " + work + "}]", `load.entry: there is no service "a"`},
		"circle":         {start + "services: [{name: a, " + work + ", calls: [{to: b}]}, {name: b, " + work + ", calls: [{to: a}]}]", "services: must not call each other in a circle: a calls b calls a"},
		"never called":   {start + "services: [{name: a, " + work + "}, {name: b, " + work + "}]", "services[1]: b is never called"},
		"empty step":     {start + "services: [{name: a, " + work + ", calls: [{times: 2}]}]", "services[0].calls[0].to: must be the name of a service, or the step a pause"},
		"times":          {start + "services: [{name: a, " + work + ", calls: [{to: b, times: 0}]}]", "services[0].calls[0].times: must be from 1 to 100, got 0"},
		"probability":    {start + "services: [{name: a, " + work + ", calls: [{to: b, probability: 1.5}]}]", "services[0].calls[0].probability: must be from 0 to 1, got 1.5"},
		"policy":         {start + "services: [{name: a, " + work + ", calls: [{to: b, policy: x}]}, {name: b, " + work + "}]", `services[0].calls[0].policy: there is no policy "x"`},
		"own default":    {start + "policies: {default: {file: x}}\nservices: [{name: a, " + work + "}]", "policies.default: default has a meaning already"},
		"no source":      {start + "policies: {x: {}}\nservices: [{name: a, " + work + "}]", "policies.x: must have either file or inline"},
		"wrong inline":   {start + "policies: {x: {inline: {timeout: -1s}}}\nservices: [{name: a, " + work + "}]", "g.yaml:4:34: policies.x.inline.timeout: must be"},
		"too small":      {start + "services: [{name: a, capacity: 10, " + work + "}]", "services[0].capacity: must be 0 or at least 70 with 1 instances: each has a worker, which needs 10ms for a call on average, got 10"},
		"phase":          {start + "services: [{name: a, phases: [{at: 1s, for: 1s, working: 2}], " + work + "}]", "services[0].phases[0].working: must be from 0 to 1, got 2"},
		"phase too late": {start + "services: [{name: a, phases: [{at: 91s, for: 1s, refuse: true}], " + work + "}]", "services[0].phases[0].at: must be within the length, 1m30s, got 1m31s"},
		"autoscaler":     {start + "services: [{name: a, capacity: 100, autoscaler: {max: 0}, " + work + "}]", "services[0].autoscaler.max: must be from 1 to 1000, got 0"},
		"scaled nothing": {start + "services: [{name: a, autoscaler: {max: 3}, " + work + "}]", "services[0].capacity: must be above 0 with an autoscaler"},
		"liveness":       {start + "services: [{name: a, capacity: 100, liveness: {timeout: 20s}, " + work + "}]", "services[0].liveness.timeout: must be above 0s and at most the period, 10s, got 20s"},
		"readiness":      {start + "services: [{name: a, capacity: 100, readiness: {successes: 0}, " + work + "}]", "services[0].readiness.successes: must be from 1 to 100, got 0"},
		"no hang":        {start + "services: [{name: a, readiness: {}, " + work + "}]", "services[0].capacity: must be above 0 with readiness"},
		"addresses":      {start + "services: [{name: a, endpoints: {resolve: static, addresses: ['10.0.0.1:80']}, " + work + "}]", "services[0].endpoints.addresses: must be left out: the instances are the endpoints"},
		"refresh":        {start + "services: [{name: a, endpoints: {resolve: dns, refresh: 1ms}, " + work + "}]", "services[0].endpoints.refresh: must be"},
		"gone":           {start + "services: [{name: a, phases: [{at: 1s, for: 1s, gone: true}], " + work + "}]", "services[0].phases[0].gone: must be left out without endpoints: {resolve: dns}"},
		"too many calls": {start + "services: [{name: a, " + work + ", calls: [{to: b, times: 100}]}, {name: b, " + work + ", calls: [{to: c, times: 100}]}, {name: c, " + work + "}]", "load.rate: must make at most 100000 calls a second on all services together, makes 101010"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := callgraph.Read("g.yaml", []byte(c.text))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got error %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want %s", err, c.want)
			}
		})
	}
}

func TestIsotope(t *testing.T) {
	t.Parallel()
	g, notes, err := callgraph.Isotope("dir/my graph.yaml", []byte(`
apiVersion: v1alpha1
kind: MockServiceGraph
defaults: {type: grpc, errorRate: 1%, numReplicas: 3, requestSize: 1 KB, script: [{sleep: 10ms}]}
services:
  - {name: a, isEntrypoint: true, errorRate: 0.5, script: [[{call: b}, {call: c}], {sleep: {type: histogram, data: {10ms: 50, 30ms: 50}}}, {call: {service: c, size: 10K}}]}
  - {name: b, type: http, numReplicas: 1, responseSize: 5}
  - {name: c, script: [{sleep: {type: static, data: {time: 5ms}}}]}
  - {name: d, isEntrypoint: true, namespace: x, cluster: y, numRbacPolicies: 3}
`), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	if g.Name != "my-graph" || g.Load.Entry != "a" || len(g.Services) != 3 {
		t.Fatalf("got graph %s with entry %s and %d services, want my-graph, a and the 3 that calls reach", g.Name, g.Load.Entry, len(g.Services))
	}
	a, b, c := g.Services[0], g.Services[1], g.Services[2]
	if a.Instances != 3 || a.Faults.ErrorRate != 0.5 || b.Instances != 1 || b.Faults.ErrorRate != 0.01 {
		t.Errorf("got a %d × %v, b %d × %v, want 3 × 0.5 and 1 × 0.01", a.Instances, a.Faults.ErrorRate, b.Instances, b.Faults.ErrorRate)
	}
	var steps []string
	for _, s := range []callgraph.Service{a, b, c} {
		for _, step := range s.Calls {
			text := s.Name + " " + step.Pause.String() + " " + step.To
			if step.Parallel {
				text += " parallel"
			}
			steps = append(steps, text)
		}
	}
	want := "a 0s b, a 0s c parallel, a 20ms , a 0s c, b 10ms , c 5ms "
	if got := strings.Join(steps, ", "); got != want {
		t.Errorf("got steps %s, want %s", got, want)
	}
	for _, want := range []string{
		"dir/my graph.yaml:4:18: defaults.type: has no meaning here: all calls are HTTP",
		"defaults.requestSize: has no meaning here", "services[0].script[1].sleep.data: is approximated by its mean, 20ms",
		"call.size: has no meaning here", "services[1].responseSize: has no meaning here", "services[3].namespace: has no meaning",
		"services[3].cluster: has no meaning", "services[3].numRbacPolicies: has no meaning", "left out, because calls of a do not reach them: d", "300 calls/s of a",
	} {
		if !strings.Contains(strings.Join(notes, "\n"), want) {
			t.Errorf("no note %q in\n%s", want, strings.Join(notes, "\n"))
		}
	}
	if g, _, err = callgraph.Isotope("g.yaml", []byte("services: [{name: a, isEntrypoint: true, script: ["+strings.Repeat("{call: b},", 99)+"]}, {name: b}]"), "", 0); err != nil || g.Load.Rate != 20 {
		t.Errorf("got rate %v and error %v, want 20, which makes 2000 calls/s", g.Load.Rate, err)
	}
	if g, _, err = callgraph.Isotope("g.yaml", []byte("services: [{name: a}, {name: b, isEntrypoint: true}]"), "a", 7); err != nil || g.Load.Entry != "a" || g.Load.Rate != 7 {
		t.Errorf("got entry %s, rate %v and error %v, want those that were chosen", g.Load.Entry, g.Load.Rate, err)
	}
}

// A sleep of isotope in any of its forms becomes a pause: a time, or the mean of a distribution.
func TestSleepsOfIsotope(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sleep string
		want  time.Duration
	}{
		"duration":       {"10ms", 10 * time.Millisecond},
		"static":         {"{type: static, data: {time: 1.5s}}", 1500 * time.Millisecond},
		"older normal":   {"{type: dist, data: {dist: normal, mean: 1.0, sigma: 0.25}}", time.Second},
		"for one load":   {"{SleepCommand: [{Load: {Min: 0, Max: 100}, type: static, data: {time: 10ms}}]}", 10 * time.Millisecond},
		"for loads":      {"{SleepCommand: [{load: {Min: 0, Max: 299}, type: dist, data: {name: exp, Dist: {Rate: 1}}}, {load: {Min: 300, Max: 400}, type: static, data: {time: 20ms}}, {load: {Max: 999}, type: static, data: {time: 30ms}}]}", 20 * time.Millisecond},
		"without a unit": {"{SleepCommand: [{Type: static, Data: {time: 2.5}}]}", 2500 * time.Microsecond},
		"in JSON":        {`'{"SleepCommand":[{"Load":{"Min":0,"Max":9},"Type":"histogram","Data":{"1s":50,"2s":50}}]}'`, 1500 * time.Millisecond},
		"raw":            {"{SleepCommand: [{type: raw, data: {list: [1000000, 3000000]}}]}", 2 * time.Millisecond},
		"lognormal":      {"{SleepCommand: [{type: dist, data: {name: lognormal, Dist: {Mu: 0, Sigma: 2}}}]}", 7389056 * time.Nanosecond},
		"beta":           {"{SleepCommand: [{type: dist, data: {name: beta, Dist: {Alpha: 1, Beta: 3}}}]}", 250 * time.Microsecond},
		"chi-squared":    {"{SleepCommand: [{type: dist, data: {name: chi-squared, Dist: {K: 3}}}]}", 3 * time.Millisecond},
		"exponential":    {"{SleepCommand: [{type: dist, data: {name: exp, Dist: {Rate: 0.5}}}]}", 2 * time.Millisecond},
		"f":              {"{SleepCommand: [{type: dist, data: {name: f, Dist: {D1: 1, D2: 4}}}]}", 2 * time.Millisecond},
		"gamma":          {"{SleepCommand: [{type: dist, data: {name: gamma, Dist: {Alpha: 3, Beta: 2}}}]}", 1500 * time.Microsecond},
		"gumbel":         {"{SleepCommand: [{type: dist, data: {name: gumbel-right, Dist: {Mu: 1, Beta: 10}}}]}", 6772156 * time.Nanosecond},
		"inverse gamma":  {"{SleepCommand: [{type: dist, data: {name: inverse-gamma, Dist: {Alpha: 3, Beta: 4}}}]}", 2 * time.Millisecond},
		"laplace":        {"{SleepCommand: [{type: dist, data: {name: laplace, Dist: {Mu: 4, Scale: 1}}}]}", 4 * time.Millisecond},
		"pareto":         {"{SleepCommand: [{type: dist, data: {name: pareto, Dist: {Xm: 1, Alpha: 2}}}]}", 2 * time.Millisecond},
		"Student's t":    {"{SleepCommand: [{type: dist, data: {name: studentst, Dist: {Mu: 5, Sigma: 1, Nu: 2}}}]}", 5 * time.Millisecond},
		"weibull":        {"{SleepCommand: [{type: dist, data: {name: weibull, Dist: {K: 1, Lambda: 3}}}]}", 3 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, _, err := callgraph.Isotope("i.yaml", []byte("services: [{name: a, isEntrypoint: true, script: [{sleep: "+c.sleep+"}]}]"), "", 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Services[0].Calls[0].Pause; got != c.want {
				t.Errorf("got a pause of %v, want %v", got, c.want)
			}
		})
	}
}

// Of the pauses for ranges of load, the first counts whose range has the load of the run.
func TestPausesForLoads(t *testing.T) {
	t.Parallel()
	const text = `services: [{name: a, isEntrypoint: true, script: [{sleep: '{"SleepCommand":[
  {"Load":{"Min":0,"Max":50},"Type":"static","Data":{"time":10}},
  {"Load":{"Min":51,"Max":100},"Type":"histogram","Data":{"10ms":50,"30ms":50}}]}'}]}]`
	for rate, want := range map[float64]time.Duration{50: 10 * time.Millisecond, 100: 20 * time.Millisecond} {
		g, notes, err := callgraph.Isotope("i.yaml", []byte(text), "", rate)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Services[0].Calls[0].Pause; got != want {
			t.Errorf("at %v calls/s: got a pause of %v, want %v", rate, got, want)
		}
		if all := strings.Join(notes, "\n"); !strings.Contains(all, fmt.Sprintf("load: is the range with the load of this run, %v calls/s", rate)) ||
			strings.Contains(all, "mean") != (rate == 100) {
			t.Errorf("at %v calls/s: got notes\n%s\nwant those of the chosen entry", rate, all)
		}
	}
}

// A pause without an entry for the load of the run is a mistake only in a service that calls reach.
func TestPausesOfServicesLeftOut(t *testing.T) {
	t.Parallel()
	const alone = `{name: b, script: [{sleep: {SleepCommand: [
  {load: {Max: 9}, type: static, data: {time: 1}}, {load: {Min: 901, Max: 999}, type: static, data: {time: 2}}]}}]}]`
	g, _, err := callgraph.Isotope("i.yaml", []byte("services: [{name: a, isEntrypoint: true}, "+alone), "", 0)
	if err != nil || len(g.Services) != 1 {
		t.Errorf("got %d services and error %v, want one", len(g.Services), err)
	}
	_, _, err = callgraph.Isotope("i.yaml", []byte("services: [{name: a, isEntrypoint: true, script: [{call: b}]}, "+alone), "", 0)
	if want := "i.yaml:1:"; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "services[1].script[0].sleep.SleepCommand: expected an entry for the load of this run, 300 calls/s") {
		t.Errorf("got error %v, want one at %s that names the load", err, want)
	}
}

func TestMistakesInIsotope(t *testing.T) {
	t.Parallel()
	one := func(keys string) string { return "services: [{name: a, isEntrypoint: true, " + keys + "}]" }
	for name, c := range map[string]struct{ text, want string }{
		"broken":            {"services: [", "i.yaml:1"},
		"two documents":     {"services: []\n---\nservices: []", "i.yaml:1:1: expected one document, got 2"},
		"no services":       {"defaults: {}", "i.yaml:1:1: services: is missing"},
		"empty":             {"services: []", "services: there is none"},
		"no entry":          {"services: [{name: a}]", "no service has isEntrypoint: true"},
		"no name":           {"services: [{isEntrypoint: true}]", "services[0].name: is missing"},
		"bad name":          {"services: [{name: a/b}]", `services[0].name: must be letters`},
		"same name":         {"services: [{name: a}, {name: a}]", "i.yaml:1:23: services[1].name: a is the name of another service"},
		"default":           {"default: {}\nservices: []", `i.yaml:1:1: default: unknown key, did you mean "defaults"? allowed: apiVersion, defaults, kind, services`},
		"unknown key":       {one("replicas: 3"), "i.yaml:1:42: services[0].replicas: unknown key"},
		"repeated key":      {one("name: b"), "services[0].name: the key is already given"},
		"kind":              {"kind: Service\nservices: []", `kind: expected MockServiceGraph, got "Service"`},
		"type":              {one("type: tcp"), `services[0].type: expected http or grpc, got "tcp"`},
		"replicas":          {one("numReplicas: 0"), `services[0].numReplicas: must be from 1 to 1000, got "0"`},
		"error rate":        {one("errorRate: 101%"), `services[0].errorRate: must be from 0 to 1, or from 0% to 100%, got "101%"`},
		"not a number":      {one("errorRate: NaN"), `services[0].errorRate: must be from 0 to 1`},
		"a mapping":         {one("errorRate: {}"), "services[0].errorRate: expected a rate such as 0.1 or 10%"},
		"unknown service":   {one("script: [{call: b}]"), `i.yaml:1:58: services[0].script[0].call: there is no service "b"`},
		"no service":        {one("script: [{call: {size: 1}}]"), "services[0].script[0].call.service: is missing"},
		"unknown command":   {one("script: [{cal: b}]"), `services[0].script[0].cal: unknown key, did you mean "call"?`},
		"two commands":      {one("script: [{call: a, sleep: 1s}]"), "services[0].script[0]: expected one command, call or sleep, got 2"},
		"nested":            {one("script: [[[{sleep: 1s}]]]"), "services[0].script[0][0]: must not be a list within a list"},
		"sleep":             {one("script: [{sleep: ten}]"), `services[0].script[0].sleep: expected a duration from 0s to 1h, such as 10ms, got "ten"`},
		"distribution":      {one("script: [{sleep: {type: dist, data: {name: zipf}}}]"), `services[0].script[0].sleep.data: expected a distribution (beta, chi-squared, exp, f, gamma, gumbel-right, inverse-gamma, laplace, lognormal, normal, pareto, studentst, weibull), got "zipf"`},
		"kind of sleep":     {one("script: [{sleep: {type: fixed, data: {}}}]"), `services[0].script[0].sleep.type: expected static, histogram, dist or raw, got "fixed"`},
		"parameters":        {one("script: [{sleep: {type: dist, data: {name: gamma, Dist: {Alpha: 1}}}}]"), "services[0].script[0].sleep.data: expected Alpha, Beta of the distribution gamma"},
		"parameter":         {one("script: [{sleep: {type: dist, data: {name: exp, Dist: {rate: 1}}}}]"), `services[0].script[0].sleep.data.Dist.rate: unknown key, did you mean "Rate"?`},
		"no mean":           {one("script: [{sleep: {type: dist, data: {name: pareto, Dist: {Xm: 1, Alpha: 1}}}}]"), "services[0].script[0].sleep.data: expected a mean from 0s to 1h, got +Inf"},
		"division by zero":  {one("script: [{sleep: {type: dist, data: {name: beta, Dist: {Alpha: 0, Beta: 0}}}}]"), "services[0].script[0].sleep.data: expected a mean from 0s to 1h, got NaN"},
		"no type":           {one("script: [{sleep: {data: {time: 1s}}}]"), "services[0].script[0].sleep.type: is missing"},
		"a negative mean":   {one("script: [{sleep: {type: dist, data: {name: laplace, Dist: {Mu: -1, Scale: 1}}}}]"), "services[0].script[0].sleep.data: expected a mean from 0s to 1h, got -1"},
		"raw":               {one("script: [{sleep: {type: raw, data: {list: []}}}]"), "services[0].script[0].sleep.data.list: expected a list of nanoseconds"},
		"loads":             {one("script: [{sleep: {SleepCommand: [{type: static, data: {time: 1}}, {type: static, data: {time: 2}}]}}]"), "services[0].script[0].sleep.SleepCommand[0].load: is missing: with several entries"},
		"other loads":       {one("script: [{sleep: {SleepCommand: [{load: {Max: 9}, type: static, data: {time: 1}}, {load: {Min: 301, Max: 400}, type: static, data: {time: 2}}]}}]"), "services[0].script[0].sleep.SleepCommand: expected an entry for the load of this run, 300 calls/s"},
		"no entries":        {one("script: [{sleep: {SleepCommand: []}}]"), "services[0].script[0].sleep.SleepCommand: is empty"},
		"no entry's end":    {one("script: [{sleep: {SleepCommand: [{load: {Min: 0}, type: static, data: {time: 1}}, {load: {Max: 400}, type: static, data: {time: 2}}]}}]"), "services[0].script[0].sleep.SleepCommand[0].load.Max: is missing"},
		"end before start":  {one("script: [{sleep: {SleepCommand: [{load: {Min: 9, Max: 8}, type: static, data: {time: 1}}, {load: {Max: 400}, type: static, data: {time: 2}}]}}]"), "services[0].script[0].sleep.SleepCommand[0].load.Max: must be at least Min, 9, got 8"},
		"broken JSON":       {one(`script: [{sleep: '{"SleepCommand": ['}]`), "i.yaml:1:59: services[0].script[0].sleep: expected a duration such as 10ms, or a mapping in JSON"},
		"mistake in JSON":   {one(`script: [{sleep: '{"SleepCommand": [{"Typ": "static"}]}'}]`), "i.yaml:1:59: services[0].script[0].sleep.SleepCommand[0].Typ: unknown key"},
		"no data":           {one("script: [{sleep: {type: static}}]"), "services[0].script[0].sleep.data: is missing"},
		"histogram":         {one("script: [{sleep: {type: histogram, data: {1s: 30}}}]"), "services[0].script[0].sleep.data: the percentages must add up to 100, got 30"},
		"circle":            {one("script: [{call: a}]"), "services must not call each other in a circle: a calls a"},
		"script of nothing": {one("script: yes"), "services[0].script: expected a list"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := callgraph.Isotope("i.yaml", []byte(c.text), "", 0)
			if _, ok := errors.AsType[*mistake.List](err); !ok || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want a list with %s", err, c.want)
			}
		})
	}
	if _, _, err := callgraph.Isotope("i.yaml", []byte(one("")), "b", 0); err == nil || !strings.Contains(err.Error(), `there is no service "b" to be the entry`) {
		t.Errorf("got error %v, want that there is no entry b", err)
	}
}

// FuzzRead checks that no text makes the readers panic, that every mistake has a message, and that
// a graph without mistakes has a bottom.
func FuzzRead(f *testing.F) {
	examples, err := filepath.Glob("../../docs/examples/*.yaml")
	if err != nil || len(examples) == 0 {
		f.Fatalf("got no examples (error %v), want some", err)
	}
	for _, name := range examples {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("services: &s [{name: a, isEntrypoint: true, script: &t [{call: {service: b, hostname: x}}, [{sleep: 1ms}, {call: b}]]}, {name: b, script: *t}]"))
	f.Add([]byte(start + "services: [{name: a, capacity: 100, faults: {latency: {distribution: fixed, value: 10ms}}, autoscaler: {max: 3}, liveness: {}, passOn: {attempts: true}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := callgraph.Read("f", data)
		checkRead(t, g, err)
		if callgraph.IsIsotope("f", data) && err == nil {
			t.Error("a graph of ours is taken for one of isotope")
		}
		g, _, err = callgraph.Isotope("f", data, "", 0)
		checkRead(t, g, err)
	})
}

func checkRead(t *testing.T, g callgraph.Graph, err error) {
	t.Helper()
	if err == nil {
		if g.Bottom() == "" {
			t.Error("a graph without mistakes has no bottom")
		}
		_ = g.Validate() // must not panic
		return
	}
	mistakes, ok := errors.AsType[*mistake.List](err)
	if !ok || len(*mistakes) == 0 {
		t.Fatalf("got error %T %v, want a list of mistakes", err, err)
	}
	for _, m := range *mistakes {
		if m.Message == "" {
			t.Errorf("got a mistake at %q without a message", m.Path)
		}
	}
}
