//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// process is one of the programs, running as its own process.
type process struct {
	*exec.Cmd
	urls []string // as printed on stdout
	log  *bufio.Reader
}

func launch(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	p := launchTo(t, writer, binary, args...)
	p.log = bufio.NewReader(reader)
	return p
}

// launchTo starts a process that logs to a file. It closes the file in this process.
func launchTo(t *testing.T, log *os.File, binary string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	p := &process{Cmd: exec.CommandContext(ctx, binary, args...)}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = log
	err = p.Start()
	_ = log.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	url := regexp.MustCompile(`http://localhost:\d+`)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		p.urls = append(p.urls, url.FindAllString(lines.Text(), -1)...)
		// This is the last line that each program prints.
		if text := lines.Text(); strings.HasPrefix(text, "timeouts") || strings.HasPrefix(text, "seed") {
			break
		}
	}
	if len(p.urls) == 0 {
		t.Fatal("got no URLs on stdout, want a started program")
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return p
}

// until reads the log up to a line with the given message.
func (p *process) until(t *testing.T, message string) map[string]any {
	t.Helper()
	for {
		text, err := p.log.ReadString('\n')
		if err != nil {
			t.Fatalf("got the end of the log, want message %q: %v", message, err)
		}
		line := map[string]any{}
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			return line
		}
	}
}

// SIGHUP used to kill the process and its calls in flight. It must reload the configuration file,
// if there is one. SIGUSR1 and SIGUSR2 must not kill the process either.
func TestB6HangupKillsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the programs")
	}
	ignored := ossignal.Ignored(syscall.SIGHUP)
	bin := gobuild.Programs(t, ".", ".", "../demo", "../flaky-server")
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/process" {
			arrived <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "answered "+r.URL.Path)
	}))
	t.Cleanup(up.Close)
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	file := filepath.Join(t.TempDir(), "file.yaml")
	write := func(t *testing.T, text string) {
		t.Helper()
		// Renamed, so that the program never sees half of it.
		if err := errors.Join(os.WriteFile(file+"~", []byte(text), 0o600), os.Rename(file+"~", file)); err != nil {
			t.Fatal(err)
		}
	}
	signal := func(t *testing.T, p *process, s syscall.Signal) {
		t.Helper()
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	waitExit := func(t *testing.T, p *process) {
		t.Helper()
		go func() { _, _ = io.Copy(io.Discard, p.log) }()
		if state, err := p.Process.Wait(); err != nil || !state.Success() {
			t.Errorf("got exit state %v, error %v, want success", state, err)
		}
	}
	terminate := func(t *testing.T, p *process) {
		t.Helper()
		signal(t, p, syscall.SIGTERM)
		waitExit(t, p)
	}
	// Without a file, SIGHUP means that the terminal was closed, and stops the program in order.
	hangUp := func(t *testing.T, p *process) {
		t.Helper()
		signal(t, p, syscall.SIGHUP)
		if ignored {
			terminate(t, p) // under nohup the programs ignore SIGHUP too
			return
		}
		waitExit(t, p)
	}
	ports := []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	const wrong = "nonsense: 1\n"

	t.Run("client with a file", func(t *testing.T) {
		routes := func(name string) string {
			return "routes: [{name: " + name + ", match: /, upstream: \"" + up.URL + "\"}]\n" +
				"policies: {default: {timeout: 1m, attemptTimeout: 1m}}\n" // the call is held back
		}
		write(t, routes("first"))
		p := launch(t, filepath.Join(bin, "client"), append(ports, "--config", file)...)
		answer := make(chan string, 1)
		go func() {
			_, body := get(t, p.urls[0]+"/process")
			answer <- body
		}()
		<-arrived
		signal(t, p, syscall.SIGHUP)
		p.until(t, "SIGHUP: the configuration file is read")
		p.until(t, "configuration reloaded") // even though the file is unchanged
		write(t, routes("second"))
		signal(t, p, syscall.SIGHUP)
		p.until(t, "configuration reloaded")
		if _, body := get(t, p.urls[1]+"/config"); !strings.Contains(body, "name: second") {
			t.Errorf("got configuration\n%s\nwant the new one", body)
		}
		write(t, wrong)
		signal(t, p, syscall.SIGHUP)
		p.until(t, "configuration refused, the old one goes on")
		for _, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2} {
			signal(t, p, s)
			if line := p.until(t, "signal ignored"); line["signal"] != s.String() {
				t.Errorf("got log line %v, want signal %s", line, s)
			}
		}
		free()
		if got := <-answer; got != "answered /process" {
			t.Errorf("got %q for the call in flight, want answered /process", got)
		}
		terminate(t, p)
	})
	t.Run("client without a file", func(t *testing.T) {
		p := launch(t, filepath.Join(bin, "client"), append(ports, "--upstream", up.URL)...)
		signal(t, p, syscall.SIGUSR1)
		p.until(t, "signal ignored")
		if code, body := get(t, p.urls[0]+"/x"); code != http.StatusOK {
			t.Errorf("got %d %s, want 200", code, body)
		}
		hangUp(t, p)
	})
	t.Run("flaky-server with a file", func(t *testing.T) {
		write(t, "errorRate: 0.25\n")
		p := launch(t, filepath.Join(bin, "flaky-server"), append(ports, "--config", file)...)
		write(t, "errorRate: 0.75\n")
		signal(t, p, syscall.SIGHUP)
		p.until(t, "faults read from the file")
		write(t, wrong)
		signal(t, p, syscall.SIGHUP)
		p.until(t, "faults refused, the old ones go on")
		if _, body := get(t, p.urls[1]+"/faults"); !strings.Contains(body, "errorRate: 0.75\n") {
			t.Errorf("got configuration\n%s\nwant the new one", body)
		}
		terminate(t, p)
	})
	t.Run("flaky-server without a file", func(t *testing.T) {
		hangUp(t, launch(t, filepath.Join(bin, "flaky-server"), ports...))
	})
	demo := append(ports, "--flaky-listen", "127.0.0.1:0", "--flaky-admin", "127.0.0.1:0")
	t.Run("demo with a file", func(t *testing.T) {
		routes := "routes: [{name: first, match: /, upstream: \"" + up.URL + "\"}]\n"
		write(t, routes)
		p := launch(t, filepath.Join(bin, "demo"), append(demo, "--config", file)...)
		write(t, wrong)
		signal(t, p, syscall.SIGHUP)
		p.until(t, "configuration refused, the old one goes on") // the demo only logs warnings
		write(t, strings.Replace(routes, "first", "second", 1))
		signal(t, p, syscall.SIGHUP)
		wait.UntilSeen(t, 20*time.Second, "the new configuration", func() (bool, string) {
			_, body := get(t, p.urls[0]+"/config")
			return strings.Contains(body, "name: second"), body
		})
		terminate(t, p)
	})
	t.Run("demo without a file", func(t *testing.T) {
		hangUp(t, launch(t, filepath.Join(bin, "demo"), demo...))
	})
	t.Run("the log's reader goes away", func(t *testing.T) {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := launchTo(t, writer, filepath.Join(bin, "client"), append(ports, "--upstream", up.URL)...)
		_ = reader.Close() // from now on, writing a log line fails with a broken pipe
		for range 3 {
			if code, body := get(t, p.urls[0]+"/x"); code != http.StatusOK {
				t.Fatalf("got %d %s, want 200", code, body)
			}
		}
		signal(t, p, syscall.SIGTERM)
		if state, err := p.Process.Wait(); err != nil || !state.Success() {
			t.Errorf("got exit state %v, error %v, want success", state, err)
		}
	})
}
