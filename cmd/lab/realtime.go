package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// runReal runs the command run. It plays the scenario with the client and flaky-server, in this
// process and over loopback, and simulates it too.
func runReal(ctx context.Context, p cli.Program) int {
	fs := p.Flags()
	policy := addOwnPolicyFlags(fs)
	load := &loadFlags{load: lab.Load{Rate: 200, Clients: 1, Capacity: 1000, Seed: 1}}
	load.add(fs, "short")
	asJSON := fs.Bool("json", false, "print both results as JSON")
	if code, done := p.Parse(fs, usage(`run plays a scenario in real time with the real client and flaky-server, in one process and over
loopback. It prints the figures next to the simulated ones. The exit code is 1 if they differ by more
than the last column says. One client makes all calls.`, "lab run [flags]",
		`  lab run
  lab run --config rebound.yaml --route process --rate 100
`)); done {
		return code
	}
	s, err := load.read()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	chosen, err := policy.policy(p, s.Method())
	if err != nil {
		return p.Fail(inputCode(err), err)
	}
	if load.load.Clients != 1 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--clients: must be 1, because this process is the only client, got %d", load.load.Clients))
	}
	e, err := load.experiment(chosen, s)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	document, err := e.Scenario.Document(e.Load.Capacity)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	simulated, err := runAll(ctx, []lab.Experiment{e}, func(float64) {})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	measured, err := measure(ctx, p, e, document)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	verdict := []string{"Simulated: " + verdictOn(simulated[0], reference{}), "Measured: " + verdictOn(measured, reference{})}
	if *asJSON {
		err = writeJSON(p.Stdout, struct {
			Verdict   []string    `json:"verdict"`
			Simulated *lab.Result `json:"simulated"`
			Measured  *lab.Result `json:"measured"`
		}{verdict, simulated[0], measured})
	} else {
		err = p.Print(strings.Join(verdict, "\n") + "\n\n")
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	apart, err := writeAgreement(p.Stdout, simulated[0], measured, *asJSON)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if apart > 0 {
		return p.Fail(cli.ExitFailed, fmt.Errorf("%d figures differ too much", apart))
	}
	return cli.ExitOK
}

// measure plays e with the real programs.
func measure(ctx context.Context, p cli.Program, e lab.Experiment, document faults.Spec) (*lab.Result, error) {
	injector, err := faults.New(document, e.Load.Seed)
	if err != nil {
		return nil, err
	}
	// Without the telemetry of the programs, whose packages would double the time to build lab.
	upstream, err := flaky.New(flaky.Options{Faults: injector, Instance: "lab"})
	if err != nil {
		return nil, err
	}
	received := upstream.Data()
	var arrived atomic.Pointer[func()]
	back, err := listen(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if count := arrived.Load(); count != nil {
			(*count)()
		}
		received.ServeHTTP(w, r)
	}))
	if err != nil {
		return nil, err
	}
	defer back.Close()
	defer upstream.Stop()
	cfg := gateway.ForUpstream("http://" + back.Addr)
	cfg.Policies[gateway.DefaultPolicyName] = e.Policy
	client, err := gateway.New(cfg, gateway.Options{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	front, err := listen(ctx, client)
	if err != nil {
		return nil, err
	}
	defer front.Close()
	calls := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer calls.CloseIdleConnections()

	b := newProgressBar(p)
	defer b.clear()
	return lab.Measurement{
		Scenario: e.Scenario, Load: e.Load,
		Call: func() *resilience.Report {
			return callClient(calls, e.Scenario.Method(), "http://"+front.Addr+"/process")
		},
		Begin: func(attempt func()) {
			arrived.Store(&attempt)
			// starts its schedule with the clock; cannot fail, because New has accepted document
			_ = injector.Replace(document)
		},
		Progress: func(passed time.Duration) {
			b.set(float64(passed) / float64(cmp.Or(e.Load.Length, e.Scenario.Length)))
		},
	}.Run(ctx)
}

// server is an HTTP server on loopback.
type server struct {
	*http.Server
}

func listen(ctx context.Context, h http.Handler) (server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return server{}, err
	}
	s := server{&http.Server{Addr: l.Addr().String(), Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}}
	go func() { _ = s.Serve(l) }() // ends with Close
	return s, nil
}

