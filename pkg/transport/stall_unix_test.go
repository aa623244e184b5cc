//go:build unix

package transport_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// stalledVariable holds a URL. With it, this test binary is the process to stop: it calls the URL
// with twenty callers until its input ends.
const stalledVariable = "REBOUND_TEST_STALLED"

// caller is this test binary as a process of its own that makes calls until its input ends.
type caller struct {
	*exec.Cmd
	t     *testing.T
	in    io.Closer
	lines *bufio.Scanner // of its output
}

// startCalling starts a test as a process, and returns when it makes calls.
func startCalling(t *testing.T, test string, environment ...string) *caller {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")
	child.Env = append(os.Environ(), environment...)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c := &caller{child, t, in, bufio.NewScanner(out)}
	for c.lines.Scan() && c.lines.Text() != "calling" {
	}
	return c
}

// stand stops the process for a while.
func (c *caller) stand(d time.Duration) {
	c.t.Helper()
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(d)
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
}

// A process that was stopped for three seconds finds its attempts timed out. Its upstream, which
// answers in 300 ms, is not to blame.
func TestA16StalledProcessBlamesNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes ten seconds of real time")
	}
	up := serve(t, func(w http.ResponseWriter, _ *http.Request) { time.Sleep(300 * time.Millisecond) })
	// The length and the start of the stop decide which timers fire late.
	for _, stop := range []time.Duration{1300 * time.Millisecond, 1550 * time.Millisecond, 3 * time.Second} {
		t.Run(stop.String(), func(t *testing.T) {
			// The upstream is in this process, which a busy machine may stop too.
			wait.OneOf(t, 2, func() string { return stall(t, up.URL, stop) })
		})
	}
}

// stall makes calls by a process that is stopped twice. It returns what went wrong.
func stall(t *testing.T, url string, stop time.Duration) string {
	t.Helper()
	child := startCalling(t, "TestStalledProcess", stalledVariable+"="+url)
	defer func() { _ = child.Wait() }()
	for range 2 {
		time.Sleep(450 * time.Millisecond)
		child.stand(stop)
	}
	time.Sleep(500 * time.Millisecond)
	_ = child.in.Close()
	var said []string
	for child.lines.Scan() {
		said = append(said, child.lines.Text())
	}
	if !slices.Contains(said, "0 failures, closed") {
		return fmt.Sprintf("after %v twice: %s; want a closed circuit without a failure", stop, strings.Join(said, "\n"))
	}
	return ""
}

func TestStalledProcess(t *testing.T) {
	target := os.Getenv(stalledVariable)
	if target == "" {
		t.Skip("a part of TestA16StalledProcessBlamesNobody")
	}
	next := base(t)
	rt := newTransport(t, next, transport.DefaultPolicy())
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for ctx.Err() == nil {
				get(t, rt, target)
			}
		})
	}
	fmt.Println("calling")
	_, _ = io.Copy(io.Discard, os.Stdin)
	b := rt.State()[0].Breaker
	stop()
	callers.Wait()
	fmt.Printf("%d failures, %v\n", b.Failures, b.State)
	if b.State != resilience.Closed {
		t.Errorf("the circuit is %v, want closed", b.State)
	}
}

// starvedVariable holds a URL, and how many goroutines need processor time. With it, this test
// binary is the process that has too little of it: it calls the URL at a steady rate until its
// input ends.
const starvedVariable = "REBOUND_TEST_STARVED"

// A process with too little processor time hardly refuses a call. It stands still again and again,
// or has too much to do. Its upstream answers in time, and only it reads the answers late.
func TestStarvedProcessRefusesNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes fifteen seconds of real time")
	}
	up := serve(t, func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Millisecond) })
	for name, c := range map[string]struct {
		busy         int
		runs, stands time.Duration
	}{
		"stops for 300 ms":         {0, 700 * time.Millisecond, 300 * time.Millisecond},
		"runs a tenth of the time": {0, 10 * time.Millisecond, 90 * time.Millisecond},
		"runs a fifth of the time": {0, 100 * time.Millisecond, 400 * time.Millisecond},
		"has other work":           {20, time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if c.busy == 0 { // a busy process would take the others' processor time
				t.Parallel()
			}
			// The upstream is on the same machine, and may be slow indeed while others use it.
			wait.OneOf(t, 2, func() string { return starve(t, up.URL, c.busy, c.runs, c.stands) })
		})
	}
}

// starve makes calls by a process that has too little processor time. It returns what went wrong.
func starve(t *testing.T, url string, busy int, runs, stands time.Duration) string {
	t.Helper()
	child := startCalling(t, "TestStarvedProcess", fmt.Sprintf("%s=%s %d", starvedVariable, url, busy), "GOMAXPROCS=2")
	defer func() { _ = child.Wait() }()
	time.Sleep(9 * time.Second)
	for start := time.Now(); time.Since(start) < 6*time.Second; {
		time.Sleep(runs)
		if stands == 0 {
			continue
		}
		child.stand(stands)
	}
	_ = child.in.Close()
	for child.lines.Scan() {
		var made, well, refused int
		if _, err := fmt.Sscanf(child.lines.Text(), "%d calls, %d ok, %d refused", &made, &well, &refused); err != nil {
			continue
		}
		if well < 1000 || well < made/2 || refused > made/100 { // of 500 a second
			return child.lines.Text() + "; want most ok, and at most 1 % refused"
		}
		return ""
	}
	return "the process printed no result"
}

func TestStarvedProcess(t *testing.T) {
	var target string
	var busy int
	if n, _ := fmt.Sscan(os.Getenv(starvedVariable), &target, &busy); n < 2 {
		t.Skip("a part of TestStarvedProcessRefusesNobody")
	}
	rt := newTransport(t, base(t), transport.DefaultPolicy())
	ctx, stop := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	var made int
	var mu sync.Mutex
	ended := map[resilience.Reason]int{}
	calls.Go(func() {
		for start := time.Now(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
			if busy > 0 && time.Since(start) > 9*time.Second {
				for range busy {
					go func() {
						for ctx.Err() == nil {
						}
					}()
				}
				busy = 0
			}
			for ; made < int(time.Since(start)/(2*time.Millisecond)); made++ {
				calls.Go(func() {
					report := get(t, rt, target).report
					mu.Lock()
					defer mu.Unlock()
					ended[report.Reason]++
				})
			}
		}
	})
	fmt.Println("calling")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	calls.Wait()
	fmt.Printf("%d calls, %d ok, %d refused: %v\n", made, ended[resilience.ReasonOK], ended[resilience.ReasonConcurrencyLimit], ended)
}
