package page_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	isLive = `document.getElementById("connection").innerText === "Live"`
	// refusesSome is an expression: whether calls of the last ten seconds were refused. Whether the
	// limit or the circuit does it in an overload differs by machine.
	refusesSome = `/[1-9][\d,]* refused/.test(document.getElementById("success-note").innerText)`

	attempts = `[...document.querySelectorAll("[data-bar=attempt]")]`
	waits    = `[...document.querySelectorAll("[data-bar=wait]")]`
)

// Using every control of the page causes no error in the console and no request to another host.
func TestNoComplaintsAndNoRequestsElsewhere(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20", "--traces", "http://localhost:16686")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length > 5`)
	for _, press := range []string{"Slow", "Overload", "Healthy", "50", "Without", "With policy", "Pause", "Resume", "Follow the newest", "Reset"} {
		v.press(press)
	}
	v.filter("ok")
	complaints, requests := v.heard()
	if len(complaints) > 0 {
		t.Errorf("console = %q, want no errors", complaints)
	}
	own, err := url.Parse(d.page)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range requests {
		if u, err := url.Parse(r); err != nil || u.Host != own.Host {
			t.Errorf("got a request for %s, want only the host %s", r, own.Host)
		}
	}
	if len(requests) < 8 {
		t.Errorf("requests = %q, want at least 8", requests)
	}
}

