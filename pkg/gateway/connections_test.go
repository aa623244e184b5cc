package gateway_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/balancer"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// pod is one of several servers behind one name.
type pod struct {
	*httptest.Server
	served atomic.Int64
}

func newPod(t *testing.T, answer http.HandlerFunc) *pod {
	t.Helper()
	p := &pod{}
	p.Server = server(t, func(w http.ResponseWriter, r *http.Request) {
		p.served.Add(1)
		answer(w, r)
	})
	return p
}

// newSecurePod starts a pod that speaks HTTP/2 over TLS.
func newSecurePod(t *testing.T, answer http.HandlerFunc) *pod {
	t.Helper()
	p := &pod{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.served.Add(1)
		answer(w, r)
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.EnableHTTP2 = true
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *pod) address() string { return p.Listener.Addr().String() }

// startTrusting serves a gateway to one upstream. It trusts the certificate that all httptest
// servers share.
func startTrusting(t *testing.T, upstream string) *httptest.Server {
	t.Helper()
	trusted := httptest.NewTLSServer(nil)
	trusted.Close()
	g, err := gateway.New(gateway.ForUpstream(upstream), gateway.Options{TLS: trusted.Client().Transport.(*http.Transport).TLSClientConfig})
	if err != nil {
		t.Fatal(err)
	}
	s := server(t, g.ServeHTTP)
	t.Cleanup(g.Close)
	return s
}

func healthyPod(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(2 * time.Millisecond)
	_, _ = io.WriteString(w, "ok")
}

// tally counts calls and those of them that got 200, by the second in which they began.
type tally struct {
	mu          sync.Mutex
	start       time.Time
	good, total []int    // indexed by second
	failed      []string // when the others began, how long they took, and their answers
}

func (c *tally) add(began time.Time, answer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	second := int(began.Sub(c.start) / time.Second)
	for len(c.total) <= second {
		c.good, c.total = append(c.good, 0), append(c.total, 0)
	}
	c.total[second]++
	if answer == "" {
		c.good[second]++
	} else {
		c.failed = append(c.failed, fmt.Sprintf("%v +%v %s", began.Sub(c.start), time.Since(began), answer))
	}
}

// few is the number of calls that may fail beside a share: on a slow machine there are not many.
const few = 3

// missed says what is wrong if less than a share of the calls that began after the given seconds
// were good. It leaves out a few that failed.
func (c *tally) missed(share float64, seconds int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	good, total := 0, 0
	for i := seconds; i < len(c.total); i++ {
		good += c.good[i]
		total += c.total[i]
	}
	if total > 0 && float64(good+few) >= share*float64(total) {
		return ""
	}
	last := c.failed[max(0, len(c.failed)-10):]
	return fmt.Sprintf("%d of %d calls after %d s succeeded, want at least %.0f %% and %d more: good %v of %v, the last that failed:\n%s",
		good, total, seconds, 100*share, few, c.good, c.total, strings.Join(last, "\n"))
}

// load runs callers for the given length of time and counts their calls. Each caller makes at most
// one call per pace.
func load(t *testing.T, method, url string, callers int, pace, length time.Duration) *tally {
	t.Helper()
	c := &tally{start: time.Now()}
	client := newClient(t)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for began := time.Now(); began.Sub(c.start) < length; began = time.Now() {
				resp, err := client.Do(request(t, method, url, nil))
				if err != nil {
					t.Error(err)
					return
				}
				answer, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK && err == nil {
					c.add(began, "")
				} else {
					c.add(began, fmt.Sprint(resp.Status, " ", string(answer), " ", err))
				}
				time.Sleep(pace - time.Since(began))
			}
		})
	}
	all.Wait()
	return c
}

// One of three pods behind a name is sick, as behind a ClusterIP. Calls reach the healthy pods.
func TestOneBadPodBehindOneName(t *testing.T) {
	t.Parallel()
	const callers = 4
	type set struct {
		name, method, url string
		secure            bool
	}
	var sets []set
	unavailable := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tc := range map[string]struct {
		sick   http.HandlerFunc // nil: the pod refuses connections
		secure bool             // HTTP/2 over TLS
		method string
	}{
		"answers 503":             {unavailable, false, http.MethodGet},
		"answers 503 to POST":     {unavailable, false, http.MethodPost}, // POST is not retried
		"answers 503 over HTTP/2": {unavailable, true, http.MethodGet},
		"hangs":                   {hang, false, http.MethodGet},
		"hangs over HTTP/2":       {hang, true, http.MethodGet},
		"refuses":                 {nil, false, http.MethodGet},
		"refuses over HTTP/2":     {nil, true, http.MethodGet},
	} {
		newOne, scheme := newPod, "http://"
		if tc.secure {
			newOne, scheme = newSecurePod, "https://"
		}
		addresses := []string{strings.TrimPrefix(refusing(t), "http://")}
		if tc.sick != nil {
			addresses[0] = newOne(t, tc.sick).address()
		}
		for range 2 {
			addresses = append(addresses, newOne(t, healthyPod).address())
		}
		front := startTrusting(t, scheme+balancer.New(t, addresses...).Address())
		sets = append(sets, set{name, tc.method, front.URL, tc.secure})
	}
	for _, secure := range []bool{false, true} { // in two rounds, so that a small machine can cope
		var all sync.WaitGroup
		for _, s := range sets {
			if s.secure != secure {
				continue
			}
			all.Go(func() {
				wait.OneOf(t, 2, func() string {
					missed := load(t, s.method, s.url, callers, callers*40*time.Millisecond, 5*time.Second).missed(0.97, 2)
					if missed != "" {
						missed = s.name + ": " + missed
					}
					return missed
				})
			})
		}
		all.Wait()
	}
}

