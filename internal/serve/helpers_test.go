package serve_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// network is a pipenet that remembers its listeners, so that a test can break them.
type network struct {
	*pipenet.Network
	listeners map[string]net.Listener
}

func newNetwork() *network {
	return &network{pipenet.New(), make(map[string]net.Listener)}
}

func (n *network) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	l, err := n.Network.Listen(ctx, network, addr)
	n.listeners[addr] = l
	return l, err
}

// client returns a client that keeps its connections open until the test ends.
func (n *network) client(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: n.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// logs collects log lines for a test. Times are those of the synctest bubble.
type logs struct{ output.Buffer }

// logger writes each record with the time since start, to the millisecond.
func (l *logs) logger(start time.Time) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Duration("t", a.Value.Time().Sub(start).Round(time.Millisecond))
			}
			return a
		},
	}))
}

type answer struct {
	status int
	body   string
	close  bool // the response closes the connection
	err    error
}

func get(ctx context.Context, client *http.Client, url string) answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	response, body, err := fetch.Read(client.Do(request))
	if response == nil {
		return answer{err: err}
	}
	return answer{response.StatusCode, body, response.Close, err}
}

// within returns a constant drain timeout.
func within(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })
}
