package bench_test

import (
	"fmt"
	"slices"
	"strings"

	pprof "github.com/google/pprof/profile"
)

// The parts of a proxy's work, as the columns of the table in docs/benchmarks.md.
const (
	partServer    = "net/http's server"
	partUpstream  = "net/http to the upstream"
	partPool      = "endpoints and connections"
	partPipeline  = "pipeline"
	partGateway   = "gateway or httputil"
	partLog       = "log"
	partPage      = "live page"
	partMetrics   = "metrics"
	partTracing   = "tracing"
	partGarbage   = "garbage collection"
	partScheduler = "scheduler and rest"
)

var columns = []string{ //nolint:gochecknoglobals // a table
	partServer, partUpstream, partPool, partPipeline, partGateway, partLog, partPage, partMetrics, partTracing, partGarbage, partScheduler,
}

// parts says what the time below a function is spent on. The innermost function of a sample that
// one of them matches decides, and of several that match it, the first. Functions that both sides
// of a proxy use, as those of headers, match none.
var parts = []struct{ begins, part string }{ //nolint:gochecknoglobals // a table
	{"runtime.gcBgMarkWorker", partGarbage},
	{"runtime.gcAssistAlloc", partGarbage},
	{"runtime.bgsweep", partGarbage},
	{"runtime.bgscavenge", partGarbage},
	{"runtime.gcStart", partGarbage},

	{"net/http.(*conn)", partServer},
	{"net/http.(*connReader)", partServer},
	{"net/http.(*response)", partServer},
	{"net/http.(*chunkWriter)", partServer},
	{"net/http.checkConnErrorWriter", partServer},
	{"net/http.(*Server)", partServer},
	{"net/http.readRequest", partServer},
	{"net/http.http2handler", partServer},
	{"net/http.(*http2serverConn)", partServer},
	{"net/http.(*http2responseWriter", partServer},
	{"net/http.(*http2writeRes", partServer},
	{"net/http.(*http2requestBody", partServer},

	{"net/http.(*Transport)", partUpstream},
	{"net/http.(*persistConn)", partUpstream},
	{"net/http.persistConnWriter", partUpstream},
	{"net/http.(*bodyEOFSignal)", partUpstream},
	{"net/http.(*body)", partUpstream},
	{"net/http.(*wantConn", partUpstream},
	{"net/http.(*ClientConn)", partUpstream},
	{"net/http.ReadResponse", partUpstream},
	{"net/http.(*Request).write", partUpstream},
	{"net/http.(*Request).Write", partUpstream},
	{"net/http.(*http2Transport)", partUpstream},
	{"net/http.(*http2ClientConn)", partUpstream},
	{"net/http.(*http2clientStream)", partUpstream},
	{"net/http.(*http2clientConn", partUpstream},
	{"net/http.http2transportResponseBody", partUpstream},
	{"net/http.(*http2stickyErrWriter)", partUpstream},
	{"net/http.http2stickyErrWriter", partUpstream},
	{rebound + "internal/connpool.(*wire)", partUpstream},
	{rebound + "internal/connpool.(*exchange)", partUpstream},
	{rebound + "internal/connpool.(*direct", partUpstream},
	{rebound + "internal/connpool", partPool},
	{rebound + "pkg/endpoint", partPool},

	{rebound + "pkg/resilience", partPipeline},
	{rebound + "pkg/transport", partPipeline},
	{rebound + "pkg/gateway.logObserver", partLog},
	{rebound + "pkg/gateway", partGateway},
	{rebound + "internal/serve", partGateway},
	{"net/http/httputil", partGateway},
	{rebound + "internal/live", partPage},
	{rebound + "internal/page", partPage},
	{rebound + "internal/telemetry.(*Metrics)", partMetrics},
	{rebound + "internal/telemetry.(*counter", partMetrics},
	{rebound + "internal/telemetry.(*histogram", partMetrics},
	{rebound + "internal/telemetry.(*table", partMetrics},
	{rebound + "internal/telemetry.(*collector", partMetrics},
	{rebound + "internal/telemetry.(*quick", partLog},
	{rebound + "internal/telemetry.(*line", partLog},
	{rebound + "internal/telemetry.(*through", partLog},
	{rebound + "internal/telemetry.append", partLog},
	{rebound + "internal/telemetry.newLine", partLog},
	{rebound + "internal/telemetry", partTracing},
	{"log/slog", partLog},
	{"go.opentelemetry.io/otel/metric", partMetrics},
	{"go.opentelemetry.io/otel/sdk/metric", partMetrics},
	{"github.com/prometheus", partMetrics},
	{"go.opentelemetry.io", partTracing},
}

const rebound = "github.com/rebound-dev/rebound/"

// partOf returns the part of a sample's stack.
func partOf(s *pprof.Sample) string {
	for _, at := range s.Location {
		for _, line := range at.Line {
			for _, p := range parts {
				if strings.HasPrefix(line.Function.Name, p.begins) {
					return p.part
				}
			}
		}
	}
	return partScheduler
}

// microseconds returns the cells of a row: how much of price, the time of a call in µs, each part
// takes.
func microseconds(p *pprof.Profile, price float64) string {
	value := slices.IndexFunc(p.SampleType, func(t *pprof.ValueType) bool { return t.Type == "cpu" })
	spent, all := map[string]int64{}, int64(0)
	for _, s := range p.Sample {
		spent[partOf(s)] += s.Value[value]
		all += s.Value[value]
	}
	var row strings.Builder
	for _, part := range columns {
		fmt.Fprintf(&row, " %.1f |", price*float64(spent[part])/float64(max(all, 1)))
	}
	return row.String()
}
