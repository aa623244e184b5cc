package reboundgrpc_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// dial returns a connection to address through interceptors.
func dial(t testing.TB, address string, i *reboundgrpc.Interceptors, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(grpctest.Codec{})))
	if i != nil {
		options = append(options, i.DialOptions()...)
	}
	conn, err := grpc.NewClient("passthrough:"+address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func must(t testing.TB, p resilience.Policy, options ...reboundgrpc.Option) *reboundgrpc.Interceptors {
	t.Helper()
	i, err := reboundgrpc.New(p, options...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// counting returns a policy with short waits, more time than a busy machine needs, a budget that
// never runs out, and a circuit that counts and never opens.
func counting() resilience.Policy {
	p := resilience.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = time.Minute, 20*time.Second
	p.Retry.Backoff = resilience.Backoff{Base: time.Millisecond, Max: time.Millisecond, Factor: 1, Jitter: resilience.JitterNone}
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 1e6}
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 1_000_000
	return p
}

// counts returns what the circuits have counted.
func counts(i *reboundgrpc.Interceptors) (ok, failed int) {
	for _, s := range i.State() {
		ok, failed = ok+s.Breaker.Successes, failed+s.Breaker.Failures
	}
	return ok, failed
}

// wantCounts waits for what the circuits count: the end of a stream may come a moment later.
func wantCounts(t *testing.T, i *reboundgrpc.Interceptors, wantOK, wantFailed int) {
	t.Helper()
	if missed := missedCounts(i, wantOK, wantFailed, 10*time.Second); missed != "" {
		t.Error(missed)
	}
}

// missedCounts is "" as soon as the circuit counts so much, and otherwise says what it counts.
func missedCounts(i *reboundgrpc.Interceptors, wantOK, wantFailed int, limit time.Duration) string {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		ok, failed := counts(i)
		if ok == wantOK && failed == wantFailed {
			return ""
		}
		if time.Now().After(end) {
			return fmt.Sprintf("the circuit counts %d successes and %d failures, want %d and %d", ok, failed, wantOK, wantFailed)
		}
	}
}

const method = grpctest.Method

// unary makes a unary call.
func unary(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) error {
	out, in := grpctest.Message("hello"), grpctest.Message(nil)
	if err := conn.Invoke(ctx, method, &out, &in, options...); err != nil {
		return err
	}
	if string(in) != "hello" {
		return fmt.Errorf("got message %q", in)
	}
	return nil
}
