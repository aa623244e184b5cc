package telemetry

import (
	"context"
	"maps"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
)

// The instruments that every call uses are our own, since the SDK's examine all attributes of a
// measurement again each time. The SDK's exporter exports both alike.

// labels are the label values of one series.
type labels interface {
	comparable
	attributes() []attribute.KeyValue
}

// table finds the series of labels. Their number is bounded. A lookup takes no lock: the map is
// replaced, never changed. The zero value is ready to use. It is safe for concurrent use.
type table[L labels, S any] struct {
	known atomic.Pointer[map[L]*S]

	mu     sync.Mutex                // for changes
	series map[attribute.Distinct]*S // different labels may have the same attributes
}

func (t *table[L, S]) get(l L, start func(*S, attribute.Set)) *S {
	if known := t.known.Load(); known != nil {
		if s, ok := (*known)[l]; ok {
			return s
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[L]*S{}
	if known := t.known.Load(); known != nil {
		if s, ok := (*known)[l]; ok {
			return s
		}
		next = maps.Clone(*known)
	}
	set := attribute.NewSet(l.attributes()...)
	s := t.series[set.Equivalent()]
	if s == nil {
		s = new(S)
		start(s, set)
		if t.series == nil {
			t.series = map[attribute.Distinct]*S{}
		}
		t.series[set.Equivalent()] = s
	}
	next[l] = s
	t.known.Store(&next)
	return s
}

func (t *table[L, S]) each(use func(*S)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.series {
		use(s)
	}
}

// about describes an instrument.
type about struct {
	name, unit, description string
	exemplars               exemplarFilter
}

// exemplarFilter is a value of OTEL_METRICS_EXEMPLAR_FILTER. As for the SDK, any other value means
// trace_based.
type exemplarFilter string

// keeps reports whether a measurement within span becomes an exemplar.
func (f exemplarFilter) keeps(span trace.SpanContext) bool {
	switch f {
	case "always_on":
		return true
	case "always_off":
		return false
	default:
		return span.IsSampled()
	}
}

// counter counts events by their labels.
type counter[L labels] struct {
	about
	table[L, count]
}

// count is a series of a counter.
type count struct {
	set attribute.Set
	n   atomic.Int64
	exemplar[int64]
}

func (c *counter[L]) add(ctx context.Context, l L) {
	s := c.get(l, func(s *count, set attribute.Set) { s.set = set })
	s.n.Add(1)
	if span := trace.SpanContextFromContext(ctx); c.exemplars.keeps(span) {
		s.keep(1, span)
	}
}

func (c *counter[L]) collect(start, now time.Time) metricdata.Metrics {
	sum := metricdata.Sum[int64]{Temporality: metricdata.CumulativeTemporality, IsMonotonic: true}
	c.each(func(s *count) {
		sum.DataPoints = append(sum.DataPoints, metricdata.DataPoint[int64]{
			Attributes: s.set, StartTime: start, Time: now, Value: s.n.Load(), Exemplars: s.kept(nil),
		})
	})
	return metricdata.Metrics{Name: c.name, Unit: c.unit, Description: c.description, Data: sum}
}

// secondsBounds are the boundaries that the semantic conventions recommend.
var secondsBounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10} //nolint:gochecknoglobals // a constant

const buckets = 15 // len(secondsBounds) and the last one

// histogram counts durations in seconds by their labels.
type histogram[L labels] struct {
	about
	table[L, distribution]
}

// distribution is a series of a histogram.
type distribution struct {
	set       attribute.Set
	mu        sync.Mutex
	counts    [buckets]uint64
	sum       float64
	exemplars *[buckets]exemplar[float64] // the latest of each bucket; nil before the first
}

func (h *histogram[L]) record(ctx context.Context, took time.Duration, l L) {
	s := h.get(l, func(s *distribution, set attribute.Set) { s.set = set })
	seconds := took.Seconds()
	bucket := sort.SearchFloat64s(secondsBounds, seconds)
	span := trace.SpanContextFromContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[bucket]++
	s.sum += seconds
	if h.exemplars.keeps(span) {
		if s.exemplars == nil {
			s.exemplars = new([buckets]exemplar[float64])
		}
		s.exemplars[bucket].keep(seconds, span)
	}
}

func (h *histogram[L]) collect(start, now time.Time) metricdata.Metrics {
	all := metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality}
	h.each(func(s *distribution) {
		s.mu.Lock()
		defer s.mu.Unlock()
		p := metricdata.HistogramDataPoint[float64]{
			Attributes: s.set, StartTime: start, Time: now, Sum: s.sum, Bounds: secondsBounds, BucketCounts: make([]uint64, buckets),
		}
		for i, n := range s.counts {
			p.BucketCounts[i] = n
			p.Count += n
			if s.exemplars != nil {
				p.Exemplars = s.exemplars[i].kept(p.Exemplars)
			}
		}
		all.DataPoints = append(all.DataPoints, p)
	})
	return metricdata.Metrics{Name: h.name, Unit: h.unit, Description: h.description, Data: all}
}

// exemplar is the latest measurement that the filter keeps.
type exemplar[N int64 | float64] struct {
	latest atomic.Pointer[metricdata.Exemplar[N]]
}

func (e *exemplar[N]) keep(value N, span trace.SpanContext) {
	x := &metricdata.Exemplar[N]{Time: time.Now(), Value: value}
	if span.IsValid() { // it need not be, with always_on
		traceID, spanID := span.TraceID(), span.SpanID()
		x.TraceID, x.SpanID = traceID[:], spanID[:]
	}
	e.latest.Store(x)
}

func (e *exemplar[N]) kept(before []metricdata.Exemplar[N]) []metricdata.Exemplar[N] {
	if latest := e.latest.Load(); latest != nil {
		return append(before, *latest)
	}
	return before
}

// collector is the source of our own instruments for the SDK's exporter.
type collector struct {
	start       time.Time
	instruments []interface {
		collect(start, now time.Time) metricdata.Metrics
	}
}

var _ sdkmetric.Producer = (*collector)(nil)

// Produce implements the SDK's Producer.
func (c *collector) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	all := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: meterName}}
	now := time.Now()
	for _, i := range c.instruments {
		if m := i.collect(c.start, now); !empty(m.Data) {
			all.Metrics = append(all.Metrics, m)
		}
	}
	return []metricdata.ScopeMetrics{all}, nil
}

func empty(a metricdata.Aggregation) bool {
	switch a := a.(type) {
	case metricdata.Sum[int64]:
		return len(a.DataPoints) == 0
	case metricdata.Histogram[float64]:
		return len(a.DataPoints) == 0
	}
	return false
}
