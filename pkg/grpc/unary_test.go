package reboundgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func Example() {
	// A server that is not available for the first two calls.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	attempts := 0
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if attempts++; attempts < 3 {
			return nil, status.Error(codes.Unavailable, "starting")
		}
		return h(ctx, req)
	}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	interceptors, err := reboundgrpc.New(resilience.DefaultPolicy(), reboundgrpc.WithIdempotent("/grpc.health.v1.Health/Check"))
	if err != nil {
		panic(err)
	}
	conn, err := grpc.NewClient(listener.Addr().String(),
		append(interceptors.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()

	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err, "after", attempts, "attempts")
	// Output: SERVING <nil> after 3 attempts
}

// Every status of gRPC, at each point at which a server can send it, for unary calls and for
// streams: how often the call is made, what its caller gets, and what the circuit counts.
func TestStatuses(t *testing.T) {
	var attempts atomic.Int64
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		attempts.Add(1)
		code, _ := strconv.Atoi(grpctest.Value(s, "code"))
		var in grpctest.Message
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		switch grpctest.Value(s, "stage") {
		case "after headers":
			_ = s.SendHeader(metadata.Pairs("seen", "yes"))
		case "after a message":
			_ = s.SendMsg(&in)
		}
		return status.Error(codes.Code(code), fmt.Sprintf("50 %% of %s", codes.Code(code)))
	})
	healthy := []codes.Code{
		codes.OK, codes.Canceled, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.FailedPrecondition, codes.Aborted, codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated,
	}
	neutral := []codes.Code{codes.DeadlineExceeded, codes.ResourceExhausted}
	for _, kind := range []string{"unary", "stream"} {
		for _, idempotent := range []bool{false, true} {
			for _, stage := range []string{"at once", "after headers", "after a message"} {
				for code := codes.OK; code <= codes.Unauthenticated; code++ {
					if kind == "unary" && code == codes.OK && stage != "after a message" {
						continue // a unary call that ends well has a message
					}
					t.Run(fmt.Sprintf("%s %s %s idempotent=%v", kind, code, stage, idempotent), func(t *testing.T) {
						var options []reboundgrpc.Option
						if idempotent {
							options = append(options, reboundgrpc.WithIdempotent("/test.Test/*"))
						}
						i := must(t, counting(), options...)
						conn := dial(t, address, i)
						attempts.Store(0)
						want := int64(1)
						if kind == "unary" && code == codes.Unavailable && stage == "at once" && idempotent {
							want = 3
						}
						ctx := metadata.AppendToOutgoingContext(t.Context(), "code", strconv.Itoa(int(code)), "stage", stage)
						var err error
						if kind == "unary" {
							err = unary(ctx, conn)
						} else {
							err = grpctest.RoundTrip(ctx, conn, stage == "after a message")
						}
						if status.Code(err) != code || code != codes.OK && status.Convert(err).Message() != fmt.Sprintf("50 %% of %s", code) {
							t.Errorf("the caller got %v, want %s with the server's message", err, code)
						}
						if got := attempts.Load(); got != want {
							t.Errorf("%d attempts, want %d", got, want)
						}
						switch {
						case slices.Contains(healthy, code):
							wantCounts(t, i, int(want), 0)
						case slices.Contains(neutral, code):
							wantCounts(t, i, 0, 0)
						default:
							wantCounts(t, i, 0, int(want))
						}
					})
				}
			}
		}
	}
}

