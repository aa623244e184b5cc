// Package certs reads certificates from files, and reads them again when the files change. So they
// can be rotated without a restart, also where a symbolic link is swapped, as Kubernetes does.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/reread"
)

// Files names PEM files. An empty name means none.
type Files struct {
	CA        string // certificates of the authorities to trust
	Cert, Key string // an own certificate with its chain, and its key; both or neither
}

// Store holds what the files contain. It is safe for concurrent use.
type Store struct {
	files    Files
	contents *reread.Store[content]
}

type content struct {
	ca, cert, key []byte
	pool          *x509.CertPool
	certificate   *tls.Certificate

	since  time.Time      // when it replaced another one; zero for the first
	before *x509.CertPool // the pool that it replaced
}

// settling is how long after a change handshakes may still be running that began before it.
const settling = 5 * time.Second

// settled reports whether no handshake runs that began before the change to c.
func (c *content) settled() bool { return c.since.IsZero() || time.Since(c.since) > settling }

// Load reads the files. Later, changed files are read again within a second of a handshake. If that
// fails, the content before stays in use, and failed is called as by [reread.Load].
func Load(f Files, failed func(error)) (*Store, error) {
	contents, err := reread.Load(f.read, failed)
	if err != nil {
		return nil, err
	}
	return &Store{f, contents}, nil
}

// read returns the content of the files, or old if they are unchanged.
func (f Files) read(old *content) (*content, error) {
	c := &content{}
	var errs [3]error
	c.ca, errs[0] = readFile("the CA file", f.CA)
	c.cert, errs[1] = readFile("the certificate file", f.Cert)
	c.key, errs[2] = readFile("the key file", f.Key)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if old != nil && bytes.Equal(c.ca, old.ca) && bytes.Equal(c.cert, old.cert) && bytes.Equal(c.key, old.key) {
		return old, nil
	}
	if f.CA != "" {
		c.pool = x509.NewCertPool()
		if !c.pool.AppendCertsFromPEM(c.ca) {
			return nil, fmt.Errorf("the CA file %s: expected at least one certificate in PEM", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("the certificate file %s and the key file %s: expected a certificate in PEM and its key: %w", f.Cert, f.Key, err)
		}
		c.certificate = &pair
	}
	if old != nil {
		c.since, c.before = time.Now(), old.pool
	}
	return c, nil
}

func readFile(what, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name) //nolint:gosec // the configuration names it
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

// Refused reports whether changed files cannot be used. It reads no file.
func (s *Store) Refused() bool { return s.contents.Refused() }

// Certificate returns the own certificate, or nil if there is none.
func (s *Store) Certificate() *tls.Certificate { return s.contents.Look().certificate }

// SetUp makes c, of a client, use the store: the CA instead of the system's roots, and the own
// certificate for upstreams that ask for one. With a CA file, c must have a ServerName, which may
// be an IP address; otherwise every handshake fails.
func (s *Store) SetUp(c *tls.Config) {
	c.ClientSessionCache = &sessions{store: s}
	if s.files.Cert != "" {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.contents.Look().certificate, nil }
	}
	if s.files.CA == "" || c.InsecureSkipVerify {
		return
	}
	// crypto/tls reads RootCAs when a connection is made from a config that cannot change. So it
	// verifies nothing itself, and verify does what it would do.
	c.InsecureSkipVerify = true
	name := c.ServerName
	c.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(name, state) }
}

// sessions is a cache of TLS sessions that forgets all when the files change. A resumed session
// keeps the certificates of its first handshake on both sides. After a change the cache stays empty
// for a while, because the session of an older handshake may still arrive.
type sessions struct {
	store *Store

	mu    sync.Mutex
	of    *content
	cache tls.ClientSessionCache
}

// maxSessions is how many TLS sessions are remembered.
const maxSessions = 64

func (s *sessions) current() tls.ClientSessionCache {
	c := s.store.contents.Look()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == nil || s.of != c {
		s.of, s.cache = c, tls.NewLRUClientSessionCache(maxSessions)
	}
	return s.cache
}

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) { return s.current().Get(key) }

// Put implements tls.ClientSessionCache.
func (s *sessions) Put(key string, state *tls.ClientSessionState) {
	if cache := s.current(); state == nil || s.store.contents.Current().settled() {
		cache.Put(key, state)
	}
}

// verify checks a server's certificate as crypto/tls does. The name is not that of state, which is
// empty for an IP address.
func (s *Store) verify(name string, state tls.ConnectionState) error {
	if name == "" || len(state.PeerCertificates) == 0 {
		return errors.New("tls: there is no server name or no certificate to check")
	}
	options := x509.VerifyOptions{DNSName: name, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	c := s.contents.Look()
	options.Roots = c.pool
	_, err := state.PeerCertificates[0].Verify(options)
	if err != nil && state.DidResume && !c.settled() {
		options.Roots = c.before // the files changed after the session was chosen
		_, err = state.PeerCertificates[0].Verify(options)
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}
