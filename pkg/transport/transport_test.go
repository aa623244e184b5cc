package transport_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func Example() {
	attempts := 0
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if attempts++; attempts < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer upstream.Close()

	rt, err := transport.New(http.DefaultTransport, transport.DefaultPolicy())
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: rt}

	resp, err := client.Get(upstream.URL)
	if err != nil {
		panic(err)
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.StatusCode, "after", attempts, "attempts")
	// Output: 200 after 3 attempts
}

func TestUpstreamSeesWhichAttemptItIsAndHowMuchTimeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		next := inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.Header.Get(transport.HeaderAttemptCount)+" "+r.Header.Get(transport.HeaderExpectedTimeout))
			time.Sleep(time.Second)
			failingFirst(9, 0)(w, r)
		})
		p := steady()
		p.Timeout = 3 * time.Second
		r := get(t, newTransport(t, next, p), "http://up/")
		synctest.Wait()
		// 3s - 1s - 100ms - 1s - 200ms = 700ms are left for the third attempt.
		if want := []string{"1 1500", "2 1500", "3 700"}; !reflect.DeepEqual(seen, want) {
			t.Errorf("upstream saw %q, want %q", seen, want)
		}
		if !errors.Is(r.err, resilience.ErrTimeout) || r.report.Reason != resilience.ReasonDeadlineExceeded {
			t.Errorf("got error %v, reason %s, want ErrTimeout and %s", r.err, r.report.Reason, resilience.ReasonDeadlineExceeded)
		}
	})
}

// With a limit as long as a duration can be, the upstream used to be told that 1 ms is left.
func TestLongestTimeoutIsNoShortOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen string
		next := inBubble(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get(transport.HeaderExpectedTimeout) })
		p := steady()
		p.Timeout, p.AttemptTimeout = math.MaxInt64, math.MaxInt64
		get(t, newTransport(t, next, p), "http://up/")
		if want := "9223372036855"; seen != want {
			t.Errorf("upstream saw %q ms, want %q", seen, want)
		}
	})
}

func TestDeadlineThatComesInIsHonoured(t *testing.T) {
	for header, want := range map[string]string{
		"400": "400", "1": "1", " 400 ": "400",
		"0": "1500", "-1": "1500", "soon": "1500", "": "1500", "1e3": "1500", "99999999999999999999999": "1500",
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen string
				next := inBubble(t, func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get(transport.HeaderExpectedTimeout) })
				req := request(t, http.MethodGet, "http://up/", nil)
				req.Header.Set(transport.HeaderExpectedTimeout, header)
				call(t, newTransport(t, next, steady()), req)
				if seen != want {
					t.Errorf("%q came in, %q went out, want %q", header, seen, want)
				}
			})
		})
	}
}

func TestCallersRequestIsLeftAsItIs(t *testing.T) {
	u := serve(t, failingFirst(2, 10))
	req := request(t, http.MethodGet, u.URL, nil)
	req.Header.Set("X-Own", "value")
	before := req.Header.Clone()
	call(t, newTransport(t, base(t), patient()), req)
	if !reflect.DeepEqual(req.Header, before) {
		t.Errorf("the caller's header became %v, want %v", req.Header, before)
	}
}

func TestRequestBodyIsAlwaysClosed(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		policy  func(*transport.Policy)
		url     string
	}{
		"answered":         {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, nil, ""},
		"answered unread":  {func(http.ResponseWriter, *http.Request) {}, nil, ""},
		"retried":          {failingFirst(2, 10), nil, ""},
		"reset":            {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, ""},
		"nobody there":     {nil, nil, "http://127.0.0.1:1/"},
		"no such protocol": {nil, nil, "gopher://127.0.0.1/"},
	} {
		t.Run(name, func(t *testing.T) {
			url := tc.url
			if tc.handler != nil {
				url = serve(t, tc.handler).URL
			}
			body := &closable{Reader: strings.NewReader("some bytes"), closed: make(chan struct{})}
			call(t, newTransport(t, base(t), patient()), request(t, http.MethodPut, url, body))
			select {
			case <-body.closed:
			case <-time.After(20 * time.Second): // net/http may close it a little later
				t.Error("the body is still open after 20 s, want it closed")
			}
		})
	}
	t.Run("refused by the breaker", func(t *testing.T) {
		p := patient()
		p.Breaker.ConsecutiveFailures = 1
		u := serve(t, failingFirst(9, 0))
		rt := newTransport(t, base(t), p)
		get(t, rt, u.URL)
		for _, getBody := range []func() (io.ReadCloser, error){nil, func() (io.ReadCloser, error) { return http.NoBody, nil }} {
			body := &closable{Reader: strings.NewReader("some bytes"), closed: make(chan struct{})}
			req := request(t, http.MethodPut, u.URL, body)
			req.GetBody = getBody
			if r := call(t, rt, req); !errors.Is(r.err, resilience.ErrBreakerOpen) {
				t.Fatal(r.err)
			}
			select {
			case <-body.closed:
			default:
				t.Error("the body is open, want it closed")
			}
		}
	})
	t.Run("without a URL", func(t *testing.T) {
		body := &closable{Reader: strings.NewReader("x"), closed: make(chan struct{})}
		_, err := newTransport(t, base(t), patient()).RoundTrip(&http.Request{Body: body})
		if err == nil {
			t.Error("got no error, want one")
		}
		<-body.closed
	})
}

