// Package telemetry sets up OpenTelemetry's SDK for a program from the standard
// OTEL_* variables, and its log. With none of the variables set nothing is
// exported and nothing is made slower.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Options are what [Start] needs.
type Options struct {
	// Service and Version describe the program; OTEL_SERVICE_NAME and
	// OTEL_RESOURCE_ATTRIBUTES say it better where they are set.
	Service, Version string
	// LookupEnv tells whether traces are asked for. The exporters then read the
	// process's environment by themselves.
	LookupEnv func(string) (string, bool)
	// Logger gets a warning, once a minute at most, when spans cannot be exported.
	Logger *slog.Logger
}

// Telemetry is a program's tracing. It is safe for concurrent use.
type Telemetry struct {
	provider   trace.TracerProvider
	sdk        *sdktrace.TracerProvider // nil when nothing is exported
	propagator propagation.TextMapPropagator
	failures   *warnings // of the export
}

// Start sets tracing up. An exporter that cannot be made is an error; one whose
// collector is away is not.
//
// It sets OpenTelemetry's global error handler, which is the only way to hear of
// an export that failed.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	t := &Telemetry{
		provider:   tracenoop.NewTracerProvider(),
		propagator: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	if !asked(o.LookupEnv) {
		return t, nil
	}
	t.failures = &warnings{logger: o.Logger}
	otel.SetErrorHandler(t.failures)
	exporter, err := newSpanExporter(ctx, o.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("exporting traces: %w", err)
	}
	// The later option wins: what the environment says of the service.
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(o.Service), semconv.ServiceVersion(o.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("describing the service: %w", err)
	}
	// The batch has a bounded queue and drops what does not fit: a collector that
	// is slow or away costs neither time nor memory.
	t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	t.provider = t.sdk
	return t, nil
}

// variables reads the values of variables that are words, as OpenTelemetry compares
// them.
func variables(lookup func(string) (string, bool)) func(string) string {
	return func(name string) string {
		v, _ := lookup(name)
		return strings.ToLower(strings.TrimSpace(v))
	}
}

// asked tells whether the environment asks for traces.
func asked(lookup func(string) (string, bool)) bool {
	value := variables(lookup)
	exporter := value("OTEL_TRACES_EXPORTER")
	switch {
	case value("OTEL_SDK_DISABLED") == "true" || exporter == "none":
		return false
	case exporter != "":
		return true
	}
	return value("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Enabled tells whether spans are made.
func (t *Telemetry) Enabled() bool { return t.sdk != nil }

// Provider gives tracers; they do nothing when nothing is exported.
func (t *Telemetry) Provider() trace.TracerProvider { return t.provider }

// Propagator carries trace context and baggage in W3C's headers.
func (t *Telemetry) Propagator() propagation.TextMapPropagator { return t.propagator }

// Handler leaves a server span for every request to h. It is h itself when
// nothing is exported.
func (t *Telemetry) Handler(h http.Handler) http.Handler {
	if !t.Enabled() {
		return h
	}
	return otelhttp.NewHandler(h, "",
		otelhttp.WithTracerProvider(t.provider),
		otelhttp.WithPropagators(t.propagator),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			if r.Pattern == "" {
				return r.Method // a path would make as many names as there are paths
			}
			if _, path, ok := strings.Cut(r.Pattern, " "); ok {
				return r.Method + " " + path
			}
			return r.Method + " " + r.Pattern
		}))
}

// KeyFault is on flaky-server's spans.
const KeyFault attribute.Key = "rebound.fault" // what struck the request: a [faults.Fault]

// SetFault puts a fault on the span of ctx, if there is one.
func SetFault(ctx context.Context, fault string) {
	trace.SpanFromContext(ctx).SetAttributes(KeyFault.String(fault))
}

// Flush sends what is left and ends the export. It is called once, after the last
// span has ended, and takes no longer than ctx allows.
func (t *Telemetry) Flush(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	err := t.sdk.Shutdown(ctx)
	t.failures.rest() // what is lost with the last spans is told now or never
	return err
}

// warnings turns export errors into one warning a minute.
type warnings struct {
	logger *slog.Logger

	mu      sync.Mutex
	last    time.Time
	skipped int
	err     error // the last one that was skipped
}

// Handle is called by the SDK, from any goroutine.
func (w *warnings) Handle(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.last.IsZero() && time.Since(w.last) < time.Minute {
		w.skipped++
		w.err = err
		return
	}
	w.warn(err)
}

// rest tells of what was skipped since the last warning.
func (w *warnings) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.skipped > 0 {
		w.skipped-- // the one that is told
		w.warn(w.err)
	}
}

func (w *warnings) warn(err error) {
	if w.logger != nil {
		w.logger.Warn(lineNoExport, logError, err, logSkipped, w.skipped)
	}
	w.last, w.skipped = time.Now(), 0
}
