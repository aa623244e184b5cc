package reboundgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raw is a message as bytes, without a schema.
type raw []byte

type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

var errNoEncoding = errors.New("this message has no encoding")

func (rawCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(*raw)
	if !ok {
		return nil, errNoEncoding
	}
	return *m, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*raw) = append(raw(nil), data...)
	return nil
}

// server starts a gRPC server on loopback whose methods all run h, and returns its address.
func server(t testing.TB, h func(stream grpc.ServerStream) error) (address string) {
	t.Helper()
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return h(stream) }))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	return listener.Addr().String()
}

// hang answers nothing until the client has given up. The server's timer for the deadline that it
// was sent may fire before the client's, so hang lets the client be first.
func hang(s grpc.ServerStream) error {
	<-s.Context().Done()
	time.Sleep(100 * time.Millisecond)
	return nil
}

// dial returns a connection to address through interceptors.
func dial(t testing.TB, address string, i *reboundgrpc.Interceptors, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
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

// connect returns when conn is connected, so that no limit of a call's time includes the dial.
func connect(t testing.TB, conn *grpc.ClientConn) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			t.Fatalf("the connection is %v after 20 s, want it ready", s)
		}
	}
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

const method = "/test.Test/Call"

// unary makes a unary call.
func unary(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) error {
	out, in := raw("hello"), raw(nil)
	if err := conn.Invoke(ctx, method, &out, &in, options...); err != nil {
		return err
	}
	if string(in) != "hello" {
		return fmt.Errorf("got message %q", in)
	}
	return nil
}

// bidi describes a method with messages in both directions.
func bidi() *grpc.StreamDesc {
	return &grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}
}

// roundTrip makes a call as a stream with one message, and reads answers until its end. message
// reports whether it wants one.
func roundTrip(ctx context.Context, conn *grpc.ClientConn, message bool) error {
	s, err := conn.NewStream(ctx, bidi(), method)
	if err != nil {
		return err
	}
	out := raw("hello")
	if err := s.SendMsg(&out); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_ = s.CloseSend()
	n := 0
	for {
		var in raw
		err := s.RecvMsg(&in)
		switch {
		case err == nil && string(in) != "hello":
			return fmt.Errorf("got message %q", in)
		case err == nil:
			n++
			continue
		case message != (n == 1):
			return fmt.Errorf("got %d messages before %w", n, err)
		case errors.Is(err, io.EOF):
			return nil
		}
		return err
	}
}

// value returns the first value of a key in the metadata that a server got, or "".
func value(s grpc.ServerStream, key string) string {
	md, _ := metadata.FromIncomingContext(s.Context())
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