// A server says with a pushback whether, and when, it wants another attempt.
func TestPushback(t *testing.T) {
	for name, c := range map[string]struct {
		code     codes.Code
		pushback string
		attempts int
		atLeast  time.Duration
	}{
		"exhausted, asks for another":      {codes.ResourceExhausted, "60", 3, 120 * time.Millisecond},
		"exhausted, asks for none":         {codes.ResourceExhausted, "-1", 1, 0},
		"unavailable, asks for a later":    {codes.Unavailable, "60", 3, 120 * time.Millisecond},
		"unavailable, asks for none":       {codes.Unavailable, "-1", 1, 0},
		"unavailable, unreadable":          {codes.Unavailable, "soon", 1, 0},
		"internal, asks for another":       {codes.Internal, "1", 1, 0},
		"unavailable, later than there is": {codes.Unavailable, "3600000", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var before []string
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				mu.Lock()
				before = append(before, grpctest.Value(s, "grpc-previous-rpc-attempts"))
				mu.Unlock()
				s.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", c.pushback))
				return status.Error(c.code, "x")
			})
			// The reason of exhausted calls is the server's wish, so the method does not matter.
			i := must(t, counting(), reboundgrpc.WithIdempotent(method))
			start := time.Now()
			err := unary(t.Context(), dial(t, address, i))
			if status.Code(err) != c.code || time.Since(start) < c.atLeast {
				t.Errorf("got %v after %v, want %s after at least %v", err, time.Since(start), c.code, c.atLeast)
			}
			if want := []string{"", "1", "2"}[:c.attempts]; !slices.Equal(before, want) {
				t.Errorf("the server saw attempts with grpc-previous-rpc-attempts %q, want %q", before, want)
			}
		})
	}
}

// A call that a layer above retries already gets one attempt, and the server sees which of theirs.
func TestRetriedAbove(t *testing.T) {
	var mu sync.Mutex
	var before []string
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		mu.Lock()
		defer mu.Unlock()
		md, _ := metadata.FromIncomingContext(s.Context())
		before = append(before, strings.Join(md.Get("grpc-previous-rpc-attempts"), ","))
		return status.Error(codes.Unavailable, "x")
	})
	for name, c := range map[string]struct {
		ctx  func(context.Context) context.Context
		want []string
	}{
		"by the caller": {func(ctx context.Context) context.Context {
			return metadata.AppendToOutgoingContext(ctx, "grpc-previous-rpc-attempts", "2")
		}, []string{"2"}},
		"by the caller of the method that makes the call": {func(ctx context.Context) context.Context {
			return metadata.NewIncomingContext(ctx, metadata.Pairs("grpc-previous-rpc-attempts", "1"))
		}, []string{"1"}},
		"by a caller whose metadata the method passes on": {func(ctx context.Context) context.Context {
			md := metadata.Pairs("grpc-previous-rpc-attempts", "1")
			return metadata.NewOutgoingContext(metadata.NewIncomingContext(ctx, md), md)
		}, []string{"1"}},
		"not yet, also passed on": {func(ctx context.Context) context.Context {
			return metadata.AppendToOutgoingContext(ctx, "grpc-previous-rpc-attempts", "0")
		}, []string{"0", "1", "2"}},
		"not yet": {func(ctx context.Context) context.Context {
			return metadata.NewIncomingContext(ctx, metadata.Pairs("grpc-previous-rpc-attempts", "0"))
		}, []string{"", "1", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			before = nil
			i := must(t, counting(), reboundgrpc.WithIdempotent(method))
			err := unary(c.ctx(t.Context()), dial(t, address, i))
			if status.Code(err) != codes.Unavailable || !slices.Equal(before, c.want) {
				t.Errorf("got %v, and the server saw %q, want UNAVAILABLE and %q", err, before, c.want)
			}
		})
	}
}