// callClient makes one call through the client, and returns what its answer says about how it
// ended.
func callClient(t http.RoundTripper, method, url string) *resilience.Report {
	failed := &resilience.Report{Reason: resilience.ReasonResetBeforeHeaders}
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		return failed
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return failed
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	report := &resilience.Report{Reason: resilience.ReasonOK}
	attempts, _ := strconv.Atoi(resp.Header.Get(transport.HeaderAttemptCount))
	report.Attempts = make([]resilience.AttemptReport, attempts)
	var problem struct {
		Reason resilience.Reason `json:"reason"`
	}
	switch {
	case err != nil:
		report.Reason = resilience.ReasonBodyFailed
	case resp.StatusCode < http.StatusBadRequest:
	case json.Unmarshal(body, &problem) == nil && problem.Reason.Valid():
		report.Reason = problem.Reason
	default:
		report.Reason = resilience.StatusReason(resp.StatusCode)
	}
	return report
}

// agreement is a figure, and how much simulation and reality may differ in it. Both have randomness
// of their own, and real calls pass a network and two programs.
type agreement struct {
	name      string
	figure    func(*lab.Result) float64
	tolerance float64
	format    string
	idle      bool // comparable only on an idle machine
}

func agreements() []agreement {
	return []agreement{
		{"ended well before, %", func(r *lab.Result) float64 { return 100 * r.Before.Success }, 2, "%.1f", false},
		{"ended well during, %", func(r *lab.Result) float64 { return 100 * r.During.Success }, 6, "%.1f", false},
		{"attempts per call until the end", amplificationUntilEnd, 0.08, "%.2f", false},
		{"attempts per call, worst second", func(r *lab.Result) float64 { return r.PeakAmplification }, 0.25, "%.2f", false},
		{"recovery, s", func(r *lab.Result) float64 {
			if r.RecoveryS == nil {
				return math.Inf(1)
			}
			return *r.RecoveryS
		}, 2.5, "%.1f", false},
		{"latency p50 before, ms", func(r *lab.Result) float64 { return r.Before.P50 }, 15, "%.1f", true},
		{"latency p50 during, ms", func(r *lab.Result) float64 { return r.During.P50 }, 25, "%.1f", true},
	}
}

// amplificationUntilEnd returns the amplification until the end of the disturbance. Later attempts
// depend on when a circuit happens to probe.
func amplificationUntilEnd(r *lab.Result) float64 {
	offered, attempts := 0.0, 0.0
	for i, s := range r.Series {
		if float64(i) < r.DisturbanceToS {
			offered += float64(s.Offered)
			attempts += float64(s.Attempts)
		}
	}
	return attempts / max(1, offered)
}

// writeAgreement prints the figures side by side, unless silent, and returns how many differ too
// much.
func writeAgreement(w io.Writer, simulated, measured *lab.Result, silent bool) (apart int, err error) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%-32s\tsimulated\tmeasured\tdifference at most\t\n", "")
	for _, a := range agreements() {
		s, m := a.figure(simulated), a.figure(measured)
		verdict := ""
		if s != m && !(math.Abs(s-m) <= a.tolerance) { // infinities are equal
			verdict = "  too far"
			apart++
		}
		fmt.Fprintf(t, "%-32s\t"+a.format+"\t"+a.format+"\t%g%s\t\n", a.name, s, m, a.tolerance, verdict)
	}
	if silent {
		return apart, nil
	}
	fmt.Fprintln(w, title(simulated))
	return apart, t.Flush()
}
