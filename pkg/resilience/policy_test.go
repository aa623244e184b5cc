package resilience_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestDefaultPolicyIsValid(t *testing.T) {
	if err := resilience.DefaultPolicy().Validate(); err != nil {
		t.Error(err)
	}
}

func TestPolicyValidationNamesTheField(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*resilience.Policy)
		path   string
	}{
		"no timeout":                   {func(p *resilience.Policy) { p.Timeout = 0 }, "timeout"},
		"no attempt timeout":           {func(p *resilience.Policy) { p.AttemptTimeout = 0 }, "attemptTimeout"},
		"attempt longer than the call": {func(p *resilience.Policy) { p.AttemptTimeout = p.Timeout + 1 }, "attemptTimeout"},
		"no attempts":                  {func(p *resilience.Policy) { p.Retry.MaxAttempts = 0 }, "retry.maxAttempts"},
		"absurd attempts":              {func(p *resilience.Policy) { p.Retry.MaxAttempts = 101 }, "retry.maxAttempts"},
		"negative base":                {func(p *resilience.Policy) { p.Retry.Backoff.Base = -1 }, "retry.backoff.base"},
		"base above max":               {func(p *resilience.Policy) { p.Retry.Backoff.Base = time.Minute }, "retry.backoff.base"},
		"factor below 1":               {func(p *resilience.Policy) { p.Retry.Backoff.Factor = 0.9 }, "retry.backoff.factor"},
		"factor not a number":          {func(p *resilience.Policy) { p.Retry.Backoff.Factor = math.NaN() }, "retry.backoff.factor"},
		"unknown jitter":               {func(p *resilience.Policy) { p.Retry.Backoff.Jitter = "some" }, "retry.backoff.jitter"},
		"negative retry-after":         {func(p *resilience.Policy) { p.Retry.MaxRetryAfter = -1 }, "retry.maxRetryAfter"},
		"negative ratio":               {func(p *resilience.Policy) { p.Retry.Budget.Ratio = -0.1 }, "retry.budget.ratio"},
		"infinite burst":               {func(p *resilience.Policy) { p.Retry.Budget.Burst = math.Inf(1) }, "retry.budget.burst"},
		"floor not a number":           {func(p *resilience.Policy) { p.Retry.Budget.FloorPerSecond = math.NaN() }, "retry.budget.floorPerSecond"},
		"no window":                    {func(p *resilience.Policy) { p.Breaker.Window = 0 }, "breaker.window"},
		"no minimum":                   {func(p *resilience.Policy) { p.Breaker.MinRequests = 0 }, "breaker.minRequests"},
		"ratio above 1":                {func(p *resilience.Policy) { p.Breaker.FailureRatio = 1.1 }, "breaker.failureRatio"},
		"negative consecutive":         {func(p *resilience.Policy) { p.Breaker.ConsecutiveFailures = -1 }, "breaker.consecutiveFailures"},
		"no open period":               {func(p *resilience.Policy) { p.Breaker.OpenFor = 0 }, "breaker.openFor"},
		"limit below the open period":  {func(p *resilience.Policy) { p.Breaker.MaxOpenFor = 1 }, "breaker.maxOpenFor"},
		"no probes":                    {func(p *resilience.Policy) { p.Breaker.Probes = 0 }, "breaker.probes"},
	} {
		t.Run(name, func(t *testing.T) {
			p := resilience.DefaultPolicy()
			tc.change(&p)
			var field *mistake.Mistake
			if err := p.Validate(); !errors.As(err, &field) {
				t.Fatalf("Validate() = %v, want a mistake", err)
			}
			if field.Path != tc.path {
				t.Errorf("path = %q (%s), want %q", field.Path, field.Message, tc.path)
			}
			if _, err := resilience.New[int]("x", p, resilience.Options{}); err == nil {
				t.Error("New returned no error, want one")
			}
		})
	}
}

func TestPolicyValidationReportsEveryMistakeAtOnce(t *testing.T) {
	err := resilience.Policy{}.Validate()
	for _, path := range []string{"timeout", "attemptTimeout", "retry.maxAttempts", "retry.backoff.factor", "breaker.window", "breaker.probes"} {
		if !strings.Contains(err.Error(), path+": ") {
			t.Errorf("got no mistake at %s, want one in:\n%v", path, err)
		}
	}
}

func TestBudgetOfZerosIsLegal(t *testing.T) {
	p := resilience.DefaultPolicy()
	p.Retry.Budget = resilience.BudgetPolicy{}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
}

func TestReasonsAreAClosedList(t *testing.T) {
	for _, r := range append(resilience.Reasons(), resilience.StatusReason(503), resilience.StatusReason(429)) {
		if !r.Valid() {
			t.Errorf("Reason(%q).Valid() = false, want true", r)
		}
	}
	for _, r := range []resilience.Reason{"", "status_", "status_5", "status_abc", "status_5030", "because"} {
		if r.Valid() {
			t.Errorf("Reason(%q).Valid() = true, want false", r)
		}
	}
}
