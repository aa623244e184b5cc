package serve

import (
	"net"
	"sync"
	"time"
)

// parkAfter is how long a connection waits for a request in the server. A call on a connection that
// was parked takes a fifth more processor time, so one that is in use should not be.
const parkAfter = 3 * time.Second

// parkingLot is where connections without TLS wait for their first request, and those of HTTP/1 for
// their next one, after parkAfter. In the server such a connection holds two buffers of 4 KiB and
// a goroutine whose stack has grown to 8 KiB. Here it has a small stack and a byte. With its next
// byte it goes back to the server, which takes the lot for a second listener.
type parkingLot struct {
	addr     net.Addr
	woken    chan *conn
	done     chan struct{} // closed with the listener
	close    func()
	watchers sync.WaitGroup // a goroutine for each parked connection

	mu      sync.Mutex
	parked  map[net.Conn]struct{}
	closing bool
}

func newParkingLot(addr net.Addr) *parkingLot {
	l := &parkingLot{addr: addr, woken: make(chan *conn), done: make(chan struct{}), parked: map[net.Conn]struct{}{}}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

// park takes over c's socket. It reports false during a stop.
func (l *parkingLot) park(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing || c.Conn.SetReadDeadline(c.until) != nil {
		return false
	}
	c.state.Store(parked)
	l.parked[c.Conn] = struct{}{}
	l.watchers.Add(1)
	go l.watch(c.Conn)
	return true
}

// watch hands the connection to the server with the first byte of a request.
func (l *parkingLot) watch(socket net.Conn) {
	defer l.watchers.Done()
	first := make([]byte, 1)
	n, _ := socket.Read(first) // or the caller has left, the wait is over, or the server stops
	l.mu.Lock()
	delete(l.parked, socket)
	l.mu.Unlock()
	if n > 0 {
		c := &conn{Conn: socket, lot: l, first: first, begun: true}
		c.state.Store(active)
		select {
		case l.woken <- c:
			return
		case <-l.done:
		}
	}
	_ = socket.Close()
}

// clear closes the connections that wait, as a server that stops does with its idle ones. It
// returns when the server has taken those whose request has begun.
func (l *parkingLot) clear() {
	l.mu.Lock()
	l.closing = true
	for socket := range l.parked {
		_ = socket.SetReadDeadline(time.Unix(1, 0)) // a byte that has been read is not lost
	}
	l.mu.Unlock()
	l.watchers.Wait()
}

// Accept implements net.Listener.
func (l *parkingLot) Accept() (net.Conn, error) {
	select {
	case c := <-l.woken:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *parkingLot) Close() error {
	l.close()
	return nil
}

// Addr implements net.Listener.
func (l *parkingLot) Addr() net.Addr { return l.addr }
