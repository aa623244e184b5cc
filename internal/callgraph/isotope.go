package callgraph

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// What a graph of isotope does not say. Its services serve as many calls as they get when all is
// well, over isotopeLoad, but each instance has at least isotopeWorkers.
const (
	isotopeRate    = 300.0  // from outside, but
	isotopeCalls   = 2000.0 // on all services together, so that large graphs do not take minutes
	isotopeClient  = 15.0   // of one client
	isotopeLoad    = 0.6
	isotopeService = 5 * time.Millisecond
	isotopeWorkers = 2
)

// isotopeKeys matches a key of a service that only isotope has.
var isotopeKeys = regexp.MustCompile(`(?m)\b(isEntrypoint|numReplicas|script|numRbacPolicies)"?\s*:`)

// IsIsotope reports whether data is a service graph of Istio's isotope, and not a [Graph], which
// always has a load.
func IsIsotope(name string, data []byte) bool {
	keys, err := config.Keys(name, data)
	if err != nil || slices.Contains(keys, "load") || !slices.Contains(keys, "services") {
		return false
	}
	return slices.Contains(keys, "defaults") || slices.Contains(keys, "kind") || isotopeKeys.Match(data)
}

// Isotope reads a service graph of Istio's isotope (github.com/istio/tools/tree/master/isotope).
// The load calls entry at a rate; without them, the first service with isEntrypoint at a rate that
// the notes say. Notes also say what of the file has no meaning here, and what was added. The error
// is a *[mistake.List].
func Isotope(name string, data []byte, entry string, rate float64) (g Graph, notes []string, err error) {
	g, r, err := readIsotope(name, data, entry, rate)
	if err == nil && rate == 0 && r.byLoad {
		// Some pauses depend on the load, which is known now.
		g, r, err = readIsotope(name, data, entry, g.Load.Rate)
	}
	if err != nil {
		return Graph{}, nil, err
	}
	return g, r.notes, nil
}

func readIsotope(name string, data []byte, entry string, rate float64) (g Graph, r *isotope, err error) {
	r = &isotope{name: name, numbers: map[string]int{}, load: rate, unmatched: map[int]mistake.List{}}
	roots, err := config.Documents(name, data)
	if err != nil {
		return Graph{}, nil, err
	}
	if len(roots) != 1 {
		return Graph{}, nil, mistake.List{{File: name, Line: 1, Column: 1, Message: fmt.Sprintf("expected one document, got %d", len(roots))}}.Err()
	}
	g.SetDefaults()
	g.Name = graphName(name)
	g.Description = "A service graph of isotope."
	g.Disturbance = lab.Span{At: 20 * time.Second, For: 10 * time.Second}
	g.Load.Rate = rate
	r.graph(roots[0], &g)
	if len(r.found) == 0 {
		r.finish(&g, entry)
	}
	if len(r.found) > 0 {
		slices.SortStableFunc(r.found, func(a, b *mistake.Mistake) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return Graph{}, nil, r.found.Err()
	}
	return g, r, nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// graphName returns the name of a file without its extension.
func graphName(file string) string {
	base := filepath.Base(file)
	return cmp.Or(strings.Trim(notInNames.ReplaceAllString(strings.TrimSuffix(base, filepath.Ext(base)), "-"), "-"), "graph")
}

// isotope is a reader of one file.
type isotope struct {
	name    string
	found   mistake.List
	notes   []string
	numbers map[string]int // of the services, by name
	entries []string
	scripts []script
	visited int
	load    float64 // calls of the load a second; 0 if it is not known yet
	byLoad  bool    // a pause depends on the load

	reading   int                  // the service of the script that is read
	unmatched map[int]mistake.List // pauses without an entry for the load, by service
}

// script is the script of a service, whose services are looked up when all are known.
type script struct {
	service int
	node    *yaml.Node
	path    string
}

func (r *isotope) mistake(n *yaml.Node, path, format string, args ...any) *mistake.Mistake {
	m := mistake.New(path, format, args...)
	m.File, m.Line, m.Column = r.name, n.Line, n.Column
	return m
}

func (r *isotope) fail(n *yaml.Node, path, format string, args ...any) {
	r.found = append(r.found, r.mistake(n, path, format, args...))
}

func (r *isotope) note(n *yaml.Node, path, format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf("%s:%d:%d: %s: %s", r.name, n.Line, n.Column, path, fmt.Sprintf(format, args...)))
}

// maxValues bounds the work of one file. A few lines of nested aliases can expand to billions of
// values.
const maxValues = 100_000

// visit counts a value and reports whether reading may go on.
func (r *isotope) visit(n *yaml.Node, path string) bool {
	if r.visited++; r.visited == maxValues {
		r.fail(n, path, "expected at most %d values in a file, aliases included", maxValues)
	}
	return r.visited < maxValues
}

// plain follows an alias.
func plain(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// mapping calls the reader of every key. A key without one is a mistake.
func (r *isotope) mapping(n *yaml.Node, path string, readers map[string]func(n *yaml.Node, path string)) {
	n = plain(n)
	if !r.visit(n, path) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, path, "expected a mapping")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := plain(n.Content[i])
		read, known := readers[key.Value]
		at := config.Join(path, clip(key.Value))
		switch {
		case key.Kind != yaml.ScalarNode:
			r.fail(key, path, "expected a string as key")
		case seen[key.Value]:
			r.fail(key, at, "the key is already given")
		case !known:
			var names []string
			for name := range readers {
				names = append(names, name)
			}
			slices.Sort(names)
			meant := ""
			if near := config.Nearest(key.Value, names); near != "" {
				meant = fmt.Sprintf(", did you mean %q?", near)
			}
			r.fail(key, at, "unknown key%s allowed: %s", cmp.Or(meant, ","), strings.Join(names, ", "))
		default:
			read(n.Content[i+1], at)
		}
		seen[key.Value] = true
	}
}

