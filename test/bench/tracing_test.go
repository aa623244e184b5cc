package bench_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// callsVariable makes this test binary a caller: a process that makes calls over an in-memory
// RoundTripper. Its figures include the background work of tracing, and exclude the work of the
// collector.
const (
	callsVariable = "BENCH_CALLS"
	withOption    = "with"    // tracing as telemetry.Start sets it up from the environment
	withoutOption = "without" // as the command does when the environment asks for nothing
)

// makeCalls makes as many calls as each line of its input says. It prints the time they took and
// the processor time of the process so far, in nanoseconds.
func makeCalls(tracing string) error {
	var options []transport.Option
	if tracing == withOption {
		tel, err := telemetry.Start(context.Background(), telemetry.Options{
			Service: "bench", LookupEnv: os.LookupEnv, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return err
		}
		options = append(options, transport.WithTracing(tel.Provider(), tel.Propagator(), "default"))
	}
	rt, err := transport.New(memory{http.StatusOK}, transport.DefaultPolicy(), options...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := newRequest(ctx)
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		began := time.Now()
		for range n {
			if err := roundTrip(rt, req); err != nil {
				return err
			}
		}
		took := time.Since(began)
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println(took.Nanoseconds(), used.Utime.Nano()+used.Stime.Nano())
	}
	return nil
}

type caller struct {
	name   string
	stdin  io.Writer
	stdout *bufio.Scanner
	used   int64 // processor time so far

	wall, processor []float64 // ns a call, of each round
}

func startCaller(b *testing.B, name, binary, tracing string, env ...string) *caller {
	cmd := exec.CommandContext(b.Context(), binary) //nolint:gosec // built here
	cmd.Env = append(withoutOTel(), append(env, callsVariable+"="+tracing)...)
	stdin, stdout := startChild(b, cmd)
	return &caller{name: name, stdin: stdin, stdout: stdout}
}

func withoutOTel() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "OTEL_") })
}

// call makes n calls and returns the time and the processor time of one.
func (c *caller) call(b *testing.B, n int) (wall, processor float64) {
	_, _ = fmt.Fprintln(c.stdin, n)
	c.stdout.Scan()
	var took, used int64
	if _, err := fmt.Sscan(c.stdout.Text(), &took, &used); err != nil {
		b.Fatalf("%s printed %q, want two numbers: %v", c.name, c.stdout.Text(), err)
	}
	before := c.used
	c.used = used
	return float64(took) / float64(n), float64(used-before) / float64(n)
}

// inTurns lets all make calls, round after round, in another order each round. A round consists of
// bursts with a pause after each, in which an exporter works.
func inTurns(b *testing.B, callers []*caller, rounds, bursts, calls int, pause time.Duration) {
	for _, c := range callers {
		c.call(b, 2*calls)
	}
	order := slices.Clone(callers)
	for range rounds {
		for _, c := range order {
			var wall, processor float64
			for range bursts {
				w, p := c.call(b, calls)
				time.Sleep(pause)
				wall, processor = wall+w, processor+p
			}
			c.wall = append(c.wall, wall/float64(bursts))
			c.processor = append(c.processor, processor/float64(bursts))
		}
		slices.Reverse(order)
		order = append(order[1:], order[0])
	}
}

