package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/observe"
)

// labPage returns the URL of a page of lab. The tests share the pages, so none may change one.
func labPage(t *testing.T, args ...string) string {
	t.Helper()
	if once.demo == "" {
		t.Skip(once.skip)
	}
	once.mu.Lock()
	made, ok := once.pages[strings.Join(args, " ")]
	if !ok {
		path := filepath.Join(once.dir, fmt.Sprintf("lab-%d.html", len(once.pages)))
		made = sync.OnceValues(func() (string, error) {
			// It does not belong to the test that makes it, so it does not end with that.
			ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(once.dir, "lab"), append(args, "--html", path)...)
			cmd.Dir = "../.."
			if out, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("%w: %s", err, out)
			}
			return path, nil
		})
		once.pages[strings.Join(args, " ")] = made
	}
	once.mu.Unlock()
	path, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

const istio = "cmd/lab/testdata/istio.yaml"

// The page of lab is readable at every width: no text is smaller than 11 px, none is cut off, and
// none lies on other text.
func TestLabPageAtEveryWidth(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"one policy": outage("simulate", "--config", istio),
		"a ladder":   outage("compare"),
		"a graph":    {"graph", "docs/examples/shop.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			url := labPage(t, args...)
			for _, width := range []int{320, 375, 400, 600, 750, 768, 1100, 1440, 2200} {
				v := visit(t, url, width, width%200 != 0)
				v.until(areDrawn)
				var problems []string
				text := eval[string](v, problemsOfPage)
				if err := json.Unmarshal([]byte(text), &problems); err != nil {
					t.Fatal(err)
				}
				if len(problems) > 0 {
					t.Errorf("%d px: %d problems: %s", width, len(problems), strings.Join(problems[:min(5, len(problems))], "; "))
				}
				if complaints, requests := v.heard(); len(complaints) > 0 || len(requests) > 1 {
					t.Errorf("%d px: console %q, requests %q, want none but the page", width, complaints, requests)
				}
			}
		})
	}
}

// problemsOfPage returns what is wrong with the page, as a list in JSON.
const problemsOfPage = `(() => {
	const problems = [];
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const boxes = [];
	for (let node; (node = walker.nextNode()); ) {
		const e = node.parentElement;
		if (!node.textContent.trim() || e.closest("title, script, style") || getComputedStyle(e).display === "none" || !e.getClientRects().length) continue;
		const range = document.createRange();
		range.selectNodeContents(node);
		const box = range.getBoundingClientRect();
		const scale = e.getScreenCTM ? e.getScreenCTM().a : 1;
		const size = parseFloat(getComputedStyle(e).fontSize) * scale;
		if (e.closest(".picture") && getComputedStyle(e).fill === "rgb(0, 0, 0)") problems.push("no colour of its own: " + node.textContent);
		if (size < 11) problems.push(size + " px: " + node.textContent);
		if ((box.left < -0.5 || box.right > innerWidth + 0.5) && !e.closest(".picture")) problems.push("cut off: " + node.textContent);
		if (e.closest("figure, .picture")) boxes.push([box, node.textContent]);
	}
	for (let i = 0; i < boxes.length; i++)
		for (let k = i + 1; k < boxes.length; k++) {
			const [a, b] = [boxes[i][0], boxes[k][0]];
			if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) problems.push("one on the other: " + boxes[i][1] + ", " + boxes[k][1]);
		}
	if (document.documentElement.scrollWidth > innerWidth) problems.push("wider than the window: " + document.documentElement.scrollWidth);
	for (const box of document.querySelectorAll(".box")) {
		const texts = [...document.querySelectorAll(".picture text:not(.label)")].map((e) => [e.getBoundingClientRect(), e.textContent]);
		const r = box.getBoundingClientRect();
		const inside = texts.filter(([t]) => t.left >= r.left && t.right <= r.right && t.top >= r.top && t.bottom <= r.bottom);
		if (inside.length !== 3) problems.push("a box of the picture has only " + inside.map(([, text]) => text));
	}
	for (const table of document.querySelectorAll(".scroll:not(.picture)")) if (table.scrollWidth > table.clientWidth) problems.push("the table is cut off by " + (table.scrollWidth - table.clientWidth) + " px");
	if (document.body.firstElementChild.className !== "verdict") problems.push("the verdict is not first");
	return JSON.stringify(problems);
})()`

