package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// endpoints is how many each upstream has. They share the upstream's faults and its capacity.
const endpoints = 3

// shipped returns the faults that the demo starts with. With the latency, the bars of a call have a
// width, and a wait can be compared with an attempt.
func shipped() faults.Spec {
	spec := faults.Default()
	spec.Latency = faults.Latency{Distribution: faults.DistributionLognormal, Median: 25 * time.Millisecond, P99: 60 * time.Millisecond}
	return spec
}

// upstream is what calls of one way reach.
type upstream struct {
	*flakyapp.Server

	listeners []serve.Listener
	addrs     []string
}

// newUpstream opens n endpoints. The first one listens on first.
func newUpstream(ctx context.Context, p cli.Program, spec faults.Spec, seed uint64, ready *serve.Readiness, logger *slog.Logger, traffic *page.Generator, n int, first serve.Listener) (*upstream, error) {
	injector, err := faults.New(spec, seed)
	if err != nil {
		return nil, err
	}
	server, err := flakyapp.New(ctx, p, injector, "demo", ready, logger)
	if err != nil {
		return nil, err
	}
	u := &upstream{Server: server}
	for i := range n {
		l := first
		if i > 0 {
			l = serve.Listener{Name: fmt.Sprintf("endpoint %d of %s", i+1, first.Name), Addr: "127.0.0.1:0"}
		}
		// The last ones are sick first: the first one has the address that the demo prints.
		l.Handler = traffic.Counted(u.Endpoint(func() bool { return i >= n-traffic.Sick() }))
		l, addr, err := serve.Open(ctx, l)
		if err != nil {
			return nil, errOpen{err}
		}
		u.listeners, u.addrs = append(u.listeners, l), append(u.addrs, addr.String())
	}
	return u, nil
}

// errOpen is about an address that cannot be used.
type errOpen struct{ error }

func (e errOpen) Unwrap() error { return e.error }

// urls returns the addresses of what the generator calls.
func (u *upstream) urls() (all []string) {
	for _, addr := range u.addrs {
		all = append(all, "http://"+addr+"/process")
	}
	return all
}

// route returns the configuration of an upstream with these endpoints.
func (u *upstream) route() gateway.Upstream {
	to := gateway.DefaultUpstream("http://" + u.addrs[0])
	if len(u.addrs) > 1 {
		to.Endpoints.Resolve, to.Endpoints.Addresses = endpoint.ResolveStatic, u.addrs
	}
	return to
}

// take leads the demo's own routes to these endpoints.
func (u *upstream) take(cfg *gateway.Config) {
	cfg.Upstreams = map[string]gateway.Upstream{"demo": u.route()}
	for i := range cfg.Routes {
		if strings.HasPrefix(cfg.Routes[i].Upstream, "http://") {
			cfg.Routes[i].Upstream = "demo"
			continue
		} // the others are for gRPC, which has one endpoint
		cfg.Routes[i].Upstream = strings.Replace(cfg.Routes[i].Upstream, shippedUpstream, u.addrs[0], 1)
	}
}

// twins is the admin handler of an upstream and of its twin. The twin follows every change, so that
// both have the same faults and seed. Below /without/ the twin can be asked alone, and its ledger
// emptied. It calls changed after each change of the faults.
func twins(first, twin http.Handler, changed func()) http.Handler {
	var changing sync.Mutex
	mux := http.NewServeMux()
	mux.HandleFunc("/without/", func(w http.ResponseWriter, r *http.Request) {
		allow := "GET, HEAD"
		if r.URL.Path == "/without/ledger" {
			allow += ", DELETE"
		}
		if !slices.Contains(strings.Split(allow, ", "), r.Method) {
			w.Header().Set("Allow", allow)
			problem.Write(w, problem.Problem{Status: http.StatusMethodNotAllowed, Detail: r.URL.Path + " takes " + allow + ", not " + r.Method + ": both upstreams have the same faults"})
			return
		}
		http.StripPrefix("/without", twin).ServeHTTP(w, r)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			first.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 2<<20)) // more than the first one accepts
		if err != nil {
			problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: "cannot read the body: " + err.Error()})
			return
		}
		again := r.Clone(r.Context())
		r.Body, again.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		changing.Lock()
		defer changing.Unlock()
		answer := &unread{header: http.Header{}}
		twin.ServeHTTP(answer, again)
		first.ServeHTTP(w, r)
		if answer.good && r.URL.Path == "/faults" {
			changed()
		}
	})
	return mux
}

// unread is an answer of which only the first write is noted: whether it is a good one.
type unread struct {
	header        http.Header
	written, good bool
}

func (u *unread) Header() http.Header { return u.header }

func (u *unread) Write(b []byte) (int, error) {
	u.WriteHeader(http.StatusOK)
	return len(b), nil
}

func (u *unread) WriteHeader(status int) {
	if !u.written {
		u.written, u.good = true, status < http.StatusBadRequest
	}
}
