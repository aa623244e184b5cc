// Package fetch makes HTTP requests for tests and reads the whole response.
package fetch

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Request returns a request that ends with the test.
func Request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Read reads and closes the response's body. It takes the results of a client's Do or of a
// RoundTrip: fetch.Read(client.Do(r)). If the body breaks off, it returns the part before that and
// the error. The response is nil if the call failed.
func Read(resp *http.Response, err error) (*http.Response, string, error) {
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// Try sends a request on a connection of its own and reads the response. It follows no redirect.
// Goroutines may call it, since it does not end a test.
func Try(ctx context.Context, method, url, body string) (*http.Response, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return Read(client.Do(r))
}

// Send is [Try] for a request that must get a response. Otherwise the test ends.
func Send(t testing.TB, method, url, body string) (*http.Response, string) {
	t.Helper()
	resp, text, err := Try(t.Context(), method, url, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, text
}

// Get is [Send] for a GET without a body.
func Get(t testing.TB, url string) (*http.Response, string) {
	t.Helper()
	return Send(t, http.MethodGet, url, "")
}
