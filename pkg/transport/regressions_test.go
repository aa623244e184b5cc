package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Regression tests. Each comment describes the bug.

// Failed handshakes were remembered for the whole call. One that ended with io.EOF made the EOF of
// a later attempt, whose POST had been received, look as if nothing had been sent.
func TestHandshakeErrorOfAnEarlierAttemptProvesNothing(t *testing.T) {
	u := httptest.NewTLSServer(http.NotFoundHandler()) // to take its certificate
	cert := u.TLS.Certificates[0]
	roots := u.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	u.Close()
	l := rawhttp.Listen(t)
	var posts atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if n == 1 { // break the first handshake
				_, _ = c.Read(make([]byte, 1000))
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
				continue
			}
			secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
			if r, err := http.ReadRequest(bufio.NewReader(secure)); err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
				posts.Add(1) // the POST takes effect, and its answer is lost
			}
			_ = secure.Close()
		}
	})
	next := base(t)
	next.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	r := call(t, newTransport(t, next, patient()), request(t, http.MethodPost, "https://"+l.Addr().String(), strings.NewReader("order")))
	if posts.Load() != 1 || r.report.Reason != resilience.ReasonMethodNotIdempotent {
		t.Errorf("the POST took effect %d times (%v), reason %s, error %v, want once and %s", posts.Load(), r.reasons(), r.report.Reason, r.err, resilience.ReasonMethodNotIdempotent)
	}
	_ = l.Close()
	wg.Wait()
}

// pipeBody does not end its Read at Close, like a request body in a net/http server.
type pipeBody struct{ r *io.PipeReader }

func (b pipeBody) Read(p []byte) (int, error) { return b.r.Read(p) }
func (b pipeBody) Close() error               { return nil }

// closesEarly answers the first attempt with 503 and closes its body during a Read, as HTTP/2 does.
func closesEarly(second func(*http.Request) (*http.Response, error)) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		if r.Header.Get(transport.HeaderAttemptCount) != "1" {
			return second(r)
		}
		go func() { _, _ = r.Body.Read(make([]byte, 700)) }()
		synctest.Wait()
		_ = r.Body.Close()
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
	}
}

// signalling says when its first Read begins.
type signalling struct {
	io.ReadCloser
	begun chan struct{}
	once  sync.Once
}

func (s *signalling) Read(p []byte) (int, error) {
	s.once.Do(func() { close(s.begun) })
	return s.ReadCloser.Read(p)
}

// HTTP/2 may read the body until after the response. When it closed the body, a read that waited
// tried again for ever, and kept a processor busy.
func TestReadOfTheBodyEndsWhenItIsClosed(t *testing.T) {
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	caller := &signalling{ReadCloser: reader, begun: make(chan struct{})}
	answer, answering := io.Pipe()
	read := make(chan error, 1)
	var body io.ReadCloser
	rt := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		body = r.Body
		go func() {
			_, err := r.Body.Read(make([]byte, 1))
			read <- err
		}()
		return &http.Response{StatusCode: http.StatusOK, Body: answer}, nil
	}), patient())
	resp, err := rt.RoundTrip(request(t, http.MethodPost, "http://up", caller))
	if err != nil {
		t.Fatal(err)
	}
	<-caller.begun
	go func() { _ = body.Close() }()
	select {
	case err := <-read:
		if !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("got error %v, want %v", err, http.ErrBodyReadAfterClose)
		}
	case <-time.After(20 * time.Second):
		t.Error("the read has not ended 20 s after the body was closed")
	}
	_ = answering.Close()
	_ = resp.Body.Close()
}

// sized is an empty body that keeps the size of the buffer that it is read into.
type sized struct{ size int }

func (s *sized) Read(p []byte) (int, error) {
	s.size = len(p)
	return 0, io.EOF
}

func (*sized) Close() error { return nil }

// A renewed transport forgot that an upstream speaks HTTP/2. The first call after it read its body
// on a goroutine of its own, into another buffer.
func TestRenewedTransportKnowsTheUpstreamsVersion(t *testing.T) {
	const size = 700
	old := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		_, _ = r.Body.Read(make([]byte, size))
		_ = r.Body.Close()
		return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 2, Body: http.NoBody}, nil
	}), patient())
	read := func(rt http.RoundTripper) int {
		body := &sized{}
		r := request(t, http.MethodPost, "http://up", body)
		r.Header.Set("Content-Type", "application/grpc")
		call(t, rt, r)
		return body.size
	}
	if first, second := read(old), read(old); first == size || second != size {
		t.Fatalf("got buffers of %d and %d bytes, want another one first, and then the upstream's of %d", first, second, size)
	}
	renewed, err := old.Renew(patient(), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if n := read(renewed); n != size {
		t.Errorf("after a renewal: got a buffer of %d bytes, want the upstream's of %d", n, size)
	}
}