// TestLabPicture takes the picture in the README: the verdict on an Istio file.
func TestLabPicture(t *testing.T) {
	if !golden.Updating() {
		t.Skip("go test -run TestLabPicture -update takes it")
	}
	const width = 1080
	v := visit(t, labPage(t, "simulate", "--config", istio, "--scenario", "outage-hanging", "--rate", "700"), width, false)
	v.until(areDrawn)
	v.until(`(() => {
		for (const e of document.querySelectorAll("section p, figure:not(:first-of-type), .policies, .policies + .runs, .scroll")) e.remove();
		document.querySelector("code").textContent = ` + strconv.Quote("lab simulate --config "+filepath.Base(istio)+" --scenario outage-hanging --rate 700") + `;
		return true;
	})()`)
	v.shoot("../../docs/verdict.png", "", width, 100)
}

// On paper, the page and the pages of lab have dark text and lines on a light ground, also for
// those whose screen is dark, and nothing to press. Their charts keep their axes and legends.
func TestPrint(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50")
	var upstreams []observe.Upstream
	for i := range 12 {
		upstreams = append(upstreams, observe.Upstream{Upstream: fmt.Sprintf("http://up-%02d", i), Policy: "default", Burst: 10})
	}
	l, several := own(t, page.Options{}, func() []observe.Upstream { return upstreams })
	for range 2 { // so that the charts have lines
		l.ObserveCall(t.Context(), *call("http://up-03"))
		time.Sleep(1100 * time.Millisecond)
	}
	for name, url := range map[string]string{
		"several upstreams": several, "the page": d.page, "lab": labPage(t, outage("simulate", "--config", istio)...), "a graph": labPage(t, "graph", "docs/examples/shop.yaml"),
	} {
		t.Run(name, func(t *testing.T) {
			v := visit(t, url, 1000, true)
			v.until(areDrawn)
			if name == "several upstreams" { // one of them is picked
				v.until(`document.querySelectorAll("#upstream-rows tr").length === 12`)
				_ = eval[bool](v, `document.querySelector("#upstream-rows tr").click() ?? true`)
				v.until(`document.querySelector("#upstream-rows tr[aria-current]") !== null && document.getElementById("upstreams-all").checkVisibility()`)
			}
			v.do(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}))
			for _, problem := range eval[[]string](v, problemsOnPaper) {
				t.Error(problem)
			}
			if dir := os.Getenv("SHOTS"); dir != "" {
				v.shoot(filepath.Join(dir, "print-"+strings.ReplaceAll(name, " ", "-")+".png"), "", 1000, 1200)
			}
		})
	}
}

