package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

// Defaults of OTEL_BSP_MAX_EXPORT_BATCH_SIZE and OTEL_BSP_MAX_QUEUE_SIZE, in spans. Source:
// OpenTelemetry's "Environment Variable Specification", Batch Span Processor.
const (
	batchSize = 512
	queueSize = 2048
)

const (
	overHTTP = "http/protobuf"
	overGRPC = "grpc"
)

// otlpServer is a collector on loopback that accepts OTLP over HTTP and over gRPC. A test sets its
// answers. Its address is known before it listens.
type otlpServer struct {
	address string
	answer  atomic.Pointer[func(w http.ResponseWriter, r *http.Request, spans []byte)]
	came    chan struct{} // holds a value if spans came since the last receive

	mu    sync.Mutex
	spans bytes.Buffer // the bodies of all accepted requests
}

func newOTLPServer(t *testing.T) *otlpServer {
	t.Helper()
	s := &otlpServer{address: rawhttp.FreeAddress(t), came: make(chan struct{}, 1)}
	s.behave(s.take)
	return s
}

// open makes the server listen until the test ends.
func (s *otlpServer) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		spans, err := io.ReadAll(r.Body)
		if err != nil {
			return // the exporter gave up
		}
		(*s.answer.Load())(w, r, spans)
	}))
	_ = server.Listener.Close()
	server.Listener = l
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		// An exporter whose answer is cut off would retry after the test.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = server.Config.Shutdown(ctx)
		server.Close()
	})
}

func (s *otlpServer) behave(answer func(http.ResponseWriter, *http.Request, []byte)) {
	s.answer.Store(&answer)
}

// take accepts the spans, like a healthy collector.
func (s *otlpServer) take(w http.ResponseWriter, r *http.Request, spans []byte) {
	s.mu.Lock()
	_, _ = s.spans.Write(spans)
	s.mu.Unlock()
	select {
	case s.came <- struct{}{}:
	default:
	}
	if isGRPC(r) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(make([]byte, 5)) // an empty message: not compressed, no bytes
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
}

// took returns how many spans with that name have been accepted.
func (s *otlpServer) took(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.spans.Bytes(), []byte(name))
}

func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// refuse answers with an HTTP status over HTTP and with grpcStatus over gRPC.
func refuse(status int, grpcStatus string) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, _ []byte) {
		if isGRPC(r) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", grpcStatus)
			return
		}
		w.WriteHeader(status)
	}
}

func hangUp(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }

func silent(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }

// hold makes the server block its first request until release is called. The server then accepts
// this request and all later ones. asked gets the first request's context.
func (s *otlpServer) hold(t *testing.T) (asked <-chan context.Context, release func()) {
	first, free := make(chan context.Context, 1), make(chan struct{})
	s.behave(func(w http.ResponseWriter, r *http.Request, spans []byte) {
		select {
		case first <- r.Context():
		case <-free:
		default:
			t.Error("got a second request while the first was held, want one at a time")
		}
		<-free
		s.take(w, r, spans)
	})
	release = sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	return first, release
}

// endSpans ends n spans. Each holds as much memory as an attempt's span.
func endSpans(tel *telemetry.Telemetry, name string, n int) {
	tracer := tel.Provider().Tracer("x")
	for range n {
		_, span := tracer.Start(context.Background(), name)
		span.SetAttributes(attribute.String("url.full", strings.Repeat("/", 500)))
		span.End()
	}
}

// heap returns the bytes of the heap in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // frees what finalizers released in the first run
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // no heap is that large
}

// patience is how long a test waits before it reports a hang. Working code needs far less.
const patience = time.Minute

// await returns the next value of c. It fails the test if none comes within patience.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: got nothing within %v", what, patience)
		panic("unreachable")
	}
}

// returns runs f. It fails the test if f does not return within patience.
func returns(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	await(t, what, done)
}

