package page_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The table has all upstreams, the worst first. The headline is about all of them, until a row is
// clicked: then everything else shows that upstream alone.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	for _, n := range []int{12, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			name := func(i int) string { return fmt.Sprintf("http://up-%02d", i) }
			const opened, partly, sick = 7, 3, 5
			var upstreams []observe.Upstream
			for i := range n {
				up := observe.Upstream{Upstream: name(i), Policy: "default", Burst: 10}
				switch i {
				case opened:
					up.Breaker.State = resilience.Open
				case sick:
					up.Endpoints = []endpoint.State{{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80", Circuit: resilience.Open, Ejected: true}}
				}
				upstreams = append(upstreams, up)
			}
			l, at := own(t, page.Options{}, func() []observe.Upstream { return upstreams })
			v := visit(t, at, 1440, false)
			v.until(isLive)
			fine, fails := step{reason: good, took: time.Millisecond}, step{reason: bad, took: time.Millisecond}
			record := func(i, times int, reason resilience.Reason, status int, steps ...step) {
				for range times {
					l.ObserveCall(t.Context(), *ended(name(i), time.Second, reason, status, steps...))
				}
			}
			for i := range n {
				switch i {
				case opened:
					record(i, 10, resilience.ReasonBreakerOpen, 503)
				case partly:
					record(i, 5, resilience.ReasonMaxAttempts, 503, fails, fails)
					record(i, 5, good, 200, fine)
				default:
					record(i, 10, good, 200, fine)
				}
			}
			l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: name(opened), From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 12}})
			rows := `[...document.querySelectorAll("#upstream-rows tr")].map((r) => [...r.cells].map((c) => c.innerText.trim()).join(" | "))`
			v.until(fmt.Sprintf(`document.getElementById("foot").innerText.startsWith("%d calls") && document.querySelectorAll("#transitions li").length === 1 && document.querySelectorAll("#upstream-rows tr").length === %d && Boolean(window.drawn = {
				rows: %s, success: document.getElementById("success-callers").innerText, summary: document.getElementById("summary").innerText, circuit: document.getElementById("breaker-state").innerText,
			})`, 10*n, n, rows))
			drawn := eval[struct {
				Rows                      []string
				Success, Summary, Circuit string
			}](v, "window.drawn")
			for i, want := range []string{
				name(opened) + ", policy default | Open | 0 % | 0.00 |",
				name(partly) + ", policy default | Fails calls | 50.0 % | 1.50 |",
				name(sick) + ", policy default | Well | 100 % | 1.00 |",
				name(0) + ", policy default | Well | 100 % | 1.00 |",
			} {
				if !strings.HasPrefix(drawn.Rows[i], want) {
					t.Errorf("row %d = %q, want %q at its begin", i, drawn.Rows[i], want)
				}
			}
			if !strings.HasSuffix(drawn.Rows[2], "| 2, out: 10.0.0.2:80") {
				t.Errorf("row = %q, want its two endpoints and the ejected one", drawn.Rows[2])
			}
			well := 10*n - 15
			if want := strings.TrimSuffix(fmt.Sprintf("%.1f", 100*float64(well)/float64(10*n)), ".0") + " %"; drawn.Success != want {
				t.Errorf("success of all = %q, want %q", drawn.Success, want)
			}
			if want := fmt.Sprintf("1 of %d upstreams has its circuit open: %s. 1 endpoint is ejected: 10.0.0.2:80 of %s. In the last ten seconds 1 more failed calls: %s. Over all, %.1f %% of the calls failed.", n, name(opened), name(sick), name(partly), 100*15/float64(10*n)); drawn.Summary != want {
				t.Errorf("headline = %q, want %q", drawn.Summary, want)
			}
			if drawn.Circuit != "1 open" {
				t.Errorf("circuit = %q, want one open", drawn.Circuit)
			}
			if tall := eval[float64](v, `document.getElementById("upstreams").getBoundingClientRect().height`); tall > 600 {
				t.Errorf("the table is %.0f px tall, want at most 600", tall)
			}

			// By mouse, and back.
			row := func(i int) string {
				return fmt.Sprintf(`[...document.querySelectorAll("#upstream-rows tr")].find((r) => r.innerText.startsWith(%q))`, name(i))
			}
			// The button of a picked row used to have no state for a screen reader.
			only := fmt.Sprintf(`[...document.querySelectorAll("#upstream-rows button[aria-pressed='true']")].map((b) => b.textContent).join() === %[1]q + ", policy default" && document.getElementById("series").value.includes(%[1]q) && [...document.querySelectorAll("#rows tr")].every((r) => r.call.upstream === %[1]q)
				&& document.querySelectorAll("#rows tr").length > 0 && document.querySelectorAll("#transitions li").length === 0 && %[2]s.getAttribute("aria-current") === "true"
				&& document.getElementById("call-facts").innerText.includes(%[1]q)`, name(partly), row(partly))
			// shownNow has the calls of the chart in all its seconds, and the endpoints.
			shownNow := `(() => {
				const value = (name) => document.querySelector(".key .line-" + name).closest(".key").querySelector(".value").textContent;
				const plot = document.querySelectorAll("svg.plot")[1];
				plot.focus();
				let sum = 0;
				for (let at = "", now; ; at = now) {
					plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
					now = document.getElementById("cursor-time").textContent;
					if (now === at) break; // the first second
					sum += Number(value("offered").replace(",", "")) || 0;
				}
				plot.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
				return sum + " " + document.getElementById("endpoint-rows").innerText.replaceAll(/\s+/g, " ").trim();
			})()`
			_ = eval[bool](v, row(sick)+`.click() ?? true`)
			v.until(shownNow + `.startsWith("10 10.0.0.2:80 Ejected")`)
			_ = eval[bool](v, row(partly)+`.click() ?? true`)
			v.until(only + ` && !document.getElementById("endpoint-rows").checkVisibility()`)
			v.click("upstreams-all")
			v.until(`document.getElementById("series").value === "all" && document.querySelectorAll("#transitions li").length === 1`)
			// By keyboard: the table is one stop.
			if stops := eval[int](v, `document.querySelectorAll("#upstream-region [tabindex='0'], #upstream-region button:not([tabindex='-1'])").length`); stops != 1 {
				t.Errorf("the table has %d stops of the tab key, want 1", stops)
			}
			// A row fails calls for ten seconds only.
			record(partly, 5, resilience.ReasonMaxAttempts, 503, fails, fails)
			v.until(fmt.Sprintf(`document.querySelectorAll("#upstream-rows tr")[1].innerText.startsWith(%q)`, name(partly)))
			_ = eval[bool](v, `document.querySelector("#upstream-rows button[tabindex='0']").focus() ?? true`)
			v.do(chromedp.KeyEvent(kb.Home), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter))
			v.until(only)
		})
	}
}

