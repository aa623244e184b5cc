package bench_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// The load of BenchmarkBadEndpoint. The bad endpoint is bad for badFor; the figures count from a
// moment after it began, when the client has had the time to notice.
const (
	badRounds = 10
	goodFor   = 3 * time.Second
	badFor    = 12 * time.Second
	flapEvery = 3 * time.Second
)

// badKind is a way to be bad. A spec that is the zero value refuses connections.
type badKind struct {
	name     string
	noticed  time.Duration // from here the figures count
	spec     faults.Spec
	flapping bool // bad and good for flapEvery in turns
}

func badKinds() []badKind {
	good := faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: usual}}
	with := func(change func(*faults.Spec)) faults.Spec { s := good; change(&s); return s }
	status := with(func(s *faults.Spec) { s.ErrorRate = 1 })
	return []badKind{
		{name: "healthy", spec: good},
		{name: "answers 503", noticed: 2 * time.Second, spec: status},
		{name: "hangs", noticed: 3 * time.Second, spec: with(func(s *faults.Spec) { s.HangRate = 1 })},
		{name: "is 100 times slower", noticed: 3 * time.Second, spec: with(func(s *faults.Spec) { s.Latency.Value = slow })},
		{name: "refuses connections", noticed: 2 * time.Second},
		{name: "flaps every 3 s", noticed: 2 * time.Second, spec: status, flapping: true},
		{name: "truncates bodies", noticed: 2 * time.Second, spec: with(func(s *faults.Spec) { s.TruncateRate = 1 })},
	}
}

// spared is what callers and endpoints saw while an endpoint was bad.
type spared struct {
	success  float64 // per cent
	p99      float64 // ms
	healthy  float64 // ms, the p99 at the same time with three healthy endpoints
	attempts float64 // a call
	share    float64 // per cent of the attempts that the bad endpoint got
}

// holds reports whether s is what issue "Upstreams" asks.
func (s spared) holds() bool {
	return s.success >= 99.9 && s.attempts <= 1.02 && s.share <= 1 && s.p99 <= 1.5*s.healthy
}

// received returns the calls that the upstream has seen.
func (f *flaky) received() (float64, error) {
	var ledger struct {
		Received float64 `json:"received"`
	}
	err := f.ask(http.MethodGet, "/ledger", "", &ledger)
	return ledger.Received, err
}

// BenchmarkBadEndpoint runs the client program with the default policy over three flaky-servers.
// One of them is bad, in ten rounds of each kind with another seed. The same calls go at the same
// time through another client to three healthy ones, so that both see the same machine. It prints
// the rows of the table in docs/benchmarks.md.
func BenchmarkBadEndpoint(b *testing.B) {
	programs := gobuild.Programs(b, "../..", "./cmd/client", "./cmd/flaky-server")
	for _, k := range badKinds() {
		b.Run(k.name, func(b *testing.B) {
			for b.Loop() {
				var got []spared
				hold := 0
				for seed := range uint64(badRounds) {
					s := k.round(b, programs, seed+1)
					if got = append(got, s); s.holds() {
						hold++
					}
				}
				over := func(pick func(...float64) float64, part func(spared) float64) float64 {
					var all []float64
					for _, s := range got {
						all = append(all, part(s))
					}
					return pick(all...)
				}
				middle := func(v ...float64) float64 { return median(v) }
				fmt.Printf("\n| %s | %.2f | %.3f | %.2f | %.1f | %.1f | %.2f | %d of %d |\n", k.name,
					over(least, func(s spared) float64 { return s.success }), over(most, func(s spared) float64 { return s.attempts }),
					over(most, func(s spared) float64 { return s.share }), over(middle, func(s spared) float64 { return s.p99 }),
					over(middle, func(s spared) float64 { return s.healthy }), over(most, func(s spared) float64 { return s.p99 / s.healthy }), hold, badRounds)
			}
		})
	}
}

func least(v ...float64) float64 { return slices.Min(v) }
func most(v ...float64) float64  { return slices.Max(v) }

// trio is a client over three flaky-servers.
type trio struct {
	servers []*flaky
	url     string
	client  *exec.Cmd
}