// A silent collector does not block the end of a span. Spans beyond the full queue are dropped and
// use no memory.
func TestSpansEndWhileTheCollectorIsSilent(t *testing.T) {
	for _, protocol := range []string{overHTTP, overGRPC} {
		t.Run(protocol, func(t *testing.T) {
			collector := newOTLPServer(t)
			collector.open(t)
			asked, release := collector.hold(t)
			setenv(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + collector.address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
				"OTEL_EXPORTER_OTLP_TIMEOUT": "600000", "OTEL_BSP_EXPORT_TIMEOUT": "600000", // the request lasts until release
			})
			tel := start(t, nil)
			returns(t, "ending spans", func() { endSpans(tel, "of-the-batch", batchSize) })
			request := await(t, "the first batch", asked) // nothing leaves the queue while this request is held
			empty := heap()
			returns(t, "filling the queue", func() { endSpans(tel, "of-the-queue", queueSize) })
			full := heap()
			returns(t, "ending spans beyond the queue", func() { endSpans(tel, "beyond-the-queue", 50_000) })
			over := heap()
			if request.Err() != nil {
				t.Fatal("the export request ended early, want it open until release")
			}
			if more, queue := over-full, full-empty; more > queue {
				t.Errorf("50,000 more spans use %d bytes, want at most the %[3]d bytes of the full queue of %[2]d", more, queueSize, queue)
			}
			release()
			if err := flush(t, tel, patience); err != nil {
				t.Error(err)
			}
			for name, want := range map[string]int{"of-the-batch": batchSize, "of-the-queue": queueSize, "beyond-the-queue": 0} {
				if got := collector.took(name); got != want {
					t.Errorf("the collector got %d spans %s, want %d", got, name, want)
				}
			}
		})
	}
}

// watched is a context that sends to asked on each call of Done.
type watched struct {
	context.Context
	asked chan<- struct{}
}

func (c watched) Done() <-chan struct{} {
	c.asked <- struct{}{}
	return c.Context.Done()
}

// Flush returns when its context ends, even if the collector is silent.
func TestFlushEndsWithItsContext(t *testing.T) {
	for _, protocol := range []string{overHTTP, overGRPC} {
		t.Run(protocol, func(t *testing.T) {
			collector := newOTLPServer(t)
			collector.open(t)
			asked, release := collector.hold(t)
			setenv(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + collector.address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
				"OTEL_EXPORTER_OTLP_TIMEOUT": "600000", "OTEL_BSP_EXPORT_TIMEOUT": "600000",
			})
			tel := start(t, nil)
			endSpans(tel, "left", batchSize)
			request := await(t, "the first batch", asked)
			endSpans(tel, "left", queueSize) // after the batch has left: a full queue drops spans
			ctx, cancel := context.WithCancel(t.Context())
			waited := make(chan struct{}, 100)
			flushed := make(chan error, 1)
			go func() { flushed <- tel.Flush(watched{ctx, waited}) }()
			// The provider calls Done once to check the context. Then its processor waits on it.
			await(t, "the provider", waited)
			await(t, "the processor", waited)
			cancel()
			if err := await(t, "the flush", flushed); !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want context.Canceled", err)
			}
			if request.Err() != nil {
				t.Error("the export request ended, want it open until release")
			}
			release()
			for collector.took("left") < batchSize+queueSize { // the export goes on in the background
				await(t, "what was left", collector.came)
			}
		})
	}
}

