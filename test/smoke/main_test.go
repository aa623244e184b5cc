package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(n int64, w http.ResponseWriter) // the nth call, from 1
		args   []string                             // "URL" is the server's
		code   int
		want   string // in what is printed
	}{
		"all succeed": {
			func(_ int64, w http.ResponseWriter) { w.Header().Set("X-Attempt-Count", "2") },
			[]string{"--calls", "10", "URL"}, 0, "10 of 10 calls succeeded (100.0 %), with 20 attempts",
		},
		"as few as allowed": {
			func(n int64, w http.ResponseWriter) { w.WriteHeader(map[bool]int{true: 503, false: 200}[n == 1]) },
			[]string{"--calls", "10", "--least", "0.9", "URL"}, 0, "1 × 503",
		},
		"too few": {
			func(n int64, w http.ResponseWriter) { w.WriteHeader(map[bool]int{true: 503, false: 200}[n <= 2]) },
			[]string{"--calls", "10", "--least", "0.9", "URL"}, 1, "fewer than 90.0 %",
		},
		"a body that is cut": {
			func(_ int64, w http.ResponseWriter) { w.Header().Set("Content-Length", "9") },
			[]string{"--calls", "2", "URL"}, 1, "2 × 200, then the body: unexpected EOF",
		},
		"nobody there": {nil, []string{"--calls", "1", "http://127.0.0.1:1/"}, 1, "connection refused"},
		"no URL":       {nil, nil, 2, "usage"},
		"not a URL":    {nil, []string{"http://%"}, 2, "invalid URL"},
		"no calls":     {nil, []string{"--calls", "0", "http://127.0.0.1:1/"}, 2, "usage"},
		"above all":    {nil, []string{"--least", "2", "http://127.0.0.1:1/"}, 2, "usage"},
		"unknown flag": {nil, []string{"--many"}, 2, "not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(n.Add(1), w) }))
			defer server.Close()
			var out strings.Builder
			args := strings.Split(strings.ReplaceAll(strings.Join(c.args, "\n"), "URL", server.URL), "\n")
			if len(c.args) == 0 {
				args = nil
			}
			if code := run(t.Context(), args, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
				t.Errorf("exit code %d, want %d; printed:\n%s\nwant %q", code, c.code, &out, c.want)
			}
		})
	}
}
