// Package bench compares Rebound with the libraries it is built from and with its peers. It is a
// module of its own so that the peers do not become dependencies. docs/benchmarks.md explains how
// the figures are taken.
package bench_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/hashicorp/go-retryablehttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// memory answers at once, with a body that is one allocation.
type memory struct{ status int }

type body struct{ done bool }

func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	b.done = true
	p[0] = 'x'
	return 1, io.EOF
}

func (b *body) Close() error { return nil }

func (m memory) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: m.status, Header: http.Header{}, Body: &body{}, ContentLength: 1, Request: r}, nil
}

// asking is memory that asks for the end of the attempt, as net/http does: with a child context.
type asking struct{ memory }

func (a asking) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	default:
		return a.memory.RoundTrip(r)
	}
}

func drain(b *testing.B, rt http.RoundTripper, req *http.Request) {
	if err := roundTrip(rt, req); err != nil {
		b.Fatal(err)
	}
}

func roundTrip(rt http.RoundTripper, req *http.Request) error {
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	var buffer [64]byte
	for {
		if _, err := resp.Body.Read(buffer[:]); err != nil {
			break
		}
	}
	return resp.Body.Close()
}

func request(b *testing.B) *http.Request {
	// The context can end, as that of a server's request can.
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	req, err := newRequest(ctx)
	if err != nil {
		b.Fatal(err)
	}
	return req
}

func newRequest(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://upstream/process", nil)
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{"Accept": "*/*", "User-Agent": "bench", "X-Request-Id": "r-1"} {
		req.Header.Set(k, v)
	}
	return req, nil
}

// sampled returns a transport whose traces go nowhere.
func sampled(sampler sdktrace.Sampler) (http.RoundTripper, error) {
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler), sdktrace.WithSpanProcessor(nowhere{}))
	return transport.New(memory{http.StatusOK}, transport.DefaultPolicy(), transport.WithTracing(provider, propagation.TraceContext{}, "default"))
}

// stock is failsafe-go's own composition of the same policies.
func stock(next http.RoundTripper) http.RoundTripper {
	return failsafehttp.NewRoundTripper(next,
		timeout.New[*http.Response](5*time.Second),
		failsafehttp.NewRetryPolicyBuilder().WithBackoff(100*time.Millisecond, time.Second).Build(),
		circuitbreaker.NewBuilder[*http.Response]().WithFailureRateThreshold(0.5, 50, 10*time.Second).Build(),
		timeout.New[*http.Response](1500*time.Millisecond),
	)
}

// refusing returns a transport whose circuit to the upstream of req is open.
func refusing(req *http.Request) (http.RoundTripper, error) {
	p := transport.DefaultPolicy()
	p.Breaker.ConsecutiveFailures = 1
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Hour, time.Hour
	rt, err := transport.New(memory{http.StatusInternalServerError}, p)
	if err != nil {
		return nil, err
	}
	return rt, roundTrip(rt, req)
}

// refuse makes a call that has to be refused.
func refuse(rt http.RoundTripper, req *http.Request) error {
	resp, err := rt.RoundTrip(req)
	if errors.Is(err, resilience.ErrBreakerOpen) {
		return nil
	}
	if err == nil {
		_ = resp.Body.Close()
		err = errors.New("the call was not refused")
	}
	return err
}

// BenchmarkSuccess is the success path over an in-memory RoundTripper.
func BenchmarkSuccess(b *testing.B) {
	next := memory{http.StatusOK}
	rebound, err := transport.New(next, transport.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	asked, err := transport.New(asking{next}, transport.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	traced := func(sampler sdktrace.Sampler) http.RoundTripper {
		rt, err := sampled(sampler)
		if err != nil {
			b.Fatal(err)
		}
		return rt
	}
	retryable := retryablehttp.NewClient()
	retryable.HTTPClient = &http.Client{Transport: next}
	retryable.Logger = nil
	for _, tc := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"bare", next},
		{"rebound", rebound},
		{"bare, asking", asking{next}},
		{"rebound, asking", asked},
		{"rebound, traces sampled out", traced(sdktrace.NeverSample())},
		{"rebound, traces recorded", traced(sdktrace.AlwaysSample())},
		{"failsafehttp", stock(next)},
		{"go-retryablehttp", &retryablehttp.RoundTripper{Client: retryable}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			req := request(b)
			b.ReportAllocs()
			for b.Loop() {
				drain(b, tc.rt, req)
			}
		})
	}
	// The cost of failsafe-go before any policy does anything.
	b.Run("failsafe-go without policies", func(b *testing.B) {
		e := failsafe.With[*http.Response]()
		req := request(b)
		b.ReportAllocs()
		for b.Loop() {
			resp, err := e.WithContext(req.Context()).Get(func() (*http.Response, error) { return next.RoundTrip(req) })
			if err != nil {
				b.Fatal(err)
			}
			_ = resp.Body.Close()
		}
	})
}

