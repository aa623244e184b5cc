package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestRoutes(t *testing.T) {
	echo := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, r.RequestURI)
	})
	g := gatewayTo(t, calm(),
		gateway.Route{Name: "process", Match: "/process", Upstream: echo.URL},
		gateway.Route{Name: "order", Match: "GET /orders/{id}", Upstream: echo.URL + "/v2"},
		gateway.Route{Name: "api", Match: "/api/{rest...}", Upstream: echo.URL + "/base/"},
		gateway.Route{Name: "tree", Match: "/tree/", Upstream: echo.URL},
	)
	for _, tc := range []struct {
		method, path string
		status       int
		want         string // the request that the upstream got, or the problem's reason
	}{
		{"GET", "/process", 200, "GET /process"},
		{"POST", "/process?a=1;b=%zz&c", 200, "POST /process?a=1;b=%zz&c"},
		{"GET", "/orders/7", 200, "GET /v2/orders/7"},
		{"HEAD", "/orders/7", 200, ""},
		{"GET", "/api/a//b/../c%2Fd", 200, "GET /base/api/a//b/../c%2Fd"},
		{"GET", "/tree", 404, "no_route"},
		{"GET", "/tree//x", 200, "GET /tree//x"},
		{"GET", "/nowhere", 404, "no_route"},
		{"GET", "/process/", 404, "no_route"},
		{"DELETE", "/orders/7", 405, "method_not_allowed"},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			r := request(t, tc.method, g.URL, nil)
			r.URL.Opaque = tc.path // send the path as it is written
			resp, body := do(t, r)
			if resp.StatusCode != tc.status {
				t.Fatalf("got status %d, body %s, want %d", resp.StatusCode, body, tc.status)
			}
			switch tc.status {
			case 200:
				if body != tc.want {
					t.Errorf("the upstream got %q, want %q", body, tc.want)
				}
			case 404, 405:
				p := problemOf(t, resp, body)
				if p["reason"] != tc.want || p["attempts"] != 0.0 {
					t.Errorf("got problem %s, want reason %s and 0 attempts", body, tc.want)
				}
			}
			if tc.status == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("got Allow: %q, want GET, HEAD", resp.Header.Get("Allow"))
			}
		})
	}
}

func TestHeadersUpstream(t *testing.T) {
	var seen http.Header
	var host string
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { seen, host = r.Header.Clone(), r.Host })
	g := gatewayTo(t, calm(), all(up.URL))
	r := request(t, http.MethodGet, g.URL+"/", nil)
	r.Host = "shop.example"
	for k, v := range map[string]string{
		"Connection": "X-Hop, keep-alive", "X-Hop": "1", "Keep-Alive": "timeout=5", "Proxy-Authorization": "secret",
		"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Accept-Language": "de",
		"Traceparent":  "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"X-Request-Id": "order-42",
	} {
		r.Header.Set(k, v)
	}
	resp, _ := do(t, r)
	for k, want := range map[string]string{
		"X-Hop": "", "Keep-Alive": "", "Proxy-Authorization": "",
		"X-Forwarded-For": "203.0.113.9, 127.0.0.1", "X-Forwarded-Host": "shop.example", "X-Forwarded-Proto": "https",
		"Accept-Language": "de", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"X-Request-Id": "order-42", "X-Attempt-Count": "1",
	} {
		if got := seen.Get(k); got != want {
			t.Errorf("%s: the upstream got %q, want %q", k, got, want)
		}
	}
	if seen.Get(transport.HeaderExpectedTimeout) == "" {
		t.Error("the upstream got no deadline, want one")
	}
	if want := strings.TrimPrefix(up.URL, "http://"); host != want {
		t.Errorf("the upstream got Host %q, want %q", host, want)
	}
	if got := resp.Header.Get("X-Request-Id"); got != "order-42" {
		t.Errorf("got X-Request-Id %q, want order-42", got)
	}
}

