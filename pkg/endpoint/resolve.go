package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/connpool"
)

// Resolver looks up the addresses of a name. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// lookupTimeout limits one lookup. Calls do not wait for it, except for the first. Resolvers
	// wait for 5 s before they ask again.
	lookupTimeout = 10 * time.Second
	// hurryAfter is the least time between two lookups.
	hurryAfter = time.Second
	// catchUp is how long a request waits for a lookup after a pause without requests, in which
	// the addresses were not kept up to date.
	catchUp = 500 * time.Millisecond
	// idleAfter is the number of refreshes without a request after which the lookups stop.
	idleAfter = 3
)

// lookups keeps the addresses of a set up to date while there are requests.
type lookups struct {
	set  *Set
	used atomic.Bool // there were requests since the last lookup
	idle atomic.Bool // the lookups have stopped

	mu        sync.Mutex
	running   *lookup
	timer     *time.Timer
	began     time.Time // when the last lookup began
	inherited time.Time // until then the addresses of another set are up to date
	unused    int       // refreshes without a request
	err       error     // of the last lookup
	closed    bool
}

// lookup is one lookup of the name.
type lookup struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// resolved returns the set's endpoints.
func (s *Set) resolved(ctx context.Context) (*view, error) {
	if s.options.Policy.Resolve != ResolveDNS {
		return s.current.Load(), nil
	}
	l := &s.lookups
	if !l.used.Load() {
		l.used.Store(true)
	}
	if v := s.current.Load(); len(v.all) > 0 && !l.idle.Load() {
		return v, nil
	}
	return l.wait(ctx)
}

// wait waits for a lookup, and returns the endpoints. Once some are known, it waits for catchUp at
// most.
func (l *lookups) wait(ctx context.Context) (*view, error) {
	running, err := l.start(false)
	if running != nil {
		var late <-chan time.Time
		if v := l.set.current.Load(); len(v.all) > 0 {
			if l.upToDate() {
				return v, nil
			}
			timer := time.NewTimer(catchUp)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-running.done:
			err = running.err
		case <-late:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	v := l.set.current.Load()
	if len(v.all) == 0 {
		if err == nil {
			return nil, ErrNoEndpoint
		}
		return nil, fmt.Errorf("%w: %w", ErrNoEndpoint, err)
	}
	return v, nil
}

// inherit makes the first request begin a lookup. It waits for it only if it comes so late that the
// lookups of before would have stopped.
func (l *lookups) inherit(before *lookups) {
	before.mu.Lock()
	until := before.inherited
	before.mu.Unlock()
	if !before.idle.Load() {
		until = time.Now().Add(idleAfter * before.set.options.Policy.Refresh)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inherited = until
	l.idle.Store(true)
}

// upToDate reports whether the addresses are those of another set, and up to date.
func (l *lookups) upToDate() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.inherited)
}

// hurry looks up the name soon: a connection could not be made.
func (s *Set) hurry() {
	if s.options.Policy.Resolve == ResolveDNS {
		_, _ = s.lookups.start(true)
	}
}

// start starts a lookup, unless one is running or began within hurryAfter. It returns the lookup
// that is running, or nil and the error of the last one. With later set, a lookup that is not
// possible yet starts when it is.
func (l *lookups) start(later bool) (*lookup, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil || l.closed {
		return l.running, l.err
	}
	if wait := hurryAfter - time.Since(l.began); !l.began.IsZero() && wait > 0 {
		// A refresh that is more frequent than this comes sooner anyway.
		if later && l.timer != nil && (l.idle.Load() || l.set.options.Policy.Refresh > hurryAfter) {
			l.timer.Reset(wait)
		}
		return nil, l.err
	}
	l.begin()
	return l.running, nil
}

// begin starts a lookup. The caller holds mu.
func (l *lookups) begin() {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	l.began, l.running = time.Now(), &lookup{cancel: cancel, done: make(chan struct{})}
	l.idle.Store(false)
	if l.timer != nil {
		l.timer.Stop()
	}
	go l.run(ctx, l.running)
}

func (l *lookups) run(ctx context.Context, r *lookup) {
	defer r.cancel()
	addresses, err := l.set.lookUp(ctx)
	if err == nil {
		l.set.replace(addresses)
	} else if l.set.knownAddresses() {
		l.set.lookupFailed(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.err, l.err, l.running = err, err, nil
	close(r.done)
	if l.closed {
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(l.set.options.Policy.Refresh, l.refresh)
	} else {
		l.timer.Reset(l.set.options.Policy.Refresh)
	}
}

// refresh is called when the next lookup is due. It stops the lookups if there are no requests.
func (l *lookups) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.running != nil {
		return
	}
	if l.unused++; l.used.Swap(false) {
		l.unused = 0
	}
	if l.unused >= idleAfter {
		l.inherited = time.Time{}
		l.idle.Store(true)
		return
	}
	l.begin()
}

// close ends the lookups, and waits for the one that is running.
func (l *lookups) close() {
	l.mu.Lock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	running := l.running
	l.mu.Unlock()
	if running != nil {
		running.cancel()
		<-running.done
	}
}

// lookUp returns the addresses of the target's name, sorted, each with the target's port.
func (s *Set) lookUp(ctx context.Context) ([]string, error) {
	host, port, err := net.SplitHostPort(connpool.Address(s.target))
	if err != nil {
		return nil, err
	}
	found, err := s.options.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("lookup " + host + ": no address")
	}
	for i, a := range found {
		found[i] = a.Unmap()
	}
	slices.SortFunc(found, netip.Addr.Compare)
	found = s.withRoute(slices.Compact(found))
	addresses := make([]string, len(found))
	for i, a := range found {
		addresses[i] = net.JoinHostPort(a.String(), port)
	}
	return addresses, nil
}

// withRoute returns the addresses of sorted. If this machine has a route to none of those of one
// family, IPv4 or IPv6, these are left out: as endpoints they would only fail. If it has a route to
// neither family, all stay.
func (s *Set) withRoute(sorted []netip.Addr) []netip.Addr {
	v6 := slices.IndexFunc(sorted, netip.Addr.Is6) // IPv4 comes first
	if v6 <= 0 || s.options.Routed == nil {
		return sorted
	}
	has4, has6 := slices.ContainsFunc(sorted[:v6], s.options.Routed), slices.ContainsFunc(sorted[v6:], s.options.Routed)
	switch {
	case has4 && !has6:
		return sorted[:v6]
	case has6 && !has4:
		return sorted[v6:]
	}
	return sorted
}

// routed asks the system for a route to a. Nothing is sent: a UDP socket only takes the address. An
// error that says nothing about routes, such as one about too many open files, counts as a route.
func routed(a netip.Addr) bool {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
	if err != nil {
		return !withoutRoute(err)
	}
	_ = c.Close()
	return true
}

func (s *Set) knownAddresses() bool { return len(s.current.Load().all) > 0 }

func (s *Set) lookupFailed(err error) {
	s.mu.Lock()
	defer s.unlock()
	if !s.closed { // otherwise Close has ended the lookup
		s.tell(Event{Kind: EventLookup, Err: err})
	}
}
