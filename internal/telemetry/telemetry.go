// Package telemetry sets up a program's traces, metrics and log. The standard OTEL_* variables
// configure the traces. Without them no traces are exported, and tracing costs nothing.
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

	"github.com/go-logr/logr"
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

// Options are the arguments of [Start].
type Options struct {
	// Service and Version describe the program. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
	// override them.
	Service, Version string
	// LookupEnv returns a variable. The exporters also read the process's environment themselves.
	LookupEnv func(string) (string, bool)
	// Environ returns the whole environment in the form of [os.Environ]. One warning then names all
	// OTEL_* variables without effect. Nil means no warning.
	Environ func() []string
	// Logger gets that warning. It also gets a warning, at most once a minute, if spans cannot be
	// exported.
	Logger *slog.Logger
}

// Telemetry is a program's tracing. It is safe for concurrent use.
type Telemetry struct {
	provider   trace.TracerProvider
	sdk        *sdktrace.TracerProvider // nil if nothing is exported
	propagator propagation.TextMapPropagator
	failures   *warnings // export errors
}

// Start sets up tracing. It fails if a variable has an invalid value or the exporter cannot be
// created. It does not fail if the collector is unavailable.
//
// Start replaces OpenTelemetry's global error handler, which is the only way to get export errors,
// and OpenTelemetry's global logger.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	env := environment(o.LookupEnv)
	if err := env.check(); err != nil {
		return nil, err
	}
	if o.Environ != nil {
		if found := env.ineffective(o.Environ()); len(found) > 0 {
			o.Logger.WarnContext(ctx, lineNoEffect, logVariables, found)
		}
	}
	names := ""
	if !env.disabled() {
		names = env.text(varPropagators)
	}
	propagator, err := newPropagator(names)
	if err != nil {
		return nil, err // cannot happen: check has validated the names
	}
	t := &Telemetry{provider: tracenoop.NewTracerProvider(), propagator: propagator}
	if env.exporter() == none {
		return t, nil
	}
	t.failures = &warnings{logger: o.Logger}
	var beginning errorList
	otel.SetErrorHandler(&beginning)
	defer otel.SetErrorHandler(t.failures)
	otel.SetLogger(logr.Discard()) // it would report 127.0.0.1:4317, which is not a URL
	defer otel.SetLogger(logr.FromSlogHandler(errorsOnly{o.Logger.Handler()}))
	exporter, err := newSpanExporter(ctx, env)
	if err != nil {
		return nil, fmt.Errorf("exporting traces: %w", err)
	}
	// The last option wins: the environment overrides the attributes.
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(o.Service), semconv.ServiceVersion(o.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("describing the service: %w", err)
	}
	// The batch processor's queue is bounded and drops further spans. So a slow or unavailable
	// collector neither delays calls nor fills memory.
	t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	t.provider = t.sdk
	if err := beginning.join(); err != nil { // from a variable that Variables does not list
		return nil, errors.Join(fmt.Errorf("setting up traces: %w", err), t.sdk.Shutdown(ctx))
	}
	return t, nil
}

// errorList collects errors. It is safe for concurrent use.
type errorList struct {
	mu   sync.Mutex
	errs []error
}

// Handle is called by the SDK.
func (l *errorList) Handle(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *errorList) join() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

// Enabled reports whether spans are exported.
func (t *Telemetry) Enabled() bool { return t.sdk != nil }

// Provider returns the provider of tracers. They do nothing if nothing is exported.
func (t *Telemetry) Provider() trace.TracerProvider { return t.provider }

// Propagator returns the propagator for trace context and baggage. It uses W3C's headers unless
// OTEL_PROPAGATORS names others.
func (t *Telemetry) Propagator() propagation.TextMapPropagator { return t.propagator }

// Handler wraps h so that every request gets a server span. It returns h itself if nothing is
// exported.
func (t *Telemetry) Handler(h http.Handler) http.Handler {
	if !t.Enabled() {
		return h
	}
	through := otelhttp.NewHandler(h, "",
		otelhttp.WithTracerProvider(startedProvider{next: t.provider}),
		otelhttp.WithPropagators(t.propagator),
		otelhttp.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			method := r.Method
			if knownMethod(method) != method {
				method = "HTTP" // as in the semantic conventions, so that callers cannot create names
			}
			if r.Pattern == "" {
				return method // paths would create too many names
			}
			if _, path, ok := strings.Cut(r.Pattern, " "); ok {
				return method + " " + path
			}
			return method + " " + r.Pattern
		}))
	tracer := t.provider.Tracer(otelhttp.ScopeName, trace.WithInstrumentationVersion(otelhttp.Version))
	return &sampled{tracer: tracer, propagator: t.propagator, plain: h, through: through}
}

// KeyFault is an attribute of flaky-server's spans.
const KeyFault attribute.Key = "rebound.fault" // the [faults.Fault]

// SetFault sets KeyFault on the span of ctx, if there is one.
func SetFault(ctx context.Context, fault string) {
	trace.SpanFromContext(ctx).SetAttributes(KeyFault.String(fault))
}

// Flush sends the queued spans and ends the export. It must be called once, after the last span has
// ended. It returns when ctx ends.
func (t *Telemetry) Flush(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	err := t.sdk.Shutdown(ctx)
	t.failures.rest() // the last chance to report errors
	return err
}

// warnings logs export errors, at most one per minute.
type warnings struct {
	logger *slog.Logger

	mu      sync.Mutex
	last    time.Time
	skipped int
	err     error // the last skipped error
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

// rest logs a warning if errors were skipped since the last one.
func (w *warnings) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.skipped > 0 {
		w.skipped-- // err itself is logged
		w.warn(w.err)
	}
}

func (w *warnings) warn(err error) {
	w.logger.Warn(lineNoExport, logError, err, logSkipped, w.skipped)
	w.last, w.skipped = time.Now(), 0
}
