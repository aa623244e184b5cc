package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// execute runs the program as main does.
func execute(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	return run(ctx, cli.Program{Name: "client", Args: args, LookupEnv: lookupEnv, Stdout: stdout, Stderr: stderr})
}

func noEnv(string) (string, bool) { return "", false }

// client runs the program until the test ends, and returns the URLs that it printed.
func client(t *testing.T, args ...string) (routes, admin string, stop func() int) {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	var stderr output.Buffer
	go func() {
		done <- execute(ctx, append([]string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...), noEnv, writer, &stderr)
		_ = writer.Close()
	}()
	var once sync.Once
	code := -1
	stop = func() int {
		once.Do(func() { cancel(); code = <-done })
		return code
	}
	t.Cleanup(func() { stop() })
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		name, url, _ := strings.Cut(lines.Text(), " ")
		switch url = strings.TrimSpace(url); name {
		case "routes":
			routes = url
		case "admin":
			return routes, url, stop
		}
	}
	t.Fatalf("got exit code %d, want a started program: %s", stop(), stderr.String())
	return "", "", nil
}

// get returns status 0 and the error if there is no response.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, body, err := fetch.Try(t.Context(), http.MethodGet, url, "")
	if resp == nil {
		return 0, err.Error()
	}
	return resp.StatusCode, body
}

func TestProxiesAndDrains(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-release
		}
		_, _ = io.WriteString(w, "answered "+r.URL.Path)
	}))
	t.Cleanup(up.Close)
	routes, admin, stop := client(t, "--upstream", up.URL, "--timeout=1m", "--attempt-timeout=1m", // so that nothing is repeated
		"--listen", rawhttp.FreeAddress(t))
	if code, body := get(t, routes+"/any/path"); code != 200 || body != "answered /any/path" {
		t.Errorf("got %d %q, want 200 \"answered /any/path\"", code, body)
	}
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/breakers": up.URL, "/metrics": `rebound_calls_total{reason="ok",route="upstream"} 1`, "/config": "attemptTimeout: 1m"} {
		if code, body := get(t, admin+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %q, want 200 and %q", path, code, body, want)
		}
	}
	answer := make(chan string)
	go func() {
		_, body := get(t, routes+"/slow")
		answer <- body
	}()
	<-arrived
	stopped := make(chan int)
	go func() { stopped <- stop() }()
	// The listener closes while the call in flight goes on.
	for {
		if code, _ := get(t, routes+"/late"); code == 0 {
			break
		}
	}
	close(release)
	if got := <-answer; got != "answered /slow" {
		t.Errorf("got %q for the call in flight, want answered /slow", got)
	}
	if code := <-stopped; code != 0 {
		t.Errorf("got exit code %d after a drain, want 0", code)
	}
}

// A stop cuts a call that hangs, although its policy gives it an hour.
func TestDrainTimeout(t *testing.T) {
	arrived := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	t.Cleanup(up.Close)
	routes, _, stop := client(t, "--upstream", up.URL, "--timeout=1h", "--attempt-timeout=1h", "--drain-timeout=1ms")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		get(t, routes+"/")
	}()
	<-arrived
	if code := stop(); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	<-ended
}

