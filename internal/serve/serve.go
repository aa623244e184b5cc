package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Listener is one address to serve.
type Listener struct {
	Name    string // in logs, and Run's key for the address; unique
	Addr    string // host:port, as for net.Listen; port 0 picks a free port
	Flag    string // the flag that sets Addr, for errors; may be empty
	Handler http.Handler
	TLS     *tls.Config // must have GetCertificate; nil for no TLS

	// Drained, if not nil, is called when the last call has ended or been cut, before the next
	// listener closes. If this listener's handler calls the next listener, Drained should close the
	// idle connections to it. net/http waits 5 s for a connection that has never carried a request
	// (go.dev/issue/22682).
	Drained func()

	opened net.Listener
}

// Open listens on l's address before Run, for a program that needs to know the port chosen for port
// 0. Run serves the open listener, and always closes it.
func Open(ctx context.Context, l Listener) (Listener, net.Addr, error) {
	opened, err := listenOn(ctx, new(net.ListenConfig).Listen, l)
	if err != nil {
		return l, nil, err
	}
	l.opened = opened
	return l, opened.Addr(), nil
}

func listenOn(ctx context.Context, listen func(context.Context, string, string) (net.Listener, error), l Listener) (net.Listener, error) {
	opened, err := listen(ctx, "tcp", l.Addr)
	if err != nil {
		err = fmt.Errorf("listen on %s (%s): %w", l.Addr, l.Name, cause(err))
		if l.Flag != "" {
			err = fmt.Errorf("%s: %w", l.Flag, err)
		}
		return nil, err
	}
	return opened, nil
}

// Config configures Run. No duration has a default.
type Config struct {
	// Data are the listeners for calls. They drain in this order: a listener that another one calls
	// must come later.
	Data []Listener
	// Admin are the listeners for probes, metrics and the like. They are served until all data
	// listeners have drained.
	Admin []Listener

	DrainDelay time.Duration // from failing readiness to closing the data listeners; 0 or more
	// DrainTimeout returns how long the calls in flight have after that. It is called when the stop
	// begins.
	DrainTimeout func() time.Duration

	// Flush, if not nil, is called last. It has FlushTimeout, above 0, to return. Run does not wait
	// longer, even if Flush ignores its context.
	Flush        func(context.Context) error
	FlushTimeout time.Duration

	// Reload, if not nil, is called for each SIGHUP before the stop. It reads the program's
	// configuration file again while calls go on. If Reload is nil, a SIGHUP means that the
	// terminal was closed, and begins the stop. All other signals of Hangups are logged and
	// ignored. See the function [Hangups]; a nil Hangups receives no signals.
	Reload  func()
	Hangups *HangupSignals

	Logger *slog.Logger // nil for no logs

	// Listen opens a listener; nil means TCP.
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
}