// problemsOnPaper lists what is wrong with a page that is printed.
const problemsOnPaper = `(() => {
	const problems = [];
	const channel = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
	const light = (text) => { const [r, g, b, a] = text.match(/[\d.]+/g).map(Number); return a === 0 ? null : 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
	const seen = (e) => e.checkVisibility() && e.getClientRects().length > 0;
	for (const e of [document.body, ...document.querySelectorAll("section, .tile, .panel, figure")]) {
		const ground = light(getComputedStyle(e).backgroundColor);
		if (seen(e) && ground !== null && ground < 0.85) problems.push("a dark ground: " + e.outerHTML.slice(0, 80));
	}
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n = walker.nextNode(); n; n = walker.nextNode()) {
		const e = n.parentElement;
		if (!n.textContent.trim() || !seen(e) || e.closest(".hidden, .skip, title, style, script")) continue;
		const style = getComputedStyle(e);
		const ink = light(e instanceof SVGElement ? style.fill : style.color);
		if (ink > 0.35) problems.push("light text: " + n.textContent.trim().slice(0, 60));
	}
	// The name in a row is a button on the screen, and text on paper.
	const plain = (e) => {
		const [style, around] = [getComputedStyle(e), getComputedStyle(e.parentElement)];
		return e.matches("td button") && style.borderStyle === "none" && light(style.backgroundColor) === null && style.color === around.color && style.textDecorationLine === "none";
	};
	for (const e of document.querySelectorAll("button, input, select")) if (seen(e) && !plain(e)) problems.push("something to press: " + e.outerHTML.slice(0, 80));
	for (const e of document.querySelectorAll(".scroll")) {
		const cut = e.closest(".panel")?.getBoundingClientRect().bottom - e.lastElementChild?.getBoundingClientRect().bottom < -1;
		if (seen(e) && (cut || e.scrollHeight > e.clientHeight + 1)) problems.push("cut off: " + e.outerHTML.slice(0, 80));
	}
	const lines = [...document.querySelectorAll("[class^=line-]")].filter(seen);
	if (lines.length < 5) problems.push("only " + lines.length + " lines in the charts and legends");
	for (const e of lines) if (light(getComputedStyle(e).stroke) > 0.5) problems.push("a light line: " + e.getAttribute("class"));
	return problems;
})()`

// The page of eight policies used to have 24 stops of the tab key. All its charts are one: up and
// down lead from one to the next.
func TestStopsOfLabsPage(t *testing.T) {
	t.Parallel()
	v := visit(t, labPage(t, outage("compare")...), 1440, false)
	v.until(areDrawn)
	if n := eval[int](v, `document.querySelectorAll(".plot").length`); n < 24 {
		t.Fatalf("the page has %d charts, want those of eight policies", n)
	}
	stops := 0
	for ; stops < 30; stops++ {
		v.do(chromedp.KeyEvent(kb.Tab))
		if eval[bool](v, `document.activeElement === document.body`) {
			break
		}
	}
	if stops >= 10 {
		t.Errorf("the page has %d stops of the tab key, want fewer than 10", stops)
	}
	_ = eval[bool](v, `document.querySelector(".plot[tabindex='0']").focus() ?? true`)
	const at = `[...document.querySelectorAll(".plot")].indexOf(document.activeElement) + " " + document.querySelectorAll(".plot[tabindex='0']").length`
	for i, key := range []string{kb.ArrowUp, kb.ArrowDown, kb.ArrowDown, kb.ArrowUp} {
		v.do(chromedp.KeyEvent(key))
		if got, want := eval[string](v, at), []string{"0 1", "1 1", "2 1", "1 1"}[i]; got != want {
			t.Errorf("after key %d the focus and the number of stops are %s, want %s", i, got, want)
		}
	}
	// At the first and the last chart, the keys used to do nothing. They scroll the page.
	for key, name := range map[string]string{kb.ArrowUp: "first", kb.ArrowDown: "last"} {
		_ = eval[bool](v, `(() => {
			const all = [...document.querySelectorAll(".plot")];
			all.at(`+map[string]string{"first": "0", "last": "-1"}[name]+`).focus();
			window.left = null;
			addEventListener("keydown", (e) => { window.left = !e.defaultPrevented; }, { once: true });
			return true;
		})()`)
		v.do(chromedp.KeyEvent(key))
		if !eval[bool](v, `window.left`) {
			t.Errorf("at the %s chart the key is not left to the browser", name)
		}
	}
	v.do(chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.Tab))
	if n := eval[int](v, `document.querySelectorAll(".cursor").length`); n < 24 {
		t.Errorf("%d charts have the line where the key points, want all", n)
	}
}
