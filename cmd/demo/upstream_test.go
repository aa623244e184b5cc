package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// The upstream of each way has the same faults and seed, also after every kind of change, and a
// ledger of its own.
func TestTwins(t *testing.T) {
	lines, stop := start(t, noEnv, "--traffic", "0")
	defer stop()
	var admin, upstream string
	for lines.Scan() && admin == "" {
		switch fields := strings.Fields(lines.Text()); {
		case strings.Contains(lines.Text(), "the upstream itself"):
			upstream = fields[0]
		case strings.Contains(lines.Text(), "the upstream's faults"):
			admin = strings.TrimSuffix(fields[0], "/faults")
		}
	}
	change := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, admin+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, text, err := fetch.Read((&http.Client{Transport: tr}).Do(r))
		if err != nil {
			t.Fatal(err)
		}
		return resp, text
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // in the faults after it
	}{
		{http.MethodGet, "/faults", "", 200, "median: 25ms"},
		{http.MethodPut, "/faults?seed=7", "errorRate: 0.5", 200, "errorRate: 0.5"},
		{http.MethodPatch, "/faults", "hangRate: 0.25", 200, "hangRate: 0.25"},
		{http.MethodPut, "/faults", "errorRate: 2", 400, "errorRate: 0.5"},
		// These used to change the twin alone.
		{http.MethodPut, "/without/faults", "errorRate: 1", 405, "errorRate: 0.5"},
		{http.MethodPatch, "/without/faults", "errorRate: 1", 405, "errorRate: 0.5"},
		{http.MethodDelete, "/without/faults", "", 405, "errorRate: 0.5"},
		{http.MethodPut, "/without/ledger", "", 405, "errorRate: 0.5"},
		{http.MethodDelete, "/without/ledger", "", 204, "errorRate: 0.5"},
		{http.MethodPut, "/faults", "{}", 200, "errorRate: 0\n"},
	} {
		if resp, text := change(c.method, c.path, c.body); resp.StatusCode != c.status {
			t.Errorf("%s %s %s = %d %s, want %d", c.method, c.path, c.body, resp.StatusCode, text, c.status)
		}
		first, one := change(http.MethodGet, "/faults", "")
		twin, other := change(http.MethodGet, "/without/faults", "")
		if one != other || first.Header.Get("Rebound-Seed") != twin.Header.Get("Rebound-Seed") || !strings.Contains(one, c.want) {
			t.Errorf("after %s %s: %s (seed %s) and %s (seed %s), want the same twice, with %q", c.method, c.body, one, first.Header.Get("Rebound-Seed"), other, twin.Header.Get("Rebound-Seed"), c.want)
		}
	}
	getBody(t, upstream)
	for path, want := range map[string]string{"/ledger": `"received":1`, "/without/ledger": `"received":0`} {
		if got := getBody(t, admin+path); !strings.Contains(got, want) {
			t.Errorf("%s = %s, want %s in it", path, got, want)
		}
	}
}

// A change whose body could not be read used to be answered with 200, although neither upstream had
// it.
func TestTwinsRefuseABodyThatCannotBeRead(t *testing.T) {
	reached := func(http.ResponseWriter, *http.Request) { t.Error("an upstream got the change, want none") }
	admin := twins(http.HandlerFunc(reached), http.HandlerFunc(reached), func() { t.Error("the comparison began anew, want it to go on") })
	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/faults", iotest.ErrReader(errors.New("malformed chunk"))))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "cannot read the body: malformed chunk") {
		t.Errorf("got %d %s, want 400 with the cause", w.Code, w.Body)
	}
}

