package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/certs"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// look is a little more than the time after which changed files are read.
const look = 1100 * time.Millisecond

// queue is one direction of a connection.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	bytes   bytes.Buffer
	closed  bool
}

func newQueue() *queue {
	q := &queue{}
	q.changed.L = &q.mu
	return q
}

func (q *queue) Read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes.Len() == 0 && !q.closed {
		q.changed.Wait()
	}
	return q.bytes.Read(p)
}

func (q *queue) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, io.ErrClosedPipe
	}
	q.changed.Broadcast()
	return q.bytes.Write(p)
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
}

// conn is an end of a connection that buffers. Over net.Pipe alone, a client that writes an alert
// and a server that is still writing would wait for each other.
type conn struct {
	net.Conn
	in, out *queue
}

func newConns() (client, server net.Conn) {
	a, b := net.Pipe()
	up, down := newQueue(), newQueue()
	return conn{a, down, up}, conn{b, up, down}
}

func (c conn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c conn) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c conn) Close() error {
	c.in.close()
	c.out.close()
	return c.Conn.Close()
}

// server is one side of handshakes. Its certificate and the clients that it accepts
// can change.
type server struct {
	config  *tls.Config // its session tickets stay valid when the rest changes
	cert    atomic.Pointer[tls.Certificate]
	clients atomic.Pointer[x509.CertPool] // nil: it asks for no certificate
	delay   atomic.Int64                  // before it answers the first message
}

// newServer returns a server with a certificate of a for orders.example, for clients of all given
// authorities.
func newServer(a *pki.Authority, clients ...*pki.Authority) *server {
	s := &server{}
	s.cert.Store(a.Pair("orders.example"))
	if len(clients) > 0 {
		s.clients.Store(pki.Pool(clients...))
	}
	s.config = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		time.Sleep(time.Duration(s.delay.Load()))
		c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*s.cert.Load()}}
		if pool := s.clients.Load(); pool != nil {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool
		}
		return c, nil
	}}
	return s
}

// shaken is the result of a handshake.
type shaken struct {
	resumed bool
	server  string // who issued the server's certificate
	client  string // who issued the client's certificate; empty without one
	err     error
}

// shake makes a handshake and waits until both sides have closed the connection.
func (s *server) shake(client *tls.Config) (r shaken) {
	ours, theirs := newConns()
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() {
		c := tls.Server(theirs, s.config)
		defer c.Close()
		if c.Handshake() != nil {
			return
		}
		issuer := ""
		if peer := c.ConnectionState().PeerCertificates; len(peer) > 0 {
			issuer = peer[0].Issuer.CommonName
		}
		_, _ = io.WriteString(c, issuer)
	})
	c := tls.Client(ours, client)
	defer c.Close()
	var issuer []byte
	if r.err = c.Handshake(); r.err == nil {
		issuer, r.err = io.ReadAll(c) // with TLS 1.3, also what the server thinks of the client
	}
	r.client, r.resumed = string(issuer), c.ConnectionState().DidResume
	if peer := c.ConnectionState().PeerCertificates; len(peer) > 0 {
		r.server = peer[0].Issuer.CommonName
	}
	return r
}

func (s *server) want(t *testing.T, client *tls.Config, want shaken) {
	t.Helper()
	if got := s.shake(client); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// side is the side under test: its files, and the store over them.
type side struct {
	t      *testing.T
	files  *pki.Secret
	store  *certs.Store
	config *tls.Config

	mu   sync.Mutex
	said []string
}

const caFile, certFile, keyFile = "ca.crt", "tls.crt", "tls.key"

// newSide returns a client with files that trust ca and show a certificate of own.
func newSide(t *testing.T, ca []byte, own *pki.Authority) *side {
	t.Helper()
	s := &side{t: t, files: pki.NewSecret(t)}
	s.write(ca, own)
	var err error
	s.store, err = certs.Load(s.names(), func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.said = append(s.said, err.Error())
	})
	if err != nil {
		t.Fatal(err)
	}
	s.config = s.client("orders.example")
	return s
}

func (s *side) names() certs.Files {
	return certs.Files{CA: s.files.Path(caFile), Cert: s.files.Path(certFile), Key: s.files.Path(keyFile)}
}

func (s *side) client(name string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	s.store.SetUp(c)
	return c
}

// write swaps all files at once.
func (s *side) write(ca []byte, own *pki.Authority) {
	s.t.Helper()
	cert, key := own.Issue("gateway")
	s.files.Write(map[string][]byte{caFile: ca, certFile: cert, keyFile: key})
}

