package connpool

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"
)

// maxOrphans is how many dials may continue with no request waiting for them. A connection that
// comes too late for its request can serve the next one.
const maxOrphans = 64

// dial makes one connection, on its own goroutine. Once it runs, the pool's mutex guards the fields
// that change.
type dial struct {
	pool     *Pool
	by       *http.Transport
	ctx      context.Context
	cancel   context.CancelFunc
	began    time.Time
	owner    *waiter // the request whose context it has; nil in the background
	waiters  int     // the number of requests that wait for it
	orphan   bool
	renewal  bool
	replaces *conn // or nil

	wire      *wire
	shared    bool  // HTTP/2 was negotiated
	handshake error // the error of the TLS handshake, or nil
}

// waiter is a request that waits for a connection.
type waiter struct {
	ctx   context.Context
	plain bool  // a direct connection is made for it
	fresh bool  // wants a fresh connection
	dial  *dial // the dial it waits for; nil if it waits for an existing connection
	done  bool  // guarded by the pool's mutex
	ready chan struct{}
	conn  *conn
	// reused reports whether a request was sent on conn before.
	reused bool
	err    error
}

type dialKey struct{}

var errClosedAtOnce = errors.New("the upstream closed a new HTTP/2 connection at once")

// dialCounted wraps dialContext so that its connections count their bytes.
func dialCounted(dialContext func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		d := ctx.Value(dialKey{}).(*dial)
		if d.wire != nil {
			return d.wire, nil // handed over by a direct connection
		}
		c, err := dialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		d.wire = &wire{Conn: c}
		return d.wire, nil
	}
}

// get returns a connection for one request, and whether it was used before. A request that is sent
// again gets no kept HTTP/1 connection. Otherwise it could be sent on each of them in turn. The
// error is a *net.OpError with Op "dial" if nothing accepted a connection. So is that of a deadline
// that passed while the request's dial had no answer, but not if the request is sent again.
func (p *Pool) get(ctx context.Context, plain, fresh, again bool) (c *conn, reused bool, err error) {
	now := time.Now()
	p.mu.Lock()
	for !again {
		if c = p.takeIdle(now, plain, fresh); c == nil {
			break
		}
		// To look at it takes a system call.
		p.unlock()
		if c.client.Err() == nil {
			return c, c.uses > 1, nil
		}
		p.mu.Lock()
		p.toClose = append(p.toClose, c)
	}
	crowded := false
	if c == nil && len(p.shared) > 0 {
		c, crowded = p.takeShared(now, fresh)
	}
	if c != nil {
		reused = c.uses > 1
		p.unlock()
		return c, reused, nil
	}
	w := p.wait(ctx, now, plain, fresh, crowded)
	p.unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case <-w.ready:
			waiting = false
		case now := <-timer.C:
			p.checkWaiter(w, now)
			timer.Reset(patience)
		case <-ctx.Done():
			served := p.giveUp(w)
			if served && w.conn != nil {
				p.release(w.conn)
			}
			cause := context.Cause(ctx)
			if !served && w.dial != nil && !again && errors.Is(cause, context.DeadlineExceeded) {
				// Nothing answers the dial: the machine is dead, or the network drops its packets.
				cause = &net.OpError{Op: "dial", Net: "tcp", Err: cause}
			}
			return nil, false, cause
		}
	}
	if w.err != nil && w.dial.owner != w && w.dial.handshake != nil {
		// The trace of the request that owns the dial saw the handshake already.
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.TLSHandshakeDone != nil {
			trace.TLSHandshakeDone(tls.ConnectionState{}, w.dial.handshake)
		}
	}
	return w.conn, w.reused, w.err
}

// dialPatience is how long a request waits for its dial if there are connections that have not
// answered yet.
const dialPatience = time.Second

// checkWaiter finds another connection for w if its dial takes too long, or if the connections it
// waits for do not answer. It is called every patience while w waits.
func (p *Pool) checkWaiter(w *waiter, now time.Time) {
	p.mu.Lock()
	defer p.unlock()
	if w.done || w.dial != nil && now.Sub(w.dial.began) < dialPatience || w.dial == nil && p.pendingDials(now) > 0 {
		return
	}
	if c := p.takeCrowded(now, w.fresh); c != nil {
		p.serve(w, c)
	} else if w.dial == nil {
		p.dialFor(w, now)
	}
}

