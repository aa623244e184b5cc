package bench_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// gatewaysVariable makes this test binary a process with as many gateways as it says, each with its
// own circuit, budget and limit. It stands in for more client processes than a machine can run.
const gatewaysVariable = "BENCH_GATEWAYS"

// mostPrograms is the number of clients from which they share a process.
const mostPrograms = 50

// trouble is an upstream in trouble, and the figures that tell how its callers fare.
type trouble struct {
	name string
	// before is what flaky-server does at the start.
	before   faults.Spec
	rate     float64 // calls a second
	capacity float64 // calls a second, for surges
	length   time.Duration
	trouble  lab.Span
	surge    float64 // the load during the trouble as a share of the capacity; 0 = unchanged
	begin    func(*flaky) error
	end      func(*flaky) error
	many     int // how many clients the column "many clients" has; 0 = 20
	// loaded is when the callers ask for more than the upstream can do. Its goodput counts.
	loaded lab.Span
	// alone is the median of a call's work before the trouble. 0 leaves out observed.beside.
	alone   time.Duration
	policy  func(*transport.Policy)
	figures []figure
}

// figure is one line of the table.
type figure struct {
	name, asked, format string
	// of returns the figure.
	of func(observed) float64
}

// observed is what happened to all calls of one run.
type observed struct {
	trouble trouble
	calls   []called
	result  *lab.Result
	work    faults.Stats // from the ledger
	did     float64      // the jobs a second in trouble.loaded, from the ledger
	// beside is how much longer than its work a call takes that waits for no other one.
	beside time.Duration
	// possible is the most that an upstream of the same calls was seen to do in trouble.loaded.
	possible float64 // calls a second
}

// called is what happened to one call. Times count from the start of the run.
type called struct {
	at, took time.Duration
	reason   resilience.Reason
	attempts []time.Duration // when they began
	priority string
}

func (c called) ok() bool { return c.reason == resilience.ReasonOK }

const priorityHeader = "X-Priority"

// A call's class. One call of four is critical.
const (
	critical  = "critical"
	sheddable = "sheddable"
	criticals = 4
)

// flaky is a flaky-server process.
type flaky struct {
	ctx         context.Context // of the benchmark
	program     string
	data, admin string // URLs
	process     *exec.Cmd
	spec        faults.Spec // of the last put
}

// started runs a program and returns the first lines of its output.
func started(ctx context.Context, lines int, program string, args ...string) (*exec.Cmd, []string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // one that was built here
	first, err := begun(cmd, lines)
	return cmd, first, err
}

