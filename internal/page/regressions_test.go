package page_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Upstreams that share the series for all others used to overwrite each other's state, which caused
// five events a second although nothing changed.
func TestManyIdleUpstreamsAreQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{}, func() []observe.Upstream {
			list := make([]observe.Upstream, 70)
			for i := range list {
				list[i] = observe.Upstream{Policy: "default", Upstream: fmt.Sprintf("http://u%d", i), BudgetTokens: float64(i)}
			}
			return list
		})
		p := w.open(t, "")
		p.mustNext(t)
		began, events := time.Now(), 0
		for time.Since(began) < 10*time.Second {
			e := p.mustNext(t)
			events++
			for _, s := range e.Series {
				if s.Upstream == "(others)" && len(s.Seconds) > 0 {
					t.Fatalf("seconds of the series for all others = %+v, want none", s.Seconds)
				}
			}
		}
		if events > 12 {
			t.Errorf("got %d events in ten seconds without changes, want at most 12", events)
		}
	})
}

// A page on a slow connection used to be dropped while it read its first event, again and again.
func TestSlowLineGetsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		for range 200 {
			for i := range 64 {
				c := call(resilience.StatusReason(503), resilience.ReasonOK)
				c.Upstream = fmt.Sprintf("http://upstream-%d", i)
				w.ObserveCall(context.Background(), *c)
			}
			time.Sleep(time.Second)
		}
		p := w.open(t, "")
		p.lines = bufio.NewReaderSize(slow{p.lines, 100 << 10}, 1<<10)
		began := time.Now()
		first := p.mustNext(t)
		if took := time.Since(began); took < 6*time.Second {
			t.Fatalf("the first event took %v, want at least 6s", took)
		}
		w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		e := p.mustNext(t)
		for e.Total == first.Total {
			e = p.mustNext(t)
		}
		if e.Reset || e.Total != first.Total+1 || e.Pages.Dropped != 0 {
			t.Errorf("second event: reset %v, total %d after %d, pages %+v, want one more call and no dropped page", e.Reset, e.Total, first.Total, e.Pages)
		}
	})
}

// slow limits reading to a number of bytes a second.
type slow struct {
	io.Reader
	perSecond int
}

func (s slow) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p[:min(len(p), 1<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.perSecond))
	return n, err
}

// A client that sends half a body, or does not read an answer, used to hold a goroutine and its
// memory forever.
func TestStalledClientsAreCutOff(t *testing.T) {
	for name, tc := range map[string]struct {
		request string
		within  time.Duration
		answer  string
	}{
		"half a body":        {"PUT /api/faults HTTP/1.1\r\nHost: live\r\nContent-Length: 100\r\n\r\n{", 11 * time.Second, "HTTP/1.1 408"},
		"an answer not read": {"GET /api/calls?limit=1024 HTTP/1.1\r\nHost: live\r\n\r\n", 31 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, page.Options{Faults: "http://127.0.0.1:1"})
				for range 100 {
					for range 10 {
						c := call(resilience.StatusReason(503), resilience.ReasonOK)
						c.Path = "/" + strings.Repeat("x", 500)
						w.ObserveCall(context.Background(), *c)
					}
					time.Sleep(200 * time.Millisecond)
				}
				conn, err := w.network.Dial(t.Context(), "tcp", "live:80")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, tc.request); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.within)
				synctest.Wait()
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				answer, err := io.ReadAll(conn)
				if err != nil || !strings.HasPrefix(string(answer), tc.answer) {
					t.Errorf("after %v: got %.100q, %v, want the answer %q and a closed connection", tc.within, answer, err, tc.answer)
				}
			})
		})
	}
}

// Requests to an admin port that hangs used to wait for each other.
func TestFaultsThatHangDoNotQueue(t *testing.T) {
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hangs.Close()
	defer close(release)
	l := newPage(t, page.Options{Faults: hangs.URL})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	for range 6 {
		go func() {
			l.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/faults", nil))
			ended <- struct{}{}
		}()
	}
	for range 6 {
		<-arrived // every request arrives before any is answered
	}
	cancel()
	for range 6 {
		<-ended
	}
}

// A site whose name resolves to this server (DNS rebinding) used to be served, and could change the
// faults.
func TestOtherSitesAreRefused(t *testing.T) {
	url, document := admin(t)
	l := newPage(t, page.Options{Faults: url, Hosts: []string{"rebound.acme.io"}})
	before := *document
	for host, want := range map[string]int{"evil.com:8081": http.StatusForbidden, "localhost:8081": http.StatusOK, "rebound.acme.io": http.StatusOK} {
		for _, path := range []string{"/", "/api/state", "/api/faults"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.Host = host
			w := httptest.NewRecorder()
			l.Handler().ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("%s with host %s: status = %d, want %d", path, host, w.Code, want)
			}
		}
	}
	if *document != before {
		t.Errorf("faults = %s, want them unchanged: %s", *document, before)
	}
}
