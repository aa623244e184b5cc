// Package faithful_test compares the simulator's models of other systems with those systems.
package faithful_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// thing is a system that runs here.
type thing struct {
	name string
	// version returns the version, or "" if the system is not on this machine.
	version func(t *testing.T) string
	cells   []cell
	// start starts the system in front of the upstream, and returns the policy that the simulator
	// has for it.
	start func(t *testing.T, c cell, u *upstream) (foreign.Policy, peer)
}

// peer is a running system.
type peer struct {
	// call makes one call and reports whether it ended well.
	call func(method string) bool
	// end stops the system, and returns how many attempts found no connection.
	end func(calls int) int
}

// cell is one comparison.
type cell struct {
	policy  string // in the table
	lines   []string
	server  string
	library library

	failure    string // in the table
	method     string
	faults     faults.Spec
	servers    int
	dead, sick int // of the servers: those that refuse connections, and those that answer 503
	grpc       bool

	calls  int
	every  time.Duration // between the starts of two calls
	beside int           // this many calls at a time; 0 = one
	why    string        // the reason, if the model is known to differ
}

// figures are what one side counted.
type figures struct{ calls, attempts, successes int }

func (f figures) perCall() float64 { return float64(f.attempts) / float64(f.calls) }
func (f figures) success() float64 { return float64(f.successes) / float64(f.calls) }

// The limits within which both sides agree.
const (
	maxAttempts = 0.05 // attempts per call
	maxSuccess  = 0.02 // share of the calls
	enough      = 0.95 // of the cells
)

// together is how many systems run at a time.
const together = 4

// row is a cell with its results.
type row struct {
	cell
	real, simulated figures
}

func (r row) within() bool {
	return math.Abs(r.real.perCall()-r.simulated.perCall()) <= maxAttempts &&
		math.Abs(r.real.success()-r.simulated.success()) <= maxSuccess
}

// section is the part of the document about one system.
type section struct {
	Name, Version string
	rows          []row
}

// TestFaithful runs each system and its model through the same failures. With -update it writes
// docs/faithful.md.
func TestFaithful(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute of real time")
	}
	all := []thing{nginx(), caddyProxy(), haproxy(), traefik(), grpcGo(), failsafeGo(), retryableHTTP(), daprPolicies()}
	sections := make([]section, len(all))
	// Most of the time is waiting, so that more can run than there are processors.
	var running sync.WaitGroup
	free := make(chan struct{}, together)
	for i, th := range all {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			t.Run(th.name, func(t *testing.T) { sections[i] = th.compare(t) })
		})
	}
	running.Wait()
	good, total := 0, 0
	for _, s := range sections {
		for _, r := range s.rows {
			total++
			if r.within() {
				good++
			}
		}
	}
	t.Logf("%d of %d cells within the limits", good, total)
	if total == 0 || float64(good) < enough*float64(total) {
		t.Errorf("%d of %d cells within the limits, want at least %.0f %%", good, total, 100*enough)
	}
	if golden.Updating() && !t.Failed() {
		golden.Write(t, document, write(sections))
	}
	if !golden.Updating() {
		checkDocument(t, sections)
	}
}

// compare runs the cells of a system.
func (th thing) compare(t *testing.T) section {
	t.Helper()
	s := section{Name: th.name, Version: th.version(t)}
	if s.Version == "" {
		if golden.Updating() {
			t.Fatalf("the document needs all systems, and %s is not on this machine", th.name)
		}
		t.Skipf("%s is not on this machine", th.name)
	}
	for _, c := range th.cells {
		t.Run(fmt.Sprintf("%s/%s/%s", c.policy, c.failure, c.method), func(t *testing.T) {
			r := compare(t, th, c)
			if !r.within() { // on a busy machine a real system may time out: see whether it stays so
				r = compare(t, th, c)
			}
			s.rows = append(s.rows, r)
		})
	}
	return s
}

// compare runs a cell on both sides.
func compare(t *testing.T, th thing, c cell) row {
	t.Helper()
	u := startUpstream(t, c)
	defer u.stop()
	policy, p := th.start(t, c, u)
	u.begin(t, c.faults)
	r := row{cell: c}
	r.real = c.each(func() figures {
		f := figures{calls: 1}
		if p.call(c.method) {
			f.successes = 1
		}
		return f
	})
	r.real.attempts = int(u.arrived.Load()) + p.end(c.calls)
	r.simulated = simulate(t, c, policy)
	verdict := "ok"
	if !r.within() {
		verdict = "DIFFERENT"
	}
	t.Logf("%-10s %d calls, attempts %.3f / %.3f, success %.3f / %.3f", verdict, c.calls,
		r.real.perCall(), r.simulated.perCall(), r.real.success(), r.simulated.success())
	return r
}
