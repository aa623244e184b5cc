// Package page_test tests the live page in Chromium, and what matters most in Firefox too. It is a
// separate module because the browsers' drivers have dependencies.
//
// The tests use the Chromium that CHROMIUM names and the Firefox that FIREFOX names, or those in
// PATH. Without a browser its tests are skipped. As many tests run at a time as there are
// processors, because most of them wait; -parallel says otherwise. This command takes the pictures
// in docs/ again:
//
//	go test -run='TestPictures|TestLabPicture' -update
package page_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is the timeout for everything on the page. It allows for a busy machine.
const patience = 30 * time.Second

// shared holds the browser, the programs, and the pages of lab. They are made once: it takes
// seconds.
type shared struct {
	browser context.Context
	dir     string // for the programs and the pages of lab
	demo    string // empty without a browser
	skip    string // why there is no Chromium
	firefox string // the path of a Firefox, or empty

	mu    sync.Mutex
	pages map[string]func() (string, error) // paths of pages of lab by the flags that make them
}

var once struct { //nolint:gochecknoglobals // see shared
	sync.Once
	shared
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// run makes what the tests share, and returns the exit code. Nothing here may exit or hide a panic:
// a set-up that fails once looked like a package whose tests all passed.
func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "set-up:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "page")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	chromium := find("CHROMIUM", "chromium", "chromium-browser", "google-chrome")
	once.firefox = find("FIREFOX", "firefox-esr", "firefox")
	if chromium == "" {
		once.skip = "there is no Chromium: install Debian's chromium, or name one in CHROMIUM"
	} else {
		allocator, stop := chromedp.NewExecAllocator(context.Background(),
			chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun,
			chromedp.UserDataDir(filepath.Join(dir, "profile")),
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
			chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
			chromedp.Flag("hide-scrollbars", true), chromedp.Flag("font-render-hinting", "none"),
		)
		defer stop()
		b, closeBrowser := chromedp.NewContext(allocator)
		defer closeBrowser()
		if err := chromedp.Do(b); err != nil {
			return fail(fmt.Errorf("%s: %w", chromium, err))
		}
		once.browser = b
	}
	if chromium != "" || once.firefox != "" {
		once.dir, once.demo, once.pages = dir, filepath.Join(dir, "demo"), map[string]func() (string, error){}
		build := exec.Command("go", "build", "-o", dir, "./cmd/demo", "./cmd/lab")
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return fail(fmt.Errorf("%w: %s", err, out))
		}
	}
	return m.Run()
}

// A set-up that fails used to end with "ok" and without a test: a deferred exit hid its panic.
func TestFailedSetUp(t *testing.T) {
	t.Parallel()
	broken, err := exec.LookPath("false")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "CHROMIUM="+broken)
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), broken) {
		t.Errorf("with a Chromium that does not start: got %v and %s, want exit code 1 and its name", err, out)
	}
}

// find returns the browser that a variable of the environment names, or one in PATH, or "".
func find(variable string, names ...string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// demo is a running demo.
type demo struct{ page, client, flaky, faults string }

// start runs the demo on free ports until the test ends. It makes no calls and offers no tour,
// unless args say so.
func start(t *testing.T, args ...string) demo {
	t.Helper()
	return shipped(t, append([]string{"--traffic", "0", "--no-tour"}, args...)...)
}

// shipped runs the demo as start does, but with its own settings where args have none.
func shipped(t *testing.T, args ...string) demo {
	t.Helper()
	if once.demo == "" {
		t.Skip(once.skip)
	}
	free := "127.0.0.1:0"
	cmd := exec.CommandContext(t.Context(), once.demo, append([]string{"--listen", free, "--admin", free, "--flaky-listen", free, "--flaky-admin", free}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		for lines.Scan() { // until the demo ends
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("stderr of the demo: %s", stderr)
		}
	})
	var d demo
	url := regexp.MustCompile(`http://\S+`)
	for lines.Scan() {
		u := url.FindString(lines.Text())
		switch {
		case strings.HasPrefix(lines.Text(), "http://"):
			d.page = u
		case strings.Contains(lines.Text(), "through the client"):
			d.client = strings.TrimSuffix(u, "/process")
		case strings.Contains(lines.Text(), "the upstream itself"):
			d.flaky = strings.TrimSuffix(u, "/process")
		case strings.Contains(lines.Text(), "the upstream's faults"):
			d.faults = u
			return d
		}
	}
	t.Fatalf("the demo did not start, stderr: %s", stderr)
	return d
}

// visit opens the page in a new tab of this width.
func visit(t *testing.T, url string, width int, dark bool) *tab {
	t.Helper()
	if once.skip != "" {
		t.Skip(once.skip)
	}
	ctx, closeTab := chromedp.NewContext(once.browser, chromedp.WithNewBrowserContext())
	v := &tab{t: t, ctx: ctx}
	t.Cleanup(closeTab)
	v.do() // creates the tab
	if err := chromedp.Listen(ctx, v.hear); err != nil {
		t.Fatal(err)
	}
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	v.do(
		// The tests run at the same time, and each of their pages looks as if it were in front.
		command(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}),
		command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}),
		chromedp.EmulateViewport(int64(width), 900),
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
		chromedp.Navigate(url))
	return v
}

