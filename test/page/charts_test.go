package page_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"fmt"
	"image/png"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/page"
)

// outage are the flags of a run of lab that is short.
func outage(command ...string) []string {
	return append(command, "--scenario", "outage-hanging", "--rate", "100", "--capacity", "300", "--for", "60s")
}

// chartPages returns the URLs of pages with charts: the live page in an outage, and pages of lab.
func chartPages(t *testing.T) map[string]string {
	t.Helper()
	d := start(t, "--traffic", "50")
	ask(t, http.MethodPut, d.faults, "errorRate: 1")
	return map[string]string{
		"the page":  d.page,
		"lab":       labPage(t, outage("simulate", "--config", istio)...),
		"few calls": labPage(t, "simulate", "--clients", "1", "--rate", "1", "--for", "60s"),
		"a graph":   labPage(t, "graph", "docs/examples/shop.yaml"),
	}
}

// areDrawn is an expression: whether all charts have what they show, and the live page its tour,
// circuit and figures too.
const areDrawn = `document.querySelectorAll(".plot path[class^=line-][d^=M]").length >= 3 && (location.protocol === "file:" || ` + isLive + `)`

// The charts of the page and of lab have axes and a legend at every width. Their text is never
// smaller than 11 px, lies on no other text, and is not cut off. Marks of an axis differ. With
// SHOTS=dir, this test writes pictures of every width, in light and dark mode, to dir.
func TestChartsAtEveryWidth(t *testing.T) {
	t.Parallel()
	for name, url := range chartPages(t) {
		for i, width := range []int{375, 768, 1440, 2200} {
			t.Run(fmt.Sprintf("%s, %d px", name, width), func(t *testing.T) {
				v := visit(t, url, width, i%2 == 1)
				v.until(areDrawn)
				for _, problem := range eval[[]string](v, problemsOfCharts) {
					t.Error(problem)
				}
				// A window of another size: the charts follow.
				v.size(max(320, width*3/4), 900)
				v.until(`[...document.querySelectorAll(".plot")].every((plot) => Math.abs(plot.viewBox.baseVal.width - Math.max(200, plot.clientWidth)) < 1)`)
				for _, problem := range eval[[]string](v, problemsOfCharts) {
					t.Errorf("after a change of the window's size: %s", problem)
				}
				v.seesChart()
				if complaints, _ := v.heard(); len(complaints) > 0 {
					t.Errorf("the console has %q, want nothing", complaints)
				}
				if dir := os.Getenv("SHOTS"); dir != "" {
					v.shoot(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+"-"+strconv.Itoa(width)+".png"), "", width, 900)
				}
			})
		}
	}
}