// giveUp stops waiting for w, and reports whether w was served in the meantime.
func (p *Pool) giveUp(w *waiter) (served bool) {
	p.mu.Lock()
	defer p.unlock()
	if !w.done {
		p.finish(w)
		p.leave(w)
		return false
	}
	return true
}

// outdated reports whether c is from before SetContinueWait, and would wait for a 100 for as long
// as before. Then c gets no more requests.
func (p *Pool) outdated(c *conn) bool {
	p.mu.Lock()
	defer p.unlock()
	if c.by.ExpectContinueTimeout == p.options.ContinueWait {
		return false
	}
	if c.shared {
		p.shared = slices.DeleteFunc(p.shared, func(o *conn) bool { return o == c })
	}
	c.retired = true // release closes it
	return true
}

// release returns a connection that was not used after all.
func (p *Pool) release(c *conn) {
	now := time.Now()
	if c.shared {
		c.client.Release()
	}
	p.mu.Lock()
	defer p.unlock()
	c.uses--
	if c.shared {
		p.streamEnded(c, false, now)
	} else {
		p.giveBack(c, now)
	}
}

// wait queues a request, and starts a dial for it if necessary. The caller holds mu. That is true
// for everything below but run.
func (p *Pool) wait(ctx context.Context, now time.Time, plain, fresh, crowded bool) *waiter {
	w := &waiter{ctx: ctx, plain: plain, fresh: fresh, ready: make(chan struct{})}
	done := 0
	for done < len(p.waiting) && p.waiting[done].done {
		done++
	}
	p.waiting = append(slices.Delete(p.waiting, 0, done), w)
	p.unservedCount++
	if crowded && len(p.shared)+p.pendingDials(now) >= spread {
		return w // one of the existing connections will answer
	}
	if d := p.dialToJoin(now, fresh); d != nil {
		p.join(w, d)
	} else {
		p.dialFor(w, now)
	}
	return w
}

// finish marks w as done.
func (p *Pool) finish(w *waiter) {
	w.done = true
	if p.unservedCount--; p.unservedCount == 0 {
		clear(p.waiting)
		p.waiting = p.waiting[:0]
	}
}

// dialToJoin returns a running dial that one more request can wait for, or nil. Over HTTP/2 a few
// connections are enough for all requests. Fresh requests that come together, such as the probes of
// a circuit, share one dial and so try one machine instead of several.
func (p *Pool) dialToJoin(now time.Time, fresh bool) *dial {
	if !p.multiplexed {
		return nil
	}
	if p.pendingDials(now)+len(p.shared) < spread && !fresh {
		return nil
	}
	var best *dial
	for d := range p.dials {
		if now.Sub(d.began) < dialWait && (best == nil || d.waiters < best.waiters) {
			best = d
		}
	}
	return best
}

func (p *Pool) join(w *waiter, d *dial) {
	w.dial = d
	d.waiters++
	if d.orphan {
		d.orphan = false
		p.orphans--
	}
}

// dialFor starts a dial for w. The dial has the values of w's context, but not its end.
func (p *Pool) dialFor(w *waiter, now time.Time) {
	d := &dial{owner: w, waiters: 1}
	w.dial = d
	p.start(context.WithoutCancel(w.ctx), d, now)
}

func (p *Pool) dialInBackground(now time.Time, replaces *conn) {
	p.start(context.Background(), &dial{renewal: true, replaces: replaces}, now)
}

func (p *Pool) start(ctx context.Context, d *dial, now time.Time) {
	d.pool, d.by, d.began = p, p.transport, now
	d.ctx, d.cancel = context.WithCancel(ctx)
	p.dials[d] = struct{}{}
	p.lastDial = now
	go d.run()
}