type closable struct {
	io.Reader
	closed chan struct{}
}

func (c *closable) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

func TestCallersBrokenBodyIsNotTheUpstreamsFault(t *testing.T) {
	u := serve(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	broken := errors.New("disk on fire")
	rt := newTransport(t, base(t), patient())
	r := call(t, rt, request(t, http.MethodPut, u.URL, io.MultiReader(strings.NewReader("start"), errorReader{broken})))
	if !errors.Is(r.err, broken) || len(r.report.Attempts) != 1 || r.report.Reason != resilience.ReasonBodyFailed {
		t.Errorf("got error %v, attempts %v, reason %s, want %v, 1 attempt and %s", r.err, r.reasons(), r.report.Reason, broken, resilience.ReasonBodyFailed)
	}
	if b := rt.State()[0].Breaker; b.Failures != 0 {
		t.Errorf("the circuit counts %d failures, want 0", b.Failures)
	}
}

// A slow upload runs into the timeout, but does not count against the upstream, unless the upstream
// does not read the body.
func TestSlowUploadIsNotTheUpstreamsFault(t *testing.T) {
	for name, tc := range map[string]struct {
		body     func() io.Reader
		handler  http.HandlerFunc
		limit    string
		failures int
	}{
		"the caller stalls": {
			func() io.Reader { reader, _ := io.Pipe(); return reader },
			func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, "", 0},
		"the caller stalls, until the deadline": {
			func() io.Reader { reader, _ := io.Pipe(); return reader },
			func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, "1400", 0},
		"the upstream stalls": {
			func() io.Reader { return io.LimitReader(zeros{}, 1<<20) },
			func(http.ResponseWriter, *http.Request) { time.Sleep(time.Minute) }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Retry.MaxAttempts = 1
				rt := newTransport(t, inBubble(t, tc.handler), p)
				body := tc.body()
				req := request(t, http.MethodPut, "http://up/", body)
				if tc.limit != "" {
					req.Header.Set(transport.HeaderExpectedTimeout, tc.limit)
				}
				start := time.Now()
				r := call(t, rt, req)
				if !errors.Is(r.err, resilience.ErrTimeout) || time.Since(start) > 1500*time.Millisecond {
					t.Errorf("got error %v after %v, want ErrTimeout within 1.5 s", r.err, time.Since(start))
				}
				if got := rt.State()[0].Breaker.Failures; got != tc.failures {
					t.Errorf("the breaker counts %d failures, want %d", got, tc.failures)
				}
				if c, ok := body.(io.Closer); ok {
					_ = c.Close()
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestStatusesThatAreNotRepeated(t *testing.T) {
	for code, want := range map[int]resilience.Reason{
		200: resilience.ReasonOK, 204: resilience.ReasonOK, 301: resilience.ReasonOK, 304: resilience.ReasonOK,
		400: resilience.ReasonStatusNotRetryable, 404: resilience.ReasonStatusNotRetryable,
		500: resilience.ReasonStatusNotRetryable, 501: resilience.ReasonStatusNotRetryable,
		429: resilience.ReasonMaxAttempts, 502: resilience.ReasonMaxAttempts, 503: resilience.ReasonMaxAttempts, 504: resilience.ReasonMaxAttempts,
	} {
		u := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		r := get(t, newTransport(t, base(t), patient()), u.URL)
		attempts := 1
		if want == resilience.ReasonMaxAttempts {
			attempts = 3
		}
		if r.err != nil || r.resp.StatusCode != code || r.report.Reason != want || len(r.report.Attempts) != attempts {
			t.Errorf("%d: %v, reason %s, %d attempts; want %s, %d", code, r.err, r.report.Reason, len(r.report.Attempts), want, attempts)
		}
	}
}

func TestStalledBodyIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.BodyIdleTimeout = 10 * time.Second
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			for range 3 { // slow, but sending
				_, _ = io.WriteString(w, "piece ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(9 * time.Second)
			}
			<-r.Context().Done()
		}), p)
		start := time.Now()
		r := get(t, rt, "http://up/")
		var e *resilience.Error
		if !errors.As(r.err, &e) || e.Reason != resilience.ReasonBodyFailed || r.body != "piece piece piece " || time.Since(start) != 28*time.Second {
			t.Errorf("got body %q, error %v after %v, want three pieces and %s after 28 s", r.body, r.err, time.Since(start), resilience.ReasonBodyFailed)
		}
		if b := rt.State()[0].Breaker; b.Failures != 1 {
			t.Errorf("the circuit counts %+v, want 1 failure", b)
		}
	})
	t.Run("a slow reader is not a stalled body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := steady()
			p.BodyIdleTimeout = time.Second
			rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "whole") }), p)
			resp, err := rt.RoundTrip(request(t, http.MethodGet, "http://up/", nil))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			b := make([]byte, 1)
			for i := range 5 {
				if _, err := resp.Body.Read(b); err != nil && (i < 4 || err != io.EOF) {
					t.Errorf("byte %d: got error %v, want none before the end", i, err)
				}
				time.Sleep(time.Hour)
			}
			_ = resp.Body.Close()
		})
	})
}

