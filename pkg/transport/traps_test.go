package transport_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Each test here is named after a trap in the stock libraries, which was reproduced on failsafe-go
// 0.9.8, gobreaker 2.4.0 or go-retryablehttp 0.7.8.

// failingFirst answers 503 with a body of size bytes to the first n attempts of each call, by
// X-Attempt-Count.
func failingFirst(n, size int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if attempt, _ := strconv.Atoi(r.Header.Get(transport.HeaderAttemptCount)); attempt <= n {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, strings.Repeat("x", size))
			return
		}
		_, _ = io.WriteString(w, "fine")
	}
}

// failsafehttp: 50 calls opened 101 connections, and 100 of 150 bodies were never closed.
func TestTrapLosingResponseIsDroppedUnread(t *testing.T) {
	t.Run("one after another", func(t *testing.T) {
		wait.OneOf(t, 2, func() string { // a busy machine may not drain a body in the time for it
			u := serve(t, failingFirst(2, 10_000))
			rt := newTransport(t, base(t), patient())
			for range 50 {
				if r := get(t, rt, u.URL); r.err != nil || r.body != "fine" || len(r.report.Attempts) != 3 {
					t.Fatalf("got body %q, error %v, attempts %v, want fine at the third attempt", r.body, r.err, r.reasons())
				}
			}
			if got := u.connections.Opened(); got > 2 {
				return fmt.Sprintf("%d connections for 50 calls one after another, want at most 2", got)
			}
			return ""
		})
	})
	t.Run("concurrent", func(t *testing.T) {
		const callers = 8
		u := serve(t, failingFirst(2, 10_000))
		next := base(t)
		// net/http dials more than it needs. With this limit, a connection that is not returned
		// makes a call time out.
		next.MaxConnsPerHost = callers
		rt := newTransport(t, next, patient())
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range 20 {
					if r := get(t, rt, u.URL); r.err != nil {
						t.Error(r.err)
					}
				}
			})
		}
		wg.Wait()
		if got := u.connections.Opened(); got > callers {
			t.Errorf("%d connections, want at most the concurrency of %d", got, callers)
		}
	})
	t.Run("a losing body that never ends costs 50 ms at most", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			next := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(transport.HeaderAttemptCount) == "1" {
					w.WriteHeader(http.StatusServiceUnavailable)
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
				}
			})
			p := quick()
			start := time.Now()
			r := get(t, newTransport(t, next, p), "http://up/")
			if r.err != nil || r.resp.StatusCode != http.StatusOK || time.Since(start) != 50*time.Millisecond {
				t.Errorf("got error %v after %v, want status 200 after 50 ms", r.err, time.Since(start))
			}
		})
	})
	t.Run("draining is part of the wait, not on top", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			next := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(transport.HeaderAttemptCount) == "1" {
					w.WriteHeader(http.StatusServiceUnavailable)
					_ = http.NewResponseController(w).Flush()
					time.Sleep(30 * time.Millisecond)
				}
			})
			start := time.Now()
			get(t, newTransport(t, next, steady()), "http://up/")
			if time.Since(start) != 100*time.Millisecond {
				t.Errorf("took %v, want the 100ms of the backoff", time.Since(start))
			}
		})
	})
}

