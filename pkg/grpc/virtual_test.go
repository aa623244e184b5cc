package reboundgrpc_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
)

// A call with 100 ms never takes longer, whatever the server does: here, without a busy machine,
// not a moment. What an attempt leaves of it is what the next one's server sees.
func TestDeadlinesToTheMoment(t *testing.T) {
	const limit = 100 * time.Millisecond
	message := func(s grpc.ServerStream) {
		out := grpctest.Message("hello")
		_ = s.SendMsg(&out)
	}
	for name, c := range map[string]struct {
		serve func(s grpc.ServerStream) error
		ends  bool // the server ends the call itself
	}{
		"no answer": {grpctest.Hang, false},
		"it ignores the deadline": {func(grpc.ServerStream) error {
			time.Sleep(time.Minute)
			return nil
		}, false},
		"after headers": {func(s grpc.ServerStream) error {
			_ = s.SendHeader(nil)
			return grpctest.Hang(s)
		}, false},
		"after a message": {func(s grpc.ServerStream) error {
			message(s)
			return grpctest.Hang(s)
		}, false},
		"unavailable at once": {func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "x") }, true},
		"unavailable, late": {func(grpc.ServerStream) error {
			time.Sleep(limit * 9 / 10)
			return status.Error(codes.Unavailable, "x")
		}, true},
	} {
		for kind, call := range map[string]func(ctx context.Context, conn *grpc.ClientConn) error{
			"unary":           func(ctx context.Context, conn *grpc.ClientConn) error { return unary(ctx, conn) },
			"stream":          func(ctx context.Context, conn *grpc.ClientConn) error { return grpctest.RoundTrip(ctx, conn, false) },
			"stream, message": func(ctx context.Context, conn *grpc.ClientConn) error { return grpctest.RoundTrip(ctx, conn, true) },
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					conn := inMemory(t, func(s grpc.ServerStream) error {
						left := limit - time.Since(start)
						if deadline, ok := s.Context().Deadline(); !ok || time.Until(deadline) > left {
							t.Errorf("the server sees %v left, want at most %v", time.Until(deadline), left)
						}
						return c.serve(s)
					})
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					start = time.Now()
					err := call(ctx, conn)
					took := time.Since(start)
					if code := status.Code(err); code != codes.DeadlineExceeded && (!c.ends || code != codes.Unavailable) {
						t.Errorf("got %v, want DEADLINE_EXCEEDED, or UNAVAILABLE if the server ends the call with it", err)
					}
					if took > limit || !c.ends && took < limit {
						t.Errorf("the call took %v, want %v, or less if the server ends it", took, limit)
					}
				})
			})
		}
	}
}

// inMemory returns a connection in memory, through interceptors, to a server whose methods all run
// h. All of it ends with the test.
func inMemory(t *testing.T, h func(s grpc.ServerStream) error) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	s := grpc.NewServer(grpc.WaitForHandlers(true), grpc.ForceServerCodec(grpctest.Codec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return h(stream) }))
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	i := must(t, counting(), reboundgrpc.WithIdempotent("/test.Test/*"))
	return dial(t, "memory", i, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
}
