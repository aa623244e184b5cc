package page_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/page"
)

func lines(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 1<<20) }

func newRecorder(t *testing.T, l *page.Page, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	l.Handler().ServeHTTP(w, r)
	return w
}

// admin serves /faults like flaky-server's admin port. It returns its URL and its document.
func admin(t *testing.T) (url string, document *string) {
	t.Helper()
	now, seed := `{"errorRate":0.3}`, "30"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/faults" {
			t.Errorf("got a request for %s, want /faults", r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		if r.Method != http.MethodGet {
			b, _ := io.ReadAll(r.Body)
			if strings.Contains(string(b), "bad") {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"detail":"bad"}`)
				return
			}
			now = string(b)
			if given := r.URL.Query().Get("seed"); given != "" {
				seed = given
			}
		}
		w.Header().Set("Rebound-Seed", seed)
		_, _ = io.WriteString(w, now)
	}))
	t.Cleanup(s.Close)
	return s.URL, &now
}

func TestFaults(t *testing.T) {
	url, document := admin(t)
	for name, address := range map[string]string{"origin": url, "with a slash": url + "/", "with the path": url + "/faults"} {
		t.Run(name, func(t *testing.T) {
			*document = `{"errorRate":0.3}`
			l := newPage(t, page.Options{Faults: address})
			for _, step := range []struct {
				method, path, body string
				status             int
				want               string
			}{
				{http.MethodGet, "/api/faults", "", 200, `{"errorRate":0.3}`},
				{http.MethodPut, "/api/faults", `{"errorRate":1}`, 200, `{"errorRate":1}`},
				{http.MethodPatch, "/api/faults", `{"errorRate":0.5}`, 200, `{"errorRate":0.5}`},
				{http.MethodPut, "/api/faults", `bad`, 400, `{"detail":"bad"}`},
				{http.MethodGet, "/api/faults", "", 200, `{"errorRate":0.5}`},
				{http.MethodPost, "/api/faults/reset", "", 200, `{"errorRate":0.3}`},
				{http.MethodDelete, "/api/faults", "", 405, "takes GET, PATCH, PUT"},
				{http.MethodPut, "/api/faults", strings.Repeat("x", 2<<20), 413, "at most"},
			} {
				if status, body := send(t, l, step.method, step.path, step.body, nil); status != step.status || !strings.Contains(body, step.want) {
					t.Errorf("%s %s: got %d %s, want %d %s", step.method, step.path, status, body, step.status, step.want)
				}
			}
		})
	}
}

// A change of the faults increases the version in the events of all pages.
func TestPagesHearOfChangedFaults(t *testing.T) {
	url, _ := admin(t)
	w := newWorld(t, page.Options{Faults: url})
	before := w.open(t, "").mustNext(t).FaultsVersion
	send(t, w.page, http.MethodPut, "/api/faults", `{"errorRate":1}`, nil)
	if after := w.open(t, "").mustNext(t).FaultsVersion; after != before+1 {
		t.Errorf("faults version = %d after a change, want %d", after, before+1)
	}
}

// A page of another site cannot change anything through a visitor's browser.
func TestChangesAcrossOriginsAreRefused(t *testing.T) {
	url, document := admin(t)
	l := newPage(t, page.Options{Faults: url, Traffic: &traffic{}})
	before := *document
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}} {
		for _, change := range [][2]string{{http.MethodPut, "/api/faults"}, {http.MethodPatch, "/api/faults"}, {http.MethodPost, "/api/faults/reset"}, {http.MethodPut, "/api/traffic"}} {
			if status, body := send(t, l, change[0], change[1], `{"errorRate":1}`, nil, header...); status != http.StatusForbidden {
				t.Errorf("%v with %v: got %d %s, want 403", change, header, status, body)
			}
		}
	}
	if *document != before {
		t.Errorf("faults = %s, want them unchanged: %s", *document, before)
	}
	if status, body := send(t, l, http.MethodPut, "/api/faults", `{"errorRate":1}`, nil, "Sec-Fetch-Site", "same-origin"); status != 200 {
		t.Errorf("a change by the page itself: got %d %s, want 200", status, body)
	}
}

// A server that does not answer like flaky-server gives 502, without its content.
func TestFaultsOfWrongServers(t *testing.T) {
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<script>alert(1)</script>")
	}))
	defer html.Close()
	markup := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xhtml+xml")
		_, _ = io.WriteString(w, "<script>alert(1)</script>")
	}))
	defer markup.Close()
	large := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `"`+strings.Repeat("x", 1<<20)+`"`)
	}))
	defer large.Close()
	for name, address := range map[string]string{"no server": "http://127.0.0.1:1", "HTML": html.URL, "markup": markup.URL, "too large": large.URL} {
		t.Run(name, func(t *testing.T) {
			l := newPage(t, page.Options{Faults: address})
			for _, method := range []string{http.MethodGet, http.MethodPut} {
				if status, body := send(t, l, method, "/api/faults", "{}", nil); status != http.StatusBadGateway || !strings.Contains(body, "no valid answer from") || strings.Contains(body, "alert") {
					t.Errorf("%s: got %d %s, want 502 without the server's content", method, status, body)
				}
			}
		})
	}
}

// traffic is a generator that stores its settings.
type traffic struct{ page.TrafficSettings }

func (g *traffic) Set(s page.TrafficSettings) error {
	if s.PerSecond > 200 {
		return errors.New("perSecond: must be from 0 to 200")
	}
	g.TrafficSettings = s
	return nil
}

func (g *traffic) State() page.TrafficState {
	return page.TrafficState{TrafficSettings: g.TrafficSettings, Limit: 200}
}

func TestTraffic(t *testing.T) {
	l := newPage(t, page.Options{Traffic: &traffic{}})
	for _, step := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"perSecond":20,"path":"both"}`, 200, `{"perSecond":20,"path":"both","sick":0,"limit":200`},
		{`{"perSecond":5}`, 200, `{"perSecond":5,"path":"both","sick":0`},
		{`{"perSecond":201}`, 400, "must be from 0 to 200"},
		{`{"rate":1}`, 400, "rate"},
		{`nonsense`, 400, ""},
	} {
		if status, body := send(t, l, http.MethodPut, "/api/traffic", step.body, nil); status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s: got %d %s, want %d %s", step.body, status, body, step.status, step.want)
		}
	}
}

