package flaky_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world is a running server and a client for it.
type world struct {
	*flaky.Server
	data, admin string // base URLs
	client      *http.Client
}

// start serves over real TCP.
func start(t *testing.T, spec faults.Spec, adjust ...func(*flaky.Options)) world {
	t.Helper()
	s := newServer(t, spec, adjust...)
	data, admin := httptest.NewServer(s.Data()), httptest.NewServer(s.Admin())
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // net/http retries by itself on connections that were used before
	}}
	t.Cleanup(func() {
		s.Stop()
		data.Close()
		admin.Close()
	})
	return world{s, data.URL, admin.URL, client}
}

// startPiped serves on a pipenet, for tests inside a synctest bubble.
func startPiped(t *testing.T, spec faults.Spec, adjust ...func(*flaky.Options)) world {
	t.Helper()
	s := newServer(t, spec, adjust...)
	network := pipenet.New()
	network.Serve(t, "data:80", s.Data())
	network.Serve(t, "admin:80", s.Admin())
	transport := network.Transport(t)
	transport.DisableKeepAlives = true
	t.Cleanup(s.Stop) // before the servers wait for their handlers
	return world{s, "http://data", "http://admin", &http.Client{Transport: transport}}
}

func newServer(t *testing.T, spec faults.Spec, adjust ...func(*flaky.Options)) *flaky.Server {
	t.Helper()
	injector, err := faults.New(spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	o := flaky.Options{Faults: injector}
	for _, f := range adjust {
		f(&o)
	}
	s, err := flaky.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// answer is a response with its body.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request and reads as much of the response as arrives. Headers are "Name: value".
func (w world) do(ctx context.Context, method, url, body string, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, text, err := fetch.Read(w.client.Do(r))
	if resp == nil {
		return answer{}, err
	}
	return answer{resp.StatusCode, resp.Header, text}, err
}

// must is do for requests that must get a response.
func (w world) must(t *testing.T, method, url, body string, headers ...string) answer {
	t.Helper()
	a, err := w.do(t.Context(), method, url, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return a
}

func (w world) ledger(t *testing.T) flaky.Ledger {
	t.Helper()
	return decode[flaky.Ledger](t, w.must(t, http.MethodGet, w.admin+"/ledger", ""))
}

func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	return v
}

// wantProblem checks a problem document and returns its detail.
func wantProblem(t *testing.T, a answer, status int) string {
	t.Helper()
	if got := a.header.Get("Content-Type"); a.status != status || got != "application/problem+json" {
		t.Fatalf("%d %s %q, want a problem with status %d", a.status, got, a.body, status)
	}
	p := decode[struct {
		Status int
		Detail string
	}](t, a)
	if p.Status != status {
		t.Errorf("got status %d in the body, want %d", p.Status, status)
	}
	return p.Detail
}
