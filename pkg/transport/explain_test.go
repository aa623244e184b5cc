package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// For every combination, Explain says what a real call then does.
func TestExplanationAgreesWithTheCall(t *testing.T) {
	type answer struct {
		status     int
		retryAfter string
		err        error
	}
	answers := []answer{
		{status: 200}, {status: 404}, {status: 429}, {status: 429, retryAfter: "2"}, {status: 500}, {status: 501},
		{status: 503}, {status: 503, retryAfter: "1"}, {status: 503, retryAfter: "4"}, {status: 503, retryAfter: "7"}, {status: 503, retryAfter: "soon"},
		{err: &net.OpError{Op: "dial", Err: errors.New("refused")}}, {err: io.ErrUnexpectedEOF}, {err: context.DeadlineExceeded},
	}
	requests := map[string]func() *http.Request{}
	for _, method := range []string{"GET", "PUT", "POST", "PATCH"} {
		for name, header := range map[string]http.Header{
			"": {}, "key": {"Idempotency-Key": {"k"}}, "above": {"X-Attempt-Count": {"2"}},
			"events": {"Accept": {"text/event-stream"}},
		} {
			for body, size := range map[string]int{"": 0, "body": 10, "large body": 100} {
				requests[strings.TrimSpace(method+" "+name+" "+body)] = func() *http.Request {
					var b io.Reader = http.NoBody
					if size > 0 {
						b = io.NopCloser(strings.NewReader(strings.Repeat("x", size)))
					}
					r, err := http.NewRequestWithContext(context.Background(), method, "http://upstream.test/", b)
					if err != nil {
						t.Fatal(err)
					}
					if size > 0 {
						r.ContentLength, r.GetBody = int64(size), nil
					}
					r.Header = header.Clone()
					return r
				}
			}
		}
	}
	policies := map[string]func(*transport.Policy){
		"default":      func(*transport.Policy) {},
		"one attempt":  func(p *transport.Policy) { p.Retry.MaxAttempts = 1 },
		"no budget":    func(p *transport.Policy) { p.Retry.Budget = resilience.BudgetPolicy{} },
		"open at once": func(p *transport.Policy) { p.Breaker.ConsecutiveFailures = 1 },
		"little time":  func(p *transport.Policy) { p.Timeout, p.AttemptTimeout = 1200*time.Millisecond, time.Second },
	}
	const random = 0.5
	for policyName, change := range policies {
		t.Run(policyName, func(t *testing.T) {
			p := transport.DefaultPolicy()
			p.Retry.ReplayBuffer = 64
			change(&p)
			for requestName, request := range requests {
				for _, a := range answers {
					synctest.Test(t, func(t *testing.T) {
						give := func(r *http.Request) (*http.Response, error) {
							if errors.Is(a.err, context.DeadlineExceeded) {
								<-r.Context().Done()
							}
							if a.err != nil {
								return nil, a.err
							}
							return &http.Response{StatusCode: a.status, Header: http.Header{"Retry-After": {a.retryAfter}}, Body: http.NoBody}, nil
						}
						var first *resilience.AttemptReport
						tr, err := transport.New(roundTripFunc(func(r *http.Request) (*http.Response, error) {
							if r.Body != nil {
								// a failed dial comes before any read of the body
								if op := new(net.OpError); !errors.As(a.err, &op) {
									_, _ = io.Copy(io.Discard, r.Body)
								}
								_ = r.Body.Close()
							}
							return give(r)
						}), p, transport.WithRandom(func() float64 { return random }), transport.WithObserver(resilience.Observer{
							Attempt: func(_ context.Context, r *resilience.AttemptReport) {
								if first == nil {
									copied := *r
									first = &copied
								}
							},
						}))
						if err != nil {
							t.Fatal(err)
						}
						var report resilience.Report
						r := request()
						resp, callErr := tr.RoundTrip(r.WithContext(transport.WithReport(r.Context(), &report)))
						if callErr == nil {
							_ = resp.Body.Close()
						}

						var shut []resilience.Reason
						var elapsed time.Duration
						if errors.Is(a.err, context.DeadlineExceeded) {
							elapsed = p.AttemptTimeout
						}
						var answered *http.Response
						if a.err == nil {
							answered, _ = give(r)
						}
						o, d, gates := tr.Explain(request(), answered, a.err, resilience.Situation{
							Attempt: 1, Remaining: p.Timeout - elapsed,
							Random:      func() float64 { return random },
							CircuitOpen: func() bool { return p.Breaker.ConsecutiveFailures == 1 && counts(a.status, a.err) },
							TakeToken:   func() bool { return p.Retry.Budget.Most() >= 1 },
						})
						for _, g := range gates {
							if g.Shut {
								shut = append(shut, g.Reason)
							}
						}
						what := fmt.Sprintf("%s, %+v", requestName, a)
						if first == nil {
							t.Fatalf("%s: the call made no attempt, error %v, want one", what, callErr)
						}
						if first.Verdict != d.Verdict || first.Reason != o.Reason {
							t.Errorf("%s: the call got verdict %s (%s), want the explanation's %s (%s)", what, first.Verdict, first.Reason, d.Verdict, o.Reason)
						}
						if d.Verdict == resilience.VerdictRetry {
							if first.Wait.Planned != d.Wait || first.Wait.Source != d.Source || len(shut) > 0 {
								t.Errorf("%s: the call waited %+v, want the explanation's %v by %s and no shut gates, got %q", what, first.Wait, d.Wait, d.Source, shut)
							}
							return
						}
						if report.Reason != d.Reason {
							t.Errorf("%s: the call ended with reason %s, want the explanation's %s", what, report.Reason, d.Reason)
						}
						if d.Verdict == resilience.VerdictGiveUp && (len(shut) == 0 || shut[0] != d.Reason) {
							t.Errorf("%s: the explanation gives up with %s, want the reason of the first shut gate in %q", what, d.Reason, shut)
						}
					})
				}
			}
		})
	}
}

// counts reports whether the circuit counts the outcome as a failure.
func counts(status int, err error) bool {
	return err != nil || status >= 500 && status != 501 && status != 508
}
