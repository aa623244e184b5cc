package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// judged returns the report of the only attempt of a call.
func (r result) judged(t *testing.T) resilience.AttemptReport {
	t.Helper()
	if len(r.report.Attempts) != 1 {
		t.Fatalf("%d attempts, want 1: %+v", len(r.report.Attempts), r.report.Attempts)
	}
	return r.report.Attempts[0]
}

// A request that net/http refuses to send says nothing about the upstream. It makes one attempt,
// and any number of them leaves the circuit closed. The table lists what Go's HTTP/1 and HTTP/2
// clients can refuse.
func TestA3WhatNetHTTPRefusesIsNobodysFault(t *testing.T) {
	ok := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" { // otherwise the answer may come before net/http sees the mistake
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
		_, _ = io.Copy(w, r.Body)
	}
	plain := serve(t, ok)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	secure.EnableHTTP2 = true
	secure.Config.MaxHeaderBytes = 2 << 10
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	next := secure.Client().Transport.(*http.Transport)

	body := func(s string) io.ReadCloser { return io.NopCloser(iotest.OneByteReader(strings.NewReader(s))) }
	for name, tc := range map[string]struct {
		change func(*http.Request)
		only   int // the HTTP version that refuses it; 0 means both
	}{
		"method with a space":         {change: func(r *http.Request) { r.Method = "A B" }, only: 1},
		"method with a line feed":     {change: func(r *http.Request) { r.Method = "GET\n" }, only: 1},
		"header name with a space":    {change: func(r *http.Request) { r.Header["Bad Name"] = []string{"v"} }},
		"empty header name":           {change: func(r *http.Request) { r.Header[""] = []string{"v"} }},
		"header value with line feed": {change: func(r *http.Request) { r.Header["X"] = []string{"v\n"} }},
		"header value with NUL":       {change: func(r *http.Request) { r.Header["X"] = []string{"\x00"} }},
		"trailer name with a space": {change: func(r *http.Request) {
			r.Method, r.Body, r.ContentLength, r.Trailer = "PUT", body("x"), -1, http.Header{"Bad Name": nil}
		}},
		"trailer that must not be one": {change: func(r *http.Request) {
			r.Method, r.Body, r.ContentLength, r.Trailer = "PUT", body("x"), -1, http.Header{"Content-Length": nil}
		}},
		"trailer value with line feed": {change: func(r *http.Request) {
			r.Method, r.Body, r.ContentLength, r.Trailer = "PUT", body("x"), -1, http.Header{"X": {"v\n"}}
		}},
		"body shorter than Content-Length": {change: func(r *http.Request) { r.Method, r.Body, r.ContentLength = "PUT", body("abc"), 5 }},
		"body longer than Content-Length": {change: func(r *http.Request) {
			r.Method, r.URL.Path, r.Body, r.ContentLength = "PUT", "/late", body("abcdefgh"), 5
		}},
		"short in-memory body": {change: func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("abc")), 5
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("abc")), nil }
		}, only: 1},
		"Content-Length without a body": {change: func(r *http.Request) { r.Method, r.Body, r.ContentLength = "PUT", nil, 5 }, only: 1},
		"no host":                       {change: func(r *http.Request) { r.URL.Host = "" }},
		"host with a space":             {change: func(r *http.Request) { r.Host = "a b" }, only: 2},
		"scheme":                        {change: func(r *http.Request) { r.URL.Scheme = "gopher" }},
		"control character in the URL":  {change: func(r *http.Request) { r.URL.RawQuery = "a\nb" }},
		"header above the peer's limit": {change: func(r *http.Request) { r.Header.Set("Cookie", strings.Repeat("c", 10<<10)) }, only: 2},
		"header a little above it":      {change: func(r *http.Request) { r.Header.Set("Cookie", strings.Repeat("c", 5<<10)) }, only: 2},
		"upgrade": {change: func(r *http.Request) {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "other")
		}, only: 2},
		"transfer encoding": {change: func(r *http.Request) { r.Header.Set("Transfer-Encoding", "gzip") }, only: 2},
	} {
		for version, base := range map[int]string{1: plain.URL, 2: secure.URL} {
			if tc.only != 0 && tc.only != version {
				continue
			}
			t.Run(name+map[int]string{1: ", HTTP/1", 2: ", HTTP/2"}[version], func(t *testing.T) {
				rt := newTransport(t, next, transport.DefaultPolicy())
				for range 20 {
					req := request(t, http.MethodGet, base+"/", nil)
					tc.change(req)
					r := call(t, rt, req)
					a := r.judged(t)
					if a.Health != resilience.Neutral || a.Reason != resilience.ReasonInvalidRequest || !errors.Is(r.err, transport.ErrInvalidRequest) {
						t.Fatalf("%s, health %v, %v; want %s and neutral", a.Reason, a.Health, r.err, resilience.ReasonInvalidRequest)
					}
					if tooLarge := strings.HasPrefix(name, "header a"); errors.Is(r.err, transport.ErrHeaderTooLarge) != tooLarge {
						t.Errorf("err = %v, want ErrHeaderTooLarge: %v", r.err, tooLarge)
					}
				}
				if r := call(t, rt, request(t, http.MethodGet, base+"/", nil)); r.err != nil {
					t.Errorf("a good call beside them: got error %v, want none", r.err)
				}
			})
		}
	}
}

func TestA6NotFoundIsASuccessForTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/bad" {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			http.NotFound(w, r)
		}), transport.DefaultPolicy())
		for i := range 612 {
			path := "/missing"
			if i%51 == 50 {
				path = "/bad"
			}
			if r := get(t, rt, "http://up"+path); r.err != nil {
				t.Fatalf("call %d: got error %v, want none", i, r.err)
			}
		}
	})
}

func TestA7CircuitAfterAnOutage(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		want   resilience.State
	}{
		"404 closes it":            {http.StatusNotFound, resilience.Closed},
		"401 closes it":            {http.StatusUnauthorized, resilience.Closed},
		"501 closes it":            {http.StatusNotImplemented, resilience.Closed},
		"508 closes it":            {http.StatusLoopDetected, resilience.Closed},
		"429 goes on with probing": {http.StatusTooManyRequests, resilience.HalfOpen},
		"500 opens it again":       {http.StatusInternalServerError, resilience.Open},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				status := http.StatusInternalServerError
				p := transport.DefaultPolicy()
				p.Retry.MaxAttempts = 1
				opened := 0
				rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }), p,
					transport.WithObserver(resilience.Observer{Transition: func(tr resilience.Transition) {
						if tr.To == resilience.Open {
							opened++
						}
					}}))
				for range p.Breaker.ConsecutiveFailures {
					get(t, rt, "http://up/")
				}
				time.Sleep(2 * p.Breaker.OpenFor)
				status = tc.status
				for range 20 {
					get(t, rt, "http://up/")
				}
				if got := rt.State()[0].Breaker.State; got != tc.want {
					t.Errorf("the circuit is %v, want %v", got, tc.want)
				}
				if want := map[bool]int{true: 2, false: 1}[tc.want == resilience.Open]; opened != want {
					t.Errorf("it opened %d times, want %d", opened, want)
				}
			})
		})
	}
}

