package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/flaky/flakypb"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// demo is the demo's client in front of its flaky-server, as its file configures it, on real
// connections.
type demo struct {
	conn   *grpc.ClientConn
	client flakypb.FlakyClient
	ready  *serve.Readiness
	admin  string // URL of flaky-server's admin port
}

// ledger is the part of flaky-server's ledger that these tests read.
type ledger struct {
	Received uint64
	Effects  []struct{ Applied, Attempts int }
}

func (d demo) ledger(t *testing.T) (l ledger) {
	t.Helper()
	_, text := fetch.Get(t, d.admin+"/ledger")
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

func newDemo(t *testing.T, spec faults.Spec) demo {
	t.Helper()
	old := goleak.IgnoreCurrent()
	t.Cleanup(func() { leaks.None(t, old) })
	injector, err := faults.New(spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	ready, logger := serve.NewReadiness(), slog.New(slog.DiscardHandler)
	upstream, err := flakyapp.New(t.Context(), silentProgram("flaky-server"), injector, "demo", ready, logger)
	if err != nil {
		t.Fatal(err)
	}
	data, dataAddr, err := serve.Open(t.Context(), serve.Listener{Name: "data", Addr: "127.0.0.1:0", Handler: upstream.Data})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("../../cmd/demo/rebound.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.DefaultConfig()
	if err := config.Decode("rebound.yaml", []byte(strings.ReplaceAll(string(file), "127.0.0.1:5000", dataAddr.String())), &cfg); err != nil {
		t.Fatal(err)
	}
	for name, policy := range cfg.Policies {
		policy.Timeout, policy.AttemptTimeout = time.Minute, time.Minute // on a busy machine a call is long
		cfg.Policies[name] = policy
	}
	client, err := app.NewClient(t.Context(), silentProgram("client"), cfg, ready, logger, app.LivePage{})
	if err != nil {
		t.Fatal(err)
	}
	front, frontAddr, err := serve.Open(t.Context(), serve.Listener{Name: "client", Addr: "127.0.0.1:0", Handler: client.Data, Drained: client.CloseIdleConnections})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:"+frontAddr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	admin := httptest.NewServer(upstream.Admin)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended, up := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- serve.Run(ctx, serve.Config{
			Data: []serve.Listener{front, data}, DrainTimeout: func() time.Duration { return 10 * time.Second }, FlushTimeout: time.Second,
			Flush: func(ctx context.Context) error { return errors.Join(client.Flush(ctx), upstream.Flush(ctx)) },
		}, ready, func(map[string]net.Addr) { close(up) })
	}()
	<-up
	t.Cleanup(func() {
		_ = conn.Close()
		upstream.Stop()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		admin.Close()
	})
	return demo{conn, flakypb.NewFlakyClient(conn), ready, admin.URL}
}

