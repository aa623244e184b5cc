package faithful_test

import (
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// simulate makes the calls of a cell with the simulator's client, on a virtual clock.
func simulate(t *testing.T, c cell, policy foreign.Policy) (f figures) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		injector, err := faults.New(c.faults, seed)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(seed, seed))
		var known []int
		for n := range c.servers {
			known = append(known, n)
		}
		send := func(req *http.Request, endpoint int) (*http.Response, error) {
			if endpoint == lab.AnyInstance {
				endpoint = rng.IntN(c.servers)
			}
			if endpoint < c.dead {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			if endpoint < c.dead+c.sick {
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
			}
			return answer(req, injector.Next(""))
		}
		client, err := rival.New(policy)(lab.ClientOptions{
			Request: &http.Request{Method: c.method}, Instances: func() []int { return known },
			Send: send, Random: rng.Float64, Choose: rng.Float64,
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.every == 0 && c.dead+c.sick > 0 {
			c.calls *= many
		}
		f = c.each(func() figures {
			r := client.Call()
			one := figures{calls: 1, attempts: len(r.Attempts)}
			if r.Reason == resilience.ReasonOK {
				one.successes = 1
			}
			return one
		})
	})
	return f
}

// many times the calls make the choice of servers even, where it alone decides.
const many = 30

// answer is what net/http makes of a fate.
func answer(req *http.Request, fate faults.Fate) (*http.Response, error) {
	if !faults.Pause(req.Context(), fate.Latency) {
		return nil, req.Context().Err()
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
	switch fate.Fault {
	case faults.FaultError:
		resp.StatusCode = fate.Status
		if fate.RetryAfter != "" {
			resp.Header.Set("Retry-After", strings.TrimSuffix(fate.RetryAfter, "s"))
		}
	case faults.FaultReset:
		return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	case faults.FaultHang:
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return resp, nil
}

// each makes the calls of the cell, one after the other or so many at a time, none before it is
// due.
func (c cell) each(call func() figures) (sum figures) {
	start := time.Now()
	n := max(1, c.beside)
	results := make(chan figures, n)
	for done := 0; done < c.calls; done += n {
		time.Sleep(time.Until(start.Add(time.Duration(done) * c.every)))
		for range n {
			go func() { results <- call() }()
		}
		for range n {
			f := <-results
			sum.calls += f.calls
			sum.attempts += f.attempts
			sum.successes += f.successes
		}
	}
	return sum
}
