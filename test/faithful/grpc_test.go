package faithful_test

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// attemptCounter counts the attempts of a client of gRPC.
type attemptCounter struct{ begun, sent atomic.Int64 }

func (*attemptCounter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (a *attemptCounter) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin:
		a.begun.Add(1)
	case *stats.OutHeader:
		a.sent.Add(1)
	}
}

func (*attemptCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (*attemptCounter) HandleConn(context.Context, stats.ConnStats) {}

func grpcGo() thing {
	return thing{
		name: "grpc-go", version: moduleVersion("google.golang.org/grpc"), cells: grpcCells(),
		start: func(t *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			text := render(t, "grpc.json", setup{Lines: c.lines, Server: c.server})
			counter := &attemptCounter{}
			conn, err := grpc.NewClient("passthrough:///"+u.servers[0],
				grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(string(text)), grpc.WithStatsHandler(counter))
			if err != nil {
				t.Fatal(err)
			}
			return imported(t, foreign.GRPC, "grpc.json", text), peer{
				call: func(string) bool {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					return conn.Invoke(ctx, "/demo.Orders/Place", &emptypb.Empty{}, &emptypb.Empty{}) == nil
				},
				end: func(calls int) int {
					_ = conn.Close()
					if c.dead == 0 {
						return 0
					}
					// A retry after an attempt without a connection is begun twice, and made once.
					return (int(counter.begun.Load()-counter.sent.Load()) + calls) / 2
				},
			}
		},
	}
}
