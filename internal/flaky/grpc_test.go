package flaky_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/flaky/flakypb"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// grpcWorld is a world with a gRPC client of the data port.
type grpcWorld struct {
	world
	conn   *grpc.ClientConn
	client flakypb.FlakyClient
}

// cleartext lets a server speak HTTP/2 without TLS and know its connections, as package serve does.
func cleartext(s *http.Server) {
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	s.ConnContext = serve.WithConn
}

// startGRPC serves over real TCP.
func startGRPC(t *testing.T, spec faults.Spec, adjust ...func(*flaky.Options)) grpcWorld {
	t.Helper()
	s := newServer(t, spec, adjust...)
	data, admin := httptest.NewUnstartedServer(s.Data()), httptest.NewServer(s.Admin())
	cleartext(data.Config)
	data.Start()
	t.Cleanup(func() {
		s.Stop()
		data.Close()
		admin.Close()
	})
	w := world{s, data.URL, admin.URL, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	return w.dial(t, data.Listener.Addr().String(), new(net.Dialer).DialContext)
}

// startGRPCPiped serves on a pipenet, for tests inside a synctest bubble.
func startGRPCPiped(t *testing.T, spec faults.Spec) grpcWorld {
	t.Helper()
	s := newServer(t, spec)
	network := pipenet.New()
	network.Serve(t, "data:80", s.Data(), cleartext)
	t.Cleanup(s.Stop)
	return world{Server: s}.dial(t, "data:80", network.Dial)
}

// dial connects a client that makes one attempt for each call.
func (w world) dial(t *testing.T, addr string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) grpcWorld {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpcWorld{w, conn, flakypb.NewFlakyClient(conn)}
}

// result is what a caller saw of a call.
type result struct {
	messages []int // the numbers of the messages, 1 for the reply of a unary call
	code     codes.Code
	text     string
	header   metadata.MD
	trailer  metadata.MD
}

// sent is how many messages a Chat sends, and how many a Count asks for.
const sent = 5

// call makes one call of a method.
func (w grpcWorld) call(ctx context.Context, method string) (r result) {
	var err error
	options := []grpc.CallOption{grpc.Header(&r.header), grpc.Trailer(&r.trailer)}
	switch method {
	case "Process":
		if _, err = w.client.Process(ctx, &flakypb.ProcessRequest{}, options...); err == nil {
			r.messages = []int{1}
		}
	case "Order":
		if _, err = w.client.Order(ctx, &flakypb.OrderRequest{Order: "o-1"}, options...); err == nil {
			r.messages = []int{1}
		}
	case "Count":
		var stream grpc.ServerStreamingClient[flakypb.CountReply]
		if stream, err = w.client.Count(ctx, &flakypb.CountRequest{UpTo: sent}, options...); err != nil {
			break
		}
		for {
			var m *flakypb.CountReply
			if m, err = stream.Recv(); err != nil {
				break
			}
			r.messages = append(r.messages, int(m.GetNumber()))
		}
	case "Chat":
		var stream grpc.BidiStreamingClient[flakypb.ChatMessage, flakypb.ChatMessage]
		if stream, err = w.client.Chat(ctx, options...); err != nil {
			break
		}
		for n := 1; err == nil && n <= sent; n++ {
			if err = stream.Send(&flakypb.ChatMessage{Text: fmt.Sprint(n)}); err != nil {
				_, err = stream.Recv() // Send says only that the stream has ended
				break
			}
			var m *flakypb.ChatMessage
			if m, err = stream.Recv(); err == nil && m.GetText() == fmt.Sprint(m.GetNumber()) {
				r.messages = append(r.messages, int(m.GetNumber()))
			}
		}
		if err == nil {
			_ = stream.CloseSend()
			_, err = stream.Recv()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	r.code, r.text = status.Code(err), status.Convert(err).Message()
	return r
}

func methods() []string { return []string{"Process", "Order", "Count", "Chat"} }

// upTo returns the numbers of the first n messages.
func upTo(n int) (numbers []int) {
	for i := 1; i <= n; i++ {
		numbers = append(numbers, i)
	}
	return numbers
}

func isUnary(method string) bool { return method == "Process" || method == "Order" }

// all returns how many messages a method without a fault sends.
func all(method string) int {
	if isUnary(method) {
		return 1
	}
	return sent
}

func TestGRPCWithoutFaults(t *testing.T) {
	w := startGRPC(t, faults.Spec{}, func(o *flaky.Options) { o.Instance = "pod-1" })
	for _, method := range methods() {
		if r := w.call(t.Context(), method); r.code != codes.OK || !slices.Equal(r.messages, upTo(all(method))) || len(r.header.Get("x-request-id")) != 1 {
			t.Errorf("%s: got %+v, want %d messages, OK and a request id", method, r, all(method))
		}
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "r-1", "grpc-previous-rpc-attempts", "3")
	for attempt := int64(1); attempt <= 2; attempt++ {
		got, err := w.client.Process(ctx, &flakypb.ProcessRequest{})
		want := &flakypb.ProcessReply{Status: "ok", RequestId: "r-1", Attempt: attempt, PreviousAttempts: "3", Instance: "pod-1"}
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	if got := w.ledger(t).Received; got != 6 {
		t.Errorf("got %d received, want 6", got)
	}
}

// An error status comes at the point that the document says, with its code and its pushback.
func TestGRPCErrorStatus(t *testing.T) {
	for _, after := range []faults.After{"", faults.AfterNothing, faults.AfterHeaders, faults.AfterMessage} {
		for _, method := range methods() {
			t.Run(fmt.Sprintf("after %q %s", after, method), func(t *testing.T) {
				w := startGRPC(t, faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{Codes: []string{"ABORTED"}, After: after, Messages: 3, Pushback: "100ms"}})
				r := w.call(t.Context(), method)
				if r.code != codes.Aborted || r.text != "injected fault: error (arrival 1)" {
					t.Errorf("got %s %q, want the injected ABORTED", r.code, r.text)
				}
				// After a message, grpc-go has the reply of a unary call and drops it.
				var messages []int
				if after == faults.AfterMessage && !isUnary(method) {
					messages = upTo(3)
				}
				if !slices.Equal(r.messages, messages) {
					t.Errorf("got messages %v, want %v", r.messages, messages)
				}
				if got := r.trailer.Get("grpc-retry-pushback-ms"); !slices.Equal(got, []string{"100"}) {
					t.Errorf("got pushback %q in the trailers, want 100", got)
				}
			})
		}
	}
}

// The bytes on the wire, as a gateway in front sees them.
func TestGRPCOnTheWire(t *testing.T) {
	reply, err := proto.Marshal(&flakypb.ChatMessage{Text: "1", Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	frame := append([]byte{0, 0, 0, 0, byte(len(reply))}, reply...)
	for name, tt := range map[string]struct {
		spec    faults.Spec
		header  string // grpc-status
		trailer string
		body    []byte
	}{
		"Trailers-Only": {faults.Spec{ErrorRate: 1}, "14", "", nil},
		"after headers": {faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterHeaders}}, "", "14", nil},
		"after message": {faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterMessage}}, "", "14", frame},
		"truncated":     {faults.Spec{TruncateRate: 1, GRPC: faults.GRPC{Break: faults.BreakEnd, Messages: 1}}, "", "", append(slices.Clone(frame), frame[:len(frame)/2]...)},
		"no status":     {faults.Spec{ResetRate: 1, GRPC: faults.GRPC{Break: faults.BreakEnd}}, "", "", nil},
		"whole":         {faults.Spec{}, "", "0", append(slices.Clone(frame), bytes.Replace(frame, []byte{0x10, 1}, []byte{0x10, 2}, 1)...)},
	} {
		t.Run(name, func(t *testing.T) {
			w := startGRPC(t, tt.spec)
			message, err := proto.Marshal(&flakypb.ChatMessage{Text: "1"})
			if err != nil {
				t.Fatal(err)
			}
			request := bytes.Repeat(append([]byte{0, 0, 0, 0, byte(len(message))}, message...), 2)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.data+"/rebound.flaky.v1.Flaky/Chat", bytes.NewReader(request))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/grpc")
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetUnencryptedHTTP2(true)
			defer transport.CloseIdleConnections()
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/grpc" {
				t.Fatalf("got %s %q and %v, want 200 of gRPC", resp.Status, resp.Header, err)
			}
			if got := resp.Header.Get("Grpc-Status"); got != tt.header {
				t.Errorf("got status %q in the headers, want %q", got, tt.header)
			}
			if got := resp.Trailer.Get("Grpc-Status"); got != tt.trailer {
				t.Errorf("got status %q in the trailers, want %q", got, tt.trailer)
			}
			if !bytes.Equal(body, tt.body) {
				t.Errorf("got %q, want %q", body, tt.body)
			}
		})
	}
}

