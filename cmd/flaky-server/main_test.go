package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// execute runs the program as main does.
func execute(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	return run(ctx, cli.Program{Name: "flaky-server", Args: args, LookupEnv: lookupEnv, Stdout: stdout, Stderr: stderr})
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// running is a started flaky-server.
type running struct {
	urls map[string]string // the printed URLs "process", "faults" and "ledger", and the "seed"
	stop func() (code int, stderr string)
}

func start(t *testing.T, vars map[string]string, args ...string) running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, append([]string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...), env(vars), stdout, &stderr)
		stdout.Close()
	}()
	p := running{urls: map[string]string{}}
	p.stop = func() (int, string) {
		cancel()
		code := <-ended
		ended <- code
		return code, stderr.String()
	}
	t.Cleanup(func() { p.stop() })
	for lines := bufio.NewScanner(out); len(p.urls) < 4 && lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		p.urls[name] = strings.TrimSpace(value)
	}
	if len(p.urls) < 4 {
		_, text := p.stop()
		t.Fatalf("got an early exit, want a started program: %s", text)
	}
	return p
}

func request(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	resp, text := fetch.Send(t, method, url, body)
	return resp.StatusCode, text
}

func TestServes(t *testing.T) {
	p := start(t, map[string]string{"HOSTNAME": "pod-1", "REBOUND_SEED": "7"})
	if p.urls["seed"] != "7" {
		t.Errorf("got seed %q, want the environment's 7", p.urls["seed"])
	}
	if code, body := request(t, http.MethodGet, p.urls["faults"], ""); code != http.StatusOK || !strings.HasPrefix(body, "errorRate: 0.3\n") {
		t.Errorf("faults at the start: got %d %s, want 200 and the defaults", code, body)
	}
	if code, body := request(t, http.MethodPut, p.urls["faults"], "errorRate: 1"); code != http.StatusOK {
		t.Errorf("PUT /faults: got %d %s, want 200", code, body)
	}
	if code, body := request(t, http.MethodGet, p.urls["process"], ""); code != http.StatusServiceUnavailable {
		t.Errorf("/process with an error rate of 1: got %d %s, want 503", code, body)
	}
	if code, body := request(t, http.MethodPut, p.urls["faults"], "{}"); code != http.StatusOK {
		t.Errorf("PUT /faults: got %d %s, want 200", code, body)
	}
	if code, body := request(t, http.MethodGet, p.urls["process"], ""); code != http.StatusOK || !strings.Contains(body, `"instance":"pod-1"`) {
		t.Errorf("/process without faults: got %d %s, want 200 from pod-1", code, body)
	}
	if code, body := request(t, http.MethodGet, p.urls["ledger"], ""); code != http.StatusOK || !strings.Contains(body, `"received":2`) {
		t.Errorf("/ledger: got %d %s, want 200 and two requests", code, body)
	}
	if code, body := request(t, http.MethodGet, strings.Replace(p.urls["faults"], "/faults", "/readyz", 1), ""); code != http.StatusOK {
		t.Errorf("/readyz: got %d %s, want 200", code, body)
	}
	if code, text := p.stop(); code != cli.ExitOK {
		t.Errorf("got exit code %d, want 0: %s", code, text)
	}
}

func TestProbe(t *testing.T) {
	admin := strings.TrimSuffix(start(t, nil).urls["faults"], "/faults")
	var stdout, stderr bytes.Buffer
	if code := execute(t.Context(), []string{"probe", admin + "/readyz"}, env(nil), &stdout, &stderr); code != 0 || stdout.String() != admin+"/readyz: 200 OK\n" {
		t.Errorf("got exit code %d, stdout %q, stderr %q, want 0 and the status on stdout", code, stdout.String(), stderr.String())
	}
}

func TestPicksASeed(t *testing.T) {
	if p := start(t, nil); p.urls["seed"] == "" || p.urls["seed"] == "0" {
		t.Errorf("got seed %q, want one", p.urls["seed"])
	}
}

func TestStopDoesNotWaitForHangs(t *testing.T) {
	p := start(t, nil, "--config", files.Temp(t, "faults.yaml", "errorRate: 0\nhangRate: 1\n"))
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(p.urls["process"], "http://"), "/process"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /process HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for { // wait until the call has arrived
		if _, body := request(t, http.MethodGet, p.urls["ledger"], ""); strings.Contains(body, `"received":1`) {
			break
		}
	}
	if code, text := p.stop(); code != cli.ExitOK || strings.Contains(text, "calls cut") {
		t.Errorf("got exit code %d, want 0 and no calls cut: %s", code, text)
	}
	if rest, err := io.ReadAll(conn); len(rest) > 0 {
		t.Errorf("the hanging call got %q (error %v), want nothing", rest, err)
	}
}

