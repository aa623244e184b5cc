package telemetry

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// sampled starts the span of each request. Only requests whose span is recorded go through
// otelhttp, which is dear: it makes all attributes, and wraps request and response, before it knows
// whether anybody wants them. The samplers look at the trace alone, and not at attributes.
type sampled struct {
	tracer         trace.Tracer
	propagator     propagation.TextMapPropagator
	plain, through http.Handler
}

// ServeHTTP implements http.Handler.
func (s *sampled) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := s.propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := s.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	if span.IsRecording() {
		s.through.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), startedKey{}, span)))
		return
	}
	s.plain.ServeHTTP(w, r.WithContext(ctx))
}

type startedKey struct{}

// startedProvider is a provider for otelhttp, whose tracer returns the span that sampled has
// started.
type startedProvider struct {
	embedded.TracerProvider
	next trace.TracerProvider
}

func (p startedProvider) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return startedTracer{next: p.next.Tracer(name, options...)}
}

type startedTracer struct {
	embedded.Tracer
	next trace.Tracer
}

func (t startedTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	span, ok := ctx.Value(startedKey{}).(trace.Span)
	if !ok {
		return t.next.Start(ctx, name, options...)
	}
	span.SetName(name)
	c := trace.NewSpanStartConfig(options...)
	span.SetAttributes(c.Attributes()...)
	return trace.ContextWithSpan(ctx, span), span
}
