package reboundgrpc_test

import (
	"context"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// BenchmarkUnary is the cost of the interceptor: unary calls one after the other over a connection
// in memory, with and without it, in rounds that take turns. The figures are medians of the rounds'
// differences, in time and in processor time of the process, which has the server too.
func BenchmarkUnary(b *testing.B) {
	const rounds, calls = 101, 500
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var m raw
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		return stream.SendMsg(&m)
	}))
	go func() { _ = s.Serve(listener) }()
	b.Cleanup(s.Stop)
	connect := func(options ...grpc.DialOption) *grpc.ClientConn {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		conn, err := grpc.NewClient("passthrough:memory", options...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	ctx, cancel := context.WithCancel(context.Background()) // one that can end, as a server's
	defer cancel()
	round := func(conn *grpc.ClientConn) (took, cpu time.Duration) {
		start, used := time.Now(), processorTime(b)
		for range calls {
			if err := unary(ctx, conn); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start) / calls, (processorTime(b) - used) / calls
	}
	plain, through := connect(), connect(must(b, resilience.DefaultPolicy()).DialOptions()...)
	round(plain)
	round(through)
	var times, more, moreCPU []time.Duration
	for b.Loop() {
		for n := range rounds {
			first, second := plain, through
			if n%2 == 1 {
				first, second = through, plain
			}
			t1, c1 := round(first)
			t2, c2 := round(second)
			if n%2 == 1 {
				t1, t2, c1, c2 = t2, t1, c2, c1
			}
			times, more, moreCPU = append(times, t1), append(more, t2-t1), append(moreCPU, c2-c1)
		}
	}
	b.ReportMetric(float64(median(times))/1e3, "µs/plain-call")
	b.ReportMetric(float64(median(more))/1e3, "µs-more")
	b.ReportMetric(float64(median(moreCPU))/1e3, "µs-processor-time-more")
	b.ReportMetric(testing.AllocsPerRun(1000, func() { _ = unary(ctx, through) })-testing.AllocsPerRun(1000, func() { _ = unary(ctx, plain) }), "allocs-more")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
