package bench_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pprof "github.com/google/pprof/profile"
	"golang.org/x/sys/unix"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// The price of the client program: what it costs more than httputil.ReverseProxy does. Proxies,
// upstream and load are processes of their own.
const (
	// answersVariable makes this binary an upstream whose answers have that many bytes.
	answersVariable = "BENCH_ANSWERS"
	// clientsVariable names programs to compare instead of one built from this tree, separated by
	// colons, each with its variables: before:after GOGC=100.
	clientsVariable = "BENCH_CLIENTS"
	// profilesVariable is a directory for a processor profile of each proxy in each row. Then a row
	// of each shows where its time goes.
	profilesVariable = "BENCH_PROFILES"
	// roundsVariable is the number of rounds instead of 5.
	roundsVariable = "BENCH_ROUNDS"
)

// answer serves answers of size bytes over HTTP/1 or h2c until its input ends. It prints both URLs.
// Its HTTP/1 is written by hand, to leave the processor to the proxies.
func answer(size string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	plain, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h2c, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	payload := bytes.Repeat([]byte("x"), n)
	text := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nServer: bench\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%s", n, payload)
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			go answerAll(conn, text)
		}
	}()
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // loopback
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", size)
		_, _ = w.Write(payload)
	})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(h2c) }()
	fmt.Printf("http://%s\nh2c://%s\n", plain.Addr(), h2c.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// answerAll answers every request on conn, none of which has a body.
func answerAll(conn net.Conn, text []byte) {
	defer func() { _ = conn.Close() }()
	for r := bufio.NewReaderSize(conn, 2<<10); ; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) > 2 {
			continue
		}
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

// rawCaller makes one call after the other over HTTP/1. Like the upstream it is written by hand.
type rawCaller struct {
	dial func() (net.Conn, error) // before the first call
	conn net.Conn
	r    *bufio.Reader
}

func newCaller(ctx context.Context, url string) *rawCaller {
	return &rawCaller{dial: func() (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
	}}
}

const callText = "GET /orders/1234567?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nAccept-Language: en\r\n\r\n"

func (c *rawCaller) call() error {
	if c.conn == nil {
		conn, err := c.dial()
		if err != nil {
			return err
		}
		c.conn, c.r = conn, bufio.NewReaderSize(conn, 2<<10)
	}
	if _, err := io.WriteString(c.conn, callText); err != nil {
		return err
	}
	length := 0
	var failed error
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		switch {
		case err != nil:
			return err
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")):
			failed = errors.New(string(line))
		case len(line) <= 2:
			body, err := c.r.Peek(min(length, c.r.Size()))
			if failed != nil && err == nil {
				failed = fmt.Errorf("%w%s", failed, body)
			}
			_, err = c.r.Discard(length)
			return cmp.Or(err, failed)
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
}

// priced is a proxy under test.
type priced struct {
	name, url, admin string
	pid              int
}

// used returns the processor time of p so far, in the kernel and outside it.
func (p priced) used(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.pid<<3|2), &t); err != nil { // the clock of another process
		b.Fatalf("%s: %v", p.name, err)
	}
	return time.Duration(t.Nano())
}

// resident returns the resident memory of p in KiB.
func (p priced) resident(b *testing.B) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib
}

// live returns the bytes of the heap and of the stacks that p uses after a collection.
func (p priced) live(b *testing.B) (heap, stacks float64) {
	for range 3 { // a collection halves a stack that is too large
		content, err := download(b.Context(), p.admin+"/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			_, _ = fmt.Sscanf(line, "# HeapAlloc = %g", &heap)
			_, _ = fmt.Sscanf(line, "# Stack = %g", &stacks)
		}
	}
	return heap, stacks
}

// startAnswers starts the upstream and returns its URLs.
func startAnswers(b *testing.B, size int) (plain, h2c string) {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), answersVariable+"="+strconv.Itoa(size))
	_, stdout := startChild(b, cmd)
	stdout.Scan()
	plain = stdout.Text()
	stdout.Scan()
	return plain, stdout.Text()
}

