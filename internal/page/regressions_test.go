package page_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// More than 256 transitions between two gatherings used to lose the newest ones silently.
func TestTransitionsThatDoNotFitAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		first := p.mustNext(t)
		for i := range 300 {
			w.Transition("default", resilience.Transition{Upstream: fmt.Sprintf("http://u%d", i), From: resilience.Closed, To: resilience.Open, At: time.Now()})
		}
		check := func(e event) {
			t.Helper()
			if n := len(e.Transitions); n != 256 || e.TransitionsMissed != 44 || e.Transitions[0].Upstream != "http://u44" || e.Transitions[n-1].Upstream != "http://u299" {
				t.Errorf("got %d transitions and %d missed, from %+v to %+v, want 256 and 44, from u44 to u299", n, e.TransitionsMissed, e.Transitions[0], e.Transitions[n-1])
			}
		}
		check(p.mustNext(t))
		check(w.open(t, first.id).mustNext(t))
		if e := w.open(t, "").mustNext(t); e.TransitionsMissed != 0 || len(e.Transitions) != 256 {
			t.Errorf("a new page: got %d transitions and %d missed, want 256 and 0", len(e.Transitions), e.TransitionsMissed)
		}
	})
}

// More than a thousand good calls before the next gathering used to push out failed ones.
func TestGoodCallsDoNotPushOutFailingOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		for range 5 {
			w.Record(call(resilience.StatusReason(503)))
		}
		for range 5000 {
			w.Record(call(resilience.ReasonOK))
		}
		time.Sleep(time.Second)
		var answer struct{ Calls []shownCall }
		w.get(t, "/api/calls?reason=max_attempts", &answer)
		if len(answer.Calls) != 5 {
			t.Errorf("kept failed calls = %d, want 5", len(answer.Calls))
		}
	})
}

// An attempt whose body failed used to count as good.
func TestFailedBodiesAreNotGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		c := call(resilience.StatusReason(503), resilience.ReasonOK)
		c.Report.Reason = resilience.ReasonBodyFailed
		w.Record(c)
		time.Sleep(time.Second)
		var answer struct {
			Attempts []struct {
				Good   bool
				Reason string
			}
		}
		w.get(t, "/api/calls/1", &answer)
		if a := answer.Attempts; len(a) != 2 || a[0].Reason != "status_503" || a[1].Good || a[1].Reason != "body_failed" {
			t.Errorf("attempts = %+v, want status_503 and body_failed, both not good", a)
		}
	})
}

// A quantile used to be wrong by a quarter of its value, and by more beyond the histogram's end.
func TestQuantilesAreNear(t *testing.T) {
	for _, tc := range []struct{ took, shown time.Duration }{
		{65600 * time.Microsecond, 0}, {1049 * time.Millisecond, 0}, {time.Microsecond, 0}, {99 * time.Second, 0},
		{0, time.Microsecond}, {-time.Second, time.Microsecond}, {time.Hour, 134 * time.Second},
	} {
		t.Run(tc.took.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, page.Options{})
				for range 1000 {
					c := call(resilience.ReasonOK)
					c.Duration = tc.took
					w.Record(c)
				}
				time.Sleep(time.Second)
				want := float64(max(tc.took, 0)) / 1e6
				if tc.shown > 0 {
					want = float64(tc.shown) / 1e6
				}
				s := w.open(t, "").mustNext(t).Series[0].Seconds[0]
				for name, got := range map[string]float64{"50 %": s.P50, "99 %": s.P99} {
					if got < want*0.875-0.001 || got > want*1.125+0.001 {
						t.Errorf("%s: %v ms, want %v", name, got, want)
					}
				}
			})
		})
	}
}

// Upstreams that share the series for all others used to overwrite each other's state, which
// caused five events a second although nothing changed.
func TestManyIdleUpstreamsAreQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{}, func() []live.Upstream {
			list := make([]live.Upstream, 70)
			for i := range list {
				list[i] = live.Upstream{Policy: "default", Upstream: fmt.Sprintf("http://u%d", i), BudgetTokens: float64(i)}
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
				w.Record(c)
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
		w.Record(call(resilience.ReasonOK))
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
						w.Record(c)
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

// Texts of a recorded call used to keep the large strings alive that they are parts of.
func TestCallersDoNotHoldMemory(t *testing.T) {
	l := live.New(live.Options{})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 1100 {
		c := call(resilience.StatusReason(503))
		sent := strings.Repeat("x", 100_000)
		c.Method, c.Host, c.Path, c.RequestID = sent[:4], sent[:10], sent[:20], sent[:10]
		l.Record(c)
	}
	if after := heap(); after > before+5<<20 {
		t.Errorf("1,100 calls hold %d KiB, want at most 5 MiB", (after-before)>>10)
	}
	runtime.KeepAlive(l)
}

// An HTTP/1.0 call without a Host header used to be shown as http:///process.
func TestCallWithoutAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		c := call(resilience.ReasonOK)
		c.Host = ""
		w.Record(c)
		time.Sleep(time.Second)
		var answer struct{ URL string }
		if w.get(t, "/api/calls/1", &answer); answer.URL != "/process" {
			t.Errorf("URL = %q, want /process", answer.URL)
		}
	})
}

// A site whose name resolves to this server (DNS rebinding) used to be served, and could change
// the faults.
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
