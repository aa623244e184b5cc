package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// situation produces one reason, of the call or of its last attempt.
type situation struct {
	handler  http.HandlerFunc
	upstream string // used instead of a server with handler
	// endpoints are those of an upstream that is used instead of both.
	endpoints *endpoint.Policy
	policy    func(*transport.Policy)
	before    int // number of calls made first, whose results are ignored
	method    string
	path      string
	body      io.Reader
	header    http.Header
	raw       string        // the whole request, if net/http's client would not send it
	leave     chan struct{} // when it has something, the caller hangs up
	// attempt means that want is the reason of the attempt. The call has another reason.
	attempt  bool
	problem  bool // the gateway answers itself, with a problem document that has the call's reason
	rejected bool // the gateway rejects the call before the pipeline, so the call has no span
}

func situations(t *testing.T) map[resilience.Reason]situation {
	fail := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	once := func(p *transport.Policy) { p.Retry.MaxAttempts = 1 }
	unreachable := "http://" + rawhttp.FreeAddress(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	arrived := make(chan struct{}, 10)
	passed := http.Header{} // headers of the first request as it reached the upstream
	return map[resilience.Reason]situation{
		resilience.ReasonOK:                 {handler: func(http.ResponseWriter, *http.Request) {}},
		resilience.ReasonStatusNotRetryable: {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }},
		resilience.StatusReason(503):        {handler: fail, policy: once, attempt: true},
		resilience.ReasonMaxAttempts:        {handler: fail},
		resilience.ReasonDialError:          {upstream: unreachable, policy: once, attempt: true, problem: true},
		resilience.ReasonTLSError:           {upstream: strings.Replace(plain.URL, "http:", "https:", 1), policy: once, attempt: true, problem: true},
		resilience.ReasonResetBeforeHeaders: {handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, policy: once, attempt: true, problem: true},
		resilience.ReasonNotHTTP:            {upstream: notHTTP(t), policy: once, attempt: true, problem: true},
		resilience.ReasonInvalidRequest: {
			handler: func(http.ResponseWriter, *http.Request) {}, method: http.MethodPut, problem: true,
			raw: "PUT /process HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Bad Name\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		},
		resilience.ReasonBodyFailed: {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		resilience.ReasonAttemptTimeout:      {handler: hang, policy: func(p *transport.Policy) { once(p); p.AttemptTimeout = 30 * time.Millisecond }, attempt: true, problem: true},
		resilience.ReasonDeadlineExceeded:    {handler: hang, header: http.Header{transport.HeaderExpectedTimeout: {"30"}}, problem: true},
		resilience.ReasonDeadlineTooClose:    {handler: fail, policy: func(p *transport.Policy) { p.Retry.Backoff.Base, p.Retry.Backoff.Max = time.Minute, time.Minute }},
		resilience.ReasonCallerCanceled:      {handler: func(w http.ResponseWriter, r *http.Request) { arrived <- struct{}{}; hang(w, r) }, leave: arrived},
		resilience.ReasonMethodNotIdempotent: {handler: fail, method: http.MethodPost},
		resilience.ReasonBodyNotReplayable: {
			handler: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); fail(w, r) },
			method:  http.MethodPut, body: strings.NewReader("four"), policy: func(p *transport.Policy) { p.Retry.ReplayBuffer = 3 },
		},
		resilience.ReasonBudgetExhausted: {handler: fail, policy: func(p *transport.Policy) { p.Retry.Budget = resilience.BudgetPolicy{} }},
		resilience.ReasonBreakerOpen: {handler: fail, before: 1, policy: func(p *transport.Policy) {
			p.Breaker.ConsecutiveFailures = 1
			p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Minute, time.Minute
		}, problem: true},
		resilience.ReasonBreakerHalfOpen: {
			// The first call opens the circuit for a moment. The second is the only probe, and
			// hangs. The third is the call under test.
			handler: func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hang" {
					hang(w, r)
					return
				}
				fail(w, r)
			},
			before: 2, policy: func(p *transport.Policy) {
				p.Breaker.ConsecutiveFailures, p.Breaker.Probes = 1, 1
				p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 1, 1
			}, problem: true,
		},
		resilience.ReasonRetryAfterTooLong: {handler: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "60")
			fail(w, r)
		}},
		resilience.ReasonRetriedUpstreamLayer: {handler: fail, header: http.Header{transport.HeaderAttemptCount: {"2"}}},
		resilience.ReasonUpgrade:              {handler: fail, header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}},
		resilience.ReasonLoopDetected: {
			handler: func(_ http.ResponseWriter, r *http.Request) { passed["Via"] = r.Header["Via"] }, header: passed,
			before: 1, problem: true, rejected: true,
		},
		resilience.ReasonNoEndpoint: {endpoints: &endpoint.Policy{Resolve: endpoint.ResolveDNS}, policy: once, attempt: true, problem: true},
		resilience.ReasonEndpointEjected: {
			endpoints: &endpoint.Policy{Resolve: endpoint.ResolveStatic, Addresses: []string{rawhttp.FreeAddress(t), rawhttp.FreeAddress(t)}},
			before:    1, policy: func(p *transport.Policy) { p.Retry.MaxAttempts = 2 }, attempt: true, problem: true,
		},
		resilience.ReasonRateLimited: {
			handler: func(http.ResponseWriter, *http.Request) {}, before: 1,
			policy: func(p *transport.Policy) {
				p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.001, Burst: 1}
			}, problem: true,
		},
		resilience.ReasonConcurrencyLimit: {
			// The second call takes the only place, and hangs.
			handler: func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hang" {
					hang(w, r)
				}
			},
			before: 2, policy: func(p *transport.Policy) { p.Concurrency.Max = 1 }, problem: true,
		},
		resilience.ReasonNoRoute:          {handler: fail, path: "/elsewhere", problem: true},
		resilience.ReasonMethodNotAllowed: {handler: fail, method: http.MethodTrace, path: "/get", problem: true},
	}
}

