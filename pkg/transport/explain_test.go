package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
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

// For every refusal before the first attempt, ExplainFirst says what a real call gets.
func TestExplanationAgreesWithTheRefusal(t *testing.T) {
	reached := func() bool { return true }
	free := func() bool { return false }
	for name, tc := range map[string]struct {
		policy func(*transport.Policy)
		body   bool
		s      resilience.Situation
		want   resilience.Reason // "" = none
	}{
		"rate limit": {
			func(p *transport.Policy) { p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.4, Burst: 1} }, false,
			resilience.Situation{OverRate: reached, CircuitOpen: free}, resilience.ReasonRateLimited,
		},
		"circuit": {
			func(p *transport.Policy) { p.Breaker.ConsecutiveFailures, p.Retry.MaxAttempts = 1, 1 }, false,
			resilience.Situation{CircuitOpen: reached}, resilience.ReasonBreakerOpen,
		},
		"concurrency limit": {
			func(p *transport.Policy) {
				p.Concurrency.Max = 1
				p.Timeout, p.AttemptTimeout = time.Minute, 30*time.Second
			}, true,
			resilience.Situation{CircuitOpen: free, Crowded: reached}, resilience.ReasonConcurrencyLimit,
		},
		"adaptive limit, a body": {
			func(*transport.Policy) {}, true, resilience.Situation{CircuitOpen: free, Crowded: reached}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := transport.DefaultPolicy()
				tc.policy(&p)
				tr, err := transport.New(roundTripFunc(func(r *http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: http.NoBody}, nil
				}), p, transport.WithRandom(func() float64 { return 0.5 }))
				if err != nil {
					t.Fatal(err)
				}
				request := func() *http.Request {
					var body io.Reader
					if tc.body {
						body = strings.NewReader("x")
					}
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://upstream.test/", body)
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				call := func() error {
					resp, err := tr.RoundTrip(request())
					if err == nil {
						_ = resp.Body.Close()
					}
					return err
				}
				var first sync.WaitGroup
				defer first.Wait()
				first.Go(func() { _ = call() })
				synctest.Wait()
				if tc.want != resilience.ReasonConcurrencyLimit { // the other call must have ended
					first.Wait()
				}
				var got *resilience.Error
				_ = errors.As(call(), &got)
				want, gates := tr.ExplainFirst(request(), tc.s)
				if tc.want == "" {
					if got != nil || want != nil {
						t.Errorf("got error %v, explanation %v, want neither", got, want)
					}
					return
				}
				if tc.want == resilience.ReasonRateLimited && got != nil {
					got.RetryIn += time.Second // since the first call took the token
				}
				if got == nil || want == nil || !got.Refused || got.Reason != tc.want || got.Reason != want.Reason || got.RetryIn != want.RetryIn || !errors.Is(got.Err, want.Err) {
					t.Errorf("got error %#v, explanation %#v, want the same refusal with %s", got, want, tc.want)
				}
				for _, g := range gates {
					if g.Shut != (g.Reason == tc.want) {
						t.Errorf("gate %s: got shut %v, want only that of %s to be", g.Name, g.Shut, tc.want)
					}
				}
			})
		})
	}
}

// counts reports whether the circuit counts the outcome as a failure.
func counts(status int, err error) bool {
	return err != nil || status >= 500 && status != 501 && status != 508
}
