package page_test

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// axe-core finds nothing serious on the page. AXE names its axe.min.js; without it, the one that
// `npm ci --prefix test/page/axe` installs is used.
func TestAxe(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(cmp.Or(os.Getenv("AXE"), "axe/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Skip("there is no axe-core: npm ci --prefix test/page/axe, or AXE=axe.min.js")
	}
	// serious are the rules that the page breaks, with the elements.
	const serious = `axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then((r) => r.violations
		.filter((x) => ["serious", "critical"].includes(x.impact)).map((x) => x.id + ": " + x.nodes.map((n) => n.html.slice(0, 140) + " " + n.failureSummary.replaceAll("\n", " ")).join("; ")))`
	check := func(t *testing.T, v *tab) {
		t.Helper()
		_ = eval[bool](v, string(script)+"; true")
		_ = eval[bool](v, `(window.found = null, `+serious+`.then((all) => { window.found = all; }), true)`)
		v.untilIn(3*patience, `window.found !== null`)
		for _, mistake := range eval[[]string](v, `window.found`) {
			t.Error(mistake)
		}
	}
	for name, dark := range map[string]bool{"light": false, "dark": true} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "--traffic", "50", "--no-tour=false")
			v := visit(t, d.page, 1440, dark)
			v.until(isLive + ` && document.querySelectorAll("#rows tr").length > 5`)
			check(t, v)
			for step := range 2 { // while axe works, the stream may be late, and a disabled control takes no click
				v.until(isLive + ` && !document.querySelector("#tour-next:disabled, #scenarios input:disabled")`)
				v.click("tour-next")
				v.until(fmt.Sprintf(`document.getElementById("tour").dataset.step === "%d"`, step+1))
			}
			v.until(`document.getElementById("breaker-state").innerText === "Open" && document.getElementById("tour").dataset.step === "2" && document.querySelector("#charts .shade-open") !== null`)
			check(t, v)
			v.size(375, 667)
			check(t, v)
		})
	}
	for name, dark := range map[string]bool{"light": false, "dark": true} {
		t.Run("connection lost, "+name, func(t *testing.T) {
			d := start(t, "--traffic", "50", "--no-tour=false")
			u, err := url.Parse(d.page)
			if err != nil {
				t.Fatal(err)
			}
			between := newSwitchable(t, u.Host)
			v := visit(t, "http://"+between.listener.Addr().String(), 1440, dark)
			v.until(isLive + ` && document.querySelectorAll("#rows tr").length > 5`)
			v.click("tour-next")
			v.until(`document.getElementById("tour").dataset.step === "1" && document.getElementById("tour-back").disabled === false`)
			between.set(true, false)
			v.until(`!document.getElementById("lost").hidden && document.getElementById("tour-next").checkVisibility()`)
			check(t, v)
		})
	}
	for name, args := range map[string][]string{"a page of lab": outage("simulate", "--config", istio), "a graph of lab": {"graph", "docs/examples/shop.yaml"}} {
		for i, width := range []int{1440, 375} {
			t.Run(fmt.Sprintf("%s, %d px", name, width), func(t *testing.T) {
				v := visit(t, labPage(t, args...), width, i == 1)
				v.until(areDrawn)
				check(t, v)
			})
		}
	}
	for i, width := range []int{1440, 375} {
		t.Run(fmt.Sprintf("several upstreams with endpoints, %d px", width), func(t *testing.T) {
			all := []observe.Upstream{
				{Upstream: "http://a", Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: resilience.Open}},
				{Upstream: "http://b", Policy: "default", Burst: 10, Endpoints: []endpoint.State{{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80", Circuit: resilience.Open, Ejected: true}, {Address: "10.0.0.3:80", Circuit: resilience.HalfOpen, Ejected: true}}},
			}
			l, at := own(t, page.Options{}, func() []observe.Upstream { return all })
			v := visit(t, at, width, i == 1)
			v.until(isLive)
			l.ObserveCall(t.Context(), *call("http://b"))
			v.until(`document.querySelectorAll("#rows tr").length === 1 && document.querySelectorAll("#upstream-rows tr").length === 2`)
			check(t, v)
			v.until(`(document.querySelectorAll("#upstream-rows tr")[1].click(), true)`)
			v.until(`document.querySelectorAll("#upstream-rows tr[aria-current]").length === 1 && document.querySelectorAll("#endpoint-rows tr").length === 3 && document.getElementById("endpoints").checkVisibility()`)
			check(t, v)
		})
	}
}