// A call without a status ends in the way that the document says: alone, with its connection, or as
// if it were whole.
func TestGRPCBreak(t *testing.T) {
	for name, tt := range map[string]struct {
		how  faults.Break
		code codes.Code
		text string // a part
		lone bool   // other calls on the connection go on
	}{
		"stream":     {"", codes.Internal, "RST_STREAM", true},
		"connection": {faults.BreakConnection, codes.Unavailable, "error reading from server", false},
		"end":        {faults.BreakEnd, codes.Internal, "", true},
	} {
		for fault, spec := range map[string]faults.Spec{
			"reset":    {ResetRate: 1, GRPC: faults.GRPC{Break: tt.how}},
			"truncate": {TruncateRate: 1, GRPC: faults.GRPC{Break: tt.how, Messages: 3}},
		} {
			for _, method := range methods() {
				t.Run(name+" "+fault+" "+method, func(t *testing.T) {
					w := startGRPC(t, spec)
					health := healthpb.NewHealthClient(w.conn)
					other, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := other.Recv(); err != nil {
						t.Fatal(err)
					}
					r := w.call(t.Context(), method)
					want := 0
					if fault == "truncate" && !isUnary(method) {
						want = 3
					}
					code := tt.code
					if tt.how == faults.BreakEnd && fault == "reset" {
						code = codes.Unknown // headers that end the stream are taken for a status, which is missing
					}
					if r.code != code || !strings.Contains(r.text, tt.text) || !slices.Equal(r.messages, upTo(want)) {
						t.Errorf("got %s %q and messages %v, want %s with %q after %d messages", r.code, r.text, r.messages, code, tt.text, want)
					}
					w.SetServing(false) // the other stream hears of it
					m, err := other.Recv()
					if lone := err == nil && m.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING; lone != tt.lone {
						t.Errorf("the other stream got %v, %v, want it to go on: %v", m, err, tt.lone)
					}
				})
			}
		}
	}
}