func TestMissingOrInvalidRequestIDIsReplaced(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if seen = append(seen, r.Header.Get("X-Request-Id")); len(seen) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	g := gatewayTo(t, calm(), all(up.URL))
	for _, given := range []string{"", "with space", strings.Repeat("x", 129), "<script>"} {
		r := request(t, http.MethodGet, g.URL, nil)
		if given != "" {
			r.Header.Set("X-Request-Id", given)
		}
		resp, _ := do(t, r)
		if id := resp.Header.Get("X-Request-Id"); !regexp.MustCompile(`^[A-Z2-7]{26}$`).MatchString(id) {
			t.Errorf("X-Request-Id %q: got %q, want 26 letters and digits", given, id)
		}
	}
	if seen[0] != seen[1] || seen[1] == seen[2] {
		t.Errorf("the upstream got ids %q, want the same for both attempts of the first call and another for the next call", seen)
	}
}

func TestAnswerListsAttempts(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server-Timing", "db;dur=1")
		w.Header().Set("X-Attempt-Count", "77") // the upstream may be a gateway too
		if r.Header.Get("X-Attempt-Count") != "3" {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	resp, _ := get(t, gatewayTo(t, calm(), all(up.URL)).URL)
	if got := resp.Header.Values("X-Attempt-Count"); !reflect.DeepEqual(got, []string{"3"}) {
		t.Errorf("got X-Attempt-Count %q, want 3", got)
	}
	const ms = `\d+\.\d`
	want := `^attempt1;dur=` + ms + `;desc="status_502", wait1;dur=` + ms + `;desc="jitter", ` +
		`attempt2;dur=` + ms + `;desc="status_502", wait2;dur=` + ms + `;desc="jitter", attempt3;dur=` + ms + `;desc="ok"$`
	timing := resp.Header.Values("Server-Timing")
	if len(timing) != 2 || timing[0] != "db;dur=1" || !regexp.MustCompile(want).MatchString(timing[1]) {
		t.Errorf("got Server-Timing %q, want db;dur=1 and one that matches %s", timing, want)
	}
}

func TestProblems(t *testing.T) {
	impatient := calm()
	impatient.Timeout, impatient.AttemptTimeout, impatient.Retry.MaxAttempts = 20*time.Second, 40*time.Millisecond, 2
	hang := server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	reset := server(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	refused := refusing(t)
	for name, tc := range map[string]struct {
		policy   transport.Policy
		upstream string
		limit    string
		status   int
		reason   string
		attempts float64
	}{
		"last attempt timed out": {impatient, hang.URL, "", 504, "max_attempts", 2},
		"deadline of the caller": {calm(), hang.URL, "30", 504, "deadline_exceeded", 1},
		"connection refused":     {calm(), refused, "", 502, "max_attempts", 3},
		"reset before headers":   {calm(), reset.URL, "", 502, "max_attempts", 3},
		"no secure connection":   {calm(), strings.Replace(hang.URL, "http:", "https:", 1), "", 502, "max_attempts", 3},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewayTo(t, tc.policy, all(tc.upstream))
			r := request(t, http.MethodGet, g.URL+"/x", nil)
			r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			if tc.limit != "" {
				r.Header.Set(transport.HeaderExpectedTimeout, tc.limit)
			}
			resp, body := do(t, r)
			p := problemOf(t, resp, body)
			want := map[string]any{"status": float64(tc.status), "reason": tc.reason, "route": "all", "upstream": tc.upstream,
				"attempts": tc.attempts, "traceId": "0af7651916cd43dd8448eb211c80319c"}
			for k, v := range want {
				if p[k] != v {
					t.Errorf("got %s %v, want %v", k, p[k], v)
				}
			}
			if p["type"] == "" || p["title"] == "" || p["detail"] == "" {
				t.Errorf("got problem %s, want a type, a title and a detail", body)
			}
			if got := resp.Header.Get("X-Attempt-Count"); got != fmt.Sprint(tc.attempts) {
				t.Errorf("got X-Attempt-Count %q, want %v", got, tc.attempts)
			}
		})
	}
}

func TestUpstreamsOwnErrorIsPassedOn(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Own", "yes")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "closed for lunch")
	})
	resp, body := get(t, gatewayTo(t, calm(), all(up.URL)).URL)
	if resp.StatusCode != 503 || body != "closed for lunch" || resp.Header.Get("X-Own") != "yes" || resp.Header.Get("X-Attempt-Count") != "3" {
		t.Errorf("got status %d, body %q, header %v, want the upstream's 503 after 3 attempts", resp.StatusCode, body, resp.Header)
	}
}

