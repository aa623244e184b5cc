package conncount_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/conncount"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

func TestCounter(t *testing.T) {
	var c conncount.Counter
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.Close()
		}
	}))
	s.Config.ConnState = c.See
	s.Start()
	defer s.Close()
	client := s.Client()
	get := func(path string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	}
	// net/http gives a connection up that is not done with its request 50 ms after the answer.
	wait.OneOf(t, 3, func() (missed string) {
		before := c.Opened()
		get("/")
		get("/")
		c.WantOpen(t, 1)
		client.CloseIdleConnections()
		c.WantOpen(t, 0)
		if got := c.Opened() - before; got != 1 {
			return fmt.Sprintf("Opened() grew by %d, want 1 for two requests on one connection", got)
		}
		return ""
	})
	get("/hijack")
	c.WantOpen(t, 0)
}