// New pods behind a name get calls while the load goes on.
func TestNewPodsServeUnderLoad(t *testing.T) {
	t.Parallel()
	for _, callers := range []int{1, 20} {
		t.Run(fmt.Sprintf("%d callers", callers), func(t *testing.T) {
			var pods []*pod
			var addresses []string
			for range 6 {
				pods = append(pods, newPod(t, healthyPod))
				addresses = append(addresses, pods[len(pods)-1].address())
			}
			b := balancer.New(t, addresses[:3]...)
			c := patient(gateway.ForUpstream("http://" + b.Address()))
			p := c.Policies[gateway.DefaultPolicyName]
			p.Concurrency.Max = -1 // otherwise a busy machine may have a call refused
			c.Policies[gateway.DefaultPolicyName] = p
			front := start(t, c)
			pace := time.Duration(callers) * 10 * time.Millisecond
			load(t, http.MethodGet, front.URL, callers, pace, time.Second)
			b.SetBackends(addresses...)
			scaled := time.Now()
			for slices.Contains(served(pods), 0) && time.Since(scaled) < 10*time.Second {
				if calls := load(t, http.MethodGet, front.URL, callers, pace, time.Second); len(calls.failed) > 0 {
					t.Errorf("got %q, want all calls good", calls.failed)
				}
			}
			if slices.Contains(served(pods), 0) {
				t.Errorf("10 s after three pods were added, the pods had served %v calls, want at least 1 each", served(pods))
			}
			t.Logf("the pods served %v calls in %v", served(pods), time.Since(scaled))
		})
	}
}

func served(pods []*pod) (n []int64) {
	for _, p := range pods {
		n = append(n, p.served.Load())
	}
	return n
}

// A node dies silently, and the kept connections with it. New connections work.
func TestDeadConnectionsOverHTTP1(t *testing.T) {
	t.Parallel()
	keep := 200
	if testing.Short() {
		keep = 100 // the race detector is too slow for more at once
	}
	wait.OneOf(t, 5, func() string {
		b := balancer.New(t, newPod(t, healthyPod).address())
		front := start(t, gateway.ForUpstream("http://"+b.Address()))
		if failed := callAtOnce(t, b, front.URL, keep); failed > 0 { // on a busy machine
			return fmt.Sprintf("%d of %d concurrent calls failed", failed, keep)
		}
		if n := b.Silence(); n < keep {
			t.Fatalf("%d connections were kept, want %d", n, keep)
		}
		return load(t, http.MethodGet, front.URL, 10, 500*time.Millisecond, 8*time.Second).missed(0.95, 6)
	})
}

// A node dies silently and the upstream speaks HTTP/2, so that all calls share few connections.
func TestDeadConnectionOverHTTP2(t *testing.T) {
	t.Parallel()
	wait.OneOf(t, 2, func() string {
		b := balancer.New(t, newSecurePod(t, healthyPod).address())
		front := startTrusting(t, "https://"+b.Address())
		load(t, http.MethodGet, front.URL, 20, 100*time.Millisecond, time.Second)
		before := b.Open()
		if before == 0 || before > 20 {
			t.Fatalf("got %d connections for 20 concurrent calls, want 1 to 20", before)
		}
		b.Silence()
		return load(t, http.MethodGet, front.URL, 10, 500*time.Millisecond, 8*time.Second).missed(0.95, 6)
	})
}