func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

func (r *isotope) list(n *yaml.Node, path string, each func(n *yaml.Node, path string)) {
	n = plain(n)
	if n.Kind != yaml.SequenceNode {
		r.fail(n, path, "expected a list")
		return
	}
	for i, item := range n.Content {
		if !r.visit(item, path) {
			return
		}
		each(item, config.Index(path, i))
	}
}

// scalar returns the text of a value that is not a list, a mapping or null.
func (r *isotope) scalar(n *yaml.Node, path, what string) (string, bool) {
	n = plain(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		r.fail(n, path, "expected %s", what)
		return "", false
	}
	return n.Value, true
}

// without reads a value that has no meaning here.
func (r *isotope) without(why string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if _, ok := r.scalar(n, path, "a text or a number"); ok {
			r.note(n, path, "has no meaning here: %s", why)
		}
	}
}

const (
	noSizes    = "the model has no sizes"
	noProtocol = "all calls are HTTP"
	noPlaces   = "the model has one cluster and one namespace"
	noRules    = "the model has no rules of access"
)

// settings are what defaults and a service have in common.
func (r *isotope) settings(s *Service, known map[string]func(*yaml.Node, string)) map[string]func(*yaml.Node, string) {
	known["type"] = func(n *yaml.Node, path string) {
		if text, ok := r.scalar(n, path, "http or grpc"); ok && text != "http" && text != "grpc" {
			r.fail(n, path, "expected http or grpc, got %q", clip(text))
		} else if text == "grpc" {
			r.note(n, path, "has no meaning here: %s", noProtocol)
		}
	}
	known["numReplicas"] = func(n *yaml.Node, path string) {
		if text, ok := r.scalar(n, path, "a number of replicas"); ok {
			v, err := strconv.Atoi(text)
			if err != nil || v < 1 || v > 1000 {
				r.fail(n, path, "must be from 1 to 1000, got %q", clip(text))
				return
			}
			s.Instances = v
		}
	}
	known["errorRate"] = func(n *yaml.Node, path string) {
		if text, ok := r.scalar(n, path, "a rate such as 0.1 or 10%"); ok {
			digits, percent := strings.CutSuffix(text, "%")
			v, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
			if percent {
				v /= 100
			}
			if err != nil || !(v >= 0 && v <= 1) {
				r.fail(n, path, "must be from 0 to 1, or from 0%% to 100%%, got %q", clip(text))
				return
			}
			s.Faults.ErrorRate, s.Faults.Statuses = v, []int{500}
		}
	}
	known["responseSize"] = r.without(noSizes)
	known["numRbacPolicies"] = r.without(noRules)
	return known
}