// A stream that is shorter than the messages before its fault breaks at its end.
func TestGRPCBreakOfAShortStream(t *testing.T) {
	w := startGRPC(t, faults.Spec{TruncateRate: 1, GRPC: faults.GRPC{Messages: 100}})
	if r := w.call(t.Context(), "Count"); r.code != codes.Internal || !slices.Equal(r.messages, upTo(sent)) {
		t.Errorf("got %+v, want all messages, then INTERNAL", r)
	}
	w = startGRPC(t, faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterMessage, Messages: 100}})
	if r := w.call(t.Context(), "Chat"); r.code != codes.Unavailable || !slices.Equal(r.messages, upTo(sent)) {
		t.Errorf("got %+v, want all messages, then UNAVAILABLE", r)
	}
}

func TestGRPCHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startGRPCPiped(t, faults.Spec{HangRate: 1})
		for _, method := range methods() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if r := w.call(ctx, method); r.code != codes.DeadlineExceeded || r.messages != nil {
				t.Errorf("%s: got %+v, want nothing until the deadline", method, r)
			}
			cancel()
		}
		go func() {
			time.Sleep(time.Hour)
			w.Stop()
		}()
		begun := time.Now()
		if r := w.call(t.Context(), "Process"); r.code != codes.Internal || time.Since(begun) != time.Hour {
			t.Errorf("got %+v after %v, want the stream reset when the server stops", r, time.Since(begun))
		}
	})
}

// A hanging server does not answer at the call's deadline either.
func TestGRPCHangOutlastsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, faults.Spec{HangRate: 1})
		network := pipenet.New()
		network.Serve(t, "data:80", s.Data(), cleartext)
		t.Cleanup(s.Stop)
		transport := network.Transport(t)
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://data/rebound.flaky.v1.Flaky/Process", bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/grpc")
		r.Header.Set("Grpc-Timeout", "1S")
		begun := time.Now()
		resp, err := transport.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took != time.Hour {
			t.Errorf("got %v after %v, want nothing for an hour", err, took)
		}
	})
}

func TestGRPCLatencyAndSlowMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startGRPCPiped(t, faults.Spec{
			SlowBodyRate: 1, Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: 3 * time.Second},
		})
		for method, want := range map[string]time.Duration{"Process": 4 * time.Second, "Chat": (3 + sent) * time.Second} {
			begun := time.Now()
			if r := w.call(t.Context(), method); r.code != codes.OK || time.Since(begun) != want || !slices.Equal(r.messages, upTo(all(method))) {
				t.Errorf("%s: got %+v after %v, want it whole after %v", method, r, time.Since(begun), want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := w.call(ctx, "Process"); r.code != codes.DeadlineExceeded {
			t.Errorf("got %+v, want the deadline during the latency", r)
		}
	})
}

