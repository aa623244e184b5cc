package faithful_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// library is a policy for a library, which is code and not a file.
type library struct {
	retries             int
	wait, most          time.Duration // of a backoff that doubles
	tryTimeout, timeout time.Duration
	openAfter           int // failures in a row
	openFor             time.Duration
}

// policy returns the model of a policy. Both libraries retry these failures, of every method.
func (l library) policy(name string) foreign.Policy {
	failures := foreign.Conditions{
		Statuses: []foreign.StatusRange{{Low: 429, High: 429}, {Low: 500, High: 500}, {Low: 502, High: 599}},
		Connect:  true, Refused: true, Reset: true, Timeout: true, BreakerOpen: true,
	}
	p := foreign.Policy{
		Name: name, Timeout: l.timeout, TryTimeout: l.tryTimeout,
		Retry: foreign.Retry{
			MaxAttempts: l.retries + 1, Resend: true, On: failures, RetryAfter: foreign.RetryAfter{Obey: true},
			Backoff: foreign.Backoff{Kind: foreign.BackoffExponential, Factor: 2, Base: l.wait, Max: l.most},
		},
	}
	if l.openAfter > 0 {
		p.Breakers = []foreign.Breaker{{
			Scope: foreign.ScopeUpstream, CountWindow: l.openAfter, MinCalls: l.openAfter, FailureRatio: 1,
			OpenFor: l.openFor, HalfOpenCalls: l.openAfter, Counts: failures,
		}}
	}
	return p
}

// dials counts the attempts that found no connection.
type dials struct {
	next   *http.Transport
	failed atomic.Int64
}

func (d *dials) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(req)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		d.failed.Add(1)
	}
	return resp, err
}

// libraryPeer makes calls through a round tripper.
func libraryPeer(u *upstream, build func(next http.RoundTripper) http.RoundTripper) peer {
	d := &dials{next: &http.Transport{}}
	client := &http.Client{Transport: build(d)}
	return peer{
		call: func(method string) bool { return fetch(client, "http://"+u.servers[0], method) },
		end: func(int) int {
			d.next.CloseIdleConnections()
			return int(d.failed.Load())
		},
	}
}

func failsafeGo() thing {
	return thing{
		name: "failsafe-go", version: moduleVersion("github.com/failsafe-go/failsafe-go"), cells: failsafeCells(),
		start: func(_ *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			l := c.library
			return l.policy("failsafe-go"), libraryPeer(u, func(next http.RoundTripper) http.RoundTripper {
				return failsafehttp.NewRoundTripper(next, l.failsafe()...)
			})
		},
	}
}

func (l library) failsafe() []failsafe.Policy[*http.Response] {
	var all []failsafe.Policy[*http.Response]
	if l.timeout > 0 {
		all = append(all, timeout.New[*http.Response](l.timeout))
	}
	retry := failsafehttp.NewRetryPolicyBuilder().WithMaxRetries(l.retries)
	if l.wait > 0 {
		retry = retry.WithBackoff(l.wait, l.most)
	}
	all = append(all, retry.Build())
	if l.openAfter > 0 {
		all = append(all, circuitbreaker.NewBuilder[*http.Response]().
			HandleIf(func(resp *http.Response, err error) bool { return err != nil || resp.StatusCode >= 500 }).
			WithFailureThreshold(uint(l.openAfter)).WithDelay(l.openFor).Build())
	}
	if l.tryTimeout > 0 {
		all = append(all, timeout.New[*http.Response](l.tryTimeout))
	}
	return all
}

func retryableHTTP() thing {
	return thing{
		name: "go-retryablehttp", version: moduleVersion("github.com/hashicorp/go-retryablehttp"), cells: retryableCells(),
		start: func(_ *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			l := c.library
			return l.policy("go-retryablehttp"), libraryPeer(u, func(next http.RoundTripper) http.RoundTripper {
				r := retryablehttp.NewClient()
				r.Logger, r.RetryMax, r.RetryWaitMin, r.RetryWaitMax = nil, l.retries, l.wait, l.most
				r.HTTPClient = &http.Client{Transport: next, Timeout: l.tryTimeout}
				return limited{&retryablehttp.RoundTripper{Client: r}, l.timeout}
			})
		},
	}
}

// limited cuts calls after a time, until the answer begins.
type limited struct {
	next  http.RoundTripper
	after time.Duration
}

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	if l.after == 0 {
		return l.next.RoundTrip(req)
	}
	ctx, cancel := context.WithTimeout(req.Context(), l.after)
	defer cancel()
	resp, err := l.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp, err
}
