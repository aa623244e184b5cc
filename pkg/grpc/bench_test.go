package reboundgrpc_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// BenchmarkUnary is the cost of the interceptor: unary calls over a connection in memory. Three
// ways take turns in short rounds: grpc-go's own call, the same with a deadline as the interceptor
// sends one, and the interceptor. The figures are medians of the rounds' differences to their
// neighbours, in time and in processor time of the process, which has the server too: with one
// caller on one processor core and on two, and with 16 callers on two, each with one call after the
// other. A round's time counts once, however many callers share it. "alone" is the interceptor
// around a call that does nothing, and "deadline" what it would take to give that call a deadline.
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
	for _, c := range []struct{ cores, callers, rounds int }{{1, 1, 300}, {2, 1, 300}, {2, 16, 60}} {
		name := fmt.Sprintf("difference on %d", c.cores)
		if c.callers > 1 {
			name += fmt.Sprintf(", %d callers", c.callers)
		}
		b.Run(name, func(b *testing.B) {
			// Not by -cpu: with -benchtime 1x its first figures are those of its last number.
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(c.cores))
			difference(b, ways, c.callers, c.rounds)
		})
	}
}

func difference(b *testing.B, ways []func() error, callers, rounds int) {
	const callsEach = 100
	calls := time.Duration(callers * callsEach)
	round := func(call func() error) (took, cpu time.Duration) {
		start, used := time.Now(), processorTime(b)
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range callsEach {
					if err := call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		if b.Failed() {
			b.FailNow()
		}
		return time.Since(start) / calls, (processorTime(b) - used) / calls
	}
	var own, ownCPU, overOwn, overDeadline, overOwnCPU, overDeadlineCPU []time.Duration
	for b.Loop() {
		for n := range rounds {
			var took, cpu [3]time.Duration
			for i := range ways {
				way := (i + n) % len(ways)
				took[way], cpu[way] = round(ways[way])
			}
			own, ownCPU = append(own, took[0]), append(ownCPU, cpu[0])
			overOwn, overDeadline = append(overOwn, took[2]-took[0]), append(overDeadline, took[2]-took[1])
			overOwnCPU, overDeadlineCPU = append(overOwnCPU, cpu[2]-cpu[0]), append(overDeadlineCPU, cpu[2]-cpu[1])
		}
	}
	for name, d := range map[string][]time.Duration{
		"µs/own-call": own, "µs-cpu/own-call": ownCPU, "µs-more": overOwn, "µs-more-than-with-deadline": overDeadline,
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