func (r *isotope) graph(root *yaml.Node, g *Graph) {
	var standard Service
	standard.SetDefaults()
	standard.Faults.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: isotopeService}
	var standardScript *yaml.Node
	var services *yaml.Node
	r.mapping(root, "", map[string]func(*yaml.Node, string){
		"apiVersion": func(n *yaml.Node, path string) { r.scalar(n, path, "a version") },
		"kind": func(n *yaml.Node, path string) {
			if text, ok := r.scalar(n, path, "MockServiceGraph"); ok && text != "MockServiceGraph" {
				r.fail(n, path, "expected MockServiceGraph, got %q", clip(text))
			}
		},
		"defaults": func(n *yaml.Node, path string) {
			r.mapping(n, path, r.settings(&standard, map[string]func(*yaml.Node, string){
				"requestSize": r.without(noSizes),
				"script":      func(n *yaml.Node, _ string) { standardScript = n },
			}))
		},
		"services": func(n *yaml.Node, _ string) { services = n },
	})
	if services == nil {
		r.fail(root, "services", "is missing")
		return
	}
	r.list(services, "services", func(n *yaml.Node, path string) {
		if len(g.Services) == maxServices {
			r.fail(n, path, "expected at most %d services", maxServices)
		}
		if len(g.Services) < maxServices {
			r.service(n, path, g, standard, standardScript)
		}
	})
	for _, s := range r.scripts {
		r.reading = s.service
		g.Services[s.service].Calls = r.script(s.node, s.path)
	}
}

func (r *isotope) service(n *yaml.Node, path string, g *Graph, s Service, standard *yaml.Node) {
	number := len(g.Services)
	steps := standard
	at := path + ".script"
	entry := false
	r.mapping(n, path, r.settings(&s, map[string]func(*yaml.Node, string){
		"name": func(n *yaml.Node, path string) {
			if text, ok := r.scalar(n, path, "a name"); ok {
				if s.Name = text; !validName(text) {
					r.fail(n, path, "must be letters, digits, dots, dashes or underscores, got %q", clip(text))
				}
			}
		},
		"isEntrypoint": func(n *yaml.Node, path string) {
			text, ok := r.scalar(n, path, "true or false")
			if ok && text != "true" && text != "false" {
				r.fail(n, path, "expected true or false, got %q", clip(text))
			}
			entry = text == "true"
		},
		"script":    func(n *yaml.Node, _ string) { steps = n },
		"cluster":   r.without(noPlaces),
		"namespace": r.without(noPlaces),
	}))
	if _, again := r.numbers[s.Name]; again && s.Name != "" {
		r.fail(n, path+".name", "%s is the name of another service", s.Name)
	}
	if s.Name == "" && len(r.found) == 0 {
		r.fail(n, path+".name", "is missing")
	}
	r.numbers[s.Name] = number
	if entry {
		r.entries = append(r.entries, s.Name)
	}
	if steps != nil {
		r.scripts = append(r.scripts, script{number, steps, at})
	}
	g.Services = append(g.Services, s)
}

// script reads a script: steps in sequence, of which a list is done at once.
func (r *isotope) script(n *yaml.Node, path string) []Call {
	var all []Call
	r.list(n, path, func(n *yaml.Node, path string) {
		if plain(n).Kind != yaml.SequenceNode {
			all = append(all, r.command(n, path)...)
			return
		}
		first := len(all)
		r.list(n, path, func(n *yaml.Node, path string) {
			if plain(n).Kind == yaml.SequenceNode {
				r.fail(n, path, "must not be a list within a list")
				return
			}
			for _, c := range r.command(n, path) {
				c.Parallel = len(all) > first
				all = append(all, c)
			}
		})
	})
	if len(all) > maxServices {
		r.fail(n, path, "expected at most %d commands, got %d", maxServices, len(all))
		return nil
	}
	return all
}

