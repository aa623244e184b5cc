package transport_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// steady returns the default policy with fixed waits, and without a breaker or budget that could
// interfere.
func steady() transport.Policy {
	p := transport.DefaultPolicy()
	p.Retry.Backoff.Jitter = resilience.JitterNone
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 1e6}
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Second, 2*time.Second
	return p
}

// quick returns steady with waits too short to notice on a real network.
func quick() transport.Policy {
	p := steady()
	p.Retry.Backoff.Base, p.Retry.Backoff.Max = 0, 0
	return p
}

// patient returns quick with more time than a busy machine needs, for real connections.
func patient() transport.Policy {
	p := quick()
	p.Timeout, p.AttemptTimeout = time.Minute, 20*time.Second
	return p
}

func newTransport(t *testing.T, next http.RoundTripper, p transport.Policy, options ...transport.Option) *transport.Transport {
	t.Helper()
	rt, err := transport.New(next, p, options...)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// upstream is a real server that counts requests and connections.
type upstream struct {
	*httptest.Server
	requests    atomic.Int64
	connections conncount.Counter
}

func serve(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		h(w, r)
	}))
	u.Config.ConnState = u.connections.See
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.Start()
	t.Cleanup(u.Close)
	return u
}

// base returns a new http.Transport, closed with the test.
func base(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// inBubble starts an HTTP server on a pipenet and returns a transport to it. Both end with the
// test.
func inBubble(t *testing.T, h http.HandlerFunc) *http.Transport {
	t.Helper()
	network := pipenet.New()
	network.Serve(t, "up:80", h)
	return network.Transport(t)
}

// result is the result of a call.
type result struct {
	resp   *http.Response
	body   string
	report resilience.Report
	err    error
}

// call makes one call and reads the body.
func call(t *testing.T, rt http.RoundTripper, req *http.Request) (r result) {
	t.Helper()
	req = req.WithContext(transport.WithReport(req.Context(), &r.report))
	r.resp, r.err = rt.RoundTrip(req)
	if r.err != nil {
		return r
	}
	defer func() {
		if err := r.resp.Body.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	b, err := io.ReadAll(r.resp.Body)
	r.body, r.err = string(b), err
	return r
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	return fetch.Request(t, method, url, body)
}

func get(t *testing.T, rt http.RoundTripper, url string) result {
	t.Helper()
	return call(t, rt, request(t, http.MethodGet, url, nil))
}

// tally formats the counts of a circuit.
func tally(b resilience.BreakerSnapshot) string {
	return fmt.Sprintf("%d good, %d bad", b.Successes, b.Failures)
}

// reasons returns the reasons of the attempts.
func (r result) reasons() (list []resilience.Reason) {
	for _, a := range r.report.Attempts {
		list = append(list, a.Reason)
	}
	return list
}