// The comparison begins anew with a change of the faults, and only then.
func TestTwinsTellOfChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		method, path string
		status, want int
	}{
		"changed":    {http.MethodPut, "/faults", 0, 1},
		"refused":    {http.MethodPut, "/faults", http.StatusBadRequest, 0},
		"read":       {http.MethodGet, "/faults", 0, 0},
		"the ledger": {http.MethodDelete, "/ledger", http.StatusNoContent, 0},
	} {
		t.Run(name, func(t *testing.T) {
			changes := 0
			one := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tc.status > 0 {
					w.WriteHeader(tc.status)
				}
				_, _ = io.WriteString(w, "{}")
			})
			twins(one, one, func() { changes++ }).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(tc.method, tc.path, strings.NewReader("{}")))
			if changes != tc.want {
				t.Errorf("told of %d changes, want %d", changes, tc.want)
			}
		})
	}
}

// With a file that leads to another upstream, the comparison used to count 0 attempts with the
// policy. It is not available then.
func TestNoComparisonWithAnotherUpstream(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer other.Close()
	for name, listener := range map[string]string{"its answers tell of attempts": "", "they do not": "listener: {disclose: false}\n"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rebound.yaml")
			if err := os.WriteFile(file, []byte(listener+"routes: [{name: process, match: GET /process, upstream: "+other.URL+"}]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			lines, stop := start(t, noEnv, "--traffic", "100", "--config", file)
			defer stop()
			if !lines.Scan() {
				t.Fatal("the demo did not start")
			}
			var s page.TrafficState
			wait.Until(t, 20*time.Second, "five answers", func() bool {
				if err := json.Unmarshal([]byte(getBody(t, lines.Text()+"api/traffic")), &s); err != nil {
					t.Fatal(err)
				}
				return s.With.Ended >= 5
			})
			if !s.Elsewhere || s.With.Attempts > 0 {
				t.Errorf("traffic = %+v, want it to go elsewhere", s)
			}
		})
	}
}

// The tour is about the demo's own policy and endpoints. Its step with a sick endpoint used to fail
// with a file, which names one endpoint only.
func TestTourIsOfTheDemosOwnPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rebound.yaml")
	if err := os.WriteFile(file, policyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want bool
	}{
		"its own policy": {nil, true},
		"turned off":     {[]string{"--no-tour"}, false},
		"a file":         {[]string{"--config", file}, false},
	} {
		t.Run(name, func(t *testing.T) {
			lines, stop := start(t, noEnv, append([]string{"--traffic", "0"}, tc.args...)...)
			defer stop()
			if !lines.Scan() {
				t.Fatal("the demo did not start")
			}
			text := getBody(t, lines.Text()+"api/state")
			var s struct{ Settings struct{ Tour bool } }
			if err := json.Unmarshal([]byte(text), &s); err != nil {
				t.Fatal(err)
			}
			if s.Settings.Tour != tc.want {
				t.Errorf("a tour is offered: %v, want %v", s.Settings.Tour, tc.want)
			}
		})
	}
}

// SIGHUP with a refused file used to begin the comparison anew. Only a file that is put in force
// does.
func TestRefusedFileKeepsTheComparison(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rebound.yaml")
	write := func(route string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("routes: [{name: process, "+route+", upstream: \"http://127.0.0.1:1\"}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("match: GET /process")
	lines, stop := start(t, noEnv, "--traffic", "0", "--config", file)
	defer stop()
	if !lines.Scan() {
		t.Fatal("the demo did not start")
	}
	at := lines.Text()
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C") {
	}
	covered := func() float64 {
		t.Helper()
		var s page.TrafficState
		if err := json.Unmarshal([]byte(getBody(t, at+"api/traffic")), &s); err != nil {
			t.Fatal(err)
		}
		return s.Seconds
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		wait.UntilSeen(t, 20*time.Second, what, func() (bool, string) {
			if ok() {
				return true, ""
			}
			return false, getBody(t, at+"config")
		})
	}
	reload := func() {
		t.Helper()
		if p, err := os.FindProcess(os.Getpid()); err != nil {
			t.Fatal(err)
		} else if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Skip("there is no SIGHUP here: ", err)
		}
	}
	until("some seconds", func() bool { return covered() > 9 }) // a new comparison is shorter for long enough
	before := covered()
	// When the second refusal is seen, the first reload has ended.
	for _, mistake := range []string{"first", "second"} {
		write(mistake + ": true")
		reload()
		until("the "+mistake+" refusal", func() bool {
			text := getBody(t, at+"config")
			return strings.Contains(text, "was refused") && strings.Contains(text, mistake)
		})
	}
	if after := covered(); after < before {
		t.Errorf("after two refused files the comparison covers %v s, before %v, want it to go on", after, before)
	}
	write("match: GET /process")
	reload()
	until("a new comparison", func() bool { return covered() < before })
}

