package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// watched serves a gateway to one upstream under the default policy. opened counts how often the
// circuit opens.
func watched(t *testing.T, upstream string) (s *httptest.Server, opened *atomic.Int64) {
	t.Helper()
	return watchedWith(t, gateway.ForUpstream(upstream))
}

// watchedWith is watched for a whole configuration.
func watchedWith(t *testing.T, c gateway.Config) (s *httptest.Server, opened *atomic.Int64) {
	t.Helper()
	opened = new(atomic.Int64)
	g, err := gateway.New(c, gateway.Options{Observers: []observe.Observer{observe.Funcs{
		Transition: func(tr observe.Transition) {
			if tr.To == resilience.Open {
				opened.Add(1)
			}
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	s = server(t, g.ServeHTTP)
	t.Cleanup(g.Close)
	return s, opened
}

func TestMalformedTrailerOpensNoCircuit(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	s, opened := watched(t, up.URL)
	for name, trailer := range map[string]string{"a space": "Bad Name", "not a trailer": "Content-Length", "two, one bad": "X-Sum, Bad Name"} {
		for range 20 {
			resp, body := rawhttp.Exchange(t, s.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: "+trailer+"\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n")
			if resp.StatusCode != http.StatusBadRequest {
				t.Fatalf("%s: got status %d, body %s, want 400", name, resp.StatusCode, body)
			}
			if got := resp.Header.Get(transport.HeaderAttemptCount); strings.Contains(body, string(resilience.ReasonInvalidRequest)) && got != "1" {
				t.Errorf("%s: got %s attempts, want 1", name, got)
			}
			if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK {
				t.Fatalf("a good call beside it: got status %d, body %s, want 200", resp.StatusCode, body)
			}
		}
	}
	if opened.Load() > 0 {
		t.Errorf("the circuit opened %d times, want 0", opened.Load())
	}
}

func TestShortDeadlinesOpenNoCircuit(t *testing.T) {
	t.Parallel()
	up := server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	})
	s, opened := watched(t, up.URL)
	var callers sync.WaitGroup
	for range 12 {
		callers.Go(func() {
			r := request(t, http.MethodGet, s.URL+"/hang", nil)
			r.Header.Set(transport.HeaderExpectedTimeout, "750")
			if resp, body := do(t, r); resp.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("got status %d, body %s, want 504", resp.StatusCode, body)
			}
		})
	}
	callers.Wait()
	if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK || opened.Load() > 0 {
		t.Errorf("another caller: got status %d, body %s, want 200; the circuit opened %d times, want 0", resp.StatusCode, body, opened.Load())
	}
}

func TestCircuitOpensWhenCallersGiveUp(t *testing.T) {
	t.Parallel()
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s, opened := watched(t, up.URL)
	client := newClient(t)
	var callers sync.WaitGroup
	var refused atomic.Int64
	for range 50 {
		callers.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				resp, err := client.Do(request(t, http.MethodGet, s.URL, nil).WithContext(ctx))
				if err == nil {
					if resp.StatusCode == http.StatusServiceUnavailable {
						refused.Add(1)
					}
					_ = resp.Body.Close()
				}
				cancel()
			}
		})
	}
	callers.Wait()
	t.Logf("%d calls were rejected, the circuit opened %d times", refused.Load(), opened.Load())
	if opened.Load() == 0 || refused.Load() < 200 {
		t.Errorf("got %d of 1,000 calls rejected at once, want at least 200; the circuit opened %d times, want at least 1", refused.Load(), opened.Load())
	}
}

