package flaky_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/pkg/faults"
)

const asJSON = "Accept: application/json"

// noFaults is the zero value as JSON. Tests replace parts of it.
const noFaults = `{"errorRate":0,"statuses":[503],"retryAfter":"","latency":{"distribution":"none"},"resetRate":0,"truncateRate":0,` +
	`"hangRate":0,"slowBodyRate":0,"failFirst":0,"capacity":{"workers":0,"serviceTime":"0s","queue":0},"honourDeadline":false,` +
	`"effect":"before","schedule":[]}`

func TestFaultsChange(t *testing.T) {
	lognormal := faults.Spec{
		ErrorRate: 0.3,
		Latency:   faults.Latency{Distribution: faults.DistributionLognormal, Median: 20 * time.Millisecond, P99: 200 * time.Millisecond},
	}
	with := func(oldnew ...string) string { return strings.NewReplacer(oldnew...).Replace(noFaults) }
	tests := map[string]struct {
		method, body string
		want         string
	}{
		"PUT drops what it does not say": {"PUT", "resetRate: 0.5", with(`"resetRate":0`, `"resetRate":0.5`)},
		"PUT of an empty document":       {"PUT", "{}", noFaults},
		"PUT of JSON":                    {"PUT", `{"statuses": [500, 502]}`, with("[503]", "[500,502]")},
		"PUT of a schedule": {
			"PUT", "schedule: [{at: 30s, for: 20s, errorRate: 0, latency: {distribution: fixed, value: 1s}, capacity: {workers: 2, serviceTime: 1s}}]",
			with(`"schedule":[]`, `"schedule":[{"at":"30s","for":"20s","errorRate":0,"latency":{"distribution":"fixed","value":"1s"},`+
				`"capacity":{"workers":2,"serviceTime":"1s"}}]`),
		},
		"PATCH keeps what it does not say": {
			"PATCH", "hangRate: 0.1",
			with(`"errorRate":0`, `"errorRate":0.3`, `"hangRate":0`, `"hangRate":0.1`,
				`{"distribution":"none"}`, `{"distribution":"lognormal","median":"20ms","p99":"200ms"}`),
		},
		"PATCH merges a distribution": {
			"PATCH", "latency: {p99: 500ms}",
			with(`"errorRate":0`, `"errorRate":0.3`, `{"distribution":"none"}`, `{"distribution":"lognormal","median":"20ms","p99":"500ms"}`),
		},
		"PATCH to another distribution": {
			"PATCH", `{"latency": {"distribution": "fixed", "value": "5ms"}}`,
			with(`"errorRate":0`, `"errorRate":0.3`, `{"distribution":"none"}`, `{"distribution":"fixed","value":"5ms"}`),
		},
		"PATCH to no latency": {
			"PATCH", `latency: {distribution: none}`, with(`"errorRate":0`, `"errorRate":0.3`),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, lognormal)
			// The header that curl -d sends. The answer to the change and a later GET are the same
			// document.
			changed := w.must(t, tt.method, w.admin+"/faults", tt.body, "Content-Type: application/x-www-form-urlencoded", asJSON)
			if changed.status != http.StatusOK || changed.body != tt.want+"\n" {
				t.Errorf("%d %s, want\n200 %s", changed.status, changed.body, tt.want)
			}
			if got := w.must(t, http.MethodGet, w.admin+"/faults", "", asJSON); got.body != changed.body {
				t.Errorf("GET %s, want %s", got.body, changed.body)
			}
		})
	}
}

func TestFaultsAreWhatTheyWereAsYAML(t *testing.T) {
	w := start(t, faults.Default())
	before := w.must(t, http.MethodGet, w.admin+"/faults", "")
	if before.header.Get("Content-Type") != "application/yaml" || !strings.HasPrefix(before.body, "errorRate: 0.3\nstatuses:\n") {
		t.Errorf("got %s\n%s\nwant application/yaml with errorRate and statuses first", before.header.Get("Content-Type"), before.body)
	}
	after := w.must(t, http.MethodPut, w.admin+"/faults", before.body)
	if after.status != http.StatusOK || after.body != before.body {
		t.Errorf("got status %d, body\n%s\nwant 200,\n%s", after.status, after.body, before.body)
	}
}

