package connpool

import (
	"slices"
	"strings"
	"time"
)

// One HTTP/2 connection carries many requests, so a single failure must not end it: at an error
// rate of 30 % and 1,000 requests a second it would live for less than 4 ms. Each failure is a
// strike, and a success clears the strikes. Requests use connections without a strike. If there are
// none, another one is dialled.
const (
	// manyStrikes is the number of strikes at which requests prefer to wait for another connection.
	manyStrikes = 3
	// dialInterval is the least time between dials if there are connections.
	dialInterval = 100 * time.Millisecond
	// dialWait is how long requests wait for a dial before another one starts.
	dialWait = 500 * time.Millisecond
)

// Requests are spread over up to spread connections, the least busy first. A single connection
// would send all requests to one machine behind the name, and all would fail if that machine does.
//
// Another connection is dialled when the least busy has busyAt requests. A connection that has not
// answered yet gets no more than busyAt requests: others wait until it answers, or until patience
// has passed. For fresh requests, such as the probes of a circuit, the limit is freshAt: if one
// machine in three is sick, three probes do better on one connection than on three.
const (
	spread   = 3
	busyAt   = 2
	freshAt  = 4
	patience = 50 * time.Millisecond
)

// takeShared returns an HTTP/2 connection with room for a request. It returns nil if the request
// should wait, for a new connection or, if crowded is true, for one to answer. The caller holds mu.
// That is true for everything below but streamFreed.
func (p *Pool) takeShared(now time.Time, fresh bool) (c *conn, crowded bool) {
	p.shared = slices.DeleteFunc(p.shared, func(c *conn) bool { return c.client.Err() != nil })
	most := busyAt
	if fresh {
		most = freshAt
	}
	c = p.leastBusy(func(c *conn) bool {
		switch {
		case c.strikes > 0, fresh && !c.fresh(now):
			return false
		case c.lastGood.IsZero() && c.streams >= most:
			crowded = true
			return false
		}
		return true
	})
	switch {
	case c != nil:
		if c.expired(now) || c.streams > busyAt && len(p.shared) < spread {
			p.dialShared(now)
		}
		return c, false
	case crowded, len(p.shared) == 0, fresh && p.mayDialShared(now):
		return nil, crowded
	}
	// All connections have failed or are full.
	c = p.leastBusy(func(c *conn) bool { return c.strikes < manyStrikes || !p.mayDialShared(now) })
	if c != nil {
		p.dialShared(now)
	}
	return c, false
}

// takeCrowded is takeShared for a request that has waited for longer than patience.
func (p *Pool) takeCrowded(now time.Time, fresh bool) *conn {
	return p.leastBusy(func(c *conn) bool {
		return c.client.Err() == nil && c.strikes == 0 && (!fresh || c.fresh(now))
	})
}

// pendingDials returns how many connections are likely to be ready soon.
func (p *Pool) pendingDials(now time.Time) (n int) {
	for d := range p.dials {
		if now.Sub(d.began) < dialWait {
			n++
		}
	}
	return n
}

// leastBusy takes the connection with the fewest requests among those that match and have room.
// Among equals it takes the newest.
func (p *Pool) leastBusy(match func(*conn) bool) *conn {
	var best *conn
	for _, c := range slices.Backward(p.shared) {
		if (best == nil || c.streams < best.streams) && match(c) && c.client.Available() > 0 {
			best = c
		}
	}
	if best == nil || best.client.Reserve() != nil {
		return nil
	}
	return p.share(best)
}

// share counts a request on a connection where a stream is reserved for it.
func (p *Pool) share(c *conn) *conn {
	c.uses++
	c.streams++
	return c
}

// mayDialShared reports whether another connection is being dialled or may be dialled.
func (p *Pool) mayDialShared(now time.Time) bool {
	return len(p.dials) > 0 || now.Sub(p.lastDial) >= dialInterval
}

// dialShared dials in the background, unless a dial is running or has just begun.
func (p *Pool) dialShared(now time.Time) {
	if len(p.dials) == 0 && !p.renewing && now.Sub(p.lastDial) >= dialInterval {
		p.renewing = true
		p.dialInBackground(now, nil)
	}
}

