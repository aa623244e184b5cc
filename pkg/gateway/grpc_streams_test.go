package gateway_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Streams in both directions, a third of which break off: no message arrives twice, in any
// direction, and a stream that ends too early ends with an error.
func TestGRPCStreams(t *testing.T) {
	streams := 10_000
	if testing.Short() {
		streams = 500
	}
	var seen sync.Map
	var twice atomic.Int64
	upstream := grpcServer(t, grpctest.Echo(func(message string) {
		if _, before := seen.LoadOrStore(message, true); before {
			twice.Add(1)
		}
	}))
	p := counting()
	_, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream, GRPC: gateway.RouteGRPC{Idempotent: true}})
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
				if err := grpctest.Exchange(ctx, client, n, messages, fails); err != nil {
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
}

var streamsLength = flag.Duration("streams", 0, "how long TestGRPCOpenStreams uses its streams, at least; 0 for 20 messages each") //nolint:gochecknoglobals // as chaosLength

// Open streams hold little memory and a few goroutines each, and leave none behind. For a minute:
//
//	go test ./pkg/gateway -run GRPCOpenStreams -streams 1m -v
func TestGRPCOpenStreams(t *testing.T) {
	streams, rounds := 1000, 20
	if testing.Short() {
		streams, rounds = 100, 3
	}
	upstream := grpcServer(t, grpctest.Echo(func(string) {}))
	_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream})
	before := runtime.NumGoroutine()
	open := make([]grpc.ClientStream, streams)
	for i := range open {
		s, err := client.NewStream(t.Context(), grpctest.Bidi(), "/test.Test/Echo")
		if err != nil {
			t.Fatal(err)
		}
		open[i] = s
		out := grpctest.Message("m") // with the answer to it come the headers, for which the upstream has some time
		if err := s.SendMsg(&out); err != nil {
			t.Fatal(err)
		}
		var in grpctest.Message
		if err := s.RecvMsg(&in); err != nil {
			t.Fatal(err)
		}
	}
	turn := func() {
		for _, s := range open {
			out := grpctest.Message("m")
			if err := s.SendMsg(&out); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range open {
			var in grpctest.Message
			if err := s.RecvMsg(&in); err != nil {
				t.Fatal(err)
			}
		}
	}
	memory := func() uint64 {
		for range 2 { // the first one leaves what pools hold
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	turn()
	first, begun, messages := memory(), time.Now(), 0
	for ; messages < rounds || time.Since(begun) < *streamsLength; messages++ {
		turn()
	}
	during, last := runtime.NumGoroutine(), memory()
	t.Logf("%d messages in both directions on each of %d streams in %v: heap %d KiB after the first, %d KiB after the last; %d goroutines before, %d with open streams",
		messages, streams, time.Since(begun).Round(time.Second), first>>10, last>>10, before, during)
	if last > first+first/4+1<<20 {
		t.Errorf("%d bytes are in use after the first message of each stream, %d after the last, want it flat", first, last)
	}
	for _, s := range open {
		_ = s.CloseSend()
		var in grpctest.Message
		if err := s.RecvMsg(&in); !errors.Is(err, io.EOF) {
			t.Fatalf("the end of a stream: %v", err)
		}
	}
	wait.Until(t, 20*time.Second, fmt.Sprintf("at most %d goroutines after the streams", before+20), func() bool {
		return runtime.NumGoroutine() <= before+20
	})
	t.Logf("%d goroutines after them", runtime.NumGoroutine())
}

// An attempt that is given up may still wait for the caller's next message. The next attempt gets
// that message, and each message once.
func TestGRPCMessagesOfAnAbandonedAttempt(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	upstream := grpcServer(t, func(s grpc.ServerStream) error {
		if attempts.Add(1) == 2 { // the first one shows that the upstream speaks HTTP/2
			<-s.Context().Done()
			return nil
		}
		return grpctest.Echo(func(string) {})(s)
	})
	p := counting()
	p.Timeout, p.AttemptTimeout = 20*time.Second, 2*time.Second
	_, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream, GRPC: gateway.RouteGRPC{Idempotent: true}})
	if err := grpctest.Exchange(t.Context(), client, 0, 1, -1); err != nil {
		t.Fatal(err)
	}
	if err := grpctest.Exchange(t.Context(), client, 1, 5, -1); err != nil {
		t.Error(err)
	}
	if n := attempts.Load(); n != 3 {
		t.Errorf("%d attempts, want 3: one of the first call, two of the second", n)
	}
}

// The headers of a stream reach the caller although no message follows, and so does a message that
// is not the last one.
func TestGRPCBeginningIsNotHeldBack(t *testing.T) {
	upstream := grpcServer(t, func(s grpc.ServerStream) error {
		_ = s.SendHeader(metadata.Pairs("seen", "yes"))
		return grpctest.Echo(func(string) {})(s)
	})
	_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := client.NewStream(ctx, grpctest.Bidi(), "/test.Test/Echo")
	if err != nil {
		t.Fatal(err)
	}
	if h, err := s.Header(); err != nil || len(h.Get("seen")) != 1 {
		t.Fatalf("got headers %v, %v, want the server's before any message", h, err)
	}
	out, in := grpctest.Message("m"), grpctest.Message(nil)
	if err := s.SendMsg(&out); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&in); err != nil {
		t.Fatalf("the answer to the first message: %v", err)
	}
	_ = s.CloseSend()
	if err := s.RecvMsg(&in); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end", err)
	}
}