// The demo starts with 20 calls a second both ways, and with a latency that gives bars a width.
// With a file it used to call the file's upstream at once, which may be a real one.
func TestWhatTheDemoStartsWith(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rebound.yaml")
	if err := os.WriteFile(file, policyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want int
	}{
		"its own policy":           {nil, 20},
		"a file":                   {[]string{"--config", file}, 0},
		"a file, and a rate":       {[]string{"--config", file, "--traffic", "5"}, 5},
		"a file, and the own rate": {[]string{"--config", file, "--traffic", "20"}, 20},
	} {
		t.Run(name, func(t *testing.T) {
			lines, stop := start(t, noEnv, tc.args...)
			defer stop()
			if !lines.Scan() {
				t.Fatal("the demo did not start")
			}
			var s page.TrafficState
			if err := json.Unmarshal([]byte(getBody(t, lines.Text()+"api/traffic")), &s); err != nil {
				t.Fatal(err)
			}
			if s.PerSecond != tc.want || s.Path != page.PathBoth {
				t.Errorf("traffic = %+v, want %d calls a second both ways", s.TrafficSettings, tc.want)
			}
			if faults := getBody(t, lines.Text()+"api/faults"); !strings.Contains(faults, `"median":"25ms"`) && !strings.Contains(faults, "median: 25ms") {
				t.Errorf("faults = %s, want a median latency of 25 ms", faults)
			}
		})
	}
}

// The upstreams of both ways do not share their capacity: the calls that occupy one do not take the
// workers of the other.
func TestEachWayHasItsOwnCapacity(t *testing.T) {
	lines, stop := start(t, noEnv, "--traffic", "0")
	defer stop()
	if !lines.Scan() {
		t.Fatal("the demo did not start")
	}
	at := lines.Text()
	admin := ""
	for lines.Scan() && admin == "" {
		if strings.Contains(lines.Text(), "the upstream's faults") {
			admin = strings.TrimSuffix(strings.Fields(lines.Text())[0], "/faults")
		}
	}
	put := func(url, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, text, err := fetch.Read((&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("PUT %s: %v %s", url, err, text)
		}
	}
	// One call is in work for longer than this test takes, and all others are refused.
	put(admin+"/faults", "capacity: {workers: 1, serviceTime: 1m, queue: 0}")
	put(at+"api/traffic", `{"perSecond": 100}`)
	type ledger struct{ Work faults.Stats }
	var ledgers [2]ledger
	wait.UntilSeen(t, 20*time.Second, "five refusals by each upstream", func() (bool, string) {
		for i, path := range []string{"/ledger", "/without/ledger"} {
			if err := json.Unmarshal([]byte(getBody(t, admin+path)), &ledgers[i]); err != nil {
				t.Fatal(err)
			}
		}
		return ledgers[0].Work.Refused >= 5 && ledgers[1].Work.Refused >= 5, fmt.Sprintf("%+v", ledgers)
	})
	for i, way := range []string{"with", "without"} {
		if work := ledgers[i].Work; work.Busy+int(work.Served+work.Wasted) == 0 {
			t.Errorf("%s the policy: %+v, want one call in work", way, work)
		}
	}
}