// addShared adds a new connection in place of one that failed or expired.
func (p *Pool) addShared(c *conn, now time.Time) {
	worst := -1
	p.shared = slices.DeleteFunc(p.shared, func(o *conn) bool {
		if o.client.Err() != nil {
			return true
		}
		if o.expired(now) {
			p.retireShared(o)
			return true
		}
		return false
	})
	for i, o := range p.shared {
		if o.strikes > 0 && (worst < 0 || o.strikes > p.shared[worst].strikes) {
			worst = i
		}
	}
	if worst >= 0 {
		p.retireShared(p.shared[worst])
		p.shared = slices.Delete(p.shared, worst, worst+1)
	}
	if p.spreadOut(now) { // otherwise all are needed
		p.retireShared(p.shared[0])
		p.shared = slices.Delete(p.shared, 0, 1)
	}
	p.shared = append(p.shared, c)
}

// spreadOut reports whether there are at least spread connections that have answered, have no
// strike, have room and have not expired.
func (p *Pool) spreadOut(now time.Time) bool {
	good := 0
	for _, c := range p.shared {
		if c.strikes == 0 && !c.lastGood.IsZero() && !c.expired(now) && c.client.Available() > 0 {
			good++
		}
	}
	return good >= spread
}

// dropUnused closes connections beyond spread that never got a request. Many were dialled at once,
// and a few served all requests before the other dials ended.
func (p *Pool) dropUnused(now time.Time) {
	if p.unservedCount > 0 || len(p.shared) <= spread {
		return
	}
	usable := 0
	p.shared = slices.DeleteFunc(p.shared, func(c *conn) bool {
		if c.strikes > 0 || c.expired(now) || c.client.Available() == 0 || c.streams > 0 && c.lastGood.IsZero() {
			return false // it may have to be replaced
		}
		if usable++; usable <= spread || c.uses > 0 {
			return false
		}
		p.retireShared(c)
		return true
	})
}

// retireShared gives c no more requests, and closes it after its last one.
func (p *Pool) retireShared(c *conn) {
	c.retired = true
	if c.streams == 0 {
		p.toClose = append(p.toClose, c)
	}
}

// streamAnswered records the headers of a response on c that do not look like a failure.
func (p *Pool) streamAnswered(c *conn, now time.Time) {
	first := c.lastGood.IsZero()
	c.lastGood = now
	if first && len(p.shared) > spread && p.spreadOut(now) {
		// Many were dialled at once. Keep those that answered first.
		p.shared = slices.DeleteFunc(p.shared, func(c *conn) bool {
			if !c.lastGood.IsZero() {
				return false
			}
			p.retireShared(c)
			return true
		})
	}
	if p.unservedCount > 0 { // the waiting requests can use c
		p.serveShared(now, nil)
	}
}

// streamEnded records the end of a request on c.
func (p *Pool) streamEnded(c *conn, good bool, now time.Time) {
	c.streams--
	if good {
		c.strikes, c.lastGood = 0, now
	}
	if c.retired && c.streams == 0 {
		p.toClose = append(p.toClose, c)
	}
	p.dropUnused(now)
}

// streamFreed is called when a body is closed. Only then has net/http surely freed its stream, and
// requests that wait for a slow dial can use it. It locks mu itself.
func (p *Pool) streamFreed() {
	p.mu.Lock()
	defer p.unlock()
	if p.unservedCount > 0 {
		p.serveShared(time.Now(), nil)
	}
}

// stopPings stops the pings to an upstream that has closed a connection because of them. gRPC
// servers count pings while a stream is quiet, and tolerate only a few.
func (p *Pool) stopPings(err error) {
	if text := err.Error(); !p.pingsStopped && strings.Contains(text, "GOAWAY") && strings.Contains(text, "ENHANCE_YOUR_CALM") {
		p.pingsStopped = true
		p.transport = p.newTransport(0)
	}
}
