package transport_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// answering answers at once from memory, with a body.
type answering int

func (s answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(s), Header: http.Header{}, Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1, Request: r}, nil
}

// asking is answering, and asks for the end of the attempt as net/http does: with a child context.
type asking struct{ answering }

func (a asking) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	default:
		return a.answering.RoundTrip(r)
	}
}

// A call makes no more allocations than these. docs/benchmarks.md names them.
func TestAllocations(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context()) // one that can end, as a server's
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://upstream/process", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "*/*")
	call := func(rt http.RoundTripper) error {
		resp, err := rt.RoundTrip(req)
		if err == nil {
			_, _ = io.ReadAll(resp.Body)
			err = resp.Body.Close()
		}
		return err
	}
	opening := transport.DefaultPolicy()
	opening.Breaker.ConsecutiveFailures = 1
	opening.Breaker.OpenFor, opening.Breaker.MaxOpenFor = time.Hour, time.Hour
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	bare := testing.AllocsPerRun(200, func() { _ = call(answering(http.StatusOK)) })
	// The child needs a channel and two objects for the list of children, which ctx has already.
	bareAsking := testing.AllocsPerRun(200, func() { _ = call(asking{http.StatusOK}) })
	for name, tc := range map[string]struct {
		rt    http.RoundTripper
		want  float64
		error error
	}{
		"success":            {newTransport(t, answering(http.StatusOK), transport.DefaultPolicy()), bare + 4, nil},
		"success, asked":     {newTransport(t, asking{http.StatusOK}, transport.DefaultPolicy()), bareAsking + 11, nil},
		"traces sampled out": {newTransport(t, answering(http.StatusOK), transport.DefaultPolicy(), transport.WithTracing(provider, propagation.TraceContext{}, "")), bare + 8, nil},
		"refusal":            {newTransport(t, answering(http.StatusInternalServerError), opening), 1, resilience.ErrBreakerOpen},
	} {
		t.Run(name, func(t *testing.T) {
			_ = call(tc.rt) // the first one opens the circuit
			got := testing.AllocsPerRun(1000, func() {
				if err := call(tc.rt); !errors.Is(err, tc.error) {
					t.Errorf("err = %v, want %v", err, tc.error)
				}
			})
			if got > tc.want {
				t.Errorf("%v allocations, want at most %v", got, tc.want)
			}
		})
	}
}

// reading reads the request's body, and then answers.
type reading struct{}

func (reading) RoundTrip(r *http.Request) (*http.Response, error) {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 32<<10))
	_ = r.Body.Close()
	if err != nil {
		return nil, err
	}
	return answering(http.StatusOK).RoundTrip(r)
}

// A large upload made garbage for each of its reads: 128 bytes for 32 KiB.
func TestUploadsMakeNoGarbage(t *testing.T) {
	rt := newTransport(t, reading{}, transport.DefaultPolicy())
	upload := func(size int64) float64 {
		return testing.AllocsPerRun(20, func() {
			if got := call(t, rt, request(t, http.MethodPost, "http://upstream/", io.LimitReader(zeros{}, size))); got.err != nil {
				t.Error(got.err)
			}
		})
	}
	const reads = 1000
	short := upload(4 << 20) // more than is kept for another attempt
	if more := upload(4<<20+reads*32<<10) - short; more > reads/20 {
		t.Errorf("%d more reads made %v allocations, want none", reads, more)
	}
}