// A call that succeeds at the third attempt has three bars and two waits. Their widths match the
// report.
func TestWaterfallOfACall(t *testing.T) {
	t.Parallel()
	d := start(t)
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && !document.getElementById("call-empty").hidden`)
	ask(t, http.MethodPut, d.faults, "{failFirst: 2, latency: {distribution: fixed, value: 40ms}}")
	ask(t, http.MethodGet, d.client+"/process", "")
	took := v.until(attempts + `.length === 3 && ` + waits + `.length === 2`)
	t.Logf("shown %v after the call ended", took)

	type attempt struct {
		Start, Duration float64
		Wait            *struct{ Planned, Actual float64 }
	}
	report := decode[struct {
		Calls []struct {
			Duration float64
			Attempts []attempt
		}
	}](t, ask(t, http.MethodGet, d.page+"api/calls", "")).Calls[0]
	type bar struct{ Left, Width float64 }
	measure := `.map((e) => ({left: e.getBoundingClientRect().left - e.parentElement.getBoundingClientRect().left, width: e.getBoundingClientRect().width}))`
	bars, gaps := eval[[]bar](v, attempts+measure), eval[[]bar](v, waits+measure)
	// All bars have the same scale, in pixels per millisecond.
	last := report.Attempts[2]
	scale := bars[2].Left / last.Start
	near := func(what string, got, ms float64) {
		t.Helper()
		if want := ms * scale; math.Abs(got-want) > 1.5 {
			t.Errorf("%s = %.1f px, want %.1f for %.1f ms", what, got, want, ms)
		}
	}
	for i, a := range report.Attempts {
		near(fmt.Sprint("the begin of attempt ", i+1), bars[i].Left, a.Start)
		near(fmt.Sprint("the width of attempt ", i+1), bars[i].Width, a.Duration)
		if i < 2 {
			near(fmt.Sprint("the begin of wait ", i+1), gaps[i].Left, a.Start+a.Duration)
			near(fmt.Sprint("the width of wait ", i+1), gaps[i].Width, a.Wait.Actual)
		}
	}
	body := v.text("call-body")
	for _, want := range []string{"Answered 200 after 3 attempts", "2 waits", "status 503", "retry", "returned", "jitter", "planned", "deadline 5 s", "curl -i " + d.client} {
		if !strings.Contains(body, want) {
			t.Errorf("got %s\nwant %q in it", body, want)
		}
	}
	if raw := eval[string](v, `document.getElementById("call-json").textContent`); !json.Valid([]byte(raw)) || !strings.Contains(raw, `"failed"`) && !strings.Contains(raw, `"status_503"`) {
		t.Errorf("raw JSON = %s, want that of the call", raw)
	}
}

// The button "Outage" opens the circuit, and "Healthy" closes it. The timeline shows both.
func TestOutageAndRecovery(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	v := visit(t, d.page, 1440, false)
	state := func(word string) string {
		return fmt.Sprintf(`document.getElementById("breaker-state").innerText === %q`, word)
	}
	v.until(state("Closed"))
	v.press("Outage")
	v.until(state("Open") + ` && document.getElementById("breaker-note").innerText.startsWith("next probe")`)
	// A call was refused before the API is asked for one.
	v.until(`/^Outage( for \d+ s)?\. The circuit is open: [1-9]/.test(document.getElementById("summary").innerText)`)
	v.until(`document.querySelector("rect[data-state=open]") && /Closed → open\s+\d+ failures in a row/.test(document.getElementById("transitions").innerText)`)
	if list := ask(t, http.MethodGet, d.page+"api/calls?limit=1&reason=breaker_open", ""); !strings.Contains(list, `"breaker_open"`) {
		t.Errorf("calls = %s, want one with breaker_open", list)
	}
	v.press("Healthy")
	v.until(state("Closed"))
	v.until(`/Half-open → closed\s+3 probes succeeded/.test(document.getElementById("transitions").innerText)`)
	// The page compares traffic with and without the policy.
	v.until(`document.getElementById("with-success").innerText.endsWith("%") && document.getElementById("without-success").innerText.endsWith("%")`)
}

// After a thousand calls the page, the API, /metrics and flaky-server's ledger have the same
// figures.
func TestFiguresAgree(t *testing.T) {
	t.Parallel()
	d := start(t, "--seed", "30", "--error-rate", "0.2")
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	const calls, together, tries = 1000, 20, 3
	well := 0
	burst := func() {
		var callers sync.WaitGroup
		var answered [together]int // with 200
		for i := range together {
			callers.Go(func() {
				for range calls / together {
					r, err := http.Get(d.client + "/process")
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					_ = r.Body.Close()
					if r.StatusCode == http.StatusOK {
						answered[i]++
					}
				}
			})
		}
		callers.Wait()
		for _, n := range answered {
			well += n
		}
	}
	made := 0
	more := func() {
		burst()
		made += calls
		v.until(fmt.Sprintf(`document.getElementById("foot").innerText.startsWith("%s calls")`, grouped(made)))
	}
	more()

	type figures struct {
		Offered, Good, Attempts, AttemptsGood, AttemptsNeutral, Refused int

		Seconds, P50, P99 float64
	}
	type state struct {
		Calls  int
		Series []struct {
			Totals, Window figures
			Circuit        struct{ BudgetTokens, BudgetBurst float64 }
		}
	}
	api := func() state { return decode[state](t, ask(t, http.MethodGet, d.page+"api/state", "")) }
	percent := func(part, whole int) string {
		return strings.Replace(fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole)), "100.0", "100", 1)
	}
	// The page's figures are current ones. Read the API until both are of the same moment. Ten
	// seconds after the calls they are empty, and there must be new ones.
	var differ []string
	for ; ; time.Sleep(20 * time.Millisecond) {
		drawn := eval[map[string]string](v, `Object.fromEntries([...document.querySelectorAll(".now [id]")].map((e) => [e.id, e.textContent]))`)
		s := api().Series[0]
		w := s.Window
		if w.Offered == 0 {
			if made == tries*calls {
				t.Fatalf("page and API differ: %q", differ)
			}
			more()
			continue
		}
		differ = nil
		for id, want := range map[string]string{
			"success-callers": percent(w.Good, w.Offered), "success-upstream": percent(w.AttemptsGood, w.Attempts-w.AttemptsNeutral),
			"success-note":  fmt.Sprintf("%s calls, %s attempts, %s refused", grouped(w.Offered), grouped(w.Attempts), grouped(w.Refused)),
			"amplification": fmt.Sprintf("×%.2f", float64(w.Attempts)/float64(w.Offered)),
			"tokens":        fmt.Sprintf("%.1f", s.Circuit.BudgetTokens), "tokens-note": fmt.Sprintf("of %v tokens for retries", s.Circuit.BudgetBurst),
		} {
			if drawn[id] != want {
				differ = append(differ, fmt.Sprintf("%s is %q, want %q", id, drawn[id], want))
			}
		}
		for id, want := range map[string]float64{"p50": w.P50, "p99": w.P99} {
			if got := inMillis(t, drawn[id]); math.Abs(got-want) > want/50 {
				differ = append(differ, fmt.Sprintf("%s is %q, want %.2f ms", id, drawn[id], want))
			}
		}
		if goodput, offered := number(t, drawn["goodput"]), number(t, strings.Fields(drawn["goodput-note"])[1]); math.Abs(goodput/offered-float64(w.Good)/float64(w.Offered)) > 0.02 {
			differ = append(differ, fmt.Sprintf("the goodput is %s %s, want %d of %d", drawn["goodput"], drawn["goodput-note"], w.Good, w.Offered))
		}
		if len(differ) == 0 {
			break
		}
	}

	received := decode[struct{ Received int }](t, ask(t, http.MethodGet, strings.Replace(d.faults, "/faults", "/ledger", 1), "")).Received
	text := ask(t, http.MethodGet, d.page+"metrics", "")
	sum := func(metric, labels string) (n int) {
		for _, m := range regexp.MustCompile(`(?m)^`+metric+`{[^}]*`+labels+`[^}]*} (\d+)`).FindAllStringSubmatch(text, -1) {
			one, _ := strconv.Atoi(m[1])
			n += one
		}
		return n
	}
	s := api()
	totals := s.Series[0].Totals
	for what, got := range map[string][]int{
		"calls":    {made, s.Calls, totals.Offered, sum("rebound_calls_total", "")},
		"good":     {well, totals.Good, sum("rebound_calls_total", `reason="ok"`)},
		"attempts": {totals.Attempts, sum("rebound_attempts_total", "")},
		"well":     {totals.AttemptsGood, sum("rebound_attempts_total", `reason="ok"`)},
	} {
		for _, n := range got[1:] {
			if n != got[0] {
				t.Errorf("%s = %d by the callers, the API and /metrics, want equal numbers", what, got)
				break
			}
		}
	}
	// An attempt with an answer has arrived. On a busy machine one can be given up before it does.
	if answered := sum("rebound_attempts_total", `reason="(?:ok|status_\d+)"`); received < answered || received > totals.Attempts {
		t.Errorf("flaky-server received %d attempts, want at least the %d that were answered and at most all %d", received, answered, totals.Attempts)
	}
}

// grouped formats a count as the page does.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// Setting the seed on the page sets flaky-server's.
func TestSeed(t *testing.T) {
	t.Parallel()
	d := start(t, "--seed", "30")
	v := visit(t, d.page, 1440, false)
	v.until(`document.getElementById("seed").value === "30"`)
	v.typeSeed("18446744073709551615")
	v.press("Set")
	v.until(`document.getElementById("seed-note").innerText.startsWith("set")`)
	r, err := http.Get(d.faults)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if got := r.Header.Get("Rebound-Seed"); got != "18446744073709551615" {
		t.Errorf("seed = %s, want 18446744073709551615", got)
	}
	v.press("Reset")
	v.until(`document.getElementById("seed").value === "30"`)
}

// typeSeed does what typing does. Without the event the page would soon write the server's seed
// over the value.
func (v *tab) typeSeed(seed string) {
	v.t.Helper()
	_ = eval[bool](v, fmt.Sprintf(`(() => { const e = document.getElementById("seed"); e.value = %q; return e.dispatchEvent(new Event("input")); })()`, seed))
}

// switchable is a TCP proxy. While off it closes all connections. While held it keeps them open and
// passes nothing back.
type switchable struct {
	listener net.Listener

	mu    sync.Mutex
	to    string
	off   bool
	held  bool
	conns []net.Conn
	dead  []net.Conn // still open, but passing nothing
	// streams are the connections on which an event stream was asked for, at both ends.
	streams map[net.Conn]bool
}

func newSwitchable(t *testing.T, to string) *switchable {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &switchable{listener: l, to: to, streams: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); s.set(true, false) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.pass(c)
		}
	}()
	return s
}

// visitThrough opens the page through a switchable.
func visitThrough(t *testing.T, address string) (*switchable, *tab) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	s := newSwitchable(t, u.Host)
	return s, visit(t, "http://"+s.listener.Addr().String(), 1440, false)
}

func (s *switchable) pass(c net.Conn) {
	s.mu.Lock()
	to := s.to
	s.mu.Unlock()
	up, err := net.Dial("tcp", to)
	s.mu.Lock()
	if err != nil || s.off {
		s.mu.Unlock()
		_ = c.Close()
		return
	}
	s.conns = append(s.conns, c, up)
	s.mu.Unlock()
	go func() {
		_, _ = io.Copy(io.MultiWriter(watcher(func(request []byte) {
			if bytes.HasPrefix(request, []byte("GET /api/live ")) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.streams[c], s.streams[up] = true, true
			}
		}), up), c)
		_ = up.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := up.Read(buffer)
		for {
			s.mu.Lock()
			held := s.held || slices.Contains(s.dead, c)
			s.mu.Unlock()
			if !held {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if _, e := c.Write(buffer[:n]); e != nil || err != nil {
			_ = c.Close()
			return
		}
	}
}

// watcher is a writer that passes what is written to a function.
type watcher func([]byte)

func (w watcher) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func (s *switchable) set(off, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off, s.held = off, held
	if off {
		for _, c := range append(s.conns, s.dead...) {
			_ = c.Close()
		}
		s.conns, s.dead = nil, nil
	}
}

// When its connection is cut, the page shows that, and catches up after it reconnects. Without
// events the page shows that it is stale.
func TestConnectionIsCutAndRestored(t *testing.T) {
	t.Parallel()
	d := start(t)
	between, v := visitThrough(t, d.page)
	call := func(n int) {
		for range n {
			ask(t, http.MethodGet, d.client+"/process", "")
		}
	}
	says := func(word string) string {
		return fmt.Sprintf(`document.getElementById("connection").innerText === %q`, word)
	}
	v.until(isLive)
	call(3)
	v.until(`document.querySelectorAll("#rows tr").length === 3`)
	between.set(true, false)
	v.until(says("Reconnecting") + ` && document.getElementById("connection-for").innerText.includes("old")`)
	call(20)
	between.set(false, false)
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length === 23`)
	if ids := eval[string](v, `[...document.querySelectorAll("#rows button")].map((b) => b.getAttribute("aria-label").split(" ")[2]).join(" ")`); ids != descending(23) {
		t.Errorf("calls in the list = %s, want %s", ids, descending(23))
	}
	v.record("connection")
	v.record("connection-for")
	between.set(false, true)
	v.until(had("connection", "Stale") + ` && ` + had("connection-for", "no news for"))
	between.set(false, false)
	v.until(isLive)
}

