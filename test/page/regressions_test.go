package page_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// A typed seed used to be overwritten when the field lost the focus, which pressing the button
// causes.
func TestTypedSeedStays(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20")
	v := visit(t, d.page, 1440, false)
	v.until(`document.getElementById("seed").value === "30"`)
	_ = eval[bool](v, `document.getElementById("seed").focus() ?? document.getElementById("seed").select() ?? true`)
	v.do(chromedp.KeyEvent("77"), chromedp.KeyEvent(kb.Tab))
	before := v.text("foot")
	v.until(fmt.Sprintf(`document.getElementById("foot").innerText !== %q && document.getElementById("seed").value === "77"`, before))
	v.press("Set")
	v.until(`document.getElementById("seed-note").innerText.startsWith("set")`)
	r, err := http.Get(d.faults)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if got := r.Header.Get("Rebound-Seed"); got != "77" {
		t.Errorf("seed = %s, want the typed one", got)
	}
}

// Two calls that overlapped used to be shown alternately forever.
func TestNewestCallStays(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	short, long := call("http://upstream"), call("http://upstream")
	short.Start = time.Now().Add(-500 * time.Millisecond)
	long.Start, long.Duration = time.Now().Add(-time.Second), time.Second
	l.ObserveCall(t.Context(), *short)
	l.ObserveCall(t.Context(), *long)
	shown := `document.getElementById("call-facts").innerText`
	v.until(shown + `.includes("2 at")`)
	for range 12 {
		time.Sleep(250 * time.Millisecond)
		if !eval[bool](v, shown+`.includes("2 at")`) {
			t.Fatalf("without new calls the shown call changed: %s, want the same one", v.text("call-facts"))
		}
	}
}

// Calls of an earlier server process used to be mixed with those of the next one, because both
// count from 1.
func TestAnotherProcess(t *testing.T) {
	t.Parallel()
	first, at := own(t, page.Options{})
	second, other := own(t, page.Options{})
	between, v := visitThrough(t, at)
	v.until(isLive)
	fail := func(l *live.Live, n int) {
		for range n {
			c := call("http://upstream")
			c.Status, c.Report.Reason, c.Report.Attempts[0].Reason = 503, resilience.ReasonMaxAttempts, resilience.StatusReason(503)
			l.ObserveCall(t.Context(), *c)
		}
	}
	rows := func(n int) string { return fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, n) }
	fail(first, 3)
	v.until(rows(3))
	v.filter("max_attempts")
	_ = eval[bool](v, `document.querySelectorAll("#rows tr")[2].click() ?? true`)
	v.until(`document.querySelectorAll("#rows tr[aria-current]").length === 1`)

	between.set(true, false)
	between.lead(strings.TrimPrefix(other, "http://"))
	fail(second, 2)
	between.set(false, false)
	v.until(isLive + ` && ` + rows(2))
	if eval[bool](v, `document.querySelector("#rows tr[aria-current]") !== null`) {
		t.Error("a call of the new process is marked as shown, want none: the shown one is of the old process")
	}

	v.press("Pause")
	between.set(true, false)
	between.lead(strings.TrimPrefix(at, "http://"))
	between.set(false, false)
	v.until(isLive + ` && document.getElementById("foot").innerText.startsWith("3 calls")`)
	fail(first, 1)
	v.until(`document.getElementById("foot").innerText.startsWith("4 calls")`)
	if note := v.text("rows-note"); strings.Contains(note, " 0 newer") {
		t.Errorf("note of the list = %q, want one about the restart", note)
	}
}

