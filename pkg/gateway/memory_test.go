package gateway_test

import (
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// In a pod with 64 MiB, kept request bodies once took all of it, and the kernel killed the gateway.
// They get a quarter of the memory limit. What does not fit is sent once.
func TestKeptBodiesFitTheMemoryLimit(t *testing.T) {
	const uploads, size, limit = 24, 1 << 20, 64 << 20
	before := debug.SetMemoryLimit(limit)
	defer debug.SetMemoryLimit(before)

	var arrived sync.WaitGroup
	arrived.Add(uploads)
	answer := make(chan struct{})
	upstream := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived.Done()
		<-answer
	})
	c := gateway.ForUpstream(upstream.URL)
	p := c.Policies[gateway.DefaultPolicyName]
	p.Timeout, p.AttemptTimeout = time.Minute, time.Minute
	p.Concurrency.Max = -1
	p.Retry.ReplayBuffer = size
	c.Policies[gateway.DefaultPolicyName] = p
	g, s := gatewayOver(t, c, gateway.Options{})

	var calls sync.WaitGroup
	for range uploads {
		calls.Go(func() {
			if _, _, err := fetch.Try(t.Context(), http.MethodPut, s.URL+"/", strings.Repeat("x", size)); err != nil {
				t.Error(err)
			}
		})
	}
	arrived.Wait()
	if kept := g.ReplayMemory(); kept > limit/4 || kept < limit/8 {
		t.Errorf("%d bytes are kept, want at most %d, a quarter of the memory limit, and at least half of that", kept, limit/4)
	}
	if active := g.Active(); active != uploads {
		t.Errorf("%d calls are active, want %d", active, uploads)
	}
	close(answer)
	calls.Wait()
	if kept, active := g.ReplayMemory(), g.Active(); kept != 0 || active != 0 {
		t.Errorf("%d bytes are kept and %d calls are active after the last response, want none", kept, active)
	}
}