func TestUpgradePassesThroughWithOneAttempt(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/busy" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("you said " + line)
		_ = rw.Flush()
	})
	rt := newTransport(t, base(t), patient())
	upgrade := func(path string) *http.Request {
		req := request(t, http.MethodGet, u.URL+path, nil)
		req.Header.Set("Connection", "keep-alive, Upgrade")
		req.Header.Set("Upgrade", "echo")
		return req
	}
	var report resilience.Report
	req := upgrade("/")
	resp, err := rt.RoundTrip(req.WithContext(transport.WithReport(req.Context(), &report)))
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || report.Reason != resilience.ReasonUpgrade {
		t.Fatalf("got body %T, reason %s, want an io.ReadWriteCloser and %s", resp.Body, report.Reason, resilience.ReasonUpgrade)
	}
	_, _ = io.WriteString(conn, "hello\n")
	line, _ := bufio.NewReader(conn).ReadString('\n')
	if line != "you said hello\n" {
		t.Errorf("got echo %q, want %q", line, "you said hello\n")
	}
	_ = conn.Close()

	if r := call(t, rt, upgrade("/busy")); r.report.Reason != resilience.ReasonUpgrade || len(r.report.Attempts) != 1 {
		t.Errorf("a refused upgrade: got attempts %v, reason %s, want 1 attempt and %s", r.reasons(), r.report.Reason, resilience.ReasonUpgrade)
	}
}

func TestEventStreamIsOneAttemptAndHealthyFromItsHeadersOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newTransport(t, inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/busy" {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), steady())
		req := request(t, http.MethodGet, "http://up/", nil)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b := rt.State()[0].Breaker; b.Successes != 1 {
			t.Errorf("the circuit counts %+v while the stream runs, want 1 success", b)
		}
		_ = resp.Body.Close()
		req.URL.Path = "/busy"
		if r := call(t, rt, req); len(r.report.Attempts) != 1 {
			t.Errorf("got attempts %v, want 1", r.reasons())
		}
	})
}

func TestEachOriginHasItsOwnBreaker(t *testing.T) {
	bad, good := serve(t, failingFirst(99, 0)), serve(t, failingFirst(0, 0))
	p := patient()
	p.Breaker.ConsecutiveFailures = 2
	rt := newTransport(t, base(t), p)
	get(t, rt, bad.URL)
	if r := get(t, rt, bad.URL+"/other/path"); !errors.Is(r.err, resilience.ErrBreakerOpen) {
		t.Errorf("another path of the origin: got error %v, want ErrBreakerOpen since they share a circuit", r.err)
	}
	if r := get(t, rt, good.URL); r.err != nil {
		t.Errorf("another origin: got error %v, want none", r.err)
	}
	states := rt.State()
	if len(states) != 2 {
		t.Fatalf("got states %+v, want 2", states)
	}
	for _, s := range states {
		want := resilience.Closed
		if s.Upstream == bad.URL {
			want = resilience.Open
		}
		if s.Breaker.State != want {
			t.Errorf("%s is %v, want %v", s.Upstream, s.Breaker.State, want)
		}
	}
}