// An upstream may answer 413 and close the connection before it has read the upload. The caller
// gets that 413.
func TestEarlyAnswerToUpload(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 1<<20 {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	})
	s, opened := watchedWith(t, patient(gateway.ForUpstream(up.URL)))
	got := map[string]int{}
	client := earlyReader(t, s.URL)
	for range 40 {
		resp, err := client.RoundTrip(request(t, http.MethodPost, s.URL, strings.NewReader(strings.Repeat("b", 8<<20))))
		if err != nil {
			got[err.Error()]++ // the client saw the reset before it read the answer
			continue
		}
		_ = resp.Body.Close()
		got[fmt.Sprint(resp.StatusCode)]++
	}
	if opened.Load() > 0 || got["413"] < 38 || got["502"] > 0 {
		t.Errorf("got %v, want at least 38 of 40 with 413 and none with 502; the circuit opened %d times, want 0", got, opened.Load())
	}
}

// When an upstream does not speak HTTP, the problem's detail quotes the start of its answer.
func TestDetailQuotesNonHTTPAnswer(t *testing.T) {
	for name, tc := range map[string]struct{ answer, quoted string }{
		"Redis":                  {"-ERR unknown command 'GET'\r\n", `-ERR unknown command 'GET'`},
		"HTTP/2 only":            {"\x00\x00\x12\x04\x00\x00", `\x00\x00\x12\x04`},
		"header without a colon": {"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", `HTTP/1.1 200 OK\r\nnonsense`},
		"status of two digits":   {"HTTP/1.1 20 OK\r\n\r\n", `HTTP/1.1 20 OK`},
	} {
		t.Run(name, func(t *testing.T) {
			up := listening(t, func(conn net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, tc.answer) })
			s, _ := watched(t, up)
			resp, body := get(t, s.URL)
			p := problemOf(t, resp, body)
			if detail, _ := p["detail"].(string); resp.StatusCode != http.StatusBadGateway || !strings.Contains(detail, tc.quoted) || p["reason"] != "max_attempts" {
				t.Errorf("got status %d, problem %v, want 502, max_attempts and %s", resp.StatusCode, p, tc.quoted)
			}
		})
	}
}