// failsafehttp: io.ReadAll before the first attempt, without limit, ignoring GetBody.
func TestTrapRequestBodyIsReadWholeBeforeTheFirstAttempt(t *testing.T) {
	sums := func(list *[]string, mu *sync.Mutex) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			h := sha256.New()
			n, _ := io.Copy(h, r.Body)
			mu.Lock()
			*list = append(*list, fmt.Sprintf("%d:%x", n, h.Sum(nil)))
			mu.Unlock()
			failingFirst(2, 10)(w, r)
		}
	}
	payload := strings.Repeat("0123456789abcdef", 4096) // 64 KiB
	sum := fmt.Sprintf("%d:%x", len(payload), sha256.Sum256([]byte(payload)))
	unknown := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }
	for name, body := range map[string]func() *http.Request{
		"with GetBody":             func() *http.Request { return request(t, http.MethodPut, "http://x/", strings.NewReader(payload)) },
		"length unknown, buffered": func() *http.Request { return request(t, http.MethodPut, "http://x/", unknown(payload)) },
		"length known, buffered": func() *http.Request {
			r := request(t, http.MethodPut, "http://x/", unknown(payload))
			r.ContentLength = int64(len(payload))
			return r
		},
	} {
		t.Run("every attempt sends the same bytes: "+name, func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			u := serve(t, sums(&got, &mu))
			req := body()
			req.URL = request(t, http.MethodPut, u.URL, nil).URL
			req.Host = req.URL.Host
			r := call(t, newTransport(t, base(t), patient()), req)
			if r.err != nil || !reflect.DeepEqual(got, []string{sum, sum, sum}) {
				t.Errorf("%v; upstream read %q, want three times %s", r.err, got, sum)
			}
		})
	}

	t.Run("one byte above the limit streams as one attempt", func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		u := serve(t, sums(&got, &mu))
		for _, length := range []int64{-1, int64(len(payload) + 1)} {
			got = nil
			req := request(t, http.MethodPut, u.URL, unknown(payload+"!"))
			req.ContentLength = length
			r := call(t, newTransport(t, base(t), patient()), req)
			if r.err != nil || r.resp.StatusCode != http.StatusServiceUnavailable || r.report.Reason != resilience.ReasonBodyNotReplayable || len(got) != 1 {
				t.Errorf("length %d: got error %v, reason %s, %d attempts, want status 503, %s, 1 attempt", length, r.err, r.report.Reason, len(got), resilience.ReasonBodyNotReplayable)
			}
		}
	})

	t.Run("the first attempt does not wait for the body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var began time.Duration
			start := time.Now()
			next := inBubble(t, func(_ http.ResponseWriter, r *http.Request) {
				began = time.Since(start)
				_, _ = io.Copy(io.Discard, r.Body)
			})
			reader, writer := io.Pipe()
			go func() {
				time.Sleep(time.Second)
				_, _ = io.WriteString(writer, "late")
				_ = writer.Close()
			}()
			r := call(t, newTransport(t, next, steady()), request(t, http.MethodPut, "http://up/", reader))
			if r.err != nil || began != 0 {
				t.Errorf("got error %v, and the upstream saw the request after %v, want none and at once", r.err, began)
			}
		})
	})

	t.Run("nothing consumed can always be sent again", func(t *testing.T) {
		var dials atomic.Int32
		u := serve(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "%d %v", n, err)
		})
		next := base(t)
		next.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if dials.Add(1) < 3 {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		big := strings.Repeat("y", 1<<20)
		r := call(t, newTransport(t, next, patient()), request(t, http.MethodPost, u.URL, unknown(big)))
		if r.err != nil || r.body != "1048576 <nil>" || len(r.report.Attempts) != 3 {
			t.Errorf("got error %v, body %q, attempts %v, want 1048576 bytes at the third attempt", r.err, r.body, r.reasons())
		}
	})

	t.Run("all calls together keep no more than the transport's memory", func(t *testing.T) {
		u := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		r := call(t, newTransport(t, base(t), patient(), transport.WithReplayMemory(transport.NewReplayMemory(1000))), request(t, http.MethodPut, u.URL, unknown(payload)))
		if r.report.Reason != resilience.ReasonBodyNotReplayable {
			t.Errorf("got reason %s, want %s", r.report.Reason, resilience.ReasonBodyNotReplayable)
		}
	})

	t.Run("an answer before the end of the upload does not wait for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			next := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get(transport.HeaderAttemptCount) != "1" {
					got, err := io.ReadAll(r.Body)
					_, _ = fmt.Fprintf(w, "%s %v", got, err)
					return
				}
				_, _ = io.ReadFull(r.Body, make([]byte, 5))
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.WriteHeader(http.StatusServiceUnavailable)
			})
			reader, writer := io.Pipe()
			go func() {
				_, _ = io.WriteString(writer, "first")
				time.Sleep(2 * time.Second)
				_, _ = io.WriteString(writer, " second")
				_ = writer.Close()
			}()
			start := time.Now()
			var second time.Duration
			watch := transport.WithObserver(resilience.Observer{Attempt: func(_ context.Context, a *resilience.AttemptReport) {
				if a.Number == 1 {
					second = time.Since(start)
				}
			}})
			p := steady()
			p.Timeout, p.AttemptTimeout = time.Minute, 30*time.Second
			r := call(t, newTransport(t, next, p, watch), request(t, http.MethodPut, "http://up/", reader))
			if r.err != nil || r.body != "first second <nil>" {
				t.Errorf("the upstream got %q, error %v, want %q", r.body, r.err, "first second <nil>")
			}
			if second >= 2*time.Second {
				t.Errorf("the verdict on attempt 1 waited %v for the caller's body, want less than 2 s", second)
			}
		})
	})
}

