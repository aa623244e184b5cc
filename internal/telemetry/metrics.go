package telemetry

import (
	"context"
	"errors"
	"math"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Metrics is an observer that exports metrics to Prometheus. Label values come only from names in
// the configuration and from closed enumerations, so that no caller can create new series. Metrics
// is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	provider *sdkmetric.MeterProvider

	transitions, fault, endpoints metric.Int64Counter
	refused                       metric.Int64Gauge

	server   histogram[serverLabels]
	client   histogram[clientLabels]
	waits    histogram[waitLabels]
	rpc      histogram[rpcLabels]
	calls    counter[callLabels]
	attempts counter[attemptLabels]
	methods  rpcMethods
}

// Sources are the functions that the gauges call at each scrape. They must be quick and must not
// change what they report. Each may be nil.
type Sources struct {
	Upstreams    func() []observe.Upstream
	FilesRefused func() map[string]bool // by upstream; "" is the data port
	ReplayMemory func() int64           // bytes of request bodies kept for retries
	Active       func() int64           // calls in flight
	DroppedLines func() uint64          // lines of the log, as [DroppedLines] returns it
}

// NewMetrics returns metrics without values.
func NewMetrics() (*Metrics, error) {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(m.registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo(),
		otelprometheus.WithProducer(m.ours()))
	if err != nil {
		return nil, err
	}
	// The SDK's default limit would merge all series after the first 2,000. It is not needed, since
	// label values are bounded.
	m.provider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithCardinalityLimit(0))
	meter := m.meter()

	var errs [4]error
	m.transitions, errs[0] = meter.Int64Counter("rebound.breaker.transitions", metric.WithUnit("{transition}"),
		metric.WithDescription("Changes of a circuit's state."))
	m.fault, errs[1] = meter.Int64Counter("rebound.faults", metric.WithUnit("{request}"),
		metric.WithDescription("Calls of flaky-server, by fault."))
	m.refused, errs[2] = meter.Int64Gauge("rebound.config.refused",
		metric.WithDescription("1 while the changed configuration file is refused and the previous one stays in force, otherwise 0."))
	m.endpoints, errs[3] = meter.Int64Counter("rebound.endpoint.changes", metric.WithUnit("{change}"),
		metric.WithDescription("Changes of an upstream's endpoints, by kind."))
	return m, errors.Join(errs[:]...)
}

// ours returns the instruments that every call uses.
func (m *Metrics) ours() *collector {
	filter := exemplarFilter(os.Getenv("OTEL_METRICS_EXEMPLAR_FILTER")) // as the SDK's instruments do
	m.server.about = about{"http.server.request.duration", "s", "Duration of calls until their response was written.", filter}
	m.client.about = about{"http.client.request.duration", "s", "Duration of attempts until their response headers.", filter}
	m.waits.about = about{"rebound.wait.duration", "s", "Duration of waits between attempts.", filter}
	m.rpc.about = about{"rpc.client.call.duration", "s", "Duration of the attempts of gRPC calls, until the end of their messages.", filter}
	m.calls.about = about{"rebound.calls", "{call}", "Calls, by reason.", filter}
	m.attempts.about = about{"rebound.attempts", "{attempt}", "Attempts, by reason and verdict.", filter}
	c := &collector{start: time.Now()}
	c.instruments = append(c.instruments, &m.server, &m.client, &m.waits, &m.rpc, &m.calls, &m.attempts)
	return c
}

const meterName = "github.com/rebound-dev/rebound"

func (m *Metrics) meter() metric.Meter { return m.provider.Meter(meterName) }