// Reset puts the settings with which the page began. They used not to name 0 sick endpoints, so
// that the sick one stayed.
func TestResetHealsTheSickEndpoint(t *testing.T) {
	g := &traffic{page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}}
	l := newPage(t, page.Options{Traffic: g})
	send(t, l, http.MethodPut, "/api/traffic", `{"sick":1}`, nil)
	var state struct {
		Settings struct{ Traffic json.RawMessage }
	}
	send(t, l, http.MethodGet, "/api/state", "", &state)
	if status, body := send(t, l, http.MethodPut, "/api/traffic", string(state.Settings.Traffic), nil); status != http.StatusOK || g.Sick != 0 {
		t.Errorf("after %s: %d sick endpoints, status %d %s, want none", state.Settings.Traffic, g.Sick, status, body)
	}
}

// The page reads and sets the seed, and Reset restores the first one.
func TestSeed(t *testing.T) {
	url, _ := admin(t)
	l := newPage(t, page.Options{Faults: url})
	if got := newRecorder(t, l, "/api/faults").Header().Get("Rebound-Seed"); got != "30" {
		t.Errorf("seed = %q, want 30", got)
	}
	send(t, l, http.MethodPut, "/api/faults?seed=7", `{"errorRate":0.3}`, nil)
	if got := newRecorder(t, l, "/api/faults").Header().Get("Rebound-Seed"); got != "7" {
		t.Errorf("seed = %q, want 7", got)
	}
	send(t, l, http.MethodPost, "/api/faults/reset", "", nil)
	if got := newRecorder(t, l, "/api/faults").Header().Get("Rebound-Seed"); got != "30" {
		t.Errorf("seed = %q after a reset, want 30", got)
	}
	if status, body := send(t, l, http.MethodPut, "/api/faults?sed=7", "{}", nil); status != http.StatusBadRequest || !strings.Contains(body, "unknown parameter") {
		t.Errorf("an unknown parameter: got %d %s, want 400", status, body)
	}
}