// After the circuit of a dead upstream has opened, the upstream gets only probes and callers get
// 503 at once. After the outage every caller succeeds again.
func TestOutage(t *testing.T) {
	var dead atomic.Bool
	var hits, inFlight, most atomic.Int64
	dead.Store(true)
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		now := inFlight.Add(1)
		defer inFlight.Add(-1)
		for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
		}
		if dead.Load() {
			select { // long enough for surplus probes to overlap
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := transport.DefaultPolicy()
	p.Timeout, p.AttemptTimeout = 15*time.Second, 5*time.Second // a busy machine has many callers here
	g := gatewayTo(t, p, all(up.URL))
	client := newClient(t)
	call := func() (*http.Response, error) {
		resp, err := client.Do(request(t, http.MethodGet, g.URL, nil))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return resp, err
	}
	resp, body := get(t, g.URL)
	for n := 0; n < 100 && resp.Header.Get("X-Attempt-Count") != "0"; n++ { // until the circuit opens
		resp, body = get(t, g.URL)
	}
	if pr := problemOf(t, resp, body); pr["reason"] != "breaker_open" || resp.StatusCode != 503 || pr["attempts"] != 0.0 {
		t.Errorf("got problem %s, want breaker_open with status 503 and 0 attempts", body)
	}
	if resp.Header.Get("Retry-After") != "1" && resp.Header.Get("Retry-After") != "2" {
		t.Errorf("got Retry-After %q, want 1 or 2", resp.Header.Get("Retry-After"))
	}
	before := hits.Load()
	most.Store(0)
	start := time.Now()
	var wg sync.WaitGroup
	for range 200 { // for long enough that the circuit becomes half-open
		wg.Go(func() {
			for calls := 0; calls < 5 || time.Since(start) < 1500*time.Millisecond; calls++ {
				if _, err := call(); err != nil {
					t.Error(err)
				}
				if calls >= 5 {
					select {
					case <-time.After(10 * time.Millisecond):
					case <-t.Context().Done():
					}
				}
			}
		})
	}
	wg.Wait()
	if got := most.Load(); got == 0 || got > int64(p.Breaker.Probes) {
		t.Errorf("got %d concurrent probes, want 1 to %d", got, p.Breaker.Probes)
	}
	took := time.Since(start)
	openings := int64(took/(p.Breaker.OpenFor*8/10)) + 1
	// A probe that is retried does not count and gives its slot to another. A retry costs a token.
	tokens := int64(p.Retry.Budget.FloorPerSecond*took.Seconds()) + 1
	limit := openings*int64(p.Breaker.Probes) + 2*tokens
	if cost := hits.Load() - before; cost > limit {
		t.Errorf("the upstream got %d attempts during the outage, want at most %d", cost, limit)
	}

	// The outage ends while callers retry. Few, because the machine may be busy.
	dead.Store(false)
	end := time.Now()
	for range 20 {
		wg.Go(func() {
			for time.Since(end) < 10*time.Second {
				if resp, err := call(); err != nil {
					t.Error(err)
				} else if resp.StatusCode == http.StatusOK {
					return
				}
				// This test runs in real time. Callers without a pause would only measure the
				// machine.
				select {
				case <-time.After(5 * time.Millisecond):
				case <-t.Context().Done():
				}
			}
			t.Error("a caller has no success in the 10 s after the outage")
		})
	}
	wg.Wait()
}

// Without a breaker the budget limits the attempts during an outage.
func TestOutageWithoutBreakerIsBoundedByTheBudget(t *testing.T) {
	var hits atomic.Int64
	up := server(t, func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	p := calm()
	p.Retry.Budget = transport.DefaultPolicy().Retry.Budget
	g := gatewayTo(t, p, all(up.URL))
	client := newClient(t)
	start := time.Now()
	for range 1000 {
		resp, err := client.Do(request(t, http.MethodGet, g.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	b := p.Retry.Budget
	if limit := 1000 + b.Most() + b.FloorPerSecond*(1+time.Since(start).Seconds()); float64(hits.Load()) > limit {
		t.Errorf("1000 calls caused %d attempts, want at most %.0f", hits.Load(), limit)
	}
}

func TestRoutesShareBreakerByUpstreamAndPolicy(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	c := gateway.DefaultConfig()
	p := calm()
	p.Breaker.ConsecutiveFailures, p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 1, time.Hour, time.Hour
	c.Policies["default"], c.Policies["other"] = p, p
	c.Routes = []gateway.Route{
		{Name: "a", Match: "/a", Upstream: up.URL, Policy: "default"},
		{Name: "b", Match: "/b", Upstream: up.URL + "/path", Policy: "default"},
		{Name: "c", Match: "/c", Upstream: up.URL, Policy: "other"},
	}
	g, err := gateway.New(c, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	s := server(t, g.ServeHTTP)
	get(t, s.URL+"/a")
	if resp, body := get(t, s.URL+"/b"); problemOf(t, resp, body)["reason"] != "breaker_open" {
		t.Errorf("another route with the same upstream and policy: got %s, want breaker_open from the shared circuit", body)
	}
	if resp, _ := get(t, s.URL+"/c"); resp.StatusCode != 500 {
		t.Errorf("another policy: got status %d, want 500 as it has its own circuit", resp.StatusCode)
	}

	admin := httptest.NewRecorder()
	g.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), nil).ServeHTTP(admin, request(t, http.MethodGet, "/breakers", nil))
	var answer struct {
		Breakers []struct {
			Policy, Upstream string
			Breaker          struct{ State string }
		}
	}
	if err := json.Unmarshal(admin.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if n := len(answer.Breakers); n != 2 || answer.Breakers[0].Policy != "default" || answer.Breakers[0].Breaker.State != "open" || answer.Breakers[1].Upstream != up.URL {
		t.Errorf("/breakers: got %s, want an open circuit of policy default and one of %s", admin.Body, up.URL)
	}
}

func TestCallerWhoHangsUpCancelsTheAttempt(t *testing.T) {
	arrived, canceled := make(chan struct{}), make(chan struct{})
	up := server(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(canceled)
	})
	g, s := gatewayOver(t, patient(gateway.ForUpstream(up.URL)), gateway.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		resp, err := newClient(t).Do(request(t, http.MethodGet, s.URL, nil).WithContext(ctx))
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	<-arrived
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want %v", err, context.Canceled)
	}
	select {
	case <-canceled:
	case <-time.After(20 * time.Second):
		t.Fatal("the attempt is still running after 20 s, want it canceled")
	}
	for _, b := range g.Upstreams() {
		if s := b.Breaker; s.Failures+s.Successes+s.Consecutive != 0 {
			t.Errorf("got circuit %+v, want no successes and no failures", s)
		}
	}
}

func TestBodyThatDiesMidwayAbortsTheCallersConnection(t *testing.T) {
	for name, length := range map[string]string{"length known": "1000", "chunked": ""} {
		t.Run(name, func(t *testing.T) {
			up := server(t, func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(w, "half of it")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			resp, err := newClient(t).Do(request(t, http.MethodGet, gatewayTo(t, calm(), all(up.URL)).URL, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("got %q without an error, want one at the end", b)
			}
		})
	}
}

func TestStreamsBothWaysAtOnce(t *testing.T) {
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			_, _ = fmt.Fprintf(w, "got %s\n", lines.Text())
			_ = http.NewResponseController(w).Flush()
		}
	})
	g := gatewayTo(t, calm(), all(up.URL))
	reader, writer := io.Pipe()
	go func() { _, _ = io.WriteString(writer, "line 0\n") }()
	resp, err := newClient(t).Do(request(t, http.MethodPost, g.URL, reader))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answers := bufio.NewScanner(resp.Body)
	for i := range 20 {
		if !answers.Scan() || answers.Text() != fmt.Sprintf("got line %d", i) {
			t.Fatalf("line %d: got %q, error %v, want %q", i, answers.Text(), answers.Err(), fmt.Sprintf("got line %d", i))
		}
		if i < 19 {
			_, _ = fmt.Fprintf(writer, "line %d\n", i+1)
		}
	}
	_ = writer.Close()
}

// Each event arrives before the upstream sends the next one.
func TestEventStreamIsNotBuffered(t *testing.T) {
	next := make(chan struct{}, 1)
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 100 {
			_, _ = fmt.Fprintf(w, "id: %d\ndata: event\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	r := request(t, http.MethodGet, gatewayTo(t, calm(), all(up.URL)).URL, nil)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := newClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for i := range 100 {
		for _, want := range []string{fmt.Sprintf("id: %d", i), "data: event", ""} {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("event %d: got %q, error %v, want %q", i, lines.Text(), lines.Err(), want)
			}
		}
		next <- struct{}{}
	}
	if lines.Scan() {
		t.Errorf("got event %q, want the end after 100", lines.Text())
	}
}

func TestBeginningOfASlowBodyArrivesAtOnce(t *testing.T) {
	rest := make(chan struct{})
	up := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-rest
		_, _ = io.WriteString(w, "rest!")
	})
	resp, err := newClient(t).Do(request(t, http.MethodGet, gatewayTo(t, calm(), all(up.URL)).URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "first" {
		t.Fatalf("got %q, error %v, want first", b, err)
	}
	close(rest)
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "rest!" {
		t.Errorf("got %q, error %v, want rest!", b, err)
	}
}

func TestWebSocketPassesThrough(t *testing.T) {
	up := httptest.NewServer(websocket.Handler(func(c *websocket.Conn) {
		for {
			var message string
			if websocket.Message.Receive(c, &message) != nil || websocket.Message.Send(c, message) != nil {
				return
			}
		}
	}))
	t.Cleanup(up.Close)
	g := gatewayTo(t, calm(), all(up.URL))
	c, err := websocket.Dial(strings.Replace(g.URL, "http:", "ws:", 1)+"/echo", "", g.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 10 {
		sent := fmt.Sprintf("message %d %s", i, strings.Repeat("x", i*1000))
		if err := websocket.Message.Send(c, sent); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := websocket.Message.Receive(c, &got); err != nil || got != sent {
			t.Fatalf("got %d bytes, error %v, want the %d bytes that were sent", len(got), err, len(sent))
		}
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	var seen http.Header
	up := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		b, _ := io.ReadAll(r.Body)
		seen = r.Trailer.Clone()
		_, _ = w.Write(b)
		w.Header().Set("X-Sum", "down")
	})
	g := gatewayTo(t, calm(), all(up.URL))
	r := request(t, http.MethodPut, g.URL, io.MultiReader(strings.NewReader("body")))
	r.Trailer = http.Header{"X-Check": nil}
	r.Body = trailing{r.Body, func() { r.Trailer.Set("X-Check", "up") }}
	resp, body := do(t, r)
	if body != "body" || seen.Get("X-Check") != "up" || resp.Trailer.Get("X-Sum") != "down" {
		t.Errorf("got body %q, trailers up %v and down %v, want body, X-Check: up and X-Sum: down", body, seen, resp.Trailer)
	}
}

type trailing struct {
	io.ReadCloser
	end func()
}

func (b trailing) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.end()
	}
	return n, err
}

// 1,000 concurrent calls hang and end at their deadlines. They leave no connection and no goroutine
// behind (TestMain checks for goroutines).
func TestThousandHangingCallsEndAtTheirDeadlines(t *testing.T) {
	var open conncount.Counter
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	up.Config.ConnState = open.See
	up.Start()
	t.Cleanup(up.Close)
	p := calm()
	p.Timeout, p.AttemptTimeout, p.Retry.MaxAttempts = 2*time.Second, 2*time.Second, 1
	p.Concurrency.Max = -1
	c := gateway.ForUpstream(up.URL)
	c.Policies[gateway.DefaultPolicyName] = p
	gw, err := gateway.New(c, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := server(t, gw.ServeHTTP)
	client := newClient(t)
	var wg sync.WaitGroup
	var late, wrong atomic.Int64
	start := time.Now()
	for range 1000 {
		wg.Go(func() {
			resp, err := client.Do(request(t, http.MethodGet, g.URL, nil))
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusGatewayTimeout {
				wrong.Add(1)
			}
			if time.Since(start) > 20*time.Second {
				late.Add(1)
			}
		})
	}
	wg.Wait()
	if late.Load() > 0 || wrong.Load() > 0 {
		t.Errorf("%d calls ended late and %d without 504, want 0 and 0", late.Load(), wrong.Load())
	}
	gw.Close()          // a connection whose dial outlasted its call is kept for the next call
	open.WantOpen(t, 0) // the server notices closed connections with a delay
}

// net/http waits for a pending read of the request body even when the context has ended. A caller
// that stopped in the middle of an upload used to hold its call for ever.
func TestCallerWhoStopsUploadingIsAnsweredInTime(t *testing.T) {
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	p := calm()
	p.Timeout, p.AttemptTimeout = 300*time.Millisecond, 100*time.Millisecond
	g := gatewayTo(t, p, all(up.URL))
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "PUT /file HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("got status %s, want 504", resp.Status)
	}
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading the connection: got error %v, want EOF or a reset", err)
	}
}

