// Package grpctest is for tests of gRPC calls: of the interceptors, and through the gateway. Its
// messages have no schema.
package grpctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Method is the method that [RoundTrip] and [Exchange] call.
const Method = "/test.Test/Call"

// Message is a message as bytes, without a schema.
type Message []byte

// Codec encodes each *[Message] as itself.
type Codec struct{}

// Name is the codec's name in the content type.
func (Codec) Name() string { return "raw" }

var errNoEncoding = errors.New("this message has no encoding")

// Marshal fails if v is not a *[Message].
func (Codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(*Message)
	if !ok {
		return nil, errNoEncoding
	}
	return *m, nil
}

// Unmarshal stores a copy of data in v, a *[Message].
func (Codec) Unmarshal(data []byte, v any) error {
	*v.(*Message) = append(Message(nil), data...)
	return nil
}

// Serve starts a gRPC server on loopback whose methods all run h, and returns its address. The
// server stops at the end of the test.
func Serve(t testing.TB, h func(stream grpc.ServerStream) error, options ...grpc.ServerOption) (address string) {
	t.Helper()
	s := grpc.NewServer(append(options, grpc.ForceServerCodec(Codec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return h(stream) }))...)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("the server: %v", err)
		}
	})
	return listener.Addr().String()
}

// Value returns the first value of a key in the metadata that a server got, or "".
func Value(s grpc.ServerStream, key string) string {
	md, _ := metadata.FromIncomingContext(s.Context())
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Hang is a handler that answers nothing until the client has given up. The server's timer for the
// deadline that it was sent may fire before the client's, so Hang lets the client be first.
func Hang(s grpc.ServerStream) error {
	<-s.Context().Done()
	time.Sleep(100 * time.Millisecond)
	return nil
}

// Echo returns a handler that answers every message of a stream with itself, and calls got before
// that. With the metadata "fails", it ends the stream with UNAVAILABLE after so many messages.
func Echo(got func(message string)) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		fails := -1
		if v := Value(s, "fails"); v != "" {
			fails, _ = strconv.Atoi(v)
		}
		for n := 0; ; n++ {
			if n == fails {
				return status.Error(codes.Unavailable, "breaks off")
			}
			var m Message
			if err := s.RecvMsg(&m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			got(string(m))
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}
}

// Connect returns conn when it is connected, so that no limit of a call's time includes the dial.
// The test ends if that takes 20 s.
func Connect(t testing.TB, conn *grpc.ClientConn) *grpc.ClientConn {
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

// Bidi describes a method with messages in both directions.
func Bidi() *grpc.StreamDesc {
	return &grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}
}

// RoundTrip makes a call as a stream with one message, "hello", and reads answers until its end.
// message reports whether it wants one, and the same.
func RoundTrip(ctx context.Context, conn *grpc.ClientConn, message bool) error {
	s, err := conn.NewStream(ctx, Bidi(), Method)
	if err != nil {
		return err
	}
	out := Message("hello")
	if err := s.SendMsg(&out); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_ = s.CloseSend()
	n := 0
	for {
		var in Message
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

// Exchange sends messages of stream n one by one, and wants each of them back once. The stream must
// break off with UNAVAILABLE after as many as fails, or not at all if fails is negative.
func Exchange(ctx context.Context, conn *grpc.ClientConn, n, messages, fails int) error {
	s, err := conn.NewStream(ctx, Bidi(), Method)
	if err != nil {
		return err
	}
	for i := range messages {
		out := Message(fmt.Sprintf("%d of stream %d", i, n))
		if err := s.SendMsg(&out); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var in Message
		err := s.RecvMsg(&in)
		switch {
		case i == fails && status.Code(err) == codes.Unavailable:
			return nil
		case err != nil:
			return fmt.Errorf("message %d: %w", i, err)
		case string(in) != string(out):
			return fmt.Errorf("message %d: got %q", i, in)
		}
	}
	if fails >= 0 {
		return fmt.Errorf("got all %d messages, want the stream to break off after %d", messages, fails)
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	var in Message
	if err := s.RecvMsg(&in); !errors.Is(err, io.EOF) {
		return fmt.Errorf("got %q, %w after the last message, want the end", in, err)
	}
	return nil
}
