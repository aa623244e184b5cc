package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// fox is a tab of a Firefox, which is driven by WebDriver BiDi.
type fox struct {
	t          *testing.T
	conn       *websocket.Conn
	context    string
	commands   int
	complaints []string // of the console
}

// startFirefox runs a Firefox without a window until the test ends.
func startFirefox(t *testing.T) *fox {
	t.Helper()
	if once.firefox == "" {
		t.Skip("there is no Firefox: install Debian's firefox-esr, or name one in FIREFOX")
	}
	home := t.TempDir()
	cmd := exec.Command(once.firefox, "--headless", "--no-remote", "--profile", home, "--remote-debugging-port", "0", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+home, "MOZ_DISABLE_AUTO_SAFE_MODE=1", "MOZ_CRASHREPORTER_DISABLE=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		select { // it was asked to close
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
		}
		<-ended
	})
	listens := make(chan string, 1)
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if at := regexp.MustCompile(`WebDriver BiDi listening on (ws://\S+)`).FindStringSubmatch(lines.Text()); at != nil {
				listens <- at[1]
			}
		}
		_, _ = io.Copy(io.Discard, stderr)
		_ = cmd.Wait()
	}()
	f := &fox{t: t}
	select {
	case at := <-listens:
		if f.conn, _, err = websocket.Dial(t.Context(), at+"/session", nil); err != nil {
			t.Fatal(err)
		}
	case <-time.After(3 * patience):
		_ = cmd.Process.Kill()
		t.Fatal("Firefox does not listen")
	}
	f.conn.SetReadLimit(-1)
	t.Cleanup(func() {
		_ = f.conn.Write(context.Background(), websocket.MessageText, []byte(`{"id": 0, "method": "browser.close", "params": {}}`))
		_ = f.conn.CloseNow()
	})
	f.command("session.new", `{"capabilities": {}}`, nil)
	f.command("session.subscribe", `{"events": ["log.entryAdded"]}`, nil)
	var tab struct{ Context string }
	f.command("browsingContext.create", `{"type": "tab"}`, &tab)
	f.context = tab.Context
	return f
}

