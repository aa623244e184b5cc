// Package action_test runs the script of action.yml in a work tree of its own, with a stand-in for
// GitHub.
package action_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

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

// programs is the directory of lab, which built builds once for all tests.
var (
	programs string                          //nolint:gochecknoglobals // built once
	built    = sync.OnceValue(func() error { //nolint:gochecknoglobals // built once
		build := exec.Command("go", "build", "-o", programs, "./cmd/lab")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
)

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "action"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

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
	w.lab, w.summary = filepath.Join(programs, "lab"), filepath.Join(w.bin, "summary.md")
	if err := built(); err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Join(w.bin, "gh"), gh, 0o700)
	w.git("init", "--quiet")
	return w
}

// newChange returns a workshop whose last commit changes the policy in a.yaml.
func newChange(t *testing.T) *workshop {
	t.Helper()
	w := newWorkshop(t)
	w.write("a.yaml", policy("0"), 0o600)
	w.base = w.commit()
	w.write("a.yaml", policy("1"), 0o600)
	w.commit()
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

// The report says what the simulation does not have of a changed file.
func TestPullRequestTellsWhatIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	with := func(attempts, fault string) string {
		return strings.Replace(policy(attempts), "timeout: 10s", "fault: {delay: {fixedDelay: "+fault+"}}, timeout: 10s", 1)
	}
	w.write("deploy/ratings.yaml", with("0", "1s"), 0o600)
	w.base = w.commit()
	w.write("deploy/ratings.yaml", with("1", "2s"), 0o600)
	w.commit()
	if code, out := w.run("compare", "CONFIG=deploy/*.yaml"); code != 0 {
		t.Fatalf("got exit code %d, output\n%s", code, out)
	}
	summary := w.read(w.summary)
	for _, want := range []string{
		"\nNot in the simulation:\n\n    ", "\n      dropped: ./deploy/ratings.yaml:6:", "\n      dropped: before/ratings.yaml:6:", "the fault is made on purpose",
	} {
		if !strings.Contains(summary, want) {
			t.Errorf("no %q in the summary\n%s", want, summary)
		}
	}
}

// Without a limit of the capacity the table has no boundary, which is a share of it.
func TestPullRequestWithoutCapacity(t *testing.T) {
	t.Parallel()
	w := newChange(t)
	for _, capacity := range []string{"0", "0.0"} {
		code, out := w.run("compare", "CONFIG=a.yaml", "SCENARIO=outage", "CAPACITY="+capacity)
		summary := w.read(w.summary)
		if code != 0 || !strings.Contains(summary, "| `ratings/0` | ") || strings.Contains(summary, "no recovery from") || strings.Contains(summary, "cannot be compared") {
			t.Errorf("capacity %s: got exit code %d, output\n%s\nand summary\n%s\nwant a table without a boundary", capacity, code, out, summary)
		}
	}
}

// The report says, once, that a policy of Rebound does not retry the calls of the scenario.
func TestPullRequestTellsOfCallsThatAreNotRetried(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	rebound := func(timeout string) string {
		return "routes: [{name: all, match: /, upstream: 'http://up'}]\npolicies: {default: {timeout: " + timeout + "}}\n"
	}
	w.write("rebound.yaml", rebound("8s"), 0o600)
	w.write("post.yaml", "name: post\nlength: 30s\ndisturbance: {at: 5s, for: 5s}\nload: {method: POST}\nupstream: {faults: {latency: {distribution: lognormal, median: 10ms, p99: 50ms}}, phases: [{at: 5s, for: 5s, errorRate: 1}]}\n", 0o600)
	w.base = w.commit()
	w.write("rebound.yaml", rebound("9s"), 0o600)
	w.commit()
	code, out := w.run("compare", "CONFIG=rebound.yaml", "SCENARIO=post.yaml")
	summary := w.read(w.summary)
	if code != 0 || strings.Count(summary, "\nNot in the simulation:\n\n    policy default does not retry POST, ") != 1 || strings.Count(summary, "does not retry POST") != 1 {
		t.Errorf("got exit code %d, output\n%s\nand summary\n%s\nwant one sentence on POST", code, out, summary)
	}
}

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