// The page used to wait forever for a connection that was lost without an error.
func TestDeadConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	d := start(t)
	between, v := visitThrough(t, d.page)
	v.until(isLive)
	v.record("connection")
	between.kill()
	v.until(had("connection", "Stale"))
	ask(t, http.MethodGet, d.client+"/process", "")
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length === 1`)
}

// kill stops passing data on the connections of event streams, without closing them. It closes the
// others, because a browser would try them first.
func (s *switchable) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if s.streams[c] {
			s.dead = append(s.dead, c)
		} else {
			_ = c.Close()
		}
	}
	s.conns = nil
}

// lead sets the target of new connections.
func (s *switchable) lead(to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = to
}

// generator is a traffic generator that stores its settings.
type generator struct {
	mu  sync.Mutex
	now page.TrafficSettings
}

func (g *generator) Set(s page.TrafficSettings) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = s
	return nil
}

func (g *generator) State() page.TrafficState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return page.TrafficState{TrafficSettings: g.now, Limit: 200, Without: page.TrafficResult{Ended: 5, NotSent: 1091}}
}

// An error of Reset used to be hidden by its next step, and an error of a button used to stay after
// flaky-server was back. Reset used to turn the traffic off.
func TestErrorsStayAndGo(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Rebound-Seed", "30")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"errorRate":0.3,"statuses":[503],"resetRate":0,"truncateRate":0,"hangRate":0,"slowBodyRate":0,"failFirst":0,"retryAfter":"","latency":{"distribution":"none"}}`)
	}))
	defer flaky.Close()
	traffic := &generator{now: page.TrafficSettings{PerSecond: 50, Path: page.PathWith}}
	_, at := own(t, page.Options{Faults: flaky.URL, Traffic: traffic})
	v := visit(t, at, 1440, false)
	v.until(`document.querySelector("#scenarios input:checked")?.value === "30 % errors"`)
	if got := v.text("without-note"); !strings.Contains(got, "1,091 not sent") {
		t.Errorf("comparison = %q, want the number of calls not sent", got)
	}
	const failed = `!document.getElementById("controls-error").hidden`
	away.Store(true)
	for press, works := range map[string]string{"Reset": "5", "Set": "20", "Outage": "100"} {
		v.press(press)
		v.until(failed)
		time.Sleep(300 * time.Millisecond)
		if !eval[bool](v, failed) {
			t.Errorf("%s: the error is hidden at once, want it shown", press)
		}
		v.press(works)
		v.until("!(" + failed + ")")
	}
	v.press("Outage")
	v.until(failed + ` && document.getElementById("scenario-note").innerText.startsWith("not known")`)
	away.Store(false)
	v.until("!(" + failed + ")")
	v.press("Reset")
	v.until(`document.querySelector("#rates input:checked")?.value === "50" && document.querySelector("#paths input:checked")?.value === "with"`)
}

// A changed configuration resets a circuit without a transition. The timeline used to keep the old
// state.
func TestCircuitThatBeganAnew(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	up := observe.Upstream{Upstream: "http://upstream", Policy: "default", Breaker: resilience.BreakerSnapshot{State: resilience.Closed, Since: time.Now()}}
	l, at := own(t, page.Options{}, func() []observe.Upstream {
		mu.Lock()
		defer mu.Unlock()
		return []observe.Upstream{up}
	})
	set := func(s resilience.State) {
		mu.Lock()
		defer mu.Unlock()
		up.Breaker.State, up.Breaker.Since = s, time.Now()
	}
	v := visit(t, at, 1440, false)
	band := `[...document.querySelectorAll("rect[data-state]")].map((r) => r.dataset.state).join(" ")`
	time.Sleep(1200 * time.Millisecond)
	set(resilience.Open)
	l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: "http://upstream", From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 5}})
	v.until(band + ` === "closed open"`)
	time.Sleep(1200 * time.Millisecond)
	set(resilience.Closed)
	v.until(band + ` === "closed open closed"`)
}

// Rows used to move while calls arrived, so that a click hit another call.
func TestListStandsStill(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "100")
	v := visit(t, d.page, 1440, false)
	v.until(`document.querySelectorAll("#rows tr").length > 20`)
	where := eval[[]float64](v, `(() => { document.querySelector(".calls").scrollIntoView(); const r = document.querySelectorAll("#rows tr")[5].getBoundingClientRect(); return [r.left + 30, r.top + r.height / 2]; })()`)
	mouse := func(kind input.DispatchMouseEventType, x, y float64) {
		button := input.MouseButtonLeft
		if kind == input.DispatchMouseEventTypeMouseMoved {
			button = input.MouseButtonNone
		}
		v.do(command(input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: kind, X: x, Y: y, Button: button, ClickCount: 1}))
	}
	mouse(input.DispatchMouseEventTypeMouseMoved, where[0], where[1])
	under := fmt.Sprintf(`document.elementFromPoint(%v, %v).closest("tr").querySelector("button").ariaLabel.split(" ")[2]`, where[0], where[1])
	v.until(`document.getElementById("rows-note").innerText.startsWith("Held")`)
	aimed := eval[string](v, under)
	time.Sleep(400 * time.Millisecond)
	mouse(input.DispatchMouseEventTypeMousePressed, where[0], where[1])
	time.Sleep(300 * time.Millisecond)
	mouse(input.DispatchMouseEventTypeMouseReleased, where[0], where[1])
	v.until(fmt.Sprintf(`document.getElementById("call-facts").innerText.includes("%s at")`, aimed))
	// The row has the focus now. The list continues when both pointer and focus have left it.
	mouse(input.DispatchMouseEventTypeMouseMoved, 5, 5)
	time.Sleep(1500 * time.Millisecond)
	if got := eval[string](v, `document.activeElement.ariaLabel?.split(" ")[2] ?? document.activeElement.tagName`); got != aimed {
		t.Errorf("focused call = %s, want %s", got, aimed)
	}
	_ = eval[bool](v, `document.activeElement.blur() ?? true`)
	v.until(`!document.getElementById("rows-note").innerText.startsWith("Held")`)
}

