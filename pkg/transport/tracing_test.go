package transport_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/spans"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// tree draws spans below their parents, with times relative to start.
func tree(spans tracetest.SpanStubs, start time.Time) string {
	var b strings.Builder
	var draw func(parent trace.SpanID, indent string)
	draw = func(parent trace.SpanID, indent string) {
		children := slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return s.Parent.SpanID() != parent })
		slices.SortStableFunc(children, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
		for _, s := range children {
			fmt.Fprintf(&b, "%s%s %s, at %v for %v", indent, s.Name, s.SpanKind, s.StartTime.Sub(start), s.EndTime.Sub(s.StartTime))
			if s.Status.Code != codes.Unset {
				fmt.Fprintf(&b, ", %s %q", s.Status.Code, s.Status.Description)
			}
			b.WriteString("\n")
			for _, a := range s.Attributes {
				fmt.Fprintf(&b, "%s  - %s=%s\n", indent, a.Key, a.Value.String())
			}
			for _, e := range s.Events {
				set := attribute.NewSet(e.Attributes...)
				fmt.Fprintf(&b, "%s  * %s %s\n", indent, e.Name, set.Encoded(attribute.DefaultEncoder()))
			}
			draw(s.SpanContext.SpanID(), indent+"    ")
		}
	}
	draw(trace.SpanID{}, "")
	return b.String()
}

// The cases that a trace must explain by itself, as golden span trees on a virtual clock.
func TestTraces(t *testing.T) {
	type world struct {
		rt   *transport.Transport
		call func(change ...func(*http.Request)) result
	}
	retryAfter := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(transport.HeaderAttemptCount) == "1" {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		policy  func(*transport.Policy)
		before  func(world)
		change  func(*http.Request)
		// refuses makes two endpoints, of which the first refuses connections.
		refuses bool
	}{
		"another-endpoint":     {handler: failingFirst(0, 0), refuses: true},
		"fails-twice":          {handler: failingFirst(2, 10)},
		"plain-success":        {handler: failingFirst(0, 0)},
		"not-found":            {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }},
		"post-is-not-repeated": {handler: failingFirst(2, 10), change: func(r *http.Request) { r.Method = http.MethodPost }},
		"open-breaker": {
			handler: failingFirst(9, 0), policy: func(p *transport.Policy) { p.Breaker.ConsecutiveFailures = 1 },
			before: func(w world) { w.call() },
		},
		"budget-refusal":          {handler: failingFirst(9, 0), policy: func(p *transport.Policy) { p.Retry.Budget.Burst = 1 }},
		"deadline-refusal":        {handler: failingFirst(9, 0), change: func(r *http.Request) { r.Header.Set(transport.HeaderExpectedTimeout, "150") }},
		"retry-after":             {handler: retryAfter},
		"attempt-timeout":         {handler: hang, policy: func(p *transport.Policy) { p.Retry.MaxAttempts = 2 }},
		"grpc-unavailable-twice":  {handler: rpc(2, "14", "0"), change: asRPC},
		"grpc-ends-with-internal": {handler: rpc(0, "", "13"), change: asRPC},
		"grpc-unknown-method":     {handler: rpc(1, "12", ""), change: asRPC},
		"grpc-attempt-timeout":    {handler: hang, change: asRPC},
		"caller-hangs-up": {handler: hang, change: func(r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			time.AfterFunc(time.Second, cancel)
			*r = *r.WithContext(ctx)
		}},
		"body-dies": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(700 * time.Millisecond)
			panic(http.ErrAbortHandler)
		}},
		"streamed-body": {handler: func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "piece ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				provider, exporter := spans.Record()
				p := steady()
				if tc.policy != nil {
					tc.policy(&p)
				}
				var next http.RoundTripper = inBubble(t, tc.handler)
				if tc.refuses {
					next = firstRefuses(t, next)
				}
				rt := newTransport(t, next, p, transport.WithRandom(func() float64 { return 0.5 }),
					transport.WithTracing(provider, propagation.TraceContext{}, "default"))
				w := world{rt: rt, call: func(change ...func(*http.Request)) result {
					req := request(t, http.MethodGet, "http://user:secret@up/process?x=1", nil)
					req = req.WithContext(transport.WithRoute(req.Context(), "process"))
					for _, c := range change {
						c(req)
					}
					return call(t, rt, req)
				}}
				if tc.before != nil {
					tc.before(w)
					exporter.Reset()
				}
				start := time.Now()
				if tc.change != nil {
					w.call(tc.change)
				} else {
					w.call()
				}
				synctest.Wait()
				got := tree(exporter.GetSpans(), start)
				golden.File(t, filepath.Join("testdata", "traces", name+".txt"), got)
			})
		})
	}
}

// rpc answers gRPC calls: the first attempts without a message and with one status, the others with
// a message and another status after it.
func rpc(first int, status, last string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		if n, _ := strconv.Atoi(r.Header.Get(transport.HeaderAttemptCount)); n <= first {
			h.Set("Grpc-Status", status)
			return
		}
		h.Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, "message")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(time.Second)
		h.Set("Grpc-Status", last)
	}
}

// asRPC makes a request one of gRPC, which may be repeated.
func asRPC(r *http.Request) {
	r.Method, r.URL.Path, r.URL.RawQuery = http.MethodPost, "/orders.Orders/Create", ""
	r.Header.Set("Content-Type", "application/grpc+proto")
	*r = *r.WithContext(transport.WithIdempotent(r.Context()))
}

