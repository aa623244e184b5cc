package transport_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

type watched struct {
	io.Reader
	closed atomic.Bool
}

func (w *watched) Close() error { w.closed.Store(true); return nil }

// The body is closed even if the request cannot be sent.
func TestBodyOfARefusedRequestIsClosed(t *testing.T) {
	rt := newTransport(t, base(t), patient())
	for name, again := range map[string]bool{"GetBody": true, "kept": false} {
		t.Run(name, func(t *testing.T) {
			w := &watched{Reader: strings.NewReader("x")}
			req := request(t, http.MethodPost, "http://127.0.0.1:1/", w)
			req.URL.RawQuery = "a\x01b"
			if again {
				req.GetBody = func() (io.ReadCloser, error) { return w, nil }
			}
			r := call(t, rt, req)
			if r.report.Reason != resilience.ReasonInvalidRequest {
				t.Fatalf("got reason %s, error %v, want %s", r.report.Reason, r.err, resilience.ReasonInvalidRequest)
			}
			if !w.closed.Load() {
				t.Error("the body is open, want it closed")
			}
		})
	}
}

type broken struct {
	begun bool
	err   error
}

func (b *broken) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		return copy(p, "hello"), nil
	}
	return 0, b.err
}
func (b *broken) Close() error { return nil }

// An error of the caller's body blames the caller, whatever the error looks like.
func TestA11CallersBodyBreaksWithANetworkError(t *testing.T) {
	for name, err := range map[string]error{
		"dial":      &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")},
		"malformed": errors.New("malformed thing"),
	} {
		for pname, mk := range map[string]func(target string) http.RoundTripper{
			"net/http": func(string) http.RoundTripper { return base(t) },
			"pool": func(target string) http.RoundTripper {
				u, _ := url.Parse(target)
				p := endpoint.New(u, endpoint.Options{Connections: endpoint.DefaultConnections()})
				t.Cleanup(p.Close)
				return p
			},
		} {
			t.Run(name+", "+pname, func(t *testing.T) {
				u := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
				rt := newTransport(t, mk(u.URL), patient())
				r := call(t, rt, request(t, http.MethodPost, u.URL, &broken{err: err}))
				a := r.report.Attempts
				if n := u.requests.Load(); n > 1 || len(a) != 1 || a[0].Health != resilience.Neutral {
					t.Errorf("got %d requests, %d attempts, error %v, want at most 1 request and 1 neutral attempt: %+v", n, len(a), r.err, a)
				}
			})
		}
	}
}

// An invalid host is the caller's mistake.
func TestA3HostThatCannotBeSent(t *testing.T) {
	u := serve(t, func(http.ResponseWriter, *http.Request) {})
	rt := newTransport(t, base(t), patient())
	for _, host := range []string{"ü_x", "\u0378", "a b", "\xff\xfe", "xn--ü"} {
		req := request(t, http.MethodGet, u.URL, nil)
		req.Host = host
		r := call(t, rt, req)
		for _, a := range r.report.Attempts {
			if a.Health == resilience.Unhealthy {
				t.Errorf("%q: got health %v, error %v, want it not unhealthy", host, a.Health, r.err)
			}
		}
		if n := len(r.report.Attempts); n > 1 {
			t.Errorf("%q: got %d attempts, want at most 1", host, n)
		}
	}
}