// A renamed file is compared with itself under its old name, and the policies of a deleted one are
// gone, also if it was the only one. Files that do not differ cost nothing, however many.
func TestRenamedAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("a/old name.yaml", policy("0"), 0o600)
	w.write("a/gone.yaml", strings.Repeat("# The basket is not called any more, so that it needs no policy.\n", 9)+strings.ReplaceAll(policy("1"), "ratings", "basket"), 0o600)
	for i := range 150 {
		w.write(fmt.Sprintf("a/same-%d.yaml", i), strings.ReplaceAll(policy("2"), "ratings", fmt.Sprintf("same%d", i)), 0o600)
	}
	w.base = w.commit()
	w.git("mv", "a/old name.yaml", "a/new.yaml")
	w.write("a/new.yaml", policy("3"), 0o600)
	w.git("rm", "--quiet", "a/gone.yaml")
	w.commit()
	code, out := w.run("compare", "CONFIG=a/*.yaml")
	summary := w.read(w.summary)
	for _, want := range []string{"#### `a/old name.yaml` → `a/new.yaml`\n\n- `ratings/0`: Worse. Retry storm: ", "#### `a/gone.yaml`\n\n- `basket/0`: is gone.\n"} {
		if code != 0 || !strings.Contains(summary, want) {
			t.Errorf("got exit code %d, output %s, and no %q in the summary\n%s", code, out, want, summary)
		}
	}
	if strings.Contains(summary, "same") {
		t.Errorf("got summary\n%s\nwant only the changed files", summary)
	}

	w.base = w.git("rev-parse", "HEAD")
	w.git("rm", "--quiet", "a/new.yaml")
	w.commit()
	if code, out := w.run("compare", "CONFIG=a/new.yaml"); code != 0 || !strings.Contains(w.read(w.summary), "#### `a/new.yaml`\n\n- `ratings/0`: is gone.\n") {
		t.Errorf("got exit code %d, output %s\n%s\nwant that the policy is gone", code, out, w.read(w.summary))
	}
}

// A report that is too long for a comment is cut there, and whole in the summary.
func TestLongReport(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("README.md", "a", 0o600)
	w.base = w.commit()
	for i := range 120 {
		w.write(fmt.Sprintf("p/%d.yaml", i), policy("1"), 0o600)
	}
	w.commit()
	w.lab = filepath.Join(w.bin, "lab")
	w.write(w.lab, "#!/usr/bin/env bash\nprintf '| a → b %.0s' {1..80}; echo\n", 0o700) // as quick as it is long
	code, out := w.run("compare", "CONFIG=p")
	comment, summary := w.read(filepath.Join(w.ghDir, "comment")), w.read(w.summary)
	if code != 0 || len(comment) > 65_536 || !strings.HasSuffix(comment, "\nThe rest is in the summary of the job.\n") || !utf8.ValidString(comment) {
		t.Errorf("got exit code %d, output %s, and a comment of %d bytes that ends in %q, want a whole text within GitHub's limit", code, out, len(comment), comment[max(0, len(comment)-60):])
	}
	if got := strings.Count(summary, "#### "); got != 120 {
		t.Errorf("got %d files in the summary, want 120", got)
	}
}

