package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The tests in this file cover what every proxy must do. They follow the tests of
// net/http/httputil.ReverseProxy. docs/proxy.md lists the differences.

func TestAnswersArePassedOnWhole(t *testing.T) {
	g := gatewayWith(t, gateway.Options{}, nil, all(server(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Set-Cookie"] = []string{"a=1; Path=/", "b=2"}
		h["X-Multi"] = []string{"one", "two"}
		h.Set("Trailers", "no special field")
		h.Set("Trailer", "X-Sum, X-Never")
		h.Set("Server", "upstream")
		h.Set("Date", "Sat, 28 Nov 2026 12:00:00 GMT")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
		h.Set("X-Sum", "15")
		h.Set(http.TrailerPrefix+"X-Late", "unannounced")
	}).URL))
	for version, tr := range map[string]http.RoundTripper{"HTTP/1.1": &http.Transport{DisableKeepAlives: true}, "HTTP/2": overH2C(t)} {
		resp, err := tr.RoundTrip(request(t, http.MethodGet, g.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := resp.Trailer["X-Sum"]; !ok {
			t.Errorf("%s: got announced trailers %v, want X-Sum among them", version, resp.Trailer)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusTeapot || string(b) != "short and stout" {
			t.Errorf("%s: got status %d, body %q, error %v, want 418 and \"short and stout\"", version, resp.StatusCode, b, err)
		}
		for name, want := range map[string][]string{
			"Set-Cookie": {"a=1; Path=/", "b=2"}, "X-Multi": {"one", "two"}, "Trailers": {"no special field"}, "Server": {"upstream"},
			"Date": {"Sat, 28 Nov 2026 12:00:00 GMT"},
		} {
			if !reflect.DeepEqual(resp.Header[name], want) {
				t.Errorf("%s: got %s %q, want %q", version, name, resp.Header[name], want)
			}
		}
		if resp.Trailer.Get("X-Sum") != "15" || resp.Trailer.Get("X-Late") != "unannounced" {
			t.Errorf("%s: got trailers %v, want X-Sum: 15 and X-Late: unannounced", version, resp.Trailer)
		}
	}
}

// An empty body of unknown length keeps its trailers, even unannounced ones.
func TestUnannouncedTrailersOfAnEmptyBody(t *testing.T) {
	g := gatewayTo(t, calm(), all(server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Late", "value")
	}).URL))
	if resp, _ := get(t, g.URL); resp.Trailer.Get("X-Late") != "value" {
		t.Errorf("got trailers %v, want X-Late: value", resp.Trailer)
	}
}

func TestHopByHopHeadersAreForOneHop(t *testing.T) {
	seen := make(chan http.Header, 1)
	g := gatewayTo(t, calm(), all(peer(t, func(c net.Conn, head string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			t.Error(err)
			return
		}
		seen <- r.Header
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop, \r\nConnection: X-Hop2\r\nX-Hop: 1\r\nX-Hop2: 2\r\nKeep-Alive: timeout=1\r\n"+
			"Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n")
	})))
	for name, tc := range map[string]struct {
		head string
		te   string
	}{
		"named ones":   {"Connection: X-Hop, keep-alive\r\nConnection: x-hop2\r\nX-Hop: 1\r\nX-Hop2: 2\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nKeep-Alive: 5\r\nUpgrade: foo\r\n", ""},
		"an empty one": {"Connection:\r\nConnection: X-Hop,, X-Hop2\r\nX-Hop: 1\r\nX-Hop2: 2\r\n", ""},
		"TE: trailers": {"Connection: TE\r\nTE: foo\r\nTE: bar, trailers\r\n", "trailers"},
		"TE: others":   {"Connection: TE\r\nTE: gzip;q=0.5\r\n", ""},
		// Connection cannot remove the gateway's own headers.
		"what the gateway adds": {"Connection: X-Forwarded-For, Via, X-Request-Id, X-Forwarded-Proto\r\nX-Forwarded-For: 1.2.3.4\r\n", ""},
	} {
		answer, _ := wire(t, g, "GET / HTTP/1.1\r\nHost: x\r\nX-Kept: 1\r\nConnection: close\r\n"+tc.head+"\r\n")
		h := <-seen
		for _, gone := range []string{"Connection", "X-Hop", "X-Hop2", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "Upgrade"} {
			if v, ok := h[gone]; ok {
				t.Errorf("%s: the upstream got %s %q, want it removed", name, gone, v)
			}
		}
		if got := strings.Join(h["Te"], "|"); got != tc.te {
			t.Errorf("%s: the upstream got TE %q, want %q", name, got, tc.te)
		}
		if h.Get("X-Kept") == "" || !strings.HasSuffix(h.Get("X-Forwarded-For"), "127.0.0.1") || h.Get("Via") == "" || h.Get("X-Request-Id") == "" || h.Get("X-Forwarded-Proto") == "" {
			t.Errorf("%s: the upstream got %v, want X-Kept, X-Forwarded-For, X-Forwarded-Proto, Via and X-Request-Id", name, h)
		}
		for _, gone := range []string{"X-Hop", "Keep-Alive", "Proxy-", "Upgrade"} {
			if strings.Contains(answer, "\r\n"+gone) {
				t.Errorf("%s: the caller got %q, want the hop-by-hop headers removed", name, answer)
			}
		}
		if !strings.Contains(answer, "\r\nX-Kept: 1\r\n") {
			t.Errorf("%s: the caller got %q, want X-Kept", name, answer)
		}
	}
}

