package reboundgrpc_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/streams"
	reboundgrpc "github.com/rebound-dev/rebound/pkg/grpc"
)

// Streams in both directions that break in the middle: no message arrives twice, and none is lost
// without an error.
func TestStreamsWithFaults(t *testing.T) {
	for name, c := range brokenStreams() {
		t.Run(name, func(t *testing.T) {
			count := c.count
			if testing.Short() {
				count /= 10
			}
			server := streams.Start(t)
			p := counting()
			p.Timeout, p.AttemptTimeout = time.Minute, time.Minute // the machine may be busy
			i := must(t, p, reboundgrpc.WithIdempotent("/test.Test/*"))
			ok, failed := server.Run(t, dial(t, server.Address, i), count, c.nth, c.faults...)
			t.Logf("%d of %d streams succeeded", ok, count)
			if told := strings.Contains(strings.Join(failed, "\n"), "goaway"); told != (c.faults[0] == streams.GoAway) {
				t.Errorf("the errors are %q, want GOAWAY in them only if the server sent one", failed)
			}
		})
	}
}

type broken struct {
	count, nth int
	faults     []streams.Fault
}

// brokenStreams are 10,000 streams together.
func brokenStreams() map[string]broken {
	return map[string]broken{
		"each by itself":              {5000, 3, []streams.Fault{streams.Status, streams.Reset, streams.Hang}},
		"with its connection":         {2500, 100, []streams.Fault{streams.Lost}},
		"with its connection, GOAWAY": {2500, 100, []streams.Fault{streams.GoAway}},
	}
}