func descending(n int) string {
	var all []string
	for i := n; i > 0; i-- {
		all = append(all, strconv.Itoa(i))
	}
	return strings.Join(all, " ")
}

// own serves a recorder that the test fills, for calls that a gateway cannot easily produce.
func own(t *testing.T, o page.Options, upstreams ...func() []observe.Upstream) (*live.Live, string) {
	t.Helper()
	if once.skip != "" {
		t.Skip(once.skip)
	}
	l := live.New()
	if len(upstreams) > 0 {
		l.Attach(upstreams[0])
	}
	p, err := page.New(l, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	s := httptest.NewServer(p.Handler())
	t.Cleanup(func() { cancel(); <-ended; s.Close() })
	return l, s.URL
}

// recorded waits until l has n calls.
func recorded(t *testing.T, l *live.Live, n uint64) {
	t.Helper()
	wait.Until(t, patience, fmt.Sprintf("%d recorded calls", n), func() bool {
		_, total := l.Calls(1, live.Wanted{})
		return total >= n
	})
}

func call(upstream string) *observe.Call {
	start := time.Now().Add(-20 * time.Millisecond)
	return &observe.Call{
		Route: "process", Policy: "default", Upstream: upstream, Method: "GET", Scheme: "http", Host: "localhost", Path: "/process", Status: 200,
		Start: start, Duration: 20 * time.Millisecond,
		Report: &resilience.Report{Start: start, Duration: 20 * time.Millisecond, Deadline: start.Add(time.Second), Reason: resilience.ReasonOK, Attempts: []resilience.AttemptReport{
			{Number: 1, Start: start, Duration: 20 * time.Millisecond, Limit: time.Second, Reason: resilience.ReasonOK, Verdict: resilience.VerdictReturn, Status: 200},
		}},
	}
}

// The page works below a path prefix, because all its addresses are relative.
func TestPathPrefix(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	to, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.StripPrefix("/below", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, ErrorLog: log.New(io.Discard, "", 0),
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	v := visit(t, s.URL+"/below/", 1440, false)
	v.until(isLive)
	l.ObserveCall(t.Context(), *call("http://upstream"))
	v.until(`document.querySelectorAll("#rows tr").length === 1`)
	if complaints, _ := v.heard(); len(complaints) > 0 {
		t.Errorf("console = %q, want no errors", complaints)
	}
}

// Markup in names is shown as text. The name of a single upstream is in the page's header, and
// several are in a selection.
func TestMarkupIsText(t *testing.T) {
	t.Parallel()
	const evil = `<img src=x onerror="window.struck=1"><script>window.struck=1</script>"'&amp;`
	for name, others := range map[string][]observe.Upstream{"the only one": nil, "one of two": {{Upstream: "http://other", Policy: "default"}}} {
		t.Run(name, func(t *testing.T) {
			all := append([]observe.Upstream{{Upstream: evil, Policy: evil, Burst: 10}}, others...)
			l, at := own(t, page.Options{}, func() []observe.Upstream { return all })
			v := visit(t, at, 1440, false)
			c := call(evil)
			c.Policy, c.Route, c.Method, c.Host, c.Path, c.RequestID = evil, evil, evil, evil, evil, evil
			c.Report.Attempts[0].Verdict, c.Report.Attempts[0].Err = resilience.VerdictGiveUp, fmt.Errorf("%s", evil)
			c.Report.Attempts[0].Reason, c.Report.Reason, c.Status = evil, evil, 503
			v.until(isLive)
			l.ObserveCall(t.Context(), *c)
			l.ObserveTransition(observe.Transition{Policy: evil, Transition: resilience.Transition{Upstream: evil, From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 10}})
			v.until(`document.querySelectorAll("#rows tr").length === 1 && document.querySelectorAll("#transitions li").length === 1`)
			head := "series-name"
			if len(others) > 0 {
				head = "series"
			}
			for _, id := range []string{"call-facts", head} {
				if text := eval[string](v, fmt.Sprintf(`document.getElementById(%q).textContent`, id)); !strings.Contains(text, evil) {
					t.Errorf("text of %s = %s, want the name unchanged in it", id, text)
				}
			}
			if n := eval[int](v, `(window.struck ?? 0) + document.querySelectorAll("body img:not(h1 > img), body script").length`); n != 0 {
				t.Error("the browser interpreted the markup, want text")
			}
			if complaints, _ := v.heard(); len(complaints) > 0 {
				t.Errorf("console = %q, want no errors", complaints)
			}
		})
	}
}

// With ten thousand calls between two events, the figures include all of them. The list shows how
// many are missing.
func TestTenThousandCallsBetweenTwoReads(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	v.record("success-note") // it is about the last ten seconds
	for range 10_000 {
		l.ObserveCall(t.Context(), *call("http://upstream"))
	}
	v.until(`document.getElementById("foot").innerText.startsWith("10,000 calls")`)
	listed := eval[int](v, `document.querySelectorAll("#rows tr").length`)
	if note := v.text("rows-note"); listed == 0 || !strings.Contains(note, "came too fast to list") {
		t.Errorf("listed calls = %d with the note %q, want the note to count the others", listed, note)
	}
	v.until(had("success-note", "10,000 calls, 10,000 attempts"))
}

// A browser whose clock is three days ahead shows the same times.
func TestBrowsersClockDiffers(t *testing.T) {
	t.Parallel()
	up := observe.Upstream{Upstream: "http://upstream", Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(time.Minute)}}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{up} })
	v := visit(t, "about:blank", 1440, false)
	v.do(command(cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{
		Source: `const then = Date.now; Date.now = () => then() + 3 * 24 * 3600 * 1000;`,
	}), chromedp.Navigate(at))
	l.ObserveCall(t.Context(), *call("http://upstream"))
	v.until(`document.querySelectorAll("#rows tr").length === 1 && document.querySelector("rect[data-state=open]") !== null`)
	most := time.Until(up.Breaker.ProbeAt).Seconds()
	text := v.text("breaker-note")
	least := time.Until(up.Breaker.ProbeAt).Seconds()
	left, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(text, "next probe in "), " s"), 64)
	if err != nil || left < least-5 || left > most+5 {
		t.Errorf("time to the probe = %q, want about %.1f to %.1f s", text, least, most)
	}
	if complaints, _ := v.heard(); len(complaints) > 0 {
		t.Errorf("console = %q, want no errors", complaints)
	}
}

