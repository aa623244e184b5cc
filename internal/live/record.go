package live

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// record is a call as it is shown. It is not changed any more. All times are in
// milliseconds, those of the attempts from the call's start.
type record struct {
	ID        uint64            `json:"id"` // from 1, in the order in which calls ended
	Route     string            `json:"route"`
	Policy    string            `json:"policy,omitempty"`
	Upstream  string            `json:"upstream,omitempty"`
	Method    string            `json:"method"`
	URL       string            `json:"url"` // without the query, which may hold secrets
	Status    int               `json:"status"`
	Good      bool              `json:"good"` // the caller got what it asked for
	Reason    resilience.Reason `json:"reason"`
	RequestID string            `json:"requestId,omitempty"`
	TraceID   string            `json:"traceId,omitempty"`
	Start     float64           `json:"start"` // since 1970
	Duration  float64           `json:"duration"`
	Deadline  float64           `json:"deadline,omitempty"` // how long the call was allowed to take
	Tokens    float64           `json:"budgetTokens"`       // of the retry budget when the call ended
	// Offset is when the pipeline began, after the call's start.
	Offset   float64        `json:"offset,omitempty"`
	Attempts []attemptShown `json:"attempts"` // the first 31 and the last, if there are more
	Omitted  int            `json:"attemptsOmitted,omitempty"`
}

// attemptShown is one attempt of a call.
type attemptShown struct {
	Number   int                `json:"number"`
	Start    float64            `json:"start"`
	Duration float64            `json:"duration"`
	Limit    float64            `json:"limit"`
	Good     bool               `json:"good"`
	Reason   resilience.Reason  `json:"reason"`
	Verdict  resilience.Verdict `json:"verdict"`
	Breaker  resilience.State   `json:"breaker"`
	Status   int                `json:"status,omitempty"`
	Error    string             `json:"error,omitempty"`
	Wait     *waitShown         `json:"wait,omitempty"` // when another attempt was to follow
}

// waitShown is the pause after an attempt.
type waitShown struct {
	Source  resilience.WaitSource `json:"source"`
	Reason  resilience.Reason     `json:"reason"`
	Planned float64               `json:"planned"`
	Actual  float64               `json:"actual"`
}

// What callers choose the length of is cut, so that memory is bounded.
const (
	maxMethod = 32
	maxHost   = 255
	maxPath   = 512
	maxID     = 128
	maxError  = 512
)

func (l *Live) newRecord(s *slot) *record {
	c, report := &s.call, &s.report
	withReport := *c
	withReport.Report = report
	method, host, path, id := s.texts()
	origin := ""
	if host != "" { // HTTP/1.0 has none: then there is no more than a path
		origin = c.Scheme + "://" + cut(host, maxHost)
	}
	r := &record{
		Route: c.Route, Policy: c.Policy, Upstream: c.Upstream, Method: cut(method, maxMethod),
		URL:    cut(origin+path, maxPath),
		Status: c.Status, Good: goodCall(&withReport), Reason: report.Reason, RequestID: cut(id, maxID),
		Start: l.millis(c.Start), Duration: milliseconds(c.Duration), Tokens: report.BudgetTokens,
		Attempts: make([]attemptShown, min(len(report.Attempts), maxKeptAttempts)),
	}
	r.Omitted = len(report.Attempts) - len(r.Attempts)
	if c.TraceID != [16]byte{} {
		r.TraceID = hex.EncodeToString(c.TraceID[:])
	}
	if !report.Start.IsZero() {
		r.Offset = milliseconds(report.Start.Sub(c.Start))
	}
	if !report.Deadline.IsZero() {
		r.Deadline = milliseconds(report.Deadline.Sub(c.Start))
	}
	for shownAs := range r.Attempts {
		i := shownAs
		if shownAs == len(r.Attempts)-1 {
			i = len(report.Attempts) - 1 // how it ended, whatever is left out before
		}
		a := &report.Attempts[i]
		shown := attemptShown{
			Number: a.Number, Start: milliseconds(a.Start.Sub(c.Start)), Duration: milliseconds(a.Duration), Limit: milliseconds(a.Limit),
			Good: goodAttempt(report, i), Reason: report.Ended(i), Verdict: a.Verdict, Breaker: a.Breaker, Status: a.Status,
		}
		if a.Err != nil {
			shown.Error = cut(a.Err.Error(), maxError)
		}
		if a.Verdict == resilience.VerdictRetry {
			shown.Wait = &waitShown{Source: a.Wait.Source, Reason: a.Wait.Reason, Planned: milliseconds(a.Wait.Planned), Actual: milliseconds(a.Wait.Actual)}
		}
		r.Attempts[shownAs] = shown
	}
	return r
}

// cut is the beginning of s in memory of its own.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

func (r *record) end() float64 { return r.Start + r.Duration }

// quiet tells whether there is nothing to learn from a call.
func (r *record) quiet() bool { return r.Good && len(r.Attempts) == 1 && r.Omitted == 0 }

// has tells whether this is the reason of the call or of one of its attempts.
func (r *record) has(reason resilience.Reason) bool {
	if r.Reason == reason {
		return true
	}
	for i := range r.Attempts {
		if r.Attempts[i].Reason == reason {
			return true
		}
	}
	return false
}

// recent lists up to limit calls that are wanted and came after a tick, the
// newest first.
func (l *Live) recent(limit int, after uint64, wanted func(*record) bool) []*record {
	var lists [2][]*record
	for i, h := range []*history[record]{&l.calls.quiet, &l.calls.loud} {
		h.newest(after, func(r *record) bool {
			if wanted == nil || wanted(r) {
				lists[i] = append(lists[i], r)
			}
			return len(lists[i]) < limit
		})
	}
	all := []*record{}
	for len(all) < limit && len(lists[0])+len(lists[1]) > 0 {
		i := 0
		if len(lists[0]) == 0 || len(lists[1]) > 0 && lists[1][0].ID > lists[0][0].ID {
			i = 1
		}
		all = append(all, lists[i][0])
		lists[i] = lists[i][1:]
	}
	return all
}