func TestA8UploadsAndWhoTakesTheTime(t *testing.T) {
	trickle := func(ctx context.Context, n int, every time.Duration) io.ReadCloser {
		r, w := io.Pipe()
		go func() {
			for range n {
				select {
				case <-time.After(every):
				case <-ctx.Done():
				}
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
			_ = w.Close()
		}()
		return r
	}
	hang := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		// a server does not notice that the caller leaves while a body is unread
		case <-time.After(10 * time.Second):
		}
	}
	read := func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		body    func(ctx context.Context) io.ReadCloser
		want    resilience.Health
	}{
		"the caller sends slowly":           {read, func(ctx context.Context) io.ReadCloser { return trickle(ctx, 100, 100*time.Millisecond) }, resilience.Neutral},
		"the caller stops":                  {read, func(ctx context.Context) io.ReadCloser { return trickle(ctx, 2, 10*time.Second) }, resilience.Neutral},
		"the upstream takes it slowly":      {slowly, func(context.Context) io.ReadCloser { return io.NopCloser(bytes.NewReader(make([]byte, 4<<20))) }, resilience.Neutral},
		"the upstream takes nothing":        {hang, func(context.Context) io.ReadCloser { return io.NopCloser(bytes.NewReader(make([]byte, 4<<20))) }, resilience.Unhealthy},
		"the upstream has all and hangs":    {readAndHang, func(context.Context) io.ReadCloser { return io.NopCloser(strings.NewReader("short")) }, resilience.Unhealthy},
		"the upstream hangs without a body": {hang, func(context.Context) io.ReadCloser { return nil }, resilience.Unhealthy},
	} {
		for _, replay := range []string{"kept", "GetBody"} {
			t.Run(name+", "+replay, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := transport.DefaultPolicy()
					p.Retry.MaxAttempts = 1
					rt := newTransport(t, inBubble(t, tc.handler), p)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					req := request(t, http.MethodPost, "http://up/", nil).WithContext(ctx)
					if req.Body = tc.body(ctx); req.Body != nil {
						req.ContentLength = -1
						if replay == "GetBody" {
							// not a body type that net/http knows
							req.Body = struct{ io.ReadCloser }{req.Body}
							req.GetBody = func() (io.ReadCloser, error) { return tc.body(ctx), nil }
						}
					}
					r := call(t, rt, req)
					if a := r.judged(t); a.Health != tc.want || a.Reason != resilience.ReasonAttemptTimeout {
						t.Errorf("%s, health %v, want %v", a.Reason, a.Health, tc.want)
					}
				})
			})
		}
	}
}

// net/http waits as long as it likes for an upstream that ignores Expect. Nobody is to blame.
func TestA9WaitForContinueIsNobodysFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := pipenet.New()
		l, err := network.Listen(t.Context(), "", "up:80")
		if err != nil {
			t.Fatal(err)
		}
		var connections sync.WaitGroup
		connections.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				// reads, and never answers
				connections.Go(func() { _, _ = io.Copy(io.Discard, conn) })
			}
		})
		next := &http.Transport{DialContext: network.Dial, ExpectContinueTimeout: time.Second}
		p := transport.DefaultPolicy()
		p.AttemptTimeout = 800 * time.Millisecond
		rt := newTransport(t, next, p)
		for range 12 {
			req := request(t, http.MethodPost, "http://up/", strings.NewReader("x"))
			req.Header.Set("Expect", "100-continue")
			if a := call(t, rt, req).judged(t); a.Health != resilience.Neutral || a.Reason != resilience.ReasonAttemptTimeout {
				t.Errorf("%s, health %v; want a neutral timeout", a.Reason, a.Health)
			}
		}
		next.CloseIdleConnections()
		_ = l.Close()
		connections.Wait()
	})
}

