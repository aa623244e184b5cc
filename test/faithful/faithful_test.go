// Package faithful_test compares the simulator's models of other systems with those systems.
package faithful_test

import (
	"fmt"
	"math"
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

	calls int
	every time.Duration // between the starts of two calls
	why   string        // if the model is known to differ here
}

// figures are what one side counted.
type figures struct{ attempts, successes int }

// The limits within which both sides agree.
const (
	maxAttempts = 0.05 // attempts per call
	maxSuccess  = 0.02 // share of the calls
	enough      = 0.95 // of the cells
)

// row is a cell with its results.
type row struct {
	cell
	real, simulated figures
}

func (r row) per(n int) float64 { return float64(n) / float64(r.calls) }

func (r row) within() bool {
	return math.Abs(r.per(r.real.attempts-r.simulated.attempts)) <= maxAttempts &&
		math.Abs(r.per(r.real.successes-r.simulated.successes)) <= maxSuccess
}

// section is the part of the document about one system.
type section struct {
	thing
	version string
	rows    []row
}

// TestFaithful runs each system and its model through the same failures. With -update it writes
// docs/faithful.md.
func TestFaithful(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute of real time")
	}
	all := []thing{grpcGo(), failsafeGo(), retryableHTTP(), caddyProxy(), traefik(), haproxy(), nginx()}
	sections := make([]section, len(all))
	t.Run("systems", func(t *testing.T) {
		for i, th := range all {
			t.Run(th.name, func(t *testing.T) {
				t.Parallel()
				sections[i] = section{thing: th, version: th.version(t)}
				if sections[i].version == "" {
					if golden.Updating() {
						t.Fatalf("the document needs all systems, and %s is not on this machine", th.name)
					}
					t.Skipf("%s is not on this machine", th.name)
				}
				for _, c := range th.cells {
					t.Run(fmt.Sprintf("%s/%s/%s", c.policy, c.failure, c.method), func(t *testing.T) {
						sections[i].rows = append(sections[i].rows, compare(t, th, c))
					})
				}
			})
		}
	})
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
		golden.Write(t, document, render2(sections))
	}
}

// compare runs a cell on both sides.
func compare(t *testing.T, th thing, c cell) row {
	t.Helper()
	u := startUpstream(t, c)
	defer u.stop()
	policy, p := th.start(t, c, u)
	u.begin(t, c.faults)
	r := row{cell: c}
	c.each(func() {
		if p.call(c.method) {
			r.real.successes++
		}
	})
	r.real.attempts = int(u.arrived.Load()) + p.end(c.calls)
	r.simulated = simulate(t, c, policy)
	verdict := "ok"
	if !r.within() {
		verdict = "DIFFERENT"
	}
	t.Logf("%-10s %d calls, attempts %.3f / %.3f, success %.3f / %.3f", verdict, c.calls,
		r.per(r.real.attempts), r.per(r.simulated.attempts), r.per(r.real.successes), r.per(r.simulated.successes))
	return r
}
