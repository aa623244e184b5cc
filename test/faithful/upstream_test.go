package faithful_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// seed makes the faults of a cell the same on both sides: the fate of the n-th arrival depends on
// nothing but the seed and n.
const seed = 7

// upstream is a flaky-server that listens on several addresses. Some more addresses refuse every
// connection.
type upstream struct {
	injector *faults.Injector
	flaky    *flaky.Server
	servers  []string // the addresses, those that refuse first
	dead     []string
	arrived  atomic.Int64
	stop     func()
}

// startUpstream starts an upstream for a cell. It has no faults until [upstream.begin].
func startUpstream(t *testing.T, c cell) *upstream {
	t.Helper()
	u := &upstream{}
	var err error
	if u.injector, err = faults.New(faults.Spec{}, seed); err != nil {
		t.Fatal(err)
	}
	u.flaky, err = flaky.New(flaky.Options{
		Faults: u.injector, Observe: func(context.Context, faults.Fate) { u.arrived.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := u.flaky.Data()
	if c.grpc {
		handler = overGRPC(handler)
	}
	var running []*httptest.Server
	for n := range c.servers - c.dead {
		s := httptest.NewUnstartedServer(handler)
		if n < c.sick {
			s.Config.Handler = http.HandlerFunc(u.sick)
		}
		s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		}
		if c.grpc {
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
		}
		s.Start()
		running = append(running, s)
		u.servers = append(u.servers, s.Listener.Addr().String())
	}
	for range c.dead {
		u.dead = append(u.dead, rawhttp.FreeAddress(t))
	}
	u.servers = append(append([]string{}, u.dead...), u.servers...)
	u.stop = func() {
		u.flaky.Stop()
		for _, s := range running {
			s.CloseClientConnections()
			s.Close()
		}
	}
	return u
}

// sick answers as a server that is broken for good.
func (u *upstream) sick(w http.ResponseWriter, _ *http.Request) {
	u.arrived.Add(1)
	w.WriteHeader(http.StatusServiceUnavailable)
}

// begin puts the faults of a cell in force and counts from 0.
func (u *upstream) begin(t *testing.T, spec faults.Spec) {
	t.Helper()
	if err := u.injector.Replace(spec); err != nil {
		t.Fatal(err)
	}
	u.arrived.Store(0)
}

type connKey struct{}

// overGRPC makes a server of gRPC out of one of HTTP: a success becomes an empty message, an error
// stays the answer in HTTP that a proxy would give, and a lost connection is lost for all streams.
func overGRPC(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		inner, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, "/process", http.NoBody)
		if aborted(next, answer, inner) {
			if r.Context().Err() == nil {
				conn, _ := r.Context().Value(connKey{}).(*net.TCPConn)
				_ = conn.SetLinger(0)
				_ = conn.Close()
			}
			return
		}
		if answer.Code != http.StatusOK {
			if after := answer.Header().Get("Retry-After"); after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(answer.Code)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(make([]byte, 5)) // a message of length 0
		w.Header().Set("Grpc-Status", "0")
	})
}

// aborted serves a request and reports whether the handler gave up on the connection.
func aborted(next http.Handler, w http.ResponseWriter, r *http.Request) (gaveUp bool) {
	defer func() {
		if v := recover(); v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
			gaveUp = true
		} else if v != nil {
			panic(v)
		}
	}()
	next.ServeHTTP(w, r)
	return false
}

// patience bounds a call whose real system has no timeout of its own.
const patience = 10 * time.Second
