package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// grpcServer starts a real gRPC server on loopback whose methods all run h, and returns its URL.
func grpcServer(t *testing.T, h func(stream grpc.ServerStream) error) (url string) {
	t.Helper()
	return "h2c://" + grpctest.Serve(t, h)
}

// grpcGateway serves a gateway on loopback, and returns it with a client of it.
func grpcGateway(t *testing.T, p transport.Policy, routes ...gateway.Route) (*gateway.Gateway, *grpc.ClientConn) {
	t.Helper()
	c := gateway.DefaultConfig()
	c.Policies[gateway.DefaultPolicyName] = p
	for i := range routes {
		routes[i].Policy = gateway.DefaultPolicyName
	}
	c.Routes = routes
	return grpcGatewayOf(t, c, insecure.NewCredentials())
}

// grpcGatewayOf is grpcGateway for a whole configuration.
func grpcGatewayOf(t *testing.T, c gateway.Config, with credentials.TransportCredentials) (*gateway.Gateway, *grpc.ClientConn) {
	t.Helper()
	return grpcGatewayWith(t, c, with, gateway.Options{})
}

func grpcGatewayWith(t *testing.T, c gateway.Config, with credentials.TransportCredentials, o gateway.Options) (*gateway.Gateway, *grpc.ClientConn) {
	t.Helper()
	g, address := serveGRPC(t, c, o)
	client, err := grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(with),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(grpctest.Codec{})), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return g, client
}

// serveGRPC serves a gateway on loopback as the client command does, and returns its address.
func serveGRPC(t *testing.T, c gateway.Config, o gateway.Options) (*gateway.Gateway, string) {
	t.Helper()
	g, err := gateway.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := &http.Server{
		Handler: g, TLSConfig: g.TLS(), Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2000}, // as package serve does
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if s.TLSConfig != nil {
		go func() { _ = s.ServeTLS(l, "", "") }()
	} else {
		go func() { _ = s.Serve(l) }()
	}
	t.Cleanup(func() { _ = s.Close() })
	return g, l.Addr().String()
}

// counting returns a policy whose circuit counts and never opens.
func counting() transport.Policy {
	p := calm()
	p.Breaker = transport.DefaultPolicy().Breaker
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 1_000_000
	return p
}

// Every status of gRPC, at each point at which a server can send it, for unary calls and for
// streams: how often the call is made, what its caller gets, and what the circuit counts.
func TestGRPCStatuses(t *testing.T) {
	var attempts atomic.Int64
	upstream := grpcServer(t, func(s grpc.ServerStream) error {
		attempts.Add(1)
		md, _ := metadata.FromIncomingContext(s.Context())
		code, _ := strconv.Atoi(md.Get("code")[0])
		var in grpctest.Message
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		switch md.Get("stage")[0] {
		case "after headers":
			_ = s.SendHeader(metadata.Pairs("seen", "yes"))
		case "after a message":
			_ = s.SendMsg(&in)
		}
		return status.Error(codes.Code(code), fmt.Sprintf("50 %% of %s", codes.Code(code)))
	})
	healthy := map[codes.Code]bool{
		codes.OK: true, codes.Canceled: true, codes.InvalidArgument: true, codes.NotFound: true, codes.AlreadyExists: true,
		codes.PermissionDenied: true, codes.FailedPrecondition: true, codes.Aborted: true, codes.OutOfRange: true,
		codes.Unimplemented: true, codes.Unauthenticated: true,
	}
	neutral := map[codes.Code]bool{codes.DeadlineExceeded: true, codes.ResourceExhausted: true}
	for _, kind := range []string{"unary", "stream"} {
		for _, idempotent := range []bool{false, true} {
			for _, stage := range []string{"at once", "after headers", "after a message"} {
				for code := codes.OK; code <= codes.Unauthenticated; code++ {
					if kind == "unary" && code == codes.OK && stage != "after a message" {
						continue // a unary call that ends well has a message
					}
					t.Run(fmt.Sprintf("%s %s %s idempotent=%v", kind, code, stage, idempotent), func(t *testing.T) {
						g, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream, GRPC: gateway.RouteGRPC{Idempotent: idempotent}})
						attempts.Store(0)
						want := int64(1)
						if code == codes.Unavailable && stage == "at once" && idempotent {
							want = 3
						}
						ctx := metadata.AppendToOutgoingContext(t.Context(), "code", strconv.Itoa(int(code)), "stage", stage)
						var err error
						if kind == "unary" {
							out, in := grpctest.Message("hello"), grpctest.Message(nil)
							err = client.Invoke(ctx, grpctest.Method, &out, &in)
						} else {
							err = grpctest.RoundTrip(ctx, client, stage == "after a message")
						}
						if status.Code(err) != code || code != codes.OK && status.Convert(err).Message() != fmt.Sprintf("50 %% of %s", code) {
							t.Errorf("the caller got %v, want %s with the server's message", err, code)
						}
						if got := attempts.Load(); got != want {
							t.Errorf("%d attempts, want %d", got, want)
						}
						ok, failed := counts(t, g)
						wantOK, wantFailed := 0, int(want)
						if healthy[code] {
							wantOK, wantFailed = int(want), 0
						}
						if neutral[code] {
							wantOK, wantFailed = 0, 0
						}
						if ok != wantOK || failed != wantFailed {
							t.Errorf("the circuit counts %d successes and %d failures, want %d and %d", ok, failed, wantOK, wantFailed)
						}
					})
				}
			}
		}
	}
}