// The gateway adds none of the headers that Go's client would add, and changes none of the
// caller's.
func TestRequestsArePassedOnAsTheyAre(t *testing.T) {
	heads := make(chan string, 1)
	g := gatewayTo(t, calm(), all(peer(t, func(c net.Conn, head string) {
		heads <- head
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})))
	for name, tc := range map[string]struct {
		head string
		has  []string
		not  []string
	}{
		"no agent":         {"GET / HTTP/1.1\r\n", nil, []string{"User-Agent", "Accept-Encoding", "Content-Length", "Transfer-Encoding"}},
		"its own agent":    {"GET / HTTP/1.1\r\nUser-Agent: curl\r\nAccept-Encoding: br\r\n", []string{"User-Agent: curl", "Accept-Encoding: br"}, nil},
		"no body":          {"GET / HTTP/1.1\r\nContent-Length: 0\r\n", nil, []string{"Transfer-Encoding"}},
		"no body of POST":  {"POST / HTTP/1.1\r\nContent-Length: 0\r\n", []string{"Content-Length: 0"}, []string{"Transfer-Encoding"}},
		"cookies, twice":   {"GET / HTTP/1.1\r\nCookie: a=1\r\nCookie: b=2\r\n", []string{"Cookie: a=1\r\nCookie: b=2"}, nil},
		"an odd method":    {"M-SEARCH / HTTP/1.1\r\n", []string{"M-SEARCH / HTTP/1.1"}, nil},
		"a range":          {"GET / HTTP/1.1\r\nRange: bytes=1-2\r\nIf-Range: x\r\n", []string{"Range: bytes=1-2", "If-Range: x"}, nil},
		"an authorization": {"GET / HTTP/1.1\r\nAuthorization: Basic eA==\r\n", []string{"Authorization: Basic eA=="}, nil},
		"HTTP/1.0":         {"GET / HTTP/1.0\r\n", []string{"GET / HTTP/1.1", "Via: 1.0 "}, nil},
	} {
		_, _ = wire(t, g, tc.head+"Host: x\r\nConnection: close\r\n\r\n")
		head := <-heads
		for _, want := range tc.has {
			if !strings.Contains("\r\n"+head, "\r\n"+want) {
				t.Errorf("%s: want %q, got %q", name, want, head)
			}
		}
		for _, not := range append(tc.not, "Connection", "Te:") {
			if strings.Contains(head, "\r\n"+not) {
				t.Errorf("%s: got a header %s, want none in %q", name, not, head)
			}
		}
	}
}

func TestCallersRequestIsNotModified(t *testing.T) {
	g, err := gateway.New(gateway.ForUpstream("http://up/base"), gateway.Options{Next: upstreamFunc(func(r *http.Request) int {
		r.Header.Set("X-Changed", "1")
		return http.StatusOK
	})})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/a%2Fb|c?d", nil)
	r.RemoteAddr = "8.8.8.8:1"
	for k, v := range map[string]string{"Connection": "X-Hop", "X-Hop": "1", "Te": "trailers", "X-Forwarded-For": "1.2.3.4", "X-Attempt-Count": "3", "Via": "1.1 a", "Max-Forwards": "3"} {
		r.Header.Set(k, v)
	}
	header, url, host := r.Header.Clone(), *r.URL, r.Host
	g.ServeHTTP(httptest.NewRecorder(), r)
	if !reflect.DeepEqual(r.Header, header) || *r.URL != url || r.Host != host {
		t.Errorf("the caller's request changed: got %v, URL %v, host %s, want %v, URL %v, host %s", r.Header, r.URL, r.Host, header, &url, host)
	}
}

