package page_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// listed is an expression for the paths of the listed calls.
const listed = `[...document.querySelectorAll("#rows tr")].map((r) => r.cells[1].innerText.trim().split("/")[1]).join(" ")`

// The list for a reason has exactly the calls that have it, or an attempt that has it. It includes
// older calls that the page has not received as events.
func TestFilterByReason(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	record := func(path string, age time.Duration, reason resilience.Reason, steps ...step) {
		status := 200
		if reason != good {
			status = 504
		}
		c := ended("http://upstream", 5*time.Second, reason, status, steps...)
		c.Path, c.Start = "/"+path, c.Start.Add(-age)
		l.ObserveCall(t.Context(), *c)
	}
	late, fine := step{reason: resilience.ReasonAttemptTimeout, took: time.Millisecond}, step{reason: good, took: time.Millisecond}
	record("old", time.Minute, resilience.ReasonMaxAttempts, late)
	for range 150 {
		record("fine", time.Second, good, fine)
	}
	v := visit(t, at, 1440, false)
	v.until(`document.querySelectorAll("#rows tr").length === 100 && document.getElementById("foot").innerText.startsWith("151 calls")`)
	record("repeated", 0, good, late, fine)
	record("failed", 0, resilience.ReasonMaxAttempts, step{reason: bad, took: time.Millisecond})
	v.until(listed + `.includes("repeated")`)
	v.filter(string(resilience.ReasonAttemptTimeout))
	v.until(listed + ` === "repeated old"`)
	record("newest", 0, resilience.ReasonMaxAttempts, late)
	record("fine", 0, good, fine)
	v.until(`document.getElementById("foot").innerText.startsWith("155 calls")`)
	v.until(listed + ` === "newest repeated old"`)
	v.filter("")
	v.until(`document.querySelectorAll("#rows tr").length === 100 && ` + listed + `.includes("failed")`)
}

// The page shows the newest call until the visitor picks one. Copy writes the curl command to the
// clipboard, or selects it if that is not permitted.
func TestFollowAndCopy(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	record := func(path string) {
		c := ended("http://upstream", 5*time.Second, good, 200, step{reason: good, took: time.Millisecond})
		c.Path = "/" + path
		l.ObserveCall(t.Context(), *c)
	}
	shows := func(path string) string {
		return fmt.Sprintf(`document.getElementById("call-curl").innerText === "curl -i http://localhost:8080/%s"`, path)
	}
	pressed := func(on bool) string {
		return fmt.Sprintf(`document.getElementById("follow").getAttribute("aria-pressed") === "%v"`, on)
	}
	record("first")
	v.until(shows("first") + ` && ` + pressed(true))
	record("second")
	v.until(shows("second"))
	v.press("Follow the newest")
	v.until(pressed(false))
	record("third")
	v.until(listed + ` === "third second first" && Boolean(window.since = performance.now())`)
	v.until(`(() => { Object.defineProperty(navigator, "clipboard", { configurable: true, value: { writeText: async (text) => { window.copied = text; } } }); return true; })()`)
	v.record("copy")
	v.click("copy")
	v.until(had("copy", "Copied"))
	if got := eval[string](v, `window.copied`); got != "curl -i http://localhost:8080/second" {
		t.Errorf("clipboard = %q, want the curl command", got)
	}

	// If the page still followed the newest call, that one would be shown after a second.
	v.until(`window.since < performance.now() - 1500`)
	if !eval[bool](v, shows("second")) {
		t.Errorf("shown call = %s, want the picked one", v.text("call-curl"))
	}

	v.until(`(() => { Object.defineProperty(navigator, "clipboard", { value: { writeText: async () => { throw new Error("no"); } } }); return true; })()`)
	v.click("copy")
	v.until(had("copy", "Selected"))
	if got := eval[string](v, `getSelection().toString().trim()`); got != "curl -i http://localhost:8080/second" {
		t.Errorf("selection = %q, want the curl command", got)
	}
	_ = eval[bool](v, `getSelection().removeAllRanges() ?? true`)
	v.until(`document.getElementById("copy").innerText === "Copy"`)

	v.press("Follow the newest")
	v.until(shows("third") + ` && ` + pressed(true))
}

