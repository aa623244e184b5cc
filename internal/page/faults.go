package page

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/internal/problem"
)

const (
	faultsTimeout = 5 * time.Second
	maxBody       = 1 << 20
	headerSeed    = "Rebound-Seed" // in which flaky-server returns its seed
)

// faultsProxy forwards requests of the page to /faults of one flaky-server. The page's requests
// reach no other server.
type faultsProxy struct {
	url    string
	client *http.Client
	// version counts the changes made through this proxy. All pages ask again when it changes.
	version atomic.Uint64

	mu    sync.Mutex
	reset []byte // the first document that was read; nil before
	seed  string // that came with it; empty if there was no seed
	marks faultMarks
}

func newFaultsProxy(admin string) (*faultsProxy, error) {
	u, err := checkURL(admin, "a URL such as http://flaky-server:5001")
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/faults") + "/faults"
	u.RawQuery, u.Fragment = "", ""
	return &faultsProxy{url: u.String(), client: &http.Client{
		Timeout: faultsTimeout,
		Transport: &http.Transport{ // like the gateway's: it ignores proxies from the environment
			DialContext:         (&net.Dialer{Timeout: faultsTimeout}).DialContext,
			DisableKeepAlives:   true, // requests are rare
			TLSHandshakeTimeout: faultsTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// checkURL accepts an absolute http or https URL without a user and a password, because every
// visitor of the page sees it.
func checkURL(text, wanted string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err == nil && u.User != nil {
		return nil, fmt.Errorf("must be %s, without a user and a password, got %q", wanted, u.Redacted())
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("must be %s, got %q", wanted, text)
	}
	if err := nethttp.CheckHost(u); err != nil {
		return nil, fmt.Errorf("must be %s, got %q: %w", wanted, text, err)
	}
	return u, nil
}

// checkTraces checks the URL of a trace. It completes the address of a Jaeger.
func checkTraces(template *string) error {
	const id, wanted = "{id}", "a URL such as http://localhost:16686 or one with {id} in it"
	if *template == "" {
		return nil
	}
	u, err := checkURL(strings.ReplaceAll(*template, id, "0"), wanted)
	if err != nil {
		return fmt.Errorf("traces: %w", err)
	}
	if strings.Contains(*template, id) {
		return nil
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("traces: must be %s, got %q, which has a query but no {id}", wanted, *template)
	}
	*template = strings.TrimSuffix(*template, "/") + "/trace/" + id
	return nil
}

func (p *Page) serveFaults(w http.ResponseWriter, r *http.Request) {
	if p.faults == nil {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "the faults cannot be changed here, because the program was started without --faults"})
		return
	}
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	seed := ""
	if r.Method == http.MethodPut {
		if !query(w, r, "seed") {
			return
		}
		seed = r.URL.Query().Get("seed")
	} else if !query(w, r) {
		return
	}
	p.faults.forward(w, r, r.Method, body, seed)
}

// serveReset restores the first document that was read.
func (p *Page) serveReset(w http.ResponseWriter, r *http.Request) {
	if p.faults == nil {
		p.serveFaults(w, r)
		return
	}
	if !query(w, r) {
		return
	}
	if body, seed, err := p.faults.initial(r); err != nil {
		unreachable(w, p.faults.url, err)
	} else {
		p.faults.forward(w, r, http.MethodPut, body, seed)
	}
}

// initial returns the first document that was read. The proxy reads it before it forwards the first
// change.
func (p *faultsProxy) initial(r *http.Request) (document []byte, seed string, err error) {
	if document, seed := p.first(); document != nil {
		return document, seed, nil
	}
	status, header, document, err := p.do(r, http.MethodGet, nil, "")
	if err != nil {
		return nil, "", err
	}
	if status != http.StatusOK {
		return nil, "", fmt.Errorf("the response has status %d, expected 200", status)
	}
	// Requests do not wait for each other here, so several may read at once. The first one to store
	// its document has seen no change, because a change is forwarded only after one is stored.
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reset == nil {
		p.reset, p.seed = document, header.Get(headerSeed)
	}
	return p.reset, p.seed, nil
}

func (p *faultsProxy) first() (document []byte, seed string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reset, p.seed
}

func (p *faultsProxy) forward(w http.ResponseWriter, r *http.Request, method string, body []byte, seed string) {
	if _, _, err := p.initial(r); err != nil {
		unreachable(w, p.url, err)
		return
	}
	changes := method != http.MethodGet && method != http.MethodHead
	version := p.version.Load()
	status, header, answer, err := p.do(r, method, body, seed)
	if changes {
		version = p.version.Add(1)
	}
	if err != nil {
		if r.Context().Err() == nil { // a tab that was closed has not heard either
			p.note(version, nil, false)
		}
		unreachable(w, p.url, err)
		return
	}
	// Never pass on content that a browser could treat as a page of this origin.
	contentType := header.Get("Content-Type")
	if kind, _, _ := mime.ParseMediaType(contentType); kind != "application/json" && kind != "application/problem+json" || status >= 300 && status < 400 {
		p.note(version, nil, false)
		unreachable(w, p.url, errors.New("the response is not JSON of a flaky-server"))
		return
	}
	if status == http.StatusOK && method != http.MethodHead {
		p.note(version, answer, changes)
	} else if status >= 500 || status >= 400 && !changes { // a change that is refused leaves what is known
		p.note(version, nil, false)
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	if seed := header.Get(headerSeed); seed != "" {
		h.Set(headerSeed, seed)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// note remembers that a request got this document, or none. The answer to a request that began
// before a change does not count.
func (p *faultsProxy) note(version uint64, document []byte, set bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version == p.version.Load() {
		p.marks.note(document, set)
	}
}

// noteSick asks for the number under the lock, so that the newest one is noted last.
func (p *faultsProxy) noteSick(traffic Traffic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks.noteSick(traffic.State().Sick)
}

// marksAt returns the marks for an event of this time, in ms.
func (p *faultsProxy) marksAt(now float64) []faultMark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.marks.at(now)
}

func (p *faultsProxy) do(r *http.Request, method string, body []byte, seed string) (status int, header http.Header, answer []byte, err error) {
	where := p.url
	if seed != "" {
		where += "?" + url.Values{"seed": {seed}}.Encode()
	}
	req, err := http.NewRequestWithContext(r.Context(), method, where, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Accept", "application/json")
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if len(answer) > maxBody {
		return 0, nil, nil, fmt.Errorf("the response has more than %d bytes", maxBody)
	}
	return resp.StatusCode, resp.Header, answer, err
}

func unreachable(w http.ResponseWriter, where string, err error) {
	problem.Write(w, problem.Problem{Status: http.StatusBadGateway, Detail: "no valid answer from flaky-server at " + where + ": " + err.Error()})
}