// failsafehttp and go-retryablehttp: 9999999999 overflows into an immediate retry, -5 does too, an
// HTTP-date is ignored, and jitter shortens the wait.
func TestTrapRetryAfterOverflowsOrIsIgnored(t *testing.T) {
	const s = time.Second
	for name, tc := range map[string]struct {
		header   string
		attempts int
		least    time.Duration
		most     time.Duration
		reason   resilience.Reason
		source   resilience.WaitSource
	}{
		"seconds":              {"2", 2, 2 * s, 2500 * time.Millisecond, resilience.ReasonOK, resilience.WaitRetryAfter},
		"date":                 {"date", 2, 2 * s, 2500 * time.Millisecond, resilience.ReasonOK, resilience.WaitRetryAfter},
		"spaces":               {" 2 ", 2, 2 * s, 2500 * time.Millisecond, resilience.ReasonOK, resilience.WaitRetryAfter},
		"would overflow":       {"9999999999", 1, 0, 0, resilience.ReasonRetryAfterTooLong, ""},
		"does not fit 64 bits": {"99999999999999999999999", 1, 0, 0, resilience.ReasonRetryAfterTooLong, ""},
		"date in a century":    {"Fri, 31 Dec 2100 23:59:59 GMT", 1, 0, 0, resilience.ReasonRetryAfterTooLong, ""},
		"longer than allowed":  {"6", 1, 0, 0, resilience.ReasonRetryAfterTooLong, ""},
		"negative":             {"-5", 2, 100 * time.Millisecond, 100 * time.Millisecond, resilience.ReasonOK, resilience.WaitJitter},
		"unreadable":           {"soon", 2, 100 * time.Millisecond, 100 * time.Millisecond, resilience.ReasonOK, resilience.WaitJitter},
		"date in the past":     {"Fri, 31 Dec 1999 23:59:59 GMT", 2, 100 * time.Millisecond, 100 * time.Millisecond, resilience.ReasonOK, resilience.WaitJitter},
		"zero":                 {"0", 2, 100 * time.Millisecond, 100 * time.Millisecond, resilience.ReasonOK, resilience.WaitJitter},
	} {
		t.Run(name, func(t *testing.T) {
			for _, u := range []float64{0, 0.5, 0.999} {
				synctest.Test(t, func(t *testing.T) {
					next := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
						if r.Header.Get(transport.HeaderAttemptCount) != "1" {
							return
						}
						h := tc.header
						if h == "date" {
							h = time.Now().Add(2 * s).UTC().Format(http.TimeFormat)
						}
						w.Header().Set("Retry-After", h)
						w.WriteHeader(http.StatusServiceUnavailable)
					})
					start := time.Now()
					r := get(t, newTransport(t, next, steady(), transport.WithRandom(func() float64 { return u })), "http://up/")
					took := time.Since(start)
					if r.err != nil || len(r.report.Attempts) != tc.attempts || r.report.Reason != tc.reason || took < tc.least || took > tc.most {
						t.Errorf("u=%v: %v, %d attempts in %v, reason %s; want %d in %v to %v, %s",
							u, r.err, len(r.report.Attempts), took, r.report.Reason, tc.attempts, tc.least, tc.most, tc.reason)
					}
					if got := r.report.Attempts[0].Wait.Source; got != tc.source {
						t.Errorf("source %q, want %q", got, tc.source)
					}
				})
			}
		})
	}
}