// startPlain starts httputil.ReverseProxy.
func startPlain(b *testing.B, upstream string) priced { return startKind(b, "plain", upstream) }

// startKind starts one of the kinds of [proxy].
func startKind(b *testing.B, kind, upstream string) priced {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), proxyVariable+"="+kind, upstreamVariable+"="+upstream)
	_, stdout := startChild(b, cmd)
	p := priced{name: kind, pid: cmd.Process.Pid}
	stdout.Scan()
	p.url = stdout.Text()
	stdout.Scan()
	p.admin = stdout.Text()
	return p
}

// startClient starts the client program with metrics, a log line for each call and the live page.
// The log goes into a pipe, as in a container.
func startClient(b *testing.B, program, upstream string, env ...string) priced {
	name := filepath.Base(program)
	words := strings.Fields(program)
	program, env = words[0], append(env, words[1:]...)
	addresses := make([]string, 2)
	for i := range addresses {
		l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		addresses[i] = l.Addr().String()
		_ = l.Close()
	}
	cmd := exec.CommandContext(b.Context(), program, "--upstream", upstream, "--listen", addresses[0], "--admin", addresses[1]) //nolint:gosec // ours
	cmd.Env = append(os.Environ(), env...)
	log, in, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = in
	go func() { _, _ = io.Copy(io.Discard, log) }()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_ = in.Close()
	b.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait(); _ = log.Close() })
	p := priced{name: name, url: "http://" + addresses[0], admin: "http://" + addresses[1], pid: cmd.Process.Pid}
	wait.Until(b, 60*time.Second, name+" to be ready", func() bool { return fetchOK(b.Context(), p.admin+"/readyz") == nil })
	return p
}

