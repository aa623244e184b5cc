package bench_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	_ "net/http/pprof" //nolint:gosec // of the plain proxy, on loopback
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// A proxy under test runs in a process of its own: this test binary, started with these variables.
// Its processor time is thus apart from that of the load and the upstream.
const (
	proxyVariable    = "BENCH_PROXY"
	upstreamVariable = "BENCH_UPSTREAM"
)

func TestMain(m *testing.M) {
	if tracing := os.Getenv(callsVariable); tracing != "" {
		if err := makeCalls(tracing); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if path := os.Getenv(pathVariable); path != "" {
		if err := walk(path, os.Getenv(walksVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if gateways := os.Getenv(gatewaysVariable); gateways != "" {
		if err := serveGateways(gateways); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if size := os.Getenv(answersVariable); size != "" {
		if err := answer(size); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if kind := os.Getenv(proxyVariable); kind != "" {
		if err := proxy(kind, os.Getenv(upstreamVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// proxy serves until its input ends. It prints its URL, and that of its profiles. For each line of
// input it then prints the processor time it has used so far, in nanoseconds.
func proxy(kind, upstream string) error {
	var handler http.Handler
	switch kind {
	case "rebound":
		g, err := gateway.New(gateway.ForUpstream(upstream), gateway.Options{})
		if err != nil {
			return err
		}
		handler = g
	case "client": // as the command runs it: with metrics and a line of the log for each call
		p := cli.Program{Name: "client", LookupEnv: os.LookupEnv}
		c, err := app.NewClient(context.Background(), p, gateway.ForUpstream(upstream), serve.NewReadiness(), telemetry.NewLogger(io.Discard, slog.LevelInfo), app.LivePage{})
		if err != nil {
			return err
		}
		handler = c.Data
	case "bare": // no proxy, but net/http's server alone
		payload := make([]byte, 200)
		handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(payload) })
	case "plain": // net/http's own connections, and nothing else
		target, err := url.Parse(upstream)
		if err != nil {
			return err
		}
		connections := &http.Transport{
			ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: endpoint.DefaultConnections().MaxIdle, IdleConnTimeout: endpoint.DefaultConnections().IdleTimeout,
		}
		if target.Scheme == "h2c" {
			target.Scheme = "http"
			connections.Protocols = new(http.Protocols)
			connections.Protocols.SetUnencryptedHTTP2(true)
		}
		handler = &httputil.ReverseProxy{
			Transport: connections,
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
		}
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)} //nolint:gosec // ends with the process
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }()
	profiles, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(profiles, nil) }() //nolint:gosec // net/http/pprof, on loopback
	fmt.Printf("http://%s\nhttp://%s\n", l.Addr(), profiles.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println(used.Utime.Nano() + used.Stime.Nano())
	}
	return nil
}

type proxyProcess struct {
	url    string
	stdin  io.Writer
	stdout *bufio.Scanner
}

// startChild starts a process that takes commands on its standard input, answers in lines, and ends
// with the benchmark.
func startChild(b *testing.B, cmd *exec.Cmd) (io.Writer, *bufio.Scanner) {
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	return stdin, bufio.NewScanner(stdout)
}

func startProxy(b *testing.B, kind, upstream string) *proxyProcess {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), proxyVariable+"="+kind, upstreamVariable+"="+upstream)
	stdin, stdout := startChild(b, cmd)
	p := &proxyProcess{stdin: stdin, stdout: stdout}
	p.stdout.Scan()
	p.url = p.stdout.Text()
	p.stdout.Scan() // the URL of its profiles
	return p
}

func (p *proxyProcess) used(b *testing.B) time.Duration {
	_, _ = fmt.Fprintln(p.stdin)
	p.stdout.Scan()
	n, err := strconv.ParseInt(p.stdout.Text(), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(n)
}

// BenchmarkGateway compares the processor time of the gateway with that of httputil's plain proxy.
// Both serve the same requests in turns.
func BenchmarkGateway(b *testing.B) {
	const callers, rounds = 16, 10
	for _, size := range []int{128, 64 << 10} {
		b.Run(fmt.Sprintf("%d byte bodies", size), func(b *testing.B) {
			payload := []byte(strings.Repeat("x", size))
			l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // loopback
				w.Header().Set("Content-Length", strconv.Itoa(size))
				_, _ = w.Write(payload)
			})}
			go func() { _ = server.Serve(l) }()
			b.Cleanup(func() { _ = server.Close() })
			upstream := "http://" + l.Addr().String()
			rebound, plain := startProxy(b, "rebound", upstream), startProxy(b, "plain", upstream)
			client := startProxy(b, "client", upstream)
			caller := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
			b.Cleanup(caller.CloseIdleConnections)
			load := func(url string, n int) {
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for range n / callers {
							if err := fetch(b.Context(), caller, url); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
			per := func(p *proxyProcess, n int) float64 {
				before := p.used(b)
				load(p.url, n)
				return float64(p.used(b)-before) / float64(n/callers*callers) / 1000
			}
			load(rebound.url, 2000)
			load(plain.url, 2000)
			load(client.url, 2000)
			for b.Loop() {
				var ratios, clientRatios, ours, theirs []float64
				for range rounds {
					r, p, c := per(rebound, 4000), per(plain, 4000), per(client, 4000)
					clientRatios = append(clientRatios, c/p)
					ratios, ours, theirs = append(ratios, r/p), append(ours, r), append(theirs, p)
				}
				b.ReportMetric(median(ratios), "cpu-ratio")
				b.ReportMetric(median(clientRatios), "client-cpu-ratio")
				b.ReportMetric(median(ours), "rebound-cpu-µs/req")
				b.ReportMetric(median(theirs), "plain-cpu-µs/req")
			}
		})
	}
}

func fetch(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/process", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if e := resp.Body.Close(); err == nil {
		err = e
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return err
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
