//go:build unix

package connpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// together is a server that answers requests when as many are under way as were sent together.
type together struct {
	url    *url.URL
	pool   *Pool
	opened atomic.Int64
}

func newTogether(t *testing.T, maxAge time.Duration) *together {
	t.Helper()
	var mu sync.Mutex
	here, all := 0, make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		mine := all
		if here++; strconv.Itoa(here) == r.Header.Get("Together") {
			close(all)
			here, all = 0, make(chan struct{})
		}
		mu.Unlock()
		<-mine
	}))
	g := &together{}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			g.opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	g.url = u
	g.pool = New(u, Options{Limits: Limits{IdleTimeout: time.Minute, MaxAge: maxAge, MaxIdle: 512}})
	t.Cleanup(g.pool.Close)
	return g
}

// send makes one request for each method at the same time.
func (g *together) send(t *testing.T, methods ...string) {
	t.Helper()
	var all sync.WaitGroup
	for _, method := range methods {
		all.Go(func() {
			var body io.Reader
			if method == http.MethodPost {
				body = strings.NewReader("body")
			}
			req, err := http.NewRequestWithContext(t.Context(), method, g.url.String(), body)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Together", strconv.Itoa(len(methods)))
			resp, err := g.pool.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
	}
	all.Wait()
}

// idleDirect returns how many idle connections are direct ones.
func (g *together) idleDirect() (n int) {
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	for _, c := range g.pool.idle {
		if c.isDirect() {
			n++
		}
	}
	return n
}

// A burst of requests with a body turns the direct connections into net/http's. Later requests used
// those: without a maximum age for ever, and otherwise until each was replaced by chance.
func TestDirectConnectionsComeBack(t *testing.T) {
	const n = 6
	gets, posts := slices.Repeat([]string{http.MethodGet}, n), slices.Repeat([]string{http.MethodPost}, n)
	for name, maxAge := range map[string]time.Duration{"with a maximum age": time.Hour, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wait.OneOf(t, 3, func() string { // net/http closes a connection that is not done 50 ms after its answer
				g := newTogether(t, maxAge)
				g.send(t, gets...)
				g.send(t, posts...)
				before := g.opened.Load()
				begun := time.Now()
				wait.Until(t, 90*time.Second, "direct connections for all requests", func() bool {
					g.send(t, gets...)
					return g.idleDirect() >= n
				})
				if dials := g.opened.Load() - before; dials > n+3 || dials > int64(time.Since(begun)/renewEvery)+1 {
					return fmt.Sprintf("%d dials in %v, want about one for each of %d connections, and one each %v", dials, time.Since(begun), n, renewEvery)
				}
				return ""
			})
		})
	}
}

// Requests of both kinds in turns end up with a connection each, and not with a new one each time.
func TestKindsInTurnsDoNotDial(t *testing.T) {
	wait.OneOf(t, 3, func() string { // as above
		g := newTogether(t, 0)
		begun := time.Now()
		wait.Until(t, 30*time.Second, "five renewals' time", func() bool {
			g.send(t, http.MethodPost)
			g.send(t, http.MethodGet)
			return time.Since(begun) > 5*renewEvery
		})
		if n := g.opened.Load(); n != 2 {
			return fmt.Sprintf("got %d connections, want one of each kind", n)
		}
		return ""
	})
}

// later makes everything in the pool older by d, when no dial is under way.
func (g *together) later(t *testing.T, d time.Duration) {
	t.Helper()
	p := g.pool
	wait.Until(t, 20*time.Second, "the end of the dials", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.dials) == 0
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range []*time.Time{&p.lastRenewal, &p.lastWrong, &p.lastUnused, &p.lastFailure} {
		*at = at.Add(-d)
	}
	for _, c := range p.idle {
		c.born, c.idleSince = c.born.Add(-d), c.idleSince.Add(-d)
	}
}

// Without a maximum age, the pool used to grow. After a burst of requests without a body, one with
// a body took a connection of theirs, because its own was not among the last ones.
func TestKindsInBurstsDoNotGrowThePool(t *testing.T) {
	const n, bursts = 20, 40
	gets := slices.Repeat([]string{http.MethodGet}, n)
	wait.OneOf(t, 3, func() string { // as above
		g := newTogether(t, 0)
		for range bursts {
			g.send(t, gets...)
			g.send(t, http.MethodPost)
			g.later(t, time.Second)
		}
		if got := g.opened.Load(); got > n+2 {
			return fmt.Sprintf("got %d connections after %d bursts, want %d and one for the requests with a body", got, bursts, n)
		}
		return ""
	})
}

// Without a maximum age, a request that came every 3 s beside those with a body opened a connection
// each time, which was closed before the next one came.
func TestRareRequestsDoNotDialEachTime(t *testing.T) {
	const times = 15
	wait.OneOf(t, 3, func() string { // as above
		g := newTogether(t, 0)
		for range times {
			g.send(t, http.MethodPost)
			g.send(t, http.MethodGet)
			g.later(t, 3*time.Second)
		}
		if got := g.opened.Load(); got > 2 {
			return fmt.Sprintf("got %d connections in the time of %d requests, want one and one that was closed unused", got, times)
		}
		return ""
	})
}