// Attach adds the gauges that report the values of the sources. It must be called at most once.
func (m *Metrics) Attach(s Sources) error {
	var errs [5]error
	meter := m.meter()
	if s.Upstreams != nil {
		errs[0] = m.watch(meter, s.Upstreams)
	}
	if s.ReplayMemory != nil {
		_, errs[1] = meter.Int64ObservableGauge("rebound.replay.memory", metric.WithUnit("By"),
			metric.WithDescription("Request bodies that are kept for retries: at most a quarter of GOMEMLIMIT, or 64 MiB without it."),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(s.ReplayMemory())
				return nil
			}))
	}
	if s.FilesRefused != nil {
		_, errs[2] = meter.Int64ObservableGauge("rebound.files.refused",
			metric.WithDescription("1 while changed certificates, keys or headers of an upstream, or of the data port, are refused and the previous ones stay in use, otherwise 0."),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				for upstream, refused := range s.FilesRefused() {
					o.Observe(oneIf(refused), metric.WithAttributes(labelUpstream.String(upstream)))
				}
				return nil
			}))
	}
	if s.Active != nil {
		_, errs[3] = meter.Int64ObservableGauge("rebound.calls.active", metric.WithUnit("{call}"),
			metric.WithDescription("Calls in flight, from their request's headers until their response's end."),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(s.Active())
				return nil
			}))
	}
	if s.DroppedLines != nil {
		_, errs[4] = meter.Int64ObservableCounter("rebound.log.lines.dropped", metric.WithUnit("{line}"),
			metric.WithDescription("Lines of the log that were dropped, because whoever reads it is too slow or away."),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(int64(min(s.DroppedLines(), math.MaxInt64)))
				return nil
			}))
	}
	return errors.Join(errs[:]...)
}

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

func (m *Metrics) watch(meter metric.Meter, upstreams func() []observe.Upstream) error {
	state, err := meter.Int64ObservableGauge("rebound.breaker.state",
		metric.WithDescription("1 for the current state of a circuit, 0 for the others."))
	if err != nil {
		return err
	}
	tokens, err := meter.Float64ObservableGauge("rebound.budget.tokens", metric.WithUnit("{token}"),
		metric.WithDescription("Balance of the retry budget."))
	if err != nil {
		return err
	}
	known, err := meter.Int64ObservableGauge("rebound.upstream.endpoints", metric.WithUnit("{endpoint}"),
		metric.WithDescription("Known endpoints of an upstream, by whether they are in use, ejected, or in use although they fail."))
	if err != nil {
		return err
	}
	active, err := meter.Int64ObservableGauge("rebound.upstream.active_requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests in flight at the endpoints of an upstream."))
	if err != nil {
		return err
	}
	attempts, err := meter.Int64ObservableGauge("rebound.attempts.active", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts in flight under a policy."))
	if err != nil {
		return err
	}
	waiting, err := meter.Int64ObservableGauge("rebound.attempts.waiting", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts in the queue of the concurrency limit."))
	if err != nil {
		return err
	}
	limit, err := meter.Int64ObservableGauge("rebound.concurrency.limit", metric.WithUnit("{attempt}"),
		metric.WithDescription("The most attempts that may be in flight, or 0 while there is no limit."))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, u := range upstreams() {
			observeEndpoints(o, known, active, u)
			who := []attribute.KeyValue{labelUpstream.String(u.Upstream), labelPolicy.String(u.Policy)}
			for _, s := range []resilience.State{resilience.Closed, resilience.HalfOpen, resilience.Open} {
				o.ObserveInt64(state, oneIf(s == u.Breaker.State), metric.WithAttributes(append(who[:2:2], labelState.String(s.String()))...))
			}
			o.ObserveFloat64(tokens, u.BudgetTokens, metric.WithAttributes(who...))
			o.ObserveInt64(attempts, int64(u.Concurrency.InFlight), metric.WithAttributes(who...))
			o.ObserveInt64(waiting, int64(u.Concurrency.Queued), metric.WithAttributes(who...))
			o.ObserveInt64(limit, int64(u.Concurrency.Limit), metric.WithAttributes(who...))
		}
		return nil
	}, state, tokens, known, active, attempts, waiting, limit)
	return err
}

// observeEndpoints reports the endpoints of u, if they are known. An upstream under several
// policies has the same ones under each.
func observeEndpoints(o metric.Observer, known, active metric.Int64ObservableGauge, u observe.Upstream) {
	if len(u.Endpoints) == 0 {
		return
	}
	states := map[string]int64{"in_use": 0, "ejected": 0, "failing": 0}
	var requests int64
	for _, e := range u.Endpoints {
		switch {
		case e.Ejected:
			states["ejected"]++
		case e.Circuit != resilience.Closed:
			states["failing"]++
		default:
			states["in_use"]++
		}
		requests += e.InFlight
	}
	upstream := labelUpstream.String(u.Upstream)
	for state, n := range states {
		o.ObserveInt64(known, n, metric.WithAttributes(upstream, labelEndpointState.String(state)))
	}
	o.ObserveInt64(active, requests, metric.WithAttributes(upstream))
}

