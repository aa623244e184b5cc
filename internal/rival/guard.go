package rival

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// guard is one breaker of a policy: one for the upstream, or one for each endpoint.
type guard struct {
	rule      foreign.Breaker
	members   map[int]*breaker // by endpoint; everyone without endpoints
	order     []int            // of the members
	nextCheck time.Time
}

// everyone is the key of the breaker for the whole upstream.
const everyone = -1

// guards are all breakers of a client. Their caller holds the client's lock.
type guards struct {
	all       []*guard
	start     time.Time
	random    func() float64
	known     func() []int
	opened    uint64
	ejections uint64
}

func newGuards(p foreign.Policy, start time.Time, random func() float64, known func() []int) *guards {
	g := &guards{start: start, random: random, known: known}
	for _, rule := range p.Breakers {
		one := &guard{rule: rule, members: map[int]*breaker{}}
		if rule.CheckEvery > 0 {
			// clients did not begin at the same moment
			one.nextCheck = start.Add(rule.CheckEvery + time.Duration(random()*float64(rule.CheckEvery)))
		}
		g.all = append(g.all, one)
	}
	return g
}

// at returns the breaker of an endpoint.
func (one *guard) at(endpoint int, now time.Time) *breaker {
	if one.rule.Scope == foreign.ScopeUpstream {
		endpoint = everyone
	}
	b := one.members[endpoint]
	if b == nil {
		if one.rule.CheckEvery > 0 {
			now = one.nextCheck.Add(-one.rule.CheckEvery) // its windows end with the checks
		}
		b = newBreaker(one.rule, now)
		one.members[endpoint] = b
		one.order = append(one.order, endpoint)
	}
	return b
}

// advance makes the changes that are due by now.
func (g *guards) advance(now time.Time) {
	for _, one := range g.all {
		if one.rule.CheckEvery == 0 {
			for _, n := range one.order {
				one.members[n].recover(now)
			}
			continue
		}
		for !now.Before(one.nextCheck) {
			g.check(one, one.nextCheck)
			one.nextCheck = one.nextCheck.Add(one.rule.CheckEvery)
		}
	}
}

// check is the regular check of a guard, as in Envoy (DetectorImpl::onIntervalTimer) and gRPC
// (A50).
func (g *guards) check(one *guard, now time.Time) {
	for _, n := range one.order {
		b := one.members[n]
		if b.state == closed && b.openings > 0 && b.rule.Growth == foreign.GrowthLinear {
			b.openings--
		}
		b.recover(now)
	}
	enough := one.measurable(now)
	least := one.rule.MinEndpoints
	floor := math.Inf(-1)
	if one.rule.BelowMean > 0 {
		floor = one.floor(enough)
	}
	for _, n := range one.order {
		b := one.members[n]
		if b.state != closed {
			continue
		}
		low := b.counts.total >= max(1, one.rule.MinCalls) && 1-b.counts.share(b.counts.failed, 0) < floor
		if len(enough) >= least && (b.exceeded(now) || low) {
			g.trip(one, b, now)
		}
	}
	for _, n := range one.order {
		if b := one.members[n]; b.counts.expired(now) {
			b.counts.clear(now)
		}
	}
}

// measurable returns the shares of successes of the endpoints that have enough calls.
func (one *guard) measurable(now time.Time) []float64 {
	var shares []float64
	for _, n := range one.order {
		b := one.members[n]
		b.counts.prune(now)
		if b.counts.total >= max(1, one.rule.MinCalls) {
			shares = append(shares, 1-b.counts.share(b.counts.failed, 0))
		}
	}
	return shares
}

// floor returns the share of successes below which an endpoint is ejected: mean - factor·standard
// deviation.
func (one *guard) floor(shares []float64) float64 {
	if len(shares) == 0 {
		return math.Inf(-1)
	}
	var mean, variance float64
	for _, s := range shares {
		mean += s / float64(len(shares))
	}
	for _, s := range shares {
		variance += (s - mean) * (s - mean) / float64(len(shares))
	}
	return mean - one.rule.BelowMean*math.Sqrt(variance)
}

// trip opens a breaker, unless too many endpoints are out already.
func (g *guards) trip(one *guard, b *breaker, now time.Time) {
	if one.rule.Scope == foreign.ScopeUpstream {
		g.opened++
		b.open(now, g.random())
		return
	}
	out, all := g.ejected(), len(g.known())
	// counted with the new one, as Envoy does since envoyproxy/envoy#27066
	if b.state == closed && float64(out+1) > one.rule.MaxEjected*float64(all)+1e-9 && !(one.rule.AtLeastOne && out == 0) {
		b.run = 0
		return
	}
	g.ejections++
	b.open(now, g.random())
}

// ejected returns how many endpoints are out, by all guards together.
func (g *guards) ejected() int {
	out := 0
	for _, n := range g.known() {
		for _, one := range g.all {
			if one.rule.Scope == foreign.ScopeEndpoint && one.members[n] != nil && one.members[n].state != closed {
				out++
				break
			}
		}
	}
	return out
}

// upstream reports whether the breakers for the whole upstream allow an attempt.
func (g *guards) upstream(now time.Time) bool {
	for _, one := range g.all {
		if one.rule.Scope == foreign.ScopeUpstream && !one.at(everyone, now).allows() {
			return false
		}
	}
	return true
}

// usable returns those of the endpoints that may be used: all of them in a panic.
func (g *guards) usable(known []int, now time.Time) []int {
	var usable []int
	panicBelow := 0.0
	for _, n := range known {
		if g.endpoint(n, now) {
			usable = append(usable, n)
		}
	}
	for _, one := range g.all {
		if one.rule.Scope == foreign.ScopeEndpoint {
			panicBelow = max(panicBelow, one.rule.PanicBelow)
		}
	}
	if float64(len(usable)) < panicBelow*float64(len(known)) {
		return known
	}
	return usable
}

func (g *guards) endpoint(n int, now time.Time) bool {
	for _, one := range g.all {
		if one.rule.Scope == foreign.ScopeEndpoint && !one.at(n, now).allows() {
			return false
		}
	}
	return true
}

// begin lets an attempt through to an endpoint.
func (g *guards) begin(endpoint int, now time.Time) []ticket {
	tickets := make([]ticket, len(g.all))
	for i, one := range g.all {
		tickets[i] = one.at(endpoint, now).begin()
	}
	return tickets
}

// end counts the end of an attempt. One that was not made gives its permissions back, unless the
// breaker counts refusals. repeated says whether the call is repeated after it.
func (g *guards) end(tickets []ticket, o *outcome, took time.Duration, now time.Time, repeated bool) {
	for i, t := range tickets {
		one := g.all[i]
		r := result{failed: o.in(one.rule.Counts), slow: one.rule.SlowCall > 0 && took >= one.rule.SlowCall}
		if one.rule.IfRepeated && o.kind == answered && !repeated {
			r.failed = false
		}
		if o.refused() && !r.failed || o.kind == replaced || o.kind == waiting {
			t.cancel()
			continue
		}
		if t.count(now, r) {
			g.trip(one, t.breaker, now)
		}
	}
}

// isOpen reports whether a breaker for the whole upstream is open.
func (g *guards) isOpen() bool {
	for _, one := range g.all {
		if b := one.members[everyone]; b != nil && b.state == open && one.rule.Scope == foreign.ScopeUpstream {
			return true
		}
	}
	return false
}