// command sends a command and decodes its result.
func (f *fox) command(method, params string, result any) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 3*patience)
	defer cancel()
	f.commands++
	if err := f.conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"id": %d, "method": %q, "params": %s}`, f.commands, method, params)); err != nil {
		f.t.Fatal(err)
	}
	for {
		_, message, err := f.conn.Read(ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		var answer struct {
			ID      int
			Type    string
			Message string
			Result  json.RawMessage
			Method  string
			Params  struct{ Level, Text string }
		}
		if err := json.Unmarshal(message, &answer); err != nil {
			f.t.Fatalf("%v in %s", err, message)
		}
		if answer.Method == "log.entryAdded" {
			f.complaints = append(f.complaints, answer.Params.Level+": "+answer.Params.Text)
		}
		if answer.ID != f.commands {
			continue
		}
		if answer.Type != "success" {
			f.t.Fatalf("%s: %s", method, answer.Message)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				f.t.Fatalf("%v in %s", err, answer.Result)
			}
		}
		return
	}
}

// visit opens a page in a window of this size.
func (f *fox) visit(url string, width, height int) {
	f.t.Helper()
	f.size(width, height)
	f.command("browsingContext.navigate", fmt.Sprintf(`{"context": %q, "url": %q, "wait": "complete"}`, f.context, url), nil)
}

func (f *fox) size(width, height int) {
	f.t.Helper()
	f.command("browsingContext.setViewport", fmt.Sprintf(`{"context": %q, "viewport": {"width": %d, "height": %d}}`, f.context, width, height), nil)
}

// press presses a key, in WebDriver's code for it.
func (f *fox) press(key rune) {
	f.t.Helper()
	f.command("input.performActions", fmt.Sprintf(`{"context": %q, "actions": [{"type": "key", "id": "keys", "actions": [{"type": "keyDown", "value": %q}, {"type": "keyUp", "value": %[2]q}]}]}`, f.context, string(key)), nil)
}

// foxEval returns the value of an expression on the page.
func foxEval[T any](f *fox, expression string) (value T) {
	f.t.Helper()
	asJSON, err := json.Marshal("JSON.stringify(" + expression + ")")
	if err != nil {
		f.t.Fatal(err)
	}
	var evaluated struct {
		Type             string
		ExceptionDetails struct{ Text string }
		Result           struct{ Value string }
	}
	f.command("script.evaluate", fmt.Sprintf(`{"expression": %s, "target": {"context": %q}, "awaitPromise": false}`, asJSON, f.context), &evaluated)
	if evaluated.Type != "success" {
		f.t.Fatalf("%s: %s", expression, evaluated.ExceptionDetails.Text)
	}
	if err := json.Unmarshal([]byte(evaluated.Result.Value), &value); err != nil {
		f.t.Fatalf("%v in %s of %s", err, evaluated.Result.Value, expression)
	}
	return value
}

// until waits until an expression is true.
func (f *fox) until(expression string) {
	f.t.Helper()
	for began := time.Now(); !foxEval[bool](f, "Boolean("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 2*patience {
			f.t.Fatalf("waited too long for %s; the page shows\n%s", expression, foxEval[string](f, "document.body.innerText"))
		}
	}
}

// In Firefox too: the sentences, what the first screen shows, the figures of the comparison, the
// keyboard, and a console without complaints.
func TestFirefox(t *testing.T) {
	t.Parallel()
	f := startFirefox(t)
	part := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			whole := f.t
			defer func() { f.t = whole }()
			f.t = t
			test(t)
		})
	}
	part("sentences", func(t *testing.T) {
		_, at := own(t, page.Options{})
		f.visit(at, 1440, 900)
		_ = foxEval[bool](f, loadSentence)
		f.until(`window.sentence`)
		got := foxEval[map[string]string](f, said())
		for name, tc := range fed {
			if got[name] != tc.want {
				t.Errorf("%s: %q, want %q", name, got[name], tc.want)
			}
		}
		f.visit("about:blank", 1440, 900) // so that the server has no open stream
	})
	d := start(t, "--traffic", "20", "--no-tour=false")
	part("first screen", func(t *testing.T) {
		for _, size := range screens {
			f.visit(d.page, size.width, size.height)
			f.until(isLive + ` && document.getElementById("tour").checkVisibility() && document.querySelectorAll("#charts path[d^=M]").length > 4 && document.querySelectorAll("#rows tr").length > 0`)
			for _, selector := range size.seen {
				if bottom := foxEval[float64](f, fmt.Sprintf(`document.querySelector(%q).getBoundingClientRect().bottom`, selector)); bottom > float64(size.height) || bottom <= 0 {
					t.Errorf("%d px: %s ends at %.0f px of %d", size.width, selector, bottom, size.height)
				}
			}
			if got := foxEval[string](f, order); got != ordered {
				t.Errorf("%d px: order = %s, want %s", size.width, got, ordered)
			}
			if wide := foxEval[int](f, `document.documentElement.scrollWidth`); wide > size.width {
				t.Errorf("%d px: the page is %d px wide", size.width, wide)
			}
			if dir := os.Getenv("SHOTS"); dir != "" {
				f.shoot(fmt.Sprintf("%s/firefox-%d.png", dir, size.width))
			}
		}
	})
	part("keyboard", func(t *testing.T) {
		f.visit(d.page, 1440, 900)
		f.until(isLive + ` && document.querySelectorAll("#rows tr").length > 10 && document.getElementById("tour").checkVisibility()`)
		const tabKey = '\uE004'
		var stops []string
		for range 10 {
			f.press(tabKey)
			stops = append(stops, foxEval[string](f, `document.activeElement.closest("#charts") ? "charts" : document.activeElement.id || document.activeElement.tagName`))
		}
		if first := slices.Index(stops, "charts"); first < 0 || first >= 9 {
			t.Errorf("the stops of the tab key are %q, want the charts in fewer than ten", stops)
		}
	})
	part("charts", func(t *testing.T) {
		for name, url := range map[string]string{"the page": d.page, "lab": labPage(t, outage("simulate", "--config", istio)...)} {
			f.visit(url, 1440, 900)
			f.until(areDrawn)
			for _, problem := range foxEval[[]string](f, problemsOfCharts) {
				t.Errorf("%s: %s", name, problem)
			}
			_ = foxEval[bool](f, `document.querySelectorAll(".plot")[1].focus() ?? true`)
			const left = '\uE012'
			f.press(left)
			f.until(`document.querySelectorAll(".cursor").length === document.querySelectorAll(".plot").length && document.querySelectorAll(".value")[3].textContent !== ""`)
		}
	})
	part("a page of lab with many charts", func(t *testing.T) {
		f.visit(labPage(t, outage("compare")...), 1440, 900)
		f.until(areDrawn)
		const tabKey, down = '\uE004', '\uE015'
		stops := 0
		for ; stops < 10; stops++ {
			f.press(tabKey)
			if foxEval[bool](f, `document.activeElement.matches(".plot")`) {
				break
			}
		}
		f.press(down)
		if got := foxEval[int](f, `[...document.querySelectorAll(".plot")].indexOf(document.activeElement)`); got != 1 {
			t.Errorf("after %d stops of the tab key and one key down the chart %d has the focus, want the second", stops, got)
		}
		if n := foxEval[int](f, `document.querySelectorAll(".plot[tabindex='0']").length`); n != 1 {
			t.Errorf("the charts are %d stops of the tab key, want 1", n)
		}
	})
	part("verdict", func(t *testing.T) {
		w := &wheel{}
		_, at := own(t, page.Options{Traffic: w})
		f.visit(at, 1440, 900)
		f.until(isLive)
		for want, s := range map[string]page.TrafficState{
			"Counting since the faults changed.": {Seconds: 0.5, With: page.TrafficResult{Sent: 9, Ended: 2, Attempts: 14}, Without: page.TrafficResult{Sent: 9, Ended: 8, Attempts: 9}},
			"The policy is ahead by 30 points: 100 % instead of 70.0 % of the calls succeed, for 1.40 attempts a call instead of 1.00.": {Seconds: 10,
				With: page.TrafficResult{Sent: 200, Ended: 200, Good: 200, Attempts: 280}, Without: page.TrafficResult{Sent: 200, Ended: 200, Good: 140, Attempts: 200}},
		} {
			s.TrafficSettings, s.Limit = page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}, 200
			w.mu.Lock()
			w.state = s
			w.mu.Unlock()
			f.until(fmt.Sprintf(`document.getElementById("verdict").innerText === %q`, want))
		}
		f.visit("about:blank", 1440, 900)
	})
	part("upstreams", func(t *testing.T) {
		all := []observe.Upstream{
			{Upstream: "http://a", Policy: "default", Burst: 10}, {Upstream: "http://b", Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: resilience.Open}},
			{Upstream: "http://c", Policy: "default", Burst: 10},
		}
		l, at := own(t, page.Options{}, func() []observe.Upstream { return all })
		f.visit(at, 1440, 900)
		f.until(isLive)
		for _, name := range []string{"http://a", "http://b", "http://c", "http://c"} {
			l.ObserveCall(t.Context(), *call(name))
		}
		f.until(`document.querySelectorAll("#rows tr").length === 4 && document.querySelector("#upstream-rows tr").innerText.startsWith("http://b")`)
		_ = foxEval[bool](f, `document.querySelector("#upstream-rows button[tabindex='0']").focus() ?? true`)
		const end, enter = '\uE010', '\uE007'
		f.press(end)
		f.press(enter)
		f.until(`document.activeElement.getAttribute("aria-pressed") === "true" && document.querySelectorAll("#rows tr").length < 4 && [...document.querySelectorAll("#rows tr")].every((r) => document.activeElement.textContent.startsWith(r.call.upstream))`)
		f.visit("about:blank", 1440, 900)
	})
	part("tour, and the connection is lost", func(t *testing.T) {
		u, err := url.Parse(d.page)
		if err != nil {
			t.Fatal(err)
		}
		between := newSwitchable(t, u.Host)
		f.visit("http://"+between.listener.Addr().String(), 1440, 900)
		f.until(isLive + ` && document.getElementById("tour").checkVisibility() && !document.getElementById("tour-next").disabled`)
		_ = foxEval[bool](f, `document.getElementById("tour-next").click() ?? true`)
		f.until(`document.getElementById("tour").dataset.step === "1" && document.activeElement.id === "tour-title" && document.querySelector("input[name=scenario]:checked")?.value === "30 % errors"`)
		between.set(true, false)
		f.until(`!document.getElementById("lost").hidden && document.getElementById("tour-next").disabled && document.getElementById("breaker-note").innerText === "not known now"`)
		for _, mistake := range foxEval[[]string](f, accessibility) {
			t.Errorf("without a connection: %s", mistake)
		}
		between.set(false, false)
		f.until(isLive + ` && !document.getElementById("tour-skip").disabled`)
		_ = foxEval[bool](f, `document.getElementById("tour-skip").click() ?? true`)
		f.until(`!document.getElementById("tour").checkVisibility() && sessionStorage.getItem("rebound-before-tour") === null`)
		// Here too, arrow keys choose nothing.
		_ = foxEval[bool](f, `document.querySelector("input[name=rate]:checked").focus() ?? true`)
		const right, space = '\uE014', ' '
		before := foxEval[string](f, `document.activeElement.value`)
		f.press(right)
		if now := foxEval[string](f, `document.querySelector("input[name=rate]:checked").value + " " + (document.activeElement.value !== "`+before+`")`); now != before+" true" {
			t.Errorf("after an arrow key the rate is %s, want %s and the focus on another", now, before)
		}
		f.press(space)
		f.until(`document.querySelector("input[name=rate]:checked").value !== "` + before + `"`)
		// The console has the errors of the connection that was lost.
		f.complaints = nil
		f.visit("about:blank", 1440, 900)
	})
	part("figures agree with both ledgers", func(t *testing.T) {
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
		f.visit(d.page, 1440, 900)
		f.until(isLive)
		ledger := func(of string) int {
			return decode[struct{ Received int }](t, ask(t, http.MethodGet, strings.Replace(d.faults, "/faults", of+"/ledger", 1), "")).Received
		}
		type result struct{ Sent, Ended, Attempts int }
		type state struct{ With, Without result }
		read := func() state { return decode[state](t, ask(t, http.MethodGet, d.page+"api/traffic", "")) }
		still(t, func() string {
			s := read()
			return fmt.Sprint(s.With.Sent == s.With.Ended && s.Without.Sent == s.Without.Ended, " ", ledger(""), " ", ledger("/without"))
		}, "true ")
		ask(t, http.MethodPut, d.faults, "errorRate: 1") // the comparison begins anew
		before := []int{ledger(""), ledger("/without")}
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 50}`)
		time.Sleep(1500 * time.Millisecond)
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
		// The calls are in the figures until they are ten seconds old.
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			s, with, without := read(), ledger("")-before[0], ledger("/without")-before[1]
			drawn := foxEval[map[string]string](f, `Object.fromEntries([...document.querySelectorAll("#compare [id]")].map((e) => [e.id, e.textContent]))`)
			if s.With.Ended > 0 && s.With.Sent == s.With.Ended && s.Without.Sent == s.Without.Ended && s.With.Attempts == with && s.Without.Attempts == without &&
				drawn["with-attempts"] == fmt.Sprint(with) && drawn["without-attempts"] == fmt.Sprint(without) &&
				strings.HasPrefix(drawn["verdict"], "No call succeeds either way, but the policy spares the upstream ") {
				if without != s.Without.Ended || with >= without {
					t.Errorf("%d and %d attempts for %+v, want one a call without the policy, and fewer with it", with, without, s)
				}
				break
			}
			if time.Since(began) > 8*time.Second {
				t.Fatalf("%+v, the ledgers have %d and %d, the page shows %q", s, with, without, drawn)
			}
		}
	})
	if len(f.complaints) > 0 {
		t.Errorf("the console has %q, want nothing", f.complaints)
	}
	f.visit("about:blank", 1440, 900)
}

// shoot takes a picture of the window.
func (f *fox) shoot(file string) {
	f.t.Helper()
	var picture struct{ Data []byte }
	f.command("browsingContext.captureScreenshot", fmt.Sprintf(`{"context": %q}`, f.context), &picture)
	if err := os.WriteFile(file, picture.Data, 0o644); err != nil {
		f.t.Fatal(err)
	}
}