// The header of an answer arrives before its body.
func TestHeadersArriveBeforeTheBody(t *testing.T) {
	more := make(chan struct{})
	g := gatewayWith(t, gateway.Options{}, nil, all(server(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "late")
	}).URL))
	for _, tr := range []http.RoundTripper{&http.Transport{DisableKeepAlives: true}, overH2C(t)} {
		resp, err := tr.RoundTrip(request(t, http.MethodGet, g.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		more <- struct{}{}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "late" {
			t.Errorf("got %q, error %v, want late", b, err)
		}
		_ = resp.Body.Close()
	}
}

// The gateway passes informational answers on at once, with their own headers only. An HTTP/1.0
// caller gets none.
func TestInformationalAnswersPass(t *testing.T) {
	const answer = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\n" +
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok"
	g := gatewayWith(t, gateway.Options{}, nil, all(answering(t, answer)))
	for version, tr := range map[string]http.RoundTripper{"HTTP/1.1": &http.Transport{DisableKeepAlives: true}, "HTTP/2": overH2C(t)} {
		var mu sync.Mutex
		var got []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(code, h.Get("Link"), h.Get("X-Hop"), h.Get("X-Final"), h.Get("X-Request-Id")))
			return nil
		}})
		resp, err := tr.RoundTrip(request(t, http.MethodGet, g.URL, nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := []string{"103</a.css>", "102", "103</b.css>", "100"}; !slices.Equal(got, want) || string(b) != "ok" || resp.Header.Get("Link") != "" || resp.Header.Get("X-Final") != "1" {
			t.Errorf("%s: got informational answers %q, body %q, header %v, want %q, body ok and X-Final", version, got, b, resp.Header, want)
		}
	}
	if text, _ := wire(t, g, "GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(text, "HTTP/1.0 200 OK\r\n") {
		t.Errorf("HTTP/1.0: got %q, want 200 without hints", text)
	}
}

// An informational answer must not lose headers that the server has set for the final answer. An
// example is Connection: close when the server is about to stop.
func TestInformationalAnswersLeaveTheHeaderAlone(t *testing.T) {
	g := gatewayTo(t, calm(), all(answering(t, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))
	front := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		g.Config.Handler.ServeHTTP(w, r)
	})
	text, err := wire(t, front, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	hints, final, _ := strings.Cut(text, "\r\n\r\n")
	if err != nil || strings.Contains(hints, "close") || !strings.Contains(final, "\r\nConnection: close\r\n") {
		t.Errorf("got %q, error %v, want Connection: close on the final answer only", text, err)
	}
}