func TestOriginsAreComparedAsTheyMean(t *testing.T) {
	fine := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})
	rt := newTransport(t, fine, quick())
	for _, url := range []string{"http://up/", "http://UP/a", "http://up:80/b", "https://up/", "https://up:443/", "http://up:8080/"} {
		get(t, rt, url)
	}
	var names []string
	for _, s := range rt.State() {
		names = append(names, s.Upstream)
	}
	if want := []string{"http://up", "http://up:8080", "https://up"}; !reflect.DeepEqual(names, want) {
		t.Errorf("origins %q, want %q", names, want)
	}
}

func TestEndlessHostsDoNotFillTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fine := roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})
		rt := newTransport(t, fine, quick())
		for i := range transport.MaxUpstreams + 50 {
			get(t, rt, fmt.Sprintf("http://host-%d/", i))
			get(t, rt, "http://favourite/")
			time.Sleep(time.Second)
		}
		states := rt.State()
		if len(states) > transport.MaxUpstreams {
			t.Errorf("%d upstreams are remembered, want at most %d", len(states), transport.MaxUpstreams)
		}
		found := false
		for _, s := range states {
			found = found || s.Upstream == "http://favourite"
		}
		if !found {
			t.Error("the upstream in use was forgotten, want it kept")
		}
	})
}

func TestPolicyMistakesAreReportedTogether(t *testing.T) {
	p := transport.DefaultPolicy()
	p.Timeout, p.BodyIdleTimeout = 0, -1
	p.Retry.MaxAttempts = 0
	p.Retry.Statuses = []int{503, 200, 503}
	p.Retry.Methods = []string{"get", "PUT", "PUT", ""}
	p.Retry.ReplayBuffer = -1
	p.Breaker.Probes = 0
	_, err := transport.New(http.DefaultTransport, p)
	for _, want := range []string{
		"timeout: must be above 0, got 0s",
		"bodyIdleTimeout: must be at least 0",
		"retry.maxAttempts: must be from 1",
		"retry.statuses[1]: must be an error status from 400 to 599, got 200",
		"retry.statuses[2]: 503 is listed twice",
		`retry.methods[0]: must be a method in capital letters such as GET, got "get"`,
		"retry.methods[2]: PUT is listed twice",
		`retry.methods[3]: must be`,
		"retry.replayBuffer: must be from 0 to 64MiB",
		"breaker.probes: must be from 1",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]transport.Size{"0": 0, "0B": 0, "512B": 512, "64KiB": 64 << 10, "10MiB": 10 << 20, "2GiB": 2 << 30} {
		var s transport.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q was read as %d, error %v, want %d", text, s, err, want)
		}
		var again transport.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q was read again as %d, error %v, want %d", s, again, err, s)
		}
	}
	for _, text := range []string{"", "64", "64KB", "KiB", "-1B", "1.5MiB", "9223372036854775807GiB", "64 KiB", "B64"} {
		var s transport.Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %d, want an error", text, s)
		}
	}
}

func TestReportIsOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []resilience.Report
		rt := newTransport(t, inBubble(t, failingFirst(1, 0)), steady(), transport.WithObserver(resilience.Observer{
			Call: func(_ context.Context, r *resilience.Report) { calls = append(calls, *r) },
		}))
		r := get(t, rt, "http://up/")
		if len(calls) != 1 || !reflect.DeepEqual(calls[0], r.report) {
			t.Errorf("the observer saw %+v, want once the caller's report %+v", calls, r.report)
		}
		if r.report.Upstream != "http://up" || r.report.Duration != 100*time.Millisecond || len(r.report.Attempts) != 2 {
			t.Errorf("got report %+v, want two attempts of http://up in 100 ms", r.report)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"2", "-5", "soon", "9999999999", "99999999999999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", " 7\t", "1.5", "0x10", ""} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		d := transport.ParseRetryAfter(s, now)
		if d < 0 {
			t.Errorf("%q: got a wait of %v, want none below 0", s, d)
		}
		digits := strings.Trim(s, " \t")
		if digits != "" && strings.Trim(digits, "0123456789") == "" {
			// One more digit never means a shorter wait.
			if longer := transport.ParseRetryAfter(digits+"0", now); longer < d {
				t.Errorf("%q waits %v, but %q0 only %v, want at least as long", digits, d, digits, longer)
			}
			if len(digits) > 20 && strings.Trim(digits, "0") != "" && strings.TrimLeft(digits, "0") == digits && d != math.MaxInt64 {
				t.Errorf("%q: got a wait of %v, want %v", s, d, time.Duration(math.MaxInt64))
			}
		}
	})
}
