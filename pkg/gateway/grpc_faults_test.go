package gateway_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/streams"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// 10,000 streams in both directions, many of which break in the middle: no message arrives twice,
// and none is lost without an error. None of this opens the circuit. Then the upstream hangs, and
// it opens; and when the upstream answers again, it closes.
func TestGRPCStreamsWithFaults(t *testing.T) {
	count := 5000
	if testing.Short() {
		count = 300
	}
	upstream := streams.Start(t)
	p := counting()
	p.Timeout, p.AttemptTimeout = 3*time.Second, 3*time.Second // the machine may be busy
	p.Breaker.FailureRatio, p.Breaker.Window = 0.9, 2*time.Second
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 100*time.Millisecond, 200*time.Millisecond
	g, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: "h2c://" + upstream.Address})
	state := func() resilience.State { return g.Upstreams()[0].Breaker.State }
	ok, failed := upstream.Run(t, client, count, 3, streams.Status, streams.Reset, streams.Hang)
	t.Logf("of %d streams, some of which fail by themselves, %d succeeded and %d failed", count, ok, len(failed))
	ok, failed = upstream.Run(t, client, count, 100, streams.Lost, streams.GoAway)
	t.Logf("of %d streams, some of which lose their connection, %d succeeded and %d failed", count, ok, len(failed))
	if got := state(); got != resilience.Closed {
		t.Fatalf("the circuit is %s, want it closed: most streams succeed", got)
	}

	call := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return streams.Call(ctx, client)
	}
	upstream.Hangs.Store(true)
	for n := 0; state() == resilience.Closed; n++ { // it may be half-open again
		if n == 10 {
			t.Fatalf("the circuit is %s after 600 streams that hang", state())
		}
		var work sync.WaitGroup
		for range 60 {
			work.Go(func() {
				if call() == nil {
					t.Error("a stream that hangs ended with OK")
				}
			})
		}
		work.Wait()
	}
	upstream.Hangs.Store(false)
	wait.Until(t, 20*time.Second, "a closed circuit", func() bool { _ = call(); return state() == resilience.Closed })
	wait.Until(t, 20*time.Second, "a stream that succeeds again", func() bool { return call() == nil })
}

// The gateway learns with the first response that an upstream speaks HTTP/2. A stream that began
// before that, and lost its connection while its caller waited, did not end, and kept a processor
// busy.
func TestGRPCFirstStreamLosesItsConnection(t *testing.T) {
	upstream := streams.Start(t)
	_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: "h2c://" + upstream.Address})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := client.NewStream(metadata.AppendToOutgoingContext(ctx, "fault", string(streams.Lost), "after", "1"), grpctest.Bidi(), grpctest.Method)
	if err != nil {
		t.Fatal(err)
	}
	out, in := grpctest.Message("m"), grpctest.Message(nil)
	if err := s.SendMsg(&out); err != nil {
		t.Fatal(err)
	}
	err = s.RecvMsg(&in)
	if err == nil { // otherwise the answer was lost with its connection
		err = s.RecvMsg(&in)
	}
	if err == nil || errors.Is(err, io.EOF) || ctx.Err() != nil {
		t.Errorf("got %v, want an error of the stream before its deadline", err)
	}
	stacks := make([]byte, 1<<20)
	wait.Until(t, 20*time.Second, "the end of every read of the caller's messages", func() bool {
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "replayReader")
	})
}