// The steps of action.yml run in order, with their values filled in as the runner does.
func TestActionStepByStep(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("a.yaml", policy("0"), 0o600)
	w.write("limits.yaml", "scenarios: [{scenario: outage-hanging, amplification: 2}]\nload: {rate: 50, clients: 2, capacity: 150, seeds: 1}\n", 0o600)
	w.base = w.commit()
	w.write("a.yaml", policy("3"), 0o600)
	w.commit()
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	a := readAction(t)
	values := map[string]string{
		"github.action_path": here, "github.token": "sesame", "github.event_name": "pull_request", "runner.temp": w.bin,
		"github.event.pull_request.base.sha": w.base, "github.event.pull_request.number": "5",
	}
	fill := func(text string) string {
		return regexp.MustCompile(`\$\{\{ *([^ }]+) *\}\}`).ReplaceAllStringFunc(text, func(e string) string {
			v, ok := values[strings.Trim(e, "${} ")]
			if !ok {
				t.Errorf("action.yml: %s is unknown", e)
			}
			return v
		})
	}
	for name, in := range a.Inputs {
		values["inputs."+name] = fill(in.Default)
	}
	values["inputs.config"], values["inputs.limits"] = "a.yaml", "limits.yaml"
	values["inputs.rate"], values["inputs.capacity"] = "20", "60"
	var outcomes []int
	for _, s := range a.Runs.Steps {
		if s.If != "" {
			m := regexp.MustCompile(`^(\S+) (==|!=) '(.*)'$`).FindStringSubmatch(s.If)
			if m == nil {
				t.Fatalf("action.yml: the condition %q is not a comparison", s.If)
			}
			if v, ok := values[m[1]]; !ok || (v == m[3]) != (m[2] == "==") {
				t.Errorf("action.yml: %q does not hold (known: %v), want it to", s.If, ok)
			}
		}
		if s.Run == "" {
			continue // another action
		}
		env := []string{
			"PATH=" + w.bin + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GH_DIR=" + w.ghDir,
			"GITHUB_ACTION_PATH=" + here, "RUNNER_TEMP=" + w.bin, "GITHUB_REPOSITORY=o/r", "GITHUB_STEP_SUMMARY=" + w.summary,
		}
		for name, value := range s.Env {
			env = append(env, name+"="+fill(value))
		}
		cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
		cmd.Dir, cmd.Env = w.dir, env
		out, err := cmd.CombinedOutput()
		if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		t.Logf("%s: %s", s.Name, out)
		outcomes = append(outcomes, cmd.ProcessState.ExitCode())
	}
	if want := []int{0, 0, 1}; !slices.Equal(outcomes, want) {
		t.Errorf("got exit codes %v, want %v: the policy breaks its limit", outcomes, want)
	}
	if got := w.read(filepath.Join(w.ghDir, "comment")); !strings.Contains(got, "- `ratings/0`: Worse. ") {
		t.Errorf("got comment\n%s\nwant the change", got)
	}
}

// Without a right to comment, the table is in the summary and the run goes on.
func TestNoRightToComment(t *testing.T) {
	t.Parallel()
	w := newChange(t)
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

// A pull request that deletes the last file passes the check, which would fail without a file.
// Elsewhere, and if the file was not in the base either, the input is wrong.
func TestCheckOfDeletedFiles(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("a.yaml", policy("3"), 0o600)
	w.write("limits.yaml", "scenarios: [{scenario: outage-hanging}]\n", 0o600)
	w.base = w.commit()
	w.git("rm", "--quiet", "a.yaml")
	w.commit()
	for name, c := range map[string]struct {
		env  []string
		code int
		want string
	}{
		"pattern":           {[]string{"CONFIG=**/a*.yaml"}, 0, "::notice title=Rebound lab::the change deletes all files"},
		"one file":          {[]string{"CONFIG=a.yaml"}, 0, "::notice title=Rebound lab::the change deletes all files"},
		"never there":       {[]string{"CONFIG=b.yaml"}, 2, "::error title=Rebound lab::no tracked file"},
		"no pull request":   {[]string{"CONFIG=a.yaml", "BASE_SHA="}, 2, "::error title=Rebound lab::no tracked file"},
		"base not to fetch": {[]string{"CONFIG=a.yaml", "BASE_SHA=" + strings.Repeat("1", 40)}, 2, "::error title=Rebound lab::no tracked file"},
	} {
		if code, out := w.run("check", append(c.env, "LIMITS=limits.yaml")...); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: got exit code %d, output\n%s\nwant %d and %s", name, code, out, c.code, c.want)
		}
	}
}

