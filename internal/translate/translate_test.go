package translate_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/translate"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// examples are the files of internal/foreign.
func examples(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("../foreign/testdata/*/*")
	if err != nil || len(all) == 0 {
		t.Fatal(err, "or no examples")
	}
	var files []string
	for _, path := range all {
		if filepath.Ext(path) == ".golden" || strings.Contains(path, "/fuzz/") {
			continue
		}
		if shown, err := os.ReadFile(path + ".golden"); err != nil {
			t.Fatal(err)
		} else if bytes.HasPrefix(shown, []byte("refused\n")) {
			continue
		}
		files = append(files, path)
	}
	return files
}

// The translation of every example is valid, and its report still accounts for every value.
func TestExamplesAreValid(t *testing.T) {
	for _, path := range examples(t) {
		t.Run(path, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			imported, err := foreign.Import("", filepath.Base(path), bytes.TrimSpace(data))
			if err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(imported.Report)
			var results []translate.Result
			for _, p := range imported.Policies {
				r := translate.Policy(p)
				results = append(results, r)
				if err := r.Policy.Validate(); err != nil {
					t.Errorf("%s: %v", p.Name, err)
				}
				if r.Eject != nil {
					of := endpoint.DefaultPolicy()
					of.Resolve, of.Eject = endpoint.ResolveDNS, *r.Eject
					if err := of.Validate(); err != nil {
						t.Errorf("%s: %v", p.Name, err)
					}
				}
			}
			report := translate.Report(imported, results)
			if report.Fields() != imported.Report.Fields() {
				t.Errorf("the report accounts for %d values, want %d", report.Fields(), imported.Report.Fields())
			}
			if after := fmt.Sprint(imported.Report); after != before {
				t.Error("the report of the import changed")
			}
			for _, e := range report {
				if e.Kind != foreign.Carried && e.Kind != foreign.Unrelated && e.Sentence == "" {
					t.Errorf("%s is %s without a sentence", e.Path, e.Kind)
				}
			}
		})
	}
}

// off is the policy of a system that has neither retries, budgets, breakers nor limits.
func off(change func(*transport.Policy)) transport.Policy {
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = time.Hour, time.Hour
	p.Retry.MaxAttempts = 1
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	p.Concurrency = resilience.ConcurrencyPolicy{Max: -1}
	change(&p)
	return p
}

// retrying is off with attempts of s, at once, of any failure that Rebound retries.
func retrying(p *transport.Policy) {
	p.Retry.MaxAttempts = 3
	p.Retry.Backoff = resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}
	p.Retry.Statuses = []int{503}
	p.Retry.Methods = []string{"GET"}
	p.Retry.Budget = resilience.BudgetPolicy{Ratio: 100, Burst: 1e6, FloorPerSecond: 1e6}
	p.Retry.MaxRetryAfter = time.Hour
}

