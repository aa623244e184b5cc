// Package action_test runs the script of action.yml in a work tree of its own, with a stand-in for
// GitHub.
package action_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const root = "../.."

// gh stands in for GitHub's command line. It keeps the comments as files, and logs what it is asked
// without the token.
const gh = `#!/usr/bin/env bash
[[ $GH_TOKEN == sesame ]] || exit 3
printf '%s ' "$@" >>"$GH_DIR/log"; echo >>"$GH_DIR/log"
[[ -z ${GH_FAILS-} ]] || exit 1
method=GET
for arg in "$@"; do
	case $arg in
	PATCH | POST) method=$arg ;;
	body=@*) cp "${arg#body=@}" "$GH_DIR/comment" ;;
	esac
done
if [[ $method == GET && -e $GH_DIR/comment ]]; then printf '77\n78\n'; fi
`

// workshop is a repository with a pull request, as the action finds it.
type workshop struct {
	t                             *testing.T
	dir, bin, ghDir, lab, summary string
	base                          string // the commit
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	if testing.Short() {
		t.Skip("builds lab")
	}
	for _, tool := range []string{"bash", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	w := &workshop{t: t, dir: t.TempDir(), bin: t.TempDir(), ghDir: t.TempDir()}
	w.lab, w.summary = filepath.Join(w.bin, "lab"), filepath.Join(w.bin, "summary.md")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", w.lab, "./cmd/lab")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.write(filepath.Join(w.bin, "gh"), gh, 0o700)
	w.git("init", "--quiet")
	return w
}

func (w *workshop) write(path, text string, mode os.FileMode) {
	w.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(w.dir, path)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), mode)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workshop) git(args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = w.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *workshop) commit() string {
	w.t.Helper()
	w.git("add", "--all")
	w.git("commit", "--quiet", "--allow-empty", "--message", "x")
	return w.git("rev-parse", "HEAD")
}

// run runs the script as action.yml does, and returns its exit code and output.
func (w *workshop) run(command string, env ...string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	script, err := filepath.Abs(filepath.Join(root, "action", "run"))
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "bash", script, command)
	cmd.Dir = w.dir
	cmd.Env = append([]string{
		"PATH=" + w.bin + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + w.bin, "GH_DIR=" + w.ghDir,
		"LAB=" + w.lab, "FROM=", "SCENARIO=outage-hanging", "RATE=20", "CAPACITY=60", "COMMENT=true",
		"BASE_SHA=" + w.base, "PULL_REQUEST=5", "GH_TOKEN=sesame", "GITHUB_REPOSITORY=o/r", "GITHUB_STEP_SUMMARY=" + w.summary,
	}, env...)
	out, err := cmd.CombinedOutput()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (w *workshop) read(path string) string {
	w.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func policy(attempts string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: ratings}\nspec:\n  hosts: [ratings]\n" +
		"  http: [{route: [{destination: {host: ratings}}], timeout: 10s, retries: {attempts: " + attempts + ", perTryTimeout: 2s, retryOn: '5xx,reset'}}]\n"
}

// hostile is a file name that a careless script would run, or read as an option.
const hostile = "deploy/$(touch pwned)`touch pwned`;touch pwned #\n::error::x.yaml"

