package connpool_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/connpool"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

// Requests with and without a body, and answers of all framings, share the kept connection. From
// the first request with a body on, that is net/http's.
func TestRequestsOfAllKindsShareAConnection(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	u := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/long":
			w.Header().Set("Content-Length", strconv.Itoa(len(long)))
			_, _ = io.WriteString(w, long)
		case "/chunks":
			w.Header().Set("Trailer", "Sum")
			_, _ = io.WriteString(w, "a")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "b")
			w.Header().Set("Sum", "ab")
		default:
			_, _ = io.WriteString(w, string(got)+"ok")
		}
	})
	o := u.options()
	o.Limits.MaxAge = 0
	begun := time.Now()
	p := newPool(t, u.URL, o)
	for _, bodies := range []bool{false, true} {
		for _, tc := range []struct{ method, path, body, want, trailer string }{
			{http.MethodGet, "/", "", "ok", ""}, {http.MethodGet, "/long", "", long, ""}, {http.MethodGet, "/chunks", "", "ab", "ab"},
			{http.MethodGet, "/none", "", "", ""}, {http.MethodHead, "/long", "", "", ""}, {http.MethodDelete, "/", "", "ok", ""},
			{http.MethodPost, "/", "body", "bodyok", ""}, {http.MethodGet, "/long", "", long, ""},
		} {
			var body io.Reader
			if tc.body != "" {
				if !bodies {
					continue
				}
				body = strings.NewReader(tc.body)
			}
			resp, err := p.RoundTrip(request(t.Context(), t, tc.method, u.URL+tc.path, body))
			if _, got, err := read(resp, err); err != nil || got != tc.want || resp.Trailer.Get("Sum") != tc.trailer {
				t.Fatalf("%s %s: got %d bytes, trailer %v, error %v, want %d bytes", tc.method, tc.path, len(got), resp.Trailer, err, len(tc.want))
			}
		}
	}
	// A connection that is older than this gets a direct one beside it.
	if n := u.Opened(); n != 1 && time.Since(begun) < 200*time.Millisecond {
		t.Errorf("got %d connections, want 1", n)
	}
}

// What has arrived of an answer is not held back until the rest arrives.
func TestAnswerInPieces(t *testing.T) {
	more := make(chan struct{})
	target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 50003\r\n\r\none")
		<-more
		_, _ = io.WriteString(c, strings.Repeat("x", 50_000))
		return true
	})
	p := newPool(t, target, connpool.Options{Limits: defaults()})
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, strconv.Itoa(code)+h.Get("Link"))
		return nil
	}})
	resp, err := p.RoundTrip(request(ctx, t, http.MethodGet, target, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	first := make([]byte, 32<<10)
	if n, err := resp.Body.Read(first); err != nil || string(first[:n]) != "one" || len(hints) != 1 || hints[0] != "103</a>" {
		t.Errorf("got %q, error %v, hints %v, want what has arrived", first[:n], err, hints)
	}
	close(more)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 50_000 {
		t.Errorf("got %d more bytes, error %v, want 50000", len(rest), err)
	}
}

// What has arrived of an answer that breaks off comes before the error.
func TestAnswerThatBreaksOff(t *testing.T) {
	target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, _ int) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome")
		return false
	})
	p := newPool(t, target, connpool.Options{Limits: defaults()})
	for range 20 {
		resp, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond) // the end has arrived, too
		some := make([]byte, 32<<10)
		if n, err := resp.Body.Read(some); err != nil || string(some[:n]) != "some" {
			t.Errorf("got %q, error %v, want what has arrived", some[:n], err)
		}
		if _, err := resp.Body.Read(some); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got error %v, want %v", err, io.ErrUnexpectedEOF)
		}
		_ = resp.Body.Close()
	}
}

// The end of a request's context ends it wherever it is, and the error is the context's cause.
func TestRequestsThatAreCancelled(t *testing.T) {
	for name, sent := range map[string]string{
		"before the answer": "", "in the header": "HTTP/1.1 200 OK\r\nContent-", "in the body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cause := errors.New("enough")
			body := strings.HasSuffix(sent, "some")
			target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, connection, _ int) bool {
				if connection > 1 {
					_, _ = io.WriteString(c, plainOK)
					return true
				}
				_, _ = io.WriteString(c, sent)
				if !body {
					cancel(cause)
				}
				return true
			})
			p := newPool(t, target, connpool.Options{Limits: defaults()})
			resp, err := p.RoundTrip(request(ctx, t, http.MethodGet, target, nil))
			if body && err == nil {
				some := make([]byte, 4)
				if _, err := io.ReadFull(resp.Body, some); err != nil || string(some) != "some" {
					t.Errorf("got %q, error %v, want what has arrived", some, err)
				}
				cancel(cause)
			}
			if _, got, err := read(resp, err); !errors.Is(err, cause) {
				t.Errorf("got body %q, error %v, want %v", got, err, cause)
			}
			want(t, p, target)
		})
	}
}