func TestPolicy(t *testing.T) {
	retry := foreign.Retry{
		MaxAttempts: 3, Methods: []string{"GET"}, UnsentAnyMethod: true, RetryAfter: foreign.RetryAfter{Obey: true},
		On: foreign.Conditions{Statuses: []foreign.StatusRange{{Low: 503, High: 503}}, Connect: true, Refused: true, Reset: true, Timeout: true},
	}
	with := func(change func(*foreign.Retry)) foreign.Policy {
		r := retry
		change(&r)
		return foreign.Policy{Retry: r}
	}
	grpc := func(p foreign.Policy) foreign.Policy { p.GRPC = true; return p }
	once := foreign.Retry{MaxAttempts: 1}
	noLimit := "Timeout approximated: no limit for the call becomes a timeout of 1h0m0s"
	noBudget := "Retry.Budget approximated: nothing limits retries; leave retry.budget out for Rebound's own"
	for name, c := range map[string]struct {
		from  foreign.Policy
		want  transport.Policy
		notes []string
	}{
		"nothing": {foreign.Policy{Retry: once}, off(func(*transport.Policy) {}), []string{noLimit}},
		"times": {
			foreign.Policy{Timeout: 3 * time.Second, TryTimeout: time.Second, Retry: once},
			off(func(p *transport.Policy) { p.Timeout, p.AttemptTimeout = 3*time.Second, time.Second }), nil,
		},
		"an attempt longer than the call": {
			foreign.Policy{Timeout: time.Second, TryTimeout: 3 * time.Second, Retry: once},
			off(func(p *transport.Policy) { p.Timeout, p.AttemptTimeout = time.Second, time.Second }), nil,
		},
		"no retries after a time": {
			foreign.Policy{TryTimeout: 2 * time.Second, Retry: foreign.Retry{MaxAttempts: 1, StopAfter: 5 * time.Second}},
			off(func(p *transport.Policy) { p.Timeout, p.AttemptTimeout = 7*time.Second, 2*time.Second }),
			[]string{"Retry.StopAfter approximated: attempts begin until timeout, which is this plus the time of one attempt"},
		},
		"retries":   {with(func(*foreign.Retry) {}), off(retrying), []string{noLimit, noBudget}},
		"unlimited": {with(func(r *foreign.Retry) { r.MaxAttempts = 0 }), off(func(p *transport.Policy) { retrying(p); p.Retry.MaxAttempts = 100 }), []string{noLimit, "Retry.MaxAttempts approximated: becomes 100 attempts, the most that Rebound makes", noBudget}},
		"any method": {
			with(func(r *foreign.Retry) { r.Methods = nil }),
			off(func(p *transport.Policy) {
				retrying(p)
				p.Retry.Methods = []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH"}
			}),
			[]string{noLimit, "Retry.Methods approximated: every method is retried, also POST and PATCH: take them out of retry.methods if a second effect does harm", noBudget},
		},
		"a budget in flight": {
			with(func(r *foreign.Retry) { r.Budget = foreign.Budget{Kind: foreign.BudgetInFlight, Percent: 20, Min: 3} }),
			off(func(p *transport.Policy) { retrying(p); p.Retry.Budget = resilience.BudgetPolicy{Ratio: 0.2, Burst: 3} }),
			[]string{noLimit, "Retry.Budget approximated: a share of the calls in flight becomes a share of the calls that succeed, and an outage earns none"},
		},
		"a budget of tokens": {
			with(func(r *foreign.Retry) {
				r.Budget = foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 500, Cost: 10, Refill: 1}
			}),
			off(func(p *transport.Policy) {
				retrying(p)
				p.Retry.Budget = resilience.BudgetPolicy{Ratio: 0.1, Burst: 50}
			}),
			[]string{noLimit, "Retry.Budget approximated: tokens are counted in retries: one costs 1, whatever the failure, and is not given back"},
		},
		"Envoy's backoff": {
			with(func(r *foreign.Retry) {
				r.Backoff = foreign.Backoff{Kind: foreign.BackoffEnvoy, Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Jitter: foreign.JitterFull}
			}),
			off(func(p *transport.Policy) {
				retrying(p)
				p.Retry.Backoff = resilience.Backoff{Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Factor: 3, Jitter: resilience.JitterFull}
			}),
			[]string{noLimit, "Retry.Backoff approximated: Envoy's waits of up to 1, 3, 7 times the base become a factor of 3", noBudget},
		},
		"gRPC only": {
			grpc(with(func(r *foreign.Retry) {
				r.On = foreign.Conditions{GRPC: []string{"UNAVAILABLE"}, Refused: true, Reset: true, Timeout: true}
			})),
			off(func(p *transport.Policy) { retrying(p); p.Retry.Statuses = []int{502, 503, 504} }),
			[]string{noLimit, "Retry.On approximated: gRPC statuses become the HTTP statuses that stand for them; one in an answer with status 200 is not retried", noBudget},
		},
		"a window of calls": {
			foreign.Policy{Timeout: time.Second, Retry: once, Breakers: []foreign.Breaker{{Scope: foreign.ScopeUpstream, CountWindow: 100, MinCalls: 20, FailureRatio: 0.5, OpenFor: time.Minute, HalfOpenCalls: 10}}},
			off(func(p *transport.Policy) {
				p.Timeout, p.AttemptTimeout = time.Second, time.Second
				p.Breaker = resilience.BreakerPolicy{Window: 10 * time.Second, MinRequests: 20, FailureRatio: 0.5, OpenFor: time.Minute, MaxOpenFor: time.Minute, Probes: 10}
			}),
			[]string{"Breakers.CountWindow approximated: the last 100 calls become the calls of the last 10s"},
		},
		"limits": {
			foreign.Policy{Timeout: time.Second, Retry: once, Concurrency: foreign.Concurrency{MaxRequests: 10, MaxPending: -1}, RateLimit: foreign.RateLimit{Calls: 120, Per: time.Minute, Burst: 5, PerCall: true}},
			off(func(p *transport.Policy) {
				p.Timeout, p.AttemptTimeout = time.Second, time.Second
				p.Concurrency = resilience.ConcurrencyPolicy{Max: 12, Queue: 1_000_000, MaxWait: time.Second}
				p.RateLimit = resilience.RateLimitPolicy{PerSecond: 2, Burst: 5}
			}),
			[]string{"Concurrency.MaxRequests approximated: max is 12: normal calls get 10 places of it, as there, and retries at most 80 % of it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := translate.Policy(c.from)
			if !reflect.DeepEqual(got.Policy, c.want) {
				t.Errorf("got %+v\nwant %+v", got.Policy, c.want)
			}
			var notes []string
			for _, n := range got.Notes {
				notes = append(notes, fmt.Sprintf("%s %s: %s", n.Field, n.Kind, n.Sentence))
			}
			if !reflect.DeepEqual(notes, c.notes) {
				t.Errorf("notes %q\nwant  %q", notes, c.notes)
			}
		})
	}
}