// failsafe-go: with a cap of 4 µs and a factor of .5 it waited 6 µs.
func TestTrapJitterIsAppliedAfterTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(7, 7))
		for _, jitter := range []resilience.Jitter{resilience.JitterFull, resilience.JitterEqual, resilience.JitterDecorrelated} {
			p := steady()
			p.Retry.MaxAttempts = 30
			p.Retry.Backoff = resilience.Backoff{Base: 30 * time.Millisecond, Max: 40 * time.Millisecond, Factor: 3, Jitter: jitter}
			rt := newTransport(t, inBubble(t, failingFirst(100, 0)), p, transport.WithRandom(random.Float64))
			r := get(t, rt, "http://up/")
			if len(r.report.Attempts) != 30 {
				t.Fatalf("got %d attempts, reason %s, want 30 attempts", len(r.report.Attempts), r.report.Reason)
			}
			for _, a := range r.report.Attempts {
				if a.Wait.Planned > 40*time.Millisecond || a.Wait.Actual > 40*time.Millisecond {
					t.Errorf("%s: waited %v (planned %v), want at most 40 ms", jitter, a.Wait.Actual, a.Wait.Planned)
				}
			}
		}
	})
}

// failsafe-go: the budget is checked after the sleep, and the caller gets "budget exceeded" instead
// of the upstream's 503.
func TestTrapBudgetIsAskedAfterTheSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.Budget = resilience.BudgetPolicy{}
		start := time.Now()
		r := get(t, newTransport(t, inBubble(t, failingFirst(9, 4)), p), "http://up/")
		if r.err != nil || r.resp.StatusCode != http.StatusServiceUnavailable || r.body != "xxxx" {
			t.Errorf("%v: want the upstream's own 503 with its body", r.err)
		}
		if r.report.Reason != resilience.ReasonBudgetExhausted || time.Since(start) != 0 {
			t.Errorf("reason %s after %v, want budget_exhausted at once", r.report.Reason, time.Since(start))
		}
	})
}

// failsafe-go: it slept for 301 ms and made no call.
func TestTrapRetryLoopSleepsAgainstAnOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits atomic.Int64
		p := steady()
		p.Breaker.ConsecutiveFailures = 1
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}), p)
		start := time.Now()
		if r := get(t, rt, "http://up/"); r.report.Reason != resilience.ReasonBreakerOpen || r.resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("the call that trips it: got reason %s, want %s with status 503", r.report.Reason, resilience.ReasonBreakerOpen)
		}
		for range 1000 {
			if r := get(t, rt, "http://up/"); !errors.Is(r.err, resilience.ErrBreakerOpen) || len(r.report.Attempts) != 0 {
				t.Fatalf("got error %v, attempts %v, want ErrBreakerOpen without an attempt", r.err, r.reasons())
			}
		}
		if time.Since(start) != 0 || hits.Load() != 1 {
			t.Errorf("%d calls upstream in %v, want 1 in no time", hits.Load(), time.Since(start))
		}
	})
}