// startTrio starts a client with the default policy over three healthy endpoints.
func startTrio(b *testing.B, programs string, seed uint64) (t trio) {
	var addresses []string
	for i := range uint64(3) {
		f := &flaky{ctx: b.Context(), program: filepath.Join(programs, "flaky-server")}
		if err := f.start("127.0.0.1:0", 10*seed+i); err != nil {
			b.Fatal(err)
		}
		if err := f.put(badKinds()[0].spec); err != nil {
			b.Fatal(err)
		}
		t.servers, addresses = append(t.servers, f), append(addresses, strconv.Quote(strings.TrimPrefix(f.data, "http://")))
	}
	file := filepath.Join(b.TempDir(), "rebound.yaml")
	document := fmt.Sprintf("routes: [{name: all, match: /, upstream: servers}]\n"+
		"upstreams: {servers: {url: http://servers, endpoints: {resolve: static, addresses: [%s]}}}\n", strings.Join(addresses, ", "))
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd, lines, err := started(b.Context(), 1, filepath.Join(programs, "client"), "--config", file, "--listen", "127.0.0.1:0",
		"--admin", "127.0.0.1:0", "--log-level", "warn")
	if err != nil {
		b.Fatal(err)
	}
	t.url, t.client = strings.TrimSuffix(second(lines[0]), "/"), cmd
	return t
}

func (t trio) stop() {
	stop(t.client)
	for _, f := range t.servers {
		stop(f.process)
	}
}

// round starts everything, makes the calls, and stops everything.
func (k badKind) round(b *testing.B, programs string, seed uint64) spared {
	one, healthy := startTrio(b, programs, seed), startTrio(b, programs, seed)
	defer one.stop()
	defer healthy.stop()
	both := func(d time.Duration) (calls, beside []answered) {
		var all sync.WaitGroup
		all.Go(func() { beside = makeCallsFor(b.Context(), healthy.url, d) })
		calls = makeCallsFor(b.Context(), one.url, d)
		all.Wait()
		return calls, beside
	}

	both(goodFor)
	bad := one.servers[seed%3]
	if err := k.begin(bad); err != nil {
		b.Fatal(err)
	}
	var flapping sync.WaitGroup
	if k.flapping {
		flapping.Go(func() {
			for i := range int(badFor/flapEvery) - 1 {
				time.Sleep(flapEvery)
				spec := badKinds()[0].spec
				if i%2 == 1 {
					spec = k.spec
				}
				if err := bad.put(spec); err != nil {
					b.Error(err)
				}
			}
		})
	}
	both(k.noticed)
	before, err := arrivals(one.servers, bad)
	if err != nil {
		b.Fatal(err)
	}
	calls, beside := both(badFor - k.noticed)
	flapping.Wait()
	after, err := arrivals(one.servers, bad)
	if err != nil {
		b.Fatal(err)
	}
	attempts, ok := 0.0, 0.0
	for _, c := range calls {
		attempts += c.attempts
		if c.ok {
			ok++
		}
	}
	n := float64(len(calls))
	s := spared{success: 100 * ok / n, p99: p99(calls), healthy: p99(beside), attempts: attempts / n}
	switch {
	case k.name == "healthy": // no endpoint is bad
	case k.flapping: // while it is bad, half of the time, every attempt there fails
		s.share = 100 * (attempts - ok) / (attempts / 2)
	default:
		s.share = 100 * max(0, attempts-(after-before)) / attempts
	}
	return s
}

// p99 returns the 99th percentile of the time that calls took, in ms.
func p99(calls []answered) float64 {
	var took []float64
	for _, c := range calls {
		took = append(took, c.took.Seconds()*1000)
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

func (k badKind) begin(f *flaky) error {
	if k.spec.Latency.Value == 0 {
		return f.die()
	}
	return f.put(k.spec)
}

// arrivals returns the calls that the endpoints other than bad have seen.
func arrivals(servers []*flaky, bad *flaky) (sum float64, err error) {
	for _, f := range servers {
		if f == bad {
			continue
		}
		n, err := f.received()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// answered is how a call ended.
type answered struct {
	ok       bool
	took     time.Duration // since it was due
	attempts float64
}

// makeCallsFor begins callsPerSecond calls a second for a time, on time, and waits for all of them.
func makeCallsFor(ctx context.Context, url string, length time.Duration) []answered {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	calls := make([]answered, int(length.Seconds()*callsPerSecond))
	var running sync.WaitGroup
	start := time.Now()
	for i := range calls {
		due := start.Add(time.Duration(i) * time.Second / callsPerSecond)
		time.Sleep(time.Until(due))
		running.Go(func() {
			calls[i].attempts = 1 // of a call without an answer; the client says otherwise
			defer func() { calls[i].took = time.Since(due) }()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/process", nil)
			if err != nil {
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			_, err = io.Copy(io.Discard, resp.Body)
			calls[i].ok = err == nil && resp.StatusCode == http.StatusOK
			if n, err := strconv.ParseFloat(resp.Header.Get("X-Attempt-Count"), 64); err == nil {
				calls[i].attempts = n
			}
		})
	}
	running.Wait()
	return calls
}
