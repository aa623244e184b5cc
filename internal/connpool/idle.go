package connpool

import (
	"runtime"
	"slices"
	"time"
)

// Under traffic, HTTP/1 connections that are at least renewEvery old are replaced, one every
// renewEvery. Even with one connection at a time, calls then reach about 40 random machines in ten
// seconds: each of six with a probability of 99.9 %. After a failure the pool waits for renewPause
// first: while the upstream fails, retries replace connections anyway.
const (
	renewEvery = 250 * time.Millisecond
	renewPause = time.Second
)

// unusedFor is how long a new HTTP/1 connection waits for its first request. Servers limit the time
// from a connection to its first request, many to 5 or 10 seconds. A request that comes just then
// meets a closing connection, or a Go server with h2c answers it with 400.
const unusedFor = 2 * time.Second

// besidePause is how long no connection is opened beside a wrong one after one was closed unused.
// Requests that come so rarely use the wrong one.
const besidePause = time.Minute

// takeIdle returns the HTTP/1 connection that was used last, or nil. The upstream may have closed
// it. The caller holds mu. That is true for everything below but reap and reapSome.
func (p *Pool) takeIdle(now time.Time, plain, fresh bool) *conn {
	for len(p.idle) > 0 {
		at := p.lastUsed(plain)
		c := p.idle[at]
		if fresh && !c.fresh(now) {
			return nil
		}
		p.idle = slices.Delete(p.idle, at, at+1)
		if c.expired(now) || now.Sub(c.idleSince) >= p.options.Limits.IdleTimeout || c.uses == 0 && now.Sub(c.idleSince) >= unusedFor {
			p.drop(c, now)
			continue
		}
		c.use(plain)
		return c
	}
	return nil
}

// drop closes c, which was idle.
func (p *Pool) drop(c *conn, now time.Time) {
	if c.uses == 0 {
		p.lastUnused = now
	}
	p.toClose = append(p.toClose, c)
}

// lastUsed returns the index of the connection for the next request: the one that was used last.
// Requests that direct connections are not made for leave those to others if they can. Those of the
// wrong kind may be many, but the right one may be behind them: without it, one more would change
// its kind.
func (p *Pool) lastUsed(plain bool) int {
	last := len(p.idle) - 1
	if !p.direct {
		return last
	}
	for at := last; at >= 0; at-- {
		if p.idle[at].isDirect() == plain {
			return at
		}
	}
	return last
}

// giveBack keeps an HTTP/1 connection whose request has ended, or closes it.
func (p *Pool) giveBack(c *conn, now time.Time) {
	if c.retired || p.closed || c.expired(now) || c.wire.writeFailed.Load() || c.client.Available() == 0 {
		p.toClose = append(p.toClose, c)
		return
	}
	wrong := c.isWrong()
	w := p.nextWaiter(func(w *waiter) bool { return !w.fresh })
	switch {
	case w == nil:
		p.keep(c, now)
	case c.client.Err() != nil: // the upstream has closed it; w goes on waiting for its dial
		p.toClose = append(p.toClose, c)
		return
	default:
		c.use(w.plain)
		p.serve(w, c)
	}
	p.renew(c, now, wrong)
}

// keep adds a connection to the idle ones.
func (p *Pool) keep(c *conn, now time.Time) {
	if p.options.Limits.MaxIdle == 0 {
		p.toClose = append(p.toClose, c)
		return
	}
	if len(p.idle) >= p.options.Limits.MaxIdle {
		p.toClose = append(p.toClose, p.idle[0])
		p.idle = slices.Delete(p.idle, 0, 1)
	}
	c.idleSince = now
	p.idle = append(p.idle, c)
	if p.reaping {
		return
	}
	p.reaping = true
	next := p.nextReap(p.options.Limits.IdleTimeout)
	if p.reaper == nil {
		p.reaper = time.AfterFunc(next, p.reap)
	} else {
		p.reaper.Reset(next)
	}
}

// lookEvery is how often connections that have been idle for as long are looked at, whether the
// upstream has closed them. Nobody else does with direct ones.
const lookEvery = time.Second

// nextReap returns when to reap, if the next connection will have been idle for too long in left.
func (p *Pool) nextReap(left time.Duration) time.Duration {
	if p.direct {
		return min(left, lookEvery)
	}
	return left
}

// reapAtOnce is how many connections reapSome looks at. A look is a system call, and requests wait
// for it.
const reapAtOnce = 64

// reap closes connections that were idle for too long, or that the upstream has closed. It sets its
// timer for the next one.
func (p *Pool) reap() {
	now := time.Now()
	for at, more := p.reapSome(0, now); more; at, more = p.reapSome(at, now) {
		runtime.Gosched() // requests that wait for mu go first
	}
}

// reapSome is reap for the connections from index at on. It returns where to go on. It locks mu
// itself.
func (p *Pool) reapSome(at int, now time.Time) (next int, more bool) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return 0, false
	}
	timeout := p.options.Limits.IdleTimeout
	at = min(at, len(p.idle)) // there may be fewer by now
	end := min(at+reapAtOnce, len(p.idle))
	more = end < len(p.idle) && now.Sub(p.idle[end].idleSince) >= p.nextReap(timeout)
	kept := slices.DeleteFunc(p.idle[at:end], func(c *conn) bool {
		idle := now.Sub(c.idleSince)
		gone := idle >= timeout || p.direct && idle >= lookEvery && c.client.Err() != nil
		if gone {
			p.drop(c, now)
		}
		return gone
	})
	p.idle = slices.Delete(p.idle, at+len(kept), end)
	if more {
		return at + len(kept), true
	}
	if p.reaping = len(p.idle) > 0; p.reaping {
		p.reaper.Reset(p.nextReap(p.idle[0].idleSince.Add(timeout).Sub(now)))
	}
	return 0, false
}

// renew replaces c in the background if it is due. wrong ones go first: as long as they come back,
// others wait. Without a maximum age nothing is replaced, but a wrong one gets a direct one beside
// it.
func (p *Pool) renew(c *conn, now time.Time, wrong bool) {
	limits := &p.options.Limits
	if wrong {
		p.lastWrong = now
	} else if limits.MaxAge == 0 || now.Sub(p.lastWrong) < renewEvery {
		return
	}
	if limits.MaxIdle == 0 || p.renewing || now.Sub(c.born) < renewEvery ||
		now.Sub(p.lastRenewal) < renewEvery || now.Sub(p.lastFailure) < renewPause {
		return
	}
	if limits.MaxAge == 0 {
		if now.Sub(p.lastUnused) < besidePause {
			return
		}
		c = nil
	}
	p.lastRenewal, p.renewing = now, true
	p.dialInBackground(now, c)
}

// retire closes an HTTP/1 connection, at once if it is idle, otherwise when its request ends.
func (p *Pool) retire(c *conn) {
	c.retired = true
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		p.toClose = append(p.toClose, c)
	}
}
