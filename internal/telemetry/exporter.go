package telemetry

import (
	"cmp"
	"context"
	"net/url"
	"path"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// newSpanExporter makes the exporter that the standard variables name. Contrib's
// autoexport would do the same, but brings exporters of metrics and logs along, a
// megabyte of every image.
//
// The exporters read their variables by themselves, from the process. What is
// said again here is what they would read otherwise than OpenTelemetry's
// specification has it.
func newSpanExporter(ctx context.Context, e environment) (sdktrace.SpanExporter, error) {
	if e.exporter() == exporterConsole {
		return stdouttrace.New()
	}
	variable, collector := e.otlp("ENDPOINT")
	_, compression := e.otlp("COMPRESSION")
	zipped := strings.EqualFold(compression, "gzip")
	if e.protocol() == protocolGRPC {
		var options []otlptracegrpc.Option
		if zipped {
			options = append(options, otlptracegrpc.WithCompressor("gzip"))
		}
		switch u, _ := url.Parse(cmp.Or(collector, "http://localhost:4317")); {
		case hostPort(collector): // 127.0.0.1:4317 is no URL
			options = append(options, otlptracegrpc.WithEndpoint(collector))
		case u.Host != "" && u.Scheme != "dns" && u.Scheme != "unix":
			options = append(options, otlptracegrpc.WithEndpointURL(u.String())) // its scheme counts more than INSECURE
		}
		return otlptracegrpc.New(ctx, options...)
	}
	options := []otlptracehttp.Option{otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf)}
	if e.protocol() == protocolJSON {
		options[0] = otlptracehttp.WithEncoding(otlptracehttp.EncodingJSON)
	}
	if zipped {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	u, err := url.Parse(cmp.Or(collector, "http://localhost:4318"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(variable, prefixTraces) { // which is taken as it is
		u.Path = path.Join("/", u.Path, "v1/traces")
	}
	return otlptracehttp.New(ctx, append(options, otlptracehttp.WithEndpointURL(u.String()))...)
}
