package pki_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
)

// A certificate is good under its own authority only, and for its name only.
func TestAuthority(t *testing.T) {
	one, other := pki.New(t, "one"), pki.New(t, "other")
	leaf := one.Pair("orders.example").Leaf
	for name, tc := range map[string]struct {
		roots *x509.CertPool
		dns   string
		good  bool
	}{
		"its authority":     {pki.Pool(one), "orders.example", true},
		"both":              {pki.Pool(one, other), "orders.example", true},
		"another authority": {pki.Pool(other), "orders.example", false},
		"another name":      {pki.Pool(one), "pay.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: tc.roots, DNSName: tc.dns}); (err == nil) != tc.good {
				t.Errorf("got error %v, want success %v", err, tc.good)
			}
		})
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(one.PEM()) || !pool.Equal(pki.Pool(one)) {
		t.Error("PEM is not the authority's certificate")
	}
}

// A file keeps its path. A file that is not written again is gone.
func TestSecret(t *testing.T) {
	s := pki.NewSecret(t)
	path := s.Path("a")
	s.Write(map[string][]byte{"a": []byte("first"), "b": nil})
	if got := files.Read(t, path); got != "first" {
		t.Errorf("got %q, want first", got)
	}
	s.Write(map[string][]byte{"a": []byte("second")})
	if got := files.Read(t, path); got != "second" {
		t.Errorf("got %q, want second", got)
	}
	if _, err := os.Stat(s.Path("b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was not written again: got error %v, want none there", err)
	}
}