// Whoever is told about informational answers may block, as a proxy whose caller does not read.
// That used to hold up the request beyond its context's end.
func TestInformationalAnswerThatIsNotTaken(t *testing.T) {
	over := make(chan struct{})
	target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		<-over
		return false
	})
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := New(u, Options{Limits: Limits{IdleTimeout: time.Minute, MaxIdle: 1}})
	defer p.Close()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	told := make(chan struct{})
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		close(told)
		<-over
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := p.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	<-told
	cancel(cause)
	select {
	case err = <-failed:
	case <-time.After(10 * time.Second):
		err = errors.New("none in 10 s")
	}
	close(over)
	if !errors.Is(err, cause) {
		t.Errorf("got error %v, want %v", err, cause)
	}
}

// An upstream may answer a header that is too long for it, and read no more of it. The request used
// to wait for its timeout.
func TestEarlyAnswerToALongHeader(t *testing.T) {
	l := rawhttp.Listen(t)
	rawhttp.Serve(t, l, func(c net.Conn) {
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		_, _ = c.Read(make([]byte, 1))
		_, _ = io.WriteString(c, "HTTP/1.1 431 Too Long\r\nContent-Length: 0\r\n\r\n")
		<-t.Context().Done()
	})
	target := "http://" + l.Addr().String()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := New(u, Options{Limits: Limits{IdleTimeout: time.Minute, MaxIdle: 1}})
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Long", strings.Repeat("x", 32<<20))
	resp, err := p.RoundTrip(req)
	if err != nil {
		t.Fatalf("got error %v, want 431", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got status %d, want 431", resp.StatusCode)
	}
}

// looked is a connection that counts looks, and those with the pool's mutex held.
type looked struct {
	pool         *Pool
	looks, locks *int
	err          error
}

func (l looked) Err() error {
	*l.looks++
	if l.pool.mu.TryLock() {
		l.pool.mu.Unlock()
	} else {
		*l.locks++
	}
	return l.err
}
func (looked) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.ErrUnsupported }
func (looked) Available() int                                  { return 1 }
func (looked) Reserve() error                                  { return nil }
func (looked) Release()                                        {}
func (looked) Close() error                                    { return nil }

// Looking at a connection takes a system call. Requests used to wait for the looks of others, and
// once a second for one at each idle connection.
func TestLooksDoNotHoldUpRequests(t *testing.T) {
	const n = 1000
	p := New(&url.URL{Scheme: "http", Host: "127.0.0.1"}, Options{Limits: Limits{IdleTimeout: time.Minute, MaxIdle: n}})
	defer p.Close() // stops the timer
	looks, locks := 0, 0
	now := time.Now()
	p.mu.Lock()
	p.reaping, p.reaper = true, time.AfterFunc(time.Hour, func() {}) // no timer looks beside this test
	for i := range n {
		c := looked{pool: p, looks: &looks, locks: &locks}
		if i%2 == 0 {
			c.err = errDirectClosed
		}
		p.keep(&conn{client: c, wire: &wire{}, uses: 1}, now)
	}
	p.mu.Unlock()
	if at, more := p.reapSome(0, now.Add(2*lookEvery)); !more || looks == 0 || looks > reapAtOnce || at != looks/2 {
		t.Errorf("%d looks with the mutex held once, to go on at %d, want at most %d, and half of them kept", looks, at, reapAtOnce)
	}
	for at, more := 0, true; more; {
		at, more = p.reapSome(at, now.Add(2*lookEvery))
	}
	if len(p.idle) != n/2 {
		t.Errorf("%d connections are kept, want the %d that work", len(p.idle), n/2)
	}
	p.mu.Lock()
	p.keep(&conn{client: looked{pool: p, looks: &looks, locks: &locks, err: errDirectClosed}, wire: &wire{}, uses: 1}, time.Now())
	p.mu.Unlock()
	looks, locks = 0, 0
	if _, _, err := p.get(t.Context(), true, false, false); err != nil || looks != 2 || locks != 0 {
		t.Errorf("got error %v after %d looks, %d with the mutex held, want the second connection and no such look", err, looks, locks)
	}
}

// What look returns used to be a bare number.
func TestErrorOfALook(t *testing.T) {
	ours, theirs := tcp(t)
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	d := &direct{wire: &wire{Conn: ours}}
	d.looker.use(raw)
	x := &exchange{conn: d, left: 1 << 20, noWait: true}
	read := func() error {
		err := errNothing
		wait.Until(t, 20*time.Second, "the connection's end", func() bool {
			_, err = x.Read(make([]byte, 8))
			return err != errNothing //nolint:errorlint // as it is returned
		})
		return err
	}
	_ = theirs.(*net.TCPConn).SetLinger(0)
	_ = theirs.Close()
	reset := read()
	_ = ours.Close()
	for name, tc := range map[string]struct{ got, want error }{"reset": {reset, syscall.ECONNRESET}, "closed": {read(), net.ErrClosed}} {
		var op *net.OpError
		if !errors.As(tc.got, &op) || op.Op != "read" || op.Net != "tcp" || op.Source == nil || op.Addr == nil || !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: got %v, want a *net.OpError with both addresses and %v", name, tc.got, tc.want)
		}
	}
}
