package grpctest_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
)

// dial returns a connection to a server that runs h.
func dial(t *testing.T, h func(grpc.ServerStream) error) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+grpctest.Serve(t, h), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(grpctest.Codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpctest.Connect(t, conn)
}

func TestExchange(t *testing.T) {
	var got []string
	conn := dial(t, grpctest.Echo(func(message string) { got = append(got, message) }))
	if err := grpctest.Exchange(t.Context(), conn, 7, 2, -1); err != nil {
		t.Error(err)
	}
	if len(got) != 2 || got[1] != "1 of stream 7" {
		t.Errorf("the server got %q, want two messages, the last of which is 1 of stream 7", got)
	}
	breaks := metadata.AppendToOutgoingContext(t.Context(), "fails", "1")
	if err := grpctest.Exchange(breaks, conn, 8, 3, 1); err != nil {
		t.Errorf("a stream that breaks off as it should: %v", err)
	}
	if err := grpctest.Exchange(t.Context(), conn, 10, 3, 1); err == nil {
		t.Error("a stream that does not break off as it should: got no error")
	}
	if err := grpctest.Exchange(breaks, conn, 9, 3, -1); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream that should not break off: got %v, want UNAVAILABLE", err)
	}
}

func TestRoundTrip(t *testing.T) {
	conn := dial(t, grpctest.Echo(func(string) {}))
	if err := grpctest.RoundTrip(t.Context(), conn, true); err != nil {
		t.Error(err)
	}
	if err := grpctest.RoundTrip(t.Context(), conn, false); err == nil {
		t.Error("got no error although a message came, want one")
	}
}