// Run opens all listeners of c, or none if one of them fails to open. It then serves, sets ready to
// Ready, calls onListen (which may be nil) with the address of each listener by name, and blocks
// until ctx ends or a server fails. Then it sets ready to Draining and stops as the package comment
// says. ready may be nil.
//
// Run returns the error of a listener that failed to open or a server that failed. After a
// requested stop it returns nil; cut calls and a failed Flush are only logged.
//
// The context of a request does not end with ctx, but when its call is cut. A hijacked connection,
// such as a WebSocket, counts as a call until its handler returns, and the handler must watch its
// request's context. Each set of listeners can run once; several calls of Run may be concurrent.
func Run(ctx context.Context, c Config, ready *Readiness, onListen func(map[string]net.Addr)) error {
	if err := c.check(); err != nil {
		return errors.Join(err, c.closeOpened())
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if ready == nil {
		ready = NewReadiness()
	}

	data, admin, err := c.listen(ctx)
	if err != nil {
		return err
	}
	all := append(append([]*server(nil), data...), admin...)
	failed := make(chan error)
	running := 0
	addrs := make(map[string]net.Addr, len(all))
	for _, s := range all {
		addrs[s.name] = s.listener.Addr()
		for _, l := range s.listeners() {
			running++
			go func() { failed <- s.serve(l) }()
		}
		c.Logger.InfoContext(ctx, lineListening, logListener, s.name, logAddr, s.listener.Addr().String())
	}
	ready.Set(Ready)
	if onListen != nil {
		onListen(addrs)
	}

	done := make(chan struct{})
	var signals sync.WaitGroup
	hungUp := make(chan struct{})
	signals.Go(func() { c.handleSignals(ctx, done, hungUp) })
	defer signals.Wait()
	defer close(done)
	select {
	case <-ctx.Done():
	case <-hungUp:
	case err = <-failed:
		running--
		c.Logger.ErrorContext(ctx, lineFailed, logError, err)
	}
	c.stop(context.WithoutCancel(ctx), data, admin, ready)
	for range running {
		err = errors.Join(err, <-failed)
	}
	return err
}

func (c *Config) check() error {
	seen := make(map[string]bool)
	for _, l := range append(append([]Listener(nil), c.Data...), c.Admin...) {
		switch {
		case l.Name == "":
			return fmt.Errorf("serving %s: expected a name for the listener", l.Addr)
		case seen[l.Name]:
			return fmt.Errorf("serving: expected one listener named %s, got two", l.Name)
		case l.Handler == nil: // net/http would serve the global handlers, such as pprof
			return fmt.Errorf("serving %s (%s): expected a handler, got none", l.Addr, l.Name)
		}
		seen[l.Name] = true
	}
	switch {
	case len(seen) == 0:
		return errors.New("serving: expected at least one listener")
	case c.DrainDelay < 0:
		return fmt.Errorf("serving: expected a drain delay of 0s or more, got %s", c.DrainDelay)
	case c.DrainTimeout == nil:
		return errors.New("serving: expected a drain timeout, got none")
	case c.Flush != nil && c.FlushTimeout <= 0:
		return fmt.Errorf("serving: expected a flush timeout above 0s, got %s", c.FlushTimeout)
	}
	return nil
}

func (c *Config) listen(ctx context.Context) (data, admin []*server, err error) {
	listen := c.Listen
	if listen == nil {
		listen = new(net.ListenConfig).Listen
	}
	// If ctx has already ended, Run still stops in order. The error must not look like a bad
	// address.
	ctx = context.WithoutCancel(ctx)
	open := func(l Listener) (*server, error) {
		if l.opened == nil {
			if l.opened, err = listenOn(ctx, listen, l); err != nil {
				return nil, err
			}
		}
		return newServer(ctx, l, l.opened, c.Logger), nil
	}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, c.closeOpened())
		for _, s := range append(data, admin...) {
			if e := s.listener.Close(); !errors.Is(e, net.ErrClosed) {
				err = errors.Join(err, e)
			}
		}
	}()
	for _, l := range c.Data {
		s, err := open(l)
		if err != nil {
			return data, admin, err
		}
		data = append(data, s)
	}
	for _, l := range c.Admin {
		s, err := open(l)
		if err != nil {
			return data, admin, err
		}
		admin = append(admin, s)
	}
	return data, admin, nil
}

// closeOpened closes the listeners that [Open] opened.
func (c *Config) closeOpened() (err error) {
	for _, l := range append(append([]Listener(nil), c.Data...), c.Admin...) {
		if l.opened != nil {
			err = errors.Join(err, l.opened.Close())
		}
	}
	return err
}

// cause removes the net package's prefix, which repeats the address: "listen tcp :8080: bind: ".
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	return err
}

// stop takes the steps in the package comment.
func (c *Config) stop(ctx context.Context, data, admin []*server, ready *Readiness) {
	began := time.Now()
	step := func(level slog.Level, what string, attrs ...any) {
		c.Logger.Log(ctx, level, what, append(attrs, logAfter, time.Since(began))...) //nolint:sloglint // the steps below are constants
	}

	ready.Set(Draining)
	for _, s := range data {
		s.leaving.Store(true)
	}
	step(slog.LevelInfo, lineNotReady, logDrainDelay, c.DrainDelay)
	time.Sleep(c.DrainDelay)
	timeout := c.DrainTimeout()

	step(slog.LevelInfo, lineDraining, logDrainTimeout, timeout)
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, s := range data {
		if cut := s.shutdown(limit); cut > 0 {
			step(slog.LevelWarn, lineCut, logListener, s.name, logCalls, cut)
			continue
		}
		step(slog.LevelInfo, lineDrained, logListener, s.name)
	}

	// The admin port only has scrapes left, which are short, and live pages, which never end.
	brief, cancel := context.WithTimeout(ctx, cutGrace)
	defer cancel()
	for _, s := range admin {
		s.cut(errCut)
		s.shutdown(brief)
		step(slog.LevelInfo, lineClosed, logListener, s.name)
	}

	if c.Flush == nil {
		return
	}
	if err := c.flush(ctx); err != nil {
		step(slog.LevelWarn, lineNotFlushed, logError, err)
		return
	}
	step(slog.LevelInfo, lineFlushed)
}

func (c *Config) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.FlushTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Flush(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not done within %s: %w", c.FlushTimeout, ctx.Err())
	}
}