// problemsOfCharts lists what is wrong with the charts of a page.
const problemsOfCharts = `(() => {
	const problems = [];
	const plots = [...document.querySelectorAll(".plot")];
	if (plots.length < 3) problems.push("only " + plots.length + " charts");
	for (const plot of plots) {
		const chart = plot.closest(".chart");
		const title = chart.querySelector("b").textContent;
		const bad = (what) => problems.push(title + ": " + what);
		const outside = chart.parentElement.closest("section").getBoundingClientRect();
		if (plot.getBoundingClientRect().width < 120) bad("a chart of " + plot.getBoundingClientRect().width + " px");
		const texts = [...plot.querySelectorAll("text"), ...[...chart.querySelectorAll("b, .key")].filter((e) => e.checkVisibility())].filter((e) => e.textContent.trim());
		const boxes = texts.map((e) => {
			const size = parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM ? Math.min(e.getScreenCTM().a, e.getScreenCTM().d) : 1);
			if (size < 10.99) bad(e.textContent + " has " + size + " px");
			const box = e.getBoundingClientRect();
			if (box.left < Math.max(0, outside.left) - 0.5 || box.right > Math.min(innerWidth, outside.right) + 0.5) bad(e.textContent + " is cut off");
			return [box, e.textContent];
		});
		for (const [i, [a, one]] of boxes.entries()) for (const [b, other] of boxes.slice(i + 1)) {
			if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) bad(one + " lies on " + other);
		}
		const lines = [...plot.querySelectorAll("path[class^=line-]")].map((e) => e.getAttribute("class"));
		const legend = [...chart.querySelectorAll(".key path")].map((e) => e.getAttribute("class"));
		if (lines.join() !== legend.join()) bad("the lines are " + lines + ", the legend has " + legend);
		// A tab stop with keys of its own, but no value, used to be a picture for a screen reader.
		const [least, now, most] = ["min", "now", "max"].map((name) => Number(plot.getAttribute("aria-value" + name) ?? NaN));
		if (plot.getAttribute("role") !== "slider" || plot.getAttribute("aria-label") !== title || !plot.getAttribute("aria-valuetext") || !(least <= now && now <= most && most > 0)) bad("is for a screen reader " + plot.outerHTML.slice(0, 200));
		if (!lines.length) continue; // the band
		// The marks of an axis have one place on the other axis.
		const marks = (name) => Object.values(Object.groupBy([...plot.querySelectorAll("text")], (e) => e.getAttribute(name)))
			.filter((all) => all.length > 1).map((all) => all.map((e) => e.textContent));
		const [ups, along] = [marks("x"), marks("y").filter((all) => all.some((word) => /s|min|now/.test(word)))];
		if (!ups.length) bad("has no marks from the bottom to the top");
		for (const all of [...ups, ...along]) if (new Set(all).size < all.length) bad("has the marks " + all);
		if (!along.length && chart.matches(":last-of-type")) bad("has no marks of the time");
	}
	return problems;
})()`

// seesChart checks that the window shows the line of the first chart with goodput, and its text: a
// style that is lost leaves the page's elements as they are. A page that was just opened has a
// short line.
func (v *tab) seesChart() {
	v.t.Helper()
	missed := v.missesOfChart()
	for began := time.Now(); missed != "" && time.Since(began) < 30*time.Second; missed = v.missesOfChart() {
		time.Sleep(500 * time.Millisecond)
	}
	if missed != "" {
		v.t.Error(missed)
	}
}

// missesOfChart returns what the first chart with goodput does not show, or "".
func (v *tab) missesOfChart() string {
	v.t.Helper()
	place := eval[struct {
		Left, Top, Width, Height float64
		Line, Text, Ground       string
	}](v, `(() => {
		const plot = document.querySelector(".plot .line-good").closest(".plot");
		plot.scrollIntoView({ block: "center" });
		const { left, top, width, height } = plot.getBoundingClientRect();
		return { left, top, width, height, line: getComputedStyle(plot.querySelector(".line-good")).stroke, text: getComputedStyle(plot.querySelector("text")).fill, ground: getComputedStyle(plot.closest("section")).backgroundColor };
	})()`)
	picture, err := png.Decode(bytes.NewReader(get(v, chromedp.CaptureScreenshot())))
	if err != nil {
		v.t.Fatal(err)
	}
	part := func(text string) (rgb [3]int) {
		for i, word := range regexp.MustCompile(`\d+`).FindAllString(text, 3) {
			rgb[i], _ = strconv.Atoi(word)
		}
		return rgb
	}
	line, text, ground := part(place.Line), part(place.Text), part(place.Ground)
	near := func(a, b [3]int, within int) bool {
		return max(a[0]-b[0], b[0]-a[0], a[1]-b[1], b[1]-a[1], a[2]-b[2], b[2]-a[2]) <= within
	}
	lines, texts := 0, 0
	for y := int(place.Top); y < int(place.Top+place.Height); y++ {
		for x := int(place.Left); x < int(place.Left+place.Width); x++ {
			r, g, b, _ := picture.At(x, y).RGBA()
			is := [3]int{int(r >> 8), int(g >> 8), int(b >> 8)}
			beside := x < int(place.Left)+40 // where the marks are written
			switch {
			case beside && near(is, text, 60):
				texts++
			case !beside && near(is, line, 30):
				lines++
			}
		}
	}
	if lines < 20 || texts < 20 || near(text, ground, 60) || near(line, ground, 30) {
		return fmt.Sprintf("the chart shows %d pixels of its line %s and %d of its text %s on %s, want more of each", lines, place.Line, texts, place.Text, place.Ground)
	}
	return ""
}

