package telemetry

import (
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

type serverLabels struct {
	method string
	status int
	route  string
}

func (l serverLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(l.method), semconv.HTTPResponseStatusCode(l.status), semconv.HTTPRoute(l.route),
	}
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
	reason           resilience.Reason
}

func (l clientLabels) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(l.method), labelUpstream.String(l.upstream), labelReason.String(string(l.reason)),
	}
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
