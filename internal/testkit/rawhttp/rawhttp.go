// Package rawhttp is for tests that need the bytes of HTTP: servers that break its rules, and
// requests that net/http's client would not send.
package rawhttp

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// Listen returns a listener on loopback.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// FreeAddress returns a loopback address, as host:port, on which nothing listens. By default, the
// system does not give its port to a server that asks for any port, so no other test comes to
// listen there.
func FreeAddress(t testing.TB) string {
	t.Helper()
	// Linux gives out ports from 32768 on, other systems from 49152 on.
	const first, ports, tries = 10000, 20000, 100
	for range tries {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports)) //nolint:gosec // any port will do
		if l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatalf("found no free port from %d to %d in %d tries", first, first+ports-1, tries)
	return ""
}

// Serve calls handle for each connection to l, on a goroutine of its own, and closes the connection
// after it. At the end of the test it closes l and what is still open, and waits for every handle.
func Serve(t testing.TB, l net.Listener, handle func(net.Conn)) {
	t.Helper()
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		open = map[net.Conn]bool{}
		over bool
	)
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			late := over
			mu.Unlock()
			if late {
				_ = conn.Close()
			}
			all.Go(func() {
				handle(conn)
				_ = conn.Close()
				mu.Lock()
				defer mu.Unlock()
				delete(open, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		over = true
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// Requests starts a server that answers each request by hand, and returns its URL. It calls answer
// with the connection and the request, and the numbers of both from 1; requests are counted within
// their connection. It closes the connection when answer returns false.
func Requests(t testing.TB, answer func(c net.Conn, r *http.Request, connection, request int) (goOn bool)) (url string) {
	t.Helper()
	l := Listen(t)
	var connections atomic.Int64
	Serve(t, l, func(c net.Conn) {
		n := int(connections.Add(1))
		in := bufio.NewReader(c)
		for i := 1; ; i++ {
			if r, err := http.ReadRequest(in); err != nil || !answer(c, r, n, i) {
				return
			}
		}
	})
	return "http://" + l.Addr().String()
}

// Exchange sends request to addr unchanged, and returns the response and its body.
func Exchange(t testing.TB, addr, request string) (*http.Response, string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}