// nowhere takes spans and drops them: it shows the cost of making spans without exporting them.
type nowhere struct{}

func (nowhere) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (nowhere) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (nowhere) Shutdown(context.Context) error                  { return nil }
func (nowhere) ForceFlush(context.Context) error                { return nil }

// BenchmarkRefusal measures a call against an open circuit.
func BenchmarkRefusal(b *testing.B) {
	req := request(b)
	rt, err := refusing(req)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("rebound", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := refuse(rt, req); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTurns compares the same calls on a busy machine: they take turns in short rounds. The
// figures are medians, of the rounds' differences to the bare RoundTripper in processor time of the
// process, and of the ratios of these to that of the stock composition. Those of the RoundTripper
// that asks for the attempt's end are with it below both. The garbage collector of a process with
// one core takes turns with the calls, on two it runs beside them.
func BenchmarkTurns(b *testing.B) {
	next := memory{http.StatusOK}
	req := request(b)
	rebound, err := transport.New(next, transport.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	unsampled, err := sampled(sdktrace.NeverSample())
	if err != nil {
		b.Fatal(err)
	}
	asked, err := transport.New(asking{next}, transport.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	open, err := refusing(req)
	if err != nil {
		b.Fatal(err)
	}
	composition, compositionAsked := stock(next), stock(asking{next})
	ways := []func() error{
		func() error { return roundTrip(next, req) },
		func() error { return roundTrip(composition, req) },
		func() error { return roundTrip(rebound, req) },
		func() error { return roundTrip(unsampled, req) },
		func() error { return refuse(open, req) },
		func() error { return roundTrip(asking{next}, req) },
		func() error { return roundTrip(compositionAsked, req) },
		func() error { return roundTrip(asked, req) },
	}
	const rounds, calls = 300, 500
	round := func(call func() error) float64 {
		before := processorTime(b)
		for range calls {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
		return float64(processorTime(b)-before) / calls
	}
	for _, cores := range []int{1, 2} {
		b.Run(fmt.Sprintf("on %d", cores), func(b *testing.B) {
			// Not by -cpu: with -benchtime 1x its first figures are those of its last number.
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			for b.Loop() {
				var stocks, successes, ratios, sampling, refusals, successesAsked, ratiosAsked []float64
				for n := range rounds {
					var took [8]float64
					for i := range ways {
						way := (i + n) % len(ways)
						took[way] = round(ways[way])
					}
					stocks, successes = append(stocks, took[1]-took[0]), append(successes, took[2]-took[0])
					ratios = append(ratios, (took[2]-took[0])/(took[1]-took[0]))
					sampling, refusals = append(sampling, took[3]-took[2]), append(refusals, took[4])
					successesAsked = append(successesAsked, took[7]-took[5])
					ratiosAsked = append(ratiosAsked, (took[7]-took[5])/(took[6]-took[5]))
				}
				b.ReportMetric(median(stocks), "ns-stock")
				b.ReportMetric(median(successes), "ns-success")
				b.ReportMetric(median(ratios), "of-stock")
				b.ReportMetric(median(successesAsked), "ns-success-asked")
				b.ReportMetric(median(ratiosAsked), "of-stock-asked")
				b.ReportMetric(median(sampling), "ns-sampled-out")
				b.ReportMetric(median(refusals), "ns-refusal")
			}
		})
	}
}

func processorTime(tb testing.TB) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
