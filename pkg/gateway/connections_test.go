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

// newSecurePod speaks HTTP/2 over TLS.
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

// startOver is a gateway in front of one upstream, which trusts the certificate that
// all test servers have.
func startOver(t *testing.T, upstream string) *httptest.Server {
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

// tally counts calls by whether they were answered with 200, in parts of a second.
type tally struct {
	mu          sync.Mutex
	start       time.Time
	good, total []int // by second in which the call began
}

func (c *tally) add(began time.Time, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	second := int(began.Sub(c.start) / time.Second)
	for len(c.total) <= second {
		c.good, c.total = append(c.good, 0), append(c.total, 0)
	}
	c.total[second]++
	if good {
		c.good[second]++
	}
}

// since is the share of good calls among those that began after so many seconds.
func (c *tally) since(seconds int) (ratio float64, told string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	good, total := 0, 0
	for i := seconds; i < len(c.total); i++ {
		good += c.good[i]
		total += c.total[i]
	}
	return float64(good) / float64(max(1, total)), fmt.Sprintf("good %v of %v", c.good, c.total)
}

// load has callers call through the gateway, each at most once in pace, and
// counts.
func load(t *testing.T, method, url string, callers int, pace, length time.Duration) *tally {
	t.Helper()
	c := &tally{start: time.Now()}
	client := caller(t)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for began := time.Now(); began.Sub(c.start) < length; began = time.Now() {
				resp, err := client.Do(request(t, method, url, nil))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				c.add(began, err == nil && resp.StatusCode == http.StatusOK)
				time.Sleep(pace - time.Since(began))
			}
		})
	}
	all.Wait()
	return c
}

// One of three pods behind a name is sick, as behind a ClusterIP: calls find the others.
func TestA1OneBadPodBehindOneName(t *testing.T) {
	t.Parallel()
	type set struct {
		name, method, url string
		callers           int
		calls             *tally
		secure            bool
	}
	var sets []*set
	unavailable := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tc := range map[string]struct {
		sick   http.HandlerFunc // nil refuses
		secure bool             // HTTP/2 over TLS
		method string
	}{
		"answers 503":             {unavailable, false, http.MethodGet},
		"answers 503 to POST":     {unavailable, false, http.MethodPost}, // which nothing repeats
		"answers 503 over HTTP/2": {unavailable, true, http.MethodGet},
		"hangs":                   {hang, false, http.MethodGet},
		"hangs over HTTP/2":       {hang, true, http.MethodGet},
		"refuses":                 {nil, false, http.MethodGet},
		"refuses over HTTP/2":     {nil, true, http.MethodGet},
	} {
		for _, callers := range []int{1, 4, 20} {
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
			front := startOver(t, scheme+balancer.New(t, addresses...).Address())
			sets = append(sets, &set{fmt.Sprintf("%s, %d callers", name, callers), tc.method, front.URL, callers, nil, tc.secure})
		}
	}
	for _, secure := range []bool{false, true} { // not too many at once for a small machine
		var all sync.WaitGroup
		for _, s := range sets {
			if s.secure != secure {
				continue
			}
			all.Go(func() {
				s.calls = load(t, s.method, s.url, s.callers, time.Duration(s.callers)*20*time.Millisecond, 5*time.Second)
			})
		}
		all.Wait()
	}
	for _, s := range sets {
		if ratio, told := s.calls.since(2); ratio < 0.97 {
			t.Errorf("%s: %.1f %% of the calls succeeded from 2 s on, want 97: %s", s.name, 100*ratio, told)
		} else {
			t.Logf("%s: %.1f %%: %s", s.name, 100*ratio, told)
		}
	}
}

// Pods that are added behind a name get their share while there is load.
func TestE1NewPodsServeUnderLoad(t *testing.T) {
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
			front := start(t, gateway.ForUpstream("http://"+b.Address()))
			pace := time.Duration(callers) * 10 * time.Millisecond
			load(t, http.MethodGet, front.URL, callers, pace, time.Second)
			b.SetBackends(addresses...)
			scaled := time.Now()
			for slices.Contains(served(pods), 0) && time.Since(scaled) < 10*time.Second {
				if ratio, told := load(t, http.MethodGet, front.URL, callers, pace, time.Second).since(0); ratio < 1 {
					t.Errorf("not every call succeeded, want all: %s", told)
				}
			}
			if slices.Contains(served(pods), 0) {
				t.Errorf("10 s after the last three pods came, the pods have served %v calls, want every one of them to serve", served(pods))
			}
			t.Logf("served: %v in %v", served(pods), time.Since(scaled))
		})
	}
}

func served(pods []*pod) (n []int64) {
	for _, p := range pods {
		n = append(n, p.served.Load())
	}
	return n
}

// A node dies silently and takes the kept connections with it. New ones work.
func TestB1DeadConnectionsOverHTTP1(t *testing.T) {
	t.Parallel()
	up := newPod(t, healthyPod)
	b := balancer.New(t, up.address())
	front := start(t, gateway.ForUpstream("http://"+b.Address()))
	fill(t, front.URL, 300)
	if n := b.Silence(); n < 300 {
		t.Fatalf("%d connections were kept, want 300", n)
	}
	calls := load(t, http.MethodGet, front.URL, 10, 500*time.Millisecond, 8*time.Second)
	if ratio, told := calls.since(6); ratio < 0.95 {
		t.Errorf("%.1f %% of the calls succeeded from 6 s on, want 95: %s", 100*ratio, told)
	} else {
		t.Log(told)
	}
}