// point moves the mouse to a place of the n-th chart, at a share of its width.
func (v *tab) point(n int, share float64) {
	v.t.Helper()
	at := eval[[]float64](v, fmt.Sprintf(`(() => {
		const plot = document.querySelectorAll(".plot")[%d];
		plot.scrollIntoView({ block: "center" });
		const r = plot.getBoundingClientRect();
		return [r.left + 46 + (r.width - 92) * %v, r.top + r.height / 2];
	})()`, n, share))
	v.do(command(input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: input.DispatchMouseEventTypeMouseMoved, X: at[0], Y: at[1], Button: input.MouseButtonNone}))
}

// The legends of lab's charts have the values of the second at which the mouse or an arrow key
// points: every second can be reached, and all charts show the same one.
func TestValuesOfLabsCharts(t *testing.T) {
	t.Parallel()
	v := visit(t, labPage(t, outage("simulate", "--config", istio)...), 1440, false)
	v.until(areDrawn)
	// shown is the second that all legends show, or what in them is not of the page's data.
	const shown = `(() => {
		const number = (text) => text === "–" ? null : parseFloat(text.replaceAll(",", "")) * (text.endsWith(" min") ? 60000 : text.endsWith(" s") ? 1000 : 1);
		const seconds = new Set();
		const wrong = [...document.querySelectorAll("figure")].flatMap((figure) => {
			const data = JSON.parse(figure.querySelector("script").textContent);
			const values = [...figure.querySelectorAll(".value")].map((e) => e.textContent);
			const second = Number(values.at(-1));
			seconds.add(second);
			return data.lines.filter((l, i) => {
				const [is, want] = [number(values[i]), data.rows[second]?.[i]];
				return is === null || want === null ? is !== want : !(Math.abs(is - want) <= Math.max(0.06, want / 150));
			}).map((l) => figure.querySelector("b").textContent + " at " + second + ": " + l.word + " " + values);
		});
		if (document.querySelectorAll(".cursor").length !== document.querySelectorAll(".plot").length) wrong.push("a chart without a line where the pointer is");
		return wrong.length || seconds.size !== 1 ? "wrong: " + wrong + [...seconds] : String([...seconds][0]);
	})()`
	for n, share := range []float64{0.01, 0.5, 0.99} {
		v.point(n, share)
		v.until(`document.querySelectorAll(".cursor").length > 0`)
		second, err := strconv.Atoi(eval[string](v, shown))
		if err != nil || math.Abs(float64(second)-60*share) > 3 {
			t.Errorf("pointing at %v of chart %d shows %s", share, n, eval[string](v, shown))
		}
	}
	v.do(command(input.DispatchMouseEvent, input.DispatchMouseEventParams{Type: input.DispatchMouseEventTypeMouseMoved, X: 2, Y: 2, Button: input.MouseButtonNone}))
	v.until(`document.querySelectorAll(".cursor").length === 0 && [...document.querySelectorAll(".value")].every((e) => e.textContent === "")`)

	_ = eval[bool](v, `document.querySelectorAll(".plot")[1].focus() ?? true`)
	for want := 59; want >= 0; want-- {
		v.do(chromedp.KeyEvent(kb.ArrowLeft))
		if got := eval[string](v, shown); got != strconv.Itoa(want) {
			t.Fatalf("the arrow key shows %s, want second %d", got, want)
		}
	}
	v.do(chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowRight))
	if got := eval[string](v, shown); got != "1" {
		t.Errorf("left at the end and right again shows %s, want second 1", got)
	}
	if label := eval[string](v, `[...["role", "aria-label", "aria-valuemin", "aria-valuenow", "aria-valuemax", "aria-valuetext"].map((name) => document.activeElement.getAttribute(name))].join("; ")`); !regexp.MustCompile(`^slider; Latency of calls that end well; 0; 1; 59; p50 \S+ ms, p99 \S+ m?s, second 1$`).MatchString(label) {
		t.Errorf("for a screen reader the chart is %q, want its values", label)
	}
	v.do(chromedp.KeyEvent(kb.End))
	if got := eval[string](v, shown); got != "59" {
		t.Errorf("the key End shows %s, want the last second", got)
	}
	v.do(chromedp.KeyEvent(kb.Home))
	if got := eval[string](v, shown); got != "0" {
		t.Errorf("the key Home shows %s, want the first second", got)
	}
	v.do(chromedp.KeyEvent(kb.Escape))
	v.until(`document.querySelectorAll(".cursor").length === 0`)
}

