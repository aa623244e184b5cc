package endpoint

import (
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// draws is how often two random endpoints are drawn until one of them is good enough.
const draws = 3

// choose returns the endpoint for an attempt, and whether the attempt is its probe. It returns nil
// if there is none.
//
// The better of two random endpoints gets the attempt. Of many clients that look for the best
// endpoint at the same time, all would find the same one (M. Mitzenmacher, The Power of Two Choices
// in Randomized Load Balancing, 2001).
func (s *Set) choose(v *view, l *Lease, c *Call, now int64, limit time.Duration) (m *member, probe bool) {
	spared := 0 < len(v.usable) && len(v.usable) < len(v.all) // nobody needs those that are out
	for _, m := range v.halfOpen {
		if spared && m.waits(now) || c.tried(m) && v.left(c) {
			continue
		}
		due := c.Repeatable && c.first == nil || now-m.halfOpen.Load() > int64(probeWait)
		if due && m.circuit.Probe(&l.admission, limit+probeGrace) {
			return m, true
		}
	}
	n := len(v.usable)
	if n < 2 {
		if n == 0 {
			return nil, false
		}
		return s.relieve(v, v.usable[0], c, now), false
	}
	var from int
	for range draws {
		x := s.options.Random() * float64(n)
		i := min(int(x), n-1)
		j := min(int((x-float64(i))*float64(n-1)), n-2)
		if j >= i {
			j++
		}
		a, b := v.usable[i], v.usable[j]
		triedA, triedB := c.tried(a), c.tried(b)
		switch {
		case triedA && triedB:
		case triedB, !triedA && !b.better(a, now):
			m = a
		default:
			m = b
		}
		if m != nil && now >= m.told.Load() && m.state() == resilience.Closed {
			return s.relieve(v, m, c, now), false
		}
		m, from = nil, i
	}
	return s.relieve(v, best(v.usable, from, c, now), c, now), false
}

// probeShare is the part of the requests that may bring forward the probes of endpoints that are
// needed. A busy set then probes them every EjectFor, and one with few requests seldom.
const probeShare = 0.05

// relieve returns m, or in its stead an endpoint that fails if m has too much work. m is the better
// of two, so those that work cannot serve all requests: their queues would grow until all requests
// time out. So each that fails gets its equal share, as without any ejection, of the first attempts
// that can be repeated: another caller would pay for it. And while answers come late, those that
// fail are probed sooner, because they are needed.
func (s *Set) relieve(v *view, m *member, c *Call, now int64) *member {
	if !v.fails() || !m.strain.late.holds(now) || m.state() != resilience.Closed {
		return m
	}
	x := s.options.Random()
	if x < probeShare {
		for _, o := range v.open {
			if now-o.opened.Load() >= int64(s.options.Policy.Eject.EjectFor) && !o.waits(now) {
				o.circuit.ProbeNow()
			}
		}
	}
	if !c.Repeatable || c.first != nil || !m.strain.overloaded.holds(now) {
		return m
	}
	o := v.all[min(int(x*float64(len(v.all))), len(v.all)-1)]
	if o.state() == resilience.Closed || o.waits(now) || c.tried(o) {
		return m
	}
	return o
}

// left reports whether a usable endpoint is left that c has not tried.
func (v *view) left(c *Call) bool {
	for _, m := range v.usable {
		if !c.tried(m) {
			return true
		}
	}
	return false
}

// probeWait is how long the probe of a half-open endpoint waits for a call that can be repeated.
const probeWait = time.Second

// probeGrace is how much longer than an attempt its probe may take. So the attempt's own end comes
// first, which knows whether the caller is to blame. After 10 s a probe gives its slot back anyway.
const probeGrace = time.Second

// best returns the endpoint with the lowest cost among those that the call has not tried, or among
// all if it has tried all. Equal ones are taken in order from the index from.
func best(list []*member, from int, c *Call, now int64) (found *member) {
	var untried bool
	var lowest float64
	for i := range list {
		m := list[(from+i)%len(list)]
		fits := !c.tried(m)
		if untried && !fits {
			continue
		}
		cost := m.cost(now)
		if found == nil || fits && !untried || cost < lowest {
			found, untried, lowest = m, fits, cost
		}
	}
	return found
}