// An upstream may send informational answers without end. A caller that does not read them used to
// hold up the attempt beyond its timeout. Here they are more than the connections' buffers hold.
func TestInformationalAnswersAreBounded(t *testing.T) {
	const sent = 20_000
	hint := "HTTP/1.1 103 Early Hints\r\nLink: </" + strings.Repeat("x", 1000) + ">\r\n\r\n"
	p := calm()
	p.Timeout, p.AttemptTimeout = 10*time.Second, 10*time.Second
	g, calls := observedGateway(t, p, gateway.Options{}, all(answering(t, strings.Repeat(hint, sent)+"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case call := <-calls:
		if call.Status != http.StatusOK || call.Report.Reason != resilience.ReasonOK {
			t.Errorf("a caller that does not read: got status %d and reason %s, want 200 and %s", call.Status, call.Report.Reason, resilience.ReasonOK)
		}
	case <-time.After(30 * time.Second):
		t.Error("a caller that does not read: the call has not ended after 30 s")
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	text := string(b)
	hints := strings.Count(text, "103 Early Hints")
	if err != nil || hints < 10 || hints > 32 || !strings.HasSuffix(text, "\r\n\r\nok") {
		t.Errorf("got %d of %d hints, error %v, and %q, want those of up to 32 KiB and the answer", hints, sent, err, text[max(0, len(text)-200):])
	}
}

// An informational answer of a finished attempt must not change the answer.
func TestLateInformationalAnswersAreDropped(t *testing.T) {
	var trace *httptrace.ClientTrace
	g, err := gateway.New(gateway.ForUpstream("http://up"), gateway.Options{Next: upstreamFunc(func(r *http.Request) int {
		trace = httptrace.ContextClientTrace(r.Context())
		return http.StatusOK
	})})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	before := w.Header().Clone()
	if err := trace.Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {"x"}}); err != nil || !reflect.DeepEqual(w.Header(), before) {
		t.Errorf("got error %v, header %v, want %v", err, w.Header(), before)
	}
}

func TestRequestTrailers(t *testing.T) {
	var seen http.Header
	up := server(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen = r.Trailer.Clone()
	})
	g := gatewayWith(t, gateway.Options{}, nil, all(up.URL))
	for name, tc := range map[string]struct {
		announced string
		trailers  string
		want      http.Header
	}{
		"announced":               {"Trailer: X-Sum\r\n", "X-Sum: 1\r\n", http.Header{"X-Sum": {"1"}}},
		"announced and missing":   {"Trailer: X-Sum\r\n", "", http.Header{"X-Sum": nil}},
		"not announced":           {"", "X-Sum: 1\r\n", http.Header{"X-Sum": {"1"}}},
		"some announced":          {"Trailer: X-Sum\r\n", "X-Sum: 1\r\nX-Other: 2\r\n", http.Header{"X-Sum": {"1"}, "X-Other": {"2"}}},
		"not allowed as trailer":  {"Trailer: X-Sum, Authorization, Host\r\n", "X-Sum: 1\r\nAuthorization: x\r\nHost: x\r\nConnection: close\r\n", http.Header{"X-Sum": {"1"}}},
		"set by the gateway only": {"", "X-Forwarded-For: 1.2.3.4\r\nX-Attempt-Count: 9\r\nVia: 1.1 x\r\nX-Sum: 1\r\n", http.Header{"X-Sum": {"1"}}},
		"none":                    {"", "", nil},
	} {
		seen = nil
		answer, _ := wire(t, g, "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"+tc.announced+"\r\n4\r\nbody\r\n0\r\n"+tc.trailers+"\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200") || len(seen)+len(tc.want) > 0 && !reflect.DeepEqual(seen, tc.want) {
			t.Errorf("%s: the upstream got trailers %v, want %v; got answer %s", name, seen, tc.want, answer)
		}
	}
}

// A trailer with an invalid name used to open the circuit.
func TestMalformedTrailerIsTheCallersFault(t *testing.T) {
	up := server(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	p := transport.DefaultPolicy()
	p.Breaker.ConsecutiveFailures = 2
	g, calls := observedGateway(t, p, gateway.Options{}, all(up.URL))
	for range 12 {
		if got := finalStatus(t, g, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Bad Name\r\n\r\n1\r\nx\r\n0\r\n\r\n"); !strings.HasPrefix(got, "400") {
			t.Errorf("got %s, want 400", got)
		}
		if c := <-calls; c.Report.Reason != resilience.ReasonInvalidRequest || len(c.Report.Attempts) != 1 {
			t.Errorf("observer got %+v, want invalid_request and 1 attempt", c.Report)
		}
	}
	if resp, body := get(t, g.URL); resp.StatusCode != 200 {
		t.Errorf("a good call beside it: got status %d, body %s, want 200", resp.StatusCode, body)
	}
}

// switching returns the URL of an upstream that switches to protocol p and then calls then.
func switching(t *testing.T, p string, then func(net.Conn)) string {
	return peer(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+p+"\r\nX-Own: 1\r\n\r\n")
		then(c)
	})
}

// upgraded opens a connection through g and switches to protocol p. It sends more right after the
// request. It returns the connection, a reader of it and the answer's head.
func upgraded(t *testing.T, g *httptest.Server, p, more string) (*net.TCPConn, *bufio.Reader, string) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: "+p+"\r\n\r\n"+more)
	r := bufio.NewReader(c)
	head := ""
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		head += line
	}
	return c.(*net.TCPConn), r, head
}