// A failed change shows an error, and unknown figures are not shown.
func TestFaultsThatCannotBeChanged(t *testing.T) {
	t.Parallel()
	_, at := own(t, page.Options{Faults: "http://127.0.0.1:1", Example: "http://localhost:9000/it's"})
	v := visit(t, at, 768, false)
	v.until(`!document.getElementById("controls").hidden`)
	v.press("Outage")
	v.until(`!document.getElementById("controls-error").hidden && document.getElementById("controls-error").innerText.includes("no valid answer from")`)
	v.until(`!document.querySelector("#scenarios input:checked")`)
	if !strings.Contains(v.text("call-empty"), `curl -i 'http://localhost:9000/it'\''s'`) || !strings.Contains(v.text("summary"), "No calls yet") {
		t.Errorf("got the suggestion %q and the summary %q, want the example quoted for curl and \"No calls yet\"", v.text("call-empty"), v.text("summary"))
	}
}

// Without --faults and without a generator the page has no controls.
func TestNothingToControl(t *testing.T) {
	t.Parallel()
	_, at := own(t, page.Options{})
	v := visit(t, at, 768, false)
	v.until(isLive)
	if eval[bool](v, `document.getElementById("controls").offsetParent !== null`) {
		t.Error("the controls are visible, want them hidden")
	}
	if strings.Contains(v.text("call-empty"), "Try") {
		t.Errorf("without an example the page shows %q, want no suggestion", v.text("call-empty"))
	}
}

