package page_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// step is one attempt of a recorded call, and the wait after it.
type step struct {
	reason  resilience.Reason
	took    time.Duration
	wait    resilience.Wait // has a source if the verdict is retry
	breaker resilience.State
}

// health returns how package transport classifies an attempt with this end.
func health(r resilience.Reason) resilience.Health {
	switch r {
	case resilience.ReasonCallerCanceled:
		return resilience.Neutral
	case resilience.ReasonOK:
		return resilience.Healthy
	}
	return resilience.Unhealthy
}

// times returns n equal steps. The last one has no wait.
func times(n int, s step) (all []step) {
	for range n {
		all = append(all, s)
	}
	all[n-1].wait = resilience.Wait{}
	return all
}

// ended returns a call that has just ended after these steps, with this deadline. Without steps the
// circuit rejected it.
func ended(upstream string, deadline time.Duration, reason resilience.Reason, status int, steps ...step) *observe.Call {
	var took time.Duration
	for _, s := range steps {
		took += s.took + s.wait.Actual
	}
	start := time.Now().Add(-took)
	report := &resilience.Report{Upstream: upstream, Start: start, Duration: took, Deadline: start.Add(deadline), Reason: reason, BudgetTokens: 7.5}
	at := start
	for i, s := range steps {
		a := resilience.AttemptReport{
			Number: i + 1, Start: at, Duration: s.took, Limit: time.Second, Reason: s.reason, Health: health(s.reason), Verdict: resilience.VerdictGiveUp, Breaker: s.breaker, Wait: s.wait,
		}
		switch text, isStatus := strings.CutPrefix(string(s.reason), "status_"); {
		case s.reason == resilience.ReasonOK:
			a.Verdict, a.Status = resilience.VerdictReturn, http.StatusOK
		case isStatus:
			a.Status, _ = strconv.Atoi(text)
		default:
			a.Err = errors.New("what went wrong")
		}
		if s.wait.Source != "" {
			a.Verdict = resilience.VerdictRetry
		}
		report.Attempts = append(report.Attempts, a)
		at = at.Add(s.took + s.wait.Actual)
	}
	return &observe.Call{
		Route: "process", Policy: "default", Upstream: upstream, Method: "GET", Scheme: "http", Host: "localhost:8080", Path: "/process", Status: status,
		RequestID: "r-1", Start: start, Duration: took, Report: report,
	}
}

// wheel is a traffic generator that only stores its settings. It rejects 200 calls a second.
type wheel struct {
	mu    sync.Mutex
	state page.TrafficState
}

func (w *wheel) Set(s page.TrafficSettings) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.PerSecond == 200 {
		return errors.New("perSecond: not today")
	}
	w.state.TrafficSettings = s
	return nil
}

func (w *wheel) State() page.TrafficState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// between serves another page of l, and passes its answers through rewrite. That page does not run,
// so its visitors get only the first event.
func between(t *testing.T, l *live.Live, o page.Options, rewrite func(string) string) string {
	t.Helper()
	p, err := page.New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	inner := p.Handler()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(rewriter{w, rewrite}, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

type rewriter struct {
	http.ResponseWriter
	rewrite func(string) string
}

func (w rewriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w rewriter) Write(b []byte) (int, error) {
	_, err := w.ResponseWriter.Write([]byte(w.rewrite(string(b))))
	return len(b), err
}