// Each reason has a situation that produces it, and has the same name in span, metric, log line and
// problem document.
func TestEveryReasonIsNamedAlikeEverywhere(t *testing.T) {
	all := situations(t)
	for _, r := range append(resilience.Reasons(), resilience.StatusReason(503)) {
		s, ok := all[r]
		if !ok {
			t.Errorf("got no situation for reason %s: add one to situations", r)
			continue
		}
		t.Run(string(r), func(t *testing.T) { s.check(t, r) })
	}
}

// empty is a resolver that knows no name.
type empty struct{}

func (empty) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

// notHTTP returns the URL of a server that answers each connection as Redis would.
func notHTTP(t *testing.T) string {
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, "-ERR unknown command\r\n")
	})
	return "http://" + l.Addr().String()
}

func (s situation) check(t *testing.T, want resilience.Reason) {
	upstream := s.upstream
	if s.endpoints != nil {
		upstream = "orders"
	}
	if s.handler != nil {
		server := httptest.NewUnstartedServer(s.handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Start()
		defer server.Close()
		upstream = server.URL
	}
	policy := transport.DefaultPolicy()
	policy.Retry.Backoff = resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}
	policy.Breaker.ConsecutiveFailures = 0
	// On a busy machine a call is long, and a call that hangs must outlive the one under test.
	policy.Timeout, policy.AttemptTimeout = time.Minute, time.Minute
	if s.policy != nil {
		s.policy(&policy)
	}
	cfg := gateway.DefaultConfig()
	cfg.Policies["default"] = policy
	for _, match := range []string{"/process", "/hang", "GET /get"} {
		name := strings.Trim(match[strings.Index(match, "/"):], "/")
		cfg.Routes = append(cfg.Routes, gateway.Route{Name: name, Match: match, Upstream: upstream, Policy: "default"})
	}
	if s.endpoints != nil {
		entry := gateway.DefaultUpstream("http://orders")
		entry.Endpoints.Resolve, entry.Endpoints.Addresses = s.endpoints.Resolve, s.endpoints.Addresses
		entry.Endpoints.Eject.ConsecutiveFailures, entry.Endpoints.Eject.MaxEjected = 1, 1
		entry.Endpoints.Eject.EjectFor, entry.Endpoints.Eject.MaxEjectFor = time.Minute, time.Minute
		cfg.Upstreams = map[string]gateway.Upstream{"orders": entry}
	}
	provider, recorded := spans.Record()
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	var lines output.Buffer
	logged := make(chan struct{}, 10)
	logger := slog.New(announcing{slog.NewJSONHandler(&lines, nil), logged})
	g, err := gateway.New(cfg, gateway.Options{
		Resolver: empty{}, TracerProvider: provider, Propagator: propagation.TraceContext{},
		Observers: []observe.Observer{metrics, gateway.LogObserver(logger)}, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	front := httptest.NewServer(g)
	defer front.Close()
	call := func(ctx context.Context, method, path string, body io.Reader, header http.Header) string {
		r, err := http.NewRequestWithContext(ctx, method, front.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			r.Header[k] = v
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
		if err != nil {
			return ""
		}
		defer func() { _ = resp.Body.Close() }()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	untilLogged := func() {
		t.Helper()
		select {
		case <-logged:
		case <-time.After(30 * time.Second):
			t.Fatalf("the call is not logged after 30 s: %s", lines.String())
		}
	}
	for i := range s.before {
		if i == 0 {
			call(ctx, http.MethodGet, "/process", nil, nil)
			untilLogged()
			continue
		}
		hanging, cancel := context.WithCancel(ctx)
		hung := make(chan struct{})
		go func() { defer close(hung); call(hanging, http.MethodGet, "/hang", nil, nil) }()
		defer func() { cancel(); <-hung }()
		for g.Upstreams()[0].Concurrency.InFlight == 0 {
			<-time.After(time.Millisecond) // the call passes through real connections
		}
	}
	recorded.Reset()
	go func() {
		select {
		case <-s.leave:
			leave()
		case <-ctx.Done():
		}
	}()
	method, path := http.MethodGet, "/process"
	if s.method != "" {
		method = s.method
	}
	if s.path != "" {
		path = s.path
	}
	var answer string
	if s.raw != "" {
		_, answer = rawhttp.Exchange(t, front.Listener.Addr().String(), s.raw)
	} else {
		answer = call(ctx, method, path, s.body, s.header)
	}
	untilLogged()

	var line struct{ Reason, Route string }
	all := strings.Split(strings.TrimSpace(lines.String()), "\n")
	if err := json.Unmarshal([]byte(all[len(all)-1]), &line); err != nil {
		t.Fatal(err)
	}
	inSpan, inAttempt := "", ""
	for _, span := range recorded.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "rebound.reason" && strings.HasPrefix(span.Name, "resilience") {
				inSpan = a.Value.AsString()
			} else if a.Key == "rebound.reason" && span.Name == method {
				inAttempt = a.Value.AsString()
			}
		}
	}
	w := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	shown := w.Body.String()
	if s.attempt {
		if inAttempt != string(want) || !strings.Contains(shown, fmt.Sprintf(`rebound_attempts_total{policy="default",reason=%q`, want)) {
			t.Errorf("got reason %q on the attempt's span, want %q; metrics:\n%s", inAttempt, want, shown)
		}
	} else if line.Reason != string(want) {
		t.Errorf("got reason %q in the log, want %q", line.Reason, want)
	}
	if !strings.Contains(shown, fmt.Sprintf(`rebound_calls_total{reason=%q,route=%q} `, line.Reason, line.Route)) {
		t.Errorf("got metrics\n%s\nwant a call with reason %q of route %q", shown, line.Reason, line.Route)
	}
	if line.Route != "" && !s.rejected && inSpan != line.Reason {
		t.Errorf("got reason %q on the call's span, want %q as in the log", inSpan, line.Reason)
	}
	var document struct{ Reason string }
	if s.problem {
		if err := json.Unmarshal([]byte(answer), &document); err != nil || document.Reason != line.Reason {
			t.Errorf("got reason %q in the problem document, want %q as in the log (error %v): %s", document.Reason, line.Reason, err, answer)
		}
	}
}

// announcing is a handler that reports when a call's log line has been written.
type announcing struct {
	slog.Handler
	logged chan struct{}
}

func (h announcing) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Message == "call" {
		h.logged <- struct{}{}
	}
	return err
}

func (h announcing) WithAttrs(a []slog.Attr) slog.Handler {
	return announcing{h.Handler.WithAttrs(a), h.logged}
}
