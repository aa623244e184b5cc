package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

// relay forwards the client's connections to flaky-server, and knows which of them have carried no
// data.
type relay struct {
	net.Listener
	serving sync.WaitGroup

	mu   sync.Mutex
	to   string
	open map[net.Conn]bool // the client's connections, and whether each has carried data
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	l := rawhttp.Listen(t)
	r := &relay{Listener: l, open: map[net.Conn]bool{}}
	r.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.serving.Go(func() { r.forward(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.hangUp()
		r.serving.Wait()
	})
	return r
}

func (r *relay) forward(front net.Conn) {
	defer func() { _ = front.Close() }()
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	back, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.open[front] = false
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, front)
	}()
	var responses sync.WaitGroup
	responses.Go(func() {
		_, _ = io.Copy(front, back)
		_ = front.Close()
	})
	defer responses.Wait()
	defer func() { _ = back.Close() }()
	b := make([]byte, 4096)
	for {
		n, err := front.Read(b)
		if n > 0 {
			r.mu.Lock()
			r.open[front] = true
			r.mu.Unlock()
			_, _ = back.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// spare counts the open connections that have carried no data.
func (r *relay) spare() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, used := range r.open {
		if !used {
			n++
		}
	}
	return n
}

// hangUp closes the open connections.
func (r *relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}

// After calls through the client, the demo sometimes took five seconds to stop: the client held a
// connection to flaky-server that no call had used.
func TestStopsAtOnceDespiteASpareConnection(t *testing.T) {
	between := newRelay(t)
	policy := bytes.ReplaceAll(policyFile, []byte("127.0.0.1:5000"), []byte(between.Addr().String()))
	file := files.Temp(t, "rebound.yaml", string(policy))
	lines, stop := start(t, noEnv, "--config", file, "--error-rate", "0")
	var urls []string // through the client, and directly to the upstream
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C") {
		if url, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "http"); ok && strings.Contains(url, "/process ") {
			urls = append(urls, "http"+strings.Fields(url)[0])
		}
	}
	if len(urls) != 2 {
		t.Fatalf("got URLs %q, want two", urls)
	}
	upstream, err := url.Parse(urls[1])
	if err != nil {
		t.Fatal(err)
	}
	between.mu.Lock()
	between.to = upstream.Host
	between.mu.Unlock()

	caller := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for bursts := 0; between.spare() == 0; bursts++ {
		if bursts == 100 {
			t.Fatal("got no unused connection in 100 bursts, want one")
		}
		between.hangUp() // so that the next calls need new connections
		var calling sync.WaitGroup
		for range 20 {
			calling.Go(func() {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, urls[0], nil)
				if err != nil {
					t.Error(err)
					return
				}
				if resp, err := caller.Do(r); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		calling.Wait()
	}
	began := time.Now()
	if code := stop(); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %s, want at most 3s", took)
	}
}
