package serve_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pipenet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a pipenet with clients, whose listeners a test can break.
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

// client returns a client that keeps its connections, until the test ends.
func (n *network) client(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: n.Dial}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// logs is a log to look at. Times in it are those of the bubble.
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
	close  bool // the connection ends with it
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

// within is a drain timeout that does not change.
func within(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) })
}
