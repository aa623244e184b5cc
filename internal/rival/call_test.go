package rival

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	ms = time.Millisecond
	s  = time.Second
)

func TestCall(t *testing.T) {
	get503 := always(answer{status: 503})
	scenes(t, map[string]scene{
		"success":              {play{policy: retries(3, nil), upstream: always(answer{status: 200, takes: 5 * ms})}, "0s try, 5ms ok"},
		"saved":                {play{policy: retries(3, nil), upstream: list(answer{status: 503}, answer{status: 200})}, "0s try, 0s try, 0s ok"},
		"most attempts":        {play{policy: retries(3, nil), upstream: get503}, "0s try, 0s try, 0s try, 0s max_attempts"},
		"status not retried":   {play{policy: retries(3, nil), upstream: always(answer{status: 404})}, "0s try, 0s status_not_retryable"},
		"status below 400":     {play{policy: retries(3, nil), upstream: always(answer{status: 304})}, "0s try, 0s ok"},
		"connect":              {play{policy: retries(2, nil), upstream: always(answer{connect: true})}, "0s try, 0s try, 0s max_attempts"},
		"connect not retried":  {play{policy: foreign.Policy{Retry: foreign.Retry{MaxAttempts: 2}}, upstream: always(answer{connect: true})}, "0s try, 0s dial_error"},
		"reset not retried":    {play{policy: foreign.Policy{Retry: foreign.Retry{MaxAttempts: 2}}, upstream: always(answer{reset: true})}, "0s try, 0s reset_before_headers"},
		"try timeout":          {play{policy: retries(2, func(p *foreign.Policy) { p.TryTimeout = s }), upstream: always(answer{})}, "0s try, 1s try, 2s max_attempts"},
		"timeout":              {play{policy: retries(9, func(p *foreign.Policy) { p.TryTimeout, p.Timeout = 2*s, 5*s }), upstream: always(answer{})}, "0s try, 2s try, 4s try, 5s deadline_exceeded"},
		"equal timeouts":       {play{policy: retries(9, func(p *foreign.Policy) { p.TryTimeout, p.Timeout = 2*s, 2*s }), upstream: always(answer{})}, "0s try, 2s deadline_exceeded"},
		"timeout in the wait":  {play{policy: retries(9, func(p *foreign.Policy) { p.Timeout, p.Retry.Backoff = 5*s, fixed(3*s) }), upstream: get503}, "0s try, 3s try, 5s deadline_exceeded"},
		"no timeout":           {play{policy: retries(2, nil), upstream: always(answer{})}, "0s try, 1m0s caller_canceled"},
		"stop after":           {play{policy: retries(0, func(p *foreign.Policy) { p.Retry.StopAfter, p.Retry.Backoff = 5*s, fixed(2*s) }), upstream: get503}, "0s try, 2s try, 4s try, 6s try, 6s deadline_too_close"},
		"stop after cuts none": {play{policy: retries(0, func(p *foreign.Policy) { p.Retry.StopAfter = 5 * s }), upstream: always(answer{status: 503, takes: 3 * s})}, "0s try, 3s try, 6s deadline_too_close"},
		"other methods":        {play{policy: retries(3, func(p *foreign.Policy) { p.Retry.Methods = []string{"POST"} }), upstream: get503}, "0s try, 0s method_not_idempotent"},
		"unsent, any method": {play{policy: retries(3, func(p *foreign.Policy) { p.Retry.Methods, p.Retry.UnsentAnyMethod = []string{"POST"}, true }),
			upstream: list(answer{connect: true}, answer{status: 503})}, "0s try, 0s try, 0s method_not_idempotent"},
		"other endpoint": {play{policy: retries(3, func(p *foreign.Policy) { p.Retry.OtherEndpoint = true }), instances: 2, choices: []float64{0}, upstream: get503},
			"0s try@0, 0s try@1, 0s try@0, 0s max_attempts"},
		"once per endpoint": {play{policy: retries(0, func(p *foreign.Policy) { p.Retry.OncePerEndpoint = true }), instances: 2, upstream: get503}, "0s try, 0s try, 0s max_attempts"},
		"grpc": {play{policy: foreign.Policy{GRPC: true, Retry: foreign.Retry{MaxAttempts: 2, On: foreign.Conditions{GRPC: []string{"UNAVAILABLE"}}}},
			upstream: list(answer{status: 503}, answer{status: 500})}, "0s try, 0s try, 0s status_not_retryable"},
		"grpc over http": {play{policy: foreign.Policy{Retry: foreign.Retry{MaxAttempts: 2, On: foreign.Conditions{GRPC: []string{"UNAVAILABLE"}}}},
			upstream: get503}, "0s try, 0s status_not_retryable"},
	})
}

