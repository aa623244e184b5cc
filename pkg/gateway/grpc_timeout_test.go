package gateway_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// The upstream gets the caller's grpc-timeout, and not the policy's limits: these end with the
// headers of the response, and a server would end a long stream with them.
func TestGRPCTimeoutSentIsTheCallers(t *testing.T) {
	for name, caller := range map[string]time.Duration{"longer than ours": 10 * time.Minute, "none": 0} {
		t.Run(name, func(t *testing.T) {
			left := make(chan time.Duration, 1)
			upstream := grpcServer(t, func(s grpc.ServerStream) error {
				sent := time.Duration(0)
				if deadline, ok := s.Context().Deadline(); ok {
					sent = time.Until(deadline)
				}
				left <- sent
				return grpctest.Echo(func(string) {})(s)
			})
			p := counting()
			p.Timeout, p.AttemptTimeout = time.Minute, time.Minute
			_, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream})
			ctx := t.Context()
			if caller > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, caller)
				defer cancel()
			}
			if err := grpctest.Exchange(ctx, client, 0, 1, -1); err != nil {
				t.Fatal(err)
			}
			if got := <-left; got < caller/2 || got > caller {
				t.Errorf("the upstream has %v left, want about the caller's %v", got, caller)
			}
		})
	}
}