// deployment is a file without policies.
const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: ratings}\n"

// A pattern also matches files without policies: a Deployment, a kustomization. They are left out
// with a notice, and the check fails only if no other file is left.
func TestFilesWithoutPolicies(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("limits.yaml", "scenarios: [{scenario: outage-hanging, amplification: 9}]\nload: {rate: 50, clients: 2, capacity: 150, seeds: 1}\n", 0o600)
	w.write("deploy/app.yaml", deployment, 0o600)
	w.write("deploy/kustomization.yaml", "resources: [app.yaml]\n", 0o600)
	w.write("deploy/ratings.yaml", policy("0"), 0o600)
	w.write("deploy/both.yaml", deployment+"---\n"+strings.ReplaceAll(policy("1"), "ratings", "both"), 0o600)
	w.base = w.commit()
	w.write("deploy/app.yaml", deployment+"spec: {replicas: 2}\n", 0o600)
	w.write("deploy/new.yaml", deployment, 0o600)
	w.write("deploy/both.yaml", deployment, 0o600)
	w.commit()
	check := func(config string) (int, string) { return w.run("check", "CONFIG="+config, "LIMITS=limits.yaml") }

	if code, out := check("deploy/**/*.yaml"); code != 0 || !strings.Contains(out, "\n::notice title=Rebound lab::4 matching files have no policies, so there is nothing to check in them: deploy/app.yaml, deploy/both.yaml, deploy/kustomization.yaml, deploy/new.yaml\n") {
		t.Errorf("got exit code %d, output\n%s\nwant 0 and which files were left out", code, out)
	}
	code, out := w.run("compare", "CONFIG=deploy/**/*.yaml")
	summary := w.read(w.summary)
	if code != 0 || !strings.Contains(summary, "#### `deploy/both.yaml`\n\n- `both/0`: is gone.\n") || strings.Count(summary, "#### ") != 1 || strings.Contains(summary, "cannot be compared") {
		t.Errorf("got exit code %d, output %s, and summary\n%s\nwant only the file that had policies", code, out, summary)
	}
	if want := "::notice title=Rebound lab::2 changed files have no policies, so they are not in the table: deploy/app.yaml, deploy/new.yaml\n"; !strings.Contains(out, want) {
		t.Errorf("got output\n%s\nwant %q", out, want)
	}
	if code, out := check("deploy/app.yaml"); code != 2 || !strings.Contains(out, "::error title=Rebound lab::no file that matches the input config has policies\n") {
		t.Errorf("got exit code %d, output\n%s\nwant 2: nothing was checked", code, out)
	}
	if code, out := check("deploy/both.yaml"); code != 0 || !strings.Contains(out, "::notice title=Rebound lab::1 matching files ") {
		t.Errorf("got exit code %d, output\n%s\nwant 0: the change removes the last policies", code, out)
	}

	// A broken file is still an error beside files without policies.
	w.write("deploy/broken.yaml", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: {http: [{retry: {}}]}\n", 0o600)
	w.commit()
	if code, out := check("deploy/**/*.yaml"); code != 1 || !strings.Contains(out, "broken.yaml:3:16: ") {
		t.Errorf("got exit code %d, output\n%s\nwant 1 and the mistake", code, out)
	}

	// Without a file that has policies the comment says so.
	w.base = w.git("rev-parse", "HEAD")
	w.write("deploy/app.yaml", deployment, 0o600)
	w.commit()
	if err := os.Remove(w.summary); err != nil {
		t.Fatal(err)
	}
	if code, out := w.run("compare", "CONFIG=deploy/**/*.yaml"); code != 0 || !strings.Contains(w.read(w.summary), "\nNo file with policies differs from the base.\n") {
		t.Errorf("got exit code %d, output %s, and summary\n%s", code, out, w.read(w.summary))
	}
}

// The check of files without policies passes only if the change removes policies: those of a file
// that is deleted, renamed or changed. A deleted README used to be enough. A file that lost its
// policies and its name used to fail.
func TestCheckAfterTheLastPolicies(t *testing.T) {
	t.Parallel()
	const rebound = "routes: [{name: all, match: /, upstream: 'http://up'}]\n"
	long := strings.Repeat("# The service of the stars.\n", 20) + deployment
	for name, c := range map[string]struct {
		file, text, after string // after is in the file renamed.yaml; "" for none
		code              int
	}{
		"README":                  {"deploy/README.md", "# Deploy\n", "", 2},
		"README with an example":  {"deploy/README.md", "# Deploy\n```yaml\nroutes: []\n```\n", "", 2},
		"empty":                   {"deploy/empty.yaml", "", "", 2},
		"Deployment":              {"deploy/old.yaml", long, "", 2},
		"renamed Deployment":      {"deploy/old.yaml", long, long, 2},
		"VirtualService":          {"deploy/old.yaml", policy("1"), "", 0},
		"renamed, loses policies": {"deploy/old.yaml", long + "---\n" + policy("1"), long, 0},
		"Rebound":                 {"deploy/rebound.yaml", rebound, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorkshop(t)
			w.write("limits.yaml", "scenarios: [{scenario: outage-hanging, amplification: 9}]\n", 0o600)
			w.write("deploy/app.yaml", deployment, 0o600)
			w.write(c.file, c.text, 0o600)
			w.base = w.commit()
			w.git("rm", "--quiet", c.file)
			if c.after != "" {
				w.write("deploy/renamed.yaml", c.after, 0o600)
			}
			w.commit()
			if code, out := w.run("check", "CONFIG=deploy/**", "LIMITS=limits.yaml"); code != c.code {
				t.Errorf("got exit code %d, output\n%s\nwant %d", code, out, c.code)
			}
		})
	}
}