func readAndHang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// slowly reads 32 KiB every tenth of a second.
func slowly(_ http.ResponseWriter, r *http.Request) {
	for {
		if _, err := io.CopyN(io.Discard, r.Body, 32<<10); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// An upstream that loses patience with a paused reader has done nothing wrong. An upstream that
// breaks off by itself has.
func TestA10ReaderWhoPausesIsToBlame(t *testing.T) {
	const size = 4 << 20
	impatient := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4194304")
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = w.Write(make([]byte, size))
	}
	dying := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4194304")
		_, _ = w.Write(make([]byte, size/2))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		pause   time.Duration
		want    string
	}{
		"the reader pauses":       {impatient, 5 * time.Second, "0 good, 0 bad"},
		"the upstream breaks off": {dying, 0, "0 good, 1 bad"},
		"the reader reads on":     {impatient, 0, "1 good, 0 bad"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := newTransport(t, inBubble(t, tc.handler), steady())
				var report resilience.Report
				req := request(t, http.MethodGet, "http://up/", nil)
				resp, err := rt.RoundTrip(req.WithContext(transport.WithReport(req.Context(), &report)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.pause)
				_, err = io.Copy(io.Discard, resp.Body)
				if complete := strings.HasPrefix(tc.want, "1"); (err == nil) != complete || (report.Reason == resilience.ReasonBodyFailed) == complete {
					t.Errorf("err = %v, reason %s, want a complete body: %v", err, report.Reason, complete)
				}
				if errors.Is(err, transport.ErrReaderPaused) != (tc.pause > 0) {
					t.Errorf("err = %v, want ErrReaderPaused only after a pause", err)
				}
				b := rt.State()[0].Breaker
				if got := tally(b); got != tc.want {
					t.Errorf("the breaker counts %s, want %s", got, tc.want)
				}
			})
		})
	}
}

func TestA11CallersBodyThatBreaks(t *testing.T) {
	broken := errors.New("the disk is gone")
	fail := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "busy")
	}
	up := serve(t, fail)
	good := func() io.ReadCloser { return io.NopCloser(iotest.OneByteReader(strings.NewReader("body"))) }

	t.Run("while it is read", func(t *testing.T) {
		rt := newTransport(t, base(t), patient())
		req := request(t, http.MethodPut, up.URL, nil)
		req.ContentLength = -1
		req.Body = io.NopCloser(io.MultiReader(strings.NewReader("be"), iotest.ErrReader(broken)))
		req.GetBody = func() (io.ReadCloser, error) { return good(), nil }
		r := call(t, rt, req)
		if a := r.judged(t); a.Health != resilience.Neutral || a.Reason != resilience.ReasonBodyFailed || !errors.Is(r.err, broken) {
			t.Errorf("got reason %s, health %v, error %v, want %s, %v, %v", a.Reason, a.Health, r.err, resilience.ReasonBodyFailed, resilience.Neutral, broken)
		}
	})
	t.Run("when it is asked for again", func(t *testing.T) {
		rt := newTransport(t, base(t), patient())
		req := request(t, http.MethodPut, up.URL, nil)
		req.ContentLength, req.Body = -1, good()
		req.GetBody = func() (io.ReadCloser, error) { return nil, broken }
		r := call(t, rt, req)
		if r.err != nil || r.resp.StatusCode != http.StatusServiceUnavailable || r.body != "busy" {
			t.Fatalf("%+v, %v; want the upstream's answer", r.resp, r.err)
		}
		if a := r.judged(t); a.Verdict != resilience.VerdictGiveUp || r.report.Reason != resilience.ReasonBodyNotReplayable {
			t.Errorf("got attempt %+v, reason %s, want verdict %s and reason %s", a, r.report.Reason, resilience.VerdictGiveUp, resilience.ReasonBodyNotReplayable)
		}
	})
	t.Run("a body that is asked for and not needed is closed", func(t *testing.T) {
		p := patient()
		p.Retry.MaxAttempts = 2
		p.Retry.Budget = resilience.BudgetPolicy{}
		rt := newTransport(t, base(t), p)
		req := request(t, http.MethodPut, up.URL, nil)
		req.ContentLength, req.Body = -1, good()
		var asked, closed int
		req.GetBody = func() (io.ReadCloser, error) {
			asked++
			return &closing{good(), func() { closed++ }}, nil
		}
		r := call(t, rt, req)
		if r.report.Reason != resilience.ReasonBudgetExhausted || asked != 1 || closed != 1 {
			t.Errorf("%s, asked for %d times, closed %d times; want 1 and 1", r.report.Reason, asked, closed)
		}
	})
}

type closing struct {
	io.ReadCloser
	closed func()
}

func (c *closing) Close() error { c.closed(); return c.ReadCloser.Close() }

