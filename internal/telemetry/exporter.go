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

// newSpanExporter returns the exporter that the standard variables select. Contrib's autoexport
// does the same, but it links exporters of metrics and logs, which add a megabyte to every image.
//
// The exporters read their variables from the process's environment. The options here correct cases
// in which they differ from OpenTelemetry's specification.
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
		case hostPort(collector): // 127.0.0.1:4317 is not a URL
			options = append(options, otlptracegrpc.WithEndpoint(collector))
		case u.Host != "" && u.Scheme != "dns" && u.Scheme != "unix":
			options = append(options, otlptracegrpc.WithEndpointURL(u.String())) // its scheme overrides INSECURE
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
	if !strings.HasPrefix(variable, prefixTraces) { // the variable for traces has the full path
		u.Path = path.Join("/", u.Path, "v1/traces")
	}
	return otlptracehttp.New(ctx, append(options, otlptracehttp.WithEndpointURL(u.String()))...)
}