// The bytes that a finished attempt's pending Read received were dropped, and the next attempt
// missed the beginning of its body.
func TestBodyReadByAFinishedAttemptIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		rt := newTransport(t, closesEarly(func(r *http.Request) (*http.Response, error) {
			// echoes what is still being sent
			return &http.Response{StatusCode: http.StatusOK, Body: r.Body}, nil
		}), quick())
		go func() {
			time.Sleep(time.Second)
			_, _ = io.WriteString(writer, "first ")
			_, _ = io.WriteString(writer, "second")
			_ = writer.Close()
		}()
		if r := call(t, rt, request(t, http.MethodPut, "http://up", pipeBody{reader})); r.body != "first second" || r.err != nil {
			t.Errorf("the upstream got %q, error %v, want %q", r.body, r.err, "first second")
		}
	})
}

func TestBodyReadAfterTheCallIsOverTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(t, closesEarly(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/last" {
				_, _ = io.Copy(io.Discard, r.Body)
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
			}
			_ = r.Body.Close()
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		}), quick(), transport.WithReplayMemory(transport.NewReplayMemory(4096)))
		for range 20 {
			reader, writer := io.Pipe()
			if r := call(t, rt, request(t, http.MethodPut, "http://up", pipeBody{reader})); r.err != nil {
				t.Fatal(r.err)
			}
			// bytes on their way when the call ended
			_, _ = writer.Write(bytes.Repeat([]byte("x"), 600))
			_ = writer.Close()
			synctest.Wait()
		}
		r := call(t, rt, request(t, http.MethodPut, "http://up/last", struct{ io.Reader }{strings.NewReader("hello")}))
		if r.report.Reason != resilience.ReasonMaxAttempts {
			t.Errorf("no room for 5 bytes of 4096: got reason %s after %v, want %s", r.report.Reason, r.reasons(), resilience.ReasonMaxAttempts)
		}
	})
}

func TestBodyIsLetGoWhenTheRoundTripperBelowPanics(t *testing.T) {
	calls := 0
	rt := newTransport(t, roundTripper(func(r *http.Request) (*http.Response, error) {
		_, _ = io.ReadAll(r.Body)
		if calls++; calls <= 20 {
			_ = r.Body.Close()
			panic("next")
		}
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
	}), quick(), transport.WithReplayMemory(transport.NewReplayMemory(4096)))
	body := func(s string) *http.Request {
		return request(t, http.MethodPut, "http://up", struct{ io.Reader }{strings.NewReader(s)})
	}
	for range 20 {
		func() {
			defer func() { _ = recover() }()
			call(t, rt, body(strings.Repeat("x", 600)))
		}()
	}
	if r := call(t, rt, body("hello")); r.report.Reason != resilience.ReasonMaxAttempts {
		t.Errorf("no room for 5 bytes of 4096: got reason %s after %v, want %s", r.report.Reason, r.reasons(), resilience.ReasonMaxAttempts)
	}
}

// net/http sends a request again by itself, outside every budget, if it has a GetBody and an
// Idempotency-Key (even an empty one) or X-Idempotency-Key.
func TestRequestWithABodyIsSentOnceAnAttempt(t *testing.T) {
	for _, tc := range []struct {
		header, value string
		attempts      int
	}{
		{"X-Other", "1", 1}, {"Idempotency-Key", "", 1}, {"X-Idempotency-Key", "1", 1}, {"Idempotency-Key", "k-1", 2},
	} {
		t.Run(tc.header+": "+tc.value, func(t *testing.T) {
			var requests atomic.Int64
			u := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 2 { // on a connection that was used before
					_, _ = io.Copy(io.Discard, r.Body)
					panic(http.ErrAbortHandler)
				}
			})
			rt := newTransport(t, base(t), patient())
			for _, body := range []io.Reader{strings.NewReader("with GetBody"), struct{ io.Reader }{strings.NewReader("without")}} {
				requests.Store(0)
				get(t, rt, u.URL)
				req := request(t, http.MethodPost, u.URL, body)
				req.Header.Set(tc.header, tc.value)
				r := call(t, rt, req)
				if sent := int(requests.Load()) - 1; sent != tc.attempts || len(r.report.Attempts) != tc.attempts {
					t.Errorf("sent %d times in %d attempts, want %d (%v)", sent, len(r.report.Attempts), tc.attempts, r.err)
				}
			}
		})
	}
}