// Labels of an axis used to overlap, "Half-open" was wider than its tile, and attempts shorter than
// a pixel were invisible.
func TestNothingCollides(t *testing.T) {
	t.Parallel()
	up := observe.Upstream{Upstream: "http://upstream", Policy: "default", Breaker: resilience.BreakerSnapshot{State: resilience.HalfOpen, Since: time.Now()}}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{up} })
	for name, took := range map[string]time.Duration{"a call near its deadline": 4900 * time.Millisecond, "a short one": 700 * time.Millisecond, "one of 40 ms": 40 * time.Millisecond} {
		c := call("http://upstream")
		start := c.Start
		c.Duration, c.Report.Deadline = took, start.Add(5*time.Second)
		first := c.Report.Attempts[0]
		first.Duration, first.Verdict, first.Reason, first.Status = 300*time.Microsecond, resilience.VerdictRetry, resilience.StatusReason(503), 503
		first.Wait = resilience.Wait{Source: resilience.WaitJitter, Reason: first.Reason, Planned: took, Actual: took - time.Millisecond}
		last := c.Report.Attempts[0]
		last.Number, last.Start, last.Duration = 2, start.Add(took-300*time.Microsecond), 300*time.Microsecond
		c.Report.Attempts = []resilience.AttemptReport{first, last}
		l.ObserveCall(t.Context(), *c)
		for _, width := range []int{320, 375, 625, 640, 768, 905, 1185, 1280, 1440} {
			t.Run(fmt.Sprintf("%s, %d px", name, width), func(t *testing.T) {
				v := visit(t, at, width, false)
				v.until(isLive + ` && document.getElementById("breaker-state").innerText === "Half-open" && ` + attempts + `.length === 2`)
				for _, e := range eval[[]string](v, `(() => {
					const words = [...document.querySelectorAll(".wf-row.axis text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
					const found = [];
					for (const [a, x] of words) for (const [b, y] of words) if (a < b && x.left < y.right && y.left < x.right) found.push(a + " and " + b);
					const big = document.querySelector("#breaker-tile .big");
					if (big.scrollWidth > big.clientWidth) found.push("Half-open does not fit");
					for (const bar of document.querySelectorAll("[data-bar=attempt]")) if (!(parseFloat(getComputedStyle(bar).strokeWidth) >= 2)) found.push("an attempt of no width");
					return found;
				})()`) {
					t.Error(e)
				}
			})
		}
	}
}

// Seven figures of the charts used to be live regions, so that a screen reader read them every
// second.
func TestFiguresDoNotChatter(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	v := visit(t, d.page, 1440, false)
	v.until(`document.querySelectorAll("#rows tr").length > 5`)
	_ = eval[bool](v, `(() => {
		window.said = [];
		// The changes of an update are told together.
		const o = new MutationObserver((all) => window.said.push([...new Set(all.map((m) => (m.target.closest?.("output, [role=status], [role=alert], [aria-live]") ?? m.target.parentElement).textContent))].join(" / ")));
		// The connection may become stale on a busy machine.
		for (const e of document.querySelectorAll("output, [role=status]:not(#connection), [role=alert], [aria-live]")) o.observe(e, { childList: true, characterData: true, subtree: true });
		return true;
	})()`)
	ask(t, http.MethodPut, d.faults, "errorRate: 1")
	v.until(`document.querySelectorAll("#transitions li").length > 5`)
	ask(t, http.MethodPut, d.faults, "errorRate: 0")
	v.until(`document.getElementById("breaker-state").innerText === "Closed" && document.getElementById("announce").textContent.startsWith("Circuit closed")`)
	said := eval[[]string](v, "window.said")
	circuit := slices.DeleteFunc(slices.Clone(said), func(s string) bool { return !strings.HasPrefix(s, "Circuit") })
	// How often an endpoint is ejected depends on how long the outage lasts. Anything else, such as
	// a figure, is chatter: also several texts in one update.
	announcement := regexp.MustCompile(`^(Circuit (open|closed): [^/]+|(Endpoint (ejected|returned)|Too many endpoints fail|Few endpoints fail again)(: [^/]+)?|\d+ endpoints? (ejected|returned)[^/]*)$`)
	if chatter := slices.ContainsFunc(said, func(s string) bool { return !announcement.MatchString(s) }); chatter || len(circuit) != 2 || !strings.HasPrefix(circuit[0], "Circuit open") || !strings.HasPrefix(circuit[1], "Circuit closed") {
		t.Errorf("announcements of an outage and its end = %q, want one for each, and one in an update at most", said)
	}
}