// The chaos test found this bug: the gateway took over a connection for an upgrade while it was
// still reading the request's body.
func TestUpgradeBeforeTheBodyHasEnded(t *testing.T) {
	up := listening(t, func(conn net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	})
	s, _ := watched(t, up)
	resp, body := rawhttp.Exchange(t, s.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
	if p := problemOf(t, resp, body); resp.StatusCode != http.StatusBadGateway || p["reason"] != string(resilience.ReasonUpgrade) {
		t.Errorf("got status %d, problem %v, want 502 and %s", resp.StatusCode, p, resilience.ReasonUpgrade)
	}
}

// A gateway's name in Via is public: every answer carries it. A caller that sends it gets 508 from
// that gateway. The gateway in front must not count this 508 as a failure.
func TestForgedViaOpensNoCircuit(t *testing.T) {
	up := server(t, func(http.ResponseWriter, *http.Request) {})
	inner := gatewayTo(t, calm(), all(up.URL))
	resp, _ := get(t, inner.URL)
	s, opened := watched(t, inner.URL)
	for range 60 {
		r := request(t, http.MethodGet, s.URL, nil)
		r.Header.Set("Via", resp.Header.Get("Via"))
		if resp, body := do(t, r); resp.StatusCode != http.StatusLoopDetected {
			t.Fatalf("got status %d, body %s, want 508", resp.StatusCode, body)
		}
	}
	if resp, body := get(t, s.URL); resp.StatusCode != http.StatusOK || opened.Load() > 0 {
		t.Errorf("another caller: got status %d, body %s, want 200; the circuit opened %d times, want 0", resp.StatusCode, body, opened.Load())
	}
}

// An inner gateway gets the caller's time limit from the outer one, so both answer 504 at about the
// same time. Whichever is first, the outer gateway must not count a failure.
func TestShortDeadlinesThroughTwoGateways(t *testing.T) {
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	inner := gatewayTo(t, calm(), all(up.URL))
	g, err := gateway.New(gateway.ForUpstream(inner.URL), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := server(t, g.ServeHTTP)
	for range 100 {
		r := request(t, http.MethodGet, s.URL, nil)
		r.Header.Set(transport.HeaderExpectedTimeout, "3")
		if resp, body := do(t, r); resp.StatusCode != http.StatusGatewayTimeout {
			t.Fatalf("got status %d, body %s, want 504", resp.StatusCode, body)
		}
	}
	if b := g.Upstreams(); len(b) != 1 || b[0].Breaker.Failures > 0 {
		t.Errorf("got circuits %+v of the outer gateway, want one without failures", b)
	}
}

// A caller that hangs up while its call waits for a place has status 499, like any other.
func TestCallerHangsUpInTheQueue(t *testing.T) {
	let := make(chan struct{})
	up := server(t, func(http.ResponseWriter, *http.Request) { <-let })
	defer close(let)
	c := gateway.ForUpstream(up.URL)
	p := calm()
	p.Timeout, p.AttemptTimeout = time.Minute, time.Minute
	p.Concurrency = resilience.ConcurrencyPolicy{Max: 1, Queue: 1, MaxWait: time.Minute}
	c.Policies[gateway.DefaultPolicyName] = p
	ended := make(chan observe.Call, 2)
	g, s := gatewayOver(t, c, gateway.Options{Observers: []observe.Observer{observe.Funcs{
		Call: func(_ context.Context, call observe.Call) { ended <- call },
	}}})
	state := func() resilience.ConcurrencySnapshot {
		if all := g.Upstreams(); len(all) > 0 {
			return all[0].Concurrency
		}
		return resilience.ConcurrencySnapshot{}
	}
	ctx, hangUp := context.WithCancel(t.Context())
	client := newClient(t)
	var calls sync.WaitGroup
	defer calls.Wait()
	call := func() {
		if resp, err := client.Do(request(t, http.MethodGet, s.URL, nil).WithContext(ctx)); err == nil {
			_ = resp.Body.Close()
		}
	}
	calls.Go(call)
	wait.Until(t, 20*time.Second, "the first call has the place", func() bool { return state().InFlight == 1 })
	calls.Go(call)
	wait.Until(t, 20*time.Second, "the second call waits", func() bool { return state().Queued == 1 })
	hangUp()
	for range 2 {
		if got := <-ended; got.Status != 499 || got.Report.Reason != resilience.ReasonCallerCanceled {
			t.Errorf("got status %d, reason %s after %d attempts, want 499, caller_canceled", got.Status, got.Report.Reason, len(got.Report.Attempts))
		}
	}
}

// A response that breaks off because its caller paused is the caller's doing, for observers too.
func TestCallerWhoPausesIsToBlame(t *testing.T) {
	const size = 64 << 20 // more than the buffers on the way hold
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		pause   time.Duration
		want    bool
		tries   int // a busy machine may make this test's client pause
	}{
		"the caller pauses": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(4 * time.Second))
			_, _ = w.Write(make([]byte, size))
		}, 6 * time.Second, true, 1},
		"the upstream breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = w.Write(make([]byte, 1<<20))
			panic(http.ErrAbortHandler)
		}, 0, false, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wait.OneOf(t, c.tries, func() string {
				seen := make(chan bool, 1)
				_, s := gatewayOver(t, patient(gateway.ForUpstream(server(t, c.handler).URL)), gateway.Options{Observers: []observe.Observer{observe.Funcs{
					Call: func(_ context.Context, c observe.Call) {
						if c.Report.Reason != resilience.ReasonBodyFailed {
							t.Errorf("got reason %s, want %s", c.Report.Reason, resilience.ReasonBodyFailed)
						}
						seen <- c.CallersDoing
					},
				}}})
				resp, err := newClient(t).Do(request(t, http.MethodGet, s.URL, nil))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				time.Sleep(c.pause)
				if n, err := io.Copy(io.Discard, resp.Body); err == nil {
					t.Fatalf("got the whole body of %d bytes, want that it breaks off", n)
				}
				if got := <-seen; got != c.want {
					return fmt.Sprintf("the caller's doing: %v, want %v", got, c.want)
				}
				return ""
			})
		})
	}
}
