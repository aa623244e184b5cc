package bench_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
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
	"text/template"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// The load of BenchmarkSickEndpoint. Calls begin on time, even if earlier ones have not ended.
const (
	callsPerSecond = 300
	healthyCalls   = 1 * callsPerSecond // before the endpoint gets sick
	sickCalls      = 10 * callsPerSecond
	sickRounds     = 3
)

// A healthy endpoint answers after usual. One that is slow takes a hundred times as long, which is
// well within the attempt timeout of 2 s.
const (
	usual = 5 * time.Millisecond
	slow  = 100 * usual
)

// sick is what an endpoint does from one moment on. A nil handler refuses connections.
var sick = []struct { //nolint:gochecknoglobals // a table
	name    string
	handler http.HandlerFunc
}{
	{"is healthy", healthy}, // to compare with
	{"answers 503 at once", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }},
	{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	{"is slow", func(w http.ResponseWriter, r *http.Request) { time.Sleep(slow - usual); healthy(w, r) }},
	{"refuses connections", nil},
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(usual)
	_, _ = io.WriteString(w, "ok")
}

// rival is a proxy under test. Its configuration is a template in testdata/proxies.
type rival struct {
	name, binary string
	version      []string
	config       string
	args         func(p proxyFiles) []string
}

// proxyFiles is what the templates and the commands need to know.
type proxyFiles struct {
	Address string   // to listen on
	Servers []string // the endpoints
	Dir     string   // for the proxy's own files
	Config  string
}

func rivals(b *testing.B) []rival {
	client := filepath.Join(gobuild.Programs(b, "../..", "./cmd/client"), "client")
	all := []rival{
		{"Rebound", client, []string{"--version"}, "rebound.yaml", func(p proxyFiles) []string {
			return []string{"--config", p.Config, "--listen", p.Address, "--admin", "127.0.0.1:0", "--log-level", "warn"}
		}},
		{"HAProxy", "haproxy", []string{"-v"}, "haproxy.cfg", func(p proxyFiles) []string { return []string{"-f", p.Config} }},
		{"nginx", "nginx", []string{"-v"}, "nginx.conf", func(p proxyFiles) []string {
			return []string{"-e", "stderr", "-p", p.Dir, "-c", p.Config}
		}},
		{"Caddy", "caddy", []string{"version"}, "Caddyfile", func(p proxyFiles) []string {
			return []string{"run", "--adapter", "caddyfile", "--config", p.Config}
		}},
		{"Traefik", "traefik", []string{"version"}, "traefik-routes.yaml", func(p proxyFiles) []string {
			return []string{
				"--entrypoints.web.address=" + p.Address, "--providers.file.filename=" + p.Config, "--log.level=ERROR",
				"--global.checknewversion=false", "--global.sendanonymoususage=false",
			}
		}},
	}
	var found []rival
	for _, r := range all {
		path, err := exec.LookPath(r.binary)
		if err != nil {
			if path, err = exec.LookPath("/usr/sbin/" + r.binary); err != nil { // not in the PATH of all users
				fmt.Printf("%s is left out: no %s in the PATH or /usr/sbin\n", r.name, r.binary)
				continue
			}
		}
		r.binary = path
		text, err := exec.CommandContext(b.Context(), path, r.version...).CombinedOutput() //nolint:gosec // one of the table
		if err != nil {
			b.Fatalf("%s: %v\n%s", path, err, text)
		}
		fmt.Printf("%s: %s\n", r.name, firstLine(text))
		found = append(found, r)
	}
	return found
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}

// origin is an endpoint.
type origin struct {
	server  *http.Server
	address string
	served  atomic.Int64
	sick    atomic.Pointer[http.HandlerFunc]
}

func startOrigin(b *testing.B) *origin {
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	o := &origin{address: l.Addr().String()}
	o.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // loopback
		o.served.Add(1)
		if h := o.sick.Load(); h != nil {
			(*h)(w, r)
		} else {
			healthy(w, r)
		}
	})}
	go func() { _ = o.server.Serve(l) }()
	return o
}

// begin makes o sick.
func (o *origin) begin(sickness http.HandlerFunc) {
	if sickness == nil {
		_ = o.server.Close()
	} else {
		o.sick.Store(&sickness)
	}
}

