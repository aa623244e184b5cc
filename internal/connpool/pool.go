package connpool

import (
	"cmp"
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/idna"
)

const (
	// dialTimeout and handshakeTimeout limit dials in the background. A request never waits longer
	// than its context allows.
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second

	// freshFor is how long a connection counts as fresh, after its dial if it was not used, or
	// after its last success.
	freshFor = time.Second

	// sessions is how many TLS sessions are remembered. A resumed session makes a new connection
	// cheaper.
	sessions = 64
)

// Options configure a [Pool]. Limits must be valid.
type Options struct {
	Limits Limits
	// Address is the host:port to connect to; empty means that of the target. Requests and
	// certificates name the target all the same.
	Address string
	// PriorKnowledge speaks HTTP/2 without TLS. The target's scheme must be http.
	PriorKnowledge bool
	// ContinueWait is how long a request with "Expect: 100-continue" waits for the 100 before it
	// sends its body anyway. At least 0.
	ContinueWait time.Duration
	// DialContext makes the connections; nil means that of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for https; nil means the system's roots. It is not changed.
	TLS *tls.Config
	// Random is uniform in [0, 1) and safe for concurrent use; nil means math/rand/v2.
	Random func() float64
}

// Pool is an http.RoundTripper over the connections to one upstream. It is safe for concurrent use.
//
// A request gets the kept connection that was used last, or a new one. If a kept connection fails
// before it answers, the request may be sent again on a new one. As in net/http, this needs proof
// that nothing of it was written, or a method or Idempotency-Key that allows it.
//
// The Body of a response has a Retire method. A caller that counts the response as a failure calls
// Retire before Close, so that the connection is not used again.
type Pool struct {
	scheme, address string
	direct          bool // connections are direct ones
	options         Options
	upgrades        atomic.Pointer[http.Transport] // sends upgrades where requests may use HTTP/2, or nil

	mu           sync.Mutex
	transport    *http.Transport // makes the connections
	pingsStopped bool            // the upstream has objected to pings

	idle    []*conn // HTTP/1, the one used last at the end
	toClose []*conn // to close once mu is free
	reaper  *time.Timer
	reaping bool // the reaper's timer is running
	closed  bool

	multiplexed bool    // the upstream speaks HTTP/2
	shared      []*conn // HTTP/2, the newest at the end

	waiting       []*waiter // in order of arrival; some are done
	unservedCount int       // how many of them are not done
	dials         map[*dial]struct{}
	lastDial      time.Time // when the last dial began
	orphans       int       // running dials without a waiter
	renewing      bool      // a background dial is running
	lastRenewal   time.Time // when the last renewal began
	lastWrong     time.Time // when a wrong connection was last given back
	lastUnused    time.Time // when one that had had no request was last closed
	lastFailure   time.Time // when the upstream last failed
}

// New returns a pool for the scheme, host and port of target. The scheme must be http or https. The
// pool opens no connection before the first request.
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
	o.TLS = TLSConfig(o.TLS)
	p := &Pool{scheme: target.Scheme, address: cmp.Or(o.Address, Address(target)), options: o, dials: map[*dial]struct{}{}}
	p.direct = p.scheme == "http" && !o.PriorKnowledge
	if o.TLS.ServerName == "" {
		o.TLS.ServerName = ServerName(target)
	}
	p.transport = p.newTransport(o.Limits.HTTP2Ping)
	if p.scheme == "https" || o.PriorKnowledge {
		p.upgrades.Store(p.newUpgrades())
	}
	return p
}

// newUpgrades returns a transport that makes an HTTP/1 connection for each request.
func (p *Pool) newUpgrades() *http.Transport {
	t := p.newTransport(0)
	t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.options.DialContext(ctx, network, p.address)
	}
	t.DisableKeepAlives = true
	t.TLSClientConfig.NextProtos = nil
	t.ForceAttemptHTTP2, t.HTTP2 = false, nil
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	return t
}

// TLSConfig returns a copy of c, or the defaults if c is nil, that remembers TLS sessions. Pools
// whose upstreams share a certificate may share it.
func TLSConfig(c *tls.Config) *tls.Config {
	if c = c.Clone(); c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.ClientSessionCache == nil {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(sessions)
	}
	return c
}

// newTransport returns a transport to make connections with. Only upgrades use the rest of it.
func (p *Pool) newTransport(ping time.Duration) *http.Transport {
	return &http.Transport{
		DialContext:           dialCounted(p.options.DialContext),
		TLSClientConfig:       p.options.TLS.Clone(), // the transport changes it
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		IdleConnTimeout:       p.options.Limits.IdleTimeout,
		TLSHandshakeTimeout:   handshakeTimeout,
		ExpectContinueTimeout: p.options.ContinueWait,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: ping, PingTimeout: ping,
			// 1 is no table of earlier headers, and 0 the default. Ids and deadlines are new in
			// each request, and each would push another entry out.
			MaxEncoderHeaderTableSize: 1,
		},
		Protocols: p.protocols(),
	}
}

// protocols returns the protocols to speak, nil for net/http's choice.
func (p *Pool) protocols() *http.Protocols {
	if !p.options.PriorKnowledge {
		return nil
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}

// Address returns the host and port of u in the form to dial.
func Address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(ServerName(u), port)
}

// ServerName returns the host of u, in ASCII.
func ServerName(u *url.URL) string {
	if ascii, err := idna.Lookup.ToASCII(u.Hostname()); err == nil {
		return ascii
	}
	return u.Hostname()
}

// SetContinueWait changes [Options.ContinueWait] for later requests.
func (p *Pool) SetContinueWait(d time.Duration) {
	p.mu.Lock()
	defer p.unlock()
	if p.options.ContinueWait == d {
		return
	}
	p.options.ContinueWait = d
	ping := p.options.Limits.HTTP2Ping
	if p.pingsStopped {
		ping = 0
	}
	p.transport = p.newTransport(ping)
	if p.upgrades.Load() != nil {
		p.upgrades.Store(p.newUpgrades())
	}
}

// CloseIdleConnections closes the connections that no request uses. HTTP/2 connections get no more
// requests, and are closed when their last request ends.
func (p *Pool) CloseIdleConnections() {
	p.mu.Lock()
	defer p.unlock()
	p.dropKept()
}

// Close closes the connections that no request uses, and the others when their requests end. Later
// requests get a connection each.
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

// dropKept drops all kept connections. The caller holds mu.
func (p *Pool) dropKept() {
	p.toClose = append(p.toClose, p.idle...)
	p.idle = nil
	for _, c := range p.shared {
		p.retireShared(c)
	}
	p.shared = nil
}

// unlock unlocks mu, and closes the connections that were dropped while it was held. For TLS it
// does not wait: close_notify is written to a peer that may not be reading.
func (p *Pool) unlock() {
	toClose := p.toClose
	p.toClose = nil
	p.mu.Unlock()
	switch {
	case len(toClose) == 0:
	case p.scheme == "https" || len(toClose) > 4:
		go closeAll(toClose)
	default:
		closeAll(toClose)
	}
}

func closeAll(all []*conn) {
	for _, c := range all {
		_ = c.client.Close()
	}
}