func begun(cmd *exec.Cmd, lines int) (first []string, err error) {
	var said output.Buffer
	cmd.Stderr = &said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(stdout)
	for len(first) < lines && scanner.Scan() {
		first = append(first, scanner.Text())
	}
	if len(first) < lines {
		return nil, fmt.Errorf("%s ended early:\n%s", cmd.Path, said.String())
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return first, nil
}

// stop ends a process. One that is frozen or already gone is no obstacle.
func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// second returns the second word of a line such as "faults   http://127.0.0.1:5001/faults".
func second(line string) string { return strings.Fields(line)[1] }

func (f *flaky) start(address string, seed uint64) error {
	cmd, lines, err := started(f.ctx, 2, f.program, "--listen", address, "--admin", "127.0.0.1:0", "--log-level", "warn",
		"--seed", strconv.FormatUint(seed, 10))
	if err != nil {
		return err
	}
	f.process, f.data, f.admin = cmd, strings.TrimSuffix(second(lines[0]), "/process"), strings.TrimSuffix(second(lines[1]), "/faults")
	return nil
}

// put replaces the faults in force.
func (f *flaky) put(spec faults.Spec) error {
	f.spec = spec
	document, err := config.Marshal(spec)
	if err != nil {
		return err
	}
	return f.ask(http.MethodPut, "/faults", string(document), nil)
}

// patch changes the faults in force.
func (f *flaky) patch(change string) error { return f.ask(http.MethodPatch, "/faults", change, nil) }

func (f *flaky) ask(method, path, body string, into any) error {
	req, err := http.NewRequestWithContext(f.ctx, method, f.admin+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if e := resp.Body.Close(); err == nil {
		err = e
	}
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s\n%s", method, path, resp.Status, text)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func (f *flaky) worked() (faults.Stats, error) {
	var ledger struct {
		Work faults.Stats `json:"work"`
	}
	err := f.ask(http.MethodGet, "/ledger", "", &ledger)
	return ledger.Work, err
}

// freeze makes the upstream hang: the system accepts its connections, and nobody answers. It does
// the work of everything that arrives meanwhile when it goes on.
func (f *flaky) freeze() error { return f.process.Process.Signal(syscall.SIGSTOP) }

func (f *flaky) goOn() error { return f.process.Process.Signal(syscall.SIGCONT) }

// die makes the upstream refuse connections.
func (f *flaky) die() error { stop(f.process); return nil }

// revive starts the upstream again at its address, with the same faults.
func (f *flaky) revive() error {
	if err := f.start(strings.TrimPrefix(f.data, "http://"), 1); err != nil {
		return err
	}
	return f.put(f.spec)
}

// serveGateways serves n gateways with the configuration in a file until this process is killed. It
// prints their addresses.
func serveGateways(text string) error {
	count, file, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for range n {
		cfg := gateway.DefaultConfig()
		if err := config.Load(file, &cfg); err != nil {
			return err
		}
		g, err := gateway.New(cfg, gateway.Options{})
		if err != nil {
			return err
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, g) }() //nolint:gosec // ends with the process
		fmt.Println("routes http://" + l.Addr().String())
	}
	select {}
}

// startClients starts n clients of an upstream and returns their URLs.
func startClients(b *testing.B, program string, n int, upstream string, policy transport.Policy) (urls []string, stopAll func()) {
	cfg := gateway.ForUpstream(upstream)
	cfg.Policies[gateway.DefaultPolicyName] = policy
	document, err := config.Marshal(cfg)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "rebound.yaml")
	if err := os.WriteFile(file, document, 0o600); err != nil {
		b.Fatal(err)
	}
	var all []*exec.Cmd
	if n > mostPrograms {
		cmd := exec.CommandContext(b.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", gatewaysVariable, n, file))
		lines, err := begun(cmd, n)
		if err != nil {
			b.Fatal(err)
		}
		for _, line := range lines {
			urls = append(urls, second(line))
		}
		all = append(all, cmd)
	} else {
		for range n {
			cmd, lines, err := started(b.Context(), 1, program, "--config", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "warn")
			if err != nil {
				b.Fatal(err)
			}
			urls, all = append(urls, second(lines[0])), append(all, cmd)
		}
	}
	return urls, func() {
		for _, cmd := range all {
			stop(cmd)
		}
	}
}

// stack is an upstream and its clients.
type stack struct {
	upstream *flaky
	urls     []string // of the clients
	stop     func()
}

// start starts an upstream and n clients under a policy.
func (t trouble) start(b *testing.B, programs string, n int, policy transport.Policy, seed uint64) stack {
	upstream := &flaky{ctx: b.Context(), program: filepath.Join(programs, "flaky-server")}
	if err := upstream.start("127.0.0.1:0", seed); err != nil {
		b.Fatal(err)
	}
	if err := upstream.put(t.before); err != nil {
		b.Fatal(err)
	}
	urls, stopClients := startClients(b, filepath.Join(programs, "client"), n, upstream.data, policy)
	return stack{upstream, urls, sync.OnceFunc(func() { stopClients(); stop(upstream.process) })}
}

// play makes the calls of t. The seed decides when they begin.
func (t trouble) play(ctx context.Context, st stack, seed uint64) (observed, error) {
	caller := &http.Transport{MaxIdleConnsPerHost: 1024}
	defer caller.CloseIdleConnections()

	s := lab.Scenario{}
	s.SetDefaults()
	s.Name, s.Disturbance, s.Length = "trouble", t.trouble, t.length
	// The upstream is real, and no figure depends on this; but a scenario must have a latency.
	s.Upstream.Faults.Latency = faults.Latency{Distribution: faults.DistributionFixed, Value: time.Millisecond}
	if t.surge > 0 {
		s.Load.Surge = &lab.Surge{Span: t.trouble, OfCapacity: t.surge}
	}
	o := observed{trouble: t}
	if t.alone > 0 {
		o.beside = oneByOne(caller, st.upstream.data) - t.alone // not through a client, which would learn from them
	}
	var start time.Time
	var made atomic.Int64
	var mu sync.Mutex
	var events sync.WaitGroup
	var failed [2]error
	var did [2]faults.Stats
	var looked [2]error
	var when [2]time.Time
	result, err := lab.Measurement{
		Scenario: s,
		Load:     lab.Load{Rate: t.rate, Clients: 1, Capacity: t.capacity, Seed: seed},
		Begin: func(func()) {
			start = time.Now()
			for i, e := range []struct {
				at time.Duration
				do func(*flaky) error
			}{{t.trouble.At, t.begin}, {t.trouble.End(), t.end}} {
				if e.do != nil {
					events.Go(func() {
						time.Sleep(time.Until(start.Add(e.at)))
						failed[i] = e.do(st.upstream)
					})
				}
			}
			if t.loaded.For > 0 {
				for i, at := range []time.Duration{t.loaded.At, t.loaded.End()} {
					events.Go(func() {
						time.Sleep(time.Until(start.Add(at)))
						did[i], looked[i] = st.upstream.worked()
						when[i] = time.Now() // late on a busy machine
					})
				}
			}
		},
		Call: func() *resilience.Report {
			number := int(made.Add(1)) - 1
			c := called{at: time.Since(start), priority: sheddable}
			if number%criticals == 0 {
				c.priority = critical
			}
			// In turn, and from another client in each turn, so that each has all classes.
			c.call(caller, st.urls[(number+number/len(st.urls))%len(st.urls)], start)
			mu.Lock()
			defer mu.Unlock()
			o.calls = append(o.calls, c)
			return &resilience.Report{Reason: c.reason, Attempts: make([]resilience.AttemptReport, len(c.attempts))}
		},
	}.Run(ctx)
	events.Wait()
	if err = errors.Join(err, failed[0], failed[1], looked[0], looked[1]); err != nil {
		return o, err
	}
	o.result = result
	if t.loaded.For > 0 {
		o.did = float64(did[1].Served-did[0].Served) / when[1].Sub(when[0]).Seconds()
	}
	o.work, err = st.upstream.worked()
	return o, err
}

// oneByOne returns the median time of calls that are made one after the other.
func oneByOne(caller http.RoundTripper, url string) time.Duration {
	var took []float64
	for range 50 {
		var c called
		c.call(caller, url, time.Now())
		took = append(took, float64(c.took))
	}
	return time.Duration(median(took))
}

var timing = regexp.MustCompile(`(attempt|wait)\d+;dur=([0-9.]+)`)

// call makes the call, and reads from the answer how it ended and when its attempts began.
func (c *called) call(caller http.RoundTripper, url string, start time.Time) {
	defer func() { c.took = time.Since(start) - c.at }()
	c.reason = resilience.ReasonResetBeforeHeaders
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url+"/process", nil)
	if err != nil {
		return
	}
	req.Header.Set(priorityHeader, c.priority)
	resp, err := caller.RoundTrip(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	at := c.at
	for _, entry := range timing.FindAllStringSubmatch(resp.Header.Get("Server-Timing"), -1) {
		if entry[1] == "attempt" {
			c.attempts = append(c.attempts, at)
		}
		ms, err := strconv.ParseFloat(entry[2], 64)
		if err != nil {
			return
		}
		at += time.Duration(ms * float64(time.Millisecond))
	}
	body, err := io.ReadAll(resp.Body)
	var problem struct {
		Reason resilience.Reason `json:"reason"`
	}
	switch {
	case err != nil:
		c.reason = resilience.ReasonBodyFailed
	case resp.StatusCode < http.StatusBadRequest:
		c.reason = resilience.ReasonOK
	case json.Unmarshal(body, &problem) == nil && problem.Reason.Valid():
		c.reason = problem.Reason
	default:
		c.reason = resilience.StatusReason(resp.StatusCode)
	}
}

// count counts the calls that began within a span.
func (o observed) count(s lab.Span, which func(called) bool) (n float64) {
	for _, c := range o.calls {
		if c.at >= s.At && c.at < s.End() && which(c) {
			n++
		}
	}
	return n
}

func all(called) bool { return true }

// share returns the share of the calls that began within a span, in per cent.
func (o observed) share(s lab.Span, which func(called) bool) float64 {
	return 100 * o.count(s, which) / max(1, o.count(s, all))
}

// waited reports whether a call of the trouble made its caller wait for 50 ms or more.
func (o observed) waited(c called) bool {
	return c.at >= o.trouble.trouble.At && c.at < o.trouble.trouble.End() && c.took > 50*time.Millisecond
}

func (o observed) after() lab.Span {
	return lab.Span{At: o.trouble.trouble.End(), For: o.trouble.length}
}

// peak returns the most attempts per call in any second of the run.
func (o observed) peak() (worst float64) {
	for at := time.Duration(0); at < o.trouble.length; at += time.Second {
		attempts := 0.0
		for _, c := range o.calls {
			for _, a := range c.attempts {
				if a >= at && a < at+time.Second {
					attempts++
				}
			}
		}
		worst = max(worst, attempts/max(1, o.count(lab.Span{At: at, For: time.Second}, all)))
	}
	return worst
}

// served returns the calls a second that ended well within a span, and the 99th percentile of their
// latency in ms.
func (o observed) served(s lab.Span) (perSecond, p99 float64) {
	var took []time.Duration
	for _, c := range o.calls {
		if end := c.at + c.took; c.ok() && end >= s.At && end < s.End() {
			took = append(took, c.took)
		}
	}
	if len(took) == 0 {
		return 0, math.NaN()
	}
	slices.Sort(took)
	return float64(len(took)) / s.For.Seconds(), took[len(took)*99/100].Seconds() * 1000
}

func (o observed) recovery() float64 {
	if o.result.RecoveryS == nil {
		return math.Inf(1)
	}
	return *o.result.RecoveryS
}

// reasons returns how calls ended, for the reader of a surprising figure.
func (o observed) reasons(which func(called) bool) string {
	count := map[resilience.Reason]int{}
	for _, c := range o.calls {
		if which(c) {
			count[c.reason]++
		}
	}
	var text []string
	for r, n := range count {
		text = append(text, fmt.Sprintf("%s %d", r, n))
	}
	slices.Sort(text)
	return strings.Join(text, ", ")
}

// workers returns an upstream of so many workers. The queue is the time that its work takes.
func workers(n int, service, queue time.Duration) faults.Spec {
	capacity := float64(n) / service.Seconds()
	return faults.Spec{Capacity: faults.Capacity{Workers: n, ServiceTime: service, Queue: int(capacity * queue.Seconds())}}
}

func lognormal(median, p99 time.Duration) faults.Latency {
	return faults.Latency{Distribution: faults.DistributionLognormal, Median: median, P99: p99}
}

const longQueue = 10 * time.Second

func troubles() (list []trouble) {
	return slices.Concat(overloads(), brownouts(), outages(), calm(), errorRates(), limits())
}

// overloads have more calls than the upstream can serve. It sheds what does not fit into its queue.
func overloads() (list []trouble) {
	for _, queue := range []time.Duration{0, 500 * time.Millisecond} {
		for _, load := range []float64{1.2, 2, 2.5} {
			t := trouble{
				name: fmt.Sprintf("overload of %.0f %%, queue %v", 100*load, queue), before: workers(4, 20*time.Millisecond, queue),
				rate: 100, capacity: 200, length: 16 * time.Second, trouble: lab.Span{At: 3 * time.Second, For: 12 * time.Second}, surge: load,
			}
			t.loaded = t.trouble
			t.figures = []figure{
				{"goodput, % of the possible", "≥ 95", "%.1f", observed.ofPossible},
				{"goodput, % of the capacity", "", "%.1f", func(o observed) float64 {
					served, _ := o.served(t.loaded)
					return 100 * served / t.capacity
				}},
			}
			list = append(list, t)
		}
	}
	return list
}

// setPossible sets what was possible. It is the best goodput of all columns. If the last upstream,
// which has no policy in front of it, did more work, it is that. More may be possible, which nobody
// showed.
func setPossible(row []observed) {
	best := row[len(row)-1].did
	for _, o := range row {
		served, _ := o.served(o.trouble.loaded)
		best = max(best, served)
	}
	for i := range row {
		row[i].possible = best
	}
}

// ofPossible returns the goodput as a share of what was possible, in per cent. Calls count when
// they end: what waits in the queue at the end is served later.
func (o observed) ofPossible() float64 {
	served, _ := o.served(o.trouble.loaded)
	return 100 * served / o.possible
}

// brownouts leave a third of the capacity, at a load of 75 % of all of it.
func brownouts() (list []trouble) {
	span := lab.Span{At: 6 * time.Second, For: 30 * time.Second}
	settled := lab.Span{At: span.At + 5*time.Second, For: span.For - 5*time.Second}
	slow := workers(8, 20*time.Millisecond, longQueue)
	fewer := workers(6, 20*time.Millisecond, longQueue)
	mixed := fewer
	mixed.Latency, mixed.Capacity.ServiceTime, mixed.Capacity.Queue = lognormal(10*time.Millisecond, 50*time.Millisecond), 0, 4730
	const mixedMean = 0.0127 // s, of that lognormal
	for _, c := range []struct {
		name, change string
		before       faults.Spec
		capacity     float64
		p50          time.Duration // of a call's work before the brown-out
		p99          float64       // ms, of its work during the brown-out
	}{
		{"workers are three times as slow", "capacity: {serviceTime: 60ms}", slow, 400, 20 * time.Millisecond, 60},
		{"a third of the workers is left", "capacity: {workers: 2}", fewer, 300, 20 * time.Millisecond, 20},
		{"the same, work of 10 to 50 ms", "capacity: {workers: 2}", mixed, 6 / mixedMean, 10 * time.Millisecond, 50},
	} {
		t := trouble{
			name: "brown-out: " + c.name, before: c.before, rate: 0.75 * c.capacity, capacity: c.capacity, length: span.End() + time.Second,
			trouble: span, begin: func(f *flaky) error { return f.patch(c.change) }, end: func(f *flaky) error { return f.put(c.before) },
			loaded: settled, alone: c.p50,
		}
		t.figures = []figure{
			{"goodput, % of the possible", "≥ 98", "%.1f", observed.ofPossible},
			{"goodput, % of a third of the capacity", "", "%.1f", func(o observed) float64 {
				served, _ := o.served(settled)
				return 100 * served / (c.capacity / 3)
			}},
			{"p99, times that without a queue", "≤ 2", "%.1f", func(o observed) float64 {
				_, p99 := o.served(settled)
				return p99 / (c.p99 + o.beside.Seconds()*1000)
			}},
		}
		list = append(list, t)
	}
	return list
}

// outages make the upstream hang: it accepts connections and answers nothing.
func outages() (list []trouble) {
	for _, c := range []struct {
		rate              float64
		recovery, success string
	}{{200, "≤ 1", "≥ 95"}, {300, "≤ 2", "≥ 92"}} {
		t := trouble{
			name: fmt.Sprintf("outage at %.0f calls/s", c.rate), before: workers(8, 20*time.Millisecond, longQueue), rate: c.rate, capacity: 400,
			length: 40 * time.Second, trouble: lab.Span{At: 10 * time.Second, For: 10 * time.Second}, begin: (*flaky).freeze, end: (*flaky).goOn,
		}
		t.figures = []figure{
			{"calls over 50 ms during it, %", "≤ 1.5", "%.2f", func(o observed) float64 {
				return o.share(t.trouble, o.waited)
			}},
			{"wasted work, %", "≤ 2", "%.2f", func(o observed) float64 { return 100 * float64(o.work.Wasted) / float64(o.work.Served) }},
			{"recovery, s", c.recovery, "%.1f", func(o observed) float64 { return o.recovery() }},
			{"success after it, %", c.success, "%.1f", func(o observed) float64 { return o.share(o.after(), called.ok) }},
			{"attempts per call, worst second", "≤ 1.1", "%.2f", func(o observed) float64 { return o.peak() }},
		}
		list = append(list, t)
	}
	return list
}

// calm is no trouble at all for an upstream that is well.
func calm() []trouble {
	refused := figure{"calls that did not end well", "0", "%.0f", func(o observed) float64 {
		return o.count(lab.Span{For: o.trouble.length}, func(c called) bool { return !c.ok() })
	}}
	slow := faults.Spec{Latency: lognormal(20*time.Millisecond, 200*time.Millisecond)}
	span := lab.Span{At: 6 * time.Second, For: 8 * time.Second}
	return []trouble{
		{
			name: "surge to ten times the load", before: workers(8, 20*time.Millisecond, longQueue), rate: 30, capacity: 400,
			length: span.End(), trouble: span, surge: 0.75, figures: []figure{refused},
		},
		{
			name: "slow: p99 ten times the median", before: slow, rate: 200, capacity: 400,
			length: span.End(), trouble: span, figures: []figure{refused},
		},
		{
			name: "becomes as slow as that", before: faults.Spec{Latency: lognormal(10*time.Millisecond, 50*time.Millisecond)}, rate: 200, capacity: 400,
			length: span.End(), trouble: span, begin: func(f *flaky) error { return f.put(slow) }, figures: []figure{refused},
		},
	}
}

func errorRates() []trouble {
	partly := trouble{
		name: "30 % errors", before: workers(12, 20*time.Millisecond, longQueue), rate: 200, capacity: 600, length: 34 * time.Second,
		trouble: lab.Span{At: 3 * time.Second, For: 30 * time.Second}, begin: func(f *flaky) error { return f.patch("errorRate: 0.3") },
		end: func(f *flaky) error { return f.patch("errorRate: 0") },
	}
	partly.figures = []figure{{"success, %", "≥ 97", "%.2f", func(o observed) float64 { return o.share(partly.trouble, called.ok) }}}
	peak := figure{"attempts per call, worst second", "≤ 1.3", "%.2f", func(o observed) float64 { return o.peak() }}
	many := trouble{
		name: "250 clients of 2 calls/s, outage that hangs", before: workers(20, 20*time.Millisecond, longQueue), rate: 500, capacity: 1000,
		length: 26 * time.Second, trouble: lab.Span{At: 12 * time.Second, For: 10 * time.Second}, many: 250,
		begin: (*flaky).freeze, end: (*flaky).goOn, figures: []figure{peak},
	}
	refusing := many
	refusing.name, refusing.begin, refusing.end = "250 clients of 2 calls/s, outage that refuses", (*flaky).die, (*flaky).revive
	return []trouble{partly, many, refusing}
}

// limits are those that a policy sets.
func limits() (list []trouble) {
	span := lab.Span{At: 4 * time.Second, For: 12 * time.Second}
	for _, c := range []struct {
		name string
		max  int
	}{{"the default limit", 0}, {"a limit of 20 attempts", 20}} {
		t := trouble{
			name: "priorities at 200 %, " + c.name, before: workers(4, 20*time.Millisecond, 500*time.Millisecond), rate: 100, capacity: 200, length: span.End() + time.Second,
			trouble: span, surge: 2, policy: func(p *transport.Policy) { p.Priority.Header, p.Concurrency.Max = priorityHeader, c.max },
		}
		served := func(o observed, class string) float64 {
			return o.count(span, func(c called) bool { return c.ok() && c.priority == class })
		}
		t.figures = []figure{
			{"success of critical, %", "≥ 99", "%.1f", func(o observed) float64 {
				return 100 * served(o, critical) / o.count(span, func(c called) bool { return c.priority == critical })
			}},
			{"sheddable, % of what is left", "≥ 95", "%.1f", func(o observed) float64 {
				return 100 * served(o, sheddable) / (t.capacity*span.For.Seconds() - served(o, critical))
			}},
		}
		list = append(list, t)
	}
	const perSecond = 100
	window := lab.Span{At: 2 * time.Second, For: 10 * time.Second} // the burst is used up before
	return append(list, trouble{
		name: "rate limit of 100 calls/s, 200 calls/s", rate: 200, capacity: 400, length: window.End() + time.Second, trouble: window, many: 1,
		policy: func(p *transport.Policy) {
			p.RateLimit = resilience.RateLimitPolicy{PerSecond: perSecond, Burst: 10}
		},
		figures: []figure{{"calls over 10 s, % of the limit", "99 to 101", "%.1f", func(o observed) float64 {
			return 100 * o.count(window, called.ok) / (perSecond * window.For.Seconds())
		}}},
	})
}

// BenchmarkTrouble plays overloads, brown-outs and outages with the real programs: flaky-server and
// client processes on loopback, and calls that begin at random times, whatever the answers. Beside
// the default policy it plays the same calls with one client without a policy, at the same time. It
// prints the rows of the table in docs/benchmarks.md. With -short it plays one round.
func BenchmarkTrouble(b *testing.B) {
	programs := gobuild.Programs(b, "../..", "./cmd/client", "./cmd/flaky-server")
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for _, t := range troubles() {
		b.Run(t.name, func(b *testing.B) {
			with := transport.DefaultPolicy()
			if t.policy != nil {
				t.policy(&with)
			}
			stacks := []struct {
				clients int
				policy  transport.Policy
			}{{1, with}, {cmp.Or(t.many, 20), with}, {1, lab.NoPolicy(with)}}
			for b.Loop() {
				values := map[string][]float64{}
				for round := range rounds {
					got, errs := make([]observed, len(stacks)), make([]error, len(stacks))
					var running sync.WaitGroup
					for i, s := range stacks {
						seed := uint64(round + 1)
						st := t.start(b, programs, s.clients, s.policy, seed)
						defer st.stop()
						running.Go(func() { got[i], errs[i] = t.play(b.Context(), st, seed); st.stop() })
					}
					running.Wait()
					if err := errors.Join(errs...); err != nil {
						b.Fatal(err)
					}
					setPossible(got)
					for i, o := range got {
						b.Logf("round %d, %d clients: %s; during the trouble and over 50 ms: %s; of those with an attempt: %s; work %+v",
							round+1, stacks[i].clients, o.reasons(all), o.reasons(o.waited),
							o.reasons(func(c called) bool { return o.waited(c) && len(c.attempts) > 0 }), o.work)
						for _, f := range t.figures {
							key := fmt.Sprint(f.name, i)
							values[key] = append(values[key], f.of(o))
						}
					}
				}
				fmt.Println()
				for _, f := range t.figures {
					row := fmt.Sprintf("| %s | %s | %s |", t.name, f.name, f.asked)
					for i := range stacks {
						row += fmt.Sprintf(" "+f.format+" |", median(values[fmt.Sprint(f.name, i)]))
					}
					fmt.Println(row)
				}
			}
		})
	}
}
