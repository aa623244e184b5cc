package endpoint

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Call remembers which endpoints a call has tried. The zero value is ready to use. It is not safe
// for concurrent use.
type Call struct {
	// Repeatable reports whether the call can be repeated after a failure. Ejected endpoints are
	// probed with such calls first.
	Repeatable bool

	first *member
	more  []*member
}

func (c *Call) tried(m *member) bool {
	if c.first == m {
		return true
	}
	for _, t := range c.more {
		if t == m {
			return true
		}
	}
	return false
}

func (c *Call) add(m *member) {
	if c.first == nil {
		c.first = m
	} else if !c.tried(m) {
		c.more = append(c.more, m)
	}
}

// Lease is one attempt at an endpoint, from [Set.Begin] to [Lease.End]. A nil Lease and the
// zero value have no endpoint, and their methods do nothing, but for RoundTrip. A Lease must not be
// copied after Begin.
type Lease struct {
	set       *Set
	member    *member
	start     time.Time
	limit     time.Duration // until the response begins
	admission resilience.Admission
	state     LeaseState
	again     bool // the call has tried the endpoint before
	doubted   bool // the endpoint is probed, or its last request failed
	reported  atomic.Bool
	ended     atomic.Bool
}

// LeaseState says why an endpoint got an attempt.
type LeaseState string

// The states.
const (
	// the endpoint is in use
	LeaseReady LeaseState = "ready"
	// the endpoint was ejected, and the attempt finds out whether it works again
	LeaseProbe LeaseState = "probe"
	// the endpoint fails, but too many do for any to be ejected, or those that work are overloaded
	LeasePanic LeaseState = "panic"
)

// Address returns the endpoint's host:port, or "" if the set has a single one behind a name.
func (l *Lease) Address() string {
	if l == nil || l.member == nil || l.set.named() {
		return ""
	}
	return l.member.address
}

// State returns why the endpoint got the attempt.
func (l *Lease) State() LeaseState { return l.state }

// RoundTrip sends req to the endpoint. If fresh is true, it asks for a connection that is new or
// has just worked. The error is [ErrOtherHost] if req is not for the set's target.
func (l *Lease) RoundTrip(req *http.Request, fresh bool) (*http.Response, error) {
	if !l.set.serves(req.URL) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		if l.reported.CompareAndSwap(false, true) {
			l.admission.Settle(resilience.Neutral) // the time so far is not the endpoint's
		}
		return nil, ErrOtherHost
	}
	sender := l.set.senderOf(l.member)
	var resp *http.Response
	var err error
	if fresh {
		resp, err = sender.RoundTripFresh(req)
	} else {
		resp, err = sender.RoundTrip(req)
	}
	switch {
	case err != nil:
		if isDialError(err) && !errors.Is(context.Cause(req.Context()), context.Canceled) {
			l.set.hurry()
		}
	case resp != nil:
		now := time.Now()
		switch at := l.set.since(now); answerOf(resp) {
		case resilience.Healthy:
			l.admission.Answered()
			l.observe(now, resilience.Healthy)
		case resilience.Neutral:
			l.member.refused(at)
		case resilience.Unhealthy:
		}
	}
	return resp, err
}

// observe records how long the attempt has taken at now, and its health.
func (l *Lease) observe(now time.Time, h resilience.Health) {
	m, d, at := l.member, now.Sub(l.start), l.set.since(now)
	failed := h != resilience.Healthy
	m.mu.Lock()
	defer m.mu.Unlock()
	m.observe(d, at, failed)
	// Neither a caller that loses patience nor a failure that comes fast tells of the load.
	if !failed || h == resilience.Unhealthy && d >= l.limit/tooLate {
		m.strain.see(d, l.limit, at, !failed && !l.set.current.Load().fails())
	}
}

// serves reports whether u has the scheme, host and port of the set's target, or is nil.
func (s *Set) serves(u *url.URL) bool {
	if u == nil || u.Host == s.target.Host && u.Scheme == s.target.Scheme { // as usual
		return true
	}
	return u.Scheme == s.target.Scheme && strings.EqualFold(connpool.Address(u), connpool.Address(s.target))
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Again reports whether the call has already tried this endpoint.
func (l *Lease) Again() bool { return l.again }

// Doubted reports whether the endpoint may not work: the attempt probes it, or its last request
// failed.
func (l *Lease) Doubted() bool { return l != nil && l.doubted }

// Report records what the attempt shows about the endpoint. Only the first call counts. retryAfter
// is the wait that the endpoint asked for, or 0. It is safe for concurrent use.
func (l *Lease) Report(h resilience.Health, retryAfter time.Duration) {
	if l == nil || l.member == nil || !l.reported.CompareAndSwap(false, true) {
		return
	}
	now := time.Now()
	at := l.set.since(now)
	switch h {
	case resilience.Healthy:
		l.member.succeeded(at)
	case resilience.Unhealthy:
		l.observe(now, h)
		l.member.failed(at, retryAfter)
	default:
		l.observe(now, resilience.Neutral) // it may hang, and its callers lose patience
		l.member.keepAway(at, retryAfter)
	}
	l.admission.Settle(h)
}

// End ends the attempt, with its response body. It reports h unless Report was called. Only the
// first call has an effect. It is safe for concurrent use.
func (l *Lease) End(h resilience.Health) {
	if l == nil || l.member == nil || !l.ended.CompareAndSwap(false, true) {
		return
	}
	l.Report(h, 0)
	l.member.inFlight.Add(-1)
}

// OthersServe reports whether another endpoint has answered well within the last second. A failure
// of this attempt then says nothing about the upstream.
func (l *Lease) OthersServe() bool {
	if l == nil || l.member == nil {
		return false
	}
	v := l.set.current.Load()
	if len(v.all) < 2 {
		return false
	}
	now := l.set.since(time.Now())
	for _, m := range v.all {
		good := m.lastGood.Load()
		if m != l.member && good > 0 && now-good < int64(recently) && m.state() == resilience.Closed {
			return true
		}
	}
	return false
}

// OthersLeft reports whether an endpoint is left that the call has not tried.
func (l *Lease) OthersLeft(c *Call) bool {
	if l == nil || l.member == nil {
		return false
	}
	return l.set.current.Load().left(c)
}

// recently is how long a good answer counts as a sign that its endpoint works.
const recently = time.Second

// Begin chooses an endpoint for an attempt of c, and fills l. The attempt takes at most limit until
// its response begins. The caller must call [Lease.End].
//
// The error is [ErrNoEndpoint] if the upstream has no address, [ErrEjected] if all endpoints are
// ejected, or the cause of ctx. Begin only waits for the first lookup of the name, or after a
// pause without requests.
func (s *Set) Begin(ctx context.Context, l *Lease, c *Call, limit time.Duration) error {
	v, err := s.resolved(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	l.set, l.start, l.limit = s, now, limit
	m, probe := s.choose(v, l, c, s.since(now), limit)
	if m == nil {
		return ErrEjected
	}
	l.member, l.state, l.again = m, LeaseReady, c.tried(m)
	switch {
	case probe:
		l.state = LeaseProbe
	case m.state() != resilience.Closed:
		l.state = LeasePanic
	case m.circuit != nil:
		m.circuit.Admit(&l.admission)
	}
	l.doubted = l.state != LeaseReady || m.failures.Load() > 0
	c.add(m)
	m.inFlight.Add(1)
	m.requests.Add(1)
	return nil
}