// The legends of the page's charts have the values of the lines where the pointer is. The band
// names what was in force there, also for a time too short to be written in it, and changes of the
// circuit. Both used to be titles of elements that were replaced before they could appear.
func TestValuesOfThePagesCharts(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50", "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.querySelector("[data-fault=Healthy]") !== null`)
	v.press("Outage")
	v.until(`document.querySelector("[data-fault=Outage]") !== null`)
	v.press("Healthy")
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Healthy"`)
	v.until(`document.querySelectorAll("#charts path.line-good[d*=L]").length > 0 && document.querySelector("[data-fault=Outage]") !== null && [...document.querySelectorAll("[data-fault=Healthy]")].at(-1).getBoundingClientRect().width > 20`)
	v.point(1, 0.5)
	v.until(`document.querySelectorAll(".cursor").length === 4 && document.getElementById("cursor-time").innerText !== "now"`)
	// at points at a place of a chart, and keeps the page from drawing in between.
	const at = `(n, x) => document.querySelectorAll(".plot")[n].dispatchEvent(new PointerEvent("pointermove", { clientX: x }))`
	for _, problem := range eval[[]string](v, `(() => {
		const problems = [];
		const plot = document.querySelectorAll(".plot")[1];
		const left = plot.getBoundingClientRect().left;
		const marks = [...plot.querySelectorAll("text")].map((e) => [Number(e.textContent.replace(",", "")), Number(e.getAttribute("y")) - 4]);
		const scale = (marks.at(-1)[0] - marks[0][0]) / (marks.at(-1)[1] - marks[0][1]);
		let compared = 0;
		for (const name of ["offered", "attempts", "good", "refused"]) {
			for (const [, x, y] of plot.querySelector(".line-" + name).getAttribute("d").matchAll(/[ML]([\d.]+) ([\d.]+)/g)) {
				(`+at+`)(1, left + Number(x));
				const value = Number(document.querySelector(".key .line-" + name).closest(".key").querySelector(".value").textContent.replace(",", ""));
				if (!(Math.abs(value - (Number(y) - marks[0][1]) * scale) < 1)) problems.push(name + " at " + x + ": " + value + ", the line is at " + (Number(y) - marks[0][1]) * scale);
				compared++;
			}
		}
		if (compared < 8) problems.push("only " + compared + " values");
		return problems;
	})()`) {
		t.Error(problem)
	}
	const band = `[...document.querySelectorAll(".chart")[0].querySelectorAll(".key")].filter((e) => e.checkVisibility()).map((e) => e.innerText.trim().replace(/\s+/g, " "))`
	said := eval[[]string](v, `(() => {
		const r = document.querySelector("[data-fault=Outage]").getBoundingClientRect();
		(`+at+`)(0, (r.left + r.right) / 2);
		const outage = `+band+`;
		const h = [...document.querySelectorAll("[data-fault=Healthy]")].at(-1).getBoundingClientRect();
		(`+at+`)(0, h.right - 1);
		return [...outage, ...`+band+`];
	})()`)
	if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "faults ") && strings.Contains(s, "Outage") }) || !slices.Contains(said, "faults Healthy") {
		t.Errorf("the band says %q where the outage was and after it, want the names of the faults", said)
	}

	// An outage that opens the circuit: the band names the change where it is marked.
	v.press("Outage")
	v.until(`document.querySelector(".band-tick") !== null`)
	changed := eval[[]string](v, `(() => {
		const r = document.querySelector(".band-tick").getBoundingClientRect();
		(`+at+`)(0, r.left);
		return `+band+`;
	})()`)
	if !slices.ContainsFunc(changed, func(s string) bool { return strings.HasPrefix(s, "change closed to open") }) {
		t.Errorf("the band says %q at the first change, want that the circuit opened", changed)
	}
}