// counts returns what the only circuit has counted.
func counts(t *testing.T, g *gateway.Gateway) (ok, failed int) {
	t.Helper()
	for _, u := range g.Upstreams() {
		ok, failed = ok+u.Breaker.Successes, failed+u.Breaker.Failures
	}
	return ok, failed
}

// Observers see the status and the message that the caller got, whoever sent it, and those of the
// attempts before.
func TestGRPCStatusForObservers(t *testing.T) {
	upstream := grpcServer(t, func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		switch md.Get("do")[0] {
		case "at once":
			return status.Error(codes.Unavailable, "not yet: 5 %")
		case "after a message":
			out := grpctest.Message("hello")
			_ = s.SendMsg(&out)
			return status.Error(codes.DataLoss, strings.Repeat("x", 600))
		case "hang after a message":
			out := grpctest.Message("hello")
			_ = s.SendMsg(&out)
			return grpctest.Hang(s)
		}
		return nil
	})
	const long, short = time.Minute, 4 * time.Second
	for name, c := range map[string]struct {
		path                     string
		limit                    time.Duration
		attempts                 int
		status, message, attempt string // the beginnings of the messages
	}{
		"well":                 {"/test.Test/Call", long, 1, "OK", "", ""},
		"at once":              {"/test.Test/Call", long, 3, "UNAVAILABLE", "not yet: 5 %", "not yet: 5 %"},
		"after a message":      {"/test.Test/Call", long, 1, "DATA_LOSS", strings.Repeat("x", 512) + "…", ""},
		"hang after a message": {"/test.Test/Call", short, 1, "DEADLINE_EXCEEDED", "deadline_exceeded: the response of", ""}, // if the caller's own clock is not first
		"no route":             {"/other.Other/Call", long, 0, "UNIMPLEMENTED", "no_route: no route matches", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan observe.Call, 1)
			config := gateway.ForUpstream(upstream)
			config.Policies[gateway.DefaultPolicyName] = counting()
			config.Routes[0].Match, config.Routes[0].GRPC.Idempotent = "/test.Test/", true
			_, client := grpcGatewayWith(t, config, insecure.NewCredentials(), gateway.Options{Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) {
				report := *c.Report
				report.Attempts = slices.Clone(report.Attempts)
				c.Report = &report
				seen <- c
			}}}})
			grpctest.Connect(t, client)
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "do", name), c.limit)
			defer cancel()
			s, err := client.NewStream(ctx, grpctest.Bidi(), c.path)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.CloseSend()
			for err == nil {
				var in grpctest.Message
				err = s.RecvMsg(&in)
			}
			got := <-seen
			if got.Report.Reason == resilience.ReasonCallerCanceled && c.status == "DEADLINE_EXCEEDED" {
				c.status, c.message = "CANCELLED", ""
			}
			if got.GRPCStatus != c.status || !strings.HasPrefix(got.GRPCMessage, c.message) || (got.GRPCMessage == "") != (c.message == "") {
				t.Errorf("got %s %q, want %s %q", got.GRPCStatus, got.GRPCMessage, c.status, c.message)
			}
			if len(got.Report.Attempts) != c.attempts {
				t.Fatalf("got %d attempts, want %d", len(got.Report.Attempts), c.attempts)
			}
			for _, a := range got.Report.Attempts {
				if a.Message != c.attempt {
					t.Errorf("attempt %d: got message %q, want %q", a.Number, a.Message, c.attempt)
				}
			}
		})
	}
}