func TestFaultsNegotiation(t *testing.T) {
	const json, yaml = "application/json", "application/yaml"
	tests := map[string]struct{ accept, sent, want string }{
		"curl":                 {"*/*", "application/x-www-form-urlencoded", yaml},
		"curl of JSON":         {"*/*", json, json},
		"JSON as text":         {"", "application/json; charset=utf-8", json},
		"JSON wanted for YAML": {json, yaml, json},
		"YAML wanted for JSON": {yaml, json, yaml},
		"nothing said":         {"", "", yaml},
		"nonsense":             {"", ";;", yaml},
	}
	w := start(t, faults.Spec{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := w.must(t, http.MethodPut, w.admin+"/faults", "{}", "Accept: "+tt.accept, "Content-Type: "+tt.sent)
			if got := a.header.Get("Content-Type"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestBadFaultsAreRefusedWhole(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 0.3})
	before := w.must(t, http.MethodGet, w.admin+"/faults", "", asJSON).body
	tests := map[string]struct {
		body   string
		status int
		detail []string
	}{
		"every mistake with its place": {
			"hangRate: 2\nlatency:\n  distribution: fixed\n  value: soon\nshedule: []\nschedule:\n- {at: 1s, for: 0s}\n", 400,
			[]string{"faults:1:11: hangRate: expected a rate from 0 to 1, got 2", "faults:4:10: latency.value: expected a duration", "faults:5:1: ", "faults:7:17: schedule[0].for: expected more than 0s"},
		},
		"rates that are too much together": {"errorRate: 0.6\nhangRate: 0.6", 400, []string{"faults:2:11: hangRate: ", "at most 1, got 1.2"}},
		"no YAML":                          {"{", 400, []string{"faults:1:"}},
		"nothing":                          {"", 400, []string{"faults:1:1: is empty"}},
		"too large":                        {strings.Repeat("#", 1<<20+1), 413, []string{"at most 1048576 bytes"}},
	}
	for name, tt := range tests {
		for _, method := range []string{http.MethodPut, http.MethodPatch} {
			t.Run(method+" "+name, func(t *testing.T) {
				got := wantProblem(t, w.must(t, method, w.admin+"/faults", tt.body), tt.status)
				for _, want := range tt.detail {
					if !strings.Contains(got, want) {
						t.Errorf("detail %q, want it to say %q", got, want)
					}
				}
				if after := w.must(t, http.MethodGet, w.admin+"/faults", "", asJSON).body; after != before {
					t.Errorf("got faults %s, want them unchanged", after)
				}
			})
		}
	}
}

// PATCH merges: the sum of all rates counts, not just those in the patch.
func TestPatchCountsWhatIsThere(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 0.6})
	got := wantProblem(t, w.must(t, http.MethodPatch, w.admin+"/faults", "hangRate: 0.6"), http.StatusBadRequest)
	if !strings.Contains(got, "faults:1:11: hangRate: ") {
		t.Errorf("got detail %q, want the position and name of hangRate", got)
	}
}

func TestPutStartsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{})
		time.Sleep(time.Hour)
		w.must(t, http.MethodPut, w.admin+"/faults", "schedule: [{at: 30s, for: 20s, errorRate: 1}]")
		begun := time.Now()
		for _, step := range []struct {
			at     time.Duration
			status int
		}{{0, 200}, {30 * time.Second, 503}, {49 * time.Second, 503}, {50 * time.Second, 200}} {
			time.Sleep(step.at - time.Since(begun))
			if a := w.must(t, http.MethodGet, w.data+"/process", ""); a.status != step.status {
				t.Errorf("after %v: %d, want %d", step.at, a.status, step.status)
			}
		}
	})
}

