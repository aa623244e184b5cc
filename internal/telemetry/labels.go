package telemetry

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Our own labels. Their values are names from the configuration, or come from closed enumerations.
const (
	labelRoute  attribute.Key = "route"  // the name of the route; empty for a call without one
	labelPolicy attribute.Key = "policy" // the name of the policy
	// scheme, host and port, and # with the name where several upstreams share those; empty for the
	// data port
	labelUpstream attribute.Key = "upstream"
	// the [resilience.Reason] of the call or the attempt; of a status that HTTP does not register
	// only its class, such as status_5xx, or status_other
	labelReason  attribute.Key = "reason"
	labelVerdict attribute.Key = "verdict" // the [resilience.Verdict]
	labelSource  attribute.Key = "source"  // the [resilience.WaitSource]
	labelState   attribute.Key = "state"   // the [resilience.State]
	labelFrom    attribute.Key = "from"    // the [resilience.State] before
	labelTo      attribute.Key = "to"      // the [resilience.State] after
	labelFault   attribute.Key = "fault"   // the [faults.Fault]
	// the change: added, removed, ejected, returned, panic, calm or lookup_failed
	labelChange attribute.Key = "change"
	// the state: in_use, ejected, or failing, which is in use although it fails, because more fail
	// than may be ejected or there is no other
	labelEndpointState attribute.Key = "endpoint_state"
)

// The labels of OpenTelemetry's semantic conventions for HTTP.
const (
	// the method; _OTHER for one that HTTP does not know
	labelMethod attribute.Key = semconv.HTTPRequestMethodKey
	// the scheme of the caller's request: http or https
	labelScheme attribute.Key = semconv.URLSchemeKey
	// the path of the route's pattern, such as /orders/{id}; absent without a route
	labelPattern attribute.Key = semconv.HTTPRouteKey
	// the status; absent without a response; 499 for a caller that left before it; for a status
	// that HTTP does not register its class, 1xx to 5xx, or _OTHER
	labelStatus        attribute.Key = semconv.HTTPResponseStatusCodeKey
	labelServerAddress attribute.Key = semconv.ServerAddressKey // the upstream's host
	labelServerPort    attribute.Key = semconv.ServerPortKey    // the upstream's port
	// the status of an error (500 and above; for an attempt 400 and above), as in
	// http_response_status_code, or the [resilience.Reason] when the response is missing or broke
	// off; of a gRPC attempt its status, if that is not OK, and of a gRPC call UNKNOWN,
	// DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or DATA_LOSS; absent on success, and if the caller
	// made the call end so: its own grpc-timeout had passed, or it paused while it read
	labelErrorType attribute.Key = semconv.ErrorTypeKey
)

// The labels of OpenTelemetry's semantic conventions for RPC.
const (
	labelSystem attribute.Key = semconv.RPCSystemNameKey // always grpc
	// the method, such as orders.Orders/Create; _OTHER for one that no upstream has answered with
	// OK so far, and for all after the first 256
	labelRPCMethod attribute.Key = semconv.RPCMethodKey
	// the name of the gRPC status, such as UNAVAILABLE; without one from the upstream, what stands
	// for it
	labelRPCStatus attribute.Key = semconv.RPCResponseStatusCodeKey
)

// status is a status as a label value. It is the code if HTTP registers it, and otherwise the
// negated class. An upstream could answer hundreds of unregistered codes, and each would add a
// series per route. 0 means no answer.
type status int

// statusOther stands for codes outside 100 to 599. They count as failures.
const statusOther status = -6

func statusOf(code int) status {
	switch {
	case code == 0 || code == problem.StatusCallerGone || http.StatusText(code) != "":
		return status(code)
	case code >= 100 && code < 600:
		return status(-code / 100)
	}
	return statusOther
}

// atLeast reports whether a status is code or above. code must be a multiple of 100.
func (s status) atLeast(code int) bool {
	if s < 0 {
		s *= -100 // an unknown code is treated as x00 of its class (RFC 9110, 15)
	}
	return int(s) >= code
}

// String returns the label's value. A class is written as 5xx, so that queries for 5.. match it.
func (s status) String() string {
	switch {
	case s == statusOther:
		return semconv.ErrorTypeOther.Value.AsString()
	case s < 0:
		return strconv.Itoa(int(-s)) + "xx"
	}
	return strconv.Itoa(int(s))
}

// reasonOf returns r as a label value.
func reasonOf(r resilience.Reason) resilience.Reason {
	digits, ok := strings.CutPrefix(string(r), "status_")
	if !ok {
		return r
	}
	code, err := strconv.Atoi(digits)
	if err != nil {
		return r // such as status_not_retryable
	}
	switch s := statusOf(code); {
	case s == statusOther:
		return "status_other"
	case s < 0:
		return resilience.Reason("status_" + s.String())
	}
	return r
}

type serverLabels struct {
	method, scheme, pattern string
	status                  status
	reason                  resilience.Reason
	rpcError                string // of a gRPC call, as rpcFault returns it; "" if the caller caused it
}