// A failing collector causes one warning, and memory use stays within the queue's limit. Once the
// collector is healthy again, it gets spans.
func TestCollectorThatFails(t *testing.T) {
	const (
		given = "10000" // milliseconds per export, far more than it needs
		short = "200"   // for errors that are retried until the limit
	)
	for name, tc := range map[string]struct {
		protocol, limit string
		away            bool
		behave          func(http.ResponseWriter, *http.Request, []byte)
		warning         string
	}{
		"away":                     {overHTTP, given, true, nil, "connection refused"},
		"away, gRPC":               {overGRPC, short, true, nil, ""},
		"never answers":            {overHTTP, short, false, silent, ""},
		"never answers, gRPC":      {overGRPC, short, false, silent, ""},
		"hangs up":                 {overHTTP, given, false, hangUp, "EOF"},
		"hangs up, gRPC":           {overGRPC, given, false, hangUp, "INTERNAL_ERROR"},
		"refuses for now":          {overHTTP, short, false, refuse(http.StatusServiceUnavailable, ""), ""},
		"refuses for now, gRPC":    {overGRPC, short, false, refuse(0, "14"), ""},
		"refuses":                  {overHTTP, given, false, refuse(http.StatusBadRequest, ""), "400 Bad Request"},
		"refuses, gRPC":            {overGRPC, given, false, refuse(0, "3"), "InvalidArgument"},
		"finds the batch too long": {overHTTP, given, false, refuse(http.StatusRequestEntityTooLarge, ""), "413 Request Entity Too Large"},
	} {
		t.Run(name, func(t *testing.T) {
			collector := newOTLPServer(t)
			if !tc.away {
				collector.behave(tc.behave)
				collector.open(t)
			}
			setenv(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + collector.address, "OTEL_EXPORTER_OTLP_PROTOCOL": tc.protocol,
				"OTEL_EXPORTER_OTLP_TIMEOUT": tc.limit, "OTEL_BSP_EXPORT_TIMEOUT": tc.limit, "OTEL_BSP_SCHEDULE_DELAY": "5",
			})
			log := &warnings{first: make(chan struct{})}
			tel := start(t, slog.New(slog.NewTextHandler(log, nil)))
			t.Cleanup(func() { _ = flush(t, tel, patience) })
			before := heap()
			returns(t, "ending spans", func() { endSpans(tel, "lost", 20_000) })
			// The queue, one batch and buffers use 2 to 4 MiB, up to 10 on a busy machine. All
			// spans would use 20 MiB.
			if grown := heap() - before; grown > 14<<20 {
				t.Errorf("20,000 spans use %d bytes, want at most 14 MiB", grown)
			}
			await(t, "a warning", log.first)
			if tc.away {
				collector.open(t)
			}
			collector.behave(collector.take)
			for began := time.Now(); collector.took("kept") == 0; {
				if time.Since(began) > patience {
					t.Fatalf("the healthy collector got no spans, want at least 1; got log\n%s", strings.Join(log.lines(), "\n"))
				}
				endSpans(tel, "kept", 1)
				select {
				case <-collector.came:
				case <-time.After(5 * time.Millisecond): // this span may have been lost in a batch that still failed
				}
			}
			lines := log.lines()
			if len(lines) != 1 || !strings.Contains(lines[0], "traces cannot be exported") || !strings.Contains(lines[0], tc.warning) {
				t.Errorf("got\n%s\nwant one warning about %q", strings.Join(lines, "\n"), tc.warning)
			}
		})
	}
}

// warnings collects log lines. It is safe for concurrent use.
type warnings struct {
	first chan struct{} // closed at the first line

	once sync.Once
	text output.Buffer
}

func (w *warnings) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	w.once.Do(func() { close(w.first) })
	return n, err
}

func (w *warnings) lines() []string {
	return strings.Split(strings.TrimSpace(w.text.String()), "\n")
}

// One batch per second fails for 150 s. There is one warning per minute, and the final flush logs
// one for the remaining errors.
func TestOneWarningAMinute(t *testing.T) {
	collector := newOTLPServer(t) // it never listens
	setenv(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + collector.address, "OTEL_BSP_SCHEDULE_DELAY": "1000"})
	synctest.Test(t, func(t *testing.T) {
		log := &warnings{first: make(chan struct{})}
		tel := start(t, slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == "error" {
					return slog.Attr{}
				}
				return a
			},
		})))
		for range 150 {
			endSpans(tel, "lost", 1)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		_ = flush(t, tel, patience)
		want := []string{
			`{"level":"WARN","msg":"traces cannot be exported","errors_since_last_warning":0}`,
			`{"level":"WARN","msg":"traces cannot be exported","errors_since_last_warning":59}`,
			`{"level":"WARN","msg":"traces cannot be exported","errors_since_last_warning":59}`,
			`{"level":"WARN","msg":"traces cannot be exported","errors_since_last_warning":28}`, // by the final flush
		}
		if got := log.lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