// wantSaid checks the errors that the store reported since the last time.
func (s *side) wantSaid(parts ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.EqualFunc(s.said, parts, strings.Contains) {
		s.t.Errorf("got reports %q, want %q", s.said, parts)
	}
	s.said = nil
}

// Changed files are used from the next handshake on that begins a second after the last look.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := pki.New(t, "first"), pki.New(t, "second")
		up, s := newServer(first, first, second), newSide(t, first.PEM(), first)
		up.want(t, s.config, shaken{server: "first", client: "first"})

		s.write(second.PEM(), second)
		up.cert.Store(second.Pair("orders.example"))
		if got := up.shake(s.client("orders.example")); got.err == nil {
			t.Errorf("got %+v within a second of the last look, want the old CA and an error", got)
		}
		time.Sleep(look)
		up.want(t, s.config, shaken{server: "second", client: "second"})
		up.cert.Store(first.Pair("orders.example"))
		var wrong *tls.CertificateVerificationError
		if got := up.shake(s.config); !errors.As(got.err, &wrong) || len(wrong.UnverifiedCertificates) == 0 {
			t.Errorf("got error %v with a certificate of the old CA, want one that holds it", got.err)
		}
		s.wantSaid()
	})
}

// A server that shows the own certificate shows the new one, also to a client that comes back.
func TestOwnServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := pki.New(t, "first"), pki.New(t, "second")
		s := newSide(t, first.PEM(), first)
		up := &server{config: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.store.Certificate(), nil
		}}}
		client := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "gateway", RootCAs: pki.Pool(first, second)}
		up.want(t, client, shaken{server: "first"})
		s.files.Write(map[string][]byte{caFile: first.PEM(), certFile: nil, keyFile: nil})
		for range 3 {
			time.Sleep(look)
			up.want(t, client, shaken{server: "first"})
		}
		s.wantSaid("tls.key: expected a certificate")
		s.write(second.PEM(), second)
		time.Sleep(look)
		up.want(t, client, shaken{server: "second"})
	})
}

// A server's certificate is checked as crypto/tls would.
func TestVerify(t *testing.T) {
	root := pki.New(t, "root")
	for name, tc := range map[string]struct {
		by   *pki.Authority
		of   string // the name in the certificate
		want string // the name to expect
		good bool
	}{
		"right":                    {root, "orders.example", "orders.example", true},
		"another name":             {root, "pay.example", "orders.example", false},
		"an IP address":            {root, "10.0.0.7", "10.0.0.7", true},
		"another IP address":       {root, "10.0.0.7", "10.0.0.8", false},
		"an IPv6 address":          {root, "2001:db8::1", "2001:db8::1", true},
		"through another one":      {root.Intermediate("middle"), "orders.example", "orders.example", true},
		"another CA":               {pki.New(t, "root"), "orders.example", "orders.example", false},
		"without a name to expect": {root, "orders.example", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			up, s := newServer(root), newSide(t, root.PEM(), root)
			up.cert.Store(tc.by.Pair(tc.of))
			if got := up.shake(s.client(tc.want)); (got.err == nil) != tc.good {
				t.Errorf("got error %v, want success %v", got.err, tc.good)
			}
		})
	}
}

func TestExpiredServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := pki.New(t, "root")
		up, s := newServer(root), newSide(t, root.PEM(), root)
		time.Sleep(2 * time.Hour)
		var invalid x509.CertificateInvalidError
		if got := up.shake(s.config); !errors.As(got.err, &invalid) || invalid.Reason != x509.Expired {
			t.Errorf("got error %v, want an expired certificate", got.err)
		}
	})
}

// Without a CA file the config's own roots count, or none if it skips the check.
func TestOwnCertificateOnly(t *testing.T) {
	root, own := pki.New(t, "root"), pki.New(t, "own")
	up, s := newServer(root, own), newSide(t, root.PEM(), own)
	names := s.names()
	names.CA = ""
	store, err := certs.Load(names, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config *tls.Config
		good   bool
	}{
		"own roots": {&tls.Config{MinVersion: tls.VersionTLS12, ServerName: "orders.example", RootCAs: pki.Pool(root)}, true},
		"others":    {&tls.Config{MinVersion: tls.VersionTLS12, ServerName: "orders.example", RootCAs: pki.Pool(own)}, false},
		"no check":  {&tls.Config{MinVersion: tls.VersionTLS12, ServerName: "pay.example", InsecureSkipVerify: true}, true}, //nolint:gosec // it is the case
	} {
		t.Run(name, func(t *testing.T) {
			store.SetUp(tc.config)
			got := up.shake(tc.config)
			if (got.err == nil) != tc.good || tc.good && got.client != "own" {
				t.Errorf("got %+v, want success %v with the own certificate", got, tc.good)
			}
		})
	}
}