// h2cTransport returns a client of HTTP/2 without TLS. Unlike a gRPC library, it has no clock for
// grpc-timeout and never ends a call itself.
func h2cTransport(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// Observers learn whether the caller's time ended a gRPC call: the upstream is not to blame then.
// They also learn what status the caller's library makes of an answer that is not gRPC's.
func TestGRPCWhoseTimeWasUp(t *testing.T) {
	plain := func(code int) string {
		return server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }).URL
	}
	hangs := func(before string, after error) string {
		return grpcServer(t, func(s grpc.ServerStream) error {
			if out := grpctest.Message(before); before != "" {
				_ = s.SendMsg(&out)
			}
			if after != nil {
				return after
			}
			<-s.Context().Done()
			return status.FromContextError(s.Context().Err()).Err()
		})
	}
	own := status.Error(codes.DeadlineExceeded, "x")
	for name, c := range map[string]struct {
		upstream     string
		timeout      string // the caller's
		ours         time.Duration
		http         int
		status       string
		callersDoing bool
	}{
		"the caller's, no answer":                  {hangs("", nil), "50m", 5 * time.Second, 200, "DEADLINE_EXCEEDED", true},
		"the caller's, which was nothing":          {hangs("", nil), "0m", 5 * time.Second, 200, "DEADLINE_EXCEEDED", true},
		"the caller's, after a message":            {hangs("hello", nil), "100m", 5 * time.Second, 200, "DEADLINE_EXCEEDED", true},
		"ours, no answer":                          {hangs("", nil), "30S", 100 * time.Millisecond, 200, "DEADLINE_EXCEEDED", false},
		"ours, of a caller without one":            {hangs("", nil), "", 100 * time.Millisecond, 200, "DEADLINE_EXCEEDED", false},
		"the upstream's":                           {hangs("", own), "30S", 5 * time.Second, 200, "DEADLINE_EXCEEDED", false},
		"the upstream's, after a message":          {hangs("hello", own), "30S", 5 * time.Second, 200, "DEADLINE_EXCEEDED", false},
		"not the time":                             {hangs("hello", status.Error(codes.DataLoss, "x")), "30S", 5 * time.Second, 200, "DATA_LOSS", false},
		"a plain 404":                              {plain(404), "", 5 * time.Second, 404, "UNIMPLEMENTED", false},
		"a plain 403":                              {plain(403), "", 5 * time.Second, 403, "PERMISSION_DENIED", false},
		"a plain 400":                              {plain(400), "", 5 * time.Second, 400, "INTERNAL", false},
		"a plain 503":                              {plain(503), "", 5 * time.Second, 503, "UNAVAILABLE", false},
		"a plain 200, which has no status of gRPC": {plain(200), "", 5 * time.Second, 200, "UNKNOWN", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan observe.Call, 1)
			p := counting()
			p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = c.ours, c.ours, 1
			config := gateway.ForUpstream(c.upstream)
			config.Policies[gateway.DefaultPolicyName] = p
			_, address := serveGRPC(t, config, gateway.Options{Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) { seen <- c }}}})
			r := request(t, http.MethodPost, "http://"+address+"/test.Test/Call", strings.NewReader(""))
			r.Header.Set("Content-Type", "application/grpc")
			r.Header.Set("Te", "trailers")
			if c.timeout != "" {
				r.Header.Set("Grpc-Timeout", c.timeout)
			}
			resp, err := h2cTransport(t).RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Error(err)
			}
			_ = resp.Body.Close()
			got := <-seen
			if got.Status != c.http || got.GRPCStatus != c.status || got.CallersDoing != c.callersDoing {
				t.Errorf("got %d, %s, the caller's doing: %v, want %d, %s, %v", got.Status, got.GRPCStatus, got.CallersDoing, c.http, c.status, c.callersDoing)
			}
		})
	}
}