// The same over HTTP/2, where all calls go over one connection.
func TestB2DeadConnectionOverHTTP2(t *testing.T) {
	t.Parallel()
	b := balancer.New(t, newSecurePod(t, healthyPod).address())
	front := startOver(t, "https://"+b.Address())
	load(t, http.MethodGet, front.URL, 20, 100*time.Millisecond, time.Second)
	before := b.Open()
	if before == 0 || before > 20 {
		t.Fatalf("%d connections carry 20 calls at a time, want few", before)
	}
	b.Silence()
	calls := load(t, http.MethodGet, front.URL, 10, 500*time.Millisecond, 8*time.Second)
	if ratio, told := calls.since(6); ratio < 0.95 {
		t.Errorf("%.1f %% of the calls succeeded from 6 s on, want 95: %s", 100*ratio, told)
	} else {
		t.Log(told, before, b.Open())
	}
}

// fill has n calls on their way at a time, so that as many connections are kept.
func fill(t *testing.T, url string, n int) {
	t.Helper()
	client := caller(t)
	var all, sent sync.WaitGroup
	sent.Add(n)
	for range n {
		all.Go(func() {
			body, end := io.Pipe()
			go func() {
				_, _ = io.WriteString(end, "x")
				sent.Done()
				sent.Wait()
				_ = end.Close()
			}()
			resp, err := client.Do(request(t, http.MethodPost, url, body))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("a call got status %d, want 200", resp.StatusCode)
			}
		})
	}
	all.Wait()
}

// An upstream refuses an upload before it has read it, and closes. The caller gets
// that answer, and the circuit stays closed.
func TestA12UploadThatIsRefusedEarly(t *testing.T) {
	up := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")
		return false
	})
	front := start(t, gateway.ForUpstream(up))
	target, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	callers := endpoint.New(target, endpoint.Options{Connections: endpoint.DefaultConnections()}) // which reads what comes early
	defer callers.Close()
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
					t.Errorf("got status %d, body %q, error %v, want 413 and too large", resp.StatusCode, body, err)
				}
			}
		})
	}
	all.Wait()
}

// An upstream that knows nothing of Expect: the body is sent in time for an answer.
func TestA9ExpectThatIsIgnored(t *testing.T) {
	up := rawhttp.Requests(t, func(c net.Conn, r *http.Request, _, _ int) bool {
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != 4 {
			return false
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return true
	})
	p := transport.DefaultPolicy()
	p.AttemptTimeout = 800 * time.Millisecond
	front := gatewayTo(t, p, all(up))
	var posts sync.WaitGroup
	for range 12 {
		posts.Go(func() {
			r := request(t, http.MethodPost, front.URL, strings.NewReader("body"))
			r.Header.Set("Expect", "100-continue")
			if resp, body := do(t, r); resp.StatusCode != http.StatusOK {
				t.Errorf("got status %d, body %s, want 200", resp.StatusCode, body)
			}
		})
	}
	posts.Wait()
}

// An upstream that closes kept connections all the time, and POSTs without a key:
// each is executed once at most, and what was answered with 2xx was executed.
func TestB4PostsWithoutAKey(t *testing.T) {
	posts := 20_000
	if testing.Short() {
		posts = 2_000
	}
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
	g, err := gateway.New(gateway.ForUpstream(up.URL), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	var next, lost, failed, twice atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for n := next.Add(1); n <= int64(posts); n = next.Add(1) {
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
					time.Sleep(time.Duration(29+n%3) * time.Millisecond) // as long as the upstream keeps connections
				}
			}
		})
	}
	all.Wait()
	if twice.Load() > 0 || lost.Load() > 0 || failed.Load() > int64(posts)/20 {
		t.Errorf("of %d: %d executed twice, %d lost behind a 2xx, %d failed, want none twice or lost and at most a twentieth failed", posts, twice.Load(), lost.Load(), failed.Load())
	}
	t.Logf("%d of %d failed", failed.Load(), posts)
}

// After an outage two of three pods are well again. The third must not keep the
// circuit open, though each probe meets it with a chance of one in three.
func TestA1OutageThatLeavesOneBadPod(t *testing.T) {
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
	s := startOver(t, "http://"+balancer.New(t, addresses...).Address())
	const outage = 2
	time.AfterFunc(outage*time.Second, func() { sick[0].Store(false); sick[1].Store(false) })
	calls := load(t, http.MethodGet, s.URL, 20, 50*time.Millisecond, (outage+6)*time.Second)
	if ratio, told := calls.since(outage + 3); ratio < 0.97 {
		t.Errorf("%.1f %% of the calls succeeded from 3 s after the outage on, want at least 97 %%: %s", 100*ratio, told)
	} else {
		t.Log(told)
	}
}
