package deploy_test

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxProgram keeps an image at about 20 MB, 2 MB of which are the base.
const maxProgram = 18_850_000

// dockerfile is deploy/Dockerfile as BuildKit reads it.
type dockerfile struct {
	args   map[string]string // before the first stage, with their defaults
	stages map[string]instructions.Stage
	order  []string
}

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	parsed, err := parser.Parse(strings.NewReader(read(t, "deploy/Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range parsed.Warnings {
		t.Error(warning.Short)
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := dockerfile{args: map[string]string{}, stages: map[string]instructions.Stage{}}
	for _, command := range args {
		for _, arg := range command.Args {
			d.args[arg.Key] = arg.ValueString()
		}
	}
	for _, s := range stages {
		d.stages[s.Name] = s
		d.order = append(d.order, s.Name)
	}
	return d
}

// all returns the commands of one type in a stage and in the stages it builds on.
func all[T instructions.Command](d dockerfile, stage string) []T {
	var found []T
	for s, ok := d.stages[stage]; ok; s, ok = d.stages[s.BaseName] {
		for _, c := range slices.Backward(s.Commands) {
			if c, ok := c.(T); ok {
				found = append(found, c)
			}
		}
	}
	slices.Reverse(found)
	return found
}

// copies returns the sources that a stage copies.
func (d dockerfile) copies(stage string) []string {
	var sources []string
	for _, c := range all[*instructions.CopyCommand](d, stage) {
		sources = append(sources, c.SourcePaths...)
	}
	return sources
}

// declares reports whether a stage declares a build argument.
func (d dockerfile) declares(name string) bool {
	if _, ok := d.args[name]; ok {
		return true
	}
	for _, stage := range d.order {
		for _, command := range all[*instructions.ArgCommand](d, stage) {
			if slices.ContainsFunc(command.Args, func(a instructions.KeyValuePairOptional) bool { return a.Key == name }) {
				return true
			}
		}
	}
	return false
}

func TestImages(t *testing.T) {
	d := readDockerfile(t)
	for image, program := range images() {
		t.Run(program, func(t *testing.T) {
			if _, ok := d.stages[program]; !ok {
				t.Fatalf("the stages are %q, want %q among them", d.order, program)
			}
			exists(t, "cmd/"+program)

			// With runAsNonRoot, Kubernetes refuses a user given by name.
			users := all[*instructions.UserCommand](d, program)
			if len(users) == 0 {
				t.Fatal("got no USER, want one")
			}
			uid, gid, _ := strings.Cut(users[len(users)-1].User, ":")
			if u, err := strconv.Atoi(uid); err != nil || u == 0 {
				t.Errorf("the user is %q, want a number, and not root's", uid)
			}
			if g, err := strconv.Atoi(gid); err != nil || g == 0 {
				t.Errorf("the group is %q, want a number, and not root's", gid)
			}

			entry := all[*instructions.EntrypointCommand](d, program)
			if len(entry) != 1 || entry[0].PrependShell || !slices.Equal(entry[0].CmdLine, []string{"/" + program}) {
				t.Errorf("the entry point is %v, want /%s without a shell", entry, program)
			}
			copied := all[*instructions.CopyCommand](d, program)
			if len(copied) != 1 || !slices.Equal(copied[0].SourcePaths, []string{"/out/LICENSE", "/out/" + program}) || copied[0].From != "binaries" {
				t.Errorf("it copies %v, want only the program and the licence", copied)
			}

			var exposed []int
			for _, command := range all[*instructions.ExposeCommand](d, program) {
				for _, port := range command.Ports {
					n, _ := strconv.Atoi(port)
					exposed = append(exposed, n)
				}
			}
			if !slices.Equal(exposed, ports()[program]) {
				t.Errorf("it exposes %v, want %v", exposed, ports()[program])
			}

			labels := map[string]string{}
			for _, command := range all[*instructions.LabelCommand](d, program) {
				for _, label := range command.Labels {
					labels[strings.TrimPrefix(label.Key, "org.opencontainers.image.")] = strings.Trim(label.Value, `"`)
				}
			}
			for _, name := range []string{"source", "licenses", "version", "revision", "description"} {
				if labels[name] == "" {
					t.Errorf("the image has no label %s, want one", name)
				}
			}
			if labels["title"] != image {
				t.Errorf("the label title is %q, want %q", labels["title"], image)
			}
		})
	}
}

// The Dockerfile uses nothing that only some builders know, and nothing that makes a build depend
// on more than its context.
func TestEveryBuilderCanBuild(t *testing.T) {
	text := read(t, "deploy/Dockerfile")
	if directive := regexp.MustCompile(`(?m)^#\s*(syntax|escape|check)\s*=.*`).FindString(text); directive != "" {
		t.Errorf("got directive %q, want none: it would pull a syntax image", directive)
	}
	d := readDockerfile(t)
	for _, stage := range d.order {
		for _, command := range d.stages[stage].Commands {
			switch c := command.(type) {
			case *instructions.AddCommand:
				t.Errorf("%s: got ADD, which fetches and unpacks, want COPY", stage)
			case *instructions.RunCommand:
				if len(c.FlagsUsed) > 0 {
					t.Errorf("%s: got RUN %q, want no option, which the classic builder lacks", stage, c.FlagsUsed)
				}
			case *instructions.CopyCommand:
				if len(c.SourceContents) > 0 || c.Chmod != "" || c.Link {
					t.Errorf("%s: got COPY with options of BuildKit, want it without", stage)
				}
			}
		}
	}
	if source := d.args["SOURCE"]; source != "build" {
		t.Errorf("SOURCE is %q, want build: a fresh checkout has no binaries", source)
	}
	if base := d.args["BASE"]; base != "gcr.io/distroless/static-debian12:nonroot" {
		t.Errorf("BASE is %q, want gcr.io/distroless/static-debian12:nonroot", base)
	}
	release := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if d.args["GO"] != "golang:"+release {
		t.Errorf("GO is %q, want golang:%s as in go.mod", d.args["GO"], release)
	}
}

// A build receives only the files that the Dockerfile copies, so that a change to any other file
// does not rebuild anything.
func TestContext(t *testing.T) {
	ignored := readIgnored(t)
	for path, want := range map[string]bool{
		"LICENSE":                         true,
		"go.mod":                          true,
		"go.sum":                          true,
		"cmd/client/main.go":              true,
		"cmd/demo/rebound.yaml":           true,
		"pkg/gateway/gateway.go":          true,
		"dist/linux_amd64/client":         true,
		"dist/linux_arm64/flaky-server":   true,
		"dist/client":                     false,
		"cmd/client/main_test.go":         false,
		"internal/config/testdata/a.yaml": false,
		".git/config":                     false,
		"README.md":                       false,
		"deploy/compose.yaml":             false,
		"helm/rebound/values.yaml":        false,
		"test/smoke/main.go":              false,
	} {
		if got := !ignored(path); got != want {
			t.Errorf("%s is in the context: %t, want %t", path, got, want)
		}
	}
}

func readIgnored(t *testing.T) func(path string) bool {
	t.Helper()
	patterns, err := ignorefile.ReadAll(strings.NewReader(read(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return func(path string) bool {
		match, err := matcher.MatchesOrParentMatches(path)
		if err != nil {
			t.Fatal(err)
		}
		return match
	}
}

// The stage build works here as in a container: with only the files that the Dockerfile copies, its
// own command builds a static program that knows its version. In another folder it gives the same
// bytes.
func TestBuildIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles and links twice")
	}
	var sums []string
	first := buildFolder(t)
	second := t.TempDir()
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{first, second} {
		program := filepath.Join(build(t, folder, "v1.2.3"), "client")
		sums = append(sums, sum(t, program))
		if len(sums) > 1 {
			continue
		}
		if info, err := os.Stat(program); err != nil || info.Size() > maxProgram {
			t.Errorf("%v, %d bytes, want at most %d", err, info.Size(), maxProgram)
		}
		output, err := exec.CommandContext(t.Context(), program, "--version").CombinedOutput()
		if want := "client v1.2.3 go"; err != nil || !strings.HasPrefix(string(output), want) {
			t.Errorf("--version prints %q (%v), want %q", output, err, want)
		}
		info, err := exec.CommandContext(t.Context(), "go", "version", "-m", program).CombinedOutput()
		if err != nil || !strings.Contains(string(info), "CGO_ENABLED=0") || strings.Contains(string(info), "vcs.revision") {
			t.Errorf("%v, want a build without cgo and without the commit:\n%s", err, info)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("the same sources in two folders give the programs %s and %s, want the same", sums[0], sums[1])
	}
}

// buildFolder returns a folder with the contents that the stage build has after its COPYs.
func buildFolder(t *testing.T) string {
	t.Helper()
	folder, ignored := t.TempDir(), readIgnored(t)
	for _, c := range all[*instructions.CopyCommand](readDockerfile(t), "build") {
		for _, path := range c.SourcePaths {
			to := filepath.Join(folder, c.DestPath)
			if info, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Fatal(err)
			} else if !info.IsDir() {
				to = filepath.Join(to, filepath.Base(path))
			}
			copyContext(t, path, to, ignored)
		}
	}
	return folder
}

// build runs the commands of the stage build in a folder and returns the output folder. It builds
// only client.
func build(t *testing.T, folder, version string) string {
	t.Helper()
	out := t.TempDir()
	for _, c := range all[*instructions.RunCommand](readDockerfile(t), "build") {
		line := strings.Join(c.CmdLine, " ")
		if strings.Contains(line, "mod download") {
			continue // what is missing is downloaded by the build
		}
		line = strings.NewReplacer("/out/", out+"/", "./cmd/...", "./cmd/client").Replace(line)
		shell := exec.CommandContext(t.Context(), "sh", "-c", line)
		shell.Dir, shell.Env = folder, append(os.Environ(), "GOWORK=off", "GOFLAGS=", "VERSION="+version)
		if output, err := shell.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, output)
		}
	}
	return out
}

// copyContext copies a file or folder that is in the context of a build.
func copyContext(t *testing.T, path, to string, ignored func(string) bool) {
	t.Helper()
	from := filepath.Join(root, path)
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inContext, err := filepath.Rel(root, name)
		if err != nil || ignored(inContext) {
			return err
		}
		below, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, below)
		return cmp.Or(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, text, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}