func TestAdminShowsTheEffectiveConfiguration(t *testing.T) {
	g, err := gateway.New(gateway.ForUpstream("http://up:5000"), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	admin := g.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), nil)
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, request(t, http.MethodGet, path, nil))
		return w
	}
	shown := ask("/config").Body.Bytes()
	again := gateway.DefaultConfig()
	if err := config.Decode("shown", shown, &again); err != nil || !reflect.DeepEqual(again, g.Config()) {
		t.Errorf("/config: got error %v, want the gateway's configuration:\n%s", err, shown)
	}
	if w := ask("/"); w.Code != 200 || !strings.Contains(w.Body.String(), "/breakers") {
		t.Errorf("got status %d, body %s, want 200 and the list of pages", w.Code, w.Body)
	}
	if w := ask("/nope"); w.Code != 404 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got status %d, header %v, want 404 and a problem document", w.Code, w.Header())
	}
	if w := ask("/debug/pprof/cmdline"); w.Code != 200 {
		t.Errorf("pprof: got status %d, want 200", w.Code)
	}
}

// A browser gets the live page. Other clients get a list of the paths.
func TestAdminServesThePageToBrowsers(t *testing.T) {
	g, err := gateway.New(gateway.ForUpstream("http://127.0.0.1:1"), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "page "+r.URL.Path) })
	admin := g.Admin(http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler(), page)
	for _, c := range []struct{ path, accept, want string }{
		{"/", "text/html,application/xhtml+xml,*/*;q=0.8", "page /"},
		{"/", "*/*", "GET /livez"},
		{"/", "", "GET /api/calls"},
		{"/api/state", "", "page /api/state"},
		{"/assets/live.js", "", "page /assets/live.js"},
		{"/elsewhere", "text/html", "there is no /elsewhere"},
	} {
		r := request(t, http.MethodGet, c.path, nil)
		r.Header.Set("Accept", c.accept)
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s for %q: got %s, want %q", c.path, c.accept, w.Body, c.want)
		}
	}
}

