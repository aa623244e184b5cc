package rival

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/lab"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// answer is what the upstream does with an attempt.
type answer struct {
	takes   time.Duration
	status  int // 0: it hangs
	connect bool
	reset   bool
	after   string
}

// play is a policy, an upstream that follows a script, and calls.
type play struct {
	policy foreign.Policy
	// upstream returns the answer to attempt n, from 1.
	upstream  func(n, endpoint int) answer
	instances int
	method    string          // "" = GET
	calls     []time.Duration // when they begin
	random    float64
	choices   []float64 // the last one repeats; none = 0
}

// always returns an upstream that always gives the same answer.
func always(a answer) func(int, int) answer { return func(int, int) answer { return a } }

// list returns an upstream that gives the answers in order. The last one repeats.
func list(all ...answer) func(int, int) answer {
	return func(n, _ int) answer { return all[min(n, len(all))-1] }
}

// run returns the times at which attempts began, with their endpoints, and at which calls ended,
// with their reasons. A nanosecond that keeps events in order is left out.
func (p play) run(t *testing.T) string {
	t.Helper()
	var (
		mu     sync.Mutex
		events []string
		n      int
	)
	synctest.Test(t, func(*testing.T) {
		start := time.Now()
		log := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, time.Since(start).Truncate(time.Microsecond).String()+" "+fmt.Sprintf(format, args...))
		}
		send := func(req *http.Request, endpoint int) (*http.Response, error) {
			mu.Lock()
			n++
			a := p.upstream(n, endpoint)
			mu.Unlock()
			if endpoint == lab.AnyInstance {
				log("try")
			} else {
				log("try@%d", endpoint)
			}
			if a.status == 0 && !a.connect && !a.reset {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			select {
			case <-time.After(a.takes):
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
			switch {
			case a.connect:
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			case a.reset:
				return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
			}
			return &http.Response{StatusCode: a.status, Header: http.Header{"Retry-After": {a.after}}, Body: http.NoBody}, nil
		}
		known := []int{lab.AnyInstance}[:0]
		for i := range max(1, p.instances) {
			known = append(known, i)
		}
		chosen := 0
		client, err := New(p.policy)(lab.ClientOptions{
			Request: &http.Request{Method: cmp.Or(p.method, http.MethodGet)}, Instances: func() []int { return known }, Send: send,
			Random: func() float64 { return p.random },
			Choose: func() float64 {
				mu.Lock()
				defer mu.Unlock()
				if len(p.choices) == 0 {
					return 0
				}
				chosen++
				return p.choices[min(chosen, len(p.choices))-1]
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var calls sync.WaitGroup
		slices.Sort(p.calls)
		for i, at := range append(p.calls[:0:0], p.calls...) {
			calls.Go(func() {
				time.Sleep(at + time.Duration(i)*2)
				log("%s", client.Call().Reason)
			})
		}
		if len(p.calls) == 0 {
			r := client.Call()
			log("%s", r.Reason)
			if len(r.Attempts) != n {
				t.Errorf("the report has %d attempts, want the %d that were made", len(r.Attempts), n)
			}
		}
		calls.Wait()
	})
	return strings.Join(events, ", ")
}

// every returns the times of n calls, d apart.
func every(d time.Duration, n int) (times []time.Duration) {
	for i := range n {
		times = append(times, time.Duration(i)*d)
	}
	return times
}

// all5xx are the failures that most policies retry.
func all5xx() foreign.Conditions {
	return foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 500, High: 599}}, Connect: true, Reset: true, Timeout: true}
}

// retries returns a policy of n attempts.
func retries(n int, change func(*foreign.Policy)) foreign.Policy {
	p := foreign.Policy{Name: "test", Retry: foreign.Retry{MaxAttempts: n, On: all5xx()}}
	if change != nil {
		change(&p)
	}
	return p
}

// scenes runs plays by name and compares their events.
func scenes(t *testing.T, all map[string]struct {
	play play
	want string
}) {
	t.Helper()
	t.Parallel()
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			if got := s.play.run(t); got != s.want {
				t.Errorf("got  %s\nwant %s", got, s.want)
			}
		})
	}
}

type scene = struct {
	play play
	want string
}
