package bench_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// message is a gRPC message as bytes, without a schema.
type message []byte

type messageCodec struct{}

func (messageCodec) Name() string { return "message" }

func (messageCodec) Marshal(v any) ([]byte, error) { return *v.(*message), nil }

func (messageCodec) Unmarshal(data []byte, v any) error {
	*v.(*message) = append(message(nil), data...)
	return nil
}

// BenchmarkGRPC compares the processor time of a unary gRPC call through the gateway with that
// through httputil's plain proxy. Both take and send HTTP/2 without TLS, and serve the same calls
// in turns.
func BenchmarkGRPC(b *testing.B) {
	const callers, rounds, calls = 16, 41, 1600
	upstream := "h2c://" + serveEcho(b)
	proxies := map[string]*proxyProcess{}
	clients := map[string]*grpc.ClientConn{}
	for _, kind := range []string{"rebound", "plain", "client"} {
		proxies[kind] = startProxy(b, kind, upstream)
		conn, err := grpc.NewClient("passthrough:"+strings.TrimPrefix(proxies[kind].url, "http://"),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(messageCodec{})))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		clients[kind] = conn
	}
	load := func(kind string) {
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range calls / callers {
					if err := echo(b.Context(), clients[kind]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	per := func(kind string) float64 {
		before := proxies[kind].used(b)
		load(kind)
		return float64(proxies[kind].used(b)-before) / float64(calls/callers*callers) / 1000
	}
	for kind := range proxies {
		load(kind)
	}
	for b.Loop() {
		got := map[string][]float64{}
		for range rounds {
			for _, kind := range []string{"rebound", "plain", "client"} {
				got[kind] = append(got[kind], per(kind))
			}
		}
		ratio := func(kind string) float64 {
			var ratios []float64
			for i, plain := range got["plain"] {
				ratios = append(ratios, got[kind][i]/plain)
			}
			return median(ratios)
		}
		b.ReportMetric(ratio("rebound"), "cpu-ratio")
		b.ReportMetric(ratio("client"), "client-cpu-ratio")
		b.ReportMetric(median(got["rebound"]), "rebound-cpu-µs/call")
		b.ReportMetric(median(got["plain"]), "plain-cpu-µs/call")
	}
}

// serveEcho starts a gRPC server that answers each message with itself.
func serveEcho(b *testing.B) (address string) {
	s := grpc.NewServer(grpc.ForceServerCodec(messageCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var m message
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		return stream.SendMsg(&m)
	}))
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	b.Cleanup(s.Stop)
	return l.Addr().String()
}

func echo(ctx context.Context, client *grpc.ClientConn) error {
	out, in := make(message, 128), message(nil)
	if err := client.Invoke(ctx, "/orders.Orders/Echo", &out, &in); err != nil {
		return err
	}
	if len(in) != len(out) {
		return fmt.Errorf("got %d bytes, want %d", len(in), len(out))
	}
	return nil
}