// "Outage for 1 s." used to be said of an outage that was minutes old: after one failed request for
// the faults, and in a tab that had been hidden.
func TestAgeOfFaultsThatTheTabSawBegin(t *testing.T) {
	t.Parallel()
	var (
		away  atomic.Bool
		rate  atomic.Value
		asked atomic.Int64
	)
	rate.Store("0")
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); away.Load() {
			panic(http.ErrAbortHandler)
		}
		if r.Method == http.MethodPut { // the outage is the only one that is pressed
			rate.Store("1")
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"errorRate":%s,"statuses":[503],"resetRate":0,"truncateRate":0,"hangRate":0,"slowBodyRate":0,"failFirst":0,"retryAfter":"","latency":{"distribution":"none"}}`, rate.Load())
	}))
	defer flaky.Close()
	_, at := own(t, page.Options{Faults: flaky.URL})
	v := visit(t, at, 1440, false)
	begins := func(text string) string {
		return fmt.Sprintf(`document.getElementById("summary").innerText.startsWith(%q)`, text)
	}
	v.until(isLive + ` && ` + begins("Healthy. "))
	for try := 1; ; try++ {
		rate.Store("1")
		v.until(begins("Outage"))
		if eval[bool](v, begins("Outage for ")) {
			break // the tab has seen it begin
		}
		if try == 3 {
			t.Fatal("the outage has no age, three times")
		}
		rate.Store("0") // a busy machine asked too late
		v.until(begins("Healthy"))
	}

	away.Store(true)
	v.until(`!(` + begins("Outage") + `)`)
	v.record("summary")
	away.Store(false)
	v.until(begins("Outage"))
	if eval[bool](v, had("summary", "Outage for ")) {
		t.Error("after a failed request the outage has an age, want none")
	}

	_ = eval[bool](v, `(Object.defineProperty(document, "hidden", { configurable: true, value: true }), true)`)
	time.Sleep(3500 * time.Millisecond) // a request on its way ends
	before := asked.Load()
	rate.Store("0")
	time.Sleep(4500 * time.Millisecond)
	if asked.Load() != before {
		t.Fatal("the hidden tab asks for the faults")
	}
	v.record("summary")
	_ = eval[bool](v, `delete document.hidden`)
	v.until(begins("Healthy"))
	if eval[bool](v, had("summary", "Healthy for ")) {
		t.Error("in a tab that was hidden the end of the outage has an age, want none")
	}
	v.press("Outage") // its own change has one at once
	v.until(begins("Outage for "))
}

// The marks of faults used to outlive the server's process: those of the one before were shown as
// faults of the new one.
func TestMarksOfFaultsEndWithTheProcess(t *testing.T) {
	t.Parallel()
	flaky := func() string {
		now := atomic.Value{}
		now.Store(`{"errorRate":0,"statuses":[503],"resetRate":0,"truncateRate":0,"hangRate":0,"slowBodyRate":0,"failFirst":0,"retryAfter":"","latency":{"distribution":"none"}}`)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.Method == http.MethodPut {
				now.Store(strings.Replace(now.Load().(string), `"errorRate":0`, `"errorRate":1`, 1))
			}
			_, _ = fmt.Fprint(w, now.Load())
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	_, first := own(t, page.Options{Faults: flaky()})
	_, second := own(t, page.Options{Faults: flaky()})
	between, v := visitThrough(t, first)
	v.until(isLive + ` && document.querySelector("[data-fault=Healthy]") !== null`)
	v.press("Outage")
	v.until(`document.querySelector("[data-fault=Outage]") !== null`)
	between.set(true, false)
	between.lead(strings.TrimPrefix(second, "http://"))
	between.set(false, false)
	v.until(isLive + ` && document.getElementById("summary").innerText.startsWith("Healthy") && document.querySelector("[data-fault=Healthy]") !== null`)
	if marks := eval[[]string](v, `[...document.querySelectorAll("[data-fault]")].map((e) => e.dataset.fault)`); !slices.Equal(marks, []string{"Healthy"}) {
		t.Errorf("marks of faults = %q, want those of the new process only", marks)
	}
}

// The marks of faults used to be in the tab: after a reload in the middle of an outage, and for a
// second visitor, there were none, and the outage had no age.
func TestMarksOfFaultsAfterAReload(t *testing.T) {
	t.Parallel()
	d := start(t)
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelector("[data-fault='30 % errors']") !== null`)
	v.press("Healthy")
	v.until(`document.querySelector("[data-fault=Healthy]") !== null`)
	v.press("One sick endpoint")
	v.until(`document.querySelector("[data-fault='One sick endpoint']") !== null`)
	v.do(chromedp.Reload())
	for _, v := range []*tab{v, visit(t, d.page, 1440, false)} {
		v.until(isLive + ` && [...document.querySelectorAll("[data-fault]")].map((e) => e.dataset.fault).join(", ") === "30 % errors, Healthy, One sick endpoint"
			&& document.getElementById("summary").innerText.startsWith("One sick endpoint") && document.querySelectorAll("#charts .fault-line").length >= 6`)
		// The sentence has it for ten seconds only.
		_ = eval[bool](v, `(import(new URL("assets/state.js", location.href)).then((m) => { window.age = m.faultsAge(); }), true)`)
		v.until(`window.age > 0 && window.age < Infinity`)
	}
}

