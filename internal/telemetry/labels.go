package telemetry

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// labels are the label values of one series.
type labels interface {
	comparable
	attributes() []attribute.KeyValue
}

// labelSets keeps what the SDK makes of label values, which costs more than to
// count with it. There are as many as there are series, which are bounded. The
// zero value is ready; it is safe for concurrent use.
type labelSets[L labels, O any] struct {
	mu   sync.RWMutex
	sets map[L][]O
}

func (s *labelSets[L, O]) get(l L) []O {
	s.mu.RLock()
	set, ok := s.sets[l]
	s.mu.RUnlock()
	if ok {
		return set
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sets == nil {
		s.sets = map[L][]O{}
	}
	option, ok := metric.WithAttributeSet(attribute.NewSet(l.attributes()...)).(O)
	if !ok { // a MeasurementOption is every kind of option
		return nil
	}
	s.sets[l] = []O{option}
	return s.sets[l]
}

// Our own labels. Their values are names from the configuration, or come from closed enumerations.
const (
	labelRoute  attribute.Key = "route"  // the name of the route; empty for a call without one
	labelPolicy attribute.Key = "policy" // the name of the policy
	// scheme, host and port, and # with the name where several upstreams share those
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
	// off; absent on success
	labelErrorType attribute.Key = semconv.ErrorTypeKey
)

// status is a status as a label: its number where HTTP registers it, and
// otherwise its class, below 0. An upstream could answer hundreds of others, each
// of which would be a series of every route. 0 is no answer.
type status int

// statusOther is the class of those that are of none, which are failures.
const statusOther status = -6

// statusCallerGone is what the gateway calls a caller who hung up. HTTP does not
// register it.
const statusCallerGone = 499

func statusOf(code int) status {
	switch {
	case code == 0 || code == statusCallerGone || http.StatusText(code) != "":
		return status(code)
	case code >= 100 && code < 600:
		return status(-code / 100)
	}
	return statusOther
}

// atLeast reports whether a status is code or above, for a code that ends with 00.
func (s status) atLeast(code int) bool {
	if s < 0 {
		s *= -100 // a class is to be treated as its x00 (RFC 9110, 15)
	}
	return int(s) >= code
}

// String is the label's value. The class keeps queries such as 5.. true.
func (s status) String() string {
	switch {
	case s == statusOther:
		return semconv.ErrorTypeOther.Value.AsString()
	case s < 0:
		return strconv.Itoa(int(-s)) + "xx"
	}
	return strconv.Itoa(int(s))
}

// reasonOf is a reason as a label.
func reasonOf(r resilience.Reason) resilience.Reason {
	digits, ok := strings.CutPrefix(string(r), "status_")
	if !ok {
		return r
	}
	code, err := strconv.Atoi(digits)
	if err != nil {
		return r // status_not_retryable
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
}

func (l serverLabels) attributes() []attribute.KeyValue {
	all := []attribute.KeyValue{labelMethod.String(l.method), labelScheme.String(l.scheme)}
	if l.pattern != "" {
		all = append(all, labelPattern.String(l.pattern))
	}
	// A 4xx is the caller's mistake, and by the conventions no error of a server.
	return appendOutcome(all, l.status, 500, l.reason)
}

// appendOutcome adds the status, if there is one, and the type of the error, if
// it is one: a status from failure on, no answer, or one that broke off.
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

type waitLabels struct {
	upstream string
	source   resilience.WaitSource
}

func (l waitLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{labelUpstream.String(l.upstream), labelSource.String(string(l.source))}
}
