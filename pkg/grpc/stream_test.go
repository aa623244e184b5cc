package reboundgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Streams in both directions, a third of which break off: no message arrives twice, in any
// direction, a stream that ends too early ends with an error, and the circuit counts each once.
func TestStreams(t *testing.T) {
	streams := 10_000
	if testing.Short() {
		streams = 500
	}
	var seen sync.Map
	var twice atomic.Int64
	address := grpctest.Serve(t, grpctest.Echo(func(message string) {
		if _, before := seen.LoadOrStore(message, true); before {
			twice.Add(1)
		}
	}))
	p := counting()
	p.Breaker.Window = time.Hour
	i := must(t, p, reboundgrpc.WithIdempotent("/test.Test/*"))
	conn := dial(t, address, i)
	const messages, parallel = 6, 50
	var work sync.WaitGroup
	turns := make(chan int)
	for range parallel {
		work.Go(func() {
			for n := range turns {
				ctx, fails := t.Context(), -1
				if n%3 == 0 {
					fails = n / 3 % messages
					ctx = metadata.AppendToOutgoingContext(ctx, "fails", strconv.Itoa(fails))
				}
				if err := grpctest.Exchange(ctx, conn, n, messages, fails); err != nil {
					t.Errorf("stream %d, which breaks off after %d: %v", n, fails, err)
				}
			}
		})
	}
	for n := range streams {
		turns <- n
	}
	close(turns)
	work.Wait()
	if n := twice.Load(); n > 0 {
		t.Errorf("%d messages arrived twice", n)
	}
	failures := (streams + 2) / 3
	wantCounts(t, i, streams-failures, failures)
}

// The circuit opens when the server hangs, and closes when it answers again.
func TestCircuit(t *testing.T) {
	for kind, call := range map[string]func(ctx context.Context, conn *grpc.ClientConn) error{
		"unary":   func(ctx context.Context, conn *grpc.ClientConn) error { return unary(ctx, conn) },
		"streams": func(ctx context.Context, conn *grpc.ClientConn) error { return grpctest.Exchange(ctx, conn, 0, 1, -1) },
		"streams with one message": func(ctx context.Context, conn *grpc.ClientConn) error {
			return grpctest.RoundTrip(ctx, conn, true)
		},
	} {
		t.Run(kind, func(t *testing.T) {
			var hangs atomic.Bool
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				if hangs.Load() {
					return grpctest.Hang(s)
				}
				return grpctest.Echo(func(string) {})(s)
			})
			p := resilience.DefaultPolicy()
			p.Timeout, p.AttemptTimeout = 400*time.Millisecond, 200*time.Millisecond
			p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 100*time.Millisecond, 200*time.Millisecond
			i := must(t, p)
			conn := dial(t, address, i)
			succeeds := func() bool { return call(t.Context(), conn) == nil } // on a busy machine not at once
			wait.Until(t, 20*time.Second, "a call that succeeds", succeeds)
			state := func() resilience.State { return i.State()[0].Breaker.State }
			hangs.Store(true)
			for n := 0; state() == resilience.Closed; n++ { // it may be half-open again
				if n == 20 {
					t.Fatalf("the circuit is %s after 400 calls that hang", state())
				}
				var work sync.WaitGroup
				for range 20 {
					work.Go(func() { _ = call(t.Context(), conn) })
				}
				work.Wait()
			}
			hangs.Store(false)
			wait.Until(t, 20*time.Second, "a closed circuit", func() bool {
				_ = call(t.Context(), conn)
				return state() == resilience.Closed
			})
			wait.Until(t, 20*time.Second, "a call that succeeds again", succeeds)
		})
	}
}

// A caller that abandons a stream by canceling its context leaves no goroutine behind (TestMain),
// and the circuit counts nothing.
func TestStreamIsAbandoned(t *testing.T) {
	for name, use := range map[string]func(s grpc.ClientStream, began <-chan struct{}){
		"before the headers": func(_ grpc.ClientStream, began <-chan struct{}) { <-began },
		"after a message": func(s grpc.ClientStream, began <-chan struct{}) {
			out, in := grpctest.Message("m"), grpctest.Message(nil)
			_ = s.SendMsg(&out)
			_ = s.RecvMsg(&in)
			<-began
		},
		"at once": func(grpc.ClientStream, <-chan struct{}) {},
	} {
		t.Run(name, func(t *testing.T) {
			began := make(chan struct{}, 1)
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				began <- struct{}{}
				return grpctest.Echo(func(string) {})(s)
			})
			var calls atomic.Int64
			p := counting()
			p.Timeout, p.AttemptTimeout = time.Hour, time.Hour
			i := must(t, p, reboundgrpc.WithObserver(resilience.Observer{
				Call: func(context.Context, *resilience.Report) { calls.Add(1) },
			}))
			conn := dial(t, address, i)
			ctx, cancel := context.WithCancel(t.Context())
			s, err := conn.NewStream(ctx, grpctest.Bidi(), method)
			if err != nil {
				t.Fatal(err)
			}
			use(s, began)
			cancel()
			wait.Until(t, 20*time.Second, "the end of the pipeline whose caller left", func() bool { return calls.Load() > 0 })
			time.Sleep(20 * time.Millisecond) // for a wrong count to arrive
			wantCounts(t, i, 0, 0)
		})
	}
}

