package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// policyFlags choose policies.
type policyFlags struct {
	file, route *string
	from        *string // nil if the command takes only configurations of Rebound
}

const aboutConfig = "read routes and policies, YAML, from `FILE`, or the standard input for -; default: the default policy"

func addOwnPolicyFlags(fs *flag.FlagSet) policyFlags {
	return policyFlags{
		file:  fs.String("config", "", aboutConfig),
		route: fs.String("route", "", "use the policy of the route `NAME`"),
	}
}

// addPolicyFlags adds the flags for policies of any system.
func addPolicyFlags(fs *flag.FlagSet) policyFlags {
	f := addOwnPolicyFlags(fs)
	f.from = fs.String("from", "", "the `SYSTEM` that FILE is for; default: what it shows")
	return f
}

// namedPolicy is a policy and its name in the file.
type namedPolicy struct {
	Name   string
	Policy transport.Policy
	// Client makes clients that follow the policy of another system, rival. Then Policy is not
	// used.
	Client func(lab.ClientOptions) (lab.Client, error)
	rival  foreign.Policy
	line   int // in the file; 0 if it is not in one
}

// withoutRetries returns the policy without its retries and hedges.
func (n namedPolicy) withoutRetries() namedPolicy {
	n.Name += ", no retry"
	if n.Client == nil {
		n.Policy.Retry.MaxAttempts = 1
		return n
	}
	n.rival.Retry.MaxAttempts, n.rival.Hedge = 1, foreign.Hedge{}
	n.Client = rival.New(n.rival)
	return n
}

// same reports whether two policies do the same.
func (n namedPolicy) same(other namedPolicy) bool {
	a, b := n.rival, other.rival
	a.From, b.From = nil, nil // where the values stand
	a.Name, b.Name = "", ""
	return (n.Client == nil) == (other.Client == nil) && reflect.DeepEqual(n.Policy, other.Policy) && reflect.DeepEqual(a, b)
}

// distinct returns the policies that do different things, and for each policy which of them it is.
// Files of Kubernetes often repeat a policy, and the same policy has the same result.
func distinct(all []namedPolicy) (different []namedPolicy, which []int) {
	for _, n := range all {
		i := slices.IndexFunc(different, n.same)
		if i < 0 {
			i = len(different)
			different = append(different, n)
		}
		which = append(which, i)
	}
	return different, which
}

// choice is what the flags choose.
type choice struct {
	file     string // the file's name; "" without one
	policies []namedPolicy
	foreign  bool // whether they are another system's
	system   foreign.System
}

// ours is the name of the policy that others are compared with.
const ours = "Rebound's default"

// withDefault adds Rebound's default policy.
func withDefault(all []namedPolicy) []namedPolicy {
	return append(slices.Clip(all), namedPolicy{Name: ours, Policy: transport.DefaultPolicy()})
}

// readInput reads the file at path, or the standard input for -.
func readInput(p cli.Program, path string) (name string, data []byte, err error) {
	if path != "-" {
		data, err = config.Read(path)
		return path, asUTF8(data), err
	}
	const most = 1 << 20 // as for files; one byte more shows that there is more
	if p.Stdin == nil {
		return "stdin", nil, nil
	}
	if data, err = io.ReadAll(io.LimitReader(p.Stdin, most+1)); err != nil {
		err = fmt.Errorf("the standard input: cannot be read: %w", err)
	}
	return "stdin", asUTF8(data), err
}

// asUTF8 returns a text in UTF-8 without a byte order mark. PowerShell writes what kubectl prints
// to a file in UTF-16.
func asUTF8(data []byte) []byte {
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return data[3:]
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		order = binary.BigEndian
	case !bytes.HasPrefix(data, []byte("\xff\xfe")):
		return data
	}
	if len(data)%2 != 0 {
		return data
	}
	units := make([]uint16, len(data)/2-1)
	for i := range units {
		units[i] = order.Uint16(data[2*i+2:])
	}
	return []byte(string(utf16.Decode(units)))
}

// systemOf returns the other system that a file is for, or "" for a configuration of Rebound.
func systemOf(name string, data []byte) foreign.System {
	if foreign.Own(data) {
		return ""
	}
	return foreign.Detect(name, data)
}

// decodeConfig reads a configuration of Rebound.
func decodeConfig(name string, data []byte, cfg *gateway.Config) error {
	err := config.Decode(name, data, cfg)
	if err == nil {
		return nil
	}
	if system := systemOf(name, data); system != "" {
		return fmt.Errorf("%s: is a file of %s, but this command takes a configuration of Rebound: see lab import --help", name, system)
	}
	return cmp.Or(foreign.NoSettings(name, data), err)
}

// check returns an error if a flag needs a file and there is none.
func (f policyFlags) check() error {
	switch {
	case *f.file != "":
	case *f.route != "":
		return errors.New("--route: requires --config FILE")
	case f.from != nil && *f.from != "":
		return errors.New("--from: requires --config FILE")
	}
	return nil
}

// choose returns the policies of the file, or the default policy without one: those of a
// configuration that routes use, or all of another system's file. With --route it returns only that
// route's policy, or the policy of that name. It tells stderr what of the policies the simulation
// lacks for calls with this method.
func (f policyFlags) choose(p cli.Program, methods ...string) (choice, error) {
	if err := f.check(); err != nil {
		return choice{}, err
	}
	if *f.file == "" {
		return choice{policies: []namedPolicy{{Name: gateway.DefaultPolicyName, Policy: transport.DefaultPolicy()}}}, nil
	}
	name, data, err := readInput(p, *f.file)
	if err != nil {
		return choice{}, err
	}
	return f.parse(p, name, data, methods...)
}