// A call picked by mouse or keyboard stays while new calls arrive. The arrow keys move through a
// chart.
func TestPickingACall(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20")
	v := visit(t, d.page, 1440, false)
	v.until(`document.querySelectorAll("#rows tr").length > 3`)
	v.press("Pause")
	id := eval[string](v, `(() => { const b = document.querySelectorAll("#rows button")[2]; b.focus(); return b.getAttribute("aria-label").split(" ")[2]; })()`)
	v.do(chromedp.KeyEvent(kb.Enter))
	v.until(fmt.Sprintf(`document.getElementById("call-facts").innerText.includes("%s at") && document.getElementById("follow").getAttribute("aria-pressed") === "false"`, id))
	v.press("Resume")
	total := eval[string](v, `document.getElementById("foot").innerText`)
	v.until(fmt.Sprintf(`document.getElementById("foot").innerText !== %q`, total))
	if facts := v.text("call-facts"); !strings.Contains(facts, id+" at") {
		t.Errorf("facts = %s, want those of the picked call", facts)
	}
	v.press("Follow the newest")
	v.until(fmt.Sprintf(`!document.getElementById("call-facts").innerText.includes("%s at")`, id))
	_ = eval[bool](v, `document.querySelectorAll("svg.plot")[1].focus() ?? true`)
	v.do(chromedp.KeyEvent(kb.ArrowLeft))
	v.until(`document.getElementById("cursor-time").innerText !== "now" && document.querySelectorAll(".cursor").length >= 3`)
	v.do(chromedp.KeyEvent(kb.Escape))
	v.until(`document.getElementById("cursor-time").innerText === "now"`)
}

