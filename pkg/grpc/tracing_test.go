package reboundgrpc_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// tree draws spans below their parents, without what differs between runs.
func tree(all tracetest.SpanStubs, address string) []string {
	var lines []string
	var draw func(parent trace.SpanID, indent string)
	draw = func(parent trace.SpanID, indent string) {
		children := slices.DeleteFunc(slices.Clone(all), func(s tracetest.SpanStub) bool { return s.Parent.SpanID() != parent })
		slices.SortStableFunc(children, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
		for _, s := range children {
			line := fmt.Sprintf("%s%s %s", indent, s.Name, s.SpanKind)
			if s.Status.Code == otelcodes.Error {
				line += " failed"
			}
			attributes := slices.DeleteFunc(slices.Clone(s.Attributes), func(a attribute.KeyValue) bool {
				return slices.Contains([]attribute.Key{"rebound.deadline.remaining_ms", "rebound.budget.tokens", "server.port", "network.peer.port"}, a.Key)
			})
			set := attribute.NewSet(attributes...)
			line += " " + strings.ReplaceAll(set.Encoded(attribute.DefaultEncoder()), address, "ADDRESS")
			for _, e := range s.Events {
				set := attribute.NewSet(e.Attributes...)
				line += " * " + e.Name + " " + set.Encoded(attribute.DefaultEncoder())
			}
			lines = append(lines, line)
			draw(s.SpanContext.SpanID(), indent+"  ")
		}
	}
	draw(trace.SpanID{}, "")
	return lines
}

// A trace shows every attempt and every wait with its reason, and a measurement of each attempt has
// the same method, status and error.
func TestTracesAndMetrics(t *testing.T) {
	const (
		of       = "network.peer.address=127.0.0.1,rebound.attempt=%d,rebound.breaker.state=closed,rebound.reason=%s,rebound.verdict=%s,"
		rpc      = "rpc.method=test.Test/Call,rpc.response.status_code=%s,rpc.system.name=grpc,server.address=127.0.0.1"
		call     = "rebound.attempts=%d,rebound.policy=default,rebound.reason=%s,rebound.upstream=passthrough:///ADDRESS"
		backoff  = "  backoff internal rebound.backoff.planned_ms=1,rebound.backoff.source=jitter,rebound.reason=%s"
		measured = "rpc.method=%s,rpc.response.status_code=%s,rpc.system.name=grpc,server.address=127.0.0.1"
	)
	for name, c := range map[string]struct {
		serve   func(s grpc.ServerStream, attempt int64) error
		change  func(p *resilience.Policy)
		call    func(conn *grpc.ClientConn) error
		spans   []string
		metrics map[string]uint64
	}{
		"unary, fails once": {
			serve: func(s grpc.ServerStream, attempt int64) error {
				if attempt == 1 {
					return status.Error(codes.Unavailable, "x")
				}
				return echoOnce(s)
			},
			call: func(conn *grpc.ClientConn) error { return unary(t.Context(), conn, grpc.StaticMethod()) },
			spans: []string{
				"resilience internal " + fmt.Sprintf(call, 2, "ok"),
				"  test.Test/Call client failed error.type=UNAVAILABLE," + fmt.Sprintf(of, 1, "grpc_unavailable", "retry") + fmt.Sprintf(rpc, "UNAVAILABLE"),
				fmt.Sprintf(backoff, "grpc_unavailable"),
				"  test.Test/Call client " + fmt.Sprintf(of, 2, "ok", "return") + fmt.Sprintf(rpc, "OK"),
			},
			metrics: map[string]uint64{
				"error.type=UNAVAILABLE," + fmt.Sprintf(measured, "test.Test/Call", "UNAVAILABLE"): 1,
				fmt.Sprintf(measured, "test.Test/Call", "OK"):                                      1,
			},
		},
		"a method that no generated code knows": {
			serve: func(s grpc.ServerStream, _ int64) error { return echoOnce(s) },
			call:  func(conn *grpc.ClientConn) error { return unary(t.Context(), conn) },
			spans: []string{
				"resilience internal " + fmt.Sprintf(call, 1, "ok"),
				"  grpc client " + fmt.Sprintf(of, 1, "ok", "return") + "rpc.method=_OTHER,rpc.method_original=test.Test/Call,rpc.response.status_code=OK,rpc.system.name=grpc,server.address=127.0.0.1",
			},
			metrics: map[string]uint64{fmt.Sprintf(measured, "_OTHER", "OK"): 1},
		},
		"an attempt times out": {
			serve:  func(s grpc.ServerStream, _ int64) error { return grpctest.Hang(s) },
			change: func(p *resilience.Policy) { p.AttemptTimeout, p.Retry.MaxAttempts = time.Second, 1 },
			call:   func(conn *grpc.ClientConn) error { return unary(t.Context(), conn, grpc.StaticMethod()) },
			spans: []string{
				"resilience internal failed " + fmt.Sprintf(call, 1, "max_attempts"),
				"  test.Test/Call client failed error.type=attempt_timeout," + fmt.Sprintf(of, 1, "attempt_timeout", "give_up") + fmt.Sprintf(rpc, "DEADLINE_EXCEEDED"),
			},
			metrics: map[string]uint64{"error.type=attempt_timeout," + fmt.Sprintf(measured, "test.Test/Call", "DEADLINE_EXCEEDED"): 1},
		},
		"a stream that breaks off": {
			serve: func(s grpc.ServerStream, _ int64) error {
				_ = echoOnce(s)
				return status.Error(codes.DataLoss, "x")
			},
			call: func(conn *grpc.ClientConn) error {
				s, err := conn.NewStream(t.Context(), grpctest.Bidi(), method, grpc.StaticMethod())
				if err != nil {
					return err
				}
				out, in := grpctest.Message("hello"), grpctest.Message(nil)
				_ = s.SendMsg(&out)
				_ = s.RecvMsg(&in)
				return s.RecvMsg(&in)
			},
			spans: []string{
				"resilience internal failed " + fmt.Sprintf(call, 1, "grpc_data_loss"),
				"  test.Test/Call client failed error.type=DATA_LOSS," + fmt.Sprintf(of, 1, "grpc_data_loss", "return") + fmt.Sprintf(rpc, "DATA_LOSS"),
			},
			metrics: map[string]uint64{"error.type=DATA_LOSS," + fmt.Sprintf(measured, "test.Test/Call", "DATA_LOSS"): 1},
		},
		"refused": {
			serve: func(s grpc.ServerStream, _ int64) error { return echoOnce(s) },
			change: func(p *resilience.Policy) {
				p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.01, Burst: 1}
			},
			call: func(conn *grpc.ClientConn) error {
				if err := unary(t.Context(), conn, grpc.StaticMethod()); err != nil {
					return err
				}
				return unary(t.Context(), conn, grpc.StaticMethod())
			},
			spans: []string{
				"resilience internal " + fmt.Sprintf(call, 1, "ok"),
				"  test.Test/Call client " + fmt.Sprintf(of, 1, "ok", "return") + fmt.Sprintf(rpc, "OK"),
				"resilience internal failed " + fmt.Sprintf(call, 0, "rate_limited"),
			},
			metrics: map[string]uint64{fmt.Sprintf(measured, "test.Test/Call", "OK"): 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int64
			var mu sync.Mutex
			var parents []string
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				mu.Lock()
				parents = append(parents, grpctest.Value(s, "traceparent"))
				mu.Unlock()
				return c.serve(s, attempts.Add(1))
			})
			p := counting()
			if c.change != nil {
				c.change(&p)
			}
			provider, recorded := spans.Record()
			reader := sdkmetric.NewManualReader()
			i := must(t, p, reboundgrpc.WithIdempotent(method), reboundgrpc.WithTracing(provider, propagation.TraceContext{}, "default"),
				reboundgrpc.WithMetrics(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
			_ = c.call(grpctest.Connect(t, dial(t, address, i)))
			var got []string
			for n := 0; n < 2000 && len(got) < len(c.spans); n++ { // the end of a stream may come a moment later
				got = tree(recorded.GetSpans(), address)
				time.Sleep(10 * time.Millisecond)
			}
			if !slices.Equal(got, c.spans) {
				t.Errorf("got spans\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.spans, "\n"))
			}
			page, err := os.ReadFile("../../docs/observability.md")
			if err != nil {
				t.Fatal(err)
			}
			var sent []string
			for _, s := range recorded.GetSpans() {
				for _, a := range s.Attributes {
					if strings.HasPrefix(string(a.Key), "rebound.") && !strings.Contains(string(page), "`"+string(a.Key)+"`") {
						t.Errorf("docs/observability.md does not describe %s", a.Key)
					}
				}
				if s.SpanKind == trace.SpanKindClient {
					sent = append(sent, fmt.Sprintf("00-%s-%s-01", s.SpanContext.TraceID(), s.SpanContext.SpanID()))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if slices.Sort(sent); !slices.Equal(slices.Sorted(slices.Values(parents)), sent) {
				t.Errorf("the server got the contexts %v, want those of the attempts %v", parents, sent)
			}
			if got := measurements(t, reader); fmt.Sprint(got) != fmt.Sprint(c.metrics) {
				t.Errorf("got measurements %v, want %v", got, c.metrics)
			}
		})
	}
}

func echoOnce(s grpc.ServerStream) error {
	var m grpctest.Message
	if err := s.RecvMsg(&m); err != nil {
		return err
	}
	return s.SendMsg(&m)
}

// measurements returns how often rpc.client.call.duration was recorded, by attributes.
func measurements(t *testing.T, reader sdkmetric.Reader) map[string]uint64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != "rpc.client.call.duration" || m.Unit != "s" {
				t.Errorf("got metric %s in %s, want rpc.client.call.duration in s", m.Name, m.Unit)
				continue
			}
			for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
				attributes := slices.DeleteFunc(p.Attributes.ToSlice(), func(a attribute.KeyValue) bool { return a.Key == "server.port" })
				set := attribute.NewSet(attributes...)
				got[set.Encoded(attribute.DefaultEncoder())] = p.Count
				if p.Sum <= 0 || p.Sum > 60 {
					t.Errorf("the durations of %v add up to %v s", attributes, p.Sum)
				}
			}
		}
	}
	return got
}
