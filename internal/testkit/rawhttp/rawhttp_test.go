package rawhttp_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestRequestsAndExchange(t *testing.T) {
	url := rawhttp.Requests(t, func(c net.Conn, r *http.Request, connection, request int) bool {
		text := fmt.Sprintf("%s on %d, %d", r.URL.Path, connection, request)
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return err == nil && r.URL.Path != "/last"
	})
	for i, want := range []string{"/a on 1, 1", "/last on 2, 1"} {
		path, _, _ := strings.Cut(want, " ")
		resp, body := rawhttp.Exchange(t, strings.TrimPrefix(url, "http://"), "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp.StatusCode != http.StatusOK || body != want {
			t.Errorf("connection %d: got %d %q, want 200 %q", i+1, resp.StatusCode, body, want)
		}
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /b HTTP/1.1\r\nHost: x\r\n\r\nGET /last HTTP/1.1\r\nHost: x\r\n\r\nGET /late HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(conn)
	if got := string(text); !strings.Contains(got, "/b on 3, 1") || !strings.HasSuffix(got, "/last on 3, 2") {
		t.Errorf("got %q, want the answers to /b and /last, and then the end", got)
	}
}

func TestFreeAddress(t *testing.T) {
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", rawhttp.FreeAddress(t)); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			_ = conn.Close()
		}
		t.Errorf("dial returned %v, want %v", err, syscall.ECONNREFUSED)
	}
}