// gobreaker: callbacks run under its mutex (reading the state deadlocks), and reading the state
// turns an open circuit half-open.
func TestTrapCallbacksRunUnderTheBreakersMutex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Breaker.ConsecutiveFailures = 1
		var rt *transport.Transport
		var seen []string
		rt = newTransport(t, inBubble(t, failingFirst(9, 0)), p, transport.WithRandom(func() float64 { return 0.5 }),
			transport.WithObserver(resilience.Observer{Transition: func(tr resilience.Transition) {
				seen = append(seen, fmt.Sprintf("%s→%s %s", tr.From, tr.To, rt.State()[0].Breaker.State))
			}}))
		get(t, rt, "http://up/")
		for range 99 {
			time.Sleep(10 * time.Millisecond)
			if s := rt.State()[0].Breaker.State; s != resilience.Open {
				t.Fatalf("State turned the circuit %v, want it still open", s)
			}
		}
		time.Sleep(11 * time.Millisecond)
		synctest.Wait()
		if want := []string{"closed→open open", "open→half-open half-open"}; !reflect.DeepEqual(seen, want) {
			t.Errorf("saw %q, want %q", seen, want)
		}
	})
}

// failsafe-go: timeout.ErrExceeded is not context.DeadlineExceeded, and its jitter cannot be
// seeded.
func TestTrapTimeoutErrorIsNotADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxAttempts = 1
		start := time.Now()
		r := get(t, newTransport(t, inBubble(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), p), "http://up/")
		var e *resilience.Error
		var timeout net.Error
		if !errors.Is(r.err, context.DeadlineExceeded) || !errors.Is(r.err, resilience.ErrTimeout) || !errors.As(r.err, &timeout) && !errors.As(r.err, &e) {
			t.Errorf("got error %v, want a timeout of the call", r.err)
		}
		if time.Since(start) != 1500*time.Millisecond {
			t.Errorf("ended after %v, want 1.5 s", time.Since(start))
		}
	})
	waits := func() (list []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			p := steady()
			p.Retry.MaxAttempts, p.Retry.Backoff.Jitter = 6, resilience.JitterFull
			random := rand.New(rand.NewPCG(3, 4))
			for _, a := range get(t, newTransport(t, inBubble(t, failingFirst(9, 0)), p, transport.WithRandom(random.Float64)), "http://up/").report.Attempts {
				list = append(list, a.Wait.Actual)
			}
		})
		return list
	}
	if a, b := waits(), waits(); !reflect.DeepEqual(a, b) || a[0] == a[1] {
		t.Errorf("the same seed waited %v and then %v, want the same waits, which differ from each other", a, b)
	}
}

// A canceled call, or any 4xx, counted as a failure.
func TestTrapBreakerCountsTheCallersCancellation(t *testing.T) {
	die := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		cancel  time.Duration
		want    string
	}{
		"200":                  {status(200), 0, "1 good, 0 bad"},
		"304":                  {status(304), 0, "1 good, 0 bad"},
		"400":                  {status(400), 0, "1 good, 0 bad"},
		"404":                  {status(404), 0, "1 good, 0 bad"},
		"429":                  {status(429), 0, "0 good, 0 bad"},
		"500":                  {status(500), 0, "0 good, 1 bad"},
		"501":                  {status(501), 0, "1 good, 0 bad"},
		"508":                  {status(508), 0, "1 good, 0 bad"},
		"503":                  {status(503), 0, "0 good, 1 bad"},
		"reset before headers": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, "0 good, 1 bad"},
		"body dies":            {die, 0, "0 good, 1 bad"},
		"attempt timeout":      {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, "0 good, 1 bad"},
		"caller hangs up":      {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, time.Second, "0 good, 0 bad"},
		"caller leaves a body": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, time.Second, "0 good, 0 bad"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Retry.MaxAttempts = 1
				rt := newTransport(t, inBubble(t, tc.handler), p)
				req := request(t, http.MethodGet, "http://up/", nil)
				if tc.cancel > 0 {
					ctx, cancel := context.WithCancel(req.Context())
					time.AfterFunc(tc.cancel, cancel)
					req = req.WithContext(ctx)
				}
				r := call(t, rt, req)
				b := rt.State()[0].Breaker
				if got := fmt.Sprintf("%d good, %d bad", b.Successes, b.Failures); got != tc.want {
					t.Errorf("the breaker counts %s, want %s (%v)", got, tc.want, r.err)
				}
				if tc.cancel > 0 && !errors.Is(r.err, context.Canceled) {
					t.Errorf("got error %v, want context.Canceled", r.err)
				}
				if name == "body dies" {
					var e *resilience.Error
					if !errors.As(r.err, &e) || e.Reason != resilience.ReasonBodyFailed || !errors.Is(r.err, io.ErrUnexpectedEOF) || r.report.Reason != resilience.ReasonBodyFailed {
						t.Errorf("got error %v, reason %s, want io.ErrUnexpectedEOF and %s", r.err, r.report.Reason, resilience.ReasonBodyFailed)
					}
				}
			})
		})
	}
}

