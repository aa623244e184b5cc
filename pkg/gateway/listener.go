package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/certs"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// Listener holds the settings of the data port.
type Listener struct {
	// Trust lists the networks of trusted callers, such as 10.0.0.0/8. ["*"] trusts all callers, []
	// trusts no caller. From trusted callers the gateway keeps X-Forwarded-Host, X-Forwarded-Proto,
	// X-Forwarded-Port and Forwarded, continues X-Forwarded-For, and honours X-Attempt-Count and
	// X-Envoy-Expected-Rq-Timeout-Ms. It drops these headers from all other callers. The default is
	// private (RFC 1918, RFC 4193), loopback and link-local addresses.
	Trust []string `yaml:"trust"`
	// SendTimeout cuts a caller that accepts no byte of its response for this long, so that callers
	// that do not read hold no upstream connection. A caller that has resumed after a pause of 1s
	// or more gets four times as long, because TCP reports slow reads in steps of up to megabytes.
	// At least 0; 0 = never.
	SendTimeout time.Duration `yaml:"sendTimeout"`
	TLS         ListenerTLS   `yaml:"tls"`
	// Disclose tells callers about attempts and upstreams: Server-Timing, X-Attempt-Count, and the
	// upstream and the attempts in problem documents. Set it to false where callers are strangers.
	// What an upstream sends in Server-Timing is passed on in any case.
	Disclose bool `yaml:"disclose"`
}

// ListenerTLS makes the data port speak TLS, with HTTP/1 and HTTP/2. The files are read again when
// they change. A reload cannot switch TLS on or off.
type ListenerTLS struct {
	// CertFile has the certificate of the data port, with its chain, in PEM. Empty means no TLS.
	CertFile string `yaml:"certFile"`
	// KeyFile has the key of CertFile, in PEM. It must come with CertFile.
	KeyFile string `yaml:"keyFile"`
}

// trustAll stands for all networks in Listener.Trust.
const trustAll = "*"

// DefaultListener returns the default settings of the data port.
func DefaultListener() Listener {
	return Listener{
		Trust: []string{
			"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", // private
			"127.0.0.0/8", "::1/128", // loopback
			"169.254.0.0/16", "fe80::/10", // link-local
		},
		SendTimeout: 15 * time.Second,
		Disclose:    true,
	}
}

// validate returns every mistake at once, each with the path of its key.
func (l Listener) validate() error {
	var m mistake.List
	for i, network := range l.Trust {
		at := config.Index("trust", i)
		switch {
		case network == trustAll:
			if len(l.Trust) > 1 {
				m.Add(at, "%q trusts everybody and must stand alone", network)
			}
		case slices.Contains(l.Trust[:i], network):
			m.Add(at, "%s is there already", network)
		default:
			p, err := netip.ParsePrefix(network)
			switch {
			case err != nil:
				m.Add(at, "must be a network such as 10.0.0.0/8 or fd00::/8, or * for everybody, got %q", network)
			case p.Addr().Is4In6():
				m.Add(at, "must be written as the IPv4 network that it is, such as 10.0.0.0/8, got %q", network)
			case p.Masked() != p:
				m.Add(at, "must be a network without bits behind its mask: %s and not %s", p.Masked(), network)
			}
		}
	}
	if l.SendTimeout < 0 {
		m.Add("sendTimeout", "must be at least 0 (never), got %v", l.SendTimeout)
	}
	m.Merge("tls", keyPairMistakes(l.TLS.CertFile, l.TLS.KeyFile).Err())
	return m.Err()
}

// keyPairMistakes returns the mistake of a certificate without its key, or the other way round.
func keyPairMistakes(certFile, keyFile string) (m mistake.List) {
	m.Check(certFile == "" || keyFile != "", "keyFile", "must come with certFile")
	m.Check(keyFile == "" || certFile != "", "certFile", "must come with keyFile")
	return m
}

// certificates returns the certificates of the data port, or nil without TLS. It reuses those of
// old, which may be nil.
func (g *Gateway) certificates(c Config, old *generation) (*certs.Store, error) {
	files := c.Listener.TLS
	if old != nil {
		before := old.config.Listener.TLS
		if (files == ListenerTLS{}) != (before == ListenerTLS{}) {
			return nil, errors.New("listener.tls: cannot be switched on or off by a reload; restart the program")
		}
		if files == before {
			return old.certificates, nil
		}
	}
	if files == (ListenerTLS{}) {
		return nil, nil
	}
	store, err := certs.Load(certs.Files{Cert: files.CertFile, Key: files.KeyFile}, g.fileRefused(upstreamKey{}))
	if err != nil {
		return nil, fmt.Errorf("listener.tls: %w", err)
	}
	return store, nil
}

// TLS returns the configuration for the data port, or nil if it is without TLS. It always has the
// current certificate.
func (g *Gateway) TLS() *tls.Config {
	if g.current.Load().certificates == nil {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return g.current.Load().certificates.Certificate(), nil
	}}
}

// listener is a parsed Listener.
type listener struct {
	all         bool
	networks    []netip.Prefix
	sendTimeout time.Duration
	discloses   bool
}

func newListener(c Listener) *listener {
	l := &listener{sendTimeout: c.SendTimeout, discloses: c.Disclose}
	for _, network := range c.Trust {
		if network == trustAll {
			l.all = true
		} else if p, err := netip.ParsePrefix(network); err == nil {
			l.networks = append(l.networks, p)
		}
	}
	return l
}

// trusts reports whether the caller at remote, as host:port, is trusted.
func (l *listener) trusts(remote string) bool {
	if l.all {
		return true
	}
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	a := peer.Addr().Unmap().WithZone("")
	for _, n := range l.networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// peerAddress returns the host of remote, which has the form host:port. It returns "" if remote has
// another form, as for a pipe.
func peerAddress(remote string) string {
	i := strings.LastIndexByte(remote, ':')
	if i < 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(remote[:i], "["), "]")
}
