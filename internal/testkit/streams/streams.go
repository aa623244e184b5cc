// Package streams has a gRPC server whose streams break in every way that a network has, and a
// caller that notices if a message is lost or arrives twice.
package streams

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/testkit/grpctest"
)

// Fault is what happens to a stream after some messages.
type Fault string

// The faults.
const (
	Status Fault = "status" // it ends with UNAVAILABLE
	Reset  Fault = "reset"  // RST_STREAM
	Hang   Fault = "hang"   // no more messages, until its caller's deadline
	Lost   Fault = "lost"   // its connection closes, without a word
	GoAway Fault = "goaway" // its connection closes after a GOAWAY
)

// The metadata with which a caller asks for a fault.
const (
	keyFault = "fault"
	keyAfter = "after"
)

// Server answers every message of a stream with itself.
type Server struct {
	Address string
	// Hangs makes new streams hang before their headers.
	Hangs atomic.Bool
	twice atomic.Int64
	seen  sync.Map
}

// Start starts a server on loopback. It speaks HTTP/2 without TLS.
func Start(t testing.TB) *Server {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Address: l.Addr().String()}
	server := &http.Server{
		Handler: s, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connection{}, c) },
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return s
}

type connection struct{}

// ServeHTTP serves a stream.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Hangs.Load() {
		<-r.Context().Done()
		return
	}
	fault, after := Fault(r.Header.Get(keyFault)), -1
	if fault != "" {
		after, _ = strconv.Atoi(r.Header.Get(keyAfter))
	}
	w.Header().Set("Content-Type", "application/grpc")
	if fault == GoAway {
		w.Header().Set("Connection", "close") // net/http sends GOAWAY with the headers
	}
	code := codes.OK
	for n := 0; ; n++ {
		if n == after {
			switch fault {
			case Status:
				code = codes.Unavailable
			case Reset:
				panic(http.ErrAbortHandler)
			case Hang:
				<-r.Context().Done()
				return
			case Lost, GoAway:
				_ = r.Context().Value(connection{}).(net.Conn).Close()
				return
			}
			break
		}
		frame, err := read(r.Body)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
		if _, before := s.seen.LoadOrStore(string(frame), true); before {
			s.twice.Add(1)
		}
		if _, err := w.Write(frame); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(int(code)))
}

// read returns a message with its prefix.
func read(r io.Reader) ([]byte, error) {
	prefix := make([]byte, 5)
	if _, err := io.ReadFull(r, prefix); err != nil {
		return nil, err
	}
	frame := append(prefix, make([]byte, binary.BigEndian.Uint32(prefix[1:]))...)
	_, err := io.ReadFull(r, frame[5:])
	return frame, err
}

// The name of each message has the number of its stream, so that all differ.
var number atomic.Int64 //nolint:gochecknoglobals // streams of several runs may use one server

const messages = 6

// exchange sends messages one by one, and wants each of them back, once and in order. ended is the
// stream's error. wrong says what no stream may do, however it ends.
func exchange(ctx context.Context, conn grpc.ClientConnInterface) (ended, wrong error) {
	s, err := conn.NewStream(ctx, grpctest.Bidi(), grpctest.Method, grpc.ForceCodec(grpctest.Codec{}))
	if err != nil {
		return err, nil
	}
	me := number.Add(1)
	for i := range messages {
		out := grpctest.Message(fmt.Sprintf("%d of stream %d", i, me))
		if err := s.SendMsg(&out); err != nil && !errors.Is(err, io.EOF) {
			return err, nil
		}
		var in grpctest.Message
		switch err := s.RecvMsg(&in); {
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("message %d is lost, and the stream ended with OK", i)
		case err != nil:
			return err, nil
		case string(in) != string(out):
			return nil, fmt.Errorf("message %d: got %q", i, in)
		}
	}
	if err := s.CloseSend(); err != nil {
		return err, nil
	}
	var in grpctest.Message
	switch err := s.RecvMsg(&in); {
	case err == nil:
		return nil, fmt.Errorf("got %q after the last message", in)
	case errors.Is(err, io.EOF):
		return nil, nil
	default:
		return err, nil
	}
}

// Call makes a stream without a fault. The error is that of the stream.
func Call(ctx context.Context, conn grpc.ClientConnInterface) error {
	ended, wrong := exchange(ctx, conn)
	return errors.Join(ended, wrong)
}

// Run makes so many streams, 50 at a time. Each nth has one of the faults, in turn, after 0 to 5
// messages. No message may arrive twice, and a stream without all its messages must end with an
// error: with UNAVAILABLE after Status, and with DEADLINE_EXCEEDED after Hang. The others must
// succeed unless their connection is lost with that of another stream; then a quarter of all must.
// It returns how many streams succeeded, and the messages of the errors of the others.
func (s *Server) Run(t testing.TB, conn grpc.ClientConnInterface, streams, nth int, faults ...Fault) (ok int, failed []string) {
	t.Helper()
	shared := false // the end of the connection
	for _, f := range faults {
		shared = shared || f == Lost || f == GoAway
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	turns := make(chan int)
	for range 50 {
		work.Go(func() {
			for n := range turns {
				fault, ended, wrong := one(t.Context(), conn, n, nth, faults)
				mu.Lock()
				switch {
				case wrong != nil:
					t.Errorf("stream %d with fault %q: %v", n, fault, wrong)
				case ended == nil && fault != "":
					t.Errorf("stream %d with fault %q ended with OK", n, fault)
				case ended == nil:
					ok++
				case !expected(fault, status.Code(ended), shared):
					t.Errorf("stream %d with fault %q: %v", n, fault, ended)
				case fault == "" && !shared:
					t.Errorf("stream %d without a fault: %v", n, ended)
				default:
					failed = append(failed, status.Convert(ended).Message())
				}
				mu.Unlock()
			}
		})
	}
	for n := range streams {
		turns <- n
	}
	close(turns)
	work.Wait()
	if n := s.twice.Load(); n > 0 {
		t.Errorf("%d messages arrived twice", n)
	}
	if ok < streams/4 || len(failed) == 0 {
		t.Errorf("%d streams succeeded and %d failed, want at least %d and 1", ok, len(failed), streams/4)
	}
	return ok, failed
}

// expected reports whether a stream may end with code. Some faults allow any, and so does the loss
// of a connection, which may come first.
func expected(fault Fault, code codes.Code, shared bool) bool {
	switch {
	case shared:
		return true
	case fault == Status:
		return code == codes.Unavailable
	case fault == Hang:
		return code == codes.DeadlineExceeded
	}
	return true
}

func one(ctx context.Context, conn grpc.ClientConnInterface, n, nth int, faults []Fault) (fault Fault, ended, wrong error) {
	if n%nth == 0 {
		turn := n / nth
		fault = faults[turn%len(faults)]
		ctx = metadata.AppendToOutgoingContext(ctx, keyFault, string(fault), keyAfter, strconv.Itoa(turn/len(faults)%messages))
	}
	limit := 30 * time.Second // a lost connection must not keep a stream open
	if fault == Hang {
		limit = 200 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ended, wrong = exchange(ctx, conn)
	if fault != Hang && ctx.Err() != nil {
		wrong = fmt.Errorf("neither an answer nor an error within %v", limit)
	}
	return fault, ended, wrong
}
