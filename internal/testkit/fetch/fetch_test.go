package fetch_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestFetch(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/cut":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		default:
			_, _ = io.WriteString(w, r.Method+" "+string(body))
		}
	}))
	defer s.Close()
	if resp, body := fetch.Get(t, s.URL); resp.StatusCode != http.StatusOK || body != "GET " {
		t.Errorf("Get: got %d %q, want 200 %q", resp.StatusCode, body, "GET ")
	}
	if resp, body := fetch.Send(t, http.MethodPut, s.URL, "x"); resp.StatusCode != http.StatusOK || body != "PUT x" {
		t.Errorf("Send: got %d %q, want 200 %q", resp.StatusCode, body, "PUT x")
	}
	if resp, _ := fetch.Get(t, s.URL+"/moved"); resp.StatusCode != http.StatusFound {
		t.Errorf("redirect: got %d, want it unfollowed with 302", resp.StatusCode)
	}
	if resp, body, err := fetch.Try(t.Context(), http.MethodGet, s.URL+"/cut", ""); resp == nil || body != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut body: got %v, %q, %v, want the first half and %v", resp, body, err, io.ErrUnexpectedEOF)
	}
	r := fetch.Request(t, http.MethodPost, s.URL, strings.NewReader("y"))
	if _, body, err := fetch.Read(s.Client().Do(r)); body != "POST y" || err != nil {
		t.Errorf("Read: got %q, %v, want %q", body, err, "POST y")
	}
	s.Close()
	if resp, body, err := fetch.Try(t.Context(), http.MethodGet, s.URL, ""); resp != nil || body != "" || err == nil {
		t.Errorf("closed server: got %v, %q, %v, want an error only", resp, body, err)
	}
}