func (l serverLabels) attributes() []attribute.KeyValue {
	all := []attribute.KeyValue{labelMethod.String(l.method), labelScheme.String(l.scheme)}
	if l.pattern != "" {
		all = append(all, labelPattern.String(l.pattern))
	}
	if l.rpcError != "" && l.status == http.StatusOK { // any other status says what gRPC makes of it
		return append(all, labelStatus.String(l.status.String()), labelErrorType.String(l.rpcError))
	}
	// For a server a 4xx is no error, says the semantic convention.
	return appendOutcome(all, l.status, 500, l.reason)
}

// rpcFault returns the name of a gRPC status if the server is to blame for it, and otherwise "".
// The semantic convention has UNIMPLEMENTED too. A caller can cause it with any made-up method, as
// it can cause a 404, and what callers do must not use up an error budget.
func rpcFault(status string) string {
	if status == "" { // as of every call that is none of gRPC
		return ""
	}
	if code, ok := grpcwire.ParseCode(status); ok && (code.Fails() || code == grpcwire.DeadlineExceeded) {
		return status
	}
	return ""
}

// appendOutcome adds the status, if there is one, and the error type in case of an error. An error
// is a status of failure or above, a missing answer, or one that broke off.
func appendOutcome(all []attribute.KeyValue, s status, failure int, reason resilience.Reason) []attribute.KeyValue {
	if s != 0 {
		all = append(all, labelStatus.String(s.String()))
	}
	switch {
	case s.atLeast(failure):
		return append(all, labelErrorType.String(s.String()))
	case s == 0 && reason == "": // a panic
		return append(all, semconv.ErrorTypeOther)
	case s == 0, !s.atLeast(400) && reason == resilience.ReasonBodyFailed:
		return append(all, labelErrorType.String(string(reason)))
	}
	return all
}

type callLabels struct {
	route  string
	reason resilience.Reason
}

func (l callLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{labelRoute.String(l.route), labelReason.String(string(l.reason))}
}

type clientLabels struct {
	method, upstream string
	status           status
	reason           resilience.Reason
}

func (l clientLabels) attributes() []attribute.KeyValue {
	all := []attribute.KeyValue{labelMethod.String(l.method)}
	if u, err := url.Parse(l.upstream); err == nil {
		all = append(all, labelServerAddress.String(u.Hostname()), labelServerPort.Int(port(u)))
	}
	return appendOutcome(all, l.status, 400, l.reason)
}

func port(u *url.URL) int {
	if n, err := strconv.Atoi(u.Port()); err == nil {
		return n
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

type attemptLabels struct {
	upstream, policy string
	reason           resilience.Reason
	verdict          resilience.Verdict
}

func (l attemptLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		labelUpstream.String(l.upstream), labelPolicy.String(l.policy),
		labelReason.String(string(l.reason)), labelVerdict.String(string(l.verdict)),
	}
}

type rpcLabels struct {
	method, upstream, status string
	reason                   resilience.Reason // only if the upstream has sent no status
}

func (l rpcLabels) attributes() []attribute.KeyValue {
	all := []attribute.KeyValue{labelSystem.String(semconv.RPCSystemNameGRPC.Value.AsString()), labelRPCMethod.String(l.method), labelRPCStatus.String(l.status)}
	if u, err := url.Parse(l.upstream); err == nil {
		all = append(all, labelServerAddress.String(u.Hostname()), labelServerPort.Int(port(u)))
	}
	switch {
	case l.reason != "":
		all = append(all, labelErrorType.String(string(l.reason)))
	case l.status != grpcwire.OK.String():
		all = append(all, labelErrorType.String(l.status))
	}
	return all
}

// Limits of the methods that are label values.
const (
	maxMethods       = 256
	longestRPCMethod = 200
)

// rpcMethods knows the methods that an upstream has answered with OK. A caller can ask for any
// method, but not make an upstream have it. It is safe for concurrent use.
type rpcMethods struct {
	mu    sync.RWMutex
	known map[string]string
}

// label returns the label value for the method of a path. ok reports whether an upstream has
// answered it with OK.
func (m *rpcMethods) label(path string, ok bool) string {
	other := semconv.ErrorTypeOther.Value.AsString()
	name := strings.TrimPrefix(path, "/")
	m.mu.RLock()
	known, found := m.known[name]
	full := len(m.known) >= maxMethods
	m.mu.RUnlock()
	switch {
	case found:
		return known
	case !ok || full || len(name) > longestRPCMethod || strings.Count(name, "/") != 1:
		return other
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, found := m.known[name]; found {
		return known
	}
	if len(m.known) >= maxMethods {
		return other
	}
	if m.known == nil {
		m.known = map[string]string{}
	}
	name = strings.Clone(name) // it may be a part of a large text
	m.known[name] = name
	return name
}

type waitLabels struct {
	upstream string
	source   resilience.WaitSource
}

func (l waitLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{labelUpstream.String(l.upstream), labelSource.String(string(l.source))}
}