// The data port speaks TLS with HTTP/2, and still drains.
func TestListenerTLS(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{})
	up := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-release
		}
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
	}))
	t.Cleanup(up.Close)
	folder := t.TempDir()
	file := func(name, kind string, content []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := x509.MarshalPKCS8PrivateKey(up.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := file("tls.crt", "CERTIFICATE", up.Certificate().Raw), file("tls.key", "PRIVATE KEY", key)
	config := filepath.Join(folder, "rebound.yaml")
	text := fmt.Sprintf(`listener: {tls: {certFile: %s, keyFile: %s}}
routes: [{name: all, match: /, upstream: up}]
policies: {default: {timeout: 1m, attemptTimeout: 1m}}
upstreams: {up: {url: "%s", tls: {caFile: %[1]s, serverName: example.com}}}
`, certFile, keyFile, up.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	routes, admin, stop := client(t, "--config", config, "--listen", rawhttp.FreeAddress(t))
	tr := up.Client().Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.ServerName, tr.ForceAttemptHTTP2 = "example.com", true
	defer tr.CloseIdleConnections()
	call := func(path string) string {
		resp, body, err := fetch.Read((&http.Client{Transport: tr}).Do(fetch.Request(t, http.MethodGet, routes+path, nil)))
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(resp.Proto, " ", resp.StatusCode, " ", body)
	}
	if got := call("/"); got != "HTTP/2.0 200 https" || !strings.HasPrefix(routes, "https://") {
		t.Errorf("got %q from %s, want HTTP/2.0 200 https from an https URL", got, routes)
	}
	if code, body := get(t, strings.Replace(routes, "https", "http", 1)); code != http.StatusBadRequest {
		t.Errorf("without TLS: got %d %q, want 400", code, body)
	}
	answer := make(chan string)
	go func() { answer <- call("/slow") }()
	<-arrived
	stopped := make(chan int)
	go func() { stopped <- stop() }()
	wait.Until(t, 20*time.Second, "the drain", func() bool {
		code, _ := get(t, admin+"/readyz")
		return code != http.StatusOK
	})
	close(release)
	if got := <-answer; got != "HTTP/2.0 200 https" {
		t.Errorf("got %q for the call in flight, want HTTP/2.0 200 https", got)
	}
	if code := <-stopped; code != 0 {
		t.Errorf("got exit code %d after a drain, want 0", code)
	}

	// --check finds what only the files can show.
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := execute(t.Context(), []string{"--check", "--config", config}, noEnv, &stdout, &stderr)
	if want := "listener.tls: the key file: open " + keyFile; code != 2 || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
		t.Errorf("got exit code %d, %s, want 2, %s", code, stderr.String(), want)
	}
}

func TestCheckOutputIsStable(t *testing.T) {
	var first, second, stderr bytes.Buffer
	if code := execute(t.Context(), []string{"--check", "--config", "../demo/rebound.yaml"}, noEnv, &first, &stderr); code != 0 {
		t.Fatal(stderr.String())
	}
	golden.File(t, filepath.Join("testdata", "check.yaml"), first.String())
	file := filepath.Join(t.TempDir(), "again.yaml")
	if err := os.WriteFile(file, first.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if code := execute(t.Context(), []string{"--check", "--config", file}, noEnv, &second, &stderr); code != 0 || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("--check of its own output: got (stderr %q)\n%s\nwant\n%s", stderr.String(), second.String(), first.String())
	}
}

func TestHelp(t *testing.T) {
	var stdout bytes.Buffer
	if code := execute(t.Context(), []string{"--help"}, noEnv, &stdout, io.Discard); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	golden.File(t, filepath.Join("testdata", "help.txt"), stdout.String())
}

func TestProbe(t *testing.T) {
	_, admin, _ := client(t, "--upstream", "http://127.0.0.1:1")
	var stdout, stderr bytes.Buffer
	if code := execute(t.Context(), []string{"probe", admin + "/readyz"}, noEnv, &stdout, &stderr); code != 0 || stdout.String() != admin+"/readyz: 200 OK\n" {
		t.Errorf("got exit code %d, stdout %q, stderr %q, want 0 and the status on stdout", code, stdout.String(), stderr.String())
	}
}

func TestUsageMistakes(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"nothing to proxy to":             {nil, nil, "give --config FILE or --upstream URL"},
		"both":                            {[]string{"--config", "x.yaml", "--upstream", "http://x"}, nil, "exclude each other"},
		"both, one by the environment":    {[]string{"--config", "x.yaml"}, map[string]string{"REBOUND_UPSTREAM": "http://x"}, "exclude each other"},
		"unknown flag":                    {[]string{"--nope"}, nil, "nope"},
		"faults that are no URL":          {[]string{"--upstream", "http://x", "--faults", "flaky:5001"}, nil, "--faults: must be a URL such as http://flaky-server:5001"},
		"traces that are no URL":          {[]string{"--upstream", "http://x", "--traces", "jaeger"}, nil, "--traces: must be a URL such as http://localhost:16686"},
		"argument":                        {[]string{"serve"}, nil, "serve"},
		"bad URL":                         {[]string{"--upstream", "flaky:5000"}, nil, "must be a URL such as http://flaky-server:5000"},
		"bad duration":                    {[]string{"--upstream", "http://x", "--drain-delay", "soon"}, nil, "drain-delay"},
		"bad duration in the environment": {[]string{"--upstream", "http://x"}, map[string]string{"REBOUND_DRAIN_DELAY": "soon"}, "REBOUND_DRAIN_DELAY"},
		"negative duration":               {[]string{"--upstream", "http://x", "--drain-delay", "-1s"}, nil, "must be at least 0"},
		"negative drain timeout":          {[]string{"--upstream", "http://x", "--drain-timeout", "-1s"}, nil, "--drain-timeout: must be at least 0"},
		"no address":                      {[]string{"--upstream", "http://x", "--listen", "nope"}, nil, "must be an address such as :8080"},
		"missing file":                    {[]string{"--config", "no/such/file.yaml"}, nil, "no/such/file.yaml"},
		"directory":                       {[]string{"--config", "testdata"}, nil, "testdata"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := execute(t.Context(), tc.args, func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok }, io.Discard, &stderr)
			if code != 2 || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("got exit code %d, stderr %q, want 2 and %q", code, stderr.String(), tc.want)
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	l := rawhttp.Listen(t)
	defer func() { _ = l.Close() }()
	var stderr bytes.Buffer
	code := execute(t.Context(), []string{"--upstream", "http://x", "--listen", l.Addr().String(), "--admin", "127.0.0.1:0"}, noEnv, io.Discard, &stderr)
	if want := fmt.Sprintf("client: --listen: listen on %s (data): address already in use\n", l.Addr()); code != 1 || stderr.String() != want {
		t.Errorf("got exit code %d, stderr %q, want 1 and %q", code, stderr.String(), want)
	}
}

// memory returns a field of /proc/PID/status in KiB, and skips the test on systems without it.
func memory(t *testing.T, cmd *exec.Cmd, field string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	match := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		t.Skipf("no %s in /proc", field)
	}
	kib, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestBinary runs the binary itself: signals, and 200 MB in each direction with little memory.
func TestBinary(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	binary := filepath.Join(gobuild.Programs(t, ".", "."), "client")
	const size = 200 << 20
	hang := make(chan struct{}, 10) // room for retries of the call
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/up":
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "%d %v", n, err)
		case "/down":
			_, _ = io.CopyN(w, zeros{}, size)
		case "/hang":
			hang <- struct{}{}
			<-r.Context().Done()
		}
	}))
	t.Cleanup(up.Close)
	start := func(t *testing.T, flags ...string) (*exec.Cmd, string) {
		flags = append([]string{"--upstream", up.URL, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, flags...)
		cmd := exec.CommandContext(t.Context(), binary, flags...) //nolint:gosec // it was just built
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		return cmd, strings.TrimSpace(strings.TrimPrefix(line, "routes"))
	}
	httpClient := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	send := func(method, url string, body io.Reader) (string, int64, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			return "", 0, err
		}
		resp, err := httpClient.Do(r)
		if err != nil {
			return "", 0, err
		}
		defer func() { _ = resp.Body.Close() }()
		var head bytes.Buffer
		n, err := io.Copy(io.Discard, io.TeeReader(resp.Body, &limited{&head}))
		return head.String(), n, err
	}

	t.Run("200 MB each way in under 64 MiB", func(t *testing.T) {
		cmd, url := start(t, "--timeout=1m", "--attempt-timeout=1m") // a busy machine is slow
		if answer, _, err := send(http.MethodPut, url+"/up", io.LimitReader(zeros{}, size)); answer != fmt.Sprintf("%d <nil>", size) {
			t.Errorf("PUT /up: got %q, error %v, want %d bytes without error", answer, err, size)
		}
		if _, n, err := send(http.MethodGet, url+"/down", nil); n != size || err != nil {
			t.Errorf("GET /down: got %d bytes, error %v, want %d", n, err, size)
		}
		if kib := memory(t, cmd, "VmHWM"); kib > 64<<10 {
			t.Errorf("got a peak of %d MiB resident memory, want at most 64", kib>>10)
		} else {
			t.Logf("resident memory peaked at %d MiB", kib>>10)
		}
	})
	// The limits leave room for other builds and systems. docs/benchmarks.md has the figures.
	t.Run("an idle client and an upload take little memory", func(t *testing.T) {
		cmd, _ := start(t)
		if kib := memory(t, cmd, "VmRSS"); kib > 26<<10 {
			t.Errorf("got %d KiB resident memory of an idle client, want at most 26 MiB", kib)
		} else {
			t.Logf("an idle client takes %d KiB", kib)
		}
		upload := func(url string, n int64) {
			t.Helper()
			if answer, _, err := send(http.MethodPut, url+"/up", io.LimitReader(zeros{}, n)); answer != fmt.Sprintf("%d <nil>", n) {
				t.Errorf("PUT /up: got %q, error %v, want %d bytes without error", answer, err, n)
			}
		}
		// On a busy machine the collector is late now and then.
		wait.OneOf(t, 2, func() (missed string) {
			cmd, url := start(t, "--timeout=1m", "--attempt-timeout=1m")
			upload(url, 1<<20)
			before := memory(t, cmd, "RssAnon")
			upload(url, size)
			grown := memory(t, cmd, "RssAnon") - before
			if grown > 8<<10 {
				return fmt.Sprintf("got %d KiB more memory by an upload of 200 MB, want at most 8 MiB", grown)
			}
			t.Logf("an upload of 200 MB adds %d KiB", grown)
			return ""
		})
	})
	t.Run("SIGTERM drains and exits with 0", func(t *testing.T) {
		cmd, _ := start(t)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a second signal ends at once", func(t *testing.T) {
		cmd, url := start(t, "--timeout=1m", "--attempt-timeout=1m", "--listen", rawhttp.FreeAddress(t))
		go func() { _, _, _ = send(http.MethodGet, url+"/hang", nil) }()
		<-hang
		began := time.Now()
		_ = cmd.Process.Signal(syscall.SIGINT)
		// The first signal has taken effect when new connections fail. Only then is the second
		// signal handled.
		for {
			if _, _, err := send(http.MethodGet, url+"/late", nil); err != nil {
				break
			}
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || time.Since(began) > 30*time.Second /* the drain would take a minute */ {
			t.Errorf("got exit %v after %v, want a failure within 30 s", err, time.Since(began))
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := 100 - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// The debug level logs attempts.
func TestLogLevel(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(up.Close)
	for level, lines := range map[string]map[string]bool{
		"debug": {`"msg":"attempt"`: true, `"msg":"call"`: true},
		"info":  {`"msg":"attempt"`: false, `"msg":"call"`: true},
		"warn":  {`"msg":"attempt"`: false, `"msg":"call"`: false},
	} {
		t.Run(level, func(t *testing.T) {
			var stderr output.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			reader, writer := io.Pipe()
			done := make(chan int, 1)
			go func() {
				done <- execute(ctx, []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", up.URL, "--log-level", level}, noEnv, writer, &stderr)
			}()
			first, err := bufio.NewReader(reader).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, reader) }()
			get(t, strings.TrimSpace(strings.TrimPrefix(first, "routes")))
			cancel()
			<-done
			_ = writer.Close()
			for line, want := range lines {
				if strings.Contains(stderr.String(), line) != want {
					t.Errorf("got %s in the log: %v, want %v:\n%s", line, !want, want, stderr.String())
				}
			}
		})
	}
}
