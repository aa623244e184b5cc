package transport_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/transport"
)

// resetAt is a body that the upstream resets at a time.
type resetAt time.Time

func (b resetAt) Read([]byte) (int, error) { return 0, reset(time.Time(b)) }
func (b resetAt) Close() error             { return nil }

var errReset = errors.New("stream error: CANCEL")

// reset waits until at without a timer, which could only fire later, and returns errReset.
func reset(at time.Time) error {
	for time.Now().Before(at) {
	}
	return errReset
}

// An upstream that knows the caller's deadline resets the stream when its timer fires, which may be
// a moment before our own does. The caller's time was up all the same, and the upstream is not to
// blame.
func TestGRPCUpstreamsTimerIsFaster(t *testing.T) {
	const limit = 5 * time.Millisecond
	for name, next := range map[string]func(deadline time.Time) (*http.Response, error){
		"before the headers": func(deadline time.Time) (*http.Response, error) { return nil, reset(deadline) },
		"after the headers": func(deadline time.Time) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK, ProtoMajor: 2, ContentLength: -1,
				Header: http.Header{"Content-Type": {"application/grpc"}}, Body: resetAt(deadline),
			}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := transport.DefaultPolicy()
			p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 1_000_000
			var deadline time.Time
			tr := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
				_ = r.Body.Close()
				return next(deadline)
			}), p)
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				deadline, _ = ctx.Deadline()
				r := request(t, http.MethodPost, "http://upstream/test.Test/Call", strings.NewReader("m")).WithContext(ctx)
				r.Header.Set("Content-Type", "application/grpc")
				r.Header.Set("Grpc-Timeout", "5m")
				resp, err := tr.RoundTrip(r)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the caller's deadline", err)
				}
			}
			if b := tr.State()[0].Breaker; b.Successes != 0 || b.Failures != 0 {
				t.Errorf("the circuit counts %s, want nothing", tally(b))
			}
		})
	}
}

// Each attempt of a gRPC call tells the upstream what is left of the caller's time then: the header
// alone says how much there is, or the call's context has less.
func TestGRPCTimeoutShrinksWithEachAttempt(t *testing.T) {
	for name, tc := range map[string]struct {
		deadline time.Duration // of the context, 0 for none
		want     []string
	}{
		"the header":  {0, []string{"10000000u", "9700000u", "9400000u"}},
		"the context": {5 * time.Second, []string{"5000000u", "4700000u", "4400000u"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				rt := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
					_ = r.Body.Close()
					got = append(got, r.Header.Get("Grpc-Timeout"))
					time.Sleep(300 * time.Millisecond)
					return &http.Response{
						StatusCode: http.StatusOK, ProtoMajor: 2, Body: http.NoBody,
						Header: http.Header{"Content-Type": {"application/grpc"}, "Grpc-Status": {"14"}},
					}, nil
				}), quick())
				ctx := transport.WithIdempotent(t.Context())
				if tc.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.deadline)
					defer cancel()
				}
				r := request(t, http.MethodPost, "http://upstream/test.Test/Call", strings.NewReader("m")).WithContext(ctx)
				r.Header.Set("Content-Type", "application/grpc")
				r.Header.Set("Grpc-Timeout", "10S")
				if result := call(t, rt, r); result.err != nil || !slices.Equal(got, tc.want) {
					t.Errorf("the upstream got Grpc-Timeout %q, error %v, want %q", got, result.err, tc.want)
				}
			})
		})
	}
}
