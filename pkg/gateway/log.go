package gateway

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The messages of the log lines.
const (
	// a call has ended, or its caller has left
	lineCall       = "call"
	lineAttempt    = "attempt"         // an attempt has ended
	lineTransition = "circuit changed" // a circuit has changed its state
	// an endpoint of an upstream has changed
	lineEndpoint = "endpoint changed"
	// a request has come back to the gateway; once for each route
	lineLoop = "loop"
	// a changed certificate, key or header cannot be used, and the one before stays in use
	lineFileRefused = "file refused, the old one goes on"
	lineReloaded    = "configuration reloaded"                     // the changed configuration is in force
	lineRefused     = "configuration refused, the old one goes on" // the changed configuration is wrong
)

// The keys of their fields.
const (
	logRoute  = "route"  // the name of the route; empty for a call without one
	logMethod = "method" // the caller's method, cut after 32 bytes
	// the caller's path without the query, cut after 512 bytes
	logPath = "path"
	// address and port of the caller's connection, which may be a proxy's
	logCaller = "caller"
	// the caller's status; 499 when the caller left before it
	logStatus   = "status"
	logReason   = "reason"   // the [resilience.Reason] of the call or the attempt
	logAttempts = "attempts" // the number of attempts
	logWaited   = "waited"   // the sum of the waits between attempts
	// of the call until its response was written; of the attempt until its response headers
	logDuration  = "duration"
	logRequestID = "request_id" // the X-Request-Id of caller and upstream
	logAttempt   = "attempt"    // the number of the attempt, from 1
	logVerdict   = "verdict"    // the [resilience.Verdict]
	// the planned wait after the attempt; 0 unless the verdict is retry
	logWait  = "wait"
	logError = "error" // the error
	// scheme, host and port, and # with the name where several upstreams share those; empty without
	// a route, and for files of the data port
	logUpstream    = "upstream"
	logPolicy      = "policy"               // the name of the circuit's policy
	logFrom        = "from"                 // the [resilience.State] before
	logTo          = "to"                   // the [resilience.State] after
	logSuccesses   = "successes"            // successes within the window, or of probes
	logFailures    = "failures"             // failures within the window, or of probes
	logConsecutive = "consecutive_failures" // failures in a row, however far apart
	logOpenFor     = "open_for"             // the open period; 0 unless the circuit opens
	// the change: added, removed, ejected, returned, panic, calm or lookup_failed
	logChange   = "change"
	logEndpoint = "endpoint"  // the endpoint's address; empty if all are meant or it is unknown
	logEjectFor = "eject_for" // the time until the first probe of an ejected endpoint, otherwise 0
	logVia      = "via"       // the Via header of the request, cut after 512 bytes
	logRoutes   = "routes"    // the number of routes
	logPolicies = "policies"  // the number of policies
)

// LogObserver returns an observer that writes a line for each attempt at the debug level, for each
// call at the info level, and for each change of a circuit at the warning level. The lines of the
// attempts name request and upstream only if l is also the gateway's Options.Logger.
func LogObserver(l *slog.Logger) observe.Observer { return logObserver{l} }

type logObserver struct{ logger *slog.Logger }

// attrHandler is a slog.Handler that needs no slog.Record, which would be a further copy of the
// attributes. HandleAttrs must not keep them.
type attrHandler interface {
	HandleAttrs(ctx context.Context, level slog.Level, message string, attrs []slog.Attr)
}

// lists hold the attributes of a line each.
var lists = sync.Pool{New: func() any { return new([mostAttrs]slog.Attr) }} //nolint:gochecknoglobals // a pool

const mostAttrs = 11 // of a line

// line writes a line as l.logger.LogAttrs would, but does not look for the place in the code that
// it comes from: that is always here, and costs more than the line.
func (o logObserver) line(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	h := o.logger.Handler()
	if quick, ok := h.(attrHandler); ok && len(attrs) <= mostAttrs {
		if list, ok := lists.Get().(*[mostAttrs]slog.Attr); ok {
			quick.HandleAttrs(ctx, level, message, list[:copy(list[:], attrs)])
			clear(list[:]) // the texts may be large
			lists.Put(list)
		}
		return
	}
	r := slog.NewRecord(time.Now(), level, message, place())
	r.AddAttrs(attrs...)
	_ = h.Handle(ctx, r) // slog ignores the error, too
}

// place is the place that the lines of this file come from.
var place = sync.OnceValue(func() uintptr { //nolint:gochecknoglobals // a constant
	var pcs [1]uintptr
	runtime.Callers(1, pcs[:])
	return pcs[0]
})

func (o logObserver) ObserveAttempt(ctx context.Context, a *resilience.AttemptReport) {
	if !o.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	var requestID, upstream string
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		requestID, upstream = c.requestIDs[0], c.route.upstreamName
	}
	o.line(ctx, slog.LevelDebug, lineAttempt,
		slog.String(logRequestID, requestID), slog.String(logUpstream, upstream),
		slog.Int(logAttempt, a.Number), slog.String(logEndpoint, a.Endpoint), slog.String(logVerdict, string(a.Verdict)), slog.String(logReason, string(a.Reason)),
		slog.Duration(logDuration, a.Duration), slog.Duration(logWait, a.Wait.Planned), slog.Any(logError, a.Err))
}

func (o logObserver) ObserveCall(ctx context.Context, c observe.Call) {
	if !o.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	var waited time.Duration
	for i := range c.Report.Attempts {
		waited += c.Report.Attempts[i].Wait.Actual
	}
	o.line(ctx, slog.LevelInfo, lineCall,
		slog.String(logRoute, c.Route), slog.String(logMethod, clipped(c.Method, maxMethod)), slog.String(logPath, clipped(c.Path, maxPath)),
		slog.String(logCaller, c.Caller), slog.String(logUpstream, c.Upstream), slog.Int(logStatus, c.Status),
		slog.String(logReason, string(c.Report.Reason)), slog.Int(logAttempts, len(c.Report.Attempts)),
		slog.Duration(logWaited, waited), slog.Duration(logDuration, c.Duration), slog.String(logRequestID, c.RequestID))
}

// ObserveTransition logs the counts that caused the change, too.
func (o logObserver) ObserveTransition(t observe.Transition) {
	o.logger.LogAttrs(context.Background(), slog.LevelWarn, lineTransition,
		slog.String(logUpstream, t.Upstream), slog.String(logPolicy, t.Policy),
		slog.String(logFrom, t.From.String()), slog.String(logTo, t.To.String()),
		slog.Int(logSuccesses, t.Successes), slog.Int(logFailures, t.Failures),
		slog.Int(logConsecutive, t.Consecutive), slog.Duration(logOpenFor, t.OpenFor))
}

// ObserveEndpoint logs a change of an endpoint.
func (o logObserver) ObserveEndpoint(e observe.EndpointEvent) {
	o.logger.LogAttrs(context.Background(), slog.LevelInfo, lineEndpoint,
		slog.String(logUpstream, e.Upstream), slog.String(logChange, string(e.Kind)), slog.String(logEndpoint, e.Address),
		slog.Duration(logEjectFor, e.For), slog.Any(logError, e.Err))
}

// callKey is the context key of an attempt's call. It is only set if attempts are logged.
type callKey struct{}

// Limits in bytes for text from a caller in a log line.
const (
	maxMethod = 32
	maxPath   = 512
)

// clipped returns text, cut after limit bytes.
func clipped(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
