//go:build e2e

package e2e_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// gRPC calls go through the client like HTTP calls: they survive 30 % of errors, streams pass, and
// an order with a key takes effect once.
func TestGRPC(t *testing.T) {
	p := newPlace(t)
	p.install()
	url := p.forward("svc/client", "8080")
	p.reached(url)
	conn, err := grpc.NewClient("passthrough:"+strings.TrimPrefix(url, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	// A message without fields stands for every request, and takes every reply.
	call := func(method string, kv ...string) (attempts string, err error) {
		var header metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), kv...)
		err = conn.Invoke(ctx, "/rebound.flaky.v1.Flaky/"+method, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header))
		return strings.Join(header.Get("x-attempt-count"), ","), err
	}

	succeeded, attempts, failures := 0, map[string]int{}, map[string]int{}
	for range 200 {
		n, err := call("Process")
		if err == nil {
			succeeded++
		} else {
			failures[err.Error()]++
		}
		attempts[n]++
	}
	t.Logf("%d of 200 calls succeeded; by attempts: %v", succeeded, attempts)
	if succeeded < 196 || len(attempts) < 2 { // as likely as in processSurvives
		t.Errorf("%d of 200 calls succeeded, want at least 196, some of them after a retry: %v %v", succeeded, attempts, failures)
	}

	faults := p.forward("svc/flaky-server", "5001")
	putFaults(t, faults, "failFirst: 2")
	request(t, http.MethodDelete, faults+"/ledger", "", nil)
	if n, err := call("Order", "x-request-id", "with-a-key", "idempotency-key", "k"); err != nil || n != "3" {
		t.Errorf("an order with a key: got %v after %s attempts, want success after 3", err, n)
	}
	if n, err := call("Order", "x-request-id", "without"); status.Code(err) != codes.Unavailable {
		t.Errorf("an order without a key: got %v after %s attempts, want UNAVAILABLE", err, n)
	}
	var ledger struct {
		Effects []struct{ Applied, Attempts int }
	}
	if err := json.Unmarshal([]byte(get(t, faults+"/ledger")), &ledger); err != nil {
		t.Fatal(err)
	}
	if e := ledger.Effects; len(e) != 2 || e[0].Applied != 1 || e[0].Attempts != 3 || e[1].Applied != 1 || e[1].Attempts != 1 {
		t.Errorf("got %+v in the ledger, want one effect each, after three attempts and one", e)
	}

	putFaults(t, faults, "errorRate: 0")
	if m, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: got %v, %v, want SERVING", m, err)
	}
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/rebound.flaky.v1.Flaky/Count")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
			if !errors.Is(err, io.EOF) || n != 10 {
				t.Errorf("a stream: got %d messages, then %v, want 10 and its end", n, err)
			}
			break
		}
	}
}
