package lab_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// twice is a client that makes a first attempt at the last instance that it knows, and a second one
// at any.
type twice struct {
	lab.ClientOptions

	mu    sync.Mutex
	known map[int]bool // numbers of instances that it has seen
}

func (c *twice) Call() *resilience.Report {
	known := c.Instances()
	c.mu.Lock()
	c.known[len(known)] = true
	c.mu.Unlock()
	r := &resilience.Report{Reason: resilience.ReasonMaxAttempts}
	for number, instance := range []int{known[len(known)-1], lab.AnyInstance} {
		a := resilience.AttemptReport{Number: number + 1, Reason: resilience.ReasonDialError}
		resp, err := c.Send(c.Request.WithContext(context.Background()), instance)
		if err == nil {
			_ = resp.Body.Close()
			a.Reason, a.Status = resilience.ReasonOK, resp.StatusCode
			r.Reason = resilience.ReasonOK
		}
		r.Attempts = append(r.Attempts, a)
	}
	return r
}

func (c *twice) State() lab.ClientState {
	return lab.ClientState{Open: c.Number == 0, Ejected: c.Number, Tokens: 3, Opened: 2, Ejections: 4}
}

// An experiment counts what clients of another kind do.
func TestClientOfAnotherKind(t *testing.T) {
	t.Parallel()
	var clients []*twice
	s := steady(func(s *lab.Scenario) {
		s.Upstream.Instances, s.Upstream.Endpoints.Resolve = 3, endpoint.ResolveDNS
		gone := phase(time.Second, time.Second, func(p *lab.Phase) { p.Gone = true })
		gone.Instance = 3
		s.Upstream.Phases = []lab.Phase{gone}
	})
	r := simulate(t, lab.Experiment{
		Scenario: s, Load: lab.Load{Rate: 100, Clients: 2, Seed: 1},
		Client: func(o lab.ClientOptions) (lab.Client, error) {
			c := &twice{ClientOptions: o, known: map[int]bool{}}
			clients = append(clients, c)
			return c, nil
		},
	})
	calls := r.Before.Calls + r.During.Calls + r.After.Calls
	if r.Retries != calls || r.Amplification < 1.95 || r.Attempts[resilience.ReasonOK] == 0 || r.Attempts[resilience.ReasonDialError] == 0 {
		t.Errorf("%d calls, %d retries, %v attempts a call, attempts %v, want two attempts a call, some refused", calls, r.Retries, r.Amplification, r.Attempts)
	}
	if last := r.Series[len(r.Series)-1]; r.Opened != 4 || r.Ejections != 8 || last.Open != 1 || last.Ejected != 1 || last.Tokens != 3 {
		t.Errorf("opened %d, ejections %d, the last second %+v, want the sums of the clients' states", r.Opened, r.Ejections, last)
	}
	if b := r.Before.AttemptsByInstance; b[2] < 2*b[0] || b[0] == 0 {
		t.Errorf("attempts %v, want more than half at the last instance, and some at any", b)
	}
	for _, c := range clients {
		if !c.known[3] || !c.known[2] || len(c.known) != 2 {
			t.Errorf("client %d knew %v instances, want 3, and 2 while one is gone", c.Number, c.known)
		}
		if c.Request.Method != http.MethodGet {
			t.Errorf("got method %s, want GET", c.Request.Method)
		}
	}
}

// A policy for POST only can be looked at with calls of that method.
func TestMethodOfTheScenario(t *testing.T) {
	t.Parallel()
	p := transport.DefaultPolicy()
	p.Retry.Methods = []string{http.MethodPost}
	for method, retried := range map[string]bool{"": false, http.MethodGet: false, http.MethodPost: true} {
		s := steady(func(s *lab.Scenario) {
			s.Load.Method = method
			s.Upstream.Phases = []lab.Phase{phase(time.Second, time.Second, func(p *lab.Phase) { p.ErrorRate = new(0.3) })}
		})
		r := simulate(t, lab.Experiment{Policy: p, Scenario: s, Load: lab.Load{Rate: 100, Clients: 2, Seed: 1}})
		if (r.Retries > 0) != retried {
			t.Errorf("method %q: got %d retries, want retries: %v", method, r.Retries, retried)
		}
	}
}

func TestClientThatCannotBeMade(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	e := lab.Experiment{Scenario: steady(func(*lab.Scenario) {}), Load: load(10, 1), Client: func(lab.ClientOptions) (lab.Client, error) { return nil, wrong }}
	if _, err := e.Run(t.Context()); !errors.Is(err, wrong) {
		t.Errorf("got error %v, want that of the client", err)
	}
}
