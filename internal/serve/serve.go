package serve

import (
	"context"
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
	Name    string // in logs, and the key under which Run reports the address; unique
	Addr    string // host:port, as net.Listen takes it; port 0 picks a free one
	Handler http.Handler

	// Drained, if it is not nil, is called when the last call has ended or been cut, before the next listener
	// closes. A handler that calls the next one is to close its idle connections to it here: one that has
	// never carried a request would be waited on for 5 s, as if a call were about to come (go.dev/issue/22682).
	Drained func()

	opened net.Listener
}

// Open listens on l's address ahead of Run, for a program that must know first what port 0 became. Run serves
// what is open already, and closes it whatever happens.
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
		return nil, fmt.Errorf("listen on %s (%s): %w", l.Addr, l.Name, cause(err))
	}
	return opened, nil
}

// Config is what Run needs. Durations are limits that were decided elsewhere: none has a default.
type Config struct {
	// Data are the listeners that calls come in on. They are drained in this order; one that another one
	// calls goes after it.
	Data []Listener
	// Admin are the listeners of probes, metrics and the like. They are served until all data is drained.
	Admin []Listener

	DrainDelay time.Duration // from failing readiness to closing the data listeners; 0 or more
	// DrainTimeout is how long all calls in flight have after that. It is asked when the stop begins.
	DrainTimeout func() time.Duration

	// Flush, if it is not nil, is called last. It has FlushTimeout, above 0, to return; a Flush that does
	// not heed its context is left behind then.
	Flush        func(context.Context) error
	FlushTimeout time.Duration

	// Reload, if it is not nil, is called for each SIGHUP of Hangups that comes before the stop. It reads the program's
	// configuration file again, and calls go on meanwhile. Without Reload a SIGHUP is a terminal that was closed, and
	// begins the stop. All other signals of Hangups are ignored, with a line in the log. A nil Hangups has none; see the
	// function of that name.
	Reload  func()
	Hangups *HangupSignals

	Logger *slog.Logger // nil for none

	// Listen opens a listener; nil for TCP.
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
}

// Run listens on every address of c or, if one of them cannot be had, on none. It then serves, makes ready
// Ready, calls onListen (which may be nil) with the address of each listener by its name, and blocks until
// ctx ends or a server fails. Then it makes ready Draining and stops as the package comment says. A nil
// ready is not reported to.
//
// Run returns the error that kept it from listening or ended a server, and nil after a stop that was asked
// for: what had to be cut, or a Flush that failed, is in the log.
//
// The context of a request ends when its call is cut, not with ctx. Connections that a handler has taken
// over (WebSockets) count as calls for as long as that handler has not returned, and it is to watch its
// request's context. Run is called once for each set of listeners; several may run concurrently.
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
	failed := make(chan error, len(all))
	addrs := make(map[string]net.Addr, len(all))
	for _, s := range all {
		addrs[s.name] = s.listener.Addr()
		go func() { failed <- s.serve() }()
		c.Logger.InfoContext(ctx, lineListening, logListener, s.name, logAddr, s.listener.Addr().String())
	}
	ready.Set(Ready)
	if onListen != nil {
		onListen(addrs)
	}

	answered := make(chan struct{})
	var answering sync.WaitGroup
	hungUp := make(chan struct{})
	answering.Go(func() { c.answer(ctx, answered, hungUp) })
	defer answering.Wait()
	defer close(answered)
	running := len(all)
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
		case l.Handler == nil: // net/http would serve whatever is registered globally, such as pprof
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
	// A ctx that has ended already is a stop, which has its order too; it must not look like a bad address.
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

// closeOpened closes what [Open] has opened.
func (c *Config) closeOpened() (err error) {
	for _, l := range append(append([]Listener(nil), c.Data...), c.Admin...) {
		if l.opened != nil {
			err = errors.Join(err, l.opened.Close())
		}
	}
	return err
}

// cause strips what the net package repeats of the address: "listen tcp :8080: bind: ".
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	return err
}

// stop takes the steps of the package comment.
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

	// What is left on the admin port is a scrape, which is short, or a live page, which never ends.
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
