package page_test

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// shoot takes a picture of the first element that matches selector. An empty selector means the
// whole page.
func (v *tab) shoot(file, selector string, width, height int) {
	v.t.Helper()
	v.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: int64(width), Height: int64(height), DeviceScaleFactor: 1.5}))
	time.Sleep(300 * time.Millisecond) // until the page has redrawn for the new size
	picture := chromedp.FullScreenshot(100)
	if selector != "" {
		picture = chromedp.Screenshot(selector)
	}
	if err := os.WriteFile(file, get(v, picture), 0o644); err != nil {
		v.t.Fatal(err)
	}
}

// TestPictures takes the pictures in docs/: the outage of the tour as a film, the page during an
// outage, and one call. The seed makes the faults the same each time, but times differ between
// machines.
func TestPictures(t *testing.T) {
	if !golden.Updating() {
		t.Skip("go test -run TestPictures -update takes them")
	}
	d := start(t, "--seed", "30", "--traffic", "20", "--no-tour=false", "--listen", "127.0.0.1:8080", "--flaky-listen", "127.0.0.1:5000")
	v := visit(t, d.page, 1440, false)
	v.size(1240, 770)
	v.until(isLive)
	v.click("tour-next")
	time.Sleep(14 * time.Second)
	var outage film
	take := func(n int) {
		for i := range n {
			outage.add(t, get(v, chromedp.CaptureScreenshot()), 80)
			if i+1 < n {
				time.Sleep(time.Second)
			}
		}
	}
	take(2)
	v.click("tour-next")
	v.until(`document.getElementById("tour").dataset.step === "2"`)
	take(12)
	outage.delays[len(outage.delays)-1] = 500 // time to read the verdict
	outage.write(t, "../../docs/outage.gif")

	v.click("tour-skip")
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "30 % errors"`) // as before the tour
	v.press("50")
	time.Sleep(16 * time.Second)
	v.press("Outage")
	time.Sleep(7 * time.Second)
	_ = eval[bool](v, `document.activeElement.blur() ?? true`)
	v.until(`/^next probe in (0\.[3-9]|[1-9])/.test(document.getElementById("breaker-note").innerText)`)
	v.size(1440, 900)
	time.Sleep(300 * time.Millisecond) // until the page has redrawn for the new size
	if err := os.WriteFile("../../docs/live.png", get(v, chromedp.CaptureScreenshot()), 0o644); err != nil {
		t.Fatal(err)
	}

	v.press("Healthy")
	v.until(`document.getElementById("breaker-state").innerText === "Closed"`)
	ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
	ask(t, http.MethodPut, d.faults, "{failFirst: 2, latency: {distribution: fixed, value: 40ms}}")
	time.Sleep(2 * time.Second)
	ask(t, http.MethodGet, d.client+"/process", "")
	v.click("follow")
	v.click("follow")
	v.until(attempts + `.length === 3 && document.getElementById("call-body").innerText.includes("Answered 200")`)
	v.shoot("../../docs/call.png", ".call", 1440, 900)
}