func TestTrapHungOrPanickingProbeKeepsTheSlot(t *testing.T) {
	for name, probe := range map[string]http.RoundTripper{
		"hung":      roundTripper(func(*http.Request) (*http.Response, error) { select {} }),
		"panicking": roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Breaker.ConsecutiveFailures, p.Breaker.Probes = 1, 1
				good := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/bad" {
						w.WriteHeader(http.StatusInternalServerError)
					}
				})
				hang := make(chan struct{})
				rt := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
					switch {
					case r.URL.Path != "/probe":
						return good.RoundTrip(r)
					case name == "hung": // ignores even the end of its context
						<-hang
						return nil, errors.New("late")
					}
					return probe.RoundTrip(r)
				}), p, transport.WithRandom(func() float64 { return 0.5 }))
				get(t, rt, "http://up/bad")
				time.Sleep(time.Second + 1)
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { _ = recover() }()
					_, _ = rt.RoundTrip(request(t, http.MethodGet, "http://up/probe", nil))
				})
				// until the lease ends, and then the next open period
				time.Sleep(1500*time.Millisecond + 2*time.Second + 2)
				if r := get(t, rt, "http://up/"); r.err != nil {
					t.Errorf("the slot is still taken: got error %v, want none", r.err)
				}
				close(hang)
				wg.Wait()
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// failsafe-go: successes from before the circuit opened closed it.
func TestTrapResultsFromBeforeTheTripCloseTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Timeout, p.AttemptTimeout = time.Minute, time.Minute
		p.Breaker.ConsecutiveFailures = 1
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/bad" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			time.Sleep(1500 * time.Millisecond)
		}), p, transport.WithRandom(func() float64 { return 0.5 }))
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { get(t, rt, "http://up/slow") })
		}
		synctest.Wait()
		get(t, rt, "http://up/bad")
		wg.Wait()
		if b := rt.State()[0].Breaker; b.State != resilience.HalfOpen || b.Successes != 0 || b.Stale != 10 {
			t.Errorf("%+v, want half-open, nothing counted, 10 stale results", b)
		}
	})
}

// gobreaker: 20 failures in a row, further apart than the window's buckets, never open the circuit.
func TestTrapConsecutiveCountDecaysWithTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxAttempts = 1
		p.Breaker.ConsecutiveFailures = 20
		rt := newTransport(t, inBubble(t, failingFirst(9, 0)), p)
		for range 20 {
			time.Sleep(3 * time.Second)
			get(t, rt, "http://up/")
		}
		if b := rt.State()[0].Breaker; b.State != resilience.Open {
			t.Errorf("after 20 failures in a row the circuit is %+v, want it open", b)
		}
	})
}