// A misspelled API group fails the check, also beside a file that passes, and the name of a file
// that is left out begins no command.
func TestCheckOfMisspelledGroup(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.write("limits.yaml", "scenarios: [{scenario: outage-hanging, amplification: 9}]\nload: {rate: 50, clients: 2, capacity: 150, seeds: 1}\n", 0o600)
	w.write("deploy/ratings.yaml", policy("0"), 0o600)
	w.write(hostile, deployment, 0o600)
	w.base = w.commit()
	code, out := w.run("check", "CONFIG=deploy/**", "LIMITS=limits.yaml")
	if code != 0 || strings.Contains(out, "\n::error") || !strings.Contains(out, "\n::notice title=Rebound lab::1 matching files ") || !strings.Contains(out, "x.yaml") {
		t.Errorf("got exit code %d, output\n%s\nwant 0 and the file that was left out in one line", code, out)
	}
	w.write("deploy/typo.yaml", strings.Replace(policy("3"), "istio.io", "istio.oi", 1), 0o600)
	w.commit()
	code, out = w.run("check", "CONFIG=deploy/*.yaml", "LIMITS=limits.yaml")
	if code != 1 || !strings.Contains(out, "deploy/typo.yaml:1:13: apiVersion: expected networking.istio.io for the kind VirtualService") {
		t.Errorf("got exit code %d, output\n%s\nwant 1 and the mistake", code, out)
	}
}

// action is what action.yml says.
type action struct {
	Inputs map[string]struct {
		Description, Default string
	}
	Runs struct {
		Using string
		Steps []struct {
			Name, If, Uses, Run, Shell string
			Env                        map[string]string
		}
	}
}

func readAction(t *testing.T) (a action) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// No step of the action has an expression in the text of its script: names of files and branches
// could be code there.
func TestActionPassesValuesByEnvironment(t *testing.T) {
	t.Parallel()
	action := readAction(t)
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
