package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/output"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// setenv sets vars for the test and clears all other OTEL_ variables.
func setenv(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for k, v := range vars {
		t.Setenv(k, v)
	}
}

func start(t *testing.T, log *slog.Logger) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), telemetry.Options{Service: "client", Version: "v1", LookupEnv: os.LookupEnv, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func flush(t *testing.T, tel *telemetry.Telemetry, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return tel.Flush(ctx)
}

func TestNothingIsExportedByDefault(t *testing.T) {
	for name, vars := range map[string]map[string]string{
		"nothing set":     {},
		"empty":           {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
		"none":            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		"disabled":        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		"only a sampler":  {"OTEL_TRACES_SAMPLER": "always_on"},
		"only attributes": {"OTEL_RESOURCE_ATTRIBUTES": "a=b"},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, vars)
			tel := start(t, nil)
			h := http.NotFoundHandler()
			_, span := tel.Provider().Tracer("x").Start(t.Context(), "x")
			if tel.Enabled() || span.IsRecording() {
				t.Error("tracing is on, want it off")
			}
			if got := tel.Handler(h); got == nil || !sameFunc(got, h) {
				t.Error("got a wrapped handler, want the original")
			}
			if err := flush(t, tel, time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

func sameFunc(a, b http.Handler) bool {
	w, v := httptest.NewRecorder(), httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	b.ServeHTTP(v, httptest.NewRequest(http.MethodGet, "/", nil))
	_, wrapped := a.(interface{ Unwrap() http.Handler })
	return w.Code == v.Code && !wrapped
}

// collector starts an OTLP collector. bodies returns all request bodies so far.
func collector(t *testing.T) (url string, bodies func() string) {
	t.Helper()
	var all output.Buffer
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = all.Write(b)
	}))
	t.Cleanup(s.Close)
	return s.URL, all.String
}

func TestFlushSendsQueuedSpans(t *testing.T) {
	url, bodies := collector(t)
	setenv(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=pod-1,service.version=v2",
	})
	tel := start(t, nil)
	h := tel.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if !trace.SpanContextFromContext(r.Context()).IsValid() {
			t.Error("got no span in the handler's context, want one")
		}
	}))
	mux := http.NewServeMux()
	mux.Handle("GET /orders/{id}", h)
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/orders/7", nil))
	if err := flush(t, tel, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"GET /orders/{id}", "client", "pod-1", "v2"} {
		if !strings.Contains(bodies(), want) {
			t.Errorf("want %q at the collector, got %q", want, bodies())
		}
	}
}

func TestLogLinesCarryTheTrace(t *testing.T) {
	var b bytes.Buffer
	log := telemetry.NewLogger(&b, slog.LevelInfo).With("component", "x")
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	}))
	log.InfoContext(ctx, "with")
	log.Info("without")
	log.Debug("below the level")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2: %s", len(lines), b.String())
	}
	var with, without map[string]any
	if json.Unmarshal([]byte(lines[0]), &with) != nil || json.Unmarshal([]byte(lines[1]), &without) != nil {
		t.Fatalf("got log %s, want two lines of JSON", b.String())
	}
	if with["trace_id"] != "01000000000000000000000000000000" || with["span_id"] != "0200000000000000" || with["component"] != "x" {
		t.Errorf("got %v, want trace_id, span_id and component", with)
	}
	if _, ok := without["trace_id"]; ok {
		t.Errorf("got %v, want no trace_id", without)
	}
}
