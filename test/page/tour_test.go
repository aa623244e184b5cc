package page_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/rebound-dev/rebound/internal/page"
)

// Each step of the tour puts its fault and its traffic in force, and its title has the focus, so
// that a screen reader reads it. After the tour a button begins it again.
func TestTour(t *testing.T) {
	t.Parallel()
	d := start(t, "--no-tour=false")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("tour").checkVisibility() && !document.getElementById("tour-again").checkVisibility()`)
	step := func(n int, name, scenario string, want page.TrafficSettings) {
		t.Helper()
		v.until(fmt.Sprintf(`document.getElementById("tour-title").textContent === "%d of 5: %s" && document.querySelector("input[name=scenario]:checked")?.value === %q && document.querySelector("input[name=rate]:checked")?.value === "%d"`, n, name, scenario, want.PerSecond))
		if focused := eval[string](v, `document.activeElement.id + " " + document.activeElement.getAttribute("aria-describedby")`); focused != "tour-title tour-body" {
			t.Errorf("step %d: the focus is on %s, want the title, with its text", n, focused)
		}
		if got := decode[page.TrafficSettings](t, ask(t, http.MethodGet, d.page+"api/traffic", "")); got != want {
			t.Errorf("step %d: traffic = %+v, want %+v", n, got, want)
		}
	}
	all := []struct{ name, scenario string }{
		{"A transient error", "30 % errors"}, {"An outage", "Outage"}, {"An upstream that hangs", "Hanging"}, {"One sick pod", "One sick endpoint"}, {"Overload", "Overload"},
	}
	for i, s := range all {
		want := page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}
		switch i {
		case 3:
			want.Sick = 1
		case 4:
			want.PerSecond = 100
		}
		v.click("tour-next")
		step(i+1, s.name, s.scenario, want)
	}
	v.click("tour-next")
	v.until(`!document.getElementById("tour").checkVisibility() && document.getElementById("tour-again").checkVisibility()`)
	v.until(`document.querySelector("input[name=rate]:checked")?.value === "0"`) // as before
	v.press("Tour")
	step(1, all[0].name, all[0].scenario, page.TrafficSettings{PerSecond: 20, Path: page.PathBoth})
}

// The tour that was refused used to be lost for good.
func TestTourAfterNoThankYou(t *testing.T) {
	t.Parallel()
	d := start(t, "--no-tour=false")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("tour").checkVisibility()`)
	v.press("No, thank you")
	v.until(`!document.getElementById("tour").checkVisibility() && document.getElementById("tour-again").checkVisibility()`)
	v.press("Tour")
	v.until(`document.getElementById("tour").dataset.step === "1" && document.getElementById("tour").checkVisibility() && localStorage.getItem("rebound-tour") === null`)
}

// With --no-tour, nothing offers one.
func TestNoTour(t *testing.T) {
	t.Parallel()
	d := start(t)
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("reset").checkVisibility()`)
	if eval[bool](v, `document.getElementById("tour").checkVisibility() || document.getElementById("tour-again").checkVisibility()`) {
		t.Error("a tour is offered, want none")
	}
}

// The button makes one of the three endpoints sick, which is then ejected. Reset used to leave it
// sick. The faults are marked on the time axis.
func TestOneSickEndpoint(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50", "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "Healthy" && document.querySelector("[data-fault=Healthy]") !== null`)
	sick := func() int {
		return decode[page.TrafficSettings](t, ask(t, http.MethodGet, d.page+"api/traffic", "")).Sick
	}
	v.press("One sick endpoint")
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "One sick endpoint" && document.querySelectorAll("#endpoint-rows tr[data-state=ejected]").length === 1`)
	if n := sick(); n != 1 {
		t.Errorf("%d endpoints are sick, want 1", n)
	}
	v.until(`document.querySelector("[data-fault='One sick endpoint']") !== null && document.querySelectorAll("#charts .fault-line").length >= 3`)
	if !eval[bool](v, `(() => {
		const [a, b] = ["Healthy", "One sick endpoint"].map((name) => [...document.querySelectorAll("[data-fault='" + name + "']")].at(-1).getBoundingClientRect());
		return a.left < b.left && Math.abs(a.right - b.left) < 2 && [...document.querySelectorAll("#charts .fault-line")].some((e) => Math.abs(e.getBoundingClientRect().left - b.left) < 2);
	})()`) {
		t.Error("the marks of the faults do not follow each other, or no line is where the second begins")
	}
	v.press("Reset")
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Healthy" && document.getElementById("scenario-note").innerText !== ""`)
	if n := sick(); n != 0 {
		t.Errorf("after Reset %d endpoints are sick, want none", n)
	}
}

// A step whose fault could not be set used to look as if it were in force: the error was far below.
func TestTourStepThatFails(t *testing.T) {
	t.Parallel()
	d := start(t, "--no-tour=false")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("tour").checkVisibility() && document.querySelector("input[name=scenario]:checked") !== null`)
	_ = eval[bool](v, `(() => {
		const real = window.fetch;
		window.away = "api/faults";
		window.fetch = (path, o) => (path === window.away && o.method === "PUT" ? Promise.reject(new Error("away")) : real(path, o));
		return true;
	})()`)
	says := func(text string) string {
		return fmt.Sprintf(`document.getElementById("tour-failed").checkVisibility() && document.getElementById("tour-failed").innerText === %q`, text)
	}
	v.click("tour-next")
	v.until(`document.getElementById("tour").dataset.step === "1" && ` + says("This step is not in force. 30 % errors failed: away"))
	_ = eval[bool](v, `(window.away = "api/traffic", true)`)
	for step := 2; step <= 5; step++ {
		v.click("tour-next")
		v.until(fmt.Sprintf(`document.getElementById("tour").dataset.step === "%d"`, step))
	}
	v.until(says("This step is not in force. Changing the traffic failed: away"))
	_ = eval[bool](v, `(window.away = "", true)`)
	v.click("tour-back")
	v.until(`document.getElementById("tour").dataset.step === "4" && !document.getElementById("tour-failed").checkVisibility() && document.querySelector("input[name=scenario]:checked")?.value === "One sick endpoint"`)
}
