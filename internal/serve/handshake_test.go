package serve_test

import (
	"crypto/tls"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
)

// A client that connects and sends nothing holds a stop for a second after it has connected, if it
// has to make a handshake, and costs no warning. net/http alone waits five seconds for it, and
// warns of the broken handshake.
func TestSilentConnectionHoldsNoStop(t *testing.T) {
	pair := pki.New(t, "authority").Pair("localhost")
	for name, config := range map[string]*tls.Config{
		"half a handshake": {Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12},
		"plain":            nil,
	} {
		for when, tc := range map[string]struct{ opened, least, most time.Duration }{
			// The listener closes after 5s. net/http looks at most every half second.
			"new": {delay - 100*time.Millisecond, 900 * time.Millisecond, 1900 * time.Millisecond},
			"old": {delay - 2*time.Second, 0, 600 * time.Millisecond},
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := run(t, text("ok"), func(c *serve.Config) { c.Data[0].TLS = config })
					p.stop()
					p.until(tc.opened)
					conn, err := p.Dial(t.Context(), "tcp", "data:1")
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					err = <-p.ended
					if config == nil {
						tc.least, tc.most = 0, 0
					}
					if held := time.Since(p.start) - delay; err != nil || held < tc.least || held > tc.most {
						t.Errorf("Run returned %v and was held for %v, want nil and %v to %v", err, held, tc.least, tc.most)
					}
					if log := p.log.String(); strings.Contains(log, "level=WARN") {
						t.Errorf("got the log\n%s\nwant no warning", log)
					}
				})
			})
		}
	}
}