// A response that is sent in one piece gets no Content-Length that the server has not sent.
func TestGRPCResponseHasNoContentLength(t *testing.T) {
	upstream := grpcServer(t, grpctest.Echo(func(string) {}))
	config := gateway.ForUpstream(upstream)
	_, address := serveGRPC(t, config, gateway.Options{})
	r := request(t, http.MethodPost, "http://"+address+"/test.Test/Echo", strings.NewReader("\x00\x00\x00\x00\x05hello"))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	resp, err := h2cTransport(t).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "\x00\x00\x00\x00\x05hello" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got %q, %v, trailer %v, want the message and status 0", body, err, resp.Trailer)
	}
	if resp.ContentLength != -1 {
		t.Errorf("got Content-Length %d, want none", resp.ContentLength)
	}
}

// The circuit opens when a gRPC upstream hangs, and closes when it answers again.
func TestGRPCCircuit(t *testing.T) {
	var hangs atomic.Bool
	upstream := grpcServer(t, func(s grpc.ServerStream) error {
		if hangs.Load() {
			<-s.Context().Done()
			return nil
		}
		return grpctest.Echo(func(string) {})(s)
	})
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = 400*time.Millisecond, 200*time.Millisecond
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 100*time.Millisecond, 200*time.Millisecond
	g, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream})
	state := func() resilience.State { return g.Upstreams()[0].Breaker.State }
	call := func() error { return grpctest.Exchange(t.Context(), client, 0, 1, -1) }
	succeeds := func() bool { return call() == nil } // on a busy machine not at once
	wait.Until(t, 20*time.Second, "a call that succeeds", succeeds)
	hangs.Store(true)
	for n := 0; state() == resilience.Closed; n++ { // it may be half-open again
		if n == 20 {
			t.Fatalf("the circuit is %s after 400 calls that hang", state())
		}
		var work sync.WaitGroup
		for range 20 {
			work.Go(func() { _ = call() })
		}
		work.Wait()
	}
	hangs.Store(false)
	wait.Until(t, 20*time.Second, "a closed circuit", func() bool { _ = call(); return state() == resilience.Closed })
	wait.Until(t, 20*time.Second, "a call that succeeds again", succeeds)
}

// gRPC-Web has its status in the body, in a last frame, and goes over any version of HTTP. Its
// calls pass as any other: nothing reads the frame, and no status of it is a failure.
func TestGRPCWebPassesUntouched(t *testing.T) {
	const (
		message = "\x00\x00\x00\x00\x05hello"
		trailer = "\x80\x00\x00\x00\x1egrpc-status:14\r\ngrpc-message:x\r\n"
	)
	for _, kind := range []string{"application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"} {
		t.Run(kind, func(t *testing.T) {
			var attempts atomic.Int64
			s := server(t, func(w http.ResponseWriter, r *http.Request) {
				attempts.Add(1)
				b, _ := io.ReadAll(r.Body)
				if string(b) != message || r.Header.Get("Content-Type") != kind || r.Header.Get("X-Grpc-Web") != "1" || r.Header.Get("Grpc-Timeout") != "9S" {
					t.Errorf("the upstream got %q with %v, want the caller's request", b, r.Header)
				}
				w.Header().Set("Content-Type", kind)
				_, _ = io.WriteString(w, message+trailer)
			})
			g, client := gatewayOver(t, gateway.ForUpstream(s.URL), gateway.Options{})
			r := request(t, http.MethodPost, client.URL+"/test.Test/Call", strings.NewReader(message))
			r.Header.Set("Content-Type", kind)
			r.Header.Set("X-Grpc-Web", "1")
			r.Header.Set("Grpc-Timeout", "9S")
			resp, body := do(t, r)
			if resp.StatusCode != http.StatusOK || body != message+trailer || resp.Header.Get("Content-Type") != kind {
				t.Errorf("got %d %v %q, want the upstream's response", resp.StatusCode, resp.Header, body)
			}
			if len(resp.Trailer) > 0 || resp.Header.Get("Grpc-Status") != "" {
				t.Errorf("got trailer %v, header %v, want nothing of gRPC", resp.Trailer, resp.Header)
			}
			if ok, failed := counts(t, g); attempts.Load() != 1 || ok != 1 || failed != 0 {
				t.Errorf("%d attempts, and the circuit counts %d successes and %d failures, want one attempt and one success", attempts.Load(), ok, failed)
			}
		})
	}
}

// The policy's limits end with the headers of a response. A stream may then last as long as its
// caller wants, also if the caller has set a deadline, and may be silent while its caller is.
func TestGRPCStreamOutlastsThePolicysLimits(t *testing.T) {
	t.Parallel()
	upstream := grpcServer(t, grpctest.Echo(func(string) {}))
	p := counting()
	p.Timeout, p.AttemptTimeout, p.BodyIdleTimeout = 2*time.Second, 2*time.Second, 3*time.Second
	g, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream})
	grpctest.Connect(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := client.NewStream(ctx, grpctest.Bidi(), "/test.Test/Echo")
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
		time.Sleep(4 * time.Second)
	}
	_ = s.CloseSend()
	var in grpctest.Message
	if err := s.RecvMsg(&in); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after the last message, want the end", err)
	}
	// The end of the stream reaches the circuit a moment later.
	wait.Until(t, 20*time.Second, "one success and no failure in the circuit", func() bool {
		ok, failed := counts(t, g)
		return ok == 1 && failed == 0
	})
}
