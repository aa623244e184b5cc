package reboundgrpc_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
)

// The server of a unary call gets the smaller of the caller's deadline and our limit, which ends
// the whole call. That of a stream gets the caller's deadline only.
func TestTimeoutSentIsTheSmaller(t *testing.T) {
	const hour = time.Hour
	call := func(ctx context.Context, conn *grpc.ClientConn) error { return unary(ctx, conn) }
	stream := func(ctx context.Context, conn *grpc.ClientConn) error { return grpctest.Exchange(ctx, conn, 0, 1, -1) }
	for name, c := range map[string]struct {
		call               func(ctx context.Context, conn *grpc.ClientConn) error
		caller, ours, want time.Duration // 0 for none
	}{
		"ours":                        {call, hour, 10 * time.Minute, 10 * time.Minute},
		"ours, no deadline":           {call, 0, 10 * time.Minute, 10 * time.Minute},
		"the caller's":                {call, 10 * time.Minute, hour, 10 * time.Minute},
		"a stream's caller's":         {stream, hour, 10 * time.Minute, hour},
		"a stream without a deadline": {stream, 0, 10 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			left := make(chan time.Duration, 1)
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				sent := time.Duration(0)
				if deadline, ok := s.Context().Deadline(); ok {
					sent = time.Until(deadline)
				}
				left <- sent
				return grpctest.Echo(func(string) {})(s)
			})
			p := counting()
			p.Timeout, p.AttemptTimeout = c.ours, c.ours
			ctx := t.Context()
			if c.caller > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.caller)
				defer cancel()
			}
			if err := c.call(ctx, dial(t, address, must(t, p))); err != nil {
				t.Fatal(err)
			}
			if got := <-left; got < c.want/2 || got > c.want {
				t.Errorf("the server has %v left, want about %v", got, c.want)
			}
		})
	}
}
