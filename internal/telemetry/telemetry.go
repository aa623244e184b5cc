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

// Options are what [Start] needs.
type Options struct {
	// Service and Version describe the program; OTEL_SERVICE_NAME and
	// OTEL_RESOURCE_ATTRIBUTES say it better where they are set.
	Service, Version string
	// LookupEnv has the variables. The exporters then read the process's
	// environment by themselves.
	LookupEnv func(string) (string, bool)
	// Environ is all of the environment, as [os.Environ] has it: one warning names
	// the variables of OpenTelemetry's that have no effect. Nil for no warning.
	Environ func() []string
	// Logger gets that, and a warning, once a minute at most, when spans cannot be
	// exported.
	Logger *slog.Logger
}

// Telemetry is a program's tracing. It is safe for concurrent use.
type Telemetry struct {
	provider   trace.TracerProvider
	sdk        *sdktrace.TracerProvider // nil when nothing is exported
	propagator propagation.TextMapPropagator
	failures   *warnings // of the export
}

// Start sets tracing up. A variable with a value that cannot be, or an exporter
// that cannot be made, is an error; an exporter whose collector is away is not.
//
// It sets OpenTelemetry's global error handler, which is the only way to hear of
// an export that failed, and its global logger.
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
		return nil, err // not after check
	}
	t := &Telemetry{provider: tracenoop.NewTracerProvider(), propagator: propagator}
	if env.exporter() == none {
		return t, nil
	}
	t.failures = &warnings{logger: o.Logger}
	var beginning errorList
	otel.SetErrorHandler(&beginning)
	defer otel.SetErrorHandler(t.failures)
	otel.SetLogger(logr.Discard()) // it would complain of 127.0.0.1:4317, which is no URL
	defer otel.SetLogger(logr.FromSlogHandler(errorsOnly{o.Logger.Handler()}))
	exporter, err := newSpanExporter(ctx, env)
	if err != nil {
		return nil, fmt.Errorf("exporting traces: %w", err)
	}
	// The later option wins: what the environment says of the service.
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(o.Service), semconv.ServiceVersion(o.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrSchemaURLConflict) {
		return nil, fmt.Errorf("describing the service: %w", err)
	}
	// The batch has a bounded queue and drops what does not fit: a collector that
	// is slow or away costs neither time nor memory.
	t.sdk = sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	t.provider = t.sdk
	if err := beginning.join(); err != nil { // of a variable whose values we do not know
		return nil, errors.Join(fmt.Errorf("setting up traces: %w", err), t.sdk.Shutdown(ctx))
	}
	return t, nil
}

// errorList keeps the errors that are handed to it. It is safe for concurrent use.
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

// Enabled tells whether spans are made.
func (t *Telemetry) Enabled() bool { return t.sdk != nil }

// Provider gives tracers; they do nothing when nothing is exported.
func (t *Telemetry) Provider() trace.TracerProvider { return t.provider }

// Propagator carries trace context and baggage, in W3C's headers unless
// OTEL_PROPAGATORS names others.
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
			method := r.Method
			if knownMethod(method) != method {
				method = "HTTP" // as the semantic conventions have it: a stranger could make many names
			}
			if r.Pattern == "" {
				return method // a path would make as many names as there are paths
			}
			if _, path, ok := strings.Cut(r.Pattern, " "); ok {
				return method + " " + path
			}
			return method + " " + r.Pattern
		}))
}

// KeyFault is on flaky-server's spans.
const KeyFault attribute.Key = "rebound.fault" // the [faults.Fault]

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
	w.logger.Warn(lineNoExport, logError, err, logSkipped, w.skipped)
	w.last, w.skipped = time.Now(), 0
}