// Without scripts a page of lab has the figures as tables: where a browser has them switched off,
// as a viewer of mail has, and where the server that shows the page forbids them, as Jenkins does.
func TestLabPageWithoutScripts(t *testing.T) {
	t.Parallel()
	url := labPage(t, outage("simulate", "--config", istio)...)
	forbids := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		http.ServeFile(w, r, strings.TrimPrefix(url, "file://"))
	}))
	t.Cleanup(forbids.Close)
	for name, at := range map[string]string{"switched off": url, "forbidden": forbids.URL} {
		t.Run(name, func(t *testing.T) {
			v := visit(t, "about:blank", 375, true)
			if name == "switched off" {
				v.do(command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
			}
			v.do(chromedp.Navigate(at))
			tables := eval[[][]string](v, `[...document.querySelectorAll("figure table")].map((e) => e.innerText.split("\n"))`)
			if len(tables) != 6 {
				t.Fatalf("%d tables, want three of the policy and three of Rebound's default", len(tables))
			}
			for _, rows := range tables {
				if text := strings.Join(rows, "\n"); len(rows) < 60 || !strings.Contains(text, "second") || !regexp.MustCompile(`(?m)^59\s`).MatchString(text) {
					t.Errorf("a table is\n%.300s\nwant its title and the figures of 60 seconds", text)
				}
			}
			if eval[bool](v, `document.querySelector(".plot") !== null || document.documentElement.scrollWidth > innerWidth`) {
				t.Error("charts are drawn without scripts, or the page is wider than its window")
			}
		})
	}
	v := visit(t, url, 375, true)
	v.until(areDrawn)
	if eval[bool](v, `document.querySelector("figure table") !== null`) {
		t.Error("the page has tables beside its charts")
	}
}

// On paper, text is not smaller than 11 px for who saw the page in a window where the charts are
// wider than a sheet. Printing an outage of half a minute used to take a minute.
func TestSizeOfTextOnPaper(t *testing.T) {
	t.Parallel()
	pages := chartPages(t)
	for name, width := range map[string]int{"the page": 1440, "lab": 860} {
		t.Run(name, func(t *testing.T) {
			v := visit(t, pages[name], width, true)
			v.until(areDrawn + ` && [...document.querySelectorAll(".plot")].some((plot) => plot.viewBox.baseVal.width > 660)`)
			sizes := textOfPDF(t, v.pdf())
			if len(sizes) < 3 {
				t.Errorf("the sheets have text of %v px, want some", sizes)
			}
			for size, texts := range sizes {
				if size < 10.9 {
					t.Errorf("%d texts have %.1f px on paper, want at least 11", texts, size)
				}
			}
			v.until(`[...document.querySelectorAll(".plot")].every((plot) => Math.abs(plot.viewBox.baseVal.width - plot.clientWidth) < 1)`)
		})
	}
}