func (d *dial) run() {
	defer d.cancel()
	p := d.pool
	ctx := httptrace.WithClientTrace(context.WithValue(d.ctx, dialKey{}, d), &httptrace.ClientTrace{
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			d.shared, d.handshake = s.NegotiatedProtocol == "h2", err
		},
	})
	client, err := d.connect(ctx)
	d.shared = d.shared || p.options.PriorKnowledge
	if err == nil && d.shared && client.Err() != nil {
		err = errClosedAtOnce
	}
	now := time.Now()
	p.mu.Lock()
	defer p.unlock()
	delete(p.dials, d)
	if d.orphan {
		p.orphans--
	}
	if d.renewal {
		p.renewing = false
	}
	if err != nil {
		for w := p.nextWaiter(d.waitsForIt); w != nil; w = p.nextWaiter(d.waitsForIt) {
			w.err = err
			p.finish(w)
			close(w.ready)
		}
		return
	}
	c := &conn{client: client, wire: d.wire, shared: d.shared, born: d.began, by: d.by}
	if age := p.options.Limits.MaxAge; age > 0 {
		c.expiry = now.Add(time.Duration(float64(age) * (0.9 + 0.2*p.options.Random())))
	}
	p.multiplexed = c.shared
	if c.shared {
		p.arrivedShared(d, c, now)
	} else {
		p.arrived(d, c, now)
	}
	// Requests that waited for this connection and did not get it wait for another one.
	for w := p.nextWaiter(d.waitsForIt); w != nil; w = p.nextWaiter(d.waitsForIt) {
		if d := p.dialToJoin(now, true); d != nil {
			p.join(w, d)
		} else if len(p.shared) >= spread {
			w.dial = nil // one of the existing connections will answer
		} else {
			p.dialFor(w, now)
		}
	}
}

func (d *dial) connect(ctx context.Context) (client, error) {
	p := d.pool
	if p.direct {
		return p.newDirect(ctx, d)
	}
	return d.by.NewClientConn(ctx, p.scheme, p.address)
}

func (d *dial) waitsForIt(w *waiter) bool { return w.dial == d }

// arrived hands out a new HTTP/1 connection.
func (p *Pool) arrived(d *dial, c *conn, now time.Time) {
	w := d.owner
	if w == nil || w.done {
		w = p.nextWaiter(func(*waiter) bool { return true })
	}
	switch {
	case w != nil:
		c.use(w.plain)
		p.serve(w, c)
	case p.closed:
		p.toClose = append(p.toClose, c)
	default:
		p.keep(c, now)
	}
	if d.replaces != nil {
		p.retire(d.replaces)
	}
}

// arrivedShared hands out a new HTTP/2 connection.
func (p *Pool) arrivedShared(d *dial, c *conn, now time.Time) {
	if !p.closed && !p.spreadOut(now) {
		p.addShared(c, now)
		p.serveShared(now, func(w *waiter) bool { return w.dial == d || w.dial == nil })
		p.dropUnused(now)
		return
	}
	// Many connections were dialled before one was ready, and the pool has enough now. The requests
	// that waited for this one still use it, so that each goes where the load balancer sent it. The
	// connections that are kept were the quickest, and may all lead to one machine.
	for w := p.nextWaiter(d.waitsForIt); w != nil && c.client.Reserve() == nil; w = p.nextWaiter(d.waitsForIt) {
		p.serve(w, p.share(c))
	}
	p.retireShared(c)
}

// serveShared gives HTTP/2 connections to the waiting requests that match.
func (p *Pool) serveShared(now time.Time, match func(*waiter) bool) {
	for w := p.nextWaiter(match); w != nil; w = p.nextWaiter(match) {
		c, _ := p.takeShared(now, w.fresh)
		if c == nil {
			return
		}
		p.serve(w, c)
	}
}

// nextWaiter returns the first waiting request that matches, or nil. A nil match takes any.
func (p *Pool) nextWaiter(match func(*waiter) bool) *waiter {
	if p.unservedCount == 0 {
		return nil
	}
	for _, w := range p.waiting {
		if !w.done && (match == nil || match(w)) {
			return w
		}
	}
	return nil
}

// serve gives c to w.
func (p *Pool) serve(w *waiter, c *conn) {
	w.conn, w.reused = c, c.uses > 1
	p.finish(w)
	p.leave(w)
	close(w.ready)
}

// leave removes w from its dial.
func (p *Pool) leave(w *waiter) {
	d := w.dial
	if d == nil {
		return
	}
	d.waiters--
	if _, running := p.dials[d]; !running || d.waiters > 0 || d.renewal {
		return
	}
	d.orphan = true
	if p.orphans++; p.orphans > maxOrphans || p.closed {
		d.cancel()
	}
}
