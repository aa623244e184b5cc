package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
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