// Every fault over gRPC, through the gateway as the demo configures it: the attempts that the
// upstream counted, and what the caller got.
func TestGRPCFaultsThroughTheGateway(t *testing.T) {
	const own = "injected fault: error"
	type want struct {
		code     codes.Code
		text     string
		attempts uint64
		messages int // of a stream
	}
	once := func(code codes.Code, text string) want { return want{code, text, 1, 0} }
	for name, tt := range map[string]struct {
		spec                  faults.Spec
		process, order, count want // Process may be repeated, and the others not
	}{
		"none":       {faults.Spec{}, want{codes.OK, "", 1, 0}, want{codes.OK, "", 1, 0}, want{codes.OK, "", 1, 10}},
		"error":      {faults.Spec{ErrorRate: 1}, want{codes.Unavailable, own, 5, 0}, once(codes.Unavailable, own), once(codes.Unavailable, own)},
		"other code": {faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{Codes: []string{"ABORTED"}}}, once(codes.Aborted, own), once(codes.Aborted, own), once(codes.Aborted, own)},
		"statuses":   {faults.Spec{ErrorRate: 1, Statuses: []int{401}}, once(codes.Unauthenticated, own), once(codes.Unauthenticated, own), once(codes.Unauthenticated, own)},
		"after headers": {
			faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterHeaders}},
			once(codes.Unavailable, own), once(codes.Unavailable, own), once(codes.Unavailable, own),
		},
		"after messages": {
			faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterMessage, Messages: 3}},
			once(codes.Unavailable, own), once(codes.Unavailable, own), want{codes.Unavailable, own, 1, 3},
		},
		"pushback": {
			faults.Spec{FailFirst: 1, GRPC: faults.GRPC{Codes: []string{"RESOURCE_EXHAUSTED"}, Pushback: "1ms"}},
			want{codes.OK, "", 2, 0}, want{codes.OK, "", 2, 0}, want{codes.OK, "", 2, 10},
		},
		"stop": {
			faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{Pushback: "stop"}},
			once(codes.Unavailable, own), once(codes.Unavailable, own), once(codes.Unavailable, own),
		},
		"fail first": {faults.Spec{FailFirst: 2}, want{codes.OK, "", 3, 0}, once(codes.Unavailable, own), once(codes.Unavailable, own)},
		"truncate": {
			faults.Spec{TruncateRate: 1, GRPC: faults.GRPC{Messages: 3}},
			once(codes.Internal, ""), once(codes.Internal, ""), want{codes.Internal, "", 1, 3},
		},
		"reset": {faults.Spec{ResetRate: 1}, want{codes.Unavailable, "reset_before_headers", 5, 0}, once(codes.Unavailable, ""), once(codes.Unavailable, "")},
		"connection": {
			faults.Spec{ResetRate: 1, GRPC: faults.GRPC{Break: faults.BreakConnection}},
			want{codes.Unavailable, "", 5, 0}, once(codes.Unavailable, ""), once(codes.Unavailable, ""),
		},
		"no status": {
			faults.Spec{ResetRate: 1, GRPC: faults.GRPC{Break: faults.BreakEnd}},
			once(codes.Unknown, ""), once(codes.Unknown, ""), once(codes.Unknown, ""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			for method, want := range map[string]want{"Process": tt.process, "Order": tt.order, "Count": tt.count} {
				d := newDemo(t, tt.spec)
				var err error
				messages := 0
				ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "r-1")
				switch method {
				case "Process":
					_, err = d.client.Process(ctx, &flakypb.ProcessRequest{})
				case "Order":
					_, err = d.client.Order(ctx, &flakypb.OrderRequest{Order: "o-1"})
				case "Count":
					var stream grpc.ServerStreamingClient[flakypb.CountReply]
					if stream, err = d.client.Count(ctx, &flakypb.CountRequest{}); err != nil {
						t.Fatal(err)
					}
					for err == nil {
						if _, err = stream.Recv(); err == nil {
							messages++
						}
					}
					if errors.Is(err, io.EOF) {
						err = nil
					}
				}
				if status.Code(err) != want.code || !strings.Contains(status.Convert(err).Message(), want.text) || messages != want.messages {
					t.Errorf("%s: got %v after %d messages, want %s with %q after %d", method, err, messages, want.code, want.text, want.messages)
				}
				if got := d.ledger(t).Received; got != want.attempts {
					t.Errorf("%s: the upstream got %d attempts, want %d", method, got, want.attempts)
				}
			}
		})
	}
}

// An order with a key is repeated and takes effect once; one without is not repeated.
func TestGRPCOrdersThroughTheGateway(t *testing.T) {
	d := newDemo(t, faults.Spec{FailFirst: 2})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "r-1", "idempotency-key", "k-1")
	got, err := d.client.Order(ctx, &flakypb.OrderRequest{Order: "o-1"})
	if want := (&flakypb.OrderReply{Order: "o-1", RequestId: "r-1", IdempotencyKey: "k-1", Replayed: true}); err != nil || !proto.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := d.client.Order(t.Context(), &flakypb.OrderRequest{Order: "o-2"}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a key: got %v, want UNAVAILABLE", err)
	}
	if got := d.ledger(t).Effects; len(got) != 2 || got[0].Applied != 1 || got[0].Attempts != 3 || got[1].Applied != 1 || got[1].Attempts != 1 {
		t.Errorf("got %+v, want one effect each, after three attempts and one", got)
	}
}

// Streams, health and reflection pass through the gateway. Health follows readiness.
func TestGRPCServicesThroughTheGateway(t *testing.T) {
	d := newDemo(t, faults.Spec{})
	chat, err := d.client.Chat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(1); n <= 100; n++ {
		if err := chat.Send(&flakypb.ChatMessage{Text: "x"}); err != nil {
			t.Fatal(err)
		}
		if m, err := chat.Recv(); err != nil || m.GetNumber() != n {
			t.Fatalf("Chat: got %v, %v, want number %d", m, err, n)
		}
	}
	_ = chat.CloseSend()
	if _, err := chat.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("Chat: got %v at the end, want EOF", err)
	}

	reflection, err := reflectionpb.NewServerReflectionClient(d.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	m, err := reflection.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range m.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !slices.Contains(names, "rebound.flaky.v1.Flaky") {
		t.Errorf("got services %q, want rebound.flaky.v1.Flaky among them", names)
	}
	_ = reflection.CloseSend()

	health := healthpb.NewHealthClient(d.conn)
	if m, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v, %v, want SERVING", m, err)
	}
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if m, err := watch.Recv(); err != nil || m.GetStatus() != want {
			t.Errorf("Watch: got %v, %v, want %s", m, err, want)
		}
		d.ready.Set(serve.Draining)
	}
}
