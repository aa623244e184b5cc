package deploy_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

// builtins are the documented built-ins of Tilt that the Tiltfile uses, with their documented
// parameters in order (docs.tilt.dev/api.html). A built-in or keyword that is not here is refused,
// as Tilt would: look it up there before adding it. The type follows the colon; the first
// parameters up to "!" have no default.
func builtins() map[string]string {
	return map[string]string{
		"allow_k8s_contexts": "contexts:str|strs!",
		"local":              "command:str|strs! quiet:bool command_bat:str|strs echo_off:bool env:dict dir:str stdin:str",
		"local_resource": "name:str cmd:str|strs! deps:str|strs trigger_mode:mode resource_deps:strs ignore:str|strs auto_init:bool " +
			"serve_cmd:str|strs cmd_bat:str|strs serve_cmd_bat:str|strs allow_parallel:bool links:links labels:str|strs env:dict " +
			"serve_env:dict readiness_probe:probe dir:str serve_dir:str",
		"docker_build": "ref:str context:str! build_args:dict dockerfile:str dockerfile_contents:str live_update:steps " +
			"match_in_env_vars:bool ignore:str|strs only:str|strs entrypoint:str|strs target:str ssh:str|strs network:str " +
			"secret:str|strs extra_tag:str|strs container_args:strs cache_from:str|strs pull:bool platform:str extra_hosts:str|strs",
		"helm":     "pathToChartDir:str! name:str namespace:str values:str|strs set:str|strs kube_version:str skip_crds:bool",
		"k8s_yaml": "yaml:str|strs|blob! allow_duplicates:bool",
		"k8s_resource": "workload:str new_name:str port_forwards:forwards extra_pod_selectors:dict trigger_mode:mode resource_deps:strs " +
			"objects:strs auto_init:bool pod_readiness:str links:links labels:str|strs discovery_strategy:str",
		"port_forward": "local_port:int! container_port:int name:str link_path:str host:str",
		"link":         "url:str! name:str",
	}
}

// call is one call of a built-in: its arguments by parameter.
type call map[string]starlark.Value

func (c call) text(name string) string {
	text, _ := starlark.AsString(c[name])
	return text
}

// list returns a parameter that takes a string or a list of strings.
func (c call) list(name string) []string {
	if text, ok := starlark.AsString(c[name]); ok {
		return []string{text}
	}
	var list []string
	for _, v := range elements(c[name]) {
		text, _ := starlark.AsString(v)
		list = append(list, text)
	}
	return list
}

func (c call) dict(name string) map[string]string {
	dict := map[string]string{}
	if d, ok := c[name].(*starlark.Dict); ok {
		for _, item := range d.Items() {
			key, _ := starlark.AsString(item[0])
			dict[key], _ = starlark.AsString(item[1])
		}
	}
	return dict
}

// structs returns the port forwards or links of a resource.
func (c call) structs(name string) []call {
	var list []call
	for _, v := range elements(c[name]) {
		s := v.(*starlarkstruct.Struct)
		fields := starlark.StringDict{}
		s.ToStringDict(fields)
		list = append(list, call(fields))
	}
	return list
}

func (c call) number(name string) int {
	n, err := starlark.AsInt32(c[name])
	if err != nil {
		return 0
	}
	return n
}

func elements(v starlark.Value) []starlark.Value {
	list, ok := v.(*starlark.List)
	if !ok {
		return nil
	}
	var all []starlark.Value
	for e := range list.Elements() {
		all = append(all, e)
	}
	return all
}

// declared holds the calls of each built-in in a Tiltfile, in order.
type declared map[string][]call

// execute runs a Tiltfile with built-ins that only record their arguments.
func execute(name string, source any) (declared, error) {
	found := declared{}
	known := starlark.StringDict{
		"TRIGGER_MODE_AUTO":   mode("TRIGGER_MODE_AUTO"),
		"TRIGGER_MODE_MANUAL": mode("TRIGGER_MODE_MANUAL"),
	}
	for name, parameters := range builtins() {
		known[name] = starlark.NewBuiltin(name, func(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			c, err := bind(parameters, args, kwargs)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			found[name] = append(found[name], c)
			switch name {
			case "local":
				return runLocal(c)
			case "helm":
				return blob("helm " + c.text("pathToChartDir")), nil
			case "port_forward", "link":
				return starlarkstruct.FromStringDict(starlark.String(name), starlark.StringDict(c)), nil
			}
			return starlark.None, nil
		})
	}
	// Tilt's dialect allows statements at the top level, and assigning a name twice.
	options := &syntax.FileOptions{Set: true, TopLevelControl: true, GlobalReassign: true, Recursion: true}
	thread := &starlark.Thread{Name: name} // without Load: load() fails
	_, err := starlark.ExecFileOptions(options, thread, name, source, known)
	return found, err
}

// runLocal runs a command that only reads. It must not change anything.
func runLocal(c call) (starlark.Value, error) {
	args := c.list("command")
	if !slices.Equal(args, []string{"go", "env", "GOARCH"}) {
		return nil, fmt.Errorf("local runs %q each time Tilt reads the file", args)
	}
	output, err := exec.Command(args[0], args[1:]...).Output()
	return blob(output), err
}