// held is a call whose attempt takes a second.
type held struct{}

func (held) Attempt(context.Context, *resilience.Attempt) (struct{}, error) {
	time.Sleep(time.Second)
	return struct{}{}, nil
}
func (held) Classify(struct{}, error) resilience.Outcome {
	return resilience.Outcome{Reason: resilience.ReasonOK}
}
func (held) Decided(*resilience.AttemptReport)     {}
func (held) Discard(struct{}, *resilience.Attempt) {}

// Of the translated limit, normal calls get as many places as in the other system.
func TestConcurrencyOfNormalCalls(t *testing.T) {
	for _, limit := range []int{1, 2, 9, 10, 17, 100, 1024} {
		synctest.Test(t, func(t *testing.T) {
			got := translate.Policy(foreign.Policy{Timeout: time.Hour, Retry: foreign.Retry{MaxAttempts: 1}, Concurrency: foreign.Concurrency{MaxRequests: limit}})
			policy := resilience.DefaultPolicy()
			policy.Concurrency = got.Policy.Concurrency
			pl, err := resilience.New[struct{}]("upstream", policy, resilience.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var calls sync.WaitGroup
			for range limit + 5 {
				calls.Go(func() {
					_, _, _ = pl.Do(t.Context(), held{})
				})
			}
			synctest.Wait()
			if n := pl.Concurrency().InFlight; n != limit {
				t.Errorf("limit %d: %d normal calls in flight, want as many as the limit", limit, n)
			}
			calls.Wait()
		})
	}
}

// A window that Rebound cannot have is told.
func TestWindowOutOfRange(t *testing.T) {
	for name, c := range map[string]struct {
		window time.Duration
		told   bool
	}{
		"short": {time.Millisecond, true}, "the shortest": {10 * time.Millisecond, false},
		"the longest": {24 * time.Hour, false}, "long": {25 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			notes := translate.Policy(foreign.Policy{Timeout: time.Second, Retry: foreign.Retry{MaxAttempts: 1}, Breakers: []foreign.Breaker{
				{Scope: foreign.ScopeUpstream, Window: c.window, FailureRatio: 0.5, OpenFor: time.Second, HalfOpenCalls: 1},
			}}).Notes
			told := false
			for _, n := range notes {
				told = told || n.Field == "Breakers.Window"
			}
			if told != c.told {
				t.Errorf("told = %v, want %v: %v", told, c.told, notes)
			}
		})
	}
}

func TestEject(t *testing.T) {
	rule := func(change func(*foreign.Breaker)) foreign.Breaker {
		b := foreign.Breaker{Scope: foreign.ScopeEndpoint, OpenFor: 30 * time.Second, MaxOpenFor: 300 * time.Second, Growth: foreign.GrowthLinear, MaxEjected: 0.1}
		change(&b)
		return b
	}
	got := translate.Policy(foreign.Policy{Timeout: time.Second, Retry: foreign.Retry{MaxAttempts: 1}, Breakers: []foreign.Breaker{
		rule(func(b *foreign.Breaker) { b.ConsecutiveFailures = 5 }),
		rule(func(b *foreign.Breaker) { b.ConsecutiveFailures = 3 }),
		rule(func(b *foreign.Breaker) { b.FailureRatio, b.MinCalls, b.Window = 0.85, 50, 20*time.Second }),
		rule(func(b *foreign.Breaker) { b.BelowMean = 1.9 }),
	}})
	want := endpoint.Eject{ConsecutiveFailures: 3, FailureRatio: 0.85, MinRequests: 50, Window: 20 * time.Second, EjectFor: 30 * time.Second, MaxEjectFor: 300 * time.Second, MaxEjected: 0.1}
	if got.Eject == nil || *got.Eject != want {
		t.Errorf("got %+v, want %+v", got.Eject, want)
	}
	if got.Policy.Breaker.ConsecutiveFailures != 0 || got.Policy.Breaker.FailureRatio != 0 {
		t.Errorf("the upstream's breaker is %+v, want none", got.Policy.Breaker)
	}
}
