package endpoint

import (
	"slices"
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

// takeShared returns a connection of HTTP/2 with room for a request, or nil when
// one should be waited for. It is called with mu held, as is everything below.
func (p *Pool) takeShared(now time.Time, fresh bool) *conn {
	p.shared = slices.DeleteFunc(p.shared, func(c *conn) bool { return c.client.Err() != nil })
	aged := false
	for _, c := range slices.Backward(p.shared) {
		if c.strikes > 0 || fresh && !c.proven(now) || c.client.Reserve() != nil {
			continue
		}
		if aged = c.expired(now); aged {
			p.replaceShared(now)
		}
		return p.share(c)
	}
	if len(p.shared) == 0 || fresh && p.mayDialShared(now) {
		return nil
	}
	// All have failed, or are full.
	for _, c := range slices.Backward(p.shared) {
		if c.strikes >= manyStrikes && p.mayDialShared(now) || c.client.Reserve() != nil {
			continue
		}
		p.replaceShared(now)
		return p.share(c)
	}
	return nil
}

// share counts a request on a connection where a place is reserved for it.
func (p *Pool) share(c *conn) *conn {
	c.uses++
	c.streams++
	return c
}

// mayDialShared reports whether another connection is on its way or may be dialled.
func (p *Pool) mayDialShared(now time.Time) bool {
	return p.joint != nil || now.Sub(p.jointAt) >= jointEvery
}

// replaceShared dials in the background, unless that was done a moment ago.
func (p *Pool) replaceShared(now time.Time) {
	if p.joint == nil && !p.renewing && now.Sub(p.jointAt) >= jointEvery {
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
	p.shared = append(p.shared, c)
}

// hasShared reports whether there is a connection that nothing speaks against.
func (p *Pool) hasShared(now time.Time) bool {
	return slices.ContainsFunc(p.shared, func(c *conn) bool {
		return c.strikes == 0 && !c.expired(now) && c.client.Available() > 0
	})
}

// retireShared lets c have no request any more, and closes it after its last one.
func (p *Pool) retireShared(c *conn) {
	c.retired = true
	if c.streams == 0 {
		p.doomed = append(p.doomed, c)
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
