package rival

import (
	"context"
	"slices"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// places limit what is in flight at a time.
type places struct {
	most    int // 0 = no limit
	pending int // -1 = no limit
	maxWait time.Duration

	used  int
	queue []*waiter
}

type waiter struct {
	granted chan struct{}
	has     bool
}

// wakeUp returns the time that a call needs to go on after a wait for one of its client's limits.
// It keeps calls apart whose waits end in the same nanosecond.
func (c *Client) wakeUp() time.Duration {
	return 1 + time.Duration(c.options.Random()*float64(10*time.Microsecond))
}

// callPlaces returns the places of the calls.
func callPlaces(c foreign.Concurrency) *places {
	p := &places{pending: c.MaxPending, maxWait: c.MaxWait}
	if c.PerCall {
		p.most = c.MaxRequests
	}
	return p
}

// tryPlaces returns the places of the attempts. A connection of HTTP/1 carries one attempt.
func tryPlaces(c foreign.Concurrency, shared bool) *places {
	p := &places{pending: c.MaxPending, maxWait: c.MaxWait}
	if !c.PerCall {
		p.most = c.MaxRequests
	}
	if n := c.MaxConnections; n > 0 && !shared && (p.most == 0 || n < p.most) {
		p.most = n
	}
	return p
}

// take takes a place of p and waits for it if the policy says so. The caller must not hold the
// lock. It fails with the kind limited, or with waiting at the deadline.
func (c *Client) take(ctx context.Context, p *places, deadline time.Time) *outcome {
	c.mu.Lock()
	if !p.full() {
		p.used++
		c.mu.Unlock()
		return nil
	}
	if p.pending >= 0 && len(p.queue) >= p.pending {
		c.mu.Unlock()
		return &outcome{kind: limited}
	}
	w := &waiter{granted: make(chan struct{})}
	p.queue = append(p.queue, w)
	c.mu.Unlock()
	if p.maxWait > 0 {
		if end := time.Now().Add(p.maxWait); end.Before(deadline) {
			deadline = end
		}
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	began := time.Now()
	select {
	case <-w.granted:
	case <-timer.C:
	case <-ctx.Done():
	}
	c.mu.Lock()
	has := w.has
	if !has {
		p.queue = slices.DeleteFunc(p.queue, func(other *waiter) bool { return other == w })
	}
	c.mu.Unlock()
	if has {
		time.Sleep(c.wakeUp())
		return nil
	}
	if p.maxWait > 0 && time.Since(began) >= p.maxWait {
		return &outcome{kind: limited}
	}
	return &outcome{kind: waiting}
}

// full reports whether all places are taken. The caller holds the lock.
func (p *places) full() bool { return p.most > 0 && p.used >= p.most }

// release gives a place back, or on to the first one that waits. The caller holds the lock.
func (p *places) release() {
	if len(p.queue) == 0 {
		p.used--
		return
	}
	w := p.queue[0]
	p.queue = p.queue[1:]
	w.has = true
	close(w.granted)
}
