package endpoint

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/idna"
)

const (
	// dialTimeout and handshakeTimeout bound what goes on in the background; a
	// request waits no longer than its context.
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second

	// freshFor is how long a connection counts as fresh: since it was dialled when
	// nothing was sent on it, and since its last success.
	freshFor = time.Second

	// sessions is how many TLS sessions are remembered, so that a new connection
	// costs less than the first.
	sessions = 64
)

// Options are what a [Pool] needs besides the address. Connections must be valid.
type Options struct {
	Connections Connections
	// ContinueWait is how long a body waits for a 100 (Continue) that its request
	// expects before it is sent all the same. At least 0.
	ContinueWait time.Duration
	// DialContext makes the connections; nil means a net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for https; nil means the roots of the system. It is not changed.
	TLS *tls.Config
	// Random is uniform in [0, 1) and safe for concurrent use; nil means math/rand/v2.
	Random func() float64
}

// Pool is an http.RoundTripper over the connections to one upstream. It is safe
// for concurrent use.
//
// A request gets the kept connection that was used last, or a new one. If a kept
// one dies before it answers, the request may be sent again on a new one. That needs
// proof that nothing of it was written, or a method or Idempotency-Key that allows it,
// as in net/http. The Body of a response has a Retire method: a caller who
// takes the answer for a failure calls it before he closes the body, so that the
// connection is not used again.
type Pool struct {
	scheme, address string
	options         Options
	upgrades        *http.Transport // sends the upgrades over TLS

	mu        sync.Mutex
	transport *http.Transport // makes the connections
	unpinged  bool            // the upstream does not want pings

	idle    []*conn // HTTP/1, the one used last at the end
	doomed  []*conn // to be closed when mu is free
	reaper  *time.Timer
	reaping bool // the reaper's timer runs
	closed  bool

	multiplexed bool    // the upstream speaks HTTP/2
	shared      []*conn // HTTP/2, the newest at the end

	waiting  []*waiter // in the order they came; some are done
	unserved int       // those of them that are not
	dials    map[*dial]struct{}
	dialled  time.Time // when the last one began
	orphans  int       // dials that nobody waits for any more
	renewing bool      // a dial in the background goes on
	renewed  time.Time // when the last one began
	failedAt time.Time // when the upstream failed last
}

// New makes a pool for the scheme, host and port of target, which must be http or
// https. It holds nothing until the first request.
func New(target *url.URL, o Options) *Pool {
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{
			Timeout:         dialTimeout,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		}).DialContext
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	o.TLS = o.TLS.Clone()
	if o.TLS == nil {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.TLS.ClientSessionCache == nil {
		o.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(sessions)
	}
	p := &Pool{scheme: target.Scheme, address: address(target), options: o, dials: map[*dial]struct{}{}}
	p.transport = p.newTransport(o.Connections.HTTP2Ping)
	if p.scheme == "https" {
		p.upgrades = p.newTransport(0)
		p.upgrades.DialContext = o.DialContext
		p.upgrades.DisableKeepAlives = true
		p.upgrades.TLSClientConfig.NextProtos = nil
		p.upgrades.ForceAttemptHTTP2, p.upgrades.HTTP2 = false, nil
		p.upgrades.Protocols = new(http.Protocols)
		p.upgrades.Protocols.SetHTTP1(true)
	}
	return p
}

// newTransport is what makes connections. Nothing else of it is used but for upgrades.
func (p *Pool) newTransport(ping time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           dialCounted(p.options.DialContext),
		TLSClientConfig:       p.options.TLS.Clone(), // it adds to it
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		IdleConnTimeout:       p.options.Connections.IdleTimeout,
		TLSHandshakeTimeout:   handshakeTimeout,
		ExpectContinueTimeout: p.options.ContinueWait,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: ping},
	}
}

// address is the host and port of u, as they are dialled.
func address(u *url.URL) string {
	host, port := u.Hostname(), u.Port()
	if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(host, port)
}

// CloseIdleConnections closes the connections that no request uses. Those of
// HTTP/2 get no request any more and are closed when their last one has ended.
func (p *Pool) CloseIdleConnections() {
	p.mu.Lock()
	defer p.unlock()
	p.dropKept()
}

// Close closes the connections that no request uses, and the others when their
// requests end. Requests that come later get a connection each.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.unlock()
	p.closed = true
	p.dropKept()
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaping = false
	}
	for d := range p.dials {
		if d.waiters == 0 {
			d.cancel()
		}
	}
}

// dropKept is called with mu held.
func (p *Pool) dropKept() {
	p.doomed = append(p.doomed, p.idle...)
	p.idle = nil
	for _, c := range p.shared {
		p.retireShared(c)
	}
	p.shared = nil
}

// unlock frees mu, and closes what was given up while it was held. TLS says
// goodbye to a peer that may not listen, so nobody waits for that.
func (p *Pool) unlock() {
	doomed := p.doomed
	p.doomed = nil
	p.mu.Unlock()
	switch {
	case len(doomed) == 0:
	case p.scheme == "https" || len(doomed) > 4:
		go closeAll(doomed)
	default:
		closeAll(doomed)
	}
}

func closeAll(all []*conn) {
	for _, c := range all {
		_ = c.client.Close()
	}
}