// pdf prints the page. A busy machine takes its time for that.
func (v *tab) pdf() []byte {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, 2*time.Minute)
	defer cancel()
	file, err := chromedp.Run(ctx, chromedp.PrintToPDF())
	if err != nil {
		v.t.Fatal(err)
	}
	return file
}

// textOfPDF returns how many texts of which size, in CSS pixels, a file of Chromium has.
func textOfPDF(t *testing.T, file []byte) map[float64]int {
	t.Helper()
	sizes := map[float64]int{}
	for _, at := range regexp.MustCompile(`stream\r?\n`).FindAllIndex(file, -1) {
		z, err := zlib.NewReader(bytes.NewReader(file[at[1]:]))
		if err != nil {
			continue // a stream that is not compressed
		}
		content, err := io.ReadAll(z)
		if err != nil || !bytes.Contains(content, []byte(" Tf")) {
			continue // a font, or a picture
		}
		// q and Q keep and restore the scale, cm multiplies it, Tf and Tm set the font's size.
		scale, font, text := 1.0, 0.0, 1.0
		var kept, operands []float64
		for _, word := range strings.Fields(string(content)) {
			n, err := strconv.ParseFloat(word, 64)
			if err == nil {
				operands = append(operands, n)
				continue
			}
			last := func(n int) float64 { return operands[max(0, len(operands)-n)] }
			switch word {
			case "q":
				kept = append(kept, scale)
			case "Q":
				scale, kept = kept[len(kept)-1], kept[:len(kept)-1]
			case "cm":
				scale *= math.Hypot(last(6), last(5))
			case "Tf":
				font = last(1)
			case "Tm":
				text = math.Hypot(last(6), last(5))
			case "Tj", "TJ":
				sizes[math.Round(1000*font*text*scale/0.75)/1000]++
			}
			operands = operands[:0]
		}
	}
	return sizes
}

// Keys with Alt, Ctrl or Cmd are the browser's, as Alt and Left for the page before: a chart that
// has the focus used to take them.
func TestChartsLeaveTheBrowsersKeys(t *testing.T) {
	t.Parallel()
	v := visit(t, labPage(t, outage("simulate", "--config", istio)...), 1440, false)
	v.until(areDrawn)
	taken := eval[[]string](v, `["", "altKey", "ctrlKey", "metaKey"].flatMap((modifier) => ["ArrowLeft", "ArrowRight"]
		.filter((key) => !document.querySelector(".plot").dispatchEvent(new KeyboardEvent("keydown", { key, [modifier]: true, cancelable: true })))
		.map((key) => modifier + key))`)
	if want := []string{"ArrowLeft", "ArrowRight"}; !slices.Equal(taken, want) {
		t.Errorf("the chart takes the keys %q, want only %q", taken, want)
	}
}

// A pointer on a chart without data points at no time. On the page it used to point at one, which
// stayed, and threw.
func TestPointerBeforeTheFirstData(t *testing.T) {
	t.Parallel()
	_, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	_ = eval[bool](v, `(import("/assets/chart.js").then((m) => { window.chart = m; }), true)`)
	v.until(`Boolean(window.chart)`)
	got := eval[[]any](v, `(() => {
		const errors = [];
		const error = (e) => errors.push(e.message);
		addEventListener("error", error);
		const place = document.body.appendChild(document.createElement("div"));
		const g = chart.group(() => g.at(null));
		chart.chart(place, { title: "empty", height: 100, lines: [{ name: "good", word: "good", of: () => 0, unit: chart.units.count, top: 5 }] }, g);
		const plot = place.querySelector(".plot");
		plot.dispatchEvent(new PointerEvent("pointermove", { clientX: plot.getBoundingClientRect().left + 20 }));
		removeEventListener("error", error);
		place.remove();
		return [g.share, ...errors];
	})()`)
	if len(got) != 1 || got[0] != nil {
		t.Errorf("got the share and errors %v, want no share and none", got)
	}
}

