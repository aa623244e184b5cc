package page_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
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

// TestPictures takes the pictures in docs/: the page during an outage, and one call. The seed makes
// the faults the same each time, but times differ between machines.
func TestPictures(t *testing.T) {
	if !*update {
		t.Skip("go test -run TestPictures -update takes them")
	}
	d := start(t, "--seed", "30", "--traffic", "50", "--error-rate", "0.3", "--listen", "127.0.0.1:8080", "--flaky-listen", "127.0.0.1:5000")
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	phase := func(faults string, lasts time.Duration) {
		ask(t, http.MethodPut, d.faults, faults)
		time.Sleep(lasts)
	}
	time.Sleep(20 * time.Second)
	phase("errorRate: 1", 9*time.Second)
	phase("errorRate: 0.3", 16*time.Second)
	phase("errorRate: 1", 7*time.Second)
	// A call with several attempts shows more than a rejected one.
	v.filter("status_503")
	v.pick(3)
	v.filter("")
	v.until(`/^next probe in (1\.|[2-9])/.test(document.getElementById("breaker-note").innerText)`) // it stays open meanwhile
	v.shoot("../../docs/live.png", "", 1440, 900)

	phase("errorRate: 0", 0)
	v.until(`document.getElementById("breaker-state").innerText === "Closed"`)
	ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
	phase("{failFirst: 2, latency: {distribution: fixed, value: 40ms}}", 2*time.Second)
	ask(t, http.MethodGet, d.client+"/process", "")
	v.press("Follow the newest")
	v.until(attempts + `.length === 3 && document.getElementById("call-body").innerText.includes("Answered 200")`)
	v.shoot("../../docs/call.png", ".call", 1440, 900)
}

// pick clicks on the newest listed good call with at least this many attempts.
func (v *tab) pick(n int) {
	v.t.Helper()
	v.until(`(() => {
		const row = [...document.querySelectorAll("#rows tr")].find((r) => Number(r.cells[3].innerText) >= ` + strconv.Itoa(n) + ` && r.call.good && r.call.duration > 50);
		row?.click();
		return Boolean(row);
	})()`)
}

// With SHOTS=dir, this test writes pictures of every width, in light and dark mode, to dir.
func TestLooks(t *testing.T) {
	dir := os.Getenv("SHOTS")
	if dir == "" {
		t.Skip("SHOTS names no directory to put pictures in")
	}
	d := start(t, "--traffic", "50", "--traces", "http://localhost:16686")
	time.Sleep(12 * time.Second)
	ask(t, http.MethodPut, d.faults, "errorRate: 1")
	time.Sleep(9 * time.Second)
	ask(t, http.MethodPut, d.faults, "errorRate: 0.3")
	time.Sleep(12 * time.Second)
	for name, dark := range map[string]bool{"light": false, "dark": true} {
		for _, width := range []int{375, 768, 1440} {
			v := visit(t, d.page, width, dark)
			v.until(isLive)
			time.Sleep(1500 * time.Millisecond)
			v.shoot(filepath.Join(dir, name+"-"+strconv.Itoa(width)+".png"), "", width, 900)
		}
	}
}