// Every element has a name, a role and its place for a screen reader. Texts have enough contrast by
// the formula of WCAG 2, in light and dark mode.
func TestAccessible(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	for _, dark := range []bool{false, true} {
		t.Run(map[bool]string{false: "light", true: "dark"}[dark], func(t *testing.T) {
			v := visit(t, d.page, 1440, dark)
			v.until(`document.querySelectorAll("#rows tr").length > 5`)
			for _, scenario := range []string{"30 % errors", "Outage"} {
				v.press(scenario)
				opened := "true"
				if scenario == "Outage" {
					opened = `document.getElementById("breaker-state").innerText === "Open"`
				}
				v.until(isLive + ` && ` + opened + ` && Boolean(window.mistakes = ` + accessibility + `)`)
				for _, mistake := range eval[[]string](v, `window.mistakes`) {
					t.Errorf("%s: %s", scenario, mistake)
				}
			}
		})
	}
}

// accessibility is a script that returns the accessibility mistakes of the page.
const accessibility = `(() => {
	const found = [];
	const nameOf = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ") ||
		[...(e.labels ?? [])].map((l) => l.textContent).join(" ") || e.textContent || "").trim();
	const seen = (e) => e.checkVisibility({ checkOpacity: false }) && e.getClientRects().length > 0;
	for (const e of document.querySelectorAll("button, select, input, a[href], [tabindex='0'], [role=img], [role=slider], [role=list], [role=region], [role=radiogroup], section")) {
		if (seen(e) && !nameOf(e) && !(e.getAttribute("role") === "radiogroup" && e.closest("fieldset")?.querySelector("legend")) && e.tagName !== "PRE") found.push("no name: " + e.outerHTML.slice(0, 100));
	}
	if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
	if (document.querySelectorAll("main").length !== 1) found.push("not one main");
	if (!document.documentElement.lang || !document.title) found.push("no language or no title");
	let level = 1;
	for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
		const n = Number(h.tagName[1]);
		if (n > level + 1) found.push("a heading leaves out a level: " + h.textContent);
		level = n;
	}
	for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) found.push("no alt: " + e.outerHTML);
	for (const e of document.querySelectorAll("svg")) if (!e.closest("[aria-hidden=true]") && !["img", "slider"].includes(e.getAttribute("role"))) found.push("neither hidden nor an image: " + e.outerHTML.slice(0, 100));
	for (const e of document.querySelectorAll("th")) if (!e.scope) found.push("a heading of a table without scope");
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("twice: " + id);
	for (const e of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) found.push("named by nothing: " + e.outerHTML.slice(0, 80));

	const channel = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
	const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
	const rgba = (text) => { const n = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0]; return n.length === 3 ? [...n, 1] : n; };
	const ground = (e) => {
		for (let x = e; x; x = x.parentElement) { const c = rgba(getComputedStyle(x).backgroundColor); if (c[3] === 1) return c; }
		return [255, 255, 255, 1];
	};
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const told = new Set();
	for (let n = walker.nextNode(); n; n = walker.nextNode()) {
		const e = n.parentElement;
		if (!n.textContent.trim() || !seen(e) || e.closest("noscript, .hidden, .skip, option, title")) continue;
		const style = getComputedStyle(e);
		const color = rgba(e instanceof SVGElement ? style.fill : style.color);
		const [a, b] = [luminance(color), luminance(ground(e))];
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		const what = contrast.toFixed(2) + " to 1 is too little contrast: " + e.className + " " + n.textContent.trim().slice(0, 40);
		if (contrast < 4.5 && !told.has(e.className + "")) { told.add(e.className + ""); found.push(what); }
	}
	return found;
})()`