// Retry-After is in whole seconds, and none too early: 3.3 s are told as 4. Both limits tell it.
func TestRetryAfterOfTheLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*transport.Policy)
		status int
		reason resilience.Reason
		least  float64 // s
	}{
		"rate": {func(p *transport.Policy) {
			p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.3, Burst: 1}
		}, http.StatusTooManyRequests, resilience.ReasonRateLimited, 3.3},
		// Nothing is known of the upstream: 1.5 times an eighth of the attempt timeout of 20 s.
		"concurrency": {func(p *transport.Policy) {
			p.Concurrency.Max = 1
		}, http.StatusServiceUnavailable, resilience.ReasonConcurrencyLimit, 3.75},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived, leave := make(chan struct{}), make(chan struct{})
			up := server(t, func(http.ResponseWriter, *http.Request) {
				close(arrived)
				<-leave
			})
			p := transport.DefaultPolicy()
			p.Timeout, p.AttemptTimeout = time.Minute, 20*time.Second
			tc.change(&p)
			g := gatewayTo(t, p, all(up.URL))
			first := make(chan int)
			began := time.Now()
			go func() {
				resp, _ := get(t, g.URL)
				first <- resp.StatusCode
			}()
			<-arrived
			resp, body := get(t, g.URL)
			passed := time.Since(began)
			close(leave)
			if got := <-first; got != http.StatusOK {
				t.Errorf("the first call got status %d, want 200", got)
			}
			if pr := problemOf(t, resp, body); resp.StatusCode != tc.status || pr["reason"] != string(tc.reason) {
				t.Errorf("got status %d, problem %s, want %d, %s", resp.StatusCode, body, tc.status, tc.reason)
			}
			after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err != nil || float64(after)+passed.Seconds() < tc.least || after > 4 {
				t.Errorf("got Retry-After %q %v after the first call, want it to end %v s after that, and at most 4", resp.Header.Get("Retry-After"), passed, tc.least)
			}
		})
	}
}
