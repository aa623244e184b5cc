package faithful_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// setup is what the templates of the configurations need to know.
type setup struct {
	Address string   // to listen on
	Servers []string // the upstream's addresses
	Lines   []string // the policy under test
	Server  string   // the policy's part that belongs to each server
	Timeout string   // of an attempt
	Dir     string   // for the program's own files
}

// render returns a configuration.
func render(t *testing.T, file string, s setup) []byte {
	t.Helper()
	var text bytes.Buffer
	if err := template.Must(template.ParseFiles(filepath.Join("testdata", file))).Execute(&text, s); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// imported returns the first policy of a configuration.
func imported(t *testing.T, system foreign.System, file string, text []byte) foreign.Policy {
	t.Helper()
	result, err := foreign.Import(system, file, text)
	if err != nil {
		t.Fatal(err)
	}
	return result.Policies[0]
}

// program is a proxy that runs as a process.
type program struct {
	binary, variable string // its name, and the variable that names another one
	config           string
	args             func(config, dir, address string) []string
	// refused returns how many attempts found no connection, by what the program printed.
	refused func(printed string, u *upstream) int
}

// find returns the path of the program, or "".
func (p program) find() string {
	if path := os.Getenv(p.variable); path != "" {
		return path
	}
	for _, name := range []string{p.binary, "/usr/sbin/" + p.binary} { // not in the PATH of all users
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// versionForm matches the version in what a program says about itself.
var versionForm = regexp.MustCompile(`(?:HAProxy version |nginx/|Version:\s+)(\S+)`)

// version returns the version of the program, or "" if it is missing.
func (p program) version(t *testing.T, flag string) string {
	t.Helper()
	path := p.find()
	if path == "" {
		return ""
	}
	text, err := exec.CommandContext(t.Context(), path, flag).CombinedOutput() //nolint:gosec // the program under test
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, text)
	}
	m := versionForm.FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s %s shows no version:\n%s", path, flag, text)
	}
	return string(m[1])
}

// start runs the program with a configuration and returns when it serves.
func (p program) start(t *testing.T, s setup, text []byte, u *upstream) peer {
	t.Helper()
	config := filepath.Join(s.Dir, p.config)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() {
		if t.Failed() {
			cancel()
		}
	}()
	cmd := exec.CommandContext(ctx, p.find(), p.args(config, s.Dir, s.Address)...) //nolint:gosec // the program under test
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var said output.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	client := newClient()
	wait.Until(t, 20*time.Second, p.binary+" to serve", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended early:\n%s", p.binary, said.String())
		default:
		}
		resp, err := client.Get("http://" + s.Address + "/process")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode != http.StatusNotFound // Traefik has no route yet
	})
	before := settled(&said)
	return peer{
		call: func(method string) bool { return fetch(client, "http://"+s.Address, method) },
		end: func(int) int {
			settled(&said)
			stop()
			return p.refused(strings.TrimPrefix(said.String(), before), u)
		},
	}
}

// settled returns what a program has printed, when it prints no more.
func settled(said *output.Buffer) string {
	for {
		before := said.String()
		time.Sleep(100 * time.Millisecond) // a log line may come after the answer
		if after := said.String(); after == before {
			return after
		}
	}
}

// newClient returns a client for calls to a proxy. It has no connections to reuse, because a proxy
// may close one instead of answering, and net/http would then send the call again.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
}

// fetch makes one call and reports whether it ended well.
func fetch(client *http.Client, url, method string) bool {
	path, body := "/process", ""
	if method == http.MethodPost {
		path, body = "/orders", `{"order": ""}`
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode < http.StatusBadRequest
}

// proxy is a thing whose configuration is a file for a program.
func proxy(name string, system foreign.System, p program, versionFlag string, cells []cell) thing {
	return thing{
		name: name, cells: cells,
		version: func(t *testing.T) string { return p.version(t, versionFlag) },
		start: func(t *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			s := setup{Address: rawhttp.FreeAddress(t), Servers: u.servers, Lines: c.lines, Server: c.server, Timeout: c.timeout(), Dir: t.TempDir()}
			text := render(t, p.config, s)
			return imported(t, system, p.config, text), p.start(t, s, text, u)
		},
	}
}

func nginx() thing {
	p := program{
		binary: "nginx", variable: "NGINX", config: "nginx.conf",
		args: func(config, dir, _ string) []string { return []string{"-e", "stderr", "-p", dir, "-c", config} },
		refused: func(printed string, u *upstream) (n int) {
			for _, dead := range u.dead {
				n += strings.Count(printed+" ", dead)
			}
			return n
		},
	}
	return proxy("nginx", foreign.Nginx, p, "-v", nginxCells())
}

func haproxy() thing {
	tries := regexp.MustCompile(`tries \+?(\d+)`)
	p := program{
		binary: "haproxy", variable: "HAPROXY", config: "haproxy.cfg",
		args: func(config, _, _ string) []string { return []string{"-f", config} },
		refused: func(printed string, u *upstream) (n int) {
			if len(u.dead) == 0 {
				return 0
			}
			for _, m := range tries.FindAllStringSubmatch(printed, -1) {
				retries, _ := strconv.Atoi(m[1]) // digits
				n += 1 + retries
			}
			return n - int(u.arrived.Load())
		},
	}
	return proxy("HAProxy", foreign.HAProxy, p, "-v", haproxyCells())
}

func traefik() thing {
	p := program{
		binary: "traefik", variable: "TRAEFIK", config: "traefik.yaml",
		args: func(config, _, address string) []string {
			return []string{
				"--entrypoints.web.address=" + address, "--providers.file.filename=" + config, "--log.level=DEBUG",
				"--global.checknewversion=false", "--global.sendanonymoususage=false",
			}
		},
		refused: func(printed string, u *upstream) (n int) {
			for line := range strings.Lines(printed) {
				if strings.Contains(line, "connection refused") {
					n++
				}
			}
			return n
		},
	}
	return proxy("Traefik", foreign.Traefik, p, "version", traefikCells())
}
