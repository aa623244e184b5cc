package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// execute runs the program as main does.
func execute(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) int {
	return run(ctx, cli.Program{Name: "demo", Args: args, LookupEnv: lookupEnv, Stdout: stdout, Stderr: stderr})
}

func noEnv(string) (string, bool) { return "", false }

// system is the demo's client in front of the demo's upstream. It has a virtual network and, in a
// synctest bubble, a virtual clock.
type system struct {
	http   *http.Client
	client string
	admin  string // of flaky-server
}

func newSystem(t *testing.T, spec faults.Spec, seed uint64) system {
	t.Helper()
	injector, err := faults.New(spec, seed)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := flaky.New(flaky.Options{Faults: injector})
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.DefaultConfig()
	if err := config.Decode("rebound.yaml", policyFile, &cfg); err != nil {
		t.Fatal(err)
	}
	network := pipenet.New()
	gw, err := gateway.New(cfg, gateway.Options{DialContext: network.Dial})
	if err != nil {
		t.Fatal(err)
	}
	for addr, handler := range map[string]http.Handler{"client:8080": gw, "127.0.0.1:5000": upstream.Data(), "admin:5001": upstream.Admin()} {
		network.Serve(t, addr, handler)
	}
	tr := &http.Transport{DialContext: network.Dial, DisableKeepAlives: true}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		gw.Close()
		upstream.Stop()
	})
	return system{http: &http.Client{Transport: tr}, client: "http://client:8080", admin: "http://admin:5001"}
}

func (s system) do(t *testing.T, method, url, body string, header ...string) (*http.Response, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return fetch.Read(s.http.Do(r))
}

func (s system) ledger(t *testing.T) (l flaky.Ledger) {
	t.Helper()
	_, body, err := s.do(t, http.MethodGet, s.admin+"/ledger", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestMainJob checks the demo as shipped. Three in ten attempts fail, but at least 297 of 300 calls
// must succeed. The client must report as many attempts as the upstream counted.
func TestMainJob(t *testing.T) {
	for _, seed := range []uint64{shippedSeed, 1, 2, 3, 4, 5} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t, faults.Default(), seed)
				succeeded, attempts := 0, 0
				for range 300 {
					resp, body, err := s.do(t, http.MethodGet, s.client+"/process", "")
					if err != nil {
						t.Fatal(err)
					}
					n, err := strconv.Atoi(resp.Header.Get("X-Attempt-Count"))
					if err != nil || strings.Count(resp.Header.Get("Server-Timing"), "attempt") != n {
						t.Fatalf("got X-Attempt-Count %q, Server-Timing %q, want as many attempts in both", resp.Header.Get("X-Attempt-Count"), resp.Header.Get("Server-Timing"))
					}
					attempts += n
					if resp.StatusCode == http.StatusOK {
						succeeded++
						if want := fmt.Sprintf(`"attempt":%d`, n); !strings.Contains(body, want) {
							t.Errorf("got body %s, want %s in it", body, want)
						}
					}
				}
				if succeeded < 297 {
					t.Errorf("got %d of 300 calls successful, want at least 297", succeeded)
				}
				if got := s.ledger(t).Received; got != uint64(attempts) {
					t.Errorf("got %d attempts at flaky-server, want %d as the client counted", got, attempts)
				}
				if attempts < 400 || attempts > 460 {
					t.Errorf("got %d attempts for 300 calls, want 400 to 460: do three in ten fail?", attempts)
				}
			})
		})
	}
}

// No POST is executed twice. Without a key, the client does not retry a POST that may have been
// sent. With a key, the upstream recognises the repetition.
func TestOrdersTakeEffectOnce(t *testing.T) {
	spec := faults.Spec{ErrorRate: 0.5, ResetRate: 0.2, TruncateRate: 0.1}
	order := func(i int) string { return fmt.Sprintf(`{"order":"o-%d","item":"tea"}`, i) }
	for _, effect := range []faults.Effect{faults.EffectBefore, faults.EffectAfter} {
		spec.Effect = effect
		t.Run("without a key, effect "+string(effect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t, spec, 1)
				lost := 0
				for i := range 300 {
					if resp, _, err := s.do(t, http.MethodPost, s.client+"/orders", order(i)); err != nil || resp.StatusCode != http.StatusCreated {
						lost++
					}
				}
				l := s.ledger(t)
				for _, e := range l.Effects {
					if e.Applied > 1 || e.Attempts > 1 {
						t.Errorf("order %s: got applied %d times in %d attempts, want at most 1 and 1", e.Order, e.Applied, e.Attempts)
					}
				}
				if lost < 30 || len(l.Effects) == 0 {
					t.Errorf("got %d failed calls and %d effects, want at least 30 and some", lost, len(l.Effects))
				}
			})
		})
		t.Run("with a key, effect "+string(effect), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(t, spec, 1)
				retried, attempts := 0, 0
				for i := range 300 {
					resp, _, err := s.do(t, http.MethodPost, s.client+"/orders", order(i), "Idempotency-Key", fmt.Sprint("key-", i))
					if resp == nil {
						t.Fatal(err)
					}
					n, _ := strconv.Atoi(resp.Header.Get("X-Attempt-Count"))
					attempts += n
					if err == nil && n > 1 {
						retried++
					}
				}
				l := s.ledger(t)
				if l.Received != uint64(attempts) {
					t.Errorf("got %d attempts at flaky-server, want %d as the client counted", l.Received, attempts)
				}
				repeated := 0
				for _, e := range l.Effects {
					if e.Applied > 1 || effect == faults.EffectBefore && e.Applied != 1 {
						t.Errorf("order %s: got applied %d times, want once", e.Order, e.Applied)
					}
					if e.Attempts > 1 {
						repeated++
					}
				}
				if retried == 0 || effect == faults.EffectBefore && repeated == 0 {
					t.Errorf("got %d retried calls and %d repeated orders, want some", retried, repeated)
				}
			})
		})
	}
}