// report compares all with one of them, by medians of the rounds' ratios and differences.
func report(base *caller, callers []*caller) {
	fmt.Printf("\n%d rounds, compared with %q\n", len(base.wall), base.name)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tmin ns\tmedian ns\tratio\tmore ns\tprocessor: min ns\tmedian ns\tratio\tmore ns\t")
	for _, c := range callers {
		fmt.Fprintf(table, "%s\t", c.name)
		for _, of := range []func(*caller) []float64{
			func(c *caller) []float64 { return c.wall },
			func(c *caller) []float64 { return c.processor },
		} {
			var ratios, more []float64
			for i, own := range of(c) {
				ratios, more = append(ratios, own/of(base)[i]), append(more, own-of(base)[i])
			}
			fmt.Fprintf(table, "%.0f\t%.0f\t%.3f\t%.0f\t", slices.Min(of(c)), median(slices.Clone(of(c))), median(ratios), median(more))
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
}

// A provider that does nothing costs as much as no provider.
func TestTracingOffAllocatesNothing(t *testing.T) {
	req, err := newRequest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	allocations := func(options ...transport.Option) float64 {
		rt, err := transport.New(memory{http.StatusOK}, transport.DefaultPolicy(), options...)
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(1000, func() {
			if err := roundTrip(rt, req); err != nil {
				t.Error(err)
			}
		})
	}
	without := allocations()
	with := allocations(transport.WithTracing(noop.NewTracerProvider(), propagation.TraceContext{}, "default"))
	if with > without {
		t.Errorf("got %v allocations a call, want at most %v as without a provider", with, without)
	}
}

// BenchmarkTracingOff compares the code without tracing, and with a provider that does nothing,
// with a build that has no tracing code.
func BenchmarkTracingOff(b *testing.B) {
	asItIs, untraced := buildCallers(b)
	for b.Loop() {
		callers := []*caller{
			startCaller(b, "no tracing code", untraced, withoutOption),
			startCaller(b, "no tracing code, again", untraced, withoutOption), // how far apart equals are
			startCaller(b, "off", asItIs, withoutOption),
			startCaller(b, "off, with a provider that does nothing", asItIs, withOption),
		}
		inTurns(b, callers, 150, 1, 5000, 0)
		report(callers[0], callers)
	}
}

// BenchmarkTracingInstructions counts the instructions of a call, which do not depend on other load
// on the machine. It needs valgrind.
func BenchmarkTracingInstructions(b *testing.B) {
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		b.Skip(err)
	}
	asItIs, untraced := buildCallers(b)
	for b.Loop() {
		base := instructions(b, valgrind, untraced, withoutOption)
		for _, tc := range []struct{ name, binary, tracing string }{
			{"no tracing code, again", untraced, withoutOption}, // how far apart equals are
			{"off", asItIs, withoutOption},
			{"off, with a provider that does nothing", asItIs, withOption},
		} {
			n := instructions(b, valgrind, tc.binary, tc.tracing)
			b.Logf("%-40s %8.0f instructions a call, ratio %.4f", tc.name, n, n/base)
		}
	}
}

// instructions returns the cost of one more call.
func instructions(b *testing.B, valgrind, binary, tracing string) float64 {
	const few, many = 1000, 6000
	count := func(calls int) float64 {
		return guestInstructions(b, valgrind, binary, strconv.Itoa(calls)+"\n", callsVariable+"="+tracing)
	}
	return (count(many) - count(few)) / (many - few)
}

// guestInstructions counts the instructions of a whole run of a binary.
func guestInstructions(tb testing.TB, valgrind, binary, stdin string, env ...string) float64 {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), valgrind, "--tool=lackey", "--basic-counts=yes", binary) //nolint:gosec // built here
	// Garbage collections and preemptions come at random times.
	cmd.Env = append(withoutOTel(), append(env, "GOGC=off", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")...)
	cmd.Stdin = strings.NewReader(stdin)
	said, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%v\n%s", err, said)
	}
	found := regexp.MustCompile(`guest instrs:\s+([\d,]+)`).FindSubmatch(said)
	if found == nil {
		tb.Fatalf("valgrind printed no count, want one:\n%s", said)
	}
	n, err := strconv.ParseFloat(strings.ReplaceAll(string(found[1]), ",", ""), 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// BenchmarkTracingOn measures the cost of traces for each state of the collector. The collectors
// run in this process, the callers in processes of their own.
func BenchmarkTracingOn(b *testing.B) {
	asItIs, untraced := buildCallers(b)
	collector := func(answer http.HandlerFunc) string {
		s := httptest.NewServer(answer)
		b.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		return s.URL
	}
	away := "http://" + rawhttp.FreeAddress(b)
	endpoint := func(url string) string { return "OTEL_EXPORTER_OTLP_ENDPOINT=" + url }
	healthy := collector(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	silent := collector(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	refusing := func(status int) string {
		return collector(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
		})
	}
	unavailable, badRequest := refusing(http.StatusServiceUnavailable), refusing(http.StatusBadRequest)
	for _, load := range []struct {
		name                  string
		rounds, bursts, calls int
		pause                 time.Duration
	}{
		// 200 calls are 400 spans, which the queue has room for; the pause is long enough to send
		// them.
		{"bursts that fit the queue", 40, 5, 200, 20 * time.Millisecond},
		{"as fast as it goes", 40, 1, 5000, 0},
	} {
		b.Run(load.name, func(b *testing.B) {
			for b.Loop() {
				callers := []*caller{
					startCaller(b, "no tracing code", untraced, withoutOption),
					startCaller(b, "off", asItIs, withoutOption),
					startCaller(b, "sampled out", asItIs, withOption, endpoint(healthy), "OTEL_TRACES_SAMPLER=always_off"),
					startCaller(b, "recorded, collector healthy", asItIs, withOption, endpoint(healthy)),
					startCaller(b, "recorded, collector away", asItIs, withOption, endpoint(away)),
					startCaller(b, "recorded, collector silent", asItIs, withOption, endpoint(silent)),
					startCaller(b, "recorded, collector answers 503", asItIs, withOption, endpoint(unavailable)),
					startCaller(b, "recorded, collector answers 400", asItIs, withOption, endpoint(badRequest)),
				}
				inTurns(b, callers, load.rounds, load.bursts, load.calls, load.pause)
				report(callers[0], callers)
				report(callers[3], callers[3:]) // a healthy collector
			}
		})
	}
}
