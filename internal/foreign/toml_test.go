package foreign_test

import (
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// A mistake in TOML has its line and its column, in characters.
func TestTOMLMistakes(t *testing.T) {
	const head = "[http.middlewares.a.retry]\n"
	for text, want := range map[string]string{
		"attempts = three":                        "f:2:12: expected a value, and quotes around a text",
		"attempts = \"3":                          "f:2:14: basic strings cannot have new lines",
		"attempts = 3 4":                          "f:2:14: expected newline but got U+0034 '4'",
		"attempts = 3\nattempts = 4":              "f:3:1: http.middlewares.a.retry.attempts is already given on line 2",
		"status = [\"ä\", \"5xx\" \"6\"]":         "f:2:22: expected ',' or ']' after array value",
		"a = []\n[http.middlewares.a.retry.a.b]":  "f:3:2: key a already exists as a value",
		"a = 1\n[http.middlewares.a.retry.a.b]":   "f:3:2: key a already exists as a value",
		"[http.middlewares.a.retry]":              "f:2:2: table retry already exists",
		"attempts = {a = 1":                       "f:2:18: inline table is incomplete",
		"\"ä\" = 1":                               "f:2:1: http.middlewares.a.retry[\"ä\"]: unknown field; known here: attempts, disableRetryOnNetworkError, initialInterval, maxRequestBodyBytes, retryNonIdempotentMethod, status, timeout",
		"attempts = \"ä\" # c":                    "f:2:12: http.middlewares.a.retry.attempts: expected a whole number, got \"ä\"",
		"attempts=1\nstatus = [  \n \"500\",'x']": "f:4:8: http.middlewares.a.retry.status[1]: expected a status such as 503 or 500-504, got \"x\"",
	} {
		_, err := foreign.Import(foreign.Traefik, "f", []byte(head+text+"\n"))
		if err == nil || err.Error() != want {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