// Any page in a browser can send a PUT to localhost. Requests are rejected if the browser says that
// they come from another site, or if the host name may be another site's.
func TestBrowsersOfOtherSitesAreRefused(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 0.5})
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: http://evil.example"} {
		for _, request := range []string{"PUT /faults", "PATCH /faults", "DELETE /ledger", "POST /faults"} {
			method, path, _ := strings.Cut(request, " ")
			wantProblem(t, w.must(t, method, w.admin+path, "{}", header), http.StatusForbidden)
		}
	}
	// A page whose own host name resolves to this machine has the same origin.
	for _, request := range []string{"GET /faults", "PUT /faults", "GET /ledger", "GET /livez"} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, w.admin+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "evil.com:5001"
		r.Header.Set("Origin", "http://evil.com:5001")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		want := http.StatusForbidden
		if path == "/livez" {
			want = http.StatusOK // probes may use any name
		}
		if resp.StatusCode != want {
			t.Errorf("%s of evil.com: got status %d, want %d", request, resp.StatusCode, want)
		}
	}
	if a := w.must(t, http.MethodGet, w.admin+"/faults", "", asJSON); !strings.Contains(a.body, `"errorRate":0.5`) {
		t.Errorf("got faults %s, want them unchanged", a.body)
	}
	if a := w.must(t, http.MethodPut, w.admin+"/faults", "{}", "Origin: "+w.admin, "Sec-Fetch-Site: same-origin"); a.status != http.StatusOK {
		t.Errorf("our own page: got %d %s, want 200", a.status, a.body)
	}
}

func TestAdminRoutes(t *testing.T) {
	unready := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	defaults := start(t, faults.Spec{})
	wired := start(t, faults.Spec{}, func(o *flaky.Options) { o.Readyz = unready })
	tests := map[string]struct {
		w             world
		method, path  string
		status        int
		allow, detail string
	}{
		"livez":          {w: wired, method: "GET", path: "/livez", status: 200},
		"readyz":         {w: wired, method: "GET", path: "/readyz", status: 503},
		"readyz unwired": {w: defaults, method: "GET", path: "/readyz", status: 200},
		"post to faults": {w: wired, method: "POST", path: "/faults", status: 405, allow: "GET, HEAD, PUT, PATCH"},
		"put of ledger":  {w: wired, method: "PUT", path: "/ledger", status: 405, allow: "GET, HEAD, DELETE"},
		"unknown":        {w: wired, method: "GET", path: "/process", status: 404, detail: "/faults, /ledger"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := tt.w.must(t, tt.method, tt.w.admin+tt.path, "")
			if a.status != tt.status || a.header.Get("Allow") != tt.allow || !strings.Contains(a.body, tt.detail) {
				t.Errorf("%d, Allow %q, %s; want %+v", a.status, a.header.Get("Allow"), a.body, fmt.Sprint(tt.status, tt.allow, tt.detail))
			}
		})
	}
}

// Another seed fails other arrivals. The first seed fails the same ones again.
func TestPutSetsTheSeed(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 0.5})
	sequence := func(query string) (statuses string) {
		changed := w.must(t, http.MethodPut, w.admin+"/faults"+query, "errorRate: 0.5")
		for range 40 {
			statuses += strconv.Itoa(w.must(t, http.MethodGet, w.data+"/process", "").status) + " "
		}
		if seed, ok := strings.CutPrefix(query, "?seed="); ok && changed.header.Get("Rebound-Seed") != seed {
			t.Errorf("PUT %s: got seed %q, want %q", query, changed.header.Get("Rebound-Seed"), seed)
		}
		return statuses
	}
	first := w.must(t, http.MethodGet, w.admin+"/faults", "").header.Get("Rebound-Seed")
	before := sequence("")
	if other := sequence("?seed=18446744073709551615"); other == before {
		t.Error("another seed gives the same sequence, want another one")
	}
	if again := sequence("?seed=" + first); again != before {
		t.Errorf("the first seed: got two sequences, want the same twice:\n%s\n%s", before, again)
	}
	for _, bad := range []string{"?seed=", "?seed=-1", "?seed=x", "?seed=1&seed=2", "?seed=18446744073709551616"} {
		if got := w.must(t, http.MethodPut, w.admin+"/faults"+bad, "errorRate: 0"); got.status != http.StatusBadRequest || !strings.Contains(got.body, "expected one seed") {
			t.Errorf("%s: got %d %s, want a problem", bad, got.status, got.body)
		}
	}
	if seed := w.must(t, http.MethodGet, w.admin+"/faults", "").header.Get("Rebound-Seed"); seed != first {
		t.Errorf("after a bad seed: got seed %s, want it unchanged", seed)
	}
}
