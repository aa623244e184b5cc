// Package pipenet is a network of net.Pipe connections. Both sides run the real net/http, and a
// testing/synctest bubble can wait for all of it. So a whole chain of servers runs on a virtual
// clock.
package pipenet

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Network connects by address. The zero value is not ready; use [New]. It is safe for concurrent
// use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

// New returns a network without listeners.
func New() *Network { return &Network{listeners: map[string]*listener{}} }

// Listen takes the address until the listener is closed. It has the signature of net.ListenConfig's
// Listen.
func (n *Network) Listen(_ context.Context, _, addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l, ok := n.listeners[addr]; ok && !l.closed() {
		return nil, &net.OpError{Op: "listen", Net: "pipe", Addr: address(addr), Err: inUse}
	}
	l := &listener{addr: address(addr), conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial connects to a listener's address. It has the signature of net.Dialer's DialContext.
func (n *Network) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	failed := &net.OpError{Op: "dial", Net: "pipe", Addr: address(addr), Err: refused}
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, failed
	}
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, failed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Serve starts an HTTP server at addr, which logs nothing. configure changes it before it starts.
// Calling stop, or the end of the test, closes the server and waits for its handlers, since a
// bubble must not end before them.
func (n *Network) Serve(t testing.TB, addr string, h http.Handler, configure ...func(*http.Server)) (stop func()) {
	t.Helper()
	l, err := n.Listen(t.Context(), "", addr)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	server := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1) // Close does not wait for handlers
			defer running.Done()
			h.ServeHTTP(w, r)
		}),
	}
	for _, change := range configure {
		change(server)
	}
	running.Go(func() { _ = server.Serve(l) })
	stop = sync.OnceFunc(func() {
		_ = server.Close()
		running.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// Transport returns a transport on the network. It closes its idle connections with the test.
func (n *Network) Transport(t testing.TB) *http.Transport {
	t.Helper()
	tr := &http.Transport{DialContext: n.Dial, MaxIdleConnsPerHost: 1000}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
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