// A full queue refuses with a pushback, and without headers before the status. Queued work whose
// deadline has passed gives its place away.
func TestGRPCCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startGRPCPiped(t, faults.Spec{
			Capacity: faults.Capacity{Workers: 1, ServiceTime: time.Minute, Queue: 1}, HonourDeadline: true,
			GRPC: faults.GRPC{After: faults.AfterMessage, Pushback: "stop"},
		})
		results := make(chan result, 2)
		for range 2 { // one in work, one in the queue
			go func() { results <- w.call(t.Context(), "Process") }()
			synctest.Wait()
		}
		r := w.call(t.Context(), "Count")
		if r.code != codes.Unavailable || r.text != "injected fault: overload (arrival 3)" || r.messages != nil || !slices.Equal(r.trailer.Get("grpc-retry-pushback-ms"), []string{"-1"}) {
			t.Errorf("got %+v, want it refused", r)
		}
		for range 2 {
			if r := <-results; r.code != codes.OK {
				t.Errorf("got %+v, want OK", r)
			}
		}
		go func() { results <- w.call(t.Context(), "Process") }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := w.call(ctx, "Process"); r.code != codes.DeadlineExceeded {
			t.Errorf("got %+v in the queue, want the deadline", r)
		}
		if r := w.call(t.Context(), "Process"); r.code != codes.OK || (<-results).code != codes.OK {
			t.Errorf("got %+v, want the place of the work that was dropped", r)
		}
	})
}

func TestGRPCFailFirstAndSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startGRPCPiped(t, faults.Spec{FailFirst: 2})
		for _, id := range []string{"a", "b"} {
			var got []codes.Code
			for range 4 {
				got = append(got, w.call(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", id), "Count").code)
			}
			if want := []codes.Code{codes.Unavailable, codes.Unavailable, codes.OK, codes.OK}; !slices.Equal(got, want) {
				t.Errorf("request %s: got %v, want %v", id, got, want)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := startGRPCPiped(t, faults.Spec{Schedule: []faults.Window{{At: time.Second, For: time.Second, ErrorRate: new(1.0), Statuses: []int{401}}}})
		for _, want := range []codes.Code{codes.OK, codes.Unauthenticated, codes.OK} {
			if r := w.call(t.Context(), "Process"); r.code != want {
				t.Errorf("got %+v, want %s", r, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// An order over gRPC is in the ledger like one over HTTP, and one key serves both.
func TestGRPCOrders(t *testing.T) {
	for effect, applied := range map[faults.Effect]int{faults.EffectBefore: 2, faults.EffectAfter: 0} {
		for name, spec := range map[string]faults.Spec{
			"error": {ErrorRate: 1}, "error after the reply": {ErrorRate: 1, GRPC: faults.GRPC{After: faults.AfterMessage}},
			"reset": {ResetRate: 1}, "truncate": {TruncateRate: 1}, "no status": {ResetRate: 1, GRPC: faults.GRPC{Break: faults.BreakEnd}},
		} {
			t.Run(string(effect)+" "+name, func(t *testing.T) {
				spec.Effect = effect
				w := startGRPC(t, spec)
				for range 2 {
					if r := w.call(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", "r-1"), "Order"); r.code == codes.OK {
						t.Errorf("got %+v, want a fault", r)
					}
				}
				want := flaky.Effect{Order: "o-1", RequestID: "r-1", Applied: applied, Attempts: 2}
				if got := w.ledger(t).Effects; len(got) != 1 || plain(got[0]) != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
	}
	t.Run("a key over both protocols", func(t *testing.T) {
		w := startGRPC(t, faults.Spec{})
		w.must(t, http.MethodPost, w.data+"/orders", `{"order": "o-1", "item": "tea"}`, "Idempotency-Key: k", "X-Request-Id: over-http")
		ctx := metadata.AppendToOutgoingContext(t.Context(), "idempotency-key", "k", "x-request-id", "over-grpc")
		got, err := w.client.Order(ctx, &flakypb.OrderRequest{Order: "o-1", Item: "tea"})
		if want := (&flakypb.OrderReply{Order: "o-1", RequestId: "over-http", IdempotencyKey: "k", Replayed: true}); err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
		want := flaky.Effect{Order: "o-1", RequestID: "over-http", IdempotencyKey: "k", Applied: 1, Attempts: 2}
		if got := w.ledger(t).Effects; len(got) != 1 || plain(got[0]) != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if _, err := w.client.Order(ctx, &flakypb.OrderRequest{Order: "o-1", Item: "coffee"}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("another body under the key: got %v, want INVALID_ARGUMENT", err)
		}
	})
}

// plain returns e without its place in the order of arrival.
func plain(e flaky.Effect) flaky.Effect {
	return flaky.Effect{Order: e.Order, RequestID: e.RequestID, IdempotencyKey: e.IdempotencyKey, Applied: e.Applied, Attempts: e.Attempts}
}

func TestGRPCHealth(t *testing.T) {
	w := startGRPC(t, faults.Spec{ErrorRate: 1})
	health := healthpb.NewHealthClient(w.conn)
	const serving, not = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "rebound.flaky.v1.Flaky"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{serving, not, serving, not} {
		w.SetServing(want == serving)
		if m, err := watch.Recv(); err != nil || m.GetStatus() != want {
			t.Fatalf("Watch: got %v, %v, want %s", m, err, want)
		}
		for _, service := range []string{"", "rebound.flaky.v1.Flaky"} {
			if m, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}); err != nil || m.GetStatus() != want {
				t.Errorf("Check %q: got %v, %v, want %s", service, m, err, want)
			}
		}
	}
	if _, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another service: got %v, want NOT_FOUND", err)
	}
	w.Stop()
	if m, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("Watch of a server that stops: got %v, %v, want UNAVAILABLE", m, err)
	}
	if got := w.ledger(t).Received; got != 0 {
		t.Errorf("got %d received, want none for health checks", got)
	}
}

func TestGRPCReflection(t *testing.T) {
	w := startGRPC(t, faults.Spec{ErrorRate: 1})
	stream, err := reflectionpb.NewServerReflectionClient(w.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	var names []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "rebound.flaky.v1.Flaky"}; !slices.Equal(names, want) {
		t.Errorf("got services %q, want %q", names, want)
	}
	files := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "rebound.flaky.v1.Flaky"}}).GetFileDescriptorResponse().GetFileDescriptorProto()
	var file descriptorpb.FileDescriptorProto
	if len(files) != 1 || proto.Unmarshal(files[0], &file) != nil || len(file.GetService()) != 1 || len(file.GetService()[0].GetMethod()) != 4 {
		t.Errorf("got %d files, the first %v, want one with the service's four methods", len(files), &file)
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end, want EOF", err)
	}
}

func TestGRPCBadRequests(t *testing.T) {
	w := startGRPC(t, faults.Spec{ErrorRate: 1, Statuses: []int{500}})
	long := strings.Repeat("x", 257)
	with := func(kv ...string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), kv...) }
	count := func(in *flakypb.CountRequest) error {
		stream, err := w.client.Count(t.Context(), in)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	order := func(ctx context.Context, name string) error {
		_, err := w.client.Order(ctx, &flakypb.OrderRequest{Order: name})
		return err
	}
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"long request id": {order(with("x-request-id", long), "o"), codes.InvalidArgument, "expected an X-Request-Id of at most 256 bytes"},
		"long key":        {order(with("idempotency-key", long), "o"), codes.InvalidArgument, "expected an idempotency-key of at most 256 bytes"},
		"long order":      {order(t.Context(), long), codes.InvalidArgument, "expected an order of at most 256 bytes, got 257"},
		"count too far":   {count(&flakypb.CountRequest{UpTo: 10_001}), codes.InvalidArgument, "expected up_to from 0 to 10000, got 10001"},
		"count backwards": {count(&flakypb.CountRequest{UpTo: -1}), codes.InvalidArgument, "got -1"},
		"long interval":   {count(&flakypb.CountRequest{IntervalMs: 60_001}), codes.InvalidArgument, "expected interval_ms from 0 to 60000, got 60001"},
		"large message":   {order(t.Context(), strings.Repeat("x", 65<<10)), codes.ResourceExhausted, "larger than max"},
		"unknown method":  {w.conn.Invoke(t.Context(), "/rebound.flaky.v1.Flaky/Nope", &flakypb.ProcessRequest{}, &flakypb.ProcessReply{}), codes.Unimplemented, "Nope"},
		"unknown service": {w.conn.Invoke(t.Context(), "/a.B/C", &flakypb.ProcessRequest{}, &flakypb.ProcessReply{}), codes.Unimplemented, "a.B"},
	} {
		if status.Code(tt.err) != tt.code || !strings.Contains(status.Convert(tt.err).Message(), tt.text) {
			t.Errorf("%s: got %v, want %s with %q", name, tt.err, tt.code, tt.text)
		}
	}
	if got := w.ledger(t).Effects; len(got) != 0 {
		t.Errorf("got %+v in the ledger, want nothing", got)
	}
	a := w.must(t, http.MethodPost, w.data+"/rebound.flaky.v1.Flaky/Process", "", "Content-Type: application/grpc")
	if got := wantProblem(t, a, http.StatusNotFound); !strings.Contains(got, "gRPC over HTTP/2") {
		t.Errorf("over HTTP/1.1: got %q, want it to name HTTP/2", got)
	}
}