// The table used to say of endpoints that fail, but are kept because too many do or because there
// is no other, that they are out: at first of all, later of those that wait for a probe.
func TestEndpointsThatAreKept(t *testing.T) {
	t.Parallel()
	state := func(last int, circuit resilience.State, ejected bool) endpoint.State {
		return endpoint.State{Address: fmt.Sprintf("10.0.0.%d:80", last), Circuit: circuit, Ejected: ejected}
	}
	failing := func(last int) endpoint.State { return state(last, resilience.Open, false) }
	waiting := func(last int) endpoint.State { return state(last, resilience.HalfOpen, false) }
	out := func(last int) endpoint.State { return state(last, resilience.Open, true) }
	probing := func(last int) endpoint.State { return state(last, resilience.HalfOpen, true) }
	fine := state(9, resilience.Closed, false)
	want := map[string]string{}
	var all []observe.Upstream
	for says, endpoints := range map[string][]endpoint.State{
		"3, 2 fail but are kept":                      {failing(1), failing(2), fine},
		"2, out: 10.0.0.1:80; 1 fails but is kept":    {out(1), failing(2)},
		"4, out: 10.0.0.1:80, 10.0.0.2:80 and 1 more": {out(1), out(2), out(3), fine},
		"3, 3 fail but are kept":                      {waiting(1), waiting(2), failing(3)},
		"1, 1 fails but is kept":                      {waiting(1)},
		"3, out: 10.0.0.1:80; 1 fails but is kept":    {probing(1), waiting(2), fine},
		"2, out: 10.0.0.2:80":                         {fine, probing(2)},
		"1":                                           {fine},
	} {
		name := fmt.Sprintf("http://%d", len(all))
		want[name] = says
		all = append(all, observe.Upstream{Upstream: name, Policy: "default", Burst: 10, Endpoints: endpoints})
	}
	_, at := own(t, page.Options{}, func() []observe.Upstream { return all })
	v := visit(t, at, 1440, false)
	v.until(fmt.Sprintf(isLive+` && document.querySelectorAll("#upstream-rows tr").length === %d`, len(all)))
	got := eval[map[string]string](v, `Object.fromEntries([...document.querySelectorAll("#upstream-rows tr")].map((r) => [r.cells[0].innerText.split(",")[0], r.cells[5].innerText]))`)
	if !maps.Equal(got, want) {
		t.Errorf("endpoints = %q, want %q", got, want)
	}
}