// A change on one page is shown on other pages at once.
func TestTwoPagesAgree(t *testing.T) {
	t.Parallel()
	d := start(t)
	v := visit(t, d.page, 1440, false)
	// Disable the other page's polling, so that only an event can tell it.
	other := visit(t, "about:blank", 768, false)
	other.do(command(cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{
		Source: `const often = window.setInterval; window.setInterval = (f, ms) => ms < 1000 ? often(f, ms) : 0;`,
	}), chromedp.Navigate(d.page))
	for _, page := range []*tab{v, other} {
		page.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "30 % errors"`)
	}
	v.press("Outage")
	v.press("5")
	for _, page := range []*tab{v, other} {
		page.until(`document.querySelector("input[name=scenario]:checked")?.value === "Outage" && document.querySelector("input[name=rate]:checked")?.value === "5"
			&& document.getElementById("summary").innerText.startsWith("Outage")`)
	}
	v.press("Reset")
	for _, page := range []*tab{v, other} {
		page.until(`document.querySelector("input[name=scenario]:checked")?.value === "30 % errors" && document.querySelector("input[name=rate]:checked")?.value === "0"`)
	}
}

// The page announces that the shown circuit opened or closed, with the cause. It does not announce
// probes.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	const shown = "http://shown"
	up := observe.Upstream{Upstream: shown, Policy: "default", Burst: 10, Settings: resilience.BreakerPolicy{ConsecutiveFailures: 10, MinRequests: 50, FailureRatio: 0.5}}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{up} })
	v := visit(t, at, 1440, false)
	v.until(isLive)
	says := func(text string) string {
		return fmt.Sprintf(`document.getElementById("announce").textContent === %q`, text)
	}
	l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: shown, From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 12, Consecutive: 12, OpenFor: 5 * time.Second}})
	const opened = "Circuit open: 12 failures in a row (limit 10), open for 5.00 s"
	v.until(says(opened))
	l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: shown, From: resilience.Open, To: resilience.HalfOpen, At: time.Now()}})
	v.until(`document.querySelectorAll("#transitions li").length === 2`)
	if !eval[bool](v, says(opened)) {
		t.Errorf("announcement = %s, want none about a probe", eval[string](v, `document.getElementById("announce").textContent`))
	}
	l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: shown, From: resilience.HalfOpen, To: resilience.Closed, At: time.Now(), Successes: 3}})
	v.until(says("Circuit closed: 3 probes succeeded"))
	if role := eval[string](v, `document.getElementById("announce").getAttribute("role")`); role != "status" {
		t.Errorf("role of the announcement = %q, want status", role)
	}
}

// The page announces what happens to the shown upstream's endpoints: one announcement for all
// changes of an update. It does not announce probes, lookups, or endpoints that come and go.
func TestEndpointAnnouncements(t *testing.T) {
	t.Parallel()
	const shown = "http://shown"
	var (
		mu      sync.Mutex
		l       *live.Live
		pending []func()
		up      = observe.Upstream{Upstream: shown, Policy: "default", Settings: resilience.BreakerPolicy{ConsecutiveFailures: 10}}
	)
	// What happens in here is in one update.
	l, at := own(t, page.Options{}, func() []observe.Upstream {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range pending {
			f()
		}
		pending = nil
		return []observe.Upstream{up}
	})
	together := func(all ...func()) {
		mu.Lock()
		defer mu.Unlock()
		pending = all
	}
	change := func(upstream string, kind endpoint.EventKind, address string) func() {
		return func() {
			l.ObserveEndpoint(observe.EndpointEvent{Upstream: upstream, Event: endpoint.Event{Kind: kind, Address: address, At: time.Now(), For: 1500 * time.Millisecond}})
		}
	}
	v := visit(t, at, 1440, false)
	v.until(isLive)
	v.record("announce")
	var want []string
	for _, tc := range []struct {
		changes []func()
		says    string
	}{
		{[]func(){change(shown, endpoint.EventEjected, "10.0.0.1:80")}, "Endpoint ejected: 10.0.0.1:80, for 1.50 s"},
		{[]func(){
			change(shown, endpoint.EventEjected, "10.0.0.2:80"), change(shown, endpoint.EventEjected, "10.0.0.3:80"), change(shown, endpoint.EventReturned, "10.0.0.1:80"),
		}, "2 endpoints ejected, 1 endpoint returned"},
		{[]func(){change("http://other", endpoint.EventPanic, ""), change(shown, endpoint.EventPanic, "")}, "Too many endpoints fail: more than may be ejected, so none is"},
		{[]func(){
			change(shown, endpoint.EventCalm, ""), change(shown, endpoint.EventReturned, "10.0.0.2:80"), change(shown, endpoint.EventReturned, "10.0.0.3:80"),
			change(shown, endpoint.EventAdded, "10.0.0.4:80"),
		}, "2 endpoints returned, few endpoints fail again"},
		{[]func(){change(shown, endpoint.EventEjected, "10.0.0.4:80"), func() {
			l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: shown, From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 12, Consecutive: 12, OpenFor: 5 * time.Second}})
		}}, "Circuit open: 12 failures in a row (limit 10), open for 5.00 s. Endpoint ejected: 10.0.0.4:80, for 1.50 s"},
	} {
		together(tc.changes...)
		v.until(had("announce", tc.says))
		want = append(want, tc.says)
	}
	mu.Lock()
	up.Endpoints = []endpoint.State{{Address: "10.0.0.4:80", Circuit: resilience.HalfOpen, Ejected: true}}
	mu.Unlock()
	together(change(shown, endpoint.EventLookup, ""), change(shown, endpoint.EventRemoved, "10.0.0.4:80"), change("http://other", endpoint.EventEjected, "10.0.0.5:80"))
	v.until(`document.getElementById("endpoint-rows").innerText.includes("Probing") && document.getElementById("transitions").innerText.includes("Endpoint removed")`)
	if got := eval[[]string](v, `window.recorded.announce.filter(Boolean)`); !slices.Equal(got, want) {
		t.Errorf("announcements = %q, want %q", got, want)
	}
}

// An arrow key used to put each fault on its way in force: three restarts and three marks from
// Healthy to Outage. It moves the focus; Enter and Space choose.
func TestArrowKeysPutNothingInForce(t *testing.T) {
	t.Parallel()
	d := start(t, "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "Healthy" && document.querySelector("input[name=rate]:checked")?.value === "0"`)
	_ = eval[bool](v, `(() => {
		const real = window.fetch;
		window.puts = [];
		window.fetch = (path, o) => { if (o?.method === "PUT") puts.push(path + " " + o.body); return real(path, o); };
		document.querySelector("input[name=scenario]:checked").focus();
		return true;
	})()`)
	const at = `document.activeElement.value + " of " + (document.querySelector("input[name=scenario]:checked")?.value ?? "none")`
	for _, want := range []string{"30 % errors of Healthy", "Slow of Healthy", "One sick endpoint of Healthy", "Outage of Healthy"} {
		v.do(chromedp.KeyEvent(kb.ArrowRight))
		if got := eval[string](v, at); got != want {
			t.Fatalf("the focus is on %s, want %s", got, want)
		}
	}
	v.do(chromedp.KeyEvent(kb.Home), chromedp.KeyEvent(kb.ArrowLeft))
	if got := eval[string](v, at); got != "Overload of Healthy" {
		t.Errorf("left of the first is %s, want the last", got)
	}
	v.do(chromedp.KeyEvent(kb.ArrowUp), chromedp.KeyEvent(kb.ArrowUp))
	if puts := eval[[]string](v, `window.puts`); len(puts) > 0 {
		t.Errorf("arrow keys change %q, want nothing", puts)
	}
	v.do(chromedp.KeyEvent(kb.Enter))
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Outage" && document.querySelector("[data-fault=Outage]") !== null`)
	if puts := eval[[]string](v, `window.puts`); len(puts) != 1 || !strings.Contains(puts[0], `"errorRate":1`) {
		t.Errorf("Enter changes %q, want the outage", puts)
	}
	_ = eval[bool](v, `document.querySelector("input[name=rate]:checked").focus() ?? true`)
	v.do(chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(" "))
	v.until(`document.querySelector("input[name=rate]:checked")?.value === "5"`)
	if got := ask(t, http.MethodGet, d.page+"api/traffic", ""); !strings.Contains(got, `"perSecond":5`) {
		t.Errorf("traffic = %s, want 5 a second", got)
	}
}

