package endpoint

import (
	"slices"
	"time"
)

// Under traffic an HTTP/1 connection is replaced every renewEvery that is at least
// renewAfter old, and renewPause after a failure at the earliest: while the
// upstream fails, retries replace connections anyway.
const (
	renewEvery = 250 * time.Millisecond
	renewAfter = 500 * time.Millisecond
	renewPause = time.Second
)

// takeIdle returns the HTTP/1 connection used last, or nil. It is called with mu
// held, as is everything below.
func (p *Pool) takeIdle(now time.Time, fresh bool) *conn {
	for n := len(p.idle); n > 0; n = len(p.idle) {
		c := p.idle[n-1]
		if fresh && !c.fresh(now) {
			return nil
		}
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		if c.client.Err() != nil { // the upstream has closed it
			continue
		}
		if c.expired(now) || now.Sub(c.idleSince) >= p.options.Connections.IdleTimeout {
			p.doomed = append(p.doomed, c)
			continue
		}
		c.uses++
		return c
	}
	return nil
}

// giveBack keeps an HTTP/1 connection whose request has ended, or closes it.
func (p *Pool) giveBack(c *conn, now time.Time) {
	if c.retired || p.closed || c.expired(now) || c.wire.deaf.Load() || c.client.Available() == 0 {
		p.doomed = append(p.doomed, c)
		return
	}
	if w := p.nextWaiter(func(w *waiter) bool { return !w.fresh }); w != nil {
		c.uses++
		p.serve(w, c)
	} else {
		p.keep(c, now)
	}
	p.renew(c, now)
}

// keep puts a connection among the idle ones.
func (p *Pool) keep(c *conn, now time.Time) {
	if p.options.Connections.MaxIdle == 0 {
		p.doomed = append(p.doomed, c)
		return
	}
	if len(p.idle) >= p.options.Connections.MaxIdle {
		p.doomed = append(p.doomed, p.idle[0])
		p.idle = slices.Delete(p.idle, 0, 1)
	}
	c.idleSince = now
	p.idle = append(p.idle, c)
	if p.reaping {
		return
	}
	p.reaping = true
	if p.reaper == nil {
		p.reaper = time.AfterFunc(p.options.Connections.IdleTimeout, p.reap)
	} else {
		p.reaper.Reset(p.options.Connections.IdleTimeout)
	}
}

// reap closes what was idle for too long, and comes again when the next one will be.
func (p *Pool) reap() {
	now := time.Now()
	p.mu.Lock()
	defer p.unlock()
	p.reaping = false
	if p.closed {
		return
	}
	stale := 0
	for stale < len(p.idle) && now.Sub(p.idle[stale].idleSince) >= p.options.Connections.IdleTimeout {
		stale++
	}
	p.doomed = append(p.doomed, p.idle[:stale]...)
	p.idle = slices.Delete(p.idle, 0, stale)
	if len(p.idle) > 0 {
		p.reaping = true
		p.reaper.Reset(p.idle[0].idleSince.Add(p.options.Connections.IdleTimeout).Sub(now))
	}
}

// renew replaces c, in the background, if it is time for that.
func (p *Pool) renew(c *conn, now time.Time) {
	if p.options.Connections.MaxAge == 0 || p.options.Connections.MaxIdle == 0 || p.renewing || now.Sub(c.born) < renewAfter ||
		now.Sub(p.renewed) < renewEvery || now.Sub(p.failedAt) < renewPause {
		return
	}
	p.renewed, p.renewing = now, true
	p.dialInBackground(now, c)
}

// retire gives up a connection of HTTP/1: now if it is idle, or when its request ends.
func (p *Pool) retire(c *conn) {
	c.retired = true
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.doomed = append(p.doomed, c)
	}
}