// size sets the size of the window.
func (v *tab) size(width, height int) {
	v.t.Helper()
	v.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: int64(width), Height: int64(height), DeviceScaleFactor: 1}))
	v.until(fmt.Sprintf(`innerWidth === %d && innerHeight === %d`, width, height))
}

// tab is a tab of the browser. It keeps the console's errors and the requests of its page.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
	requests   []string
}

func (v *tab) hear(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			v.complaints = append(v.complaints, fmt.Sprintf("console.%s %s%s", e.Type, a.Value, a.Description))
		}
	case *runtime.EventExceptionThrown:
		v.complaints = append(v.complaints, "exception: "+e.ExceptionDetails.Text+" "+describe(e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		v.complaints = append(v.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case *network.EventRequestWillBeSent:
		v.requests = append(v.requests, e.Request.URL)
	}
}

func (v *tab) heard() (complaints, requests []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.complaints...), append([]string(nil), v.requests...)
}

// command wraps a command of the DevTools protocol as an action.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, c, params)
		return err
	})
}

func (v *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if len(actions) == 0 { // a tab lives as long as the context of its first action
		if err := chromedp.Do(v.ctx); err != nil {
			v.t.Fatal(err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(v.ctx, 2*patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		v.t.Fatal(err)
	}
}

// get runs an action and returns its value.
func get[T any](v *tab, action chromedp.Action[T]) T {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, 2*patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		v.t.Fatal(err)
	}
	return value
}

// eval returns the value of an expression on the page.
func eval[T any](v *tab, expression string) T {
	v.t.Helper()
	return get(v, chromedp.Evaluate[T](expression))
}

// until waits until an expression is true. It returns the time that took.
func (v *tab) until(expression string) time.Duration {
	v.t.Helper()
	return v.untilIn(patience, expression)
}

// untilIn waits for this long.
func (v *tab) untilIn(timeout time.Duration, expression string) time.Duration {
	v.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(v.ctx, timeout)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(20*time.Millisecond))); err != nil {
		v.t.Fatalf("%v while waiting for %s; the page shows\n%s", err, expression, eval[string](v, "document.body.innerText"))
	}
	return time.Since(began)
}

// record keeps every text that an element has from now on. Wait with had for one that stays for a
// short time only: until alone can come too late.
func (v *tab) record(id string) {
	v.t.Helper()
	_ = eval[bool](v, fmt.Sprintf(`(() => {
		const e = document.getElementById(%[1]q);
		const texts = ((window.recorded ??= {})[%[1]q] = [e.textContent]);
		new MutationObserver(() => texts.push(e.textContent)).observe(e, { childList: true, characterData: true, subtree: true });
		return true;
	})()`, id))
}

// had is an expression: whether an element has had a text with this begin since record.
func had(id, begin string) string {
	return fmt.Sprintf(`window.recorded[%q].some((text) => text.startsWith(%q))`, id, begin)
}

// text returns the visible text of an element.
func (v *tab) text(id string) string {
	v.t.Helper()
	return eval[string](v, fmt.Sprintf("document.getElementById(%q).innerText", id))
}

// press clicks on the control with this text. A control whose text changes by itself is clicked
// with click.
func (v *tab) press(words string) {
	v.t.Helper()
	v.clicks(fmt.Sprintf(`[...document.querySelectorAll("button, label")].find((e) => e.innerText.trim() === %q)`, words))
}

func (v *tab) click(id string) {
	v.t.Helper()
	v.clicks(fmt.Sprintf(`document.getElementById(%q)`, id))
}

// clicks clicks on a control once, as soon as it is there and takes a click: on a busy machine the
// page now and then misses the server for three seconds and turns its controls off.
func (v *tab) clicks(control string) {
	v.t.Helper()
	v.until(fmt.Sprintf(`(() => {
		const e = %s;
		const takes = e?.querySelector("input") ?? e;
		if (!takes || takes.matches(":disabled")) return false;
		takes.click();
		return true;
	})()`, control))
}

// filter lists the calls with a reason. An empty one lists all calls.
func (v *tab) filter(reason string) {
	v.t.Helper()
	v.until(fmt.Sprintf(`[...document.getElementById("reason").options].some((o) => o.value === %q)`, reason))
	_ = eval[bool](v, fmt.Sprintf(`(() => { const e = document.getElementById("reason"); e.value = %q; return e.dispatchEvent(new Event("change")); })()`, reason))
	v.until(fmt.Sprintf(`document.getElementById("rows-note").innerText.includes("with this reason") === %v`, reason != ""))
}

func ask(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func decode[T any](t *testing.T, body string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

func describe(o *runtime.RemoteObject) string {
	if o == nil {
		return ""
	}
	return o.Description
}