// command reads a call or a sleep.
func (r *isotope) command(n *yaml.Node, path string) []Call {
	var c Call
	c.SetDefaults()
	r.mapping(n, path, map[string]func(*yaml.Node, string){
		"call": func(n *yaml.Node, path string) {
			to := func(n *yaml.Node, path string) {
				if text, ok := r.scalar(n, path, "the name of a service"); ok {
					if _, known := r.numbers[text]; !known {
						r.fail(n, path, "there is no service %q", clip(text))
					}
					c.To = text
				}
			}
			if plain(n).Kind != yaml.MappingNode {
				to(n, path)
				return
			}
			r.mapping(n, path, map[string]func(*yaml.Node, string){
				"service": to, "size": r.without(noSizes), "payloadSize": r.without(noSizes), "hostname": r.without(noPlaces),
			})
			if c.To == "" {
				r.fail(n, path+".service", "is missing")
			}
		},
		"sleep": func(n *yaml.Node, path string) { c.Pause = r.sleep(n, path) },
	})
	if len(plain(n).Content) != 2 && plain(n).Kind == yaml.MappingNode {
		r.fail(n, path, "expected one command, call or sleep, got %d", len(plain(n).Content)/2)
	}
	if c.To == "" && c.Pause == 0 {
		return nil
	}
	return []Call{c}
}

// sleep reads a time, or a distribution of which it takes the mean. isotope has had three forms: a
// duration; a mapping with type and data; and a mapping with SleepCommand, a list of those for
// ranges of load, which may be a text in JSON. The load is that of the whole run, and the first
// entry whose range has it counts. Go reads the keys of such an entry in any case.
func (r *isotope) sleep(n *yaml.Node, path string) (takes time.Duration) {
	n = plain(n)
	if n.Kind == yaml.ScalarNode && strings.HasPrefix(strings.TrimSpace(n.Value), "{") {
		text, err := config.Documents(r.name, []byte(n.Value))
		if err != nil || len(text) != 1 {
			r.fail(n, path, "expected a duration such as 10ms, or a mapping in JSON, got %q", clip(n.Value))
			return 0
		}
		n = moved(text[0], n)
	}
	if n.Kind != yaml.MappingNode {
		return r.duration(n, path)
	}
	var forLoads *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "SleepCommand" {
			forLoads = n.Content[i+1]
		}
	}
	if forLoads == nil {
		d, of := r.sleepOf(n, path, time.Second)
		r.atEveryLoad(of, path)
		return d
	}
	several, found := len(plain(forLoads).Content) > 1, false
	r.mapping(n, path, map[string]func(*yaml.Node, string){"SleepCommand": func(n *yaml.Node, path string) {
		r.list(n, path, func(n *yaml.Node, path string) {
			before := len(r.notes)
			d, of := r.sleepOf(n, path, time.Millisecond)
			switch {
			case !several:
				takes, found = d, true
				r.atEveryLoad(of, path)
			case of.node == nil:
				r.fail(n, path+".load", "is missing: with several entries, each is for a range of load")
			case !of.ends:
				r.fail(of.node, path+".load.Max", "is missing: a range has both ends")
			case of.min > of.max:
				r.fail(of.node, path+".load.Max", "must be at least Min, %v, got %v", of.min, of.max)
			case !found && of.min <= r.load && r.load <= of.max:
				takes, found = d, true
				r.note(of.node, path+".load", "is the range with the load of this run, %v calls/s", r.load)
			default:
				r.notes = r.notes[:before]
			}
		})
	}})
	r.byLoad = r.byLoad || several
	switch path += ".SleepCommand"; {
	case found:
	case plain(forLoads).Kind == yaml.SequenceNode && len(plain(forLoads).Content) == 0:
		r.fail(forLoads, path, "is empty")
	case r.load > 0:
		r.unmatched[r.reading] = append(r.unmatched[r.reading], r.mistake(forLoads, path, "expected an entry for the load of this run, %v calls/s", r.load))
	}
	return takes
}