// start runs the program on free ports. The scanner reads its output line by line.
func start(t *testing.T, lookupEnv func(string) (string, bool), args ...string) (lines *bufio.Scanner, stop func() int) {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		free := []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--flaky-listen", "127.0.0.1:0", "--flaky-admin", "127.0.0.1:0"}
		done <- execute(ctx, append(free, args...), lookupEnv, writer, io.Discard)
		_ = writer.Close()
	}()
	var once sync.Once
	code := -1
	stop = func() int {
		once.Do(func() {
			cancel()
			go func() { _, _ = io.Copy(io.Discard, reader) }()
			code = <-done
		})
		return code
	}
	t.Cleanup(func() { stop() })
	return bufio.NewScanner(reader), stop
}

func getBody(t *testing.T, url string, header ...string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPrintedExamplesWork(t *testing.T) {
	lines, stop := start(t, noEnv)
	var curl string
	lines.Scan()
	if page := lines.Text(); !strings.HasPrefix(page, "http://localhost:") || !strings.Contains(getBody(t, page, "Accept", "text/html"), "<title>Rebound live</title>") {
		t.Errorf("got first line %q, want the live page's address", page)
	} else if faults := getBody(t, page+"api/faults"); !strings.Contains(faults, `"errorRate":0.3`) {
		t.Errorf("got faults %s through the page, want errorRate 0.3", faults)
	}
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C") {
		if rest, ok := strings.CutPrefix(lines.Text(), "  curl -i "); ok {
			curl = rest
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, curl, nil)
	if err != nil {
		t.Fatal(err)
	}
	caller := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var resp *http.Response
	// 1 in 400 fails five times, and more where a busy machine answers too late.
	wait.UntilSeen(t, 20*time.Second, "an answer with status 200 to the first example, curl -i "+curl, func() (bool, string) {
		if resp, err = caller.Do(r); err != nil {
			t.Fatalf("the first example, curl -i %s: got error %v", curl, err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK, fmt.Sprint(resp.StatusCode, resp.Header)
	})
	if resp.Header.Get("X-Attempt-Count") == "" {
		t.Errorf("got headers %v, want X-Attempt-Count", resp.Header)
	}
	if code := stop(); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
}

func TestHelp(t *testing.T) {
	var stdout bytes.Buffer
	if code := execute(t.Context(), []string{"--help"}, noEnv, &stdout, io.Discard); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	golden.File(t, "testdata/help.txt", stdout.Bytes())
}

func TestMistakes(t *testing.T) {
	l := rawhttp.Listen(t)
	defer func() { _ = l.Close() }()
	free := "127.0.0.1:0"
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"port in use":             {[]string{"--listen", l.Addr().String()}, 1, "demo: --listen: listen on " + l.Addr().String() + " (client): address already in use\n"},
		"the upstream's in use":   {[]string{"--flaky-listen", l.Addr().String()}, 1, "demo: --flaky-listen: listen on " + l.Addr().String() + " (flaky-server): address already in use\n"},
		"not on loopback":         {[]string{"--listen", ":8080"}, 2, "loopback only"},
		"not an address":          {[]string{"--listen", "8080"}, 2, "must be an address such as 127.0.0.1:8080"},
		"error rate above 1":      {[]string{"--error-rate", "30"}, 2, "demo: --error-rate: expected a rate from 0 to 1, got 30\n"},
		"rates too much together": {[]string{"--error-rate", "0.6", "--reset-rate", "0.6"}, 2, "at most 1"},
		"too much traffic":        {[]string{"--traffic", "201"}, 2, "--traffic: perSecond: must be from 0 to 200, got 201"},
		"faults without a URL":    {[]string{"--faults", "flaky:5001"}, 2, "--faults: must be a URL"},
		"another's faults alone":  {[]string{"--faults", "http://127.0.0.1:1"}, 2, "demo: --faults: needs --config with routes to the upstream whose faults these are\n"},
		"traces without a URL":    {[]string{"--traces", "jaeger"}, 2, "--traces: must be a URL"},
		"unknown flag":            {[]string{"--error"}, 2, "error"},
		"missing policy file":     {[]string{"--config", "no-such.yaml"}, 2, "no-such.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			args := append([]string{"--listen", free, "--admin", free, "--flaky-listen", free, "--flaky-admin", free}, tc.args...)
			code := execute(t.Context(), args, noEnv, io.Discard, &stderr)
			if code != tc.code || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("got exit code %d, stderr %q, want %d and %q", code, stderr.String(), tc.code, tc.want)
			}
			if tc.code == 1 && strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("got stderr %q, want one line", stderr.String())
			}
		})
	}
}