// Of the only endpoint, its own table used to say that too many fail.
func TestTheOnlyEndpointFails(t *testing.T) {
	t.Parallel()
	_, at := own(t, page.Options{}, func() []observe.Upstream {
		return []observe.Upstream{{Upstream: "http://a", Policy: "default", Burst: 10, Endpoints: []endpoint.State{{Address: "10.0.0.1:80", Circuit: resilience.HalfOpen}}}}
	})
	v := visit(t, at, 1440, false)
	v.until(isLive + ` && document.querySelectorAll("#endpoint-rows tr").length === 1`)
	if got, want := eval[string](v, `document.querySelector("#endpoint-rows td:nth-child(2)").innerText.trim()`), "Failing, but kept"; got != want {
		t.Errorf("its state is %q, want %q", got, want)
	}
}

// Names of any length used to be in the headline as they are, and moved the charts below the first
// screen.
func TestLongNamesKeepTheChartsInView(t *testing.T) {
	t.Parallel()
	name := func(i int) string {
		return fmt.Sprintf("http://a-service-with-a-long-name-%02d.some-namespace.svc.cluster.local:8080", i)
	}
	const n = 12
	var upstreams []observe.Upstream
	for i := range n {
		up := observe.Upstream{Upstream: name(i), Policy: "default", Burst: 10}
		switch i % 3 {
		case 0:
			up.Breaker.State = resilience.Open
		case 1:
			up.Endpoints = []endpoint.State{{Address: "10.0.0.1:80"}, {Address: fmt.Sprintf("a-pod-with-a-long-name-%02d.some-namespace.svc.cluster.local:80", i), Circuit: resilience.Open, Ejected: true}}
		}
		upstreams = append(upstreams, up)
	}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return upstreams })
	v := visit(t, at, 1440, false)
	v.size(1440, 900)
	v.until(isLive)
	fails := step{reason: bad, took: time.Millisecond}
	for i := range n {
		l.ObserveCall(t.Context(), *ended(name(i), time.Second, resilience.ReasonMaxAttempts, 503, fails, fails))
	}
	// In the last ten seconds, also if the machine stops for a moment.
	v.until(`document.getElementById("summary").innerText.includes("failed calls") && Boolean(window.drawn = {
		summary: document.getElementById("summary").innerText, bottom: document.getElementById("charts").getBoundingClientRect().bottom,
	})`)
	drawn := eval[struct {
		Summary string
		Bottom  float64
	}](v, "window.drawn")
	if drawn.Bottom > 900 || drawn.Bottom <= 0 {
		t.Errorf("under the headline %q the charts end at %.0f px of 900", drawn.Summary, drawn.Bottom)
	}
	if !strings.Contains(drawn.Summary, "long-name") || strings.Contains(drawn.Summary, name(0)) {
		t.Errorf("headline = %q, want the beginnings of the names", drawn.Summary)
	}
}

// From the top to the charts there are fewer than ten stops of the tab key. Every long list is one.
func TestStopsOfTheTabKey(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50", "--no-tour=false")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length > 50 && !document.getElementById("tour").hidden`)
	var stops []string
	for len(stops) < 40 {
		v.do(chromedp.KeyEvent(kb.Tab))
		stop := eval[string](v, `(() => { const e = document.activeElement; return "/" + (e.closest("#charts, #rows, #scenarios, #rates, #paths, .changes, #endpoints")?.id || (e.closest(".changes") ? "changes" : "")) + "/" + e.tagName; })()`)
		stops = append(stops, stop)
		if strings.Contains(stop, "BODY") {
			break
		}
	}
	of := func(part string) (n int) {
		for _, s := range stops {
			if strings.Contains(s, part) {
				n++
			}
		}
		return n
	}
	if first := slices.IndexFunc(stops, func(s string) bool { return strings.Contains(s, "/charts/") }); first < 0 || first >= 10 {
		t.Errorf("the charts come after %d stops, want fewer than 10: %q", first, stops)
	}
	for _, list := range []string{"/rows/", "/scenarios/", "/rates/", "/paths/", "/changes/", "/endpoints/"} {
		if n := of(list); n != 1 {
			t.Errorf("%s has %d stops, want 1: %q", list, n, stops)
		}
	}
	_ = eval[bool](v, `document.querySelector("#rows button[tabindex='0']").focus() ?? true`)
	before := eval[string](v, `document.activeElement.ariaLabel`)
	v.do(chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowUp))
	if after := eval[string](v, `document.activeElement.closest("#rows") ? document.activeElement.ariaLabel : ""`); after == before || after == "" {
		t.Errorf("the arrow keys lead from %q to %q, want the next call", before, after)
	}
}