// moved returns a copy of n with all its values at the place of another value.
func moved(n, place *yaml.Node) *yaml.Node {
	c := *n
	c.Line, c.Column = place.Line, place.Column
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		c.Content[i] = moved(child, place)
	}
	return &c
}

func (r *isotope) duration(n *yaml.Node, path string) (d time.Duration) {
	if text, ok := r.scalar(n, path, "a duration such as 10ms"); ok {
		var err error
		if d, err = time.ParseDuration(text); err != nil || d < 0 || d > time.Hour {
			r.fail(n, path, "expected a duration from 0s to 1h, such as 10ms, got %q", clip(text))
			return 0
		}
	}
	return d
}

func (r *isotope) number(n *yaml.Node, path string, least float64) float64 {
	text, ok := r.scalar(n, path, "a number")
	v, err := strconv.ParseFloat(text, 64)
	if ok && (err != nil || !(v >= least && v <= 1e12)) {
		r.fail(n, path, "expected a number from %v to 1e12, got %q", least, clip(text))
		return 0
	}
	return v
}

// loads is a range of load, both ends included. node is nil if there is none.
type loads struct {
	node     *yaml.Node
	min, max float64
	ends     bool // max is given
}

// atEveryLoad notes that the range of the only entry has no meaning.
func (r *isotope) atEveryLoad(of loads, path string) {
	if of.node != nil {
		r.note(of.node, path+".load", "has no meaning here: the pause is the same at every load")
	}
}

// sleepOf reads type, data and load. unit is that of plain numbers.
func (r *isotope) sleepOf(n *yaml.Node, path string, unit time.Duration) (takes time.Duration, of loads) {
	var kind string
	var data *yaml.Node
	named := func(n *yaml.Node, path string) {
		if kind, _ = r.scalar(n, path, "static, histogram, dist or raw"); !slices.Contains([]string{"static", "histogram", "dist", "raw"}, kind) {
			r.fail(n, path, "expected static, histogram, dist or raw, got %q", clip(kind))
		}
	}
	value := func(n *yaml.Node, _ string) { data = n }
	load := func(n *yaml.Node, path string) {
		of.node = n
		least := func(n *yaml.Node, path string) { of.min = r.number(n, path, 0) }
		most := func(n *yaml.Node, path string) { of.max, of.ends = r.number(n, path, 0), true }
		r.mapping(n, path, map[string]func(*yaml.Node, string){"Min": least, "min": least, "Max": most, "max": most})
	}
	r.mapping(n, path, map[string]func(*yaml.Node, string){
		"type": named, "Type": named, "data": value, "Data": value, "load": load, "Load": load,
	})
	if kind == "" {
		r.fail(n, path+".type", "is missing")
		return 0, of
	}
	path += ".data"
	switch {
	case data == nil:
		r.fail(n, path, "is missing")
	case kind == "static":
		r.mapping(data, path, map[string]func(*yaml.Node, string){"time": func(n *yaml.Node, path string) {
			if n = plain(n); n.Tag == "!!int" || n.Tag == "!!float" {
				takes = r.mean(n, path, r.number(n, path, 0), unit)
			} else {
				takes = r.duration(n, path)
			}
		}})
	case kind == "histogram":
		takes = r.histogram(plain(data), path)
	case kind == "dist":
		takes = r.distribution(data, path, unit)
	case kind == "raw":
		var sum, all float64
		r.mapping(data, path, map[string]func(*yaml.Node, string){"list": func(n *yaml.Node, path string) {
			r.list(n, path, func(n *yaml.Node, path string) { sum, all = sum+r.number(n, path, 0), all+1 })
		}})
		if all == 0 {
			r.fail(data, path+".list", "expected a list of nanoseconds")
			return 0, of
		}
		takes = r.mean(data, path, sum/all, 1)
		r.note(data, path, "is approximated by its mean, %v", takes)
	}
	return takes, of
}