func TestFileKeepsOtherDefaults(t *testing.T) {
	p := start(t, nil, "--config", files.Temp(t, "faults.yaml", "statuses: [500]"))
	if _, body := request(t, http.MethodGet, p.urls["faults"], ""); !strings.HasPrefix(body, "errorRate: 0.3\nstatuses:\n  - 500\n") {
		t.Errorf("got faults %s, want the default error rate and status 500", body)
	}
}

func TestExits(t *testing.T) {
	taken := rawhttp.Listen(t)
	defer taken.Close()
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	bad := files.Temp(t, "faults.yaml", "errorRate: 2\nfailfirst: 1\n")

	tests := map[string]struct {
		args   []string
		vars   map[string]string
		code   int
		stdout string
		stderr []string
	}{
		"version":      {args: []string{"--version"}, code: 0, stdout: "flaky-server "},
		"unknown flag": {args: []string{"--sed", "1"}, code: 2, stderr: []string{"flaky-server: unknown flag --sed, did you mean --seed?", "see flaky-server --help"}},
		"argument":     {args: []string{"serve"}, code: 2, stderr: []string{`unexpected argument "serve"`}},
		"bad seed":     {vars: map[string]string{"REBOUND_SEED": "-1"}, code: 2, stderr: []string{"REBOUND_SEED: expected an integer from 0"}},
		"no document":  {args: []string{"--config", missing}, code: 2, stderr: []string{missing + ": cannot be read"}},
		"bad document": {args: []string{"--config", bad}, code: 2, stderr: []string{
			bad + ":1:12: errorRate: expected a rate from 0 to 1, got 2", bad + ":2:1: failfirst: unknown key",
		}},
		"check of a bad document": {args: []string{"--check", "--config", bad}, code: 2, stderr: []string{bad + ":1:12: errorRate", bad + ":2:1: failfirst"}},
		"check of rates above 1": {args: []string{"--check", "--config", files.Temp(t, "faults.yaml", "resetRate: 0.8")}, code: 2, stderr: []string{
			"resetRate: expected errorRate, resetRate, truncateRate, hangRate and slowBodyRate to add up to at most 1, got 1.1",
		}},
		"check of a bad variable": {args: []string{"--check"}, vars: map[string]string{"OTEL_TRACES_SAMPLER": "often"}, code: 2, stderr: []string{"OTEL_TRACES_SAMPLER"}},
		"port in use": {args: []string{"--listen", "127.0.0.1:0", "--admin", taken.Addr().String()}, code: 1, stderr: []string{
			"flaky-server: --admin: listen on " + taken.Addr().String() + " (admin): address already in use\n",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := execute(t.Context(), tt.args, env(tt.vars), &stdout, &stderr); code != tt.code {
				t.Errorf("got exit code %d, want %d", code, tt.code)
			}
			if !strings.HasPrefix(stdout.String(), tt.stdout) || (tt.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("got stdout %q, want %q", stdout.String(), tt.stdout)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("got stderr %q, want it to contain %q", stderr.String(), want)
				}
			}
			if (len(tt.stderr) == 0) != (stderr.Len() == 0) {
				t.Errorf("got stderr %q, want it empty only without an error", stderr.String())
			}
			if tt.code == cli.ExitFailed && strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("got stderr %q, want one line", stderr.String())
			}
		})
	}
}

// What --check prints is a file that gives the same again.
func TestCheck(t *testing.T) {
	file, before := files.Temp(t, "faults.yaml", "statuses: [500]"), ""
	for range 2 {
		var stdout, stderr bytes.Buffer
		if code := execute(t.Context(), []string{"--check", "--config", file}, env(nil), &stdout, &stderr); code != cli.ExitOK || stderr.Len() > 0 {
			t.Fatalf("got exit code %d, stderr %q, want 0 and nothing", code, stderr.String())
		}
		got := stdout.String()
		if !strings.HasPrefix(got, "errorRate: 0.3\nstatuses:\n  - 500\n") || before != "" && got != before {
			t.Errorf("got %s, want the default error rate and status 500, and the same as before: %s", got, before)
		}
		file, before = files.Temp(t, "faults.yaml", got), got
	}
}

func TestHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := execute(t.Context(), []string{"--help"}, env(nil), &stdout, &stderr); code != cli.ExitOK || stderr.Len() > 0 {
		t.Errorf("got exit code %d, stderr %q, want 0 and nothing", code, stderr.String())
	}
	golden.File(t, filepath.Join("testdata", "help.txt"), stdout.Bytes())
}