// One request without an answer used to block every control until the page was loaded again.
func TestRequestWithoutAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	d := start(t, "--error-rate", "0")
	u, err := url.Parse(d.page)
	if err != nil {
		t.Fatal(err)
	}
	var hangs, hung atomic.Bool
	hangs.Store(true)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Host = r.In.Host
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && hangs.Load() {
			_, _ = io.Copy(io.Discard, r.Body)
			hung.Store(true)
			<-r.Context().Done() // the page has given up
			return
		}
		pass.ServeHTTP(w, r)
	}))
	defer s.Close()
	defer s.CloseClientConnections()
	v := visit(t, s.URL, 1440, false)
	v.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "Healthy"`)
	_ = eval[bool](v, `(() => {
		const real = AbortSignal.timeout.bind(AbortSignal);
		AbortSignal.timeout = (ms) => real(ms / 5);
		return true;
	})()`)
	v.press("Outage")
	for began := time.Now(); !hung.Load(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("the press of Outage sends no request")
		}
	}
	hangs.Store(false)
	v.record("controls-error")
	v.press("Slow")
	v.until(`document.getElementById("scenario-note").innerText.includes("half of the answers take over 250 ms") && document.getElementById("controls-error").hidden`)
	if !eval[bool](v, had("controls-error", "Outage failed: the server did not answer in time")) {
		t.Error("no error tells of the request without an answer")
	}
}

// Two quick presses used to reach the server in any order.
func TestChangesInTheOrderOfPresses(t *testing.T) {
	t.Parallel()
	d := start(t, "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "Healthy"`)
	_ = eval[bool](v, `(() => {
		const real = window.fetch;
		window.put = [];
		let late = 900; // ms; each request is faster than the one before it
		window.fetch = async (path, o) => {
			if (o?.method !== "PUT") return real(path, o);
			await new Promise((f) => setTimeout(f, late -= 300));
			const answer = await real(path, o);
			put.push(path.includes("seed=") ? "seed" : JSON.parse(o.body).errorRate ?? "slow");
			return answer;
		};
		const [slow, outage] = ["Slow", "Outage"].map((name) => document.querySelector("input[value=" + name + "]"));
		slow.click();
		outage.click();
		document.getElementById("seed").value = "77";
		document.getElementById("seed-set").requestSubmit();
		return true;
	})()`)
	v.until(`window.put.length === 3`)
	if got := eval[[]any](v, `window.put`); fmt.Sprint(got) != "[slow 1 seed]" {
		t.Errorf("the server got the changes %v, want slow, the outage, the seed", got)
	}
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Outage" && document.getElementById("seed").value === "77"`)
}