// From a width of 375 px on, nothing overflows, and new calls do not shift the layout.
func TestLayout(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20")
	for _, width := range []int{320, 375, 768, 1024, 1440, 2200} {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			v := visit(t, d.page, width, false)
			v.until(`document.querySelectorAll("#rows tr").length > 5 && !document.getElementById("call-body").hidden`)
			_ = eval[bool](v, `(() => {
				window.shifted = 0;
				window.lost = 0;
				new MutationObserver(() => { if (document.body.dataset.connection !== "live") window.lost++; }).observe(document.body, { attributeFilter: ["data-connection"] });
				// The list grows at its top, so its rows may move.
				const moved = (e) => e.sources.map((s) => s.node?.nodeType === 1 ? s.node : s.node?.parentElement).filter((n) => n && !n.closest(".scroll"));
				new PerformanceObserver((list) => {
					for (const e of list.getEntries()) if (moved(e).length) { window.shifted += e.value; window.who = moved(e).map((n) => n.outerHTML.slice(0, 80)).join("; "); }
				}).observe({ type: "layout-shift" });
				return true;
			})()`)
			for try := 1; ; try++ {
				before := eval[string](v, `document.getElementById("foot").innerText`)
				v.until(fmt.Sprintf(`parseInt(document.getElementById("foot").innerText.replace(",", "")) > parseInt(%q.replace(",", "")) + 40`, before))
				if eval[int](v, "window.lost") == 0 {
					break
				}
				if try == 3 {
					t.Fatal("the connection was lost for a while, three times")
				}
				// Without news for three seconds the page says so, which moves what is below.
				v.until(isLive + ` && (window.shifted = window.lost = 0, true)`)
			}
			if shift := eval[float64](v, "window.shifted"); shift > 0.1 {
				t.Errorf("the layout shifts by %.3f while calls arrive, want less: %s", shift, eval[string](v, "window.who"))
			}
			for _, e := range eval[[]string](v, `[...document.querySelectorAll("main *")].filter((e) => {
				const r = e.getBoundingClientRect();
				return r.width > 0 && (r.right > innerWidth + 1 || r.left < -1) && !e.closest(".scroll, pre, code, .skip, .hidden, .plot, .wf-track");
			}).map((e) => e.outerHTML.slice(0, 90)).concat(document.documentElement.scrollWidth > innerWidth ? ["the page is wider than the window"] : [])`) {
				t.Errorf("an element overflows the page: %s", e)
			}
			for _, e := range eval[[]string](v, `[...document.querySelectorAll(".tile .big, .choices span, .panel-head > *, .wf-name")].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map((e) => e.textContent.trim().slice(0, 60))`) {
				t.Errorf("a text does not fit its element: %s", e)
			}
		})
	}
}