func TestRetryAfter(t *testing.T) {
	asks := func(after string) func(int, int) answer { return always(answer{status: 503, after: after}) }
	obeys := func(most time.Duration) foreign.Policy {
		return retries(2, func(p *foreign.Policy) {
			p.Retry.Backoff, p.Retry.RetryAfter = fixed(100*ms), foreign.RetryAfter{Obey: true, Max: most}
		})
	}
	scenes(t, map[string]scene{
		"obeyed":     {play{policy: obeys(0), upstream: asks("3")}, "0s try, 3s try, 3s max_attempts"},
		"date":       {play{policy: obeys(0), upstream: asks("Sat, 01 Jan 2000 00:00:02 GMT")}, "0s try, 2s try, 2s max_attempts"},
		"too long":   {play{policy: obeys(2 * s), upstream: asks("3")}, "0s try, 100ms try, 100ms max_attempts"},
		"unreadable": {play{policy: obeys(0), upstream: asks("soon")}, "0s try, 100ms try, 100ms max_attempts"},
		"ignored":    {play{policy: retries(2, func(p *foreign.Policy) { p.Retry.Backoff = fixed(100 * ms) }), upstream: asks("3")}, "0s try, 100ms try, 100ms max_attempts"},
	})
}

// The rule of Envoy (hedge_on_per_try_timeout), and that of gRPC (A6) and Polly.
func TestHedge(t *testing.T) {
	slow := answer{status: 200, takes: 10 * s}
	hedge := func(h foreign.Hedge) foreign.Policy {
		return retries(1, func(p *foreign.Policy) { p.Hedge = h })
	}
	scenes(t, map[string]scene{
		"delay":           {play{policy: hedge(foreign.Hedge{MaxAttempts: 3, Delay: s}), upstream: always(slow)}, "0s try, 1s try, 2s try, 10s ok"},
		"not needed":      {play{policy: hedge(foreign.Hedge{MaxAttempts: 3, Delay: s}), upstream: always(answer{status: 200, takes: 500 * ms})}, "0s try, 500ms ok"},
		"second wins":     {play{policy: hedge(foreign.Hedge{MaxAttempts: 3, Delay: s}), upstream: list(answer{}, answer{status: 200, takes: 500 * ms})}, "0s try, 1s try, 1.5s ok"},
		"failure":         {play{policy: hedge(foreign.Hedge{MaxAttempts: 3, Delay: s}), upstream: list(answer{status: 503, takes: 100 * ms}, slow)}, "0s try, 100ms try, 1.1s try, 10.1s ok"},
		"final status":    {play{policy: hedge(foreign.Hedge{MaxAttempts: 2, Delay: s}), upstream: list(slow, answer{status: 404})}, "0s try, 1s try, 1s status_not_retryable"},
		"all fail":        {play{policy: hedge(foreign.Hedge{MaxAttempts: 2, Delay: s}), upstream: always(answer{status: 503, takes: 5 * s})}, "0s try, 1s try, 6s max_attempts"},
		"on try timeout":  {play{policy: retries(2, func(p *foreign.Policy) { p.TryTimeout, p.Hedge.OnTryTimeout = s, true }), upstream: list(answer{status: 200, takes: 3 * s}, answer{})}, "0s try, 1s try, 3s ok"},
		"without a delay": {play{policy: hedge(foreign.Hedge{MaxAttempts: 2}), upstream: always(slow)}, "0s try, 0s try, 10s ok"},
	})
}

// A call ends when its caller leaves, in an attempt as well as in a wait.
func TestCallEndsWhenItsCallerLeaves(t *testing.T) {
	for name, c := range map[string]struct {
		policy   foreign.Policy
		attempts int
	}{
		"in an attempt": {retries(9, nil), 1},
		"in a hedge":    {foreign.Policy{Hedge: foreign.Hedge{MaxAttempts: 2, Delay: s}, Retry: foreign.Retry{MaxAttempts: 1}}, 2},
		"in a wait":     {retries(9, func(p *foreign.Policy) { p.TryTimeout, p.Retry.Backoff = s, fixed(9*s) }), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := newClient(c.policy, lab.ClientOptions{
					Send: func(req *http.Request, _ int) (*http.Response, error) {
						<-req.Context().Done()
						return nil, context.Cause(req.Context())
					},
					Random: func() float64 { return 0 }, Choose: func() float64 { return 0 },
					Instances: func() []int { return []int{0} },
				})
				ctx, leave := context.WithTimeout(t.Context(), 3*s)
				defer leave()
				report := client.Do((&http.Request{Method: http.MethodGet}).WithContext(ctx))
				if report.Reason != resilience.ReasonCallerCanceled || report.Duration != 3*s || len(report.Attempts) != c.attempts {
					t.Errorf("got reason %s after %v and %d attempts, want caller_canceled after 3s and %d", report.Reason, report.Duration, len(report.Attempts), c.attempts)
				}
			})
		})
	}
}
