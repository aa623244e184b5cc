// Package pki makes certificate authorities for tests, and folders of files that are swapped like
// those of a Kubernetes Secret.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Authority is a certificate authority. It and its certificates are valid for an hour.
type Authority struct {
	t     testing.TB
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain []byte // follows its certificates, in PEM
}

// New returns a new authority with this common name.
func New(t testing.TB, name string) *Authority {
	t.Helper()
	return (&Authority{t: t}).Intermediate(name)
}

// Intermediate returns an authority whose own certificate is issued by a. It is in the chain of
// those that it issues.
func (a *Authority) Intermediate(name string) *Authority {
	a.t.Helper()
	own := &Authority{t: a.t, key: newKey(a.t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	parent, key := a.cert, a.key
	if parent == nil {
		parent, key = template, own.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.key.PublicKey, key)
	check(a.t, err)
	own.cert, err = x509.ParseCertificate(der)
	check(a.t, err)
	if a.cert != nil {
		own.chain = append(own.PEM(), a.chain...)
	}
	return own
}

// PEM returns the authority's own certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Issue returns a certificate for a DNS name or an IP address with its chain, and its key, in PEM.
// It is good for servers and clients.
func (a *Authority) Issue(name string) (cert, key []byte) {
	a.t.Helper()
	own := newKey(a.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(a.t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	check(a.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(own)
	check(a.t, err)
	return append(encode("CERTIFICATE", der), a.chain...), encode("PRIVATE KEY", private)
}

// Pair returns what Issue returns, ready for a tls.Config.
func (a *Authority) Pair(name string) *tls.Certificate {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.Issue(name))
	check(a.t, err)
	return &pair
}

// Pool returns the certificates of the authorities.
func Pool(authorities ...*Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a.cert)
	}
	return pool
}

// Secret is a folder of files that are swapped all at once, as Kubernetes swaps a mounted Secret:
// the files are behind a symbolic link to the current folder.
type Secret struct {
	t    testing.TB
	root string
	n    int
}

// NewSecret returns a secret without files. It is removed with the test.
func NewSecret(t testing.TB) *Secret {
	t.Helper()
	return &Secret{t: t, root: t.TempDir()}
}

// Path returns the path of a file, which stays the same.
func (s *Secret) Path(name string) string { return filepath.Join(s.root, "data", name) }

// Write replaces all files by these.
func (s *Secret) Write(files map[string][]byte) {
	s.t.Helper()
	s.n++
	folder := filepath.Join(s.root, strconv.Itoa(s.n))
	check(s.t, os.Mkdir(folder, 0o700))
	for name, content := range files {
		check(s.t, os.WriteFile(filepath.Join(folder, name), content, 0o600))
	}
	link := filepath.Join(s.root, "new")
	check(s.t, os.Symlink(folder, link))
	check(s.t, os.Rename(link, filepath.Join(s.root, "data")))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
