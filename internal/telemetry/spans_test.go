package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// A request that is sampled out goes to the handler as it came, with a span that is not recorded in
// the trace of its caller. One that is sampled gets a span that is recorded, in the same trace.
func TestHandlerSamples(t *testing.T) {
	const parent = "4bf92f3577b34da6a3ce929d0e0e4736"
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer collector.Close()
	setenv(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
	tel := start(t, nil)
	defer func() { _ = flush(t, tel, 5*time.Second) }()
	for flags, sampled := range map[string]bool{"00": false, "01": true} {
		w := httptest.NewRecorder()
		var got trace.SpanContext
		var recorded, wrapped bool
		h := tel.Handler(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
			span := trace.SpanFromContext(r.Context())
			got, recorded, wrapped = span.SpanContext(), span.IsRecording(), to != http.ResponseWriter(w)
		}))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Traceparent", "00-"+parent+"-00f067aa0ba902b7-"+flags)
		h.ServeHTTP(w, r)
		if recorded != sampled || wrapped != sampled || got.TraceID().String() != parent || got.SpanID().String() == "00f067aa0ba902b7" {
			t.Errorf("flags %s: got a recorded span: %v, a wrapped answer: %v, span %v; want %v, and a span of its own in the caller's trace", flags, recorded, wrapped, got, sampled)
		}
	}
}