// start runs the proxy in front of the endpoints and returns its URL.
func (r rival) start(b *testing.B, servers []string) (url string, stop func()) {
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	p := proxyFiles{Address: l.Addr().String(), Servers: servers, Dir: b.TempDir()}
	_ = l.Close() // the address is free again, for the proxy
	p.Config = filepath.Join(p.Dir, r.config)
	var text strings.Builder
	if err := template.Must(template.ParseFiles(filepath.Join("testdata/proxies", r.config))).Execute(&text, p); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(p.Config, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	cmd := exec.CommandContext(ctx, r.binary, r.args(p)...) //nolint:gosec // one of the table
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+p.Dir, "XDG_CONFIG_HOME="+p.Dir, "XDG_DATA_HOME="+p.Dir)
	var said output.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	b.Cleanup(stop)
	url = "http://" + p.Address
	wait.Until(b, 20*time.Second, r.name+" to answer", func() bool {
		select {
		case <-ended:
			b.Fatalf("%s ended early:\n%s", r.name, said.String())
		default:
		}
		return fetch(ctx, http.DefaultClient, url) == nil
	})
	return url, stop
}

// outcome is what the callers and the endpoints saw. NaN is what could not be seen.
type outcome struct {
	successes float64 // per cent
	p50, p99  float64 // ms, of all calls
	attempts  float64 // a call
	share     float64 // per cent of the attempts that the sick endpoint got
}

func (r rival) measure(b *testing.B, sickness http.HandlerFunc) outcome {
	endpoints := []*origin{startOrigin(b), startOrigin(b), startOrigin(b)}
	var servers []string
	for _, o := range endpoints {
		defer func() { _ = o.server.Close() }()
		servers = append(servers, o.address)
	}
	url, stop := r.start(b, servers)
	defer stop()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()

	if _, failed := callAll(b.Context(), client, url, healthyCalls); failed > 0 {
		b.Fatalf("%s: %d calls to healthy endpoints failed, want none", r.name, failed)
	}
	before, refusedBefore := served(endpoints), refusedConnections()
	bad := endpoints[1]
	badBefore := bad.served.Load()
	bad.begin(sickness)
	took, failed := callAll(b.Context(), client, url, sickCalls)
	all, atBad := float64(served(endpoints)-before), float64(bad.served.Load()-badBefore)
	if sickness == nil {
		refused := refusedConnections() - refusedBefore
		all, atBad = all+refused, atBad+refused
	}
	return outcome{
		successes: 100 * float64(sickCalls-failed) / sickCalls,
		p50:       took[len(took)/2], p99: took[len(took)*99/100],
		attempts: all / sickCalls, share: 100 * atBad / all,
	}
}

func served(endpoints []*origin) (n int64) {
	for _, o := range endpoints {
		n += o.served.Load()
	}
	return n
}

// callAll makes n calls and returns their times in ms, in order of length. A call begins when it
// is due, not when this process gets round to it.
func callAll(ctx context.Context, client *http.Client, url string, n int) (took []float64, failed int) {
	took = make([]float64, n)
	var failures atomic.Int64
	var calls sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := start.Add(time.Duration(i) * time.Second / callsPerSecond)
		time.Sleep(time.Until(due))
		calls.Go(func() {
			if fetch(ctx, client, url) != nil {
				failures.Add(1)
			}
			took[i] = float64(time.Since(due).Microseconds()) / 1000
		})
	}
	calls.Wait()
	slices.Sort(took)
	return took, int(failures.Load())
}

// refusedConnections returns how many connections have failed so far in this network namespace, or
// NaN if the system does not count them. No endpoint sees them.
func refusedConnections() float64 {
	text, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		return math.NaN()
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			if i := slices.Index(names, "AttemptFails"); i >= 0 {
				if n, err := strconv.ParseFloat(fields[i], 64); err == nil {
					return n
				}
			}
		}
	}
	return math.NaN()
}

// BenchmarkSickEndpoint compares the client program with other proxies when one of three endpoints
// gets sick. It prints the rows of the table in docs/benchmarks.md.
func BenchmarkSickEndpoint(b *testing.B) {
	proxies := rivals(b)
	for _, s := range sick {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				got := map[string][]outcome{}
				order := slices.Clone(proxies)
				for range sickRounds {
					for _, r := range order {
						got[r.name] = append(got[r.name], r.measure(b, s.handler))
					}
					order = append(order[1:], order[0])
				}
				fmt.Println()
				for _, r := range proxies {
					of := func(part func(outcome) float64) float64 {
						var v []float64
						for _, o := range got[r.name] {
							v = append(v, part(o))
						}
						return median(v)
					}
					fmt.Printf("| %s | %s | %.2f | %.1f | %.0f | %.3f | %.1f |\n", s.name, r.name,
						of(func(o outcome) float64 { return o.successes }),
						of(func(o outcome) float64 { return o.p50 }), of(func(o outcome) float64 { return o.p99 }),
						of(func(o outcome) float64 { return o.attempts }), of(func(o outcome) float64 { return o.share }))
				}
			}
		})
	}
}