// Which calls are repeated although the server may have processed them.
func TestIdempotent(t *testing.T) {
	var attempts atomic.Int64
	address := grpctest.Serve(t, func(grpc.ServerStream) error {
		attempts.Add(1)
		return status.Error(codes.Unavailable, "x")
	})
	for name, c := range map[string]struct {
		patterns []string
		key      string
		attempts int64
	}{
		"nothing":                    {nil, "", 1},
		"the method":                 {[]string{"/test.Test/Call"}, "", 3},
		"another method":             {[]string{"/test.Test/Cal", "/test.Test/Call2"}, "", 1},
		"the service":                {[]string{"/test.Test/*"}, "", 3},
		"another service":            {[]string{"/test.Tes/*", "/test/*"}, "", 1},
		"a key":                      {nil, "k-1", 3},
		"an empty key":               {nil, " ", 1},
		"the service and a method":   {[]string{"/test.Test/*", "/test.Test/Other"}, "", 3},
		"another service, and a key": {[]string{"/other.Other/*"}, "k-1", 3},
	} {
		t.Run(name, func(t *testing.T) {
			attempts.Store(0)
			i := must(t, counting(), reboundgrpc.WithIdempotent(c.patterns...))
			ctx := t.Context()
			if c.key != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "idempotency-key", c.key)
			}
			if err := unary(ctx, dial(t, address, i)); status.Code(err) != codes.Unavailable || attempts.Load() != c.attempts {
				t.Errorf("got %v after %d attempts, want UNAVAILABLE after %d", err, attempts.Load(), c.attempts)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	bad := []string{
		"", "/", "orders.Orders/Get", "/orders.Orders", "/orders.Orders/", "//Get", "/*/Get", "/*/*", "*", "/orders.Orders/Get*",
		"/orders.*/Get", "/orders.Orders/Get/More", "/orders.Orders/Get ", "/orders Orders/Get", "/orders.Orders/Gét", "/a/b?c",
	}
	for _, pattern := range bad {
		if _, err := reboundgrpc.New(resilience.DefaultPolicy(), reboundgrpc.WithIdempotent("/a.A/B", pattern)); err == nil ||
			!strings.Contains(err.Error(), "idempotent[1]") || !strings.Contains(err.Error(), strconv.Quote(pattern)) {
			t.Errorf("%q: got error %v, want one that names it and its place", pattern, err)
		}
	}
	p := resilience.DefaultPolicy()
	p.Timeout, p.Retry.MaxAttempts = -1, 0
	_, err := reboundgrpc.New(p, reboundgrpc.WithIdempotent("/a.A/B"), reboundgrpc.WithIdempotent("/a.A/B", "/c"))
	for _, part := range []string{"timeout: ", "retry.maxAttempts: ", "/a.A/B is listed twice", `got "/c"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got error %v, want all mistakes, also one with %q", err, part)
		}
	}
}

// A caller's deadline ends a call in time, whether the server answers nothing or stops in the
// middle, and the server sees what is left of it. A shorter limit of ours wins, and only a server
// that we gave its full time is to blame.
func TestDeadlines(t *testing.T) {
	for name, c := range map[string]limited{
		"the caller's, no answer":       {100 * time.Millisecond, 5 * time.Second, 5 * time.Second, false, 100 * time.Millisecond, 130 * time.Millisecond, 1, 0},
		"the caller's, after a message": {100 * time.Millisecond, 5 * time.Second, 5 * time.Second, true, 100 * time.Millisecond, 130 * time.Millisecond, 1, 0},
		"ours for the call":             {10 * time.Second, 150 * time.Millisecond, 150 * time.Millisecond, false, 150 * time.Millisecond, time.Second, 1, 1},
		"ours for an attempt":           {10 * time.Second, 5 * time.Second, 100 * time.Millisecond, false, 100 * time.Millisecond, time.Second, 3, 3},
		"ours, after a message":         {10 * time.Second, 5 * time.Second, 100 * time.Millisecond, true, 100 * time.Millisecond, time.Second, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			wait.OneOf(t, 5, func() string { return c.call(t) }) // a busy machine makes some late
		})
	}
}

// limited is a call that must end with DEADLINE_EXCEEDED.
type limited struct {
	caller, total, attempt time.Duration
	stops                  bool // after a message
	sees, within           time.Duration
	attempts, failures     int
}

// call makes the call and returns what was late.
func (c limited) call(t *testing.T) (late string) {
	t.Helper()
	left := make(chan time.Duration, 3)
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		deadline, _ := s.Context().Deadline()
		left <- time.Until(deadline)
		if c.stops {
			out := grpctest.Message("hello")
			_ = s.SendMsg(&out)
		}
		return grpctest.Hang(s)
	})
	p := counting()
	p.Timeout, p.AttemptTimeout = c.total, c.attempt
	i := must(t, p, reboundgrpc.WithIdempotent(method))
	ctx, cancel := context.WithTimeout(t.Context(), c.caller)
	defer cancel()
	start := time.Now()
	err := unary(ctx, dial(t, address, i))
	took := time.Since(start)
	if status.Code(err) != codes.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, resilience.ErrTimeout) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED, a context.DeadlineExceeded and an ErrTimeout", err)
	}
	if took > c.within {
		return fmt.Sprintf("it took %v, want at most %v", took, c.within)
	}
	for n := range c.attempts {
		select {
		case got := <-left:
			if got > c.sees {
				t.Errorf("attempt %d: the server saw %v left, want at most %v", n+1, got, c.sees)
			}
			if got < c.sees/2 {
				return fmt.Sprintf("in attempt %d the server saw %v left, want about %v", n+1, got, c.sees)
			}
		default:
			return fmt.Sprintf("attempt %d did not reach the server", n+1)
		}
	}
	if _, failed := counts(i); failed > c.failures {
		t.Errorf("the circuit counts %d failures, want %d", failed, c.failures)
	}
	return missedCounts(i, 0, c.failures, time.Second) // a late attempt does not get its full time
}

// A caller that leaves gets CANCELLED, and the circuit counts nothing.
func TestCallerLeaves(t *testing.T) {
	began := make(chan struct{})
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		close(began)
		return grpctest.Hang(s)
	})
	i := must(t, counting())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	err := unary(ctx, dial(t, address, i))
	if status.Code(err) != codes.Canceled || !strings.HasPrefix(status.Convert(err).Message(), "caller_canceled: ") || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want CANCELLED with its reason", err)
	}
	wantCounts(t, i, 0, 0)
}

// What Rebound itself has to say reaches the caller as a gRPC error, with the reason in its message
// and in its details. As a Go error it is a *resilience.Error.
func TestErrorsOfItsOwn(t *testing.T) {
	fails := grpctest.Serve(t, func(grpc.ServerStream) error { return status.Error(codes.Internal, "x") })
	hangs := grpctest.Serve(t, grpctest.Hang)
	nobody := rawhttp.FreeAddress(t)
	for name, c := range map[string]struct {
		address  string
		change   func(*resilience.Policy)
		calls    int // of which the last counts
		code     codes.Code
		reason   resilience.Reason
		attempts string
		retryIn  bool
	}{
		"an open circuit": {fails, func(p *resilience.Policy) {
			p.Breaker.ConsecutiveFailures, p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 2, time.Minute, time.Minute
		}, 3, codes.Unavailable, resilience.ReasonBreakerOpen, "0", true},
		"a rate limit": {fails, func(p *resilience.Policy) {
			p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.01, Burst: 1}
		}, 2, codes.ResourceExhausted, resilience.ReasonRateLimited, "0", true},
		"no connection": {nobody, func(*resilience.Policy) {}, 1, codes.Unavailable, resilience.ReasonMaxAttempts, "3", false},
		"a time limit": {hangs, func(p *resilience.Policy) {
			p.Timeout, p.AttemptTimeout = 100*time.Millisecond, 100*time.Millisecond
		}, 1, codes.DeadlineExceeded, resilience.ReasonDeadlineExceeded, "1", false},
		"a time limit for attempts": {hangs, func(p *resilience.Policy) {
			p.AttemptTimeout = time.Second // long enough to send the call on a busy machine
		}, 1, codes.DeadlineExceeded, resilience.ReasonMethodNotIdempotent, "1", false},
	} {
		for kind, call := range map[string]func(*grpc.ClientConn) error{
			"unary":  func(conn *grpc.ClientConn) error { return unary(t.Context(), conn) },
			"stream": func(conn *grpc.ClientConn) error { return grpctest.RoundTrip(t.Context(), conn, false) },
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				p := counting()
				c.change(&p)
				conn := dial(t, c.address, must(t, p))
				if c.address != nobody {
					grpctest.Connect(t, conn)
				}
				var err error
				for range c.calls {
					err = call(conn)
				}
				reason := c.reason
				if kind == "stream" && reason == resilience.ReasonMethodNotIdempotent {
					reason = resilience.ReasonAttemptTimeout // a stream that has begun is not begun again, whatever its method
				}
				s := status.Convert(err)
				if s.Code() != c.code || !strings.HasPrefix(s.Message(), string(reason)+": ") {
					t.Errorf("got %v, want %s with a message that begins with %s", err, c.code, reason)
				}
				var own *resilience.Error
				if !errors.As(err, &own) || own.Reason != reason || own.Upstream != "passthrough:///"+c.address {
					t.Errorf("got %v, want a *resilience.Error with the reason and the target", own)
				}
				var info *errdetails.ErrorInfo
				var retry *errdetails.RetryInfo
				for _, d := range s.Details() {
					switch d := d.(type) {
					case *errdetails.ErrorInfo:
						info = d
					case *errdetails.RetryInfo:
						retry = d
					}
				}
				if info.GetReason() != string(reason) || info.GetDomain() != "rebound" || info.GetMetadata()["attempts"] != c.attempts {
					t.Errorf("got details %v, want reason %s of domain rebound and %s attempts", s.Details(), reason, c.attempts)
				}
				if (retry != nil) != c.retryIn || c.retryIn && retry.GetRetryDelay().AsDuration() <= 0 {
					t.Errorf("got RetryInfo %v, want one: %v", retry, c.retryIn)
				}
			})
		}
	}
}

// A call whose time is up before its first attempt is not told that the server did not answer.
func TestNoTimeForAnAttempt(t *testing.T) {
	conn := dial(t, rawhttp.FreeAddress(t), must(t, counting()))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	want := "deadline_exceeded: the time was up before " + conn.CanonicalTarget() + " was called"
	if s := status.Convert(unary(ctx, conn)); s.Code() != codes.DeadlineExceeded || s.Message() != want {
		t.Errorf("got %s %q, want DeadlineExceeded %q", s.Code(), s.Message(), want)
	}
}

// A dial without an answer has sent nothing, so any method is called again.
func TestDialWithoutAnAnswer(t *testing.T) {
	address := grpctest.Serve(t, grpctest.Echo(func(string) {}))
	p := counting()
	p.AttemptTimeout = 2 * time.Second // the second attempt needs some, on a busy machine
	answers := make(chan struct{})
	dead := grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
		<-answers
		return new(net.Dialer).DialContext(ctx, "tcp", to)
	})
	var once sync.Once
	i := must(t, p, reboundgrpc.WithObserver(resilience.Observer{Attempt: func(_ context.Context, a *resilience.AttemptReport) {
		if a.Reason != resilience.ReasonAttemptTimeout && a.Number == 1 {
			t.Errorf("the first attempt ended with %s, want attempt_timeout", a.Reason)
		}
		once.Do(func() { close(answers) })
	}}))
	if err := unary(t.Context(), dial(t, address, i, dead)); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}

// The connection breaks before the answer: the server may have processed the call.
func TestConnectionBreaks(t *testing.T) {
	for name, c := range map[string]struct {
		idempotent bool
		nameless   bool // the connection has no address
		attempts   int64
		reason     resilience.Reason
	}{
		"a method that may take effect twice":      {true, false, 3, resilience.ReasonMaxAttempts},
		"any other":                                {false, false, 1, resilience.ReasonMethodNotIdempotent},
		"any other, connection without an address": {false, true, 1, resilience.ReasonMethodNotIdempotent},
	} {
		t.Run(name, func(t *testing.T) {
			var breaks func()
			var attempts atomic.Int64
			address := grpctest.Serve(t, func(s grpc.ServerStream) error {
				attempts.Add(1)
				breaks()
				return grpctest.Hang(s)
			})
			conns := make(chan net.Conn, 10)
			breaks = func() { _ = (<-conns).Close() }
			dialer := grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
				if err != nil {
					return nil, err
				}
				conns <- conn
				if c.nameless {
					return nameless{conn}, nil
				}
				return conn, nil
			})
			p := counting()
			p.Retry.Backoff.Base, p.Retry.Backoff.Max = 1500*time.Millisecond, 1500*time.Millisecond // grpc-go waits a second before it connects again
			var options []reboundgrpc.Option
			if c.idempotent {
				options = append(options, reboundgrpc.WithIdempotent(method))
			}
			i := must(t, p, options...)
			err := unary(t.Context(), dial(t, address, i, dialer))
			var own *resilience.Error
			if status.Code(err) != codes.Unavailable || !errors.As(err, &own) || own.Reason != c.reason || own.Last != resilience.ReasonResetBeforeHeaders {
				t.Errorf("got %v, want UNAVAILABLE, %s after %s", err, c.reason, resilience.ReasonResetBeforeHeaders)
			}
			if got := attempts.Load(); got != c.attempts {
				t.Errorf("%d attempts, want %d", got, c.attempts)
			}
			wantCounts(t, i, 0, int(c.attempts))
		})
	}
}

// nameless is a connection of a dialer that knows no addresses.
type nameless struct{ net.Conn }

func (nameless) RemoteAddr() net.Addr { return nil }

// A call that grpc-go did not send for a reason of the caller's is neither repeated nor held
// against the server.
func TestCallThatIsNotSent(t *testing.T) {
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		var in grpctest.Message
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		return s.SendMsg(&in)
	})
	for name, call := range map[string]func(conn *grpc.ClientConn) error{
		"a message without an encoding": func(conn *grpc.ClientConn) error {
			return conn.Invoke(t.Context(), method, new(int), new(grpctest.Message))
		},
		"a stream's message without an encoding": func(conn *grpc.ClientConn) error {
			s, err := conn.NewStream(t.Context(), grpctest.Bidi(), method)
			if err != nil {
				return err
			}
			return s.SendMsg(new(int))
		},
		"metadata that HTTP/2 does not allow": func(conn *grpc.ClientConn) error {
			return unary(metadata.AppendToOutgoingContext(t.Context(), "a key", "x"), conn)
		},
		"no credentials": func(conn *grpc.ClientConn) error {
			return unary(t.Context(), conn, grpc.PerRPCCredentials(noCredentials{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int64
			i := must(t, counting(), reboundgrpc.WithIdempotent("/test.Test/*"), reboundgrpc.WithObserver(resilience.Observer{
				Attempt: func(_ context.Context, a *resilience.AttemptReport) {
					if attempts.Add(1); a.Reason != resilience.ReasonInvalidRequest {
						t.Errorf("the attempt's reason is %s, want %s", a.Reason, resilience.ReasonInvalidRequest)
					}
				},
			}))
			conn := dial(t, address, i)
			err := call(conn)
			if c := status.Code(err); c != codes.Internal && c != codes.Unauthenticated {
				t.Errorf("got %v, want grpc-go's own error", err)
			}
			// A stream is reported a moment later.
			wait.Until(t, 20*time.Second, "the report of an attempt", func() bool { return attempts.Load() > 0 })
			if attempts.Load() != 1 {
				t.Errorf("%d attempts, want one", attempts.Load())
			}
			wantCounts(t, i, 0, 0)
		})
	}
}

type noCredentials struct{}

func (noCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return nil, errors.New("no token")
}

func (noCredentials) RequireTransportSecurity() bool { return false }

// An interceptor that drops call options takes away the proof that nothing was sent. Without it,
// nothing is repeated.
func TestOptionsAreDropped(t *testing.T) {
	var attempts atomic.Int64
	address := grpctest.Serve(t, func(grpc.ServerStream) error {
		attempts.Add(1)
		return status.Error(codes.Unavailable, "x")
	})
	i := must(t, counting())
	drops := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, _ ...grpc.CallOption) error {
		return invoker(ctx, method, req, reply, cc, grpc.ForceCodec(grpctest.Codec{}))
	}
	conn := dial(t, address, nil, grpc.WithChainUnaryInterceptor(i.Unary, drops))
	if err := unary(t.Context(), conn); status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
		t.Errorf("got %v after %d attempts, want UNAVAILABLE after one", err, attempts.Load())
	}
}

// The retries of a service config are not made within ours.
func TestRetriesOfGRPC(t *testing.T) {
	const config = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.001s",
		"maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	var attempts atomic.Int64
	address := grpctest.Serve(t, func(grpc.ServerStream) error {
		attempts.Add(1)
		return status.Error(codes.Unavailable, "x")
	})
	i := must(t, counting(), reboundgrpc.WithIdempotent("/test.Test/*"))
	for name, c := range map[string]struct {
		conn *grpc.ClientConn
		want int64
	}{
		"grpc-go's alone":  {dial(t, address, nil, grpc.WithDefaultServiceConfig(config)), 4},
		"with DialOptions": {dial(t, address, i, grpc.WithDefaultServiceConfig(config)), 3},
	} {
		t.Run(name, func(t *testing.T) {
			attempts.Store(0)
			if err := unary(t.Context(), c.conn); err == nil || attempts.Load() != c.want {
				t.Errorf("got %v after %d attempts, want an error after %d", err, attempts.Load(), c.want)
			}
		})
	}
}

// The caller's own options get what they would get without the interceptor.
func TestCallersOptions(t *testing.T) {
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		_ = s.SetHeader(metadata.Pairs("h", "1"))
		s.SetTrailer(metadata.Pairs("t", "2"))
		m := grpctest.Message("hello")
		return s.SendMsg(&m)
	})
	conn := dial(t, address, must(t, counting()))
	var header, trailer metadata.MD
	if err := unary(t.Context(), conn, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if h, tr := header.Get("h"), trailer.Get("t"); !slices.Equal(h, []string{"1"}) || !slices.Equal(tr, []string{"2"}) {
		t.Errorf("got header %v and trailer %v, want h=1 and t=2", header, trailer)
	}
}

// An interceptor that sends a call twice appends to the same options twice. The second one used to
// overwrite what the first had appended.
func TestOptionsOfInterceptorsBelow(t *testing.T) {
	var calls atomic.Int64
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		_ = s.SetHeader(metadata.Pairs("call", strconv.FormatInt(calls.Add(1), 10)))
		m := grpctest.Message("hello")
		return s.SendMsg(&m)
	})
	var headers [2]metadata.MD
	twice := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		first, second := append(opts, grpc.Header(&headers[0])), append(opts, grpc.Header(&headers[1]))
		return errors.Join(invoker(ctx, method, req, reply, cc, first...), invoker(ctx, method, req, reply, cc, second...))
	}
	conn := dial(t, address, nil, grpc.WithChainUnaryInterceptor(must(t, counting()).Unary, twice))
	if err := unary(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"1", "2"} {
		if got := headers[i].Get("call"); !slices.Equal(got, []string{want}) {
			t.Errorf("call %s got the header of %v, want its own", want, got)
		}
	}
}

// Each target has its own circuit, which connections share, however the target is written.
func TestTargets(t *testing.T) {
	answers := func(s grpc.ServerStream) error {
		m := grpctest.Message("hello")
		return s.SendMsg(&m)
	}
	a, b := grpctest.Serve(t, answers), grpctest.Serve(t, func(grpc.ServerStream) error { return status.Error(codes.Internal, "x") })
	i := must(t, counting())
	_ = unary(t.Context(), dial(t, a, i))
	_ = unary(t.Context(), dial(t, "///"+a, i))
	_ = unary(t.Context(), dial(t, b, i))
	got := map[string][2]int{}
	for _, s := range i.State() {
		got[strings.TrimPrefix(s.Upstream, "passthrough:///")] = [2]int{s.Breaker.Successes, s.Breaker.Failures}
	}
	if len(got) != 2 || got[a] != [2]int{2, 0} || got[b] != [2]int{0, 1} {
		t.Errorf("got successes and failures %v, want %s: 2 0, %s: 0 1", got, a, b)
	}
}

// The limits of the policy hold, and calls of a lower class are refused first.
func TestConcurrencyLimit(t *testing.T) {
	release := make(chan struct{})
	began := make(chan struct{}, 10)
	address := grpctest.Serve(t, func(s grpc.ServerStream) error {
		began <- struct{}{}
		<-release
		m := grpctest.Message("hello")
		return s.SendMsg(&m)
	})
	p := counting()
	p.Concurrency = resilience.ConcurrencyPolicy{Max: 10}
	type class struct{}
	i := must(t, p, reboundgrpc.WithPriority(func(ctx context.Context, m string) resilience.Priority {
		if m != method {
			t.Errorf("the class of %s is asked for, want %s", m, method)
		}
		p, _ := ctx.Value(class{}).(resilience.Priority)
		return p
	}))
	conn := dial(t, address, i)
	call := func(p resilience.Priority) error { return unary(context.WithValue(t.Context(), class{}, p), conn) }
	var calls sync.WaitGroup
	for range 7 {
		calls.Go(func() {
			if err := call(resilience.PriorityNormal); err != nil {
				t.Errorf("a call within the limit: %v", err)
			}
		})
	}
	for range 7 {
		<-began
	}
	err := call(resilience.PrioritySheddable)
	if status.Code(err) != codes.ResourceExhausted || !strings.HasPrefix(status.Convert(err).Message(), "concurrency_limit: ") {
		t.Errorf("a sheddable call beyond 70 %% of the limit: got %v, want RESOURCE_EXHAUSTED", err)
	}
	calls.Go(func() {
		if err := call(resilience.PriorityCritical); err != nil {
			t.Errorf("a critical call: %v", err)
		}
	})
	<-began
	close(release)
	calls.Wait()
}