// firstRefuses returns a set of two endpoints. The first refuses connections, and the other is
// next.
func firstRefuses(t *testing.T, next http.RoundTripper) *endpoint.Set {
	t.Helper()
	o := endpoint.Options{Policy: endpoint.DefaultPolicy(), Random: func() float64 { return 0 }}
	o.Policy.Resolve, o.Policy.Addresses = endpoint.ResolveStatic, []string{"10.0.0.1:80", "10.0.0.2:80"}
	o.Connect = func(address string) http.RoundTripper {
		if address == o.Policy.Addresses[0] {
			return roundTripper(func(*http.Request) (*http.Response, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			})
		}
		return next
	}
	set := endpoint.New(&url.URL{Scheme: "http", Host: "up"}, o)
	t.Cleanup(set.Close)
	return set
}

func TestEachAttemptSendsItsOwnTraceContext(t *testing.T) {
	provider, exporter := spans.Record()
	var mu sync.Mutex
	var sent []string
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		sent = append(sent, r.Header.Get("Traceparent"))
		mu.Unlock()
		failingFirst(2, 10)(w, r)
	})
	ctx, parent := provider.Tracer("test").Start(t.Context(), "caller")
	req := request(t, http.MethodGet, u.URL, nil).WithContext(ctx)
	// the incoming trace context is replaced
	req.Header.Set("Traceparent", "00-00000000000000000000000000000001-0000000000000001-01")
	call(t, newTransport(t, base(t), patient(), transport.WithTracing(provider, propagation.TraceContext{}, "p")), req)
	parent.End()
	attempts := 0
	for _, s := range exporter.GetSpans() {
		if s.SpanKind != trace.SpanKindClient {
			continue
		}
		want := fmt.Sprintf("00-%s-%s-01", s.SpanContext.TraceID(), s.SpanContext.SpanID())
		if s.SpanContext.TraceID() != parent.SpanContext().TraceID() || attempts >= len(sent) || sent[attempts] != want {
			t.Errorf("attempt %d: sent %q, its span is %s", attempts+1, sent, want)
		}
		attempts++
	}
	if attempts != 3 || len(sent) != 3 {
		t.Errorf("got %d attempt spans and %d requests, want 3 of each", attempts, len(sent))
	}
}

// net/http sends a request again by itself when a kept connection fails. The attempt's span has an
// event for it.
func TestResendByNetHTTPIsAnEvent(t *testing.T) {
	provider, exporter := spans.Record()
	var requests atomic.Int64
	u := serve(t, func(http.ResponseWriter, *http.Request) {
		if requests.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
	})
	rt := newTransport(t, base(t), patient(), transport.WithTracing(provider, propagation.TraceContext{}, "p"))
	get(t, rt, u.URL)
	exporter.Reset()
	r := get(t, rt, u.URL)
	if requests.Load() != 3 || len(r.report.Attempts) != 1 {
		t.Skipf("net/http did not send it again: %d requests, %v", requests.Load(), r.reasons())
	}
	for _, s := range exporter.GetSpans() {
		if s.SpanKind == trace.SpanKindClient && (len(s.Events) != 1 || s.Events[0].Name != "transport.resend") {
			t.Errorf("got events %+v, want one transport.resend", s.Events)
		}
	}
}

func TestSpansEndWhenTheRoundTripperBelowPanics(t *testing.T) {
	provider, exporter := spans.Record()
	rt := newTransport(t, roundTripper(func(*http.Request) (*http.Response, error) { panic("next") }), quick(),
		transport.WithTracing(provider, propagation.TraceContext{}, "p"))
	func() {
		defer func() { _ = recover() }()
		get(t, rt, "http://up/")
	}()
	if n := len(exporter.GetSpans()); n != 2 {
		t.Errorf("%d spans ended, want the attempt's and the call's", n)
	}
}

func TestReasonsInTracesAreClosed(t *testing.T) {
	files, err := filepath.Glob("testdata/traces/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("got %d golden traces, error %v, want at least 10", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if reason, ok := strings.CutPrefix(strings.TrimSpace(line), "- rebound.reason="); ok && !resilience.Reason(reason).Valid() {
				t.Errorf("%s: got reason %q, want one of the closed list", f, reason)
			}
		}
	}
}

// asked is a sampler that leaves all out, and counts how often it was asked.
type asked struct{ times *int }

func (s asked) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	*s.times++
	return sdktrace.NeverSample().ShouldSample(p)
}

func (s asked) Description() string { return "asked" }

// A call that the sampler leaves out costs one question, and its attempts carry its context.
func TestUnsampledCallHasNoOtherSpans(t *testing.T) {
	times := 0
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(asked{&times}))
	var parents []string
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		parents = append(parents, r.Header.Get("Traceparent"))
		if len(parents) == 1 {
			return nil, io.ErrUnexpectedEOF
		}
		return answering(http.StatusOK).RoundTrip(r)
	})
	rt := newTransport(t, next, quick(), transport.WithTracing(provider, propagation.TraceContext{}, ""))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://upstream/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if times != 1 || len(parents) != 2 || parents[0] != parents[1] || !strings.HasSuffix(parents[0], "-00") {
		t.Errorf("asked %d times, attempts with %q; want once, two with one context that is not sampled", times, parents)
	}
}