// mean returns a mean as a time.
func (r *isotope) mean(n *yaml.Node, path string, mean float64, unit time.Duration) time.Duration {
	if !(mean >= 0 && mean*float64(unit) <= float64(time.Hour)) {
		r.fail(n, path, "expected a mean from 0s to 1h, got %v × %v", mean, unit)
		return 0
	}
	return time.Duration(mean * float64(unit))
}

// distribution is a distribution of times.
type distribution struct {
	parameters []string
	mean       func(p []float64) float64
}

// distributions returns the parameters and the mean of isotope's distributions, which are those of
// gonum. A mean that does not exist is not a number or infinite.
func distributions() map[string]distribution {
	return map[string]distribution{
		"normal":        {[]string{"Mu", "Sigma"}, func(p []float64) float64 { return p[0] }},
		"lognormal":     {[]string{"Mu", "Sigma"}, func(p []float64) float64 { return math.Exp(p[0] + p[1]*p[1]/2) }},
		"beta":          {[]string{"Alpha", "Beta"}, func(p []float64) float64 { return p[0] / (p[0] + p[1]) }},
		"chi-squared":   {[]string{"K"}, func(p []float64) float64 { return p[0] }},
		"exp":           {[]string{"Rate"}, func(p []float64) float64 { return 1 / p[0] }},
		"f":             {[]string{"D1", "D2"}, func(p []float64) float64 { return above(2, p[1], p[1]/(p[1]-2)) }},
		"gamma":         {[]string{"Alpha", "Beta"}, func(p []float64) float64 { return p[0] / p[1] }},
		"gumbel-right":  {[]string{"Mu", "Beta"}, func(p []float64) float64 { return p[0] + eulersConstant*p[1] }},
		"inverse-gamma": {[]string{"Alpha", "Beta"}, func(p []float64) float64 { return above(1, p[0], p[1]/(p[0]-1)) }},
		"laplace":       {[]string{"Mu", "Scale"}, func(p []float64) float64 { return p[0] }},
		"pareto":        {[]string{"Xm", "Alpha"}, func(p []float64) float64 { return above(1, p[1], p[1]*p[0]/(p[1]-1)) }},
		"studentst":     {[]string{"Mu", "Sigma", "Nu"}, func(p []float64) float64 { return above(1, p[2], p[0]) }},
		"weibull":       {[]string{"K", "Lambda"}, func(p []float64) float64 { return p[1] * math.Gamma(1+1/p[0]) }},
	}
}

const eulersConstant = 0.5772156649015329

// above returns mean if a parameter is above a bound, and otherwise that there is none.
func above(bound, parameter, mean float64) float64 {
	if parameter > bound {
		return mean
	}
	return math.Inf(1)
}

// distribution reads {name, Dist} with the parameters, or the older {dist, mean, sigma}.
func (r *isotope) distribution(n *yaml.Node, path string, unit time.Duration) time.Duration {
	var name string
	given := map[string]float64{}
	at := func(parameter string) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) { given[parameter] = r.number(n, path, -1e12) }
	}
	named := func(n *yaml.Node, path string) { name, _ = r.scalar(n, path, "the name of a distribution") }
	before := len(r.found)
	r.mapping(n, path, map[string]func(*yaml.Node, string){
		"name": named, "dist": named, "mean": at("Mu"), "sigma": at("Sigma"),
		"Dist": func(n *yaml.Node, path string) {
			known := map[string]func(*yaml.Node, string){}
			for _, d := range distributions() {
				for _, parameter := range d.parameters {
					known[parameter] = at(parameter)
				}
			}
			r.mapping(n, path, known)
		},
	})
	d, known := distributions()[name]
	if len(r.found) > before {
		return 0
	}
	if !known {
		r.fail(n, path, "expected a distribution (%s), got %q", strings.Join(slices.Sorted(maps.Keys(distributions())), ", "), clip(name))
		return 0
	}
	values := make([]float64, len(d.parameters))
	for i, parameter := range d.parameters {
		v, ok := given[parameter]
		if !ok {
			r.fail(n, path, "expected %s of the distribution %s", strings.Join(d.parameters, ", "), name)
			return 0
		}
		values[i] = v
	}
	mean := r.mean(n, path, d.mean(values), unit)
	r.note(n, path, "is approximated by its mean, %v", mean)
	return mean
}