// ObserveAttempt does nothing, since ObserveCall counts the attempts.
func (m *Metrics) ObserveAttempt(context.Context, *resilience.AttemptReport) {}

// ObserveCall counts a call with its attempts and waits. The trace in ctx becomes their exemplar.
func (m *Metrics) ObserveCall(ctx context.Context, c observe.Call) {
	method, reason := knownMethod(c.Method), reasonOf(c.Report.Reason)
	server := serverLabels{method, c.Scheme, c.Pattern, statusOf(c.Status), reason, rpcFault(c.GRPCStatus)}
	if c.CallersDoing { // must not use up an error budget
		server.reason, server.rpcError = resilience.ReasonCallerCanceled, ""
	}
	m.server.record(ctx, c.Duration, server)
	m.calls.add(ctx, callLabels{c.Route, reason})
	for i := range c.Report.Attempts {
		a := &c.Report.Attempts[i]
		m.client.record(ctx, a.Duration, clientLabels{method, c.Upstream, statusOf(a.Status), reasonOf(c.Report.Ended(i))})
		m.attempts.add(ctx, attemptLabels{c.Upstream, c.Policy, reasonOf(a.Reason), a.Verdict})
		if a.Verdict == resilience.VerdictRetry {
			m.waits.record(ctx, a.Wait.Actual, waitLabels{c.Upstream, a.Wait.Source})
		}
	}
	if c.GRPCStatus != "" {
		m.observeRPC(ctx, &c)
	}
}

// observeRPC records the attempts of a gRPC call. For gRPC an attempt ends with its messages: for
// the last one, that is the end of the call.
func (m *Metrics) observeRPC(ctx context.Context, c *observe.Call) {
	method := m.methods.label(c.Path, c.GRPCStatus == grpcwire.OK.String())
	for i := range c.Report.Attempts {
		a := &c.Report.Attempts[i]
		code, sent := a.Reason.GRPC()
		l := rpcLabels{method: method, upstream: c.Upstream, status: grpcwire.Code(code).String()}
		took := a.Duration
		if a.Reason == resilience.ReasonOK {
			l.status, took = c.GRPCStatus, c.Start.Add(c.Duration).Sub(a.Start)
		}
		if !sent {
			l.reason = reasonOf(a.Reason)
		}
		m.rpc.record(ctx, took, l)
	}
}

// ObserveTransition counts a change of a circuit.
func (m *Metrics) ObserveTransition(t observe.Transition) {
	m.transitions.Add(context.Background(), 1, metric.WithAttributes(
		labelUpstream.String(t.Upstream), labelPolicy.String(t.Policy), labelFrom.String(t.From.String()), labelTo.String(t.To.String())))
}

// ObserveEndpoint counts a change of an endpoint.
func (m *Metrics) ObserveEndpoint(e observe.EndpointEvent) {
	m.endpoints.Add(context.Background(), 1, metric.WithAttributes(labelUpstream.String(e.Upstream), labelChange.String(string(e.Kind))))
}

// Fault counts a request to flaky-server.
func (m *Metrics) Fault(ctx context.Context, fault string) {
	m.fault.Add(ctx, 1, metric.WithAttributes(labelFault.String(fault)))
}

// Reload records whether a changed configuration was accepted.
func (m *Metrics) Reload(accepted bool) {
	m.refused.Record(context.Background(), oneIf(!accepted))
}

// Handler serves /metrics. A client that accepts OpenMetrics also gets exemplars.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Close shuts the metrics down.
func (m *Metrics) Close(ctx context.Context) error { return m.provider.Shutdown(ctx) }

// knownMethod returns method if HTTP defines it, and otherwise _OTHER. The semantic conventions
// require this, so that callers cannot create label values.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "_OTHER"
}