// A 101 that comes when the attempt's time is up is closed. Draining it would never end.
func TestB3Late101IsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, far := net.Pipe()
		defer func() { _ = far.Close() }()
		limit := steady().AttemptTimeout
		rt := newTransport(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(limit + time.Millisecond)
			return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: conn, Header: http.Header{}, Request: req}, nil
		}), steady())
		req := request(t, http.MethodGet, "http://up/", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		begin := time.Now()
		r := call(t, rt, req)
		if !errors.Is(r.err, resilience.ErrTimeout) || time.Since(begin) != limit+time.Millisecond {
			t.Errorf("%v after %v, want a timeout when the answer came", r.err, time.Since(begin))
		}
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open, want it closed")
		}
	})
}

func TestB7TimeoutsOfTheRoundTripperBelow(t *testing.T) {
	up := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	p := patient()
	p.Retry.MaxAttempts = 1
	for name, next := range map[string]*http.Transport{
		"ResponseHeaderTimeout": {ResponseHeaderTimeout: 20 * time.Millisecond},
		"dial": {DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
		}},
		"TLS handshake": {TLSHandshakeTimeout: 20 * time.Millisecond, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}},
	} {
		t.Run(name, func(t *testing.T) {
			defer next.CloseIdleConnections()
			target := up.URL
			if name == "TLS handshake" {
				l := rawhttp.Listen(t) // accepts, and never answers
				defer func() { _ = l.Close() }()
				target = "https://" + l.Addr().String()
			}
			client := &http.Client{Transport: newTransport(t, next, p)}
			resp, err := client.Do(request(t, http.MethodGet, target, nil))
			if err == nil {
				_ = resp.Body.Close()
			}
			var u *url.Error
			if !errors.As(err, &u) || !u.Timeout() {
				t.Errorf("got %v, want an error whose Timeout() is true", err)
			}
		})
	}
}

// raw serves a connection: it reads the beginning of a request and sends answer.
func raw(t *testing.T, answer string) string {
	t.Helper()
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, answer)
	})
	return "http://" + l.Addr().String()
}

func TestC8AnswerThatIsNotHTTP(t *testing.T) {
	for name, tc := range map[string]struct{ answer, began string }{
		"Redis":                  {"-ERR unknown command 'GET'\r\n", "malformed"},
		"HTTP/2 only":            {"\x00\x00\x12\x04\x00\x00\x00\x00\x00", `\x00\x00\x12\x04`},
		"header without a colon": {"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "nonsense"},
		"status of two digits":   {"HTTP/1.1 20 OK\r\n\r\n", "20"},
		"status below 100":       {"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", "99"},
		"SSH":                    {"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"},
		"a long line":            {strings.Repeat("x", 1<<10) + "\r\n", "xxxx"},
	} {
		t.Run(name, func(t *testing.T) {
			p := patient()
			p.Retry.MaxAttempts = 1
			r := get(t, newTransport(t, base(t), p), raw(t, tc.answer))
			a := r.judged(t)
			if a.Reason != resilience.ReasonNotHTTP || a.Health != resilience.Unhealthy {
				t.Errorf("got reason %s, health %v, want %s, %v", a.Reason, a.Health, resilience.ReasonNotHTTP, resilience.Unhealthy)
			}
			if r.err == nil || !strings.Contains(r.err.Error(), tc.began) || len(r.err.Error()) > 500 {
				t.Errorf("got error %v, want at most 500 bytes that include the beginning %q", r.err, tc.began)
			}
		})
	}
	t.Run("a status above 599 is passed on, and counts as a failure", func(t *testing.T) {
		r := get(t, newTransport(t, base(t), patient()), raw(t, "HTTP/1.1 799 Odd\r\nContent-Length: 2\r\n\r\nhi"))
		if r.err != nil || r.resp.StatusCode != 799 || r.body != "hi" || r.judged(t).Health != resilience.Unhealthy {
			t.Errorf("got report %+v, error %v, want an unhealthy answer with status 799 and body hi", r.report, r.err)
		}
	})
}

func TestC9ResponseHasTheCallersRequest(t *testing.T) {
	up := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get(transport.HeaderAttemptCount))
	})
	rt := newTransport(t, base(t), patient())
	req := request(t, http.MethodGet, up.URL, nil)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.Request != req {
		t.Fatal("resp.Request is another request, want the caller's")
	}
	// Like a paginator, which makes the next request from the last response.
	if r := call(t, rt, resp.Request.Clone(resp.Request.Context())); r.err != nil || r.body != "1" {
		t.Errorf("the next call: got attempt %q, error %v, want attempt 1", r.body, r.err)
	}
}