// A stream is begun again only without a connection. Once there is one, its caller gets what came
// of it.
func TestStreamWithoutConnection(t *testing.T) {
	var attempts atomic.Int64
	i := must(t, counting(), reboundgrpc.WithObserver(resilience.Observer{
		Attempt: func(_ context.Context, a *resilience.AttemptReport) {
			if attempts.Add(1); a.Reason != resilience.ReasonDialError {
				t.Errorf("an attempt ended with %s, want %s", a.Reason, resilience.ReasonDialError)
			}
		},
	}))
	s, err := dial(t, rawhttp.FreeAddress(t), i).NewStream(t.Context(), grpctest.Bidi(), method)
	if s != nil || status.Code(err) != codes.Unavailable || attempts.Load() != 3 {
		t.Errorf("got %v, %v after %d attempts, want UNAVAILABLE after 3", s, err, attempts.Load())
	}
	wantCounts(t, i, 0, 3)
}

// The policy's limits end with the headers of a stream, and the server does not see them. A stream
// may then last as long as its caller wants.
func TestStreamOutlastsThePolicysLimits(t *testing.T) {
	sees := make(chan time.Duration, 1)
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		deadline, _ := s.Context().Deadline()
		sees <- time.Until(deadline)
		return grpctest.Echo(func(string) {})(s)
	})
	p := counting()
	p.Timeout, p.AttemptTimeout = 2*time.Second, 2*time.Second
	i := must(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := grpctest.Connect(t, dial(t, address, i)).NewStream(ctx, grpctest.Bidi(), method)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		out, in := grpctest.Message("m"), grpctest.Message(nil)
		if err := s.SendMsg(&out); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		if err := s.RecvMsg(&in); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		time.Sleep(1100 * time.Millisecond)
	}
	if got := <-sees; got < 30*time.Second || got > time.Minute {
		t.Errorf("the server saw %v left, want about the caller's minute", got)
	}
	_ = s.CloseSend()
	var in grpctest.Message
	if err := s.RecvMsg(&in); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after the last message, want the end", err)
	}
	wantCounts(t, i, 1, 0)
}

// A stream whose headers do not come ends in time. The caller's deadline, too, holds for streams.
func TestStreamDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		caller, ours time.Duration
		message      bool
		within       time.Duration
		begins       string
		failures     int
	}{
		"the caller's, no answer":       {100 * time.Millisecond, 5 * time.Second, false, 130 * time.Millisecond, "deadline_exceeded: ", 0},
		"the caller's, after a message": {100 * time.Millisecond, 5 * time.Second, true, 130 * time.Millisecond, "", 0},
		"ours":                          {10 * time.Second, 150 * time.Millisecond, false, time.Second, "deadline_exceeded: ", 1},
	} {
		t.Run(name, func(t *testing.T) {
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				if c.message {
					out := grpctest.Message("hello")
					_ = s.SendMsg(&out)
				}
				return grpctest.Hang(s)
			})
			p := counting()
			p.Timeout, p.AttemptTimeout = c.ours, c.ours
			i := must(t, p)
			conn := dial(t, address, i)
			var err error
			wait.OneOf(t, 5, func() string { // a busy machine makes some calls late
				_, before := counts(i)
				ctx, cancel := context.WithTimeout(t.Context(), c.caller)
				defer cancel()
				start := time.Now()
				err = grpctest.RoundTrip(ctx, conn, c.message)
				if status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
				}
				if took := time.Since(start); took > c.within {
					return fmt.Sprintf("the call took %v, want at most %v", took, c.within)
				}
				if _, failed := counts(i); failed > before+c.failures {
					t.Errorf("the circuit counts %d failures more, want %d", failed-before, c.failures)
				}
				return missedCounts(i, 0, before+c.failures, time.Second) // a late one does not get its full time
			})
			var s interface{ GRPCStatus() *status.Status }
			if errors.As(err, &s) && !strings.HasPrefix(s.GRPCStatus().Message(), c.begins) {
				t.Errorf("got %v, want a message that begins with %q", err, c.begins)
			}
		})
	}
}

// A panic of an interceptor reaches the caller, for a stream too, and leaves the circuit usable.
func TestPanic(t *testing.T) {
	var panics atomic.Bool
	address := grpctest.Serve(t, grpctest.Echo(func(string) {}))
	i := must(t, counting())
	conn := dial(t, address, nil,
		grpc.WithChainUnaryInterceptor(i.Unary, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if panics.Load() {
				panic("on purpose")
			}
			return invoker(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(i.Stream, func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if panics.Load() {
				panic("on purpose")
			}
			return streamer(ctx, desc, cc, method, opts...)
		}))
	for kind, call := range map[string]func() error{
		"unary":  func() error { return unary(t.Context(), conn) },
		"stream": func() error { return grpctest.Exchange(t.Context(), conn, 0, 1, -1) },
	} {
		t.Run(kind, func(t *testing.T) {
			panics.Store(true)
			func() {
				defer func() {
					if got := recover(); got != "on purpose" {
						t.Errorf("recovered %v, want the panic of the interceptor", got)
					}
				}()
				_ = call()
			}()
			panics.Store(false)
			if err := call(); err != nil {
				t.Errorf("a call after the panic: %v", err)
			}
		})
	}
}

// Streams whose server waits for its caller do not count as failures when their caller is silent.
func TestSilentCaller(t *testing.T) {
	address := grpctest.Serve(t, grpctest.Echo(func(string) {}))
	p := counting()
	p.Timeout, p.AttemptTimeout = time.Second, time.Second
	i := must(t, p)
	s, err := grpctest.Connect(t, dial(t, address, i)).NewStream(t.Context(), grpctest.Bidi(), method)
	if err != nil {
		t.Fatal(err)
	}
	var in grpctest.Message
	if err := s.RecvMsg(&in); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, want DEADLINE_EXCEEDED: no headers came", err)
	}
	wantCounts(t, i, 0, 0)
}