func fetchOK(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// clients returns the client programs to compare.
func clients(b *testing.B) []string {
	if paths := os.Getenv(clientsVariable); paths != "" {
		return strings.Split(paths, ":")
	}
	return []string{filepath.Join(gobuild.Programs(b, "../..", "./cmd/client"), "client")}
}

// load makes calls through one proxy. A call is a function for each caller.
type load struct {
	calls []func() error
	stop  func()
}

func newLoad(b *testing.B, p priced, callers int, h2c bool) load {
	var l load
	if h2c {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		client := &http.Client{Transport: transport}
		for range callers {
			l.calls = append(l.calls, func() error { return fetch(b.Context(), client, p.url) })
		}
		l.stop = transport.CloseIdleConnections
		return l
	}
	var all []*rawCaller
	for range callers {
		c := newCaller(b.Context(), p.url)
		all = append(all, c)
		l.calls = append(l.calls, c.call)
	}
	l.stop = func() {
		for _, c := range all {
			if c.conn != nil {
				_ = c.conn.Close()
			}
		}
	}
	return l
}

// closed makes n calls, each caller one after the other, and returns how many failed.
func (l load) closed(b *testing.B, n int) (failed int) {
	var failures atomic.Int64
	var wg sync.WaitGroup
	for _, call := range l.calls {
		wg.Go(func() {
			for range n / len(l.calls) {
				if err := call(); err != nil && failures.Add(1) == 1 {
					b.Log(err)
				}
			}
		})
	}
	wg.Wait()
	return int(failures.Load())
}

// open makes n calls at a rate. A call's time counts from when it is due. It returns the times in
// ms, in order of length, and the number of failures.
func (l load) open(n, perSecond int) (took []float64, failed int) {
	took = make([]float64, n)
	var failures atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for first, call := range l.calls {
		wg.Go(func() {
			for i := first; i < n; i += len(l.calls) {
				due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
				time.Sleep(time.Until(due))
				if call() != nil {
					failures.Add(1)
				}
				took[i] = float64(time.Since(due).Microseconds()) / 1000
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, int(failures.Load())
}

// offer makes calls at a rate for a time, which callers that are behind try to catch up with. It
// returns how many it made, and counts in why for which reasons calls failed.
func (l load) offer(perSecond int, during time.Duration, why map[string]int) (made int) {
	var calls atomic.Int64
	var mu sync.Mutex // guards why
	var wg sync.WaitGroup
	start := time.Now()
	for first, call := range l.calls {
		wg.Go(func() {
			for i := first; ; i += len(l.calls) {
				due := time.Duration(i) * time.Second / time.Duration(perSecond)
				time.Sleep(due - time.Since(start))
				if due >= during || time.Since(start) >= during {
					return
				}
				calls.Add(1)
				if err := call(); err != nil {
					mu.Lock()
					why[reason(err)]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return int(calls.Load())
}

// reason returns the reason in a problem document, or else the first line of err.
func reason(err error) string {
	if _, rest, ok := strings.Cut(err.Error(), `"reason":"`); ok {
		reason, _, _ := strings.Cut(rest, `"`)
		return reason
	}
	line, _, _ := strings.Cut(err.Error(), "\r")
	return line
}

// BenchmarkPrice compares the client program, with everything on, to the plain proxy: processor
// time for each call, and the time that a caller waits. It prints the rows of the table in
// docs/benchmarks.md.
func BenchmarkPrice(b *testing.B) {
	programs := clients(b)
	rounds := number(b, roundsVariable, 5)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer collector.Close()
	sampled := []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL, "OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}
	for _, protocol := range []string{"HTTP1", "h2c"} {
		for _, size := range []int{200, 64 << 10} {
			for _, callers := range []int{16, 256} {
				for _, perSecond := range []int{0, 3000} {
					way := "closed"
					if perSecond > 0 {
						way = fmt.Sprintf("%d a second", perSecond)
					}
					b.Run(fmt.Sprintf("%s/%d bytes/%d callers/%s", protocol, size, callers, way), func(b *testing.B) {
						upstream, h2c := startAnswers(b, size)
						if protocol == "h2c" {
							upstream = h2c
						}
						proxies := []priced{startPlain(b, upstream)}
						for _, program := range programs {
							proxies = append(proxies, startClient(b, program, upstream))
						}
						if len(programs) == 1 {
							traced := startClient(b, programs[0], upstream, sampled...)
							traced.name += ", 1 % traced"
							proxies = append(proxies, traced)
						}
						for b.Loop() {
							compare(b, proxies, callers, perSecond, rounds, protocol == "h2c")
						}
					})
				}
			}
		}
	}
}

// compare lets the proxies take turns and prints a row for each.
func compare(b *testing.B, proxies []priced, callers, perSecond, rounds int, h2c bool) {
	// A round has several short turns, as other work on the machine comes and goes.
	const turnsOfRound, n = 8, 1024
	var loads []load
	for _, p := range proxies {
		l := newLoad(b, p, callers, h2c)
		defer l.stop()
		l.closed(b, 4000)
		loads = append(loads, l)
	}
	finish := profile(b, proxies)
	type figures struct {
		price, ratio, p50, p99 []float64
		failed                 int
	}
	all := make([]figures, len(proxies))
	turns := make([]int, len(proxies))
	for i := range turns {
		turns[i] = i
	}
	for range rounds {
		used := make([]time.Duration, len(proxies))
		waits := make([][]float64, len(proxies))
		for range turnsOfRound {
			for _, i := range turns {
				before := proxies[i].used(b)
				if perSecond == 0 {
					all[i].failed += loads[i].closed(b, n)
				} else {
					took, failed := loads[i].open(n, perSecond)
					all[i].failed += failed
					waits[i] = append(waits[i], took...)
				}
				used[i] += proxies[i].used(b) - before
			}
			turns = append(turns[1:], turns[0])
		}
		for i := range proxies {
			f := &all[i]
			f.price = append(f.price, float64(used[i].Nanoseconds())/turnsOfRound/n/1000)
			f.ratio = append(f.ratio, float64(used[i])/float64(used[0]))
			if took := waits[i]; perSecond > 0 {
				slices.Sort(took)
				f.p50, f.p99 = append(f.p50, took[len(took)/2]), append(f.p99, took[len(took)*99/100])
			}
		}
	}
	profiled := finish()
	fmt.Println()
	for i, p := range proxies {
		f := all[i]
		fmt.Printf("| %s | %s | %.1f | %.2f |", b.Name(), p.name, median(f.price), median(f.ratio))
		if perSecond > 0 {
			fmt.Printf(" %.2f | %.2f |", median(f.p50), median(f.p99))
		}
		fmt.Printf(" %s | %d failed\n", spread(f.ratio), f.failed)
	}
	for i, p := range profiled {
		if p == nil {
			continue // its download failed
		}
		fmt.Printf("| %s | %s |%s\n", b.Name(), proxies[i].name, microseconds(p, median(all[i].price)))
	}
}

// spread returns the least and the greatest of v, which is sorted.
func spread(v []float64) string { return fmt.Sprintf("%.2f to %.2f", v[0], v[len(v)-1]) }

// profile begins a processor profile of each proxy, if profiles are wanted. finish returns them.
func profile(b *testing.B, proxies []priced) (finish func() []*pprof.Profile) {
	dir := os.Getenv(profilesVariable)
	if dir == "" {
		return func() []*pprof.Profile { return nil }
	}
	all := make([]*pprof.Profile, len(proxies))
	var wg sync.WaitGroup
	for i, p := range proxies {
		wg.Go(func() {
			name := strings.NewReplacer("/", "-", " ", "_", ",", "", "%", "").Replace(b.Name() + "-" + p.name + ".pprof")
			content, err := download(b.Context(), p.admin+"/debug/pprof/profile?seconds=20")
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
			}
			if err == nil {
				all[i], err = pprof.ParseData(content)
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	return func() []*pprof.Profile { wg.Wait(); return all }
}

func download(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(resp.Body)
}

// BenchmarkManyConnections offers calls over many connections, by default 20,000 a second over
// 10,000 connections for a minute, and prints the failures and the memory. Callers and proxies need
// an ulimit -n of twice the connections. The first calls are one for each connection, so slow that
// the machine serves them one by one. The memory for each connection is that after these, and as
// much of it as is in use after a collection. net/http's server alone is there to compare with.
func BenchmarkManyConnections(b *testing.B) {
	connections, perSecond, seconds := number(b, "BENCH_CONNECTIONS", 10_000), number(b, "BENCH_RATE", 20_000), number(b, "BENCH_SECONDS", 60)
	programs := clients(b)
	upstream, _ := startAnswers(b, 200)
	for b.Loop() {
		proxies := []priced{startKind(b, "bare", upstream), startPlain(b, upstream)}
		for _, program := range programs {
			proxies = append(proxies, startClient(b, program, upstream))
		}
		for _, p := range proxies {
			heap, stacks := p.live(b)
			idle := p.resident(b)
			l := newLoad(b, p, connections, false)
			_, failed := l.open(connections, max(1, perSecond/10)) // each opens its connection
			open := p.resident(b)
			openHeap, openStacks := p.live(b)
			each := func(bytes float64) float64 { return bytes / 1024 / float64(connections) }
			fmt.Printf("| %s | idle %.1f MiB | KiB a connection: %.1f resident, %.1f heap and %.1f stacks in use |",
				p.name, idle/1024, (open-idle)/float64(connections), each(openHeap-heap), each(openStacks-stacks))
			if p.name == "bare" {
				fmt.Println()
				l.stop()
				continue
			}
			before, start, made := p.used(b), time.Now(), 0
			var memory []string
			why := map[string]int{}
			for range 6 { // the memory of each sixth shows whether it is flat
				made += l.offer(perSecond, time.Duration(seconds)*time.Second/6, why)
				memory = append(memory, fmt.Sprintf("%.0f", p.resident(b)/1024))
			}
			bad := 0
			for _, n := range why {
				bad += n
			}
			fmt.Printf(" %d of the first and %v failed of %d | %.0f answered well a second | %.1f µs | MiB: %s |\n",
				failed, why, made+connections, float64(made-bad)/time.Since(start).Seconds(), float64((p.used(b)-before).Microseconds())/float64(made), strings.Join(memory, " "))
			l.stop()
		}
	}
}

// number returns a number from the environment.
func number(b *testing.B, name string, usual int) int {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return n
}