// In an outage the circuit changes several times a second, and in an overload the sentence has the
// refusals of a limit or not. Nothing moves then.
func TestOutageMovesNothing(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50", "--error-rate", "1")
	for _, width := range []int{375, 768, 1440, 2200} {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			v := visit(t, d.page, width, false)
			v.until(`/half-open|Half-open/.test(document.getElementById("transitions").innerText) && document.getElementById("verdict").innerText.startsWith("No call succeeds")`)
			v.standsStill(`window.states.size > 1`)
		})
	}
	d = start(t, "--traffic", "100")
	ask(t, http.MethodPut, d.faults, "{capacity: {workers: 2, serviceTime: 50ms, queue: 20}}")
	for _, width := range []int{375, 768, 1440, 2200} {
		t.Run("overload, "+strconv.Itoa(width), func(t *testing.T) {
			v := visit(t, d.page, width, false)
			v.until(refusesSome + ` && document.getElementById("summary").innerText.startsWith("Overload")`)
			v.standsStill(`true`)
			if n := eval[int](v, `document.getElementById("summary").textContent.length`); n > 170 {
				t.Errorf("the sentence has %d characters, want at most 170: %s", n, v.text("summary"))
			}
		})
	}
}

// standsStill watches the parts until an expression is true, and two seconds more. A connection
// that is lost for a while moves them.
func (v *tab) standsStill(until string) {
	v.t.Helper()
	_ = eval[bool](v, `(() => {
		window.places = new Map();
		window.states = new Set();
		setInterval(() => {
			if (document.body.dataset.connection !== "live") return;
			places.set(["#charts", "#compare", "#controls"].map((s) => Math.round(document.querySelector(s).getBoundingClientRect().top)).join(" "), document.getElementById("summary").innerText + " / " + document.getElementById("verdict").innerText);
			states.add(document.getElementById("breaker-state").innerText);
		}, 50);
		return true;
	})()`)
	v.until(until)
	time.Sleep(2 * time.Second)
	if places := eval[map[string]string](v, `Object.fromEntries(window.places)`); len(places) != 1 {
		v.t.Errorf("the charts, the comparison and the controls begin at %q, want one place each", places)
	}
}

// The page has no animations. They would cost layout work, and some visitors ask for reduced
// motion.
func TestNothingMovesByItself(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	v := visit(t, d.page, 1440, false)
	v.until(`document.querySelectorAll("#rows tr").length > 5`)
	if moving := eval[[]string](v, `[...document.querySelectorAll("*")].filter((e) => !["0s", ""].includes(getComputedStyle(e).transitionDuration)).map((e) => e.outerHTML.slice(0, 90))`); len(moving) > 0 {
		t.Errorf("elements with transitions = %q, want none", moving)
	}
	if n := eval[int](v, `document.getAnimations().length`); n > 0 {
		t.Errorf("animations = %d, want 0", n)
	}
}