// A filter whose answer came after a second upstream appeared used to lack the calls that only the
// server had.
func TestFilterWhileAnUpstreamAppears(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	l.ObserveCall(t.Context(), *ended("http://a", time.Second, resilience.ReasonMaxAttempts, 503, step{reason: bad, took: time.Millisecond}))
	for range 110 { // so many that the page lists others
		l.ObserveCall(t.Context(), *ended("http://a", time.Second, good, 200, step{reason: bad, took: time.Millisecond}, step{reason: good, took: time.Millisecond}))
	}
	recorded(t, l, 111)
	v := visit(t, at, 1440, false)
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length === 100 && ![...document.querySelectorAll("#rows tr")].some((r) => r.call.reason === "max_attempts")`)
	_ = eval[bool](v, `(() => {
		const fetching = window.fetch;
		window.fetch = async (...of) => {
			window.fetch = fetching;
			await new Promise((go) => { window.go = go; });
			return fetching(...of);
		};
		const e = document.getElementById("reason");
		e.value = "max_attempts";
		return e.dispatchEvent(new Event("change"));
	})()`)
	v.until(`window.go`)
	l.ObserveCall(t.Context(), *call("http://b"))
	v.until(`document.getElementById("series").value === "all" && (window.go(), true)`)
	v.until(`document.querySelectorAll("#rows tr").length === 1 && document.querySelector("#rows tr").call.reason === "max_attempts"`)
}

// A request for calls that failed when another filter was chosen, or the same one again, used to
// put its error over the complete list.
func TestFilterWhoseOldRequestFailsLate(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	l.ObserveCall(t.Context(), *ended("http://a", time.Second, resilience.ReasonMaxAttempts, 503, step{reason: bad, took: time.Millisecond}))
	l.ObserveCall(t.Context(), *call("http://a"))
	recorded(t, l, 2)
	for name, tc := range map[string]struct {
		then  []string // is chosen while the first request is on its way
		calls int
	}{"another filter": {[]string{""}, 2}, "the same filter again": {[]string{"", "max_attempts"}, 1}} {
		t.Run(name, func(t *testing.T) {
			v := visit(t, at, 1440, false)
			v.until(isLive + ` && document.querySelectorAll("#rows tr").length === 2`)
			_ = eval[bool](v, `(() => {
				const fetching = window.fetch;
				window.fetch = async () => {
					window.fetch = fetching;
					await new Promise((go) => { window.go = go; });
					setTimeout(() => { window.failed = true; }); // after what follows the error
					throw new TypeError("late");
				};
				return true;
			})()`)
			choose := func(reason string) {
				_ = eval[bool](v, fmt.Sprintf(`(() => { const e = document.getElementById("reason"); e.value = %q; return e.dispatchEvent(new Event("change")); })()`, reason))
			}
			choose("max_attempts")
			v.until(`window.go`)
			for _, reason := range tc.then {
				choose(reason)
			}
			listed := fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, tc.calls)
			v.until(listed)
			if tc.then[len(tc.then)-1] != "" {
				v.until(`document.getElementById("rows-note").innerText.includes("with this reason")`)
			}
			_ = eval[bool](v, `(window.go(), true)`)
			v.until(`window.failed`)
			if note := v.text("rows-note"); strings.Contains(note, "could not be loaded") || !eval[bool](v, listed) {
				t.Errorf("the note is %q, want none of the old request, and %d calls", note, tc.calls)
			}
		})
	}
}
