package endpoint

import (
	"slices"
	"strings"
	"time"
)

// One connection of HTTP/2 carries many requests, so that a single failure cannot
// be the end of it: at an error rate of 30 % and 1,000 requests a second it would
// not live for 4 ms. A failure is a strike, which a success takes back. While one
// connection has no strike, requests go there; otherwise another one is dialled.
const (
	// manyStrikes is from when on a request rather waits for another connection.
	manyStrikes = 3
	// jointEvery is how often connections are dialled at most while there are some.
	jointEvery = 100 * time.Millisecond
	// jointFor is how long a dial is waited for before another one is begun beside it.
	jointFor = 500 * time.Millisecond
)

// Requests are shared among up to spread connections, the least busy one first.
// With a single one all of them would go to one machine behind the name, and if
// that is sick, fail together. Another one is dialled when the least busy has
// busyAt requests. Nor do more than those crowd upon one that has not answered
// yet: they wait until one has, or until patience is over. Of fresh requests, such as
// the probes of a circuit, freshAt may: where one machine in three is sick, three of
// them do better with one connection than with three.
const (
	spread   = 3
	busyAt   = 2
	freshAt  = 4
	patience = 50 * time.Millisecond
)

// takeShared returns a connection of HTTP/2 with room for a request, or nil when
// one should be waited for: a new one, or, if they are crowded, one that answers.
// It is called with mu held, as is everything below.
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
	// All have failed, or are full.
	c = p.leastBusy(func(c *conn) bool { return c.strikes < manyStrikes || !p.mayDialShared(now) })
	if c != nil {
		p.dialShared(now)
	}
	return c, false
}

// takeCrowded is takeShared for a request whose patience is over.
func (p *Pool) takeCrowded(now time.Time, fresh bool) *conn {
	return p.leastBusy(func(c *conn) bool {
		return c.client.Err() == nil && c.strikes == 0 && (!fresh || c.fresh(now))
	})
}

// coming is how many connections are likely to be there in a moment.
func (p *Pool) coming(now time.Time) (n int) {
	for d := range p.dials {
		if now.Sub(d.began) < jointFor {
			n++
		}
	}
	return n
}

// leastBusy takes the connection with the fewest requests of those that which says
// yes to and that have room; the newest of several.
func (p *Pool) leastBusy(which func(*conn) bool) *conn {
	var best *conn
	for _, c := range slices.Backward(p.shared) {
		if (best == nil || c.streams < best.streams) && which(c) && c.client.Available() > 0 {
			best = c
		}
	}
	if best == nil || best.client.Reserve() != nil {
		return nil
	}
	return p.share(best)
}

// share counts a request on a connection where a place is reserved for it.
func (p *Pool) share(c *conn) *conn {
	c.uses++
	c.streams++
	return c
}

// mayDialShared reports whether another connection is on its way or may be dialled.
func (p *Pool) mayDialShared(now time.Time) bool {
	return len(p.dials) > 0 || now.Sub(p.dialled) >= jointEvery
}

// dialShared dials in the background, unless that was done a moment ago.
func (p *Pool) dialShared(now time.Time) {
	if len(p.dials) == 0 && !p.renewing && now.Sub(p.dialled) >= jointEvery {
		p.renewing = true
		p.dialInBackground(now, nil)
	}
}

// addShared takes up a new connection, in the place of one that failed or has become old.
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
	if p.spreadOut(now) { // or else each is needed
		p.retireShared(p.shared[0])
		p.shared = slices.Delete(p.shared, 0, 1)
	}
	p.shared = append(p.shared, c)
}

// spreadOut reports whether there are as many connections as requests are shared
// among that have answered and that nothing speaks against.
func (p *Pool) spreadOut(now time.Time) bool {
	good := 0
	for _, c := range p.shared {
		if c.strikes == 0 && !c.lastGood.IsZero() && !c.expired(now) && c.client.Available() > 0 {
			good++
		}
	}
	return good >= spread
}

// retireShared lets c have no request any more, and closes it after its last one.
func (p *Pool) retireShared(c *conn) {
	c.retired = true
	if c.streams == 0 {
		p.doomed = append(p.doomed, c)
	}
}

// streamAnswered is the beginning of an answer on c that does not look like a failure.
func (p *Pool) streamAnswered(c *conn, now time.Time) {
	first := c.lastGood.IsZero()
	c.lastGood = now
	if first && len(p.shared) > spread && p.spreadOut(now) {
		// Of many that were dialled at once, these were the first to answer.
		p.shared = slices.DeleteFunc(p.shared, func(c *conn) bool {
			if !c.lastGood.IsZero() {
				return false
			}
			p.retireShared(c)
			return true
		})
	}
	if p.unserved > 0 { // whoever waits for one needs to no more
		p.serveShared(now, nil)
	}
}

// streamEnded is the end of a request on c.
func (p *Pool) streamEnded(c *conn, good bool, now time.Time) {
	c.streams--
	if good {
		c.strikes, c.lastGood = 0, now
	}
	if c.retired && c.streams == 0 {
		p.doomed = append(p.doomed, c)
	}
}

// streamFreed is told that a body was closed: only then net/http has surely freed its
// stream, and whoever waits for a dial that hangs can have it. It takes mu itself.
func (p *Pool) streamFreed() {
	p.mu.Lock()
	defer p.unlock()
	if p.unserved > 0 {
		p.serveShared(time.Now(), nil)
	}
}

// mindPings stops pinging an upstream that has closed a connection over it. Servers
// of gRPC count pings that come while a stream is quiet, and few are too many.
func (p *Pool) mindPings(err error) {
	if text := err.Error(); !p.unpinged && strings.Contains(text, "GOAWAY") && strings.Contains(text, "ENHANCE_YOUR_CALM") {
		p.unpinged = true
		p.transport = p.newTransport(0)
	}
}
