package serve

import (
	"net"
	"sync"
	"time"
)

// parker is where connections without TLS wait for a request. In net/http's server a waiting
// connection holds two buffers of 4 KiB and a goroutine whose stack has grown to 8 KiB. Here it
// holds a conn and a goroutine with a small stack. The server gets it when the first byte of the
// request has come, from the parker as its listener.
//
// So the time for the headers begins with that byte. In the server it would begin when the
// connection is opened. But a caller may well send the first request over a connection that it
// opened long before.
type parker struct {
	addr     net.Addr
	begun    chan *conn    // a request has begun
	done     chan struct{} // closed when the server no longer accepts
	close    func()
	watchers sync.WaitGroup // a goroutine for each connection that is not the server's

	mu       sync.Mutex
	waiting  map[*conn]struct{}
	stopping bool
}

func newParker(addr net.Addr) *parker {
	p := &parker{addr: addr, begun: make(chan *conn), done: make(chan struct{}), waiting: map[*conn]struct{}{}}
	p.close = sync.OnceFunc(func() { close(p.done) })
	return p
}

// arrivals are the new connections of a listener. The parker takes them all, so Accept only returns
// errors.
type arrivals struct {
	net.Listener
	parker *parker
}

func (l arrivals) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.parker.park(&conn{Conn: c, until: time.Now().Add(idleTimeout)}) {
			_ = c.Close()
		}
	}
}

// park takes over the connection of c until the end of its wait. In a stop, or if the connection is
// closed, it returns false and does nothing.
func (p *parker) park(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping || c.Conn.SetReadDeadline(c.until) != nil {
		return false
	}
	c.state.Store(parked)
	next := &conn{Conn: c.Conn, parker: p}
	p.waiting[next] = struct{}{}
	p.watchers.Add(1)
	go p.watch(next)
	return true
}

// watch hands c to the server with the first byte of its request.
func (p *parker) watch(c *conn) {
	defer p.watchers.Done()
	var n int
	var err error
	for n == 0 && err == nil { // io.ReadFull would need more stack
		n, err = c.Conn.Read(c.first[:]) // fails if the caller leaves, or at the end of the wait
	}
	p.mu.Lock()
	delete(p.waiting, c)
	p.mu.Unlock()
	if n > 0 {
		select {
		case p.begun <- c:
			return
		case <-p.done:
		}
	}
	_ = c.Conn.Close()
}

// stop closes the connections that wait, as the server closes idle ones in a stop. It returns when
// the server has accepted those whose request had begun.
func (p *parker) stop() {
	p.mu.Lock()
	p.stopping = true
	for c := range p.waiting {
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // no Close: watch may have the byte already
	}
	p.mu.Unlock()
	p.watchers.Wait()
}

// Accept implements net.Listener.
func (p *parker) Accept() (net.Conn, error) {
	select {
	case c := <-p.begun:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *parker) Close() error {
	p.close()
	return nil
}

// Addr implements net.Listener.
func (p *parker) Addr() net.Addr { return p.addr }