func TestUpgradeToH2CAndListedEventStreamsKeepTheirRetries(t *testing.T) {
	for name, header := range map[string]http.Header{
		"h2c":                   {"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}},
		"events among others":   {"Accept": {"application/json, text/event-stream"}},
		"events in a 2nd field": {"Accept": {"application/json", "text/event-stream"}},
	} {
		u := serve(t, failingFirst(1, 0))
		req := request(t, http.MethodGet, u.URL, nil)
		req.Header = header
		if r := call(t, newTransport(t, base(t), patient()), req); r.err != nil || len(r.report.Attempts) != 2 {
			t.Errorf("%s: got attempts %v, reason %s, error %v, want two attempts and no error", name, r.reasons(), r.report.Reason, r.err)
		}
	}
}

// The stream counted as healthy before its status was checked.
func TestEventStreamThatIsAnErrorCountsAsOne(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "data: x\n\n")
	})
	rt := newTransport(t, base(t), patient())
	get(t, rt, u.URL)
	if b := rt.State()[0].Breaker; b.Failures != 1 || b.Successes != 0 {
		t.Errorf("the circuit counts %+v, want 1 failure and no success", b)
	}
}

// Draining took its 50 ms even with less time left. The upstream's last answer was then lost to the
// deadline.
func TestDrainingLeavesTimeForTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := quick()
		p.Timeout, p.AttemptTimeout = 30*time.Millisecond, 30*time.Millisecond
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(transport.HeaderAttemptCount) == "1" {
				w.WriteHeader(http.StatusServiceUnavailable)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		}), p)
		if r := get(t, rt, "http://up/"); r.err != nil || r.resp.StatusCode != http.StatusOK {
			t.Errorf("got error %v, reason %s, attempts %v, want status 200", r.err, r.report.Reason, r.reasons())
		}
	})
}

func TestRoundTripperThatBreaksTheRules(t *testing.T) {
	t.Run("bare response", func(t *testing.T) {
		rt := newTransport(t, roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK}, nil
		}), quick())
		if r := get(t, rt, "http://up/"); r.err != nil || r.resp.Header == nil || r.resp.Request == nil {
			t.Errorf("got response %+v, error %v, want one with a header and a request", r.resp, r.err)
		}
	})
	t.Run("nothing at all", func(t *testing.T) {
		rt := newTransport(t, roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil }), quick())
		if r := get(t, rt, "http://up/"); r.err == nil {
			t.Error("got no error, want one")
		}
	})
}

func TestHTTP2Upstream(t *testing.T) {
	var requests atomic.Int64
	u := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.ProtoMajor != 2 {
			t.Errorf("got %s, want HTTP/2", r.Proto)
		}
		b, _ := io.ReadAll(r.Body)
		first := r.Header.Get(transport.HeaderAttemptCount) == "1"
		switch {
		case r.URL.Path == "/hang":
			<-r.Context().Done()
		case r.URL.Path == "/dies":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case r.URL.Path == "/reset" && first:
			panic(http.ErrAbortHandler)
		case first:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "busy")
		default:
			w.Header().Set("Trailer", "X-Sum")
			_, _ = w.Write(b)
			w.Header().Set("X-Sum", "s")
		}
	}))
	u.EnableHTTP2 = true
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	u.StartTLS()
	t.Cleanup(u.Close)
	next := u.Client().Transport
	for _, tc := range []struct {
		method, path string
		want         int64
	}{{"PUT", "/", 2}, {"PUT", "/reset", 2}, {"POST", "/", 1}, {"POST", "/reset", 1}, {"HEAD", "/", 2}} {
		requests.Store(0)
		r := call(t, newTransport(t, next, patient()), request(t, tc.method, u.URL+tc.path, struct{ io.Reader }{strings.NewReader("order")}))
		if requests.Load() != tc.want {
			t.Errorf("%s %s: sent %d times, want %d: %v %v", tc.method, tc.path, requests.Load(), tc.want, r.reasons(), r.err)
		}
		if tc.method == "PUT" && (r.body != "order" || r.resp.Trailer.Get("X-Sum") != "s") {
			t.Errorf("%s: got body %q, trailer %v, want body order and X-Sum: s", tc.path, r.body, r.resp.Trailer)
		}
	}
	p := patient()
	p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 200*time.Millisecond, 200*time.Millisecond, 1
	if r := get(t, newTransport(t, next, p), u.URL+"/hang"); !errors.Is(r.err, context.DeadlineExceeded) {
		t.Errorf("hang: got error %v, want context.DeadlineExceeded", r.err)
	}
	if r := get(t, newTransport(t, next, patient()), u.URL+"/dies"); r.report.Reason != resilience.ReasonBodyFailed || r.body != "half" {
		t.Errorf("dies: got body %q, error %v, reason %s, want half of the body and %s", r.body, r.err, r.report.Reason, resilience.ReasonBodyFailed)
	}
}