// A connection on which the upstream says something unasked is not used again: the next request
// would take that for its answer.
func TestUnaskedAnswer(t *testing.T) {
	const unasked = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
	for name, later := range map[string]bool{"with the answer": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			goOn, said := make(chan struct{}), make(chan struct{})
			target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, request int) bool {
				if request > 1 {
					t.Error("the connection got another request")
				}
				if !later {
					_, _ = io.WriteString(c, plainOK+unasked)
					return true
				}
				_, _ = io.WriteString(c, plainOK)
				select {
				case <-goOn:
					_, _ = io.WriteString(c, unasked)
					said <- struct{}{}
				case <-t.Context().Done(): // the test has failed
				}
				return true
			})
			p := newPool(t, target, connpool.Options{Limits: defaults()})
			for range 5 {
				want(t, p, target)
				if later {
					goOn <- struct{}{}
					<-said
				}
			}
		})
	}
}

// An informational status where the final one belongs ends the connection, as in net/http, and so
// does one below 100.
func TestStatusThatIsNotFinal(t *testing.T) {
	for name, answer := range map[string]string{
		"101":                   "HTTP/1.1 101 X\r\n\r\n",
		"101 with its protocol": "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: p\r\n\r\n",
		"below 100":             "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
		"below 100, with body":  "HTTP/1.1 099 X\r\nContent-Length: 1\r\n\r\nb",
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan struct{}, 2)
			target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, _, request int) bool {
				if request > 1 {
					t.Error("the connection got another request")
				}
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(io.Discard, c)
				ended <- struct{}{}
				return false
			})
			p := newPool(t, target, connpool.Options{Limits: defaults()})
			for range 2 {
				resp, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := resp.Body.(io.Writer); ok || resp.StatusCode >= 200 {
					t.Errorf("got status %d with a %T, want the upstream's and no connection", resp.StatusCode, resp.Body)
				}
				if _, _, err := read(resp, nil); err != nil {
					t.Error(err)
				}
				<-ended
			}
		})
	}
}

// A connection that the upstream closes while it is idle does not stay half open until its time is
// up, and not after the next request has passed it over.
func TestClosedIdleConnectionsAreClosed(t *testing.T) {
	for name, requests := range map[string]int{"one request": 1, "two": 2} {
		t.Run(name, func(t *testing.T) {
			half, ended := make(chan struct{}, requests), make(chan struct{})
			target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, connection, _ int) bool {
				_, _ = io.WriteString(c, plainOK)
				if connection > 1 {
					return true
				}
				if tcp, ok := c.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				half <- struct{}{}
				_, _ = io.Copy(io.Discard, c)
				close(ended)
				return false
			})
			o := connpool.Options{Limits: defaults()}
			o.Limits.IdleTimeout = time.Hour
			p := newPool(t, target, o)
			for range requests {
				want(t, p, target)
				select {
				case <-half:
				case <-ended:
				}
			}
			<-ended
		})
	}
}

// A request that waits for its dial does not get a connection that the upstream has closed after
// its last answer. A POST on that one would fail, as it may not be sent again.
func TestWaiterGetsNoClosedConnection(t *testing.T) {
	finish, ended := make(chan struct{}), make(chan struct{})
	target := rawhttp.Requests(t, func(c net.Conn, _ *http.Request, connection, _ int) bool {
		if connection > 1 {
			_, _ = io.WriteString(c, plainOK)
			return true
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
		<-finish
		_, _ = io.WriteString(c, "k")
		_ = c.Close()
		close(ended)
		return false
	})
	dialling, dial := make(chan struct{}, 2), make(chan struct{}, 2)
	dial <- struct{}{}
	limits := defaults()
	limits.MaxAge = 0 // no background dials
	p := newPool(t, target, connpool.Options{Limits: limits, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialling <- struct{}{}
		<-dial
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	first, err := p.RoundTrip(request(t.Context(), t, http.MethodGet, target, nil))
	if err != nil {
		t.Fatal(err)
	}
	<-dialling
	posted := make(chan error)
	go func() {
		status, _, err := read(p.RoundTrip(request(t.Context(), t, http.MethodPost, target, nil)))
		if err == nil && status != http.StatusOK {
			err = errors.New(strconv.Itoa(status))
		}
		posted <- err
	}()
	<-dialling // the POST waits
	close(finish)
	<-ended
	if _, body, err := read(first, nil); err != nil || body != "ok" {
		t.Errorf("got body %q, error %v, want ok", body, err)
	}
	dial <- struct{}{}
	if err := <-posted; err != nil {
		t.Errorf("the POST: %v, want 200", err)
	}
}

// counting is a connection that does more in Read than a TCP connection.
type counting struct {
	*net.TCPConn
	read *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// Everything is read through a connection of the caller's own.
func TestWrappedConnectionIsNotPassedBy(t *testing.T) {
	const size = 200_000
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	})
	var count atomic.Int64
	o := u.options()
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return counting{c.(*net.TCPConn), &count}, nil
	}
	want(t, newPool(t, u.URL, o), u.URL)
	if n := count.Load(); n < size {
		t.Errorf("%d bytes were read through the connection, want at least %d", n, size)
	}
}
