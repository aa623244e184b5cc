package page_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// labPage writes a page of lab and returns its URL.
func labPage(t *testing.T, args ...string) string {
	t.Helper()
	if once.skip != "" {
		t.Skip(once.skip)
	}
	path := filepath.Join(t.TempDir(), "lab.html")
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./cmd/lab"}, append(args, "--html", path)...)...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return "file://" + path
}

const istio = "cmd/lab/testdata/istio.yaml"

// The page of lab is readable at every width: no text is smaller than 11 px, none is cut off, none
// lies on other text, and every second of a chart has its values.
func TestLabPageAtEveryWidth(t *testing.T) {
	for name, args := range map[string][]string{
		"one policy": {"simulate", "--config", istio},
		"a ladder":   {"compare"},
	} {
		t.Run(name, func(t *testing.T) {
			url := labPage(t, append(args, "--scenario", "outage-hanging", "--rate", "100", "--capacity", "300", "--for", "60s")...)
			for _, width := range []int{320, 400, 600, 750, 800, 1100, 1440, 1600} {
				v := visit(t, url, width, width%200 != 0)
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
		if (size < 11) problems.push(size + " px: " + node.textContent);
		if ((box.left < -0.5 || box.right > innerWidth + 0.5)) problems.push("cut off: " + node.textContent);
		if (e.closest("figure")) boxes.push([box, node.textContent]);
	}
	for (let i = 0; i < boxes.length; i++)
		for (let k = i + 1; k < boxes.length; k++) {
			const [a, b] = [boxes[i][0], boxes[k][0]];
			if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) problems.push("one on the other: " + boxes[i][1] + ", " + boxes[k][1]);
		}
	if (document.documentElement.scrollWidth > innerWidth) problems.push("wider than the window: " + document.documentElement.scrollWidth);
	const charts = [...document.querySelectorAll(".plot > svg")];
	if (!charts.length) problems.push("no charts");
	for (const chart of charts) {
		if (chart.querySelectorAll("rect.at > title").length !== 60) problems.push("a chart without the values of each second");
		if (chart.getBoundingClientRect().width < 120) problems.push("a chart of " + chart.getBoundingClientRect().width + " px");
	}
	const table = document.querySelector(".scroll");
	if (table.scrollWidth > table.clientWidth) problems.push("the table is cut off by " + (table.scrollWidth - table.clientWidth) + " px");
	if (document.body.firstElementChild.className !== "verdict") problems.push("the verdict is not first");
	return JSON.stringify(problems);
})()`

// TestLabPicture takes the picture in the README: the verdict on an Istio file.
func TestLabPicture(t *testing.T) {
	if !*update {
		t.Skip("go test -run TestLabPicture -update takes it")
	}
	const width = 1080
	v := visit(t, labPage(t, "simulate", "--config", istio, "--scenario", "outage-hanging", "--rate", "700"), width, false)
	v.until(`(() => {
		for (const e of document.querySelectorAll("section p, figure:not(:first-of-type), .policies, .policies + .runs, .scroll")) e.remove();
		document.querySelector("code").textContent = ` + strconv.Quote("lab simulate --config "+filepath.Base(istio)+" --scenario outage-hanging --rate 700") + `;
		return true;
	})()`)
	v.shoot("../../docs/verdict.png", "", width, 100)
}
