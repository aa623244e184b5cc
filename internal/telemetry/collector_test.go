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

// What the SDK's batch holds unless OTEL_BSP_* say otherwise. docs: OpenTelemetry's
// "Environment Variable Specification", Batch Span Processor.
const (
	batchSize = 512
	queueSize = 2048
)

const (
	overHTTP = "http/protobuf"
	overGRPC = "grpc"
)

// otlpServer is a collector on loopback that takes OTLP over HTTP and over gRPC,
// and answers as the test wants. Its address is known before it is there.
type otlpServer struct {
	address string
	answer  atomic.Pointer[func(w http.ResponseWriter, r *http.Request, spans []byte)]
	came    chan struct{} // has something when spans came in since it was last emptied

	mu    sync.Mutex
	spans bytes.Buffer // as they came, of the requests that were taken
}

func newOTLPServer(t *testing.T) *otlpServer {
	t.Helper()
	s := &otlpServer{address: rawhttp.FreeAddress(t), came: make(chan struct{}, 1)}
	s.behave(s.take)
	return s
}

// open has the server listen until the test ends.
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
		// An exporter whose answer was cut off would try again after the test.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = server.Config.Shutdown(ctx)
		server.Close()
	})
}

func (s *otlpServer) behave(answer func(http.ResponseWriter, *http.Request, []byte)) {
	s.answer.Store(&answer)
}

// take is what a healthy collector does.
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

// took is how many spans of that name have come.
func (s *otlpServer) took(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.spans.Bytes(), []byte(name))
}

func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// refuse answers with an HTTP status, and with gRPC's own where that is spoken.
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

// hold has the server keep its first request, and take it and all others after
// release. asked gets the request's context.
func (s *otlpServer) hold(t *testing.T) (asked <-chan context.Context, release func()) {
	first, free := make(chan context.Context, 1), make(chan struct{})
	s.behave(func(w http.ResponseWriter, r *http.Request, spans []byte) {
		select {
		case first <- r.Context():
		case <-free:
		default:
			t.Error("a second request came while the first was held, want one at a time")
		}
		<-free
		s.take(w, r, spans)
	})
	release = sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	return first, release
}

// endSpans ends n spans that keep as much memory as those of an attempt.
func endSpans(tel *telemetry.Telemetry, name string, n int) {
	tracer := tel.Provider().Tracer("x")
	for range n {
		_, span := tracer.Start(context.Background(), name)
		span.SetAttributes(attribute.String("url.full", strings.Repeat("/", 500)))
		span.End()
	}
}

// heap is what is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // no heap is that large
}

// patience is how long a test waits before it says that something hangs. Nothing
// that works comes near it.
const patience = time.Minute

// await is what comes, and fails the test if nothing does.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: got nothing for %v, want it sooner", what, patience)
		panic("unreachable")
	}
}

// returns runs f, and fails the test if it hangs.
func returns(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	await(t, what, done)
}

// A collector that does not answer costs what the queue holds, and nothing else:
// spans end while it is silent, and those beyond the queue leave no trace in memory.
func TestSpansEndWhileTheCollectorIsSilent(t *testing.T) {
	for _, protocol := range []string{overHTTP, overGRPC} {
		t.Run(protocol, func(t *testing.T) {
			collector := newOTLPServer(t)
			collector.open(t)
			asked, release := collector.hold(t)
			setenv(t, map[string]string{
				"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + collector.address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
				"OTEL_EXPORTER_OTLP_TIMEOUT": "600000", "OTEL_BSP_EXPORT_TIMEOUT": "600000", // the request stays until release
			})
			tel := start(t, nil)
			returns(t, "ending spans", func() { endSpans(tel, "of-the-batch", batchSize) })
			request := await(t, "the first batch", asked) // from here on nothing leaves the queue
			empty := heap()
			returns(t, "filling the queue", func() { endSpans(tel, "of-the-queue", queueSize) })
			full := heap()
			returns(t, "ending spans beyond the queue", func() { endSpans(tel, "beyond-the-queue", 50_000) })
			over := heap()
			if request.Err() != nil {
				t.Fatal("the request ended early, want it held all the time")
			}
			if more, queue := over-full, full-empty; more > queue {
				t.Errorf("50,000 spans more keep %d bytes, want at most what the full queue of %d keeps: %d", more, queueSize, queue)
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

// watched tells whenever somebody asks for its end.
type watched struct {
	context.Context
	asked chan<- struct{}
}

func (c watched) Done() <-chan struct{} {
	c.asked <- struct{}{}
	return c.Context.Done()
}

// A flush ends with its context, whatever the collector is doing.
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
			endSpans(tel, "left", queueSize) // only now: the queue would drop what comes faster than the batch is taken
			ctx, cancel := context.WithCancel(t.Context())
			waited := make(chan struct{}, 100)
			flushed := make(chan error, 1)
			go func() { flushed <- tel.Flush(watched{ctx, waited}) }()
			// The provider looks once whether there is time at all, then its processor waits.
			await(t, "the provider", waited)
			await(t, "the processor", waited)
			cancel()
			if err := await(t, "the flush", flushed); !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want context.Canceled", err)
			}
			if request.Err() != nil {
				t.Error("the collector's request ended, want it silent all the time")
			}
			release()
			for collector.took("left") < batchSize+queueSize { // in the background, for as long as the process lives
				await(t, "what was left", collector.came)
			}
		})
	}
}

// Whatever a collector does, there is one warning, memory is what the queue
// holds, and when the collector is well again it gets spans again.
func TestCollectorThatFails(t *testing.T) {
	const (
		given = "10000" // milliseconds an export may take, far more than it does
		short = "200"   // for what is tried again until then
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
			// The queue, a batch on its way and buffers are 2 to 4 MiB, up to 10 on a busy machine; all
			// spans would be 20.
			if grown := heap() - before; grown > 14<<20 {
				t.Errorf("20,000 spans keep %d bytes, want at most 14 MiB", grown)
			}
			await(t, "a warning", log.first)
			if tc.away {
				collector.open(t)
			}
			collector.behave(collector.take)
			for began := time.Now(); collector.took("kept") == 0; {
				if time.Since(began) > patience {
					t.Fatalf("the collector is well and got no spans, want some; the log has\n%s", strings.Join(log.lines(), "\n"))
				}
				endSpans(tel, "kept", 1)
				select {
				case <-collector.came:
				case <-time.After(5 * time.Millisecond): // the batch before this span may have failed with it
				}
			}
			lines := log.lines()
			if len(lines) != 1 || !strings.Contains(lines[0], "traces cannot be exported") || !strings.Contains(lines[0], tc.warning) {
				t.Errorf("want one warning about %q, got\n%s", tc.warning, strings.Join(lines, "\n"))
			}
		})
	}
}

// warnings is a log. It is safe for concurrent use.
type warnings struct {
	first chan struct{} // closed with the first line

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

// A batch a second fails for two and a half minutes. What was not told of by then is
// told at the end.
func TestOneWarningAMinute(t *testing.T) {
	collector := newOTLPServer(t) // and away
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
			`{"level":"WARN","msg":"traces cannot be exported","errors_since_last_warning":28}`, // with the end
		}
		if got := log.lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
