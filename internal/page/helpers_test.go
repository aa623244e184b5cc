package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const upstream = "http://flaky-server:5000"

// call returns a call that has just ended, with one attempt for each reason.
func call(reasons ...resilience.Reason) *observe.Call {
	const each, wait = 10 * time.Millisecond, 30 * time.Millisecond
	took := time.Duration(len(reasons))*each + time.Duration(max(0, len(reasons)-1))*wait
	start := time.Now().Add(-took)
	report := &resilience.Report{Upstream: upstream, Start: start, Duration: took, Deadline: start.Add(5 * time.Second), BudgetTokens: 7}
	status := http.StatusServiceUnavailable
	for i, r := range reasons {
		a := resilience.AttemptReport{
			Number: i + 1, Start: start.Add(time.Duration(i) * (each + wait)), Duration: each, Limit: time.Second, Reason: r,
			Verdict: resilience.VerdictRetry, Status: http.StatusServiceUnavailable,
			Wait: resilience.Wait{Source: resilience.WaitJitter, Reason: r, Planned: wait, Actual: wait},
		}
		if i == len(reasons)-1 {
			a.Verdict, a.Wait = resilience.VerdictGiveUp, resilience.Wait{}
			report.Reason = resilience.ReasonMaxAttempts
		}
		if r == resilience.ReasonOK {
			a.Status, a.Verdict, status, report.Reason = http.StatusOK, resilience.VerdictReturn, http.StatusOK, r
		}
		report.Attempts = append(report.Attempts, a)
	}
	if len(reasons) == 0 {
		report.Reason = resilience.ReasonBreakerOpen
	}
	return &observe.Call{
		Route: "process", Policy: "default", Upstream: upstream, Method: "GET", Scheme: "http", Host: "localhost:8080", Path: "/process",
		Status: status, RequestID: "r-1", Start: start, Duration: took, Report: report,
	}
}

// shownCall is the part of a call that the tests read.
type shownCall struct {
	ID       uint64
	Attempts []struct{ Reason, Verdict string }
}

// event is the part of an event that the tests read.
type event struct {
	id    string
	Reset bool
	Now   float64
	Total uint64
	Calls []shownCall

	Missed        uint64
	FaultsVersion uint64
	Series        []struct {
		Policy, Upstream string
		Window           struct{ Offered, Good, Attempts, AttemptsGood, AttemptsNeutral, Refused uint32 }
		Circuit          *struct {
			State   string
			ProbeAt float64
		}
		Seconds []second
	}
	Transitions []struct {
		Policy, Upstream, From, To string
		Failures                   int
	}
	TransitionsMissed uint64
	FaultMarks        []struct {
		At     float64
		Faults json.RawMessage
		Sick   int
		Seen   bool
	}
	Pages struct {
		Open    int
		Dropped uint64
	}
}

type second struct {
	At                      float64
	Offered, Good, Attempts uint32
	Refused                 map[string]uint32
	P50, P99                float64
	Tokens                  *float64
	State                   string
}

// newPage returns a page of a recorder that does not run.
func newPage(t testing.TB, o page.Options) *page.Page {
	t.Helper()
	p, err := page.New(live.New(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a recorder and its page. They run and are served on a virtual network until the test
// ends.
type world struct {
	*live.Live
	page    *page.Page
	network *pipenet.Network
	http    *http.Client
	end     func() // stops Run
	stop    func() // stops everything
}

// newWorld starts a world. It has circuits if one function for [live.Live.Attach] is given.
func newWorld(t *testing.T, o page.Options, upstreams ...func() []observe.Upstream) *world {
	t.Helper()
	l := live.New()
	if len(upstreams) > 0 {
		l.Attach(upstreams[0])
	}
	p, err := page.New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Live: l, page: p, network: pipenet.New()}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	stop := w.network.Serve(t, "live:80", p.Handler())
	transport := &http.Transport{DialContext: w.network.Dial, DisableKeepAlives: true}
	w.http = &http.Client{Transport: transport}
	w.end = cancel
	w.stop = func() {
		cancel()
		stop()
		running.Wait()
		transport.CloseIdleConnections()
	}
	t.Cleanup(w.stop)
	return w
}

// stream is an open stream of events.
type stream struct {
	lines *bufio.Reader
	close func()
}

func (w *world) open(t *testing.T, lastEventID string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://live:80/api/live", nil)
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := w.http.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("opening a stream: got %v, %v, want status 200", resp, err)
	}
	p := &stream{lines: bufio.NewReaderSize(resp.Body, 1<<20), close: func() { cancel(); _ = resp.Body.Close() }}
	t.Cleanup(p.close)
	return p
}

// next returns the next event and skips comments. It returns an error at the stream's end.
func (p *stream) next() (e event, err error) {
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil {
			return e, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			e.id = value
		case "data":
			return e, json.Unmarshal([]byte(value), &e)
		}
	}
}

func (p *stream) mustNext(t *testing.T) event {
	t.Helper()
	e, err := p.next()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) get(t *testing.T, path string, into any) (status int, body string) {
	t.Helper()
	return send(t, w.page, http.MethodGet, path, "", into)
}

func send(t *testing.T, p *page.Page, method, path, body string, into any, header ...string) (status int, answer string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	p.Handler().ServeHTTP(recorder, r)
	b, _ := io.ReadAll(recorder.Body)
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatalf("%s: %v in %s", path, err, b)
		}
	}
	if recorder.Code >= 400 && recorder.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s: content type of the error = %s, want application/problem+json", method, path, recorder.Header().Get("Content-Type"))
	}
	return recorder.Code, string(b)
}

func ids(calls []shownCall) string {
	text := make([]string, len(calls))
	for i := range calls {
		text[i] = fmt.Sprint(calls[i].ID)
	}
	return strings.Join(text, " ")
}