// A call whose time is up before its first attempt is not told that the upstream did not answer,
// nor how an attempt ended that was never made.
func TestGRPCWithoutTimeForAnAttempt(t *testing.T) {
	upstream := grpcServer(t, grpctest.Echo(func(string) {}))
	_, address := serveGRPC(t, gateway.ForUpstream(upstream), gateway.Options{})
	r := request(t, http.MethodPost, "http://"+address+"/test.Test/Call", strings.NewReader(""))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	r.Header.Set("Grpc-Timeout", "1n")
	resp, err := h2cTransport(t).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := "deadline_exceeded: the time was up before " + upstream + " was called"
	if got := resp.Header.Get("Grpc-Message"); got != want {
		t.Errorf("got message %q, want %q", got, want)
	}
}

// A caller that makes the gateway behind refuse its calls does not open the circuit of the gateway
// before it: a forged Via, which it can read in any response, or a path that leads out of a route.
func TestGRPCRefusedByTheGatewayBehind(t *testing.T) {
	behind := gateway.ForUpstream(grpcServer(t, grpctest.Echo(func(string) {})) + "/prefix")
	_, address := serveGRPC(t, behind, gateway.Options{})
	before := gateway.ForUpstream("h2c://" + address)
	before.Policies[gateway.DefaultPolicyName] = counting()
	g, client := grpcGatewayOf(t, before, insecure.NewCredentials())
	out, in, header := grpctest.Message("hello"), grpctest.Message(nil), metadata.MD{}
	if err := client.Invoke(t.Context(), "/test.Test/Echo", &out, &in, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	via, _, _ := strings.Cut(strings.Join(header.Get("via"), ""), ",")
	for name, c := range map[string]struct {
		path, via string
		code      codes.Code
		reason    resilience.Reason
	}{
		"a loop": {"/test.Test/Echo", via, codes.FailedPrecondition, resilience.ReasonLoopDetected},
		"a path": {"/../Echo", "", codes.InvalidArgument, resilience.ReasonInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.via != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "via", c.via)
			}
			ok, _ := counts(t, g)
			err := client.Invoke(ctx, c.path, &out, &in)
			if s := status.Convert(err); s.Code() != c.code || !strings.HasPrefix(s.Message(), string(c.reason)+": ") {
				t.Errorf("got %v, want %s with the reason %s", err, c.code, c.reason)
			}
			if now, failed := counts(t, g); now != ok+1 || failed != 0 {
				t.Errorf("the circuit counts %d more successes and %d failures, want 1 and 0: the gateway behind works", now-ok, failed)
			}
		})
	}
}