// failsafehttp and go-retryablehttp retry any method.
func TestTrapPostIsSentTwice(t *testing.T) {
	reset := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(transport.HeaderAttemptCount) == "1" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "done")
	}
	for name, tc := range map[string]struct {
		method, key string
		handler     http.HandlerFunc
		attempts    int
		reason      resilience.Reason
	}{
		"POST, 503":                        {"POST", "", failingFirst(1, 0), 1, resilience.ReasonMethodNotIdempotent},
		"PATCH, 503":                       {"PATCH", "", failingFirst(1, 0), 1, resilience.ReasonMethodNotIdempotent},
		"POST, 429":                        {"POST", "", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, 1, resilience.ReasonMethodNotIdempotent},
		"POST, reset":                      {"POST", "", reset, 1, resilience.ReasonMethodNotIdempotent},
		"POST with Idempotency-Key, 503":   {"POST", "k-1", failingFirst(1, 0), 2, resilience.ReasonOK},
		"POST with Idempotency-Key, reset": {"POST", "k-1", reset, 2, resilience.ReasonOK},
		"PUT, 503":                         {"PUT", "", failingFirst(1, 0), 2, resilience.ReasonOK},
		"DELETE, reset":                    {"DELETE", "", reset, 2, resilience.ReasonOK},
	} {
		t.Run(name, func(t *testing.T) {
			u := serve(t, tc.handler)
			req := request(t, tc.method, u.URL, strings.NewReader("order"))
			if tc.key != "" {
				req.Header.Set(transport.HeaderIdempotencyKey, tc.key)
			}
			r := call(t, newTransport(t, base(t), patient()), req)
			if int(u.requests.Load()) != tc.attempts || len(r.report.Attempts) != tc.attempts || r.report.Reason != tc.reason {
				t.Errorf("%d requests, %v, reason %s; want %d, %s (%v)", u.requests.Load(), r.reasons(), r.report.Reason, tc.attempts, tc.reason, r.err)
			}
		})
	}
	t.Run("what was proven not to be sent is repeated whatever the method", func(t *testing.T) {
		t.Run("dial", func(t *testing.T) {
			r := call(t, newTransport(t, base(t), patient()), request(t, http.MethodPost, "http://"+rawhttp.FreeAddress(t), strings.NewReader("order")))
			if want := []resilience.Reason{"dial_error", "dial_error", "dial_error"}; !reflect.DeepEqual(r.reasons(), want) || r.report.Reason != resilience.ReasonMaxAttempts {
				t.Errorf("got attempts %v, reason %s, want %v, %s", r.reasons(), r.report.Reason, want, resilience.ReasonMaxAttempts)
			}
		})
		t.Run("TLS handshake", func(t *testing.T) {
			for name, tc := range map[string]struct {
				answer func(net.Conn)
				want   []resilience.Reason
			}{
				"closed in the handshake": {func(c net.Conn) { _, _ = c.Read(make([]byte, 100)); _ = c.Close() }, []resilience.Reason{"tls_error", "tls_error", "tls_error"}},
				"plain text":              {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); _ = c.Close() }, []resilience.Reason{"tls_error", "tls_error", "tls_error"}},
			} {
				l := rawhttp.Listen(t)
				rawhttp.Serve(t, l, tc.answer)
				r := call(t, newTransport(t, base(t), patient()), request(t, http.MethodPost, "https://"+l.Addr().String(), strings.NewReader("order")))
				if !reflect.DeepEqual(r.reasons(), tc.want) {
					t.Errorf("%s: %v (%v), want %v", name, r.reasons(), r.err, tc.want)
				}
			}
		})
		t.Run("REFUSED_STREAM", func(t *testing.T) {
			var tries int
			r := call(t, newTransport(t, roundTripper(func(*http.Request) (*http.Response, error) {
				if tries++; tries == 1 {
					return nil, refusedStream{StreamID: 1, Code: 7}
				}
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			}), quick()), request(t, http.MethodPost, "http://up/", nil))
			if r.err != nil || tries != 2 {
				t.Errorf("got %d tries, error %v, want 2 and none", tries, r.err)
			}
		})
	})
	t.Run("a bad certificate is not repeated", func(t *testing.T) {
		u := httptest.NewUnstartedServer(http.NotFoundHandler())
		u.Config.ErrorLog = log.New(io.Discard, "", 0)
		u.StartTLS()
		defer u.Close()
		r := get(t, newTransport(t, base(t), patient()), u.URL)
		if want := []resilience.Reason{"tls_error"}; !reflect.DeepEqual(r.reasons(), want) || r.report.Reason != resilience.ReasonTLSError {
			t.Errorf("got attempts %v, reason %s, error %v, want %v, %s", r.reasons(), r.report.Reason, r.err, want, resilience.ReasonTLSError)
		}
	})
}

