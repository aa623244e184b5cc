// Package pipenet is a network of net.Pipe connections: real net/http on both
// sides, and nothing that a testing/synctest bubble cannot wait for, so that a
// whole chain of servers runs on a virtual clock.
package pipenet

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// Network connects by address. The zero value is not ready; use [New]. It is
// safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

// New is a network without listeners.
func New() *Network { return &Network{listeners: map[string]*listener{}} }

// Listen takes the address until the listener is closed. It has the shape of
// net.ListenConfig's.
func (n *Network) Listen(_ context.Context, _, addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l, ok := n.listeners[addr]; ok && !l.closed() {
		return nil, &net.OpError{Op: "listen", Net: "pipe", Addr: address(addr), Err: syscall.EADDRINUSE}
	}
	l := &listener{addr: address(addr), conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects to a listener's address. It has the shape of net.Dialer's.
func (n *Network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: "pipe", Addr: address(addr), Err: syscall.ECONNREFUSED}
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, refused
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, refused
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type address string

func (address) Network() string  { return "pipe" }
func (a address) String() string { return string(a) }

type listener struct {
	addr  address
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