// Either side may close its direction and still read. The gateway passes each half-close on.
func TestUpgradesEndOneDirectionAtATime(t *testing.T) {
	g := gatewayTo(t, calm(), all(switching(t, "Echo", func(c net.Conn) {
		b, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "all of it: %s", b)
	})))
	c, r, head := upgraded(t, g, "echo", "sent with the request, ")
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "\r\nX-Own: 1\r\n") || !strings.Contains(head, "\r\nX-Attempt-Count: 1\r\n") ||
		strings.Count(head, "Connection: Upgrade\r\n") != 1 || strings.Count(head, "Upgrade: Echo\r\n") != 1 {
		t.Errorf("got answer %q, want 101, one upgrade to Echo and the upstream's headers", head)
	}
	_, _ = io.WriteString(c, "sent later")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(r); err != nil || string(b) != "all of it: sent with the request, sent later" {
		t.Errorf("got %q, error %v, want %q", b, err, "all of it: sent with the request, sent later")
	}

	heard := make(chan string, 1)
	g = gatewayTo(t, calm(), all(switching(t, "p", func(c net.Conn) {
		_, _ = io.WriteString(c, "first")
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})))
	c, r, _ = upgraded(t, g, "p", "")
	if b, err := io.ReadAll(r); err != nil || string(b) != "first" {
		t.Errorf("got %q, error %v, want first", b, err)
	}
	_, _ = io.WriteString(c, "second")
	_ = c.Close()
	if got := <-heard; got != "second" {
		t.Errorf("the upstream got %q, want second", got)
	}
}

// noHalfClose hides CloseWrite: the upstream's connection can only be closed as a whole.
type noHalfClose struct{ io.ReadWriteCloser }

// hidesHalfClose wraps the connection of each switched protocol in noHalfClose.
type hidesHalfClose struct{ next http.RoundTripper }

func (w hidesHalfClose) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = noHalfClose{resp.Body.(io.ReadWriteCloser)}
	}
	return resp, err
}

func TestUpgradesWithoutHalfCloseEndAsAWhole(t *testing.T) {
	ended := make(chan struct{})
	up := switching(t, "p", func(c net.Conn) { _, _ = io.Copy(io.Discard, c); close(ended) })
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	g := gatewayWith(t, gateway.Options{Next: hidesHalfClose{tr}}, nil, all(up))
	c, r, _ := upgraded(t, g, "p", "")
	_ = c.CloseWrite()
	<-ended
	if _, err := r.ReadByte(); err == nil {
		t.Error("the caller's connection is open, want it closed")
	}
}

// When the request's context ends, the upgrade ends too.
func TestUpgradesEndWithTheirContext(t *testing.T) {
	ended := make(chan struct{})
	up := switching(t, "p", func(c net.Conn) { _, _ = io.Copy(io.Discard, c); close(ended) })
	g := gatewayTo(t, calm(), all(up))
	cuts := make(chan context.CancelFunc, 1)
	front := server(t, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		cuts <- cancel
		g.Config.Handler.ServeHTTP(w, r.WithContext(ctx))
	})
	_, r, _ := upgraded(t, front, "p", "")
	(<-cuts)()
	<-ended
	if _, err := r.ReadByte(); err == nil {
		t.Error("the caller's connection is open, want it closed")
	}
}

// If the caller's connection cannot be hijacked, the gateway closes the upstream's.
func TestUpgradeWithoutHijack(t *testing.T) {
	ended := make(chan struct{})
	up := switching(t, "p", func(c net.Conn) { _, _ = io.Copy(io.Discard, c); close(ended) })
	g, err := gateway.New(gateway.ForUpstream(up), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "p")
	w := httptest.NewRecorder() // cannot be hijacked
	g.ServeHTTP(w, r)
	<-ended
	if p := problemOf(t, w.Result(), w.Body.String()); w.Code != http.StatusBadGateway || p["reason"] != "upgrade" {
		t.Errorf("got status %d, body %s, want 502 and upgrade", w.Code, w.Body)
	}
}