func TestPullRequest(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("deploy/ratings.yaml", policy("0"), 0o600)
	w.write("deploy/same.yaml", policy("1"), 0o600)
	w.write("README.md", "a", 0o600)
	w.base = w.commit()
	w.write("deploy/ratings.yaml", policy("3"), 0o600)
	w.write("README.md", "b", 0o600)
	w.write(hostile, policy("2"), 0o600)
	w.write("-.yaml", policy("2"), 0o600)
	w.write("deploy/broken.yaml", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: {http: [{retry: {}}]}\n", 0o600)
	w.commit()
	config := "CONFIG=  deploy/**/*.yaml \n\n-.yaml\n"

	code, out := w.run("compare", config)
	if code != 0 {
		t.Fatalf("got exit code %d, output\n%s", code, out)
	}
	summary := w.read(w.summary)
	for _, want := range []string{
		"\n#### `deploy/ratings.yaml`\n", "- `ratings/0`: Worse. Retry storm: ", "| `ratings/0` | 1.00 → ", "no recovery from |",
		"#### `-.yaml`\n", "- `ratings/0`: New. ", "\nThe file cannot be compared:\n\n    lab compare: ./deploy/broken.yaml:3:16: ",
	} {
		if !strings.Contains(summary, want) {
			t.Errorf("no %q in the summary\n%s", want, summary)
		}
	}
	for _, unwanted := range []string{"same.yaml", "README", "\n::error"} {
		if strings.Contains(summary+out, unwanted) {
			t.Errorf("%q in the summary or output, want only changed files with policies\n%s%s", unwanted, summary, out)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "pwned")); err == nil {
		t.Error("the name of a file was run")
	}
	if got := w.read(filepath.Join(w.ghDir, "comment")); got != summary {
		t.Errorf("got comment\n%s\nwant the summary", got)
	}
	if strings.Contains(out+summary, "sesame") {
		t.Error("the token was printed")
	}

	// The second run writes over the comment, also when nothing differs any more.
	w.git("checkout", "--quiet", w.base)
	if code, out := w.run("compare", config); code != 0 {
		t.Fatalf("got exit code %d, output\n%s", code, out)
	}
	if got := w.read(filepath.Join(w.ghDir, "comment")); !strings.Contains(got, "No file with policies differs from the base.") {
		t.Errorf("got comment\n%s\nwant that nothing differs", got)
	}
	var methods []string
	for line := range strings.Lines(w.read(filepath.Join(w.ghDir, "log"))) {
		methods = append(methods, regexp.MustCompile(`(--method (POST|PATCH) |)repos/o/r/issues/\S+`).FindString(line))
	}
	const list = "repos/o/r/issues/5/comments?per_page=100"
	if want := []string{list, "--method POST repos/o/r/issues/5/comments", list, "--method PATCH repos/o/r/issues/comments/77"}; !slices.Equal(methods, want) {
		t.Errorf("got requests %q, want %q", methods, want)
	}
}

// Without a right to comment, the table is in the summary and the run goes on.
func TestNoRightToComment(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("a.yaml", policy("0"), 0o600)
	w.base = w.commit()
	w.write("a.yaml", policy("1"), 0o600)
	w.commit()
	code, out := w.run("compare", "CONFIG=a.yaml", "GH_FAILS=1")
	if code != 0 || !strings.Contains(out, "::warning title=Rebound lab::the table could not be written as a comment") || !strings.Contains(w.read(w.summary), "`ratings/0`") {
		t.Errorf("got exit code %d, output\n%s\nwant 0 and a warning", code, out)
	}
	if err := os.Remove(filepath.Join(w.ghDir, "log")); err != nil {
		t.Fatal(err)
	}
	if code, out := w.run("compare", "CONFIG=a.yaml", "COMMENT=false"); code != 0 || out != "" {
		t.Errorf("got exit code %d, output\n%s\nwant 0 and nothing", code, out)
	}
	if _, err := os.Stat(filepath.Join(w.ghDir, "log")); err == nil {
		t.Error("GitHub was called, want no comment")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("a.yaml", policy("3"), 0o600)
	w.write("limits.yaml", "scenarios: [{scenario: outage-hanging, amplification: 2}]\nload: {rate: 50, clients: 2, capacity: 150, seeds: 1}\n", 0o600)
	w.commit()
	code, out := w.run("check", "CONFIG=a.yaml", "LIMITS=limits.yaml")
	if code != 1 || !strings.Contains(out, "\n::error file=a.yaml,line=6,title=lab check%3A ratings/0::ratings/0, scenario outage-hanging: ") {
		t.Errorf("got exit code %d, output\n%s\nwant 1 and an annotation", code, out)
	}
	for name, env := range map[string]string{"nothing named": "CONFIG= \n", "nothing found": "CONFIG=none/*.yaml"} {
		if code, out := w.run("check", env, "LIMITS=limits.yaml"); code != 2 || !strings.HasPrefix(out, "::error title=Rebound lab::") {
			t.Errorf("%s: got exit code %d, output\n%s\nwant 2 and an error", name, code, out)
		}
	}
}

// No step of the action has an expression in the text of its script: names of files and branches
// could be code there.
func TestActionPassesValuesByEnvironment(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var action struct {
		Inputs map[string]struct {
			Description string
		}
		Runs struct {
			Using string
			Steps []struct {
				Uses, Run, Shell string
				Env              map[string]string
			}
		}
	}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&action); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(root, "action", "run"))
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for _, s := range action.Runs.Steps {
		if strings.Contains(s.Run, "${{") {
			t.Errorf("the step %q has an expression in its text", s.Run)
		}
		if s.Run != "" && s.Shell != "bash" || s.Run == "" && !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(s.Uses) {
			t.Errorf("the step %q%q has no shell, or no fixed commit", s.Run, s.Uses)
		}
		for name, value := range s.Env {
			steps++
			if name != "GH_TOKEN" && !regexp.MustCompile(`\$\{?`+name+`\b|<<<"\$`+name).Match(script) {
				t.Errorf("action/run does not use %s", name)
			}
			if m := regexp.MustCompile(`inputs\.(\w+)`).FindStringSubmatch(value); m != nil && action.Inputs[m[1]].Description == "" {
				t.Errorf("%s: there is no input %s", name, m[1])
			}
		}
	}
	if action.Runs.Using != "composite" || steps == 0 {
		t.Errorf("got %+v, want a composite action with values", action.Runs)
	}
}