func TestC11RetryAfterCountsFromTheAnswersDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, offset := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour, "none": 0} {
			upstreamsNow := time.Now().Add(offset)
			n := 0
			rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) {
				if n++; n > 1 {
					return
				}
				w.Header().Set("Date", upstreamsNow.UTC().Format(http.TimeFormat))
				w.Header().Set("Retry-After", upstreamsNow.Add(2*time.Second).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusServiceUnavailable)
			}), steady(), transport.WithRandom(func() float64 { return 0 }))
			r := get(t, rt, "http://up/")
			if r.err != nil || len(r.report.Attempts) != 2 || r.report.Attempts[0].Wait.Planned != 2*time.Second {
				t.Errorf("a clock that is %s: %+v, %v; want a wait of 2s", name, r.report.Attempts, r.err)
			}
		}
	})
}

func TestC14Library(t *testing.T) {
	t.Run("reading a body after Close changes nothing", func(t *testing.T) {
		up := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
		rt := newTransport(t, base(t), patient())
		var report resilience.Report
		req := request(t, http.MethodGet, up.URL, nil)
		resp, err := rt.RoundTrip(req.WithContext(transport.WithReport(req.Context(), &report)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
			t.Error("a read after Close succeeded, want an error")
		}
		if report.Reason != resilience.ReasonOK || tally(rt.State()[0].Breaker) != "1 good, 0 bad" {
			t.Errorf("got reason %s and circuit %s, want %s and 1 good, 0 bad", report.Reason, tally(rt.State()[0].Breaker), resilience.ReasonOK)
		}
	})
	t.Run("no RoundTripper is net/http's own", func(t *testing.T) {
		up := serve(t, func(http.ResponseWriter, *http.Request) {})
		defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if r := get(t, newTransport(t, nil, patient()), up.URL); r.err != nil {
			t.Error(r.err)
		}
	})
	t.Run("any token is a method", func(t *testing.T) {
		p := quick()
		p.Retry.Methods = append(p.Retry.Methods, "M-SEARCH", "purge")
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
		p.Retry.Methods = []string{"A B"}
		if p.Validate() == nil {
			t.Error("a method with a space is accepted, want an error")
		}
	})
}

// Found with random callers: reading a body sets the values of the request's trailer, while a
// failed attempt reads them.
func TestTrailerIsNotReadWhileItIsWritten(t *testing.T) {
	var read chan struct{}
	next := roundTripper(func(r *http.Request) (*http.Response, error) {
		// like net/http's writer, which reads on after an error
		go func() { _, _ = io.Copy(io.Discard, r.Body) }()
		<-read
		return nil, io.ErrUnexpectedEOF
	})
	rt := newTransport(t, next, quick())
	for range 100 {
		req := request(t, http.MethodPost, "http://up/", nil)
		trailer := http.Header{"X-Sum": nil}
		read = make(chan struct{})
		req.Trailer, req.ContentLength = trailer, -1
		req.Body = io.NopCloser(readerFunc(func([]byte) (int, error) {
			close(read)
			for i := range 100 {
				trailer["X-Sum"] = []string{fmt.Sprint(i)}
			}
			return 0, io.EOF
		}))
		_ = call(t, rt, req)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
