package live

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Record is a finished call in the form that readers get. It is immutable. All times are in
// milliseconds, those of the attempts since the call's start.
type Record struct {
	ID        uint64            `json:"id"` // from 1, in the order of the calls' ends
	Route     string            `json:"route"`
	Policy    string            `json:"policy,omitempty"`
	Upstream  string            `json:"upstream,omitempty"`
	Method    string            `json:"method"`
	URL       string            `json:"url"` // without the query, which may hold secrets
	Status    int               `json:"status"`
	GRPC      *grpcShown        `json:"grpc,omitempty"` // only of a gRPC call
	Good      bool              `json:"good"`           // the caller got what it asked for
	Reason    resilience.Reason `json:"reason"`
	RequestID string            `json:"requestId,omitempty"`
	TraceID   string            `json:"traceId,omitempty"`
	Start     float64           `json:"start"` // since 1970
	Duration  float64           `json:"duration"`
	Deadline  float64           `json:"deadline,omitempty"` // since the call's start
	Tokens    float64           `json:"budgetTokens"`       // of the retry budget at the call's end
	// Offset is the pipeline's begin, since the call's start.
	Offset   float64        `json:"offset,omitempty"`
	Attempts []attemptShown `json:"attempts"` // at most 32: the first 31 and the last
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
	GRPC     *grpcShown         `json:"grpc,omitempty"` // if the upstream sent a gRPC status
	Error    string             `json:"error,omitempty"`
	Endpoint string             `json:"endpoint,omitempty"` // its address, if known
	Wait     *waitShown         `json:"wait,omitempty"`     // if another attempt was planned
}

// grpcShown is a gRPC status. A server's message may say what a caller must not see, but whoever
// sees this page may.
type grpcShown struct {
	Status  string `json:"status"` // its name, such as UNAVAILABLE
	Message string `json:"message,omitempty"`
}

// waitShown is the pause after an attempt.
type waitShown struct {
	Source  resilience.WaitSource `json:"source"`
	Reason  resilience.Reason     `json:"reason"`
	Planned float64               `json:"planned"`
	Actual  float64               `json:"actual"`
}

// Callers choose the length of these texts. The limits bound memory, in bytes.
const (
	maxMethod = 32
	maxHost   = 255
	maxPath   = 512
	maxID     = 128
	maxError  = 512
)

func (l *Live) newRecord(s *slot) *Record {
	c, report := &s.call, &s.report
	withReport := *c
	withReport.Report = report
	method, host, path, id := s.texts()
	origin := ""
	if host != "" { // an HTTP/1.0 request may have none
		origin = c.Scheme + "://" + cut(host, maxHost)
	}
	r := &Record{
		Route: c.Route, Policy: c.Policy, Upstream: c.Upstream, Method: cut(method, maxMethod),
		URL:    cut(origin+path, maxPath),
		Status: c.Status, Good: goodCall(&withReport), Reason: report.Reason, RequestID: cut(id, maxID),
		Start: l.millis(c.Start), Duration: milliseconds(c.Duration), Tokens: report.BudgetTokens,
		Attempts: make([]attemptShown, min(len(report.Attempts), maxKeptAttempts)),
	}
	r.Omitted = len(report.Attempts) - len(r.Attempts)
	if c.GRPCStatus != "" {
		r.GRPC = &grpcShown{c.GRPCStatus, c.GRPCMessage}
	}
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
			i = len(report.Attempts) - 1 // the last attempt is never omitted
		}
		a := &report.Attempts[i]
		shown := attemptShown{
			Number: a.Number, Start: milliseconds(a.Start.Sub(c.Start)), Duration: milliseconds(a.Duration), Limit: milliseconds(a.Limit),
			Good: goodAttempt(&withReport, i), Reason: report.Ended(i), Verdict: a.Verdict, Breaker: a.Breaker, Status: a.Status,
			Endpoint: cut(a.Endpoint, maxHost),
		}
		if c.GRPCStatus != "" {
			if g, sent := grpcOf(c, a); sent {
				shown.GRPC = &g
			}
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

// grpcOf returns the gRPC status of an attempt, and whether the upstream sent one. If it sent
// headers first, the call ended with its status.
func grpcOf(c *observe.Call, a *resilience.AttemptReport) (g grpcShown, sent bool) {
	code, sent := a.Reason.GRPC()
	if a.Reason == resilience.ReasonOK {
		return grpcShown{c.GRPCStatus, c.GRPCMessage}, true
	}
	return grpcShown{grpcwire.Code(code).String(), a.Message}, sent
}

// cut returns the beginning of s, copied, so that the rest of s can be freed.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

func (r *Record) end() float64 { return r.Start + r.Duration }

// quiet reports whether the call was good at its first attempt.
func (r *Record) quiet() bool { return r.Good && len(r.Attempts) == 1 && r.Omitted == 0 }

// has reports whether the call or one of its attempts has this reason.
func (r *Record) has(reason resilience.Reason) bool {
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

// recent returns up to limit calls that were gathered after a tick and are wanted, the newest
// first. A nil wanted means all.
func (l *Live) recent(limit int, after uint64, wanted func(*Record) bool) []*Record {
	var lists [2][]*Record
	for i, h := range []*history[Record]{&l.calls.quiet, &l.calls.loud} {
		h.newest(after, func(r *Record) bool {
			if wanted == nil || wanted(r) {
				lists[i] = append(lists[i], r)
			}
			return len(lists[i]) < limit
		})
	}
	all := []*Record{}
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