// blob is text instead of a path: the result of helm and local.
type blob string

func (b blob) String() string      { return string(b) }
func (blob) Type() string          { return "blob" }
func (blob) Freeze()               {}
func (blob) Truth() starlark.Bool  { return true }
func (blob) Hash() (uint32, error) { return 0, nil }

// mode is one of the constants TRIGGER_MODE_*.
type mode string

func (m mode) String() string      { return string(m) }
func (mode) Type() string          { return "mode" }
func (mode) Freeze()               {}
func (mode) Truth() starlark.Bool  { return true }
func (mode) Hash() (uint32, error) { return 0, nil }

// bind assigns arguments to the parameters of a signature and checks their types.
func bind(signature string, args starlark.Tuple, kwargs []starlark.Tuple) (call, error) {
	required, optional, _ := strings.Cut(signature, "!")
	if !strings.Contains(signature, "!") {
		required, optional = "", signature
	}
	names, types := []string{}, map[string]string{}
	for _, parameter := range append(strings.Fields(required), strings.Fields(optional)...) {
		name, kind, _ := strings.Cut(parameter, ":")
		names = append(names, name)
		types[name] = kind
	}
	if len(args) > len(names) {
		return nil, fmt.Errorf("%d arguments, it takes %d", len(args), len(names))
	}
	c := call{}
	for i, value := range args {
		c[names[i]] = value
	}
	for _, pair := range kwargs {
		name := string(pair[0].(starlark.String))
		if types[name] == "" {
			return nil, fmt.Errorf("no parameter is called %s; there are: %s", name, strings.Join(names, ", "))
		}
		if c[name] != nil {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		c[name] = pair[1]
	}
	for i := range strings.Fields(required) {
		if c[names[i]] == nil {
			return nil, fmt.Errorf("%s is missing", names[i])
		}
	}
	for name, value := range c {
		if !slices.ContainsFunc(strings.Split(types[name], "|"), func(kind string) bool { return is(kind, value) }) {
			return nil, fmt.Errorf("%s is %s, want %s", name, value, types[name])
		}
	}
	return c, nil
}

// is reports whether a value has one of the types in [builtins]. The Tiltfile uses no type without
// a case here.
func is(kind string, v starlark.Value) bool {
	every := func(ok func(starlark.Value) bool) bool {
		_, list := v.(*starlark.List)
		return list && !slices.ContainsFunc(elements(v), func(e starlark.Value) bool { return !ok(e) })
	}
	switch kind {
	case "strs":
		return every(func(e starlark.Value) bool { return e.Type() == "string" })
	case "str":
		return v.Type() == "string"
	case "forwards", "links":
		constructor := map[string]string{"forwards": `"port_forward"`, "links": `"link"`}[kind]
		return every(func(e starlark.Value) bool {
			s, ok := e.(*starlarkstruct.Struct)
			return ok && s.Constructor().String() == constructor
		})
	case "dict":
		d, ok := v.(*starlark.Dict)
		return ok && !slices.ContainsFunc(d.Items(), func(item starlark.Tuple) bool {
			return item[0].Type() != "string" || item[1].Type() != "string"
		})
	}
	return v.Type() == kind
}

// The built-ins refuse what Tilt refuses. Otherwise a Tiltfile that passes would prove nothing.
func TestTiltBuiltins(t *testing.T) {
	for name, c := range map[string]struct {
		source string
		want   string // in the error; none when empty
	}{
		"by position":           {`docker_build('a', '.')`, ""},
		"by keyword":            {`docker_build(context='.', ref='a')`, ""},
		"loop at the top level": {"for x in ['a']:\n  docker_build(x, '.')", ""},
		"unknown keyword":       {`docker_build('a', '.', file='Dockerfile')`, "no parameter is called file"},
		"unknown built-in":      {`helm_resource('a')`, "undefined: helm_resource"},
		"missing":               {`docker_build('a')`, "context is missing"},
		"twice":                 {`link('a', url='b')`, "url is given twice"},
		"too many":              {`link('a', 'b', 'c')`, "3 arguments"},
		"wrong type":            {`port_forward('8080')`, "local_port"},
		"a number in a dict":    {`docker_build('a', '.', build_args={'A': 1})`, "build_args"},
		"a port as a link":      {`k8s_resource('a', links=[port_forward(1)])`, "links"},
		"a word for a mode":     {`local_resource('a', 'b', trigger_mode='TRIGGER_MODE_MANUAL')`, "trigger_mode"},
		"an extension":          {`load('ext://restart_process', 'x')`, "load not implemented"},
		"a command at load":     {`local('rm -rf x')`, "local runs"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := execute("Tiltfile", c.source)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("the error is %v, want one with %q", err, c.want)
			}
		})
	}
}

// readTiltfile executes the repository's Tiltfile.
func readTiltfile(t *testing.T) declared {
	t.Helper()
	found, err := execute(filepath.Join(root, "Tiltfile"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
