// Package balancer is a TCP load balancer on loopback for tests. It has one address in front of
// several backends and gives each new connection to the next backend, as a Kubernetes Service does.
// It can fail the way networks do.
package balancer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Balancer forwards connections until its test ends. It is safe for concurrent use.
type Balancer struct {
	t        testing.TB
	listener net.Listener
	tasks    sync.WaitGroup

	mu       sync.Mutex
	backends []string
	next     int
	hanging  bool
	closed   bool
	links    map[*link]struct{}
	opened   map[string]int // connections that were made, by backend
}

// link is a caller's connection and its connection to the backend.
type link struct {
	caller, backend net.Conn // backend is nil while the balancer hangs
	dead            atomic.Bool
}

// New starts a balancer in front of backends, which are host:port.
func New(t testing.TB, backends ...string) *Balancer {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &Balancer{t: t, listener: l, backends: backends, links: map[*link]struct{}{}, opened: map[string]int{}}
	b.tasks.Go(func() { b.accept(l) })
	t.Cleanup(b.close)
	return b
}

// Address returns the address it listens on, as host:port.
func (b *Balancer) Address() string { return b.listener.Addr().String() }

// SetBackends shares new connections among backends. Existing connections stay.
func (b *Balancer) SetBackends(backends ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends, b.next = backends, 0
}

// Silence stops forwarding on existing connections without closing them: the balancer accepts data
// and drops it, as behind a node that has died. New connections work. Silence returns the number of
// silenced connections.
func (b *Balancer) Silence() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.links {
		l.dead.Store(true)
	}
	return len(b.links)
}

// Hang makes the balancer accept new connections without forwarding anything.
func (b *Balancer) Hang(hang bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hanging = hang
}

// Open returns the number of callers' connections that are open.
func (b *Balancer) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.links)
}

// Opened returns the number of connections ever made to a backend.
func (b *Balancer) Opened(backend string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened[backend]
}

func (b *Balancer) close() {
	_ = b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for l := range b.links {
		l.close()
	}
	b.mu.Unlock()
	b.tasks.Wait()
}

func (b *Balancer) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				b.t.Errorf("the balancer: %v", err)
			}
			return
		}
		b.tasks.Go(func() { b.serve(c) })
	}
}

func (b *Balancer) serve(caller net.Conn) {
	b.mu.Lock()
	l := &link{caller: caller}
	if b.closed {
		b.mu.Unlock()
		l.close()
		return
	}
	b.links[l] = struct{}{}
	hanging, backend := b.hanging, ""
	if len(b.backends) > 0 && !hanging {
		backend = b.backends[b.next%len(b.backends)]
		b.next++
	}
	b.mu.Unlock()
	defer func() {
		l.close()
		b.mu.Lock()
		delete(b.links, l)
		b.mu.Unlock()
	}()
	if hanging {
		l.dead.Store(true)
		l.forward(nil, caller)
		return
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", backend)
	if err != nil {
		_ = caller.(*net.TCPConn).SetLinger(0) // a reset, as if it had been refused
		return
	}
	b.mu.Lock()
	l.backend = c
	b.opened[backend]++
	if b.closed {
		l.close()
	}
	b.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { l.forward(caller, c) })
	l.forward(c, caller)
	back.Wait()
}

func (l *link) close() {
	_ = l.caller.Close()
	if l.backend != nil {
		_ = l.backend.Close()
	}
}

// forward copies data from one side to the other, and then the end of the stream. On a dead link,
// the caller's end closes both connections.
func (l *link) forward(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !l.dead.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				if from == l.caller {
					return // what the backend sent before it went is still on its way to the caller
				}
				l.close()
				return
			}
		}
		switch {
		case err == nil:
		case !l.dead.Load():
			if !errors.Is(err, io.EOF) {
				_ = to.(*net.TCPConn).SetLinger(0) // a reset is passed on as one
				l.close()
				return
			}
			_ = to.(*net.TCPConn).CloseWrite()
			return
		case from == l.caller:
			l.close()
			return
		default:
			return // the caller hears nothing of it
		}
	}
}
