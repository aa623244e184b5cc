package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

// relay forwards the client's connections to flaky-server. It speaks TLS to the client, so that a
// test can hold back a new connection before any call uses it.
type relay struct {
	net.Listener
	serving   sync.WaitGroup
	accepted  chan struct{} // gets a value for each connection of the client
	handshake chan struct{} // a TLS handshake takes a value first
	forwarded chan struct{} // gets a value for each connection to flaky-server
	requested chan struct{} // gets a value for each piece of a request
	respond   chan struct{} // each piece of a response takes a value first

	mu    sync.Mutex
	to    string
	conns []net.Conn
}

func newRelay(t *testing.T, authority *pki.Authority) *relay {
	t.Helper()
	r := &relay{
		Listener: rawhttp.Listen(t), accepted: make(chan struct{}, 10), handshake: make(chan struct{}, 10),
		forwarded: make(chan struct{}, 10), requested: make(chan struct{}, 10), respond: make(chan struct{}, 10),
	}
	config := &tls.Config{Certificates: []tls.Certificate{*authority.Pair("127.0.0.1")}, MinVersion: tls.VersionTLS12}
	r.serving.Go(func() {
		for {
			c, err := r.Accept()
			if err != nil {
				return
			}
			r.serving.Go(func() { r.forward(tls.Server(r.keep(c), config)) })
		}
	})
	t.Cleanup(func() {
		_ = r.Close()
		close(r.handshake)
		close(r.respond)
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.serving.Wait()
	})
	return r
}

// keep remembers c, to close it at the end.
func (r *relay) keep(c net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	return c
}

func (r *relay) forward(front *tls.Conn) {
	defer func() { _ = front.Close() }()
	r.accepted <- struct{}{}
	<-r.handshake
	if front.HandshakeContext(context.Background()) != nil {
		return
	}
	r.mu.Lock()
	to := r.to
	r.mu.Unlock()
	back, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
	if err != nil {
		return
	}
	r.keep(back)
	r.forwarded <- struct{}{}
	r.serving.Go(func() {
		r.pipe(front, back, func() { <-r.respond })
		_ = front.Close()
	})
	r.pipe(back, front, func() { r.requested <- struct{}{} })
	_ = back.Close()
}

// pipe copies what it reads, and calls before first.
func (r *relay) pipe(to io.Writer, from io.Reader, before func()) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			before()
			_, _ = to.Write(b[:n])
		}
		if err != nil {
			return
		}
	}
}

// After calls through the client, the demo sometimes took five seconds to stop: the client held a
// connection to flaky-server that no call had used.
func TestStopsAtOnceDespiteASpareConnection(t *testing.T) {
	authority := pki.New(t, "authority")
	between := newRelay(t, authority)
	file := files.Temp(t, "rebound.yaml", fmt.Sprintf(`
routes:
  - {name: process, match: GET /process, upstream: flaky}
upstreams:
  flaky:
    url: https://%s
    tls: {caFile: %q}
policies: # the test holds calls back
  default: {timeout: 60s, attemptTimeout: 30s}
`, between.Addr(), files.Temp(t, "ca.crt", string(authority.PEM()))))
	lines, stop := start(t, noEnv, "--config", file, "--error-rate", "0", "--traffic", "0")
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
	var calling sync.WaitGroup
	call := func() {
		calling.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, urls[0], nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := caller.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("got status %d, want 200", resp.StatusCode)
			}
		})
	}
	// The second call begins a connection while the first has not been answered. It then gets that
	// of the first.
	call()
	await(t, between.accepted, "the first connection")
	between.handshake <- struct{}{}
	await(t, between.forwarded, "the first connection at flaky-server")
	await(t, between.requested, "the first request")
	call()
	await(t, between.accepted, "a second connection")
	between.respond <- struct{}{}
	await(t, between.requested, "the second request on the first connection")
	between.respond <- struct{}{}
	calling.Wait()
	between.handshake <- struct{}{}
	await(t, between.forwarded, "the second connection at flaky-server")

	began := time.Now()
	if code := stop(); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	if took := time.Since(began); took > 4500*time.Millisecond {
		t.Errorf("the stop took %s, want less than the 5s that it once took", took)
	}
}

// await waits until something has happened.
func await(t *testing.T, happened <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(10 * time.Second):
		t.Fatalf("did not see %s within 10s", what)
	}
}