func (r *isotope) histogram(n *yaml.Node, path string) time.Duration {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		r.fail(n, path, "expected a mapping of durations and percentages")
		return 0
	}
	var mean, all float64
	for i := 0; i+1 < len(n.Content); i += 2 {
		at := config.Join(path, clip(n.Content[i].Value))
		d := r.duration(n.Content[i], at)
		text, ok := r.scalar(n.Content[i+1], at, "a percentage")
		if !ok {
			continue
		}
		share, err := strconv.Atoi(text)
		if err != nil || share < 0 || share > 100 {
			r.fail(n.Content[i+1], at, "expected a percentage from 0 to 100, got %q", clip(text))
			continue
		}
		mean, all = mean+float64(d)*float64(share)/100, all+float64(share)
	}
	if math.Abs(all-100) > 1e-9 && len(r.found) == 0 {
		r.fail(n, path, "the percentages must add up to 100, got %v", all)
	}
	r.note(n, path, "is approximated by its mean, %v", time.Duration(mean))
	return time.Duration(mean)
}

// finish chooses the entry, leaves out what it does not reach, and adds what isotope does not say.
func (r *isotope) finish(g *Graph, entry string) {
	whole := func(format string, args ...any) {
		r.found = append(r.found, &mistake.Mistake{File: r.name, Message: fmt.Sprintf(format, args...)})
	}
	if len(g.Services) == 0 {
		whole("services: there is none")
		return
	}
	if _, known := r.numbers[entry]; entry != "" && !known {
		whole("there is no service %q to be the entry", clip(entry))
		return
	}
	if entry == "" && len(r.entries) == 0 {
		whole("no service has isEntrypoint: true")
		return
	}
	g.Load.Entry = cmp.Or(entry, append(r.entries, "")[0])
	order, circle := g.order()
	if circle != nil {
		whole("services must not call each other in a circle: %s", strings.Join(circle, " calls "))
		return
	}
	visits := g.visits(order)
	if g.Load.Rate == 0 {
		var all float64
		for _, v := range visits {
			all += v
		}
		g.Load.Rate = max(1, math.Floor(min(isotopeRate, isotopeCalls/all)))
	}
	g.Load.Clients = int(min(10_000, max(1, math.Round(g.Load.Rate/isotopeClient))))
	var kept []Service
	var left []string
	for i, s := range g.Services {
		if visits[i] == 0 {
			left = append(left, s.Name)
			continue
		}
		r.found = append(r.found, r.unmatched[i]...)
		s.Capacity = min(1e6, math.Ceil(max(g.Load.Rate*visits[i]/isotopeLoad, isotopeWorkers*float64(s.Instances)/isotopeService.Seconds())))
		kept = append(kept, s)
	}
	g.Services = kept
	if len(left) > 0 {
		shown := strings.Join(left[:min(len(left), 5)], ", ")
		if more := len(left) - 5; more > 0 {
			shown += fmt.Sprintf(" and %d more", more)
		}
		r.notes = append(r.notes, fmt.Sprintf("%s: left out, because calls of %s do not reach them: %s", r.name, g.Load.Entry, shown))
	}
	r.notes = append(r.notes, fmt.Sprintf(
		"%s: added, because isotope does not say it: %v calls/s of %s by %d clients; a worker needs %v for a call; each service has at most %.0f %% load, and at least %d workers",
		r.name, g.Load.Rate, g.Load.Entry, g.Load.Clients, isotopeService, 100*isotopeLoad, isotopeWorkers))
}