// A response that breaks off ends with an error of the gateway, which has details like any other.
func TestGRPCResponseThatBreaksOffHasDetails(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "\x00\x00\x00\x00\x05hello")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	speakBoth(up)
	up.Start()
	t.Cleanup(up.Close)
	upstream := strings.Replace(up.URL, "http://", "h2c://", 1)
	_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream})
	stream, err := client.NewStream(t.Context(), grpctest.Bidi(), "/test.Test/Call")
	if err != nil {
		t.Fatal(err)
	}
	var in grpctest.Message
	if err := stream.RecvMsg(&in); string(in) != "hello" {
		t.Fatalf("got message %q and %v, want hello", in, err)
	}
	s := status.Convert(stream.RecvMsg(&in))
	if s.Code() != codes.Unavailable || !strings.HasPrefix(s.Message(), "body_failed: ") || len(s.Details()) != 1 {
		t.Fatalf("got %v with details %v, want UNAVAILABLE, the reason body_failed and one detail", s, s.Details())
	}
	info, _ := s.Details()[0].(*errdetails.ErrorInfo)
	want := map[string]string{"route": "all", "upstream": upstream, "attempts": "1"}
	if info.GetReason() != "body_failed" || info.GetDomain() != "rebound" || !maps.Equal(info.GetMetadata(), want) {
		t.Errorf("got details %v, want reason body_failed of domain rebound and %v", info, want)
	}
}

// A server says with a pushback whether, and when, it wants another attempt.
func TestGRPCPushback(t *testing.T) {
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
			upstream := grpcServer(t, func(s grpc.ServerStream) error {
				md, _ := metadata.FromIncomingContext(s.Context())
				mu.Lock()
				before = append(before, strings.Join(md.Get("grpc-previous-rpc-attempts"), ","))
				mu.Unlock()
				s.SetTrailer(metadata.Pairs("grpc-retry-pushback-ms", c.pushback))
				return status.Error(c.code, "x")
			})
			_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream, GRPC: gateway.RouteGRPC{Idempotent: true}})
			start := time.Now()
			err := grpctest.RoundTrip(t.Context(), client, false)
			if status.Code(err) != c.code || time.Since(start) < c.atLeast {
				t.Errorf("got %v after %v, want %s after at least %v", err, time.Since(start), c.code, c.atLeast)
			}
			if want := []string{"", "1", "2"}[:c.attempts]; strings.Join(before, ";") != strings.Join(want, ";") {
				t.Errorf("the server saw attempts with grpc-previous-rpc-attempts %q, want %q", before, want)
			}
		})
	}
}

// A call that its caller's gRPC library retries already is not retried by the gateway too.
func TestGRPCRetriedByTheCaller(t *testing.T) {
	var attempts atomic.Int64
	upstream := grpcServer(t, func(grpc.ServerStream) error {
		attempts.Add(1)
		return status.Error(codes.Unavailable, "x")
	})
	_, client := grpcGateway(t, counting(), gateway.Route{Name: "all", Match: "/", Upstream: upstream, GRPC: gateway.RouteGRPC{Idempotent: true}})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "grpc-previous-rpc-attempts", "1")
	if err := grpctest.RoundTrip(ctx, client, false); status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
		t.Errorf("got %v after %d attempts, want UNAVAILABLE after one", err, attempts.Load())
	}
}