// In a browser that cannot draw the charts, a page of lab keeps its tables.
func TestTablesStayWithoutCharts(t *testing.T) {
	t.Parallel()
	url := labPage(t, outage("simulate", "--config", istio)...)
	v := visit(t, "about:blank", 1440, false)
	v.do(command(cdppage.AddScriptToEvaluateOnNewDocument, cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: "delete window.ResizeObserver"}),
		chromedp.Navigate(url))
	if n := eval[int](v, `typeof ResizeObserver === "undefined" ? document.querySelectorAll("figure table").length : -1`); n != 6 {
		t.Errorf("%d tables, want all six", n)
	}
}

// A tap on a chart used to show nothing: no pointer moved, and what it showed was gone when the
// finger was lifted. A tap beside the charts ends it.
func TestTapOnAChart(t *testing.T) {
	t.Parallel()
	v := visit(t, labPage(t, outage("simulate", "--config", istio)...), 375, false)
	v.do(command(emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true}))
	v.until(areDrawn)
	tap := func(x, y float64) {
		v.do(command(input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: "touchStart", TouchPoints: []*input.TouchPoint{{X: x, Y: y}}}),
			command(input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: "touchEnd", TouchPoints: []*input.TouchPoint{}}))
	}
	at := eval[[]float64](v, `(() => {
		const plot = document.querySelectorAll(".plot")[1];
		plot.scrollIntoView({ block: "center" });
		const r = plot.getBoundingClientRect();
		window.kinds = [];
		for (const kind of ["pointerdown", "pointerleave"]) plot.addEventListener(kind, (e) => kinds.push(kind + " " + e.pointerType));
		return [r.left + 46 + (r.width - 92) * 0.5, r.top + r.height / 2, plot.closest("section").querySelector("h2").getBoundingClientRect().top + 5];
	})()`)
	tap(at[0], at[1])
	v.until(`kinds.join() === "pointerdown touch,pointerleave touch"`)
	if got := eval[[]string](v, `[...document.querySelectorAll(".value")].map((e) => e.textContent)`); eval[int](v, `document.querySelectorAll(".cursor").length`) == 0 || slices.Contains(got, "") {
		t.Errorf("after a tap the legends have %q, want the values of a second", got)
	}
	tap(at[0], eval[float64](v, `(document.querySelectorAll(".plot")[1].scrollIntoView({ block: "start" }), document.querySelectorAll(".chart-head")[2].getBoundingClientRect().top + 5)`))
	v.until(`document.querySelectorAll(".cursor").length === 0`)
}

// Of a chart that has the focus, a screen reader hears what the visitor points at, and not each
// second's figures.
func TestFocusedChartDoesNotChatter(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	v := visit(t, d.page, 1440, false)
	v.until(areDrawn)
	_ = eval[bool](v, `(() => {
		const plot = document.querySelectorAll(".plot")[1];
		plot.focus();
		window.said = [];
		new MutationObserver(() => said.push(plot.getAttribute("aria-valuetext"))).observe(plot, { attributes: true, attributeFilter: ["aria-valuetext", "aria-valuenow"] });
		return true;
	})()`)
	total := v.text("foot")
	v.until(fmt.Sprintf(`parseInt(document.getElementById("foot").innerText.replace(",", "")) > parseInt(%q.replace(",", "")) + 150`, total))
	if said := eval[[]string](v, `window.said`); len(said) > 0 {
		t.Errorf("by itself the chart says %q, want nothing", said)
	}
	v.do(chromedp.KeyEvent(kb.ArrowLeft))
	v.until(`/^\d\d:\d\d:\d\d, offered \d+, attempts \d+, goodput \d+, refused \d+$/.test(document.activeElement.getAttribute("aria-valuetext"))`)
}
