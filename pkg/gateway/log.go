package gateway

import (
	"context"
	"log/slog"
	"strings"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The messages of the log's lines.
const (
	lineCall       = "call"                                       // a call has been answered, or its caller is gone
	lineAttempt    = "attempt"                                    // an attempt has ended
	lineTransition = "circuit changed"                            // a circuit has another state
	lineLoop       = "loop"                                       // a request has come back to the gateway that passed it on; once for a route
	lineReloaded   = "configuration reloaded"                     // the changed configuration is in force
	lineRefused    = "configuration refused, the old one goes on" // the changed configuration is wrong
)

// The keys of their fields.
const (
	logRoute       = "route"                // the name of the route, empty for a call that has none
	logMethod      = "method"               // the caller's method, cut after 32 bytes
	logPath        = "path"                 // the path as the caller wrote it, without the query, cut after 512 bytes
	logCaller      = "caller"               // address and port that the caller's connection comes from, which may be a proxy's
	logStatus      = "status"               // what the caller got; 499 when the caller did not wait for it
	logReason      = "reason"               // why the call ended, or what happened to the attempt: a [resilience.Reason]
	logAttempts    = "attempts"             // how many attempts were begun
	logWaited      = "waited"               // all waits between attempts together
	logDuration    = "duration"             // of the call until its answer was written, or of the attempt until its response headers
	logRequestID   = "request_id"           // the X-Request-Id that caller and upstream see
	logAttempt     = "attempt"              // its number, from 1
	logVerdict     = "verdict"              // a [resilience.Verdict]
	logWait        = "wait"                 // how long the wait after it will be; 0 unless the verdict is retry
	logError       = "error"                // what went wrong
	logUpstream    = "upstream"             // scheme, host and port, and after # its name where several share those; empty without a route
	logPolicy      = "policy"               // the name of the policy that the circuit belongs to
	logFrom        = "from"                 // the [resilience.State] before
	logTo          = "to"                   // the [resilience.State] after
	logSuccesses   = "successes"            // how many ended well within the window, or as probes
	logFailures    = "failures"             // how many ended badly within the window, or as probes
	logConsecutive = "consecutive_failures" // how many ended badly in a row, however far apart
	logOpenFor     = "open_for"             // the open period that begins; 0 unless the circuit opens
	logVia         = "via"                  // the Via header of the request, cut after 512 bytes
	logRoutes      = "routes"               // how many there are
	logPolicies    = "policies"             // how many there are
)

// LogObserver is an observer that writes a line for every attempt at the debug
// level. It knows whose attempt it is if l is the gateway's Options.Logger.
func LogObserver(l *slog.Logger) resilience.Observer {
	return resilience.Observer{
		Attempt: func(ctx context.Context, a *resilience.AttemptReport) {
			if !l.Enabled(ctx, slog.LevelDebug) {
				return
			}
			var requestID, upstream string
			if c, ok := ctx.Value(callKey{}).(*call); ok {
				requestID, upstream = c.requestIDs[0], c.route.origin
			}
			l.LogAttrs(ctx, slog.LevelDebug, lineAttempt,
				slog.String(logRequestID, requestID), slog.String(logUpstream, upstream),
				slog.Int(logAttempt, a.Number), slog.String(logVerdict, string(a.Verdict)), slog.String(logReason, string(a.Reason)),
				slog.Duration(logDuration, a.Duration), slog.Duration(logWait, a.Wait.Planned), slog.Any(logError, a.Err))
		},
	}
}

// LogTransition is an [Options.OnTransition] that writes a warning for every
// change of a circuit, with the counts that caused it.
func LogTransition(l *slog.Logger) func(policy string, t resilience.Transition) {
	return func(policy string, t resilience.Transition) {
		l.LogAttrs(context.Background(), slog.LevelWarn, lineTransition,
			slog.String(logUpstream, t.Upstream), slog.String(logPolicy, policy),
			slog.String(logFrom, t.From.String()), slog.String(logTo, t.To.String()),
			slog.Int(logSuccesses, t.Successes), slog.Int(logFailures, t.Failures),
			slog.Int(logConsecutive, t.Consecutive), slog.Duration(logOpenFor, t.OpenFor))
	}
}

// callKey is where a call is in the context of its attempts, if the log has a line
// for each.
type callKey struct{}

// The longest of what a stranger wrote that stands in a line.
const (
	maxMethod = 32
	maxPath   = 512
)

// clipped is text, or its beginning where it is longer than limit bytes.
func clipped(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
