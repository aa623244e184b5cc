package flaky

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/rebound-dev/rebound/internal/flaky/flakypb"
	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/recent"
	"github.com/rebound-dev/rebound/internal/siteguard"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Options configure a [Server]. Only Faults is required.
type Options struct {
	Faults   *faults.Injector // only the admin port may change it from now on
	Instance string           // shown in the answers to tell replicas apart; may be empty
	Logger   *slog.Logger     // nil: no log
	// Observe, if not nil, is called once for each arrival, after its fate is decided and before
	// the fault strikes. It runs on the goroutine of the request, with the request's context.
	Observe func(context.Context, faults.Fate)
	// Livez and Readyz serve these paths on the admin port. Nil answers 200.
	Livez, Readyz http.Handler
	// Hosts are additional host names that the admin port accepts; see [siteguard.Guard].
	Hosts []string
	// Remember is how many request ids, orders and idempotency keys are kept, of each. 0 or less
	// means 100 000. The oldest are forgotten first.
	Remember int
}

// Server is the upstream. It is safe for concurrent use.
type Server struct {
	faults   *faults.Injector
	queue    *faults.Queue
	attempts *recent.Counter
	ledger   *ledger
	options  Options
	health   *health.Server // of gRPC

	changing sync.Mutex  // held while the faults are read and replaced
	boundary *time.Timer // fires at the next change of the schedule; guarded by changing
	stopped  context.Context
	stop     context.CancelFunc
}

const (
	maxBody   = 64 << 10 // of a request to the data port, in bytes
	maxFaults = 1 << 20  // of a faults document, in bytes
	maxID     = 256      // of an id in a header or body, in bytes, because ids are stored

	faultsName = "faults" // the name of the document in error messages
)

// New returns a Server. It fails if o.Faults is nil.
func New(o Options) (*Server, error) {
	if o.Faults == nil {
		return nil, errors.New("flaky: expected an injector in Options.Faults, got nil")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Remember <= 0 {
		o.Remember = 100_000
	}
	alive := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	if o.Livez == nil {
		o.Livez = alive
	}
	if o.Readyz == nil {
		o.Readyz = alive
	}
	s := &Server{
		faults:   o.Faults,
		queue:    faults.NewQueue(o.Faults.Capacity),
		attempts: recent.NewCounter(o.Remember),
		ledger:   newLedger(o.Remember),
		options:  o,
		health:   health.NewServer(),
	}
	s.SetServing(true)
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.changing.Lock()
	defer s.changing.Unlock()
	s.wake()
	return s, nil
}

// wake applies the current capacity to waiting jobs, now and whenever a window of the schedule
// begins or ends. The caller holds changing.
func (s *Server) wake() {
	s.queue.Wake()
	if s.boundary != nil {
		s.boundary.Stop()
	}
	if in, ok := s.faults.NextChange(); ok {
		s.boundary = time.AfterFunc(in, func() {
			s.changing.Lock()
			defer s.changing.Unlock()
			s.wake()
		})
	}
}

// Stop ends all hanging calls, current and future, by closing their connections, and those that
// watch the health. Otherwise a server that drains would wait for them. Everything else continues.
// Stop may be called more than once.
func (s *Server) Stop() { s.stop() }

// SetServing sets what the health service of gRPC answers, at first SERVING.
func (s *Server) SetServing(serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(flakypb.Flaky_ServiceDesc.ServiceName, status)
}

// Data returns the handler of the data port: GET /process and POST /orders, and over HTTP/2 the
// gRPC services [flakypb.FlakyServer], health and reflection.
func (s *Server) Data() http.Handler {
	mux := http.NewServeMux()
	route(mux, "/process", methods{http.MethodGet: s.process})
	route(mux, "/orders", methods{http.MethodPost: s.orders})
	mux.HandleFunc("/", notFound("GET /process and POST /orders, and gRPC over HTTP/2"))
	calls := s.grpcCalls()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && grpcwire.Is(r.Header) {
			calls.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Endpoint returns the handler of the data port of one endpoint among several. It answers 503 at
// once while isSick returns true, whatever the faults are.
func (s *Server) Endpoint(isSick func() bool) http.Handler {
	data := s.Data()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isSick() {
			r = r.WithContext(context.WithValue(r.Context(), sick{}, true))
		}
		data.ServeHTTP(w, r)
	})
}

// sick is the key of a context: a sick endpoint got the request.
type sick struct{}

// Admin returns the handler of the admin port: GET, PUT and PATCH /faults, GET and DELETE /ledger,
// GET /livez and /readyz. It rejects requests from pages of other sites, which could change the
// faults; see [siteguard.Guard]. This is not access control: any client that reaches the port may
// do everything.
func (s *Server) Admin() http.Handler {
	guarded := http.NewServeMux()
	route(guarded, "/faults", methods{http.MethodGet: s.getFaults, http.MethodPut: s.putFaults, http.MethodPatch: s.patchFaults})
	route(guarded, "/ledger", methods{http.MethodGet: s.getLedger, http.MethodDelete: s.deleteLedger})
	guarded.HandleFunc("/", notFound("/faults, /ledger, /livez and /readyz"))

	mux := http.NewServeMux()
	mux.Handle("/", siteguard.Guard(guarded, func(w http.ResponseWriter, detail string) { refuse(w, http.StatusForbidden, detail) }, s.options.Hosts...))
	route(mux, "/livez", methods{http.MethodGet: s.options.Livez.ServeHTTP})
	route(mux, "/readyz", methods{http.MethodGet: s.options.Readyz.ServeHTTP})
	return mux
}

type methods map[string]http.HandlerFunc

// route serves path by method. It answers 405 itself, because with a catch-all pattern a ServeMux
// answers 404.
func route(mux *http.ServeMux, path string, by methods) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		handler, ok := by[method]
		if !ok {
			continue
		}
		mux.HandleFunc(method+" "+path, handler) // GET includes HEAD
		allowed = append(allowed, method)
		if method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	allow := strings.Join(allowed, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		refuse(w, http.StatusMethodNotAllowed, "expected "+allow+" for "+path+", got "+r.Method)
	})
}

func notFound(has string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "not found; this port serves "+has)
	}
}

func refuse(w http.ResponseWriter, status int, detail string) {
	problem.Write(w, problem.Problem{Status: status, Detail: detail})
}

// read reads the whole body. If it cannot, it answers and returns false.
func read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	var body bytes.Buffer
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("expected a body of at most %d bytes", limit))
		return nil, false
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body could not be read: "+err.Error())
		return nil, false
	}
	return body.Bytes(), true
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := encode(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only if the caller has left
}

func encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the response: %w", err)
	}
	return append(body, '\n'), nil
}