// Without a connection, nothing on the page looks alive: it says so, the figures are grey, the
// countdown is gone, and the controls are off.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20", "--no-tour=false")
	between, v := visitThrough(t, d.page)
	v.until(isLive)
	v.press("Outage")
	alive := `[...document.querySelectorAll("main input, main select, .bar select, main button:not(td button)")].filter((e) => e.checkVisibility() && !e.matches(":disabled")).length`
	v.until(`document.getElementById("breaker-note").innerText.startsWith("next probe") && document.getElementById("lost").hidden && ` + alive + ` >= 15`)
	between.set(true, false)
	v.until(`!document.getElementById("lost").hidden && document.getElementById("lost").innerText.startsWith("Connection lost. Nothing below is current: it is ")`)
	v.until(`document.getElementById("breaker-note").innerText === "not known now"`)
	// It used to say that flaky-server does not answer.
	v.record("scenario-note")
	time.Sleep(4 * time.Second)
	if eval[bool](v, had("scenario-note", "not known")) {
		t.Error("without a connection the page says something about flaky-server")
	}
	if n := eval[int](v, alive); n != 0 {
		t.Errorf("%d controls work without a connection, want none", n)
	}
	if bright := eval[[]string](v, `[...document.querySelectorAll("main > *, footer, .series-name")].filter((e) => e.checkVisibility() && !["lost", "announce"].includes(e.id) && !(getComputedStyle(e).filter === "grayscale(1)" && getComputedStyle(e).color === getComputedStyle(document.getElementById("connection-for")).color)).map((e) => e.id || e.className)`); len(bright) > 0 {
		t.Errorf("%q look alive, want them grey", bright)
	}
	// The main button of the tour used to have the colour of its ground.
	for _, mistake := range eval[[]string](v, accessibility) {
		t.Errorf("without a connection: %s", mistake)
	}
	between.set(false, false)
	v.until(isLive + ` && document.getElementById("lost").hidden && ` + alive + ` >= 15`)
}

// The row of the upstreams for which there is no place used to show no calls: they keep their own
// names.
func TestOtherUpstreams(t *testing.T) {
	t.Parallel()
	const n = 80
	l, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	for i := range n {
		c := ended(fmt.Sprintf("http://up-%02d", i), time.Second, good, 200, step{reason: good, took: time.Millisecond})
		l.ObserveCall(t.Context(), *c)
	}
	const row = `[...document.querySelectorAll("#upstream-rows tr")].find((r) => r.innerText.startsWith("(others)"))`
	v.until(fmt.Sprintf(`document.getElementById("foot").innerText.startsWith("%d calls") && Boolean(%s)`, n, row))
	_ = eval[bool](v, row+`.click() ?? true`)
	v.until(row + `.getAttribute("aria-current") === "true" && document.querySelectorAll("#rows tr").length > 0`)
	v.until(`document.getElementById("rows-note").innerText.includes("calls of the picked upstream")`)
	known := eval[[]string](v, `[...document.getElementById("series").options].map((o) => o.textContent.split(",")[0])`)
	listed := eval[[]string](v, `[...document.querySelectorAll("#rows tr")].map((r) => r.call.upstream)`)
	for _, name := range listed {
		if slices.Contains(known, name) {
			t.Errorf("a call of %s is listed, which has a row of its own", name)
		}
	}
	if want := n - (len(known) - 2); len(listed) != want { // without "all upstreams" and "(others)"
		t.Errorf("%d calls are listed, want the %d of upstreams without a row", len(listed), want)
	}
	if complaints, _ := v.heard(); len(complaints) > 0 {
		t.Errorf("console = %q, want no errors", complaints)
	}
}