// refusedStream is an HTTP/2 stream error as another package would define it.
type refusedStream struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (refusedStream) Error() string { return "stream error: REFUSED_STREAM" }

func (e refusedStream) As(target any) bool {
	v := reflect.ValueOf(target).Elem()
	if v.Kind() != reflect.Struct || v.NumField() != 3 || v.Type().Field(1).Name != "Code" {
		return false
	}
	v.Field(1).SetUint(uint64(e.Code))
	return true
}

// A wait longer than the time left was slept through, or cut short for an attempt that could not
// end.
func TestTrapWaitIsBegunThatCannotEndBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "the last answer")
		}), steady())
		req := request(t, http.MethodGet, "http://up/", nil)
		req.Header.Set(transport.HeaderExpectedTimeout, "3000")
		start := time.Now()
		r := call(t, rt, req)
		if r.report.Reason != resilience.ReasonDeadlineTooClose || time.Since(start) != time.Second || r.body != "the last answer" {
			t.Errorf("got reason %s after %v, body %q, want %s after 1 s with the last answer", r.report.Reason, time.Since(start), r.body, resilience.ReasonDeadlineTooClose)
		}
	})
}

// failsafe-go #123: the context of the body ends with the timeout policy.
func TestTrapResponseBodyIsCanceledWithTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				_, _ = io.WriteString(w, "chunk ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Minute)
			}
		}), steady())
		start := time.Now()
		r := get(t, rt, "http://up/")
		if r.err != nil || r.body != strings.Repeat("chunk ", 10) || time.Since(start) != 10*time.Minute {
			t.Errorf("got body %q, error %v after %v, want ten chunks after 10 minutes", r.body, r.err, time.Since(start))
		}
		if b := rt.State()[0].Breaker; b.Successes != 1 {
			t.Errorf("the circuit counts %+v, want 1 success", b)
		}
	})
}

// 3 layers of 4 attempts make 64 calls.
func TestTrapRetriesMultiplyAcrossLayers(t *testing.T) {
	var hits atomic.Int64
	u := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	// Two more layers. Each passes on the request's headers.
	layer := func(next string) *upstream {
		rt := newTransport(t, base(t), patient())
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			req := request(t, r.Method, next, nil)
			req.Header = r.Header.Clone()
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			w.WriteHeader(resp.StatusCode)
		})
	}
	top := layer(layer(u.URL).URL)
	r := get(t, newTransport(t, base(t), patient()), top.URL)
	// The top's first attempt makes 3 in the middle. The first of these makes 3 at the bottom, the
	// others 1 each. The top's second and third attempts make 1 each, all the way down.
	if r.resp.StatusCode != http.StatusServiceUnavailable || hits.Load() != 7 {
		t.Errorf("%d calls at the bottom of three layers of 3 attempts, want 7 instead of 27", hits.Load())
	}
	hits.Store(0)
	req := request(t, http.MethodGet, u.URL, nil)
	req.Header.Set(transport.HeaderAttemptCount, "2")
	r = call(t, newTransport(t, base(t), patient()), req)
	if hits.Load() != 1 || r.report.Reason != resilience.ReasonRetriedUpstreamLayer {
		t.Errorf("a call on its second attempt above: got %d attempts here, reason %s, want 1, %s", hits.Load(), r.report.Reason, resilience.ReasonRetriedUpstreamLayer)
	}
}