func TestLoadMistakes(t *testing.T) {
	a := pki.New(t, "a")
	cert, key := a.Issue("gateway")
	_, foreign := a.Issue("gateway")
	right := map[string][]byte{caFile: a.PEM(), certFile: cert, keyFile: key}
	for name, tc := range map[string]struct {
		file    string
		content []byte // nil: there is no file
		want    string
	}{
		"no CA file":          {caFile, nil, "the CA file: open "},
		"no certificate file": {certFile, nil, "the certificate file: open "},
		"no key file":         {keyFile, nil, "the key file: open "},
		"an empty CA":         {caFile, []byte{}, "ca.crt: expected at least one certificate in PEM"},
		"a key as CA":         {caFile, key, "ca.crt: expected at least one certificate in PEM"},
		"no certificate":      {certFile, []byte("none"), "tls.key: expected a certificate in PEM and its key: "},
		"half a key":          {keyFile, key[:len(key)/2], "tls.key: expected a certificate in PEM and its key: "},
		"another's key":       {keyFile, foreign, "private key does not match public key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := pki.NewSecret(t)
			files := map[string][]byte{}
			for n, content := range right {
				if n == tc.file {
					content = tc.content
				}
				if content != nil {
					files[n] = content
				}
			}
			s.Write(files)
			_, err := certs.Load(certs.Files{CA: s.Path(caFile), Cert: s.Path(certFile), Key: s.Path(keyFile)}, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}

// Wrong files keep all of the old ones in use. Each new error is said once, as soon as two looks
// have found it. Files that are right again can fail, and say so, again.
func TestWrongFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := pki.New(t, "first"), pki.New(t, "second")
		up, s := newServer(first, first, second), newSide(t, first.PEM(), first)
		shakes := func(n int, client string) {
			t.Helper()
			for range n {
				up.want(t, s.client("orders.example"), shaken{server: "first", client: client})
				time.Sleep(look)
			}
		}
		shakes(1, "first")
		cert, key := second.Issue("gateway")
		broken := map[string][]byte{caFile: []byte("no certificate"), certFile: cert, keyFile: key}
		s.files.Write(broken)
		shakes(1, "first")
		s.wantSaid()
		shakes(1, "first")
		s.wantSaid("ca.crt: expected at least one")
		shakes(10, "first")
		s.wantSaid()
		s.files.Write(map[string][]byte{caFile: first.PEM(), certFile: nil, keyFile: nil})
		shakes(10, "first")
		s.wantSaid("tls.key: expected a certificate")
		if !s.store.Refused() {
			t.Error("Refused is false with wrong files, want true")
		}
		s.files.Write(map[string][]byte{caFile: first.PEM(), certFile: cert, keyFile: key})
		shakes(3, "second")
		s.wantSaid()
		if s.store.Refused() {
			t.Error("Refused is true with the right files, want false")
		}
		s.files.Write(map[string][]byte{caFile: first.PEM(), certFile: nil, keyFile: nil})
		shakes(10, "second")
		s.wantSaid("tls.key: expected a certificate")
	})
}

// Nothing is said of files that are wrong only while they are replaced one by one. Until they are
// all there, the old ones go on.
func TestFilesReplacedOneByOne(t *testing.T) {
	for name, between := range map[string]func(files map[string][]byte, cert, key []byte){
		"the certificate first":   func(f map[string][]byte, cert, _ []byte) { f[certFile] = cert },
		"the key first":           func(f map[string][]byte, _, key []byte) { f[keyFile] = key },
		"half of the certificate": func(f map[string][]byte, cert, _ []byte) { f[certFile] = cert[:len(cert)/2] },
		"the key removed":         func(f map[string][]byte, cert, _ []byte) { f[certFile] = cert; delete(f, keyFile) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := pki.New(t, "first"), pki.New(t, "second")
				up, s := newServer(first, first, second), newSide(t, first.PEM(), first)
				cert, key := second.Issue("gateway")
				for range 3 { // each time it is new again
					s.write(first.PEM(), first)
					time.Sleep(look)
					up.want(t, s.client("orders.example"), shaken{server: "first", client: "first"})
					files := map[string][]byte{caFile: first.PEM(), certFile: read(t, s.files.Path(certFile)), keyFile: read(t, s.files.Path(keyFile))}
					between(files, cert, key)
					s.files.Write(files)
					time.Sleep(look)
					for range 5 { // many handshakes are still one look
						up.want(t, s.client("orders.example"), shaken{server: "first", client: "first"})
					}
					s.files.Write(map[string][]byte{caFile: first.PEM(), certFile: cert, keyFile: key})
					time.Sleep(look)
					up.want(t, s.client("orders.example"), shaken{server: "first", client: "second"})
				}
				s.wantSaid()
			})
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Without its CA file, a client goes on to trust what it trusted. It does not fall back to the
// system's roots or to none.
func TestRemovedCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := pki.New(t, "first"), pki.New(t, "second")
		up, s := newServer(first, first), newSide(t, first.PEM(), first)
		cert, key := first.Issue("gateway")
		s.files.Write(map[string][]byte{certFile: cert, keyFile: key})
		for range 5 {
			time.Sleep(look)
			up.want(t, s.client("orders.example"), shaken{server: "first", client: "first"})
		}
		s.wantSaid("the CA file: open " + s.files.Path(caFile))
		up.cert.Store(second.Pair("orders.example"))
		if got := up.shake(s.client("orders.example")); got.err == nil {
			t.Errorf("got %+v with a certificate of another CA, want an error", got)
		}
		s.write(append(second.PEM(), first.PEM()...), first)
		time.Sleep(look)
		up.want(t, s.client("orders.example"), shaken{server: "second", client: "first"})
	})
}