// An upstream that was picked without a connection used to show a countdown to its next probe.
func TestNothingToPickWithoutConnection(t *testing.T) {
	t.Parallel()
	all := []observe.Upstream{
		{Upstream: "http://a", Policy: "default", Burst: 10},
		{Upstream: "http://b", Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(time.Hour)}},
	}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return all })
	between, v := visitThrough(t, at)
	v.until(isLive)
	l.ObserveCall(t.Context(), *call("http://a"))
	row := func(name string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("#upstream-rows tr")].find((r) => r.innerText.startsWith(%q))`, name)
	}
	v.until(`document.querySelectorAll("#rows tr").length === 1 && Boolean(` + row("http://b") + `)`)
	_ = eval[bool](v, row("http://b")+`.click() ?? true`)
	v.until(`document.getElementById("breaker-note").innerText.startsWith("next probe in")`)
	_ = eval[bool](v, row("http://b")+`.click() ?? true`)
	v.until(`document.querySelectorAll("#rows tr").length === 1`)
	between.set(true, false)
	v.until(`!document.getElementById("lost").hidden`)
	v.record("breaker-note")
	for _, press := range []string{row("http://b"), `document.querySelector("#rows tr")`} {
		_ = eval[bool](v, press+`.click() ?? true`)
	}
	_ = eval[bool](v, `(() => { const e = document.getElementById("series"); e.value = [...e.options].find((o) => o.textContent.startsWith("http://b")).value; return e.dispatchEvent(new Event("change")); })()`)
	if notes := eval[[]string](v, `window.recorded["breaker-note"].filter((n) => n !== "not known now")`); len(notes) > 0 {
		t.Errorf("without a connection the circuit shows %q, want that it is not known", notes)
	}
	if eval[bool](v, `document.getElementById("follow").getAttribute("aria-pressed") !== "true" || [...document.querySelectorAll("td button")].some((b) => b.ariaDisabled !== "true")`) {
		t.Error("without a connection the rows can be pressed")
	}
	between.set(false, false)
	v.until(isLive + ` && !document.getElementById("series").disabled && [...document.querySelectorAll("td button")].every((b) => b.ariaDisabled === null)`)
}

// A picked upstream that has two policies, and the row of those without a place, used to list
// nothing after a hundred newer calls of others.
func TestPickedSeriesHasItsCalls(t *testing.T) {
	t.Parallel()
	l, at := own(t, page.Options{})
	record := func(upstream, policy string, times int) {
		for range times {
			c := ended(upstream, time.Second, good, 200, step{reason: good, took: time.Millisecond})
			c.Policy = policy
			l.ObserveCall(t.Context(), *c)
		}
	}
	record("http://a", "default", 1)
	record("http://a", "other", 4)
	for i := range 60 {
		record(fmt.Sprintf("http://up-%02d", i), "default", 1)
	}
	recorded(t, l, 65)
	record("http://beyond", "default", 3)
	record("http://beyond", "other", 3)
	record("http://beyond", "third", 3)
	record("http://a", "default", 400)
	recorded(t, l, 474)
	v := visit(t, at, 1440, false)
	v.until(isLive + ` && document.querySelectorAll("#rows tr").length === 100 && document.querySelectorAll("#upstream-rows tr").length > 60`)
	for row, want := range map[string]string{"http://a, policy other": "http://a other 4", "(others)": "http://beyond"} {
		pick := fmt.Sprintf(`[...document.querySelectorAll("#upstream-rows tr")].find((r) => r.innerText.startsWith(%q))`, row)
		_ = eval[bool](v, pick+`.click() ?? true`)
		v.until(pick + `.getAttribute("aria-current") === "true" && ` + fmt.Sprintf(`(() => {
			const of = [...document.querySelectorAll("#rows tr")].map((r) => r.call.upstream + " " + r.call.policy);
			return of.length > 0 && (of[0] + " " + of.length).startsWith(%q) && new Set(of.map((x) => x.split(" ")[0])).size === 1;
		})()`, want))
	}
}

// Calls without a route are listed when they are picked, also those before a hundred others.
func TestCallsWithoutARoute(t *testing.T) {
	t.Parallel()
	d := start(t)
	ask(t, http.MethodPut, d.faults, "{}")
	for range 2 {
		ask(t, http.MethodGet, d.client+"/nowhere", "")
	}
	for range 120 {
		ask(t, http.MethodGet, d.client+"/process", "")
	}
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("foot").innerText.startsWith("122 calls") && document.querySelectorAll("#rows tr").length === 100`)
	_ = eval[bool](v, `(() => { const e = document.getElementById("series"); e.value = [...e.options].find((o) => o.textContent === "no route").value; return e.dispatchEvent(new Event("change")); })()`)
	v.until(`document.querySelectorAll("#rows tr").length === 2 && [...document.querySelectorAll("#rows tr")].every((r) => r.call.reason === "no_route") && document.getElementById("rows-note").innerText === "2 calls without a route."`)
	v.until(`document.getElementById("call-facts").innerText.includes("no route")`)
}
