package problem_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

func problems() map[string]problem.Problem {
	return map[string]problem.Problem{
		"zero": {},
		"breaker_open": {
			Status: 503, Detail: "the circuit of flaky is open, the next probe is due in 2s",
			Reason: "breaker_open", Route: "process", Upstream: "http://flaky-server:5000",
			TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
		},
		"max_attempts":            {Status: 502, Reason: "max_attempts", Attempts: 3, Route: "process"},
		"attempts_unknown":        {Status: 504, Reason: "deadline_exceeded", Attempts: -1},
		"attempts_without_reason": {Status: 502, Attempts: 3},
		"no_reason":               {Status: 404, Detail: "no route matches GET /nowhere"},
		"own_type_and_title":      {Type: "https://example.com/e", Title: "Refused", Status: 422, Reason: "no_route"},
		"status_without_name":     {Status: 599},
		"status_of_success":       {Status: 204, Detail: "a body must not vanish"},
		"status_of_hints":         {Status: 103},
		"status_out_of_range":     {Status: 1000},
		"html_in_detail":          {Status: 400, Detail: "<script>alert('x')</script> & \"quotes\"\r\nSet-Cookie: a=b"},
		"not_utf8":                {Status: 400, Detail: "a\xffb"},
	}
}

// TestWrite compares whole responses, read from a real connection, with testdata/*.golden.
func TestWrite(t *testing.T) {
	for name, p := range problems() {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { problem.Write(w, p) }))
			defer server.Close()
			got := dump(fetch.Get(t, server.URL))
			golden.File(t, filepath.Join("testdata", name+".golden"), got)
		})
	}
}

func TestWriteDropsHeadersOfAnotherBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Length", "5")
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Type", "text/html")
		h.Set("Content-Range", "bytes 0-4/5")
		h.Set("Etag", `"1"`)
		h.Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		h.Set("Cache-Control", "max-age=3600")
		h.Set("Trailer", "X-Sum")
		h.Set("Retry-After", "2")
		problem.Write(w, problem.Problem{Status: 503})
	}))
	defer server.Close()
	response, body := fetch.Get(t, server.URL)
	if int64(len(body)) != response.ContentLength || !json.Valid([]byte(body)) {
		t.Errorf("got %d bytes, want Content-Length (%d) bytes of JSON: %s", len(body), response.ContentLength, body)
	}
	want := map[string]string{
		"Content-Encoding": "", "Content-Range": "", "Etag": "", "Last-Modified": "", "Trailer": "",
		"Content-Type": problem.ContentType, "Cache-Control": "no-store", "Retry-After": "2",
	}
	for name, value := range want {
		if got := response.Header.Get(name); got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
	if len(response.Trailer) > 0 {
		t.Errorf("got trailers %v, want none", response.Trailer)
	}
}

func TestWriteAnswersHeadWithoutBody(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem.Write(w, problem.Problem{Status: 404})
	}))
	defer server.Close()
	response, body := fetch.Send(t, http.MethodHead, server.URL, "")
	if len(body) > 0 || response.ContentLength <= 0 || response.StatusCode != 404 {
		t.Errorf("got %d, %q, length %d; want 404 with a length and no body", response.StatusCode, body, response.ContentLength)
	}
}

func TestProblemReadsBack(t *testing.T) {
	want := problems()["breaker_open"]
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got problem.Problem
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want.Type, want.Title = "/problems/breaker-open", "Breaker open"
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// dump formats the response with sorted headers and without the date.
func dump(response *http.Response, body string) []byte {
	var b bytes.Buffer
	b.WriteString(response.Status + "\n")
	response.Header.Del("Date")
	for _, name := range slices.Sorted(maps.Keys(response.Header)) {
		b.WriteString(name + ": " + strings.Join(response.Header[name], ", ") + "\n")
	}
	b.WriteString("\n" + body)
	return b.Bytes()
}
