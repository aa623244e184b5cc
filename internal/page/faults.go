package live

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

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/problem"
)

const (
	faultsTimeout = 5 * time.Second
	maxBody       = 1 << 20
	headerSeed    = "Rebound-Seed" // with which flaky-server tells the seed
)

// faultsProxy lets the page see and change the faults of one flaky-server. It is
// the only place that a request of the page can lead to.
type faultsProxy struct {
	url    string
	client *http.Client
	// version counts changes that went this way, so that all pages ask again.
	version atomic.Uint64

	mu    sync.Mutex
	reset []byte // the document as it was first seen; nil until then
	seed  string // the same of the seed; empty if it was not told
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
		Transport: &http.Transport{ // as the gateway's own: no proxy from the environment
			DialContext:         (&net.Dialer{Timeout: faultsTimeout}).DialContext,
			DisableKeepAlives:   true, // a page asks rarely
			TLSHandshakeTimeout: faultsTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// checkURL refuses what is no address, and one with a password: it would be told
// to whoever opens the page.
func checkURL(text, wanted string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err == nil && u.User != nil {
		return nil, fmt.Errorf("must be %s, without a user and a password, got %q", wanted, u.Redacted())
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("must be %s, got %q", wanted, text)
	}
	if err := config.CheckHost(u); err != nil {
		return nil, fmt.Errorf("must be %s, got %q: %w", wanted, text, err)
	}
	return u, nil
}

// checkTraces completes the address of a Jaeger to the URL of a trace.
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

func (l *Live) serveFaults(w http.ResponseWriter, r *http.Request) {
	if l.faults == nil {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "faults cannot be changed here: the program was started without --faults"})
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
	l.faults.forward(w, r, r.Method, body, seed)
}

// serveReset puts back what was first seen.
func (l *Live) serveReset(w http.ResponseWriter, r *http.Request) {
	if l.faults == nil {
		l.serveFaults(w, r)
		return
	}
	if !query(w, r) {
		return
	}
	if body, seed, err := l.faults.initial(r); err != nil {
		unreachable(w, l.faults.url, err)
	} else {
		l.faults.forward(w, r, http.MethodPut, body, seed)
	}
}

// initial is the document as it was first seen, which is before the first change
// that goes this way.
func (p *faultsProxy) initial(r *http.Request) (document []byte, seed string, err error) {
	if document, seed := p.first(); document != nil {
		return document, seed, nil
	}
	status, header, document, err := p.do(r, http.MethodGet, nil, "")
	if err != nil {
		return nil, "", err
	}
	if status != http.StatusOK {
		return nil, "", fmt.Errorf("it answered %d", status)
	}
	// Several may ask at once, for none is to wait for another's answer. The one that
	// keeps its document first has seen no change: whoever changes has kept one before.
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
	if method != http.MethodGet && method != http.MethodHead {
		defer p.version.Add(1)
	}
	status, header, answer, err := p.do(r, method, body, seed)
	if err != nil {
		unreachable(w, p.url, err)
		return
	}
	// Nothing that a browser could take for a page of ours.
	contentType := header.Get("Content-Type")
	if kind, _, _ := mime.ParseMediaType(contentType); kind != "application/json" && kind != "application/problem+json" || status >= 300 && status < 400 {
		unreachable(w, p.url, errors.New("the answer is not one of flaky-server's"))
		return
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
		return 0, nil, nil, fmt.Errorf("its answer has more than %d bytes", maxBody)
	}
	return resp.StatusCode, resp.Header, answer, err
}

func unreachable(w http.ResponseWriter, where string, err error) {
	problem.Write(w, problem.Problem{Status: http.StatusBadGateway, Detail: "flaky-server at " + where + " could not be asked: " + err.Error()})
}