// A caller's deadline ends a call in time, whether the upstream answers nothing or stops in the
// middle, and the upstream sees what is left of it. Until the headers, our own shorter limit wins.
func TestGRPCDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		caller, ours time.Duration
		stops        bool // after a message
		sees         time.Duration
		within       time.Duration
	}{
		"the caller's, no answer":       {100 * time.Millisecond, 5 * time.Second, false, 100 * time.Millisecond, 130 * time.Millisecond},
		"the caller's, after a message": {100 * time.Millisecond, 5 * time.Second, true, 100 * time.Millisecond, 130 * time.Millisecond},
		"ours":                          {10 * time.Second, 150 * time.Millisecond, false, 10 * time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			left := make(chan time.Duration, 5)
			upstream := grpcServer(t, func(s grpc.ServerStream) error {
				deadline, _ := s.Context().Deadline()
				left <- time.Until(deadline)
				if c.stops {
					out := grpctest.Message("hello")
					_ = s.SendMsg(&out)
				}
				return grpctest.Hang(s)
			})
			p := counting()
			p.Timeout, p.AttemptTimeout = c.ours, c.ours
			_, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: "/", Upstream: upstream})
			// A busy machine makes some calls late, and some do not reach the upstream in time.
			wait.OneOf(t, 5, func() string {
				ctx, cancel := context.WithTimeout(t.Context(), c.caller)
				defer cancel()
				start := time.Now()
				if err := grpctest.RoundTrip(ctx, client, c.stops); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("got %v, want DEADLINE_EXCEEDED", err)
				}
				if took := time.Since(start); took > c.within {
					return fmt.Sprintf("the call took %v, want at most %v", took, c.within)
				}
				var most time.Duration // that was left
				for range len(left) {
					got := <-left
					if most = max(most, got); got > c.sees {
						t.Errorf("the upstream saw %v left, want at most %v", got, c.sees)
					}
				}
				if most < c.sees/2 {
					return fmt.Sprintf("the upstream saw %v left, want about %v", most, c.sees)
				}
				return ""
			})
		})
	}
}

// What the gateway itself has to say reaches the caller as a gRPC error, with the reason in its
// message and in its details.
func TestGRPCErrorsOfTheGateway(t *testing.T) {
	dead := grpcServer(t, func(grpc.ServerStream) error { return status.Error(codes.Internal, "x") })
	hangs := grpcServer(t, func(s grpc.ServerStream) error { <-s.Context().Done(); return nil })
	for name, c := range map[string]struct {
		match, upstream string
		change          func(*transport.Policy)
		calls           int // of which the last counts
		code            codes.Code
		reason          resilience.Reason
		retryIn         bool
	}{
		"an open circuit": {"/", dead, func(p *transport.Policy) {
			p.Breaker.ConsecutiveFailures, p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 2, time.Minute, time.Minute
		}, 3, codes.Unavailable, resilience.ReasonBreakerOpen, true},
		"a rate limit": {"/", dead, func(p *transport.Policy) {
			p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.01, Burst: 1}
		}, 2, codes.ResourceExhausted, resilience.ReasonRateLimited, true},
		"no connection": {"/", "h2c://" + rawhttp.FreeAddress(t), func(*transport.Policy) {}, 1, codes.Unavailable, resilience.ReasonMaxAttempts, false},
		"a time limit": {"/", hangs, func(p *transport.Policy) {
			p.Timeout, p.AttemptTimeout = 100*time.Millisecond, 100*time.Millisecond
		}, 1, codes.DeadlineExceeded, resilience.ReasonDeadlineExceeded, false},
		"HTTP/1 to a gRPC server": {"/", strings.Replace(dead, "h2c://", "http://", 1), func(*transport.Policy) {}, 1, codes.Unavailable, resilience.ReasonMethodNotIdempotent, false},
		"no route":                {"/other", dead, func(*transport.Policy) {}, 1, codes.Unimplemented, resilience.ReasonNoRoute, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := counting()
			c.change(&p)
			_, client := grpcGateway(t, p, gateway.Route{Name: "all", Match: c.match, Upstream: c.upstream})
			var err error
			for range c.calls {
				err = grpctest.RoundTrip(t.Context(), client, false)
			}
			s := status.Convert(err)
			if s.Code() != c.code || !strings.HasPrefix(s.Message(), string(c.reason)+": ") {
				t.Errorf("got %v, want %s with a message that begins with %s", err, c.code, c.reason)
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
			if info.GetReason() != string(c.reason) || info.GetDomain() != "rebound" {
				t.Errorf("got details %v, want reason %s of domain rebound", s.Details(), c.reason)
			}
			if (retry != nil) != c.retryIn || c.retryIn && retry.GetRetryDelay().AsDuration() < time.Second {
				t.Errorf("got RetryInfo %v, want one: %v", retry, c.retryIn)
			}
		})
	}
}
