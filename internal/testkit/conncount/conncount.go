// Package conncount counts the connections of an HTTP server under test.
package conncount

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// Counter counts when its [Counter.See] is a server's ConnState hook. The zero value is ready to
// use. It is safe for concurrent use.
type Counter struct{ opened, closed atomic.Int64 }

// See counts a change of state.
func (c *Counter) See(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.opened.Add(1)
	case http.StateClosed, http.StateHijacked:
		c.closed.Add(1)
	}
}

// Opened returns the number of connections that were ever opened.
func (c *Counter) Opened() int64 { return c.opened.Load() }

// Open returns the number of connections that are open. A hijacked connection counts as closed,
// since the server no longer knows its state.
func (c *Counter) Open() int64 { return c.opened.Load() - c.closed.Load() }

// WantOpen waits until n connections are open. The test ends if that takes 20 s.
func (c *Counter) WantOpen(t testing.TB, n int64) {
	t.Helper()
	wait.UntilSeen(t, 20*time.Second, fmt.Sprintf("%d open connections", n), func() (bool, string) {
		open := c.Open()
		return open == n, strconv.FormatInt(open, 10)
	})
}
