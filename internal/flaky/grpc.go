package flaky

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/flaky/flakypb"
	"github.com/rebound-dev/rebound/pkg/faults"
)

const (
	defaultCount = 10     // numbers of a Count that names none
	maxCount     = 10_000 // numbers of a Count
	maxInterval  = time.Minute
)

// grpcCalls returns the handler of gRPC calls, which must arrive over HTTP/2.
func (s *Server) grpcCalls() http.Handler {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxBody), grpc.StreamInterceptor(s.endWatches))
	flakypb.RegisterFlakyServer(server, service{Server: s})
	healthpb.RegisterHealthServer(server, s.health)
	reflection.Register(server)

	serve := func(w http.ResponseWriter, r *http.Request) {
		c := &call{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		c.request = r
		server.ServeHTTP(c, r)
		c.finish()
	}
	mux := http.NewServeMux()
	for name, info := range server.GetServiceInfo() {
		for _, method := range info.Methods {
			mux.HandleFunc("/"+name+"/"+method.Name, serve) // a pattern each, which names its spans
		}
	}
	mux.HandleFunc("/", serve)
	return mux
}

// endWatches ends the streams that watch the health when the server stops: they never end by
// themselves.
func (s *Server) endWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod != healthpb.Health_Watch_FullMethodName {
		return next(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.stopped, cancel)()
	err := next(srv, watch{stream, ctx})
	if s.stopped.Err() != nil {
		return status.Error(codes.Unavailable, "the server is stopping")
	}
	return err
}

// watch is a stream with another context.
type watch struct {
	grpc.ServerStream
	ctx context.Context
}

func (w watch) Context() context.Context { return w.ctx }

// service is the gRPC service.
type service struct {
	flakypb.UnimplementedFlakyServer
	*Server
}

// Process answers like GET /process.
func (s service) Process(ctx context.Context, _ *flakypb.ProcessRequest) (*flakypb.ProcessReply, error) {
	c, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	fate, err := s.run(ctx, c, s.faults.Next(c.id), nil)
	if err != nil {
		return nil, err
	}
	c.unary(fate)
	reply := &flakypb.ProcessReply{
		Status: "ok", RequestId: c.id, Attempt: int64(c.attempt),
		PreviousAttempts: c.request.Header.Get("Grpc-Previous-Rpc-Attempts"), Instance: s.options.Instance,
	}
	if fate.Fault != faults.FaultNone {
		reply.Fault = string(fate.Fault)
	}
	return reply, nil
}

// Order answers like POST /orders.
func (s service) Order(ctx context.Context, in *flakypb.OrderRequest) (*flakypb.OrderReply, error) {
	c, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	o := order{requestID: c.id, key: c.request.Header.Get("Idempotency-Key")}
	if len(o.key) > maxID {
		return nil, status.Errorf(codes.InvalidArgument, "expected an idempotency-key of at most %d bytes", maxID)
	}
	// As the body of POST /orders, so that one key serves the same order over both protocols.
	body, err := json.Marshal(struct {
		Order string `json:"order,omitempty"`
		Item  string `json:"item,omitempty"`
	}{in.GetOrder(), in.GetItem()})
	if err != nil {
		return nil, fmt.Errorf("encoding the order: %w", err)
	}
	if err := o.parse(body); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	o, err = s.ledger.arrive(o)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}

	drawn := s.faults.Next(c.id)
	answer := orderAnswer{Order: o.name, RequestID: c.id, IdempotencyKey: o.key}
	fate, err := s.run(ctx, c, drawn, func() {
		if drawn.TakesEffect() {
			answer = s.ledger.apply(o)
		}
	})
	if err != nil {
		return nil, err
	}
	c.unary(fate)
	return &flakypb.OrderReply{Order: answer.Order, RequestId: answer.RequestID, IdempotencyKey: answer.IdempotencyKey, Replayed: answer.Replayed}, nil
}

// Count sends numbers.
func (s service) Count(in *flakypb.CountRequest, stream grpc.ServerStreamingServer[flakypb.CountReply]) error {
	ctx := stream.Context()
	c, err := s.begin(ctx)
	if err != nil {
		return err
	}
	upTo, interval := in.GetUpTo(), time.Duration(in.GetIntervalMs())*time.Millisecond
	if upTo < 0 || upTo > maxCount {
		return status.Errorf(codes.InvalidArgument, "expected up_to from 0 to %d, got %d", maxCount, upTo)
	}
	if interval < 0 || interval > maxInterval {
		return status.Errorf(codes.InvalidArgument, "expected interval_ms from 0 to %d, got %d", maxInterval.Milliseconds(), in.GetIntervalMs())
	}
	if upTo == 0 {
		upTo = defaultCount
	}
	fate, err := s.run(ctx, c, s.faults.Next(c.id), nil)
	if err != nil {
		return err
	}
	most := c.stream(fate)
	for n := int32(1); n <= upTo && int(n) <= most; n++ {
		if n > 1 && !faults.Pause(ctx, interval) {
			return status.FromContextError(ctx.Err()).Err()
		}
		if err := stream.Send(&flakypb.CountReply{Number: n}); err != nil {
			return err
		}
	}
	return nil
}

// Chat sends messages back.
func (s service) Chat(stream grpc.BidiStreamingServer[flakypb.ChatMessage, flakypb.ChatMessage]) error {
	ctx := stream.Context()
	c, err := s.begin(ctx)
	if err != nil {
		return err
	}
	fate, err := s.run(ctx, c, s.faults.Next(c.id), nil)
	if err != nil {
		return err
	}
	most := c.stream(fate)
	for n := 1; n <= most; n++ {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		message.Number = int64(n)
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// begin counts an attempt and returns its call.
func (s service) begin(ctx context.Context) (*call, error) {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		return nil, status.Error(codes.Internal, "the call did not come through the data port")
	}
	var err error
	if c.id, c.attempt, err = s.identify(c.request.Header); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return c, grpc.SetHeader(ctx, metadata.Pairs("x-request-id", c.id))
}

// run spends the time that a call takes, and returns its final fate. It fails if the caller has
// left.
func (s service) run(ctx context.Context, c *call, fate faults.Fate, done func()) (faults.Fate, error) {
	var deadline time.Time
	if fate.HonourDeadline {
		deadline, _ = ctx.Deadline()
	}
	fate, stayed := s.spend(ctx, c.request.URL.Path, fate, deadline, done)
	if !stayed {
		return fate, status.FromContextError(ctx.Err()).Err()
	}
	switch fate.Fault {
	case faults.FaultHang:
		// The end of ctx is also the deadline, at which the caller must give up by itself.
		c.strike.Store(&strike{Fate: fate})
		s.hang(c.request.Context())
	case faults.FaultOverload:
		fate.GRPC.Code = int(codes.Unavailable)
	case faults.FaultDropped:
		fate.GRPC.Code = int(codes.DeadlineExceeded)
	default:
	}
	return fate, nil
}
