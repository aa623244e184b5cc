package cli_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
)

func TestProbe(t *testing.T) {
	answers := http.NewServeMux()
	calls := 0
	answers.HandleFunc("GET /ok", func(w http.ResponseWriter, _ *http.Request) { calls++; w.WriteHeader(http.StatusNoContent) })
	answers.HandleFunc("GET /retried", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Attempt-Count", "3") })
	answers.HandleFunc("GET /failing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	answers.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	answers.HandleFunc("GET /cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	server := httptest.NewServer(answers)
	defer server.Close()
	unreachable := "http://" + rawhttp.FreeAddress(t)

	for name, tc := range map[string]struct {
		args           []string
		code           int
		done           bool
		stdout, stderr string // stdout is the whole output, stderr a part of it
	}{
		"nothing":         {nil, cli.ExitOK, false, "", ""},
		"a flag":          {[]string{"--check"}, cli.ExitOK, false, "", ""},
		"later":           {[]string{"--config", "probe"}, cli.ExitOK, false, "", ""},
		"good":            {[]string{"probe", server.URL + "/ok"}, cli.ExitOK, true, server.URL + "/ok: 204 No Content\n", ""},
		"with attempts":   {[]string{"probe", server.URL + "/retried"}, cli.ExitOK, true, server.URL + "/retried: 200 OK, X-Attempt-Count 3\n", ""},
		"bad":             {[]string{"probe", server.URL + "/failing"}, cli.ExitFailed, true, "", "tool: " + server.URL + "/failing: 503 Service Unavailable\n"},
		"a redirect":      {[]string{"probe", server.URL + "/moved"}, cli.ExitFailed, true, "", "/moved: 302 Found\n"},
		"a body cut":      {[]string{"probe", server.URL + "/cut"}, cli.ExitFailed, true, "", "/cut: 200 OK, reading the body: unexpected EOF\n"},
		"no listener":     {[]string{"probe", unreachable}, cli.ExitFailed, true, "", "connection refused\n"},
		"no URL":          {[]string{"probe"}, cli.ExitUsage, true, "", "tool: expected one URL such as tool probe http://localhost:8081/readyz\n"},
		"two URLs":        {[]string{"probe", unreachable, unreachable}, cli.ExitUsage, true, "", "expected one URL"},
		"not a URL":       {[]string{"probe", "localhost:8081"}, cli.ExitUsage, true, "", `got "localhost:8081"`},
		"URL of a scheme": {[]string{"probe", "ftp://localhost/x"}, cli.ExitUsage, true, "", `got "ftp://localhost/x"`},
		"a path":          {[]string{"probe", "/readyz"}, cli.ExitUsage, true, "", `got "/readyz"`},
		"one address":     {[]string{"probe", "--each", server.URL + "/retried"}, cli.ExitOK, true, "127.0.0.1: " + server.URL + "/retried: 200 OK, X-Attempt-Count 3\n", ""},
		"one address bad": {[]string{"probe", "--each", server.URL + "/failing"}, cli.ExitFailed, true, "", "tool: 127.0.0.1: " + server.URL + "/failing: 503 Service Unavailable\n"},
		"no address":      {[]string{"probe", "--each", "http://name.invalid/"}, cli.ExitFailed, true, "", "name.invalid"},
		"each of nothing": {[]string{"probe", "--each"}, cli.ExitUsage, true, "", "tool: expected one URL"},
	} {
		t.Run(name, func(t *testing.T) {
			calls = 0
			var stdout, stderr bytes.Buffer
			code, done := cli.Program{Name: "tool", Args: tc.args, Stdout: &stdout, Stderr: &stderr}.Probe(t.Context())
			if code != tc.code || done != tc.done || stdout.String() != tc.stdout || !strings.Contains(stderr.String(), tc.stderr) || (tc.stderr == "" && stderr.Len() > 0) {
				t.Errorf("got code %d, done %v, stdout %q, stderr %q, want %d, %v, %q, %q", code, done, stdout.String(), stderr.String(), tc.code, tc.done, tc.stdout, tc.stderr)
			}
			if calls > 1 || calls == 1 && name != "good" {
				t.Errorf("got %d calls, want one at most, and only for \"good\"", calls)
			}
		})
	}
}