// A connection resumes the session of an earlier one, but not of one before the files changed:
// both sides would go by the old certificates.
func TestSessions(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := pki.New(t, "first"), pki.New(t, "second")
				up, s := newServer(first, first, second), newSide(t, first.PEM(), first)
				s.config.MaxVersion = version
				up.want(t, s.config, shaken{server: "first", client: "first"})
				up.want(t, s.config, shaken{server: "first", client: "first", resumed: true})

				s.write(append(first.PEM(), second.PEM()...), second)
				time.Sleep(look)
				for range 5 { // the session of an older handshake could still arrive
					up.want(t, s.config, shaken{server: "first", client: "second"})
					time.Sleep(900 * time.Millisecond)
				}
				time.Sleep(time.Second)
				up.want(t, s.config, shaken{server: "first", client: "second"})
				up.want(t, s.config, shaken{server: "first", client: "second", resumed: true})

				s.files.Write(map[string][]byte{caFile: nil, certFile: nil, keyFile: nil})
				for range 5 { // refused files change nothing
					time.Sleep(look)
					up.want(t, s.config, shaken{server: "first", client: "second", resumed: true})
				}
			})
		})
	}
}

// A handshake that resumes a session lasts while the files change. It goes by the CA under which it
// began, and its session is not kept.
func TestRotationDuringAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := pki.New(t, "first"), pki.New(t, "second")
		up, s := newServer(first, first, second), newSide(t, first.PEM(), first)
		up.want(t, s.config, shaken{server: "first", client: "first"})
		up.delay.Store(int64(2 * time.Second))
		var slow sync.WaitGroup
		slow.Go(func() { up.want(t, s.config, shaken{server: "first", client: "first", resumed: true}) })
		synctest.Wait()
		s.write(second.PEM(), second)
		slow.Wait()
		up.delay.Store(0)
		up.cert.Store(second.Pair("orders.example"))
		up.want(t, s.config, shaken{server: "second", client: "second"})
	})
}

// Many handshakes go on while the files change and are wrong at times. None fails, and each error
// is said once.
func TestConcurrentHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []*pki.Authority{pki.New(t, "0"), pki.New(t, "1"), pki.New(t, "2")}
		var cas []byte
		for _, a := range all {
			cas = append(cas, a.PEM()...)
		}
		up, s := newServer(all[0], all...), newSide(t, cas, all[0])
		done := make(chan struct{})
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(150 * time.Millisecond):
					}
					if got := up.shake(s.config); got.err != nil {
						t.Errorf("got error %v, want none", got.err)
					}
				}
			})
		}
		for i := range 9 {
			a := all[i%len(all)]
			s.write(cas, a)
			up.cert.Store(a.Pair("orders.example"))
			time.Sleep(1500 * time.Millisecond)
			if i%3 == 2 {
				s.files.Write(map[string][]byte{caFile: bytes.ToLower(cas), certFile: nil, keyFile: nil})
				time.Sleep(2500 * time.Millisecond)
				s.wantSaid("ca.crt: expected at least one")
			}
		}
		close(done)
		callers.Wait()
		s.wantSaid()
		s.write(all[1].PEM(), all[1])
		up.cert.Store(all[1].Pair("orders.example"))
		time.Sleep(look)
		up.want(t, s.config, shaken{server: "1", client: "1"})
	})
}