// A 101 may arrive just as the attempt times out. The gateway closes its connection. Reading that
// connection to its end would block for ever.
func TestLate101HoldsNoCall(t *testing.T) {
	const attempt = 60 * time.Millisecond
	up := peer(t, func(c net.Conn, _ string) {
		<-time.After(attempt)
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: p\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	calls := make(chan observe.Call, 200)
	g := gatewayWith(t, gateway.Options{Observers: []observe.Observer{observe.Funcs{Call: func(_ context.Context, c observe.Call) { calls <- c }}}}, func(c *gateway.Config) {
		p := calm()
		p.Timeout, p.AttemptTimeout = 2*attempt, attempt
		p.Concurrency.Max = -1
		c.Policies[gateway.DefaultPolicyName] = p
	}, all(up))
	for range 200 {
		go func() {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: p\r\n\r\n")
			_, _ = http.ReadResponse(bufio.NewReader(c), nil)
		}()
	}
	for i := range 200 {
		select {
		case c := <-calls:
			if c.Status != 101 && c.Status != 504 && c.Status != 499 {
				t.Errorf("got status %d, reason %s, want 101, 499 or 504", c.Status, c.Report.Reason)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("got %d hanging calls, want 0", 200-i)
		}
	}
}

// A caller that waits for 100 (Continue) gets the final answer if no upstream can be reached.
func TestExpectWithoutAnUpstreamIsAnswered(t *testing.T) {
	g := gatewayTo(t, calm(), all(refusing(t)))
	text, err := wire(t, g, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if err != nil || !strings.HasPrefix(text, "HTTP/1.1 502 ") {
		t.Errorf("got %q, error %v, want 502", text, err)
	}
}

// The upstream decides whether the caller sends its body: the gateway passes its 100 on.
func TestUpstreamAnswersExpect(t *testing.T) {
	for path, want := range map[string]string{"/take": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", "/refuse": "HTTP/1.1 417 "} {
		g := gatewayTo(t, calm(), all(server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusExpectationFailed)
				return
			}
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		}).URL))
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
		r := bufio.NewReader(c)
		text, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "100") {
			_, _ = io.WriteString(c, "body")
		}
		more, err := io.ReadAll(r)
		_ = c.Close()
		if text += string(more); err != nil || !strings.HasPrefix(text, want) || strings.Count(text, " 100 ") > 1 {
			t.Errorf("%s: got %q, error %v, want %q and at most one 100", path, text, err, want)
		}
	}
}

// A large upload arrives whole, with its Content-Length.
func TestUploadsArriveWhole(t *testing.T) {
	var length int64
	g := gatewayTo(t, calm(), all(server(t, func(w http.ResponseWriter, r *http.Request) {
		length = r.ContentLength
		_, _ = io.Copy(w, r.Body)
	}).URL))
	body := strings.Repeat("x", 1<<20)
	if resp, got := do(t, request(t, http.MethodPost, g.URL, strings.NewReader(body))); resp.StatusCode != 200 || got != body || length != 1<<20 {
		t.Errorf("got status %d, %d bytes back and length %d, want 200 and the body that was sent", resp.StatusCode, len(got), length)
	}
}

// A configuration file may set the listener's keys. The others keep their defaults.
func TestListenerConfiguration(t *testing.T) {
	const routes = "routes: [{name: a, match: /, upstream: 'http://up'}]\n"
	for text, want := range map[string][]string{
		"":                                 gateway.DefaultListener().Trust,
		"listener: {sendTimeout: 1m}":      gateway.DefaultListener().Trust,
		"listener: {trust: []}":            {},
		"listener: {trust: ['*']}":         {"*"},
		"listener: {trust: [10.0.0.0/8]}":  {"10.0.0.0/8"},
		"listener: {trust: ['fd00::/64']}": {"fd00::/64"},
	} {
		c := gateway.DefaultConfig()
		if err := config.Decode("file", []byte(routes+text), &c); err != nil {
			t.Errorf("%q: got error %v, want none", text, err)
			continue
		}
		shown, err := config.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again := gateway.DefaultConfig()
		if err := config.Decode("shown", shown, &again); err != nil {
			t.Fatal(err)
		}
		for _, got := range []gateway.Config{c, again} {
			if !slices.Equal(got.Listener.Trust, want) {
				t.Errorf("%q: got trust %q, want %q", text, got.Listener.Trust, want)
			}
		}
	}
	c := gateway.DefaultConfig()
	err := config.Decode("file", []byte(routes+"listener:\n  trust: [nonsense]\n"), &c)
	if m, ok := errors.AsType[*mistake.Mistake](err); !ok || m.Line != 3 || !strings.Contains(err.Error(), "listener.trust[0]") {
		t.Errorf("got error %v, want one about listener.trust[0] in line 3", err)
	}
}