// callAtOnce makes n calls that end only when all are open, so that the gateway keeps n connections
// to b. It returns how many failed.
func callAtOnce(t *testing.T, b *balancer.Balancer, url string, n int) (failed int64) {
	t.Helper()
	client := newClient(t)
	var failures atomic.Int64
	var all sync.WaitGroup
	opened := make(chan struct{})
	for range n {
		all.Go(func() {
			body, end := io.Pipe()
			go func() {
				_, _ = io.WriteString(end, "x")
				<-opened
				_ = end.Close()
			}()
			resp, err := client.Do(request(t, http.MethodPost, url, body))
			if err != nil { // the gateway answered and closed the connection before the upload ended
				t.Log(err)
				failures.Add(1)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				failures.Add(1)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); b.Open() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(opened)
	all.Wait()
	return failures.Load()
}

// earlyReader returns a client that reads an answer which comes before it has sent its upload. The
// one of net/http may see the end of the connection first.
func earlyReader(t *testing.T, address string) *endpoint.Set {
	t.Helper()
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	s := endpoint.New(target, endpoint.Options{Connections: endpoint.DefaultConnections()})
	t.Cleanup(s.Close)
	return s
}

// An upstream rejects an upload before it has read it, and closes the connection. The caller gets
// that answer each time.
func TestUploadRejectedEarly(t *testing.T) {
	up := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
		return false
	})
	front := start(t, patient(gateway.ForUpstream(up)))
	callers := earlyReader(t, front.URL)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				resp, err := callers.RoundTrip(request(t, http.MethodPost, front.URL, strings.NewReader(strings.Repeat("x", 8<<20))))
				if err != nil {
					t.Error(err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "too large" {
					t.Errorf("got status %d, body %q, error %v, want 413 and \"too large\"", resp.StatusCode, body, err)
				}
			}
		})
	}
	all.Wait()
}

// The upstream ignores Expect. The gateway sends the body early enough for an answer in time.
func TestUpstreamIgnoresExpect(t *testing.T) {
	up := rawhttp.Requests(t, func(c net.Conn, r *http.Request, _, _ int) bool {
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != 4 {
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return true
	})
	p := transport.DefaultPolicy()
	p.AttemptTimeout = 800 * time.Millisecond // less than the longest wait for 100 (Continue)
	front := gatewayTo(t, p, all(up))
	wait.OneOf(t, 3, func() string { // a busy machine makes some late
		var failed atomic.Int64
		var posts sync.WaitGroup
		for range 12 {
			posts.Go(func() {
				r := request(t, http.MethodPost, front.URL, strings.NewReader("body"))
				r.Header.Set("Expect", "100-continue")
				if resp, body := do(t, r); resp.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Logf("got status %d, body %s, want 200", resp.StatusCode, body)
				}
			})
		}
		posts.Wait()
		if n := failed.Load(); n > 0 {
			return fmt.Sprintf("%d of 12 posts failed", n)
		}
		return ""
	})
}

// The upstream often closes kept connections, and the POSTs have no idempotency key. Each POST is
// executed at most once, and each one that got 2xx was executed.
func TestPostsWithoutKeyRunAtMostOnce(t *testing.T) {
	posts := int64(20_000)
	if testing.Short() {
		posts = 2_000
	}
	fewFail := posts / 4 // a busy machine delays some for longer than the upstream waits
	var executed sync.Map
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		n, _ := executed.LoadOrStore(string(b), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		w.WriteHeader(http.StatusCreated)
	}))
	up.Config.IdleTimeout = 30 * time.Millisecond
	up.Start()
	t.Cleanup(up.Close)
	c := gateway.ForUpstream(up.URL)
	p := c.Policies[gateway.DefaultPolicyName]
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0 // on a busy machine, a dozen may fail in a row
	c.Policies[gateway.DefaultPolicyName] = p
	g, err := gateway.New(c, gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	var next, lost, failed, twice atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for n := next.Add(1); n <= posts; n = next.Add(1) {
				id := strconv.FormatInt(n, 10)
				w := httptest.NewRecorder()
				g.ServeHTTP(w, request(t, http.MethodPost, "http://gateway.test/orders", strings.NewReader(id)))
				times := int64(0)
				if n, ok := executed.Load(id); ok {
					times = n.(*atomic.Int64).Load()
				}
				switch {
				case times > 1:
					twice.Add(1)
				case w.Code != http.StatusCreated:
					failed.Add(1)
				case times != 1:
					lost.Add(1)
				}
				if n%50 == 0 {
					time.Sleep(time.Duration(29+n%3) * time.Millisecond) // close to the upstream's idle timeout
				}
			}
		})
	}
	all.Wait()
	if twice.Load() > 0 || lost.Load() > 0 || failed.Load() > fewFail {
		t.Errorf("of %d posts %d were executed twice, %d got 201 but were not executed, %d failed, want 0, 0 and at most %d", posts, twice.Load(), lost.Load(), failed.Load(), fewFail)
	}
	t.Logf("%d of %d posts failed", failed.Load(), posts)
}

// After an outage two of three pods are healthy again. The third must not keep the circuit open,
// although one probe in three reaches it.
func TestOneBadPodAfterOutage(t *testing.T) {
	wait.OneOf(t, 2, func() string {
		var sick [3]atomic.Bool
		addresses := make([]string, len(sick))
		for i := range sick {
			sick[i].Store(true)
			addresses[i] = newPod(t, func(w http.ResponseWriter, r *http.Request) {
				if sick[i].Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				healthyPod(w, r)
			}).address()
		}
		s := startTrusting(t, "http://"+balancer.New(t, addresses...).Address())
		const outage = 2
		time.AfterFunc(outage*time.Second, func() { sick[0].Store(false); sick[1].Store(false) })
		return load(t, http.MethodGet, s.URL, 20, 50*time.Millisecond, (outage+6)*time.Second).missed(0.97, outage+3)
	})
}
