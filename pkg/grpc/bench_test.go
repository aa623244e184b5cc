package reboundgrpc_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// BenchmarkUnary is the cost of the interceptor: unary calls one after the other over a connection
// in memory. Three ways take turns in short rounds: grpc-go's own call, the same with a deadline as
// the interceptor sends one, and the interceptor. The figures are medians of the rounds'
// differences to their neighbours, in time and in processor time of the process, which has the
// server too, on one processor core and on two. "alone" is the interceptor around a call that does
// nothing, and "deadline" what it would take to give that call a deadline.
func BenchmarkUnary(b *testing.B) {
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.ForceServerCodec(grpctest.Codec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var m grpctest.Message
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		return stream.SendMsg(&m)
	}))
	go func() { _ = s.Serve(listener) }()
	b.Cleanup(s.Stop)
	connect := func(options ...grpc.DialOption) *grpc.ClientConn {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(grpctest.Codec{})),
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
	withDeadline := func(conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, resilience.DefaultPolicy().AttemptTimeout)
		defer cancel()
		return unary(ctx, conn)
	}
	plain, through := connect(), connect(must(b, resilience.DefaultPolicy()).DialOptions()...)
	ways := []func() error{
		func() error { return unary(ctx, plain) },
		func() error { return withDeadline(plain) },
		func() error { return unary(ctx, through) },
	}
	alone, nothing := must(b, resilience.DefaultPolicy()), func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	single := append(slices.Clip(ways), func() error { return alone.Unary(ctx, "/orders.Orders/Get", nil, nil, nil, nothing) }, func() error {
		_, cancel := context.WithTimeout(ctx, resilience.DefaultPolicy().AttemptTimeout)
		cancel()
		return nil
	})
	for n, name := range []string{"own", "own with deadline", "interceptor", "alone", "deadline"} {
		b.Run(name, func(b *testing.B) { // alone, to count instructions or to profile
			b.ReportAllocs()
			for b.Loop() {
				if err := single[n](); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, cores := range []int{1, 2} {
		b.Run(fmt.Sprintf("difference on %d", cores), func(b *testing.B) {
			// Not by -cpu: with -benchtime 1x its first figures are those of its last number.
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			difference(b, ways)
		})
	}
}

func difference(b *testing.B, ways []func() error) {
	const rounds, calls = 300, 100
	round := func(call func() error) (took, cpu time.Duration) {
		start, used := time.Now(), processorTime(b)
		for range calls {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start) / calls, (processorTime(b) - used) / calls
	}
	var own, overOwn, overDeadline, overOwnCPU, overDeadlineCPU []time.Duration
	for b.Loop() {
		for n := range rounds {
			var took, cpu [3]time.Duration
			for i := range ways {
				way := (i + n) % len(ways)
				took[way], cpu[way] = round(ways[way])
			}
			own = append(own, took[0])
			overOwn, overDeadline = append(overOwn, took[2]-took[0]), append(overDeadline, took[2]-took[1])
			overOwnCPU, overDeadlineCPU = append(overOwnCPU, cpu[2]-cpu[0]), append(overDeadlineCPU, cpu[2]-cpu[1])
		}
	}
	for name, d := range map[string][]time.Duration{
		"µs/own-call": own, "µs-more": overOwn, "µs-more-than-with-deadline": overDeadline,
		"µs-cpu-more": overOwnCPU, "µs-cpu-more-than-with-deadline": overDeadlineCPU,
	} {
		b.ReportMetric(float64(median(d))/1e3, name)
	}
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