// parse returns the policies in the text of a file.
func (f policyFlags) parse(p cli.Program, name string, data []byte, methods ...string) (choice, error) {
	c := choice{file: name}
	if f.from != nil {
		c.system = cmp.Or(foreign.System(*f.from), systemOf(name, data))
	}
	var err error
	if c.foreign = c.system != ""; c.foreign {
		c.policies, err = f.rivals(p, c.system, name, data, methods)
	} else if c.policies, err = f.own(name, data); err == nil {
		for _, method := range methods {
			noteMethods(p.Stderr, c.policies, method)
		}
	}
	return c, err
}

// own returns the policies that the routes of a configuration use, sorted by name.
func (f policyFlags) own(file string, data []byte) ([]namedPolicy, error) {
	cfg := gateway.DefaultConfig()
	if err := decodeConfig(file, data, &cfg); err != nil {
		return nil, err
	}
	var names, routes []string
	for _, r := range cfg.Routes {
		routes = append(routes, r.Name)
		if *f.route == "" || *f.route == r.Name {
			names = append(names, r.Policy)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("--route: %s has no route %q; its routes are %s", file, *f.route, strings.Join(routes, ", "))
	}
	slices.Sort(names)
	var all []namedPolicy
	for _, name := range slices.Compact(names) {
		all = append(all, namedPolicy{Name: name, Policy: cfg.Policies[name], line: policyLine(data, name)})
	}
	return all, nil
}

// policyLine returns the line of a policy in a configuration, or the first line if it has no key.
func policyLine(data []byte, name string) int {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil || len(root.Content) == 0 {
		return 1
	}
	child := func(of *yaml.Node, key string) (at, value *yaml.Node) {
		for i := 0; of != nil && of.Kind == yaml.MappingNode && i+1 < len(of.Content); i += 2 {
			if of.Content[i].Value == key {
				return of.Content[i], of.Content[i+1]
			}
		}
		return nil, nil
	}
	_, policies := child(root.Content[0], "policies")
	if at, _ := child(policies, name); at != nil {
		return at.Line
	}
	return 1
}

// noteMethods tells w which policies retry nothing because of the method of the scenario's calls.
func noteMethods(w io.Writer, all []namedPolicy, method string) {
	for _, n := range all {
		if r := n.Policy.Retry; r.MaxAttempts > 1 && !slices.Contains(r.Methods, method) {
			fmt.Fprintf(w, "policy %s does not retry %s, the method of the scenario's calls: set load.method in a scenario of your own\n", n.Name, method)
		}
	}
}

// one returns the only policy, and fails if there are several.
func (c choice) one() (namedPolicy, error) {
	for _, other := range c.policies[1:] {
		if !other.same(c.policies[0]) {
			return namedPolicy{}, fmt.Errorf("--route: %s has routes with different policies, choose one", c.file)
		}
	}
	return c.policies[0], nil
}

// policy returns the only policy of a configuration of Rebound.
func (f policyFlags) policy(p cli.Program, method string) (namedPolicy, error) {
	c, err := f.choose(p, method)
	if err != nil {
		return namedPolicy{}, err
	}
	return c.one()
}

// rivals returns the policies of another system's file.
func (f policyFlags) rivals(p cli.Program, system foreign.System, file string, data []byte, methods []string) ([]namedPolicy, error) {
	imported, err := foreign.Import(system, file, data)
	if err != nil {
		return nil, err
	}
	var all []namedPolicy
	var names []string
	var chosen []foreign.Policy
	for _, policy := range imported.Policies {
		names = append(names, policy.Name)
		if *f.route != "" && *f.route != policy.Name {
			continue
		}
		if err := rival.Check(policy); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		chosen = append(chosen, policy)
		all = append(all, namedPolicy{Name: policy.Name, Client: rival.New(policy), rival: policy, line: firstLine(policy.From)})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--route: %s has no policy %q; its policies are %s", file, *f.route, strings.Join(names, ", "))
	}
	writeLosses(p.Stderr, file, imported, chosen, methods)
	return all, nil
}

// firstLine returns the first line that sets a value of a policy.
func firstLine(from foreign.Sources) int {
	first := 0
	for _, places := range from {
		for _, at := range places {
			if first == 0 || at.Line < first {
				first = at.Line
			}
		}
	}
	return max(1, first)
}

// screenful is the most losses that are listed.
const screenful = 20

// writeLosses lists what the simulation does not have of a file. The rest is counted.
func writeLosses(w io.Writer, file string, imported *foreign.Result, chosen []foreign.Policy, methods []string) {
	var lines []string
	for _, kind := range []foreign.Kind{foreign.Dropped, foreign.Approximated} {
		for _, e := range imported.Report {
			if e.Kind == kind {
				lines = append(lines, fmt.Sprintf("%s: %s: %s", kind, entryPlace(e), e.Sentence))
			}
		}
	}
	told := map[string]bool{}
	for _, e := range imported.Report {
		if e.Absent && !told[e.Sentence] {
			told[e.Sentence] = true
			lines = append(lines, fmt.Sprintf("absent: %s: %s", entryPlace(e), e.Sentence))
		}
	}
	for _, method := range methods {
		for _, note := range rival.Notes(chosen, method) {
			if line := "not simulated: " + note; !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	fmt.Fprintf(w, "%s: %s of %s\n", file, number(len(imported.Policies), "policy", "policies"), imported.System)
	for _, line := range lines[:min(len(lines), screenful)] {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if more := len(lines) - screenful; more > 0 {
		fmt.Fprintf(w, "  and %d more: see lab import %s\n", more, file)
	}
}
